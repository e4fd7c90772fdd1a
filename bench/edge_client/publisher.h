/* The publisher: POST /v1/publish and /v1/publish/batch on one kept connection, one request at a time. */
#ifndef EDGE_PUBLISHER_H
#define EDGE_PUBLISHER_H

#include "wire.h"

enum { BATCH_MAX = 1000 }; /* what the API takes at once */

void publisher_start(const Lines *lines, const char *room, uint16_t port);

/* Connect; returns the socket, to be watched for reading and writing. */
int publisher_open(void);

/* Hang up: servers do not keep connections that are silent between two measurements. */
void publisher_close(void);

/* True while a request has not been answered. */
bool publisher_busy(void);

/* Publish messages first .. first + messages - 1, all of time at_us[0 ..]. */
void publisher_send(uint32_t first, uint32_t messages, const uint64_t *at_us);

/* The socket can be written or read. */
void publisher_ready(void);

/* Messages that the server refused so far. */
uint64_t publisher_refused(void);

#endif
