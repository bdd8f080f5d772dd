//! Stopping sessions from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::host;

/// The error of a call that was stopped on request.
#[derive(Debug, thiserror::Error)]
#[error("stopped on request")]
pub(crate) struct Stopped;

/// Stops sessions from another thread.
#[derive(Clone, Debug)]
pub struct Cancel {
    own: Arc<OwnedFd>,
    above: Option<Arc<OwnedFd>>,
}

impl Cancel {
    /// Makes a handle that has not fired.
    ///
    /// # Errors
    /// Returns an error if the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        use rustix::event::EventfdFlags;
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { own: Arc::new(fd), above: None })
    }

    /// Makes a child handle. The child fires when [`cancel`](Self::cancel) is called on this handle, and can fire alone
    /// without affecting this handle. It does not see the parent that this handle may have itself.
    ///
    /// # Errors
    /// Returns the errors of [`new`](Self::new).
    pub fn also(&self) -> io::Result<Self> {
        Ok(Self { above: Some(self.own.clone()), ..Self::new()? })
    }

    /// Ends every session that watches this handle: each session returns [`Error::Cancelled`](crate::Error::Cancelled)
    /// from its present or next wait.
    pub fn cancel(&self) {
        // write(2) can fail only if the counter would overflow, and a counter that high has fired already.
        let _ = rustix::io::write(&*self.own, &1u64.to_ne_bytes());
    }

    /// Whether this handle has fired.
    pub fn is_cancelled(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Waits until this handle fires, the timeout is over or a signal arrives. Returns whether it fired.
    pub fn wait(&self, timeout: Duration) -> bool {
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        let mut fds = self.to_poll();
        matches!(host::poll(&mut fds, Some(&timeout)), Ok(1..))
    }

    /// Waits until an fd is ready. Returns false after the timeout.
    ///
    /// # Errors
    /// Returns [`Stopped`] if this handle fires first, or the error of `poll(2)`.
    pub(crate) fn wait_beside(
        &self,
        fd: BorrowedFd<'_>,
        interest: PollFlags,
        timeout: Duration,
    ) -> io::Result<bool> {
        let end = host::now() + timeout;
        loop {
            let left = end.saturating_duration_since(host::now());
            let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
            let [own, above] = self.to_poll();
            let mut fds = [own, above, PollFd::from_borrowed_fd(fd, interest)];
            match host::poll(&mut fds, Some(&left)) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) if !(fds[0].revents() | fds[1].revents()).is_empty() => {
                    return Err(io::Error::other(Stopped));
                }
                Ok(ready) => return Ok(ready > 0),
            }
        }
    }

    pub(crate) fn to_poll(&self) -> [PollFd<'_>; 2] {
        let above = self.above.as_ref().unwrap_or(&self.own);
        [PollFd::new(&*self.own, PollFlags::IN), PollFd::new(&**above, PollFlags::IN)]
    }
}

impl AsFd for Cancel {
    /// The eventfd of this handle alone: readable once `cancel` was called on it, not when only its parent has fired.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }
}
