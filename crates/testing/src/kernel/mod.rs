//! The system calls of this crate, and its only unsafe code; each block says why it is sound.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Closes a descriptor under the feet of whoever owns it, as a program with a double close does.
///
/// Only for a test that is alone in its process ([`sandboxed`]) and opens nothing before the owner has noticed:
/// the number may be given out again.
pub fn close_under_its_owner(descriptor: i32) {
    // SAFETY: the kernel checks the number. That the owner's next call gets EBADF is what is tested.
    unsafe { libc::close(descriptor) };
}

/// Bytes that the C library's allocator has given out and not got back, for benches that count them without
/// slowing every allocation down.
pub fn allocated() -> usize {
    // SAFETY: it takes no arguments and returns numbers by value; each arena is locked while it is counted.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// Makes a system call fail for a command and all it starts, as a container's profile does: one of `seccomp` (with
/// flags only), `pidfd_open`, `pidfd_getfd` and `process_vm_readv`.
///
/// # Panics
/// For another call, and where this architecture is unknown to the filter's compiler.
pub fn refuse(command: &mut Command, call: &str, error: Errno) {
    let with_flags = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0);
    let with_flags = SeccompRule::new(vec![with_flags.expect("an argument's number below 6")]);
    let (call, when) = match call {
        "seccomp" => (libc::SYS_seccomp, vec![with_flags.expect("one condition")]),
        "pidfd_open" => (libc::SYS_pidfd_open, vec![]),
        "pidfd_getfd" => (libc::SYS_pidfd_getfd, vec![]),
        "process_vm_readv" => (libc::SYS_process_vm_readv, vec![]),
        other => panic!("{other} is not among the calls"),
    };
    let refusal = SeccompAction::Errno(error.raw_os_error().unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into().expect("an architecture with seccomp");
    let filter =
        SeccompFilter::new(BTreeMap::from([(call, when)]), SeccompAction::Allow, refusal, architecture);
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a filter of one call");
    let install = move || seccompiler::apply_filter(&program).map_err(io::Error::other);
    // SAFETY: it makes system calls only: no allocation and no lock between fork and exec.
    unsafe { command.pre_exec(install) };
}

/// Lets the calling thread run only while nobody else wants its processor (`SCHED_IDLE`, `sched(7)`).
///
/// # Errors
/// What `sched_setscheduler` says; nothing speaks against it for a thread of one's own.
pub fn run_last() -> io::Result<()> {
    let nothing = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters are live for the call, which keeps no reference; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const nothing) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
