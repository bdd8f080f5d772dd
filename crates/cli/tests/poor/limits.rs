//! Limits of the process: descriptors, and memory.

use std::process::Command;

use linger_testing::skip;

use crate::machine::{LINGER, Machine, VERBS};

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

/// Bytes of address space with which the loader and std come as far as `main`; a debug build is large.
fn smallest() -> u64 {
    (8..1024)
        .map(|megabytes| megabytes << 20)
        .find(|bytes| {
            let output = limited(&format!("--as={bytes}")).arg("--version").output().unwrap();
            output.status.success()
        })
        .expect("a gigabyte is enough to print a version")
}

/// Work that needs more memory is not possible on this machine. If std or glibc cannot do without an allocation that
/// fails, they print the message, and this program sets the status.
#[test]
fn every_verb_ends_in_order_with_any_amount_of_memory() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return skip("util-linux", "prlimit is not installed");
    }
    let machine = Machine::new();
    let smallest = smallest();
    let mut bitten = 0;
    for (words, endless) in VERBS {
        let usual = machine.run(machine.prepared(Command::new(LINGER), words), endless).status;
        for more in [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64] {
            let limit = format!("--as={}", smallest + (more << 20));
            let command = machine.prepared(limited(&limit), words);
            let output = machine.ends_with_a_sentence(command, words, endless, &limit);
            let is_usual = output.status == usual;
            bitten += usize::from(!is_usual);
            assert!(is_usual || more < 64, "linger {words} under {limit}: {}, not {usual}", output.status);
        }
    }
    assert!(bitten > VERBS.len(), "{bitten} is no limit");
}

/// A size that a user types may exceed the machine's memory.
#[test]
fn large_buffers_are_refused_with_a_sentence() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return skip("util-linux", "prlimit is not installed");
    }
    let machine = Machine::new();
    std::fs::File::create(machine.home.path().join("big")).unwrap().set_len(700 << 20).unwrap();
    for (words, status) in [
        ("server --response 1GiB --listen 127.0.0.1:0", 4),
        ("lab --link loopback --ending close --peer unread --trials 2 --response 1GiB", 4),
        ("lab big", 3),
        // A request of 16 MiB is the longest, so that this one is not read to its end.
        ("probe tcp://127.0.0.1:1 --payload big", 2),
        ("put file 127.0.0.1: --exclude-from big", 2),
        ("put file 127.0.0.1: --code-file big", 2),
        ("share --config big", 2),
        ("receipt verify big file", 2),
        ("fcgi get 127.0.0.1:1 /x --body big", 3),
    ] {
        let limit = format!("--as={}", smallest() + (128 << 20));
        let output =
            machine.ends_with_a_sentence(machine.prepared(limited(&limit), words), words, false, &limit);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "linger {words}: {said}");
        assert!(!said.contains("memory allocation of"), "linger {words}: {said}");
    }
}
