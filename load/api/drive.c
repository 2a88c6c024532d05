// One HTTP/1.1 request over and over on each of N kept connections, one epoll loop: answers per second, and their latencies.
// usage: drive PORT CONNECTIONS SECONDS REQUEST_FILE     prints one JSON line; an answer that is not 2xx is an error
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 1 << 18, TAKEN_MAX = 4000000 };
struct Line { int fd; double sent; int used; char *buffer; };
static char request[1 << 16];
static int request_bytes;
static float *taken;
static long answers, errors;

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static int by_value(const void *a, const void *b) { float x = *(float *)a, y = *(float *)b; return (x > y) - (x < y); }
static void fail(const char *why) { perror(why); exit(1); }

static void send_one(struct Line *line) {
    line->sent = now();
    if (write(line->fd, request, request_bytes) != request_bytes) fail("write");
}

static int whole(struct Line *line) {  // the bytes of a whole answer at the beginning, 0 while it is not whole
    line->buffer[line->used] = 0;
    char *end = strstr(line->buffer, "\r\n\r\n");
    if (!end) return 0;
    char *length = strcasestr(line->buffer, "content-length:");
    long body = length && length < end ? atol(length + 15) : 0;
    long size = end + 4 - line->buffer + body;
    return size <= line->used ? (int)size : 0;
}

static void take(struct Line *line) {
    int got = read(line->fd, line->buffer + line->used, BUFFER - 1 - line->used);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) fail("the server closed a connection");
    line->used += got;
    for (int size; (size = whole(line)) > 0;) {
        if (answers < TAKEN_MAX) taken[answers] = (float)((now() - line->sent) * 1e3);
        answers++;
        errors += line->buffer[9] != '2';
        memmove(line->buffer, line->buffer + size, line->used - size);
        line->used -= size;
        send_one(line);
    }
}

int main(int count, char **words) {
    if (count != 5) { fprintf(stderr, "usage: drive PORT CONNECTIONS SECONDS REQUEST_FILE\n"); return 2; }
    int port = atoi(words[1]), lines = atoi(words[2]), poll = epoll_create1(0);
    FILE *file = fopen(words[4], "rb");
    if (!file) fail(words[4]);
    request_bytes = fread(request, 1, sizeof request, file);
    taken = malloc(TAKEN_MAX * sizeof *taken);
    struct Line *all = calloc(lines, sizeof *all);
    for (int i = 0; i < lines; i++) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        all[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        all[i].buffer = malloc(BUFFER);
        if (connect(all[i].fd, (void *)&to, sizeof to)) fail("connect");
        int one = 1;
        setsockopt(all[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(all[i].fd, F_SETFL, O_NONBLOCK);
        struct epoll_event want = {.events = EPOLLIN, .data.ptr = &all[i]};
        epoll_ctl(poll, EPOLL_CTL_ADD, all[i].fd, &want);
        send_one(&all[i]);
    }
    double begun = now(), until = begun + atof(words[3]);
    struct epoll_event ready[64];
    while (now() < until) {
        int found = epoll_wait(poll, ready, 64, 100);
        for (int i = 0; i < found; i++) take(ready[i].data.ptr);
    }
    double took = now() - begun;
    long kept = answers < TAKEN_MAX ? answers : TAKEN_MAX;
    qsort(taken, kept, sizeof *taken, by_value);
    if (!kept) { printf("{\"per_s\": 0, \"errors\": 0, \"p50_ms\": 0, \"p95_ms\": 0, \"p99_ms\": 0}\n"); return 0; }
    printf("{\"per_s\": %.1f, \"errors\": %ld, \"p50_ms\": %.3f, \"p95_ms\": %.3f, \"p99_ms\": %.3f}\n", answers / took, errors,
           taken[kept / 2], taken[(long)(kept * 0.95)], taken[(long)(kept * 0.99)]);
}
