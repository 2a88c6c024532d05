/* The limit that a scheduler on this machine can come near: how fast programs start and end when nothing decides which.
 *
 *   spawn PROCESSES COUNT WINDOW PROGRAM
 *
 * PROCESSES loops share COUNT starts of PROGRAM by posix_spawn (stdin, stdout and stderr on /dev/null, a process group
 * each), WINDOW of them alive per loop at a time. Then 200 starts one after the other, each timed from before its spawn
 * until it is reaped. Prints one line of JSON. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LONE_COUNT = 200 };

extern char **environ;

static posix_spawn_file_actions_t actions;
static posix_spawnattr_t attributes;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void prepare(void) {
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
    posix_spawn_file_actions_adddup2(&actions, 0, 1);
    posix_spawn_file_actions_adddup2(&actions, 0, 2);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setpgroup(&attributes, 0);
}

static void start(char *program) {
    char *argv[] = {program, NULL};
    pid_t pid;
    int error = posix_spawn(&pid, program, &actions, &attributes, argv, environ);
    if (error != 0) {
        fprintf(stderr, "spawn: cannot start %s: %s\n", program, strerror(error));
        exit(1);
    }
}

static void reap(void) {
    while (waitpid(-1, NULL, 0) < 0)
        if (errno != EINTR) {
            perror("spawn: waitpid");
            exit(1);
        }
}

static void loop(long count, long window, char *program) {
    long started = 0, ended = 0;
    while (ended < count) {
        while (started < count && started - ended < window) {
            start(program);
            started++;
        }
        reap();
        ended++;
    }
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: spawn PROCESSES COUNT WINDOW PROGRAM\n");
        return 2;
    }
    long processes = atol(argv[1]), count = atol(argv[2]), window = atol(argv[3]);
    char *program = argv[4];
    if (processes < 1 || processes > 64 || count < processes || window < 1 || window > 4096) {
        fprintf(stderr, "spawn: 1 to 64 processes, at least one start each, a window of 1 to 4096\n");
        return 2;
    }
    prepare();

    double begun = now_s();
    for (long i = 0; i < processes; i++) {
        pid_t pid = fork();
        if (pid < 0) {
            perror("spawn: fork");
            return 1;
        }
        if (pid == 0) {
            loop(count / processes, window, program);
            _exit(0);
        }
    }
    for (long i = 0; i < processes; i++)
        reap();
    double took_s = now_s() - begun;

    double lone_s[LONE_COUNT];
    for (int i = 0; i < LONE_COUNT; i++) {
        double at = now_s();
        start(program);
        reap();
        lone_s[i] = now_s() - at;
    }
    qsort(lone_s, LONE_COUNT, sizeof lone_s[0], by_size);
    printf("{\"per_s\": %.1f, \"lone_p50_ms\": %.4f, \"lone_p95_ms\": %.4f}\n",
           (double)(count / processes * processes) / took_s, lone_s[LONE_COUNT / 2] * 1e3,
           lone_s[LONE_COUNT * 95 / 100] * 1e3);
    return 0;
}
