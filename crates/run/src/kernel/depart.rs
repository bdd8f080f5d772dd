//! Makes a process that is not a child of this one, and has none of the fds that the program will have.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{Mode, OFlags};
use rustix::io::{FdFlags, fcntl_getfd};

use super::trial::{PIDFD_OPEN, forbidden};

/// Which of the two processes this is.
#[derive(Debug)]
pub(crate) enum Side {
    /// The process that called, with its pid, parent, session and fds.
    Caller(Departed),
    /// The new one: in a session of its own, the child of init (or of the nearest subreaper).
    Apart(Caller),
}

/// The new process, as seen by its maker.
#[derive(Debug)]
pub(crate) struct Departed(UnixStream);

/// The process that called, as seen by the new one.
#[derive(Debug)]
pub(crate) struct Caller(UnixStream);

/// Makes the new process. This process must have one thread.
///
/// # Errors
/// No process or no socket pair can be made.
pub(crate) fn depart() -> io::Result<Side> {
    let (ours, theirs) = UnixStream::pair()?;
    match quiet_fork()? {
        // SAFETY: one thread. The C library's own fork, so that its state in the new process is right.
        None => match unsafe { libc::fork() } {
            -1 => leave(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN)),
            0 => {
                drop(ours);
                let caller = Caller(theirs);
                if let Err(error) = settle() {
                    caller.refuse(&error);
                    leave(1);
                }
                Ok(Side::Apart(caller))
            }
            // This child has made the process and ends, which makes that one an orphan.
            _ => leave(0),
        },
        Some(child) => {
            drop(theirs);
            match wait_for(child)? {
                0 => Ok(Side::Caller(Departed(ours))),
                error => Err(io::Error::from_raw_os_error(if error < 0 { libc::EIO } else { error })),
            }
        }
    }
}

/// Runs `does` in a child, where it may make system calls only. Returns its exit status, or -1 if the child was killed.
/// The caller's own state and signals are not affected.
///
/// # Errors
/// No process can be made.
pub(super) fn in_child(does: impl FnOnce() -> i32) -> io::Result<i32> {
    match quiet_fork()? {
        None => leave(does()),
        Some(child) => wait_for(child),
    }
}

/// Makes a child without SIGCHLD: the program must not find one pending, or a child to wait for. `None` in the child.
fn quiet_fork() -> io::Result<Option<libc::pid_t>> {
    let nothing = 0usize;
    // SAFETY: a fork by a process with one thread; the child calls `fork` and `_exit`, or makes system calls.
    match unsafe { libc::syscall(libc::SYS_clone, nothing, nothing, nothing, nothing, nothing) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        child => Ok(Some(child as libc::pid_t)),
    }
}

/// Waits for a child of [`quiet_fork`]. Returns its exit status, or -1 if it was killed.
fn wait_for(child: libc::pid_t) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: writes a live integer. The child sends no SIGCHLD, hence __WCLONE.
    while unsafe { libc::waitpid(child, &raw mut status, libc::__WCLONE) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -1 })
}

/// Ends this process at once: no exit handler of the caller runs, and nothing of the caller's is flushed twice.
pub(crate) fn leave(status: i32) -> ! {
    // SAFETY: ends this process.
    unsafe { libc::_exit(status) }
}

/// Leaves the caller's session and working directory, and closes what the program has: a listening socket that stayed open
/// here would keep its port, and a pipe would keep its reader waiting. Only stderr stays, for reports.
fn settle() -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    rustix::thread::set_name(c"linger-run")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let mut inherited = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")?.flatten() {
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // SAFETY: borrowed for one call, which any number is allowed for.
        let flags = fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) });
        if fd > 2 && flags.is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC)) {
            inherited.push(fd);
        }
    }
    for fd in inherited {
        // SAFETY: everything that Rust's library or this program opens is close-on-exec; these were there before, and nobody
        // in this process uses them.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

impl AsFd for Departed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Departed {
    /// A supervisor that was there before, at the other end of a connection.
    pub(crate) fn new(connection: UnixStream) -> Self {
        Self(connection)
    }

    /// Waits until the new process is ready.
    ///
    /// # Errors
    /// It could not get ready, or is gone.
    pub(crate) fn ready(&mut self) -> io::Result<()> {
        let mut told = [0; 4];
        self.0.read_exact(&mut told)?;
        match i32::from_ne_bytes(told) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Tells it that the program was not started. An `exec` tells it the opposite, by closing the socket.
    pub(crate) fn not_started(mut self) {
        // If it is gone, there is nobody to tell.
        let _ = self.0.write_all(&[1]);
    }
}

impl Caller {
    /// The process at the other end of a connection.
    pub(crate) fn new(connection: UnixStream) -> Self {
        Self(connection)
    }

    /// Tells the caller to become the program. False if it could not; true also if it was killed on the way.
    pub(crate) fn go(mut self) -> bool {
        // If the caller is gone, the read says so, too.
        let _ = self.0.write_all(&0i32.to_ne_bytes());
        !matches!(self.0.read(&mut [0]), Ok(1..))
    }

    /// Tells the caller why it must not start the program.
    pub(crate) fn refuse(mut self, error: &io::Error) {
        let number = error.raw_os_error().unwrap_or(libc::EIO);
        // If it is gone, there is nobody to tell.
        let _ = self.0.write_all(&number.to_ne_bytes());
    }
}

/// A pidfd of this process.
///
/// # Errors
/// Before Linux 5.3, or where a container's profile does not permit it.
pub(crate) fn own_pidfd() -> io::Result<OwnedFd> {
    if !forbidden(&[PIDFD_OPEN]).is_empty() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let pid = rustix::process::getpid();
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Whether this process has one thread.
///
/// # Errors
/// `/proc` is not mounted.
pub(crate) fn has_one_thread() -> io::Result<bool> {
    Ok(fs::read_dir("/proc/self/task")?.count() == 1)
}
