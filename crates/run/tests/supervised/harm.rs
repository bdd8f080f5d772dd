//! A supervisor that does not work, and processes that keep it from working: the program must go on as without it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use crate::support::hostile::{ANSWER, Hostile, await_hang_up, is_cured, say, server};
use crate::support::{PORT, connect};
use linger_preload::protocol::{Count, Message, MessageKind, Origin};
use linger_testing::secluded;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, kill_process};

/// Sends a request, and reads the answer, which must be whole. The connection has not ended yet.
fn ask() -> TcpStream {
    let mut stream = connect(PORT, None);
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, ANSWER);
    stream
}

/// Whether the connection ends within `wait`.
fn ends(stream: &TcpStream, wait: Duration) -> bool {
    let wait = Timespec::try_from(wait).unwrap();
    poll(&mut [PollFd::new(stream, PollFlags::RDHUP)], Some(&wait)).unwrap() > 0
}

/// Waits for the end of the connection, as long as it takes.
#[track_caller]
fn await_end(stream: &TcpStream) {
    assert!(ends(stream, Duration::from_secs(30)), "it was not ended");
}

#[test]
fn a_supervisor_that_is_stopped_costs_only_the_cure() {
    secluded(|| {
        let Some(mut server) = server("") else { return };
        let supervisor = server.supervisor();
        let mut closes: u64 = 20;
        (0..closes).for_each(|_| await_end(&ask()));
        kill_process(supervisor, Signal::STOP).unwrap();
        crate::support::await_state(supervisor, "T");
        // Connections that were sent before the library could notice the stop wait for the supervisor. Soon no more are
        // sent.
        let mut stuck = Vec::new();
        loop {
            let stream = ask();
            closes += 1;
            if ends(&stream, Duration::from_millis(20)) {
                break;
            }
            stuck.push(stream);
            assert!(stuck.len() < 100, "it is never noticed");
        }
        for _ in 0..300 {
            await_end(&ask());
            closes += 1;
        }
        kill_process(supervisor, Signal::CONT).unwrap();
        stuck.iter().for_each(await_end);
        // The supervisor runs again, which the library notices at a close: that close or the next is cured.
        while !is_cured() {
            closes += 1;
            assert!(closes < 1_000, "it is never noticed");
        }
        closes += 1;
        kill_process(server.pid(), Signal::TERM).unwrap();
        let report = server.said();
        assert_eq!(report["closes"], closes, "{report:?}");
        assert!(report["refused"].as_u64() > Some(300), "{report:?}");
        let ended = report["lingered"].as_u64().unwrap() + report["finished"].as_u64().unwrap();
        assert!(ended > 20 + stuck.len() as u64, "{report:?}");
    });
}

/// A stopped supervisor's copies keep closed connections open, but only until it runs again.
#[test]
fn a_supervisor_that_is_stopped_holds_nothing_for_good() {
    secluded(|| {
        let Some(server) = server("hold") else { return };
        let supervisor = server.supervisor();
        await_end(&ask());
        kill_process(supervisor, Signal::STOP).unwrap();
        crate::support::await_state(supervisor, "T");
        let streams: Vec<TcpStream> = (0..400).map(|_| ask()).collect();
        kill_process(supervisor, Signal::CONT).unwrap();
        while !is_cured() {}
        streams.iter().for_each(await_end);
        kill_process(server.pid(), Signal::TERM).unwrap();
    });
}

#[test]
fn a_supervisor_that_is_killed_costs_only_the_cure() {
    secluded(|| {
        for settings in ["", "hold"] {
            let Some(server) = server(settings) else { return };
            await_end(&ask());
            kill_process(server.supervisor(), Signal::KILL).unwrap();
            (0..300).for_each(|_| await_end(&ask()));
            kill_process(server.pid(), Signal::TERM).unwrap();
        }
    });
}

/// With 64 descriptors the supervisor can keep only some of these connections. It must not end those that it cannot
/// keep.
#[test]
fn a_supervisor_without_descriptors_costs_only_the_cure() {
    secluded(|| {
        let Some(mut server) = server("nofile=64") else { return };
        // The clients do not close, so their connections linger.
        let mut open: Vec<TcpStream> = (0..200).map(|_| ask()).collect();
        open.iter().for_each(await_end);
        let supervisor = server.supervisor();
        // The supervisor must not spin, either.
        let before = processor_ticks(supervisor);
        std::thread::sleep(Duration::from_secs(1));
        let spent = processor_ticks(supervisor) - before;
        assert!(spent < 50, "{spent} ticks of 100");
        open.clear();
        assert!(is_cured(), "with descriptors again it cures");
        kill_process(server.pid(), Signal::TERM).unwrap();
        let report = server.said();
        assert_eq!(report["closes"], 201, "{report:?}");
    });
}

fn processor_ticks(process: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn strangers_keep_nobody_out() {
    secluded(|| {
        let Some(server) = server("") else { return };
        let hostile = Hostile::new(&server);
        // More strangers than there is room for. They send nothing.
        let strangers: Vec<OwnedFd> = (0..400).map(|_| hostile.stranger()).collect();
        assert!(is_cured());
        strangers.iter().for_each(await_hang_up);
        // A stranger with a wrong token.
        let other = hostile.stranger();
        say(&other, Message::hello([0; 16]), None);
        await_hang_up(&other);
        assert_eq!(server.stop(Signal::TERM)["lingered"], 1);
    });
}

/// A worker lies about others' connections: that it holds them, that it has ended them, what became of them.
#[test]
fn a_worker_that_lies_spoils_nothing_of_the_others() {
    secluded(|| {
        // Cookies count up on each processor (`gen_cookie_next`), so the test knows those of the next connections.
        let ours = rustix::thread::sched_getaffinity(None).unwrap();
        let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|number| ours.is_set(*number)).unwrap();
        let mut one = rustix::thread::CpuSet::new();
        one.set(first);
        rustix::thread::sched_setaffinity(None, &one).unwrap();
        let Some(mut server) = server("") else { return };
        let worker = Hostile::new(&server).worker();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let last = rustix::net::sockopt::socket_cookie(&worker).unwrap();
        for cookie in last + 1..last + 4_000 {
            let kind = if cookie % 2 == 0 { MessageKind::Hold } else { MessageKind::Shutdown };
            say(&worker, Message::about(kind, cookie, 0), Some(writer.as_fd()));
        }
        say(&worker, Message::about(MessageKind::Uncounted, Count::Handed as u64, 1), None);
        // The supervisor has read all these messages when it has closed the last fd of the pipe.
        drop(writer);
        let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
        let gone = poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&patience)).unwrap();
        assert_eq!(gone, 1, "a pipe is held in the place of a connection");
        for _ in 0..10 {
            assert!(is_cured());
        }
        drop(worker);
        kill_process(server.pid(), Signal::TERM).unwrap();
        let report = server.said();
        assert_eq!((&report["lingered"], &report["shared"]), (&10.into(), &0.into()), "{report:?}");
    });
}

/// A worker that passes more descriptors than the supervisor has, each held for ever.
#[test]
fn a_worker_that_floods_keeps_nobody_from_being_cured() {
    secluded(|| {
        let Some(mut server) = server("nofile=512") else { return };
        let hostile = Hostile::new(&server);
        let workers: Vec<OwnedFd> = (0..4).map(|_| hostile.worker()).collect();
        for turn in 0..2_000 {
            let (socket, _other) =
                rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                    .unwrap();
            let cookie = rustix::net::sockopt::socket_cookie(&socket).unwrap();
            let held = Message::about(MessageKind::Hold, cookie, 0).by(1, 3, Origin::UNKNOWN);
            say(&workers[turn % workers.len()], held, Some(socket.as_fd()));
        }
        drop(workers);
        // The hang-up gives back the descriptors that were held.
        while !is_cured() {}
        kill_process(server.pid(), Signal::TERM).unwrap();
        assert!(server.said()["lingered"].as_u64() > Some(0));
    });
}
