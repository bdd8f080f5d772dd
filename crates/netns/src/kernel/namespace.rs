//! A network namespace, and threads in it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::{self, JoinHandle};

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::net;

/// A network namespace with `lo` up. The kernel removes it with the last handle, socket and thread in it.
#[derive(Debug)]
pub struct Namespace {
    /// `None` for the namespace that the process is already in; entering it needs no privilege.
    fd: Option<OwnedFd>,
}

impl Namespace {
    /// Makes a new network namespace that has only `lo`, which is up. This needs privileges, which [`Isolation`](crate::Isolation) gives.
    ///
    /// # Errors
    /// Returns `EPERM` without CAP_SYS_ADMIN over the present user namespace, and `ENOSPC` at
    /// `user.max_net_namespaces`.
    pub fn new() -> io::Result<Self> {
        let made = thread::scope(|scope| {
            let maker = thread::Builder::new().spawn_scoped(scope, || -> io::Result<OwnedFd> {
                // SAFETY: CLONE_NEWNET concerns this short-lived thread alone and no fd or memory.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
                net::up("lo")?;
                Ok(File::open("/proc/thread-self/ns/net")?.into())
            })?;
            join(maker.join())
        })?;
        Ok(Self { fd: Some(made) })
    }

    /// The namespace in which this process is already: for experiments over `lo` if no new namespace can be made.
    pub const fn shared() -> Self {
        Self { fd: None }
    }

    /// Whether other processes may use this namespace too, so that its counters include their connections.
    pub const fn is_shared(&self) -> bool {
        self.fd.is_none()
    }

    /// The fd of this namespace; `None` for a shared one.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// Runs a closure in this namespace on a new thread, and returns its result.
    ///
    /// Sockets opened there stay in the namespace when they are moved elsewhere.
    ///
    /// # Errors
    /// Returns `EPERM` if the process may not enter the namespace.
    pub fn run<R: Send>(&self, task: impl FnOnce() -> R + Send) -> io::Result<R> {
        thread::scope(|scope| {
            let worker = thread::Builder::new().spawn_scoped(scope, || -> io::Result<R> {
                enter(self.descriptor())?;
                Ok(task())
            })?;
            join(worker.join())
        })
    }

    /// Starts a named thread that lives in this namespace. If the process may not enter it, the thread's result is that error.
    ///
    /// # Errors
    /// Returns an error if the fd cannot be copied, or no thread can be started.
    pub fn spawn<R: Send + 'static>(
        &self,
        name: &str,
        task: impl FnOnce() -> R + Send + 'static,
    ) -> io::Result<JoinHandle<io::Result<R>>> {
        let fd = self.fd.as_ref().map(OwnedFd::try_clone).transpose()?;
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            enter(fd.as_ref().map(AsFd::as_fd))?;
            drop(fd);
            Ok(task())
        })
    }

    /// Moves the calling thread into this namespace, for good. Does nothing if this stands for the namespace that is shared with
    /// the process.
    ///
    /// # Errors
    /// Returns `EPERM` if the process may not enter the namespace.
    pub fn enter(&self) -> io::Result<()> {
        enter(self.descriptor())
    }
}

fn enter(fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    match fd {
        Some(fd) => Ok(rustix::thread::move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))?),
        None => Ok(()),
    }
}

/// Propagates a panic of the joined thread.
fn join<R>(result: thread::Result<R>) -> R {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
