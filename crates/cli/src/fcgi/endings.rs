//! `linger fcgi serve --ending`: an application that ends each connection as one of those did which lose responses, so that the
//! loss can be seen, behind a gateway or without one.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use linger_fastcgi::incoming::{Capacity, Incoming, Received};
use linger_fastcgi::record::{self, EndRequest, ProtocolStatus, RecordType};
use linger_fastcgi::{Limits, cgi};
use linger_lab::{Consume, Stop};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How a connection ends, once the response was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FcgiEnding {
    /// END_REQUEST, close()
    Close,
    /// END_REQUEST, shutdown(SHUT_WR), close()
    ShutdownClose,
    /// END_REQUEST, shutdown(SHUT_RDWR), close()
    ShutdownBoth,
    /// SO_LINGER of 5 s, END_REQUEST, close()
    SoLinger,
    /// STDIN read to its end, END_REQUEST, close(): uWSGI's
    DrainFirst,
    /// END_REQUEST, read until the gateway closes, close(): Go's
    DrainNoFin,
    /// END_REQUEST, lingering close: the one that is right
    Lingering,
}

/// The seconds of [`FcgiEnding::SoLinger`].
const LINGER: Duration = Duration::from_secs(5);
/// How long a write may find no room, and a gateway may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many connections may wait to be accepted.
pub(super) const BACKLOG: u32 = 128;
/// How long a request that has begun may still pause, once the stop is requested.
const LAST: Duration = Duration::from_secs(2);
/// How long one that has not begun is waited for then: the gateway may have connected a moment ago.
const FIRST: Duration = Duration::from_millis(200);
/// When accepting is tried again after the fds ran out.
const AGAIN: Duration = Duration::from_millis(20);
/// What is written of a body at a time.
const PIECE: usize = record::FULL;

/// What an application does with each request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Application {
    pub(super) ending: FcgiEnding,
    /// The length of each response's body.
    pub(super) response: u64,
    /// How much of a request's body is read first. Never the empty record behind it.
    pub(super) consume: Consume,
}

/// What its system calls said.
#[derive(Debug, Default)]
pub(super) struct Answered {
    pub(super) requests: u64,
    /// Connections on which a call failed, by its error.
    pub(super) errors: BTreeMap<String, u64>,
}

impl Application {
    /// Serves until the stop is requested, `workers` connections at a time.
    ///
    /// # Errors
    /// Returns an error if no connection can be accepted any more, or no thread started.
    pub(super) fn serve(self, listener: TcpListener, workers: usize, stop: &Stop) -> io::Result<Answered> {
        listener.set_nonblocking(true)?;
        let (door, answered) = (Door::new(listener), Mutex::default());
        let work = || -> io::Result<()> {
            while let Some(stream) = door.accept(stop).inspect_err(|_| stop.request())? {
                let end = self.answer(stream, stop);
                let mut answered = answered.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                note(&mut answered, end);
            }
            Ok(())
        };
        thread::scope(|scope| {
            let start = || thread::Builder::new().spawn_scoped(scope, work).inspect_err(|_| stop.request());
            let started: io::Result<Vec<_>> = (0..workers).map(|_| start()).collect();
            started?.into_iter().try_for_each(|worker| match worker.join() {
                Ok(ended) => ended,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        Ok(answered.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Returns whether there was a request.
    fn answer(self, stream: TcpStream, stop: &Stop) -> io::Result<bool> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut link = RequestReader::new(stream, stop);
        let Some(id) = link.request(self.consume)? else { return Ok(false) };
        self.respond(&mut link, id)?;
        if self.ending == FcgiEnding::DrainFirst {
            while !link.ended && link.record()? {}
        }
        if self.ending == FcgiEnding::SoLinger {
            rustix::net::sockopt::set_socket_linger(&link.stream, Some(LINGER))?;
        }
        let mut end = Vec::new();
        record::push(&mut end, RecordType::Stdout, id, &[]);
        record::push_end(&mut end, id, EndRequest::new(0, ProtocolStatus::RequestComplete));
        link.stream.write_all(&end)?;
        match self.ending {
            FcgiEnding::Close | FcgiEnding::SoLinger | FcgiEnding::DrainFirst => {}
            FcgiEnding::ShutdownClose => link.stream.shutdown(Shutdown::Write)?,
            FcgiEnding::ShutdownBoth => link.stream.shutdown(Shutdown::Both)?,
            FcgiEnding::DrainNoFin => link.drain()?,
            FcgiEnding::Lingering => {
                linger::close(link.stream, &linger::Policy::default());
                return Ok(true);
            }
        }
        close(link.stream).map(|()| true)
    }

    fn respond(self, link: &mut RequestReader<'_>, id: u16) -> io::Result<()> {
        let mut head = Vec::new();
        let length = self.response.to_string();
        let headers = [("Content-Type", "application/octet-stream"), ("Content-Length", &length)];
        cgi::head(&mut head, 200, headers)?;
        let mut records = Vec::new();
        record::push_stream(&mut records, RecordType::Stdout, id, &head);
        let mut left = self.response;
        loop {
            let piece = left.min(PIECE as u64);
            record::push_stream(&mut records, RecordType::Stdout, id, &vec![b'r'; piece as usize]);
            link.stream.write_all(&records)?;
            left -= piece;
            if left == 0 {
                return Ok(());
            }
            records.clear();
        }
    }
}

fn note(answered: &mut Answered, end: io::Result<bool>) {
    match end {
        Ok(had_request) => answered.requests += u64::from(had_request),
        Err(error) => *answered.errors.entry(error.to_string()).or_default() += 1,
    }
}

/// What `close` said, which a drop keeps to itself.
fn close(stream: TcpStream) -> io::Result<()> {
    nix::unistd::close(stream).map_err(Into::into)
}

/// The listener, at which one worker at a time waits. After a stop it is closed as soon as nothing waits, so that gateways that come
/// later are refused at once.
struct Door {
    listener: Mutex<Option<TcpListener>>,
    /// Connections accepted after the stop.
    late: AtomicU32,
}

impl Door {
    fn new(listener: TcpListener) -> Self {
        Self { listener: Mutex::new(Some(listener)), late: AtomicU32::new(0) }
    }

    /// Waits for the next connection. Returns `None` once the stop is requested and none waits: those that do would be reset with the
    /// listener, and only the ending is to lose responses.
    fn accept(&self, stop: &Stop) -> io::Result<Option<TcpStream>> {
        use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
        let mut turn = self.listener.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while let Some(listener) = &*turn {
            let is_last = stop.requested();
            if !is_last && !stop.wait_readable(listener.as_fd(), None)? {
                continue;
            }
            match listener.accept() {
                Ok((stream, _)) => {
                    if is_last && self.late.fetch_add(1, Ordering::Relaxed) >= BACKLOG {
                        // What is in the queue now came after the stop.
                        *turn = None;
                    }
                    return Ok(Some(stream));
                }
                Err(error) if error.kind() == WouldBlock && is_last => *turn = None,
                // The client has left.
                Err(error) if matches!(error.kind(), WouldBlock | ConnectionAborted | Interrupted) => {}
                // The connection stays in the queue until another one ends and frees an fd.
                Err(error) if is_out_of_fds(&error) && !is_last => stop.sleep(AGAIN)?,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

fn is_out_of_fds(error: &io::Error) -> bool {
    use nix::errno::Errno::{EMFILE, ENFILE};
    error.raw_os_error().is_some_and(|raw| [EMFILE as i32, ENFILE as i32].contains(&raw))
}

/// A connection, read record by record, as uWSGI reads: what follows a record stays in the kernel.
struct RequestReader<'a> {
    stream: TcpStream,
    stop: &'a Stop,
    incoming: Incoming,
    id: Option<u16>,
    /// What the request says that its body has.
    announced: u64,
    got: u64,
    ended: bool,
    buffer: Vec<u8>,
}

impl<'a> RequestReader<'a> {
    fn new(stream: TcpStream, stop: &'a Stop) -> Self {
        let incoming = Incoming::new(Limits::default(), Capacity::new(1, 1, false));
        Self { stream, stop, incoming, id: None, announced: 0, got: 0, ended: false, buffer: Vec::new() }
    }

    /// Reads the request's head, and as much of its body as is wanted. Returns its number; `None` if there is none.
    fn request(&mut self, consume: Consume) -> io::Result<Option<u16>> {
        while self.id.is_none() {
            if !self.record()? {
                return Ok(None);
            }
        }
        let wanted = match consume {
            Consume::All => self.announced,
            Consume::Head => 0,
            Consume::Bytes(bytes) => bytes.min(self.announced),
        };
        while self.got < wanted && !self.ended {
            if !self.record()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.id)
    }

    /// Waits for a record. Returns `false` if the stop is requested, and none comes in time.
    fn is_coming(&self) -> io::Result<bool> {
        let until = Instant::now() + PATIENCE;
        while !self.stop.requested() {
            let left = until.saturating_duration_since(Instant::now());
            if self.stop.wait_readable(self.stream.as_fd(), Some(left))? {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
        let mut ready = [PollFd::new(&self.stream, PollFlags::IN)];
        let wait = if self.id.is_some() { LAST } else { FIRST };
        let wait = Timespec::try_from(wait).map_err(io::Error::other)?;
        Ok(poll(&mut ready, Some(&wait))? > 0)
    }

    /// Reads one record. Returns `false` if there is none: the gateway has closed, or the stop was requested.
    fn record(&mut self) -> io::Result<bool> {
        if !self.is_coming()? {
            return Ok(false);
        }
        self.buffer.resize(record::HEADER, 0);
        match self.stream.read_exact(&mut self.buffer) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        let [.., high, low, padding, _] = self.buffer[..] else { return Ok(false) };
        let rest = usize::from(u16::from_be_bytes([high, low])) + usize::from(padding);
        // What is no record has no length either: it is not waited for.
        self.take()?;
        self.buffer.resize(rest, 0);
        self.stream.read_exact(&mut self.buffer)?;
        self.take()?;
        Ok(true)
    }

    /// Takes what is in the buffer.
    fn take(&mut self) -> io::Result<()> {
        let mut input = &self.buffer[..];
        while let Some(event) = self.incoming.next(&mut input)? {
            match event {
                Received::Start(start) => {
                    self.id = Some(start.id);
                    let length = start.params.text("CONTENT_LENGTH").and_then(|text| text.parse().ok());
                    self.announced = length.unwrap_or(0);
                }
                Received::Stdin(_, bytes) => self.got += bytes.len() as u64,
                Received::StdinEnd(_) => self.ended = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads and discards until the gateway closes.
    fn drain(&mut self) -> io::Result<()> {
        self.buffer.resize(PIECE, 0);
        while self.stop.wait_readable(self.stream.as_fd(), Some(PATIENCE))?
            && self.stream.read(&mut self.buffer)? > 0
        {}
        Ok(())
    }
}
