//! `linger run` as a program: signals, status, reports, the endpoint for Prometheus, programs that it refuses.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};

use linger_testing::{sandboxed, skip};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

fn linger(arguments: &[&str]) -> Output {
    Command::new(LINGER).arg("run").args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Starts a shell script that says `ready` when its traps are set.
fn start(options: &[&str], script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(LINGER)
        .arg("run")
        .args(options)
        .args(["--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, output)
}

fn signal(process: u32, name: &str) {
    assert!(Command::new("kill").args([name, &process.to_string()]).status().unwrap().success());
}

/// The two ways to run: the program takes `linger`'s place, or is its child.
const PLACES: [&[&str]; 2] = [&["--quiet"], &["--quiet", "--stay"]];

#[test]
fn signals_are_passed_on() {
    let script = "trap 'echo got HUP' HUP; trap 'echo got TERM; exit 9' TERM; echo ready; while :; do sleep 0.01; done";
    for options in PLACES {
        let (mut child, mut output) = start(options, script);
        signal(child.id(), "-HUP");
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "got HUP\n");
        signal(child.id(), "-TERM");
        assert_eq!(child.wait().unwrap().code(), Some(9));
    }
}

#[test]
fn a_program_that_a_signal_ends_ends_its_parent_so() {
    for signal in [1, 9, 11, 15, 40] {
        let script = format!("kill -{signal} $$");
        for options in PLACES {
            let ended = linger(&[options, &["--", "sh", "-c", &script]].concat());
            assert_eq!(ended.status.signal(), Some(signal), "{ended:?}");
        }
    }
}

/// The process called `linger-run` that was given this report's pipe.
fn supervisor(of: &Child) -> u32 {
    let stderr = fs::read_link(format!("/proc/{}/fd/2", of.id())).unwrap();
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found = pids.filter(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name == "linger-run\n"
            && fs::read_link(format!("/proc/{pid}/fd/2")).is_ok_and(|other| other == stderr)
    });
    found.next().expect("a supervisor")
}

#[test]
fn a_report_is_given_on_request() {
    for stay in [false, true] {
        let options: &[&str] = if stay { &["--json", "--stay"] } else { &["--json"] };
        let (mut child, _output) = start(options, "echo ready; while :; do sleep 0.01; done");
        let asked = if stay { child.id() } else { supervisor(&child) };
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        // As a parent, `linger run` must not pass the signal on: the shell has no handler for it.
        signal(asked, "-USR1");
        let mut line = String::new();
        errors.read_line(&mut line).unwrap();
        let report = crate::common::contract::line("run", &line);
        assert_eq!((&report["type"], &report["closes"]), (&"run".into(), &0.into()), "{line}");
        signal(child.id(), "-TERM");
        assert_eq!(child.wait().unwrap().signal(), Some(15));
    }
}

/// The loader of dynamic programs, as this process's maps name it.
fn loader() -> String {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut paths = maps.lines().filter_map(|line| Some(&line[line.find('/')?..]));
    paths.find(|path| path.rsplit('/').next().is_some_and(|name| name.starts_with("ld-"))).unwrap().to_owned()
}

/// Whoever reads the program's output to its end waits no longer than for the program, though a process that it has left behind is
/// still supervised. Without `--quiet` a report is to follow.
#[test]
fn what_is_quiet_does_not_hold_the_programs_output() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let script = |reader: &str, wait: &str| {
        format!("{reader} {} >/dev/null 2>&1 & {wait} echo $LD_PRELOAD >&2", fifo.display())
    };
    // A loader that waits for its program has not loaded the library yet. The shell ends when it is there.
    let is_there = "until readlink /proc/$!/exe | grep -q /ld-; do :; done;";
    let (runs, loads) = (script("cat", ""), script(&loader(), is_there));
    for (options, script, is_let_go) in [
        (&["--quiet"][..], &runs, true),
        (&["--quiet"][..], &loads, true),
        (&["--quiet", "--stay"], &runs, true),
        (&["--quiet", "--stay"], &loads, true),
        (&["--quiet", "--via", "seccomp"], &runs, true),
        (&[], &runs, false),
        (&[], &loads, false),
        (&["--stay"], &runs, false),
    ] {
        let mut command = Command::new(LINGER);
        command.arg("run").args(options).args(["--", "sh", "-c", script]).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut library = String::new();
        said.read_line(&mut library).unwrap();
        // The process that was left behind ends once somebody writes.
        let writer = || fs::File::options().write(true).open(&fifo).unwrap();
        let mut rest = String::new();
        if is_let_go {
            for stream in [said.get_ref().as_fd(), child.stdout.as_ref().unwrap().as_fd()] {
                let mut end = [PollFd::new(&stream, PollFlags::IN)];
                let long = Timespec { tv_sec: 20, tv_nsec: 0 };
                assert_eq!(poll(&mut end, Some(&long)), Ok(1), "{options:?}: it is held");
            }
            said.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "", "{options:?}");
            let library = library.trim();
            // Who supervises lets go first and looks for the process then.
            for _ in 0..50 {
                assert!(
                    library.is_empty() || fs::exists(library).unwrap(),
                    "{options:?}: supervised no more"
                );
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            drop(writer());
        } else {
            drop(writer());
            said.read_to_string(&mut rest).unwrap();
            assert!(rest.starts_with("linger: 0 closes: "), "{options:?}: {rest}");
        }
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn prometheus_is_answered() {
    sandboxed(|| {
        let (mut child, _output) =
            start(&["--metrics", "127.0.0.1:9188"], "echo ready; while :; do sleep 0.01; done");
        let mut scraper = TcpStream::connect("127.0.0.1:9188").unwrap();
        scraper.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut text = String::new();
        scraper.read_to_string(&mut text).unwrap();
        for line in ["# TYPE linger_closes counter", "linger_closes_total 0", "linger_lingering 0", "# EOF"] {
            assert!(text.lines().any(|one| one == line), "{line}: {text}");
        }
        drop(scraper);
        signal(child.id(), "-TERM");
        child.wait().unwrap();
        // The program had no connection. The scraper's is not counted as one, though it lingered and its peer closed it.
        let mut report = String::new();
        child.stderr.take().unwrap().read_to_string(&mut report).unwrap();
        assert!(report.contains("\nlinger: 0 closed by the peer, "), "{report}");
    });
}

/// A server of one connection after another, which answers nothing.
const LISTENS: &str = "#include <netinet/in.h>\n#include <unistd.h>\n\
    int main(int count, char **words) { struct sockaddr_in a = {AF_INET, htons(8000)};\n\
    int fd = socket(AF_INET, SOCK_STREAM, 0); if (bind(fd, (void *)&a, sizeof a) || listen(fd, 9)) return 1;\n\
    for (;;) close(accept(fd, 0, 0)); }\n";

/// Nothing can be preloaded into a statically linked program, so its listener is not covered. The reports and the metrics must
/// say so.
#[test]
fn a_static_program_that_a_covered_script_becomes_is_named() {
    sandboxed(|| {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("listens.c");
        fs::write(&source, LISTENS).unwrap();
        for (name, linked) in [("still", "-static"), ("moving", "-O1")] {
            let program = directory.path().join(name);
            let built = Command::new("gcc").args(["-w", linked, "-o"]).arg(&program).arg(&source).status();
            if !built.is_ok_and(|status| status.success()) {
                return skip("gcc", "it is not installed");
            }
            let script = format!("echo ready; exec {}", program.display());
            let (mut child, _output) = start(&["--metrics", "127.0.0.1:9188"], &script);
            let supervisor = supervisor(&child);
            let mut errors = BufReader::new(child.stderr.take().unwrap());
            let mut next = || {
                let mut line = String::new();
                errors.read_line(&mut line).unwrap();
                line
            };
            let gap = format!(
                "linger: 0.0.0.0:8000 is not covered in process {} (still), which is linked statically; run the whole command \
                 with --via seccomp\n",
                child.id()
            );
            // At the start, and when a report is asked for.
            for asked in [false, true] {
                if asked {
                    signal(supervisor, "-USR1");
                    (0..3).for_each(|_| assert!(next().starts_with("linger: 0 ")));
                }
                if name == "still" {
                    assert_eq!(
                        [next(), next()],
                        ["linger: 0 of 1 listener covered\n".to_owned(), gap.clone()]
                    );
                } else {
                    assert_eq!(next(), "linger: 1 of 1 listener covered: 0.0.0.0:8000 by preload\n");
                }
            }
            let mut scraper = TcpStream::connect("127.0.0.1:9188").unwrap();
            scraper.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            let mut text = String::new();
            scraper.read_to_string(&mut text).unwrap();
            let (by, reason, covered) =
                if name == "still" { ("", "is linked statically", 0) } else { ("preload", "", 1) };
            let labels =
                format!("address=\"0.0.0.0:8000\",program=\"{name}\",by=\"{by}\",reason=\"{reason}\"");
            for line in [
                "linger_listeners 1".to_owned(),
                format!("linger_listeners_covered {covered}"),
                format!("linger_listener_covered{{{labels}}} {covered}"),
            ] {
                assert!(text.lines().any(|one| one == line), "{line}: {text}");
            }
            assert_eq!(text.matches("linger_listener_covered{").count(), 1, "{text}");
            signal(child.id(), "-TERM");
            assert_eq!(child.wait().unwrap().signal(), Some(15));
        }
    });
}

#[test]
fn what_is_preloaded_already_stays() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent.so");
    let output = Command::new(LINGER)
        .args(["run", "--", "sh", "-c", "echo $LD_PRELOAD"])
        .env("LD_PRELOAD", &absent)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (ours, others) = text.trim().split_once(':').unwrap();
    assert!(ours.ends_with("/liblinger_preload.so"), "{text}");
    assert_eq!(others, absent.to_str().unwrap());
    assert!(!std::path::Path::new(ours).exists(), "what was unpacked is removed");
}

#[test]
fn programs_that_nothing_can_be_preloaded_into_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let said = |command: &str, wanted: &str| {
        let output = linger(&["--via", "preload", "--", command]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(4) && text.contains(wanted), "{command}: {output:?}");
    };
    let go = "/usr/lib/go/bin/gofmt";
    if fs::exists(go).unwrap() {
        said(go, "is a Go program")
    } else {
        skip("golang-go", "it is not installed")
    }
    let copy = directory.path().join("copy");
    fs::copy("/bin/true", &copy).unwrap();
    // For its own owner a setuid program gains nothing, and only root can give a file away.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&copy, Some(65_534), None).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).unwrap();
        said(copy.to_str().unwrap(), "is setuid");
    } else {
        skip("root", "nobody else can make a setuid program");
    }
}

#[test]
fn what_is_asked_about_already_is_refused() {
    let inner = ["--via", "seccomp", "--quiet", "--", "/bin/true"];
    assert_eq!(linger(&inner).status.code(), Some(0));
    // The kernel allows one supervisor above a process: the inner one is refused as in a container that has its own.
    let outer = ["--via", "seccomp", "--quiet", "--", LINGER, "run"];
    let output = linger(&[&outer[..], &inner[..]].concat());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(text.contains("seccomp") && text.contains("refused"), "{text}");
}

/// What the profiles of containers refuse is named, together with what would permit it.
#[test]
fn what_a_container_does_not_permit_is_named() {
    use rustix::io::Errno;
    let refused = [
        ("seccomp", Errno::PERM, "is refused", "NEW_LISTENER"),
        ("seccomp", Errno::ACCESS, "is refused", "NEW_LISTENER"),
        ("seccomp", Errno::NOSYS, "is refused", "NEW_LISTENER"),
        // Tried in a child before it is needed. Whatever the filter returns, the filter is the cause.
        ("pidfd_open", Errno::PERM, "forbids pidfd_open", "SystemCallFilter=pidfd_open"),
        ("pidfd_open", Errno::NOSYS, "forbids pidfd_open", "SystemCallFilter=pidfd_open"),
    ];
    for (call, errno, cause, remedy) in refused {
        let mut command = Command::new(LINGER);
        command.args(["run", "--via", "seccomp", "--", "/bin/echo", "started"]).stdin(Stdio::null());
        linger_testing::refuse(&mut command, call, errno);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{call}, {errno}: {output:?}");
        assert!(
            text.contains(call) && text.contains(cause) && text.contains(remedy),
            "{call}, {errno}: {text}"
        );
        assert!(output.stdout.is_empty(), "the program was not to be started: {output:?}");
    }
}

/// Which of the calls that the profiles of containers refuse are needed, and for which way of running.
#[test]
fn what_a_container_does_not_permit_is_not_always_needed() {
    let (preload, seccomp) = (&["--quiet"][..], &["--quiet", "--via", "seccomp"][..]);
    let cases = [
        (preload, "unshare", true),
        (seccomp, "unshare", true),
        // Not needed: the supervisor makes sockets for the program, and reads its memory through a file in `/proc`.
        (seccomp, "pidfd_getfd", true),
        (seccomp, "process_vm_readv", true),
        // Without this call the program's end cannot be seen from outside, so the program is run as a child.
        (preload, "pidfd_open", true),
        (seccomp, "pidfd_open", false),
        (preload, "clone", false),
        (seccomp, "clone", false),
    ];
    for (options, call, works) in cases {
        let mut command = Command::new(LINGER);
        command.arg("run").args(options).args(["--", "/bin/echo", "started"]).stdin(Stdio::null());
        linger_testing::refuse(&mut command, call, rustix::io::Errno::PERM);
        let output = command.output().unwrap();
        assert_eq!(output.status.success(), works, "{options:?}, {call}: {output:?}");
        assert_eq!(output.stdout == b"started\n", works, "{options:?}, {call}: {output:?}");
    }
}

/// The starter's limits are the program's, and `linger run` itself comes along with each, or says which to raise.
#[test]
fn the_starters_limits_are_the_programs() {
    let ways = [&[][..], &["--stay"], &["--via", "seccomp"]];
    let started = |limits: &[&str], options: &[&str], script: &str| {
        let mut command = Command::new("unshare");
        // Nobody there may raise a hard limit.
        command
            .args(["--user", "--map-root-user", "prlimit"])
            .args(limits)
            .args([LINGER, "run"])
            .args(options);
        command.args(["--", "sh", "-c", script]).stdin(Stdio::null()).output().unwrap()
    };
    let has = |output: &Output, wanted: &str| String::from_utf8_lossy(&output.stdout) == wanted;
    let says = |output: &Output, wanted: &str| String::from_utf8_lossy(&output.stderr).contains(wanted);
    if !started(&[], &[], "true").status.success() {
        return skip("mount namespaces", "unshare --user is refused");
    }
    for options in ways {
        let works = started(&["--stack=65536:8388608"], options, "ulimit -s; ulimit -Hs");
        assert!(has(&works, "64\n8192\n"), "{options:?}: {works:?}");
        let refused = started(&["--stack=65536:65536"], options, "echo started");
        assert!(refused.status.code() == Some(4) && has(&refused, ""), "{options:?}: {refused:?}");
        assert!(says(&refused, "RLIMIT_STACK") && says(&refused, "LimitSTACK="), "{refused:?}");
        let works = started(&["--fsize=1024:1048576"], options, "ulimit -f; ulimit -Hf");
        assert!(has(&works, "2\n2048\n"), "{options:?}: {works:?}");
        let refused = started(&["--fsize=1024:1024"], options, "echo started");
        if options.contains(&"seccomp") {
            assert!(has(&refused, "started\n"), "it needs no file: {refused:?}");
        } else {
            assert!(refused.status.code() == Some(4) && has(&refused, ""), "{options:?}: {refused:?}");
            assert!(says(&refused, "RLIMIT_FSIZE") && says(&refused, "--unpack"), "{refused:?}");
        }
        let few = started(&["--nofile=20:20"], options, "ulimit -n");
        if options.contains(&"seccomp") {
            assert!(few.status.code() == Some(4) && has(&few, "") && says(&few, "`ulimit -n`"), "{few:?}");
        } else {
            assert!(has(&few, "20\n") && says(&few, "20 descriptors at most"), "{options:?}: {few:?}");
        }
        let plenty = started(&["--nofile=64:64"], options, "ulimit -n");
        assert!(has(&plenty, "64\n") && !says(&plenty, "descriptors at most"), "{options:?}: {plenty:?}");
    }
    // Too few for a child, though the program can be executed.
    let none = started(&["--nofile=12:12"], &["--stay"], "echo started");
    assert!(none.status.code() == Some(4) && says(&none, "`ulimit -n`"), "{none:?}");
}

/// As in a pod with a read-only root: the library is in memory, unless TMPDIR names a directory for it, or the image has it.
#[test]
fn no_writable_place_is_needed() {
    let writable = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let read_only = "for place in /tmp /var/tmp /run /dev/shm; do \
        mount -t tmpfs -o ro,noexec tmpfs $place || exit 99; done";
    let run = format!(
        "exec {LINGER} run --quiet -- /bin/sh -c 'echo $LD_PRELOAD; grep -c liblinger /proc/$$/maps'"
    );
    // The host's /usr/lib with one directory more.
    let image = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let lib = image.path().to_str().unwrap();
    let shipped = format!(
        "{LINGER} run --unpack {lib}/linger && mount -t overlay overlay -o lowerdir={lib}:/usr/lib /usr/lib || exit 99;"
    );
    let other = format!("{shipped} mount --bind /bin/sh /usr/lib/linger/liblinger_preload.so || exit 99;");
    let writable = writable.path().to_str().unwrap();
    let installed = "/usr/lib/linger/liblinger_preload.so";
    let cases = [
        ("/tmp", "", "/proc/"),
        (writable, "", writable),
        ("/tmp", &*shipped, installed),
        (writable, &*shipped, writable),
        ("/tmp", &*other, "/proc/"),
    ];
    for (temporary, before, place) in cases {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", &format!("{before} {read_only}; {run}")]);
        let output = command.env("TMPDIR", temporary).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.code() == Some(99) {
            return skip("mount namespaces", &String::from_utf8_lossy(&output.stderr));
        }
        let (library, mapped) = said.trim().split_once('\n').unwrap_or_else(|| panic!("{output:?}"));
        assert!(library.starts_with(place), "{temporary}: {output:?}");
        assert_ne!(mapped, "0", "{temporary}: it is loaded");
    }
}
