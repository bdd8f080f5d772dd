//! Reads the state of a socket, and discards unread bytes.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use linger_custody::{Discarded, HalfClosed, Socket};
use linger_sys::{TcpInfo, TcpState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, sockopt};

/// Reads the state of a socket that the decision about its close needs.
pub(crate) fn socket(socket: BorrowedFd<'_>) -> Socket {
    socket_in(state(socket), false, socket)
}

/// As [`socket`], for a socket whose TCP state was read just now. `is_plain` says that it is known to be plain TCP: the
/// state of Multipath TCP is that of one subflow.
pub(crate) fn socket_in(before: Option<TcpState>, is_plain: bool, socket: BorrowedFd<'_>) -> Socket {
    if is_plain && before == Some(TcpState::CloseWait) {
        let aborts = aborts(socket);
        return Socket { aborts, peer_finished: true, over: false, unread: unread(socket) };
    }
    // A connection in this state has no FIN of its peer, and has not failed. So poll is not asked: it would report
    // `SHUT_RD` as a FIN, and a message in the error queue as a failure (`tcp_poll`).
    let is_open = before == Some(TcpState::Established);
    let events = if is_open { PollFlags::empty() } else { events(socket) };
    Socket {
        aborts: aborts(socket),
        peer_finished: events.contains(PollFlags::RDHUP) && has_ended(before, socket),
        over: events.intersects(PollFlags::HUP | PollFlags::ERR),
        // Last: nothing comes after a FIN.
        unread: unread(socket),
    }
}

/// The state of an open connection of plain TCP before its last close, so that less has to be asked after it. Nobody
/// may read from the connection in between, or `unread` is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenBefore {
    aborts: bool,
    unread: u32,
    data_segments: u32,
}

impl OpenBefore {
    /// `None` for a connection that must be asked again about everything. `info` was read before `socket`.
    pub(crate) fn new(info: TcpInfo, socket: Socket) -> Option<Self> {
        let Socket { aborts, unread, .. } = socket;
        let data_segments = info.data_segments;
        (info.state == TcpState::Established).then_some(Self { aborts, unread, data_segments })
    }

    /// The state of the socket now. Asks only for what may have changed.
    pub(crate) fn socket_now(&self, socket: BorrowedFd<'_>) -> Socket {
        let Ok(info) = linger_sys::tcp_info(socket) else { return self::socket(socket) };
        let unread = || if self.is_empty(&info) { 0 } else { unread(socket) };
        match info.state {
            TcpState::Established => {
                Socket { aborts: self.aborts, peer_finished: false, over: false, unread: unread() }
            }
            TcpState::CloseWait => {
                Socket { aborts: self.aborts, peer_finished: true, over: false, unread: unread() }
            }
            _ => self::socket(socket),
        }
    }

    /// As [`socket_now`](Self::socket_now), for a socket that was half-closed since.
    pub(crate) fn half_closed_now(&self, socket: BorrowedFd<'_>) -> HalfClosed {
        match linger_sys::tcp_info(socket) {
            Ok(info) if info.state == TcpState::Close => {
                let unread = if self.is_empty(&info) { 0 } else { unread(socket) };
                HalfClosed { closed: true, failed: events(socket).contains(PollFlags::ERR), unread }
            }
            _ => HalfClosed::default(),
        }
    }

    /// Whether nothing can be unread. A segment is counted before it is queued (`tcp_segs_in`).
    fn is_empty(&self, info: &TcpInfo) -> bool {
        self.unread == 0 && info.data_segments == self.data_segments
    }
}

/// Whether a FIN that poll reports is the peer's, and not due to `SHUT_RD`. The state is read again, because a
/// connection of TCP Fast Open may have become established since `before`.
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

/// Whether the program wants a reset (`SO_LINGER` with a time of 0).
fn aborts(socket: BorrowedFd<'_>) -> bool {
    sockopt::socket_linger(socket).is_ok_and(|linger| linger == Some(Duration::ZERO))
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

/// Whether a connection's peer has sent its FIN, and everything that it sent before was read: a plain close loses nothing then.
///
/// A read finds the end after the program's own `SHUT_RD` as well; the TCP state tells both apart. Of anything but TCP this is
/// false.
pub(crate) fn has_finished(socket: BorrowedFd<'_>) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(rustix::net::recv(socket, &mut [0u8][..], flags), Ok((_, 0)))
        && state(socket) == Some(TcpState::CloseWait)
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use linger_custody::is_over;

    use super::*;

    /// Two ends of a connection, and what the second has said.
    fn pair() -> (TcpStream, TcpStream, OpenBefore) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let before = before(&server).unwrap();
        (client, server, before)
    }

    fn before(server: &TcpStream) -> Option<OpenBefore> {
        let info = linger_sys::tcp_info(server.as_fd()).unwrap();
        OpenBefore::new(info, socket_in(Some(info.state), true, server.as_fd()))
    }

    #[test]
    fn what_has_come_since_is_seen() {
        let (mut client, server, first) = pair();
        assert_eq!(first.socket_now(server.as_fd()), socket(server.as_fd()));
        // Loopback delivers before the call returns.
        client.write_all(b"late").unwrap();
        assert_eq!(
            (first.socket_now(server.as_fd()).unread, first.socket_now(server.as_fd()).peer_finished),
            (4, false)
        );
        let unread = before(&server).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        for known in [first, unread] {
            let now = known.socket_now(server.as_fd());
            assert_eq!(
                (now, now),
                (socket(server.as_fd()), Socket { unread: 4, peer_finished: true, ..Socket::default() })
            );
        }
        // It must be asked again about everything.
        assert!(before(&server).is_none());
    }

    #[test]
    fn a_fin_alone_is_the_end_and_leaves_nothing_unread() {
        let (client, server, before) = pair();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(before.socket_now(server.as_fd()), Socket { peer_finished: true, ..Socket::default() });
    }

    #[test]
    fn a_connection_has_finished_when_its_peer_has_and_everything_was_read() {
        let (mut client, mut server, _) = pair();
        assert!(!has_finished(server.as_fd()));
        client.write_all(b"x").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(!has_finished(server.as_fd()), "a byte is unread");
        server.read_exact(&mut [0]).unwrap();
        assert!(has_finished(server.as_fd()) && !has_finished(client.as_fd()));
        // The program's own end of its reading, and what is no TCP.
        let (_client, server, _) = pair();
        server.shutdown(Shutdown::Read).unwrap();
        assert!(!has_finished(server.as_fd()));
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(other);
        assert!(
            !has_finished(one.as_fd()) && !has_finished(std::fs::File::open("/dev/null").unwrap().as_fd())
        );
    }

    #[test]
    fn a_wish_to_reset_is_remembered_and_a_reset_is_seen() {
        let (client, server, _) = pair();
        sockopt::set_socket_linger(&server, Some(Duration::ZERO)).unwrap();
        let aborting = before(&server).unwrap();
        assert!(aborting.socket_now(server.as_fd()).aborts);
        sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        drop(client);
        assert!(aborting.socket_now(server.as_fd()).over);
    }

    #[test]
    fn a_half_closed_connection_is_over_when_its_peer_has_closed_and_nothing_came() {
        let (client, server, before) = pair();
        server.shutdown(Shutdown::Write).unwrap();
        assert!(!is_over(&before.half_closed_now(server.as_fd())));
        drop(client);
        assert!(is_over(&before.half_closed_now(server.as_fd())) && is_over(&half_closed(server.as_fd())));

        let (mut client, server, before) = pair();
        server.shutdown(Shutdown::Write).unwrap();
        client.write_all(b"x").unwrap();
        drop(client);
        let late = before.half_closed_now(server.as_fd());
        assert_eq!((late.unread, is_over(&late)), (1, false));

        let (client, server, before) = pair();
        server.shutdown(Shutdown::Write).unwrap();
        sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        drop(client);
        assert!(before.half_closed_now(server.as_fd()).failed);
    }
}
