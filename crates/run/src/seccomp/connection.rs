//! Whether a socket is a connection to be ended well, by what the socket itself says.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use linger_shim::protocol::Count;
use linger_sys::{Family, TcpState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketAddr, SocketAddrAny, SocketAddrUnix, sockopt};

use crate::Options;

/// Which connections are meant.
#[derive(Debug)]
pub(super) struct Wanted {
    only: Vec<u16>,
    except: Vec<u16>,
    outgoing: bool,
    /// Ports that the program listens on, or once did: an accepted connection has its listener's.
    listening: HashSet<u16>,
    /// Sockets that this process has, too: a program's close is not their end.
    own: HashSet<u64>,
}

impl Wanted {
    /// `own` are the sockets of this process, some of which the program inherits.
    pub(super) fn new(options: &Options, own: &[OwnedFd]) -> Self {
        let listens = |socket: &&OwnedFd| sockopt::socket_acceptconn(socket).is_ok_and(|listens| listens);
        Self {
            only: options.ports.clone(),
            except: options.exclude_ports.clone(),
            outgoing: options.outgoing,
            listening: own.iter().filter(listens).filter_map(|socket| port(socket.as_fd())).collect(),
            own: own.iter().filter_map(|socket| sockopt::socket_cookie(socket).ok()).collect(),
        }
    }

    /// Notes a socket that is about to listen; `None` where it has no port yet.
    pub(super) fn listens(&mut self, socket: BorrowedFd<'_>) -> Option<()> {
        match port(socket) {
            Some(0) => None,
            Some(port) => {
                self.listening.insert(port);
                Some(())
            }
            None => Some(()),
        }
    }

    /// The kernel's name for the socket, if it is a connection that is meant.
    pub(super) fn cookie(&self, socket: BorrowedFd<'_>) -> Option<u64> {
        let address = rustix::net::getsockname(socket).ok()?;
        if let Ok(address) = SocketAddr::try_from(address.clone()) {
            let port = address.port();
            let known = self.outgoing || self.listening.contains(&port);
            let meant = !self.except.contains(&port) && (self.only.is_empty() || self.only.contains(&port));
            if !known || !meant {
                return None;
            }
        } else if !is_named(&address) || !self.only.is_empty() || !self.except.is_empty() {
            // A unix connection's end that was accepted has its listener's name; the other, and a pair, has none.
            return None;
        }
        let connected = match linger_sys::family(socket).ok()? {
            Family::Tcp => {
                !matches!(linger_sys::tcp_state(socket), Err(_) | Ok(TcpState::Listen | TcpState::SynSent))
            }
            _ => !sockopt::socket_acceptconn(socket).ok()?,
        };
        let cookie = if connected { sockopt::socket_cookie(socket).ok() } else { None };
        cookie.filter(|cookie| !self.own.contains(cookie))
    }
}

/// The port of an IP socket.
fn port(socket: BorrowedFd<'_>) -> Option<u16> {
    SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok().map(|address| address.port())
}

fn is_named(address: &SocketAddrAny) -> bool {
    SocketAddrUnix::try_from(address.clone()).is_ok_and(|address| {
        let name = address.path_bytes().or(address.abstract_name());
        name.is_some_and(|name| !name.is_empty())
    })
}

/// Why a plain close of the connection's last descriptor is right; `None` where it would lose something.
pub(super) fn safe_to_close(socket: BorrowedFd<'_>) -> Option<Count> {
    if sockopt::socket_linger(socket).is_ok_and(|linger| linger == Some(Duration::ZERO)) {
        return Some(Count::Aborted);
    }
    let mut one = [PollFd::from_borrowed_fd(socket, PollFlags::IN | PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let events = poll(&mut one, Some(&at_once)).map_or(PollFlags::empty(), |_| one[0].revents());
    if !events.contains(PollFlags::RDHUP) {
        return events.intersects(PollFlags::HUP | PollFlags::ERR).then_some(Count::Gone);
    }
    // The peer has said its last: with nothing left to read no reset can follow.
    (unread(socket) == 0).then_some(Count::Finished)
}

/// Received bytes that nobody has read.
pub(super) fn unread(socket: BorrowedFd<'_>) -> u32 {
    linger_sys::unread(socket).map_or(0, |bytes| u32::try_from(bytes).unwrap_or(u32::MAX))
}

/// Whether a descriptor is this socket.
pub(super) fn is(fd: impl AsFd, cookie: u64) -> bool {
    sockopt::socket_cookie(fd).is_ok_and(|other| other == cookie)
}
