//! Waits for a client's socket until a deadline or a stop.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::stop::Stop;

/// A deadline, and a stop that may come before it.
pub(crate) struct Patience<'a> {
    pub(crate) deadline: Instant,
    pub(crate) stop: Option<&'a Stop>,
}

impl Patience<'_> {
    /// Waits for so long. Fails with `TimedOut` at the deadline, and with `Interrupted` at the stop.
    pub(crate) fn pause(&self, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        while !left(end.min(self.deadline)).is_zero() {
            match self.stop {
                Some(stop) if stop.requested() => return Err(io::ErrorKind::Interrupted.into()),
                Some(stop) => stop.sleep(left(end.min(self.deadline)))?,
                None => std::thread::sleep(left(end.min(self.deadline))),
            }
        }
        if end >= self.deadline { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// Waits until the socket is ready for `interest`, and returns its events; none if a signal ended the wait.
    /// Fails with `TimedOut` at the deadline, and with `Interrupted` at the stop.
    pub(crate) fn wait(&self, socket: &impl AsFd, interest: PollFlags) -> io::Result<PollFlags> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let timeout = Timespec::try_from(left).ok();
        // The array always has two entries: without a stop, the second is the socket itself, with no events.
        let stop = match self.stop {
            Some(stop) => PollFd::from_borrowed_fd(stop.wake(), PollFlags::IN),
            None => PollFd::new(socket, PollFlags::empty()),
        };
        let mut ready = [PollFd::new(socket, interest), stop];
        match rustix::event::poll(&mut ready, timeout.as_ref()) {
            Ok(_) if self.stop.is_some_and(Stop::requested) => Err(io::ErrorKind::Interrupted.into()),
            Ok(_) => Ok(ready[0].revents()),
            Err(rustix::io::Errno::INTR) => Ok(PollFlags::empty()),
            Err(error) => Err(error.into()),
        }
    }
}
