//! A filter that refuses system calls that this program does not make once it watches (seccomp(2)).
//!
//! What is refused is named, and fails with EPERM; everything else stays allowed, so that another C library or a newer kernel changes
//! nothing. Refused is what reaches beyond this process although it has no capability left: to execute programs, to touch other
//! processes, to change modes, owners and mounts, and to open sockets other than netlink's.

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

/// Calls that are refused whatever their arguments, by the process that parses and by the opener.
const BOTH: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_tkill,
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
    libc::SYS_utimensat,
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
/// `fchmodat2`, the same number everywhere.
const SYS_FCHMODAT2: libc::c_long = 452;

/// What the process that parses does not do.
pub(crate) const PARSER: &[libc::c_long] = &[libc::SYS_setns, libc::SYS_perf_event_open, libc::SYS_capset];
/// What the opener does not do beyond what both do not.
pub(crate) const OPENER: &[libc::c_long] = &[];

/// Refuses the calls that neither process makes, and `others`, to this thread and those that it starts later. Signals go to this
/// process alone, limits are its own, and sockets are netlink's.
///
/// # Errors
/// Returns the errors of `seccomp(2)`. It needs `no_new_privs`.
pub(crate) fn refuse(others: &[libc::c_long]) -> io::Result<()> {
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

fn program(others: &[libc::c_long], own: u32) -> Vec<libc::sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let line = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let load = |offset: usize| line(LOAD, offset as u32, 0, 0);
    let allow = line(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
    let refuse = line(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0);
    // Calls of another architecture, and those of x32, have other numbers: this program makes none.
    let mut lines = vec![
        load(offset_of!(libc::seccomp_data, arch)),
        line(EQUAL, ARCHITECTURE, 1, 0),
        refuse,
        load(offset_of!(libc::seccomp_data, nr)),
        line(AT_LEAST, X32, 0, 1),
        refuse,
    ];
    for call in BOTH.iter().chain(others) {
        lines.extend([line(EQUAL, *call as u32, 0, 1), refuse]);
    }
    // Calls that may have these values as their first argument, and no other. Little endian: the low half comes first, and the
    // kernel takes each of them as 32 bits.
    let bounded: [(libc::c_long, [u32; 2]); 4] = [
        (libc::SYS_kill, [own, own]),
        (libc::SYS_tgkill, [own, own]),
        (libc::SYS_prlimit64, [0, own]),
        (libc::SYS_socket, [libc::AF_NETLINK as u32, libc::AF_NETLINK as u32]),
    ];
    for (call, [one, other]) in bounded {
        lines.extend([
            line(EQUAL, call as u32, 0, 5),
            load(offset_of!(libc::seccomp_data, args)),
            line(EQUAL, one, 2, 0),
            line(EQUAL, other, 1, 0),
            refuse,
            allow,
        ]);
    }
    lines.push(allow);
    lines
}
