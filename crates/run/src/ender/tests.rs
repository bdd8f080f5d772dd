//! What becomes of a proof, on real connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use linger::Budget;
use linger_custody::Origin;
use linger_custody::world::ProcessFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

struct Trial {
    ender: Ender,
    users: Shares,
    closer: Closer,
    tally: Arc<Tally>,
}

impl Trial {
    fn new() -> Self {
        Self::with(Policy::default())
    }

    fn with(policy: Policy) -> Self {
        let (closer, tally) = (Closer::new(Budget::default()).unwrap(), Arc::new(Tally::default()));
        let ender = Ender::new(closer.clone(), policy, Arc::clone(&tally), 16).unwrap();
        Self { ender, users: Shares::new(16, 16), closer, tally }
    }

    /// A connection that a process has closed, and its peer.
    fn closed(&self, unread: &[u8]) -> (Nominee, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        peer.write_all(unread).unwrap();
        let fd = OwnedFd::from(listener.accept().unwrap().0);
        let cookie = rustix::net::sockopt::socket_cookie(&fd).unwrap();
        let passed = Passed { fd, share: self.users.take(7).unwrap() };
        let by = ProcessFd { pid: Pid(1 << 23), fd: 9 };
        let unread = unread.len() as u32;
        (Nominee { passed, cookie, by, origin: Origin::UNKNOWN, unread, closed: true }, peer)
    }

    /// The counts that are not zero.
    fn counts(&self) -> Vec<(Count, u64)> {
        let all = self.tally.all();
        let told = Count::EACH.into_iter().filter(|count| *count != Count::Seen);
        told.map(|count| (count, all[count as usize])).filter(|(_, number)| *number > 0).collect()
    }
}

fn copy(nominee: &Nominee) -> OwnedFd {
    nominee.passed.fd.try_clone().unwrap()
}

fn again(nominee: &Nominee, trial: &Trial) -> Nominee {
    let passed = Passed { fd: copy(nominee), share: trial.users.take(7).unwrap() };
    Nominee { passed, ..*nominee }
}

#[test]
fn what_nobody_has_is_half_closed_and_lingers() {
    let trial = Trial::new();
    let (nominee, mut peer) = trial.closed(b"unread");
    trial.ender.conclude(Proof::Sole(nominee));
    assert_eq!(trial.counts(), [(Count::Handed, 1), (Count::Unread, 1)]);
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    // Late bytes are no error.
    peer.write_all(b"late").unwrap();
    drop(peer);
    trial.ender.hand_over_all();
    trial.closer.finish(Duration::from_secs(20));
    let ended = trial.closer.snapshot();
    assert_eq!((ended.handed_over, ended.undelivered), (1, 0));
}

#[test]
fn what_another_process_has_is_left_alone() {
    let trial = Trial::new();
    let (nominee, mut peer) = trial.closed(b"unread");
    let mut childs = TcpStream::from(copy(&nominee));
    trial.ender.conclude(Proof::Shared(nominee));
    assert_eq!(trial.counts(), [(Count::Shared, 1)]);
    let mut bytes = [0; 6];
    childs.read_exact(&mut bytes).unwrap();
    childs.write_all(&bytes).unwrap();
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"unread");
    // The exit of a process is no close of it.
    let (nominee, _peer) = trial.closed(b"");
    trial.ender.conclude(Proof::Shared(Nominee { closed: false, ..nominee }));
    assert_eq!(trial.counts(), [(Count::Shared, 1)]);
}

#[test]
fn what_nobody_can_prove_is_closed_plainly_and_its_reason_named_once() {
    let trial = Trial::new();
    let (nominee, mut peer) = trial.closed(b"unread");
    trial.ender.conclude(Proof::Hidden(nominee, None));
    assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(trial.tally.refusal().is_none());
    for _ in 0..2 {
        let (nominee, _peer) = trial.closed(b"");
        trial.ender.conclude(Proof::Hidden(nominee, Some(Pid(std::process::id()))));
    }
    assert_eq!(trial.counts(), [(Count::Refused, 3), (Count::Unread, 1)]);
    assert_eq!(trial.tally.refusal().unwrap().process, std::process::id());
    assert!(trial.tally.refusal().is_none());
}

/// Two processes may close it at about the same time, and each as the last one.
#[test]
fn a_connection_is_ended_once() {
    let trial = Trial::new();
    let (nominee, mut peer) = trial.closed(b"");
    let (second, third) = (again(&nominee, &trial), again(&nominee, &trial));
    trial.ender.conclude(Proof::Sole(nominee));
    trial.ender.conclude(Proof::Sole(second));
    assert_eq!(trial.counts(), [(Count::Handed, 1), (Count::Shared, 1)]);
    trial.ender.conclude(Proof::Sole(Nominee { closed: false, ..third }));
    assert_eq!(trial.counts(), [(Count::Handed, 1), (Count::Shared, 1)]);
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
}

#[test]
fn what_a_peer_that_has_finished_has_sent_is_discarded_and_nothing_lingers() {
    let trial = Trial::new();
    let (nominee, mut peer) = trial.closed(b"unread");
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    trial.ender.conclude(Proof::Sole(nominee));
    assert_eq!(trial.counts(), [(Count::Drained, 1), (Count::Unread, 1)]);
    // A FIN, where a plain close of what is unread would have been a reset.
    assert_eq!((peer.read(&mut [0]).unwrap(), trial.closer.snapshot().handed_over), (0, 0));
    // One that has reset it.
    let (nominee, peer) = trial.closed(b"unread");
    rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    drop(peer);
    trial.ender.conclude(Proof::Sole(nominee));
    assert_eq!(trial.counts(), [(Count::Drained, 1), (Count::Gone, 1), (Count::Unread, 2)]);
}

/// Writes as much as fits, which is more than the peer's window, so that something waits in the queue. Returns its length.
fn fill(nominee: &Nominee) -> usize {
    let mut own = TcpStream::from(copy(nominee));
    own.set_nonblocking(true).unwrap();
    let mut written = 0;
    while let Ok(more) = own.write(&[0; 65_536]) {
        written += more;
    }
    written
}

/// The closer counts its half-close, a byte of the queue, as the program's.
#[test]
fn bytes_are_saved_that_were_in_the_queue_at_the_close() {
    let trial = Trial::new();
    let (nominee, mut peer) = trial.closed(b"");
    let written = fill(&nominee);
    let queued = linger_sys::send_queue(nominee.passed.fd.as_fd()).unwrap();
    trial.ender.conclude(Proof::Sole(nominee));
    let mut all = Vec::new();
    peer.read_to_end(&mut all).unwrap();
    drop(peer);
    trial.ender.hand_over_all();
    trial.closer.finish(Duration::from_secs(20));
    assert_eq!(all.len(), written);
    let saved = trial.tally.bytes_acknowledged.load(Relaxed);
    assert!(saved > 0 && saved <= queued, "{saved} of {queued}");
    assert_eq!(trial.tally.lost.load(Relaxed), 0);
}

#[test]
fn who_leaves_without_its_answer_has_lost_it() {
    let trial = Trial::new();
    let (nominee, peer) = trial.closed(b"");
    fill(&nominee);
    trial.ender.conclude(Proof::Sole(nominee));
    // With unread bytes: a reset.
    drop(peer);
    trial.ender.hand_over_all();
    trial.closer.finish(Duration::from_secs(20));
    let ended = trial.closer.snapshot();
    assert_eq!((trial.tally.lost.load(Relaxed), ended.ended.peer_reset + ended.ended.gone), (1, 1));
    assert_eq!(trial.tally.unknown.load(Relaxed), 0);
}

/// A bound ends the close, not the connection: here the kernel delivers all that was queued.
#[test]
fn what_is_queued_at_a_bound_is_not_said_to_be_lost() {
    let mut policy = Policy::default();
    policy.total = Duration::from_millis(50);
    let trial = Trial::with(policy);
    let (nominee, mut peer) = trial.closed(b"");
    let written = fill(&nominee);
    trial.ender.conclude(Proof::Sole(nominee));
    trial.ender.hand_over_all();
    trial.closer.finish(Duration::from_secs(20));
    let tally = &trial.tally;
    assert_eq!((tally.unknown.load(Relaxed), tally.lost.load(Relaxed)), (1, 0));
    let mut all = Vec::new();
    peer.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), written);
}

#[test]
fn the_oldest_of_very_many_ends_is_forgotten() {
    let mut begun = Begun::default();
    let most = Begun::MOST as u64;
    assert!((0..most).all(|cookie| begun.insert(cookie)) && !begun.insert(0) && !begun.insert(most - 1));
    assert!(begun.insert(most) && begun.insert(0), "it was the first");
    assert!(!begun.insert(most));
    assert_eq!((begun.cookies.len(), begun.order.len()), (Begun::MOST, Begun::MOST));
}

/// Waits until the peer's FIN is there.
fn await_fin(socket: &OwnedFd) {
    let mut one = [PollFd::new(socket, PollFlags::RDHUP)];
    assert_eq!(poll(&mut one, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })), Ok(1));
}

/// How many connections came to the closer, and how many were over before; those that wait are handed over first.
fn ended(trial: &Trial) -> (u64, u64) {
    trial.ender.hand_over_all();
    assert!(!trial.ender.has_parted() && trial.tally.parted.load(Relaxed) == 0);
    (trial.closer.snapshot().handed_over, trial.tally.over.load(Relaxed))
}

#[test]
fn the_closer_gets_no_connection_that_is_over() {
    let trial = Trial::new();
    let (nominee, peer) = trial.closed(b"");
    let copy = copy(&nominee);
    // Before the half-close, or later.
    drop(peer);
    await_fin(&copy);
    trial.ender.conclude(Proof::Sole(nominee));
    let (nominee, peer) = trial.closed(b"");
    let copy = self::copy(&nominee);
    trial.ender.conclude(Proof::Sole(nominee));
    assert!(trial.ender.has_parted());
    drop(peer);
    await_fin(&copy);
    assert_eq!(ended(&trial), (0, 2));
    assert_eq!(trial.counts(), [(Count::Handed, 2)]);
}

/// Who has sent more than was read mostly sends on, and fills the receive buffer.
#[test]
fn the_closer_gets_what_has_unread_bytes_at_once() {
    for (unread, expected) in [(&b"unread"[..], (1, false)), (b"", (0, true))] {
        let trial = Trial::new();
        let (nominee, mut peer) = trial.closed(unread);
        trial.ender.conclude(Proof::Sole(nominee));
        assert_eq!((trial.closer.snapshot().handed_over, trial.ender.has_parted()), expected);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "half-closed in either case");
    }
}

/// Each is one step away from being over.
#[test]
fn the_closer_gets_what_is_not_over() {
    let trial = Trial::new();
    let (nominee, _open) = trial.closed(b"");
    trial.ender.conclude(Proof::Sole(nominee));
    assert_eq!(ended(&trial), (1, 0));
    // Unread bytes, before and after the half-close.
    for unread in [&b"unread"[..], b""] {
        let (nominee, mut peer) = trial.closed(unread);
        let copy = copy(&nominee);
        trial.ender.conclude(Proof::Sole(nominee));
        peer.write_all(b"late").unwrap();
        drop(peer);
        await_fin(&copy);
        let (closer, over) = ended(&trial);
        assert_eq!((closer, over), (if unread.is_empty() { 3 } else { 2 }, 0));
    }
    // A reset, which is no FIN.
    let (nominee, peer) = trial.closed(b"");
    let copy = copy(&nominee);
    trial.ender.conclude(Proof::Sole(nominee));
    rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    drop(peer);
    await_fin(&copy);
    assert_eq!(ended(&trial), (4, 0));
    assert_eq!(trial.counts(), [(Count::Handed, 4), (Count::Unread, 1)]);
}

/// A peer that has closed its end and receives nothing more: what is not acknowledged is not delivered.
#[test]
fn the_closer_gets_what_is_not_acknowledged() {
    let trial = Trial::new();
    let (nominee, peer) = trial.closed(b"");
    let copy = copy(&nominee);
    rustix::net::sockopt::set_socket_send_buffer_size(&copy, 1 << 20).unwrap();
    let own = TcpStream::from(copy.try_clone().unwrap());
    own.set_nonblocking(true).unwrap();
    while (&own).write(&[0; 65_536]).is_ok() {}
    drop(own);
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    await_fin(&copy);
    trial.ender.conclude(Proof::Sole(nominee));
    assert!(trial.ender.has_parted(), "its window is closed");
    assert_eq!(ended(&trial), (1, 0));
}

#[test]
fn a_peer_has_its_time_unless_there_are_too_many() {
    let (trial, begun) = (Trial::new(), Instant::now());
    let (nominee, _peer) = trial.closed(b"");
    trial.ender.conclude(Proof::Sole(nominee));
    trial.ender.hand_over_parted(begun + SHORTLY - Duration::from_nanos(1));
    assert!(trial.ender.has_parted(), "it was half-closed after that began");
    let (second, _peer2) = trial.closed(b"");
    trial.ender.conclude(Proof::Sole(second));
    trial.ender.hand_over_parted(begun);
    assert_eq!(trial.closer.snapshot().handed_over, 0, "an eighth of sixteen");
    let (third, _peer3) = trial.closed(b"");
    trial.ender.conclude(Proof::Sole(third));
    trial.ender.hand_over_parted(begun);
    assert_eq!((trial.closer.snapshot().handed_over, trial.tally.parted.load(Relaxed)), (1, 2));
    trial.ender.hand_over_parted(Instant::now() + SHORTLY);
    assert_eq!((trial.closer.snapshot().handed_over, trial.tally.parted.load(Relaxed)), (3, 0));
}
