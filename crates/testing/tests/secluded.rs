//! Which processes a test in its own PID namespace sees, and which outlive it.

use std::fs;
use std::io::Read;
use std::os::unix::process::parent_id;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use linger_testing::secluded;

fn pids() -> Vec<u32> {
    let names = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).collect()
}

#[test]
fn nobody_else_is_seen() {
    secluded(|| {
        // The first process and this one.
        assert_eq!(pids(), [1, std::process::id()]);
        assert_eq!(parent_id(), 1);
        assert!(rustix::process::geteuid().is_root());
    });
}

#[test]
fn orphans_are_reaped() {
    secluded(|| {
        let mut start = Command::new("sh");
        start.args(["-c", "exec 3<&0; (read word <&3) & echo $!"]);
        let mut shell = start.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, mut output) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
        assert!(shell.wait().unwrap().success());
        // The orphan has the shell's output open, too, until its input ends.
        drop(input);
        let mut said = String::new();
        output.read_to_string(&mut said).unwrap();
        let orphan: u32 = said.trim().parse().unwrap();
        let started = Instant::now();
        while pids().contains(&orphan) {
            assert!(started.elapsed() < Duration::from_secs(30), "a process that has ended stays");
            thread::sleep(Duration::from_millis(1));
        }
    });
}

/// The sleep has the test's output open: if it outlived the test, the reader of that output would wait for
/// it.
#[test]
fn nothing_outlives_the_test() {
    secluded(|| {
        let started = Command::new("sh").args(["-c", "sleep 600 &"]).status();
        assert!(started.is_ok_and(|status| status.success()));
    });
}

/// The test's status passes through the two processes in between.
#[test]
#[should_panic(expected = "in the sandbox")]
fn a_failure_inside_is_one_outside() {
    secluded(|| panic!("inside"));
}
