//! What a program finds and what its starter sees must be the same as without a supervisor, whichever process the
//! program runs in.
//!
//! "Bare" is a start without a supervisor; a program in the caller's place must not differ from it, and a child
//! (`stay`) only in its pid and parent.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use crate::support::{PORT, SUPERVISOR, Server, aborts, connect, program, read, request};
use linger_run::{Options, RunError};
use linger_testing::{secluded, skip};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpid};

/// The ways to start: bare, and with these settings.
const WAYS: [Option<&str>; 4] = [None, Some(""), Some("seccomp"), Some("stay")];
/// The same, with the child that has a filter.
const ALL_WAYS: [Option<&str>; 5] = [None, Some(""), Some("seccomp"), Some("stay"), Some("stay seccomp")];
/// The settings with which the program is a child.
const CHILD: [&str; 2] = ["stay", "stay seccomp"];

/// A command, started as `way` says.
fn command(way: Option<&str>, report: &Path, words: &[&str]) -> Command {
    let Some(settings) = way else {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        return command;
    };
    let mut command = Command::new(SUPERVISOR);
    command.arg(report).arg(settings).args(words);
    command
}

/// The output of a command that a starter in Python has started by `exec`, after the lines `starter`.
fn said_after(starter: &str, way: Option<&str>, words: &[&str]) -> Option<String> {
    let python = program("python3", "python3")?;
    let directory = tempfile::tempdir().unwrap();
    let plain = command(way, &directory.path().join("report"), words);
    // Python has SIGPIPE and SIGXFSZ ignored.
    let script = format!(
        "import os, signal, sys\nfor s in (signal.SIGPIPE, signal.SIGXFSZ): signal.signal(s, signal.SIG_DFL)\n\
         {starter}\nos.execv(sys.argv[1], sys.argv[1:])"
    );
    let mut start = Command::new(python);
    start.args(["-c", &script]).arg(plain.get_program()).args(plain.get_args());
    let output = start.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{way:?} {starter}: {output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_starters_signals_are_the_programs() {
    let starters = [
        "",
        "signal.signal(signal.SIGPIPE, signal.SIG_IGN)",
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGCHLD, signal.SIGRTMIN + 3])",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); os.kill(os.getpid(), signal.SIGUSR2)",
    ];
    let mut all = Vec::new();
    for starter in starters {
        let said = |way| {
            said_after(starter, way, &["/bin/grep", "-E", "^(Sig|Shd)(Pnd|Blk|Ign)", "/proc/self/status"])
        };
        let Some(bare) = said(None) else { return };
        for way in WAYS {
            let own = said(way).unwrap_or_default();
            let is_child = way.is_some_and(|way| CHILD.contains(&way));
            let told = |text: &str| text.lines().map(|line| comparable(line, is_child)).collect::<Vec<_>>();
            assert_eq!(told(&own), told(&bare), "{way:?} after {starter}");
        }
        all.push(bare);
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(
        all.len(),
        starters.len(),
        "each starter can be told from the others by what the program finds"
    );
}

/// A line of the status, without what cannot be the same in a child: pending signals, which wait for one process, and the actions
/// of the two signals that the C library keeps for itself, which it sets when a thread is made (nptl(7)).
fn comparable(line: &str, is_child: bool) -> String {
    match line.split_once(":\t") {
        Some(("ShdPnd" | "SigPnd", _)) if is_child => String::new(),
        Some((name, mask)) if is_child => {
            format!("{name} {:x}", u64::from_str_radix(mask, 16).unwrap() & !(0b11 << 31))
        }
        _ => line.to_owned(),
    }
}

#[test]
fn the_starters_descriptors_are_the_programs() {
    let starters = [
        "",
        "os.dup2(1, 7)",
        "os.close(0)",
        "os.close(0); os.close(2)",
        "os.open('/dev/null', os.O_RDONLY); [os.set_inheritable(fd, True) for fd in (3,)]",
    ];
    let mut all = Vec::new();
    for starter in starters {
        let said = |way| said_after(starter, way, &["/bin/ls", "/proc/self/fd"]);
        let Some(bare) = said(None) else { return };
        for way in WAYS {
            assert_eq!(said(way).unwrap_or_default(), bare, "{way:?} after {starter}");
        }
        all.push(bare);
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), starters.len(), "what the starters leave open differs: {all:?}");
}

/// `LISTEN_PID` and `WATCHDOG_PID` name one process (sd_listen_fds(3), sd_watchdog_enabled(3)): the program.
#[test]
fn what_is_for_the_started_process_is_for_the_program() {
    let mine = "for n in ('LISTEN_PID', 'WATCHDOG_PID'): os.environ[n] = str(os.getpid())";
    let others = "for n in ('LISTEN_PID', 'WATCHDOG_PID'): os.environ[n] = '1'";
    let words = ["/bin/sh", "-c", "echo $LISTEN_PID $WATCHDOG_PID $$ \"$0\" $1 $LD_PRELOAD", "zero", "one"];
    for way in ALL_WAYS {
        let Some(said) = said_after(mine, way, &words) else { return };
        let said: Vec<_> = said.split_whitespace().collect();
        assert_eq!((said[0], said[1]), (said[2], said[2]), "{way:?}");
        assert_eq!((said[3], said[4]), ("zero", "one"), "{way:?}: the arguments stay as they are");
        assert_eq!(
            said.len(),
            if matches!(way, Some("" | "stay")) { 6 } else { 5 },
            "{way:?}: preloaded or not"
        );
        let said = said_after(others, way, &words).unwrap_or_default();
        assert!(said.starts_with("1 1 "), "{way:?}: another process's stay another's: {said}");
    }
}

/// Which process the program is, and how the supervisor is related to it.
#[test]
fn the_program_is_the_process_that_was_started() {
    let directory = tempfile::tempdir().unwrap();
    for way in ALL_WAYS {
        let mut start = command(
            way,
            &directory.path().join("report"),
            &["/bin/sh", "-c", "echo $$ $PPID; cat /proc/$$/task/$$/children"],
        );
        let child = start.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let pid = child.id().to_string();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let said: Vec<_> = text.split_whitespace().collect();
        let own = std::process::id().to_string();
        match way {
            None | Some("" | "seccomp") => assert_eq!(said[..2], [pid.as_str(), own.as_str()], "{way:?}"),
            _ => assert_eq!(said[1], pid, "{way:?}: a child"),
        }
        // The third is `cat` itself.
        assert_eq!(said.len(), 3, "{way:?}: the program has no child that it did not make: {text}");
    }
}

pub(crate) struct Started {
    pub(crate) child: Child,
    output: BufReader<ChildStdout>,
    _directory: tempfile::TempDir,
}

impl Started {
    /// Starts a command in a process group of its own, and waits until it says `ready`.
    pub(crate) fn new(way: Option<&str>, words: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut start = command(way, &directory.path().join("report"), words);
        start.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = start.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut started = Self { child, output, _directory: directory };
        assert_eq!(started.line(), "ready");
        started
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}

#[test]
fn every_signal_reaches_the_program_with_its_value() {
    let directory = tempfile::tempdir().unwrap();
    let Some(waits) = crate::support::compiled("waits", directory.path(), "gcc", "gcc", &[]) else { return };
    for way in WAYS {
        let mut started = Started::new(way, &[&waits]);
        // Not KILL and STOP, which nobody can wait for; CHLD, which is the supervisor's own; 32 and 33, which are glibc's.
        for signal in (1..=64).filter(|signal| ![9, 17, 19, 32, 33].contains(signal)) {
            let pid = started.child.id().to_string();
            let kill = |more: &[&str]| {
                let mut kill = Command::new("/bin/kill");
                kill.args(more).args(["-s", &signal.to_string(), &pid]);
                kill.status().is_ok_and(|status| status.success())
            };
            await_sigwait(started.child.id());
            assert!(kill(&[]));
            assert_eq!(started.line(), format!("{signal} 0"), "{way:?}");
            await_sigwait(started.child.id());
            assert!(kill(&["-q", "4711"]));
            assert_eq!(started.line(), format!("{signal} 4711"), "{way:?}");
        }
    }
}

/// Waits until a process, or a child of it, waits for signals. SIGUSR1 is passed on to a program only then, for it asks for a
/// report as well.
pub(crate) fn await_sigwait(started: u32) {
    let waits = format!("{} ", libc::SYS_rt_sigtimedwait);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let is_waiting = || {
        let children =
            fs::read_to_string(format!("/proc/{started}/task/{started}/children")).unwrap_or_default();
        let mut pids = children.split_whitespace().map(str::to_owned).chain([started.to_string()]);
        pids.any(|pid| {
            fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|call| call.starts_with(&waits))
        })
    };
    while !is_waiting() {
        assert!(std::time::Instant::now() < end, "nobody waits for signals");
        std::thread::yield_now();
    }
}

/// A signal that by default ends the program ends what was started, in the same way.
#[test]
fn the_starter_sees_how_the_program_ended() {
    let directory = tempfile::tempdir().unwrap();
    for way in ALL_WAYS {
        let ended = |script: &str| {
            let mut start = command(way, &directory.path().join("report"), &["/bin/sh", "-c", script]);
            let Output { status, stderr, .. } = start.stdin(Stdio::null()).output().unwrap();
            (status.code(), status.signal(), String::from_utf8_lossy(&stderr).into_owned())
        };
        for code in [0, 1, 7, 255] {
            assert_eq!(ended(&format!("exit {code}")).0, Some(code), "{way:?}");
        }
        // Under `stay` the test's supervisor has no status for a signal; the program `linger` has (its own tests).
        if !way.is_some_and(|way| CHILD.contains(&way)) {
            for signal in [1, 9, 11, 15, 40] {
                assert_eq!(ended(&format!("kill -{signal} $$")).1, Some(signal), "{way:?}");
            }
        }
    }
}

/// Job control: a stop of the process group is seen by the starter, and the program goes on when the group is continued.
#[test]
fn a_job_stops_and_goes_on() {
    for way in WAYS {
        let mut started = Started::new(way, &["/bin/sh", "-c", "echo ready; read word; echo $word"]);
        let pid = started.pid();
        kill_process_group(pid, Signal::TSTP).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "{way:?}: {status:?}");
        kill_process_group(pid, Signal::CONT).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::CONTINUED).unwrap().unwrap();
        assert!(status.continued(), "{way:?}: {status:?}");
        started.child.stdin.take().unwrap().write_all(b"on\n").unwrap();
        assert_eq!(started.line(), "on", "{way:?}");
    }
}

/// A server that answers and closes without reading, and says when it has.
const ANSWERS: &str = r#"
import socket, sys
l = socket.create_server(('127.0.0.1', 8000), backlog=64)
while True:
    c, _ = l.accept(); c.recv(10); c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
    c.sendall(b'HTTP/1.0 200 OK\r\n\r\n' + b'x' * 600000 + b'END'); c.close()
    sys.stderr.write('closed\n')
"#;

/// The port is free when the main process has ended, and its connections linger on, whatever signal the whole group gets.
#[test]
fn connections_outlive_the_program() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        for (settings, killed) in [("", false), ("", true), ("seccomp", false), ("seccomp", true)] {
            let mut server = Server::start_listening(Some(settings), &[&python, "-c", ANSWERS], PORT);
            let mut client = connect(PORT, Some(4_096));
            client.write_all(&request(20_000)).unwrap();
            server.await_log("closed");
            let supervisor = server.supervisor();
            // As a service manager stops a control group.
            for process in [supervisor, server.pid()] {
                kill_process(process, Signal::TERM).unwrap();
            }
            server.wait();
            let next = std::net::TcpListener::bind(("127.0.0.1", PORT));
            assert!(next.is_ok(), "the port is in use: {next:?}");
            let before = linger_testing::Counters::read().unwrap();
            if killed {
                kill_process(supervisor, Signal::KILL).unwrap();
                server.wait_for_all();
            }
            // Late bytes reset what the kernel has closed; where bytes were unread, it has reset it already.
            let late = client.write_all(b"late");
            assert!(late.is_ok() || killed, "{late:?}");
            crate::support::await_reset(&client, killed);
            assert_eq!(read(client).is_whole(), !killed, "killed: {killed}");
            assert_eq!(aborts(&before) > 0, killed, "killed: {killed}");
            if !killed {
                assert_eq!(server.report()["lingered"], 1);
            }
        }
    });
}

/// The supervisor does not keep the files of the process that it was forked from open: the program's pipes end with the
/// program.
#[test]
fn the_supervisor_keeps_nothing_of_the_program() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        for (settings, keeps) in [("", false), ("seccomp", false), ("stay", true)] {
            let directory = tempfile::tempdir().unwrap();
            let report = directory.path().join("report");
            let mut start = command(Some(settings), &report, &[&python, "-c", ANSWERS]);
            let stdout = start.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = stdout.spawn().unwrap();
            let mut log = BufReader::new(child.stderr.take().unwrap());
            crate::support::await_listener(PORT);
            let mut client = connect(PORT, Some(4_096));
            client.write_all(&request(20_000)).unwrap();
            // On a busy machine the supervisor says first what it covers.
            let mut said = String::new();
            while !said.contains("closed") {
                assert!(log.read_line(&mut said).unwrap() > 0, "{settings}: {said}");
            }
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            let read_all = |client| {
                let got = read(client);
                let report = fs::read_to_string(&report);
                assert!(got.is_whole(), "{settings}: {} {:?} {report:?}", got.bytes.len(), got.error);
            };
            let mut pipe = child.stdout.take().unwrap();
            if keeps {
                // It ends only once the client has read.
                read_all(client);
                pipe.read_to_end(&mut Vec::new()).unwrap();
            } else {
                pipe.read_to_end(&mut Vec::new()).unwrap();
                read_all(client);
            }
            child.wait().unwrap();
        }
    });
}

/// The program turns out not to be executable. There is one error, the caller's, and nothing is left behind.
#[test]
fn a_program_that_cannot_be_executed_is_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let (copy, report) = (directory.path().join("copy"), directory.path().join("report"));
    fs::copy("/bin/true", &copy).unwrap();
    for way in ["", "stay", "seccomp", "stay seccomp"] {
        // ETXTBSY: the file is open for writing.
        let busy = fs::File::options().append(true).open(&copy).unwrap();
        let start = || command(Some(way), &report, &[copy.to_str().unwrap()]).output().unwrap();
        let output = start();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(text.matches("cannot be executed").count(), 1, "{way}: {text}");
        assert!(!output.status.success() && !report.exists(), "{way}: {output:?}");
        drop(busy);
        assert!(start().status.success() && fs::remove_file(&report).is_ok(), "{way}: and now it can");
    }
}

/// If other processes are ended together with this process, or with its parent, it stays the program's parent.
#[test]
fn the_first_process_of_a_container_stays() {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report");
    let supervisor = format!("{SUPERVISOR} {} '' /bin/sh -c 'cat /proc/$PPID/comm'", report.display());
    let first = format!("exec {supervisor}");
    let of_first = format!("{supervisor}; exit 0");
    let below = format!("sh -c \"{}; exit 0\"; exit 0", supervisor.replace('$', "\\$"));
    let cases = [(first, "supervisor"), (of_first, "supervisor"), (below, "sh")];
    for (script, parent) in cases {
        let mut start = Command::new("unshare");
        start.args(["--map-root-user", "--pid", "--fork", "--mount-proc", "sh", "-c", &script]);
        let output = start.stdin(Stdio::null()).output().unwrap();
        if !output.status.success() {
            return skip("pid namespaces", &String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), parent, "{script}");
    }
}

/// A starter that adopts orphans keeps that across its exec (prctl(2)): the program must not be given the supervisor to wait for.
#[test]
fn a_process_that_adopts_orphans_stays() {
    let set = "import ctypes; ctypes.CDLL(None).prctl(36, VALUE, 0, 0, 0)";
    for (value, child) in [("1", true), ("0", false)] {
        let words = ["/bin/sh", "-c", "cat /proc/$PPID/comm"];
        let Some(said) = said_after(&set.replace("VALUE", value), Some(""), &words) else { return };
        assert_eq!(said.trim() == "supervisor", child, "PR_SET_CHILD_SUBREAPER {value}: {said}");
    }
}

#[test]
fn a_process_with_threads_is_refused() {
    // The test harness has a second thread.
    let refused = linger_run::run(OsStr::new("/bin/true"), &[], &Options::default(), |_| ());
    assert!(matches!(refused, Err(RunError::Threads)), "{refused:?}");
}
