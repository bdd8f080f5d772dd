//! What each answer of the kernel means, on real sockets where it can be had there.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};

use super::*;

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn socket(stream: impl Into<OwnedFd>) -> Socket {
    Socket::new(stream.into()).unwrap()
}

fn discard(socket: &Socket) -> Event {
    socket.discard(&mut Discarder::new(), 1 << 20)
}

/// Waits until something has happened to the socket; `HUP` is reported without being asked for.
fn wait(socket: &impl AsFd, flags: PollFlags) {
    poll(&mut [PollFd::new(socket, flags)], None).unwrap();
}

#[test]
fn each_error_has_its_event() {
    let (_client, server) = pair();
    let socket = socket(server);
    for (code, wanted) in [
        (Errno::AGAIN, Event::Empty),
        (Errno::CONNRESET, Event::Reset),
        (Errno::PIPE, Event::Reset),
        (Errno::CONNABORTED, Event::Reset),
        (Errno::NOTCONN, Event::Gone),
        (Errno::TIMEDOUT, Event::KernelTimeout),
        (Errno::ACCESS, Event::Failed(ErrorKind::PermissionDenied)),
        // Of kernel TLS, whose peer has closed.
        (Errno::IO, Event::EndOfStream),
    ] {
        assert_eq!(socket.discarded(Err(code.into())), wanted, "{code:?}");
        assert!(!socket.is_lost(), "{code:?}");
    }
    assert_eq!((socket.discarded(Ok(0)), socket.discarded(Ok(1))), (Event::EndOfStream, Event::Discarded(1)));
    for code in [Errno::BADF, Errno::NOTSOCK] {
        socket.discarded(Err(code.into()));
        assert!(socket.is_lost(), "{code:?}");
        socket.discarded(Err(Errno::AGAIN.into()));
        assert!(!socket.is_lost());
    }
}

#[test]
fn a_half_close_of_what_is_gone_is_no_failure() {
    let (_client, server) = pair();
    let socket = socket(server);
    for (code, wanted) in [
        (Errno::NOTCONN, Event::Gone),
        (Errno::PIPE, Event::Gone),
        (Errno::CONNRESET, Event::Gone),
        // ECONNABORTED means a reset. EACCES is no error of the connection.
        (Errno::CONNABORTED, Event::Reset),
        (Errno::ACCESS, Event::Failed(ErrorKind::PermissionDenied)),
    ] {
        assert_eq!(socket.not_half_closed(&code.into()), wanted, "{code:?}");
        assert!(!socket.is_lost(), "{code:?}");
    }
    socket.not_half_closed(&Errno::BADF.into());
    assert!(socket.is_lost());
}

/// A socket of this protocol that is not connected: its state is CLOSE.
#[cfg(not(linger_portable))]
fn unconnected(protocol: rustix::net::Protocol) -> Socket {
    let (inet, stream) = (rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM);
    socket(rustix::net::socket(inet, stream, Some(protocol)).unwrap())
}

/// The state CLOSE is that of the connection, but with Multipath TCP that of its first subflow.
#[test]
#[cfg(not(linger_portable))]
fn the_state_of_one_subflow_is_not_the_connections() {
    let (single, multiple) =
        (unconnected(rustix::net::ipproto::TCP), unconnected(rustix::net::ipproto::MPTCP));
    assert_eq!((single.state(), multiple.state()), (Some(TcpState::Close), Some(TcpState::Close)));
    assert_eq!((single.is_multipath(), multiple.is_multipath()), (false, true));
    assert_eq!((single.is_other_subflow(), multiple.is_other_subflow()), (false, true));
    assert!(matches!(single.inspect(), Event::Inspected { .. }));
    assert_eq!(multiple.inspect(), Event::NotInspected);
    // As long as the first subflow is connected, its state is that of the connection.
    let listener = unconnected(rustix::net::ipproto::MPTCP);
    rustix::net::bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let address: SocketAddr = rustix::net::getsockname(&listener).unwrap().try_into().unwrap();
    rustix::net::connect(&multiple, &address).unwrap();
    assert!(!multiple.is_other_subflow());
    assert!(matches!(multiple.inspect(), Event::Inspected { .. }));
}

#[test]
fn a_queue_that_is_left_over_tells_of_a_cut_where_one_path_is_all() {
    for (queue, is_multipath, wanted) in [
        (Some(1), false, true),
        (Some(1), true, false),
        (Some(0), false, false),
        (None, false, false),
        (Some(2), false, true),
    ] {
        assert_eq!(is_cut(queue, || is_multipath), wanted, "{queue:?}, multipath: {is_multipath}");
    }
}

/// A half-close ends an attempt to connect. That is no reset of a connection, and the socket has no send
/// queue to ask for.
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn an_attempt_to_connect_that_was_ended_never_was_a_connection() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // There is room for one connection that nobody accepts. The handshake of the next one does not end.
    rustix::net::listen(&listener, 0).unwrap();
    let _first = TcpStream::connect(address).unwrap();
    let (inet, stream) = (rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM);
    let second = rustix::net::socket_with(inet, stream, rustix::net::SocketFlags::NONBLOCK, None).unwrap();
    assert_eq!(rustix::net::connect(&second, &address), Err(Errno::INPROGRESS));
    let second = socket(second);
    assert!(!second.has_never_begun(), "it is on its way");
    assert_eq!(second.half_close(), Event::HalfClosed);
    assert!(second.has_never_begun());
    assert_eq!(discard(&second), Event::Gone);
    assert_eq!(second.measure(), Event::Unknown);
    // A connection that was reset has been a connection.
    let (client, mut server) = pair();
    server.write_all(b"answer").unwrap();
    let socket = socket(server);
    wait(&client, PollFlags::IN);
    drop(client);
    wait(&socket.fd, PollFlags::RDHUP);
    assert!(!socket.has_never_begun());
    assert_eq!(discard(&socket), Event::Reset);
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn a_connection_is_followed_to_its_end() {
    let (mut client, mut server) = pair();
    server.write_all(b"answer").unwrap();
    let address = client.local_addr().unwrap();
    let socket = socket(server);
    assert_eq!(socket.peer(), Some(address));
    assert_eq!(discard(&socket), Event::Empty);
    assert_eq!(socket.half_close(), Event::HalfClosed);
    client.write_all(b"late").unwrap();
    wait(&socket, PollFlags::IN);
    assert_eq!(discard(&socket), Event::Discarded(4));
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    assert_eq!(got, "answer");
    drop(client);
    wait(&socket, PollFlags::IN);
    assert_eq!(discard(&socket), Event::EndOfStream);
    assert_eq!(socket.measure(), Event::Unacknowledged { bytes: 0, fin: true });
    assert!(!socket.is_dead() && socket.pending().is_none());
    assert_eq!(socket.half_close(), Event::Gone);
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn the_fin_counts_as_one_byte_that_is_not_told() {
    let (client, mut server) = pair();
    server.set_nonblocking(true).unwrap();
    while server.write(&[7; 1 << 16]).is_ok() {}
    let queue = linger_sys::send_queue(server.as_fd()).unwrap();
    let socket = socket(server);
    assert_eq!(socket.half_close(), Event::HalfClosed);
    let Event::Unacknowledged { bytes, fin: false } = socket.measure() else { panic!() };
    assert!(bytes <= queue && bytes > 0);
    assert_eq!(linger_sys::send_queue(socket.as_fd()).unwrap(), bytes + 1);
    assert!(!socket.is_dead(), "it lives");
    // It has unread bytes: the kernel resets.
    drop(client);
    wait(&socket, PollFlags::RDHUP);
    assert!(socket.is_dead());
    assert_eq!(socket.pending(), Some(Event::Reset));
    assert_eq!(socket.pending(), None, "it was taken");
    assert!(matches!(socket.measure(), Event::Unacknowledged { fin: false, .. }));
}

#[cfg(feature = "tokio")]
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn without_a_fin_no_byte_is_taken_for_it() {
    let (client, mut server) = pair();
    server.set_nonblocking(true).unwrap();
    while server.write(&[7; 1 << 16]).is_ok() {}
    let queue = linger_sys::send_queue(server.as_fd()).unwrap();
    let socket = socket(server);
    assert_eq!(socket.measure(), Event::Unacknowledged { bytes: queue, fin: false });
    // If the owner has half-closed the socket, the FIN counts as a byte.
    let socket = socket.half_closed(true);
    assert_eq!(socket.measure(), Event::Unacknowledged { bytes: queue - 1, fin: false });
    // Unless the connection was reset before: then there was no FIN to send. The client has unread data, so
    // that its kernel resets.
    drop(client);
    wait(&socket, PollFlags::RDHUP);
    let queue = linger_sys::send_queue(socket.as_fd()).unwrap();
    assert_eq!(socket.measure(), Event::Unacknowledged { bytes: queue, fin: false });
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn before_the_end_of_the_handshake_an_empty_queue_says_nothing() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // There is room for one connection that nobody accepts. The handshake of the next one does not end.
    rustix::net::listen(&listener, 0).unwrap();
    let first = socket(TcpStream::connect(address).unwrap());
    let (inet, stream) = (rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM);
    let second = rustix::net::socket_with(inet, stream, rustix::net::SocketFlags::NONBLOCK, None).unwrap();
    assert_eq!(rustix::net::connect(&second, &address), Err(Errno::INPROGRESS));
    let second = socket(second);
    assert_eq!(second.measure(), Event::Unknown);
    assert_eq!(first.measure(), Event::Unacknowledged { bytes: 0, fin: true });
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn only_of_tcp_the_kernel_knows_the_peer() {
    let (_client, server) = pair();
    assert!(matches!(socket(server).inspect(), Event::Inspected { probes: 0, retransmits: 0, .. }));
    let (_client, server) = UnixStream::pair().unwrap();
    assert_eq!(socket(server).inspect(), Event::NotInspected);
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn a_local_peer_that_closes_unread_leaves_an_unknown_queue() {
    let (client, mut server) = UnixStream::pair().unwrap();
    server.write_all(b"answer").unwrap();
    let socket = socket(server);
    assert_eq!((socket.peer(), socket.is_dead()), (None, false));
    assert_eq!(socket.half_close(), Event::HalfClosed);
    let Event::Unacknowledged { bytes, fin: false } = socket.measure() else { panic!() };
    assert!(bytes >= 6);
    drop(client);
    assert_eq!(discard(&socket), Event::Reset);
    assert_eq!(socket.measure(), Event::Unknown);
    // The end of the stream that follows tells nothing more.
    assert_eq!((discard(&socket), socket.measure()), (Event::EndOfStream, Event::Unknown));
    // A local peer that has read everything is known to have.
    let (mut client, mut server) = UnixStream::pair().unwrap();
    server.write_all(b"answer").unwrap();
    client.read_exact(&mut [0; 6]).unwrap();
    assert_eq!(self::socket(server).measure(), Event::Unacknowledged { bytes: 0, fin: true });
    // On TCP a reset takes nothing from the queue.
    let (_client, server) = pair();
    let socket = self::socket(server);
    socket.discarded(Err(Errno::CONNRESET.into()));
    assert_ne!(socket.measure(), Event::Unknown);
}

#[test]
fn other_families_have_no_queue_that_counts() {
    let (_client, server) = pair();
    let socket = Socket::of(Family::Other, server);
    assert_eq!(socket.measure(), Event::Unknown);
    assert!(!socket.is_dead());
    let (read, _write) = rustix::pipe::pipe().unwrap();
    assert_eq!(Socket::of(Family::Tcp, read).measure(), Event::Unknown);
}

#[test]
fn what_is_no_stream_is_given_back() {
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (fd, error) = Socket::new(udp.into()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::PROTOTYPE.raw_os_error()));
    drop(fd);
}

#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn the_buffer_is_made_small_and_wake_ups_rare_for_tcp_only() {
    let size = |socket: &Socket| sockopt::socket_recv_buffer_size(socket).unwrap();
    for narrowed in [false, true] {
        let (mut client, server) = pair();
        sockopt::set_socket_recv_buffer_size(&server, 1 << 20).unwrap();
        let socket = socket(server);
        let before = size(&socket);
        client.write_all(&[7; 100]).unwrap();
        wait(&socket, PollFlags::IN);
        if narrowed {
            socket.narrow();
            assert_eq!(size(&socket), 128 << 10, "the kernel doubles it");
        } else {
            let low_water = || linger_sys::testing::receive_low_water(socket.as_fd()).unwrap();
            assert_eq!(low_water(), 1);
            socket.batch_events();
            assert_eq!(size(&socket), before);
            // The kernel lowers it to half of a small buffer (`tcp_set_rcvlowat`).
            assert!(low_water() >= 64 << 10, "a few bytes wake it: {}", low_water());
        }
    }
    let (_client, server) = UnixStream::pair().unwrap();
    let socket = socket(server);
    let before = size(&socket);
    socket.narrow();
    assert_eq!(size(&socket), before);
}

#[test]
fn an_option_of_the_program_does_not_block_the_close() {
    for set in [Duration::from_secs(60), Duration::ZERO] {
        let (_client, server) = pair();
        sockopt::set_socket_linger(&server, Some(set)).unwrap();
        let duplicate = server.try_clone().unwrap();
        socket(server).close(false);
        assert_eq!(sockopt::socket_linger(&duplicate).unwrap(), None, "{set:?}");
    }
}

/// The option has no effect only if both directions have ended; only then it is left set.
#[test]
#[cfg_attr(linger_portable, ignore = "asserts what only Linux tells: what is acknowledged")]
fn a_reset_that_the_program_has_asked_for_is_taken_off_while_a_direction_is_open() {
    for (finished, peer_finished) in [(true, false), (false, true), (false, false), (true, true)] {
        let (mut client, server) = pair();
        sockopt::set_socket_linger(&server, Some(Duration::ZERO)).unwrap();
        let socket = socket(server);
        if finished {
            assert_eq!(socket.half_close(), Event::HalfClosed);
        }
        if peer_finished {
            client.shutdown(std::net::Shutdown::Write).unwrap();
            wait(&socket.fd, PollFlags::RDHUP);
            assert_eq!(discard(&socket), Event::EndOfStream);
        }
        let is_acknowledged = |_| {
            std::thread::yield_now();
            socket.measure() == Event::Unacknowledged { bytes: 0, fin: true }
        };
        assert!((0..1_000_000).any(is_acknowledged), "{finished} {peer_finished}");
        socket.close(false);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "{finished} {peer_finished}");
        assert!(client.take_error().unwrap().is_none(), "{finished} {peer_finished}");
    }
}

#[test]
fn an_abort_resets_and_a_close_does_not() {
    // Whatever the program has set before.
    for set in [None, Some(Duration::ZERO)] {
        for abort in [false, true] {
            let (mut client, server) = pair();
            sockopt::set_socket_linger(&server, set).unwrap();
            socket(server).close(abort);
            assert_eq!(client.read_to_end(&mut Vec::new()).is_err(), abort, "{set:?}");
        }
    }
}

#[test]
fn a_descriptor_that_is_no_socket_any_more_is_left_alone() {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let fd = rustix::fd::AsRawFd::as_raw_fd(&write);
    let lost = Socket::of(Family::Tcp, write);
    assert!(matches!(lost.half_close(), Event::Failed(_)));
    assert!(lost.is_lost());
    lost.close(false);
    // The descriptor is still open, because it belongs to another file by now.
    let path = format!("/proc/self/fd/{fd}");
    assert!(std::fs::read_link(path).unwrap().to_string_lossy().starts_with("pipe:"));
    drop(read);
}
