// A server that makes many processes: forks PORT COUNT HELPER. Says on stderr what a fork has cost in each of five parts.
// Every tenth runs the helper, every hundredth is killed, every thousandth
// is made with an accepted connection open, which is closed with unread bytes once the child has ended.
#define _GNU_SOURCE
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double used(void) {
    struct rusage own, children;
    getrusage(RUSAGE_SELF, &own);
    getrusage(RUSAGE_CHILDREN, &children);
    struct timeval t[4] = {own.ru_utime, own.ru_stime, children.ru_utime, children.ru_stime};
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += t[i].tv_sec + t[i].tv_usec / 1e6;
    return sum;
}

int main(int count, char **words) {
    struct sockaddr_in address = {AF_INET, htons(atoi(words[1])), {htonl(INADDR_LOOPBACK)}, {0}};
    int all = atoi(words[2]), listener = socket(AF_INET, SOCK_STREAM, 0), one = 1, closes = 0;
    char *helper[] = {words[3], NULL}, *none[] = {NULL};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    bind(listener, (void *)&address, sizeof address);
    listen(listener, 16);
    double last = used();
    for (int turn = 1; turn <= all; turn++) {
        int client = -1, server = -1;
        if (turn % 1000 == 0) {
            client = socket(AF_INET, SOCK_STREAM, 0);
            connect(client, (void *)&address, sizeof address);
            if (write(client, "12345678", 8) != 8) return 1;
            server = accept(listener, NULL, NULL);
            char byte;
            if (read(server, &byte, 1) != 1) return 1;
        }
        pid_t child = fork();
        if (child == 0) {
            if (turn % 100 == 0) pause();
            if (turn % 10 == 0) execve(helper[0], helper, none);
            _exit(0);
        }
        if (turn % 100 == 0) kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        if (server >= 0) {
            close(server), closes++;
            char byte;
            if (read(client, &byte, 1) != 0) fputs("reset\n", stderr);
            close(client);
        }
        static const int parts[] = {4, 16, 20, 96, 100};
        for (int part = 0; part < 5; part++) {
            if (turn != (long)all * parts[part] / 100) continue;
            double now = used();
            static int before;
            fprintf(stderr, "%d to %d: %.1f us a fork\n", before + 1, turn, (now - last) * 1e6 / (turn - before));
            before = turn, last = now;
        }
    }
    fprintf(stderr, "closes %d\n", closes);
    return 0;
}
