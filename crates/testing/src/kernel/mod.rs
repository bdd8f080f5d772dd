//! The system calls of this crate, and its only unsafe code; each block says why it is sound.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::Signal;
use rustix::thread::UnshareFlags;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Closes an fd that somebody else owns, as a program with a double close does.
///
/// Only for a test that is alone in its process ([`sandboxed`](crate::sandboxed)), and that opens nothing before the owner has
/// noticed the close: otherwise the kernel may give the same fd number to another file.
pub fn close_under_its_owner(descriptor: i32) {
    // SAFETY: the kernel checks the number. That the owner's next call gets EBADF is what is tested.
    unsafe { libc::close(descriptor) };
}

/// Returns how many bytes the C library's allocator has given out and not got back. Benches count memory with it, because it
/// does not slow allocations down.
pub fn allocated() -> usize {
    // SAFETY: it takes no arguments and returns numbers by value; each arena is locked while it is counted.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// Makes a system call fail with `error` for a command and all that it starts, as a container's profile or a machine
/// without resources does. `call` is the call's name, or a group: `create` for those that create files, `stack` for those
/// that map the stacks of threads, `clone` for those that make threads and processes. `seccomp` fails only with flags.
///
/// # Panics
/// Panics for a call that is not listed here, and if the filter's compiler does not know this architecture.
pub fn refuse(command: &mut Command, call: &str, error: Errno) {
    // The C library maps the stack of a thread without access, then gives access to all of it but the guard pages.
    const NO_ACCESS: u32 = libc::PROT_NONE as u32;
    // The flags with which std and tempfile create files.
    const TRUNCATED: u32 = (libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC) as u32;
    const EXCLUSIVE: u32 = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC) as u32;
    let rules = match call {
        "seccomp" => vec![(libc::SYS_seccomp, vec![argument(1, SeccompCmpOp::Ne, 0)])],
        "stack" => vec![(libc::SYS_mmap, vec![argument(2, SeccompCmpOp::Eq, NO_ACCESS)])],
        "create" => {
            let flags = [TRUNCATED, EXCLUSIVE].map(|flags| argument(2, SeccompCmpOp::Eq, flags));
            vec![(libc::SYS_openat, flags.into())]
        }
        "clone" => vec![(libc::SYS_clone, vec![]), (libc::SYS_clone3, vec![])],
        "pidfd_open" => vec![(libc::SYS_pidfd_open, vec![])],
        "pidfd_getfd" => vec![(libc::SYS_pidfd_getfd, vec![])],
        "process_vm_readv" => vec![(libc::SYS_process_vm_readv, vec![])],
        "socket" => vec![(libc::SYS_socket, vec![])],
        "socketpair" => vec![(libc::SYS_socketpair, vec![])],
        "bind" => vec![(libc::SYS_bind, vec![])],
        "listen" => vec![(libc::SYS_listen, vec![])],
        "epoll_create1" => vec![(libc::SYS_epoll_create1, vec![])],
        "eventfd2" => vec![(libc::SYS_eventfd2, vec![])],
        "pipe2" => vec![(libc::SYS_pipe2, vec![])],
        "perf_event_open" => vec![(libc::SYS_perf_event_open, vec![])],
        "unshare" => vec![(libc::SYS_unshare, vec![])],
        other => panic!("{other} is not among the calls"),
    };
    let refusal = SeccompAction::Errno(error.raw_os_error().unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into().expect("an architecture with seccomp");
    let filter = SeccompFilter::new(BTreeMap::from_iter(rules), SeccompAction::Allow, refusal, architecture);
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a filter of few calls");
    let install = move || seccompiler::apply_filter(&program).map_err(io::Error::other);
    // SAFETY: it makes system calls only: no allocation and no lock between fork and exec.
    unsafe { command.pre_exec(install) };
}

/// Matches a call by the low 32 bits of one argument; `number` is the argument's position, counted from 0.
fn argument(number: u8, relation: SeccompCmpOp, value: u32) -> SeccompRule {
    let condition = SeccompCondition::new(number, SeccompCmpArgLen::Dword, relation, value.into());
    SeccompRule::new(vec![condition.expect("an argument's number below 6")]).expect("one condition")
}

/// Makes a command run in a PID namespace of its own with its own `/proc`. Its parent there is the namespace's first
/// process, which reaps orphans and ends with the command; then the kernel kills all processes that are left. If the
/// kernel refuses this, `spawn` returns the error.
///
/// The spawned process itself stays outside. It waits, and ends with the command's status, or with 128 plus the
/// signal's number.
pub fn seclude(command: &mut Command) {
    // SAFETY: `enter_processes` makes system calls only: no allocation and no lock between fork and exec.
    unsafe { command.pre_exec(enter_processes) };
}

fn enter_processes() -> io::Result<()> {
    let flags = UnshareFlags::NEWPID | UnshareFlags::NEWNS;
    // SAFETY: neither flag changes which fds or memory this process shares with others; it has one thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    mount(c"none", c"/", c"", libc::MS_REC | libc::MS_PRIVATE)?;
    if let Some(first) = fork()? {
        end_with(first);
    }
    // If the process that waits for the status is killed, the test must not go on.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    mount(c"proc", c"/proc", c"proc", libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC)?;
    if let Some(test) = fork()? {
        end_with(test);
    }
    Ok(())
}

fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let (source, target, kind) = (source.as_ptr(), target.as_ptr(), kind.as_ptr());
    // SAFETY: the strings live across the call, which keeps no reference; no options are passed.
    match unsafe { libc::mount(source, target, kind, flags, std::ptr::null()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns the child's id in the parent, and `None` in the child.
fn fork() -> io::Result<Option<i32>> {
    // SAFETY: the call of `fork(2)` without the C library's handlers, which take locks. Parent and child make system calls only.
    match unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        child => Ok(Some(child as i32)),
    }
}

/// Closes all fds and reaps children until `child` has ended. Then exits with its status, with 128 plus the number of the
/// signal that ended it, or with 1 if nobody can tell (an ignored SIGCHLD).
fn end_with(child: i32) -> ! {
    // This process must not keep open the command's pipes, nor the pipe on which `spawn` waits for the `exec`.
    // SAFETY: the fds are copies of this process alone, which uses none of them.
    unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
    loop {
        let mut status = 0;
        // SAFETY: the number is live for the call.
        let ended = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if ended == child || (ended < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted) {
            let code = if ended < 0 {
                1
            } else if libc::WIFSIGNALED(status) {
                128 + libc::WTERMSIG(status)
            } else {
                libc::WEXITSTATUS(status)
            };
            // SAFETY: it ends this process at once, without the handlers of the program that it was forked from.
            unsafe { libc::_exit(code) };
        }
    }
}

/// Lets the calling thread run only while nobody else wants its processor (`SCHED_IDLE`, `sched(7)`).
///
/// # Errors
/// Returns the errors of `sched_setscheduler`. None is known for a thread of this process.
pub fn run_last() -> io::Result<()> {
    let nothing = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters are live for the call, which keeps no reference; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const nothing) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
