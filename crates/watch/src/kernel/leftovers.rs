//! The bytes that were still in the queues of TCP sockets when the kernel destroyed them.
//!
//! `sock_diag(7)` sends a message for each destroyed socket to members of `SKNLGRP_INET_TCP_DESTROY`. The sequence
//! numbers survive `close()`, a reset and the purge of both queues (`__tcp_close`, `tcp_write_queue_purge`), so
//! that the byte counts are those of the moment the connection ended. `tcp_disconnect` (an abort by `SO_LINGER` 0)
//! clears them together with the peer's address.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};
use rustix::io::Errno;
use rustix::net::{RecvFlags, sockopt};

use super::sock_diag;
use crate::namespace_id::NamespaceId;

/// `SKNLGRP_INET_TCP_DESTROY` and `SKNLGRP_INET6_TCP_DESTROY`.
const GROUPS: [u32; 2] = [1, 3];
/// `INET_DIAG_INFO`, the attribute with a `struct tcp_info`, and the offset of `tcpi_notsent_bytes` in it.
const INET_DIAG_INFO: u16 = 2;
const NOTSENT: usize = 144;
/// Offsets of `tcpi_rcv_mss`, `tcpi_bytes_received` and `tcpi_data_segs_in` in the same structure.
const RCV_MSS: usize = 20;
const BYTES_RECEIVED: usize = 128;
const DATA_SEGMENTS: usize = 152;
/// Receive buffer: room for about 6,000 messages. Without CAP_NET_ADMIN the kernel may give less.
const ROOM: usize = 8 << 20;
/// Longest message that is read, in bytes. Header, socket and `tcp_info` together are below 500.
const LONGEST: usize = 4096;
/// Most messages read in one call, so that a flood of them cannot hold the caller up.
const AT_ONCE: usize = 8_192;

/// A destroyed socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leftover {
    /// The network namespace; `None` if it is not known which.
    pub(crate) namespace: Option<NamespaceId>,
    /// The kernel's cookie of the socket.
    pub(crate) cookie: u64,
    /// The socket's own address.
    pub(crate) local: SocketAddr,
    /// The address of the socket's peer; port 0 for a listener, and for a socket that was disconnected.
    pub(crate) remote: SocketAddr,
    /// Bytes that were received and never read. A FIN of the peer that was not read counts as one.
    pub(crate) unread: u32,
    /// Bytes that the peer has not acknowledged. A FIN or SYN of this side counts as one.
    pub(crate) unacknowledged: u32,
    /// The part of `unacknowledged` that was never sent; `None` if the kernel does not report it.
    pub(crate) unsent: Option<u32>,
    /// What had arrived in the socket's life; `None` if the kernel does not report it.
    pub(crate) arrived: Option<Arrived>,
}

/// What had arrived at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// Segments with data, accepted or not.
    pub(crate) segments: u32,
    /// Bytes that were accepted into the receive queue.
    pub(crate) bytes: u64,
    /// No segment had more bytes (`icsk_ack.rcv_mss`).
    pub(crate) largest: u32,
}

/// The result of [`Leftovers::drain`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drained {
    /// Messages read.
    pub(crate) taken: usize,
    /// Whether the receive buffer overflowed, so that messages were lost.
    pub(crate) overrun: bool,
}

/// Receives the kernel's messages about destroyed sockets.
#[derive(Debug)]
pub(crate) struct Leftovers {
    socket: Socket,
    namespace: Option<NamespaceId>,
    buffer: Vec<u8>,
    /// Whether the socket filter lets only sockets with bytes in a queue through.
    only_with_bytes: bool,
}

impl Leftovers {
    /// Joins the netlink groups to which the kernel reports destroyed TCP sockets of the calling thread's network namespace.
    /// With `namespace`, all reports are of that one. Without, and with CAP_NET_BROADCAST, they include those of other
    /// namespaces that have an id in this one.
    ///
    /// # Errors
    /// Returns the errors of netlink. Kernels before 4.3, or without `tcp_diag`, have no such groups.
    pub(crate) fn open(namespace: Option<NamespaceId>) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind(&NetlinkAddr::new(0, 0))?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, ROOM).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, ROOM)?;
        }
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        if namespace.is_none() {
            // If the capability is missing, only sockets of this network namespace are reported.
            let _ = socket.set_listen_all_namespaces(true);
        }
        Ok(Self { socket, namespace, buffer: vec![0; LONGEST], only_with_bytes: false })
    }

    /// Takes over a socket that [`open`](Self::open) has made in another process.
    pub(crate) fn of_socket(socket: OwnedFd, namespace: Option<NamespaceId>) -> Self {
        // SAFETY: an fd that nobody else owns.
        let socket = unsafe { Socket::from_raw_fd(socket.into_raw_fd()) };
        Self { socket, namespace, buffer: vec![0; LONGEST], only_with_bytes: false }
    }

    /// The socket, for another process.
    pub(crate) fn into_socket(self) -> OwnedFd {
        // SAFETY: an fd that nobody else owns.
        unsafe { OwnedFd::from_raw_fd(self.socket.into_raw_fd()) }
    }

    /// The network namespace of all reports, if it is one.
    pub(crate) fn namespace(&self) -> Option<NamespaceId> {
        self.namespace
    }

    /// Calls `on_leftover` for each pending message, at most [`AT_ONCE`] of them, without blocking. After an overflow,
    /// attaches a socket filter that admits only sockets with bytes in a queue, which keeps the rate low on the busiest
    /// hosts.
    pub(crate) fn drain(&mut self, mut on_leftover: impl FnMut(Leftover)) -> Drained {
        let mut drained = Drained::default();
        while drained.taken < AT_ONCE {
            match rustix::net::recv(self.socket.as_fd(), &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, length)) => {
                    drained.taken += 1;
                    if let Some(mut leftover) = self.buffer.get(..length).and_then(parse) {
                        leftover.namespace = self.namespace;
                        on_leftover(leftover);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => {
                    drained.overrun = true;
                    self.want_only_with_bytes();
                }
                Err(_) => break,
            }
        }
        drained
    }

    /// Attaches a classic BPF filter: admits sockets with a write queue, or with more than one byte in the read queue.
    /// A single byte may be the peer's FIN, so a socket with one unread byte is left out, too.
    fn want_only_with_bytes(&mut self) {
        if self.only_with_bytes {
            return;
        }
        const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        // BPF loads read big-endian; the message is in host order, so the constants are swapped.
        let one = u32::from_be_bytes(1u32.to_ne_bytes());
        let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
        let mut program = [
            step(LOAD, 0, 0, 16 + sock_diag::SEND_QUEUE as u32),
            step(EQUAL, 0, 3, 0),
            step(LOAD, 0, 0, 16 + sock_diag::RECEIVE_QUEUE as u32),
            step(EQUAL, 2, 0, 0),
            step(EQUAL, 1, 0, one),
            step(RETURN, 0, 0, u32::MAX),
            step(RETURN, 0, 0, 0),
        ];
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: `program` and the steps it points to live until the call returns; the kernel copies them.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        };
        self.only_with_bytes = result == 0;
    }
}

/// Parses a netlink message with a `struct inet_diag_msg` and attributes.
fn parse(message: &[u8]) -> Option<Leftover> {
    let length = u32::from_ne_bytes(*message.first_chunk()?) as usize;
    let body = message.get(16..length.min(message.len()))?;
    let socket = sock_diag::parse(body)?;
    let (mut unsent, mut arrived) = (None, None);
    let mut attributes = body.get(sock_diag::MESSAGE..)?;
    while let Some(&[a, b, c, d]) = attributes.first_chunk() {
        let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        if length < 4 {
            break;
        }
        if kind == INET_DIAG_INFO {
            let info = attributes.get(4..length.min(attributes.len()))?;
            let word = |at: usize| info.get(at..)?.first_chunk::<4>().map(|raw| u32::from_ne_bytes(*raw));
            unsent = word(NOTSENT);
            let bytes = info.get(BYTES_RECEIVED..).and_then(|rest| rest.first_chunk());
            arrived =
                word(DATA_SEGMENTS).zip(word(RCV_MSS)).zip(bytes).map(|((segments, largest), bytes)| {
                    Arrived { segments, bytes: u64::from_ne_bytes(*bytes), largest }
                });
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Some(Leftover {
        namespace: None,
        cookie: socket.cookie,
        local: socket.local,
        remote: socket.remote,
        unread: socket.receive_queue,
        unacknowledged: socket.send_queue,
        unsent,
        arrived,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    /// Closes a connection with bytes unread and unsent. Returns all messages of the kernel up to the one for it, and
    /// how many bytes were written.
    fn closed_with_bytes(leftovers: &mut Leftovers) -> (Vec<Leftover>, u32) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        client.write_all(b"unread").unwrap();
        server.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(more) = server.write(&[7; 100_000]) {
            written += more as u32;
        }
        drop(server);
        let mut told: Vec<Leftover> = Vec::new();
        while !told.iter().any(|leftover| leftover.remote == peer) {
            let mut news = [PollFd::from_borrowed_fd(leftovers.socket.as_fd(), PollFlags::IN)];
            let bound = Timespec { tv_sec: 20, tv_nsec: 0 };
            assert_eq!(poll(&mut news, Some(&bound)), Ok(1), "the kernel tells of it");
            leftovers.drain(|leftover| told.push(leftover));
        }
        let at = told.iter().position(|leftover| leftover.remote == peer).unwrap();
        let own = told.remove(at);
        told.push(own);
        (told, written)
    }

    #[test]
    fn a_closed_socket_tells_what_it_had_left() {
        let mut leftovers = Leftovers::open(None).unwrap();
        for filtered in [false, true] {
            let (told, written) = closed_with_bytes(&mut leftovers);
            let found = told[told.len() - 1];
            assert_eq!(found.unread, 6);
            assert!(found.unacknowledged > 0 && found.unacknowledged <= written, "{found:?} of {written}");
            assert!(found.unsent.is_some_and(|unsent| unsent <= found.unacknowledged), "{found:?}");
            assert_eq!(leftovers.only_with_bytes, filtered);
            leftovers.want_only_with_bytes();
        }
    }

    #[test]
    fn the_filter_drops_sockets_without_bytes() {
        let mut leftovers = Leftovers::open(None).unwrap();
        leftovers.want_only_with_bytes();
        assert!(leftovers.only_with_bytes);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, clean) = listener.accept().unwrap();
        drop(client);
        // The peer's FIN is in the queue, unread: the kernel counts it as one byte.
        let mut byte = [0];
        assert_eq!(server.peek(&mut byte).unwrap(), 0);
        drop(server);
        let (told, _) = closed_with_bytes(&mut leftovers);
        assert!(told.iter().all(|leftover| leftover.remote != clean), "{told:?}");
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[255; 40]), None);
        let mut message = vec![0; 16 + sock_diag::MESSAGE + 8];
        let length = message.len() as u32;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(parse(&message).unwrap().remote.port(), 0);
        message[16 + 7] = 80;
        assert_eq!(parse(&message).unwrap().unsent, None);
    }
}
