//! `linger watch --record` and `linger why --reset` as users call them. Needs the right to watch, usually root.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use common::program::{interrupt, linger, run};
use linger_testing::skip;
use serde_json::Value;

/// A `linger watch --record` of one port.
struct Watch {
    child: Child,
    out: BufReader<ChildStdout>,
    listener: TcpListener,
}

impl Watch {
    /// `None` if this user cannot watch. The watcher may not have begun yet.
    fn start(directory: &Path, options: &[&str]) -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let mut command = linger(&["watch", "--port", &port, "--record"]);
        command
            .arg(directory)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut watch = Self { child, out, listener };
        watch.until_it_sees().then_some(watch)
    }

    /// Resets connections until one is told.
    fn until_it_sees(&mut self) -> bool {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(4), "{}", self.said());
                skip("live tracepoints", self.said().trim());
                return false;
            }
            self.reset();
            let mut fds = [rustix::event::PollFd::new(self.out.get_ref(), rustix::event::PollFlags::IN)];
            let moment = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
            if rustix::event::poll(&mut fds, Some(&moment)).unwrap() > 0 {
                // A line, or the end of a watcher that may not watch.
                if !self.out.fill_buf().unwrap().is_empty() {
                    return true;
                }
                self.child.wait().unwrap();
            }
        }
    }

    /// A connection that is closed with unread data.
    fn reset(&self) {
        let mut client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (server, _) = self.listener.accept().unwrap();
        client.write_all(b"unread").unwrap();
        server.peek(&mut [0]).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }

    /// What it printed and said until its end, and its status.
    fn stop(mut self) -> (String, String, Option<i32>) {
        interrupt(&self.child);
        let mut told = String::new();
        self.out.read_to_string(&mut told).unwrap();
        let status = self.child.wait().unwrap();
        (told, self.said(), status.code())
    }
}

/// The id of the record that a line of `linger watch` names.
fn id_of(line: &str) -> Option<&str> {
    line.split_once("; recorded as ")?.1.split([',', ' ']).next()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|found| found == ending)).collect();
    files.sort();
    files
}

/// The whole lines of all indexes.
fn index(directory: &Path) -> Vec<Value> {
    let mut lines = Vec::new();
    for path in files(directory, "jsonl") {
        let text = fs::read_to_string(path).unwrap();
        lines.extend(
            text.split_inclusive('\n')
                .filter(|line| line.ends_with('\n'))
                .map(|line| serde_json::from_str(line).unwrap()),
        );
    }
    lines
}

fn why(directory: &Path, id: &str, options: &[&str]) -> Output {
    let mut command = linger(&["why", "--reset", id]);
    command.arg(directory).args(options).output().unwrap()
}

#[test]
fn a_recorded_reset_is_told_by_its_id() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("records");
    let Some(mut watch) = Watch::start(&directory, &["--plain"]) else { return };
    let first = watch.line();
    let (told, said, status) = watch.stop();
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("linger: recorded "), "{said}");
    // A close with unread data and an abort look alike on the wire, where so little was sent.
    let id = id_of(&first).unwrap_or_else(|| panic!("{first}{told}"));
    assert!(first.contains(", its packets do not decide"), "{first}");
    let output = why(&directory, id, &[]);
    let answer = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{answer}{}", text(&output.stderr));
    assert!(answer.starts_with(&format!("Reset {id} of 20")), "{answer}");
    assert!(answer.contains("kernel:  closed-with-unread-data (certain)"), "{answer}");
    assert!(answer.contains("packets: unknown (possible): one of the two does not decide"), "{answer}");
    let json = text(&why(&directory, id, &["--json"]).stdout);
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["type"], "recorded-reset");
    assert_eq!(
        (&lines[0]["kernel_cause"], &lines[0]["agreement"]),
        (&"closed-with-unread-data".into(), &"compatible".into())
    );
    assert_eq!((&lines[1]["type"], &lines[1]["cause"]), (&"reset".into(), &"unknown".into()));
    assert_eq!(lines[0]["packets_candidates"], lines[1]["candidates"], "the same rules on the same packets");
    for line in &lines {
        assert!(common::contract::invalid("why", line).is_none(), "{line}");
    }
    // The records are captures like any other.
    let all = run(&["why", &directory.display().to_string(), "--json"]);
    assert_eq!(all.status.code(), Some(1));
    assert!(text(&all.stderr).is_empty(), "{}", text(&all.stderr));
    for (id, says) in
        [("1-999", "does not name"), ("9-1", "was removed"), ("x", "two numbers"), ("../1-1", "two numbers")]
    {
        let refused = why(&directory, id, &[]);
        assert_eq!(refused.status.code(), Some(3), "{id}");
        assert!(text(&refused.stderr).contains(says), "{}", text(&refused.stderr));
    }
}

#[test]
fn json_lines_say_what_was_recorded() {
    let home = tempfile::tempdir().unwrap();
    let Some(watch) = Watch::start(home.path(), &["--json"]) else { return };
    let (told, ..) = watch.stop();
    let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let reset = lines.iter().find(|line| line["type"] == "reset").unwrap();
    let recorded = &reset["recorded"];
    let listed = index(home.path());
    let entry = listed.iter().find(|line| line["id"] == recorded["id"]).unwrap_or_else(|| panic!("{reset}"));
    assert_eq!((&recorded["agreement"], &recorded["frames"]), (&"compatible".into(), &entry["frames"]));
    let recording = lines.iter().find(|line| line["type"] == "recording").unwrap();
    assert!(recording["recorded"].as_u64().unwrap() >= 1);
    assert_eq!((&recording["not_written"], &recording["differ"]), (&0.into(), &0.into()));
    for line in &lines {
        assert!(common::contract::invalid("watch", line).is_none(), "{line}");
    }
}

#[test]
fn two_watchers_do_not_share_a_directory() {
    let home = tempfile::tempdir().unwrap();
    let Some(watch) = Watch::start(home.path(), &["--plain"]) else { return };
    let second = linger(&["watch", "--plain", "--for", "0", "--record"]).arg(home.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(3));
    let said = text(&second.stderr);
    assert!(said.contains("another watcher records there; give each watcher a directory"), "{said}");
    assert_eq!(watch.stop().2, Some(0));
    // The next one goes on with new files.
    let Some(watch) = Watch::start(home.path(), &["--plain"]) else { return };
    watch.stop();
    assert_eq!(files(home.path(), "pcapng").len(), 2);
}

#[test]
fn a_directory_that_cannot_be_used_is_said_at_the_start() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, "x").unwrap();
    let refused = |directory: &Path, options: &[&str], status: i32, says: &str| {
        let mut command = linger(&["watch", "--plain", "--for", "0", "--record"]);
        let output = command.arg(directory).args(options).output().unwrap();
        let said = text(&output.stderr);
        if output.status.code() == Some(4) && status != 4 {
            return skip("live tracepoints", said.trim());
        }
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.contains("cannot record into ") && said.contains(says), "{said}");
    };
    refused(&file, &[], 3, "it is no directory; name another");
    refused(&home.path().join("no/such"), &[], 3, "make its parent first");
    refused(Path::new("/proc"), &[], 3, "no file can be written there");
    refused(home.path(), &["--keep", "1k"], 2, "raise --keep");
    let many: Vec<String> = (1..=501).map(|port: u32| port.to_string()).collect();
    refused(home.path(), &["--port", &many.join(",")], 2, "name fewer");
    // A full file system.
    let full = home.path().join("full");
    fs::create_dir(&full).unwrap();
    let mount =
        |words: &[&str]| Command::new("mount").args(words).arg(&full).output().unwrap().status.success();
    if mount(&["-t", "tmpfs", "-o", "size=4k", "full"]) {
        fs::write(full.join("all"), vec![0; 4_096]).unwrap();
        refused(&full, &[], 3, "free some space");
        assert!(Command::new("umount").arg(&full).status().unwrap().success());
    } else {
        skip("root", "nothing can be mounted");
    }
    // Without the right to read packets.
    let mut command = Command::new("setpriv");
    command.args([
        "--bounding-set=-net_raw",
        "--inh-caps=-net_raw",
        env!("CARGO_BIN_EXE_linger"),
        "watch",
        "--plain",
    ]);
    let output = command.args(["--for", "0", "--record"]).arg(home.path()).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    if rustix::process::geteuid().is_root() {
        assert!(said.contains("with CAP_NET_RAW"), "{said}");
    }
}

#[test]
fn a_disk_that_is_full_meanwhile_is_said_once_and_watching_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "full"])
        .arg(home.path())
        .output()
        .unwrap();
    if !mounted.status.success() {
        return skip("root", "nothing can be mounted");
    }
    let result = Watch::start(home.path(), &["--plain"]).map(|mut watch| {
        assert!(watch.line().contains("recorded as 1-"));
        let mut rest = fs::File::create(home.path().join("rest")).unwrap();
        while rest.write_all(&[0; 4_096]).is_ok() {}
        // Until one is told without a record, twice.
        let mut without = 0;
        while without < 8 {
            watch.reset();
            for _ in 0..2 {
                without += u32::from(!watch.line().contains("recorded as"));
            }
        }
        let readable = files(home.path(), "pcapng")
            .into_iter()
            .map(|path| run(&["why", &path.display().to_string()]).status.code());
        let readable: Vec<_> = readable.collect();
        let indexed = index(home.path()).len();
        (watch.stop(), readable, indexed)
    });
    assert!(Command::new("umount").arg(home.path()).status().unwrap().success());
    let Some(((_, said, status), readable, indexed)) = result else { return };
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said.matches("packets cannot be written to").count(), 1, "{said}");
    assert!(said.contains("No space left"), "{said}");
    assert!(indexed > 0 && readable.iter().all(|code| *code == Some(1)), "{readable:?}");
}

#[test]
fn what_a_killed_watcher_leaves_can_be_read() {
    let home = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let Some(mut watch) = Watch::start(home.path(), &["--plain", "--bytes", "2000", "--keep", "4MiB"])
        else {
            return;
        };
        for _ in 0..40 {
            watch.reset();
            watch.line();
        }
        for _ in 0..round * 7 {
            watch.reset();
        }
        // It is writing, or has just written.
        watch.child.kill().unwrap();
        watch.child.wait().unwrap();
        let listed = index(home.path());
        assert!(listed.len() > 10 * (round + 1), "{}", listed.len());
        for line in &listed {
            let output = why(home.path(), line["id"].as_str().unwrap(), &["--json"]);
            assert_eq!(output.status.code(), Some(1), "{line}: {}", text(&output.stderr));
        }
        for capture in files(home.path(), "pcapng") {
            let output = run(&["why", &capture.display().to_string(), "--json"]);
            assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        }
    }
    assert_eq!(files(home.path(), "pcapng").len(), 5, "and nothing else of it");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 10);
}

/// Wherever a write is cut, all sections before it are there.
#[test]
fn a_capture_that_ends_anywhere_can_be_read_up_to_there() {
    let home = tempfile::tempdir().unwrap();
    let Some(mut watch) = Watch::start(home.path(), &["--plain"]) else { return };
    for _ in 0..3 {
        watch.reset();
        // Both ends.
        watch.line();
        watch.line();
    }
    watch.stop();
    let mut listed = index(home.path());
    let path = &files(home.path(), "pcapng")[0];
    let whole = fs::read(path).unwrap();
    let offset = |line: &Value| line["offset"].as_u64().unwrap() as usize;
    let last = listed.iter().map(offset).max().unwrap();
    listed.retain(|line| offset(line) < last);
    assert!(listed.len() >= 4, "{listed:?}");
    for length in (last..whole.len()).step_by(61) {
        fs::write(path, &whole[..length]).unwrap();
        for line in &listed {
            let output = why(home.path(), line["id"].as_str().unwrap(), &[]);
            assert_eq!(output.status.code(), Some(1), "cut at {length}: {}", text(&output.stderr));
        }
        let code = run(&["why", &path.display().to_string()]).status.code();
        assert_eq!(code, Some(1), "cut at {length}");
    }
}

#[test]
fn a_forged_process_name_reaches_no_terminal_and_no_json() {
    const NAME: &str = "\x1b[31mevil\n\"";
    let home = tempfile::tempdir().unwrap();
    let Some(mut watch) = Watch::start(home.path(), &["--plain"]) else { return };
    let mut client = TcpStream::connect(watch.listener.local_addr().unwrap()).unwrap();
    let (server, _) = watch.listener.accept().unwrap();
    client.write_all(b"unread").unwrap();
    server.peek(&mut [0]).unwrap();
    let fd = server.as_raw_fd();
    rustix::io::fcntl_setfd(&server, rustix::io::FdFlags::empty()).unwrap();
    let hex: String = NAME.bytes().map(|byte| format!("{byte:02x}")).collect();
    let script =
        format!("import os\nopen('/proc/self/comm', 'wb').write(bytes.fromhex('{hex}'))\nos.close({fd})\n");
    let mut python = Command::new("python3");
    let child = python.args(["-c", &script]).spawn();
    drop(server);
    let Ok(mut child) = child else { return skip("python3", "it is not installed") };
    assert!(child.wait().unwrap().success());
    let mut line = String::new();
    while !line.contains("evil") {
        line = watch.line();
        assert!(!line.is_empty());
    }
    assert!(line.contains("recorded as") && !line.contains('\x1b'), "{line:?}");
    watch.stop();
    let listed = index(home.path());
    let evil = listed.iter().find(|line| line["kernel"]["process"] == NAME).expect("as it is, in JSON");
    let raw: String =
        files(home.path(), "jsonl").iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    assert!(!raw.contains('\x1b'));
    let output = why(home.path(), evil["id"].as_str().unwrap(), &[]);
    let answer = text(&output.stdout);
    assert!(answer.contains("\\u{1b}[31mevil\\n") && !answer.contains('\x1b'), "{answer}");
    let capture = fs::read(&files(home.path(), "pcapng")[0]).unwrap();
    assert!(!capture.windows(5).any(|window| window == b"\x1b[31m"), "nor the comments");
}
