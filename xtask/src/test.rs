//! What CI runs, and what a contributor runs before pushing.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{call, cargo};

pub(crate) fn run() -> anyhow::Result<()> {
    call(&mut cargo(&["fmt", "--all", "--check"]))?;
    crate::rooms::check()?;
    call(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))?;
    let skips = std::env::temp_dir().join(format!("linger-skips-{}", std::process::id()));
    let tested = tests(&skips);
    let skipped = fs::read_to_string(&skips).unwrap_or_default();
    let _ = fs::remove_file(&skips);
    tested?;
    call(
        cargo(&["doc", "--workspace", "--all-features", "--no-deps", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    let skipped: BTreeSet<&str> = skipped.lines().collect();
    for line in &skipped {
        println!("skipped: {line}");
    }
    println!("all tests passed, {} groups skipped", skipped.len());
    Ok(())
}

fn tests(skips: &std::path::Path) -> anyhow::Result<()> {
    // Inherited by the tests, some of which hold thousands of sockets.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("RLIMIT_NOFILE")?;
    let nextest = cargo(&["nextest", "--version"]).output().is_ok_and(|output| output.status.success());
    let with = |command: &mut Command| -> anyhow::Result<()> {
        call(command.env("LINGER_SKIPS", skips)).context("the tests")
    };
    if nextest {
        with(&mut cargo(&["nextest", "run", "--workspace", "--all-features", "--no-fail-fast"]))?;
        // nextest does not run the examples in documentation.
        with(&mut cargo(&["test", "--workspace", "--all-features", "--doc", "--quiet"]))
    } else {
        with(&mut cargo(&["test", "--workspace", "--all-features", "--no-fail-fast"]))
    }
}
