//! A request to stop that wakes waiting threads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

/// A request to stop that all threads see, also those blocked in `poll`.
#[derive(Debug)]
pub struct Stop {
    requested: AtomicBool,
    /// An eventfd. Nobody reads it, so it stays readable after the request.
    wake: OwnedFd,
}

impl Stop {
    /// Makes a stop that is not requested yet.
    ///
    /// # Errors
    /// Returns `EMFILE` if no fd is left.
    pub fn new() -> io::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { requested: AtomicBool::new(false), wake })
    }

    /// Requests the stop.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
        // The write fails only after 2^64 requests. The flag is set in any case.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Whether the stop is requested.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// An fd that becomes readable with the request, for use in `poll` with others.
    pub fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Waits until `fd` is readable, the time is over, or the stop is requested. Returns whether `fd` is readable.
    ///
    /// # Errors
    /// Returns the errors of `poll(2)`.
    pub fn wait_readable(&self, fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut ready = [
            PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(fd, PollFlags::IN),
        ];
        match rustix::event::poll(&mut ready, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(ready[0].revents().is_empty() && !ready[1].revents().is_empty())
    }

    /// Sleeps for `duration`, or until the stop is requested or a signal arrives.
    ///
    /// # Errors
    /// Returns the errors of `poll(2)`.
    pub fn sleep(&self, duration: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(duration).ok();
        let mut ready = [PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut ready, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
