/* See wire.h. */
#include "wire.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

_Noreturn void die(const char *what, ...) {
    va_list arguments;
    va_start(arguments, what);
    fputs("edge bench: ", stderr);
    vfprintf(stderr, what, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

uint64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000ULL + (uint64_t)now.tv_nsec / 1000ULL;
}

Lines read_lines(const char *path) {
    Lines lines = {NULL, 0};
    FILE *file = fopen(path, "rb");
    if (!file) die("%s cannot be read", path);
    size_t capacity = 0;
    char line[TAIL_BYTES + 2];
    while (fgets(line, sizeof line, file)) {
        if (strlen(line) != TAIL_BYTES + 1 || line[TAIL_BYTES] != '\n') die("%s: a line is not %d bytes", path, TAIL_BYTES);
        if (lines.count == capacity) {
            capacity = capacity ? 2 * capacity : 1024;
            lines.tails = realloc(lines.tails, capacity * TAIL_BYTES);
            if (!lines.tails) die("out of memory");
        }
        memcpy(lines.tails + lines.count++ * TAIL_BYTES, line, TAIL_BYTES);
    }
    fclose(file);
    if (!lines.count) die("%s is empty", path);
    return lines;
}

static void write_digits(char *out, uint64_t value, int digits) {
    for (int place = digits - 1; place >= 0; place--) {
        out[place] = (char)('0' + value % 10);
        value /= 10;
    }
}

static bool read_digits(const char *in, int digits, uint64_t *value) {
    *value = 0;
    for (int place = 0; place < digits; place++) {
        if (in[place] < '0' || in[place] > '9') return false;
        *value = *value * 10 + (uint64_t)(in[place] - '0');
    }
    return true;
}

void write_message(char *out, const Lines *lines, uint32_t n, uint64_t t_us) {
    memcpy(out, "{\"n\":", 5);
    write_digits(out + 5, N_BASE + n, 10);
    memcpy(out + 15, ",\"t\":", 5);
    write_digits(out + 20, T_BASE + t_us, 16);
    memcpy(out + HEAD_BYTES, lines->tails + n % lines->count * TAIL_BYTES, TAIL_BYTES);
}

bool read_message(const char *data, size_t size, const Lines *lines, uint32_t *n, uint64_t *t_us) {
    uint64_t number, time_us;
    if (size < MESSAGE_BYTES || memcmp(data, "{\"n\":", 5) || !read_digits(data + 5, 10, &number)) return false;
    if (memcmp(data + 15, ",\"t\":", 5) || !read_digits(data + 20, 16, &time_us)) return false;
    if (number <= N_BASE || number - N_BASE > UINT32_MAX || time_us < T_BASE) return false;
    *n = (uint32_t)(number - N_BASE);
    *t_us = time_us - T_BASE;
    return !memcmp(data + HEAD_BYTES, lines->tails + *n % lines->count * TAIL_BYTES, TAIL_BYTES);
}

size_t write_header(uint8_t *out, uint8_t first, size_t payload) {
    out[0] = first;
    if (payload < 126) {
        out[1] = (uint8_t)payload;
        return 2;
    }
    int bytes = payload < 65536 ? 2 : 8;
    out[1] = bytes == 2 ? 126 : 127;
    for (int place = 0; place < bytes; place++) out[2 + place] = (uint8_t)(payload >> 8 * (bytes - 1 - place));
    return 2 + (size_t)bytes;
}

size_t frame_need(const uint8_t *bytes, size_t have, size_t *header) {
    *header = 2;
    if (have < 2) return 2;
    size_t payload = bytes[1] & 127;
    if (payload >= 126) {
        size_t extended = payload == 126 ? 2 : 8;
        *header = 2 + extended;
        if (have < *header) return *header;
        payload = 0;
        for (size_t place = 0; place < extended; place++) payload = payload << 8 | bytes[2 + place];
    }
    if (bytes[1] & 128 || payload > FRAME_BYTES_MAX) die("the server sends what is no frame of ours");
    return *header + payload;
}

static size_t bucket_of(uint64_t us) {
    if (us < 64) return us;
    int power = 63 - __builtin_clzll(us);
    size_t bucket = (size_t)(power - 5) * 64 + (us >> (power - 6) & 63);
    return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

static double bucket_us(size_t bucket) {
    if (bucket < 64) return (double)bucket;
    return (double)((64 + bucket % 64) + 0.5) * (double)(1ULL << (bucket / 64 - 1));
}

void latency_add(Latency *latency, uint64_t us) {
    latency->counts[bucket_of(us)]++;
    latency->samples++;
    if (us > latency->highest) latency->highest = us;
}

double latency_ms(const Latency *latency, double share) {
    double wanted = share * (double)latency->samples;
    uint64_t seen = 0;
    for (size_t bucket = 0; bucket < LATENCY_BUCKETS; bucket++) {
        seen += latency->counts[bucket];
        if (latency->counts[bucket] && (double)seen >= wanted) return bucket_us(bucket) / 1000.0;
    }
    return 0.0;
}

double cpu_seconds(int pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = pid ? fopen(path, "rb") : NULL;
    if (!file) return 0.0;
    size_t size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[size] = 0;
    unsigned long user = 0, system = 0;
    char *after = strrchr(text, ')'); /* the name may hold anything, spaces as well */
    if (!after || sscanf(after + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2) return 0.0;
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}
