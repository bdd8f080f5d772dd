//! Peers and counters for the integration tests.
#![allow(dead_code)] // Each test binary uses a part.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use linger::{Bound, Closer, Ended, Snapshot};
use linger_testing::Counters;

/// Longer than anything here takes; only a failure gets near it.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Large enough that most of it still waits in the server when the close begins.
pub(crate) const RESPONSE: usize = 300_000;

/// What a client got of a response.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) bytes: Vec<u8>,
    pub(crate) error: Option<io::ErrorKind>,
}

impl Got {
    pub(crate) fn read(mut stream: impl Read) -> Self {
        let mut bytes = Vec::new();
        let error = stream.read_to_end(&mut bytes).err().map(|error| error.kind());
        Self { bytes, error }
    }

    /// The body of an HTTP/1 response, if the whole of it came and the connection ended cleanly.
    pub(crate) fn body(&self) -> Option<&[u8]> {
        let head = self.bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&self.bytes[..head]).to_ascii_lowercase();
        let length: usize = text.split("content-length: ").nth(1)?.lines().next()?.trim().parse().ok()?;
        let body = &self.bytes[head..];
        (self.error.is_none() && body.len() == length).then_some(body)
    }
}

/// A connection with a receive buffer as small as that of a phone: what the server writes waits in the server.
pub(crate) fn connect_small(server: SocketAddr) -> TcpStream {
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(server), socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.into()
}

/// Reads at the speed of a link of some 4 MB/s.
struct Slow<R>(R);

impl<R: Read> Read for Slow<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        thread::sleep(Duration::from_millis(1));
        let most = buf.len().min(4 << 10);
        self.0.read(&mut buf[..most])
    }
}

/// Uploads while it reads, as browsers and curl do. It should get the whole of an early answer.
///
/// The upload stops at its end, at the end of the response, or at an error, which is no failure by itself.
pub(crate) fn upload(server: SocketAddr, head: &str, body: usize) -> Got {
    let stream = connect_small(server);
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut upstream = stream.try_clone().unwrap();
    let head = head.to_owned();
    let (tell, stopped) = mpsc::channel::<()>();
    let writer = thread::spawn(move || {
        // Dropped when the upload has stopped for whatever reason.
        let _tell = tell;
        let chunk = [b'u'; 16 << 10];
        if upstream.write_all(head.as_bytes()).is_err() {
            return;
        }
        let mut left = body;
        while left > 0 {
            match upstream.write(&chunk[..left.min(chunk.len())]) {
                Ok(bytes) => left -= bytes,
                Err(_) => return,
            }
        }
    });
    // A round trip away, or busy sending: the answer waits in the server until then.
    let _ = stopped.recv_timeout(Duration::from_millis(100));
    let got = Got::read(Slow(&stream));
    // The writer may wait for a window that never opens again.
    let _ = stream.shutdown(Shutdown::Both);
    writer.join().unwrap();
    got
}

/// Resets that were sent in this network since `before`, with their causes, as text for a failed test.
pub(crate) fn resets(before: &Counters) -> (u64, String) {
    let since = Counters::read().unwrap().since(before);
    let named: Vec<String> = since
        .nonzero()
        .filter(|(name, _)| name.starts_with("TCPAbort") || *name == "OutRsts")
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    (since.of("OutRsts"), named.join(", "))
}

/// Asserts that no end of a connection in this network has reset it since `before`.
///
/// On a busy machine even loopback delivers out of order and retransmits for nothing. Such a duplicate may
/// find the socket gone that sent it: that reset follows both FINs, has no `TCPAbort` counter, and there is a
/// retransmission for each.
#[track_caller]
pub(crate) fn no_resets(before: &Counters) {
    let (count, causes) = resets(before);
    let since = Counters::read().unwrap().since(before);
    let all: Vec<_> = since.nonzero().collect();
    assert!(count <= since.of("RetransSegs") && !causes.contains("TCPAbort"), "{causes}; all: {all:?}");
}

/// How many of this many closes that lost nothing are counted as undelivered: all of them on systems that do not
/// tell what was acknowledged.
pub(crate) fn undelivered(closes: u64) -> u64 {
    if linger_sys::TELLS_ACKNOWLEDGED { 0 } else { closes }
}

/// How the close of a peer ends that has everything, sends nothing and stays. A system that does not tell what is
/// acknowledged cannot know that the peer has everything: it waits for `idle` instead of `grace`.
pub(crate) const HAS_STAYED: Ended =
    if linger_sys::TELLS_ACKNOWLEDGED { Ended::Acknowledged } else { Ended::TimedOut(Bound::Idle) };

/// Waits until the counts of a closer are as wanted.
#[track_caller]
pub(crate) fn until(closer: &Closer, what: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let end = Instant::now() + LONG;
    loop {
        let snapshot = closer.snapshot();
        if what(&snapshot) {
            return snapshot;
        }
        assert!(Instant::now() < end, "it never came to that: {snapshot:?}");
        // A snapshot changes without anybody being told.
        thread::sleep(Duration::from_millis(1));
    }
}
