//! Namespaces, veth pairs, ports and processes, on the real kernel, without root.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};

use linger_host::testing::sandboxed;
use linger_host::{Counters, Frame, Namespace, Pool, Port, net, serve_and_exit};

const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 1));
const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 2));

/// Two hosts joined by one veth pair.
fn pair() -> (Namespace, Namespace) {
    let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    a.run(|| {
        net::veth("eth0", [2, 0, 0, 0, 0, 1], "eth0", b.descriptor().unwrap()).unwrap();
        net::address("eth0", A, 24).unwrap();
        net::offloads_off("eth0").unwrap();
        net::up("eth0").unwrap();
    })
    .unwrap();
    b.run(|| {
        net::address("eth0", B, 24).unwrap();
        net::up("eth0").unwrap();
    })
    .unwrap();
    (a, b)
}

#[test]
fn tcp_crosses_a_veth_pair_and_counters_are_private() {
    sandboxed(|| {
        let (a, b) = pair();
        let listener = b.run(|| TcpListener::bind((B, 80)).unwrap()).unwrap();
        let mut client = a.run(|| TcpStream::connect((B, 80)).unwrap()).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), A);
        client.write_all(b"unread").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        let at_b = b.run(|| Counters::read().unwrap()).unwrap();
        assert_eq!((at_b.of("TCPAbortOnClose"), at_b.of("OutRsts")), (1, 1));
        let at_a = a.run(|| Counters::read().unwrap()).unwrap();
        assert_eq!((at_a.of("TCPAbortOnClose"), at_a.of("OutRsts")), (0, 0));
    });
}

#[test]
fn a_setting_of_one_namespace_is_not_anothers() {
    sandboxed(|| {
        let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        a.run(|| net::sysctl("ipv4/tcp_abort_on_overflow", "1").unwrap()).unwrap();
        let read = || net::read_sysctl("ipv4/tcp_abort_on_overflow").unwrap();
        assert_eq!((a.run(read).unwrap(), b.run(read).unwrap()), ("1".to_owned(), "0".to_owned()));
    });
}

#[test]
fn frames_pass_from_port_to_port_in_order() {
    sandboxed(|| {
        let (a, b) = pair();
        let mut pool = Pool::default();
        let at_a = a.run(|| Port::open("eth0").unwrap()).unwrap();
        let at_b = b.run(|| Port::open("eth0").unwrap()).unwrap();
        // Every TCP segment of a real handshake is seen at both ends.
        let _listener = b.run(|| TcpListener::bind((B, 80)).unwrap()).unwrap();
        let _client = a.run(|| TcpStream::connect((B, 80)).unwrap()).unwrap();
        let mut seen: Vec<Frame> = Vec::new();
        while at_b.receive(&mut pool, &mut seen).unwrap() > 0 {}
        // At least the SYN and the ACK; what is sent at an end is not seen by that end's port.
        let count = seen.len();
        assert!(count >= 2, "{seen:?}");
        let sent: Vec<Vec<u8>> = seen.iter().map(|frame| frame.bytes().to_vec()).collect();
        let mut discard = Vec::new();
        while at_a.receive(&mut pool, &mut discard).unwrap() > 0 {}
        assert_eq!(at_b.send(&mut pool, &mut seen).unwrap(), 0);
        let mut got = Vec::new();
        while at_a.receive(&mut pool, &mut got).unwrap() > 0 {}
        let got: Vec<Vec<u8>> = got.iter().map(|frame| frame.bytes().to_vec()).collect();
        assert_eq!(&got[..count], &sent[..]);
        assert_eq!(at_a.overruns().unwrap(), 0);
    });
}

#[test]
fn a_process_that_exits_resets_when_bytes_are_unread() {
    sandboxed(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"request and more").unwrap();
        let before = Counters::read().unwrap();
        let worker = serve_and_exit(listener.accept().unwrap().0.into(), 7, b"response").unwrap();
        assert_eq!(worker.wait().unwrap(), 8);
        let spent = Counters::read().unwrap().since(&before);
        assert_eq!((spent.of("TCPAbortOnClose"), spent.of("OutRsts")), (1, 1));
    });
}
