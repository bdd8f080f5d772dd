//! Which other processes may have a connection when a process closes it. The supervisor ends it only if none has,
//! however a child was made.
//!
//! Each way has its counter-example: the child goes on using the connection, or closes it.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use crate::support::{
    PORT, Report, Server, aborts, await_nobody_at, compiled, connect, late_reader, program, script,
};
use linger_testing::{Counters, secluded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, kill_process};

/// How a child is made. The C library runs a preloaded library's fork handlers for the first and the last only.
const HOW: [&str; 7] = ["fork", "_Fork", "raw-clone", "isolated", "clone", "spawn", "fork-exec"];

const SETTINGS: [&str; 4] = ["", "hold", "stay", "seccomp"];

fn holders(directory: &Path) -> Option<String> {
    compiled("holders", directory, "gcc", "gcc", &[])
}

/// Sends a request of 4,096 bytes in two halves, the second once the parent has closed. Returns what came, and whether the
/// connection's end was seen before the second half was sent.
fn ask(server: &mut Server) -> (String, bool) {
    let mut stream = connect(PORT, None);
    stream.write_all(&[b'y'; 2_048]).unwrap();
    server.await_log("closed");
    // No event reports that the supervisor leaves the connection alone. If it did not, the end would have come long
    // before; a later end would still show in the child's answer.
    let mut end = [PollFd::new(&stream, PollFlags::RDHUP)];
    let patience = Timespec { tv_sec: 0, tv_nsec: 300_000_000 };
    let ended = poll(&mut end, Some(&patience)).unwrap() > 0;
    let _ = stream.write_all(&[b'y'; 2_048]);
    let mut got = String::new();
    let _ = stream.read_to_string(&mut got);
    (got, ended)
}

/// Stops a server whose processes may not all be supervised.
fn stop(server: &mut Server) -> Report {
    let _ = kill_process(server.pid(), Signal::TERM);
    server.wait();
    // The kernel lets go of what a ring holds after its process has ended.
    await_nobody_at(PORT);
    server.said()
}

#[test]
fn a_child_that_goes_on_is_left_alone() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(holders) = holders(directory.path()) else { return };
        for settings in SETTINGS {
            for how in HOW {
                let before = Counters::read().unwrap();
                let mut server = Server::start_listening(Some(settings), &[&holders, how, "child"], PORT);
                let (got, ended) = ask(&mut server);
                assert_eq!((got.as_str(), ended), ("saw 4096 of 4096", false), "{settings:?} {how}");
                let report = stop(&mut server);
                // The parent's close is one of two, and ends nothing.
                assert_eq!(report["shared"], 1, "{settings:?} {how}: {report:?}");
                assert_eq!(report["would_have_reset"], 0, "{settings:?} {how}: {report:?}");
                assert_eq!(aborts(&before), 0, "{settings:?} {how}");
            }
        }
    });
}

/// The kernel cuts the name of a process within a character.
#[test]
fn a_child_whose_name_is_no_text_is_left_alone() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(holders) = holders(directory.path()) else { return };
        for settings in SETTINGS {
            let before = Counters::read().unwrap();
            let mut server = Server::start_listening(Some(settings), &[&holders, "fork", "unnamed"], PORT);
            assert_eq!(ask(&mut server), ("saw 4096 of 4096".into(), false), "{settings:?}");
            let report = stop(&mut server);
            assert_eq!(
                (&report["shared"], &report["would_have_reset"]),
                (&1.into(), &0.into()),
                "{settings:?}: {report:?}"
            );
            assert_eq!(aborts(&before), 0, "{settings:?}");
        }
    });
}

/// An orphan of another user, of which nothing was heard before: with seccomp it is known by its filter, whoever adopts it.
#[test]
fn an_orphan_that_goes_on_is_left_alone() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(holders) = holders(directory.path()) else { return };
        for settings in ["seccomp", "stay seccomp"] {
            let before = Counters::read().unwrap();
            let mut server = Server::start_listening(Some(settings), &[&holders, "orphan", "child"], PORT);
            assert_eq!(ask(&mut server), ("saw 4096 of 4096".into(), false), "{settings:?}");
            let report = stop(&mut server);
            assert_eq!(
                (&report["shared"], &report["would_have_reset"]),
                (&1.into(), &0.into()),
                "{report:?}"
            );
            assert_eq!(aborts(&before), 0, "{settings:?}");
        }
    });
}

#[test]
fn a_child_that_is_gone_keeps_nothing_from_being_cured() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(holders) = holders(directory.path()) else { return };
        for settings in SETTINGS {
            for who in ["parent", "killed"] {
                for how in HOW {
                    let before = Counters::read().unwrap();
                    let mut server = Server::start_listening(Some(settings), &[&holders, how, who], PORT);
                    for _ in 0..3 {
                        assert!(late_reader(PORT, 20_000, false).is_whole(), "{settings:?} {how} {who}");
                    }
                    let report = stop(&mut server);
                    // If two processes close it at about the same time, either may be read first: `shared` may be 0 or
                    // 3.
                    let counts = (&report["lingered"], &report["refused"]);
                    assert_eq!(counts, (&3.into(), &0.into()), "{settings:?} {how} {who}: {report:?}");
                    assert_eq!(aborts(&before), 0, "{settings:?} {how} {who}");
                }
            }
        }
    });
}

/// A child that cannot be looked at may have the connection. So the close is left plain, counted, and reported. With
/// the right to look, the child is seen to have it.
#[test]
fn what_cannot_be_proved_is_left_plain_and_named() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(holders) = holders(directory.path()) else { return };
        for (settings, refused) in [("incapable", 1), ("stay incapable", 1), ("", 0)] {
            let mut server = Server::start_listening(Some(settings), &[&holders, "fork", "hidden"], PORT);
            let (got, ended) = ask(&mut server);
            assert_eq!((got.as_str(), ended), ("saw 4096 of 4096", false), "{settings:?}");
            let report = stop(&mut server);
            // The child's own close counts as well if a process of another test, in the same control group, may have
            // the connection.
            assert!(report["refused"].as_u64() >= Some(refused), "{settings:?}: {report:?}");
            assert_eq!(report["shared"], 1 - refused, "{settings:?}: {report:?}");
            let log = server.log();
            let named = log.lines().filter(|line| line.starts_with("refused: ")).count();
            assert_eq!(named as u64, refused, "{settings:?}: {log}");
            assert_eq!(log.contains("CAP_SYS_PTRACE is missing"), refused > 0, "{settings:?}: {log}");
        }
    });
}

/// The program copies an fd by a system call that the library does not see. The copy is found anyway: the supervisor looks in
/// all processes for a program's first connections (`TRUST` in `prover.rs`).
#[test]
fn an_unseen_copy_is_found() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(holders) = holders(directory.path()) else { return };
        for settings in ["", "hold"] {
            let mut server = Server::start_listening(Some(settings), &[&holders, "bare-dup", "child"], PORT);
            assert_eq!(ask(&mut server), ("saw 4096 of 4096".into(), false), "{settings:?}");
            assert_eq!(stop(&mut server)["lingered"], 0, "{settings:?}");
            let mut server = Server::start_listening(Some(settings), &[&holders, "bare-dup", "parent"], PORT);
            assert!(late_reader(PORT, 20_000, false).is_whole(), "{settings:?}");
            assert_eq!(stop(&mut server)["lingered"], 1, "{settings:?}");
        }
    });
}

/// Whether the machine has io_uring.
fn has_rings(holders: &str) -> bool {
    let probe = Command::new(holders).args(["ring", "probe"]).output().unwrap();
    let refused = probe.stderr == b"no ring\n";
    if refused {
        linger_testing::skip("io_uring", "io_uring_setup is refused");
    }
    assert!(refused || probe.status.success(), "{probe:?}");
    !refused
}

/// A connection that is registered with an io_uring outlives the process's last fd of it: the ring goes on to read the request
/// and answers. What a ring has let go of keeps nothing from being cured.
#[test]
fn what_a_ring_has_is_left_alone() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(holders) = holders(directory.path()) else { return };
        if !has_rings(&holders) {
            return;
        }
        for settings in SETTINGS {
            let before = Counters::read().unwrap();
            let mut server = Server::start_listening(Some(settings), &[&holders, "ring", "child"], PORT);
            assert_eq!(ask(&mut server), ("saw 4096 of 4096".into(), false), "{settings:?}");
            let report = stop(&mut server);
            // With seccomp the close of one of a process's own copies is known to be none of the connection.
            let shared = u32::from(settings != "seccomp");
            assert_eq!((&report["lingered"], &report["shared"]), (&0.into(), &shared.into()), "{report:?}");
            assert_eq!(aborts(&before), 0, "{settings:?}");
            let mut server = Server::start_listening(Some(settings), &[&holders, "ring", "parent"], PORT);
            for _ in 0..3 {
                assert!(late_reader(PORT, 20_000, false).is_whole(), "{settings:?}");
            }
            let report = stop(&mut server);
            let counts = ["lingered", "shared", "refused"].map(|name| report[name].as_u64());
            assert_eq!(counts, [Some(3), Some(0), Some(0)], "{settings:?}: {report:?}");
            assert_eq!(aborts(&before), 0, "{settings:?}");
        }
    });
}

/// Who accepts by a ring is named as not covered: nobody is told of its connections.
#[test]
fn a_listener_of_a_ring_is_named() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(holders) = holders(directory.path()) else { return };
        if !has_rings(&holders) {
            return;
        }
        for settings in ["", "seccomp"] {
            let mut server = Server::start(Some(settings), &[&holders, "ring", "accepts"]);
            server.await_log("0 of 1 listener covered\n127.0.0.1:8000 is not covered in process");
            assert!(server.log().contains(", which accepts connections by io_uring"), "{}", server.log());
            stop(&mut server);
            // It has a ring as well, and another listener.
            let mut server = Server::start(Some(settings), &[&holders, "ring", "parent"]);
            server.await_log("coverage: 1 of 1 listener covered");
            stop(&mut server);
        }
    });
}

/// Passes each connection to a helper by its fd number, or starts a helper that has nothing to do with it.
const PASS_FDS: &str = r#"
import socket, subprocess, sys
HELPER = '''
import socket, sys
s = socket.socket(fileno=int(sys.argv[1])); got = 0
while got < 4096:
    b = s.recv(4096)
    if not b: break
    got += len(b)
s.sendall(b"saw %d of 4096" % got)
'''
l = socket.create_server(('127.0.0.1', 8000))
while True:
    c, _ = l.accept()
    if sys.argv[1] == 'passed':
        p = subprocess.Popen([sys.executable, "-c", HELPER, str(c.fileno())], pass_fds=[c.fileno()])
        c.close()
        print("closed", file=sys.stderr, flush=True)
        p.wait()
    else:
        c.recv(10)
        subprocess.run(["true"])
        c.sendall(b'HTTP/1.0 200 OK\r\n\r\n' + b'x' * 600000 + b'END')
        c.close()
"#;

#[test]
fn a_helper_that_is_passed_the_fd() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let directory = tempfile::tempdir().unwrap();
        let script = script(directory.path(), "server.py", PASS_FDS);
        for settings in SETTINGS {
            let mut server = Server::start_listening(Some(settings), &[&python, &script, "passed"], PORT);
            assert_eq!(ask(&mut server), ("saw 4096 of 4096".into(), false), "{settings:?}");
            assert_eq!(stop(&mut server)["shared"], 1, "{settings:?}");
            let mut server = Server::start_listening(Some(settings), &[&python, &script, "not"], PORT);
            assert!(late_reader(PORT, 20_000, false).is_whole(), "{settings:?}");
            let report = stop(&mut server);
            assert_eq!(report["lingered"], 1, "{settings:?}: {report:?}");
        }
    });
}
