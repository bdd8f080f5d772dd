//! A small HTTP server for scrapers. It serves several peers at once, and bounds their number and the time of each.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use linger::{Closer, Policy};

/// Longest request that is read, in bytes.
const MAX_REQUEST: usize = 8 << 10;
/// Wait after a failed accept: as long as no fd is left, the next accept would fail at once.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// What peers may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerLimits {
    /// Longest time for one request and its response together, however often bytes arrive.
    pub(crate) patience: Duration,
    /// Number of peers served at once. One more ends the oldest of them, so that slow peers never lock out a new one.
    pub(crate) most_peers: usize,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self { patience: Duration::from_secs(5), most_peers: 16 }
    }
}

/// Serves from threads until the process ends. `answer` makes the whole response to a request's head.
pub(crate) fn serve<A>(listener: TcpListener, limits: PeerLimits, answer: A) -> io::Result<()>
where
    A: Fn(&[u8]) -> String + Send + Sync + 'static,
{
    let closer = Closer::global()?.clone();
    let answer = Arc::new(answer);
    let peers = Arc::new(Peers::default());
    let accepting = move || {
        for (id, stream) in (0..).zip(listener.incoming()) {
            let Ok(stream) = stream else {
                std::thread::sleep(AFTER_FAILURE);
                continue;
            };
            if peers.admit(id, &stream, limits.most_peers).is_err() {
                continue;
            }
            let (closer, answer, mine) = (closer.clone(), Arc::clone(&answer), Arc::clone(&peers));
            let serving = move || {
                let until = Instant::now() + limits.patience;
                let answered = exchange(&stream, until, &*answer);
                // Before the close: `forget` closes this program's other fd of the connection, and only the last
                // close ends it.
                mine.forget(id);
                if answered.is_ok() {
                    closer.close(stream, &Policy::short());
                }
            };
            if std::thread::Builder::new().name("metrics-peer".into()).spawn(serving).is_err() {
                peers.forget(id);
            }
        }
    };
    std::thread::Builder::new().name("metrics".into()).spawn(accepting).map(drop)
}

/// The connections that are being served, the oldest first.
#[derive(Debug, Default)]
struct Peers(Mutex<VecDeque<(u64, TcpStream)>>);

impl Peers {
    fn list(&self) -> MutexGuard<'_, VecDeque<(u64, TcpStream)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, id: u64, stream: &TcpStream, most: usize) -> io::Result<()> {
        let stream = stream.try_clone()?;
        let mut list = self.list();
        list.push_back((id, stream));
        while list.len() > most {
            if let Some((_, oldest)) = list.pop_front() {
                // Wakes its thread, which then ends.
                let _ = oldest.shutdown(Shutdown::Both);
            }
        }
        Ok(())
    }

    fn forget(&self, id: u64) {
        self.list().retain(|(other, _)| *other != id);
    }
}

fn exchange(mut stream: &TcpStream, until: Instant, answer: &impl Fn(&[u8]) -> String) -> io::Result<()> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while request.len() < MAX_REQUEST && !request.windows(4).any(|four| four == b"\r\n\r\n") {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut piece)? {
            0 => break,
            read => request.extend_from_slice(&piece[..read]),
        }
    }
    let response = answer(&request);
    let mut rest = response.as_bytes();
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left(until)?))?;
        match stream.write(rest)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => rest = &rest[written..],
        }
    }
    Ok(())
}

/// The time until the deadline.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// No deadline falls within a test.
    const NEVER: Duration = Duration::from_secs(3_600);
    /// A bound that only a failure reaches.
    const HANG: Duration = Duration::from_secs(20);

    fn server(patience: Duration, most_peers: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        serve(listener, PeerLimits { patience, most_peers }, |_| "answer".to_owned()).unwrap();
        address
    }

    fn peer(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        stream.write_all(b"G").unwrap();
        stream
    }

    /// Sends the rest of the request of `peer`, and returns the response.
    fn answered(peer: &mut TcpStream) -> io::Result<String> {
        peer.write_all(b"ET /metrics HTTP/1.0\r\n\r\n")?;
        let mut response = String::new();
        peer.read_to_string(&mut response)?;
        Ok(response)
    }

    #[test]
    fn a_slow_peer_keeps_nobody_waiting() {
        let address = server(NEVER, 2);
        let mut slow = peer(address);
        assert_eq!(answered(&mut peer(address)).unwrap(), "answer");
        assert_eq!(answered(&mut slow).unwrap(), "answer", "and it is still served itself");
    }

    #[test]
    fn one_peer_too_many_ends_the_oldest() {
        let address = server(NEVER, 3);
        let mut slow: Vec<TcpStream> = (0..3).map(|_| peer(address)).collect();
        assert_eq!(answered(&mut peer(address)).unwrap(), "answer");
        assert_ne!(answered(&mut slow[0]).unwrap_or_default(), "answer");
        assert_eq!(answered(&mut slow[1]).unwrap(), "answer");
        assert_eq!(answered(&mut slow[2]).unwrap(), "answer");
    }

    #[test]
    fn a_dripping_peer_has_one_deadline_for_all_its_bytes() {
        let mut dripping = peer(server(Duration::from_millis(100), 3));
        dripping.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let until = Instant::now() + HANG;
        // The bytes come far sooner after one another than the deadline.
        while dripping.write_all(b"x").is_ok() {
            match dripping.read(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                ended => return assert!(!matches!(ended, Ok(1..)), "it was ended, and not answered"),
            }
            assert!(Instant::now() < until, "it was never ended");
        }
    }
}
