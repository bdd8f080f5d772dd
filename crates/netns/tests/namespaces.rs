//! Namespaces, veth pairs, settings and counters, on the real kernel, without root.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use linger_netns::{Counters, Namespace, net};
use linger_testing::{HOSTS, sandboxed, two_hosts};

#[test]
fn tcp_crosses_a_veth_pair_and_counters_are_private() {
    sandboxed(|| {
        let [a, b] = two_hosts();
        let listener = b.run(|| TcpListener::bind((HOSTS[1], 80)).unwrap()).unwrap();
        let mut client = a.run(|| TcpStream::connect((HOSTS[1], 80)).unwrap()).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), HOSTS[0]);
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
