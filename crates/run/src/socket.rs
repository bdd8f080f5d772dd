//! Reads the state of a socket, and discards unread bytes.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use linger_custody::{Discarded, HalfClosed, Socket};
use linger_sys::TcpState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, sockopt};

/// Reads the state of a socket that the decision about its close needs.
pub(crate) fn socket(socket: BorrowedFd<'_>) -> Socket {
    socket_in(state(socket), socket)
}

/// The same of one whose TCP state was read just now.
pub(crate) fn socket_in(before: Option<TcpState>, socket: BorrowedFd<'_>) -> Socket {
    // A connection in this state has no FIN of its peer, and has not failed. `shutdown` with `SHUT_RD` makes poll report a FIN all
    // the same, and a message in the error queue a failure (`tcp_poll`).
    let is_open = before == Some(TcpState::Established);
    let events = if is_open { PollFlags::empty() } else { events(socket) };
    Socket {
        aborts: sockopt::socket_linger(socket).is_ok_and(|linger| linger == Some(Duration::ZERO)),
        peer_finished: events.contains(PollFlags::RDHUP) && has_ended(before, socket),
        over: events.intersects(PollFlags::HUP | PollFlags::ERR),
        // Last: nothing comes after a FIN.
        unread: unread(socket),
    }
}

/// Whether a connection that poll reports a FIN of has one: it may have come from Fast Open's state to the open one since `before`.
fn has_ended(before: Option<TcpState>, socket: BorrowedFd<'_>) -> bool {
    before == Some(TcpState::CloseWait) || state(socket) != Some(TcpState::Established)
}

/// Reads the state of a half-closed socket.
pub(crate) fn half_closed(socket: BorrowedFd<'_>) -> HalfClosed {
    // Multipath TCP answers for its first subflow.
    let closed = state(socket) == Some(TcpState::Close)
        && linger_sys::is_multipath(socket).is_ok_and(|multipath| !multipath);
    if !closed {
        return HalfClosed::default();
    }
    let failed = events(socket).contains(PollFlags::ERR);
    HalfClosed { closed, failed, unread: unread(socket) }
}

fn events(socket: BorrowedFd<'_>) -> PollFlags {
    let mut one = [PollFd::from_borrowed_fd(socket, PollFlags::IN | PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut one, Some(&at_once)).map_or(PollFlags::empty(), |_| one[0].revents())
}

/// The state of a TCP connection; `None` for another socket.
fn state(socket: BorrowedFd<'_>) -> Option<TcpState> {
    linger_sys::tcp_state(socket).ok()
}

/// Received bytes that are unread (FIONREAD).
fn unread(socket: BorrowedFd<'_>) -> u32 {
    linger_sys::unread(socket).map_or(0, |bytes| u32::try_from(bytes).unwrap_or(u32::MAX))
}

/// Discards what is unread of a connection whose peer has sent its FIN.
pub(crate) fn discard(socket: impl AsFd) -> Discarded {
    let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
    let mut scratch = [0; 16_384];
    loop {
        match rustix::net::recv(&socket, &mut scratch[..], flags) {
            Ok((_, 0)) => return Discarded::ToTheEnd,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN | Errno::FAULT) => return Discarded::Unable,
            Err(_) => return Discarded::Failed,
        }
    }
}
