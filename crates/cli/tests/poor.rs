//! Machines that have no more threads, descriptors, memory or room, and users who may not: every verb ends with a
//! sentence and a status of its own, never in a panic and never by a signal.
//!
//! The faults come from the kernel: a seccomp filter answers a system call with an error, or a limit of the process
//! does. Each verb meets each fault.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use linger_testing::{refuse, skip};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

/// Every verb, in a form that ends by itself, or that a SIGINT ends.
const VERBS: [(&str, bool); 25] = [
    ("--help", false),
    ("--version", false),
    ("completions fish", false),
    ("schema", false),
    ("man pages", false),
    ("why capture.gz", false),
    ("why --json capture.gz capture.gz", false),
    ("why capture.gz --html page.html", false),
    ("why -", false),
    ("client 127.0.0.1:PORT --count 4 --timeout 0.05", false),
    ("server --listen 127.0.0.1:0", true),
    ("probe http://127.0.0.1:PORT/ --hold 1 --repeat 1 --only trailing-bytes", true),
    ("lab --link loopback --ending close --peer unread --trials 2", false),
    ("lab --link lan --ending close --peer unread --trials 2", false),
    ("lab exec --link lan --ready 0 --server true --client true", false),
    ("run --via preload -- true", false),
    ("run --via seccomp -- true", false),
    ("run --metrics 127.0.0.1:0 -- true", false),
    ("watch --plain --for 0", false),
    ("watch --prometheus 127.0.0.1:0 --for 0", false),
    ("fcgi get 127.0.0.1:1 /x", false),
    ("fcgi serve --echo --listen 127.0.0.1:0", true),
    ("receipt verify r.json file", false),
    ("put file 127.0.0.1: --port 1 --retry-for 0", false),
    ("share . --listen 127.0.0.1:0", true),
];

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

struct Machine {
    home: tempfile::TempDir,
    /// Takes connections by its backlog, and never answers.
    silent: TcpListener,
}

impl Machine {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let capture = "../why/captures/unread-upload-window.client.pcap.gz";
        let capture = Path::new(env!("CARGO_MANIFEST_DIR")).join(capture);
        fs::copy(capture, home.path().join("capture.gz")).unwrap();
        fs::write(home.path().join("file"), "text").unwrap();
        fs::create_dir(home.path().join("pages")).unwrap();
        let receipt = "{\"path\":\"\",\"kind\":\"file\",\"length\":4,\"name\":\"file\",\"durability\":\"disk\",\
                       \"time\":0.0,\"present\":false,\"receiver\":\"h\"}\n";
        fs::write(home.path().join("r.json"), receipt).unwrap();
        Self { home, silent: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    fn prepared(&self, mut command: Command, words: &str) -> Command {
        let port = self.silent.local_addr().unwrap().port().to_string();
        command
            .args(words.split(' ').map(|word| word.replace("PORT", &port)))
            .current_dir(self.home.path())
            .env("XDG_CONFIG_HOME", self.home.path().join("config"))
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Ends what does not end by itself once it takes SIGINT.
    fn run(&self, mut command: Command, endless: bool) -> Output {
        let mut child = command.spawn().unwrap();
        if endless {
            while !takes_signals(&mut child) {
                std::thread::yield_now();
            }
            // It may have ended meanwhile.
            let _ = kill_process(Pid::from_child(&child), Signal::INT);
        }
        child.wait_with_output().unwrap()
    }

    #[track_caller]
    fn ends_with_a_sentence(&self, command: Command, words: &str, endless: bool, fault: &str) -> Output {
        let output = self.run(command, endless);
        let said = String::from_utf8_lossy(&output.stderr);
        let what = format!("linger {words} under {fault}: {} {said}", output.status);
        assert!(!said.contains("panicked") && !said.contains("memory allocation"), "{what}");
        assert!(output.status.signal().is_none(), "{what}");
        assert!(matches!(output.status.code(), Some(0..=4)), "{what}");
        if !matches!(output.status.code(), Some(0 | 1)) {
            assert!(said.contains("linger: ") || said.contains("note: "), "{what}");
        }
        output
    }
}

/// Whether a process has handlers for SIGINT and SIGTERM, or has ended.
fn takes_signals(child: &mut Child) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{}/status", child.id())) else { return true };
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let both = 1 << (Signal::INT.as_raw() - 1) | 1 << (Signal::TERM.as_raw() - 1);
    let caught = field("SigCgt:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    caught.is_some_and(|mask| mask & both == both)
        || field("State:").is_some_and(|state| state.starts_with('Z'))
}

#[test]
fn every_verb_meets_every_fault_with_a_sentence() {
    let machine = Machine::new();
    let mut bitten = std::collections::BTreeSet::new();
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
    // A fault that changes nothing anywhere would be no fault.
    for (call, _) in FAULTS {
        let without_root = ["perf_event_open", "unshare", "seccomp"].contains(&call);
        assert!(bitten.contains(call) || without_root, "{call} has bitten nobody: {bitten:?}");
    }
}

/// What cannot be done without a thread is not possible here; what can be done without one is done.
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

fn limited(limit: &str) -> Command {
    let mut command = Command::new("prlimit");
    command.args([limit, LINGER]);
    command
}

/// From too few for the C library's loader to plenty.
#[test]
fn every_verb_ends_in_order_with_any_number_of_descriptors() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return skip("util-linux", "prlimit is not installed");
    }
    let machine = Machine::new();
    for (words, endless) in VERBS {
        for most in [4, 5, 6, 7, 8, 9, 10, 12, 16, 24, 32] {
            let limit = format!("--nofile={most}");
            let command = machine.prepared(limited(&limit), words);
            machine.ends_with_a_sentence(command, words, endless, &limit);
        }
    }
}
