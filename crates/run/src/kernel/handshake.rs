//! How a command installs its filter, and how its listener comes to the thread that serves it.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit};

use super::filter::Filter;
use super::foreign::read_memory;
use super::listener::Listener;

/// What the child and the thread that will serve it say to each other before the exec.
#[derive(Debug)]
pub(crate) struct Handshake(UnixStream);

/// Makes a command install the filter before it becomes the program, and wait there until somebody serves it.
///
/// Its limit of descriptors is set to `descriptors`. The command must not be started before a thread waits in
/// [`Handshake::listener`], and must be dropped after.
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
        // From here on this process's closes wait for an answer; what is close-on-exec needs no close.
        let mut go = [0];
        match rustix::io::read(&theirs, &mut go)? {
            0 => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
            _ => Ok(()),
        }
    };
    // SAFETY: `prepare` makes system calls only: no allocation and no lock between fork and exec.
    unsafe { command.pre_exec(prepare) };
    Ok(Handshake(ours))
}

/// Why nobody can be asked.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The kernel, or a filter around this process, refuses the filter.
    Filter(io::Error),
    /// A call that looks into the child.
    Call(&'static str, io::Error),
    /// This process's own means: it has no descriptor, or no process, to spare.
    Means(io::Error),
    /// The command never came so far.
    NotStarted,
}

impl Handshake {
    /// Waits for the child, and takes its listener. The child waits on, until the second half is dropped or told to go.
    ///
    /// # Errors
    /// [`Refused`].
    pub(crate) fn listener(self) -> Result<(Listener, Waiting), Refused> {
        let mut told = [0; 8];
        if !rustix::io::read(&self.0, &mut told).is_ok_and(|length| length == told.len()) {
            return Err(Refused::NotStarted);
        }
        let [a, b, c, d, e, f, g, h] = told;
        let (pid, number) = (i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]));
        if number < 0 {
            return Err(Refused::Filter(io::Error::from_raw_os_error(-number)));
        }
        let child = Pid::from_raw(pid).ok_or(Refused::NotStarted)?;
        match take(child, number) {
            Ok(fd) => Ok((Listener::new(fd).map_err(Refused::Means)?, Waiting(self.0))),
            Err(refused) => {
                // It cannot even exit, since nobody can be asked.
                let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
                Err(refused)
            }
        }
    }

    /// The descriptor, for [`apart`].
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0.into()
    }

    /// The reverse.
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

/// Takes a child's descriptor, and tries all that will be done to it later.
fn take(child: Pid, number: RawFd) -> Result<OwnedFd, Refused> {
    let refused = |call: &'static str| move |error: rustix::io::Errno| Refused::Call(call, error.into());
    let process = rustix::process::pidfd_open(child, PidfdFlags::empty()).map_err(refused("pidfd_open"))?;
    let fd = rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty())
        .map_err(refused("pidfd_getfd"))?;
    // The child is a copy of this process as yet: what this one has at an address that one has, too.
    static SOMETHING: u64 = 1;
    let thread = u32::try_from(child.as_raw_nonzero().get()).unwrap_or_default();
    read_memory(thread, (&raw const SOMETHING) as u64, &mut [0; 8])
        .map_err(|error| Refused::Call("process_vm_readv", error))?;
    Ok(fd)
}

/// A child that waits before its exec.
#[derive(Debug)]
pub(crate) struct Waiting(UnixStream);

impl Waiting {
    /// Lets the child go on to its exec.
    ///
    /// # Errors
    /// Where it is gone.
    pub(crate) fn go(self) -> io::Result<()> {
        rustix::io::write(&self.0, &[1])?;
        Ok(())
    }
}
