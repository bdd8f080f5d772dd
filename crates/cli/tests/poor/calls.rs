//! System calls that fail: the kernel answers with an error, from the first call on or at the nth.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use linger_testing::{refuse, skip};
use rustix::io::Errno;

use crate::machine::{LINGER, Machine, VERBS};

/// What is refused, and with which error.
const FAULTS: [(&str, Errno); 25] = [
    ("clone", Errno::AGAIN),
    ("clone", Errno::NOMEM),
    ("clone", Errno::PERM),
    ("stack", Errno::NOMEM),
    ("socket", Errno::MFILE),
    ("socket", Errno::NFILE),
    ("socket", Errno::PERM),
    ("socket", Errno::NOMEM),
    ("socket", Errno::AFNOSUPPORT),
    ("socketpair", Errno::MFILE),
    ("socketpair", Errno::PERM),
    ("bind", Errno::PERM),
    ("listen", Errno::PERM),
    ("epoll_create1", Errno::MFILE),
    ("epoll_create1", Errno::NOMEM),
    ("eventfd2", Errno::MFILE),
    ("pipe2", Errno::MFILE),
    ("perf_event_open", Errno::PERM),
    ("perf_event_open", Errno::MFILE),
    ("perf_event_open", Errno::NOMEM),
    ("unshare", Errno::PERM),
    ("unshare", Errno::NOSPC),
    ("create", Errno::NOSPC),
    ("create", Errno::ROFS),
    ("seccomp", Errno::PERM),
];

#[test]
fn every_verb_meets_every_fault_with_a_sentence() {
    let machine = Machine::new();
    let mut bitten = BTreeSet::new();
    for (words, endless) in VERBS {
        let usual = machine.run(machine.prepared(Command::new(LINGER), words), endless).status;
        for (call, error) in FAULTS {
            let mut command = machine.prepared(Command::new(LINGER), words);
            refuse(&mut command, call, error);
            let output = machine.ends_with_a_sentence(command, words, endless, &format!("{call} {error:?}"));
            if output.status != usual {
                bitten.insert(call);
            }
        }
    }
    // A fault that changed the result of no verb would test nothing.
    for (call, _) in FAULTS {
        let without_root = ["perf_event_open", "unshare", "seccomp"].contains(&call);
        assert!(bitten.contains(call) || without_root, "{call} has bitten nobody: {bitten:?}");
    }
}

/// Without a new thread, some work is not possible on this machine. Work that needs no thread is done.
#[test]
fn without_threads_the_status_is_4_and_the_sentence_says_what_to_raise() {
    let machine = Machine::new();
    for (words, status) in [
        ("why capture.gz", 4),
        ("client 127.0.0.1:PORT --count 4", 4),
        ("server --listen 127.0.0.1:0", 4),
        ("probe http://127.0.0.1:PORT/", 4),
        ("fcgi serve --echo --listen 127.0.0.1:0", 4),
        ("lab --link loopback --ending close --peer unread --trials 2", 4),
        ("run -- true", 4),
        ("schema why", 0),
        ("--help", 0),
        ("receipt verify r.json file", 0),
    ] {
        let mut command = machine.prepared(Command::new(LINGER), words);
        refuse(&mut command, "clone", Errno::AGAIN);
        let output = machine.ends_with_a_sentence(command, words, false, "no threads");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "linger {words}: {said}");
        assert!(status == 0 || said.contains("thread"), "linger {words}: {said}");
    }
}

/// Calls of which only one fails, the first, the second and so on, so that a resource may run out in the middle of
/// the work.
const ONCE: [(&str, &str); 8] = [
    ("clone,clone3,vfork", "EAGAIN"),
    ("openat", "EMFILE"),
    ("socket", "EMFILE"),
    ("socketpair", "EMFILE"),
    ("eventfd2", "EMFILE"),
    ("epoll_create1", "EMFILE"),
    ("pipe2", "EMFILE"),
    ("mmap", "ENOMEM"),
];
/// How many calls of each kind are made to fail in turn: `watch` opens files of every process.
const MOST: usize = 24;

fn strace(log: &Path, options: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.arg("-qq").arg("-o").arg(log);
    for option in options {
        command.args(["-e", option]);
    }
    command.arg(LINGER);
    command
}

/// How many of these calls the loader and std make before `main`. Where those fail the loader ends with 127, or by a
/// signal, and std with a panic.
fn before_main(machine: &Machine, log: &Path, calls: &str) -> usize {
    machine.run(machine.prepared(strace(log, &[&format!("trace={calls},sigaltstack")]), "--version"), false);
    let made = fs::read_to_string(log).unwrap();
    // The last thing that std does is to set a stack for the handler of stack overflows.
    let (before, _) = made.split_once("sigaltstack({ss_sp=").expect("std sets a stack for signals");
    before.lines().filter(|line| !line.starts_with("sigaltstack")).count()
}

#[test]
fn every_call_may_fail_alone() {
    if Command::new("strace").arg("--version").output().is_err() {
        return skip("strace", "it is not installed");
    }
    // Two at a time: each waits half of its time, for its verb or for the tracer that stops it at every call.
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((calls, error)) = ONCE.get(next.fetch_add(1, Ordering::Relaxed)) {
                    may_fail_alone(calls, error);
                }
            });
        }
    });
}

fn may_fail_alone(calls: &str, error: &str) {
    let machine = Machine::new();
    let log = machine.home.path().join("log");
    let begun = before_main(&machine, &log, calls);
    let mut bitten = 0;
    for (words, endless) in VERBS {
        for nth in begun + 1..=begun + MOST {
            let inject = format!("inject={calls}:error={error}:when={nth}");
            let command = strace(&log, &[&format!("trace={calls}"), &inject]);
            let output = machine.run(machine.prepared(command, words), endless);
            if !fs::read_to_string(&log).unwrap().contains("(INJECTED)") {
                break;
            }
            bitten += 1;
            machine.is_a_sentence(&output, words, &format!("{calls} {error}, number {nth}"));
        }
    }
    assert!(bitten > 0, "no verb calls {calls}");
}

/// After the thread for signals, neither side gets another thread. A file is served, hashed and confirmed all the
/// same.
#[test]
fn a_transfer_without_threads_is_confirmed() {
    if Command::new("strace").arg("--version").output().is_err() {
        return skip("strace", "it is not installed");
    }
    let machine = Machine::new();
    let log = machine.home.path().join("log");
    // Long enough to be hashed on a thread of its own.
    fs::File::create(machine.home.path().join("large")).unwrap().set_len(40 << 20).unwrap();
    fs::create_dir(machine.home.path().join("to")).unwrap();
    let threadless = ["trace=clone,clone3", "inject=clone,clone3:error=EAGAIN:when=2+"];
    for (server, client, streams) in
        [(true, false, "1"), (false, true, "1"), (true, true, "1"), (false, true, "3")]
    {
        let command =
            |poor: bool, log: &Path| if poor { strace(log, &threadless) } else { Command::new(LINGER) };
        // With `--once` the rest of several connections would be refused.
        let once = if streams == "1" { "--once " } else { "" };
        let share = format!("share --writable {once}--json --listen 127.0.0.1:0 to");
        let mut share = machine.prepared(command(server, &log), &share);
        let mut share = share.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(share.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("\"address\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let put = format!("put --replace --streams {streams} large {address}:copy");
        let output = machine.run(machine.prepared(command(client, &log.with_extension("put")), &put), false);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "server {server}, client {client}: {said}");
        if once.is_empty() {
            share.kill().unwrap();
        }
        let status = share.wait().unwrap();
        assert!(status.success() || once.is_empty(), "server {server}, client {client}: {status}");
        for (is_poor, log) in [(server, log.clone()), (client && streams != "1", log.with_extension("put"))] {
            let injected = is_poor && fs::read_to_string(&log).unwrap().contains("(INJECTED)");
            assert_eq!(injected, is_poor, "server {server}, client {client}: no thread was asked for");
        }
    }
}
