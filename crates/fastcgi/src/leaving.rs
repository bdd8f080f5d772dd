//! What a listener still owes to gateways when its application ends: those that have connected must not be reset with it.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
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

/// A listener that takes no new connection, and keeps those that it has: a client that connects between the last accept and the close of
/// the listener would be reset with what it has sent. Not for a listener that another process has as well, for which this would hold, too.
#[derive(Debug)]
pub(crate) struct Shut {
    /// By the least TTL, which accepted connections have from their listener.
    by_ttl: bool,
}

/// Lets a listener take no new connection.
///
/// On TCP the kernel drops the SYN, and the client asks again a second later, when the listener is closed. On AF_UNIX connections are refused,
/// and accept fails with `EINVAL` once the queue is empty (`unix_stream_connect`, `unix_accept`).
pub(crate) fn admit_no_more(listener: impl AsFd) -> io::Result<Shut> {
    let socket = SockRef::from(&listener);
    if let Ok(Family::Unix) = linger_sys::family(listener.as_fd()) {
        return socket.shutdown(Shutdown::Read).map(|()| Shut { by_ttl: false });
    }
    // Classic BPF on the TCP header: load byte 13 (the flags), and drop the segment if SYN is among them (linux/filter.h).
    let filtered = socket.attach_filter(&[
        SockFilter::new(0x30, 0, 0, 13),
        SockFilter::new(0x45, 0, 1, 0x02),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ]);
    // A filter on TCP may take CAP_NET_ADMIN (seen: 6.18).
    filtered.map(|()| Shut { by_ttl: false }).or_else(|_| by_ttl(listener.as_fd()))
}

/// Hardly anybody sends with the highest TTL there is: Linux, macOS and the BSDs start at 64, Windows at 128. Those who do are admitted.
fn by_ttl(listener: BorrowedFd<'_>) -> io::Result<Shut> {
    linger_sys::set_min_ttl(listener, u8::MAX).map(|()| Shut { by_ttl: true })
}

impl Shut {
    /// Called with each connection that is accepted from now on: one whose handshake was under way hears nothing before. What the kernel has
    /// dropped of it by then, the gateway sends again (RFC 6298).
    pub(crate) fn accepted(&self, stream: impl AsFd) {
        if self.by_ttl {
            // A stream of TCP, as its listener is. One that stayed deaf would end with its gateway's patience.
            let _ = linger_sys::set_min_ttl(stream.as_fd(), 0);
        }
    }
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
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use socket2::{Domain, Protocol, Socket, Type};

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

    /// Connects with this TTL.
    fn connect(to: SocketAddr, ttl: u32) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        if to.is_ipv4() {
            socket.set_ttl_v4(ttl)?
        } else {
            socket.set_unicast_hops_v6(ttl)?
        }
        socket.connect_timeout(&to.into(), Duration::from_millis(300))?;
        Ok(socket.into())
    }

    fn without_a_filter(listener: SocketAddr, clients: SocketAddr) {
        let listener = TcpListener::bind(listener).unwrap();
        let to = SocketAddr::new(clients.ip(), listener.local_addr().unwrap().port());
        let mut queued = connect(to, 64).unwrap();
        let shut = by_ttl(listener.as_fd()).unwrap();
        assert_eq!(connect(to, 64).unwrap_err().kind(), io::ErrorKind::TimedOut, "the SYN is dropped");
        // Stands for one whose handshake was under way: it comes from a listener that admits no more.
        let mut late = connect(to, 255).unwrap();
        for client in [&mut queued, &mut late] {
            let socket = SockRef::from(&*client);
            if to.is_ipv4() { socket.set_ttl_v4(64) } else { socket.set_unicast_hops_v6(64) }.unwrap();
            client.write_all(b"request").unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            shut.accepted(&stream);
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut request = [0; 7];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(&request, b"request");
        }
    }

    #[test]
    fn without_a_filter_the_queue_is_kept_and_nobody_admitted() {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        without_a_filter(v4, v4);
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        for clients in [SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), v4] {
            without_a_filter(v6, clients);
        }
    }
}
