//! Stopping sessions from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::error::Error;
use crate::host;
use crate::message::Refusal;
use crate::reason::Reason;

/// The error of a call that was stopped on request.
#[derive(Debug, thiserror::Error)]
#[error("stopped on request")]
pub(crate) struct Stopped;

/// Stops sessions from another thread.
#[derive(Clone, Debug)]
pub struct Cancel {
    own: Arc<OwnedFd>,
    /// Why this handle fired, if nobody has asked for it.
    why: Arc<OnceLock<Reason>>,
    /// The handles that it was made from, the nearest first.
    above: Vec<Arc<OwnedFd>>,
}

impl Cancel {
    /// Makes a handle that has not fired.
    ///
    /// # Errors
    /// Returns an error if the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        use rustix::event::EventfdFlags;
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { own: Arc::new(fd), why: Arc::default(), above: Vec::new() })
    }

    /// Makes a child handle. The child fires when [`cancel`](Self::cancel) is called on this handle or on one that this
    /// handle was made from, and can fire alone without affecting them.
    ///
    /// # Errors
    /// Returns the errors of [`new`](Self::new).
    pub fn also(&self) -> io::Result<Self> {
        let above = std::iter::once(&self.own).chain(&self.above).cloned().collect();
        Ok(Self { above, ..Self::new()? })
    }

    /// Ends every session that watches this handle: each session returns [`Error::Cancelled`](crate::Error::Cancelled)
    /// from its present or next wait.
    pub fn cancel(&self) {
        // write(2) can fail only if the counter would overflow, and a counter that high has fired already.
        let _ = rustix::io::write(&*self.own, &1u64.to_ne_bytes());
    }

    /// Does what [`cancel`](Self::cancel) does, for a reason of this program's own, which both ends are told. A new session may
    /// succeed.
    pub(crate) fn cancel_because(&self, why: Reason) {
        self.why.get_or_init(|| why);
        self.cancel();
    }

    /// The error of a session that this handle has ended.
    pub(crate) fn error(&self) -> Error {
        self.why.get().map_or(Error::Cancelled, |why| Error::Refused(Refusal::Busy, why.clone()))
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
            let mut fds = self.to_poll();
            let own = fds.len();
            fds.push(PollFd::from_borrowed_fd(fd, interest));
            match host::poll(&mut fds, Some(&left)) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) if has_fired(&fds[..own]) => {
                    return Err(io::Error::other(Stopped));
                }
                Ok(ready) => return Ok(ready > 0),
            }
        }
    }

    /// What to poll(2) for: see [`has_fired`].
    pub(crate) fn to_poll(&self) -> Vec<PollFd<'_>> {
        // Room for what a session waits for beside them.
        let mut fds = Vec::with_capacity(self.above.len() + 3);
        fds.extend(std::iter::once(&self.own).chain(&self.above).map(|fd| PollFd::new(&**fd, PollFlags::IN)));
        fds
    }
}

/// Whether one of the fds of [`Cancel::to_poll`] has fired, after poll(2).
pub(crate) fn has_fired(polled: &[PollFd<'_>]) -> bool {
    polled.iter().any(|fd| !fd.revents().is_empty())
}

impl AsFd for Cancel {
    /// The eventfd of this handle alone: readable once `cancel` was called on it, not when only one above it has fired.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stopped_stops_all_below_it_and_nothing_above_or_beside() {
        for stopped in 0..4 {
            let first = Cancel::new().unwrap();
            let second = first.also().unwrap();
            let third = second.also().unwrap();
            let beside = first.also().unwrap();
            let family = [first, second, third, beside];
            family[stopped].cancel();
            let fired: Vec<usize> = (0..4).filter(|number| family[*number].is_cancelled()).collect();
            let expected: &[usize] = [&[0, 1, 2, 3][..], &[1, 2], &[2], &[3]][stopped];
            assert_eq!(fired, expected);
            // Something to wait for that is never ready.
            let (quiet, _open) = std::io::pipe().unwrap();
            for (number, cancel) in family.iter().enumerate() {
                let waited = cancel.wait_beside(quiet.as_fd(), PollFlags::IN, Duration::ZERO);
                assert_eq!(waited.is_err(), expected.contains(&number), "{stopped} {number}");
            }
        }
    }
}
