//! How long a peer that has everything and keeps its socket open holds the server's socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use linger::{Budget, Closer, Ended, Policy};

use crate::{Goal, claim, note, peers};

pub(crate) fn run() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let closer = Closer::new(Budget::default()).expect("a closer");
    let serving = {
        let closer = closer.clone();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let _ = stream.read(&mut [0; 1024]).expect("a request");
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").expect("an answer");
            closer.close(stream, &Policy::default());
        })
    };
    let held = time_held(address);
    serving.join().expect("the server");
    let snapshot = closer.snapshot();
    assert_eq!(snapshot.ended.of(Ended::Acknowledged), 1, "{snapshot:?}");
    assert_eq!(snapshot.undelivered, 0);
    claim("linger lets go of a peer that has everything after", held, " s", Goal::AtMost(1.0));
    for peer in [peers::nginx(), peers::httpd()].into_iter().flatten() {
        note(&format!("{} after {:.3} s", peer.name, time_held(peer.address)));
    }
}

/// Asks for a page, reads all of it, stays, and watches the server's socket until no process has it any more.
fn time_held(server: SocketAddr) -> f64 {
    let mut client = TcpStream::connect(server).expect("the server listens");
    client.write_all(b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").expect("a request");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("an answer and a FIN");
    let started = Instant::now();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let port = client.local_addr().expect("connected").port();
    while server_holds(server.port(), port) && started.elapsed() < Duration::from_secs(60) {
        // The precision of the result. No event tells anybody else of the server's close, so this polls.
        std::thread::sleep(Duration::from_millis(5));
    }
    started.elapsed().as_secs_f64()
}

/// Whether `/proc/net/tcp` shows the server's end with an inode: an orphan has none.
fn server_holds(server: u16, client: u16) -> bool {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").expect("/proc");
    let (local, remote) = (format!(":{server:04X}"), format!(":{client:04X}"));
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 9 && fields[1].ends_with(&local) && fields[2].ends_with(&remote) && fields[9] != "0"
    })
}
