//! The non-blocking byte stream below a session.

use std::io::{self, IoSlice, Read as _};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::SendFlags;
use socket2::Socket;

/// A connection whose calls never block. It can be taken apart into its sockets, which are then closed.
///
/// A method that would have to wait returns `WouldBlock`; the session then polls [`socket`](Self::socket) or
/// [`socket_to_write`](Self::socket_to_write).
pub trait Transport: Send {
    /// Reads some bytes. Returns their number; 0 is the end of the stream.
    ///
    /// # Errors
    /// Returns the errors of `recv(2)`, and `UnexpectedEof` if a TLS peer closes without close_notify.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Takes some bytes of `head`, then of `body`. Returns how many.
    ///
    /// # Errors
    /// Returns the errors of `send(2)`.
    fn write(&mut self, head: &[u8], body: &[u8]) -> io::Result<usize>;

    /// Hands to the kernel what [`write`](Self::write) took and kept.
    ///
    /// # Errors
    /// Returns the errors of `send(2)`.
    fn flush(&mut self) -> io::Result<()>;

    /// The fd to poll before reading.
    fn socket(&self) -> BorrowedFd<'_>;

    /// The fd to poll before writing.
    fn socket_to_write(&self) -> BorrowedFd<'_> {
        self.socket()
    }

    /// Whether bytes that [`write`](Self::write) took have not been handed to the kernel yet.
    fn holds_back(&self) -> bool {
        false
    }

    /// Whether the bytes on the socket are those of the session, so that the kernel can move them with splice(2).
    fn is_plain(&self) -> bool;

    /// Whether nobody on the way can read or change the bytes, and each side knows the other's key.
    fn is_encrypted(&self) -> bool {
        !self.is_plain()
    }

    /// Tells the peer that nothing more will be written (TLS: close_notify). Does not half-close the socket:
    /// [`linger::close`] does.
    fn farewell(&mut self);

    /// Returns the descriptors, which the caller closes: several if the transport is a bundle, otherwise one.
    fn into_sockets(self: Box<Self>) -> Vec<OwnedFd>;
}

/// TCP or a unix socket without encryption.
#[derive(Debug)]
pub struct Plain(Socket);

/// No SIGPIPE, whatever the program does with that signal.
const QUIETLY: i32 = SendFlags::NOSIGNAL.bits() as i32;

impl Plain {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// Returns an error if the socket cannot be made non-blocking.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // TCP_NODELAY: the session gathers small frames itself, and a flush should leave at once.
        stream.set_nodelay(true)?;
        spare_pacing(&stream);
        Ok(Self(stream.into()))
    }

    /// Takes over a connected unix socket.
    ///
    /// # Errors
    /// Returns an error if the socket cannot be made non-blocking.
    pub fn unix(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self(stream.into()))
    }
}

/// Sets Reno on loopback. There is no path to probe, and a congestion control that paces (BBR) would set a timer for
/// every few segments. Reno is in every kernel and allowed to everybody (`tcp_allowed_congestion_control`). A failure
/// does no harm.
fn spare_pacing(stream: &TcpStream) {
    if stream.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback()) {
        let _ = socket2::SockRef::from(stream).set_tcp_congestion(b"reno");
    }
}

impl Transport for Plain {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }

    fn write(&mut self, head: &[u8], body: &[u8]) -> io::Result<usize> {
        match (head, body) {
            ([], body) => self.0.send_with_flags(body, QUIETLY),
            (head, []) => self.0.send_with_flags(head, QUIETLY),
            (head, body) => {
                self.0.send_vectored_with_flags(&[IoSlice::new(head), IoSlice::new(body)], QUIETLY)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn is_plain(&self) -> bool {
        true
    }

    fn farewell(&mut self) {}

    fn into_sockets(self: Box<Self>) -> Vec<OwnedFd> {
        vec![self.0.into()]
    }
}
