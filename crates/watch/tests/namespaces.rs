//! Connections in several network namespaces, as of containers. Needs the right to open tracepoints, usually root.

mod common;

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::linux::fs::MetadataExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::{alone, both, resets, until, watcher_of};
use linger_testing::{Counters, Namespace, net};
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
        Notice::Warning(Warning::AcceptQueueOverflowed { namespace, local, overflows, .. }) => {
            Some((namespace.inode(), *local, *overflows))
        }
        _ => None,
    });
    let Some((namespace, at, overflows)) = overflowed else { panic!("{notices:?}") };
    assert_eq!((namespace, at), (container.inode(), Some(local)));
    assert!(overflows >= 1);
    assert!(resets(&notices).next().is_none(), "nothing was reset: {notices:?}");
}
