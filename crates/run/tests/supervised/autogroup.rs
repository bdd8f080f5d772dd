//! The supervisor's scheduling group has the weight of the program's: else it would wait where the program's is preferred.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::Server;
use linger_testing::{secluded, skip};
use rustix::process::{Pid, Signal};

/// In a session of its own, whose group gets another weight; unprivileged writers are served once in a tenth of a second.
const PROGRAM: &str = "until echo 5 > /proc/self/autogroup; do sleep 0.1; done 2>&-; exec sleep 600";

/// `None` for a process outside all groups, whose file is empty: its session is as old as the system.
fn autogroup(process: Pid) -> Option<(String, i32)> {
    let line = fs::read_to_string(format!("/proc/{process}/autogroup")).unwrap();
    let (name, nice) = line.trim_end().split_once(" nice ")?;
    Some((name.to_owned(), nice.parse().unwrap()))
}

fn nice(process: Pid) -> Option<i32> {
    autogroup(process).map(|(_, nice)| nice)
}

/// For what no event reports.
fn await_that(mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "waited for a minute");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Until the program has the session and the weight that it is to have; before, they are this test's.
fn await_sleep(program: Pid) {
    await_that(|| fs::read_to_string(format!("/proc/{program}/comm")).unwrap() == "sleep\n");
}

fn await_nice(process: Pid, expected: i32) {
    await_that(|| nice(process) == Some(expected));
}

#[test]
fn a_supervisor_has_the_weight_of_its_program() {
    if !fs::exists("/proc/self/autogroup").unwrap() {
        return skip("scheduling groups of sessions", "the kernel has no /proc/PID/autogroup");
    }
    secluded(|| {
        for settings in ["", "seccomp"] {
            let other = Server::start(Some(settings), &["setsid", "sleep", "600"]);
            // The program runs once its supervisor is there.
            await_sleep(other.pid());
            let others = other.supervisor();
            // It starts with the weight of this test's group, which need not be 0.
            await_nice(other.pid(), 0);
            await_nice(others, 0);
            let server = Server::start(Some(settings), &["setsid", "sh", "-c", PROGRAM]);
            await_sleep(server.pid());
            await_nice(server.pid(), 5);
            let supervisor = server.supervisor();
            await_nice(supervisor, 5);
            let name = |process| autogroup(process).unwrap().0;
            assert_ne!(name(supervisor), name(server.pid()), "{settings}");
            assert_eq!(nice(others), Some(0), "the other program's has none: {settings}");
            // And later, whoever changes it.
            await_that(|| fs::write(format!("/proc/{}/autogroup", server.pid()), "7").is_ok());
            await_nice(supervisor, 7);
            assert_eq!(nice(others), Some(0), "{settings}");
            for server in [server, other] {
                server.stop(Signal::TERM);
            }
        }
    });
}
