//! A `linger share` of its own, whose lines are checked, a `linger put` to it, and a link between the two that stops.
#![allow(dead_code)] // Each test is compiled with a copy of this file, and uses a part of it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
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

/// A `linger put` of a file to a share at this port.
pub(crate) fn put(home: &Path, port: u16, from: &Path, to: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linger"));
    command
        .args(["put", "--json", "--port", &port.to_string()])
        .args(flags)
        .arg(from)
        .arg(format!("127.0.0.1:{to}"))
        .env("XDG_CONFIG_HOME", home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Forwards one connection; after `at` bytes towards the server it stops, says so, and goes on when it is told.
pub(crate) fn stopping_proxy(server: u16, at: usize) -> (u16, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (reached, told) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
        let (mut back_from, mut back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut back_from, &mut back_to);
            let _ = back_to.shutdown(std::net::Shutdown::Write);
        });
        let (mut from, mut to) = (client, server);
        let mut left = at;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let most = if left > 0 { left.min(buffer.len()) } else { buffer.len() };
            let Ok(bytes @ 1..) = from.read(&mut buffer[..most]) else { break };
            if to.write_all(&buffer[..bytes]).is_err() {
                break;
            }
            if left > 0 {
                left -= bytes;
                if left == 0 {
                    let _ = reached.send(());
                    let _ = may_go.recv();
                }
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    (port, told, go)
}
