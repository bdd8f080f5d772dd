//! The state of a session: the connection, both buffers, the state machine. Used by one thread at a time; see
//! [`Session`](super::Session).

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::PollFlags;

use super::phase::Activity;
use super::{Deadlines, Phase, PhaseWork, SessionEvent};
use crate::cancel::Cancel;
use crate::error::Error;
use crate::host;
use crate::machine::{Machine, Role, SessionLimits};
use crate::transport::Transport;
use crate::wire::{self, FrameKind, MAX_MESSAGE, reason_bytes};

/// Size of the buffer that collects small frames in either direction.
pub(super) const BUFFER: usize = 256 << 10;
/// Payloads of at least this length are written from the caller's memory instead of being copied.
pub(super) const DIRECT: usize = 32 << 10;
/// Bytes read at once while large payloads arrive: a header and little more, so that few payload bytes are copied.
pub(super) const GLANCE: usize = 4 << 10;

/// The state of a session.
pub(super) struct Core {
    pub(super) transport: Box<dyn Transport>,
    pub(super) machine: Machine,
    pub(super) deadlines: Deadlines,
    pub(super) cancel: Cancel,
    /// When a byte last went either way.
    pub(super) heard: Instant,
    /// When the session last made progress; see [`Deadlines::progress`].
    pub(super) activity: Arc<Activity>,
    /// The connection was taken out to be closed, by the session or by its watch thread.
    pub(super) is_gone: bool,
    /// How often the program has used the session.
    pub(super) calls: u64,
    /// What the peer is told while the program does not use the session: the watch thread reports this phase.
    pub(super) phase: Phase,
    /// The work that the peer last reported; `None` after progress of another kind.
    pub(super) peers_work: Option<PhaseWork>,
    /// Payload bytes since payload last counted as progress.
    pub(super) uncounted: usize,
    pub(super) input: Vec<u8>,
    /// `input[parsed..filled]` is not parsed yet.
    pub(super) parsed: usize,
    pub(super) filled: usize,
    /// Bytes of the current DATA frame that the caller has not taken, and its stream.
    pub(super) payload: usize,
    pub(super) payload_stream: u16,
    /// Payload of the current DATA frame that was read before the caller asked for it.
    pub(super) ahead: VecDeque<u8>,
    pub(super) inbox: VecDeque<(SessionEvent, Vec<u8>)>,
    pub(super) output: Vec<u8>,
    pub(super) preface_read: bool,
    /// The version that both sides speak; 1 until the peer's preface is here.
    pub(super) version: u8,
    /// The last payload was large: read only about a header at a time.
    pub(super) bulk: bool,
    pub(super) received: u64,
    pub(super) sent: u64,
    /// `write_out` is under way: nothing else may be written before the bytes that it writes.
    pub(super) writing: bool,
    /// Bytes of a DATA frame that are still to be sent: no other frame may come before them.
    pub(super) unfinished: usize,
    /// A frame was sent in part and its rest is lost, so no other frame can follow.
    pub(super) torn: bool,
    /// Frames to send after the DATA frame under way.
    pub(super) behind: Vec<u8>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl Core {
    /// Begins a session with every setting given.
    pub(super) fn with(
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
            is_gone: false,
            calls: 0,
            phase: Phase::Disk,
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
    pub(super) fn prepend(&mut self, bytes: &[u8]) {
        self.input[..bytes.len()].copy_from_slice(bytes);
        (self.parsed, self.filled) = (0, bytes.len());
    }

    /// Opens a stream for what `request` says (at most 64 KiB).
    ///
    /// # Errors
    /// Returns [`Error::Usage`] if the request is too long or no stream is left; otherwise the errors of
    /// [`flush`](Self::flush).
    pub(super) fn open(&mut self, request: &[u8]) -> Result<u16, Error> {
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
    pub(super) fn message(&mut self, stream: u16, bytes: &[u8]) -> Result<(), Error> {
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
    pub(super) fn data(&mut self, stream: u16, bytes: &[u8]) -> Result<(), Error> {
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
    pub(super) fn finish(&mut self, stream: u16) -> Result<(), Error> {
        if self.machine.finish(stream) { self.frame(FrameKind::Finish, stream, &[]) } else { Ok(()) }
    }

    /// Cancels a stream in both directions. What the peer still sends on it is dropped.
    ///
    /// # Errors
    /// Returns the errors of [`flush`](Self::flush). Cancelling a closed stream is no error.
    pub(super) fn cancel(&mut self, stream: u16, reason: &str) -> Result<(), Error> {
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
    pub(super) fn receive(&mut self) -> Result<SessionEvent, Error> {
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

    /// Returns the peer's next event if it has arrived. Does not wait.
    ///
    /// # Errors
    /// Returns the errors of [`receive`](Self::receive).
    pub(super) fn try_receive(&mut self) -> Result<Option<SessionEvent>, Error> {
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
    pub(super) fn put_back(&mut self, event: SessionEvent) {
        debug_assert!(!matches!(event, SessionEvent::Data { .. }), "its bytes would be lost");
        self.inbox.push_front((event, Vec::new()));
    }

    /// Takes bytes of the data that [`SessionEvent::Data`] announced, until the buffer is full or all data is taken.
    /// Returns how many bytes were taken.
    ///
    /// # Errors
    /// Returns the errors of [`receive`](Self::receive).
    pub(super) fn read_data(&mut self, into: &mut [u8]) -> Result<usize, Error> {
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
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        self.write_out(&[])
    }

    /// The handle that ends this session.
    pub(super) fn canceller(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Whether the peer has sent this protocol's preface.
    pub(super) fn is_greeted(&self) -> bool {
        self.preface_read
    }

    /// Whether a server answers a client's goodbye.
    pub(super) fn answers_goodbyes(&self) -> bool {
        self.version >= 3
    }

    /// Bytes that have arrived, payload and framing.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Bytes that were handed to the kernel, payload and framing.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether the connection is encrypted, and each side knows the other's key.
    pub(super) fn is_encrypted(&self) -> bool {
        self.transport.is_encrypted()
    }

    /// Whether the kernel can move payload between the socket and files.
    pub(super) fn is_plain(&self) -> bool {
        self.transport.is_plain()
    }

    pub(super) fn took(&mut self, bytes: usize) -> Result<(), Error> {
        self.payload -= bytes;
        self.heard = host::now();
        self.payload_went(bytes, self.payload == 0);
        if self.give_credit(self.payload_stream, bytes) {
            self.try_flush();
        }
        Ok(())
    }

    /// Grants the peer credit for bytes that the program has taken, once there are enough of them. The CREDIT frame is sent
    /// by the next flush. Returns whether credit was granted.
    pub(super) fn give_credit(&mut self, stream: u16, taken: usize) -> bool {
        let socket = self.transport.socket();
        let round_trip = || linger_sys::tcp_info(socket).ok().map(|info| info.round_trip);
        let credit = self.machine.taken(stream, taken as u64, self.heard, round_trip);
        if let Some(credit) = credit {
            self.control(FrameKind::Credit, stream, credit);
        }
        credit.is_some()
    }
}

pub(super) fn eof() -> Error {
    Error::Cut(io::Error::new(ErrorKind::UnexpectedEof, "the peer closed it before the session was over"))
}
