//! A filter that refuses system calls that this program does not make once it watches (seccomp(2)).
//!
//! What is refused is named, and fails with EPERM; everything else stays allowed, so that another C library or a newer kernel changes
//! nothing. Refused is what reaches beyond this process although it has no capability left: to execute programs, to touch other
//! processes of this user, to get capabilities in a user namespace of its own, to change modes, owners and mounts, to open sockets
//! other than netlink's, to make another connection of one that is open, and to type into the terminal that it was started in. A
//! process that speaks to another host ([`CLIENT`]) may connect, and has nothing else to do with this one.

use std::io;
use std::mem::offset_of;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: u32 = 0;
/// Bit of the calls of the x32 ABI.
const X32: u32 = 0x4000_0000;

/// Calls that are refused whatever their arguments, to each of the processes.
const BOTH: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_tkill,
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_fsmount,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_personality,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SYS_SETXATTRAT,
    SYS_REMOVEXATTRAT,
    SYS_FILE_SETATTR,
    SYS_OPEN_TREE_ATTR,
    libc::SYS_utimensat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];
/// `fchmodat2`, the same number everywhere, as those of all later calls.
const SYS_FCHMODAT2: libc::c_long = 452;
const SYS_SETXATTRAT: libc::c_long = 463;
const SYS_REMOVEXATTRAT: libc::c_long = 466;
const SYS_OPEN_TREE_ATTR: libc::c_long = 467;
const SYS_FILE_SETATTR: libc::c_long = 469;

/// Calls that change files and directories by their names, or what is in a file that is open; beside `openat` and `open`.
const FILES: &[libc::c_long] = &[
    libc::SYS_openat2,
    libc::SYS_mknodat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_renameat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
];

/// Calls of a process that are refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefusedCalls {
    /// Whatever their arguments.
    calls: &'static [&'static [libc::c_long]],
    /// By one of them.
    arguments: &'static [RefusedArgument],
}

/// What the process that parses does not do.
pub(crate) const PARSER: RefusedCalls = RefusedCalls {
    calls: &[&[libc::SYS_connect, libc::SYS_setns, libc::SYS_perf_event_open, libc::SYS_capset]],
    arguments: &[LISTS_ALONE, LISTS_PROTOCOL],
};

/// What the opener does not do: it writes to no file.
pub(crate) const OPENER: RefusedCalls = RefusedCalls {
    calls: &[&[libc::SYS_connect], FILES],
    arguments: &[
        LISTS_ALONE,
        LISTS_PROTOCOL,
        refused(libc::SYS_openat, 2, WRITING, ArgumentRule::Not(&[0])),
        #[cfg(target_arch = "x86_64")]
        refused(libc::SYS_open, 1, WRITING, ArgumentRule::Not(&[0])),
    ],
};

/// What a process does not do that speaks to another host and to nobody else: it connects, by TCP, and looks up names, by UDP and by
/// the kernel's table of addresses. It listens to nobody, uses no socket of this host's programs, and changes no file.
pub(crate) const CLIENT: RefusedCalls = RefusedCalls {
    calls: &[
        &[
            libc::SYS_setns,
            libc::SYS_perf_event_open,
            libc::SYS_capset,
            libc::SYS_listen,
            libc::SYS_accept,
            libc::SYS_accept4,
        ],
        FILES,
    ],
    arguments: &[
        refused(libc::SYS_socket, 0, ALL, ArgumentRule::Not(&INTERNET)),
        refused(
            libc::SYS_socket,
            2,
            ALL,
            ArgumentRule::Not(&[0, libc::IPPROTO_TCP as u32, libc::IPPROTO_UDP as u32]),
        ),
        refused(libc::SYS_openat, 2, WRITING, ArgumentRule::Not(&[0])),
        #[cfg(target_arch = "x86_64")]
        refused(libc::SYS_open, 1, WRITING, ArgumentRule::Not(&[0])),
    ],
};
/// Families of sockets to other hosts, and the kernel's table of addresses, which a look-up of names sorts by.
const INTERNET: [u32; 3] = [libc::AF_INET as u32, libc::AF_INET6 as u32, libc::AF_NETLINK as u32];
/// No other sockets than those of the kernel's lists.
const LISTS_ALONE: RefusedArgument =
    refused(libc::SYS_socket, 0, ALL, ArgumentRule::Not(&[libc::AF_NETLINK as u32]));
const LISTS_PROTOCOL: RefusedArgument =
    refused(libc::SYS_socket, 2, ALL, ArgumentRule::Not(&[libc::NETLINK_SOCK_DIAG as u32]));
/// Bits of the flags with which a file is opened to change it.
const WRITING: u32 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u32;

/// Refuses a call by one argument.
#[derive(Clone, Copy, Debug)]
struct RefusedArgument {
    call: libc::c_long,
    /// Which argument, from 0. Its low 32 bits count: the kernel takes no more of these.
    at: usize,
    /// The bits of it that are looked at.
    mask: u32,
    values: ArgumentRule,
}

#[derive(Clone, Copy, Debug)]
enum ArgumentRule {
    /// These values are refused.
    These(&'static [u32]),
    /// All others are refused.
    Not(&'static [u32]),
    /// All but this process's own pid are refused, and 0 if that is itself.
    NotThisProcess { or_zero: bool },
}

const fn refused(call: libc::c_long, at: usize, mask: u32, values: ArgumentRule) -> RefusedArgument {
    RefusedArgument { call, at, mask, values }
}

const ALL: u32 = u32::MAX;
const THREAD: u32 = libc::CLONE_THREAD as u32;
/// `CLONE_NEWNS`, `_NEWCGROUP`, `_NEWUTS`, `_NEWIPC`, `_NEWUSER`, `_NEWPID` and `_NEWNET`: in a user namespace of its own a process
/// has all capabilities.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// `TIOCSCTTY`, `TIOCSPGRP`, `TIOCSTI`, `TIOCLINUX` and `TIOCSETD`: to take a terminal, to type into it, or to have the kernel load a
/// driver for it.
/// `FIOSETOWN` and `SIOCSPGRP`: to have a signal sent to another process. `PERF_EVENT_IOC_SET_BPF`.
const CONTROLS: &[u32] = &[0x540e, 0x5410, 0x5412, 0x541c, 0x5423, 0x8901, 0x8902, 0x4004_2408];
/// `F_SETOWN`, `F_SETSIG` and `F_SETOWN_EX`: to have a signal sent to another process.
const OWNERS: &[u32] = &[8, 10, 15];
/// `MSG_FASTOPEN`: connects a socket that is not connected.
const FAST_OPEN: u32 = libc::MSG_FASTOPEN as u32;
/// The type of a socket without its flags.
const SOCKET_TYPE: u32 = 0xf;

/// Arguments that none of the processes uses.
const BOTH_ARGUMENTS: &[RefusedArgument] = &[
    refused(libc::SYS_kill, 0, ALL, ArgumentRule::NotThisProcess { or_zero: false }),
    refused(libc::SYS_tgkill, 0, ALL, ArgumentRule::NotThisProcess { or_zero: false }),
    refused(libc::SYS_prlimit64, 0, ALL, ArgumentRule::NotThisProcess { or_zero: true }),
    refused(libc::SYS_sched_setscheduler, 0, ALL, ArgumentRule::NotThisProcess { or_zero: true }),
    refused(libc::SYS_sched_setparam, 0, ALL, ArgumentRule::NotThisProcess { or_zero: true }),
    refused(libc::SYS_sched_setattr, 0, ALL, ArgumentRule::NotThisProcess { or_zero: true }),
    refused(libc::SYS_sched_setaffinity, 0, ALL, ArgumentRule::NotThisProcess { or_zero: true }),
    // A pair of datagram sockets can send to any other that has an address.
    refused(libc::SYS_socketpair, 1, SOCKET_TYPE, ArgumentRule::Not(&[libc::SOCK_STREAM as u32])),
    refused(libc::SYS_sendto, 3, FAST_OPEN, ArgumentRule::Not(&[0])),
    refused(libc::SYS_sendmsg, 2, FAST_OPEN, ArgumentRule::Not(&[0])),
    refused(libc::SYS_sendmmsg, 3, FAST_OPEN, ArgumentRule::Not(&[0])),
    // Threads only: a process would outlive this one.
    refused(libc::SYS_clone, 0, THREAD, ArgumentRule::Not(&[THREAD])),
    refused(libc::SYS_clone, 0, NEW_NAMESPACES, ArgumentRule::Not(&[0])),
    refused(libc::SYS_ioctl, 1, ALL, ArgumentRule::These(CONTROLS)),
    refused(libc::SYS_fcntl, 1, ALL, ArgumentRule::These(OWNERS)),
];

/// Refuses the calls that none of the processes makes, and `others`, to this thread and those that it starts later.
///
/// # Errors
/// Returns the errors of `seccomp(2)`. It needs `no_new_privs`.
pub(crate) fn refuse(others: RefusedCalls) -> io::Result<()> {
    if ARCHITECTURE == 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let lines = program(others, std::process::id());
    let program = libc::sock_fprog { len: lines.len() as u16, filter: lines.as_ptr().cast_mut() };
    // SAFETY: the program and the lines that it points to live across the call, which copies them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `landlock_restrict_self` without rules, which has no effect but EBADF: to see whether a filter kills for it.
pub(crate) fn restrict_by_nothing() {
    // SAFETY: two numbers.
    unsafe { libc::syscall(libc::SYS_landlock_restrict_self, -1, 0) };
}

fn program(others: RefusedCalls, own: u32) -> Vec<libc::sock_filter> {
    const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    // Calls of another architecture, and those of x32, have other numbers: this program makes none.
    let mut lines = vec![
        load(offset_of!(libc::seccomp_data, arch)),
        line(EQUAL, ARCHITECTURE, 1, 0),
        answer(libc::EPERM),
        load(offset_of!(libc::seccomp_data, nr)),
        line(AT_LEAST, X32, 0, 1),
        answer(libc::EPERM),
    ];
    for call in BOTH.iter().chain(others.calls.iter().copied().flatten()) {
        lines.extend([line(EQUAL, *call as u32, 0, 1), answer(libc::EPERM)]);
    }
    // Its flags are in memory, where a filter does not look. The C libraries fall back to `clone`.
    lines.extend([line(EQUAL, libc::SYS_clone3 as u32, 0, 1), answer(libc::ENOSYS)]);
    for argument in BOTH_ARGUMENTS.iter().chain(others.arguments) {
        lines.extend(argument.lines(own));
    }
    lines.push(line(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    lines
}

impl RefusedArgument {
    /// Lines that begin and end with the call's number loaded.
    fn lines(&self, own: u32) -> Vec<libc::sock_filter> {
        const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
        const GO: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
        let zero = [0, own];
        let (values, are_refused): (&[u32], bool) = match self.values {
            ArgumentRule::These(values) => (values, true),
            ArgumentRule::Not(values) => (values, false),
            ArgumentRule::NotThisProcess { or_zero } => (&zero[usize::from(!or_zero)..], false),
        };
        // Little endian: the low half comes first.
        let argument = offset_of!(libc::seccomp_data, args) + 8 * self.at;
        let mut body = vec![load(argument), line(AND, self.mask, 0, 0)];
        let count = values.len() as u8;
        for (at, value) in values.iter().enumerate() {
            // Over the values that are left, and over the jump behind them.
            body.push(line(EQUAL, *value, count - at as u8, 0));
        }
        let number = load(offset_of!(libc::seccomp_data, nr));
        // Where no value was equal, then where one was.
        let (none, one) = if are_refused { (2, 0) } else { (1, 1) };
        body.push(line(GO, none, 0, 0));
        body.push(line(GO, one, 0, 0));
        body.extend([answer(libc::EPERM), number]);
        let mut lines = vec![line(EQUAL, self.call as u32, 0, body.len() as u8)];
        lines.append(&mut body);
        lines
    }
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn line(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

const fn load(offset: usize) -> libc::sock_filter {
    line(LOAD, offset as u32, 0, 0)
}

/// Refuses the call with an error.
const fn answer(error: libc::c_int) -> libc::sock_filter {
    line(RETURN, libc::SECCOMP_RET_ERRNO | error as u32, 0, 0)
}

#[cfg(test)]
#[path = "seccomp_tests.rs"]
mod tests;
