/* Whether every session gets every message, in order, none lost, doubled or changed.
 *
 * Sessions in step are given the same bytes, so only the first session that gets a frame reads it (inflates it, parses
 * every push, compares every message with what was published); the frame then joins the reference. The others are
 * compared with the reference byte by byte, which proves the same about them. Where bytes differ (frames joined
 * otherwise, a ping between two of them) that session reads its frame by itself and goes on with the reference from the
 * next place where both begin a frame with the same message.
 */
#ifndef EDGE_CHECK_H
#define EDGE_CHECK_H

#include "wire.h"

enum { MESSAGES_HELD = 1 << 20 }; /* between the slowest session and the newest message */

typedef struct {
    uint64_t next;    /* frame of the reference that it compares with */
    uint32_t compared; /* bytes of that frame that were as they should */
    uint32_t wanted;  /* the message that must come next */
    uint32_t part_size, part_capacity;
    uint8_t *part; /* a frame that it reads by itself, until it is whole */
    int fd;
    uint8_t state;
    bool sampled, deflated;
} Session;

typedef struct {
    uint64_t deliveries, frames, bytes, parsed;
    uint64_t lost, doubled, changed, unsubscribed, closed;
    Latency latency;
} Counts;

/* What a session calls for that is not a publication. */
typedef struct {
    void (*reply)(Session *session, const char *line, size_t size);
    void (*pong)(Session *session);
} Answers;

void check_start(const Lines *lines, const char *room, Answers answers);

/* Begin to check a session: message `wanted` is its next one. */
void check_join(Session *session, uint32_t wanted);

/* Nothing is expected of a session any more. */
void check_leave(Session *session);

/* Free what is held of a frame that is not whole. */
void check_forget(Session *session);

/* Take bytes of a session that were read at `read_us`; false where the server closed it. */
bool check_bytes(Session *session, const uint8_t *bytes, size_t size, uint64_t read_us);

/* Note when a message was published, before it can be delivered. */
void check_published(uint32_t n, uint64_t t_us);

/* The lowest message that some session still waits for, and the one after the highest that any has got. */
uint32_t check_slowest(void);
uint32_t check_newest(void);

extern Counts counts;

#endif
