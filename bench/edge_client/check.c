/* See check.h. */
#include "check.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { FRAMES_HELD = 1 << 14, RAW_DEFLATE = -15, RSV1 = 0x40 };

#define NOWHERE UINT64_MAX

typedef struct {
    uint8_t *bytes;
    uint32_t size, capacity, first, messages;
} Frame;

/* What a frame said that was read. */
typedef struct {
    uint32_t messages;
    bool clean; /* nothing but the messages that were wanted, in order */
} Said;

Counts counts;

static const Lines *lines;
static Answers answers;
static char prefix[PUSH_BYTES_MAX];
static size_t prefix_size;

static Frame frames[FRAMES_HELD];
static uint64_t frames_end;           /* number of the next frame of the reference */
static uint32_t reference_wanted = 1; /* the message that it will begin with */
static uint64_t frame_at[MESSAGES_HELD];  /* message → the frame that begins with it, if any */
static uint64_t sent_us[MESSAGES_HELD];   /* message → when it was published; 0: not known */
static uint32_t published;                /* messages up to this one are our own: their times are known */
static uint32_t waiting[MESSAGES_HELD];   /* message → sessions that wait for it */
static uint32_t slowest = 1, newest = 1, members;

static z_stream inflater;
static uint8_t inflated[FRAME_BYTES_MAX];

void check_start(const Lines *tails, const char *room, Answers given) {
    lines = tails;
    answers = given;
    prefix_size = (size_t)snprintf(prefix, sizeof prefix, "{\"push\":{\"channel\":\"%s\",\"pub\":{\"data\":", room);
    if (inflateInit2(&inflater, RAW_DEFLATE) != Z_OK) die("zlib cannot begin");
}

void check_join(Session *session, uint32_t wanted) {
    if (!members++) reference_wanted = slowest = newest = wanted;
    session->wanted = wanted;
    session->next = wanted == reference_wanted ? frames_end : NOWHERE;
    waiting[wanted % MESSAGES_HELD]++;
    if (wanted < slowest) slowest = wanted;
}

void check_leave(Session *session) {
    waiting[session->wanted % MESSAGES_HELD]--;
    members--;
}

void check_forget(Session *session) {
    free(session->part);
    session->part = NULL;
    session->part_size = session->part_capacity = 0;
}

void check_published(uint32_t n, uint64_t t_us) {
    if (n - check_slowest() >= MESSAGES_HELD) die("more than %d messages under way", MESSAGES_HELD);
    sent_us[n % MESSAGES_HELD] = t_us;
    published = n;
}

uint32_t check_slowest(void) {
    while (members && !waiting[slowest % MESSAGES_HELD]) slowest++;
    return slowest;
}

uint32_t check_newest(void) { return newest; }

static void advance(Session *session, uint32_t wanted) {
    waiting[session->wanted % MESSAGES_HELD]--;
    waiting[wanted % MESSAGES_HELD]++;
    session->wanted = wanted;
    if (wanted > newest) newest = wanted;
}

static void deliver(Session *session, uint32_t first, uint32_t messages, uint64_t read_us) {
    counts.deliveries += messages;
    advance(session, first + messages);
    if (session->sampled) {
        for (uint32_t n = first; n < first + messages; n++) {
            uint64_t at_us = sent_us[n % MESSAGES_HELD];
            latency_add(&counts.latency, read_us > at_us ? read_us - at_us : 0);
        }
    }
}

/* --- the reference ------------------------------------------------------------------------------------------------ */

static Frame *find_frame(uint32_t first, uint64_t *number) {
    *number = frame_at[first % MESSAGES_HELD];
    Frame *frame = &frames[*number % FRAMES_HELD];
    bool held = *number < frames_end && *number + FRAMES_HELD > frames_end;
    return held && frame->messages && frame->first == first ? frame : NULL;
}

static void extend_reference(const uint8_t *bytes, size_t size, uint32_t first, uint32_t messages) {
    Frame *frame = &frames[frames_end % FRAMES_HELD];
    if (frame->capacity < size) {
        frame->bytes = realloc(frame->bytes, size);
        if (!frame->bytes) die("out of memory");
        frame->capacity = (uint32_t)size;
    }
    memcpy(frame->bytes, bytes, size);
    frame->size = (uint32_t)size;
    frame->first = first;
    frame->messages = messages;
    frame_at[first % MESSAGES_HELD] = frames_end++;
    reference_wanted = first + messages;
}

/* Let a session that stands between two frames compare with the reference, where that has such a place. */
static void rejoin(Session *session) {
    uint64_t number;
    session->compared = 0;
    if (session->wanted == reference_wanted) {
        session->next = frames_end;
    } else {
        session->next = find_frame(session->wanted, &number) ? number : NOWHERE;
    }
}

/* --- reading a frame ---------------------------------------------------------------------------------------------- */

/* True where a message has the time that it was published with: by us, or as it was first seen. */
static bool is_time_of(uint32_t n, uint64_t t_us) {
    if (n > newest + MESSAGES_HELD / 2 || n + MESSAGES_HELD / 2 < newest) return false;
    uint32_t unseen = newest > published ? newest : published + 1;
    for (; unseen <= n; unseen++) sent_us[unseen % MESSAGES_HELD] = 0;
    if (!sent_us[n % MESSAGES_HELD]) sent_us[n % MESSAGES_HELD] = t_us;
    return sent_us[n % MESSAGES_HELD] == t_us;
}

static bool read_push(Session *session, const char *line, size_t size, uint64_t read_us) {
    uint32_t n;
    uint64_t t_us;
    const char *data = line + prefix_size;
    if (size < prefix_size + MESSAGE_BYTES + 3 || memcmp(line, prefix, prefix_size)) return false;
    bool whole = read_message(data, size - prefix_size, lines, &n, &t_us) && !memcmp(line + size - 3, "}}}", 3);
    if (!whole || !is_time_of(n, t_us)) {
        counts.changed++;
        return false;
    }
    if (n < session->wanted) {
        counts.doubled++;
        return false;
    }
    bool clean = n == session->wanted;
    counts.lost += n - session->wanted;
    deliver(session, n, 1, read_us);
    return clean;
}

static void read_other(Session *session, const char *line, size_t size) {
    if (size == 2 && !memcmp(line, "{}", 2)) {
        answers.pong(session);
    } else if (size > 7 && !memcmp(line, "{\"push\"", 7)) {
        counts.unsubscribed++;
        fprintf(stderr, "edge bench: %.*s\n", (int)(size < 200 ? size : 200), line);
    } else {
        answers.reply(session, line, size);
    }
}

static Said read_text(Session *session, const char *text, size_t size, uint64_t read_us) {
    Said said = {0, true};
    const char *end = text + size;
    while (text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        if (!stop) stop = end;
        size_t length = (size_t)(stop - text);
        if (length > prefix_size && !memcmp(text, prefix, prefix_size)) {
            said.clean &= read_push(session, text, length, read_us);
            said.messages++;
        } else {
            said.clean = false;
            read_other(session, text, length);
        }
        text = stop + 1;
    }
    counts.parsed++;
    return said;
}

static const uint8_t *inflate_frame(const uint8_t *payload, size_t size, size_t *inflated_size) {
    static const uint8_t tail[4] = {0, 0, 0xff, 0xff}; /* RFC 7692, 7.2.2 */
    inflateReset(&inflater);
    inflater.next_out = inflated;
    inflater.avail_out = sizeof inflated;
    for (int part = 0; part < 2; part++) {
        inflater.next_in = part ? (uint8_t *)tail : (uint8_t *)payload;
        inflater.avail_in = part ? sizeof tail : (uInt)size;
        int status = inflate(&inflater, Z_SYNC_FLUSH);
        if ((status != Z_OK && status != Z_BUF_ERROR) || inflater.avail_in) return NULL;
    }
    *inflated_size = sizeof inflated - inflater.avail_out;
    return inflated;
}

static bool read_frame(Session *session, const uint8_t *bytes, size_t size, size_t header, uint64_t read_us) {
    uint32_t first = session->wanted;
    const uint8_t *payload = bytes + header;
    size_t payload_size = size - header;
    uint8_t opcode = bytes[0] & 15;
    if (opcode == 8) {
        counts.closed++;
        int code = payload_size > 1 ? payload[0] << 8 | payload[1] : 0;
        fprintf(stderr, "edge bench: closed by the server, code %d\n", code);
        return false;
    }
    if (opcode != 1 || !(bytes[0] & 128)) die("a frame that is no whole text message: first byte %d", bytes[0]);
    if (bytes[0] & RSV1) {
        payload = session->deflated ? inflate_frame(payload, payload_size, &payload_size) : NULL;
        if (!payload) {
            counts.changed++;
            return true;
        }
    }
    Said said = read_text(session, (const char *)payload, payload_size, read_us);
    if (said.messages) {
        counts.frames++;
        counts.bytes += size;
    }
    if (said.clean && said.messages && first == reference_wanted) extend_reference(bytes, size, first, said.messages);
    return true;
}

/* Take a whole frame; reading it is spared where another session was given the same bytes meanwhile. */
static bool take_frame(Session *session, const uint8_t *bytes, size_t size, size_t header, uint64_t read_us) {
    uint64_t number;
    Frame *frame = find_frame(session->wanted, &number);
    bool open = true;
    if (frame && frame->size == size && !memcmp(frame->bytes, bytes, size)) {
        counts.frames++;
        counts.bytes += size;
        deliver(session, frame->first, frame->messages, read_us);
    } else {
        open = read_frame(session, bytes, size, header, read_us);
    }
    rejoin(session);
    return open;
}

/* --- bytes -------------------------------------------------------------------------------------------------------- */

static void keep_part(Session *session, const uint8_t *bytes, size_t size) {
    if (session->part_size + size > session->part_capacity) {
        session->part_capacity = (uint32_t)(session->part_size + size);
        session->part = realloc(session->part, session->part_capacity);
        if (!session->part) die("out of memory");
    }
    if (size) memcpy(session->part + session->part_size, bytes, size);
    session->part_size += (uint32_t)size;
}

/* Compare with the reference; returns bytes that were used, 0 where they differ. */
static size_t compare(Session *session, const uint8_t *bytes, size_t size, uint64_t read_us) {
    Frame *frame = &frames[session->next % FRAMES_HELD];
    if (session->next + FRAMES_HELD <= frames_end) die("a session is more than %d frames late", FRAMES_HELD);
    size_t rest = frame->size - session->compared;
    if (rest > size) rest = size;
    if (memcmp(frame->bytes + session->compared, bytes, rest)) {
        keep_part(session, frame->bytes, session->compared);
        session->next = NOWHERE;
        return 0;
    }
    session->compared += (uint32_t)rest;
    if (session->compared == frame->size) {
        session->compared = 0;
        session->next++;
        counts.frames++;
        counts.bytes += frame->size;
        deliver(session, frame->first, frame->messages, read_us);
    }
    return rest;
}

/* Read on its own; returns bytes that were used. */
static size_t collect(Session *session, const uint8_t *bytes, size_t size, uint64_t read_us, bool *open) {
    size_t header, used = 0;
    if (!session->part_size) {
        size_t need = frame_need(bytes, size, &header);
        if (size >= need) {
            *open = take_frame(session, bytes, need, header, read_us);
            return need;
        }
    }
    for (;;) {
        size_t need = frame_need(session->part, session->part_size, &header);
        if (session->part_size >= need) {
            *open = take_frame(session, session->part, need, header, read_us);
            check_forget(session);
            return used;
        }
        if (used == size) return used;
        size_t more = need - session->part_size;
        if (more > size - used) more = size - used;
        keep_part(session, bytes + used, more);
        used += more;
    }
}

bool check_bytes(Session *session, const uint8_t *bytes, size_t size, uint64_t read_us) {
    bool open = true;
    while (size && open) {
        bool comparing = !session->part_size && session->next < frames_end;
        size_t used = comparing ? compare(session, bytes, size, read_us) : 0;
        if (!used) used = collect(session, bytes, size, read_us, &open);
        bytes += used;
        size -= used;
    }
    return open;
}
