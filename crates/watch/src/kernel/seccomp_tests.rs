//! What is left to a process that somebody else has taken over: each call by its number, as they would make it.

use super::*;

/// Makes a call. Returns its error, 0 if there is none.
fn call(number: libc::c_long, arguments: [i64; 6]) -> i32 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: none of the calls of these tests is given an address that is not 0.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == 0 && number == libc::SYS_clone {
        // SAFETY: a child that should not be there.
        unsafe { libc::_exit(0) };
    }
    if result < 0 { io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
}

/// The errors of these calls in a thread that has this filter. It has it for good.
fn refused_of(
    filter: RefusedCalls,
    calls: &'static [(&'static str, libc::c_long, [i64; 6])],
) -> Vec<(&'static str, i32)> {
    let inside = std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        refuse(filter).unwrap();
        // The C library's way to start a thread is left.
        std::thread::spawn(|| ()).join().unwrap();
        calls.iter().map(|(name, number, arguments)| (*name, call(*number, *arguments))).collect()
    });
    inside.join().unwrap()
}

const INIT: i64 = 1;
const NEW_USER: i64 = libc::CLONE_NEWUSER as i64 | libc::SIGCHLD as i64;
const NEW_NETWORK: i64 = libc::CLONE_NEWNET as i64 | libc::SIGCHLD as i64;
const NETLINK: i64 = libc::AF_NETLINK as i64;
const RAW: i64 = libc::SOCK_RAW as i64;
const DATAGRAM: i64 = libc::SOCK_DGRAM as i64;

/// Each would have another effect without the filter: none, or another error than EPERM.
const REACHES_OUT: &[(&str, libc::c_long, [i64; 6])] = &[
    ("a process that outlives it", libc::SYS_clone, [libc::SIGCHLD as i64, 0, 0, 0, 0, 0]),
    (
        "a thread in a user namespace",
        libc::SYS_clone,
        [libc::CLONE_NEWUSER as i64 | libc::CLONE_THREAD as i64, 0, 0, 0, 0, 0],
    ),
    ("a user namespace, in which it has all capabilities", libc::SYS_clone, [NEW_USER, 0, 0, 0, 0, 0]),
    ("a network namespace", libc::SYS_clone, [NEW_NETWORK, 0, 0, 0, 0, 0]),
    ("a signal to another thread", libc::SYS_rt_tgsigqueueinfo, [INIT, INIT, 15, 0, 0, 0]),
    ("a signal by a descriptor's owner", libc::SYS_fcntl, [0, 8, INIT, 0, 0, 0]),
    ("which signal that is", libc::SYS_fcntl, [0, 10, 9, 0, 0, 0]),
    ("the owner as a structure", libc::SYS_fcntl, [0, 15, 0, 0, 0, 0]),
    ("the owner by ioctl", libc::SYS_ioctl, [-1, 0x8901, 0, 0, 0, 0]),
    ("a key press", libc::SYS_ioctl, [-1, 0x5412, 0, 0, 0, 0]),
    ("a key press, with bits that the kernel ignores", libc::SYS_ioctl, [-1, 0x1_0000_5412, 0, 0, 0, 0]),
    ("the terminal itself", libc::SYS_ioctl, [-1, 0x5410, 0, 0, 0, 0]),
    ("a paste", libc::SYS_ioctl, [-1, 0x541c, 0, 0, 0, 0]),
    ("a line discipline", libc::SYS_ioctl, [-1, 0x5423, 0, 0, 0, 0]),
    ("priority of others", libc::SYS_setpriority, [99, INIT, 19, 0, 0, 0]),
    ("scheduler of others", libc::SYS_sched_setscheduler, [INIT, 5, 0, 0, 0, 0]),
    ("processors of others", libc::SYS_sched_setaffinity, [INIT, 0, 0, 0, 0, 0]),
    ("limits of others", libc::SYS_prlimit64, [INIT, 7, 0, 0, 0, 0]),
    ("routes", libc::SYS_socket, [NETLINK, RAW, 0, 0, 0, 0]),
    ("packet filters", libc::SYS_socket, [NETLINK, RAW, 12, 0, 0, 0]),
    ("TCP", libc::SYS_socket, [2, 1, 0, 0, 0, 0]),
    ("messages to any local socket", libc::SYS_socketpair, [1, DATAGRAM, 0, 0, 0, 0]),
    ("a listener made a client", libc::SYS_connect, [-1, 0, 0, 0, 0, 0]),
    ("the same by the first bytes", libc::SYS_sendto, [-1, 0, 0, FAST_OPEN as i64, 0, 0]),
    ("the same by a message", libc::SYS_sendmsg, [-1, 0, FAST_OPEN as i64, 0, 0, 0]),
    ("memory of others", libc::SYS_shmget, [0, 0, 0, 0, 0, 0]),
    ("queues of others", libc::SYS_mq_open, [0, 0, 0, 0, 0, 0]),
    ("semaphores of others, whose numbers everybody sees", libc::SYS_semop, [-1, 0, 0, 0, 0, 0]),
    ("messages to others", libc::SYS_msgsnd, [-1, 0, 0, 0, 0, 0]),
    ("messages of others", libc::SYS_msgrcv, [-1, 0, 0, 0, 0, 0]),
    ("extended attributes by a newer call", SYS_SETXATTRAT, [-1, 0, 0, 0, 0, 0]),
    ("the same, to remove", SYS_REMOVEXATTRAT, [-1, 0, 0, 0, 0, 0]),
    ("attributes of a file system", SYS_FILE_SETATTR, [-1, 0, 0, 0, 0, 0]),
    ("a mount with other attributes", SYS_OPEN_TREE_ATTR, [-1, 0, 0, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    ("times by an older call", libc::SYS_utime, [0, 0, 0, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    ("the same in microseconds", libc::SYS_utimes, [0, 0, 0, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    ("the same in a directory", libc::SYS_futimesat, [-1, 0, 0, 0, 0, 0]),
];

/// Each would have another error than EPERM without the filter.
const CHANGES_FILES: &[(&str, libc::c_long, [i64; 6])] = &[
    ("write", libc::SYS_openat, [0, 0, libc::O_WRONLY as i64, 0, 0, 0]),
    ("make", libc::SYS_openat, [0, 0, libc::O_CREAT as i64, 0, 0, 0]),
    ("write by a structure", libc::SYS_openat2, [-1, 0, 0, 0, 0, 0]),
    ("remove", libc::SYS_unlinkat, [-1, 0, 0, 0, 0, 0]),
    ("rename", libc::SYS_renameat2, [-1, 0, -1, 0, 0, 0]),
    ("link", libc::SYS_linkat, [-1, 0, -1, 0, 0, 0]),
    ("empty", libc::SYS_truncate, [0, 0, 0, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    ("write by an older call", libc::SYS_creat, [0, 0, 0, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    ("remove by an older call", libc::SYS_unlink, [0, 0, 0, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    ("remove a directory", libc::SYS_rmdir, [0, 0, 0, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    ("rename by an older call", libc::SYS_rename, [0, 0, 0, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    ("link by an older call", libc::SYS_link, [0, 0, 0, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    ("name by an older call", libc::SYS_symlink, [0, 0, 0, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    ("make a directory", libc::SYS_mkdir, [0, 0, 0, 0, 0, 0]),
];

/// With seccomp alone, where the kernel has no Landlock.
#[test]
fn whoever_does_not_record_changes_no_file() {
    for filter in [OPENER, CLIENT] {
        for (name, error) in refused_of(filter, CHANGES_FILES) {
            assert_eq!(error, libc::EPERM, "{name}");
        }
    }
}

#[test]
fn a_process_that_was_taken_over_reaches_nobody() {
    for (name, error) in refused_of(PARSER, REACHES_OUT) {
        assert_eq!(error, libc::EPERM, "{name}");
    }
    for (name, error) in refused_of(OPENER, REACHES_OUT) {
        assert_eq!(error, libc::EPERM, "opener: {name}");
    }
}

/// What speaks to a collector.
#[test]
fn a_client_connects_and_does_nothing_else() {
    const MAY: [&str; 3] = ["routes", "TCP", "a listener made a client"];
    for (name, error) in refused_of(CLIENT, REACHES_OUT) {
        assert_eq!(error == libc::EPERM, !MAY.contains(&name), "{name}: {error}");
    }
    const OWN: &[(&str, libc::c_long, [i64; 6])] = &[
        ("a server", libc::SYS_listen, [-1, 0, 0, 0, 0, 0]),
        ("its peers", libc::SYS_accept4, [-1, 0, 0, 0, 0, 0]),
        ("a program of this host", libc::SYS_socket, [1, 1, 0, 0, 0, 0]),
        ("packets", libc::SYS_socket, [libc::AF_PACKET as i64, RAW, 0, 0, 0, 0]),
        ("the kernel's lists", libc::SYS_socket, [NETLINK, RAW, 4, 0, 0, 0]),
        ("raw IP", libc::SYS_socket, [2, RAW, libc::IPPROTO_RAW as i64, 0, 0, 0]),
        ("enter", libc::SYS_setns, [-1, 0, 0, 0, 0, 0]),
        ("write", libc::SYS_openat, [0, 0, libc::O_WRONLY as i64, 0, 0, 0]),
        ("remove", libc::SYS_unlinkat, [-1, 0, 0, 0, 0, 0]),
    ];
    for (name, error) in refused_of(CLIENT, OWN) {
        assert_eq!(error, libc::EPERM, "{name}");
    }
    const LEFT: &[(&str, libc::c_long, [i64; 6])] = &[
        ("names", libc::SYS_socket, [2, DATAGRAM, libc::IPPROTO_UDP as i64, 0, 0, 0]),
        ("read", libc::SYS_openat, [0, 0, 0, 0, 0, 0]),
    ];
    let errors: Vec<_> = refused_of(CLIENT, LEFT).into_iter().map(|(_, error)| error).collect();
    assert_eq!(errors, [0, libc::EFAULT]);
}

#[test]
fn only_the_opener_opens_what_takes_capabilities_and_only_the_parser_writes() {
    const CALLS: &[(&str, libc::c_long, [i64; 6])] = &[
        ("enter", libc::SYS_setns, [-1, 0, 0, 0, 0, 0]),
        ("watch", libc::SYS_perf_event_open, [0, 0, 0, 0, 0, 0]),
        ("write", libc::SYS_openat, [0, 0, libc::O_WRONLY as i64, 0, 0, 0]),
        ("make", libc::SYS_openat, [0, 0, libc::O_CREAT as i64, 0, 0, 0]),
        ("remove", libc::SYS_unlinkat, [-1, 0, 0, 0, 0, 0]),
        ("read", libc::SYS_openat, [0, 0, 0, 0, 0, 0]),
    ];
    const EPERM: i32 = libc::EPERM;
    const EBADF: i32 = libc::EBADF;
    const EFAULT: i32 = libc::EFAULT;
    let errors = |filter| refused_of(filter, CALLS).into_iter().map(|(_, error)| error).collect::<Vec<_>>();
    assert_eq!(errors(PARSER), [EPERM, EPERM, EFAULT, EFAULT, EFAULT, EFAULT]);
    assert_eq!(errors(OPENER), [EBADF, EFAULT, EPERM, EPERM, EPERM, EFAULT]);
}

#[test]
fn what_both_do_is_left() {
    const CALLS: &[(&str, libc::c_long, [i64; 6])] = &[
        ("sockets of the kernel's lists", libc::SYS_socket, [NETLINK, RAW, 4, 0, 0, 0]),
        ("flags of a descriptor", libc::SYS_fcntl, [0, 3, 0, 0, 0, 0]),
        ("own limits", libc::SYS_prlimit64, [0, 7, 0, 0, 0, 0]),
    ];
    for (name, error) in refused_of(PARSER, CALLS) {
        assert_eq!(error, 0, "{name}");
    }
    // Refused by the kernel, for what these arguments are, and not by the filter.
    const OTHERS: &[(&str, libc::c_long, [i64; 6])] = &[
        ("size of the terminal", libc::SYS_ioctl, [-1, 0x5413, 0, 0, 0, 0]),
        ("messages", libc::SYS_sendto, [-1, 0, 0, 0, 0, 0]),
        ("threads by their flags in memory", libc::SYS_clone3, [0, 0, 0, 0, 0, 0]),
    ];
    let errors: Vec<_> = refused_of(PARSER, OTHERS).into_iter().map(|(_, error)| error).collect();
    assert_eq!(errors, [libc::EBADF, libc::EBADF, libc::ENOSYS]);
    let (one, other) = std::thread::spawn(|| {
        rustix::thread::set_no_new_privs(true).unwrap();
        refuse(PARSER).unwrap();
        std::os::unix::net::UnixStream::pair().unwrap()
    })
    .join()
    .unwrap();
    rustix::io::write(&one, b"x").unwrap();
    assert_eq!(rustix::io::read(&other, &mut [0; 2]), Ok(1));
}
