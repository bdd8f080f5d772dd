//! A child process that shares nothing with this one but a socket.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::Pid;

/// Where the child has its socket: behind standard input, output and error.
const SOCKET: RawFd = 3;

/// Starts a process with this name that runs `task` with this socket and ends. Standard input, output and error are `/dev/null` there, everything
/// else is closed, and it is in a session of its own.
///
/// # Errors
/// Returns the errors of `fork(2)`, and an error if this process has several threads: the child would have one of them, and locks
/// that the others hold.
pub(crate) fn start(name: &CStr, socket: OwnedFd, task: impl FnOnce(OwnedFd)) -> io::Result<Pid> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("this process has other threads"));
    }
    let parent = rustix::process::getpid();
    // SAFETY: this process has one thread, so that no lock is held by a thread that the child does not have.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let run = AssertUnwindSafe(|| {
                if let Some(socket) = alone(name, socket, parent) {
                    task(socket);
                }
            });
            let _ = catch_unwind(run);
            // SAFETY: ends the process at once. What the parent has registered for its own end is not run.
            unsafe { libc::_exit(0) }
        }
        child => Pid::from_raw(child).ok_or_else(|| io::Error::other("a pid of 0")),
    }
}

/// Leaves the parent's session, files and signals.
fn alone(name: &CStr, socket: OwnedFd, parent: Pid) -> Option<OwnedFd> {
    let _ = rustix::process::setsid();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: ignores a signal; no handler is installed. A service manager sends SIGTERM to all of a service: the parent has
        // this process to its own end, which closes the socket.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    if rustix::process::getppid() != Some(parent) {
        return None;
    }
    let _ = rustix::thread::set_name(name);
    let null = fs::File::options().read(true).write(true).open("/dev/null").ok()?;
    let (null, socket) = (null.into_raw_fd(), socket.into_raw_fd());
    for standard in 0..SOCKET {
        // SAFETY: two numbers; what is open under the second in this process is nobody's any more.
        (unsafe { libc::dup2(null, standard) } >= 0).then_some(())?;
    }
    if socket != SOCKET {
        // SAFETY: as above.
        (unsafe { libc::dup2(socket, SOCKET) } >= 0).then_some(())?;
    }
    // SAFETY: closes what this process does not use. Before Linux 5.9 there is no such call, and what the parent had open at its
    // start stays open: that is what it was started with.
    unsafe { libc::syscall(libc::SYS_close_range, SOCKET + 1, RawFd::MAX, 0) };
    // SAFETY: the socket, which nothing else in this process owns.
    Some(unsafe { OwnedFd::from_raw_fd(SOCKET) })
}
