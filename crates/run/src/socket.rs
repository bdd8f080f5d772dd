//! Reads the state of a socket, and discards unread bytes.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use linger_custody::{Discarded, Socket};
use linger_sys::TcpState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, sockopt};

/// Reads the state of a socket that the decision about its close needs.
pub(crate) fn socket(socket: BorrowedFd<'_>) -> Socket {
    let mut one = [PollFd::from_borrowed_fd(socket, PollFlags::IN | PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let events = poll(&mut one, Some(&at_once)).map_or(PollFlags::empty(), |_| one[0].revents());
    Socket {
        aborts: sockopt::socket_linger(socket).is_ok_and(|linger| linger == Some(Duration::ZERO)),
        peer_finished: events.contains(PollFlags::RDHUP) && !is_established(socket),
        over: events.intersects(PollFlags::HUP | PollFlags::ERR),
        unread: unread(socket),
    }
}

/// Whether this is a TCP connection whose peer has sent no FIN. `shutdown` with `SHUT_RD` makes poll report one all the same.
fn is_established(socket: BorrowedFd<'_>) -> bool {
    linger_sys::tcp_state(socket).is_ok_and(|state| state == TcpState::Established)
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
