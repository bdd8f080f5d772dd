//! What is promised for systems on which nothing can be run here.
//!
//! The portable crates are compiled for each of these systems (`cargo xtask test portable`). The code that they use there
//! instead of `sys/src/linux` is tested on Linux, with `--cfg linger_portable` (`cargo xtask test elsewhere`).

use std::process::Command;

use crate::runner::{has_runner, runner};
use crate::{call, cargo, root, setup};

/// The crates that are to compile everywhere.
const CRATES: [&str; 4] = ["--package", "linger", "--package", "linger-sys"];

/// The system that is compiled with all features as well. What the features bring does not differ among the others, which are unix: it
/// is compiled, and tested, on Linux with the code of other systems.
const WITH_FEATURES: [&str; 1] = ["x86_64-pc-windows-msvc"];

/// Compiles the portable crates for each system.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut targets = Vec::new();
    for target in setup::TARGETS {
        if setup::has_target(target) {
            targets.push(target);
        } else {
            setup::allowed(&format!("rust for {target}"))?;
        }
    }
    // All of them in one command, so that every processor has something to do. Without one it would check this system.
    for features in ["--no-default-features", "--all-features"] {
        let all = targets
            .iter()
            .copied()
            .filter(|target| features != "--all-features" || WITH_FEATURES.contains(target));
        let all: Vec<&str> = all.flat_map(|target| ["--target", target]).collect();
        if !all.is_empty() {
            call(cargo(&["check", "--quiet", "--lib", features]).args(all).args(CRATES))?;
        }
    }
    Ok(())
}

/// Tests on Linux, `cargo xtask test elsewhere`, what other systems use.
pub(crate) fn tests() -> anyhow::Result<()> {
    elsewhere(&runner()?, !has_runner()?)
}

/// Compiles what [`tests`] runs.
pub(crate) fn compile() -> anyhow::Result<()> {
    let words: &[&str] = if has_runner()? { &["nextest", "run", "--no-run"] } else { &["test", "--no-run"] };
    elsewhere(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), false)
}

fn elsewhere(words: &[String], is_alone: bool) -> anyhow::Result<()> {
    // The units, and servers and clients: all bytes arrive, no resets are sent, and no outcome claims what the system cannot
    // report.
    let tests = ["matrix", "closer", "fork", "http", "pauses", "poor", "served"].map(|test| ["--test", test]);
    let crates = ["--lib", "--all-features", "--package", "linger", "--package", "linger-sys"];
    let mut command = as_elsewhere(words);
    // Without the runner a binary is one process: some tests fork, and the child has the fds of every other thread's test.
    let one_at_a_time: &[&str] = if is_alone { &["--", "--test-threads=1"] } else { &[] };
    call(command.args(crates).args(tests.as_flattened()).args(one_at_a_time))
}

/// A command of cargo for the code of other systems. Only the workspace's own crates are compiled anew for it.
fn as_elsewhere(words: &[String]) -> Command {
    let mut command = cargo(&[]);
    command.args(words);
    command.env("RUSTC_WORKSPACE_WRAPPER", root().join("xtask/rustc-portable"));
    command
}
