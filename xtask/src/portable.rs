//! `cargo xtask test portable`: what is promised for systems on which nothing can be run here.
//!
//! The portable crates are compiled for each of these systems. The code that they use there instead of `sys/src/linux`
//! is tested on Linux, with `--cfg linger_portable`.

use std::process::Command;

use crate::{call, cargo, root, setup, test};

/// The crates that are to compile everywhere.
const CRATES: [&str; 4] = ["--package", "linger", "--package", "linger-sys"];

/// Systems that are among the others for another processor or C library.
const ALIKE: [&str; 2] = ["x86_64-apple-darwin", "x86_64-pc-windows-gnu"];

pub(crate) fn check() -> anyhow::Result<()> {
    let mut targets = Vec::new();
    for target in setup::TARGETS {
        if setup::has_target(target) {
            targets.extend(["--target", target]);
        } else {
            setup::allowed(&format!("rust for {target}"))?;
        }
    }
    // All of them in one command, so that every processor has something to do. Without one it would check this system.
    for features in ["--no-default-features", "--all-features"].into_iter().filter(|_| !targets.is_empty()) {
        // Only own code depends on the processor or the C library, if anything does: the features' dependencies, which are most
        // of the time, are compiled once for each system.
        let targets =
            targets.chunks(2).filter(|target| features != "--all-features" || !ALIKE.contains(&target[1]));
        call(cargo(&["check", "--quiet", "--lib", features]).args(targets.flatten()).args(CRATES))?;
    }
    // The units, and servers and clients: all bytes arrive, no resets are sent, and no outcome claims what the system cannot
    // report.
    let tests = ["matrix", "axum", "closer", "doors", "fork", "http", "pauses", "poor", "tokio", "tunnel"]
        .map(|test| ["--test", test]);
    let crates = ["--lib", "--all-features", "--package", "linger", "--package", "linger-sys"];
    let mut command = as_elsewhere(&test::runner()?);
    // Without the runner a binary is one process: some tests fork, and the child has the fds of every other thread's test.
    let one_at_a_time: &[&str] = if test::has_runner()? { &[] } else { &["--", "--test-threads=1"] };
    call(command.args(crates).args(tests.as_flattened()).args(one_at_a_time))
}

/// A command of cargo for the code of other systems. Only the workspace's own crates are compiled anew for it.
fn as_elsewhere(words: &[String]) -> Command {
    let mut command = cargo(&[]);
    command.args(words);
    command.env("RUSTC_WORKSPACE_WRAPPER", root().join("xtask/rustc-portable"));
    command
}
