//! A listener that the program is started with, as by socket activation: where its descriptors cannot be copied, as in a container,
//! its connections are cured as well.

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use linger_testing::sandboxed;
use rustix::process::{Pid, Signal, kill_process};
use support::{PORT, SUPERVISOR, compiled, late_reader, program, script};

const SERVER: &str = r"
import socket
l = socket.socket(fileno=0)
while True:
    c, _ = l.accept()
    c.recv(64)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    c.sendall(b'HTTP/1.0 200 OK\r\nContent-Length: 100000\r\n\r\n' + b'x' * 100000)
    c.close()
";

#[test]
fn an_inherited_listener_is_covered_also_where_nothing_can_be_copied() {
    sandboxed(|| {
        let Some(python) = program("python3", "python3") else { return };
        let directory = tempfile::tempdir().unwrap();
        let Some(refusing) = compiled("refusing", directory.path(), "gcc", "gcc", &[]) else { return };
        let file = script(directory.path(), "server.py", SERVER);
        let report = directory.path().join("report");
        let refused = libc::SYS_pidfd_getfd.to_string();
        let listener = TcpListener::bind(("127.0.0.1", PORT)).unwrap();
        let mut command = Command::new(&refusing);
        command.args([&refused, SUPERVISOR]).arg(&report).args(["seccomp", &python, &file]);
        command.stdin(Stdio::from(OwnedFd::from(listener)));
        let mut supervisor = command.spawn().unwrap();
        // Asked for before the program runs: the connection waits in the queue.
        let got = late_reader(PORT, 20_000, false);
        kill_process(Pid::from_child(&supervisor), Signal::TERM).unwrap();
        supervisor.wait().unwrap();
        let said = fs::read_to_string(&report).unwrap();
        assert!(got.is_whole() && got.error.is_none(), "{said}");
        assert!(said.contains(" lingered: 1,") && said.contains(" lost: 0,"), "{said}");
    });
}
