//! The test suites of other programs pass under supervision as they pass without.
//!
//! `cargo xtask setup` unpacks them into `target/peers/suites`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::{Server, program};
use linger_testing::{secluded, skip};

/// The result of a run of a suite.
struct Run {
    failed: BTreeSet<String>,
    passed: usize,
    closes: u64,
}

/// Runs a suite in its folder, bare or supervised.
fn run(python: &str, folder: &Path, settings: Option<&str>) -> Run {
    let results = tempfile::tempdir().unwrap();
    let file = results.path().join("results");
    // By a shell in the suite's folder, from which pytest reads its settings.
    let script = "cd \"$1\" && exec \"$2\" -m pytest -p no:cacheprovider -o addopts= -rA --tb=short --color=no -q tests > \"$3\" 2>&1";
    let command = ["/bin/sh", "-c", script, "sh", folder.to_str().unwrap(), python, file.to_str().unwrap()];
    let mut server = Server::start(settings, &command);
    server.wait();
    let text = fs::read_to_string(&file).unwrap();
    let named = |word: &str| {
        let lines = text.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
        lines.map(|line| line.split(" - ").next().unwrap_or(line).to_owned()).collect::<BTreeSet<_>>()
    };
    let mut failed = named("FAILED");
    failed.extend(named("ERROR"));
    let passed = named("PASSED").len();
    assert!(passed > 0, "{text}");
    eprintln!("{}, {settings:?}: {passed} passed, {} failed", folder.display(), failed.len());
    let closes = if settings.is_some() { server.said()["closes"].as_u64().unwrap() } else { 0 };
    Run { failed, passed, closes }
}

/// Runs a suite twice. The tests that pass bare must pass supervised.
fn passes_as_without(name: &'static str, settings: &'static str) {
    secluded(|| {
        let Some(python) = program("python3", "python3-venv, by `cargo xtask setup`") else { return };
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers");
        let (own, folder) = (peers.join("python/bin/python"), peers.join("suites").join(name));
        let own = own.to_str().unwrap();
        let able = |python: &str| {
            let asked = std::process::Command::new(python).args(["-c", "import pytest"]).output();
            asked.is_ok_and(|output| output.status.success())
        };
        let python = if Path::new(own).is_file() { own } else { &python };
        if !folder.is_dir() || !able(python) {
            return skip(
                &format!("{name}, its suite"),
                "its test suite is not there (`cargo xtask setup` fetches it)",
            );
        }
        let (bare, supervised) = (run(python, &folder, None), run(python, &folder, Some(settings)));
        let new: Vec<&String> = supervised.failed.difference(&bare.failed).collect();
        assert!(new.is_empty(), "{new:?} of {} that pass bare", bare.passed);
        assert!(supervised.closes > 0, "the suite closed no connection that was seen");
    });
}

/// One of its tests (`test_handle_close_after_conn_broken`) has a client that writes for ever, never reads, and waits for
/// the reset caused by a close with unread bytes. With `max_discard` that reset comes after 4 KiB.
#[test]
fn waitress() {
    passes_as_without("waitress", "max-discard=4096");
}

#[test]
#[ignore = "minutes, for 2,500 tests twice: cargo test -p linger-run --test supervised suites::gunicorn -- --ignored"]
fn gunicorn() {
    passes_as_without("gunicorn", "");
}
