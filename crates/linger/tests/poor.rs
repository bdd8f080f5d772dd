//! Closes by a process that may not open another descriptor.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use linger::{Budget, Ended, Policy};
use linger_sys::TELLS_ACKNOWLEDGED;
use linger_testing::{Counters, sandboxed};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Got, HAS_STAYED, LONG, RESPONSE, connect_small, no_resets};

/// Sets the limit of descriptors so that this process cannot open another one.
fn no_more_descriptors() {
    let next = TcpListener::bind("127.0.0.1:0").unwrap().as_raw_fd();
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(next.try_into().unwrap()), maximum }).unwrap();
    assert!(
        TcpListener::bind("127.0.0.1:0").is_err()
            && rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).is_err()
    );
}

#[test]
fn a_blocking_close_needs_no_descriptor() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let client = connect_small(listener.local_addr().unwrap());
            client.set_read_timeout(Some(LONG)).unwrap();
            (client, listener.accept().unwrap().0)
        };
        let (reads_late, sends_late, stays) = (pair(), pair(), pair());
        no_more_descriptors();
        let close_by = |mut server: TcpStream, policy: Policy| {
            thread::spawn(move || {
                server.write_all(&[7; RESPONSE]).unwrap();
                linger::close(server, &policy)
            })
        };
        let close = |server| close_by(server, Policy::default());

        // Most of the response waits in the server until the client reads.
        let (client, server) = reads_late;
        let ending = close(server);
        thread::sleep(Duration::from_millis(300));
        assert_eq!(Got::read(client).bytes.len(), RESPONSE);
        let outcome = ending.join().unwrap();
        assert_eq!(
            (outcome.ended, outcome.delivered()),
            (Ended::PeerClosed, TELLS_ACKNOWLEDGED),
            "{outcome}"
        );

        // An upload comes meanwhile, with pauses.
        let (mut client, server) = sends_late;
        let ending = close(server);
        for _ in 0..5 {
            client.write_all(&[b'u'; 50_000]).unwrap();
            thread::sleep(Duration::from_millis(50));
        }
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(Got::read(client).bytes.len(), RESPONSE);
        let outcome = ending.join().unwrap();
        assert_eq!((outcome.discarded, outcome.delivered()), (250_000, TELLS_ACKNOWLEDGED), "{outcome}");

        // This client reads everything and never closes.
        let (mut client, server) = stays;
        let mut policy = Policy::default();
        if !TELLS_ACKNOWLEDGED {
            // Waited for instead of `grace`, since nobody tells that the client has everything.
            policy.idle = Duration::from_secs(1);
        }
        let ending = close_by(server, policy);
        client.read_exact(&mut [0; RESPONSE]).unwrap();
        let outcome = ending.join().unwrap();
        assert_eq!((outcome.ended, outcome.delivered()), (HAS_STAYED, TELLS_ACKNOWLEDGED), "{outcome}");
        drop(client);
        no_resets(&before);
    });
}

#[test]
fn the_default_budget_is_half_of_the_descriptors() {
    sandboxed(|| {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        for (limit, sockets) in [(64, 32), (1024, 512), (8192, 4096), (10_000, 4096)] {
            setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum }).unwrap();
            assert_eq!(Budget::default().sockets, sockets, "{limit}");
        }
    });
}
