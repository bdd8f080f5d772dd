//! The close for a thread that may wait.

use std::time::Instant;

use linger_sys::fd::OwnedFd;
use linger_sys::{Discarder, SocketWait};

use crate::machine::{Action, Event, Machine};
use crate::outcome::Outcome;
use crate::policy::Policy;
use crate::socket::Socket;

/// Ends a connection so that the peer gets every byte that was written, and says what became of it.
///
/// Half-closes, then reads and discards until the peer closes or a bound of `policy` is reached, then closes
/// (RFC 9112 section 9.6). Waits for at most [`Policy::total`]; works on blocking and non-blocking sockets.
/// The descriptor is closed on return in every case. Anything the program buffered in user space must have
/// been written before.
///
/// The kernel ends a connection only with its *last* descriptor: while a duplicate or a forked copy is open,
/// the half-close and the discarding still happen, the final close has to wait for the other holder.
///
/// A descriptor that is not a stream socket is closed plainly and reported as [`Ended::Failed`](crate::Ended::Failed).
pub fn close(stream: impl Into<OwnedFd>, policy: &Policy) -> Outcome {
    let started = Instant::now();
    let socket = match Socket::new(stream.into()) {
        Ok(socket) => socket,
        Err((fd, error)) => {
            drop(fd);
            return Outcome { elapsed: started.elapsed(), ..Outcome::failed(error.kind()) };
        }
    };
    let mut machine = Machine::new(policy, started);
    let mut discarder = Discarder::new();
    let mut waiter = SocketWait::default();
    // Something was read since the last wait.
    let mut has_read = false;
    loop {
        let event = match machine.next(Instant::now()) {
            Action::HalfClose => socket.half_close(),
            Action::Discard { max } => socket.discard(&mut discarder, max),
            Action::Measure => socket.measure(),
            Action::Inspect => socket.inspect(),
            Action::Wait { until } => match waiter.wait(socket.as_fd(), std::mem::take(&mut has_read), until)
            {
                Ok(()) if socket.is_dead() => socket.pending().unwrap_or(Event::Reset),
                Ok(()) => Event::Woken,
                Err(error) => Event::Failed(error.kind()),
            },
            Action::Close { abort, outcome } => {
                socket.close(abort);
                return outcome;
            }
        };
        has_read |= matches!(event, Event::Discarded(_) | Event::Empty);
        machine.on(event, Instant::now());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::outcome::Ended;
    use linger_sys::TELLS_ACKNOWLEDGED;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    /// Large enough that most of it still waits in the server when the close begins.
    const RESPONSE: usize = 200_000;

    fn tcp_pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    /// A server that leaves 8 request bytes unread, answers and closes; what the client gets of it.
    fn early_answer<S>(mut server: S, mut client: S) -> (usize, Outcome)
    where
        S: Read + Write + Into<OwnedFd> + Send + 'static,
    {
        client.write_all(b"request and eight").unwrap();
        server.read_exact(&mut [0; 9]).unwrap();
        let ending = std::thread::spawn(move || {
            server.write_all(&[7; RESPONSE]).unwrap();
            close(server, &Policy::default())
        });
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        drop(client);
        (got.len(), ending.join().unwrap())
    }

    #[test]
    fn tcp_gets_every_byte() {
        let (client, server) = tcp_pair();
        let (got, outcome) = early_answer(server, client);
        assert_eq!(got, RESPONSE);
        assert_eq!(
            (outcome.ended, outcome.discarded, outcome.delivered()),
            (Ended::PeerClosed, 8, TELLS_ACKNOWLEDGED)
        );
    }

    #[test]
    fn unix_gets_every_byte() {
        let (client, server) = UnixStream::pair().unwrap();
        let (got, outcome) = early_answer(server, client);
        assert_eq!(got, RESPONSE);
        assert_eq!(
            (outcome.ended, outcome.discarded, outcome.delivered()),
            (Ended::PeerClosed, 8, TELLS_ACKNOWLEDGED)
        );
    }

    #[test]
    #[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
    fn a_peer_that_never_closes_is_let_go_after_grace() {
        let (mut client, mut server) = tcp_pair();
        client.write_all(b"x").unwrap();
        server.write_all(b"answer").unwrap();
        let policy = Policy { grace: Duration::from_millis(20), ..Policy::default() };
        let outcome = close(server, &policy);
        assert_eq!((outcome.ended, outcome.delivered()), (Ended::Acknowledged, true), "{outcome}");
        let mut got = String::new();
        client.read_to_string(&mut got).unwrap();
        assert_eq!(got, "answer");
    }

    #[test]
    #[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
    fn a_peer_that_never_reads_is_told_truthfully() {
        let (client, mut server) = tcp_pair();
        server.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(bytes) = server.write(&[7; 1 << 16]) {
            written += bytes as u64;
        }
        // Its kernel answers, so that only `total` ends it.
        let (idle, total) = (Duration::from_millis(50), Duration::from_millis(150));
        let outcome = close(server, &Policy { idle, total, ..Policy::default() });
        let lost = outcome.unacknowledged.unwrap();
        assert_eq!(outcome.ended, Ended::TimedOut(crate::Bound::Total), "{outcome}");
        assert!(lost > 0 && lost < written, "{lost} of {written}");
        drop(client);
    }

    #[test]
    #[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
    fn a_reset_is_reported_with_what_it_cost() {
        let (client, mut server) = tcp_pair();
        server.set_nonblocking(true).unwrap();
        while server.write(&[7; 1 << 16]).is_ok() {}
        // Unread data: the kernel resets, as this project is all about.
        drop(client);
        let outcome = close(server, &Policy::default());
        assert!(matches!(outcome.ended, Ended::Gone | Ended::PeerReset), "{outcome}");
        assert!(outcome.unacknowledged.unwrap() > 0);
    }

    #[test]
    fn a_unix_peer_that_closes_unread_did_not_get_everything() {
        let (client, mut server) = UnixStream::pair().unwrap();
        server.write_all(b"answer").unwrap();
        drop(client);
        let outcome = close(server, &Policy::default());
        assert!(!outcome.delivered(), "{outcome}");
    }

    #[test]
    fn a_half_closed_peer_still_gets_the_answer() {
        let (mut client, server) = tcp_pair();
        client.write_all(b"request and eight").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let (mut server, reader) = (server, client);
        server.read_exact(&mut [0; 9]).unwrap();
        let ending = std::thread::spawn(move || {
            server.write_all(&[7; RESPONSE]).unwrap();
            close(server, &Policy::default())
        });
        let mut got = Vec::new();
        let mut reader = reader;
        reader.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), RESPONSE);
        let outcome = ending.join().unwrap();
        assert_eq!(
            (outcome.ended, outcome.delivered()),
            (Ended::PeerClosed, TELLS_ACKNOWLEDGED),
            "{outcome}"
        );
    }

    /// Where nobody tells what is acknowledged, the outcome claims nothing, and a silent peer gets `idle`.
    #[test]
    #[cfg(linger_portable)]
    fn what_is_not_told_is_not_claimed() {
        let (mut client, mut server) = tcp_pair();
        server.write_all(b"answer").unwrap();
        let policy = Policy { idle: Duration::from_millis(40), ..Policy::default() };
        let outcome = close(server, &policy);
        assert_eq!(
            (outcome.ended, outcome.unacknowledged, outcome.delivered(), outcome.closed_after),
            (Ended::TimedOut(crate::Bound::Idle), None, false, false)
        );
        assert!(outcome.elapsed >= policy.idle);
        assert!(outcome.to_string().ends_with("acknowledgement unknown"), "{outcome}");
        let mut got = String::new();
        client.read_to_string(&mut got).unwrap();
        assert_eq!(got, "answer");
    }

    #[test]
    fn what_is_no_stream_is_closed_and_said_so() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(matches!(close(udp, &Policy::default()).ended, Ended::Failed(_)));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(close(listener, &Policy::default()).ended, Ended::Gone);
    }

    #[test]
    fn so_linger_set_by_the_program_does_not_block_the_close() {
        let (client, mut server) = tcp_pair();
        rustix::net::sockopt::set_socket_linger(&server, Some(Duration::from_secs(60))).unwrap();
        server.set_nonblocking(true).unwrap();
        while server.write(&[7; 1 << 16]).is_ok() {}
        let policy = Policy { total: Duration::from_millis(20), ..Policy::default() };
        let started = Instant::now();
        let outcome = close(server, &policy);
        assert!(started.elapsed() < outcome.elapsed + Duration::from_secs(30));
        drop(client);
    }
}
