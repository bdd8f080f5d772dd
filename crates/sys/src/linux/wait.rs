//! Waiting for one socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::io::Errno;

use super::timespec;

/// Waits for events of one socket.
#[derive(Debug, Default)]
pub struct SocketWait {
    /// The epoll, made at the first wait, because many closes never wait.
    epoll: Option<OwnedFd>,
    /// If there is no epoll: how long the last wait was.
    slice: Duration,
}

/// If there is no epoll: the shortest and the longest wait before the caller looks for an acknowledgement, which `poll(2)`
/// does not report. Each wait is twice the last.
const SLICES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

impl SocketWait {
    /// Waits for an event of the socket, the acknowledgement of the FIN among them, until `until` at the latest.
    /// `has_read`: something was read since the last wait, so that "readable" means that more has arrived.
    ///
    /// `poll(2)` cannot await that acknowledgement: after a half-close it reports POLLOUT for ever. An
    /// edge-triggered epoll with EPOLLOUT is woken by the change from FIN_WAIT1 to FIN_WAIT2
    /// (`tcp_rcv_state_process`). The epoll takes another descriptor. If the process may not have one, the socket is polled,
    /// and the caller asks the kernel again and again what is acknowledged.
    ///
    /// # Errors
    /// Returns the errors of `epoll_ctl(2)`, `epoll_wait(2)` and `poll(2)`.
    pub fn wait(&mut self, socket: BorrowedFd<'_>, has_read: bool, until: Instant) -> io::Result<()> {
        let epoll = match &self.epoll {
            Some(epoll) => epoll,
            None => match register(socket) {
                Ok(epoll) => self.epoll.insert(epoll),
                Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOSPC) => {
                    return self.poll(socket, has_read, until);
                }
                Err(error) => return Err(error.into()),
            },
        };
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 1];
        loop {
            match epoll::wait(epoll.as_fd(), &mut events, Some(&left(until))) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Waits until the socket takes more bytes. Returns false if it takes none until `until`; true also if a signal has
    /// interrupted the wait.
    ///
    /// # Errors
    /// Returns the errors of `poll(2)`.
    pub fn writable(socket: BorrowedFd<'_>, until: Instant) -> io::Result<bool> {
        match poll(&mut [PollFd::from_borrowed_fd(socket, PollFlags::OUT)], Some(&left(until))) {
            Ok(0) => Ok(false),
            Ok(_) | Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn poll(&mut self, socket: BorrowedFd<'_>, has_read: bool, until: Instant) -> io::Result<()> {
        let (shortest, longest) = SLICES;
        self.slice = (self.slice * 2).clamp(shortest, longest);
        // Without a read in between, `poll` would report the unread bytes, or the peer's end, again at once.
        let events = if has_read { PollFlags::IN } else { PollFlags::empty() };
        let until = until.min(Instant::now() + self.slice);
        match poll(&mut [PollFd::from_borrowed_fd(socket, events)], Some(&left(until))) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Makes an epoll that has only this socket. What happened before is reported by the first wait.
fn register(socket: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let made = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let interest =
        epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    epoll::add(&made, socket, epoll::EventData::new_u64(0), interest)?;
    Ok(made)
}

fn left(until: Instant) -> rustix::event::Timespec {
    timespec(until.saturating_duration_since(Instant::now()))
}
