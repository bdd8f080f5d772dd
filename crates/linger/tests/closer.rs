//! The closer under load, under attack, and at the end of its process.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use linger::{Bound, Budget, Closer, Ended, Policy};
use linger_sys::TELLS_ACKNOWLEDGED;
use linger_testing::Counters;
use linger_testing::{close_under_its_owner, sandboxed};
use support::{Got, HAS_STAYED, LONG, RESPONSE, connect_small, no_resets, until};

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A policy under which nothing ends by itself within a test.
fn patient() -> Policy {
    let mut policy = Policy::default();
    (policy.idle, policy.total, policy.grace) = (LONG, LONG, LONG);
    policy
}

/// A policy by which the close of a peer that stays ends once this has passed, with [`HAS_STAYED`].
fn staying_for(time: Duration) -> Policy {
    let policy = patient();
    if TELLS_ACKNOWLEDGED { policy.with_grace(time) } else { policy.with_idle(time) }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn ten_thousand_sockets_in_a_budget_of_a_thousand() {
    sandboxed(|| {
        let mut budget = Budget::default();
        budget.sockets = 1_000;
        let closer = Closer::new(budget).unwrap();
        let (listener, address) = listen();
        let before = descriptors();
        let mut clients = Vec::new();
        for _ in 0..10_000 {
            clients.push(TcpStream::connect(address).unwrap());
            let (mut server, _) = listener.accept().unwrap();
            server.write_all(b"answer").unwrap();
            closer.close(server, &patient());
        }
        let snapshot = until(&closer, |snapshot| snapshot.ended.total() >= 9_000);
        assert_eq!((snapshot.handed_over, snapshot.lingering), (10_000, 1_000));
        assert_eq!(snapshot.ended.evicted, 9_000);
        // The evicted, too, got their answer and a clean end.
        for client in &mut clients {
            let got = Got::read(client);
            assert_eq!((got.bytes.as_slice(), got.error), (&b"answer"[..], None));
        }
        drop(clients);
        until(&closer, |snapshot| snapshot.lingering == 0);
        assert_eq!(descriptors(), before, "a descriptor has leaked");
    });
}

#[test]
fn honest_clients_are_served_while_five_thousand_drip() {
    sandboxed(|| {
        let mut budget = Budget::default();
        budget.sockets = 1_000;
        let closer = Closer::new(budget).unwrap();
        let (listener, address) = listen();
        let serving = {
            let closer = closer.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let mut request = [0; 1];
                    stream.read_exact(&mut request).unwrap();
                    if request == *b"q" {
                        return;
                    }
                    stream.write_all(&[7; 10_000]).unwrap();
                    closer.close(stream, &patient());
                }
            })
        };
        let over = Arc::new(AtomicBool::new(false));
        let (tell, told) = mpsc::channel();
        let dripping = {
            let over = over.clone();
            std::thread::spawn(move || {
                let mut peers: Vec<TcpStream> = Vec::new();
                for _ in 0..5_000 {
                    let mut peer = TcpStream::connect(address).unwrap();
                    peer.write_all(b"d").unwrap();
                    // The server has answered it, so that the accept queue never fills, which would be
                    // another experiment.
                    peer.read_exact(&mut [0; 1]).unwrap();
                    peers.push(peer);
                }
                tell.send(()).unwrap();
                while !over.load(Ordering::Relaxed) {
                    for peer in &mut peers {
                        // Evicted peers get an error.
                        let _ = peer.write(b".");
                    }
                    // A drip: well inside `idle`, so that none ends by itself.
                    std::thread::sleep(Duration::from_millis(300));
                }
            })
        };
        told.recv_timeout(LONG).unwrap();
        for _ in 0..300 {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"h").unwrap();
            let got = Got::read(client);
            assert_eq!((got.bytes.len(), got.error), (10_000, None), "an honest client suffers");
        }
        let snapshot = until(&closer, |snapshot| snapshot.lingering <= 1_000);
        assert!(snapshot.ended.evicted >= 4_000, "{snapshot:?}");
        over.store(true, Ordering::Relaxed);
        dripping.join().unwrap();
        until(&closer, |snapshot| snapshot.lingering == 0);
        TcpStream::connect(address).unwrap().write_all(b"q").unwrap();
        serving.join().unwrap();
    });
}

#[test]
fn a_peer_that_is_killed_is_noticed() {
    sandboxed(|| {
        let (listener, address) = listen();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; echo >&3; exec sleep 1000", address.port());
        let mut peer = Command::new("bash").args(["-c", &script]).stdin(Stdio::null()).spawn().unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        while server.write(&[7; 1 << 16]).is_ok() {}
        let closer = Closer::new(Budget::default()).unwrap();
        let (tell, told) = mpsc::channel();
        closer.close_then(server, &patient(), move |outcome| tell.send(outcome).unwrap());
        until(&closer, |snapshot| snapshot.lingering == 1);
        peer.kill().unwrap();
        peer.wait().unwrap();
        let outcome = told.recv_timeout(LONG).unwrap();
        // The reset may come before the half-close, which is the closer's first action: then the connection
        // is gone.
        assert!(matches!(outcome.ended, Ended::PeerReset | Ended::Gone), "{outcome}");
        assert_eq!(outcome.unacknowledged.is_some_and(|bytes| bytes > 0), TELLS_ACKNOWLEDGED, "{outcome}");
    });
}

#[test]
fn a_forked_copy_of_the_descriptor_holds_nothing_up() {
    sandboxed(|| {
        let (listener, address) = listen();
        let client = TcpStream::connect(address).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"answer").unwrap();
        // The child has it as its standard input.
        let copy = Stdio::from(std::os::fd::OwnedFd::from(server.try_clone().unwrap()));
        let mut child = Command::new("sleep").arg("1000").stdin(copy).spawn().unwrap();
        let closer = Closer::new(Budget::default()).unwrap();
        let (tell, told) = mpsc::channel();
        let policy = staying_for(Duration::from_millis(20));
        closer.close_then(server, &policy, move |outcome| tell.send(outcome).unwrap());
        let got = Got::read(&client);
        assert_eq!((got.bytes.as_slice(), got.error), (&b"answer"[..], None));
        assert_eq!(told.recv_timeout(LONG).unwrap().ended, HAS_STAYED);
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

/// An fd is reused at once; what happens to one connection must not reach the next.
#[test]
fn reused_descriptors_are_not_mixed_up() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        let closer = Closer::new(Budget::default()).unwrap();
        let (listener, address) = listen();
        let mut policy = Policy::default();
        policy.grace = Duration::from_millis(1);
        for round in 0..500u32 {
            let mut client = TcpStream::connect(address).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            // Closed by the closer at some time during the next rounds, when its fd is another's.
            let mut leaving = TcpStream::connect(address).unwrap();
            let (mut ending, _) = listener.accept().unwrap();
            ending.write_all(b"answer").unwrap();
            closer.close(ending, &policy);
            for number in 0..4 {
                client.write_all(&[number; 100]).unwrap();
                let mut echo = [0; 100];
                server.read_exact(&mut echo).unwrap();
                server.write_all(&echo).unwrap();
                client.read_exact(&mut echo).unwrap();
                assert_eq!(echo, [number; 100], "round {round}");
            }
            let mut answer = String::new();
            leaving.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "answer");
        }
        until(&closer, |snapshot| snapshot.lingering == 0);
        no_resets(&before);
    });
}

/// Makes this test binary the server of one connection: it prints its port, answers, and exits.
const ROLE: &str = "LINGER_TEST_EXITS";

#[test]
fn a_process_that_finishes_first_loses_nothing_at_its_exit() {
    if let Ok(how) = std::env::var(ROLE) {
        let (listener, address) = listen();
        println!("\nport {}", address.port());
        let (mut server, _) = listener.accept().unwrap();
        server.read_exact(&mut [0; 7]).unwrap();
        server.write_all(&[7; RESPONSE]).unwrap();
        let closer = Closer::new(Budget::default()).unwrap();
        closer.close(server, &patient());
        if how == "finish" {
            let summary = closer.finish(Duration::from_secs(20));
            assert_eq!((summary.ended.peer_closed, summary.lingering), (1, 0), "{summary:?}");
        }
        std::process::exit(0);
    }
    sandboxed(|| {
        let exits = |how: &str| {
            let me = std::env::current_exe().unwrap();
            let name = "a_process_that_finishes_first_loses_nothing_at_its_exit";
            let mut server = Command::new(me)
                .args([name, "--exact", "--nocapture"])
                .env(ROLE, how)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
            let port =
                lines.find_map(|line| line.unwrap().strip_prefix("port ")?.parse::<u16>().ok()).unwrap();
            let mut client = connect_small(SocketAddr::from(([127, 0, 0, 1], port)));
            client.write_all(b"request").unwrap();
            // More than it reads; it arrives before the whole response fits into this client.
            client.write_all(&[b'u'; 50_000]).unwrap();
            if how == "exit" {
                // Nothing is read before the process is gone, as by a client that is slow.
                server.wait().unwrap();
            }
            let got = Got::read(client);
            assert!(server.wait().unwrap().success());
            got
        };
        let got = exits("finish");
        assert_eq!((got.bytes.len(), got.error), (RESPONSE, None));
        let got = exits("exit");
        assert!(got.bytes.len() < RESPONSE && got.error.is_some(), "{} {:?}", got.bytes.len(), got.error);
    });
}

#[test]
fn an_endless_uploader_costs_what_its_policy_allows() {
    sandboxed(|| {
        let closer = Closer::new(Budget::default()).unwrap();
        let (listener, address) = listen();
        let client = TcpStream::connect(address).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(&[7; 10_000]).unwrap();
        let mut policy = patient();
        policy.max_discard = Some(3_000_000);
        policy.grace = Duration::from_millis(20);
        if !TELLS_ACKNOWLEDGED {
            // A peer that is not read any more is waited for until it is known to have everything, or until here.
            policy.total = Duration::from_secs(1);
        }
        let (tell, told) = mpsc::channel();
        closer.close_then(server, &policy, move |outcome| tell.send(outcome).unwrap());
        let mut upstream = client.try_clone().unwrap();
        let uploading = std::thread::spawn(move || while upstream.write_all(&[b'u'; 1 << 16]).is_ok() {});
        let got = client.try_clone().map(|mut client| {
            let mut got = vec![0; 10_000];
            client.read_exact(&mut got).map(|()| got.len())
        });
        assert_eq!(got.unwrap().unwrap(), 10_000);
        let outcome = told.recv_timeout(LONG).unwrap();
        let is = (outcome.ended, outcome.discarded, outcome.delivered());
        let ended = if TELLS_ACKNOWLEDGED { Ended::Limit } else { Ended::TimedOut(Bound::Total) };
        assert_eq!(is, (ended, 3_000_000, TELLS_ACKNOWLEDGED), "{outcome}");
        uploading.join().unwrap();
    });
}

#[test]
fn a_bound_in_time_is_kept_by_a_flooding_peer_too() {
    sandboxed(|| {
        let closer = Closer::new(Budget::default()).unwrap();
        let (listener, address) = listen();
        let mut client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        let mut policy = Policy::default();
        policy.total = Duration::from_millis(300);
        policy.idle = policy.total;
        policy.grace = policy.total;
        let (tell, told) = mpsc::channel();
        closer.close_then(server, &policy, move |outcome| tell.send(outcome).unwrap());
        let uploading = std::thread::spawn(move || while client.write_all(&[b'u'; 1 << 16]).is_ok() {});
        let outcome = told.recv_timeout(LONG).unwrap();
        let is = (outcome.ended, outcome.delivered());
        assert_eq!(is, (Ended::TimedOut(Bound::Total), TELLS_ACKNOWLEDGED), "{outcome}");
        assert!(outcome.discarded > 1 << 20, "{outcome}");
        uploading.join().unwrap();
    });
}

#[test]
fn a_descriptor_that_is_closed_under_its_feet_is_an_outcome() {
    sandboxed(|| {
        let closer = Closer::new(Budget::default()).unwrap();
        let (listener, address) = listen();
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        let fd = server.as_raw_fd();
        let (tell, told) = mpsc::channel();
        let policy = staying_for(Duration::from_secs(1));
        closer.close_then(server, &policy, move |outcome| tell.send(outcome).unwrap());
        // Its thread has it, and waits for the peer. (Without acknowledgements only: it is to have it.)
        until(&closer, |snapshot| {
            (snapshot.lingering, snapshot.lingering_acknowledged) == (1, TELLS_ACKNOWLEDGED.into())
        });
        close_under_its_owner(fd);
        let outcome = told.recv_timeout(LONG).unwrap();
        assert!(matches!(outcome.ended, Ended::Failed(_)), "{outcome}");
        // All other sockets are served as before.
        let other = TcpStream::connect(address).unwrap();
        closer.close(listener.accept().unwrap().0, &patient());
        drop((client, other));
        let snapshot = until(&closer, |snapshot| snapshot.lingering == 0);
        assert_eq!((snapshot.ended.failed, snapshot.ended.peer_closed), (1, 1));
    });
}
