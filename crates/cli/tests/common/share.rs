//! A `linger share` of its own, whose lines are checked.
#![allow(dead_code)] // Each test is compiled with a copy of this file, and uses a part of it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use serde_json::Value;

/// A `linger share` that is killed when it goes out of scope.
pub(crate) struct Share {
    pub(crate) child: Child,
    pub(crate) port: u16,
    /// Checks its lines.
    lines: Option<JoinHandle<()>>,
}

impl Share {
    pub(crate) fn new(home: &Path, directory: &Path, flags: &[&str]) -> Self {
        Self::through(Command::new(env!("CARGO_BIN_EXE_linger")), home, directory, flags)
    }

    pub(crate) fn through(mut command: Command, home: &Path, directory: &Path, flags: &[&str]) -> Self {
        let mut child = command
            .args(["share", "--writable", "--json", "--listen", "127.0.0.1:0"])
            .args(flags)
            .arg(directory)
            .env("XDG_CONFIG_HOME", home)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let value: Value = super::contract::line("share", &line);
        let address = value["address"].as_str().unwrap();
        let port = address.rsplit(':').next().unwrap().parse().unwrap();
        // The further output is read, or the share would wait for its reader.
        let lines = std::thread::spawn(move || {
            for line in out.lines() {
                super::contract::line("share", &line.unwrap());
            }
        });
        Self { child, port, lines: Some(lines) }
    }

    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let checked = self.lines.take().map(JoinHandle::join);
        assert!(
            checked.is_none_or(|checked| checked.is_ok()) || std::thread::panicking(),
            "a line is not valid"
        );
    }
}
