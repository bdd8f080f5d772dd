//! Where a server listens, what it accepts there, and who that is.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::unix;

/// The other end of a server's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerAddress {
    /// An address and its port.
    Tcp(SocketAddr),
    /// A user of this machine, over a unix socket.
    Unix {
        /// The user's id.
        uid: u32,
    },
}

impl PeerAddress {
    /// The machine or the user, the same for all of its connections.
    pub fn host(&self) -> String {
        match self {
            Self::Tcp(address) => address.ip().to_string(),
            Self::Unix { .. } => self.to_string(),
        }
    }

    /// The group of peers with which this one shares the limits on connections and requests.
    pub(super) fn group(&self) -> PeerGroup {
        match self {
            Self::Tcp(address) => PeerGroup::network(address.ip()),
            Self::Unix { uid } => PeerGroup::User(*uid),
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix { uid } => write!(f, "uid {uid}"),
        }
    }
}

/// The part of a peer's address that the peer cannot choose freely: limits on connections and requests hold for each group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum PeerGroup {
    /// The whole IPv4 address, or the first 64 bits of an IPv6 address.
    Network(IpAddr),
    /// A user of this machine.
    User(u32),
}

impl PeerGroup {
    pub(super) fn network(address: IpAddr) -> Self {
        Self::Network(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            }
            v4 => v4,
        })
    }
}

/// A listening socket.
#[derive(Clone, Copy, Debug)]
pub(super) enum Door<'a> {
    Tcp(&'a TcpListener),
    Unix(&'a UnixListener),
}

/// A connection that was accepted.
#[derive(Debug)]
pub(super) enum NewConnection {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream, u32),
}

impl Door<'_> {
    pub(super) fn set_nonblocking(self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.set_nonblocking(true),
            Self::Unix(listener) => listener.set_nonblocking(true),
        }
    }

    pub(super) fn accept(self) -> io::Result<NewConnection> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                // A dual-stack socket reports IPv4 peers as mapped addresses.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                Ok(NewConnection::Tcp(stream, peer))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                // This is an error of one connection, not of the listener.
                let uid = unix::peer_user(&stream).map_err(|_| io::ErrorKind::ConnectionAborted)?;
                Ok(NewConnection::Unix(stream, uid))
            }
        }
    }
}

impl AsFd for Door<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

impl NewConnection {
    pub(super) fn peer(&self) -> PeerAddress {
        match self {
            Self::Tcp(_, peer) => PeerAddress::Tcp(*peer),
            Self::Unix(_, uid) => PeerAddress::Unix { uid: *uid },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_host_is_one_group_however_many_addresses_it_has() {
        let network = |text: &str| PeerGroup::network(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }

    #[test]
    fn a_peer_is_shown_with_what_tells_it_from_others() {
        let tcp = PeerAddress::Tcp("192.0.2.1:7".parse().unwrap());
        assert_eq!((tcp.to_string(), tcp.host()), ("192.0.2.1:7".into(), "192.0.2.1".into()));
        let unix = PeerAddress::Unix { uid: 1000 };
        assert_eq!((unix.to_string(), unix.host()), ("uid 1000".into(), "uid 1000".into()));
        assert_eq!(unix.group(), PeerGroup::User(1000));
        assert_ne!(unix.group(), PeerAddress::Unix { uid: 0 }.group());
    }
}
