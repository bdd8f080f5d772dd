//! Runs the program as a user does.
#![allow(dead_code)] // Each test is compiled with a copy of this file, and uses a part of it.

use std::process::{Child, Command, Output};

use linger_testing::skip;

/// The program of this build.
pub(crate) fn linger(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linger"));
    command.args(arguments);
    command
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    linger(arguments).output().unwrap()
}

/// Whether this machine lets the lab build its networks. If not, the skip is reported.
pub(crate) fn has_networks() -> bool {
    let possible =
        run(&["lab", "--link", "lan", "--ending", "lingering", "--peer", "unread", "--trials", "1"]);
    if possible.status.code() == Some(4) {
        skip("private networks", String::from_utf8_lossy(&possible.stderr).trim());
        return false;
    }
    assert!(possible.status.success(), "{possible:?}");
    true
}

/// Sends SIGINT, as Ctrl-C does.
pub(crate) fn interrupt(child: &Child) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
}
