//! Processor time a discarded GB costs: the closer beside reads of 4 KiB (nginx) and of 512 bytes (httpd).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use linger::{Budget, Closer, Policy};

use crate::support::until;
use crate::{Goal, claim, median, note, peers};

const BYTES: u64 = 2 << 30;
const ROUNDS: usize = 5;

pub(crate) fn run() {
    let (mut mine, mut nginx, mut httpd) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        mine.push(by_closer());
        nginx.push(by_reads(4096));
        httpd.push(by_reads(512));
    }
    let gigabytes = BYTES as f64 / 1e9;
    let [mine, nginx, httpd] = [&mut mine, &mut nginx, &mut httpd].map(|rounds| median(rounds) / gigabytes);
    note(&format!("CPU seconds a GB: closer {mine:.3}, reads of 4 KiB {nginx:.3}, of 512 bytes {httpd:.3}"));
    claim("CPU a discarded GB, of 4 KiB reads", mine / nginx, "", Goal::AtMost(0.40));
    claim("CPU a discarded GB, of 512 byte reads", mine / httpd, "", Goal::AtMost(0.15));
}

/// A connection, and a thread that sends all the bytes through it and closes.
fn upload() -> (TcpStream, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
    let (server, _) = listener.accept().expect("a connection");
    let sending = std::thread::spawn(move || {
        let chunk = vec![0; 256 << 10];
        for _ in 0..BYTES / chunk.len() as u64 {
            client.write_all(&chunk).expect("the server discards everything");
        }
        client.shutdown(Shutdown::Write).expect("open");
        // Stays until the server has closed.
        let _ = client.read(&mut [0]);
    });
    (server, sending)
}

fn by_closer() -> f64 {
    let closer = Closer::new(Budget::default()).expect("a closer");
    let thread = peers::closer_thread();
    let (server, sending) = upload();
    closer.close(server, &Policy::default());
    let snapshot = until(&closer, |snapshot| snapshot.lingering == 0);
    assert_eq!((snapshot.discarded, snapshot.ended.peer_closed), (BYTES, 1), "{snapshot:?}");
    let used = peers::cpu_of(&thread);
    sending.join().expect("the sender");
    used
}

/// What nginx's `ngx_http_lingering_close_handler` does: wait, then read until there is nothing.
fn by_reads(size: usize) -> f64 {
    let (mut server, sending) = upload();
    server.set_nonblocking(true).expect("a socket");
    let reading = std::thread::Builder::new().name("reads".into()).spawn(move || {
        server.shutdown(Shutdown::Write).expect("open");
        let mut buffer = vec![0; size];
        let mut discarded = 0;
        loop {
            match server.read(&mut buffer) {
                Ok(0) => break,
                Ok(bytes) => discarded += bytes as u64,
                Err(_) => {
                    let mut ready = [rustix::event::PollFd::new(&server, rustix::event::PollFlags::IN)];
                    let _ = rustix::event::poll(&mut ready, None);
                }
            }
        }
        assert_eq!(discarded, BYTES);
        peers::cpu_of("/proc/thread-self")
    });
    let used = reading.expect("a thread").join().expect("the reader");
    sending.join().expect("the sender");
    used
}
