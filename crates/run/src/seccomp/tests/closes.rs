//! What closes mean, and what is done for them.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg};

use super::*;

const COPIES: Access = Access::Copies;

#[test]
fn what_is_unread_is_handed_over_half_closed() {
    let (program, mut client) = Supervised::serving(&Options::default(), COPIES, |mut stream| {
        await_readable(&stream);
        stream.write_all(b"answer").unwrap();
    });
    client.write_all(b"x").unwrap();
    // The client has not closed, so that the FIN is the half-close.
    assert_eq!(read_to_end(&mut client), b"answer");
    let handed = program.handed();
    assert_eq!((handed.kind, handed.unread), (MessageKind::Close, 1));
    assert_eq!(linger_sys::unread(handed.fd.as_fd()).unwrap(), 1, "the closer reads it");
    let one = only(&[(Count::Seen, 1), (Count::Handed, 1), (Count::Unread, 1)]);
    let outcome = program.end();
    assert_eq!((outcome.counts, outcome.handed.len()), (one, 0));
}

#[test]
fn a_connection_that_the_program_has_twice_is_ended_by_its_last_close() {
    let (go, gone) = mpsc::channel();
    let (program, mut client) = Supervised::serving(&Options::default(), COPIES, move |stream| {
        let mut copy = stream.try_clone().unwrap();
        drop(stream);
        gone.recv().unwrap();
        copy.write_all(b"still there").unwrap();
    });
    client.write_all(b"x").unwrap();
    go.send(()).unwrap();
    assert_eq!(read_to_end(&mut client), b"still there");
    let handed = program.handed();
    let outcome = program.end();
    assert_eq!((handed.unread, outcome.handed.len()), (1, 0));
    // The first close was none of the connection: its process still had it.
    assert_eq!(outcome.counts, only(&[(Count::Seen, 1), (Count::Handed, 1), (Count::Unread, 1)]));
}

/// Both ways to put a copy at a number close what was there.
#[test]
fn what_is_replaced_by_a_copy_is_closed() {
    let (tell, told) = mpsc::channel();
    let program = Supervised::start(&Options::default(), COPIES, move || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        tell.send(listener.local_addr().unwrap()).unwrap();
        let (first, second) = (listener.accept().unwrap().0, listener.accept().unwrap().0);
        await_readable(&second);
        let mut at = OwnedFd::from(second);
        rustix::io::dup2(&first, &mut at).unwrap();
        let mut copy = TcpStream::from(at);
        drop(first);
        copy.write_all(b"first").unwrap();
    });
    let address = told.recv().unwrap();
    let (mut first, mut second) = (connect(address), connect(address));
    second.write_all(b"unread").unwrap();
    assert_eq!((read_to_end(&mut second), program.handed().unread), (Vec::new(), 6));
    assert_eq!((read_to_end(&mut first), program.handed().unread), (b"first".to_vec(), 0));
    let outcome = program.end();
    let counts = [(Count::Seen, 2), (Count::Handed, 2), (Count::Unread, 1)];
    assert_eq!((outcome.counts, outcome.handed.len()), (only(&counts), 0));
}

#[test]
fn a_range_of_fds_is_closed_at_once_and_others_are_not() {
    let (tell, told) = mpsc::channel();
    let (go, gone) = mpsc::channel();
    let program = Supervised::start(&Options::default(), COPIES, move || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        tell.send(listener.local_addr().unwrap()).unwrap();
        let mut streams: Vec<TcpStream> = (0..3).map(|_| listener.accept().unwrap().0).collect();
        streams.sort_by_key(AsRawFd::as_raw_fd);
        // Between the first and the last nothing else may lie: other tests have fds of their own.
        let mut last = streams.pop().unwrap();
        for stream in streams {
            let number = stream.into_raw_fd().cast_unsigned();
            crate::kernel::close_range_for_test(number, number);
        }
        gone.recv().unwrap();
        last.write_all(b"last").unwrap();
    });
    let address = told.recv().unwrap();
    let mut clients: Vec<TcpStream> = (0..3).map(|_| connect(address)).collect();
    let (first, second) = (program.handed(), program.handed());
    go.send(()).unwrap();
    let third = program.handed();
    assert_eq!([first.kind, second.kind, third.kind], [MessageKind::Close; 3]);
    let mut said: Vec<Vec<u8>> = clients.iter_mut().map(read_to_end).collect();
    said.sort();
    assert_eq!(said, [b"".to_vec(), b"".to_vec(), b"last".to_vec()]);
    assert_eq!(program.end().counts, only(&[(Count::Seen, 3), (Count::Handed, 3)]));
}

#[test]
fn a_peer_that_has_finished_loses_nothing_by_a_plain_close() {
    let (program, mut client) = Supervised::serving(&Options::default(), COPIES, |stream| await_end(&stream));
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), b"");
    let outcome = program.end();
    assert_eq!(outcome.counts, only(&[(Count::Seen, 1), (Count::Finished, 1)]));
    assert_eq!(outcome.handed.len(), 0);
}

#[test]
fn what_a_peer_that_has_finished_has_sent_is_discarded_and_nothing_is_reset() {
    let (program, mut client) = Supervised::serving(&Options::default(), COPIES, |mut stream| {
        await_end(&stream);
        stream.write_all(b"answer").unwrap();
    });
    client.write_all(b"never read").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    // A reset instead of the FIN would be an error.
    assert_eq!(read_to_end(&mut client), b"answer");
    let outcome = program.end();
    assert_eq!(outcome.counts, only(&[(Count::Seen, 1), (Count::Drained, 1), (Count::Unread, 1)]));
    assert_eq!(outcome.handed.len(), 0);
}

#[test]
fn a_reset_that_the_program_wants_is_one() {
    let (program, mut client) = Supervised::serving(&Options::default(), COPIES, |stream| {
        set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    });
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let outcome = program.end();
    assert_eq!(outcome.counts, only(&[(Count::Seen, 1), (Count::Aborted, 1)]));
    assert_eq!(outcome.handed.len(), 0);
}

/// What it has sent is still there to be read, and is thrown away.
#[test]
fn a_connection_that_its_peer_has_reset_is_gone() {
    let (go, gone) = mpsc::channel::<()>();
    let (program, mut client) = Supervised::serving(&Options::default(), COPIES, move |stream| {
        gone.recv().unwrap();
        await_end(&stream);
    });
    client.write_all(b"unread").unwrap();
    set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    go.send(()).unwrap();
    let outcome = program.end();
    assert_eq!((outcome.counts, outcome.handed.len()), (only(&[(Count::Seen, 1), (Count::Gone, 1)]), 0));
}

#[test]
fn a_shutdown_of_both_sides_is_a_half_close_and_counted_once() {
    let (go, gone) = mpsc::channel();
    let (program, mut client) = Supervised::serving(&Options::default(), COPIES, move |stream| {
        stream.shutdown(Shutdown::Both).unwrap();
        gone.recv().unwrap();
    });
    let handed = program.handed();
    assert_eq!(handed.kind, MessageKind::Shutdown);
    assert_eq!(read_to_end(&mut client), b"");
    // The read side is open: late bytes are no error.
    client.write_all(b"late").unwrap();
    go.send(()).unwrap();
    let outcome = program.end();
    assert_eq!((outcome.counts, outcome.handed.len()), (only(&[(Count::Seen, 1), (Count::Handed, 1)]), 0));
}

#[test]
fn one_side_that_is_shut_down_is_the_programs_affair() {
    let (program, mut client) = Supervised::serving(&Options::default(), COPIES, |mut stream| {
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"request");
    });
    assert_eq!(read_to_end(&mut client), b"");
    client.write_all(b"request").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let outcome = program.end();
    assert_eq!(outcome.handed.len(), 0);
    assert_eq!(outcome.counts, only(&[(Count::Seen, 1), (Count::Finished, 1)]));
}

/// The supervisor's copy keeps the connection in the epoll, under a number that the program may use anew.
#[test]
fn an_epoll_reports_nothing_of_what_is_closed() {
    let (go, gone) = mpsc::channel();
    let (program, mut client) = Supervised::serving(&Options::default(), COPIES, move |stream| {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let (mut peer, other) = UnixStream::pair().unwrap();
        epoll::add(&epoll, &stream, epoll::EventData::new_u64(1), epoll::EventFlags::IN).unwrap();
        epoll::add(&epoll, &other, epoll::EventData::new_u64(2), epoll::EventFlags::IN).unwrap();
        drop(stream);
        gone.recv().unwrap();
        peer.write_all(b"x").unwrap();
        assert_eq!(reported(&epoll), [2], "the closed one has data, too");
    });
    assert_eq!(read_to_end(&mut client), b"");
    let _handed = program.handed();
    // Loopback delivers before the call returns.
    client.write_all(b"late").unwrap();
    go.send(()).unwrap();
    assert_eq!(program.end().counts, only(&[(Count::Seen, 1), (Count::Handed, 1)]));
}

/// Both of the connection's registrations are under fds that are closed; the second had another number than the last.
/// Other registrations stay: of another connection, and of a connection that still has an fd.
#[test]
fn what_an_epoll_has_under_a_closed_fd_is_forgotten_with_the_last_one() {
    let (go, gone) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let program = Supervised::start(&Options::default(), COPIES, move || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        tell.send(listener.local_addr().unwrap()).unwrap();
        let (stream, other) = (listener.accept().unwrap().0, listener.accept().unwrap().0);
        let epolls = [(); 2].map(|()| epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
        for (place, epoll) in epolls.iter().enumerate() {
            epoll::add(epoll, &stream, epoll::EventData::new_u64(1), epoll::EventFlags::IN).unwrap();
            let number = 2 + place as u64;
            epoll::add(epoll, &other, epoll::EventData::new_u64(number), epoll::EventFlags::IN).unwrap();
        }
        let other_copy = other.try_clone().unwrap();
        let copy = stream.try_clone().unwrap();
        drop(stream);
        drop(other);
        drop(copy);
        gone.recv().unwrap();
        let got = epolls.each_ref().map(reported);
        assert_eq!(got, [[2], [3]], "of the closed one, and of the one that is still open under another fd");
        drop(other_copy);
    });
    let address = told.recv().unwrap();
    let (mut client, mut other) = (connect(address), connect(address));
    assert_eq!(read_to_end(&mut client), b"");
    let _handed = program.handed();
    // Loopback delivers before the call returns.
    client.write_all(b"late").unwrap();
    other.write_all(b"late").unwrap();
    go.send(()).unwrap();
    let _other = program.handed();
    let counts = [(Count::Seen, 2), (Count::Handed, 2), (Count::Unread, 1)];
    assert_eq!(program.end().counts, only(&counts));
}

/// What an epoll reports now.
fn reported(epoll: &OwnedFd) -> Vec<u64> {
    let mut events = [const { MaybeUninit::uninit() }; 4];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let (got, _) = epoll::wait(epoll, &mut events, Some(&at_once)).unwrap();
    got.iter().map(|event| event.data.u64()).collect()
}

fn send_fd(to: &UnixStream, fd: BorrowedFd<'_>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(to, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
}

fn receive_fd(from: &UnixStream) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    received.unwrap()
}

/// A message gives a process an fd of another number, as a copy does.
#[test]
fn what_an_epoll_has_under_the_fd_that_was_sent_is_forgotten_with_the_received_one() {
    let (go, gone) = mpsc::channel();
    let (program, mut client) = Supervised::serving(&Options::default(), COPIES, move |stream| {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        epoll::add(&epoll, &stream, epoll::EventData::new_u64(1), epoll::EventFlags::IN).unwrap();
        let (from, to) = UnixStream::pair().unwrap();
        send_fd(&from, stream.as_fd());
        let received = receive_fd(&to);
        drop(stream);
        drop(received);
        gone.recv().unwrap();
        assert!(reported(&epoll).is_empty());
    });
    assert_eq!(read_to_end(&mut client), b"");
    let _handed = program.handed();
    client.write_all(b"late").unwrap();
    go.send(()).unwrap();
    assert_eq!(program.end().counts, only(&[(Count::Seen, 1), (Count::Handed, 1)]));
}

/// In a message the connection is nobody's, and must not be taken for closed.
#[test]
fn a_connection_in_a_message_is_its_receivers() {
    let (go, gone) = mpsc::channel();
    let (program, mut client) = Supervised::serving(&Options::default(), COPIES, move |stream| {
        let (from, to) = UnixStream::pair().unwrap();
        send_fd(&from, stream.as_fd());
        drop(stream);
        gone.recv().unwrap();
        let mut stream = TcpStream::from(receive_fd(&to));
        stream.write_all(b"received").unwrap();
    });
    go.send(()).unwrap();
    assert_eq!(read_to_end(&mut client), b"received");
    let handed = program.handed();
    assert_eq!(handed.kind, MessageKind::Close);
    let counts = program.end().counts;
    assert_eq!((counts[Count::Handed as usize], counts[Count::Refused as usize]), (1, 0), "{counts:?}");
}

#[test]
fn ports_that_are_left_out_and_sockets_that_are_no_connections_are_left_alone() {
    let (tell, told) = mpsc::channel();
    let (tell_port, told_port) = mpsc::channel::<u16>();
    let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = reserved.local_addr().unwrap().port();
    tell_port.send(port).unwrap();
    let options = Options { exclude_ports: vec![port], ..Options::default() };
    drop(reserved);
    let program = Supervised::start(&options, COPIES, move || {
        let listener = TcpListener::bind(("127.0.0.1", told_port.recv().unwrap())).unwrap();
        tell.send(listener.local_addr().unwrap()).unwrap();
        drop(listener.accept().unwrap());
        drop(UnixStream::pair().unwrap());
        drop(std::fs::File::open("/dev/null").unwrap());
    });
    let mut client = connect(told.recv().unwrap());
    assert_eq!(read_to_end(&mut client), b"");
    let outcome = program.end();
    assert_eq!((outcome.counts, outcome.handed.len()), (only(&[]), 0));
}

/// What they have done is not known, and a connection that is half-closed wrongly is worse than one that ends plainly.
#[test]
fn after_calls_that_the_guard_has_let_happen_ends_are_plain() {
    let (tell, told) = mpsc::channel();
    let program = Supervised::start_late(1, &Options::default(), COPIES, move || {
        drop(std::fs::File::open("/dev/null").unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        tell.send(listener.local_addr().unwrap()).unwrap();
        let stream = listener.accept().unwrap().0;
        await_readable(&stream);
    });
    let mut client = connect(told.recv().unwrap());
    client.write_all(b"x").unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let outcome = program.end();
    assert_eq!(outcome.handed.len(), 0);
    assert_eq!(outcome.counts, only(&[(Count::Seen, 1), (Count::Refused, 1)]));
}
