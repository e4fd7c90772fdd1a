/* What the draining client and the floor share: the messages of the bench, WebSocket frames, time, counts.
 *
 * A message is a chat line of MESSAGE_BYTES bytes: {"n":1000000001,"t":1000000012345678,"from":"...","text":"..."}. n is
 * its number + 10^9; t is when it was published in microseconds of CLOCK_MONOTONIC + 10^15 (always as many digits); what
 * follows them, the tail, is the line n of the lines file, so that every byte of a delivery can be checked.
 */
#ifndef EDGE_WIRE_H
#define EDGE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum {
    MESSAGE_BYTES = 123,
    HEAD_BYTES = 36, /* up to and with the digits of t */
    TAIL_BYTES = MESSAGE_BYTES - HEAD_BYTES,
    PUSH_BYTES_MAX = 512,     /* one push with its message, channel and offset */
    FRAME_BYTES_MAX = 1 << 20, /* larger frames are a mistake of the server */
    LATENCY_BUCKETS = 64 * 32,
};

#define N_BASE 1000000000ULL
#define T_BASE 1000000000000000ULL

typedef struct {
    char *tails; /* TAIL_BYTES each */
    size_t count;
} Lines;

/* Histogram of microseconds: 64 buckets for each power of two, so quantiles are right to 1.6 %. */
typedef struct {
    uint64_t counts[LATENCY_BUCKETS];
    uint64_t samples, highest;
} Latency;

_Noreturn void die(const char *what, ...) __attribute__((format(printf, 1, 2)));

uint64_t now_us(void);

/* Read the lines file: one tail a line. */
Lines read_lines(const char *path);

/* Write message n, published at t_us; MESSAGE_BYTES without a terminator. */
void write_message(char *out, const Lines *lines, uint32_t n, uint64_t t_us);

/* Read a message that must be one of ours; false where any byte is not as written. */
bool read_message(const char *data, size_t size, const Lines *lines, uint32_t *n, uint64_t *t_us);

/* Write the header of an unmasked server frame; returns its size (at most 10). */
size_t write_header(uint8_t *out, uint8_t first, size_t payload);

/* Bytes a frame has altogether, or at least must have for that to be known; header is that of its header then. */
size_t frame_need(const uint8_t *bytes, size_t have, size_t *header);

void latency_add(Latency *latency, uint64_t us);

double latency_ms(const Latency *latency, double share);

/* CPU seconds of a process so far, user and system; 0 where it is gone. */
double cpu_seconds(int pid);

#endif
