//! The kernel's list of TCP sockets (`sock_diag(7)`): queues of listeners, unread bytes of connections.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

use crate::tcp_state;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;

/// The length of a `struct inet_diag_msg`, and the offsets of the two queue lengths in it.
pub(crate) const MESSAGE: usize = 72;
pub(crate) const RECEIVE_QUEUE: usize = 56;
pub(crate) const SEND_QUEUE: usize = 60;

/// The TCP states that a dump is limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct States(u32);

impl States {
    /// CLOSE_WAIT: the peer has closed, this side has not.
    pub(crate) const CLOSE_WAIT: Self = Self(1 << tcp_state::CLOSE_WAIT);
    /// Listeners.
    pub(crate) const LISTEN: Self = Self(1 << tcp_state::LISTEN);
}

/// A TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpSocket {
    /// The socket's own address.
    pub(crate) local: SocketAddr,
    /// The address of the socket's peer; port 0 for a listener.
    pub(crate) remote: SocketAddr,
    /// The socket's state, as numbered in `include/net/tcp_states.h`.
    pub(crate) state: u8,
    /// Bytes that the application has not read. For a listener: connections that wait for `accept`.
    pub(crate) receive_queue: u32,
    /// Bytes that the peer has not acknowledged. For a listener: the limit of its queue.
    pub(crate) send_queue: u32,
    /// The kernel's cookie of the socket (`SO_COOKIE`).
    pub(crate) cookie: u64,
    /// The inode, by which `/proc/PID/fd` shows the holder; 0 if no process has the socket open.
    pub(crate) inode: u32,
}

/// A socket for the lists of a network namespace: that in which it was opened.
pub(crate) struct DiagSocket(Socket);

impl std::fmt::Debug for DiagSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DiagSocket").field(&self.0.as_raw_fd()).finish()
    }
}

impl DiagSocket {
    /// Opens one of the calling thread's namespace.
    ///
    /// # Errors
    /// Returns the errors of the netlink socket, as on a kernel without `sock_diag`.
    pub(crate) fn open() -> io::Result<Self> {
        Socket::new(NETLINK_SOCK_DIAG).map(Self)
    }

    /// Takes over one of another process.
    pub(crate) fn of_fd(fd: OwnedFd) -> Self {
        // SAFETY: an fd that nobody else owns.
        Self(unsafe { Socket::from_raw_fd(fd.into_raw_fd()) })
    }

    /// The socket, for another process.
    pub(crate) fn into_fd(self) -> OwnedFd {
        // SAFETY: an fd that nobody else owns.
        unsafe { OwnedFd::from_raw_fd(self.0.into_raw_fd()) }
    }

    /// Lists the TCP sockets in the given states, IPv4 and IPv6.
    ///
    /// # Errors
    /// Returns the errors of the socket, after which it is of no use.
    pub(crate) fn tcp_sockets(&self, states: States) -> io::Result<Vec<TcpSocket>> {
        let mut all = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            dump(&self.0, family, states, &mut all)?;
        }
        Ok(all)
    }
}

fn dump(socket: &Socket, family: u8, states: States, all: &mut Vec<TcpSocket>) -> io::Result<()> {
    // struct nlmsghdr, then struct inet_diag_req_v2 with an empty socket id.
    let mut request = [0u8; 16 + 56];
    request[0..4].copy_from_slice(&(16u32 + 56).to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    request[16] = family;
    request[17] = libc::IPPROTO_TCP as u8;
    request[20..24].copy_from_slice(&states.0.to_ne_bytes());
    socket.send_to(&request, &NetlinkAddr::new(0, 0), 0)?;
    loop {
        let (reply, _) = socket.recv_from_full()?;
        let mut rest = &reply[..];
        while rest.len() >= 16 {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            if length < 16 || length > rest.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink message"));
            }
            let body = &rest[16..length];
            match u16::from_ne_bytes([rest[4], rest[5]]) {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = body.first_chunk::<4>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                    return Err(io::Error::from_raw_os_error(-code));
                }
                SOCK_DIAG_BY_FAMILY => all.extend(parse(body)),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
    }
}

/// Parses a `struct inet_diag_msg`.
pub(crate) fn parse(body: &[u8]) -> Option<TcpSocket> {
    let body: &[u8; MESSAGE] = body.first_chunk()?;
    let word = |at: usize| u32::from_ne_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
    let end = |port: usize, address: usize| {
        let port = u16::from_be_bytes([body[port], body[port + 1]]);
        let bytes = &body[address..address + 16];
        let ip = if i32::from(body[0]) == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
        } else {
            let mut all = [0; 16];
            all.copy_from_slice(bytes);
            Ipv6Addr::from(all).to_canonical()
        };
        SocketAddr::new(ip, port)
    };
    Some(TcpSocket {
        state: body[1],
        local: end(4, 8),
        remote: end(6, 24),
        receive_queue: word(RECEIVE_QUEUE),
        send_queue: word(SEND_QUEUE),
        cookie: u64::from(word(44)) | u64::from(word(48)) << 32,
        inode: word(68),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};

    #[test]
    fn queues_of_listeners_and_unread_bytes_are_told() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let local = listener.local_addr().unwrap();
            let mut waiting = TcpStream::connect(local).unwrap();
            let _also_waiting = TcpStream::connect(local).unwrap();
            let lists = DiagSocket::open().unwrap();
            let sockets = lists.tcp_sockets(States::LISTEN).unwrap();
            let own = sockets.iter().find(|socket| socket.local == local).unwrap();
            assert!(own.state == tcp_state::LISTEN && own.inode != 0);
            assert_eq!(own.receive_queue, 2, "two wait for accept");
            assert!(own.send_queue >= 128);
            waiting.write_all(b"unread").unwrap();
            waiting.shutdown(Shutdown::Write).unwrap();
            let (_accepted, peer) = listener.accept().unwrap();
            let sockets = lists.tcp_sockets(States(States::CLOSE_WAIT.0 | States::LISTEN.0)).unwrap();
            let own = sockets.iter().find(|socket| socket.remote == peer).unwrap();
            // The kernel counts the FIN as one byte.
            assert!((6..=7).contains(&own.receive_queue), "{own:?}");
        }
    }
}
