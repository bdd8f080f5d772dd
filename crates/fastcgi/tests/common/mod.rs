//! Shared by the tests with foreign peers: this crate's responder, responders that end in other ways, and an
//! HTTP client that counts bytes.
#![allow(dead_code)] // Each test binary uses its part.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use linger_fastcgi::incoming::{Capacity, Incoming, Received};
use linger_fastcgi::record::{self, EndRequest, ProtocolStatus, RecordType};
use linger_fastcgi::responder::{Config, Handler, StopResponder};
use linger_fastcgi::{Address, Limits, Params, Request, Responder, Response, cgi};
#[allow(unused_imports)] // As above.
pub(crate) use linger_testing::servers::available;

/// Body sizes that cross every threshold seen so far: nothing, less than a record's header, the size of the
/// failures of 2014, more than a socket buffer, more than the largest receive window of a default kernel.
pub(crate) const SIZES: [usize; 5] = [0, 8, 67_000, 2 << 20, 8 << 20];

/// How much of the body to read and how much to answer: HTTP headers of the tests, as CGI variables.
fn wanted(params: &Params) -> (u64, u64) {
    let number = |name| params.text(name).and_then(|text| text.parse::<u64>().ok());
    (number("HTTP_X_READ").unwrap_or(u64::MAX), number("HTTP_X_ANSWER").unwrap_or(0))
}

/// Reads and answers as the headers say.
pub(crate) fn sized(request: &mut Request, response: &mut Response) -> io::Result<u32> {
    let (read, answer) = wanted(request.params());
    io::copy(&mut request.take(read), &mut io::sink())?;
    cgi::head(&mut *response, 200, [("Content-Type", "application/octet-stream")])?;
    vec![b'r'; answer as usize].chunks(8 << 10).try_for_each(|piece| response.write_all(piece))?;
    Ok(0)
}

/// A responder of ours that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) address: Address,
    stop: StopResponder,
    thread: Option<thread::JoinHandle<io::Result<()>>>,
}

impl Running {
    pub(crate) fn start(config: Config, handler: impl Handler + 'static) -> Self {
        Self::start_at(&"127.0.0.1:0".parse().unwrap(), config, handler)
    }

    pub(crate) fn start_at(address: &Address, config: Config, handler: impl Handler + 'static) -> Self {
        let responder = Responder::bind(address, config).unwrap();
        let (address, stop) = (responder.local_address().unwrap(), responder.stopper());
        Self { address, stop, thread: Some(thread::spawn(move || responder.run(handler))) }
    }

    pub(crate) fn stop(&mut self) {
        self.stop.stop();
    }

    pub(crate) fn stop_now(&mut self) {
        self.stop.stop_now();
    }

    pub(crate) fn serves(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Where it listens, by TCP.
    pub(crate) fn port(&self) -> SocketAddr {
        let Address::Tcp(address) = &self.address else { panic!("{} is not TCP", self.address) };
        address.parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// The seven ways to end a FastCGI request, after the response was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// END_REQUEST, `close`.
    Close,
    /// END_REQUEST, `shutdown(SHUT_WR)`, `close`.
    ShutWrite,
    /// END_REQUEST, `shutdown(SHUT_RDWR)`, `close`.
    ShutBoth,
    /// `SO_LINGER` of 5 s, END_REQUEST, `close`.
    SoLinger,
    /// STDIN read to its end, END_REQUEST, `close`: uWSGI's since 2.0.5.
    DrainFirst,
    /// END_REQUEST, STDIN read until the peer closes, `close`: Go's.
    DrainNoFin,
    /// END_REQUEST, half-close, bounded drain, close: the one that this crate keeps to.
    Lingering,
}

impl Ending {
    pub(crate) const WRONG: [Self; 6] =
        [Self::Close, Self::ShutWrite, Self::ShutBoth, Self::SoLinger, Self::DrainFirst, Self::DrainNoFin];
}

/// A responder that ends in the given way. It uses only this crate's records.
pub(crate) struct Raw {
    pub(crate) address: SocketAddr,
    stopped: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Raw {
    pub(crate) fn start(ending: Ending) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), ending)
    }

    pub(crate) fn start_at(address: SocketAddr, ending: Ending) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = stopped.clone();
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if flag.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                // A peer that resets in the middle is no concern of this server.
                thread::spawn(move || drop(raw_request(stream, ending)));
            }
        });
        Self { address, stopped, thread: Some(thread) }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        let _ = self.thread.take().unwrap().join();
    }
}

fn raw_request(mut stream: TcpStream, ending: Ending) -> io::Result<()> {
    let mut incoming = Incoming::new(Limits::default(), Capacity::new(1, 1, false));
    let (mut got, mut ended, mut request) = (0, false, None);
    let mut buffer = [0; 4096];
    let mut read =
        |stream: &mut TcpStream, got: &mut u64, ended: &mut bool, request: &mut Option<(u64, u64)>| {
            // Come as close to the wanted number of bytes as uWSGI does, which reads record by record. The last
            // eight bytes, the empty STDIN record, must not be read by chance.
            let near = request.is_some_and(|(wanted, _)| wanted.saturating_sub(*got) < 8192);
            let received = stream.read(if near { &mut buffer[..8] } else { &mut buffer })?;
            if received == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            let mut input = &buffer[..received];
            while let Some(event) = incoming.next(&mut input)? {
                match event {
                    Received::Start(start) => *request = Some(wanted(&start.params)),
                    Received::Stdin(_, bytes) => *got += bytes.len() as u64,
                    Received::StdinEnd(_) => *ended = true,
                    _ => {}
                }
            }
            Ok(())
        };
    let answer = loop {
        match request {
            Some((wanted, answer)) if got >= wanted || ended => break answer,
            _ => read(&mut stream, &mut got, &mut ended, &mut request)?,
        }
    };
    let mut out = Vec::new();
    cgi::head(&mut out, 200, [("Content-Type", "application/octet-stream")])?;
    out.resize(out.len() + answer as usize, b'r');
    let mut records = Vec::new();
    record::push_stream(&mut records, RecordType::Stdout, 1, &out);
    stream.write_all(&records)?;
    if ending == Ending::DrainFirst {
        while !ended {
            read(&mut stream, &mut got, &mut ended, &mut request)?;
        }
    }
    if ending == Ending::SoLinger {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::from_secs(5)))?;
    }
    let mut end = Vec::new();
    record::push(&mut end, RecordType::Stdout, 1, &[]);
    record::push_end(&mut end, 1, EndRequest::new(0, ProtocolStatus::RequestComplete));
    stream.write_all(&end)?;
    match ending {
        Ending::Close | Ending::SoLinger | Ending::DrainFirst => {}
        Ending::ShutWrite => stream.shutdown(Shutdown::Write)?,
        Ending::ShutBoth => stream.shutdown(Shutdown::Both)?,
        Ending::DrainNoFin => drop(io::copy(&mut stream, &mut io::sink())),
        Ending::Lingering => {
            linger::close(stream, &linger::Policy::default());
        }
    }
    Ok(())
}

/// What an HTTP client got.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    /// 0 if not even a status line came.
    pub(crate) status: u16,
    pub(crate) body: usize,
    pub(crate) error: Option<io::ErrorKind>,
    pub(crate) elapsed: Duration,
}

impl Got {
    pub(crate) fn is_complete(&self, answer: usize) -> bool {
        self.status == 200 && self.body == answer && self.error.is_none()
    }
}

/// Posts `body` bytes and reads the answer to its end, both at once. In HTTP/1.0 the end of the connection is
/// the end of the answer.
pub(crate) fn post(server: SocketAddr, body: usize, read: Option<usize>, answer: usize) -> Got {
    let started = Instant::now();
    let mut head = format!(
        "POST /script HTTP/1.0\r\nHost: localhost\r\nContent-Length: {body}\r\nX-Answer: {answer}\r\n"
    );
    if let Some(read) = read {
        head.push_str(&format!("X-Read: {read}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut sending = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        // An early answer may end the connection under it.
        let _ = sending.write_all(head.as_bytes()).and_then(|()| sending.write_all(&vec![b'b'; body]));
    });
    let mut all = Vec::new();
    let error = stream.read_to_end(&mut all).err().map(|error| error.kind());
    let _ = stream.shutdown(Shutdown::Both);
    sender.join().unwrap();
    let text = all.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
    let status = text.and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let head = all.windows(4).position(|four| four == b"\r\n\r\n").map_or(all.len(), |at| at + 4);
    Got { status, body: all.len() - head, error, elapsed: started.elapsed() }
}
