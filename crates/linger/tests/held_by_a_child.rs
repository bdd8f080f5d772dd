//! Closes of a connection that a child has open as well, and keeps longer than its parent: a helper that was started by
//! `fork` while the parent served. The client must neither wait for the child nor lose a byte.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;

use linger::{Closer, Ended, Policy};
use linger_sys::testing::forked;
use linger_testing::{Counters, sandboxed};
use support::{Got, LONG, RESPONSE, connect_small, no_resets, until};

/// A forked child. It has all descriptors, and ends when it is told to.
struct Child {
    release: OwnedFd,
    waits: thread::JoinHandle<Result<String, String>>,
}

impl Child {
    fn new() -> Self {
        let (is_there, there) = rustix::pipe::pipe().unwrap();
        let (released, release) = rustix::pipe::pipe().unwrap();
        let waits = thread::spawn(move || {
            forked(|| {
                rustix::io::write(&there, b".").unwrap();
                rustix::io::read(&released, &mut [0; 1]).unwrap();
                "released".to_owned()
            })
        });
        assert_eq!(rustix::io::read(&is_there, &mut [0; 1]).unwrap(), 1);
        Self { release, waits }
    }

    fn end(self) {
        rustix::io::write(&self.release, b".").unwrap();
        assert_eq!(self.waits.join().unwrap().as_deref(), Ok("released"));
    }
}

/// A client that has sent more than the server reads, and a server that has answered. Most of the answer waits in the
/// server.
fn answered() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = connect_small(listener.local_addr().unwrap());
    client.set_read_timeout(Some(LONG)).unwrap();
    client.write_all(b"request and more").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.read_exact(&mut [0; 7]).unwrap();
    server.write_all(&[b'r'; RESPONSE]).unwrap();
    (client, server)
}

/// Nothing ends by itself.
fn patient() -> Policy {
    Policy::new().with_idle(LONG).with_total(LONG).with_grace(LONG)
}

/// The client has every byte and the end of the stream.
#[track_caller]
fn whole(client: TcpStream) {
    let got = Got::read(&client);
    assert_eq!((got.bytes.len(), got.error), (RESPONSE, None));
    // The child has this end open as well, so that a close of it would tell the server nothing.
    client.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn the_client_of_a_plain_close_waits_for_the_child_and_is_reset() {
    sandboxed(|| {
        let (mut client, server) = answered();
        let child = Child::new();
        drop(server);
        client.read_exact(&mut [0; RESPONSE]).unwrap();
        client.set_nonblocking(true).unwrap();
        assert_eq!(
            client.read(&mut [0]).unwrap_err().kind(),
            ErrorKind::WouldBlock,
            "nobody has sent the end"
        );
        client.set_nonblocking(false).unwrap();
        child.end();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_child_from_before_a_close_or_amid_it_keeps_no_client_waiting() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        let closer = Closer::global().unwrap();
        for is_amid in [false, true] {
            let (client, server) = answered();
            let early = (!is_amid).then(Child::new);
            closer.close(server, &patient());
            let child = early.unwrap_or_else(Child::new);
            assert_eq!(closer.snapshot().lingering, 1);
            whole(client);
            // The parent's close ends with the client's, and not with the child.
            let snapshot = until(closer, |snapshot| snapshot.lingering == 0);
            assert_eq!(snapshot.ended.peer_closed, 1 + u64::from(is_amid), "{snapshot:?}");
            child.end();
        }
        no_resets(&before);
    });
}

#[test]
fn a_child_from_before_a_blocking_close_keeps_no_client_waiting() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        let (client, server) = answered();
        let child = Child::new();
        let reading = thread::spawn(|| whole(client));
        let outcome = linger::close(server, &patient());
        assert_eq!((outcome.ended, outcome.discarded), (Ended::PeerClosed, 9), "{outcome}");
        reading.join().unwrap();
        child.end();
        no_resets(&before);
    });
}
