//! A session: framed streams in both directions over one connection.
//!
//! One thread drives a session. While a session waits to write, it reads, so two sessions cannot deadlock. What it has
//! read is bounded by the credit that it has granted. The payload of large frames is read from the socket directly into
//! the caller's buffer.

mod end;
mod event;
mod input;
mod output;
mod phase;
mod splice;
mod wait;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::PollFlags;

use crate::cancel::Cancel;
use crate::error::Error;
use crate::helper::Helper;
use crate::host;
use crate::machine::{Machine, Role, SessionLimits};
use crate::transport::Transport;
use crate::wire::{self, FrameKind, MAX_MESSAGE, reason_bytes};
pub use event::SessionEvent;
pub(crate) use phase::Activity;
pub use phase::{Phase, PhaseWork};
pub use wait::Deadlines;

/// Size of the buffer that collects small frames in either direction.
const BUFFER: usize = 256 << 10;
/// Payloads of at least this length are written from the caller's memory instead of being copied.
const DIRECT: usize = 32 << 10;
/// Bytes read at once while large payloads arrive: a header and little more, so that few payload bytes are copied.
const GLANCE: usize = 4 << 10;

/// Framed streams over one connection.
///
/// ```
/// use linger_transfer::session::{Plain, Role, Session, SessionEvent};
/// use std::net::{TcpListener, TcpStream};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let client = TcpStream::connect(listener.local_addr()?)?;
/// let (server, _) = listener.accept()?;
/// type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
/// let answering = std::thread::spawn(move || -> Result<Option<linger::Outcome>> {
///     let mut session = Session::new(Box::new(Plain::new(server)?), Role::Responder)?;
///     while let SessionEvent::Opened { stream, request } = session.receive()? {
///         session.message(stream, &[b"you said ", &request[..]].concat())?;
///         session.finish(stream)?;
///     }
///     Ok(session.end(0, "")?)
/// });
/// let mut session = Session::new(Box::new(Plain::new(client)?), Role::Initiator)?;
/// let stream = session.open(b"hello")?;
/// assert_eq!(session.receive()?, SessionEvent::Message { stream, bytes: b"you said hello".to_vec() });
/// session.end(0, "thank you")?;
/// assert!(answering.join().unwrap()?.unwrap().delivered());
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub struct Session {
    transport: Box<dyn Transport>,
    machine: Machine,
    deadlines: Deadlines,
    cancel: Cancel,
    /// When a byte last went either way.
    heard: Instant,
    /// When the session last got on; see [`Deadlines::progress`].
    activity: Arc<Activity>,
    /// Does what may take long; see `away` in `alive.rs`.
    pub(crate) helper: Option<Helper>,
    /// What the peer last said that it works on.
    peers_work: Option<PhaseWork>,
    /// Payload bytes since the session last counted as getting on.
    uncounted: usize,
    input: Vec<u8>,
    /// `input[parsed..filled]` is not parsed yet.
    parsed: usize,
    filled: usize,
    /// Bytes of the current DATA frame that the caller has not taken, and its stream.
    payload: usize,
    payload_stream: u16,
    /// Payload of the current DATA frame that was read before the caller asked for it.
    ahead: VecDeque<u8>,
    inbox: VecDeque<(SessionEvent, Vec<u8>)>,
    output: Vec<u8>,
    preface_read: bool,
    /// The version that both sides speak; 1 until the peer's preface is here.
    version: u8,
    /// The last payload was large: read only about a header at a time.
    bulk: bool,
    received: u64,
    sent: u64,
    /// `write_out` is under way: nothing else may be written before the bytes that it writes.
    writing: bool,
    /// Bytes of a DATA frame that are still to be sent: no other frame may come before them.
    unfinished: usize,
    /// A frame was sent in part and its rest is lost, so no other frame can follow.
    torn: bool,
    /// Frames to send after the DATA frame under way.
    behind: Vec<u8>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl Session {
    /// Begins a session over a connection with default limits and deadlines. Nothing is sent yet.
    ///
    /// # Errors
    /// Returns an error if the process has no descriptors left.
    pub fn new(transport: Box<dyn Transport>, role: Role) -> Result<Self, Error> {
        let cancel = Cancel::new().map_err(|error| Error::io("make", "an eventfd", error))?;
        Ok(Self::with(transport, role, SessionLimits::default(), Deadlines::default(), cancel))
    }

    /// Begins a session with every setting given.
    pub fn with(
        transport: Box<dyn Transport>,
        role: Role,
        limits: SessionLimits,
        deadlines: Deadlines,
        cancel: Cancel,
    ) -> Self {
        Self {
            transport,
            machine: Machine::new(role, limits),
            deadlines,
            cancel,
            heard: host::now(),
            activity: Arc::default(),
            helper: None,
            peers_work: None,
            uncounted: 0,
            input: vec![0; BUFFER],
            parsed: 0,
            filled: 0,
            payload: 0,
            payload_stream: 0,
            ahead: VecDeque::new(),
            inbox: VecDeque::new(),
            output: wire::preface().to_vec(),
            preface_read: false,
            version: 1,
            bulk: false,
            received: 0,
            sent: 0,
            writing: false,
            unfinished: 0,
            torn: false,
            behind: Vec::new(),
        }
    }

    /// Hands over bytes that were read from the connection before the session began.
    pub(crate) fn prepend(&mut self, bytes: &[u8]) {
        self.input[..bytes.len()].copy_from_slice(bytes);
        (self.parsed, self.filled) = (0, bytes.len());
    }

    /// Opens a stream for what `request` says (at most 64 KiB).
    ///
    /// # Errors
    /// Returns [`Error::Usage`] if the request is too long or no stream is left; otherwise the errors of
    /// [`flush`](Self::flush).
    pub fn open(&mut self, request: &[u8]) -> Result<u16, Error> {
        if request.len() > MAX_MESSAGE {
            return Err(Error::Usage(
                format!("a request of {} bytes is longer than 64 KiB", request.len()).into(),
            ));
        }
        let stream =
            self.machine.open().ok_or_else(|| Error::Usage("no stream is left in this session".into()))?;
        self.frame(FrameKind::Open, stream, request)?;
        Ok(stream)
    }

    /// Sends a message on a stream; waits for credit if the stream has too little. The message may stay in the buffer
    /// until [`flush`](Self::flush) or the next wait.
    ///
    /// # Errors
    /// Returns [`Error::Usage`] if the message is longer than 64 KiB, [`Error::Ended`] if the stream is closed, and the
    /// errors of [`receive`](Self::receive).
    pub fn message(&mut self, stream: u16, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() > MAX_MESSAGE {
            return Err(Error::Usage(
                format!("a message of {} bytes is longer than 64 KiB", bytes.len()).into(),
            ));
        }
        self.await_credit(stream, bytes.len())?;
        self.frame(FrameKind::Message, stream, bytes)
    }

    /// Sends data on a stream, in frames of at most 1 MiB, waiting for credit and for the socket.
    ///
    /// # Errors
    /// Returns the errors of [`message`](Self::message).
    pub fn data(&mut self, stream: u16, bytes: &[u8]) -> Result<(), Error> {
        for part in bytes.chunks(self.machine.longest().max(1)) {
            self.begin_data(stream, part.len())?;
            self.continue_data(part)?;
        }
        Ok(())
    }

    /// Tells the peer that this side sends nothing more on the stream.
    ///
    /// # Errors
    /// Returns the errors of [`flush`](Self::flush). Closing a stream that is closed already is no error.
    pub fn finish(&mut self, stream: u16) -> Result<(), Error> {
        if self.machine.finish(stream) { self.frame(FrameKind::Finish, stream, &[]) } else { Ok(()) }
    }

    /// Cancels a stream in both directions. What the peer still sends on it is dropped.
    ///
    /// # Errors
    /// Returns the errors of [`flush`](Self::flush). Cancelling a closed stream is no error.
    pub fn cancel(&mut self, stream: u16, reason: &str) -> Result<(), Error> {
        if self.machine.cancel(stream) {
            return self.frame(FrameKind::Cancel, stream, &reason_bytes(0, reason));
        }
        Ok(())
    }

    /// Sends what is buffered, and waits for the peer's next event.
    ///
    /// # Errors
    /// Returns [`Error::Cut`] if the connection ends or is silent for too long, [`Error::Violation`] if the peer breaks
    /// the rules, and [`Error::Cancelled`].
    pub fn receive(&mut self) -> Result<SessionEvent, Error> {
        loop {
            if let Some(event) = self.try_receive()? {
                return Ok(event);
            }
            self.flush()?;
            if self.inbox.is_empty() && !self.parse_waits() {
                self.wait(PollFlags::IN, true)?;
            }
        }
    }

    /// Looks for what the peer has done, without waiting.
    ///
    /// # Errors
    /// Returns the errors of [`receive`](Self::receive).
    pub fn try_receive(&mut self) -> Result<Option<SessionEvent>, Error> {
        self.drop_payload()?;
        if let Some((event, bytes)) = self.inbox.pop_front() {
            if let SessionEvent::Data { stream, length } = event {
                (self.payload, self.payload_stream, self.ahead) = (length, stream, bytes.into());
            }
            return Ok(Some(event));
        }
        loop {
            if let Some(event) = self.parse()? {
                return Ok(Some(event));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Gives back an event that was received and is no data, to be received again.
    pub(crate) fn put_back(&mut self, event: SessionEvent) {
        debug_assert!(!matches!(event, SessionEvent::Data { .. }), "its bytes would be lost");
        self.inbox.push_front((event, Vec::new()));
    }

    /// Takes bytes of the data that [`SessionEvent::Data`] announced, until the buffer is full or all data is taken.
    /// Returns how many bytes were taken.
    ///
    /// # Errors
    /// Returns the errors of [`receive`](Self::receive).
    pub fn read_data(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        let wanted = into.len().min(self.payload);
        let into = &mut into[..wanted];
        let mut done = 0;
        while done < wanted {
            let bytes = if !self.ahead.is_empty() {
                io::Read::read(&mut self.ahead, &mut into[done..]).unwrap_or(0)
            } else if self.parsed < self.filled {
                let buffered = &self.input[self.parsed..self.filled];
                let bytes = buffered.len().min(wanted - done);
                into[done..done + bytes].copy_from_slice(&buffered[..bytes]);
                self.parsed += bytes;
                bytes
            } else {
                match self.transport.read(&mut into[done..]) {
                    Ok(0) => return Err(eof()),
                    Ok(bytes) => {
                        self.received += bytes as u64;
                        bytes
                    }
                    Err(error) => {
                        self.wait_if_empty(error)?;
                        0
                    }
                }
            };
            done += bytes;
        }
        self.took(done)?;
        Ok(done)
    }

    /// Sends what is in the buffer.
    ///
    /// # Errors
    /// Returns [`Error::Cut`] if the connection ends or takes no bytes for too long, and [`Error::Cancelled`].
    pub fn flush(&mut self) -> Result<(), Error> {
        self.write_out(&[])
    }

    /// The handle that ends this session.
    pub(crate) fn canceller(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Whether the peer has sent this protocol's preface.
    pub(crate) fn is_greeted(&self) -> bool {
        self.preface_read
    }

    /// Bytes that have arrived, payload and framing.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes that were handed to the kernel, payload and framing.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether the connection is encrypted, and each side knows the other's key.
    pub fn is_encrypted(&self) -> bool {
        self.transport.is_encrypted()
    }

    /// Whether the kernel can move payload between the socket and files.
    pub fn is_plain(&self) -> bool {
        self.transport.is_plain()
    }

    fn took(&mut self, bytes: usize) -> Result<(), Error> {
        self.payload -= bytes;
        self.heard = host::now();
        self.payload_went(bytes, self.payload == 0);
        if self.give_credit(self.payload_stream, bytes) {
            self.try_flush();
        }
        Ok(())
    }

    /// Grants the peer credit for bytes that the program has taken, once they are many enough. The CREDIT frame is sent
    /// by the next flush.
    fn give_credit(&mut self, stream: u16, taken: usize) -> bool {
        let socket = self.transport.socket();
        let round_trip = || linger_sys::tcp_info(socket).ok().map(|info| info.round_trip);
        let credit = self.machine.taken(stream, taken as u64, self.heard, round_trip);
        if let Some(credit) = credit {
            self.control(FrameKind::Credit, stream, credit);
        }
        credit.is_some()
    }
}

fn eof() -> Error {
    Error::Cut(io::Error::new(ErrorKind::UnexpectedEof, "the peer closed it before the session was over"))
}
