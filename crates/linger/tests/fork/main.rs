//! A prefork server: objects that were made before a fork, used in the child.
//!
//! Each case runs in a process of its own, which has a closer with a running thread, and forks. The child has
//! the closer's memory and not its thread, and must end within the test nevertheless.

#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "tokio")]
mod tasks;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::Duration;

use linger::{Budget, Closer, Ended, Outcome, Policy, Snapshot};
use linger_sys::TELLS_ACKNOWLEDGED;
use linger_sys::testing::forked;
use linger_testing::sandboxed;
use support::{HAS_STAYED, LONG, until};

/// The policy's bounds end each close here, because the peer never closes.
fn policy() -> Policy {
    let mut policy = Policy::default();
    policy.idle = Duration::from_millis(200);
    policy.total = Duration::from_millis(500);
    policy.grace = Duration::from_millis(100);
    policy
}

/// Nothing ends by itself.
fn patient() -> Policy {
    let mut policy = Policy::default();
    (policy.idle, policy.total, policy.grace) = (LONG, LONG, LONG);
    policy
}

/// A client that has sent a request, and a server that has answered and left a part of the request unread.
fn answered() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.write_all(b"request and more").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.read_exact(&mut [0; 7]).unwrap();
    server.write_all(b"answer").unwrap();
    (client, server)
}

/// Asserts that the client has the whole answer, and a clean end.
#[track_caller]
fn whole(mut client: TcpStream) {
    client.set_read_timeout(Some(LONG)).unwrap();
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    assert_eq!(got, "answer");
}

/// A closer that has been used, and has a socket that lingers on in the parent.
fn in_use() -> (Closer, TcpStream) {
    let closer = Closer::new(Budget::default()).unwrap();
    let (mut client, server) = answered();
    // Unread, it would make the client's close a reset.
    client.read_exact(&mut [0; 6]).unwrap();
    closer.close(server, &patient());
    until(&closer, |snapshot| {
        (snapshot.lingering, snapshot.lingering_acknowledged) == (1, TELLS_ACKNOWLEDGED.into())
    });
    (closer, client)
}

#[track_caller]
fn in_child(body: impl FnOnce()) {
    let said = forked(|| {
        body();
        "as documented".to_owned()
    });
    assert_eq!(said.as_deref(), Ok("as documented"));
}

/// Asserts the outcome of a socket that a child ended with its parent's closer: read once until empty, and
/// closed.
#[track_caller]
fn ended_at_once(outcome: Outcome) {
    assert_eq!((outcome.ended, outcome.discarded), (Ended::Evicted, 9), "{outcome}");
}

type Method = (&'static str, fn(&Closer));

/// Every method of a closer, with what its documentation says of a child.
const METHODS: &[Method] = &[
    ("close", |closer| {
        let (client, server) = answered();
        closer.close(server, &patient());
        whole(client);
    }),
    ("close: what is no stream", |closer| {
        let (read, write) = rustix::pipe::pipe().unwrap();
        closer.close(write, &patient());
        // It is closed: the other end has hung up.
        assert_eq!(rustix::io::read(&read, &mut [0; 1]).unwrap(), 0);
    }),
    ("close_then", |closer| {
        let (client, server) = answered();
        let (tell, told) = mpsc::channel();
        closer.close_then(server, &patient(), move |outcome| tell.send(outcome).unwrap());
        ended_at_once(told.try_recv().unwrap());
        assert!(told.try_recv().is_err(), "told twice");
        whole(client);
    }),
    ("close_then: what is no stream", |closer| {
        let (_read, write) = rustix::pipe::pipe().unwrap();
        let (tell, told) = mpsc::channel();
        closer.close_then(write, &patient(), move |outcome| tell.send(outcome).unwrap());
        assert!(matches!(told.try_recv().unwrap().ended, Ended::Failed(_)));
    }),
    ("close_then: abort", |closer| {
        let (mut client, server) = answered();
        let (tell, told) = mpsc::channel();
        closer.close_then(server, &Policy::abort(), move |outcome| tell.send(outcome).unwrap());
        assert_eq!(told.try_recv().unwrap().ended, Ended::Aborted);
        assert!(client.read_to_end(&mut Vec::new()).is_err());
    }),
    ("snapshot", |closer| assert_eq!(closer.snapshot(), Snapshot::default())),
    ("evict", |closer| closer.evict(1)),
    ("finish", |closer| assert_eq!(closer.finish(LONG), Snapshot::default())),
    ("clone, Debug and drop", |closer| drop(format!("{:?}", closer.clone()))),
    ("global", |_| {
        let closer = Closer::global().unwrap();
        let (client, server) = answered();
        let (tell, told) = mpsc::channel();
        closer.close_then(server, &policy(), move |outcome| tell.send(outcome).unwrap());
        assert_eq!(told.recv_timeout(LONG).unwrap().ended, HAS_STAYED);
        let summary = closer.finish(LONG);
        assert_eq!(summary.lingering, 0, "{summary:?}");
        assert_eq!((closer.snapshot().handed_over, closer.snapshot().ended.of(HAS_STAYED)), (1, 1));
        whole(client);
    }),
    ("new", |_| {
        let closer = Closer::new(Budget::default()).unwrap();
        let (client, server) = answered();
        closer.close(server, &patient());
        assert_eq!(closer.finish(Duration::ZERO).handed_over, 1);
        whole(client);
    }),
];

#[test]
fn every_method_in_a_child() {
    sandboxed(|| {
        let (closer, client) = in_use();
        for (name, method) in METHODS {
            println!("{name}");
            in_child(|| method(&closer));
            // A grandchild's closer is not its grandparent's either.
            in_child(|| in_child(|| method(&closer)));
        }
        // The parent's own closes are what they were.
        let snapshot = closer.snapshot();
        assert_eq!((snapshot.handed_over, snapshot.lingering), (1, 1), "{snapshot:?}");
        drop(client);
        until(&closer, |snapshot| snapshot.ended.peer_closed == 1);
    });
}

/// A child must not wait for a lock that was held when it was made: nobody there releases it.
#[test]
fn a_fork_while_others_hand_over() {
    sandboxed(|| {
        let (closer, client) = in_use();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    closer.snapshot();
                    closer.evict(0);
                }
            });
            for round in 0..200 {
                let (name, method) = &METHODS[round % 8];
                println!("{name}");
                in_child(|| method(&closer));
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        drop(client);
    });
}

#[test]
fn the_global_closer_is_each_processes_own() {
    sandboxed(|| {
        let parents = Closer::global().unwrap();
        in_child(|| {
            let own = Closer::global().unwrap();
            assert!(!std::ptr::eq(parents, own) && std::ptr::eq(own, Closer::global().unwrap()));
            assert_eq!(own.snapshot(), Snapshot::default());
            // In the grandchild both closers belong to an ancestor. So they do in a second child of this
            // process.
            for _ in 0..2 {
                in_child(|| {
                    let grandchilds = Closer::global().unwrap();
                    assert!(!std::ptr::eq(parents, grandchilds) && !std::ptr::eq(own, grandchilds));
                });
            }
            let (client, server) = answered();
            parents.close(server, &patient());
            whole(client);
        });
        assert!(std::ptr::eq(parents, Closer::global().unwrap()));
    });
}

/// A process id is no proof: in a new pid namespace a child may have that of its parent.
#[test]
#[cfg_attr(
    linger_portable,
    ignore = "asserts what only Linux tells: a process from an ancestor with the same id"
)]
fn a_child_with_its_parents_process_id() {
    sandboxed(|| {
        let first_in_new_namespace = |body: &dyn Fn()| {
            #[allow(deprecated)] // Its reason is CLONE_FILES, which is not asked for.
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWPID).unwrap();
            in_child(body);
        };
        first_in_new_namespace(&|| {
            assert_eq!(std::process::id(), 1);
            let (closer, client) = in_use();
            first_in_new_namespace(&|| {
                assert_eq!(std::process::id(), 1);
                for (_, method) in METHODS {
                    method(&closer);
                }
            });
            drop(client);
            until(&closer, |snapshot| snapshot.ended.peer_closed == 1);
        });
    });
}

#[test]
fn the_blocking_close_in_a_child() {
    sandboxed(|| {
        let (_closer, _client) = in_use();
        in_child(|| {
            let (client, server) = answered();
            let outcome = linger::close(OwnedFd::from(server), &policy());
            assert_eq!((outcome.ended, outcome.discarded), (HAS_STAYED, 9), "{outcome}");
            whole(client);
        });
    });
}

#[cfg(feature = "rustls")]
#[test]
fn tls_in_a_child() {
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    /// Neither side has sent more than its first message. There is something to flush all the same.
    fn connection() -> ClientConnection {
        let config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        ClientConnection::new(config.into(), "localhost".try_into().unwrap()).unwrap()
    }

    fn ends_with_a_goodbye(mut client: TcpStream) {
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        // The last record is an alert of two bytes, close_notify (RFC 8446 section 6).
        assert_eq!(
            (got[..6].to_vec(), &got[got.len() - 7..]),
            (b"answer".to_vec(), &[21, 3, 3, 0, 2, 1, 0][..])
        );
    }

    sandboxed(|| {
        let (closer, _client) = in_use();
        in_child(|| {
            let (client, server) = answered();
            let outcome = linger::rustls::close(&mut connection(), server, &policy());
            assert_eq!((outcome.ended, outcome.discarded), (HAS_STAYED, 9), "{outcome}");
            ends_with_a_goodbye(client);
            let (client, server) = answered();
            linger::rustls::send_close_notify(&mut connection(), &server, LONG).unwrap();
            closer.close(server, &patient());
            ends_with_a_goodbye(client);
        });
    });
}

#[cfg(feature = "metrics")]
#[test]
fn metrics_in_a_child() {
    sandboxed(|| {
        let (closer, _client) = in_use();
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(closer));
        in_child(|| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            assert!(text.contains("linger_handed_over_total 0"), "{text}");
        });
    });
}
