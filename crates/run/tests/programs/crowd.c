/* Has many connections open when it starts another program, then closes each: `crowd CONNECTIONS`.
 *
 * Its own clients are in a process of their own. Every connection has a byte unread: a plain close would reset it.
 * Says how long the program took to start and how long the closes took. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void check(int fine, const char *what) {
    if (!fine) {
        perror(what);
        _exit(9);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* Connects, and is content with nothing but the end of each. */
static void clients(int count, const struct sockaddr_in *address) {
    int *all = malloc(count * sizeof *all);
    for (int i = 0; i < count; i++) {
        all[i] = socket(AF_INET, SOCK_STREAM, 0);
        check(connect(all[i], (const struct sockaddr *)address, sizeof *address) == 0, "connect");
        check(write(all[i], "x", 1) == 1, "write");
    }
    for (int i = 0; i < count; i++) {
        char byte;
        check(read(all[i], &byte, 1) == 0, "read");
        close(all[i]);
    }
    _exit(0);
}

int main(int arguments, char **argument) {
    int count = arguments > 1 ? atoi(argument[1]) : 0, on = 1;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    struct sockaddr_in address = {AF_INET, htons(8000), {htonl(INADDR_LOOPBACK)}};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    check(bind(listener, (struct sockaddr *)&address, sizeof address) == 0, "bind");
    check(listen(listener, 1024) == 0, "listen");
    pid_t other = fork();
    if (other == 0) clients(count, &address);
    int *all = malloc(count * sizeof *all);
    for (int i = 0; i < count; i++) {
        all[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        check(all[i] >= 0, "accept");
    }
    double start = now();
    pid_t child = fork();
    if (child == 0) {
        execlp("true", "true", NULL);
        _exit(9);
    }
    int status;
    check(waitpid(child, &status, 0) == child && status == 0, "true");
    printf("%d connections: fork, exec and exit %.1f ms\n", count, (now() - start) * 1e3);
    fflush(stdout);
    double longest = 0, begin = now();
    for (int i = 0; i < count; i++) {
        double before = now();
        check(close(all[i]) == 0, "close");
        double took = now() - before;
        if (took > longest) longest = took;
        if (i == 99 || i == count - 1) {
            printf("%d closes: %.4f ms each, longest %.1f ms\n", i + 1, (now() - begin) * 1e3 / (i + 1), longest * 1e3);
            fflush(stdout);
        }
    }
    check(waitpid(other, &status, 0) == other && status == 0, "clients");
    return 0;
}
