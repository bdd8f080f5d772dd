// Runs a program of whose every close() a supervisor is notified that only lets it happen: what the kernel's part of
// `linger run --via seccomp` costs.
//
//     cc -O2 -o floor crates/run/benches/floor.c
//     ./floor 0 nginx -c FILE    the notification and its answer
//     ./floor 1 nginx -c FILE    and poll(2), which waits for other things as well
//     ./floor 2 nginx -c FILE    and what has to be known of each socket: a copy of it, and six calls on that
//     ./floor 3 nginx -c FILE    as 1, with a timeout for poll
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

union control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr aligned;
};

static void pass(int socket, int fd) {
    char byte = 0;
    struct iovec data = {&byte, 1};
    union control control = {{0}};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    sendmsg(socket, &message, 0);
}

static int receive(int socket) {
    char byte;
    struct iovec data = {&byte, 1};
    union control control;
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int fd = -1;
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == 1) memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

static void become(int socket, char **command) {
    struct sock_filter lines[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_close, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, lines};
    const int wait_killable = 1 << 5; // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    int listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | wait_killable, &program);
    pass(socket, listener);
    execv(command[0], command);
    _exit(127);
}

static void ask(int copy) {
    struct sockaddr_storage address;
    struct stat status;
    char answer[16];
    int unread;
    getsockname(copy, (void *)&address, &(socklen_t){sizeof address});
    getsockopt(copy, IPPROTO_TCP, TCP_INFO, answer, &(socklen_t){1});
    getsockopt(copy, SOL_SOCKET, SO_COOKIE, answer, &(socklen_t){8});
    getsockopt(copy, SOL_SOCKET, SO_LINGER, answer, &(socklen_t){8});
    fstat(copy, &status);
    ioctl(copy, FIONREAD, &unread);
}

int main(int count, char **words) {
    if (count < 3) return 2;
    int level = atoi(words[1]), sockets[2], thread = 0, handle = -1;
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets);
    if (fork() == 0) become(sockets[1], words + 2);
    int listener = receive(sockets[0]);
    // SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
    ioctl(listener, SECCOMP_IOW(4, __u64), 1UL);
    for (;;) {
        struct pollfd one = {listener, POLLIN, 0};
        if (level > 0 && poll(&one, 1, level == 3 ? 1 : -1) == 0) continue;
        if (one.revents & POLLHUP) break;
        struct seccomp_notif asked = {0};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0) {
            if (errno == EINTR) continue;
            break;
        }
        if (level == 2) {
            if ((int)asked.pid != thread) {
                close(handle);
                thread = asked.pid;
                handle = syscall(SYS_pidfd_open, thread, O_EXCL); // PIDFD_THREAD
            }
            int copy = syscall(SYS_pidfd_getfd, handle, (int)asked.data.args[0], 0);
            ask(copy);
            close(copy);
        }
        struct seccomp_notif_resp answer = {asked.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
    while (wait(NULL) > 0 || errno == EINTR) {}
    return 0;
}
