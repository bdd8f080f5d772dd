/* What the C programs of these tests have in common: an answer, its listener, fds in messages, pipes for order. */
#ifndef ACTS_H
#define ACTS_H
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void check(int fine) {
    if (!fine) {
        static const char text[] = "not as expected\n";
        write(2, text, sizeof text - 1);
        _exit(9);
    }
}

/* Answers with a page whose end is marked. */
static void answer(int c, size_t length) {
    static char body[600000];
    memset(body, 'x', sizeof body);
    const char *head = "HTTP/1.0 200 OK\r\n\r\n";
    write(c, head, strlen(head));
    for (size_t done = 0; done < length;) {
        ssize_t wrote = write(c, body + done, length - done);
        if (wrote <= 0) break;
        done += wrote;
    }
    write(c, "END", 3);
}

static int listening(int flags) {
    struct sockaddr_in here = {AF_INET, htons(8000), {htonl(INADDR_LOOPBACK)}};
    int listener = socket(AF_INET, SOCK_STREAM | flags, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    check(bind(listener, (struct sockaddr *)&here, sizeof here) == 0);
    check(listen(listener, 64) == 0);
    return listener;
}

/* Passes a connection on to whoever reads the other end. */
static void pass(int to, int c) {
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {&byte, 1};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof c);
    memcpy(CMSG_DATA(header), &c, sizeof c);
    check(sendmsg(to, &message, 0) == 1);
}

static int passed(int from) {
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {&byte, 1};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int c;
    if (recvmsg(from, &message, 0) != 1) _exit(0);
    memcpy(&c, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof c);
    return c;
}

/* Closes nothing but what it is told to, when it is told to: order is the pipes' and nobody's luck. */
static void tell(int pipe[2]) { check(write(pipe[1], "", 1) == 1); }
static void await(int pipe[2]) {
    char byte;
    check(read(pipe[0], &byte, 1) == 1);
}

/* dup by a system call that no library sees. */
static int bare_dup(int fd) {
#ifdef __x86_64__
    long got;
    __asm__ volatile("syscall" : "=a"(got) : "0"((long)SYS_dup), "D"((long)fd) : "rcx", "r11", "memory");
    return got;
#else
    register long x8 __asm__("x8") = SYS_dup, x0 __asm__("x0") = fd;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8) : "memory");
    return x0;
#endif
}
#endif
