//! Small programs, bare against preloaded against seccomp: what they print, how they end, what they leave behind and what
//! their clients get must be the same, but for the cure.
//!
//! The programs are the entries of `programs/acts.*`, one of a table each. Times are no part of the comparison: a run that
//! takes very long counts as one that hangs.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    PORT, SOURCES, SUPERVISOR, build, compiled, connect, has_ended, is_listening, is_open, program,
};
use linger_testing::secluded;
use linger_testing::servers::go_cache;
use rustix::process::{Pid, Signal, kill_process};

/// The ways to run: without a supervisor; in the caller's place, preloaded and with seccomp; and as a child with
/// seccomp, without copies of fds, as under the profiles of containers.
const WAYS: [Way; 4] = [Way::Bare, Way::Supervised(""), Way::Supervised("seccomp"), Way::WithoutCopies];

#[derive(Clone, Copy, Debug)]
enum Way {
    Bare,
    Supervised(&'static str),
    WithoutCopies,
}

/// A run that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(30);

/// Bytes of the request, and what is sent of it before the server has answered anything.
const REQUEST: usize = 8_192;

/// What can be seen of a run from outside.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    code: Option<i32>,
    signal: Option<i32>,
    stdout: String,
    stderr: String,
    /// Files in the directory that it ran in, with their modes and contents.
    files: BTreeMap<String, (u32, Vec<u8>)>,
    /// What the client received, if nothing of it can be lost.
    response: Option<String>,
}

/// What a client got.
struct Response {
    bytes: Vec<u8>,
    clean: bool,
}

/// The line of the supervisor that says that all is well.
fn is_of_supervisor(line: &str) -> bool {
    line.starts_with("coverage: 1 of 1 listener covered: ")
}

impl Response {
    /// Whether the end of the page is there, and the connection was not reset.
    fn is_whole(&self) -> bool {
        self.clean && self.bytes.ends_with(b"END")
    }
}

/// How many of a table's programs were run, by kind.
#[derive(Debug, Default)]
struct Tally {
    programs: usize,
    connections: usize,
    families: usize,
}

/// Runs every program that `command` lists in each of the ways.
fn compare(command: &[&str], environment: &[(&str, &str)], expected: &Tally) {
    let directory = tempfile::tempdir().unwrap();
    let Some(refusing) = compiled("refusing", directory.path(), "gcc", "gcc", &[]) else { return };
    let listed = Command::new(command[0]).args(&command[1..]).output().unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    let mut tally = Tally::default();
    let mut different = Vec::new();
    for name in names.lines() {
        let words = [command, &[name]].concat();
        let [bare, others @ ..] = WAYS.map(|way| run(&start(way, &refusing), &words, environment, name));
        tally.programs += 1;
        tally.connections += usize::from(serves(name));
        tally.families += usize::from(has_family(name));
        if bare.1.is_some_and(|got| name.starts_with("early_") && got.is_whole()) {
            different.push(format!("{name} bare: whole, so there is nothing to cure"));
        }
        for (way, (seen, response)) in WAYS[1..].iter().zip(others) {
            if seen != bare.0 {
                different.push(format!("{name} {way:?}:\n  bare {:?}\n  now  {seen:?}", bare.0));
            }
            // Without copies of fds a connection that was passed on is closed plainly.
            let cured =
                name.starts_with("early_") && !(matches!(way, Way::WithoutCopies) && name.contains("pass"));
            if cured && let Some(got) = response.filter(|got| !got.is_whole()) {
                different.push(format!("{name} {way:?}: {} bytes, clean: {}", got.bytes.len(), got.clean));
            }
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
    // A list that is too short would pass with fewer programs.
    let enough = tally.programs >= expected.programs
        && tally.connections >= expected.connections
        && tally.families >= expected.families;
    assert!(enough, "{tally:?}, expected at least {expected:?}");
}

fn serves(name: &str) -> bool {
    ["early_", "full_", "plain_"].iter().any(|kind| name.starts_with(kind))
}

/// Whether the program makes a process, becomes another program or passes an fd on.
fn has_family(name: &str) -> bool {
    let kinds =
        "fork exec spawn pass clone child orphan popen system background pipeline inherited helper run stdin";
    kinds.split(' ').any(|kind| name.contains(kind))
}

/// The words before a command, with `REPORT` for the name of the report's file.
fn start(way: Way, refusing: &str) -> Vec<String> {
    let call = libc::SYS_pidfd_getfd.to_string();
    let words: &[&str] = match way {
        Way::Bare => &[],
        Way::Supervised(settings) => &[SUPERVISOR, REPORT, settings],
        Way::WithoutCopies => &[refusing, &call, SUPERVISOR, REPORT, "seccomp"],
    };
    words.iter().map(ToString::to_string).collect()
}

const REPORT: &str = "REPORT";

fn run(
    before: &[String],
    command: &[&str],
    environment: &[(&str, &str)],
    name: &str,
) -> (Seen, Option<Response>) {
    let directory = tempfile::tempdir().unwrap();
    let reports = tempfile::tempdir().unwrap();
    let report = reports.path().join("report").display().to_string();
    let start = before.iter().map(|word| if word == REPORT { report.as_str() } else { word });
    let words: Vec<&str> = start.chain(command.iter().copied()).collect();
    let mut start = Command::new(words[0]);
    start.args(&words[1..]).envs(environment.iter().copied()).current_dir(directory.path());
    start.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    // The supervisor has stderr until the last connection has ended.
    let err = thread::spawn(move || text(&mut err));
    let out = thread::spawn(move || text(&mut out));
    let response = serves(name).then(|| client(&mut child, name, before.is_empty()));
    let status = wait(&mut child, name);
    let (stdout, stderr) = (out.join().unwrap(), err.join().unwrap());
    let whole = response.as_ref().filter(|_| name.starts_with("full_"));
    let seen = Seen {
        code: status.code(),
        signal: status.signal(),
        stdout,
        // A program that takes its time on a busy machine is running when its listeners are looked at.
        stderr: stderr.split_inclusive('\n').filter(|line| !is_of_supervisor(line)).collect(),
        files: files(directory.path()),
        response: whole.map(|got| format!("{} {}", String::from_utf8_lossy(&got.bytes), got.clean)),
    };
    (seen, response)
}

fn text(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn wait(child: &mut Child, name: &str) -> std::process::ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > LONGEST {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
            panic!("{name} hangs");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a request of which the server may read a part, and reads the answer a little later.
fn client(child: &mut Child, name: &str, bare: bool) -> Response {
    let started = Instant::now();
    while !is_listening(PORT) {
        assert!(started.elapsed() < LONGEST && child.try_wait().unwrap().is_none(), "{name} does not listen");
        thread::sleep(Duration::from_millis(1));
    }
    let mut stream = connect(PORT, Some(4_096));
    let half = [b'y'; REQUEST / 2];
    let head = b"POST / HTTP/1.0\r\nContent-Length: 8000\r\n\r\n";
    let first = if name.contains("http") { [&head[..], &half].concat() } else { half.to_vec() };
    let _ = stream.write_all(&first);
    let started = Instant::now();
    if name.starts_with("full_") {
        // The parent closes its fd meanwhile. If that ended the connection, the other half would not arrive.
        has_ended(&stream, 60);
    } else {
        // The server has ended its half, by a FIN or by a reset.
        while is_open(&stream) && !has_ended(&stream, 1) {
            assert!(started.elapsed() < LONGEST, "{name} does not end the connection");
        }
    }
    let _ = stream.write_all(&half);
    if bare && name.starts_with("early_") {
        // Either half has not been read: the kernel resets.
        while !has_ended(&stream, 1_000) {
            assert!(started.elapsed() < LONGEST, "{name} is not reset, so there is nothing to cure");
        }
    }
    let mut bytes = Vec::new();
    let clean = stream.read_to_end(&mut bytes).is_ok();
    Response { bytes, clean }
}

fn files(directory: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    use std::os::unix::fs::PermissionsExt;
    let entries = fs::read_dir(directory).unwrap().flatten();
    let name = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let seen = entries.map(|entry| {
        let mode = entry.metadata().unwrap().permissions().mode();
        // A program that dumped core leaves other traces, which are not its own.
        (name(&entry), (mode, fs::read(entry.path()).unwrap_or_default()))
    });
    seen.filter(|(name, _)| !name.starts_with("core")).collect()
}

#[test]
fn c_programs_do_the_same() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(acts) = compiled("acts", directory.path(), "gcc", "gcc", &[]) else { return };
        compare(&[&acts], &[], &Tally { programs: 112, connections: 49, families: 40 });
    });
}

#[test]
fn python_programs_do_the_same() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        // The interpreter itself, and not a script that selects a version at each start (pyenv).
        let found = Command::new(python).args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
        let python = String::from_utf8(found.stdout).unwrap().trim().to_owned();
        let script = format!("{SOURCES}/acts.py");
        // Without what this machine's Python imports at each start, which takes most of a short program's time.
        compare(&[&python, "-S", &script], &[], &Tally { programs: 46, connections: 18, families: 16 });
    });
}

#[test]
fn shell_scripts_do_the_same() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(acts) = compiled("acts", directory.path(), "gcc", "gcc", &[]) else { return };
        let script = format!("{SOURCES}/acts.sh");
        let expected = Tally { programs: 28, connections: 5, families: 8 };
        compare(&["sh", &script], &[("ACTS", &acts)], &expected);
    });
}

#[test]
fn go_programs_do_the_same() {
    secluded(|| {
        let Some(go) = program("go", "golang-go") else { return };
        let directory = tempfile::tempdir().unwrap();
        let acts = directory.path().join("acts").display().to_string();
        let mut command = Command::new(go);
        command.args(["build", "-o", &acts, &format!("{SOURCES}/acts.go")]);
        build(command.env("CGO_ENABLED", "0").env("GOCACHE", go_cache()).env("GO111MODULE", "off"));
        compare(&[&acts], &[], &Tally { programs: 22, connections: 11, families: 6 });
    });
}
