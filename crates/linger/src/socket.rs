//! Does one action of the machine on a real socket, and returns the event that follows.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use linger_sys::fd::{AsFd, BorrowedFd, OwnedFd};
use linger_sys::{Discarder, Family, TcpInfo, TcpState};
use rustix::io::Errno;
use rustix::net::{Shutdown, sockopt};

use crate::machine::Event;

/// A socket that is being closed, with its family.
#[derive(Debug)]
pub(crate) struct Socket<F = OwnedFd> {
    fd: F,
    family: Family,
    /// Somebody else has closed the descriptor.
    is_lost: Cell<bool>,
    fin: Cell<Fin>,
    ends: Cell<EndsSeen>,
}

/// Which directions of a connection have come to their ends, as far as the kernel has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndsSeen {
    Neither,
    /// An AF_UNIX peer is gone with bytes unread: the kernel has freed them, and its count of unread bytes is 0 now.
    Unread,
    /// There has never been a connection: the half-close has ended the attempt to connect, and the kernel's counts of bytes
    /// mean nothing (`tcp_disconnect`).
    NeverBegan,
    /// The peer's direction: its FIN was read, so the handshake is over, and an empty send queue means that everything is
    /// acknowledged.
    Peers,
    /// Both directions have ended, and everything is acknowledged, the FIN of this side included. The socket's state is
    /// CLOSE; if the kernel remembers the connection, it does so in a TIME_WAIT socket (`tcp_time_wait`).
    Both,
}

/// Whether the FIN stands in the send queue, which counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fin {
    /// Nobody has shut the socket down.
    Unsent,
    /// `shutdown(2)` has succeeded.
    Queued,
    /// The owner has shut it down; runtimes report success also for a connection that was gone (`ENOTCONN`).
    #[cfg(feature = "tokio")]
    Said,
}

impl Socket {
    /// Takes a stream socket over.
    ///
    /// # Errors
    /// Returns the descriptor with the reason if it is no stream socket.
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, (OwnedFd, io::Error)> {
        match linger_sys::family(fd.as_fd()) {
            Ok(family) => Ok(Self::of(family, fd)),
            Err(error) => Err((fd, error)),
        }
    }

    /// Undoes what the program may have set with `SO_LINGER`.
    pub(crate) fn forget_linger(&self) {
        // A socket that refuses the option has no linger to get rid of.
        let _ = sockopt::set_socket_linger(&self.fd, None);
    }

    /// Closes without waiting, and without a reset unless `abort`, whatever `SO_LINGER` the program has set before.
    ///
    /// `close()` on a socket with `SO_LINGER > 0` blocks, even a non-blocking one, until the FIN is acknowledged; with
    /// `SO_LINGER 0` it resets, also where everything is acknowledged (`__tcp_close`).
    ///
    /// If both directions have ended, `close()` neither blocks nor resets (`__tcp_close` asks the state first), so the
    /// option is left as it is.
    ///
    /// A descriptor that the kernel no longer knows is not closed: its number may belong to another file by now.
    pub(crate) fn close(self, abort: bool) {
        if self.is_lost.get() {
            std::mem::forget(self.fd);
            return;
        }
        if abort || self.ends.get() != EndsSeen::Both {
            // A socket that refuses the option has no linger to get rid of.
            let _ = sockopt::set_socket_linger(&self.fd, abort.then_some(Duration::ZERO));
        }
        drop(self.fd);
    }
}

impl<F: AsFd> Socket<F> {
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The descriptor's number, where sockets have one.
    pub(crate) fn number(&self) -> Option<u64> {
        linger_sys::descriptor_number(self.fd.as_fd())
    }

    /// Takes over a socket that is known to be a stream of this family.
    pub(crate) fn of(family: Family, fd: F) -> Self {
        let (is_lost, fin, ends) = (Cell::new(false), Cell::new(Fin::Unsent), Cell::new(EndsSeen::Neither));
        Self { fd, family, is_lost, fin, ends }
    }

    /// The same socket; `is_half_closed` says whether its owner has half-closed it.
    #[cfg(feature = "tokio")]
    pub(crate) fn half_closed(self, is_half_closed: bool) -> Self {
        self.fin.set(if is_half_closed { Fin::Said } else { Fin::Unsent });
        self
    }

    /// The same socket held by another owner.
    #[cfg(feature = "tokio")]
    pub(crate) fn map<G: AsFd>(self, owner: impl FnOnce(F) -> io::Result<G>) -> io::Result<Socket<G>> {
        let Self { fd, family, is_lost, fin, ends } = self;
        Ok(Socket { fd: owner(fd)?, family, is_lost, fin, ends })
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn get_ref(&self) -> &F {
        &self.fd
    }

    /// Sends the FIN after everything that was written.
    pub(crate) fn half_close(&self) -> Event {
        match rustix::net::shutdown(self.as_fd(), Shutdown::Write) {
            Ok(()) => {
                self.fin.set(Fin::Queued);
                Event::HalfClosed
            }
            Err(error) => self.not_half_closed(&error.into()),
        }
    }

    fn not_half_closed(&self, error: &io::Error) -> Event {
        if IS_GONE.contains(&error.kind()) { Event::Gone } else { self.failure(error) }
    }

    pub(crate) fn discard(&self, discarder: &mut Discarder, max: u64) -> Event {
        self.discarded(discarder.discard(self.fd.as_fd(), max))
    }

    fn discarded(&self, result: io::Result<u64>) -> Event {
        match result {
            Ok(0) => {
                if self.ends.get() == EndsSeen::Neither {
                    self.ends.set(EndsSeen::Peers);
                }
                Event::EndOfStream
            }
            Ok(bytes) => Event::Discarded(bytes),
            // Kernel TLS answers EIO when a plain read meets a close_notify: the peer sends nothing more.
            #[cfg(unix)]
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Event::EndOfStream,
            Err(error) => {
                let event = self.failure(&error);
                match (event, self.family) {
                    (Event::Reset, Family::Unix) => self.ends.set(EndsSeen::Unread),
                    (Event::Reset, Family::Tcp) if self.has_never_begun() => {
                        self.ends.set(EndsSeen::NeverBegan);
                        return Event::Gone;
                    }
                    _ => {}
                }
                event
            }
        }
    }

    /// Sets `SO_RCVLOWAT`, so that a flood wakes the reader once per 256 KiB.
    ///
    /// CPU time for each discarded GB, measured on loopback (Linux 6.18): 0.11 s without, 0.11 s with 128 KiB, 0.025 s with
    /// 256 KiB. The end of the stream and a window about to close wake the reader in any case (`tcp_epollin_ready`); fewer
    /// bytes are found when the timer fires.
    pub(crate) fn batch_events(&self) {
        if self.family == Family::Tcp {
            // A hint: a kernel that refuses it costs no correctness.
            let _ = linger_sys::set_receive_low_water(self.fd.as_fd(), 256 << 10);
        }
    }

    /// Sets a small receive buffer, so that the kernel holds little of what nobody is going to read.
    ///
    /// Otherwise the receive buffer, which a fast sender may have made grow to `tcp_rmem[2]`, 6 to 32 MB, would fill up.
    /// While data is read a small buffer gains nothing and costs CPU (a wake-up and a window update each time it is full), so
    /// this is for the time when reading has stopped or is held back.
    pub(crate) fn narrow(&self) {
        if self.family == Family::Tcp {
            let _ = sockopt::set_socket_recv_buffer_size(self.as_fd(), 64 << 10);
        }
    }

    /// The peer's address, if it has one.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        rustix::net::getpeername(self.as_fd()).ok().flatten().and_then(|address| address.try_into().ok())
    }

    /// Whether somebody else has closed the descriptor.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost.get()
    }

    fn failure(&self, error: &io::Error) -> Event {
        let code = error.raw_os_error().map(Errno::from_raw_os_error);
        self.is_lost.set(matches!(code, Some(Errno::BADF | Errno::NOTSOCK)));
        failure(error)
    }

    /// Asks for the size of the send queue; on TCP it keeps its value when a reset ends the connection.
    ///
    /// The FIN counts as a byte of it from the half-close on. Until the handshake is over the kernel answers 0
    /// whatever was written (`tcp_ioctl`), as with Fast Open, where a server may read, answer and half-close in
    /// SYN_RECV: there 0 says nothing.
    pub(crate) fn measure(&self) -> Event {
        if matches!(self.ends.get(), EndsSeen::Unread | EndsSeen::NeverBegan) {
            return Event::Unknown;
        }
        let Ok(queue) = linger_sys::send_queue(self.fd.as_fd()) else { return Event::Unknown };
        match self.family {
            Family::Tcp if queue > 0 => {
                let is_counted = match self.fin.get() {
                    Fin::Unsent => false,
                    Fin::Queued => true,
                    // After a reset it is unknown whether the queue still counts a FIN: count all of it as bytes of the program.
                    #[cfg(feature = "tokio")]
                    Fin::Said => self.state() != Some(TcpState::Close),
                };
                Event::Unacknowledged { bytes: queue - u64::from(is_counted), fin: false }
            }
            Family::Tcp if self.ends.get() == EndsSeen::Neither && self.is_in_handshake() => Event::Unknown,
            Family::Tcp => {
                if self.ends.get() == EndsSeen::Peers && self.fin.get() != Fin::Unsent {
                    self.ends.set(EndsSeen::Both);
                }
                Event::Unacknowledged { bytes: 0, fin: true }
            }
            Family::Unix => Event::Unacknowledged { bytes: queue, fin: queue == 0 },
            _ => Event::Unknown,
        }
    }

    /// Whether a socket that reports a reset was still connecting. `shutdown` in SYN_SENT succeeds, leaves ECONNRESET to be
    /// read, and removes the local address that `connect` had assigned (`inet_shutdown`, `tcp_disconnect`).
    fn has_never_begun(&self) -> bool {
        let local =
            rustix::net::getsockname(self.as_fd()).ok().and_then(|local| SocketAddr::try_from(local).ok());
        local.is_some_and(|local| local.ip().is_unspecified())
    }

    fn is_in_handshake(&self) -> bool {
        matches!(self.state(), Some(TcpState::SynSent | TcpState::SynReceived))
    }

    fn state(&self) -> Option<TcpState> {
        linger_sys::tcp_state(self.fd.as_fd()).ok()
    }

    /// Asks for what the kernel knows of the peer.
    ///
    /// Of Multipath TCP the kernel answers for the first subflow. If that has ended, others may go on, and nothing is known.
    pub(crate) fn inspect(&self) -> Event {
        let is_known = self.family == Family::Tcp && !self.is_other_subflow();
        let info = if is_known { linger_sys::tcp_info(self.fd.as_fd()).ok() } else { None };
        let Some(info) = info else { return Event::NotInspected };
        let TcpInfo { probes, retransmits, last_ack, round_trip, data_segments, .. } = info;
        Event::Inspected { probes, retransmits, last_ack, round_trip, data_segments }
    }

    /// Whether the connection ended without everything being acknowledged: it was reset or timed out.
    ///
    /// The first subflow of Multipath TCP may end alone; the end of the connection is an error that waits on the socket.
    pub(crate) fn is_dead(&self) -> bool {
        self.family == Family::Tcp
            && self.state() == Some(TcpState::Close)
            && is_cut(linger_sys::send_queue(self.fd.as_fd()).ok(), || self.is_multipath())
    }

    /// Whether the state that the kernel reports may be that of one subflow that has ended.
    fn is_other_subflow(&self) -> bool {
        self.state() == Some(TcpState::Close) && self.is_multipath()
    }

    fn is_multipath(&self) -> bool {
        linger_sys::is_multipath(self.fd.as_fd()).unwrap_or(false)
    }

    /// Takes the error that waits on the socket, if any.
    pub(crate) fn pending(&self) -> Option<Event> {
        match sockopt::socket_error(self.as_fd()) {
            Ok(Err(error)) => Some(failure(&error.into())),
            _ => None,
        }
    }
}

#[cfg(all(test, unix))]
impl<F: AsFd> AsFd for Socket<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether a connection in the state CLOSE ended with bytes unacknowledged. With Multipath TCP the state does not tell,
/// because it is that of one subflow.
fn is_cut(queue: Option<u64>, is_multipath: impl FnOnce() -> bool) -> bool {
    queue.is_some_and(|queue| queue > 0) && !is_multipath()
}

/// What `shutdown(2)` says of a connection that is over: ENOTCONN, EPIPE, ECONNRESET.
const IS_GONE: [ErrorKind; 3] = [ErrorKind::NotConnected, ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];

fn failure(error: &io::Error) -> Event {
    match error.kind() {
        ErrorKind::WouldBlock => Event::Empty,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => Event::Reset,
        ErrorKind::NotConnected => Event::Gone,
        ErrorKind::TimedOut => Event::KernelTimeout,
        kind => Event::Failed(kind),
    }
}

#[cfg(all(test, not(loom)))]
#[path = "socket_tests.rs"]
mod tests;
