//! What an outcome claims in states in which the kernel's answers mean something else.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::Duration;

use linger::{Budget, Closer, Ended, Outcome, Policy};
use linger_sys::{TcpState, tcp_state};
use linger_testing::{Counters, sandboxed};
use socket2::{Domain, SockFilter, SockRef, Socket, Type};
use support::LONG;

/// The ways to close, as one: blocking, by a closer, in a task.
const CLOSES: [fn(TcpStream, &Policy) -> Outcome; 3] = [
    |stream, policy| linger::close(stream, policy),
    |stream, policy| {
        let (tell, told) = mpsc::channel();
        let closer = Closer::new(Budget::default()).unwrap();
        closer.close_then(stream, policy, move |outcome| tell.send(outcome).unwrap());
        told.recv_timeout(LONG).unwrap()
    },
    in_a_task,
];

fn in_a_task(stream: TcpStream, policy: &Policy) -> Outcome {
    stream.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        linger::tokio::close(tokio::net::TcpStream::from_std(stream).unwrap(), policy).await
    })
}

/// Lets no segment pass but those with a SYN: the handshake's last never arrives.
fn keep_in_handshake(listener: &TcpListener) {
    let filter = [
        // BPF_LD | BPF_B | BPF_ABS: the flags of the TCP header, at which a TCP socket's filter begins.
        SockFilter::new(0x30, 0, 0, 13),
        // BPF_JMP | BPF_JSET | BPF_K: SYN.
        SockFilter::new(0x45, 0, 1, 0x02),
        // BPF_RET | BPF_K: all, or nothing.
        SockFilter::new(0x06, 0, 0, u32::MAX),
        SockFilter::new(0x06, 0, 0, 0),
    ];
    SockRef::from(listener).attach_filter(&filter).unwrap();
}

/// With Fast Open a server reads and answers before the handshake is over. Until it is, `SIOCOUTQ` says 0 whatever
/// was written.
#[test]
fn nothing_is_delivered_before_the_handshake_is_over() {
    sandboxed(|| {
        // Data in the SYN, accepted and sent without a cookie (`tcp_fastopen` in ip-sysctl.rst).
        std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1543").unwrap();
        const MSG_FASTOPEN: i32 = 0x2000_0000;
        let mut policy = Policy::default();
        let short = Duration::from_millis(300);
        (policy.idle, policy.total, policy.grace) = (short, short, short);
        for close in CLOSES {
            for is_cut in [true, false] {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                if is_cut {
                    keep_in_handshake(&listener);
                }
                let address = listener.local_addr().unwrap().into();
                let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                client.send_to_with_flags(b"request", &address, MSG_FASTOPEN).unwrap();
                let (mut server, _) = listener.accept().unwrap();
                server.read_exact(&mut [0; 7]).unwrap();
                server.write_all(b"answer").unwrap();
                let state = if is_cut { TcpState::SynReceived } else { TcpState::Established };
                assert_eq!(tcp_state(server.as_fd()).unwrap(), state);
                let outcome = close(server, &policy);
                assert_eq!(outcome.delivered(), !is_cut, "{outcome}");
                assert_eq!(outcome.unacknowledged, (!is_cut).then_some(0), "{outcome}");
            }
        }
    });
}

/// `SO_LINGER 0` of the program resets at the close, also a connection on which everything is acknowledged.
#[test]
fn an_abort_that_only_the_program_asked_for_resets_nothing() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        for close in CLOSES {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
            server.write_all(b"answer").unwrap();
            let outcome = close(server, &Policy::default());
            assert_eq!((outcome.ended, outcome.delivered()), (Ended::Acknowledged, true), "{outcome}");
            let mut got = String::new();
            client.read_to_string(&mut got).unwrap();
            assert_eq!(got, "answer");

            // With a peer that has closed before, and with one that closes after it has read.
            for is_before in [true, false] {
                let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (mut server, _) = listener.accept().unwrap();
                SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
                if is_before {
                    client.shutdown(std::net::Shutdown::Write).unwrap();
                }
                server.write_all(b"answer").unwrap();
                let reader = std::thread::spawn(move || {
                    let mut got = String::new();
                    client.read_to_string(&mut got).map(|_| got)
                });
                let outcome = close(server, &Policy::default());
                assert_eq!((outcome.ended, outcome.delivered()), (Ended::PeerClosed, true), "{outcome}");
                assert_eq!(reader.join().unwrap().unwrap(), "answer");
            }
        }
        assert_eq!(Counters::read().unwrap().since(&before).of("OutRsts"), 0);
    });
}
