/* See publisher.h. */
#define _GNU_SOURCE
#include "publisher.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MESSAGE_JSON_MAX = MESSAGE_BYTES + 192, ANSWER_MAX = BATCH_MAX * 512 };

static const Lines *lines;
static const char *room;
static uint16_t port;
static int line = -1;
static char body[BATCH_MAX * MESSAGE_JSON_MAX], request[sizeof body + 256];
static size_t request_size, request_sent;
static char answer[ANSWER_MAX + 1];
static size_t answer_size;
static uint32_t messages_asked;
static bool busy;
static uint64_t refused;

void publisher_start(const Lines *tails, const char *name, uint16_t server_port) {
    lines = tails;
    room = name;
    port = server_port;
}

int publisher_open(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    line = socket(AF_INET, SOCK_STREAM, 0);
    if (line < 0 || connect(line, (struct sockaddr *)&address, sizeof address)) die("nobody listens on port %d", port);
    int on = 1;
    setsockopt(line, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return line;
}

void publisher_close(void) {
    close(line);
    line = -1;
    busy = false;
}

bool publisher_busy(void) { return busy; }

uint64_t publisher_refused(void) { return refused; }

static size_t write_one(char *out, uint32_t n, uint64_t at_us) {
    size_t size = (size_t)sprintf(out, "{\"room\":\"%s\",\"data\":", room);
    write_message(out + size, lines, n, at_us);
    out[size + MESSAGE_BYTES] = '}';
    return size + MESSAGE_BYTES + 1;
}

static void flush_request(void) {
    while (request_sent < request_size) {
        ssize_t sent = send(line, request + request_sent, request_size - request_sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) return; /* the socket is watched for writing as well */
        if (sent < 0) die("the server closed the publisher's connection");
        request_sent += (size_t)sent;
    }
}

void publisher_send(uint32_t first, uint32_t messages, const uint64_t *at_us) {
    size_t size = 0;
    bool batch = messages > 1;
    if (batch) size = (size_t)sprintf(body, "{\"messages\":[");
    for (uint32_t place = 0; place < messages; place++) {
        if (place) body[size++] = ',';
        size += write_one(body + size, first + place, at_us[place]);
    }
    if (batch) size += (size_t)sprintf(body + size, "]}");
    request_size = (size_t)snprintf(request, sizeof request,
                                    "POST /v1/publish%s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
                                    "Content-Length: %zu\r\n\r\n",
                                    batch ? "/batch" : "", size);
    memcpy(request + request_size, body, size);
    request_size += size;
    request_sent = answer_size = 0;
    messages_asked = messages;
    busy = true;
    flush_request();
}

/* Size of the whole answer, 0 while that is not known. */
static size_t answer_need(char **content) {
    char *end = strstr(answer, "\r\n\r\n");
    if (!end) return 0;
    char *length = strcasestr(answer, "\r\ncontent-length:");
    if (!length || length > end) die("an answer without a length: %.100s", answer);
    *content = end + 4;
    return (size_t)(end + 4 - answer) + strtoul(length + 17, NULL, 10);
}

static void judge(const char *content) {
    if (strncmp(answer, "HTTP/1.1 200", 12)) {
        fprintf(stderr, "edge bench: publish refused: %.200s\n", content);
        refused += messages_asked;
        return;
    }
    for (const char *code = content; (code = strstr(code, "\"code\":")); code++) refused++;
}

void publisher_ready(void) {
    flush_request();
    for (;;) {
        ssize_t got = recv(line, answer + answer_size, ANSWER_MAX - answer_size, MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) die("the server closed the publisher's connection");
        answer_size += (size_t)got;
        answer[answer_size] = 0;
        char *content;
        size_t need = answer_need(&content);
        if (need && answer_size >= need) {
            judge(content);
            busy = false;
            answer_size = 0;
            return;
        }
        if (answer_size == ANSWER_MAX) die("an answer of more than %d bytes", ANSWER_MAX);
    }
}
