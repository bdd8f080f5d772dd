//! What an outcome claims, for each state in which a close may find its connection.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::Duration;

use linger::{Bound, Budget, Closer, Ended, Outcome, Policy};
use linger_sys::{TcpState, send_queue, tcp_state};
use linger_testing::{Counters, sandboxed};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
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
                    client.shutdown(Shutdown::Write).unwrap();
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

/// Long enough for a peer on loopback, and short enough for a table.
fn short() -> Policy {
    let mut policy = Policy::default();
    policy.grace = Duration::from_millis(100);
    (policy.idle, policy.total) = (Duration::from_millis(300), Duration::from_millis(500));
    policy
}

/// What the server has written before its close.
const ANSWER: &[u8] = b"answer";

/// Both ends of a connection; the server's is the one that is going to be closed.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    /// Connected, with nothing sent.
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Self { client, server: listener.accept().unwrap().0 }
    }

    /// Multipath TCP at the end that is going to be closed; the other speaks TCP alone if the client has `fallen_back`.
    fn multipath(has_fallen_back: bool) -> Self {
        let socket = |is_multipath: bool| {
            let protocol = if is_multipath { Protocol::MPTCP } else { Protocol::TCP };
            Socket::new(Domain::IPV4, Type::STREAM, Some(protocol)).unwrap()
        };
        let listener = socket(!has_fallen_back);
        listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(1).unwrap();
        let near = socket(true);
        near.connect(&listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        // The first segments settle whether both speak it.
        let mut this = Self { client: far.into(), server: near.into() };
        this.server.write_all(b"request").unwrap();
        this.client.read_exact(&mut [0; 7]).unwrap();
        this.client.write_all(b"x").unwrap();
        this.server.read_exact(&mut [0]).unwrap();
        assert!(linger_sys::is_multipath(this.server.as_fd()).unwrap());
        this
    }

    fn answered(mut self) -> Self {
        self.server.write_all(ANSWER).unwrap();
        self
    }

    /// The client's kernel has the answer.
    fn acknowledged(self) -> Self {
        until(|| send_queue(self.server.as_fd()).unwrap() == 0);
        self
    }

    /// The client's kernel gets nothing more.
    fn vanished(self) -> Self {
        // BPF_RET | BPF_K with 0: keep nothing.
        SockRef::from(&self.client).attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).unwrap();
        self
    }

    /// The client's program ends its side.
    fn client_half_closed(self) -> Self {
        self.client.shutdown(Shutdown::Write).unwrap();
        self
    }

    /// The server's program has ended its side itself.
    fn server_half_closed(self) -> Self {
        self.server.shutdown(Shutdown::Write).unwrap();
        self
    }

    /// Waits until the server's socket is in this state.
    fn once_in(self, state: TcpState) -> Self {
        until(|| tcp_state(self.server.as_fd()).unwrap() == state);
        self
    }
}

/// Waits for what the kernel is about to do.
fn until(is_so: impl Fn() -> bool) {
    let end = std::time::Instant::now() + LONG;
    while !is_so() {
        assert!(std::time::Instant::now() < end, "the kernel never does it");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The expected outcome of a row: how the close ends, the bytes that were not acknowledged, and whether the client's
/// program closed after it had everything.
type Claims = (Ended, Option<u64>, bool);

/// Runs a row by each way to close. The clients live until the close has ended.
fn row(name: &str, wanted: Claims, make: impl Fn() -> Pair) {
    // On a busy machine only what ends by its total needs a short one.
    let policy = if matches!(wanted.0, Ended::TimedOut(_)) { short() } else { short().with_total(LONG) };
    for (way, close) in CLOSES.iter().enumerate() {
        let Pair { client, server } = make();
        let outcome = close(server, &policy);
        let claims = (outcome.ended, outcome.unacknowledged, outcome.closed_after);
        assert_eq!(claims, wanted, "{name}, way {way}: {outcome}");
        assert_eq!(outcome.delivered(), wanted.1 == Some(0), "{name}, way {way}: {outcome}");
        drop(client);
    }
}

const ALL: Option<u64> = Some(0);
const NONE: Option<u64> = Some(ANSWER.len() as u64);

#[test]
fn claims_in_each_state() {
    use TcpState as S;
    sandboxed(|| {
        // The peer's kernel has the answer, and its socket stays open. Then the same without the answer.
        let open = || Pair::new().answered();
        row("ESTABLISHED", (Ended::Acknowledged, ALL, false), || {
            open().acknowledged().once_in(S::Established)
        });
        let cut = || Pair::new().vanished().answered();
        row("ESTABLISHED, cut", (Ended::TimedOut(Bound::Total), NONE, false), || {
            cut().once_in(S::Established)
        });
        // The program has sent the FIN itself.
        let cut_fin = || cut().server_half_closed().once_in(S::FinWait1);
        row("FIN_WAIT1, cut", (Ended::TimedOut(Bound::Total), NONE, false), cut_fin);
        let fin = || open().server_half_closed().once_in(S::FinWait2);
        row("FIN_WAIT2", (Ended::Acknowledged, ALL, false), fin);
        // The answer is acknowledged and the FIN is not: no byte of the answer is missing, but not all is known to be there.
        let fin_cut = || open().acknowledged().vanished().server_half_closed().once_in(S::FinWait1);
        row("FIN_WAIT1, FIN cut", (Ended::TimedOut(Bound::Total), Some(0), false), fin_cut);
        // The client's end came first: its close says nothing about the answer.
        let waits = || Pair::new().client_half_closed().once_in(S::CloseWait).answered();
        row("CLOSE_WAIT", (Ended::PeerClosed, ALL, false), waits);
        let waits_cut = || Pair::new().client_half_closed().once_in(S::CloseWait).vanished().answered();
        row("CLOSE_WAIT, cut", (Ended::TimedOut(Bound::Total), NONE, false), waits_cut);
        let last = || waits_cut().server_half_closed().once_in(S::LastAck);
        row("LAST_ACK, cut", (Ended::TimedOut(Bound::Total), NONE, false), last);
        let closing = || cut().server_half_closed().client_half_closed().once_in(S::Closing);
        row("CLOSING, cut", (Ended::TimedOut(Bound::Total), NONE, false), closing);
        // Both have ended before the close begins (a TIME_WAIT socket remembers the connection).
        let over = || fin().client_half_closed().once_in(S::Close);
        row("CLOSE, over", (Ended::Gone, ALL, false), over);
        let last_over = || waits().server_half_closed().once_in(S::Close);
        row("CLOSE, over the other way", (Ended::Gone, ALL, false), last_over);
    });
}

#[test]
fn claims_after_a_reset_or_a_timeout() {
    use TcpState as S;
    sandboxed(|| {
        let reset = |mut pair: Pair, reads: bool| {
            if reads {
                pair.client.read_exact(&mut [0; ANSWER.len()]).unwrap();
            }
            SockRef::from(&pair.client).set_linger(Some(Duration::ZERO)).unwrap();
            // The close comes after the reset, and the descriptor of the row is another socket's.
            pair.client = Pair::new().client;
            pair.once_in(S::Close)
        };
        let open = || Pair::new().answered().acknowledged();
        row("CLOSE, reset with everything read", (Ended::Gone, ALL, false), || reset(open(), true));
        row("CLOSE, reset with everything unread", (Ended::Gone, ALL, false), || reset(open(), false));
        // Its kernel has not acknowledged the answer: the client resets by itself, while it gets nothing.
        let cut = || Pair::new().vanished().answered();
        row("CLOSE, reset before the answer", (Ended::Gone, NONE, false), || reset(cut(), false));
        let cut_fin = || reset(cut().server_half_closed(), false);
        // Nobody can tell whether the queue still holds the FIN that the program has sent: the FIN may be counted as a
        // byte.
        let one_more = Some(ANSWER.len() as u64 + 1);
        row("CLOSE, reset before the answer, FIN sent", (Ended::Gone, one_more, false), cut_fin);
        // The kernel has given the peer up by itself, before the close.
        let given_up = || {
            let pair = Pair::new().vanished();
            SockRef::from(&pair.server).set_tcp_user_timeout(Some(Duration::from_millis(50))).unwrap();
            pair.answered().once_in(S::Close)
        };
        row("CLOSE, timed out", (Ended::Gone, NONE, false), given_up);
    });
}

#[test]
fn claims_without_a_connection() {
    use TcpState as S;
    sandboxed(|| {
        std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1543").unwrap();
        const MSG_FASTOPEN: i32 = 0x2000_0000;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Nothing comes through: the connection stays in its handshake.
        SockRef::from(&listener).attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).unwrap();
        let address = listener.local_addr().unwrap().into();
        let half = |data: bool| {
            let near = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            near.set_nonblocking(true).unwrap();
            // With Fast Open the data waits in the SYN.
            let sent = if data {
                near.send_to_with_flags(ANSWER, &address, MSG_FASTOPEN).map(drop)
            } else {
                near.connect(&address)
            };
            assert!(data == sent.is_ok(), "{sent:?}");
            Pair { client: Pair::new().client, server: near.into() }.once_in(S::SynSent)
        };
        row("SYN_SENT", (Ended::Gone, None, false), || half(false));
        row("SYN_SENT with data", (Ended::Gone, None, false), || half(true));
        let listening = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let fd = std::os::fd::OwnedFd::from(listener);
            Pair { client: Pair::new().client, server: fd.into() }.once_in(S::Listen)
        };
        row("LISTEN", (Ended::Gone, None, false), listening);
    });
}

#[test]
fn claims_of_multipath_tcp() {
    sandboxed(|| {
        for has_fallen_back in [false, true] {
            let name = |what: &str| format!("MPTCP, fallen back: {has_fallen_back}, {what}");
            let new = || Pair::multipath(has_fallen_back);
            let open = || new().answered().acknowledged();
            row(&name("acknowledged"), (Ended::Acknowledged, ALL, false), open);
            row(&name("FIN sent"), (Ended::Acknowledged, ALL, false), || open().server_half_closed());
            let waits = || {
                let pair = new().client_half_closed();
                until(|| is_at_its_end(&pair.server));
                pair.answered()
            };
            row(&name("client's end first"), (Ended::PeerClosed, ALL, false), waits);
            // A client that reads nothing: its kernel holds a part, and lives.
            for close in CLOSES {
                let Pair { mut client, mut server } = new();
                server.set_nonblocking(true).unwrap();
                let mut written = 0;
                while let Ok(bytes) = server.write(&[7; 1 << 16]) {
                    written += bytes as u64;
                }
                let outcome = close(server, &short());
                let missing = outcome.unacknowledged.unwrap();
                assert_eq!(outcome.ended, Ended::TimedOut(Bound::Total), "{outcome}");
                assert!(!outcome.delivered() && missing < written, "{outcome}");
                // What the kernel held at the close still comes.
                let mut got = Vec::new();
                client.read_to_end(&mut got).unwrap();
                assert_eq!(got.len() as u64, written);
            }
            // A client that closes with its answer unread: a reset, and not delivered.
            for close in CLOSES {
                let Pair { client, mut server } = new();
                server.set_nonblocking(true).unwrap();
                while server.write(&[7; 1 << 16]).is_ok() {}
                drop(client);
                let outcome = close(server, &short());
                assert!(matches!(outcome.ended, Ended::Gone | Ended::PeerReset), "{outcome}");
                assert!(!outcome.delivered(), "{outcome}");
            }
        }
    });
}

/// Whether the peer's end is next to be read.
fn is_at_its_end(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let read = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    read.is_ok_and(|bytes| bytes == 0)
}
