/* Has a child made in one way, and lets it or the parent go on with the connection: `holders HOW WHO`.
 *
 * WHO `child`: the parent closes, the child reads the whole request and answers how much it saw.
 * WHO `hidden`: the same, and the child does not let itself be looked at.
 * WHO `parent`: the child ends at once, the parent answers early and closes.
 * WHO `killed`: the same, and the child is killed. */
#include "acts.h"
#include <sched.h>
#include <signal.h>
#include <spawn.h>
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

int main(int count, char **words) {
    self = words[0];
    if (count == 6 && is(words[1], "served")) {
        who = words[2];
        ready[1] = atoi(words[4]);
        child(atoi(words[3]), atoi(words[5]));
    }
    who = words[2];
    int listener = listening(0);
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
