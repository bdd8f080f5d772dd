//! What a listener still owes to gateways when its application ends: those that have connected must not be reset with it.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use linger_sys::Family;
use socket2::{SockFilter, SockRef};

/// How long each look at the accept queue waits: a handshake on one machine or in one network may take so long.
pub(crate) const LOOK: Duration = Duration::from_millis(20);
/// How long handshakes may take after that. Within it, a packet of them that was lost is sent twice more: after a second, and two seconds after
/// that (RFC 6298 section 2). Whoever does not answer by then has left, or never was there.
const HANDSHAKE: Duration = Duration::from_millis(3_200);
/// The same where the kernel does not tell whether there are any.
const BLIND: Duration = Duration::from_millis(200);

/// Lets a listener take no new connection, and keep those that it has: a client that connects between the last accept and the close of
/// the listener would be reset with what it has sent. Not for a listener that another process has as well, for which this would hold, too.
///
/// On TCP the kernel drops the SYN, and the client asks again a second later, when the listener is closed. On AF_UNIX connections are refused,
/// and accept fails with `EINVAL` once the queue is empty (`unix_stream_connect`, `unix_accept`).
pub(crate) fn admit_no_more(listener: impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(&listener);
    if let Ok(Family::Unix) = linger_sys::family(listener.as_fd()) {
        return socket.shutdown(Shutdown::Read);
    }
    // Classic BPF on the TCP header: load byte 13 (the flags), and drop the segment if SYN is among them (linux/filter.h).
    socket.attach_filter(&[
        SockFilter::new(0x30, 0, 0, 13),
        SockFilter::new(0x45, 0, 1, 0x02),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ])
}

/// The handshakes that were under way when a listener [admitted no more](admit_no_more). Their clients may take them for connections, and have
/// sent requests.
#[derive(Debug)]
pub(crate) struct LastHandshakes {
    since: Instant,
    is_last_look: bool,
}

impl LastHandshakes {
    /// Begins to wait for them: the last one ended now, or the listener admits no more from now on.
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), is_last_look: false }
    }

    /// Called when the accept queue was empty: whether to look once more.
    pub(crate) fn may_end(&mut self, listener: impl AsFd) -> bool {
        if self.is_last_look {
            return false;
        }
        let waited = self.since.elapsed();
        match linger_sys::handshakes(listener.as_fd()) {
            // One that ended between the look and this count is in the queue now.
            Ok(0) => {
                self.is_last_look = true;
                true
            }
            Ok(_) => waited < HANDSHAKE,
            // AF_UNIX has no handshakes.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => false,
            Err(_) => waited < BLIND,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_unix_socket_keeps_its_queue_and_admits_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut queued = UnixStream::connect(&path).unwrap();
        admit_no_more(&listener).unwrap();
        assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        drop(listener.accept().unwrap());
        assert_eq!(queued.read(&mut [0]).unwrap(), 0, "it was accepted, and not reset");
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(!LastHandshakes::new().may_end(&listener));
    }
}
