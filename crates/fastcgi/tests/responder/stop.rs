//! A stop: requests under way end in order, and nobody who waits for a gateway is waited for beyond the bound.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::common::Running;
use linger_fastcgi::record::{RecordType, Role, push, push_begin};
use linger_fastcgi::responder::Config;
use linger_fastcgi::{Request, Responder, Response};
use linger_lab::{Bed, BedOptions, Link, Named};
use linger_testing::sandboxed;

/// Longer than any test: only the bound of the stop, or the gateway, ends a wait.
const EVER: Duration = Duration::from_secs(3600);

fn config(stop_within: Option<Duration>, multiplex: bool) -> Config {
    let mut config = Config::default();
    (config.io_timeout, config.keep_idle, config.input_idle) = (EVER, EVER, EVER);
    (config.stop_within, config.multiplex) = (stop_within, multiplex);
    let brief = Duration::from_millis(100);
    (config.policy.grace, config.policy.idle) = (brief, brief);
    config
}

/// What a gateway has sent of a request when it falls silent.
#[derive(Clone, Copy, Debug)]
enum Silent {
    /// Nothing.
    AtOnce,
    /// A part of the parameters.
    InParameters,
    /// The handler waits for the body.
    InBody,
    /// The handler waits for room, because the gateway does not read.
    Reading,
    /// The handler is done, and END_REQUEST waits for the body.
    AtTheEnd,
}

const ALL: [Silent; 5] =
    [Silent::AtOnce, Silent::InParameters, Silent::InBody, Silent::Reading, Silent::AtTheEnd];

impl Silent {
    fn sent(self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Self::AtOnce = self {
            return out;
        }
        push_begin(&mut out, 1, Role::Responder, true);
        let kind: &[u8] = match self {
            Self::AtOnce | Self::InParameters => return out,
            Self::InBody => b"\x04\x04KINDbody",
            Self::Reading => b"\x04\x05KINDwrite",
            Self::AtTheEnd => b"\x04\x04KINDdone",
        };
        push(&mut out, RecordType::Params, 1, kind);
        push(&mut out, RecordType::Params, 1, &[]);
        push(&mut out, RecordType::Stdin, 1, b"begun");
        out
    }

    /// Connects, sends, and returns the connection when the server is where it waits.
    fn connect(self, address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&self.sent()).unwrap();
        if matches!(self, Self::InBody | Self::Reading | Self::AtTheEnd) {
            // The first byte of the response comes from a handler that runs.
            stream.read_exact(&mut [0; 8]).unwrap();
        }
        stream
    }
}

fn handle(request: &mut Request, response: &mut Response) -> io::Result<u32> {
    write!(response, "Content-Type: text/plain\r\n\r\n")?;
    response.flush()?;
    match request.params().text("KIND") {
        Some("body") => drop(io::copy(request, response)?),
        Some("write") => drop(io::copy(&mut io::repeat(b'r'), response)?),
        _ => {}
    }
    Ok(0)
}

#[test]
fn nobody_is_waited_for_beyond_the_bound() {
    for (silent, multiplex) in ALL.into_iter().flat_map(|silent| [(silent, false), (silent, true)]) {
        let running = Running::start(config(Some(Duration::from_millis(50)), multiplex), handle);
        let stream = silent.connect(running.port());
        // This joins the responder's threads.
        drop(running);
        drop((silent, stream));
    }
}

#[test]
fn a_request_that_ends_within_the_bound_is_whole() {
    for bound in [None, Some(EVER)] {
        let (asked, asks) = std::sync::mpsc::channel();
        let mut running = Running::start(config(bound, false), handle);
        let mut stream = Silent::InBody.connect(running.port());
        let gateway = std::thread::spawn(move || {
            asks.recv().unwrap();
            let mut rest = Vec::new();
            push(&mut rest, RecordType::Stdin, 1, b" and ended after the stop");
            push(&mut rest, RecordType::Stdin, 1, &[]);
            stream.write_all(&rest).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all
        });
        running.stop();
        assert!(running.serves(), "{bound:?}");
        asked.send(()).unwrap();
        drop(running);
        let all = gateway.join().unwrap();
        let text = String::from_utf8_lossy(&all);
        assert!(text.contains("begun and ended after the stop"), "{text}");
        assert_eq!(all[all.len() - 15], 3, "END_REQUEST is the last record");
    }
}

#[test]
fn a_second_order_ends_the_wait_of_the_first() {
    let mut running = Running::start(config(None, false), handle);
    let stream = Silent::InBody.connect(running.port());
    running.stop();
    assert!(running.serves());
    running.stop_now();
    drop(running);
    drop(stream);
}

/// A request with all of its body.
fn whole() -> Vec<u8> {
    let mut out = Silent::InBody.sent();
    push(&mut out, RecordType::Stdin, 1, &[]);
    out
}

/// Waits until nobody listens there any more.
fn until_refused(address: SocketAddr) {
    while TcpStream::connect(address).is_ok() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_waits_in_the_queue_is_served() {
    for multiplex in [false, true] {
        let mut config = config(Some(EVER), multiplex);
        (config.connections, config.input_idle) = (1, Duration::ZERO);
        let mut running = Running::start(config, handle);
        let address = running.port();
        let mut first = Silent::InBody.connect(address);
        let queued: Vec<TcpStream> = (0..5)
            .map(|_| {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(&whole()).unwrap();
                stream
            })
            .collect();
        running.stop();
        push_end_of_body(&mut first);
        for (number, mut stream) in queued.into_iter().enumerate() {
            let mut all = Vec::new();
            let read = stream.read_to_end(&mut all);
            let text = String::from_utf8_lossy(&all);
            assert!(
                read.is_ok() && text.contains("begun"),
                "multiplex {multiplex}, {number}: {read:?}, {text}"
            );
        }
        drop(first);
    }
}

/// A gateway over a link on which each packet takes 270 ms: when its connect returns, the kernel of the application waits for the
/// acknowledgement that makes a connection of the handshake.
fn far_away() -> (Bed, SocketAddr) {
    let bed = Bed::new(&Link::by_name("satellite").unwrap(), BedOptions::default()).unwrap();
    let address = SocketAddr::new(bed.server_address, 9000);
    (bed, address)
}

/// Sends a request, and returns what comes until the end.
fn answer_to(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    stream.write_all(&whole())?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    Ok(all)
}

#[test]
fn a_handshake_that_is_under_way_ends_and_its_request_is_served() {
    sandboxed(|| {
        let (bed, address) = far_away();
        for multiplex in [false, true] {
            let config = config(Some(EVER), multiplex);
            let responder = bed.server.run(|| Responder::bind(&address.into(), config).unwrap()).unwrap();
            let stop = responder.stopper();
            let serving = bed.server.spawn("responder", move || responder.run(handle)).unwrap();
            let answered = bed.client.run(|| {
                let stream = TcpStream::connect(address).unwrap();
                stop.stop();
                answer_to(stream)
            });
            serving.join().unwrap().unwrap().unwrap();
            let answered = answered.unwrap().unwrap_or_else(|error| panic!("multiplex {multiplex}: {error}"));
            assert!(String::from_utf8_lossy(&answered).contains("begun"), "multiplex {multiplex}");
            // Whoever asks after that is refused and not left waiting.
            let refused = bed.client.run(|| TcpStream::connect(address)).unwrap().unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        }
    });
}

fn push_end_of_body(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    push(&mut rest, RecordType::Stdin, 1, &[]);
    stream.write_all(&rest).unwrap();
}

#[test]
fn gateways_that_come_after_a_stop_are_refused_while_requests_end() {
    let mut running = Running::start(config(Some(EVER), false), handle);
    let address = running.port();
    let mut first = Silent::InBody.connect(address);
    running.stop();
    until_refused(address);
    assert!(running.serves(), "a request is under way");
    push_end_of_body(&mut first);
    let mut all = Vec::new();
    first.read_to_end(&mut all).unwrap();
    assert!(String::from_utf8_lossy(&all).contains("begun"));
}

#[cfg(feature = "tokio")]
mod on_tokio {
    use linger_fastcgi::tokio::{Request, Response, serve_until};

    use super::*;

    async fn handle(mut request: Request, mut response: Response) -> io::Result<()> {
        response.write(b"Content-Type: text/plain\r\n\r\n").await?;
        response.flush().await?;
        match request.params().text("KIND") {
            Some("body") => {
                while let Some(bytes) = request.chunk().await? {
                    response.write(&bytes).await?;
                }
            }
            Some("write") => loop {
                response.write(&[b'r'; 50_000]).await?;
            },
            _ => {}
        }
        response.end(0).await
    }

    /// Whether the server ends, after a stop with this bound, before the gateway does anything.
    async fn ends(silent: Silent, bound: Option<Duration>) -> bool {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server =
            tokio::spawn(serve_until(listener, config(bound, true), handle, async { drop(stopped.await) }));
        let stream = tokio::task::spawn_blocking(move || silent.connect(address)).await.unwrap();
        stop.send(()).unwrap();
        if bound.is_none() {
            // The listener is gone once the stop was heard.
            while tokio::net::TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
            return server.is_finished();
        }
        server.await.unwrap().unwrap();
        drop(stream);
        true
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_is_waited_for_beyond_the_bound() {
        for silent in ALL {
            assert!(ends(silent, Some(Duration::from_millis(50))).await, "{silent:?}");
            assert!(!ends(silent, None).await, "{silent:?}: nobody asked for a bound");
        }
    }

    #[test]
    fn a_handshake_that_is_under_way_ends_and_its_request_is_served() {
        sandboxed(|| {
            let (bed, address) = far_away();
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let (listens, listening) = std::sync::mpsc::channel();
            let serve = async move {
                let listener = tokio::net::TcpListener::bind(address).await.unwrap();
                listens.send(()).unwrap();
                let mut config = config(Some(EVER), true);
                config.owns_listener = true;
                serve_until(listener, config, handle, async { drop(stopped.await) }).await
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let serving = bed.server.spawn("responder", move || runtime.block_on(serve)).unwrap();
            listening.recv().unwrap();
            let answered = bed.client.run(|| {
                let stream = TcpStream::connect(address).unwrap();
                stop.send(()).unwrap();
                answer_to(stream)
            });
            serving.join().unwrap().unwrap().unwrap();
            assert!(String::from_utf8_lossy(&answered.unwrap().unwrap()).contains("begun"));
        });
    }
}
