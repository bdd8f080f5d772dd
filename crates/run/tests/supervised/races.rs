//! Threads that accept, copy and close as fast as they can, and more connections than any table has room for.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::support::{PORT, Server, connect, program, script};
use linger_testing::secluded;
use rustix::process::Signal;

/// How often the number sent by a client is repeated in the response.
const COPIES: usize = 20_000;

fn answer(mut stream: TcpStream, copy: bool) {
    let mut number = [0; 8];
    if stream.read_exact(&mut number).is_err() {
        return;
    }
    let response = number.repeat(COPIES);
    if copy {
        let other = stream.try_clone().unwrap();
        drop(stream);
        stream = other;
    }
    let _ = stream.write_all(&response);
}

/// The environment variable without which `racer` does nothing.
const RACER: &str = "LINGER_RACER";

#[test]
#[ignore = "no test, but the program that the supervisor runs"]
fn racer() {
    if std::env::var_os(RACER).is_none() {
        return;
    }
    let listener = TcpListener::bind(("127.0.0.1", PORT)).unwrap();
    for _ in 0..2 {
        // Opens and closes other fds, each of which may reuse the number of a connection that was just closed.
        thread::spawn(|| {
            loop {
                let file = File::open("/dev/null").unwrap();
                let copy = file.try_clone().unwrap();
                drop(file);
                let pair = rustix::pipe::pipe().unwrap();
                let _ = rustix::io::dup(pair.0.as_fd());
                drop((copy, pair));
            }
        });
    }
    thread::scope(|scope| {
        for id in 0..4 {
            let listener = &listener;
            scope.spawn(move || {
                for (turn, stream) in listener.incoming().enumerate() {
                    answer(stream.unwrap(), (turn + id) % 2 == 0);
                }
            });
        }
    });
}

#[test]
fn no_connection_ends_another() {
    race("");
}

#[test]
fn no_connection_ends_another_via_seccomp() {
    race("seccomp");
}

fn race(settings: &str) {
    const CLIENTS: u64 = 6;
    const EACH: u64 = 400;
    secluded(|| {
        let program = std::env::current_exe().unwrap();
        let command = [
            "/usr/bin/env",
            "LINGER_RACER=1",
            program.to_str().unwrap(),
            "races::racer",
            "--exact",
            "--include-ignored",
        ];
        let server = Server::start_listening(Some(settings), &command, PORT);
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                scope.spawn(move || {
                    for turn in 0..EACH {
                        let number = (client << 32 | turn).to_be_bytes();
                        let mut stream = connect(PORT, None);
                        // The bytes after the number stay unread.
                        stream.write_all(&[number.as_slice(), &[0xff; 1_000]].concat()).unwrap();
                        let mut got = Vec::new();
                        let end = stream.read_to_end(&mut got);
                        assert!(end.is_ok() && got == number.repeat(COPIES), "{end:?}, {} bytes", got.len());
                    }
                });
            }
        });
        let report = server.stop(Signal::TERM);
        assert_eq!(report["lingered"], CLIENTS * EACH, "{report:?}");
    });
}

/// Two forked workers with four threads each. Every sixteenth connection is served by a child process.
const FORKING: &str = r#"
import os, signal, socket, threading
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listener = socket.create_server(('127.0.0.1', 8000), backlog=1024)
def serve(c):
    c.recv(8); c.sendall(b'x' * 5000)
def loop():
    turn = 0
    while True:
        c, _ = listener.accept()
        turn += 1
        if turn % 16 == 0:
            if os.fork() == 0:
                serve(c); os._exit(0)
        else:
            serve(c)
        c.close()
workers = []
for _ in range(2):
    workers.append(os.fork())
    if workers[-1] == 0:
        for _ in range(3): threading.Thread(target=loop).start()
        loop()
def stop(*_):
    for pid in workers: os.kill(pid, signal.SIGTERM)
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
while True: signal.pause()
"#;

/// Descriptors of a process and all its descendants, and how many processes these are.
fn descriptors(pid: u32) -> (usize, usize) {
    let own = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let mut total = (own, 1);
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            let (descriptors, processes) = descriptors(child.parse().unwrap());
            total = (total.0 + descriptors, total.1 + processes);
        }
    }
    total
}

/// 10,000 connections, or as many as LINGER_TEST_CONNECTIONS says.
#[test]
fn many_connections_leave_nothing_behind() {
    many("");
}

#[test]
fn many_connections_leave_nothing_behind_via_seccomp() {
    many("seccomp");
}

fn many(settings: &str) {
    const CLIENTS: u64 = 4;
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let wanted = std::env::var("LINGER_TEST_CONNECTIONS").ok();
        let connections: u64 = wanted.map_or(10_000, |text| text.parse().unwrap());
        let directory = tempfile::tempdir().unwrap();
        let script = script(directory.path(), "server.py", FORKING);
        let server = Server::start_listening(Some(settings), &[&python, &script], PORT);
        let next = Arc::new(AtomicU64::new(0));
        let serve = |until: u64| {
            thread::scope(|scope| {
                for _ in 0..CLIENTS {
                    scope.spawn(|| {
                        while next.fetch_add(1, Relaxed) < until {
                            let mut stream = connect(PORT, None);
                            stream.write_all(&[7; 3_000]).unwrap();
                            let mut got = Vec::new();
                            let end = stream.read_to_end(&mut got);
                            assert!(end.is_ok() && got.len() == 5_000, "{end:?}, {} bytes", got.len());
                        }
                    });
                }
            });
        };
        serve(200);
        // There is no event for the end of the last children and lingering sockets, so this polls. What remains is a leak.
        let looks = |most: usize| {
            (0..most).map(|_| {
                thread::sleep(Duration::from_millis(10));
                descriptors(server.pid().as_raw_nonzero().get() as u32)
            })
        };
        let before = looks(100).min().unwrap();
        next.store(200, Relaxed);
        serve(connections);
        let mut after = (0, 0);
        let is_as_before = |now: (usize, usize)| {
            after = now;
            now.0 <= before.0 && now.1 <= before.1
        };
        assert!(looks(3_000).any(is_as_before), "descriptors, processes: {before:?}, then {after:?}");
        let report = server.stop(Signal::TERM);
        // A connection served by a child is closed by its parent as well.
        assert_eq!(report["lingered"].as_u64().unwrap(), connections, "{report:?}");
        eprintln!("{connections} connections: {report:?}");
    });
}

/// `shutdown` of both directions is counted at the call: a killed process never reaches close().
#[test]
fn a_killed_worker_that_had_shut_down_adds_up() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let script = "import os, signal, socket\n\
                      c, _ = socket.create_server(('127.0.0.1', 8000)).accept()\n\
                      c.recv(8); c.sendall(b'x' * 5000); c.shutdown(socket.SHUT_RDWR)\n\
                      os.kill(os.getpid(), signal.SIGKILL)\n";
        let mut server = Server::start_listening(Some(""), &[&python, "-c", script], PORT);
        let mut stream = connect(PORT, None);
        stream.write_all(&[7; 3_000]).unwrap();
        let mut got = Vec::new();
        let end = stream.read_to_end(&mut got);
        assert!(end.is_ok() && got.len() == 5_000, "{end:?}, {} bytes", got.len());
        drop(stream);
        assert!(!server.wait().success());
        let report = server.report();
        assert_eq!((&report["closes"], &report["lingered"]), (&1.into(), &1.into()), "{report:?}");
    });
}
