//! Programs that no library can be preloaded into, supervised by seccomp notifications.
//!
//! Every test has a network of its own, so that the kernel's counters are exact.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    PORT, SOURCES, Server, asked_once, build, compare, compiled, connect, ended_well, late_reader, program,
    read, request,
};
use linger_testing::secluded;
use linger_testing::servers::go_cache;
use rustix::process::{Pid, Signal, kill_process};

/// Builds a static C program with a compiler that may be missing.
fn ways(directory: &Path, compiler: &str, package: &str) -> Option<String> {
    compiled("ways", directory, compiler, package, &["-static"])
}

fn early(directory: &Path) -> Option<String> {
    let go = program("go", "golang-go")?;
    let built = directory.join("early").display().to_string();
    let mut command = Command::new(go);
    command.args(["build", "-o", &built, &format!("{SOURCES}/early.go")]);
    build(command.env("CGO_ENABLED", "0").env("GOCACHE", go_cache()).env("GO111MODULE", "off"));
    Some(built)
}

#[test]
fn go_answers_early() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(server) = early(directory.path()) else { return };
        let (lost, aborted, report) = compare(&[&server], "", 10, |bare| late_reader(PORT, 1_000_000, bare));
        assert_eq!((lost, aborted[1]), ([10, 0], 0), "{aborted:?} {report:?}");
        assert!(aborted[0] >= 10, "{aborted:?}");
        assert_eq!(ended_well(&report), 10, "{report:?}");
        assert_eq!(report["bytes_unacknowledged"], 0, "{report:?}");
    });
}

#[test]
fn go_exits_after_its_last_write() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(server) = early(directory.path()) else { return };
        for (settings, reset) in [(None, true), (Some(""), false)] {
            let mut server = asked_once(settings, &[&server, "exit"], reset);
            assert_eq!(server.wait().code(), Some(7), "the program's own status");
            assert!(reset || server.report()["lingered"] == 1);
        }
    });
}

fn every_way(compiler: &str, package: &str) {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = ways(directory.path(), compiler, package) else { return };
    let ways = [
        "close",
        "shutdown",
        "shutdown-read",
        "dup",
        "early-copy",
        "fcntl",
        "dup2",
        "dup2-fails",
        "close_range",
        "fork",
        "epoll",
        "thread",
        "pass",
        "exec-fails",
    ];
    for way in ways {
        let (lost, aborted, report) = compare(&[&server, way], "", 3, |bare| late_reader(PORT, 20_000, bare));
        assert_eq!((lost, aborted[1]), ([3, 0], 0), "{way}: {report:?}");
        assert_eq!(ended_well(&report), 3, "{way}: {report:?}");
        assert_eq!(report["shared"], if way == "fork" { 3 } else { 0 }, "{way}: {report:?}");
    }
}

/// A connection that is passed in a message. It ends when the last holder has closed it, whatever the order of closes and
/// forks, and not while the message is in flight. The program fixes the order.
fn every_way_to_pass_a_connection_on(settings: &str) {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = ways(directory.path(), "gcc", "gcc") else { return };
    // A close by the receiver while the sender still holds the connection counts as shared. A close before its arrival does not.
    let ways = [
        ("pass", 0),
        ("pass-back", 3),
        ("pass-fork", 0),
        ("pass-fork-late", 0),
        ("pass-then-fork", 0),
        ("pass-self", 0),
        ("pass-lost", 0),
    ];
    for (way, shared) in ways {
        let (lost, aborted, report) =
            compare(&[&server, way], settings, 3, |bare| late_reader(PORT, 20_000, bare));
        assert_eq!((lost, aborted[1]), ([3, 0], 0), "{way}: {report:?}");
        assert_eq!(ended_well(&report), 3, "{way}: {report:?}");
        assert_eq!(report["shared"], shared, "{way}: {report:?}");
    }
}

#[test]
fn connections_that_are_passed_on() {
    secluded(|| every_way_to_pass_a_connection_on("seccomp"));
}

#[test]
fn connections_that_are_passed_on_and_held() {
    secluded(|| every_way_to_pass_a_connection_on("seccomp hold"));
}

#[test]
fn every_way_to_end_a_connection() {
    secluded(|| every_way("gcc", "gcc"));
}

#[test]
fn every_way_to_end_a_connection_with_musl() {
    secluded(|| every_way("musl-gcc", "musl-tools"));
}

#[test]
fn a_worker_that_exits_or_becomes_another() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(program) = ways(directory.path(), "gcc", "gcc") else { return };
        for way in ["exit", "exec"] {
            for (settings, reset) in [(None, true), (Some(""), false)] {
                let mut server = asked_once(settings, &[&program, way], reset);
                let report = if way == "exit" {
                    assert_eq!(server.wait().code(), Some(7), "the program's own status");
                    server.report()
                } else {
                    server.stop(Signal::TERM)
                };
                assert!(reset || report["lingered"] == 1, "{way}: {report:?}");
            }
        }
    });
}

#[test]
fn excluded_ports_are_left_alone() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(program) = ways(directory.path(), "gcc", "gcc") else { return };
        let server = Server::start_listening(Some("exclude=8000"), &[&program, "close"], PORT);
        assert!(!late_reader(PORT, 20_000, true).is_whole());
        assert_eq!(server.stop(Signal::TERM)["closes"], 0);
    });
}

/// A client of its own server: outgoing connections are left alone unless requested.
#[test]
fn outgoing_connections_end_as_the_program_says() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let script = "import socket\n\
                      l = socket.create_server(('127.0.0.1', 8000))\n\
                      for _ in range(5):\n    \
                          c = socket.create_connection(('127.0.0.1', 8000)); s, _ = l.accept()\n    \
                          s.sendall(b'x' * 1000); c.close(); s.close()\n";
        for (settings, closes) in [("seccomp", 5), ("seccomp outgoing", 10)] {
            let mut server = Server::start(Some(settings), &[&python, "-c", script]);
            assert!(server.wait().success(), "{}", server.log());
            assert_eq!(server.report()["closes"], closes, "{settings}");
        }
    });
}

/// The supervisor is killed: the program continues, its closes are plain, and it can exit. With `hold` it waits in
/// `accept`, a notification that the supervisor has received and not answered.
#[test]
fn a_program_outlives_its_supervisor() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(program) = ways(directory.path(), "gcc", "gcc") else { return };
        for settings in ["", "hold"] {
            let mut server = asked_once(Some(settings), &[&program, "close"], false);
            kill_process(server.supervisor(), Signal::KILL).unwrap();
            // `ways` checks that its closes succeed, and would have ended.
            for _ in 0..3 {
                assert!(!late_reader(PORT, 20_000, true).is_whole(), "{settings}: closed plainly");
            }
            kill_process(server.pid(), Signal::TERM).unwrap();
            // Its address is free again for the next run.
            assert!(!server.wait().success());
        }
    });
}

/// The supervisor is stopped (SIGSTOP): the guard continues the program's calls, also one that was received already (an
/// `accept` of `hold`). After SIGCONT the cure works again, and held connections are ended.
#[test]
fn a_stopped_supervisor_costs_only_the_cure() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(program) = ways(directory.path(), "gcc", "gcc") else { return };
        for settings in ["", "hold"] {
            let server = Server::start_listening(Some(settings), &[&program, "close"], PORT);
            let supervisor = server.supervisor();
            assert!(late_reader(PORT, 20_000, false).is_whole(), "{settings}");
            // A connection that the supervisor holds, if it holds any.
            let mut held = connect(PORT, Some(4_096));
            await_call(server.pid(), libc::SYS_read);
            kill_process(supervisor, Signal::STOP).unwrap();
            crate::support::await_state(supervisor, "T");
            held.write_all(&request(20_000)).unwrap();
            let mut got = vec![0; "HTTP/1.0 200 OK\r\n\r\n".len() + 600_000 + "END".len()];
            if settings == "hold" {
                // The supervisor's copy keeps the connection from ending.
                held.read_exact(&mut got).unwrap();
            }
            for _ in 0..3 {
                assert!(!late_reader(PORT, 20_000, true).is_whole(), "{settings}: closed plainly");
            }
            kill_process(supervisor, Signal::CONT).unwrap();
            // Ended now, if it was not at once.
            let rest = read(held);
            let kind = rest.error.as_ref().map(std::io::Error::kind);
            assert_ne!(kind, Some(ErrorKind::WouldBlock), "{settings}: it has not ended");
            // After the supervisor has found out what was done meanwhile.
            let until = Instant::now() + Duration::from_secs(30);
            while !late_reader(PORT, 20_000, false).is_whole() {
                assert!(Instant::now() < until, "{settings}: nothing is cured any more");
            }
            let mut server = server;
            kill_process(server.pid(), Signal::TERM).unwrap();
            assert!(server.said()["lingered"].as_u64() >= Some(2), "{settings}");
        }
    });
}

/// What a process that cannot be looked at has been sent while the supervisor was stopped nobody knows. After its end the
/// cure works again.
#[test]
fn a_stop_beside_a_hidden_process_costs_the_cure_until_that_has_ended() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(program) = ways(directory.path(), "gcc", "gcc") else { return };
        let mut server =
            Server::start_listening(Some("seccomp incapable"), &[&program, "beside-hidden"], PORT);
        let hidden = children(server.pid());
        let supervisor = server.supervisor();
        assert!(late_reader(PORT, 20_000, false).is_whole());
        kill_process(supervisor, Signal::STOP).unwrap();
        crate::support::await_state(supervisor, "T");
        assert!(!late_reader(PORT, 20_000, true).is_whole(), "closed plainly");
        kill_process(supervisor, Signal::CONT).unwrap();
        // Longer than the supervisor needs to find out what was done, where nothing is hidden.
        let until = Instant::now() + Duration::from_millis(1_500);
        while Instant::now() < until {
            assert!(!late_reader(PORT, 20_000, true).is_whole(), "the hidden process lives");
        }
        for process in hidden {
            kill_process(process, Signal::KILL).unwrap();
        }
        let until = Instant::now() + Duration::from_secs(30);
        while !late_reader(PORT, 20_000, false).is_whole() {
            assert!(Instant::now() < until, "nothing is cured any more");
        }
        kill_process(server.pid(), Signal::TERM).unwrap();
        assert!(server.said()["lingered"].as_u64() >= Some(2));
    });
}

/// Waits until a process waits in a system call.
fn await_call(process: Pid, call: i64) {
    let (path, wanted) = (format!("/proc/{process}/syscall"), format!("{call} "));
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let now = fs::read_to_string(&path).unwrap();
        if now.starts_with(&wanted) {
            return;
        }
        assert!(Instant::now() < until, "{now}");
        // There is no event for the system call that another process is in, so this polls.
        thread::sleep(Duration::from_millis(1));
    }
}

fn children(parent: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).unwrap().flatten();
    let all: String =
        tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect();
    all.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
}

#[test]
fn bare_axum() {
    secluded(|| {
        let server = linger_testing::servers::sample_program("axum-bare").unwrap().display().to_string();
        for settings in ["", "seccomp"] {
            let (lost, aborted, report) =
                compare(&[&server, "8000"], settings, 10, |bare| late_reader(PORT, 1_000_000, bare));
            assert_eq!((lost, aborted[1]), ([10, 0], 0), "{settings}: {aborted:?} {report:?}");
            assert_eq!(ended_well(&report), 10, "{settings}: {report:?}");
        }
    });
}

#[test]
fn a_killed_worker_loses_nothing_that_is_held() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(program) = ways(directory.path(), "gcc", "gcc") else { return };
        for (settings, reset) in [(None, true), (Some(""), true), (Some("hold"), false)] {
            let mut server = asked_once(settings, &[&program, "kill"], reset);
            assert!(!server.wait().success());
            assert!(reset || server.report()["lingered"] == 1);
        }
    });
}

#[test]
fn what_is_held_ends_as_without() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(server) = ways(directory.path(), "gcc", "gcc") else { return };
        for way in ["close", "shutdown", "dup", "fork", "epoll", "thread", "pass"] {
            let (lost, aborted, report) =
                compare(&[&server, way], "hold", 3, |bare| late_reader(PORT, 20_000, bare));
            assert_eq!((lost, aborted[1]), ([3, 0], 0), "{way}: {report:?}");
            assert_eq!(ended_well(&report), 3, "{way}: {report:?}");
        }
        let Some(server) = early(directory.path()) else { return };
        let (lost, aborted, report) =
            compare(&[&server], "hold", 10, |bare| late_reader(PORT, 1_000_000, bare));
        assert_eq!((lost, aborted[1], &report["lingered"]), ([10, 0], 0, &10.into()), "{report:?}");
    });
}

/// A signal reaches a program that waits in `accept`, which the supervisor performs for it.
#[test]
fn signals_reach_a_program_that_accepts() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let script = "import os, signal, socket\n\
                      signal.signal(signal.SIGTERM, lambda *_: os._exit(5))\n\
                      socket.create_server(('127.0.0.1', 8000)).accept()\n";
        let mut server = Server::start_listening(Some("seccomp hold"), &[&python, "-c", script], PORT);
        kill_process(server.pid(), Signal::TERM).unwrap();
        assert_eq!(server.wait().code(), Some(5), "{}", server.log());
    });
}

/// `shutdown` of both directions is counted at the call: a killed process never reaches close().
#[test]
fn a_killed_worker_that_had_shut_down_adds_up() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(program) = ways(directory.path(), "gcc", "gcc") else { return };
        for settings in ["seccomp", "seccomp hold"] {
            let mut server = asked_once(Some(settings), &[&program, "shutdown-kill"], false);
            assert!(!server.wait().success());
            let report = server.report();
            assert_eq!((&report["closes"], &report["lingered"]), (&1.into(), &1.into()), "{report:?}");
        }
    });
}

/// A program with many connections starts another: all fds are searched a few times, not once for each connection.
#[test]
fn a_fork_with_many_connections_costs_few_looks() {
    const CONNECTIONS: u64 = 1_000;
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(program) = compiled("crowd", directory.path(), "gcc", "gcc", &["-static"]) else { return };
        for settings in ["seccomp", "seccomp hold"] {
            let mut server = Server::start(Some(settings), &[&program, &CONNECTIONS.to_string()]);
            assert!(server.wait().success(), "{}", server.log());
            let report = server.report();
            assert_eq!((&report["closes"], &report["lingered"]), (&CONNECTIONS.into(), &CONNECTIONS.into()));
            assert!(report["looks"].as_u64().unwrap() < CONNECTIONS / 10, "{settings}: {report:?}");
        }
    });
}

/// The closes of a process whose fds cannot be copied stay plain. That is reported once, with the missing permission.
#[test]
fn a_process_whose_descriptors_are_refused_is_named() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(program) = ways(directory.path(), "gcc", "gcc") else { return };
        for (settings, refused) in [("seccomp incapable", 1), ("seccomp", 0)] {
            let mut server = Server::start_listening(Some(settings), &[&program, "opaque"], PORT);
            for _ in 0..2 {
                assert_eq!(late_reader(PORT, 20_000, refused > 0).is_whole(), refused == 0, "{settings}");
            }
            kill_process(server.pid(), Signal::TERM).unwrap();
            server.wait();
            let (report, log) = (server.said(), server.log());
            assert_eq!(report["refused"], refused, "{report:?}");
            let said: Vec<&str> = log.lines().filter(|line| line.starts_with("refused: ")).collect();
            assert_eq!(said.len() as u64, refused, "{log}");
            assert!(
                said.iter().all(|line| line.contains("(ways)") && line.contains("CAP_SYS_PTRACE is missing"))
            );
        }
    });
}

/// A connection of a process whose fds cannot be read is never half-closed because another process closed its copy.
#[test]
fn what_a_process_that_is_refused_may_have_is_left_alone() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(program) = ways(directory.path(), "gcc", "gcc") else { return };
        for (settings, refused) in [("seccomp incapable", true), ("seccomp", false)] {
            let mut server = Server::start_listening(Some(settings), &[&program, "opaque-heir"], PORT);
            // `ways` checks that it can still write, and would have ended.
            for _ in 0..2 {
                assert_eq!(late_reader(PORT, 20_000, refused).is_whole(), !refused, "{settings}");
            }
            kill_process(server.pid(), Signal::TERM).unwrap();
            server.wait();
            let report = server.said();
            assert_eq!(report["lingered"], if refused { 0 } else { 2 }, "{settings}: {report:?}");
        }
    });
}
