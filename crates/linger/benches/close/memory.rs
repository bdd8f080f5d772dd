//! Eight thousand lingering sockets: what they take, and what they cost while nothing happens.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use linger::{Budget, Closer, Policy};
use linger_testing::allocated;

use crate::support::until;
use crate::{Goal, claim, note, peers};

const SOCKETS: usize = 8_000;

pub(crate) fn run() {
    let mut budget = Budget::default();
    budget.sockets = SOCKETS;
    // The worst case for memory: a count is kept for each peer.
    budget.sockets_per_peer = Some(SOCKETS);
    let closer = Closer::new(budget).expect("a closer");
    let thread = peers::closer_thread();
    let mut policy = Policy::default();
    policy.grace = Duration::from_secs(60);
    policy.idle = policy.grace;
    policy.total = policy.grace;
    let listener = TcpListener::bind("0.0.0.0:0").expect("an address");
    let port = listener.local_addr().expect("bound").port();
    let mut clients = Vec::with_capacity(SOCKETS);
    let mut servers = Vec::with_capacity(SOCKETS);
    for number in 0..SOCKETS {
        // Each from an address of its own.
        let from = SocketAddr::from(([127, 1, (number / 250) as u8, (number % 250 + 1) as u8], 0));
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a descriptor");
        socket.bind(&from.into()).expect("all of 127/8 is ours");
        socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("a connection");
        clients.push(socket);
        servers.push(listener.accept().expect("a connection").0);
    }
    let before = allocated();
    for server in servers.drain(..) {
        closer.close(server, &policy);
    }
    let all = SOCKETS as u64;
    until(&closer, |snapshot| snapshot.lingering_acknowledged == all);
    let bytes = allocated().saturating_sub(before) as f64 / SOCKETS as f64;
    let cpu = peers::cpu_of(&thread);
    std::thread::sleep(Duration::from_secs(3));
    let idle = peers::cpu_of(&thread) - cpu;
    assert_eq!(closer.snapshot().lingering, all, "they were to linger all the time");
    claim("bytes of user space a lingering socket, each of another peer", bytes, "", Goal::AtMost(128.0));
    claim("CPU while 8,000 idle for 3 s", idle * 1e3, " ms", Goal::AtMost(1.0));
    drop(clients);
    until(&closer, |snapshot| snapshot.lingering == 0);
    for peer in [peers::nginx(), peers::httpd()].into_iter().flatten() {
        beside(&peer);
    }
}

/// The same number of clients that have read everything and stay, at a foreign server.
fn beside(peer: &peers::Peer) {
    let before = peer.memory();
    let mut clients = Vec::with_capacity(SOCKETS);
    for _ in 0..SOCKETS {
        let mut client = TcpStream::connect(peer.address).expect("the server listens");
        client.write_all(b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").expect("a request");
        client.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        clients.push(client);
    }
    let answered = clients.iter_mut().filter_map(|client| client.read_to_end(&mut Vec::new()).ok()).count();
    let each = (peer.memory() - before) / SOCKETS as f64;
    let cpu = peer.cpu();
    std::thread::sleep(Duration::from_secs(1));
    let idle = (peer.cpu() - cpu) * 1e3;
    note(&format!(
        "{}: {each:.0} bytes a connection that has ended ({answered} answered), {idle:.1} ms CPU in the next second",
        peer.name
    ));
}
