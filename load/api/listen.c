// N readers of one stream of server-sent events in one epoll loop, and some that ask and never read.
// usage: listen PORT READERS STALLED EVENTS MARK REQUEST_FILE
// Says "ready" once all are answered; ends when each reader has seen MARK so often, and prints one JSON line.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 1 << 20, TAIL_MAX = 64, SILENCE_MS = 60000 };
struct Reader { int fd; long seen; int answered, kept; char tail[TAIL_MAX]; };
static char request[1 << 14], buffer[TAIL_MAX + BUFFER];
static int request_bytes;

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static void fail(const char *why) { perror(why); exit(1); }

static int opened(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (void *)&to, sizeof to)) fail("connect");
    if (write(fd, request, request_bytes) != request_bytes) fail("write");
    return fd;
}

int main(int count, char **words) {
    if (count != 7) { fprintf(stderr, "usage: listen PORT READERS STALLED EVENTS MARK REQUEST_FILE\n"); return 2; }
    int port = atoi(words[1]), readers = atoi(words[2]), stalled = atoi(words[3]), poll = epoll_create1(0), unanswered = readers, live = readers;
    long events = atol(words[4]);
    const char *mark = words[5];
    int mark_bytes = strlen(mark);
    FILE *file = fopen(words[6], "rb");
    if (!file) fail(words[6]);
    request_bytes = fread(request, 1, sizeof request, file);
    struct Reader *all = calloc(readers, sizeof *all);
    for (int i = 0; i < readers; i++) {
        all[i].fd = opened(port);
        fcntl(all[i].fd, F_SETFL, O_NONBLOCK);
        struct epoll_event want = {.events = EPOLLIN, .data.ptr = &all[i]};
        epoll_ctl(poll, EPOLL_CTL_ADD, all[i].fd, &want);
    }
    for (int i = 0; i < stalled; i++) opened(port); // closed when we end
    double first = 0, last = 0, slowest = 0;
    long long bytes = 0;
    struct epoll_event ready[256];
    while (live) {
        int found = epoll_wait(poll, ready, 256, SILENCE_MS);
        if (found <= 0) break;
        for (int i = 0; i < found; i++) {
            struct Reader *reader = ready[i].data.ptr;
            memcpy(buffer, reader->tail, reader->kept);
            int got = read(reader->fd, buffer + reader->kept, BUFFER);
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0) { live--; epoll_ctl(poll, EPOLL_CTL_DEL, reader->fd, 0); continue; }
            bytes += got;
            if (!reader->answered) { reader->answered = 1; unanswered--; if (!unanswered) { puts("ready"); fflush(stdout); } }
            long before = reader->seen;
            char *at = buffer, *end = buffer + reader->kept + got, *hit;
            while ((hit = memmem(at, end - at, mark, mark_bytes))) { reader->seen++; at = hit + mark_bytes; }
            int left = end - at < mark_bytes - 1 ? end - at : mark_bytes - 1;
            memcpy(reader->tail, end - left, left);
            reader->kept = left;
            if (reader->seen > before) {
                last = now();
                if (!first) first = last;
                if (before < events && reader->seen >= events) { live--; slowest = last - first; }
            }
        }
    }
    long long seen = 0;
    for (int i = 0; i < readers; i++) seen += all[i].seen;
    printf("{\"readers\": %d, \"seen\": %lld, \"short\": %d, \"bytes\": %lld, \"seconds\": %.4f}\n", readers, seen, live, bytes, slowest);
}
