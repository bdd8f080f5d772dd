//! The client: makes one connection, and returns its result.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use linger_sys::{TcpState, tcp_state};
use rustix::event::PollFlags;
use socket2::{Domain, Protocol, Socket, Type};

use crate::fate::{Attempt, Fate};
use crate::last_word;
use crate::model::ClientModel;
use crate::patience::Patience;
use crate::payload;
use crate::steps::{Actor, Notes, StepAction, Steps};
use crate::stop::Stop;

/// What a client does with its connection.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    /// The server.
    pub server: SocketAddr,
    /// The local address; the kernel chooses a port for 0.
    pub from: Option<SocketAddr>,
    /// Length of the request in bytes, stated in its first line.
    pub request: u64,
    /// Bytes sent directly after the request.
    pub extra: u64,
    /// Bytes sent once the response has begun.
    pub late: u64,
    /// Length of the response in bytes; `None` if the first line of the response states it.
    pub response: Option<u64>,
    /// Size of the receive buffer in bytes; `None` for the kernel's default.
    pub receive_buffer: Option<usize>,
    /// Congestion control; `None` for the kernel's default.
    pub congestion: Option<String>,
    /// Whether the client reads before the server has ended the connection.
    pub reads: bool,
    /// Whether the client closes when it has read everything. If not, it waits until the server has ended the connection.
    pub closes: bool,
    /// What the program and its system are like.
    pub model: ClientModel,
    /// Bound for the whole connection.
    pub timeout: Duration,
}

/// Makes one connection and follows it to its end.
///
/// A client that does not read or does not close by itself calls `until_ended`, which must return when the server has
/// ended the connection or the given time is over.
pub fn attempt(plan: &ClientPlan, until_ended: impl FnOnce(Duration)) -> Attempt {
    let started = Instant::now();
    let patience = Patience { deadline: started + plan.timeout, stop: None };
    let (conversation, result) = converse(plan, &patience, Notes::of(None, Actor::Client), until_ended);
    conversation.conclude(result, started.elapsed())
}

/// Makes a connection as [`attempt`] does, and gives it up if the run is stopped meanwhile. Returns `None` in that case.
pub(crate) fn attempt_unless(plan: &ClientPlan, stop: &Stop) -> Option<Attempt> {
    attempt_with(plan, Notes::of(None, Actor::Client), stop, |_| {})
}

/// Does what [`attempt`] does, and notes every step. Returns `None` if the run was stopped before the connection's end.
pub(crate) fn attempt_noted(
    plan: &ClientPlan,
    steps: &Steps,
    stop: &Stop,
    until_ended: impl FnOnce(Duration),
) -> Option<Attempt> {
    attempt_with(plan, Notes::of(Some(steps), Actor::Client), stop, until_ended)
}

fn attempt_with(
    plan: &ClientPlan,
    notes: Notes<'_>,
    stop: &Stop,
    until_ended: impl FnOnce(Duration),
) -> Option<Attempt> {
    let started = Instant::now();
    let patience = Patience { deadline: started + plan.timeout, stop: Some(stop) };
    let (conversation, result) = converse(plan, &patience, notes, until_ended);
    // Interrupted reads are retried, so this error means the stop.
    let stopped = matches!(&result, Err(error) if error.kind() == io::ErrorKind::Interrupted);
    (!stopped).then(|| conversation.conclude(result, started.elapsed()))
}

fn converse(
    plan: &ClientPlan,
    patience: &Patience<'_>,
    notes: Notes<'_>,
    until_ended: impl FnOnce(Duration),
) -> (Conversation, io::Result<()>) {
    let mut conversation = Conversation::new(plan);
    let result = connect(plan, patience).and_then(|stream| {
        notes.now(|| StepAction::Connected);
        let mut until_ended = Some(until_ended);
        let mut wait = || {
            if let Some(until_ended) = until_ended.take() {
                until_ended(patience.deadline.saturating_duration_since(Instant::now()));
            }
        };
        conversation.run(&stream, plan, patience, notes, &mut wait)?;
        if !plan.closes {
            wait();
        }
        let closed = notes.clock();
        conversation.reset = match last_word::is_reset(&stream, patience) {
            // The response is complete, so a timeout of the last acknowledgement is not an error.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => false,
            reset => reset?,
        };
        notes.at(closed, || StepAction::Closed { reset: conversation.reset });
        Ok(())
    });
    (conversation, result)
}

fn connect(plan: &ClientPlan, patience: &Patience<'_>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(plan.server), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(bytes) = plan.receive_buffer {
        // Set before connecting, since the handshake fixes the window scale.
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(congestion) = &plan.congestion {
        socket.set_tcp_congestion(congestion.as_bytes())?;
    }
    if let Some(from) = plan.from {
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
    }
    socket.set_nonblocking(true)?;
    match socket.connect(&plan.server.into()) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            while patience.wait(&socket, PollFlags::OUT)?.is_empty() {}
            socket.take_error()?.map_or(Ok(()), Err)?;
        }
        result => result?,
    }
    Ok(socket.into())
}

/// Bytes sent with one call.
const CHUNK: usize = 64 << 10;

struct Conversation {
    /// The first bytes to send. All later bytes are filler.
    beginning: Vec<u8>,
    sent: u64,
    to_send: u64,
    late: u64,
    received: u64,
    expected: Option<u64>,
    /// The first bytes of the response, kept until its length is known.
    head: Vec<u8>,
    reset: bool,
    write_error: Option<io::Error>,
}

impl Conversation {
    fn new(plan: &ClientPlan) -> Self {
        let mut beginning = payload::request(plan.request, CHUNK);
        let to_send = plan.request + plan.extra;
        beginning.resize(usize::try_from(to_send).unwrap_or(CHUNK).min(CHUNK), b'+');
        Self {
            beginning,
            sent: 0,
            to_send,
            late: plan.late,
            received: 0,
            expected: plan.response,
            head: Vec::new(),
            reset: false,
            write_error: None,
        }
    }

    /// Sends and reads at the same time: to do one after the other could deadlock with the server.
    fn run(
        &mut self,
        mut stream: &TcpStream,
        plan: &ClientPlan,
        patience: &Patience<'_>,
        notes: Notes<'_>,
        until_ended: &mut impl FnMut(),
    ) -> io::Result<()> {
        let mut buffer = [0; CHUNK];
        let ClientModel { sends_first, reads_after, discards } = plan.model;
        let waits = sends_first || reads_after.is_some();
        let mut reads = plan.reads && !waits;
        let mut pause = reads_after;
        loop {
            if self.sent >= self.to_send
                && let Some(pause) = pause.take()
            {
                patience.pause(pause)?;
                self.to_send = self.sent + std::mem::take(&mut self.late);
            }
            let sends = self.sent < self.to_send;
            if !reads && !sends {
                if !plan.reads {
                    until_ended();
                }
                reads = true;
            }
            let mut interest = PollFlags::empty();
            interest.set(PollFlags::IN, reads);
            interest.set(PollFlags::OUT, sends);
            let ready = patience.wait(stream, interest)?;
            if ready.intersects(PollFlags::OUT | PollFlags::ERR | PollFlags::HUP) && sends {
                self.send(stream, notes);
                if sends_first && let Some(error) = &self.write_error {
                    return Err(error.kind().into());
                }
            }
            if !ready.intersects(PollFlags::IN | PollFlags::ERR | PollFlags::HUP) || (waits && !reads) {
                continue;
            }
            reads = true;
            if discards && tcp_state(stream.as_fd())? == TcpState::Close {
                notes.now(|| {
                    StepAction::ReadFailed("the system has discarded what was unread at the reset".to_owned())
                });
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            match stream.read(&mut buffer) {
                Ok(0) => {
                    notes.now(|| StepAction::EndOfStream);
                    return Ok(());
                }
                Ok(bytes) => {
                    notes.now(|| StepAction::Read(bytes as u64));
                    self.take_in(&buffer[..bytes]);
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => {
                    notes.now(|| StepAction::ReadFailed(error.to_string()));
                    return Err(error);
                }
            }
        }
    }

    /// Sends as much as fits. After an error the client goes on reading: bytes that arrived before the reset are still there.
    fn send(&mut self, mut stream: &TcpStream, notes: Notes<'_>) {
        let called = notes.clock();
        let filling = [b'+'; CHUNK];
        let from = usize::try_from(self.sent).unwrap_or(usize::MAX);
        let chunk = self.beginning.get(from..).filter(|rest| !rest.is_empty()).unwrap_or(&filling);
        let left = usize::try_from(self.to_send - self.sent).unwrap_or(CHUNK);
        match stream.write(&chunk[..chunk.len().min(left)]) {
            Ok(bytes) => {
                notes.at(called, || StepAction::Wrote(bytes as u64));
                self.sent += bytes as u64;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                notes.at(called, || StepAction::WriteFailed(error.to_string()));
                self.to_send = self.sent;
                self.write_error = Some(error);
            }
        }
    }

    fn take_in(&mut self, bytes: &[u8]) {
        if self.received == 0 && self.late > 0 {
            self.to_send += self.late;
        }
        self.received += bytes.len() as u64;
        if self.expected.is_none() && self.head.len() < 64 {
            self.head.extend(&bytes[..bytes.len().min(64)]);
            self.expected = payload::response_length(&self.head);
        }
    }

    fn conclude(mut self, result: io::Result<()>, elapsed: Duration) -> Attempt {
        self.reset |= result.as_ref().is_err_and(last_word::is_a_reset);
        let fate = self.fate(&result);
        let Self { received, expected, reset, write_error, .. } = self;
        Attempt { fate, received, expected, reset, write_error, error: result.err(), elapsed }
    }

    fn fate(&self, result: &io::Result<()>) -> Fate {
        use io::ErrorKind;
        let all = self.expected.is_some_and(|expected| self.received >= expected);
        match result {
            Ok(()) if all && (self.reset || self.write_error.is_some()) => Fate::ResetAfterAll,
            Ok(()) if all => Fate::Complete,
            Ok(()) => Fate::ShortCleanEnd,
            Err(_) if self.reset && all => Fate::ResetAfterAll,
            Err(_) if self.reset && self.received == 0 => Fate::ResetBeforeAny,
            Err(_) if self.reset => Fate::ResetAfterSome,
            Err(error) => match error.kind() {
                ErrorKind::ConnectionRefused => Fate::Refused,
                ErrorKind::TimedOut => Fate::TimedOut,
                _ => Fate::Failed,
            },
        }
    }
}
