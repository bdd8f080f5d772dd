//! Every early answer x peer x transport x server, each in a network of its own, on the real kernel.
//!
//! `client.rs` holds the peers, `server.rs` the servers. This file says what is expected of each cell: which bytes
//! arrive, the true outcome, and the resets that the kernel sends. The same server also runs bare for each cell, and
//! must not be better for the client in anything. (The next request of a pool is tested in `tests/http` and
//! `tests/clients`.)

mod client;
mod server;
#[path = "../support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use client::Felt;
use linger::{Bound, Ended, Policy};
use linger_sys::TELLS_ACKNOWLEDGED;
use linger_testing::sandboxed;
use linger_testing::{Counters, Namespace};
use support::LONG;

/// Bytes of the answer: one segment, more than the initial congestion window, more than the peer's buffer.
const SIZES: [usize; 3] = [1_000, 100_000, 1_000_000];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Peer {
    /// Sends everything it announced, reads while it does, closes at the end of the answer.
    FinishesUpload,
    /// Sends for ever, also after the end of the answer.
    EndlessUpload,
    /// Reads nothing for a while.
    Stalls,
    /// Ends its side after the request.
    HalfCloses,
    /// Sends close_notify after the request, and goes on reading (RFC 8446 section 6.1).
    SaysGoodbye,
    /// Closes after the request, without reading.
    Closes,
    /// Resets after the request.
    Resets,
    /// Keeps the connection open and reads nothing.
    NeverReads,
    /// Reads everything and keeps the connection open.
    NeverCloses,
    /// Reads everything and sends a byte every tenth of a second.
    Drips,
    /// Reads nothing until the server has closed: used for the control only.
    ReadsAfterTheClose,
}

const PEERS: [Peer; 10] = [
    Peer::FinishesUpload,
    Peer::EndlessUpload,
    Peer::Stalls,
    Peer::HalfCloses,
    Peer::SaysGoodbye,
    Peer::Closes,
    Peer::Resets,
    Peer::NeverReads,
    Peer::NeverCloses,
    Peer::Drips,
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Transport {
    Ipv4,
    Ipv6,
    Unix,
    Tls12,
    Tls13,
}

const TRANSPORTS: [Transport; 5] =
    [Transport::Ipv4, Transport::Ipv6, Transport::Unix, Transport::Tls12, Transport::Tls13];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Server {
    Blocking,
    Closer,
    Tokio,
    AxumHttp1,
    AxumHttp2,
}

impl Server {
    fn is_axum(self) -> bool {
        matches!(self, Self::AxumHttp1 | Self::AxumHttp2)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    Lingering,
    /// The control: the same server on streams that are closed without this crate.
    Bare,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    server: Server,
    ending: Ending,
    transport: Transport,
    peer: Peer,
    size: usize,
}

/// How long a server waits for a peer.
///
/// A peer that ends by itself is waited for, however busy the machine is. Only for those that never end do the bounds
/// decide, and before `total` they have to get the whole answer.
fn policy(peer: Peer) -> Policy {
    let policy = Policy::new();
    match peer {
        Peer::EndlessUpload | Peer::Drips => {
            let long = Duration::from_secs(10);
            policy.with_total(long).with_idle(long).with_grace(long)
        }
        // `idle` bounds the pauses in which it reads the answer, and the silence after that.
        Peer::NeverCloses => policy
            .with_total(PATIENCE)
            .with_idle(Duration::from_secs(5))
            .with_grace(Duration::from_millis(300)),
        Peer::NeverReads => {
            let (idle, total) = (Duration::from_millis(800), Duration::from_millis(1_800));
            policy.with_total(total).with_idle(idle).with_grace(Duration::from_millis(300))
        }
        Peer::FinishesUpload
        | Peer::Stalls
        | Peer::HalfCloses
        | Peer::SaysGoodbye
        | Peer::Closes
        | Peer::Resets
        | Peer::ReadsAfterTheClose => policy.with_total(PATIENCE).with_idle(PATIENCE).with_grace(PATIENCE),
    }
}

/// No cell gets near this, unless something is wrong with it.
const PATIENCE: Duration = Duration::from_secs(LONG.as_secs() / 2);

/// A write that makes no progress for so long is given up, and the close begins.
fn stalled(peer: Peer) -> Duration {
    if peer == Peer::NeverReads { Duration::from_millis(300) } else { PATIENCE }
}

/// The result of a cell.
#[derive(Debug)]
struct Result {
    felt: Felt,
    ended: Ended,
    delivered: bool,
}

impl Cell {
    /// Why there is nothing to test, for the cells that do not exist.
    fn is_moot(&self) -> Option<&'static str> {
        let axum = self.server.is_axum();
        match self.peer {
            Peer::HalfCloses | Peer::SaysGoodbye if self.server == Server::AxumHttp2 => {
                Some("HTTP/2 has no half-close")
            }
            Peer::SaysGoodbye if !matches!(self.transport, Transport::Tls12 | Transport::Tls13) => {
                Some("there is no TLS")
            }
            Peer::NeverReads if self.server == Server::AxumHttp2 => {
                Some("HTTP/2 shuts down after a PING, which this peer never answers: no close begins")
            }
            Peer::NeverReads if axum && self.size > 1_000 => {
                Some("the answer fills the send buffer: hyper waits in write, no close begins")
            }
            _ => None,
        }
    }

    fn run(&self) -> Result {
        let Cell { server, transport, peer, size, .. } = *self;
        let (connect, accept) = server::listen(transport);
        let (over, is_over) = mpsc::channel();
        let client = std::thread::spawn(move || client::run(connect, server, peer, size, &is_over));
        let (ended, delivered) = server::run(accept, *self);
        drop(over);
        let felt = client.join().unwrap();
        Result { felt, ended, delivered }
    }

    fn check(&self) -> std::result::Result<(), String> {
        let before = Counters::read().unwrap();
        let result = self.run();
        let resets = Counters::read().unwrap().since(&before);
        let wrong = |what: &str| {
            let counted: Vec<_> = resets
                .nonzero()
                .filter(|(name, _)| name.contains("Abort") || name.contains("Rst") || name.contains("etrans"))
                .collect();
            Err(format!("{self:?}: {what}: {result:?} {counted:?}"))
        };
        let honest = !matches!(self.peer, Peer::Closes | Peer::Resets | Peer::NeverReads);
        if honest && result.felt.got != Some(self.size) {
            return wrong("bytes of the answer are missing");
        }
        if honest && result.delivered != TELLS_ACKNOWLEDGED {
            return wrong("everything arrived and the outcome denies it, or claims what nobody has told");
        }
        // How a close ends depends on whether the system tells what is acknowledged.
        let fits = !TELLS_ACKNOWLEDGED
            || match self.peer {
                Peer::FinishesUpload
                | Peer::Stalls
                | Peer::HalfCloses
                | Peer::SaysGoodbye
                | Peer::ReadsAfterTheClose => result.ended == Ended::PeerClosed,
                Peer::EndlessUpload | Peer::Drips => result.ended == Ended::TimedOut(Bound::Total),
                Peer::NeverCloses => result.ended == Ended::Acknowledged,
                // The answer may be acknowledged before the peer's reset, or its close, is seen.
                Peer::Closes | Peer::Resets => {
                    matches!(result.ended, Ended::PeerClosed | Ended::PeerReset | Ended::Gone)
                }
                Peer::NeverReads if self.size == 1_000 && self.transport != Transport::Unix => {
                    result.ended == Ended::Acknowledged && result.delivered
                }
                // A kernel that answers window probes is alive, whatever its program does; of a local peer none is known.
                Peer::NeverReads => {
                    let bound = if self.transport == Transport::Unix { Bound::Idle } else { Bound::Total };
                    result.ended == Ended::TimedOut(bound) && !result.delivered
                }
            };
        if !fits {
            return wrong("not the true outcome");
        }
        // Only the peers that send after the end, or leave something unread, may see or cause a reset.
        let hostile = !honest || matches!(self.peer, Peer::EndlessUpload | Peer::Drips);
        let caused = resets.of("TCPAbortOnClose") + resets.of("TCPAbortOnData");
        if !hostile && (caused > 0 || resets.of("OutRsts") > resets.of("RetransSegs")) {
            return wrong("a reset was sent");
        }
        if honest && result.felt.write_failed {
            return wrong("the upload could not be written");
        }
        if self.ending == Ending::Lingering {
            let bare = Cell { ending: Ending::Bare, ..*self }.run().felt;
            if result.felt.is_worse_than(&bare) {
                return wrong(&format!("the bare server is better: {bare:?}"));
            }
        }
        Ok(())
    }
}

/// Cells that run at the same time; they wait most of the time. All of those that never end by themselves, and some more.
const AT_ONCE: usize = 40;

fn all_cells_of(server: Server) {
    sandboxed(|| {
        server::Certificate::prepare();
        let mut cells = Vec::new();
        for transport in TRANSPORTS {
            for peer in PEERS {
                for size in SIZES {
                    let cell = Cell { server, ending: Ending::Lingering, transport, peer, size };
                    if cell.is_moot().is_none() {
                        cells.push(cell);
                    }
                }
            }
        }
        // First those that take longest.
        cells.sort_by_key(|cell| !matches!(cell.peer, Peer::EndlessUpload | Peer::Drips));
        let next = AtomicUsize::new(0);
        let failures = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let network = Namespace::new().unwrap();
                        if let Err(failure) = network.run(|| cell.check()).unwrap() {
                            failures.lock().unwrap().push(failure);
                        }
                    }
                });
            }
        });
        let failures = failures.into_inner().unwrap();
        assert!(failures.is_empty(), "{} of {} cells:\n{}", failures.len(), cells.len(), failures.join("\n"));
    });
}

#[test]
fn blocking() {
    all_cells_of(Server::Blocking);
}

#[test]
fn closer() {
    all_cells_of(Server::Closer);
}

#[test]
fn tokio() {
    all_cells_of(Server::Tokio);
}

#[test]
fn axum_http1() {
    all_cells_of(Server::AxumHttp1);
}

#[test]
fn axum_http2() {
    all_cells_of(Server::AxumHttp2);
}

/// The test of the test: on a bare server such cells fail.
#[test]
fn a_plain_close_fails() {
    sandboxed(|| {
        server::Certificate::prepare();
        for size in [100_000, 1_000_000] {
            let (server, transport) = (Server::Blocking, Transport::Ipv4);
            let peer = Peer::ReadsAfterTheClose;
            let cell = Cell { server, ending: Ending::Bare, transport, peer, size };
            let network = Namespace::new().unwrap();
            let failure = network.run(|| cell.check()).unwrap().unwrap_err();
            assert!(failure.contains("missing") && failure.contains("TCPAbortOnClose"), "{failure}");
        }
    });
}

#[test]
fn a_client_that_feels_less_of_one_thing_is_worse_off() {
    let felt = Felt { got: None, bytes: 7, read_failed: true, write_failed: true };
    assert!(!felt.is_worse_than(&felt));
    for better in
        [Felt { bytes: 8, ..felt }, Felt { read_failed: false, ..felt }, Felt { write_failed: false, ..felt }]
    {
        assert!(felt.is_worse_than(&better) && !better.is_worse_than(&felt), "{better:?}");
    }
}
