//! Sockets that stay open behind a close that has ended.

use super::*;
use crate::{AtLimit, Mode};

/// The close of a peer that has everything ends at once, and its socket would stay for a minute.
fn hasty() -> Policy {
    Policy { grace: Duration::from_millis(1), ..patient() }
}

/// A client whose close has ended with all acknowledged, so that its socket stays, and the outcome's receiver.
fn staying(worker: &mut Worker) -> (TcpStream, Receiver<Outcome>) {
    let (client, mut server) = pair();
    server.write_all(b"answer").unwrap();
    let ended = admit(worker, server, &hasty());
    assert_eq!(told(worker, &ended).ended, Ended::Acknowledged);
    (client, ended)
}

/// Sends a byte, and says whether the server's kernel has answered it with a reset.
fn sends_late(client: &mut TcpStream) -> bool {
    client.write_all(b"!").unwrap();
    while linger_sys::tcp_state(client.as_fd()).unwrap() != linger_sys::TcpState::Close
        && linger_sys::send_queue(client.as_fd()).unwrap() > 0
    {
        std::thread::yield_now();
    }
    client.take_error().unwrap().is_some()
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn what_comes_after_the_end_is_read_and_counted_nowhere() {
    let mut worker = worker(Budget::default());
    let (mut client, ended) = staying(&mut worker);
    assert_eq!((worker.staying.len(), worker.report.acknowledged, worker.slab.len()), (1, 0, 1));
    worker.publish();
    let snapshot = worker.shared.snapshot();
    assert_eq!((snapshot.staying, snapshot.lingering, snapshot.ended.acknowledged), (1, 0, 1));
    assert!(!sends_late(&mut client), "the socket was closed");
    until(&mut worker, |worker| (core(worker).discarded() == 1).then_some(()));
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    assert_eq!(got, "answer");
    drop(client);
    until(&mut worker, |worker| (worker.slab.len() == 0).then_some(()));
    worker.publish();
    let snapshot = worker.shared.snapshot();
    assert_eq!((snapshot.staying, snapshot.discarded, snapshot.ended.total()), (0, 0, 1));
    assert_eq!(ended.try_recv(), Err(TryRecvError::Disconnected), "told twice");
    assert_eq!(worker.shared.unreported(), 0);
}

/// The same, but nothing is to stay: the byte meets a reset.
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn where_nothing_may_stay_the_socket_is_closed() {
    let nothing: [fn(&mut Worker); 4] = [
        |worker| worker.staying = Staying::new(0, || None),
        |worker| worker.staying = Staying::new(1, || Some(0)),
        |worker| worker.orders.deadline = Some(u64::MAX),
        |worker| worker.orders.no_more = true,
    ];
    for forbid in nothing {
        let mut worker = worker(Budget::default());
        worker.turn();
        let (mut client, mut server) = pair();
        server.write_all(b"answer").unwrap();
        let core = Core::new(&hasty(), worker.now);
        let socket = Socket::new(server.into()).unwrap();
        forbid(&mut worker);
        let (tell, ended) = channel();
        let watcher: Watcher = Box::new(move |outcome: Outcome| tell.send(outcome.ended).unwrap());
        worker.admit(Arrival { socket, core, watcher: Some(watcher) });
        let end = loop {
            if let Ok(end) = ended.try_recv() {
                break end;
            }
            worker.now = worker.shared.clock().now();
            worker.serve_timers();
            wait(&mut worker);
        };
        assert_eq!((end, worker.slab.len()), (Ended::Acknowledged, 0));
        assert!(sends_late(&mut client));
    }
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn those_that_stay_go_first_the_oldest_before_the_others() {
    let mut worker = worker(Budget { sockets: 3, sockets_per_peer: Some(3), ..Budget::default() });
    let (mut first, _) = staying(&mut worker);
    let (mut second, _) = staying(&mut worker);
    let (third, server) = pair();
    let lingers = admit(&mut worker, server, &patient());
    until(&mut worker, |worker| (worker.report.acknowledged == 1).then_some(()));
    // A new socket, though one that lingers has everything, too.
    let (fourth, server) = stuffed();
    let slow = admit(&mut worker, server, &patient());
    assert_eq!((worker.slab.len(), worker.staying.len()), (3, 1));
    assert!(sends_late(&mut first) && !sends_late(&mut second));
    // An order.
    worker.shared.evict(1);
    worker.turn();
    assert_eq!((worker.slab.len(), worker.staying.len()), (2, 0));
    assert!(lingers.try_recv().is_err() && slow.try_recv().is_err());
    assert!(sends_late(&mut second));
    drop((third, fourth));
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn one_too_many_sends_the_oldest_away() {
    let mut worker = worker(Budget { staying: 2, ..Budget::default() });
    let mut clients: Vec<_> = (0..3).map(|_| staying(&mut worker).0).collect();
    assert_eq!((worker.staying.len(), worker.slab.len()), (2, 2));
    assert_eq!(clients.iter_mut().map(sends_late).collect::<Vec<_>>(), [true, false, false]);
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn a_stop_and_a_shortage_send_all_away() {
    // Each with the number of sockets that are left.
    type Sending = fn(&mut Worker);
    let events: [(Sending, usize); 3] = [
        (
            |worker| {
                // Nothing lingers: it returns before the thread has looked, and leaves no deadline behind.
                worker.publish();
                worker.shared.finish(Duration::ZERO);
                assert!(worker.turn());
            },
            0,
        ),
        (
            |worker| {
                worker.shared.no_more();
                assert!(!worker.turn(), "there is nothing left to wait for");
            },
            0,
        ),
        (
            |worker| {
                // Descriptors do not run short at a socket's coming, and do at the next.
                let (client, server) = stuffed();
                let ended = admit(worker, server, &patient());
                assert_eq!((worker.staying.len(), worker.slab.len()), (2, 3));
                worker.staying.run_short();
                let (another, server) = stuffed();
                admit(worker, server, &patient());
                assert!(ended.try_recv().is_err());
                std::mem::forget((client, another));
            },
            2,
        ),
    ];
    for (event, left) in events {
        let mut worker = worker(Budget::default());
        let mut clients: Vec<_> = (0..2).map(|_| staying(&mut worker).0).collect();
        assert_eq!(worker.staying.len(), 2);
        event(&mut worker);
        assert_eq!((worker.staying.len(), worker.slab.len()), (0, left));
        assert!(clients.iter_mut().all(sends_late));
    }
}

/// What was found of the descriptors counts for a moment, and a shortage at once.
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn a_shortage_ends_what_was_known() {
    let mut worker = worker(Budget::default());
    let _first = staying(&mut worker);
    let (_client, socket) = pair();
    let look = worker.staying.next_look().unwrap();
    let has_room = |worker: &mut Worker, now| worker.staying.has_room_beside(socket.as_fd(), now);
    assert!(has_room(&mut worker, look));
    worker.staying.run_short();
    assert!(has_room(&mut worker, look + 2_999_999), "it has just been asked");
    assert!(!has_room(&mut worker, look + 3_000_000));
    assert!(worker.staying.look(&mut worker.slab, look));
    assert!(!has_room(&mut worker, look + 1));
}

/// A process that has no descriptor left accepts nothing, so that no new socket tells of it.
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn a_shortage_is_seen_though_nobody_comes() {
    let mut worker = worker(Budget::default());
    let mut clients: Vec<_> = (0..2).map(|_| staying(&mut worker).0).collect();
    let look = worker.staying.next_look().unwrap();
    assert!(!worker.staying.look(&mut worker.slab, look), "there are enough");
    assert!(worker.staying.next_look().unwrap() > look);
    worker.staying.run_short();
    assert!(!worker.staying.look(&mut worker.slab, look), "it has just been looked");
    // The worker wakes for it by itself.
    until(&mut worker, |worker| (worker.slab.len() == 0).then_some(()));
    assert_eq!((worker.staying.len(), worker.staying.next_look()), (0, None));
    assert!(clients.iter_mut().all(sends_late));
}

/// At the policy's `total`, or after 30 s where that is shorter.
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn a_stay_ends() {
    for (total, wanted) in [(20, 20), (60, 30)] {
        let mut worker = worker(Budget::default());
        let (client, server) = pair();
        let (total, begun) = (Duration::from_secs(total), worker.now);
        let ended = admit(&mut worker, server, &Policy { total, idle: total, ..hasty() });
        assert_eq!(told(&mut worker, &ended).ended, Ended::Acknowledged);
        let end = core(&mut worker).end_at();
        assert_eq!(end, begun + wanted * 1_000_000_000);
        // Its timer is armed, and comes with the next tick at the latest.
        worker.now = end - 1;
        worker.serve_timers();
        assert_eq!(worker.slab.len(), 1);
        worker.now = end + (4 << 20);
        worker.serve_timers();
        assert_eq!((worker.slab.len(), worker.staying.len()), (0, 0));
        drop(client);
    }
    // Nor does a close that did not wait stay.
    let mut worker = worker(Budget::default());
    let (mut client, server) = pair();
    let ended = admit(&mut worker, server, &Policy { mode: Mode::None, ..patient() });
    assert_eq!(told(&mut worker, &ended).ended, Ended::Unwaited);
    assert_eq!(worker.slab.len(), 0);
    assert!(sends_late(&mut client));
}

fn has_the_answer_and_no_reset(client: &mut TcpStream) {
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    assert_eq!((got.as_str(), client.take_error().unwrap().map(|error| error.kind())), ("answer", None));
}

/// Each way in which a stay ends. A policy may ask for a reset at its limits, and a stay has run into none.
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn the_end_of_a_stay_resets_nobody() {
    let ends: [fn(&mut Worker); 3] = [
        |worker| worker.let_all_go(),
        |worker| {
            worker.now = core(worker).end_at() + (4 << 20);
            worker.serve_timers();
        },
        // It has sent something since.
        |worker| {
            let now = worker.now;
            core(worker).on(Event::Discarded(1), now);
            worker.now = core(worker).end_at() + (4 << 20);
            worker.serve_timers();
        },
    ];
    for end in ends {
        let mut worker = worker(Budget::default());
        let (mut client, mut server) = pair();
        server.write_all(b"answer").unwrap();
        // What a program may have set for an end without a close.
        rustix::net::sockopt::set_socket_linger(&server, Some(Duration::ZERO)).unwrap();
        let policy = Policy { at_limit: AtLimit::Abort, ..hasty() };
        let ended = admit(&mut worker, server, &policy);
        assert_eq!(told(&mut worker, &ended).ended, Ended::Acknowledged);
        let socket = &worker.slab.get(0).unwrap().socket;
        let linger = rustix::net::sockopt::socket_linger(socket.as_fd()).unwrap();
        assert_eq!(linger, None, "the kernel would reset if the process ended now");
        end(&mut worker);
        assert_eq!((worker.slab.len(), worker.staying.len()), (0, 0));
        has_the_answer_and_no_reset(&mut client);
    }
}

/// A close with unread bytes would reset.
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn what_has_arrived_is_read_before_a_stay_ends() {
    let mut worker = worker(Budget::default());
    let (mut client, _) = staying(&mut worker);
    client.write_all(b"!").unwrap();
    polled(worker.slab.get(0).unwrap().socket.as_fd(), rustix::event::PollFlags::IN);
    worker.let_all_go();
    assert_eq!((worker.slab.len(), worker.staying.len()), (0, 0));
    has_the_answer_and_no_reset(&mut client);
}

/// The bound on a peer's sockets is one on all that the closer holds of it.
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn a_peer_has_no_more_sockets_for_those_that_stay() {
    let mut worker = worker(Budget { sockets_per_peer: Some(3), ..Budget::default() });
    let (mut first, _) = staying(&mut worker);
    let (mut second, _) = staying(&mut worker);
    let (_third, server) = pair();
    let lingers = admit(&mut worker, server, &patient());
    until(&mut worker, |worker| (worker.report.acknowledged == 1).then_some(()));
    // The oldest of those that stay goes, and not one that lingers.
    let (_fourth, server) = stuffed();
    let slow = admit(&mut worker, server, &patient());
    assert_eq!((worker.slab.len(), worker.staying.len()), (3, 1));
    assert!(sends_late(&mut first) && !sends_late(&mut second));
    // Other peers have room.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 9], 0)).into()).unwrap();
    socket.connect(&listener.local_addr().unwrap().into()).unwrap();
    let _other = admit(&mut worker, listener.accept().unwrap().0, &patient());
    assert_eq!((worker.slab.len(), worker.staying.len()), (4, 1));
    assert!(lingers.try_recv().is_err() && slow.try_recv().is_err());
    // Its place is given back with it.
    drop(second);
    until(&mut worker, |worker| (worker.staying.len() == 0).then_some(()));
    let (_fifth, server) = pair();
    let last = admit(&mut worker, server, &patient());
    assert_eq!(worker.slab.len(), 4);
    assert!(lingers.try_recv().is_err() && slow.try_recv().is_err() && last.try_recv().is_err());
}

/// A program may take descriptors from itself at any time.
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn a_limit_that_was_lowered_counts() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // In a process of its own: the limit is everybody's.
    let said = linger_sys::testing::forked(|| {
        let mut worker = worker(Budget::default());
        let (mut client, _ended) = staying(&mut worker);
        let number = worker.slab.get(0).unwrap().socket.number().unwrap();
        let limit = Rlimit { current: Some(number + 2), ..getrlimit(Resource::Nofile) };
        setrlimit(Resource::Nofile, limit).unwrap();
        let look = worker.staying.next_look().unwrap();
        assert!(worker.staying.look(&mut worker.slab, look), "half of them are taken");
        until(&mut worker, |worker| (worker.slab.len() == 0).then_some(()));
        assert!(sends_late(&mut client));
        String::new()
    });
    assert_eq!(said, Ok(String::new()));
}
