//! Calls that the supervisor makes in the program's place.

use std::io::Write;
use std::net::TcpListener;
use std::sync::mpsc;

use super::*;

fn holding() -> Options {
    Options { hold: true, ..Options::default() }
}

#[test]
fn the_program_gets_the_connection_and_its_peers_address() {
    let (tell, told) = mpsc::channel();
    let program = Supervised::start(&holding(), Access::Copies, move || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        tell.send(listener.local_addr().unwrap()).unwrap();
        let (mut stream, peer) = listener.accept().unwrap();
        assert_eq!(peer, stream.peer_addr().unwrap());
        stream.write_all(peer.to_string().as_bytes()).unwrap();
    });
    let mut client = connect(told.recv().unwrap());
    assert_eq!(read_to_end(&mut client), client.local_addr().unwrap().to_string().into_bytes());
    assert_eq!(program.handed().kind, MessageKind::Close);
    assert_eq!(program.end().counts, only(&[(Count::Seen, 1), (Count::Handed, 1)]));
}

#[test]
fn a_listener_that_does_not_block_says_that_nobody_waits() {
    let program = Supervised::start(&holding(), Access::Copies, || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        // No listener at all: the call is the program's.
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let refused = rustix::net::accept(&one).unwrap_err();
        assert_eq!(refused, rustix::io::Errno::INVAL);
    });
    assert_eq!(program.end().counts, only(&[]));
}

/// As in a container that refuses `pidfd_getfd`. In a process of its own: an epoll of another test, which was not lent, might have
/// the connection.
#[test]
fn without_the_right_to_copy_fds_the_supervisor_makes_them() {
    crate::turns::apart(lends);
}

fn lends() {
    let (program, mut client) = Supervised::serving(&Options::default(), Access::Lends, |mut stream| {
        await_readable(&stream);
        stream.write_all(b"answer").unwrap();
    });
    client.write_all(b"x").unwrap();
    assert_eq!(read_to_end(&mut client), b"answer");
    let handed = program.handed();
    assert_eq!((handed.kind, handed.unread), (MessageKind::Close, 1));
    let counts = [(Count::Seen, 1), (Count::Handed, 1), (Count::Unread, 1)];
    assert_eq!(program.end().counts, only(&counts));
}

/// A copy that the supervisor forgot to close would keep the port.
#[test]
fn a_lent_listener_is_closed_with_the_programs() {
    let program = Supervised::start(&Options::default(), Access::Lends, || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let copy = listener.try_clone().unwrap();
        drop(listener);
        // The other fd still listens.
        drop(std::net::TcpStream::connect(address).unwrap());
        drop(copy);
        let refused = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
    program.end();
}

#[test]
fn a_lent_epoll_is_the_programs_and_reports_nothing_of_what_is_closed() {
    crate::turns::apart(lends_an_epoll);
}

fn lends_an_epoll() {
    use rustix::event::{Timespec, epoll};
    let (go, gone) = mpsc::channel();
    let (program, mut client) = Supervised::serving(&Options::default(), Access::Lends, move |stream| {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        epoll::add(&epoll, &stream, epoll::EventData::new_u64(1), epoll::EventFlags::IN).unwrap();
        await_readable(&stream);
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 4];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(epoll::wait(&epoll, &mut events, Some(&at_once)).unwrap().0.len(), 1);
        drop(stream);
        gone.recv().unwrap();
        assert_eq!(epoll::wait(&epoll, &mut events, Some(&at_once)).unwrap().0.len(), 0);
    });
    client.write_all(b"x").unwrap();
    assert_eq!(read_to_end(&mut client), b"");
    let _handed = program.handed();
    go.send(()).unwrap();
    let counts = [(Count::Seen, 1), (Count::Handed, 1), (Count::Unread, 1)];
    assert_eq!(program.end().counts, only(&counts));
}
