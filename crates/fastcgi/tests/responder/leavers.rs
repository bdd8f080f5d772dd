//! Gateways that leave, each at a point of its own in the conversation and in its own way: no handler stays, and no slot.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use crate::common::Running;
use linger_fastcgi::record::{RecordType, Role, push, push_begin, push_stream};
use linger_fastcgi::responder::Config;
use linger_fastcgi::{Request, Response};

const LEAVERS: usize = 10_000;
const THREADS: usize = 8;
/// As many requests run at once, and as many must run at once afterwards.
const SLOTS: usize = 16;

/// Longer than any test: nothing but the gateways' leaving ends a wait.
const EVER: Duration = Duration::from_secs(3600);

fn config(multiplex: bool) -> Config {
    let mut config = Config::default();
    (config.io_timeout, config.keep_idle, config.stop_within) = (EVER, EVER, None);
    (config.connections, config.multiplex) = (SLOTS, multiplex);
    // A gateway that is gone has nothing to say.
    (config.policy.grace, config.policy.idle) = (Duration::from_millis(20), Duration::from_millis(20));
    config
}

/// Counts the handlers that are at work.
struct Working(Arc<AtomicUsize>);

impl Working {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Random numbers that are the same in each run (Knuth's multiplier).
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }
}

const KINDS: [&str; 4] = ["read", "write", "ask", "both"];

fn request(kind: &str, body: usize) -> Vec<u8> {
    let mut out = Vec::new();
    push_begin(&mut out, 1, Role::Responder, true);
    let mut pairs = Vec::new();
    linger_fastcgi::params::push_pair(&mut pairs, b"KIND", kind.as_bytes());
    push(&mut out, RecordType::Params, 1, &pairs);
    push(&mut out, RecordType::Params, 1, &[]);
    push_stream(&mut out, RecordType::Stdin, 1, &vec![b'b'; body]);
    push(&mut out, RecordType::Stdin, 1, &[]);
    out
}

/// Sends a part of a request, reads a part of the response, and leaves: in order, by a reset, or with half of the connection first.
fn leave(address: SocketAddr, random: &mut Random) {
    let mut stream = TcpStream::connect(address).unwrap();
    let body = [0, 100, 70_000][random.below(3)];
    let kind = KINDS[random.below(KINDS.len())];
    let all = request(kind, body);
    let sent = if random.below(4) == 0 { all.len() } else { random.below(all.len() + 1) };
    // The application may have ended the connection already.
    let _ = stream.write_all(&all[..sent]);
    // Who asks waits for this gateway's leaving.
    if sent == all.len() && kind != "ask" && random.below(2) == 0 {
        let _ = stream.read(&mut vec![0; 1 + random.below(4000)]);
    }
    match random.below(3) {
        0 => {}
        1 => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
        _ => stream.shutdown(std::net::Shutdown::Write).unwrap(),
    }
}

fn all_leave(address: SocketAddr) {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let mut random = Random(thread as u64 + 1);
                (0..LEAVERS / THREADS).for_each(|_| leave(address, &mut random));
            });
        }
    });
}

/// As many requests as there are slots, none of which ends before all are at work.
fn all_slots_are_there(address: SocketAddr) {
    let ask = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&request("meet", 0)).unwrap();
        stream
    };
    let streams: Vec<TcpStream> = (0..SLOTS).map(|_| ask()).collect();
    for mut stream in streams {
        let mut got = Vec::new();
        while !got.windows(3).any(|three| three == b"met") {
            let mut bytes = [0; 1000];
            let read = stream.read(&mut bytes).unwrap();
            assert!(read > 0, "the response was cut: {got:?}");
            got.extend_from_slice(&bytes[..read]);
        }
    }
}

#[test]
fn ten_thousand_leave_threads() {
    for multiplex in [false, true] {
        let (working, meeting) = (Arc::new(AtomicUsize::new(0)), Barrier::new(SLOTS));
        let counted = working.clone();
        let running =
            Running::start(config(multiplex), move |request: &mut Request, response: &mut Response| {
                let _working = Working::new(&counted);
                let kind = request.params().text("KIND").unwrap_or_default().to_owned();
                write!(response, "Content-Type: text/plain\r\n\r\n")?;
                match kind.as_str() {
                    "read" => drop(io::copy(request, &mut io::sink())?),
                    "write" => drop(io::copy(&mut io::repeat(b'r').take(3 << 20), response)?),
                    "both" => drop(io::copy(request, response)?),
                    "ask" => {
                        for _ in 0..20 {
                            if request.is_aborted() {
                                break;
                            }
                            std::thread::yield_now();
                        }
                    }
                    "meet" => {
                        meeting.wait();
                        write!(response, "met")?;
                    }
                    _ => {}
                }
                Ok(0)
            });
        all_leave(running.port());
        all_slots_are_there(running.port());
        // This joins the responder's threads, which wait for every handler.
        drop(running);
        assert_eq!(working.load(Ordering::SeqCst), 0, "multiplex {multiplex}");
    }
}

#[cfg(feature = "tokio")]
mod on_tokio {
    use linger_fastcgi::tokio::{Request, Response, serve_until};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn ten_thousand_leave() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (working, meeting) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Barrier::new(SLOTS)));
        let counted = working.clone();
        let handler = move |mut request: Request, mut response: Response| {
            let (working, meeting) = (Working::new(&counted), meeting.clone());
            async move {
                let _working = working;
                let kind = request.params().text("KIND").unwrap_or_default().to_owned();
                response.write(b"Content-Type: text/plain\r\n\r\n").await?;
                match kind.as_str() {
                    "read" => while request.chunk().await?.is_some() {},
                    "write" => {
                        for _ in 0..60 {
                            response.write(&[b'r'; 50_000]).await?;
                        }
                    }
                    "both" => {
                        while let Some(bytes) = request.chunk().await? {
                            response.write(&bytes).await?;
                        }
                    }
                    // Nothing but the gateway's leaving ends this.
                    "ask" => request.aborted().wait().await,
                    "meet" => {
                        meeting.wait().await;
                        response.write(b"met").await?;
                    }
                    _ => {}
                }
                response.end(0).await
            }
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server =
            tokio::spawn(serve_until(listener, config(true), handler, async { drop(stopped.await) }));
        let gateways = move || {
            all_leave(address);
            all_slots_are_there(address);
        };
        tokio::task::spawn_blocking(gateways).await.unwrap();
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
        assert_eq!(working.load(Ordering::SeqCst), 0);
    }
}
