//! A handle with its board and no thread: what a caller does by itself, in its own process and in a child.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, channel};

use linger_sys::testing::forked;

use super::super::board::{Orders, Report, Work};
use super::*;
use crate::outcome::Ended;

const LONG: Duration = Duration::from_secs(60);

fn handle(most: usize) -> Handle {
    Handle::new(Arc::new(Shared::new(most).unwrap()))
}

fn patient() -> Policy {
    Policy { idle: LONG, total: LONG, grace: LONG, ..Policy::default() }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (client, listener.accept().unwrap().0)
}

/// What the thread would find at a look at `now`.
fn look(shared: &Shared, now: u64) -> Work {
    let mut work = Work::new();
    shared.look(now, &mut Report::default(), &mut work);
    work
}

fn teller() -> (Watcher, Receiver<Outcome>) {
    let (tell, told) = channel();
    (Box::new(move |outcome| tell.send(outcome).unwrap()), told)
}

#[test]
fn the_fin_leaves_with_the_caller_and_the_time_runs_from_then() {
    let handle = handle(8);
    let (mut client, mut server) = pair();
    server.write_all(b"answer").unwrap();
    let before = handle.clock().now();
    handle.here().unwrap().hand_over(server.into(), &patient(), None);
    let after = handle.clock().now();
    // No thread runs, and the client has all of it.
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    assert_eq!(got, "answer");
    let work = look(&handle.shared, 0);
    assert_eq!(work.arrivals.len(), 1);
    let (end, millisecond) = (work.arrivals[0].core.end_at(), 1_000_000);
    let minute = LONG.as_nanos() as u64;
    assert!((before + minute..=after + minute + millisecond).contains(&end), "{before} {end} {after}");
    let snapshot = handle.here().unwrap().snapshot();
    assert_eq!((snapshot.handed_over, snapshot.lingering, handle.shared.unreported()), (1, 1, 1));
}

#[test]
fn what_is_no_stream_is_counted_before_it_is_told_and_reported_after() {
    let shared = Arc::new(Shared::new(8).unwrap());
    let handle = Handle::new(shared.clone());
    let udp = || UdpSocket::bind("127.0.0.1:0").unwrap().into();
    handle.here().unwrap().hand_over(udp(), &patient(), None);
    assert_eq!((handle.here().unwrap().snapshot().ended.failed, shared.unreported()), (1, 0));
    let (tell, told) = channel();
    let inside = shared.clone();
    let watcher: Watcher = Box::new(move |outcome| {
        tell.send((outcome.ended, inside.snapshot().ended.failed, inside.unreported())).unwrap();
    });
    handle.here().unwrap().hand_over(udp(), &patient(), Some(watcher));
    let (ended, counted, unreported) = told.try_recv().unwrap();
    assert!(matches!(ended, Ended::Failed(_)));
    assert_eq!((counted, unreported), (2, 1));
    assert_eq!((shared.unreported(), shared.snapshot().handed_over), (0, 2));
    assert!(look(&shared, 0).arrivals.is_empty());
}

#[test]
fn one_for_whom_there_is_no_room_is_ended_by_the_caller() {
    let handle = handle(1);
    let ((mut first, mut server), (second, other)) = (pair(), pair());
    server.write_all(b"answer").unwrap();
    let (watcher, told) = teller();
    handle.here().unwrap().hand_over(server.into(), &patient(), Some(watcher));
    assert!(told.try_recv().is_err());
    handle.here().unwrap().hand_over(other.into(), &patient(), None);
    assert_eq!(told.try_recv().unwrap().ended, Ended::Evicted);
    let mut got = String::new();
    first.read_to_string(&mut got).unwrap();
    assert_eq!(got, "answer");
    let snapshot = handle.here().unwrap().snapshot();
    assert_eq!((snapshot.handed_over, snapshot.ended.evicted, snapshot.lingering), (2, 1, 1));
    assert_eq!(handle.shared.unreported(), 1);
    drop(second);
}

#[test]
fn orders_reach_the_board() {
    let handle = handle(8);
    handle.here().unwrap().evict(3);
    assert_eq!(look(&handle.shared, 0).orders, Orders { evict: 3, ..Orders::default() });
    let shared = handle.shared.clone();
    drop(handle);
    assert_eq!(look(&shared, 0).orders, Orders { no_more: true, ..Orders::default() });
}

#[test]
fn a_child_has_no_closer_and_its_handle_says_nothing() {
    let handle = handle(8);
    let shared = handle.shared.clone();
    assert!(handle.here().is_some());
    let said = forked(|| {
        assert!(handle.here().is_none());
        drop(handle);
        assert_eq!(look(&shared, 0).orders, Orders::default());
        String::new()
    });
    assert_eq!(said, Ok(String::new()));
}

/// A watcher may fork a worker: when it returns in that child, the process no longer has the closer.
#[test]
fn after_a_watcher_the_process_may_be_another() {
    let shared = Arc::new(Shared::new(8).unwrap());
    let handle = Handle::new(shared.clone());
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let said = forked(|| {
        // In this process the closer is somebody else's; the watcher is called by a method of its parent's `Here`.
        let here = Here { handle: &handle };
        here.hand_over(udp.into(), &patient(), Some(Box::new(|_| ())));
        shared.unreported().to_string()
    });
    assert_eq!(said.as_deref(), Ok("1"), "nobody is told of a watcher that returned elsewhere");
}

#[cfg(feature = "tokio")]
mod watched {
    use std::sync::Mutex;

    use super::*;

    /// What a task watches, until somebody takes it.
    struct Task(Mutex<Option<Arrival>>);

    impl Watched for Task {
        fn take(self: Arc<Self>) -> Option<Arrival> {
            self.0.lock().unwrap().take()
        }
    }

    fn task() -> (TcpStream, Arc<Task>) {
        let (client, server) = pair();
        let (core, socket) = (Core::new(&patient(), 0), Socket::new(server.into()).unwrap());
        (client, Arc::new(Task(Mutex::new(Some(Arrival { socket, core, watcher: None })))))
    }

    #[test]
    fn each_has_its_ticket() {
        let handle = handle(8);
        let here = handle.here().unwrap();
        let (clients, tasks): (Vec<_>, Vec<_>) = (0..3).map(|_| task()).unzip();
        let tickets: Vec<_> = tasks.iter().map(|task| here.watch(task.clone(), here.now())).collect();
        assert_eq!((here.snapshot().handed_over, here.snapshot().lingering), (3, 3));
        // The second is over, the third is handed over: neither is looked for any more.
        let outcome = Outcome { ended: Ended::PeerClosed, ..Outcome::failed(std::io::ErrorKind::Other) };
        here.count_end(tickets[1], &outcome);
        assert_eq!((here.snapshot().ended.peer_closed, here.snapshot().lingering), (1, 2));
        let arrival = tasks[2].clone().take().unwrap();
        here.take_over(tickets[2], arrival);
        assert_eq!(here.snapshot().handed_over, 3, "it is the same close");
        let work = look(&handle.shared, u64::MAX);
        assert_eq!((work.arrivals.len(), work.watched.len()), (1, 1));
        assert!(work.watched[0].clone().take().is_some() && tasks[0].0.lock().unwrap().is_none());
        drop(clients);
    }
}
