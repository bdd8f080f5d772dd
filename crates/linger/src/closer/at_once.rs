//! Closes that cannot wait for the peer, because no closer's thread is there, or too many sockets wait for it.

use std::io;

use linger_sys::Discarder;
use linger_sys::fd::OwnedFd;

use super::{Arrival, Watcher};
use crate::machine::{Action, Core, Event};
use crate::outcome::Outcome;
use crate::policy::Policy;
use crate::socket::Socket;

/// Most bytes that are read before a close that cannot wait, so that a peer that keeps sending does not hold the caller.
const AT_ONCE: u64 = 1 << 20;

/// Ends the connection of a descriptor if no closer can: this process could not make one, or was forked from the process
/// of the closer.
pub(super) fn close_at_once(fd: OwnedFd, policy: &Policy, watcher: Option<Watcher>) {
    match Socket::new(fd) {
        Ok(socket) => end_and_tell(Arrival { socket, core: Core::new(policy, 0), watcher }),
        Err((fd, error)) => {
            drop(fd);
            tell(Outcome::failed(error.kind()), watcher);
        }
    }
}

/// Ends a connection that no closer can end, and calls its watcher with the outcome.
pub(crate) fn end_and_tell(arrival: Arrival) {
    let (outcome, watcher) = end_at_once(arrival, 0);
    tell(outcome, watcher);
}

fn tell(outcome: Outcome, watcher: Option<Watcher>) {
    outcome.trace();
    watcher.into_iter().for_each(|watcher| watcher(outcome));
}

/// Half-closes, empties once, closes.
pub(super) fn end_at_once(arrival: Arrival, now: u64) -> (Outcome, Option<Watcher>) {
    let Arrival { socket, mut core, watcher } = arrival;
    if core.next(now) == Action::HalfClose {
        core.on(socket.half_close(), now);
    }
    let (mut discarder, mut left) = (Discarder::new(), AT_ONCE);
    // A socket that is read through a buffer needs several calls.
    while let event @ Event::Discarded(bytes) = socket.discard(&mut discarder, left) {
        core.on(event, now);
        left = left.saturating_sub(bytes);
        if left == 0 {
            break;
        }
    }
    core.evict();
    core.on(socket.measure(), now);
    let Action::Close { abort, outcome } = core.next(now) else {
        return (Outcome::failed(io::ErrorKind::Other), watcher);
    };
    socket.close(abort);
    (outcome, watcher)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::outcome::Ended;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::channel;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn a_connection_is_half_closed_emptied_and_closed() {
        let (mut client, mut server) = pair();
        client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        client.write_all(b"unread").unwrap();
        server.write_all(b"answer").unwrap();
        let mut ready = [rustix::event::PollFd::new(&server, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut ready, None).unwrap();
        // While another holder has it open, only the half-close ends it for the client.
        let duplicate = server.try_clone().unwrap();
        let (tell, told) = channel();
        close_at_once(
            server.into(),
            &Policy::default(),
            Some(Box::new(move |outcome| tell.send(outcome).unwrap())),
        );
        let outcome = told.try_recv().unwrap();
        assert_eq!((outcome.ended, outcome.discarded), (Ended::Evicted, 6));
        let mut got = String::new();
        client.read_to_string(&mut got).unwrap();
        assert_eq!(got, "answer");
        drop(duplicate);
    }

    #[test]
    fn what_is_no_stream_is_told_too() {
        let (tell, told) = channel();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        close_at_once(
            udp.into(),
            &Policy::default(),
            Some(Box::new(move |outcome| tell.send(outcome).unwrap())),
        );
        assert!(matches!(told.try_recv().unwrap().ended, Ended::Failed(_)));
    }

    #[test]
    fn as_much_is_read_as_a_receive_buffer_holds() {
        let (mut client, server) = pair();
        rustix::net::sockopt::set_socket_recv_buffer_size(&server, 1 << 18).unwrap();
        let written = 100_000;
        let writing = std::thread::spawn(move || client.write_all(&vec![7; written]).map(|()| client));
        let client = writing.join().unwrap().unwrap();
        while linger_sys::unread(std::os::fd::AsFd::as_fd(&server)).unwrap() < written as u64 {
            std::thread::yield_now();
        }
        let core = Core::new(&Policy::default(), 0);
        let (tell, told) = channel();
        let watcher: Watcher = Box::new(move |outcome| tell.send(outcome).unwrap());
        end_and_tell(Arrival { socket: Socket::new(server.into()).unwrap(), core, watcher: Some(watcher) });
        let outcome = told.try_recv().unwrap();
        assert_eq!((outcome.ended, outcome.discarded), (Ended::Evicted, written as u64));
        drop(client);
    }

    #[test]
    #[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
    fn what_a_close_that_cannot_wait_left_is_said() {
        let (client, mut server) = pair();
        server.set_nonblocking(true).unwrap();
        while server.write(&[7; 1 << 16]).is_ok() {}
        let socket = Socket::new(server.into()).unwrap();
        let core = Core::new(&Policy::default(), 5);
        let (outcome, _) = end_at_once(Arrival { socket, core, watcher: None }, 9);
        assert!(outcome.unacknowledged.unwrap() > 0);
        assert_eq!((outcome.ended, outcome.elapsed.as_nanos()), (Ended::Evicted, 4));
        drop(client);
    }
}
