//! The thread's work step by step, on real sockets, without the thread.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use super::*;
use crate::machine::Core;
use crate::outcome::{Bound, Ended};
use crate::policy::Policy;
use crate::socket::Socket;

const LONG: Duration = Duration::from_secs(60);

/// Nothing ends by itself.
fn patient() -> Policy {
    Policy { idle: LONG, total: LONG, grace: LONG, ..Policy::default() }
}

fn worker(budget: Budget) -> Worker {
    let shared = Arc::new(Shared::new(budget.sockets).unwrap());
    Worker::new(shared, budget).unwrap()
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// A server whose client never reads: most of what was written waits in the server.
fn stuffed() -> (TcpStream, TcpStream) {
    let (client, mut server) = pair();
    server.set_nonblocking(true).unwrap();
    while server.write(&[7; 1 << 16]).is_ok() {}
    (client, server)
}

/// Hands a socket to the worker as its handle would, counted.
fn admit(worker: &mut Worker, server: impl Into<OwnedFd>, policy: &Policy) -> Receiver<Outcome> {
    let (tell, told) = channel();
    let core = Core::new(policy, worker.now);
    let watcher: Watcher = Box::new(move |outcome| tell.send(outcome).unwrap());
    let socket = Socket::new(server.into()).unwrap();
    // Counts are the board's; the worker takes it from there at its turn.
    assert!(worker.shared.submit(Arrival { socket, core, watcher: Some(watcher) }, false).is_none());
    worker.turn();
    told
}

/// Waits for one batch of events, at most until the next timer or for a second, and serves it.
fn wait(worker: &mut Worker) {
    let second = worker.now + 1_000_000_000;
    worker.work.next = Some(worker.work.next.map_or(second, |next| next.min(second)));
    worker.await_events(&mut ReadyList::new(BATCH));
}

/// Serves events and timers until it gives something: long before the patience of anything here is over.
fn until<T>(worker: &mut Worker, what: impl Fn(&mut Worker) -> Option<T>) -> T {
    let end = std::time::Instant::now() + LONG / 4;
    loop {
        if let Some(got) = what(worker) {
            return got;
        }
        assert!(std::time::Instant::now() < end, "it never came to that");
        wait(worker);
        worker.turn();
    }
}

/// Serves events and timers until an outcome was reported.
fn told(worker: &mut Worker, told: &Receiver<Outcome>) -> Outcome {
    until(worker, |_| match told.try_recv() {
        Ok(outcome) => Some(outcome),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Disconnected) => panic!("nobody will tell"),
    })
}

/// What the machine of the only socket knows.
fn core(worker: &mut Worker) -> &mut Core {
    &mut worker.slab.get(0).unwrap().core
}

/// Waits until the kernel says so of a socket.
fn polled(socket: impl AsFd, flags: rustix::event::PollFlags) {
    let patience = rustix::event::Timespec { tv_sec: 15, tv_nsec: 0 };
    let mut ready = [rustix::event::PollFd::new(&socket, flags)];
    assert_eq!(rustix::event::poll(&mut ready, Some(&patience)).unwrap(), 1, "{flags:?} never came");
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn an_acknowledged_socket_is_the_first_of_its_peers_to_go() {
    let mut worker = worker(Budget { sockets_per_peer: Some(3), ..Budget::default() });
    let (unread, slow) = stuffed();
    let slow = admit(&mut worker, slow, &patient());
    let (second, server) = pair();
    let silent = admit(&mut worker, server, &patient());
    let (third, server) = stuffed();
    let also_slow = admit(&mut worker, server, &patient());
    until(&mut worker, |worker| (worker.report.acknowledged > 0).then_some(()));
    let (fourth, server) = stuffed();
    let _last = admit(&mut worker, server, &patient());
    assert_eq!(silent.try_recv().unwrap().ended, Ended::Evicted);
    assert_eq!(worker.report.acknowledged, 0);
    // If no peer has acknowledged everything, the oldest socket goes.
    let (fifth, server) = stuffed();
    let _last = admit(&mut worker, server, &patient());
    assert_eq!(slow.try_recv().unwrap().ended, Ended::Evicted);
    assert!(also_slow.try_recv().is_err());
    assert_eq!(worker.slab.len(), 3);
    drop((unread, second, third, fourth, fifth));
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: that a peer's kernel lives")]
fn a_peer_that_answers_probes_and_reads_nothing_goes_before_older_ones() {
    for per_peer in [None, Some(2)] {
        let mut worker = worker(Budget { sockets: 2, sockets_per_peer: per_peer, ..Budget::default() });
        let (first, server) = stuffed();
        let old = admit(&mut worker, server, &patient());
        let (second, server) = stuffed();
        let short = Policy { idle: Duration::from_millis(100), ..patient() };
        let paused = admit(&mut worker, server, &short);
        until(&mut worker, |worker| worker.slab.get(1).unwrap().core.is_paused().then_some(()));
        let (third, server) = stuffed();
        let _last = admit(&mut worker, server, &patient());
        assert_eq!(paused.try_recv().unwrap().ended, Ended::Evicted);
        assert!(old.try_recv().is_err());
        drop((first, second, third));
    }
}

#[test]
fn the_budget_is_kept_to_the_socket() {
    let mut worker = worker(Budget { sockets: 2, ..Budget::default() });
    let mut clients = Vec::new();
    let mut ended = Vec::new();
    for _ in 0..3 {
        let (client, server) = stuffed();
        clients.push(client);
        ended.push(admit(&mut worker, server, &patient()));
    }
    assert_eq!(worker.slab.len(), 2);
    assert_eq!(ended[0].try_recv().unwrap().ended, Ended::Evicted);
    assert!(ended[1].try_recv().is_err() && ended[2].try_recv().is_err());
}

#[test]
fn orders_to_evict_are_followed_and_end_with_the_last_socket() {
    let mut worker = worker(Budget::default());
    let pairs: Vec<_> = (0..3).map(|_| stuffed()).collect();
    let (clients, servers): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let ended: Vec<_> = servers.into_iter().map(|server| admit(&mut worker, server, &patient())).collect();
    worker.shared.evict(2);
    assert!(worker.turn());
    assert_eq!(worker.slab.len(), 1);
    assert!(ended[2].try_recv().is_err(), "the youngest stays");
    worker.shared.evict(usize::MAX);
    assert!(worker.turn());
    assert_eq!(worker.slab.len(), 0);
    // And what arrived with nobody reading it was read first: the clients' ends are clean.
    for client in clients {
        drop(client);
    }
    worker.shared.no_more();
    assert!(!worker.turn(), "it is over");
}

#[test]
fn it_goes_on_until_the_last_socket_has_ended() {
    let mut worker = worker(Budget::default());
    let (client, server) = pair();
    let ended = admit(&mut worker, server, &patient());
    worker.shared.no_more();
    assert!(worker.turn());
    assert_eq!(worker.shared.unreported(), 1);
    drop(client);
    assert_eq!(told(&mut worker, &ended).ended, Ended::PeerClosed);
    assert!(!worker.turn());
    assert_eq!(worker.shared.unreported(), 0);
}

#[test]
fn a_deadline_hurries_those_that_linger_and_those_that_come() {
    let mut worker = worker(Budget::default());
    let (first, server) = stuffed();
    let before = admit(&mut worker, server, &patient());
    let shared = worker.shared.clone();
    let finishing = std::thread::spawn(move || shared.finish(Duration::from_millis(20)));
    while worker.orders.deadline.is_none() {
        worker.turn();
    }
    assert!(core(&mut worker).end_at() < worker.now + 1_000_000_000, "the turn that heard of it hurries");
    let (second, server) = stuffed();
    let after = admit(&mut worker, server, &patient());
    for ended in [&before, &after] {
        let outcome = told(&mut worker, ended);
        assert!(matches!(outcome.ended, Ended::TimedOut(_)), "{outcome}");
        assert!(outcome.elapsed < LONG);
    }
    worker.publish();
    let summary = finishing.join().unwrap();
    assert_eq!((summary.lingering, summary.ended.total()), (0, 2));
    drop((first, second));
}

/// After a deadline that has passed there is a millisecond for what is unread.
#[test]
fn what_comes_after_the_deadline_is_read_before_it_is_closed() {
    let mut worker = worker(Budget::default());
    worker.turn();
    worker.orders.deadline = Some(1);
    let (mut client, mut server) = pair();
    server.write_all(b"answer").unwrap();
    client.write_all(b"unread").unwrap();
    let (tell, ended) = channel();
    let core = Core::new(&patient(), worker.now);
    let socket = Socket::new(server.into()).unwrap();
    let watcher: Watcher = Box::new(move |outcome| tell.send(outcome).unwrap());
    worker.admit(Arrival { socket, core, watcher: Some(watcher) });
    let index = worker.slab.indices()[0];
    let entry = worker.slab.get(index).unwrap();
    assert_eq!(entry.core.discarded(), 6);
    assert!(entry.core.end_at() <= worker.now + 2_000_000, "it is in a hurry");
    assert!(entry.core.end_at() > worker.now);
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    assert_eq!(got, "answer");
    assert!(ended.try_recv().is_err());
}

#[test]
fn a_socket_without_its_turn_keeps_a_timer_and_its_place() {
    // Nothing may be read in the first nanoseconds.
    let mut worker = worker(Budget { discard_per_second: Some(1), ..Budget::default() });
    let (mut client, server) = pair();
    client.write_all(b"unread").unwrap();
    let ended = admit(&mut worker, server, &patient());
    let index = worker.slab.indices()[0];
    assert_eq!(worker.queue, [index]);
    let entry = worker.slab.get(index).unwrap();
    assert!(entry.flags.has(Flags::QUEUED) && entry.slot != UNARMED);
    // Asked again, it is not queued twice.
    worker.drive(index, TURN, false);
    assert_eq!(worker.queue, [index]);
    // Its patience is over, but it waits for its turn: no silence.
    let patience = worker.slab.get(index).unwrap().core.patience();
    worker.slab.get(index).unwrap().core.hurry(Duration::from_millis(1), LONG, 0);
    worker.wheel.arm(&mut worker.slab, index, 1);
    worker.now = 10_000_000;
    worker.serve_timers();
    assert!(worker.slab.get(index).unwrap().flags.has(Flags::FAR));
    assert!(ended.try_recv().is_err());
    // Its whole time is over: that ends it.
    worker.now = patience.max(60_000_000_000) + (2 << 20);
    worker.serve_timers();
    assert_eq!(ended.try_recv().unwrap().ended, Ended::TimedOut(Bound::Total));
    // A stale place in the queue does no harm.
    worker.serve_queue();
    assert_eq!(worker.slab.len(), 0);
    drop(client);
}

#[test]
fn the_turns_of_a_queue_are_given_when_there_are_tokens() {
    let mut worker = worker(Budget { discard_per_second: Some(1_000), ..Budget::default() });
    let (mut client, server) = pair();
    client.write_all(b"unread").unwrap();
    let _ended = admit(&mut worker, server, &patient());
    let index = worker.slab.indices()[0];
    worker.throttle = Throttle::new(Some(1_000));
    worker.now = 0;
    worker.slab.get(index).unwrap().flags.set(Flags::QUEUED);
    worker.queue = [index].into();
    worker.serve_queue();
    assert_eq!(worker.queue, [index], "there is nothing to share");
    worker.now = 1_000_000_000;
    worker.serve_queue();
    let entry = worker.slab.get(index).unwrap();
    assert_eq!((entry.core.discarded(), entry.flags.has(Flags::QUEUED)), (6, false));
    assert!(worker.queue.is_empty());
    drop(client);
}

#[test]
fn a_large_queue_is_given_back_when_it_is_empty() {
    let mut worker = worker(Budget::default());
    worker.queue.reserve(BATCH * 4);
    worker.queue.push_back(7);
    worker.serve_queue();
    assert_eq!(worker.queue.capacity(), 0);
    worker.queue = VecDeque::with_capacity(BATCH);
    assert_eq!(worker.queue.capacity(), BATCH);
    worker.serve_queue();
    assert_eq!(worker.queue.capacity(), BATCH, "room for a batch is kept");
    // One batch a turn, so that events are not kept waiting.
    worker.queue.extend(std::iter::repeat_n(7, BATCH + 1));
    worker.serve_queue();
    assert_eq!(worker.queue.len(), 1);
}

#[test]
fn room_for_new_sockets_is_kept_up_to_a_bound() {
    let mut worker = worker(Budget::default());
    worker.work.arrivals.reserve(KEPT / 2);
    worker.turn();
    // The board has it now, and gives it back at the next look.
    worker.turn();
    assert!(worker.work.arrivals.capacity() >= KEPT / 2);
    worker.work.arrivals = VecDeque::with_capacity(KEPT + 1);
    worker.turn();
    worker.turn();
    assert!(worker.work.arrivals.capacity() <= KEPT);
}

#[test]
fn a_turn_is_no_longer_than_a_turn() {
    let mut worker = worker(Budget::default());
    let (mut client, server) = pair();
    client.write_all(&[7; 1000]).unwrap();
    let _ended = admit(&mut worker, server, &patient());
    let index = worker.slab.indices()[0];
    client.write_all(&[7; 1000]).unwrap();
    polled(worker.slab.get(index).unwrap().socket.as_fd(), rustix::event::PollFlags::IN);
    let entry = worker.slab.get(index).unwrap();
    let before = entry.core.discarded();
    entry.core.on(Event::Woken, worker.now);
    worker.drive(index, 100, false);
    let entry = worker.slab.get(index).unwrap();
    assert_eq!((entry.core.discarded() - before, entry.flags.has(Flags::QUEUED)), (100, true));
    drop(client);
}

#[path = "worker_event_tests.rs"]
mod events;

#[path = "worker_stay_tests.rs"]
mod stays;
