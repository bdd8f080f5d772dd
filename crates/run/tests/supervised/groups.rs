//! Signals to the process group of a supervisor that is the program's parent: the program is in the group, and has them already.

use std::fs;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::place::{Started, await_sigwait};
use crate::support::{SUPERVISOR, compiled};

/// A program that prints each signal that it gets, with its value.
fn waits(directory: &tempfile::TempDir) -> Option<String> {
    compiled("waits", directory.path(), "gcc", "gcc", &[])
}

/// Sends a signal to a process, or to a group if there is a minus sign before it.
fn kill(signal: i32, to: &str, more: &[&str]) {
    let mut kill = Command::new("/bin/kill");
    kill.args(more).args(["-s", &signal.to_string(), "--", to]);
    assert!(kill.status().is_ok_and(|status| status.success()), "{kill:?}");
}

/// The last signal, by which the test knows that nothing is on its way any more: of two that wait, the lower one comes first, to
/// the supervisor and to the program.
const LAST: i32 = 64;

/// Asserts that the program gets a signal once: next is the one that is sent afterwards.
fn once(started: &mut Started, signal: i32, to: &str, what: &str) {
    let pid = started.child.id();
    await_sigwait(pid);
    kill(signal, to, &[]);
    assert_eq!(started.line(), format!("{signal} 0"), "{what}: to {to}");
    await_sigwait(pid);
    kill(LAST, &pid.to_string(), &["-q", "4711"]);
    assert_eq!(started.line(), format!("{LAST} 4711"), "{what}: {signal} to {to}, which is once");
}

/// Not KILL and STOP, which nobody can wait for; CHLD, which is the supervisor's own; 32 and 33, which are glibc's.
fn signals() -> impl Iterator<Item = i32> {
    (1..LAST).filter(|signal| ![9, 17, 19, 32, 33].contains(signal))
}

#[test]
fn a_signal_to_the_group_reaches_the_program_once() {
    let directory = tempfile::tempdir().unwrap();
    let Some(waits) = waits(&directory) else { return };
    for way in [None, Some(""), Some("stay"), Some("stay seccomp")] {
        let mut started = Started::new(way, &[&waits]);
        let alone = started.child.id().to_string();
        for signal in signals() {
            for to in [format!("-{alone}"), alone.clone()] {
                once(&mut started, signal, &to, &format!("{way:?}"));
            }
        }
    }
}

/// A program that has left the group gets what is sent to the group, as whoever started it means it to.
#[test]
fn a_program_that_has_left_the_group_gets_its_signals() {
    let directory = tempfile::tempdir().unwrap();
    let Some(waits) = waits(&directory) else { return };
    // It does not fork: the supervisor is the group's leader.
    let mut started = Started::new(Some("stay"), &["/usr/bin/setsid", &waits]);
    let _program = Ends(child(&started, "waits"));
    let group = format!("-{}", started.child.id());
    for signal in signals() {
        once(&mut started, signal, &group, "elsewhere");
    }
}

/// In a PID namespace whose processes are in a group of somebody outside, which is nobody's number there (`linger lab exec` makes such).
#[test]
fn a_group_whose_leader_is_not_seen_is_one_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let Some(waits) = waits(&directory) else { return };
    for settings in ["stay", "stay seccomp"] {
        let report = directory.path().join("report").display().to_string();
        let words = [
            "/usr/bin/unshare",
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            SUPERVISOR,
        ];
        let mut started = Started::new(None, &[&words[..], &[&report, settings, &waits]].concat());
        let supervisor = child(&started, name(SUPERVISOR));
        // To the supervisor alone; to the group.
        for to in [supervisor.to_string(), format!("-{}", started.child.id())] {
            // unshare(1), which leads the group, blocks these two.
            for signal in [libc::SIGTERM, libc::SIGINT] {
                await_sigwait(supervisor.as_raw_nonzero().get() as u32);
                kill(signal, &to, &[]);
                assert_eq!(started.line(), format!("{signal} 0"), "{settings}: to {to}");
                await_sigwait(supervisor.as_raw_nonzero().get() as u32);
                kill(LAST, &supervisor.to_string(), &["-q", "4711"]);
                assert_eq!(
                    started.line(),
                    format!("{LAST} 4711"),
                    "{settings}: {signal} to {to}, which is once"
                );
            }
        }
    }
}

/// The name of a program, as `/proc/PID/comm` has it.
fn name(program: &str) -> &str {
    let name = program.rsplit('/').next().unwrap_or_default();
    &name[..name.len().min(15)]
}

/// A process that ends with the test.
struct Ends(Pid);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

/// The only child with a name of what was started.
fn child(started: &Started, name: &str) -> Pid {
    child_of(started.pid(), name)
}

fn child_of(process: Pid, name: &str) -> Pid {
    let pid = process.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let has_name =
        |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|own| own.trim_end() == name);
    let found: Vec<&str> = children.split_whitespace().filter(has_name).collect();
    assert_eq!(found.len(), 1, "{name}, of {children}");
    Pid::from_raw(found[0].parse().unwrap()).unwrap()
}

/// Whatever becomes of the witness, a signal to the supervisor is passed on.
#[test]
fn without_the_witness_signals_are_passed_on() {
    let directory = tempfile::tempdir().unwrap();
    let Some(waits) = waits(&directory) else { return };
    for end in [Signal::STOP, Signal::KILL] {
        let mut started = Started::new(Some("stay"), &[&waits]);
        let alone = started.child.id().to_string();
        once(&mut started, libc::SIGTERM, &alone, "before");
        kill_process(child(&started, "witness"), end).unwrap();
        once(&mut started, libc::SIGTERM, &alone, "after");
        once(&mut started, libc::SIGHUP, &alone, "after");
    }
}

/// Nobody who looks for the supervisor or the program by name finds the witness (pkill(1)), and it ends with the supervisor.
#[test]
fn the_witness_has_no_name_and_ends_with_the_supervisor() {
    let directory = tempfile::tempdir().unwrap();
    let Some(waits) = waits(&directory) else { return };
    let started = Started::new(Some("stay"), &[&waits]);
    let witness = child(&started, "witness").as_raw_nonzero();
    let of = |file: &str| fs::read(format!("/proc/{witness}/{file}"));
    let line = of("cmdline").unwrap();
    assert!(line.iter().all(|byte| *byte == 0), "{}", String::from_utf8_lossy(&line));
    let own = fs::read_to_string(format!("/proc/{}/cmdline", started.child.id())).unwrap();
    assert!(own.contains("waits"), "the supervisor's is as it was: {own}");
    let fds = fs::read_dir(format!("/proc/{witness}/fd")).unwrap().count();
    assert_eq!(fds, 2, "it holds nothing but its socket and its signals");
    kill_process(started.pid(), Signal::KILL).unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    // A zombie has no state but that until somebody waits for it.
    while of("stat").is_ok_and(|stat| !String::from_utf8_lossy(&stat).contains(") Z")) {
        assert!(std::time::Instant::now() < end, "the witness outlives the supervisor");
        std::thread::yield_now();
    }
}
