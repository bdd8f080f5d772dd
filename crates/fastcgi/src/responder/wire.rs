//! The connection, as a conversation on threads uses it.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use linger::Event;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use socket2::Socket;

use super::StopResponder;
use super::gate::{Doorbell, Rested};
use super::stop::overdue;
use crate::socket;

/// A connection: calls that never wait, and calls that wait until it is ready.
pub(super) trait Wire: Debug + Send + Sync {
    /// Receives without waiting. Returns 0 at the end of the stream; `WouldBlock` if nothing has arrived.
    fn receive(&self, to: &mut [u8]) -> io::Result<usize>;
    /// Sends as much as the send buffer takes; `WouldBlock` if it is full.
    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Waits until there may be something to receive, for a [wake](Self::wake), or until `until`.
    fn await_input(&self, until: Option<Instant>) -> io::Result<Awaited>;
    /// Waits until the send buffer has room, or, if `reads`, there may be something to receive. The time is that of `patience`.
    fn await_room(&self, patience: Duration, reads: bool) -> io::Result<Ready>;
    /// Ends the present or the next wait for input.
    fn wake(&self);
    /// Asks the kernel how much was sent and is not acknowledged.
    fn unacknowledged(&self) -> Event;
    /// Waits without a request, for input or until `until`, the bell, or, if `stops`, the responder's stop.
    fn rest(&self, until: Option<Instant>, stops: bool, bell: &Doorbell) -> io::Result<Rested>;
}

/// The result of a wait for input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    Input,
    Wake,
    Time,
}

/// The result of a wait for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    Output,
    Input,
    Time,
}

/// A socket, and an eventfd that wakes its reading thread if handlers have threads of their own.
#[derive(Debug)]
pub(super) struct SocketWire {
    socket: Socket,
    wake: Option<OwnedFd>,
    stop: StopResponder,
}

impl SocketWire {
    /// `multiplex`: handlers have threads of their own.
    ///
    /// # Errors
    /// Returns the socket together with the error if no descriptor is left.
    pub(super) fn new(
        socket: Socket,
        multiplex: bool,
        stop: StopResponder,
    ) -> Result<Self, (Socket, io::Error)> {
        // AF_UNIX has no TCP_NODELAY and does not need it.
        let _ = socket.set_tcp_nodelay(true);
        let wake = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        match multiplex.then(wake).transpose() {
            Ok(wake) => Ok(Self { socket, wake, stop }),
            Err(error) => Err((socket, error.into())),
        }
    }

    pub(super) fn into_socket(self) -> Socket {
        self.socket
    }

    /// Waits for the socket and for a wake. Returns for each whether it came. Fails when the responder has to end.
    fn await_either(&self, until: Option<Instant>) -> io::Result<(bool, bool)> {
        // If there is no eventfd, the second entry watches nothing.
        let (wake, interest) = self
            .wake
            .as_ref()
            .map_or((self.socket.as_fd(), PollFlags::empty()), |wake| (wake.as_fd(), PollFlags::IN));
        let mut ready = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::from_borrowed_fd(wake, interest),
            PollFd::new(self.stop.overdue(), PollFlags::IN),
        ];
        loop {
            match poll(&mut ready, left(until).as_ref()) {
                Err(Errno::INTR) => {}
                result => {
                    result?;
                    if !ready[2].revents().is_empty() {
                        return Err(overdue());
                    }
                    return Ok((!ready[0].revents().is_empty(), ready[1].revents().contains(PollFlags::IN)));
                }
            }
        }
    }
}

impl Wire for SocketWire {
    fn receive(&self, to: &mut [u8]) -> io::Result<usize> {
        // Where bytes are always there nobody waits, and so nobody would learn that the time is over.
        if self.stop.left().is_some_and(|left| left.is_zero()) {
            return Err(overdue());
        }
        socket::receive(&self.socket, to)
    }

    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        socket::send(&self.socket, parts)
    }

    fn await_input(&self, until: Option<Instant>) -> io::Result<Awaited> {
        let (input, woken) = self.await_either(until)?;
        if let Some(wake) = self.wake.as_ref().filter(|_| woken) {
            // Resets the counter, whose value does not matter.
            let _ = rustix::io::read(wake, &mut [0; 8]);
            return Ok(Awaited::Wake);
        }
        Ok(if input { Awaited::Input } else { Awaited::Time })
    }

    fn await_room(&self, patience: Duration, reads: bool) -> io::Result<Ready> {
        let until = Instant::now().checked_add(patience);
        let interest = if reads { PollFlags::OUT | PollFlags::IN } else { PollFlags::OUT };
        loop {
            let mut ready =
                [PollFd::new(&self.socket, interest), PollFd::new(self.stop.overdue(), PollFlags::IN)];
            match poll(&mut ready, left(until).as_ref()) {
                Err(Errno::INTR) => {}
                result if result? == 0 => return Ok(Ready::Time),
                _ if !ready[1].revents().is_empty() => return Err(overdue()),
                // An error of the connection is reported by the next write.
                _ if ready[0].revents() == PollFlags::IN => return Ok(Ready::Input),
                _ => return Ok(Ready::Output),
            }
        }
    }

    fn wake(&self) {
        if let Some(wake) = &self.wake {
            // At 2^64 - 2 requests the counter is full, and then the reader is awake anyway.
            let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
        }
    }

    fn unacknowledged(&self) -> Event {
        socket::unacknowledged(&self.socket)
    }

    fn rest(&self, until: Option<Instant>, stops: bool, bell: &Doorbell) -> io::Result<Rested> {
        // Where the stop ends the wait, nobody waits until its time is over. Each fd costs a wait without a request something.
        let stop = if stops { self.stop.asked() } else { self.stop.overdue() };
        let mut ready = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::new(bell.rung(), PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        while let Err(error) = poll(&mut ready, left(until).as_ref()) {
            if error != Errno::INTR {
                return Err(error.into());
            }
        }
        let [input, rung, stopped] = ready.map(|entry| !entry.revents().is_empty());
        // A request that arrives at the same time as the stop, or as the bell, is still served.
        match () {
            () if stopped && !stops => Err(overdue()),
            () if input => Ok(Rested::Input),
            () if rung => Ok(Rested::Evicted),
            () if stopped => Ok(Rested::Stop),
            () => Ok(Rested::Time),
        }
    }
}

/// The time left until `until`, for `poll`; `None` means for ever.
fn left(until: Option<Instant>) -> Option<Timespec> {
    let left = until?.saturating_duration_since(Instant::now());
    Timespec::try_from(left).ok()
}
