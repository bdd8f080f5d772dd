/* Has a child made in one way, and lets it or the parent go on with the connection: `holders HOW WHO`.
 *
 * WHO `child`: the parent closes, the child reads the whole request and answers how much it saw.
 * WHO `hidden`: the same, and the child does not let itself be looked at.
 * WHO `unnamed`: the same, and the child's name is no UTF-8.
 * WHO `parent`: the child ends at once, the parent answers early and closes.
 * WHO `killed`: the same, and the child is killed.
 *
 * HOW `bare-dup` and `ring`: no child is made. The process has a copy that no library sees, or the connection is registered
 * with an io_uring, which goes on with it (`child`) or lets go of it before the answer (`parent`). A ring that `accepts`. */
#include "acts.h"
#include <linux/io_uring.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { REQUEST = 4096 };

extern char **environ;

static const char *who;
static char *self;
static int connection, ready[2];

static int is(const char *word, const char *name) { return strcmp(word, name) == 0; }

static void say(const char *text) { write(2, text, strlen(text)); }

static void respond(int c) { answer(c, 600000); }

/* The child: made with the connection, by whatever call. */
static void child(int c, int seen) {
    if (is(who, "parent")) _exit(0);
    if (is(who, "hidden")) prctl(PR_SET_DUMPABLE, 0);
    if (is(who, "unnamed")) prctl(PR_SET_NAME, "caf\xc3");
    write(ready[1], ".", 1);
    if (is(who, "killed")) for (;;) pause();
    char request[REQUEST], line[64];
    while (seen < REQUEST) {
        ssize_t got = read(c, request, sizeof request);
        if (got <= 0) break;
        seen += got;
    }
    snprintf(line, sizeof line, "saw %d of %d", seen, REQUEST);
    write(c, line, strlen(line));
    _exit(0);
}

static int clone_main(void *seen) {
    child(connection, *(int *)seen);
    return 0;
}

static pid_t make(const char *how, int seen) {
    static char stack[65536];
    char words[4][16];
    pid_t pid = -1;
    snprintf(words[0], 16, "%d", connection);
    snprintf(words[1], 16, "%d", ready[1]);
    snprintf(words[2], 16, "%d", seen);
    char *arguments[] = {self, "served", (char *)who, words[0], words[1], words[2], 0};
    if (is(how, "fork")) {
        if ((pid = fork()) == 0) child(connection, seen);
    } else if (is(how, "_Fork")) {
        if ((pid = _Fork()) == 0) child(connection, seen);
    } else if (is(how, "raw-clone")) {
        if ((pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)) == 0) child(connection, seen);
    } else if (is(how, "isolated")) {
        /* As vsftpd's isolate=YES: in its own pid namespace the child is process 1. */
        long flags = CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWNET;
        if ((pid = syscall(SYS_clone, SIGCHLD | flags, 0, 0, 0, 0)) == 0) child(connection, seen);
    } else if (is(how, "clone")) {
        pid = clone(clone_main, stack + sizeof stack, SIGCHLD, &seen);
    } else if (is(how, "spawn")) {
        /* By its number, as Python's pass_fds. */
        if (posix_spawn(&pid, self, 0, 0, arguments, environ)) pid = -1;
    } else if (is(how, "orphan")) {
        /* Its parent is killed, and it has another user by then: neither makes a call that a supervisor is told of. */
        if ((pid = fork()) == 0) {
            if (fork() == 0) {
                if (setgid(65534) == 0) setuid(65534);
                child(connection, seen);
            }
            for (;;) pause();
        }
    } else if (is(how, "fork-exec")) {
        if ((pid = fork()) == 0) execv(self, arguments);
    }
    return pid;
}

/* A ring of eight operations, of which one at a time is made. */
static struct { int fd; char *queue; struct io_uring_sqe *entries; struct io_uring_params told; } ring;

static int ring_begins(void) {
    struct io_uring_params *told = &ring.told;
    ring.fd = syscall(SYS_io_uring_setup, 8, told);
    if (ring.fd < 0) return 0;
    size_t length = told->cq_off.cqes + told->cq_entries * sizeof(struct io_uring_cqe), all = 8 * sizeof *ring.entries;
    check(told->features & IORING_FEAT_SINGLE_MMAP);
    ring.queue = mmap(0, length, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQ_RING);
    ring.entries = mmap(0, all, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQES);
    check(ring.queue != MAP_FAILED && ring.entries != MAP_FAILED);
    return 1;
}

/* An operation on the ring's first file. */
static int ring_does(int operation, char *bytes, unsigned length) {
    unsigned *tail = (unsigned *)(ring.queue + ring.told.sq_off.tail);
    unsigned *head = (unsigned *)(ring.queue + ring.told.cq_off.head);
    unsigned place = *tail % ring.told.sq_entries;
    struct io_uring_sqe entry = {
        .opcode = operation, .flags = IOSQE_FIXED_FILE, .fd = 0, .addr = (unsigned long)bytes, .len = length};
    ring.entries[place] = entry;
    ((unsigned *)(ring.queue + ring.told.sq_off.array))[place] = place;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    check(syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) == 1);
    struct io_uring_cqe *done = (struct io_uring_cqe *)(ring.queue + ring.told.cq_off.cqes);
    int result = done[*head % ring.told.cq_entries].res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
}

/* Goes on with a connection of which the process has no fd. */
static void ring_goes_on(int seen) {
    char request[REQUEST], line[64];
    while (seen < REQUEST) {
        int got = ring_does(IORING_OP_RECV, request, sizeof request);
        if (got <= 0) break;
        seen += got;
    }
    snprintf(line, sizeof line, "saw %d of %d", seen, REQUEST);
    ring_does(IORING_OP_SEND, line, strlen(line));
}

int main(int count, char **words) {
    self = words[0];
    if (count == 6 && is(words[1], "served")) {
        who = words[2];
        ready[1] = atoi(words[4]);
        child(atoi(words[3]), atoi(words[5]));
    }
    who = words[2];
    if (is(words[1], "ring") && !ring_begins()) {
        say("no ring\n");
        return 3;
    }
    if (is(who, "probe")) return 0;
    int listener = listening(0);
    if (is(who, "accepts")) {
        check(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_FILES, &listener, 1) == 0);
        for (;;) close(ring_does(IORING_OP_ACCEPT, 0, 0));
    }
    for (;;) {
        connection = accept(listener, 0, 0);
        char request[10], byte;
        int seen = read(connection, request, sizeof request), early = is(who, "parent") || is(who, "killed");
        if (pipe(ready)) return 1;
        if (is(words[1], "bare-dup")) {
            int copy = bare_dup(connection);
            if (early) {
                close_range(copy, copy, 0);
                respond(connection);
            }
            close(connection);
            say("closed\n");
            if (!early) child(copy, seen);
            continue;
        }
        if (is(words[1], "ring")) {
            check(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_FILES, &connection, 1) == 0);
            if (early) {
                check(syscall(SYS_io_uring_register, ring.fd, IORING_UNREGISTER_FILES, 0, 0) == 0);
                respond(connection);
            }
            close(connection);
            say("closed\n");
            if (early) continue;
            ring_goes_on(seen);
            check(syscall(SYS_io_uring_register, ring.fd, IORING_UNREGISTER_FILES, 0, 0) == 0);
            continue;
        }
        pid_t pid = make(words[1], seen);
        if (pid < 0) {
            say("no child\n");
            return 1;
        }
        if (!is(who, "parent")) read(ready[0], &byte, 1);
        if (is(who, "killed") || is(words[1], "orphan")) kill(pid, SIGKILL);
        if (is(words[1], "orphan")) waitpid(pid, 0, 0);
        if (early) {
            waitpid(pid, 0, 0);
            respond(connection);
        }
        close(connection);
        close(ready[0]);
        close(ready[1]);
        say("closed\n");
        if (!early) waitpid(pid, 0, 0);
    }
}
