/* Answers early, and ends each connection in the way that is asked for: `ways WAY`. */
#include "acts.h"
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static const char *way;
static char *self;

static int is(const char *name) { return strcmp(way, name) == 0; }

static void respond(int c) {
    char request[10];
    read(c, request, sizeof request);
    answer(c, 600000);
}

/* Passes a connection to a process that was there before; who closes it when is what is asked for. */
static void pass_in_order(int c, int pair[2], int received[2], int go[2]) {
    if (is("pass-back")) {
        pass(pair[1], c);
        tell(go);
        /* The receiver has closed it. */
        await(received);
        close(c);
        return;
    }
    int closed[2], leave[2];
    check(pipe(closed) == 0 && pipe(leave) == 0);
    int before = strcmp(way, "pass-then-fork") != 0;
    if (!before) pass(pair[1], c);
    if (fork() == 0) {
        await(leave);
        close(c);
        tell(closed);
        _exit(0);
    }
    if (before) pass(pair[1], c);
    if (is("pass-fork-late")) close(c);
    tell(leave);
    await(closed);
    if (!is("pass-fork-late")) close(c);
    /* Nobody has it now but the message. */
    tell(go);
    await(received);
    close(closed[0]);
    close(closed[1]);
    close(leave[0]);
    close(leave[1]);
}

static void receive_in_order(int pair[2], int received[2], int go[2]) {
    char byte;
    close(go[1]);
    while (read(go[0], &byte, 1) == 1) {
        int c = passed(pair[0]);
        respond(c);
        close(c);
        tell(received);
    }
    _exit(0);
}

static void *respond_and_close(void *c) {
    respond((int)(long)c);
    close((int)(long)c);
    return NULL;
}

static void serve(int c) {
    if (is("thread")) {
        pthread_t thread;
        check(pthread_create(&thread, NULL, respond_and_close, (void *)(long)c) == 0);
        pthread_detach(thread);
        return;
    }
    if (is("epoll")) {
        /* Registered and never removed: the close is to do that, whatever is unread. */
        static int epoll = -1;
        if (epoll < 0) epoll = epoll_create1(0);
        struct epoll_event event = {EPOLLIN | EPOLLRDHUP, {.fd = c}};
        check(epoll_ctl(epoll, EPOLL_CTL_ADD, c, &event) == 0);
        respond(c);
        check(epoll_wait(epoll, &event, 1, 0) == 1);
        check(close(c) == 0);
        for (int turn = 0; turn < 20; turn++) check(epoll_wait(epoll, &event, 1, 1) == 0);
        return;
    }
    if (is("early-copy")) {
        /* The first name's close is none of the connection. */
        int d = dup(c);
        close(c);
        respond(d);
        close(d);
        return;
    }
    if (is("pass-self")) {
        int pair[2];
        check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
        pass(pair[1], c);
        close(c);
        int d = passed(pair[0]);
        respond(d);
        close(d);
        close(pair[0]);
        close(pair[1]);
        return;
    }
    respond(c);
    if (is("pass-lost")) {
        /* Sent to somebody who ends without having looked. */
        int pair[2];
        check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
        pass(pair[1], c);
        close(pair[0]);
        close(pair[1]);
        close(c);
        return;
    }
    if (is("close") || is("beside-hidden")) check(close(c) == 0);
    else if (is("shutdown")) { check(shutdown(c, SHUT_RDWR) == 0); close(c); }
    else if (is("shutdown-read")) { check(shutdown(c, SHUT_RD) == 0); close(c); }
    else if (is("dup")) { int d = dup(c); close(c); close(d); }
    else if (is("fcntl")) { int d = fcntl(c, F_DUPFD_CLOEXEC, 50); close(c); close(d); }
    else if (is("dup2")) { int p[2]; pipe(p); check(dup2(p[0], c) == c); close(p[0]); close(p[1]); close(c); }
    else if (is("dup2-fails")) { check(dup2(999, c) == -1); write(c, "END", 3); close(c); }
    else if (is("close_range")) check(syscall(SYS_close_range, c, c, 0) == 0);
    else if (is("exec-fails")) {
        char *arguments[] = {"nothing", NULL};
        fcntl(c, F_SETFD, FD_CLOEXEC);
        check(execv("/no/such/program", arguments) == -1);
        write(c, "END", 3);
        close(c);
    }
    else if (is("exec")) {
        char *arguments[] = {self, "exec", NULL};
        fcntl(c, F_SETFD, FD_CLOEXEC);
        execv(self, arguments);
    }
    else if (is("shutdown-kill")) { check(shutdown(c, SHUT_RDWR) == 0); kill(getpid(), SIGKILL); }
    else if (is("opaque")) { check(prctl(PR_SET_DUMPABLE, 0) == 0); close(c); }
    else if (is("opaque-heir")) {
        /* Another program closes its copy, and can be looked into; this process goes on with the connection. */
        char heir[20];
        check(prctl(PR_SET_DUMPABLE, 0) == 0);
        snprintf(heir, sizeof heir, "heir-%d", c);
        if (fork() == 0) execl(self, self, heir, (char *)NULL);
        while (wait(NULL) > 0) {}
        check(write(c, "END", 3) == 3);
        close(c);
    }
    else if (is("exit")) exit(7);
    else if (is("kill")) kill(getpid(), SIGKILL);
    else check(is("fork"));
}

int main(int count, char **arguments) {
    check(count == 2);
    /* A number that is no descriptor, as programs give it now and then. */
    check(close(-1) == -1 && shutdown(-1, SHUT_RDWR) == -1 && dup(-1) == -1);
    self = "/proc/self/exe";
    way = arguments[1];
    if (strncmp(way, "heir-", 5) == 0) {
        check(close(atoi(way + 5)) == 0);
        /* Another question, so that the close has been seen through. */
        check(close(-1) == -1);
        _exit(0);
    }
    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    int listener = listening(SOCK_CLOEXEC);
    if (is("beside-hidden")) {
        int hidden[2];
        check(pipe(hidden) == 0);
        if (fork() == 0) {
            check(prctl(PR_SET_DUMPABLE, 0) == 0);
            tell(hidden);
            for (;;) pause();
        }
        await(hidden);
    }
    int pair[2] = {-1, -1};
    int told[2] = {-1, -1};
    if (is("pass")) {
        check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
        check(pipe(told) == 0);
        if (fork() == 0) {
            close(listener);
            close(pair[1]);
            close(told[1]);
            for (;;) {
                /* The giver has closed it: the connection is under way, and nobody has it open. */
                char closed;
                check(read(told[0], &closed, 1) == 1);
                int c = passed(pair[0]);
                respond(c);
                close(c);
            }
        }
        close(pair[0]);
        close(told[0]);
    }
    int go[2], received[2];
    int ordered = is("pass-back") || is("pass-fork") || is("pass-fork-late") || is("pass-then-fork");
    if (ordered) {
        check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
        check(pipe(go) == 0 && pipe(received) == 0);
        if (fork() == 0) {
            close(listener);
            receive_in_order(pair, received, go);
        }
    }
    for (;;) {
        int c = accept4(listener, NULL, NULL, 0);
        if (c < 0) continue;
        if (is("fork")) {
            /* The child's exit is no close: it must not come before its parent's, which is one of two. */
            int closed[2];
            check(pipe(closed) == 0);
            if (fork() == 0) {
                await(closed);
                serve(c);
                _exit(0);
            }
            close(c);
            tell(closed);
            close(closed[0]);
            close(closed[1]);
        } else if (ordered) {
            pass_in_order(c, pair, received, go);
        } else if (is("pass")) {
            pass(pair[1], c);
            close(c);
            check(write(told[1], "", 1) == 1);
        } else {
            if (is("exec")) close(listener);
            serve(c);
        }
    }
}
