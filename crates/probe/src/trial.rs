//! One connection to the server, driven step by step.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::counters::grown;
use crate::framing::Framing;
use crate::no_response::NoResponse;
use crate::prober::Prober;
use crate::seen::{ConnectionEnd, TrialResult};
use crate::websocket::frames::ServerFrames;
use crate::wire::ClientStream;

/// How far to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// To the end of the response or of the connection.
    Complete,
    /// To the end of the connection.
    Closed,
}

/// What a server says to a client that has asked whether its body is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Continuation {
    /// It asks for the body.
    Continued,
    /// It answers without the body, or ends the connection.
    Answered,
    Silent,
}

pub(crate) struct Trial<'p> {
    prober: &'p Prober,
    wire: ClientStream,
    framing: Framing,
    out: Vec<u8>,
    out_at: usize,
    started: Instant,
    before: BTreeMap<String, u64>,
    ended: Option<ConnectionEnd>,
    write_failed: bool,
    half_closed: bool,
    is_endless: bool,
    /// Bytes read on this connection, framing and all.
    came: u64,
}

impl<'p> Trial<'p> {
    /// Connects, with a small receive window if `small`.
    pub(crate) fn open(prober: &'p Prober, small: bool) -> io::Result<Self> {
        let before = prober.counters.read();
        let started = Instant::now();
        let buffer = small.then_some(prober.config.receive_buffer);
        let wire = prober.connect(buffer)?;
        Ok(Self {
            prober,
            wire,
            framing: prober.dialect.framing(),
            out: Vec::new(),
            out_at: 0,
            started,
            before,
            ended: None,
            write_failed: false,
            half_closed: false,
            is_endless: false,
            came: 0,
        })
    }

    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Sends the queued bytes without reading, until all are sent, no byte could be written for `stuck`, or a write fails.
    pub(crate) fn send(&mut self, stuck: Duration) {
        while self.unsent() > 0 && !self.write_failed {
            match self.wire.wait(PollFlags::OUT, Instant::now() + stuck) {
                Ok(events) if !events.is_empty() => self.write_some(),
                _ => return,
            }
        }
    }

    fn unsent(&self) -> usize {
        self.out.len() - self.out_at
    }

    pub(crate) fn write_failed(&self) -> bool {
        self.write_failed
    }

    fn write_some(&mut self) {
        match self.wire.write(&self.out[self.out_at..]) {
            Ok(sent) => {
                self.prober.spent.sent(sent);
                self.out_at += sent;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.write_failed = true,
        }
        if self.unsent() == 0 {
            self.out.clear();
            self.out_at = 0;
        }
    }

    /// Waits until the response begins to arrive, without reading it. Returns false if it does not within `patience`.
    pub(crate) fn answer_begins(&mut self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            match self.wire.wait(PollFlags::IN, until) {
                Ok(events) if events.is_empty() => return false,
                Err(_) => return false,
                Ok(_) => match self.wire.response_waits() {
                    Ok(false) => {}
                    Ok(true) | Err(_) => return true,
                },
            }
        }
    }

    /// Reads to 100 Continue, or to the head of the response, in pieces so small that the rest stays with the server.
    pub(crate) fn continues(&mut self, patience: Duration) -> Continuation {
        let until = Instant::now() + patience;
        let mut buffer = [0; 16];
        while !self.framing.is_continued {
            if self.framing.status.is_some() || self.framing.wrong.is_some() || self.ended.is_some() {
                return Continuation::Answered;
            }
            match self.wire.wait(PollFlags::IN, until) {
                Ok(events) if !events.is_empty() => {}
                _ => return Continuation::Silent,
            }
            match self.wire.read(&mut buffer) {
                Ok(0) => self.ended = Some(self.after_the_end()),
                Ok(got) => {
                    self.prober.spent.received(got);
                    self.framing.feed(&buffer[..got]);
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => self.ended = Some(ConnectionEnd::Reset),
            }
        }
        Continuation::Continued
    }

    /// Sleeps for the configured delay, as a client that reads late. A quiet probe waits for the response, and then less: a
    /// server that cannot write any more serves nobody else meanwhile.
    pub(crate) fn late(&mut self) {
        match self.prober.late() {
            None => self.prober.deadline.sleep(self.prober.config.delay),
            Some(short) => {
                if self.answer_begins(self.prober.config.patience) {
                    self.prober.deadline.sleep(short);
                }
            }
        }
    }

    /// Sends the queued bytes and the FIN. Without TLS both are in the same segment.
    pub(crate) fn send_and_half_close(&mut self, stuck: Duration) {
        self.wire.cork(true);
        self.send(stuck);
        self.half_close();
        self.wire.cork(false);
    }

    pub(crate) fn half_close(&mut self) {
        self.half_closed = true;
        self.wire.half_close();
    }

    /// Reads, and sends what is still queued, to the end given by `until`. Stops earlier if no byte moves for
    /// `patience`, if what comes is no response, if the response becomes longer or takes longer than the configuration allows, or
    /// if a quiet probe has read all that it may. What comes behind a complete response is read for `patience` in all.
    pub(crate) fn read(&mut self, until: Until, patience: Duration) {
        self.wire.widen();
        let mut buffer = [0; 64 << 10];
        let config = &self.prober.config;
        let longest = if self.framing.complete { patience } else { config.longest.max(2 * patience) };
        let mut last = Instant::now() + longest;
        while self.ended.is_none() && !(until == Until::Complete && self.framing.complete) {
            let sending = self.unsent() > 0 && !self.write_failed;
            let events = if sending { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            let events = match self.wire.wait(events, Instant::now() + patience) {
                Ok(events) if !events.is_empty() => events,
                _ => return,
            };
            if sending && events.contains(PollFlags::OUT) {
                self.write_some();
            }
            let room = buffer.len().min(usize::try_from(self.prober.room()).unwrap_or(usize::MAX));
            if room == 0 {
                self.is_endless = !self.framing.complete;
                return;
            }
            match self.wire.read(&mut buffer[..room]) {
                Ok(0) => self.ended = Some(self.after_the_end()),
                Ok(got) => {
                    self.prober.spent.received(got);
                    self.came += got as u64;
                    let was_complete = self.framing.complete;
                    self.framing.feed(&buffer[..got]);
                    if self.framing.complete && !was_complete {
                        last = last.min(Instant::now() + patience);
                    }
                    if self.framing.wrong.is_some() {
                        return;
                    }
                    let is_flood = self.framing.got > config.most || self.came > 2 * config.most;
                    if is_flood || Instant::now() > last {
                        self.is_endless = !self.framing.complete;
                        return;
                    }
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => self.ended = Some(ConnectionEnd::Reset),
            }
        }
    }

    /// Called once the end of the stream was read. Returns how the connection ended. Unless the client has half-closed, waits
    /// a moment for a reset that follows the server's FIN (`shutdown`, then `close`). The connection counts as reset if the
    /// reset has arrived by then, or if a write has failed before.
    fn after_the_end(&self) -> ConnectionEnd {
        if !self.half_closed {
            // FIN and RST of one close arrive together. A later reset does not belong to this response.
            let _ = self.wire.wait(PollFlags::empty(), Instant::now() + self.prober.moment());
        }
        let reset = if self.half_closed { self.wire.take_error() } else { self.wire.was_reset() };
        if reset || self.write_failed { ConnectionEnd::ClosedThenReset } else { ConnectionEnd::Closed }
    }

    /// After a complete response: waits for the end of the connection.
    pub(crate) fn settle(&mut self) {
        if self.framing.complete {
            self.read(Until::Closed, self.prober.settling());
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.framing.complete
    }

    /// Whether the response says that the connection ends with it.
    pub(crate) fn is_last(&self) -> bool {
        self.framing.is_last
    }

    /// How long the server says that it keeps the connection, in seconds.
    pub(crate) fn announced_idle(&self) -> Option<u64> {
        self.framing.keep_alive
    }

    /// After a complete response: waits until `until` for the end of the connection, on which nothing is asked. Returns how it
    /// ended; `None` if it has not. Bytes that come meanwhile are dropped.
    pub(crate) fn idle_end(&mut self, until: Instant) -> Option<ConnectionEnd> {
        let mut buffer = [0; 4096];
        loop {
            match self.wire.wait(PollFlags::IN, until) {
                Ok(events) if !events.is_empty() => {}
                _ => return None,
            }
            match self.wire.read(&mut buffer) {
                Ok(0) => return Some(ConnectionEnd::Closed),
                Ok(got) => {
                    self.prober.spent.received(got);
                    self.came += got as u64;
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => return Some(ConnectionEnd::Reset),
            }
            if Instant::now() > until || self.came > 2 * self.prober.config.most {
                return None;
            }
        }
    }

    /// Queues another request on a kept connection. What is read from now on is its response.
    pub(crate) fn again(&mut self, request: &[u8]) {
        self.framing = self.prober.dialect.framing();
        self.queue(request);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Whether the server has agreed to a WebSocket, for a client that has asked for one.
    pub(crate) fn websocket(&self) -> Option<&ServerFrames> {
        self.framing.websocket()
    }

    /// What it says of the client's key when it agrees.
    pub(crate) fn websocket_accept(&self) -> Option<&str> {
        self.framing.websocket_accept.as_deref()
    }

    /// The response's status, once it is known.
    pub(crate) fn status(&self) -> Option<u16> {
        self.framing.status
    }

    /// Whether the head of its answer says that it is a WebSocket from here on.
    pub(crate) fn is_upgrade(&self) -> bool {
        self.framing.is_upgrade
    }

    /// Takes 101 for an agreement to a WebSocket, whose frames come next.
    pub(crate) fn asks_for_websocket(&mut self) {
        self.framing.asks_for_websocket();
    }

    pub(crate) fn ends_with_connection(&self) -> bool {
        self.framing.ends_with_connection()
    }

    /// Why what came is no response.
    pub(crate) fn not_understood(&self) -> Option<NoResponse> {
        self.framing.wrong.clone()
    }

    pub(crate) fn got(&self) -> u64 {
        self.framing.got
    }

    /// Sends a byte, and returns whether the server answers with a reset, which shows that it no longer holds the connection.
    pub(crate) fn provokes_reset(&mut self, byte: &[u8], patience: Duration) -> bool {
        self.queue(byte);
        self.send(Duration::from_millis(100));
        if self.write_failed {
            return true;
        }
        let until = Instant::now() + patience;
        // The end of its stream was already read, so only an error can follow.
        while Instant::now() < until {
            if self.wire.was_reset() {
                return true;
            }
            let _ = self.wire.wait(PollFlags::empty(), Instant::now() + Duration::from_millis(5));
        }
        false
    }

    pub(crate) fn finish(self) -> TrialResult {
        self.result()
    }

    /// What was seen so far, of the last request on the connection.
    pub(crate) fn result(&self) -> TrialResult {
        let complete_silence =
            if self.framing.complete { ConnectionEnd::Open } else { ConnectionEnd::Silent };
        let ended = self.ended.unwrap_or(complete_silence);
        let counters = grown(&self.before, &self.prober.counters.read());
        TrialResult {
            got: self.framing.got,
            expected: self.framing.expected,
            complete: self.framing.complete,
            unframed: self.framing.ends_with_connection(),
            status: self.framing.status,
            framing: self.framing.name(),
            is_endless: self.is_endless,
            is_unsure: false,
            server: self.framing.server.clone(),
            location: self.framing.location.clone(),
            ended,
            code: None,
            invalid: self.framing.wrong.as_ref().map(|wrong| format!("no response: {wrong}")),
            is_tls_cut: self.wire.is_tls_cut,
            write_failed: self.write_failed,
            elapsed: self.started.elapsed(),
            round_trip: self.wire.round_trip,
            counters,
        }
    }
}
