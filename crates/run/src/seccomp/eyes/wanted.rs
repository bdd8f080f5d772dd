//! Decides from a socket's options and addresses whether it is a connection to be supervised.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use linger_custody::world::Cookie;
use linger_sys::{Family, TcpState};
use rustix::net::{SocketAddr, SocketAddrAny, SocketAddrUnix, sockopt};

use crate::Options;

/// Which connections are supervised.
#[derive(Debug)]
pub(in crate::seccomp) struct Wanted {
    only: Vec<u16>,
    except: Vec<u16>,
    outgoing: bool,
    /// Ports that the program listens on or has listened on. An accepted connection has the port of its listener.
    listening: HashSet<u16>,
    /// Sockets that the supervisor holds itself: a close by the program does not end them.
    own: HashSet<u64>,
}

impl Wanted {
    /// `own` are the sockets of this process; the program inherits some of them.
    pub(in crate::seccomp) fn new(options: &Options, own: &[&OwnedFd]) -> Self {
        let listens = |socket: &&&OwnedFd| sockopt::socket_acceptconn(socket).is_ok_and(|listens| listens);
        Self {
            only: options.ports.clone(),
            except: options.exclude_ports.clone(),
            outgoing: options.outgoing,
            listening: own.iter().filter(listens).filter_map(|socket| port(socket.as_fd())).collect(),
            own: own.iter().filter_map(|socket| sockopt::socket_cookie(socket).ok()).collect(),
        }
    }

    /// Notes the port of a socket that is about to listen; `None` if it has none yet.
    pub(in crate::seccomp) fn listens(&mut self, socket: BorrowedFd<'_>) -> Option<()> {
        match port(socket) {
            Some(0) => None,
            Some(port) => {
                self.listening.insert(port);
                Some(())
            }
            None => Some(()),
        }
    }

    /// The cookie of a socket, if it is a connection to be supervised.
    pub(in crate::seccomp) fn cookie(&self, socket: BorrowedFd<'_>) -> Option<Cookie> {
        let address = rustix::net::getsockname(socket).ok()?;
        if let Ok(address) = SocketAddr::try_from(address.clone()) {
            let port = address.port();
            let known = self.outgoing || self.listening.contains(&port);
            let meant = !self.except.contains(&port) && (self.only.is_empty() || self.only.contains(&port));
            if !known || !meant {
                return None;
            }
        } else if !is_named(&address) || !self.only.is_empty() || !self.except.is_empty() {
            // The accepted end of a unix connection has the listener's address; the connecting end and a socketpair have none.
            return None;
        }
        let connected = match linger_sys::family(socket).ok()? {
            Family::Tcp => {
                !matches!(linger_sys::tcp_state(socket), Err(_) | Ok(TcpState::Listen | TcpState::SynSent))
            }
            _ => !sockopt::socket_acceptconn(socket).ok()?,
        };
        let cookie = if connected { sockopt::socket_cookie(socket).ok() } else { None };
        cookie.filter(|cookie| !self.own.contains(cookie)).map(Cookie)
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

/// Whether an fd refers to this connection.
pub(in crate::seccomp) fn is(fd: impl AsFd, cookie: Cookie) -> bool {
    sockopt::socket_cookie(fd).is_ok_and(|other| Cookie(other) == cookie)
}
