//! A user's directory in which every verb can do its work, and how each is run there.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};

pub(crate) const LINGER: &str = env!("CARGO_BIN_EXE_linger");

/// Every verb, in a form that ends by itself, or that a SIGINT ends.
pub(crate) const VERBS: [(&str, bool); 25] = [
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
    // With `--stay`, because otherwise the program would get the faults that are meant for the supervisor.
    ("run --stay --via preload -- true", false),
    ("run --stay --via seccomp -- true", false),
    ("run --stay --metrics 127.0.0.1:0 -- true", false),
    // Leaves out resets of other programs on this host.
    ("watch --plain --for 0 --process nobody", false),
    ("watch --prometheus 127.0.0.1:0 --for 0 --process nobody", false),
    ("fcgi get 127.0.0.1:1 /x", false),
    ("fcgi serve --echo --listen 127.0.0.1:0", true),
    ("receipt verify r.json file", false),
    ("put file 127.0.0.1: --port 1 --retry-for 0", false),
    ("share . --listen 127.0.0.1:0", true),
];

pub(crate) struct Machine {
    pub(crate) home: tempfile::TempDir,
    /// The kernel accepts connections into its backlog, and nobody answers.
    silent: TcpListener,
}

impl Machine {
    pub(crate) fn new() -> Self {
        // Not in /tmp, which one of the tests takes away.
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let capture = "../why/captures/unread-upload-window.client.pcap.gz";
        let capture = Path::new(env!("CARGO_MANIFEST_DIR")).join(capture);
        fs::copy(capture, home.path().join("capture.gz")).unwrap();
        fs::write(home.path().join("file"), "text").unwrap();
        fs::create_dir(home.path().join("pages")).unwrap();
        let receipt = "{\"path\":\"\",\"kind\":\"file\",\"length\":4,\"name\":\"file\",\"durability\":\"disk\",\
                       \"time\":0.0,\"present\":false,\"receiver\":\"h\"}\n";
        let hash = blake3::hash(receipt.as_bytes()).to_hex();
        let whole = format!("{receipt}{{\"receipts\":1,\"blake3\":\"{hash}\"}}\n");
        fs::write(home.path().join("r.json"), whole).unwrap();
        Self { home, silent: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    pub(crate) fn prepared(&self, mut command: Command, words: &str) -> Command {
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

    /// Runs a command. If it does not end by itself (`endless`), it gets SIGINT as soon as it handles that signal.
    pub(crate) fn run(&self, mut command: Command, endless: bool) -> Output {
        let child = command.spawn().unwrap();
        if endless {
            let process = loop {
                match takes_signals(Pid::from_child(&child)) {
                    Signals::Taken(process) => break Some(process),
                    Signals::Ended => break None,
                    Signals::NotYet => std::thread::yield_now(),
                }
            };
            // It may have ended meanwhile.
            let _ = process.map(|process| kill_process(process, Signal::INT));
        }
        child.wait_with_output().unwrap()
    }

    #[track_caller]
    pub(crate) fn ends_with_a_sentence(
        &self,
        command: Command,
        words: &str,
        endless: bool,
        fault: &str,
    ) -> Output {
        let output = self.run(command, endless);
        self.is_a_sentence(&output, words, fault);
        output
    }

    /// Whether a verb ended in order.
    #[track_caller]
    pub(crate) fn is_a_sentence(&self, output: &Output, words: &str, fault: &str) {
        let said = String::from_utf8_lossy(&output.stderr);
        let what = format!("linger {words} under {fault}: {} {said}", output.status);
        // tokio panics where its feature `signal` can have no socket pair. The program has not got that feature; the tests of
        // `linger`, which use all of tokio, bring it into all that is built beside them.
        if fault.starts_with("socketpair ") && said.contains("/signal/unix.rs:") && !ships_signals() {
            return;
        }
        assert!(!said.contains("panicked"), "{what}");
        // The other verbs turn an abort for lack of memory into an exit status (`memory.rs`). `run` must leave SIGABRT
        // alone: systemd's watchdog sends it, and expects a core dump. So an abort of std, or of a libc without the
        // memory for its message, ends `run` by SIGABRT.
        let is_std_abort = words.starts_with("run ")
            && (said.contains("memory allocation of") || fault.starts_with("--as="))
            && output.status.signal() == Some(Signal::ABORT.as_raw());
        if is_std_abort {
            return;
        }
        assert!(output.status.signal().is_none(), "{what}");
        assert!(matches!(output.status.code(), Some(0..=4)), "{what}");
        if !matches!(output.status.code(), Some(0 | 1)) {
            // The messages of std and glibc if an allocation fails that they cannot do without.
            let is_memory =
                said.contains("memory allocation of") || said.contains("glibc error: failed to register");
            let is_theirs = is_memory && output.status.code() == Some(4);
            assert!(said.contains("linger: ") || said.contains("note: ") || is_theirs, "{what}");
        }
    }
}

/// Whether the program itself, without what is built beside it, has tokio's feature `signal`.
fn ships_signals() -> bool {
    static SHIPS: OnceLock<bool> = OnceLock::new();
    *SHIPS.get_or_init(|| {
        let mut tree = Command::new(env!("CARGO"));
        tree.args([
            "tree",
            "--offline",
            "--package",
            "linger-cli",
            "--edges",
            "normal,features",
            "--invert",
            "tokio",
        ]);
        let output = tree.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        let tree = String::from_utf8_lossy(&output.stdout);
        assert!(tree.contains("tokio feature \"net\""), "{}", String::from_utf8_lossy(&output.stderr));
        tree.contains("tokio feature \"signal\"")
    })
}

/// Whether a process can be asked to end.
enum Signals {
    NotYet,
    /// By this process, which may be the child of a tracer.
    Taken(Pid),
    Ended,
}

/// Whether a process, or the one that it traces, has handlers for SIGINT and SIGTERM.
fn takes_signals(process: Pid) -> Signals {
    let of = |process: Pid| fs::read_to_string(format!("/proc/{process}/status")).ok();
    let Some(status) = of(process) else { return Signals::Ended };
    let field = |status: &str, name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned())
    };
    if field(&status, "State:").is_some_and(|state| state.starts_with('Z')) {
        return Signals::Ended;
    }
    let mut process = process;
    let mut status = status;
    if field(&status, "Name:").is_some_and(|name| name == "strace") {
        let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
        let children = children.unwrap_or_default();
        let traced = children.split_whitespace().next().and_then(|child| Pid::from_raw(child.parse().ok()?));
        // Before it starts the program, and once that has ended, it has no child.
        let Some((traced, its)) = traced.and_then(|traced| Some((traced, of(traced)?))) else {
            return Signals::NotYet;
        };
        (process, status) = (traced, its);
    }
    let both = 1 << (Signal::INT.as_raw() - 1) | 1 << (Signal::TERM.as_raw() - 1);
    let caught = field(&status, "SigCgt:").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    if caught.is_some_and(|mask| mask & both == both) { Signals::Taken(process) } else { Signals::NotYet }
}
