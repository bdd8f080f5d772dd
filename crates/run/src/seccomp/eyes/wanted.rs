//! Decides from a socket's options and addresses whether it is a connection to be supervised.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use linger_custody::world::Cookie;
use linger_sys::{Family, TcpInfo, TcpState};
use rustix::net::{SocketAddr, SocketAddrAny, SocketAddrUnix, sockopt};

use crate::Options;

/// Which connections are supervised.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(in crate::seccomp) struct Wanted {
    only: Vec<u16>,
    except: Vec<u16>,
    outgoing: bool,
    /// Ports that the program listens on or has listened on. An accepted connection has the port of its listener.
    listening: HashSet<u16>,
    /// Sockets that the supervisor holds itself: a close by the program does not end them.
    own: HashSet<u64>,
    /// A connection may be one of Multipath TCP: only a listener of it accepts such.
    may_be_multipath: bool,
}

impl Wanted {
    /// `own` are the sockets of this process, some of which the program inherits; `kept` those of them that the supervisor keeps.
    pub(in crate::seccomp) fn new(options: &Options, own: &[&OwnedFd], kept: &[&OwnedFd]) -> Self {
        let listens = |socket: &&&OwnedFd| sockopt::socket_acceptconn(socket).is_ok_and(|listens| listens);
        Self {
            only: options.ports.clone(),
            except: options.exclude_ports.clone(),
            outgoing: options.outgoing,
            may_be_multipath: options.outgoing || own.iter().any(|socket| is_multipath(socket.as_fd())),
            listening: own.iter().filter(listens).filter_map(|socket| port(socket.as_fd())).collect(),
            own: kept.iter().filter_map(|socket| sockopt::socket_cookie(socket).ok()).collect(),
        }
    }

    /// Notes the port of a socket that is about to listen; `None` if it has none yet.
    pub(in crate::seccomp) fn listens(&mut self, socket: BorrowedFd<'_>) -> Option<()> {
        self.may_be_multipath |= is_multipath(socket);
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
        self.connection(socket).map(|(cookie, _)| cookie)
    }

    /// Whether no connection is one of Multipath TCP.
    pub(in crate::seccomp) fn all_plain(&self) -> bool {
        !self.may_be_multipath
    }

    /// The cookie of a socket, if it is a connection to be supervised, and its `TCP_INFO` if it is a TCP connection.
    pub(in crate::seccomp) fn connection(&self, socket: BorrowedFd<'_>) -> Option<(Cookie, Option<TcpInfo>)> {
        let address = rustix::net::getsockname(socket).ok()?;
        let ip = SocketAddr::try_from(address.clone());
        let is_ip = ip.is_ok();
        if let Ok(address) = ip {
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
        // TCP, the usual case, says so by its state.
        let info = if is_ip { linger_sys::tcp_info(socket).ok() } else { None };
        if info.is_none()
            && (linger_sys::family(socket).ok()? == Family::Tcp || sockopt::socket_acceptconn(socket).ok()?)
        {
            return None;
        }
        if let Some(TcpState::Listen | TcpState::SynSent) = info.map(|info| info.state) {
            return None;
        }
        let cookie = sockopt::socket_cookie(socket).ok().filter(|cookie| !self.own.contains(cookie))?;
        Some((Cookie(cookie), info))
    }
}

/// Whether a socket may be one of Multipath TCP.
fn is_multipath(socket: BorrowedFd<'_>) -> bool {
    linger_sys::is_multipath(socket).unwrap_or(true)
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
