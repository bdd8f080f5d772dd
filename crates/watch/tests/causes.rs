//! Causes that need more than the kernel's reason, watched live. Needs the right to open tracepoints, usually root.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{alone, both, kill_holder, resets, until, watcher_of, within};
use linger_testing::{HOSTS, skip, two_hosts};
use linger_watch::{Direction, LiveReset, Notice, ProcessRole, Unknown};
use linger_why::{Cause, Confidence};
use rustix::net::sockopt::set_tcp_quickack;

/// The resets that were sent from `port`.
fn sent(notices: &[Notice], port: u16) -> Vec<&LiveReset> {
    let sent = resets(notices).filter(|reset| reset.direction == Direction::Sent);
    sent.filter(|reset| reset.local.port() == port).collect()
}

#[test]
fn a_killed_process_is_one_notice_with_the_number_of_its_connections() {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let Some(mut watcher) = watcher_of(&[port]) else { return };
    let _clients = kill_holder(&listener, 20);
    let notices = until(&mut watcher, both(1, 20));
    let told = sent(&notices, port);
    let [gone] = told[..] else { panic!("{told:?}") };
    assert_eq!(
        (gone.cause, gone.confidence, gone.connections),
        (Cause::ProcessGone, Confidence::Certain, 20)
    );
    assert_eq!(gone.role, Some(ProcessRole::Closed));
    assert!(gone.process.as_ref().is_some_and(|process| process.name == *"sleep"), "{gone:?}");
    assert!(gone.evidence[0].contains("ended after a SIGKILL"), "{gone:?}");
    assert_eq!(gone.bytes.unread, Some(120), "twenty times six: {gone:?}");
    let received: Vec<_> = resets(&notices).filter(|reset| reset.direction == Direction::Received).collect();
    assert_eq!(received.len(), 20, "each peer has its own");
    assert!(received.iter().all(|reset| reset.cause == Cause::ProcessGone), "{received:?}");
    // Nobody of this process has caused what its ends received.
    assert!(received.iter().all(|reset| reset.role != Some(ProcessRole::Closed)), "{received:?}");
}

#[test]
fn a_late_byte_before_the_fin_is_acknowledged_is_data_after_close() {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let Some(mut watcher) = watcher_of(&[port]) else { return };
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    // The FIN waits behind more than the client takes.
    while server.write(&[7; 100_000]).is_ok() {}
    drop(server);
    client.write_all(b"late").unwrap();
    let notices = until(&mut watcher, both(1, 0));
    let told = sent(&notices, port);
    let [late] = told[..] else { panic!("{told:?}") };
    assert_eq!(late.reason.as_deref(), Some("TCP_ABORT_ON_DATA"));
    assert_eq!((late.cause, late.confidence), (Cause::DataAfterClose, Confidence::Certain), "{late:?}");
}

/// The kernel gives the same reason for a negative `TCP_LINGER2` as for late data.
#[test]
fn a_negative_linger2_is_an_abort() {
    /// Prints its port; answers each request and closes.
    const SERVER: &str = "import socket\nl = socket.create_server(('127.0.0.1', 0))\nprint(l.getsockname()[1], flush=True)\n\
        while True:\n s = l.accept()[0]\n s.setsockopt(socket.IPPROTO_TCP, 8, -1)\n s.recv(9)\n s.send(b'answer')\n s.close()";
    let _alone = alone();
    let server = Command::new("python3").args(["-c", SERVER]).stdout(Stdio::piped()).spawn();
    let Ok(mut server) = server else { return skip("python3", "it is not installed") };
    let mut port = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(server.stdout.take().unwrap()), &mut port)
        .unwrap();
    let port: u16 = port.trim().parse().unwrap();
    let watcher = watcher_of(&[port]);
    let notices = watcher.map(|mut watcher| {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(b"request").unwrap();
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        // The FIN is acknowledged now, and not by a timer (`tcp_delack_timer`): in a timer's softirq perf drops an event now
        // and then, for all readers and without counting it. The watcher finds that by the kernel's counters (`missed`).
        let _ = set_tcp_quickack(&client, true);
        until(&mut watcher, both(1, 0))
    });
    server.kill().unwrap();
    server.wait().unwrap();
    let Some(notices) = notices else { return };
    let told = sent(&notices, port);
    let [aborted] = told[..] else { panic!("{told:?}") };
    assert_eq!(aborted.reason.as_deref(), Some("TCP_ABORT_ON_DATA"));
    assert_eq!((aborted.cause, aborted.confidence), (Cause::Aborted, Confidence::Certain), "{aborted:?}");
}

#[test]
fn unread_bytes_of_mptcp_are_unknown_not_none() {
    let _alone = alone();
    let mptcp =
        || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, Some(socket2::Protocol::MPTCP));
    let Ok(listener) = mptcp() else { return skip("live tracepoints", "this kernel has no MPTCP") };
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(1).unwrap();
    let local = listener.local_addr().unwrap();
    let port = local.as_socket().unwrap().port();
    let Some(mut watcher) = watcher_of(&[port]) else { return };
    let client = mptcp().unwrap();
    client.connect(&local).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.send(b"unread").unwrap();
    server.peek(&mut [std::mem::MaybeUninit::new(0)]).unwrap();
    drop(server);
    let notices = until(&mut watcher, both(1, 0));
    let told = sent(&notices, port);
    let [reset] = told[..] else { panic!("{told:?}") };
    assert_eq!(reset.cause, Cause::ClosedWithUnreadData, "{reset:?}");
    assert_eq!((reset.bytes.unread, reset.bytes.unknown), (None, Some(Unknown::Mptcp)), "{reset:?}");
}

/// A client that does not get the reset retransmits, and each of its packets is answered by a further reset.
#[test]
fn further_resets_are_told_with_the_first() {
    let _alone = alone();
    let Some(mut watcher) = watcher_of(&[7_117]) else { return };
    let [here, there] = two_hosts();
    let listener = there.run(|| TcpListener::bind((HOSTS[1], 7_117))).unwrap().unwrap();
    let mut client = here.run(|| TcpStream::connect((HOSTS[1], 7_117))).unwrap().unwrap();
    let (server, _) = listener.accept().unwrap();
    client.write_all(b"unread").unwrap();
    server.peek(&mut [0]).unwrap();
    // From now on what the server sends reaches nobody.
    let nowhere = format!("neigh replace {} lladdr 02:00:00:00:00:99 dev eth0", HOSTS[0]);
    if !within(&there, "ip", &nowhere) {
        return skip("iproute2", "no `ip`");
    }
    client.write_all(b"more").unwrap();
    drop((listener, server));
    let (mut first, mut further) = (0, 0);
    let bound = Instant::now() + Duration::from_secs(20);
    while further == 0 && Instant::now() < bound {
        for notice in watcher.next(Duration::from_millis(50)).unwrap() {
            match notice {
                Notice::Reset(reset) => {
                    assert_eq!(reset.cause, Cause::ClosedWithUnreadData, "{reset:?}");
                    first += 1;
                    further += reset.further_resets;
                }
                Notice::Further(echoes) => {
                    assert_eq!(echoes.cause, Cause::ClosedWithUnreadData, "{echoes:?}");
                    further += echoes.resets;
                }
                _ => {}
            }
        }
    }
    assert!(first == 1 && further >= 1, "{first} and {further} further");
}
