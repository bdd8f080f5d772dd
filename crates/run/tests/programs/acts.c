/* Small programs in one: `acts NAME` does one thing and tells what it saw; `acts` lists the names.
 *
 * They must do the same under a supervisor as without: what they print, how they end, what they leave behind. Names with
 * `early_` answer a client of which they have read ten bytes; with `full_` they read all of it and tell how much that was;
 * with `plain_` they end in a way that nothing is promised for. */
#include "acts.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

extern char **environ;

static struct act { const char *name; int (*run)(void); } acts[256];
static int count;
static char *self;

#define ACT(name)                                                                                       \
    static int name(void);                                                                              \
    __attribute__((constructor)) static void add_##name(void) { acts[count++] = (struct act){#name, name}; } \
    static int name(void)

static void say(const char *text, long number) { dprintf(1, "%s %ld\n", text, number); }
static void said(const char *text, long result) { dprintf(1, "%s %ld %d\n", text, result, result < 0 ? errno : 0); }

/* The open fds and what they are. Above 900 the library has its own. */
static void fds(void) {
    for (int fd = 0; fd < 900; fd++) {
        char path[64], target[256];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(path, target, sizeof target - 1);
        if (length < 0) continue;
        target[length] = 0;
        target[strcspn(target, ":")] = 0;
        if (target[0] == '/' && strcmp(target, "/dev/null")) strcpy(target, "file");
        dprintf(1, "fd %d %s %d\n", fd, target, fcntl(fd, F_GETFD));
    }
}

static void ended(pid_t pid) {
    int status;
    check(waitpid(pid, &status, 0) == pid);
    if (WIFEXITED(status)) say("child exited", WEXITSTATUS(status));
    if (WIFSIGNALED(status)) say("child killed", WTERMSIG(status));
    said("more children", waitpid(-1, 0, WNOHANG));
}

static void handler(int number) { say("handler", number); }

static int client(int listener) {
    int c = accept(listener, 0, 0);
    check(c >= 0);
    return c;
}

static int greet(int c) {
    char request[10];
    return read(c, request, sizeof request);
}

static void early(int c) {
    say("read", greet(c));
    answer(c, 200000);
}

/* Reads all of a request of 8,192 bytes, and tells the client how much it was. */
static void full(int c) {
    char request[8192], line[64];
    size_t got = 0;
    while (got < sizeof request) {
        ssize_t more = read(c, request, sizeof request - got);
        if (more <= 0) break;
        got += more;
    }
    say("saw", got);
    snprintf(line, sizeof line, "saw %zu of 8192", got);
    write(c, line, strlen(line));
}

/* ---- ends ---- */
ACT(exit_0) { return 0; }
ACT(exit_1) { return 1; }
ACT(exit_255) { return 255; }
ACT(exit_quick) { quick_exit(3); }
ACT(exit_at_once) { _exit(4); }
ACT(exit_group) { syscall(SYS_exit_group, 5); return 0; }
ACT(exit_abort) { abort(); }
ACT(exit_segv) { raise(SIGSEGV); return 0; }
ACT(exit_term) { kill(getpid(), SIGTERM); pause(); return 0; }
ACT(exit_kill) { kill(getpid(), SIGKILL); pause(); return 0; }
ACT(exit_pipe) { int p[2]; check(pipe(p) == 0); close(p[0]); write(p[1], "x", 1); return 0; }
static void at_exit(void) { say("at exit", 0); }
ACT(exit_handlers) { atexit(at_exit); exit(6); }
static void *ends(void *x) { exit(7); return x; }
ACT(exit_thread) { pthread_t t; pthread_create(&t, 0, ends, 0); pthread_join(t, 0); return 0; }
ACT(exit_main_thread) { pthread_exit(0); }

/* ---- signals ---- */
ACT(signal_dispositions) {
    for (int s = 1; s < 65; s++) {
        struct sigaction old;
        if (sigaction(s, 0, &old) == 0 && old.sa_handler != SIG_DFL) say(old.sa_handler == SIG_IGN ? "ignored" : "handled", s);
    }
    return 0;
}
ACT(signal_mask) {
    sigset_t set;
    sigprocmask(SIG_SETMASK, 0, &set);
    for (int s = 1; s < 65; s++) if (sigismember(&set, s) == 1) say("blocked", s);
    return 0;
}
ACT(signal_handled) { signal(SIGHUP, handler); raise(SIGHUP); return 8; }
ACT(signal_waited) {
    sigset_t set;
    int got;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, 0);
    kill(getpid(), SIGUSR1);
    sigwait(&set, &got);
    say("waited", got);
    return 0;
}
ACT(signal_alarm) {
    sigset_t set, old;
    signal(SIGALRM, handler);
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    sigprocmask(SIG_BLOCK, &set, &old);
    ualarm(2000, 0);
    sigsuspend(&old);
    return 0;
}
ACT(signal_child) {
    signal(SIGCHLD, handler);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, &old);
    pid_t pid = fork();
    if (pid == 0) _exit(1);
    sigsuspend(&old);
    ended(pid);
    return 0;
}
ACT(signal_queue) {
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGRTMIN + 3, &action, 0);
    sigqueue(getpid(), SIGRTMIN + 3, (union sigval){7});
    return 0;
}

/* ---- descriptors ---- */
ACT(fds_at_start) { fds(); return 0; }
ACT(fds_lowest) { int a = open("/dev/null", 0), b = dup(a); close(a); said("lowest", open("/dev/null", 0)); close(b); fds(); return 0; }
ACT(fds_bad) {
    said("close", close(77));
    said("close", close(-1));
    said("dup", dup(-1));
    said("dup2", dup2(77, 5));
    said("dup3", dup3(1, 1, 0));
    said("shutdown", shutdown(77, SHUT_RDWR));
    said("shutdown", shutdown(0, SHUT_RD));
    said("fcntl", fcntl(-1, F_DUPFD, 9));
    said("accept", accept(0, 0, 0));
    said("epoll_ctl", epoll_ctl(0, EPOLL_CTL_ADD, 1, &(struct epoll_event){0}));
    said("range", close_range(9, 8, 0));
    said("range", syscall(SYS_close_range, 9, 8, 0));
    return 0;
}
ACT(fds_listen_again) { for (int i = 0; i < 3; i++) said("close", close(listening(0))); fds(); return 0; }
ACT(fds_dup) { dup2(1, 9); dup3(1, 10, O_CLOEXEC); fcntl(1, F_DUPFD, 20); fcntl(1, F_DUPFD_CLOEXEC, 30); fds(); return 0; }
ACT(fds_range) { for (int fd = 10; fd < 20; fd++) dup2(0, fd); close_range(12, 14, 0); close_range(16, ~0u, CLOSE_RANGE_CLOEXEC); fds(); return 0; }
ACT(fds_from) { for (int fd = 10; fd < 20; fd++) dup2(0, fd); closefrom(15); fds(); return 0; }
ACT(fds_limit) { struct rlimit l; getrlimit(RLIMIT_NOFILE, &l); say("soft", l.rlim_cur); say("hard", l.rlim_max); return 0; }
ACT(fds_few) {
    struct rlimit l = {16, 16};
    check(setrlimit(RLIMIT_NOFILE, &l) == 0);
    int many = 0;
    while (dup(0) >= 0) many++;
    say("many", many);
    said("accept", socket(AF_INET, SOCK_STREAM, 0));
    return 0;
}
ACT(fds_stdio) {
    FILE *f = fopen("written", "w");
    fprintf(f, "text");
    said("fclose", fclose(f));
    f = freopen("written", "a", stdout);
    fputs(" more", f);
    fclose(f);
    return 0;
}
ACT(fds_memory) { int m = memfd_create("m", 0); write(m, "abc", 3); said("size", lseek(m, 0, SEEK_END)); close(m); return 0; }
ACT(fds_epoll) {
    int p[2], e = epoll_create1(0), d;
    pipe(p);
    struct epoll_event event = {EPOLLIN, {.fd = p[0]}};
    said("add", epoll_ctl(e, EPOLL_CTL_ADD, p[0], &event));
    said("again", epoll_ctl(e, EPOLL_CTL_ADD, p[0], &event));
    write(p[1], "x", 1);
    said("wait", epoll_wait(e, &event, 1, 0));
    d = dup(p[0]);
    close(p[0]);
    said("copy", epoll_wait(e, &event, 1, 0));
    close(d);
    said("gone", epoll_wait(e, &event, 1, 0));
    fds();
    return 0;
}
ACT(fds_pair) {
    int p[2];
    char byte;
    socketpair(AF_UNIX, SOCK_STREAM, 0, p);
    write(p[0], "ab", 2);
    read(p[1], &byte, 1);
    close(p[1]);
    said("read", read(p[0], &byte, 1));
    said("read", read(p[0], &byte, 1));
    said("write", send(p[0], "x", 1, MSG_NOSIGNAL));
    return 0;
}
ACT(fds_half) {
    int p[2];
    char byte;
    socketpair(AF_UNIX, SOCK_STREAM, 0, p);
    said("half", shutdown(p[0], SHUT_WR));
    said("read", read(p[1], &byte, 1));
    said("write", write(p[1], "x", 1));
    said("both", shutdown(p[1], SHUT_RDWR));
    said("write", send(p[1], "x", 1, MSG_NOSIGNAL));
    return 0;
}
ACT(fds_passed_pipe) {
    int p[2], u[2];
    char byte;
    pipe(p);
    socketpair(AF_UNIX, SOCK_STREAM, 0, u);
    pass(u[0], p[1]);
    close(p[1]);
    int got = passed(u[1]);
    write(got, "z", 1);
    close(got);
    said("read", read(p[0], &byte, 1));
    said("end", read(p[0], &byte, 1));
    fds();
    return 0;
}

/* ---- processes ---- */
ACT(fork_exit) { pid_t p = fork(); if (p == 0) _exit(11); ended(p); return 0; }
ACT(fork_killed) { pid_t p = fork(); if (p == 0) for (;;) pause(); kill(p, SIGKILL); ended(p); return 0; }
ACT(fork_twice) {
    pid_t p = fork();
    if (p == 0) { pid_t q = fork(); if (q == 0) { say("grandchild", 0); _exit(1); } ended(q); _exit(2); }
    ended(p);
    return 0;
}
ACT(fork_many) { for (int i = 0; i < 20; i++) { pid_t p = fork(); if (p == 0) _exit(i); ended(p); } return 0; }
ACT(fork_bare) { pid_t p = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); if (p == 0) _exit(12); ended(p); return 0; }
ACT(fork_unsafe) { pid_t p = _Fork(); if (p == 0) _exit(13); ended(p); return 0; }
ACT(fork_vfork) { pid_t p = vfork(); if (p == 0) _exit(14); ended(p); return 0; }
static int cloned(void *x) { (void)x; _exit(15); }
ACT(fork_clone) { static char stack[65536]; pid_t p = clone(cloned, stack + sizeof stack, SIGCHLD, 0); ended(p); return 0; }
ACT(fork_spawn) { pid_t p; char *a[] = {self, "exit_255", 0}; said("spawn", posix_spawn(&p, self, 0, 0, a, environ)); ended(p); return 0; }
ACT(fork_spawn_actions) {
    pid_t p;
    char *a[] = {self, "fds_at_start", 0};
    posix_spawn_file_actions_t f;
    posix_spawn_file_actions_init(&f);
    posix_spawn_file_actions_adddup2(&f, 1, 7);
    posix_spawn_file_actions_addclose(&f, 0);
    int failed = posix_spawn(&p, self, &f, 0, a, environ);
    ended(p);
    say("failed", failed);
    return 0;
}
ACT(fork_system) { said("system", system("exit 3")); return 0; }
ACT(fork_popen) { char line[64] = ""; FILE *f = popen("echo told", "r"); fgets(line, sizeof line, f); dprintf(1, "%s", line); said("pclose", pclose(f)); return 0; }
ACT(fork_session) { pid_t p = fork(); if (p == 0) { said("session", setsid() == getpid()); _exit(0); } ended(p); return 0; }
ACT(fork_orphan) {
    int ready[2];
    pipe(ready);
    pid_t p = fork();
    if (p == 0) { if (fork() == 0) { close(ready[0]); int f = open("left", O_CREAT | O_WRONLY, 0644); write(f, "x", 1); _exit(0); } _exit(0); }
    close(ready[1]);
    char byte;
    said("orphan", read(ready[0], &byte, 1));
    waitpid(p, 0, 0);
    return 0;
}
ACT(exec_again) { char *a[] = {self, "exit_1", 0}; execv(self, a); return 99; }
ACT(exec_fds) { dup3(0, 11, O_CLOEXEC); dup2(0, 12); char *a[] = {self, "fds_at_start", 0}; execve(self, a, environ); return 99; }
ACT(exec_list) { execl(self, self, "exit_255", (char *)0); return 99; }
ACT(exec_fails) { char *a[] = {"no", 0}; said("exec", execv("/no/such/program", a)); said("exec", execvp("no-such-program", a)); return 2; }
ACT(exec_handle) { int f = open(self, O_RDONLY | O_CLOEXEC); char *a[] = {self, "exit_1", 0}; fexecve(f, a, environ); return 99; }
ACT(exec_thread_first) { pthread_t t; pthread_create(&t, 0, (void *(*)(void *))sleep, (void *)100); char *a[] = {self, "exit_1", 0}; execv(self, a); return 99; }

/* ---- surroundings ---- */
ACT(same_directory) { char path[4096]; said("cwd", getcwd(path, sizeof path) != 0); struct stat a, b; stat(".", &a); stat(path, &b); say("same", a.st_ino == b.st_ino); return 0; }
ACT(same_mask) { mode_t m = umask(0); say("umask", m); return 0; }
ACT(same_user) { say("user", getuid()); say("effective", geteuid()); say("group", getgid()); return 0; }
ACT(same_name) { char name[16]; prctl(PR_GET_NAME, name); dprintf(1, "%s\n", name); return 0; }
ACT(same_flags) { say("dumpable", prctl(PR_GET_DUMPABLE)); say("subreaper", prctl(PR_GET_KEEPCAPS)); say("nice", getpriority(PRIO_PROCESS, 0)); return 0; }
ACT(same_terminal) { said("tty", isatty(0)); said("pgrp", getpgrp() > 0); return 0; }
ACT(same_sandbox) {
    struct sock_filter f[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getsockopt, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog p = {4, f};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    said("sandbox", prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p));
    int c = socket(AF_INET, SOCK_STREAM, 0);
    said("close", close(c));
    return 3;
}

/* Restricted to less than a close of a connection takes, with one that has been shut down and with one to the supervisor. */
ACT(plain_sandbox_range) {
    struct sock_filter f[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpid, 4, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getsockopt, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_close, 2, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sendmsg, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)};
    struct sock_fprog p = {7, f};
    int c = client(listening(0));
    early(c);
    said("shutdown", shutdown(c, SHUT_RDWR));
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    said("sandbox", prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p));
    for (int fd = 890; fd < 910; fd++) if (dup2(1, fd) != fd) said("over", fd);
    said("range", close_range(3, ~0u, 0));
    return 4;
}

/* ---- connections ---- */
ACT(early_close) { int c = client(listening(0)); early(c); said("close", close(c)); fds(); return 0; }
ACT(early_half_close) { int c = client(listening(0)); early(c); said("half", shutdown(c, SHUT_WR)); said("close", close(c)); return 0; }
ACT(early_shutdown) { int c = client(listening(0)); early(c); said("shutdown", shutdown(c, SHUT_RDWR)); said("close", close(c)); return 0; }
ACT(plain_shutdown_read) { char b; int c = client(listening(0)); early(c); said("shutdown", shutdown(c, SHUT_RD)); while (read(c, &b, 1) == 1) {} said("close", close(c)); return 0; }
ACT(early_dup) { int c = client(listening(0)), d; early(c); d = dup(c); said("one", close(c)); said("other", close(d)); return 0; }
ACT(early_dup_epoll) {
    int c = client(listening(0)), d, e = epoll_create1(0);
    early(c);
    d = dup(c);
    said("add", epoll_ctl(e, EPOLL_CTL_ADD, d, &(struct epoll_event){EPOLLIN, {.fd = d}}));
    close(c);
    close(d);
    close(e);
    _exit(25);
}
ACT(early_dup2) { int c = client(listening(0)); early(c); said("over", dup2(0, c) == c); fds(); return 0; }
ACT(early_dup3) { int c = client(listening(0)); early(c); said("over", dup3(0, c, O_CLOEXEC) == c); return 0; }
ACT(early_range) { int c = client(listening(0)); early(c); said("range", close_range(c, c, 0)); return 0; }
ACT(early_from) { int c = client(listening(0)); early(c); closefrom(c); fds(); return 0; }
ACT(early_call) { int c = client(listening(0)); early(c); said("close", syscall(SYS_close, c)); return 0; }
ACT(early_stdio) { int c = client(listening(0)); greet(c); FILE *f = fdopen(c, "r+"); answer(c, 200000); said("fclose", fclose(f)); return 0; }
ACT(early_exit) { int c = client(listening(0)); early(c); exit(21); }
ACT(early_exit_at_once) { int c = client(listening(0)); early(c); _exit(22); }
ACT(early_exit_quick) { int c = client(listening(0)); early(c); quick_exit(23); }
ACT(early_return) { int c = client(listening(0)); early(c); return 24; }
ACT(plain_kill) { int c = client(listening(0)); early(c); kill(getpid(), SIGKILL); return 0; }
ACT(plain_abort) { int c = client(listening(0)); early(c); abort(); }
ACT(plain_term) { int c = client(listening(0)); early(c); raise(SIGTERM); return 0; }
ACT(plain_reset) { int c = client(listening(0)); early(c); struct linger l = {1, 0}; setsockopt(c, SOL_SOCKET, SO_LINGER, &l, sizeof l); said("close", close(c)); return 0; }
ACT(early_many) { int l = listening(0); int c = client(l); early(c); close(c); for (int i = 0; i < 50; i++) { int d = open("/dev/null", 0); check(d == c); close(d); } return 0; }
ACT(early_nonblocking) {
    int l = listening(SOCK_NONBLOCK), c;
    said("none", accept(l, 0, 0));
    struct pollfd p = {l, POLLIN, 0};
    poll(&p, 1, -1);
    c = accept4(l, 0, 0, SOCK_CLOEXEC);
    early(c);
    said("close", close(c));
    return 0;
}
ACT(early_address) {
    struct sockaddr_in a;
    socklen_t n = sizeof a;
    int c = accept(listening(0), (struct sockaddr *)&a, &n);
    dprintf(1, "%s %d\n", inet_ntoa(a.sin_addr), (int)n);
    early(c);
    close(c);
    return 0;
}
ACT(early_epoll) {
    int l = listening(0), e = epoll_create1(0), c;
    struct epoll_event event = {EPOLLIN, {.fd = l}};
    epoll_ctl(e, EPOLL_CTL_ADD, l, &event);
    said("wait", epoll_wait(e, &event, 1, -1));
    c = accept(l, 0, 0);
    event = (struct epoll_event){EPOLLIN | EPOLLET, {.fd = c}};
    epoll_ctl(e, EPOLL_CTL_ADD, c, &event);
    said("wait", epoll_wait(e, &event, 1, -1));
    early(c);
    said("close", close(c));
    said("silent", epoll_wait(e, &event, 1, 20));
    return 0;
}
static void *serves(void *c) { early((int)(long)c); close((int)(long)c); return 0; }
ACT(early_thread) { pthread_t t; int c = client(listening(0)); pthread_create(&t, 0, serves, (void *)(long)c); pthread_join(t, 0); return 0; }
ACT(early_twice) { int l = listening(0), c = client(l); early(c); said("close", close(c)); said("again", close(c)); return 0; }
ACT(early_exec) { int c = client(listening(SOCK_CLOEXEC)); early(c); fcntl(c, F_SETFD, FD_CLOEXEC); char *a[] = {self, "fds_at_start", 0}; execv(self, a); return 99; }
ACT(early_exec_fails) { int c = client(listening(0)); early(c); fcntl(c, F_SETFD, FD_CLOEXEC); char *a[] = {"no", 0}; said("exec", execv("/no/such", a)); said("open", fcntl(c, F_GETFD)); close(c); return 0; }
ACT(early_system) { int c = client(listening(0)); early(c); said("system", system("true")); close(c); return 0; }
ACT(early_popen) { char line[9]; int c = client(listening(0)); early(c); FILE *f = popen("echo a", "r"); fgets(line, 9, f); said("pclose", pclose(f)); close(c); return 0; }
ACT(early_spawn) { pid_t p; int c = client(listening(0)); early(c); char *a[] = {self, "exit_1", 0}; posix_spawn(&p, self, 0, 0, a, environ); ended(p); close(c); return 0; }
ACT(early_child_killed) { int c = client(listening(0)); early(c); pid_t p = fork(); if (p == 0) for (;;) pause(); kill(p, SIGKILL); ended(p); close(c); return 0; }
ACT(early_fork) { int c = client(listening(0)); pid_t p = fork(); if (p == 0) { early(c); _exit(3); } close(c); ended(p); return 0; }
ACT(early_fork_return) { int c = client(listening(0)); pid_t p = fork(); if (p == 0) { early(c); exit(3); } close(c); ended(p); return 0; }
ACT(early_prefork) {
    int l = listening(0);
    pid_t p = fork();
    if (p == 0) { int c = client(l); early(c); close(c); _exit(0); }
    ended(p);
    return 0;
}
ACT(early_pass) {
    int u[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, u);
    pid_t p = fork();
    if (p == 0) { int c = passed(u[0]); early(c); close(c); _exit(0); }
    int l = listening(0), c = client(l);
    pass(u[1], c);
    close(c);
    ended(p);
    return 0;
}
ACT(early_pass_self) { int u[2], c, d; socketpair(AF_UNIX, SOCK_STREAM, 0, u); c = client(listening(0)); pass(u[1], c); close(c); d = passed(u[0]); early(d); close(d); fds(); return 0; }
ACT(early_listener_closed) { int l = listening(0), c = client(l); close(l); early(c); close(c); return 0; }
ACT(full_read) { int c = client(listening(0)); full(c); close(c); return 0; }
ACT(full_fork) { int c = client(listening(0)); pid_t p = fork(); if (p == 0) { full(c); _exit(0); } close(c); ended(p); return 0; }
ACT(full_fork_unsafe) { int c = client(listening(0)); pid_t p = _Fork(); if (p == 0) { full(c); _exit(0); } close(c); ended(p); return 0; }
ACT(full_bare_clone) { int c = client(listening(0)); pid_t p = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); if (p == 0) { full(c); _exit(0); } close(c); ended(p); return 0; }
static int serving;
static int serve_clone(void *x) { (void)x; full(serving); _exit(0); }
ACT(full_clone) { static char stack[65536]; serving = client(listening(0)); pid_t p = clone(serve_clone, stack + sizeof stack, SIGCHLD, 0); close(serving); ended(p); return 0; }
static int by_number(char *how) {
    int c = client(listening(SOCK_CLOEXEC));
    char number[16];
    pid_t p;
    snprintf(number, sizeof number, "%d", c);
    char *a[] = {self, "inherited", number, 0};
    if (how) { if ((p = fork()) == 0) { execv(self, a); _exit(9); } }
    else check(posix_spawn(&p, self, 0, 0, a, environ) == 0);
    close(c);
    ended(p);
    return 0;
}
ACT(full_spawn) { return by_number(0); }
ACT(full_fork_exec) { return by_number("exec"); }
ACT(full_standard_input) {
    int c = client(listening(SOCK_CLOEXEC));
    pid_t p = fork();
    if (p == 0) { dup2(c, 9); close(c); char *a[] = {self, "inherited", "9", 0}; execv(self, a); _exit(9); }
    close(c);
    ended(p);
    return 0;
}
ACT(full_bare_dup) { int c = client(listening(0)), d = bare_dup(c); close(c); full(d); close(d); return 0; }
ACT(full_pass) {
    int u[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, u);
    pid_t p = fork();
    if (p == 0) { int c = passed(u[0]); full(c); close(c); _exit(0); }
    int c = client(listening(0));
    pass(u[1], c);
    close(c);
    ended(p);
    return 0;
}
ACT(full_orphan) {
    int c = client(listening(0));
    int done[2];
    pipe(done);
    if (fork() == 0) { if (fork() == 0) { close(done[0]); full(c); _exit(0); } _exit(0); }
    wait(0);
    close(done[1]);
    close(c);
    char byte;
    said("done", read(done[0], &byte, 1));
    return 0;
}

int main(int words, char **word) {
    self = "/proc/self/exe";
    if (words == 1) for (int i = 0; i < count; i++) puts(acts[i].name);
    if (words == 3 && strcmp(word[1], "inherited") == 0) { full(atoi(word[2])); return 0; }
    for (int i = 0; words == 2 && i < count; i++)
        if (strcmp(acts[i].name, word[1]) == 0) return acts[i].run();
    return words == 1 ? 0 : 98;
}
