//! How a session waits: for the peer, for the socket, for its program's own reasons.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::core::Core;
use crate::cancel::has_fired;
use crate::error::Error;
use crate::host;
use crate::wire::FrameKind;

/// How long a session waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deadlines {
    /// Silence after which a ping asks the peer whether it is still there. A longer time saves a few bytes an hour.
    pub ping: Duration,
    /// Time without one byte in either direction after which the connection counts as lost. With a longer time a
    /// session outlasts longer outages without reconnecting, and the memory of dead peers is kept longer.
    pub stall: Duration,
    /// Time without progress after which the session ends, though the peer answers pings. Progress, in either direction, is
    /// an OPEN, MESSAGE, FINISH or CANCEL, 64 KiB of content or the end of a DATA frame; also a further step of the work
    /// that the peer reports. PING, PONG and CREDIT are none. The bound does not apply while this side works, or while the
    /// peer reports that it waits for its turn, a command or a source. A shorter time frees sooner what an inactive peer
    /// holds; it has to be longer than any sync of a disk.
    pub progress: Duration,
}

impl Default for Deadlines {
    /// Ping after 10 s, give up after 45 s: four pings, and longer than a Wi-Fi roam or a PPP redial. Ten minutes
    /// without progress.
    fn default() -> Self {
        Self {
            ping: Duration::from_secs(10),
            stall: Duration::from_secs(45),
            progress: Duration::from_secs(600),
        }
    }
}

impl Core {
    /// Sends a ping, so that the peer knows that this side is alive while it waits for something else.
    ///
    /// # Errors
    /// Returns the errors of [`flush`](Self::flush).
    pub(super) fn ping(&mut self) -> Result<(), Error> {
        self.control(FrameKind::Ping, 0, 0);
        self.flush()
    }

    /// Sends what is in the buffer, and then sends nothing more for `pause`.
    ///
    /// # Errors
    /// Returns [`Error::Cancelled`] as soon as a cancellation is asked for; otherwise the errors of
    /// [`flush`](Self::flush).
    pub(super) fn rest(&mut self, pause: Duration) -> Result<(), Error> {
        self.flush()?;
        if self.cancel.wait(pause) {
            return Err(Error::Cancelled);
        }
        // The pause was this side's own, and does not count against the peer.
        self.activity.got_on(host::now());
        Ok(())
    }

    /// Waits until the peer sends something, which is kept for later, or until `pause` has passed.
    ///
    /// # Errors
    /// Returns [`Error::Cancelled`], [`Error::Cut`] if the peer has gone, and the errors of
    /// [`receive`](Self::receive).
    pub(super) fn linger_for(&mut self, pause: Duration) -> Result<(), Error> {
        self.flush()?;
        let took = match self.cancel.wait_beside(self.transport.socket(), PollFlags::IN, pause) {
            Ok(is_readable) => is_readable && self.service()?,
            Err(_) if self.cancel.is_cancelled() => return Err(Error::Cancelled),
            Err(error) => return Err(Error::io("wait for", "the connection", error)),
        };
        // If the socket is readable but holds no whole event yet, pause: the caller would spin.
        if !took && self.cancel.wait(Duration::from_millis(20).min(pause)) {
            return Err(Error::Cancelled);
        }
        Ok(())
    }

    /// Waits until the peer has sent something, `other` is readable, or `timeout` has passed. Returns whether `other`
    /// is readable.
    ///
    /// # Errors
    /// Returns [`Error::Cancelled`], or the errors of `poll(2)`.
    pub(super) fn wait_for(&mut self, other: BorrowedFd<'_>, timeout: Duration) -> Result<bool, Error> {
        self.flush()?;
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut fds = self.cancel.to_poll();
        let own = fds.len();
        fds.push(PollFd::from_borrowed_fd(self.transport.socket(), PollFlags::IN));
        fds.push(PollFd::from_borrowed_fd(other, PollFlags::IN));
        match host::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::io("wait for", "the source", error)),
        }
        if has_fired(&fds[..own]) {
            return Err(Error::Cancelled);
        }
        let is_readable = !fds[own + 1].revents().is_empty();
        if is_readable {
            self.activity.got_on(host::now());
        }
        Ok(is_readable)
    }

    pub(super) fn wait_if_empty(&mut self, error: io::Error) -> Result<(), Error> {
        match error.kind() {
            ErrorKind::WouldBlock => self.wait(PollFlags::IN, true).map(drop),
            ErrorKind::Interrupted => Ok(()),
            _ => Err(Error::Cut(error)),
        }
    }

    /// Waits for the socket, pinging a silent peer if `ping`.
    pub(super) fn wait(&mut self, interest: PollFlags, ping: bool) -> Result<PollFlags, Error> {
        let started = host::now();
        self.heard = self.heard.max(started.checked_sub(self.deadlines.ping).unwrap_or(started));
        loop {
            let silent = host::now().saturating_duration_since(self.heard);
            if silent >= self.deadlines.stall {
                let told = format!("nothing was heard for {:.0} s", silent.as_secs_f64());
                return Err(Error::Cut(io::Error::new(ErrorKind::TimedOut, told)));
            }
            let idle = self.activity.idle(host::now());
            if idle >= self.deadlines.progress && !self.peer_may_rest() {
                let told = format!("it is there, but nothing has come of it for {:.0} s", idle.as_secs_f64());
                return Err(Error::Cut(io::Error::new(ErrorKind::TimedOut, told)));
            }
            let left = self.deadlines.progress.saturating_sub(idle).max(Duration::from_millis(1));
            let timeout = self.deadlines.ping.min(self.deadlines.stall - silent).min(left);
            let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            let mut fds = self.cancel.to_poll();
            let own = fds.len();
            let read = PollFd::from_borrowed_fd(self.transport.socket(), interest & PollFlags::IN);
            let write = PollFd::from_borrowed_fd(self.transport.socket_to_write(), interest & PollFlags::OUT);
            // poll(2) reports POLLERR and POLLHUP also for an fd without events, and the loop would spin: poll the other
            // one twice.
            fds.extend(match (interest.contains(PollFlags::IN), interest.contains(PollFlags::OUT)) {
                (true, true) => [read, write],
                (true, false) => [read.clone(), read],
                _ => [write.clone(), write],
            });
            match host::poll(&mut fds, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::io("wait for", "the connection", error)),
                Ok(0) if ping => {
                    self.control(FrameKind::Ping, 0, 0);
                    self.try_flush();
                }
                Ok(0) => {}
                Ok(_) if has_fired(&fds[..own]) => return Err(Error::Cancelled),
                Ok(_) => return Ok(fds[own].revents() | fds[own + 1].revents()),
            }
        }
    }
}
