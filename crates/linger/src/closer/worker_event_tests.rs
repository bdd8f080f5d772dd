//! What the epoll's events lead to, and which sockets are registered with it.

use super::*;

/// How many sockets the epoll knows, its alarm not counted.
#[cfg(not(linger_portable))] // It looks into an epoll.
fn registered(worker: &Worker) -> usize {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fdinfo/{}", worker.reactor.as_fd().as_raw_fd());
    let lines = std::fs::read_to_string(path).unwrap();
    lines.lines().filter(|line| line.starts_with("tfd:")).count() - 1
}

/// Whether something is reported now.
fn is_reported(worker: &Worker) -> bool {
    let mut ready = ReadyList::new(1);
    worker.reactor.wait(&mut ready, Some(Duration::ZERO));
    ready.iter().next().is_some()
}

#[cfg(not(linger_portable))] // It looks into an epoll.
#[test]
fn a_registration_goes_with_its_socket_though_a_duplicate_stays() {
    let mut worker = worker(Budget::default());
    let (client, server) = pair();
    let duplicate = server.try_clone().unwrap();
    let ended = admit(&mut worker, server, &patient());
    assert_eq!(registered(&worker), 1);
    drop(client);
    assert_eq!(told(&mut worker, &ended).ended, Ended::PeerClosed);
    assert_eq!(registered(&worker), 0);
    drop(duplicate);
}

/// A descriptor that somebody else has closed may be another's by now, and so may what the epoll knows of it.
#[cfg(not(linger_portable))] // It looks into an epoll.
#[test]
fn the_registration_of_a_lost_descriptor_is_left_alone() {
    let mut worker = worker(Budget::default());
    let (client, server) = pair();
    let ended = admit(&mut worker, server, &patient());
    // The fd is a pipe's now, and whoever has the pipe waits for it with the same epoll.
    let (read, _write) = rustix::pipe::pipe().unwrap();
    worker.reactor.add(read.as_fd(), 9, false).unwrap();
    let holder = read.try_clone().unwrap();
    worker.slab.get(0).unwrap().socket = Socket::of(linger_sys::Family::Tcp, read);
    let before = registered(&worker);
    core(&mut worker).on(Event::Woken, 0);
    worker.drive(0, TURN, false);
    assert!(matches!(ended.try_recv().unwrap().ended, Ended::Failed(_)));
    assert_eq!(registered(&worker), before);
    drop((client, holder));
}

#[cfg(not(linger_portable))] // It looks into an epoll.
#[test]
fn a_socket_that_epoll_refuses_is_an_outcome() {
    let mut worker = worker(Budget::default());
    // Not an epoll at all: every registration fails.
    let (read, _write) = rustix::pipe::pipe().unwrap();
    worker.reactor = read.into();
    let (client, server) = pair();
    let ended = admit(&mut worker, server, &patient());
    assert!(matches!(ended.try_recv().unwrap().ended, Ended::Failed(_)));
    drop(client);
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn a_reset_after_the_end_of_the_stream_is_heard() {
    let mut worker = worker(Budget::default());
    let (client, server) = stuffed();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let ended = admit(&mut worker, server, &patient());
    until(&mut worker, |worker| core(worker).end_of_stream().then_some(()));
    // It has not read: the kernel resets.
    drop(client);
    assert_eq!(told(&mut worker, &ended).ended, Ended::PeerReset);
}

/// After the end of the stream both sides are closed with the acknowledgement of the FIN, and that is no reset.
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn an_acknowledgement_after_the_end_of_the_stream_is_a_clean_end() {
    let mut worker = worker(Budget::default());
    let (mut client, server) = stuffed();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let ended = admit(&mut worker, server, &patient());
    until(&mut worker, |worker| core(worker).end_of_stream().then_some(()));
    let reading = std::thread::spawn(move || client.read_to_end(&mut Vec::new()).map(|_| client));
    let outcome = told(&mut worker, &ended);
    assert_eq!((outcome.ended, outcome.delivered()), (Ended::PeerClosed, true));
    reading.join().unwrap().unwrap();
}

/// What came before a reset is read, and counted, though the event tells of the reset at once.
#[test]
fn what_came_before_a_reset_is_read_first() {
    let mut worker = worker(Budget::default());
    let (mut client, server) = stuffed();
    let watch = server.try_clone().unwrap();
    let ended = admit(&mut worker, server, &patient());
    client.write_all(&[7; 1000]).unwrap();
    // It has unread bytes of ours: the kernel resets.
    drop(client);
    polled(&watch, rustix::event::PollFlags::RDHUP);
    drop(watch);
    let outcome = told(&mut worker, &ended);
    assert_eq!((outcome.ended, outcome.discarded), (Ended::PeerReset, 1000));
}

/// A long read is known to have emptied the socket, but not where the end of the stream came with it.
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn the_end_that_comes_with_much_to_read_is_heard() {
    let mut worker = worker(Budget::default());
    // All of it fits into the window.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 1 << 20).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap().0;
    let watch = server.try_clone().unwrap();
    let ended = admit(&mut worker, server, &patient());
    until(&mut worker, |worker| core(worker).acknowledged().then_some(()));
    let bytes = 2 * linger_sys::SCRATCH;
    client.write_all(&vec![7; bytes as usize]).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    polled(&watch, rustix::event::PollFlags::RDHUP);
    drop(watch);
    let outcome = told(&mut worker, &ended);
    assert_eq!((outcome.ended, outcome.discarded), (Ended::PeerClosed, bytes));
}

/// Of the three things that a registration asks for each is heard by itself: what there is to read, the peer's end,
/// and the acknowledgement.
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn each_event_is_heard() {
    let mut worker = worker(Budget::default());
    let (mut client, mut server) = stuffed();
    server.set_nonblocking(true).unwrap();
    while server.write(&[7; 1 << 16]).is_ok() {}
    let ended = admit(&mut worker, server, &patient());
    client.write_all(&[7; 100]).unwrap();
    until(&mut worker, |worker| (core(worker).discarded() == 100).then_some(()));
    assert_eq!((core(&mut worker).acknowledged(), worker.report.acknowledged), (false, 0));
    let mut got = [0; 1 << 16];
    client.set_nonblocking(true).unwrap();
    let end = std::time::Instant::now() + LONG / 4;
    while !core(&mut worker).acknowledged() {
        assert!(std::time::Instant::now() < end, "the acknowledgement was not heard");
        while client.read(&mut got).is_ok_and(|got| got > 0) {}
        let nearest = worker.now + 1_000_000;
        worker.work.next = Some(nearest);
        wait(&mut worker);
    }
    assert_eq!(worker.report.acknowledged, 1);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(told(&mut worker, &ended).ended, Ended::PeerClosed);
}

/// A wake-up for nothing does not shorten what the policy allows, nor counts a socket twice.
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn an_acknowledged_socket_is_counted_once_and_its_timer_is_moved_once() {
    let mut worker = worker(Budget::default());
    let (mut client, server) = pair();
    // The timer of `idle` stands before the acknowledgement, that of `grace` after it.
    let policy = Policy { idle: LONG / 2, total: LONG, grace: LONG / 4, ..Policy::default() };
    let _ended = admit(&mut worker, server, &policy);
    until(&mut worker, |worker| core(worker).acknowledged().then_some(()));
    assert_eq!(worker.report.acknowledged, 1);
    assert!(!is_reported(&worker), "each change is reported once");
    let slot = worker.slab.get(0).unwrap().slot;
    let next = worker.wheel.next().unwrap();
    assert!(next <= worker.now + (LONG / 4).as_nanos() as u64 + (2 << 20), "the nearer time is armed");
    for round in 1..=3 {
        client.write_all(&[7; 10]).unwrap();
        until(&mut worker, |worker| (core(worker).discarded() == 10 * round).then_some(()));
        // Each byte moves the deadline away, and the timer stays: it is looked at when it fires.
        assert_eq!((worker.report.acknowledged, worker.slab.get(0).unwrap().slot), (1, slot));
    }
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn the_limit_of_bytes_brings_the_deadline_nearer() {
    let mut worker = worker(Budget::default());
    let (mut client, server) = pair();
    client.write_all(&[7; 5]).unwrap();
    let policy = Policy { max_discard: Some(10), grace: LONG / 4, ..patient() };
    let _ended = admit(&mut worker, server, &policy);
    until(&mut worker, |worker| (core(worker).acknowledged() && core(worker).discarded() == 5).then_some(()));
    let soon = |worker: &Worker| worker.now + (LONG / 4).as_nanos() as u64 + (2 << 20);
    assert!(worker.wheel.next().unwrap() > soon(&worker), "it was sending: `idle` is armed");
    client.write_all(&[7; 5]).unwrap();
    until(&mut worker, |worker| core(worker).is_sated().then_some(()));
    assert!(worker.wheel.next().unwrap() <= soon(&worker), "`grace` is armed");
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn the_wait_ends_with_the_earliest_of_timers_turns_and_looks() {
    let mut worker = worker(Budget { discard_per_second: Some(1), ..Budget::default() });
    worker.turn();
    // Each alone ends a wait that nothing else would.
    worker.work.next = Some(worker.now + 1);
    wait(&mut worker);
    worker.work.next = None;
    worker.queue.push_back(7);
    worker.throttle = Throttle::new(None);
    wait(&mut worker);
    worker.queue.clear();
    let (client, server) = pair();
    let ended = admit(&mut worker, server, &Policy { grace: Duration::from_millis(1), ..patient() });
    assert_eq!(told(&mut worker, &ended).ended, Ended::Acknowledged);
    drop(client);
}
