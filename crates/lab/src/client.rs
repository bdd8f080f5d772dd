//! The client: one connection, and what became of its response.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Domain, Protocol, Socket, Type};

use crate::payload;
use crate::stop::Stop;

/// What a client does with its connection.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    /// The server.
    pub server: SocketAddr,
    /// Where to connect from; a port of 0 is chosen by the kernel.
    pub from: Option<SocketAddr>,
    /// Bytes that it says its request has, and that the server may read.
    pub request: u64,
    /// Bytes that it sends beyond the request, without waiting for anything.
    pub extra: u64,
    /// Bytes that it sends when the response has begun.
    pub late: u64,
    /// Bytes it expects; where they are not known the response must say it.
    pub response: Option<u64>,
    /// Size of its receive buffer; the kernel's own choice if none.
    pub receive_buffer: Option<usize>,
    /// Congestion control; the kernel's own choice if none.
    pub congestion: Option<String>,
    /// Whether it reads while the server is still at it.
    pub reads: bool,
    /// Whether it closes by itself when it has read all.
    pub closes: bool,
    /// How long the whole may take.
    pub timeout: Duration,
}

/// How a connection ended, as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// Every byte, and a clean end.
    Complete,
    /// Fewer bytes than were written, and a clean end: silent truncation.
    ShortCleanEnd,
    /// Reset before a single byte had come.
    ResetBeforeAny,
    /// Reset in the middle.
    ResetAfterSome,
    /// Every byte, then a reset.
    ResetAfterAll,
    /// No listener.
    Refused,
    /// The time was over.
    TimedOut,
    /// Something local: no route, no port, no permission.
    Failed,
}

impl Fate {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 8] = [
        Self::Complete,
        Self::ShortCleanEnd,
        Self::ResetBeforeAny,
        Self::ResetAfterSome,
        Self::ResetAfterAll,
        Self::Refused,
        Self::TimedOut,
        Self::Failed,
    ];

    /// A stable identifier, for machines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ShortCleanEnd => "short_clean_end",
            Self::ResetBeforeAny => "reset_before_any",
            Self::ResetAfterSome => "reset_after_some",
            Self::ResetAfterAll => "reset_after_all",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Complete => "complete",
            Self::ShortCleanEnd => "short with a clean end (silent)",
            Self::ResetBeforeAny => "reset before any byte",
            Self::ResetAfterSome => "reset after some bytes",
            Self::ResetAfterAll => "reset after all bytes",
            Self::Refused => "refused",
            Self::TimedOut => "timed out",
            Self::Failed => "failed here",
        })
    }
}

/// What became of one connection.
#[derive(Debug)]
pub struct Attempt {
    /// How it ended.
    pub fate: Fate,
    /// Response bytes that were read.
    pub received: u64,
    /// Response bytes that should have come, as far as known.
    pub expected: Option<u64>,
    /// The error behind the fate, where there was one.
    pub error: Option<io::Error>,
    /// From the connect to the end.
    pub elapsed: Duration,
}

impl Attempt {
    /// Whether fewer bytes came than were to come.
    pub fn lost(&self) -> bool {
        match self.fate {
            Fate::Complete | Fate::ResetAfterAll => false,
            _ => self.expected.is_none_or(|expected| self.received < expected),
        }
    }
}

/// Makes one connection and follows it to its end.
///
/// `until_ended` is called by a client that does not read, or does not close, by itself; it returns when the
/// server has ended the connection, or the given time is over.
pub fn attempt(plan: &ClientPlan, until_ended: impl FnOnce(Duration)) -> Attempt {
    let started = Instant::now();
    let (conversation, result) = converse(plan, started + plan.timeout, None, until_ended);
    conversation.conclude(result, started.elapsed())
}

/// As [`attempt`] of a client that reads and closes by itself; `None` if the stop came before its end.
pub(crate) fn attempt_unless(plan: &ClientPlan, stop: &Stop) -> Option<Attempt> {
    let started = Instant::now();
    let (conversation, result) = converse(plan, started + plan.timeout, Some(stop), |_| {});
    // Reads that are interrupted go on, so this is the stop's.
    let stopped = matches!(&result, Err(error) if error.kind() == io::ErrorKind::Interrupted);
    (!stopped).then(|| conversation.conclude(result, started.elapsed()))
}

fn converse(
    plan: &ClientPlan,
    deadline: Instant,
    stop: Option<&Stop>,
    until_ended: impl FnOnce(Duration),
) -> (Conversation, io::Result<()>) {
    let mut conversation = Conversation::new(plan);
    let patience = Patience { deadline, stop };
    let result = connect(plan, &patience).and_then(|stream| {
        let mut until_ended = Some(until_ended);
        let mut wait = || {
            if let Some(until_ended) = until_ended.take() {
                until_ended(deadline.saturating_duration_since(Instant::now()));
            }
        };
        conversation.run(&stream, plan, &patience, &mut wait)?;
        if !plan.closes {
            wait();
        }
        Ok(())
    });
    (conversation, result)
}

fn connect(plan: &ClientPlan, patience: &Patience<'_>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(plan.server), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(bytes) = plan.receive_buffer {
        // Before the connection is made: the window scale is settled in the handshake.
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

/// How long a client waits.
struct Patience<'a> {
    deadline: Instant,
    stop: Option<&'a Stop>,
}

impl Patience<'_> {
    /// Waits for a socket; nothing if a signal came first. `TimedOut` at the deadline, `Interrupted` at the stop.
    fn wait(&self, socket: &impl AsFd, interest: PollFlags) -> io::Result<PollFlags> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let timeout = Timespec::try_from(left).ok();
        // Without a stop the socket stands in for it, asked for nothing.
        let stop = match self.stop {
            Some(stop) => PollFd::from_borrowed_fd(stop.wake(), PollFlags::IN),
            None => PollFd::new(socket, PollFlags::empty()),
        };
        let mut ready = [PollFd::new(socket, interest), stop];
        match rustix::event::poll(&mut ready, timeout.as_ref()) {
            Ok(_) if self.stop.is_some_and(Stop::requested) => Err(io::ErrorKind::Interrupted.into()),
            Ok(_) => Ok(ready[0].revents()),
            Err(rustix::io::Errno::INTR) => Ok(PollFlags::empty()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Bytes sent with one call.
const CHUNK: usize = 64 << 10;

struct Conversation {
    /// The beginning of what is sent; all that follows is filling.
    beginning: Vec<u8>,
    sent: u64,
    to_send: u64,
    late: u64,
    received: u64,
    expected: Option<u64>,
    /// The beginning of the response, as long as its length is not known.
    head: Vec<u8>,
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
        }
    }

    /// Sends and reads at the same time, as a client must that does not want to wait for ever.
    fn run(
        &mut self,
        mut stream: &TcpStream,
        plan: &ClientPlan,
        patience: &Patience<'_>,
        until_ended: &mut impl FnMut(),
    ) -> io::Result<()> {
        let mut buffer = [0; CHUNK];
        let mut reads = plan.reads;
        loop {
            let sends = self.sent < self.to_send;
            if !reads && !sends {
                until_ended();
                reads = true;
            }
            let mut interest = PollFlags::empty();
            interest.set(PollFlags::IN, reads);
            interest.set(PollFlags::OUT, sends);
            let ready = patience.wait(stream, interest)?;
            if ready.intersects(PollFlags::OUT | PollFlags::ERR | PollFlags::HUP) && sends {
                self.send(stream);
            }
            if !ready.intersects(PollFlags::IN | PollFlags::ERR | PollFlags::HUP) {
                continue;
            }
            reads = true;
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(bytes) => self.take_in(&buffer[..bytes]),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends what fits. An error ends the sending, not the reading: what came before it may still be there.
    fn send(&mut self, mut stream: &TcpStream) {
        let filling = [b'+'; CHUNK];
        let from = usize::try_from(self.sent).unwrap_or(usize::MAX);
        let chunk = self.beginning.get(from..).filter(|rest| !rest.is_empty()).unwrap_or(&filling);
        let left = usize::try_from(self.to_send - self.sent).unwrap_or(CHUNK);
        match stream.write(&chunk[..chunk.len().min(left)]) {
            Ok(bytes) => self.sent += bytes as u64,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.to_send = self.sent,
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

    fn conclude(self, result: io::Result<()>, elapsed: Duration) -> Attempt {
        let (fate, error) = self.judge(result);
        Attempt { fate, received: self.received, expected: self.expected, error, elapsed }
    }

    fn judge(&self, result: io::Result<()>) -> (Fate, Option<io::Error>) {
        use io::ErrorKind;
        let all = self.expected.is_some_and(|expected| self.received >= expected);
        match result {
            Ok(()) if all => (Fate::Complete, None),
            Ok(()) => (Fate::ShortCleanEnd, None),
            Err(error) => {
                let fate = match error.kind() {
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
                        match self.received {
                            _ if all => Fate::ResetAfterAll,
                            0 => Fate::ResetBeforeAny,
                            _ => Fate::ResetAfterSome,
                        }
                    }
                    ErrorKind::ConnectionRefused => Fate::Refused,
                    ErrorKind::TimedOut => Fate::TimedOut,
                    _ => Fate::Failed,
                };
                (fate, Some(error))
            }
        }
    }
}
