//! Waiting for one socket.

use std::io;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::timespec;
use crate::fd::BorrowedFd;

/// Waits for events of one socket.
#[derive(Debug, Default)]
pub struct SocketWait {}

impl SocketWait {
    /// Waits for an event of the socket, until `until` at the latest. `has_read`: something was read since the last
    /// wait, so that "readable" means that more has arrived. Without that, no event ends the wait early.
    ///
    /// # Errors
    /// Returns the errors of `poll`.
    pub fn wait(&mut self, socket: BorrowedFd<'_>, has_read: bool, until: Instant) -> io::Result<()> {
        // Unread bytes would be reported at once, again and again.
        if !has_read {
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            return Ok(());
        }
        wait_for(socket, PollFlags::IN, until).map(drop)
    }

    /// Waits until the socket takes more bytes. Returns false if it takes none until `until`; true also if a signal has
    /// interrupted the wait.
    ///
    /// # Errors
    /// Returns the errors of `poll`.
    pub fn writable(socket: BorrowedFd<'_>, until: Instant) -> io::Result<bool> {
        wait_for(socket, PollFlags::OUT, until)
    }
}

fn wait_for(socket: BorrowedFd<'_>, events: PollFlags, until: Instant) -> io::Result<bool> {
    let left = timespec(until.saturating_duration_since(Instant::now()));
    match poll(&mut [PollFd::from_borrowed_fd(socket, events)], Some(&left)) {
        Ok(0) => Ok(false),
        Ok(_) | Err(Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
