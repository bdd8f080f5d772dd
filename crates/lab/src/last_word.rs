//! Finds out whether a connection is reset after the end of its stream.
//!
//! A server that half-closes and then closes with bytes unread sends FIN and RST. A client that has read the end of the
//! stream and closes at once never sees the reset. If the packets had arrived in another order, the reset would have
//! cut the response.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use linger_sys::{TcpState, tcp_state};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFlags, Timespec, epoll};
use socket2::SockRef;

use crate::patience::Patience;

/// Half-closes the client's side, and waits until the server's kernel has acknowledged the FIN or has answered with a
/// reset. Returns whether the answer was a reset.
///
/// On the wire this looks like a plain `close()` by the client: nothing is unread, so its kernel sends a FIN after the
/// data that waits to be sent. If the server's kernel has sent a reset after its FIN, the reset arrives before any
/// acknowledgement of the client's FIN. If the server's socket no longer exists, its kernel answers the client's FIN
/// with a reset.
///
/// # Errors
/// Returns `TimedOut` if neither an acknowledgement nor a reset came in time, and `Interrupted` if the run was stopped.
pub(crate) fn is_reset(stream: &TcpStream, patience: &Patience<'_>) -> io::Result<bool> {
    // Once both directions are shut, a level-triggered poll always reports POLLHUP and so cannot wait for the change of
    // state to CLOSE. An edge-triggered epoll is woken by that change (tcp_done, sk_state_change).
    let changes: OwnedFd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &changes,
        stream,
        epoll::EventData::new_u64(0),
        epoll::EventFlags::OUT | epoll::EventFlags::ET,
    )?;
    if let Err(error) = stream.shutdown(Shutdown::Write) {
        // The socket is in CLOSE although it has not sent a FIN yet: only a reset leads to that state.
        return if error.kind() == io::ErrorKind::NotConnected { Ok(true) } else { Err(error) };
    }
    loop {
        // In this order: tcp_reset sets the error before the state.
        if tcp_state(stream.as_fd())? == TcpState::Close {
            let error = SockRef::from(stream).take_error()?;
            return Ok(error.is_some_and(|error| is_a_reset(&error)));
        }
        if !patience.wait(&changes, PollFlags::IN)?.is_empty() {
            let mut events = Vec::with_capacity(1);
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            epoll::wait(&changes, spare_capacity(&mut events), Some(&now))?;
        }
    }
}

/// Whether an error says that the other side has reset the connection.
pub(crate) fn is_a_reset(error: &io::Error) -> bool {
    use io::ErrorKind;
    // EPIPE: the reset came after the server's FIN (tcp_reset in CLOSE_WAIT).
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use super::*;

    /// Runs a client that has read the end of the stream, and returns what [`is_reset`] returns. The server has
    /// half-closed with one byte unread, or none (`unread`), and then closes or keeps its side open (`closes`).
    fn after_the_end(unread: bool, closes: bool) -> io::Result<bool> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        if unread {
            client.write_all(b"!").unwrap();
            server.peek(&mut [0]).unwrap();
        }
        server.shutdown(Shutdown::Write).unwrap();
        let open = (!closes).then_some(server);
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
        client.set_nonblocking(true).unwrap();
        let patience = Patience { deadline: Instant::now() + Duration::from_secs(30), stop: None };
        let reset = is_reset(&client, &patience);
        drop(open);
        reset
    }

    #[test]
    fn a_reset_behind_the_end_is_seen() {
        assert!(after_the_end(true, true).unwrap());
    }

    #[test]
    fn one_field_away_there_is_none() {
        assert!(!after_the_end(false, true).unwrap(), "nothing was unread");
    }

    #[test]
    fn the_acknowledgement_comes_from_the_kernel_also_while_the_server_does_nothing() {
        assert!(!after_the_end(true, false).unwrap(), "not closed yet");
    }
}
