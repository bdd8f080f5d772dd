//! The closer on loopback; what needs counters of the kernel is in `tests/`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Instant;

use super::*;
use crate::{Bound, Ended};

const LONG: Duration = Duration::from_secs(60);

/// Large enough that most of it still waits in the server when the close begins.
const RESPONSE: usize = 200_000;

fn closer() -> Closer {
    Closer::new(Budget::default()).unwrap()
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// A policy under which nothing ends by itself within a test.
fn patient() -> Policy {
    Policy { idle: LONG, total: LONG, grace: LONG, ..Policy::default() }
}

/// Hands a stream over, and waits for its outcome.
fn outcome(closer: &Closer, stream: impl Into<OwnedFd>, policy: &Policy) -> Outcome {
    let (tell, told) = mpsc::channel();
    closer.close_then(stream, policy, move |outcome| tell.send(outcome).unwrap());
    told.recv_timeout(LONG).unwrap()
}

/// Waits until the closer's counts are as wanted. A socket may be counted only after its caller has returned.
fn until(closer: &Closer, what: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let end = Instant::now() + LONG;
    loop {
        let snapshot = closer.snapshot();
        if what(&snapshot) {
            return snapshot;
        }
        assert!(Instant::now() < end, "it never came to that: {snapshot:?}");
        // A snapshot changes without anybody being told.
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn early_answer<S: Read + Write + Into<OwnedFd>>(mut client: S, mut server: S) {
    let closer = closer();
    client.write_all(b"request and eight").unwrap();
    server.read_exact(&mut [0; 9]).unwrap();
    let writing = std::thread::spawn({
        let closer = closer.clone();
        let mut server = std::fs::File::from(server.into());
        move || {
            server.write_all(&[7; RESPONSE]).unwrap();
            closer.close(server, &Policy::default());
        }
    });
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), RESPONSE);
    drop(client);
    writing.join().unwrap();
    closer.finish(LONG);
    let snapshot = closer.snapshot();
    let undelivered = u64::from(!linger_sys::TELLS_ACKNOWLEDGED);
    assert_eq!((snapshot.ended.peer_closed, snapshot.discarded, snapshot.undelivered), (1, 8, undelivered));
}

#[test]
fn tcp_gets_every_byte() {
    let (client, server) = pair();
    early_answer(client, server);
}

#[test]
fn unix_gets_every_byte() {
    let (client, server) = UnixStream::pair().unwrap();
    early_answer(client, server);
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn a_silent_peer_is_let_go_when_the_fin_is_acknowledged() {
    let (client, server) = pair();
    // Only the acknowledgement and `grace` can end this within the test.
    let policy = Policy { grace: Duration::from_millis(20), ..patient() };
    let outcome = outcome(&closer(), server, &policy);
    assert_eq!((outcome.ended, outcome.delivered()), (Ended::Acknowledged, true), "{outcome}");
    drop(client);
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn the_acknowledgement_that_comes_late_is_heard() {
    let (mut client, mut server) = pair();
    server.set_nonblocking(true).unwrap();
    let mut written = 0;
    while let Ok(bytes) = server.write(&[7; 1 << 16]) {
        written += bytes;
    }
    let (tell, told) = mpsc::channel();
    let closer = closer();
    let policy = Policy { grace: Duration::from_millis(20), ..patient() };
    closer.close_then(server, &policy, move |outcome| tell.send(outcome).unwrap());
    // It lingers: the peer has read nothing, its window is closed, the FIN has not left.
    until(&closer, |snapshot| snapshot.lingering == 1);
    let mut got = vec![0; written];
    client.read_exact(&mut got).unwrap();
    assert_eq!(told.recv_timeout(LONG).unwrap().ended, Ended::Acknowledged);
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn what_the_peer_never_read_is_counted() {
    let (client, mut server) = pair();
    server.set_nonblocking(true).unwrap();
    while server.write(&[7; 1 << 16]).is_ok() {}
    let closer = closer();
    // Its kernel answers, so that only `total` ends it.
    let (idle, total) = (Duration::from_millis(30), Duration::from_millis(100));
    let outcome = outcome(&closer, server, &Policy { idle, total, ..Policy::default() });
    assert_eq!(outcome.ended, Ended::TimedOut(Bound::Total));
    let snapshot = until(&closer, |snapshot| snapshot.lingering == 0);
    assert_eq!(Some(snapshot.unacknowledged), outcome.unacknowledged);
    assert_eq!((snapshot.undelivered, snapshot.ended.of(outcome.ended)), (1, 1));
    drop(client);
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn a_reset_that_comes_while_lingering_is_reported() {
    let (client, mut server) = pair();
    server.set_nonblocking(true).unwrap();
    while server.write(&[7; 1 << 16]).is_ok() {}
    let (tell, told) = mpsc::channel();
    let closer = closer();
    closer.close_then(server, &patient(), move |outcome| tell.send(outcome).unwrap());
    until(&closer, |snapshot| snapshot.lingering == 1);
    // It has unread data: the kernel resets.
    drop(client);
    let outcome = told.recv_timeout(LONG).unwrap();
    assert!(matches!(outcome.ended, Ended::PeerReset | Ended::Gone), "{outcome}");
    assert!(outcome.unacknowledged.unwrap() > 0);
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn the_peer_that_has_everything_is_evicted_before_older_ones() {
    let closer = Closer::new(Budget { sockets: 2, ..Budget::default() }).unwrap();
    let (unread, mut slow) = pair();
    slow.set_nonblocking(true).unwrap();
    while slow.write(&[7; 1 << 16]).is_ok() {}
    let (silent, server) = pair();
    let (tell, told) = mpsc::channel();
    let watch = |name: &'static str| {
        let tell = tell.clone();
        move |outcome: Outcome| tell.send((name, outcome.ended)).unwrap()
    };
    closer.close_then(slow, &patient(), watch("slow"));
    closer.close_then(server, &patient(), watch("silent"));
    until(&closer, |snapshot| snapshot.lingering_acknowledged == 1);
    let (third, server) = pair();
    closer.close_then(server, &patient(), watch("third"));
    assert_eq!(told.recv_timeout(LONG).unwrap(), ("silent", Ended::Evicted));
    until(&closer, |snapshot| snapshot.ended.evicted == 1 && snapshot.lingering_acknowledged == 1);
    closer.evict(1);
    assert_eq!(told.recv_timeout(LONG).unwrap(), ("third", Ended::Evicted));
    closer.evict(5);
    assert_eq!(told.recv_timeout(LONG).unwrap(), ("slow", Ended::Evicted));
    let snapshot = until(&closer, |snapshot| snapshot.lingering == 0);
    assert_eq!(snapshot.handed_over, 3);
    drop((unread, silent, third));
}

#[test]
fn one_peer_cannot_evict_the_others() {
    let budget = Budget { sockets_per_peer: Some(1), ..Budget::default() };
    let closer = Closer::new(budget).unwrap();
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut clients = Vec::new();
    for address in ["127.0.0.1", "::1"] {
        for _ in 0..3 {
            clients.push(TcpStream::connect((address, port)).unwrap());
            closer.close(listener.accept().unwrap().0, &patient());
        }
    }
    // The IPv4 peer is one peer through a dual-stack listener, too.
    let snapshot = until(&closer, |snapshot| snapshot.ended.total() == 4);
    assert_eq!((snapshot.ended.evicted, snapshot.lingering), (4, 2));
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn finish_ends_everything_and_says_how() {
    let closer = closer();
    let (client, server) = pair();
    closer.close(server, &patient());
    drop(client);
    until(&closer, |snapshot| snapshot.ended.peer_closed == 1);
    let (mut sends, server) = pair();
    closer.close(server, &patient());
    let (unread, mut server) = pair();
    server.set_nonblocking(true).unwrap();
    while server.write(&[7; 1 << 16]).is_ok() {}
    closer.close(server, &patient());
    let summary = closer.finish(Duration::from_millis(100));
    assert_eq!((summary.handed_over, summary.lingering, summary.ended.total()), (2, 0, 2));
    assert_eq!(summary.ended.peer_closed, 0, "it ended before: {summary:?}");
    assert_eq!(summary.undelivered, 1);
    assert_eq!(sends.read(&mut [0]).unwrap(), 0, "a clean end of stream");
    drop(unread);
    // The closer can be used again, with the policy's own bounds.
    let (client, server) = pair();
    closer.close(server, &patient());
    until(&closer, |snapshot| snapshot.lingering == 1);
    drop(client);
    until(&closer, |snapshot| snapshot.ended.peer_closed == 2);
}

#[test]
fn dropping_the_closer_drops_no_socket() {
    let (mut client, mut server) = pair();
    server.write_all(b"answer").unwrap();
    let (tell, told) = mpsc::channel();
    let closer = closer();
    client.write_all(b"unread").unwrap();
    closer.close_then(server, &patient(), move |outcome| tell.send(outcome).unwrap());
    drop(closer);
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    assert_eq!(got, "answer");
    drop(client);
    assert_eq!(told.recv_timeout(LONG).unwrap().ended, Ended::PeerClosed);
    // The watcher's sender is gone with the thread's last reference to it.
    assert!(told.recv_timeout(LONG).is_err());
}

#[test]
fn the_discard_rate_holds_and_everyone_has_a_turn() {
    const EACH: usize = 400_000;
    let closer = Closer::new(Budget { discard_per_second: Some(8_000_000), ..Budget::default() }).unwrap();
    let started = Instant::now();
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let (mut client, server) = pair();
            closer.close(server, &patient());
            std::thread::spawn(move || {
                client.write_all(&vec![7; EACH]).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            })
        })
        .collect();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    let snapshot = until(&closer, |snapshot| snapshot.lingering == 0);
    assert_eq!((snapshot.ended.peer_closed, snapshot.discarded), (4, 4 * EACH as u64));
    // A bound of the mechanism, not of the machine's speed: it cannot have been faster.
    assert!(started.elapsed() >= Duration::from_secs_f64(4.0 * EACH as f64 / 8e6 - 0.1));
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn a_duplicate_of_the_descriptor_does_no_harm() {
    let closer = closer();
    let (client, server) = pair();
    let duplicate = server.try_clone().unwrap();
    let policy = Policy { grace: Duration::from_millis(10), ..patient() };
    assert_eq!(outcome(&closer, server, &policy).ended, Ended::Acknowledged);
    // Events of the duplicate must not reach the next socket in its place.
    let (other, server) = pair();
    closer.close(server, &patient());
    let mut client = client;
    client.write_all(b"late").unwrap();
    until(&closer, |snapshot| snapshot.lingering == 1);
    drop(other);
    until(&closer, |snapshot| snapshot.ended.peer_closed == 1);
    drop(duplicate);
}

#[test]
fn what_is_no_stream_or_no_connection_is_counted() {
    let closer = closer();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(matches!(outcome(&closer, udp, &patient()).ended, Ended::Failed(_)));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(outcome(&closer, listener, &patient()).ended, Ended::Gone);
    let snapshot = until(&closer, |snapshot| snapshot.lingering == 0);
    assert_eq!((snapshot.ended.failed, snapshot.ended.gone), (1, 1));
}

#[test]
fn a_watcher_that_panics_costs_only_itself() {
    let closer = closer();
    let (client, server) = pair();
    closer.close_then(server, &patient(), |_| panic!("on purpose"));
    drop(client);
    until(&closer, |snapshot| snapshot.ended.peer_closed == 1);
    let (client, server) = pair();
    drop(client);
    assert_eq!(outcome(&closer, server, &patient()).ended, Ended::PeerClosed);
}

#[test]
fn a_bad_budget_is_refused_by_name() {
    let error = Closer::new(Budget { sockets: 0, ..Budget::default() }).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("`sockets`"), "{error}");
}

#[test]
fn the_thread_ends_with_the_last_handle_and_the_last_socket() {
    // In a process of its own, which has no other threads.
    let said = linger_sys::testing::forked(|| {
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let until_threads = |wanted| {
            while threads() != wanted {
                std::thread::yield_now();
            }
        };
        let closer = closer();
        let (client, server) = pair();
        closer.close(server, &patient());
        drop(closer);
        assert_eq!(threads(), 2, "its socket lingers");
        drop(client);
        until_threads(1);
        String::new()
    });
    assert_eq!(said, Ok(String::new()));
}
