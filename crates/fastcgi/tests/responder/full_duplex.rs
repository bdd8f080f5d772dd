//! Gateways of four kinds, of which each stalls an application that has only one order: one writes its whole request before it
//! reads, one insists on sending it before END_REQUEST, one stops sending when the response begins, one leaves.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::common::Running;
use linger_fastcgi::params::push_pair;
use linger_fastcgi::record::{self, RecordType, Role, push, push_begin, push_stream};
use linger_fastcgi::responder::Config;
use linger_fastcgi::{Params, Request, Response, cgi};

/// More than the buffers of both ends take.
const LARGE: usize = 20 << 20;

/// Answers with `X_ANSWER` bytes, half of them before it reads `X_READ` bytes of the body. The last line says what it read.
fn writes_first(request: &mut Request, response: &mut Response) -> io::Result<u32> {
    let number = |name| request.params().text(name).and_then(|text| text.parse::<usize>().ok()).unwrap();
    let (read, answer) = (number("X_READ"), number("X_ANSWER"));
    std::thread::sleep(wait(request.params()));
    cgi::head(&mut *response, 200, [])?;
    vec![b'r'; answer / 2].chunks(8 << 10).try_for_each(|piece| response.write_all(piece))?;
    let mut body = Vec::new();
    request.take(read as u64).read_to_end(&mut body)?;
    vec![b'r'; answer.div_ceil(2)].chunks(8 << 10).try_for_each(|piece| response.write_all(piece))?;
    write!(response, "{}", said(&body))?;
    Ok(0)
}

/// How long a handler thinks, so that the body may fill all that is held for it.
fn wait(params: &Params) -> Duration {
    Duration::from_millis(params.text("X_WAIT_MS").and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// What a body repeats. No length of a record is a multiple of it.
fn pattern() -> Vec<u8> {
    (0..251).collect()
}

fn said(body: &[u8]) -> String {
    let pattern = pattern();
    let is_right = body.chunks(pattern.len()).all(|part| *part == pattern[..part.len()]);
    format!("\n{} {}", body.len(), if is_right { "right" } else { "wrong" })
}

#[cfg(feature = "tokio")]
mod on_tokio {
    use linger_fastcgi::tokio::{Request, Response, serve};

    use super::*;

    async fn writes_first(mut request: Request, mut response: Response) -> io::Result<()> {
        let number = |name| request.params().text(name).and_then(|text| text.parse::<usize>().ok()).unwrap();
        let (read, answer) = (number("X_READ"), number("X_ANSWER"));
        tokio::time::sleep(wait(request.params())).await;
        response.write(b"Status: 200\r\n\r\n").await?;
        write(&mut response, answer / 2).await?;
        let mut body = Vec::new();
        while body.len() < read
            && let Some(bytes) = request.chunk().await?
        {
            body.extend_from_slice(&bytes);
        }
        body.truncate(read);
        write(&mut response, answer.div_ceil(2)).await?;
        response.write(said(&body).as_bytes()).await?;
        response.end(0).await
    }

    async fn write(response: &mut Response, mut bytes: usize) -> io::Result<()> {
        while bytes > 0 {
            let piece = bytes.min(50_000);
            response.write(&vec![b'r'; piece]).await?;
            bytes -= piece;
        }
        Ok(())
    }

    /// Serves on a runtime that is dropped with what this returns.
    pub(crate) fn start(config: Config) -> (tokio::runtime::Runtime, SocketAddr) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(serve(listener, config, writes_first));
        (runtime, address)
    }
}

/// Runs `test` on applications of every driver.
fn everywhere(config: &Config, test: impl Fn(&str, SocketAddr)) {
    for multiplex in [false, true] {
        let mut config = config.clone();
        config.multiplex = multiplex;
        let running = Running::start(config, writes_first);
        test(if multiplex { "threads, multiplexing" } else { "threads" }, running.port());
    }
    #[cfg(feature = "tokio")]
    {
        let (_runtime, address) = on_tokio::start(config.clone());
        test("tokio", address);
    }
}

fn head(read: usize, answer: usize) -> Vec<u8> {
    head_of(read, answer, 0)
}

fn head_of(read: usize, answer: usize, wait_ms: u64) -> Vec<u8> {
    let (mut out, mut pairs) = (Vec::new(), Vec::new());
    push_begin(&mut out, 1, Role::Responder, false);
    push_pair(&mut pairs, b"X_READ", read.to_string().as_bytes());
    push_pair(&mut pairs, b"X_ANSWER", answer.to_string().as_bytes());
    push_pair(&mut pairs, b"X_WAIT_MS", wait_ms.to_string().as_bytes());
    push_stream(&mut out, RecordType::Params, 1, &pairs);
    push(&mut out, RecordType::Params, 1, &[]);
    out
}

fn body(bytes: usize) -> Vec<u8> {
    let pattern = pattern();
    let content = &pattern.repeat(bytes / pattern.len() + 1)[..bytes];
    let mut out = Vec::new();
    push_stream(&mut out, RecordType::Stdin, 1, content);
    push(&mut out, RecordType::Stdin, 1, &[]);
    out
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        set(&stream, Some(Duration::from_secs(60))).unwrap();
    }
    stream
}

/// A response: its STDOUT, and whether END_REQUEST came.
#[derive(Default)]
struct Heard {
    stdout: Vec<u8>,
    ended: bool,
}

impl Heard {
    /// Takes whole records off the front of `bytes`.
    fn take(&mut self, bytes: &mut Vec<u8>) {
        let mut at = 0;
        while let [_, kind, _, _, length1, length0, padding, _, content @ ..] = &bytes[at..] {
            let length = usize::from(u16::from_be_bytes([*length1, *length0]));
            let whole = length + usize::from(*padding);
            if content.len() < whole {
                break;
            }
            match kind {
                3 => self.ended = true,
                6 => self.stdout.extend_from_slice(&content[..length]),
                _ => {}
            }
            at += record::HEADER + whole;
        }
        bytes.drain(..at);
    }

    fn all(bytes: &mut Vec<u8>) -> Self {
        let mut heard = Self::default();
        heard.take(bytes);
        heard
    }

    fn assert(&self, driver: &str, read: usize, answer: usize) {
        let last = format!("\n{read} right");
        let rest = self.stdout.strip_suffix(last.as_bytes());
        let rest = rest.unwrap_or_else(|| panic!("{driver}: not {last:?} at the end"));
        let body = rest.windows(4).position(|four| four == b"\r\n\r\n").expect("a header") + 4;
        // Compared as a whole: to count twenty million bytes takes a second unoptimised.
        assert!(rest[body..] == vec![b'r'; answer], "{driver}: {} of {answer} bytes", rest.len() - body);
        assert!(self.ended, "{driver}: no END_REQUEST");
    }
}

/// Writes everything before it reads, as mod_fcgid does.
fn write_then_read(address: SocketAddr, size: usize, read: usize, answer: usize) -> io::Result<Heard> {
    let mut stream = connect(address);
    stream.write_all(&head(read, answer))?;
    stream.write_all(&body(size))?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    Ok(Heard::all(&mut all))
}

#[test]
fn a_gateway_that_writes_first_gets_its_answer() {
    everywhere(&Config::default(), |driver, address| {
        for read in [0, LARGE / 2, LARGE] {
            write_then_read(address, LARGE, read, LARGE).unwrap().assert(driver, read, LARGE);
        }
    });
}

#[test]
fn without_a_file_for_the_body_it_gets_none() {
    let mut config = Config::default();
    config.spool = None;
    config.io_timeout = Duration::from_millis(300);
    (config.policy.grace, config.policy.idle) = (Duration::from_millis(50), Duration::from_millis(50));
    everywhere(&config, |driver, address| {
        let got = write_then_read(address, LARGE, 0, LARGE);
        assert!(!got.is_ok_and(|heard| heard.ended), "{driver}");
    });
}

/// Sends the body in pieces while it reads. Returns how much of it was sent when END_REQUEST came.
fn insists(address: SocketAddr, size: usize) -> (Heard, usize) {
    let mut stream = connect(address);
    let (body, mut sent) = (body(size), 0);
    stream.write_all(&head(0, 1000)).unwrap();
    let (mut heard, mut bytes) = (Heard::default(), Vec::new());
    // The response begins before any of the body is sent.
    while heard.stdout.len() < 1000 {
        let mut piece = [0; 4096];
        let got = stream.read(&mut piece).unwrap();
        bytes.extend_from_slice(&piece[..got]);
        heard.take(&mut bytes);
    }
    stream.set_nonblocking(true).unwrap();
    while !heard.ended {
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(got) => bytes.extend_from_slice(&piece[..got]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
        heard.take(&mut bytes);
        match stream.write(&body[sent..]) {
            Ok(more) => sent += more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
    (heard, body.len() - sent)
}

#[test]
fn end_request_waits_for_a_body_that_moves_if_told_so() {
    let mut config = Config::default();
    // So long that only the end of the body ends the wait, on any machine.
    config.input_idle = Duration::from_secs(3600);
    everywhere(&config, |driver, address| {
        let (heard, unsent) = insists(address, LARGE);
        heard.assert(driver, 0, 1000);
        assert_eq!(unsent, 0, "{driver}: END_REQUEST came before the end of the body");
    });
    config.input_idle = Duration::ZERO;
    everywhere(&config, |driver, address| {
        let (heard, unsent) = insists(address, LARGE);
        heard.assert(driver, 0, 1000);
        assert!(unsent > 0, "{driver}: END_REQUEST waited");
    });
}

#[test]
fn a_body_that_held_the_connection_up_moves_again_when_the_handler_is_done() {
    let mut config = Config::default();
    config.input_idle = Duration::from_secs(3600);
    everywhere(&config, |driver, address| {
        let mut stream = connect(address);
        stream.write_all(&head_of(0, 1000, 300)).unwrap();
        // All of it goes out only when it is read and dropped.
        stream.write_all(&body(LARGE)).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        Heard::all(&mut all).assert(driver, 0, 1000);
    });
}

#[test]
fn a_gateway_that_stops_sending_is_not_awaited() {
    everywhere(&Config::default(), |driver, address| {
        let mut stream = connect(address);
        let body = body(LARGE);
        stream.write_all(&head(0, 1000)).unwrap();
        stream.write_all(&body[..100_000]).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        Heard::all(&mut all).assert(driver, 0, 1000);
    });
}

/// What a handler that waits for the end of its request's life saw.
fn aborted(end: impl Fn(&mut TcpStream), multiplex: bool) {
    let mut config = Config::default();
    config.multiplex = multiplex;
    config.connections = 1;
    let running = Running::start(config, |request: &mut Request, _: &mut Response| {
        while !request.is_aborted() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(io::Error::other("nobody waits"))
    });
    // Each would hold the only slot for ever if it were not seen to leave.
    for _ in 0..3 {
        let mut stream = connect(running.port());
        stream.write_all(&head(0, 0)).unwrap();
        stream.write_all(&body(1000)).unwrap();
        end(&mut stream);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert!(Heard::all(&mut all).ended, "an aborted request ends, too");
    }
}

#[test]
fn a_handler_that_asks_learns_of_an_abort_and_of_a_gateway_that_leaves() {
    for multiplex in [false, true] {
        aborted(
            |stream| {
                let mut abort = Vec::new();
                push(&mut abort, RecordType::AbortRequest, 1, &[]);
                stream.write_all(&abort).unwrap();
            },
            multiplex,
        );
        aborted(|stream| stream.shutdown(std::net::Shutdown::Write).unwrap(), multiplex);
    }
}

/// Numbers from a seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most as u64) as usize
    }
}

/// The long run: `LINGER_LEAVERS=10000 cargo test -p linger-fastcgi --all-features --test responder leave`.
#[test]
fn gateways_that_leave_anywhere_take_no_slot_with_them() {
    let leavers = std::env::var("LINGER_LEAVERS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let mut config = Config::default();
    config.connections = 2;
    (config.policy.grace, config.policy.idle) = (Duration::from_millis(10), Duration::from_millis(10));
    config.input_idle = Duration::from_millis(10);
    everywhere(&config, |driver, address| {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for _ in 0..leavers {
            let (size, answer) = (random.below(100_000), random.below(500_000));
            let mut request = head(random.below(size + 1), answer);
            request.extend(body(size));
            request.truncate(random.below(request.len() + 1));
            let mut stream = connect(address);
            // The application may have ended the connection before all of it is sent.
            let _ = stream.write_all(&request);
            if random.below(2) == 0 {
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read(&mut vec![0; 1 + random.below(answer + 1)]);
            }
        }
        // One request holds a slot, so that another is served only if no slot was lost.
        let mut one = connect(address);
        one.write_all(&head(1000, 0)).unwrap();
        let body = body(1000);
        one.write_all(&body[..500]).unwrap();
        write_then_read(address, 1000, 1000, 1000).unwrap().assert(driver, 1000, 1000);
        one.write_all(&body[500..]).unwrap();
        let mut all = Vec::new();
        one.read_to_end(&mut all).unwrap();
        Heard::all(&mut all).assert(driver, 1000, 0);
    });
}

/// As a proxy does. The writer that waits for room takes what arrives, and nobody else would wake the reader for it.
#[test]
fn a_handler_may_read_and_write_on_two_threads() {
    let mut config = Config::default();
    // Longer than any test: only what arrives wakes the reader.
    config.io_timeout = Duration::from_secs(3600);
    let (tell, read) = std::sync::mpsc::channel();
    let handler = move |request: &mut Request, response: &mut Response| {
        cgi::head(&mut *response, 200, [])?;
        let tell = tell.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let body = io::copy(request, &mut io::sink());
                tell.send(body.unwrap()).unwrap();
            });
            vec![b'r'; LARGE].chunks(8 << 10).try_for_each(|piece| response.write_all(piece)).map(|()| 0)
        })
    };
    let running = Running::start(config, handler);
    const PIECES: usize = 3;
    for _ in 0..50 {
        let mut stream = TcpStream::connect(running.port()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&head(0, 0)).unwrap();
        // The response has begun, and is not read on: soon the writer waits.
        stream.read_exact(&mut [0; 8]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        for _ in 0..PIECES {
            let mut record = Vec::new();
            push(&mut record, RecordType::Stdin, 1, b"piece");
            stream.write_all(&record).unwrap();
            // The gateway's own pause: both threads wait again.
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut end = Vec::new();
        push(&mut end, RecordType::Stdin, 1, b"");
        stream.write_all(&end).unwrap();
        assert_eq!(read.recv_timeout(Duration::from_secs(30)), Ok(5 * PIECES as u64));
        let answer = io::copy(&mut stream, &mut io::sink()).unwrap();
        assert!(answer > LARGE as u64, "{answer}");
    }
}
