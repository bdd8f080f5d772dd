//! The report against the kernel's own counters, in a private network, while the supervisor is disturbed: the report
//! must say what became of the closes, not what was intended.
//!
//! Each request has bytes that the server does not read, so that each plain close is a reset, which the kernel counts
//! (`TCPAbortOnClose`, and `OutRsts` for the segment), and each that lingers is none.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crate::support::hostile::{ANSWER, Hostile, say, server};
use crate::support::{PORT, Report, Server, await_state, connect};
use linger_preload::protocol::{Message, MessageKind};
use linger_testing::{Counters, secluded};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

/// Asks with bytes that the server does not read, and returns once it has answered.
fn ask() -> TcpStream {
    let mut stream = connect(PORT, None);
    stream.write_all(&crate::support::request(20_000)).unwrap();
    stream.read_exact(&mut [0; ANSWER.len()]).unwrap();
    stream
}

/// How a connection has ended.
fn is_reset(mut stream: TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(0) => false,
        Ok(_) => panic!("more than the answer"),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => true,
        Err(error) => panic!("it does not end: {error}"),
    }
}

/// Compares the report with the kernel's counters and with what the clients have seen.
#[track_caller]
fn compare(server: &mut Server, before: &Counters, clients: usize, resets: usize) -> Report {
    kill_process(server.pid(), Signal::TERM).unwrap();
    let report = server.said();
    let counted = Counters::read().unwrap().since(before);
    let of = |name: &str| report[name].as_u64().unwrap();
    assert_eq!(counted.of("TCPAbortOnClose"), resets as u64, "the clients have seen as many: {report:?}");
    assert_eq!(counted.of("TCPAbortOnData"), 0, "{report:?}");
    // One segment more is none of these ends: a FIN that was repeated on a busy machine is acknowledged, and the client's socket is gone.
    // A reset that a client has seen stands in `resets`.
    assert!(counted.of("OutRsts") >= resets as u64, "{report:?}");
    assert_eq!((of("closes"), of("would_have_reset")), (clients as u64, clients as u64), "{report:?}");
    assert_eq!((of("refused"), of("lingered")), (resets as u64, (clients - resets) as u64), "{report:?}");
    let ends = ["peer_closed", "acknowledged", "peer_reset", "misbehaved", "evicted", "failed"];
    assert_eq!(ends.map(of).iter().sum::<u64>(), of("lingered"), "{report:?}");
    assert_eq!((of("lost"), of("lingering")), (0, 0), "{report:?}");
    report
}

/// One client after the other, so that each close has ended before the next.
fn resets(clients: usize) -> usize {
    (0..clients).filter(|_| is_reset(ask())).count()
}

#[test]
fn a_supervisor_that_works() {
    secluded(|| {
        for settings in ["", "seccomp"] {
            let Some(mut server) = server(settings) else { return };
            let before = Counters::read().unwrap();
            assert_eq!(resets(100), 0, "{settings}");
            compare(&mut server, &before, 100, 0);
        }
    });
}

#[test]
fn a_supervisor_that_is_stopped_for_a_time() {
    secluded(|| {
        let Some(mut server) = server("") else { return };
        let before = Counters::read().unwrap();
        let mut clients = 20;
        let mut seen = resets(clients);
        let supervisor = server.supervisor();
        kill_process(supervisor, Signal::STOP).unwrap();
        await_state(supervisor, "T");
        // Those that were handed over before the library notices the stop end when the supervisor runs again.
        let stuck: Vec<TcpStream> = (0..100).map(|_| ask()).collect();
        clients += stuck.len();
        kill_process(supervisor, Signal::CONT).unwrap();
        seen += stuck.into_iter().map(is_reset).filter(|reset| *reset).count();
        seen += resets(20);
        clients += 20;
        compare(&mut server, &before, clients, seen);
    });
}

/// For a time it gets no new descriptor. The closes are plain meanwhile, and are counted when they are seen.
#[test]
fn a_supervisor_that_is_starved_of_descriptors() {
    secluded(|| {
        let Some(mut server) = server("") else { return };
        let before = Counters::read().unwrap();
        assert_eq!(resets(20), 0);
        let supervisor = Some(server.supervisor());
        let none = Rlimit { current: Some(3), maximum: getrlimit(Resource::Nofile).maximum };
        let usual = prlimit(supervisor, Resource::Nofile, none).unwrap();
        assert_eq!(resets(100), 100);
        prlimit(supervisor, Resource::Nofile, usual).unwrap();
        let mut clients = 120;
        let mut seen = 100;
        // The library may have to connect again, which it tries ten times a second.
        while is_reset(ask()) {
            (clients, seen) = (clients + 1, seen + 1);
        }
        compare(&mut server, &before, clients + 1, seen);
    });
}

/// Beside one that knows what the program's processes know, and floods the supervisor with messages.
#[test]
fn a_supervisor_that_is_flooded() {
    secluded(|| {
        let Some(mut server) = server("") else { return };
        let hostile = Hostile::new(&server);
        let before = Counters::read().unwrap();
        let stop = AtomicBool::new(false);
        let flood = || {
            let workers: Vec<_> = (0..4).map(|_| hostile.worker()).collect();
            let (nothing, _writer) = rustix::pipe::pipe().unwrap();
            let held = || Message::about(MessageKind::Hold, 1, 0);
            while !stop.load(Relaxed) {
                for worker in &workers {
                    say(worker, held(), Some(nothing.as_fd()));
                }
            }
        };
        let seen = thread::scope(|scope| {
            scope.spawn(flood);
            let seen = resets(200);
            stop.store(true, Relaxed);
            seen
        });
        compare(&mut server, &before, 200, seen);
    });
}
