/* The floor of the edge bench: a bare send() loop over sockets, one frame for all of them.
 *
 *   edge_floor ROOM LINES
 *
 * It takes what the draining client sends (handshake, connect, subscribe, publishes over HTTP), without looking closer
 * than it must, so that the same client drains and checks it. Nothing here decides, stores, names or limits anything.
 * What is published goes out at once in one frame. Commands come on standard input, one a line:
 *
 *   send MESSAGES   send frames of so many messages, one after the other, as fast as the loop can
 *   stop            end that; answered with a line
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire.h"

enum { SESSIONS_MAX = 19900, JOIN_MAX = 1000, EVENTS = 256, REQUEST_MAX = 1 << 20 };

static const char SWITCH[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static const char WELCOME[] = "{\"id\":1,\"connect\":{\"client\":\"floor\"}}\n{\"id\":2,\"subscribe\":{}}";
static const char PUBLISHED[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

static const char *room;
static Lines lines;
static int poller, listening;
static int fds[SESSIONS_MAX]; /* those that have subscribed */
static int count;
static uint32_t next_n = 1, free_messages;
static uint8_t frame[JOIN_MAX * PUSH_BYTES_MAX];

static char pending[JOIN_MAX][MESSAGE_BYTES]; /* published, not yet sent */
static uint32_t pending_count;
static char request[REQUEST_MAX + 1];
static size_t request_size;

static void send_whole(int fd, const void *bytes, size_t size) {
    while (size) {
        ssize_t sent = send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd one = {.fd = fd, .events = POLLOUT};
            poll(&one, 1, 1000);
            continue;
        }
        if (sent < 0) return; /* gone; epoll says so as well */
        bytes = (const char *)bytes + sent;
        size -= (size_t)sent;
    }
}

static size_t add_push(char *out, const char *message, uint32_t n) {
    return (size_t)sprintf(out, "{\"push\":{\"channel\":\"%s\",\"pub\":{\"data\":%.*s,\"offset\":%u}}}\n", room, MESSAGE_BYTES,
                           message, n);
}

/* Build one frame of messages and hand it to everybody. */
static void send_frame(const char (*messages)[MESSAGE_BYTES], uint32_t joined) {
    enum { HEADER_MAX = 10 };
    char *text = (char *)frame + HEADER_MAX;
    size_t size = 0;
    uint8_t header[HEADER_MAX];
    for (uint32_t place = 0; place < joined; place++) size += add_push(text + size, messages[place], next_n++);
    size_t header_size = write_header(header, 0x81, size - 1);
    uint8_t *begin = frame + HEADER_MAX - header_size;
    memcpy(begin, header, header_size);
    for (int index = 0; index < count; index++) send_whole(fds[index], begin, header_size + size - 1);
}

static void send_free(void) {
    static char messages[JOIN_MAX][MESSAGE_BYTES];
    uint64_t now = now_us();
    for (uint32_t place = 0; place < free_messages; place++) write_message(messages[place], &lines, next_n + place, now);
    send_frame(messages, free_messages);
}

static void send_pending(void) {
    static char messages[JOIN_MAX][MESSAGE_BYTES];
    uint32_t joined = pending_count;
    memcpy(messages, pending, joined * sizeof *messages);
    pending_count = 0;
    send_frame(messages, joined);
}

/* --- what the client says ----------------------------------------------------------------------------------------- */

static void take_publish(int fd) {
    char *content = strstr(request, "\r\n\r\n"), *length = strstr(request, "Content-Length:");
    if (!content || !length || request_size < (size_t)(content + 4 - request) + strtoul(length + 15, NULL, 10)) return;
    for (char *data = content; (data = strstr(data, "\"data\":")); data += MESSAGE_BYTES) {
        data += 7;
        if (pending_count == JOIN_MAX) die("more than %d messages wait", JOIN_MAX);
        memcpy(pending[pending_count++], data, MESSAGE_BYTES);
    }
    request_size = 0;
    send_whole(fd, PUBLISHED, sizeof PUBLISHED - 1);
}

static void take_bytes(int fd) {
    static int publisher = -1;
    char *into = fd == publisher ? request + request_size : request;
    ssize_t size = recv(fd, into, fd == publisher ? REQUEST_MAX - request_size : 4096, MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
        close(fd);
        return;
    }
    into[size] = 0;
    if (fd == publisher || !strncmp(into, "POST ", 5)) {
        publisher = fd;
        request_size += (size_t)size;
        take_publish(fd);
    } else if (!strncmp(into, "GET ", 4)) {
        send_whole(fd, SWITCH, sizeof SWITCH - 1);
    } else if (memmem(into, (size_t)size, "subscribe", 9)) { /* masked with zeros, so it can be read as it is */
        uint8_t welcome[256];
        size_t header = write_header(welcome, 0x81, sizeof WELCOME - 1);
        memcpy(welcome + header, WELCOME, sizeof WELCOME - 1);
        send_whole(fd, welcome, header + sizeof WELCOME - 1);
        if (count == SESSIONS_MAX) die("more than %d sessions", SESSIONS_MAX);
        fds[count++] = fd;
    }
}

static void take_connection(void) {
    int fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK), on = 1;
    if (fd < 0) return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

static void take_command(void) {
    char text[64];
    ssize_t size = read(STDIN_FILENO, text, sizeof text - 1);
    if (size <= 0) exit(0); /* whoever gave the commands is gone */
    text[size] = 0;
    free_messages = strncmp(text, "send ", 5) ? 0 : (uint32_t)atoi(text + 5);
    if (free_messages > JOIN_MAX) die("at most %d messages in a frame", JOIN_MAX);
    if (!free_messages) printf("stopped\n");
}

static void look_around(void) {
    struct epoll_event events[EVENTS];
    bool work = free_messages || pending_count;
    int ready = epoll_wait(poller, events, EVENTS, work ? 0 : 1000);
    for (int index = 0; index < ready; index++) {
        int fd = events[index].data.fd;
        if (fd == listening) {
            take_connection();
        } else if (fd == STDIN_FILENO) {
            take_command();
        } else {
            take_bytes(fd);
        }
    }
}

int main(int argument_count, char **arguments) {
    if (argument_count != 3) die("usage: edge_floor ROOM LINES");
    room = arguments[1];
    lines = read_lines(arguments[2]);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    poller = epoll_create1(0);
    if (bind(listening, (struct sockaddr *)&address, size) || listen(listening, 4096)) die("no port");
    getsockname(listening, (struct sockaddr *)&address, &size);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listening};
    epoll_ctl(poller, EPOLL_CTL_ADD, listening, &event);
    event.data.fd = STDIN_FILENO;
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("%d\n", ntohs(address.sin_port));
    for (;;) {
        look_around();
        if (pending_count) send_pending();
        if (free_messages) send_free();
    }
}
