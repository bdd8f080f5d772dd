//! A command installs its filter before `exec`, and passes the listener to the thread that serves it.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, Signal, kill_process};

use super::filter::Filter;
use super::foreign::read_memory;
use super::listener::Listener;

/// The socket over which the child and the serving thread talk before `exec`.
#[derive(Debug)]
pub(crate) struct Handshake(UnixStream);

/// Makes a command install the filter before `exec`, and wait until a thread serves the listener.
///
/// The child's limit of fds is set to `descriptors`. Start the command only once a thread waits in
/// [`Handshake::listener`], and drop it afterwards.
///
/// # Errors
/// Where no socket pair can be made.
pub(crate) fn before_exec(
    command: &mut Command,
    filter: Filter,
    descriptors: Rlimit,
) -> io::Result<Handshake> {
    let (ours, theirs) = UnixStream::pair()?;
    let prepare = move || {
        rustix::process::setrlimit(Resource::Nofile, descriptors)?;
        let installed = filter.install();
        let number = match &installed {
            Ok(fd) => *fd,
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        let mut told = [0; 8];
        told[..4].copy_from_slice(&rustix::process::getpid().as_raw_nonzero().get().to_ne_bytes());
        told[4..].copy_from_slice(&number.to_ne_bytes());
        rustix::io::write(&theirs, &told)?;
        installed?;
        // From here on every `close` of the child would wait for an answer. Nothing needs one: the fds are close-on-exec.
        let mut go = [0];
        match rustix::io::read(&theirs, &mut go) {
            Ok(1..) => Ok(()),
            _ => {
                // Nobody serves the filter: an exit, too, would wait for an answer.
                let _ = kill_process(rustix::process::getpid(), Signal::KILL);
                Err(io::Error::from_raw_os_error(libc::ENOSYS))
            }
        }
    };
    // SAFETY: `prepare` makes system calls only: no allocation and no lock between fork and exec.
    unsafe { command.pre_exec(prepare) };
    Ok(Handshake(ours))
}

/// Why the child cannot be supervised.
#[derive(Debug)]
pub(crate) enum LaunchRefused {
    /// The kernel, or a filter around this process, refuses the filter.
    Filter(io::Error),
    /// A system call on the child's process is refused.
    Call(&'static str, io::Error),
    /// This process has no fd or no process left.
    Means(io::Error),
    /// The command was not started.
    NotStarted,
}

impl Handshake {
    /// Waits for the child, and copies its listener. The child keeps waiting until the second value is dropped or told to go.
    ///
    /// # Errors
    /// [`LaunchRefused`].
    pub(crate) fn listener(self) -> Result<(Listener, WaitingChild), LaunchRefused> {
        let mut told = [0; 8];
        if !rustix::io::read(&self.0, &mut told).is_ok_and(|length| length == told.len()) {
            return Err(LaunchRefused::NotStarted);
        }
        let [a, b, c, d, e, f, g, h] = told;
        let (pid, number) = (i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]));
        if number < 0 {
            return Err(LaunchRefused::Filter(io::Error::from_raw_os_error(-number)));
        }
        let child = Pid::from_raw(pid).ok_or(LaunchRefused::NotStarted)?;
        match take(child, number) {
            Ok(fd) => Ok((Listener::new(fd).map_err(LaunchRefused::Means)?, WaitingChild(self.0))),
            Err(refused) => {
                // Kill it: even its exit would wait for an answer.
                let _ = kill_process(child, Signal::KILL);
                Err(refused)
            }
        }
    }

    /// The fd, to be passed to [`apart`](super::apart::apart).
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0.into()
    }

    /// The reverse of [`into_fd`](Self::into_fd).
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

/// Copies the child's listener fd, and tries every system call on the child that will be needed later.
fn take(child: Pid, number: RawFd) -> Result<OwnedFd, LaunchRefused> {
    let refused =
        |call: &'static str| move |error: rustix::io::Errno| LaunchRefused::Call(call, error.into());
    let process = rustix::process::pidfd_open(child, PidfdFlags::empty()).map_err(refused("pidfd_open"))?;
    let fd = rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty())
        .map_err(refused("pidfd_getfd"))?;
    // Before `exec` the child is a copy of this process, so a variable has the same address in both.
    static SOMETHING: u64 = 1;
    let thread = u32::try_from(child.as_raw_nonzero().get()).unwrap_or_default();
    read_memory(thread, (&raw const SOMETHING) as u64, &mut [0; 8])
        .map_err(|error| LaunchRefused::Call("process_vm_readv", error))?;
    Ok(fd)
}

/// A child that waits before its `exec`.
#[derive(Debug)]
pub(crate) struct WaitingChild(UnixStream);

impl WaitingChild {
    /// Lets the child continue to its `exec`.
    ///
    /// # Errors
    /// The child is gone.
    pub(crate) fn go(self) -> io::Result<()> {
        rustix::io::write(&self.0, &[1])?;
        Ok(())
    }
}
