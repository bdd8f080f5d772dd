//! A supervisor that somebody else has started, as systemd does for each connection to linger.socket.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::support::{PORT, SUPERVISOR, Server, connect, late_reader, program, read, request};
use linger_testing::secluded;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Signal, kill_process};

const ANSWERS: &str = r#"
import socket, sys
l = socket.create_server(('127.0.0.1', 8000), backlog=64)
while True:
    c, _ = l.accept(); c.recv(10); c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
    c.sendall(b'HTTP/1.0 200 OK\r\n\r\n' + b'x' * 600000 + b'END'); c.close()
    print('closed', file=sys.stderr, flush=True)
"#;

fn socket() -> OwnedFd {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

fn listen(path: &Path) -> OwnedFd {
    let listener = socket();
    rustix::net::bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&listener, 8).unwrap();
    listener
}

/// The supervisor of the program at the other end of a connection.
fn start(connection: OwnedFd) -> Child {
    Command::new(SUPERVISOR).stdin(connection).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn it_supervises_the_program_and_outlives_it() {
    supervises_and_outlives("");
}

/// The same where it is asked about the program's calls: it is no ancestor of the program's, and was not its starter.
#[test]
fn it_supervises_by_seccomp_and_outlives_the_program() {
    supervises_and_outlives("seccomp");
}

fn supervises_and_outlives(way: &str) {
    secluded(move || {
        let Some(python) = program("python3", "python3") else { return };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = listen(&path);
        let other = thread::spawn(move || start(rustix::net::accept(&listener).unwrap()));
        let settings = format!("{way} lingerd={}", path.display());
        let mut server = Server::start_listening(Some(&settings), &[&python, "-c", ANSWERS], PORT);
        let mut supervisor = other.join().unwrap();
        let environment = std::fs::read_to_string(format!("/proc/{}/environ", server.pid())).unwrap();
        let library = environment.split('\0').find_map(|pair| pair.strip_prefix("LD_PRELOAD="));
        assert_eq!(library.is_some_and(|library| Path::new(library).exists()), way.is_empty());
        assert!(late_reader(PORT, 20_000, false).is_whole());
        let mut client = connect(PORT, Some(4_096));
        client.write_all(&request(20_000)).unwrap();
        server.await_log("closed\nclosed");
        kill_process(server.pid(), Signal::TERM).unwrap();
        // The program has ended, and so has every process that the test has made.
        assert!(!server.wait().success());
        assert!(std::net::TcpListener::bind(("127.0.0.1", PORT)).is_ok(), "its port is free");
        assert!(supervisor.try_wait().unwrap().is_none() && !server.has_reported());
        assert!(read(client).is_whole());
        assert!(supervisor.wait().unwrap().success());
        assert_eq!(server.report()["lingered"], 2);
        let unpacked = library.and_then(|library| Path::new(library).parent());
        assert!(!unpacked.is_some_and(Path::exists), "what was unpacked is removed");
    });
}

/// If nothing listens, or the listener closes each connection, the program is supervised all the same.
#[test]
fn without_it_the_supervisor_is_made_here() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let settings = format!("lingerd={}", path.display());
        for listens in [false, true] {
            // The listener closes each connection.
            let other = listens
                .then(|| listen(&path))
                .map(|listener| thread::spawn(move || drop(rustix::net::accept(&listener).unwrap())));
            let server = Server::start_listening(Some(&settings), &[&python, "-c", ANSWERS], PORT);
            assert!(late_reader(PORT, 20_000, false).is_whole(), "{listens}: {}", server.log());
            server.supervisor();
            assert_eq!(server.stop(Signal::TERM)["lingered"], 1, "{listens}");
            other.into_iter().for_each(|other| other.join().unwrap());
        }
    });
}

/// Others have filled the accept queue of a listener that accepts nobody: the program does not wait for a place in it.
#[test]
fn a_queue_that_others_fill_keeps_no_program_from_starting() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _listener = listen(&path);
        let address = SocketAddrUnix::new(&path).unwrap();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let mut others = Vec::new();
        loop {
            let other =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
            match rustix::net::connect(&other, &address) {
                Ok(()) => others.push(other),
                Err(error) => break assert_eq!(error, rustix::io::Errno::AGAIN, "it is full"),
            }
        }
        let settings = format!("lingerd={}", path.display());
        let server = Server::start_listening(Some(&settings), &[&python, "-c", ANSWERS], PORT);
        assert!(late_reader(PORT, 20_000, false).is_whole(), "{}", server.log());
        server.supervisor();
        assert_eq!(server.stop(Signal::TERM)["lingered"], 1);
    });
}

/// Whoever connects and says nothing gives its place back.
#[test]
fn a_silent_stranger_is_refused() {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .unwrap();
    let output = start(theirs).wait_with_output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot supervise"), "{output:?}");
    let mut told = [0; 8];
    assert_eq!(rustix::io::read(&ours, &mut told).unwrap(), 4, "an error number");
}

/// Anybody may connect. A message that is no assignment is refused.
#[test]
fn strangers_are_refused() {
    let words = [&b""[..], b"x", b"{}", br#"{"version":"0.0.0"}"#, &[b'{'; 4_096]];
    for words in words {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        let supervisor = start(theirs);
        rustix::io::write(&ours, words).unwrap();
        let mut told = [0; 8];
        assert_eq!(rustix::io::read(&ours, &mut told).unwrap(), 4, "an error number");
        assert_ne!(i32::from_ne_bytes(told[..4].try_into().unwrap()), 0);
        let output = supervisor.wait_with_output().unwrap();
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot supervise"), "{output:?}");
    }
}
