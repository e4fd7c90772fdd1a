/* The draining client of the edge bench: thousands of WebSocket sessions of one room, a publisher, and a checker.
 *
 *   edge_client PORT ROOM LINES PID SAMPLE_EVERY [deflate]
 *
 * Commands come on standard input, one a line; each is answered with one JSON object on standard output.
 *
 *   open N                       N more sessions: handshake, connect, subscribe
 *   mute N                       N more that never read once they have subscribed
 *   keep N                       close all but the first N
 *   flow IN_FLIGHT WARM SECONDS  publish so that IN_FLIGHT messages are not yet with every session, and measure
 *   pace RATE WARM SECONDS       publish RATE messages a second, whatever comes of them, and measure
 *   drain WARM SECONDS           publish nothing, measure what comes
 *   settle                       read on until nothing comes any more; answered with what drain measured
 *   quit
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "publisher.h"

enum {
    SESSIONS_MAX = 19900,
    OPENING_MAX = 256,     /* handshakes under way */
    PER_ADDRESS = 10000,   /* sessions of one source address: well below its ports */
    READ_BYTES = 256 << 10,
    EVENTS = 64,           /* between two looks at the publisher */
    OPEN_S = 120,
    SETTLE_S = 20,
    LOOK_US = 50,          /* between two looks at the sessions while measuring */
    QUIET_MS = 100,       /* without a byte, when nobody sends any more */
};

enum { CONNECTING, UPGRADING, JOINING, READY, MUTED, GONE };

static const char *room;
static Lines lines;
static uint16_t port;
static int server_pid, sample_every;
static bool deflate;

static int poller, timer, publisher = -1;
static Session *sessions;
static uint32_t made, opening, ready;
static bool muting, measuring;
static char *command; /* a whole line of standard input that waits to be obeyed */

static uint32_t next_n = 1; /* the next message */
static uint32_t in_flight;  /* flow: at most so many are under way; 0: not flowing */
static double rate;         /* pace: messages a second; 0: not pacing */
static double due_us;       /* of the next message */

static uint8_t buffer[READ_BYTES];

/* --- sessions ----------------------------------------------------------------------------------------------------- */

static void watch(int fd, uint32_t events, void *tag) {
    struct epoll_event event = {.events = events, .data.ptr = tag};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) die("epoll: %s", strerror(errno));
}

static void send_whole(Session *session, const void *bytes, size_t size) {
    if (send(session->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size) die("a session cannot be written to");
}

/* A masked text frame; the mask is zero, which the protocol permits and the payload survives. */
static void send_text(Session *session, const char *text) {
    uint8_t frame[512];
    size_t size = strlen(text), header = write_header(frame, 0x81, size);
    frame[1] |= 128;
    memset(frame + header, 0, 4);
    memcpy(frame + header + 4, text, size);
    send_whole(session, frame, header + 4 + size);
}

static void pong(Session *session) { send_text(session, "{}"); }

static void start_session(void) {
    uint32_t index = made++;
    Session *session = &sessions[index];
    struct sockaddr_in address = {.sin_family = AF_INET};
    int on = 1;
    memset(session, 0, sizeof *session);
    session->sampled = index % (uint32_t)sample_every == (uint32_t)sample_every / 2;
    session->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (session->fd < 0) die("no socket for session %u: %s", index, strerror(errno));
    setsockopt(session->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    setsockopt(session->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* Closed by a reset: thousands of ports in TIME_WAIT would be missing in the next run. */
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    setsockopt(session->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + index / PER_ADDRESS);
    if (bind(session->fd, (struct sockaddr *)&address, sizeof address)) die("bind: %s", strerror(errno));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    if (connect(session->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
        die("connect: %s", strerror(errno));
    session->state = CONNECTING;
    opening++;
    watch(session->fd, EPOLLIN | EPOLLOUT | EPOLLET, session);
}

static void ask_upgrade(Session *session) {
    char request[512];
    int size = snprintf(request, sizeof request,
                        "GET /connection/websocket HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                        "Sec-WebSocket-Version: 13\r\n%s\r\n",
                        port,
                        deflate ? "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; "
                                  "client_no_context_takeover\r\n"
                                : "");
    send_whole(session, request, (size_t)size);
    session->state = UPGRADING;
}

/* Take the answer to the upgrade; returns bytes that were used, 0 while it is not whole. */
static size_t take_upgrade(Session *session, size_t size) {
    buffer[size] = 0;
    char *text = (char *)buffer, *end = strstr(text, "\r\n\r\n");
    if (!end) return 0;
    if (strncmp(text, "HTTP/1.1 101", 12)) die("upgrade refused: %.100s", text);
    end[2] = 0;
    session->deflated = strcasestr(text, "permessage-deflate") != NULL;
    char hello[300];
    snprintf(hello, sizeof hello, "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"%s\"}}", room);
    session->state = JOINING;
    check_join(session, next_n);
    send_text(session, hello);
    return (size_t)(end + 4 - text);
}

/* A reply: the second one says that the session has subscribed. */
static void reply(Session *session, const char *line, size_t size) {
    if (memmem(line, size, "\"error\"", 7) || memmem(line, size, "\"disconnect\"", 12))
        die("refused by the server: %.*s", (int)size, line);
    if (session->state == JOINING && memmem(line, size, "\"subscribe\"", 11)) {
        session->state = READY;
        opening--;
        if (muting) {
            check_leave(session);
            session->state = MUTED;
            epoll_ctl(poller, EPOLL_CTL_DEL, session->fd, NULL);
        } else {
            ready++;
        }
    }
}

static void end_session(Session *session) {
    if (session->state == READY) ready--;
    if (session->state == READY || session->state == JOINING) check_leave(session);
    session->state = GONE;
    check_forget(session);
    close(session->fd);
}

static void lose_session(Session *session) {
    if (session->state < READY) die("the server hung up during the handshake");
    counts.closed++;
    end_session(session);
}

static void readable(Session *session) {
    for (;;) {
        size_t used = 0;
        ssize_t size = recv(session->fd, buffer, READ_BYTES - 1, 0);
        if (size < 0 && errno == EAGAIN) return;
        if (size <= 0) {
            lose_session(session);
            return;
        }
        if (session->state == UPGRADING && !(used = take_upgrade(session, (size_t)size)))
            die("the answer to the upgrade came in parts");
        uint64_t read_us = session->sampled ? now_us() : 0;
        if (!check_bytes(session, buffer + used, (size_t)size - used, read_us)) {
            end_session(session);
            return;
        }
        if (session->state == MUTED || size < READ_BYTES - 1) return;
    }
}

static void session_ready(Session *session, uint32_t events) {
    if (session->state == CONNECTING && events & (EPOLLOUT | EPOLLERR)) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(session->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) die("connect: %s", strerror(error));
        ask_upgrade(session);
        struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = session};
        epoll_ctl(poller, EPOLL_CTL_MOD, session->fd, &event);
        return;
    }
    if (session->state < MUTED && session->state > CONNECTING) readable(session);
}

/* --- publishing --------------------------------------------------------------------------------------------------- */

static uint32_t under_way(void) { return next_n - check_slowest(); }

static void publish(uint32_t messages, const uint64_t *at_us) {
    for (uint32_t place = 0; place < messages; place++) check_published(next_n + place, at_us[place]);
    uint32_t first = next_n;
    next_n += messages;
    publisher_send(first, messages, at_us);
}

static void publish_flowing(void) {
    uint64_t at_us[BATCH_MAX];
    uint32_t messages = in_flight - under_way();
    if (under_way() >= in_flight) return;
    if (messages > BATCH_MAX) messages = BATCH_MAX;
    at_us[0] = now_us();
    for (uint32_t place = 1; place < messages; place++) at_us[place] = at_us[0];
    publish(messages, at_us);
}

static void set_timer(double at_us) {
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(at_us / 1e6), .tv_nsec = (long)(fmod(at_us, 1e6) * 1e3)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Messages carry the time at which they were due: a publisher that is kept waiting hides no delay. */
static void publish_paced(void) {
    uint64_t at_us[BATCH_MAX];
    uint32_t messages = 0;
    double now = (double)now_us();
    for (; messages < BATCH_MAX && due_us <= now; due_us += 1e6 / rate) at_us[messages++] = (uint64_t)due_us;
    if (messages) publish(messages, at_us);
    set_timer(due_us);
}

static void publish_due(void) {
    if (publisher < 0 || publisher_busy()) return;
    if (in_flight) publish_flowing();
    if (rate > 0) publish_paced();
}

/* --- the loop ----------------------------------------------------------------------------------------------------- */

static void read_command(void) {
    static char text[4096];
    static size_t size;
    ssize_t got = read(STDIN_FILENO, text + size, sizeof text - 1 - size);
    if (got <= 0) exit(0); /* whoever gave the commands is gone */
    size += (size_t)got;
    text[size] = 0;
    if (text[size - 1] == '\n') {
        command = text; /* one command at a time: the next is sent when this one was answered */
        size = 0;
    }
}

/* Wait for events. While measuring we look instead of being woken: on loopback it is the sender's send() that wakes a
 * sleeping receiver, which costs it more than the sending does and no server on a network. */
static int wait_events(struct epoll_event *events, int timeout_ms) {
    const struct timespec pause = {.tv_nsec = LOOK_US * 1000};
    if (!measuring) return epoll_wait(poller, events, EVENTS, timeout_ms);
    int count = epoll_wait(poller, events, EVENTS, 0);
    if (!count) nanosleep(&pause, NULL);
    return count;
}

/* Do what is ready, waiting for it at most so long; returns the number of events. */
static int turn(int timeout_ms) {
    struct epoll_event events[EVENTS];
    uint64_t ticks;
    int count = wait_events(events, timeout_ms);
    for (int index = 0; index < count; index++) {
        void *tag = events[index].data.ptr;
        if (tag == &publisher) {
            if (publisher >= 0) publisher_ready();
        } else if (tag == &timer) {
            if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) die("timer: %s", strerror(errno));
        } else if (tag == &command) {
            read_command();
        } else {
            session_ready(tag, events[index].events);
        }
    }
    publish_due();
    return count;
}

static void turn_until(uint64_t until_us) {
    for (;;) {
        uint64_t now = now_us();
        if (now >= until_us) return;
        turn((int)((until_us - now) / 1000) + 1);
    }
}

/* --- commands ----------------------------------------------------------------------------------------------------- */

static void open_sessions(uint32_t wanted, bool muted) {
    uint64_t began_us = now_us();
    uint32_t until = made + wanted;
    if (until > SESSIONS_MAX) die("more than %d sessions", SESSIONS_MAX);
    muting = muted;
    while (made < until || opening) {
        while (made < until && opening < OPENING_MAX) start_session();
        turn(1000);
        if (now_us() - began_us > OPEN_S * 1000000ULL) die("%u of %u sessions did not open", opening, wanted);
    }
    uint32_t deflated = 0;
    for (uint32_t index = 0; index < made; index++) deflated += sessions[index].deflated;
    printf("{\"sessions\": %u, \"deflated\": %u, \"seconds\": %.3f}\n", ready, deflated,
           (double)(now_us() - began_us) / 1e6);
}

static void keep_sessions(uint32_t kept) {
    for (uint32_t index = kept; index < made; index++) {
        if (sessions[index].state == READY || sessions[index].state == MUTED) end_session(&sessions[index]);
    }
    if (made > kept) made = kept;
    printf("{\"sessions\": %u}\n", ready);
}

typedef struct {
    double server_s, own_s;
    uint64_t at_us;
    uint32_t slowest;
} Mark;

static Mark mark(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double user = (double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec / 1e6;
    double system = (double)usage.ru_stime.tv_sec + (double)usage.ru_stime.tv_usec / 1e6;
    return (Mark){cpu_seconds(server_pid), user + system, now_us(), check_slowest()};
}

typedef struct {
    Counts before, after;
    Mark begin, end;
} Measured;

static Measured measured;

static void measure(double warm_s, double seconds) {
    measuring = true;
    turn_until(now_us() + (uint64_t)(warm_s * 1e6));
    measured.before = counts;
    memset(&counts.latency, 0, sizeof counts.latency);
    measured.begin = mark();
    turn_until(measured.begin.at_us + (uint64_t)(seconds * 1e6));
    measured.end = mark();
    measured.after = counts;
    measuring = false;
}

static void publish_and_measure(double warm_s, double seconds) {
    uint64_t until_us;
    watch(publisher = publisher_open(), EPOLLIN | EPOLLOUT | EPOLLET, &publisher);
    measure(warm_s, seconds);
    in_flight = 0;
    rate = 0;
    until_us = now_us() + SETTLE_S * 1000000ULL;
    while (now_us() < until_us && (publisher_busy() || (ready && under_way()))) turn(QUIET_MS);
    publisher_close();
    publisher = -1;
}

/* Read on until nothing comes any more; whoever sends has been told to stop. */
static void settle(void) {
    uint64_t until_us = now_us() + SETTLE_S * 1000000ULL;
    while (turn(QUIET_MS) && now_us() < until_us) continue;
    next_n = check_newest();
}

/* Messages that had to come to a session and have not. */
static uint64_t missing(void) {
    uint64_t sum = 0;
    for (uint32_t index = 0; index < made; index++) {
        if (sessions[index].state == READY && sessions[index].wanted < next_n) sum += next_n - sessions[index].wanted;
    }
    return sum;
}

static void print_measured(void) {
    const Counts *before = &measured.before, *after = &measured.after;
    const Mark *begin = &measured.begin, *end = &measured.end;
    const Latency *latency = &after->latency;
    printf("{\"wall_s\": %.4f, \"server_cpu_s\": %.4f, \"client_cpu_s\": %.4f, \"publications\": %u, ",
           (double)(end->at_us - begin->at_us) / 1e6, end->server_s - begin->server_s, end->own_s - begin->own_s,
           end->slowest - begin->slowest);
    printf("\"deliveries\": %lu, \"frames\": %lu, \"bytes\": %lu, \"parsed\": %lu, ", after->deliveries - before->deliveries,
           after->frames - before->frames, after->bytes - before->bytes, after->parsed - before->parsed);
    printf("\"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, \"samples\": %lu, ", latency_ms(latency, 0.5),
           latency_ms(latency, 0.99), (double)latency->highest / 1e3, latency->samples);
    printf("\"delivered\": %lu, \"lost\": %lu, \"doubled\": %lu, \"changed\": %lu, ", counts.deliveries,
           counts.lost + missing(), counts.doubled, counts.changed);
    printf("\"unsubscribed\": %lu, \"closed\": %lu, \"refused\": %lu}\n", counts.unsubscribed, counts.closed,
           publisher_refused());
}

static bool obey(void) {
    double first = 0, warm_s = 0, seconds = 0;
    char verb[16] = "";
    int fields = sscanf(command, "%15s %lf %lf %lf", verb, &first, &warm_s, &seconds);
    command = NULL;
    if (!strcmp(verb, "open") || !strcmp(verb, "mute")) {
        open_sessions((uint32_t)first, verb[0] == 'm');
    } else if (!strcmp(verb, "keep")) {
        keep_sessions((uint32_t)first);
    } else if (!strcmp(verb, "flow") && fields == 4) {
        in_flight = (uint32_t)first;
        publish_and_measure(warm_s, seconds);
        print_measured();
    } else if (!strcmp(verb, "pace") && fields == 4) {
        rate = first;
        due_us = (double)now_us();
        publish_and_measure(warm_s, seconds);
        print_measured();
    } else if (!strcmp(verb, "drain") && fields == 3) {
        measure(first, warm_s);
        printf("{}\n");
    } else if (!strcmp(verb, "settle")) {
        settle();
        print_measured();
    } else {
        return false;
    }
    fflush(stdout);
    return true;
}

int main(int count, char **arguments) {
    if (count < 6) die("usage: edge_client PORT ROOM LINES PID SAMPLE_EVERY [deflate]");
    port = (uint16_t)atoi(arguments[1]);
    room = arguments[2];
    lines = read_lines(arguments[3]);
    server_pid = atoi(arguments[4]);
    sample_every = atoi(arguments[5]);
    deflate = count > 6 && !strcmp(arguments[6], "deflate");
    if (!port || sample_every < 1 || strlen(room) > 128) die("wrong arguments");
    sessions = calloc(SESSIONS_MAX, sizeof *sessions);
    poller = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (!sessions || poller < 0 || timer < 0) die("cannot begin: %s", strerror(errno));
    prctl(PR_SET_TIMERSLACK, 1000UL);
    check_start(&lines, room, (Answers){reply, pong});
    publisher_start(&lines, room, port);
    watch(timer, EPOLLIN | EPOLLET, &timer);
    watch(STDIN_FILENO, EPOLLIN, &command);
    do {
        while (!command) turn(1000);
    } while (obey());
    return 0;
}
