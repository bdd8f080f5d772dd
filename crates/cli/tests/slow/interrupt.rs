//! SIGINT and SIGTERM: every verb that runs for long ends in order, says what is known by then, and its exit
//! status says that this is not all.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use linger_testing::skip;
use rustix::process::{Pid, Signal, kill_process};

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

/// Starts the program with a standard input that stays silent, and waits until it takes both signals.
fn start(words: &str, home: &Path) -> Child {
    started(Command::new(LINGER).args(words.split(' ')), home)
}

fn started(command: &mut Command, home: &Path) -> Child {
    let child = command
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
    // The kernel accepts connections into its backlog, and nobody answers.
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
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stderr.contains("resets sent and ") && stderr.contains("the kernel counted"), "{stderr}");
    }
}

/// A closed terminal (SIGHUP) ends the verb as Ctrl-C does; under nohup(1) it has no effect.
#[test]
fn a_closed_terminal_ends_a_verb_in_order() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let temporary = tempfile::tempdir().unwrap();
    let home = temporary.path();
    for (state, ends) in [("--default-signal=HUP", true), ("--ignore-signal=HUP", false)] {
        let mut put = started(
            Command::new("env").arg(state).args([LINGER, "put", "--port", &port, "--receipt"]).args([
                home.join("receipt").as_os_str(),
                home.as_os_str(),
                "127.0.0.1:".as_ref(),
            ]),
            home,
        );
        // `put` has connected, and so it has begun the receipt file.
        let (_stream, _) = silent.accept().unwrap();
        let id = Pid::from_child(&put);
        kill_process(id, Signal::HUP).unwrap();
        if !ends {
            kill_process(id, Signal::TERM).unwrap();
        }
        let silent_input = put.stdin.take();
        let output = put.wait_with_output().unwrap();
        drop(silent_input);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{state}: {said}");
        assert!(said.contains("stopped on request"), "{state}: {said}");
        let left = std::fs::read_dir(home).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with(".linger-")).collect();
        assert!(left.is_empty(), "{state}: {left:?}");
    }
}

/// What a check found is on stdout; the summary says that there were more questions.
#[test]
fn an_interrupted_probe_has_its_summary() {
    let home = tempfile::tempdir().unwrap();
    let mut server = start("server --listen 127.0.0.1:0 --ending lingering", home.path());
    let mut line = String::new();
    let mut said = BufReader::new(server.stderr.take().unwrap());
    while !line.contains("127.0.0.1:") {
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "{line}");
    }
    let at = line.split("127.0.0.1:").nth(1).unwrap();
    let port: String = at.chars().take_while(char::is_ascii_digit).collect();
    // The server answers whatever it is sent.
    let request = home.path().join("request");
    std::fs::write(&request, "hello").unwrap();
    let junit = home.path().join("probe.xml");
    let asks = format!(
        "probe tcp://127.0.0.1:{port} --payload {} --json --hold 600 --junit {}",
        request.display(),
        junit.display()
    );
    let mut probe = start(&asks, home.path());
    let mut out = BufReader::new(probe.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    kill_process(Pid::from_child(&probe), Signal::INT).unwrap();
    let rest: Vec<_> = out.lines().map(|line| line.unwrap()).collect();
    let last: serde_json::Value = serde_json::from_str(rest.last().unwrap()).unwrap();
    assert!(matches!(probe.wait().unwrap().code(), Some(1 | 3)), "{first}{rest:?}");
    assert_eq!((&last["type"], &last["interrupted"]), (&"probe".into(), &true.into()), "{first}{rest:?}");
    let junit = std::fs::read_to_string(junit).unwrap();
    let open = "<skipped message=\"not asked: the probe was interrupted\"";
    assert!(junit.contains(open) && junit.ends_with("</testsuites>\n"), "{junit}");
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    server.wait().unwrap();
}
