//! SIGINT and SIGTERM: every verb that runs for long ends in order, says what is known by then, and its exit
//! status says that this is not all.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use linger_testing::skip;
use rustix::process::{Pid, Signal, kill_process};

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

/// Starts the program with a standard input that stays silent, and waits until it takes both signals.
fn start(words: &str, home: &Path) -> Child {
    let child = Command::new(LINGER)
        .args(words.split(' '))
        .env("XDG_CONFIG_HOME", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !takes_signals(child.id()) {
        std::thread::yield_now();
    }
    child
}

/// Whether a process has handlers for both signals, or has ended.
fn takes_signals(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let both = 1 << (Signal::INT.as_raw() - 1) | 1 << (Signal::TERM.as_raw() - 1);
    let caught = field("SigCgt:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    caught.is_some_and(|mask| mask & both == both)
        || field("State:").is_some_and(|state| state.starts_with('Z'))
}

fn interrupted(words: &str, signal: Signal) -> (Option<i32>, String, String) {
    let home = tempfile::tempdir().unwrap();
    let mut child = start(words, home.path());
    let silent = child.stdin.take();
    kill_process(Pid::from_child(&child), signal).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    drop(silent);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn every_verb_ends_in_order() {
    // It accepts by its backlog, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (silent, _listener) = (silent.local_addr().unwrap(), silent);
    let port = silent.port();
    let temporary = tempfile::tempdir().unwrap();
    let shared = temporary.path().display();
    for signal in [Signal::INT, Signal::TERM] {
        for (words, status, said) in [
            ("why -".to_owned(), 3, "linger: "),
            (format!("probe http://{silent}/"), 3, "interrupted; the other questions were not asked"),
            (format!("client {silent} --for 600 --timeout 600"), 3, "lost 0 of 0"),
            ("server --listen 127.0.0.1:0".into(), 0, "accepted       0 connections"),
            ("fcgi serve --echo --listen 127.0.0.1:0".into(), 0, "serving FastCGI"),
            (format!("share --listen 127.0.0.1:0 {shared}"), 0, "sharing "),
            (format!("put --port {port} --tls {shared} 127.0.0.1:"), 1, "linger: stopped on request"),
            (format!("put --port {port} {shared} 127.0.0.1:"), 1, "linger: stopped on request"),
            (format!("put --port {port} --streams 3 - 127.0.0.1:x"), 1, "linger: stopped on request"),
            (format!("get --port {port} 127.0.0.1:x"), 1, "linger: stopped on request"),
            (format!("ls --port {port} 127.0.0.1:"), 3, "linger: stopped on request"),
            ("lab --link loopback --peer late --trials 1000000".into(), 3, "Interrupted: "),
        ] {
            let (code, stdout, stderr) = interrupted(&words, signal);
            assert!(stdout.contains(said) || stderr.contains(said), "linger {words}: {stdout}{stderr}");
            assert!(code == Some(status), "linger {words}: {code:?} {stdout}{stderr}");
        }
    }
}

#[test]
fn a_watch_ends_with_its_counts() {
    for signal in [Signal::INT, Signal::TERM] {
        let (code, _, stderr) = interrupted("watch --plain", signal);
        if code == Some(4) {
            return skip("live tracepoints", stderr.trim());
        }
        assert!(matches!(code, Some(0 | 1)), "{code:?} {stderr}");
        assert!(stderr.contains("resets sent and ") && stderr.contains("the kernel counted"), "{stderr}");
    }
}
