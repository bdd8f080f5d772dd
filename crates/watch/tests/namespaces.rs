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
                // Of a closed port, the same numbers again within a minute count as the same client's next packet.
                let port = 31_000 + 10 * at + if *kind == "nobody" { which } else { 0 };
                let remote = SocketAddr::new(listener.local_addr().unwrap().ip(), port as u16);
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
