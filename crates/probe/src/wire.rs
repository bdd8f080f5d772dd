//! The client's connection: non-blocking, with a small window at first, with or without TLS.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustls::ClientConnection;
use socket2::{Domain, Socket};

use crate::deadline::Deadline;
use crate::dial::Dialed;
use crate::tls;

/// The receive buffer once the client reads, in bytes.
const WIDE: usize = 1 << 20;

/// With whom to speak TLS, and whether to ask for HTTP/2 in the handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TlsName<'h> {
    pub(crate) host: &'h str,
    pub(crate) http2: bool,
}

#[derive(Debug)]
pub(crate) struct ClientStream {
    socket: Socket,
    session: Option<Box<ClientConnection>>,
    deadline: Deadline,
    /// How long it took to connect, before TLS.
    pub(crate) round_trip: Duration,
    /// The end of the stream was read, and it came without close_notify, TLS' own end.
    pub(crate) is_tls_cut: bool,
}

impl ClientStream {
    /// Takes over a connection. Each wait on it ends with the probe's time.
    pub(crate) fn over(dialed: Dialed, deadline: Deadline) -> io::Result<Self> {
        let Dialed { socket, round_trip } = dialed;
        socket.set_nonblocking(true)?;
        if socket.local_addr().is_ok_and(|address| address.domain() != Domain::UNIX) {
            socket.set_tcp_nodelay(true)?;
        }
        Ok(Self { socket, session: None, deadline, round_trip, is_tls_cut: false })
    }

    /// Begins to speak TLS; the handshake may take `patience`.
    pub(crate) fn begin_tls(&mut self, name: TlsName<'_>, patience: Duration) -> io::Result<()> {
        let TlsName { host, http2 } = name;
        self.session = Some(Box::new(tls::session(host, http2)?));
        self.handshake(Instant::now() + patience)?;
        let chosen = self.session.as_ref().and_then(|session| session.alpn_protocol());
        if http2 && chosen != Some(b"h2") {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the server does not choose HTTP/2 in its TLS handshake (ALPN)",
            ));
        }
        Ok(())
    }

    fn handshake(&mut self, until: Instant) -> io::Result<()> {
        while self.session.as_ref().is_some_and(|session| session.is_handshaking()) {
            self.flush_tls()?;
            let Some(session) = &mut self.session else { break };
            if !session.is_handshaking() {
                break;
            }
            match session.read_tls(&mut &self.socket) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {
                    session.process_new_packets().map_err(io::Error::other)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.wait(PollFlags::IN, until)?.is_empty() {
                        return Err(io::Error::other("the TLS handshake does not end"));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.flush_tls()
    }

    /// The client's port; `None` for a unix socket.
    pub(crate) fn local_port(&self) -> Option<u16> {
        Some(self.socket.local_addr().ok()?.as_socket()?.port())
    }

    /// Enlarges the receive buffer, so that reading is fast.
    pub(crate) fn widen(&self) {
        let _ = self.socket.set_recv_buffer_size(WIDE);
    }

    /// Waits for one of `events` or an error until `until`, or until the probe's time is over. Returns what happened; empty flags
    /// if the time ran out.
    pub(crate) fn wait(&self, events: PollFlags, until: Instant) -> io::Result<PollFlags> {
        let end = self.deadline.bound(until);
        loop {
            if self.deadline.is_over() {
                // Also of a server that always has another byte.
                self.deadline.note(until);
                return Ok(PollFlags::empty());
            }
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
            let mut ready = [PollFd::new(&self.socket, events)];
            match poll(&mut ready, Some(&timeout)) {
                Ok(0) => {
                    self.deadline.note(until);
                    return Ok(PollFlags::empty());
                }
                Ok(_) => return Ok(ready[0].revents()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes as much as fits into the send buffer.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.session {
            None => self.socket.send(bytes),
            Some(_) => {
                self.flush_tls()?;
                let Some(session) = &mut self.session else { return Ok(0) };
                if session.wants_write() {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let taken = session.writer().write(&bytes[..bytes.len().min(16 << 10)])?;
                self.flush_tls()?;
                Ok(taken)
            }
        }
    }

    /// Reads what is there; 0 is the end of the stream.
    pub(crate) fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else { return (&self.socket).read(to) };
        loop {
            match session.reader().read(to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A FIN without close_notify counts as an end of stream here.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.is_tls_cut = true;
                    return Ok(0);
                }
                result => return result,
            }
            match session.read_tls(&mut &self.socket)? {
                0 => {
                    // The TLS session now reports the end itself.
                    let _ = session.process_new_packets().map_err(io::Error::other)?;
                    return match session.reader().read(to) {
                        Ok(got) => Ok(got),
                        Err(error) => {
                            self.is_tls_cut = error.kind() == io::ErrorKind::UnexpectedEof;
                            Ok(0)
                        }
                    };
                }
                _ => {
                    session.process_new_packets().map_err(io::Error::other)?;
                }
            }
        }
    }

    /// Whether the response has begun, once the socket is readable. `Trial::read` raises `SO_RCVBUF`; this does not, so the
    /// receive window stays small.
    ///
    /// Without TLS always true. With TLS it reads and decrypts records: those without content (session tickets) do not count,
    /// the end of the stream and a read error do.
    pub(crate) fn response_waits(&mut self) -> io::Result<bool> {
        let Some(session) = &mut self.session else { return Ok(true) };
        loop {
            if session.process_new_packets().map_err(io::Error::other)?.plaintext_bytes_to_read() > 0 {
                return Ok(true);
            }
            match session.read_tls(&mut &self.socket) {
                Ok(0) => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(_) => return Ok(true),
            }
        }
    }

    /// Sets or clears `TCP_CORK`, which holds back segments that are not full. Ignored for unix sockets.
    pub(crate) fn cork(&self, cork: bool) {
        let _ = rustix::net::sockopt::set_tcp_cork(&self.socket, cork);
    }

    /// Shuts down the sending side; with TLS, close_notify is sent first.
    pub(crate) fn half_close(&mut self) {
        if let Some(session) = &mut self.session {
            session.send_close_notify();
            let _ = self.flush_tls();
        }
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    /// Takes a pending error of the socket (`SO_ERROR`). Returns whether there was one.
    pub(crate) fn take_error(&self) -> bool {
        self.socket.take_error().is_ok_and(|error| error.is_some())
    }

    /// Whether the connection was reset, or given up by the kernel, also after the end of its stream was read. Only
    /// valid as long as the client has not half-closed.
    pub(crate) fn was_reset(&self) -> bool {
        // As long as this side has sent no FIN, the state CLOSE means that the connection failed: by a reset, or
        // because the kernel has given the peer up. The state shows it even if the error was already taken.
        self.take_error()
            || linger_sys::tcp_state(self.socket.as_fd())
                .is_ok_and(|state| state == linger_sys::TcpState::Close)
    }

    /// Writes what TLS still holds. `WouldBlock` if not all of it fits into the send buffer.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.flush_tls()?;
        let waits = self.session.as_ref().is_some_and(|session| session.wants_write());
        if waits { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    fn flush_tls(&mut self) -> io::Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        while session.wants_write() {
            match session.write_tls(&mut &self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for ClientStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
