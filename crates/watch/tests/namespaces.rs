//! Connections in several network namespaces, as of containers. Needs the right to open tracepoints, usually root.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::linux::fs::MetadataExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::{alone, both, resets, until, watcher_of};
use linger_testing::{Counters, Namespace, net};
use linger_watch::export::Metrics;
use linger_watch::{Direction, Notice, Warning};
use linger_why::Cause;

/// A namespace as a container has one: with a process in it.
struct Container {
    namespace: Namespace,
    process: Child,
}

impl Container {
    /// `None` without the right to make one.
    fn start() -> Option<Self> {
        let namespace = Namespace::new().ok()?;
        let process = namespace.run(|| Command::new("sleep").arg("1000").spawn()).ok()?.ok()?;
        Some(Self { namespace, process })
    }

    fn inode(&self) -> u64 {
        fs::metadata(format!("/proc/{}/ns/net", self.process.id())).unwrap().st_ino()
    }

    fn run<R: Send>(&self, task: impl FnOnce() -> R + Send) -> R {
        self.namespace.run(task).unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Two containers, and a watcher of a port that is free on this host.
fn two_containers() -> Option<(Container, Container, TcpListener)> {
    let host = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    match (Container::start(), Container::start()) {
        (Some(one), Some(two)) => Some((one, two, host)),
        _ => {
            // A namespace of the host, not one within a user namespace, which tracepoints could not be opened from.
            let need = if rustix::process::geteuid().is_root() { "private networks" } else { "root" };
            linger_testing::skip(need, "no namespace can be made");
            None
        }
    }
}

#[test]
fn a_port_closed_in_a_container_is_not_the_hosts() {
    let _alone = alone();
    let Some((container, _other, host)) = two_containers() else { return };
    let port = host.local_addr().unwrap().port();
    let Some(mut watcher) = watcher_of(&[port]) else { return };
    container.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port))).unwrap_err();
    let notices = until(&mut watcher, both(1, 1));
    let told: Vec<_> = resets(&notices).collect();
    assert_eq!(told.len(), 2, "sent and received: {told:?}");
    for reset in told {
        assert_eq!(reset.cause, Cause::PortClosed, "{reset:?}");
        assert_eq!(reset.namespace.map(|id| id.inode()), Some(container.inode()), "{reset:?}");
        assert!(!reset.is_own_namespace);
        let sent = reset.direction == Direction::Sent;
        assert!(!sent || reset.process.is_none(), "nobody listens there: {reset:?}");
    }
}

#[test]
fn equal_addresses_in_two_containers_are_two_connections() {
    let _alone = alone();
    let Some((one, two, host)) = two_containers() else { return };
    let port = host.local_addr().unwrap().port();
    let Some(mut watcher) = watcher_of(&[port]) else { return };
    let client_at = SocketAddr::from((Ipv4Addr::LOCALHOST, 21_990));
    let connection = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        client.bind(&client_at.into()).unwrap();
        client.connect(&listener.local_addr().unwrap().into()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (listener, TcpStream::from(client), server)
    };
    let (_listening, _client, server) = one.run(connection);
    let (_listening_too, mut other_client, other_server) = two.run(connection);
    other_client.write_all(b"unread").unwrap();
    other_server.peek(&mut [0]).unwrap();
    // The first closes in order, the second by a reset.
    drop(server);
    drop(other_server);
    let notices = until(&mut watcher, both(1, 1));
    let told: Vec<_> = resets(&notices).collect();
    assert_eq!(told.len(), 2, "sent and received: {told:?}");
    for reset in told {
        assert_eq!(reset.cause, Cause::ClosedWithUnreadData, "{reset:?}");
        assert_eq!(reset.namespace.map(|id| id.inode()), Some(two.inode()), "not {}: {reset:?}", one.inode());
    }
    let sent = resets(&notices).find(|reset| reset.direction == Direction::Sent).unwrap();
    assert_eq!(sent.bytes.unread, Some(6), "its namespace told of it: {sent:?}");
}

#[test]
fn an_overflow_in_a_container_is_warned_of_though_nothing_is_reset() {
    let _alone = alone();
    let Some((container, _other, _host)) = two_containers() else { return };
    let listener = container.run(|| {
        net::up("lo").unwrap();
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        listener
    });
    let local = listener.local_addr().unwrap().as_socket().unwrap();
    let Some(mut watcher) = watcher_of(&[local.port()]) else { return };
    let _clients: Vec<_> = container.run(|| {
        let connect = |_| {
            let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            // The first one fits; the others wait without an answer.
            let _ = client.connect(&local.into());
            client
        };
        (0..4).map(connect).collect()
    });
    let bound = Instant::now() + Duration::from_secs(20);
    let overflows = || Counters::read().unwrap().of("ListenOverflows");
    while container.run(overflows) == 0 && Instant::now() < bound {
        std::thread::yield_now();
    }
    let before = container.run(overflows);
    let notices = watcher.finish(Duration::ZERO).unwrap();
    let after = container.run(overflows);
    let told = |notice: &Notice| match notice {
        Notice::Warning(Warning::AcceptQueueOverflowed { overflows, .. }) => *overflows,
        _ => 0,
    };
    let total: u64 = notices.iter().map(told).sum();
    assert!((before..=after).contains(&total), "the kernel counted {before} to {after}: {notices:?}");
    let overflowed = notices.iter().find_map(|notice| match notice {
        Notice::Warning(Warning::AcceptQueueOverflowed { place, local, overflows, .. }) => {
            Some((place.namespace.inode(), *local, *overflows))
        }
        _ => None,
    });
    let Some((namespace, at, overflows)) = overflowed else { panic!("{notices:?}") };
    assert_eq!((namespace, at), (container.inode(), Some(local)));
    assert!(overflows >= 1);
    assert!(resets(&notices).next().is_none(), "nothing was reset: {notices:?}");
    // The counters of the container stand beside those of the host, and the labels say whose they are.
    let counted =
        watcher.counted().places.iter().find(|counted| counted.place.namespace.inode() == namespace);
    let counted = counted.unwrap_or_else(|| panic!("{:?}", watcher.counted()));
    assert!((before..=after).contains(&counted.kernel["ListenOverflows"]), "{counted:?}");
    assert!(!counted.place.is_own && watcher.counted().missed == 0, "{:?}", watcher.counted());
    let metrics = Metrics::default();
    metrics.record(&notices, &watcher);
    let text = metrics.text();
    let of = |name: &str, label: &str| {
        let place = format!("namespace=\"{namespace}\"");
        let is_of = |line: &&str| line.starts_with(name) && line.contains(label) && line.contains(&place);
        text.lines().filter(is_of).count()
    };
    let listener = format!("listener=\"{local}\"");
    assert_eq!(of("linger_kernel_counter_total{", "counter=\"ListenOverflows\""), 1, "{text}");
    assert_eq!(of("linger_listen_overflows_total{", &listener), 1, "{text}");
    assert_eq!(of("linger_listener_queue{", &listener), 1, "{text}");
}

/// How a connection is ended in a container, and what that is.
const KINDS: [(&str, Cause); 4] = [
    ("unread", Cause::ClosedWithUnreadData),
    ("linger 0", Cause::Aborted),
    ("late", Cause::DataAfterClose),
    ("nobody", Cause::PortClosed),
];

/// Ends a connection from `local`, where a listener is, to `remote`, in one of these ways, in the calling thread's namespace.
fn end(kind: &str, listener: &TcpListener, remote: SocketAddr) {
    let local = listener.local_addr().unwrap();
    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    client.set_reuse_address(true).unwrap();
    client.bind(&remote.into()).unwrap();
    if kind == "nobody" {
        let closed = SocketAddr::new(local.ip(), local.port() + 1);
        assert_eq!(client.connect(&closed.into()).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        return;
    }
    client.connect(&local.into()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let mut client = TcpStream::from(client);
    match kind {
        "unread" => {
            client.write_all(b"unread").unwrap();
            server.peek(&mut [0]).unwrap();
        }
        "linger 0" => socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap(),
        _ => {}
    }
    drop(server);
    if kind == "late" {
        // Its FIN has arrived, and then the answer meets nobody.
        assert_eq!(client.peek(&mut [0]).unwrap(), 0);
        client.write_all(b"late").unwrap();
    }
    let ended = client.read(&mut [0]);
    assert!(matches!(ended, Ok(0) | Err(_)), "{kind}: {ended:?}");
}

/// Two containers have the same addresses and the same numbers everywhere. What happens in one of them while the other has the same
/// connection, or has just had it, is told of that one, by cause and process: by turns, on the loopback and on an address of both.
#[test]
fn endings_in_pairs_of_containers_are_of_the_right_one() {
    let _alone = alone();
    let Some((one, two, _host)) = two_containers() else { return };
    let address = Ipv4Addr::new(10, 211, 7, 1);
    let listen = |container: &Container| {
        container.run(|| {
            net::up("lo").unwrap();
            assert!(common::ip(&format!("addr add {address}/32 dev lo")));
            [Ipv4Addr::LOCALHOST, address].map(|address| TcpListener::bind((address, 21_873)).unwrap())
        })
    };
    let containers = [&one, &two].map(|container| (container, listen(container)));
    let ports = [21_873, 21_874];
    let Some(mut watcher) = watcher_of(&ports) else { return };
    let own = fs::read_to_string("/proc/self/comm").unwrap();
    let mut rounds = 0;
    for (at, (kind, cause)) in KINDS.iter().enumerate() {
        for (which, (container, listeners)) in containers.iter().enumerate() {
            for listener in listeners {
                let port = 31_000 + 10 * at as u16;
                let remote = SocketAddr::new(listener.local_addr().unwrap().ip(), port);
                container.run(|| end(kind, listener, remote));
                let notices = until(&mut watcher, both(1, 1));
                let all: Vec<_> = resets(&notices).collect();
                let sent: Vec<_> = all.iter().filter(|reset| reset.direction == Direction::Sent).collect();
                let [sent] = sent[..] else { panic!("{kind} in {which}: {all:?}") };
                assert_eq!(sent.cause, *cause, "{kind} in {which}: {sent:?}");
                let namespace = sent.namespace.map(|id| id.inode());
                if *kind == "nobody" && remote.ip() == address {
                    // No socket, and the address is in both: it may be either.
                    assert_eq!((namespace, sent.namespace_candidates.len()), (None, 2), "{sent:?}");
                } else {
                    assert_eq!(namespace, Some(container.inode()), "{kind} in {which}, {remote}: {all:?}");
                }
                if *kind != "nobody" {
                    let process = sent.process.as_ref().unwrap_or_else(|| panic!("{sent:?}"));
                    assert_eq!(process.name.label(), own.trim_end(), "{sent:?}");
                }
                rounds += 1;
            }
        }
    }
    assert_eq!(rounds, 16);
}

/// A SYN from `remote` to `local`, as a raw socket sends it, to which no socket waits for an answer.
fn raw_syn(local: SocketAddr, remote: SocketAddr) {
    let mut syn = [remote.port().to_be_bytes(), local.port().to_be_bytes()].concat();
    syn.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 100, 0, 0, 0, 0]);
    let (SocketAddr::V4(to), SocketAddr::V4(from)) = (local, remote) else { panic!("{local} is no IPv4") };
    let pseudo = [&from.ip().octets()[..], &to.ip().octets(), &[0, 6, 0, 20], &syn].concat();
    let sum: u32 = pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    syn[16..18].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    let raw = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::TCP));
    let raw = raw.unwrap();
    raw.bind(&SocketAddr::new(remote.ip(), 0).into()).unwrap();
    raw.send_to(&syn, &SocketAddr::new(local.ip(), 0).into()).unwrap();
}

/// The resets that were sent, and the further ones that followed each.
fn sent_and_further(notices: &[Notice]) -> (Vec<&linger_watch::LiveReset>, u32) {
    let sent: Vec<_> = resets(notices).filter(|reset| reset.direction == Direction::Sent).collect();
    let later = notices.iter().map(|notice| match notice {
        Notice::Further(further) => further.resets,
        _ => 0,
    });
    let further = sent.iter().map(|reset| reset.further_resets).chain(later).sum();
    (sent, further)
}

/// The same four numbers to a closed port: each socket that is refused has a reset of its own, in whichever container, and at once or
/// one after the other. A packet of nobody is answered by an echo.
#[test]
fn a_closed_port_in_two_containers_resets_two_connections() {
    let _alone = alone();
    let Some((one, two, host)) = two_containers() else { return };
    let port = host.local_addr().unwrap().port();
    let containers = [&one, &two];
    containers.iter().for_each(|container| container.run(|| net::up("lo").unwrap()));
    let (local, remote) = ((Ipv4Addr::LOCALHOST, port).into(), (Ipv4Addr::LOCALHOST, 31_090).into());
    let refuse = |container: &Container| {
        container.run(|| {
            let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            client.set_reuse_address(true).unwrap();
            client.bind(&SocketAddr::into(remote)).unwrap();
            let refused = client.connect(&SocketAddr::into(local)).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        });
    };
    let Some(mut watcher) = watcher_of(&[port]) else { return };
    containers.iter().for_each(|container| refuse(container));
    let notices = until(&mut watcher, both(2, 2));
    let (sent, further) = sent_and_further(&notices);
    assert_eq!((sent.len(), further), (2, 0), "{notices:?}");
    assert_eq!(resets(&notices).count(), 4, "{notices:?}");
    for direction in [Direction::Sent, Direction::Received] {
        let of = resets(&notices).filter(|reset| reset.direction == direction);
        let mut places: Vec<_> = of.map(|reset| reset.namespace.map(|id| id.inode())).collect();
        let mut wanted = containers.map(|container| Some(container.inode()));
        places.sort();
        wanted.sort();
        assert_eq!(places, wanted, "{direction:?}: {notices:?}");
    }
    // Once more in one of them: a further packet of the same numbers, of nobody, and then a client.
    one.run(|| raw_syn(local, remote));
    refuse(&one);
    let notices = until(&mut watcher, both(1, 1));
    let (sent, further) = sent_and_further(&notices);
    assert_eq!((sent.len(), further), (1, 1), "{notices:?}");
    assert_eq!(sent[0].namespace.map(|id| id.inode()), Some(one.inode()), "{notices:?}");
}

/// An echo is one in the same namespace, and of all four numbers.
#[test]
fn an_echo_in_a_container_is_found() {
    let _alone = alone();
    let Some((one, two, host)) = two_containers() else { return };
    let port = host.local_addr().unwrap().port();
    let address = |last| Ipv4Addr::new(10, 211, 8, last);
    for (container, last) in [(&one, 1), (&two, 2)] {
        container.run(|| {
            net::up("lo").unwrap();
            assert!(common::ip(&format!("addr add {}/32 dev lo", address(last))));
        });
    }
    let Some(mut watcher) = watcher_of(&[port]) else { return };
    let at = |last, port| SocketAddr::from((address(last), port));
    for _ in 0..3 {
        one.run(|| raw_syn(at(1, port), at(1, 31_091)));
    }
    // The same but for the client's port; and the same but for the container, whose address is another.
    one.run(|| raw_syn(at(1, port), at(1, 31_092)));
    two.run(|| raw_syn(at(2, port), at(2, 31_091)));
    let notices = until(&mut watcher, both(3, 0));
    let (sent, further) = sent_and_further(&notices);
    let ends: Vec<_> =
        sent.iter().map(|reset| (reset.namespace.map(|id| id.inode()), reset.remote)).collect();
    let (here, there) = (Some(one.inode()), Some(two.inode()));
    let wanted = [(here, at(1, 31_091)), (here, at(1, 31_092)), (there, at(2, 31_091))];
    assert_eq!(ends, wanted.map(|(place, remote)| (place, Some(remote))), "{notices:?}");
    assert_eq!(further, 2, "{notices:?}");
}
