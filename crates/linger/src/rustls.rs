//! The close for TLS: send `close_notify`, flush, half-close, then discard what comes without decrypting it.
//!
//! Draining after `close_notify` is what RFC 8446 section 6.1 allows: after our own the peer may still send, and
//! nobody is going to read it. What arrives late in every TLS 1.3 handshake, the client's Finished after a
//! server's early answer or a server's tickets after a client's, is unread data like any other, and resets a
//! plain `close()`.
//!
//! **Blocking**: [`close`] takes the connection and its socket. **With a closer**: [`send_close_notify`], then
//! [`Closer::close`](crate::Closer::close) on the socket.
//!
//! **tokio-rustls**: put the lingering stream below TLS. A shutdown of the TLS stream sends `close_notify`,
//! flushes, and sends the FIN; the drop, or the close of the stream taken out, drains below TLS:
//!
//! ```no_run
//! # #[cfg(feature = "tokio")]
//! # async fn serve(acceptor: tokio_rustls::TlsAcceptor, listener: tokio::net::TcpListener) -> std::io::Result<()> {
//! use linger::{Policy, tokio::Lingering};
//! use tokio::io::AsyncWriteExt;
//!
//! let (stream, _) = listener.accept().await?;
//! let mut stream = acceptor.accept(Lingering::new(stream, Policy::default())).await?;
//! stream.write_all(b"HTTP/1.1 413 Content Too Large\r\n\r\n").await?;
//! stream.shutdown().await?;
//! let outcome = stream.into_inner().0.close().await; // or drop the stream, if nobody needs to know
//! # Ok(()) }
//! ```
//!
//! A TLS stream that is dropped without a shutdown still lingers, but has sent no `close_notify`: the peer cannot
//! tell its end from a truncation.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use linger_sys::SocketWait;
use linger_sys::fd::{AsFd, BorrowedFd, OwnedFd};
use rustls::ConnectionCommon;

use crate::{Outcome, Policy};

/// Ends a TLS connection so that the peer gets every byte that was written, and says what became of it.
///
/// Sends what rustls still holds and `close_notify`, then does what [`linger::close`](crate::close) does with
/// the socket, all of it within [`Policy::total`]. The socket may be blocking or not.
///
/// ```no_run
/// # fn serve(stream: rustls::StreamOwned<rustls::ServerConnection, std::net::TcpStream>) {
/// let (mut connection, socket) = (stream.conn, stream.sock);
/// let outcome = linger::rustls::close(&mut connection, socket, &linger::Policy::default());
/// # }
/// ```
///
/// If the peer stops reading, `close_notify` and bytes before it may not have been sent. The outcome's `unacknowledged`
/// is the sum of what the kernel had and the peer has not acknowledged, and of what the kernel did not take.
pub fn close<D>(
    connection: &mut ConnectionCommon<D>,
    stream: impl Into<OwnedFd>,
    policy: &Policy,
) -> Outcome {
    let started = Instant::now();
    let stream = stream.into();
    let patience = policy.idle.min(policy.total);
    let held = send_all(connection, stream.as_fd(), patience);
    let mut policy = *policy;
    // At least a millisecond, so that the machine takes one look.
    policy.total = policy.total.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
    let mut outcome = crate::close(stream, &policy);
    outcome.elapsed = started.elapsed();
    if let (Err(held), Some(unacknowledged)) = (held, outcome.unacknowledged) {
        outcome.unacknowledged = Some(unacknowledged + held);
    }
    outcome
}

/// Sends what rustls still holds, and `close_notify`. If the socket takes no more bytes, waits for at most `patience`.
///
/// For a socket that a [`Closer`](crate::Closer) is to end. The socket is not half-closed, and stays the caller's.
///
/// # Errors
/// Returns `TimedOut` if the peer's window stayed closed; otherwise the errors of `send(2)`. In either case nothing
/// more may be written to the connection, and it should still be closed lingering.
pub fn send_close_notify<D>(
    connection: &mut ConnectionCommon<D>,
    socket: impl AsFd,
    patience: Duration,
) -> io::Result<()> {
    connection.send_close_notify();
    let mut socket = DeadlineSocket { fd: socket.as_fd(), until: Instant::now() + patience };
    while connection.wants_write() {
        connection.write_tls(&mut socket)?;
    }
    Ok(())
}

/// As [`send_close_notify`], but only counts the bytes that could not be sent.
fn send_all<D>(
    connection: &mut ConnectionCommon<D>,
    socket: BorrowedFd<'_>,
    patience: Duration,
) -> Result<(), u64> {
    if send_close_notify(connection, socket, patience).is_ok() {
        return Ok(());
    }
    let mut left = Counter(0);
    while connection.wants_write() && connection.write_tls(&mut left).is_ok() {}
    Err(left.0)
}

/// A socket whose writes block until a deadline at most.
struct DeadlineSocket<'a> {
    fd: BorrowedFd<'a>,
    until: Instant,
}

impl Write for DeadlineSocket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match linger_sys::send_now(self.fd, bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl DeadlineSocket<'_> {
    fn wait(&self) -> io::Result<()> {
        match SocketWait::writable(self.fd, self.until)? {
            true => Ok(()),
            false => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes no more, not even the goodbye"))
            }
        }
    }
}

struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
