//! One connection's conversation with a gateway, from the first request to the end: what is read, what is answered,
//! and when the connection is over. No sockets, no threads, and no clock: `now` is an argument. Only bodies that exceed the
//! memory allowed for them go to a file.
//!
//! A driver asks for the next [`Step`], takes it, and reports what it led to:
//!
//! - [`Step::Send`]: the driver sends the bytes before anything else, and reports a failure with
//!   [`lost`](Conversation::lost).
//! - [`Step::Receive`], [`Step::Rest`]: the driver passes received bytes to [`take`](Conversation::take), one event at a
//!   time. It reports the end of the stream with [`closed`](Conversation::closed), and with
//!   [`silent`](Conversation::silent) that nothing came in time.
//! - [`Step::Hold`]: the driver does not read the connection until a handler has read or ended.
//! - [`Step::End`]: the driver closes the connection lingering, by `linger`: half-close, bounded drain, close.
//!
//! The driver gets requests from [`request`](Conversation::request). A handler reads with
//! [`read`](Conversation::read) or [`piece`](Conversation::piece) and writes into an [`Answer`], which makes records.
//! While the gateway leaves no room for these ([`blocked`](Conversation::blocked)), the connection is read on: the gateway may
//! be one that writes its whole request first. When the handler is done, the driver waits for the rest of the request as long as
//! [`settle`](Conversation::settle) says. Then the handler's result (a status, an error, a panic) goes to
//! [`finish`](Conversation::finish), **before** the last records are sent: once the gateway has END_REQUEST it may use the id again.
//! [`answered`](Conversation::answered) then reports whether the last records were sent.

mod answer;
mod body;
mod drain;
mod open;
mod pace;
mod reading;
mod settle;
mod spool;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linger::Policy;

use crate::error::ProtocolError;
use crate::incoming::{Capacity, Incoming, Received, Start};
use crate::limits::Limits;

pub(crate) use answer::SaidSoFar;
pub use answer::{Accepted, Answer, Large, Last, RequestEnd, Said};
pub use body::{Gone, Input, Which};
use drain::{Drains, Need};
pub use open::Key;
use open::OpenRequest;
use pace::GatewayPace;

/// The line in the gateway's log if a handler panicked.
pub const PANICKED: &str = "the handler panicked";
/// The line in the gateway's log if a handler returned without a response.
pub const SILENT: &str = "the handler gave no response";

/// The bounds of a conversation. Plain data.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Bounds {
    /// The bounds of the connection's lingering close, and of draining each body that is not read on a kept connection.
    pub policy: Policy,
    /// Bounds on the memory of this connection.
    pub limits: Limits,
    /// The answer to a gateway's FCGI_GET_VALUES.
    pub capacity: Capacity,
    /// Longest silence in the middle of a request, and before the first.
    pub io_timeout: Duration,
    /// Longest rest between two requests.
    pub keep_idle: Duration,
    /// Longest time for one record, from its first byte to its last. Of this and the next two only time counts in which this side
    /// waits for the gateway.
    pub record_within: Option<Duration>,
    /// Longest time for a request's parameters, from BEGIN_REQUEST on.
    pub params_within: Option<Duration>,
    /// Longest time for a request's body. A handler that reads beyond it gets [`Gone::Slow`].
    pub body_within: Option<Duration>,
    /// How long END_REQUEST waits for a request's body that has stopped moving; zero for not at all.
    pub input_idle: Duration,
    /// The folder for bodies that exceed [`Limits::buffered`]; `None` if there is none.
    pub spool: Option<Arc<Path>>,
}

impl Bounds {
    /// The bounds of one connection. Bodies have no file, END_REQUEST waits for none, and whoever is not silent has all the time.
    pub fn new(
        policy: Policy,
        limits: Limits,
        capacity: Capacity,
        io_timeout: Duration,
        keep_idle: Duration,
    ) -> Self {
        let (record_within, params_within, body_within) = (None, None, None);
        let (input_idle, spool) = (Duration::ZERO, None);
        Self {
            policy,
            limits,
            capacity,
            io_timeout,
            keep_idle,
            record_within,
            params_within,
            body_within,
            input_idle,
            spool,
        }
    }
}

/// What the driver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Send these records.
    Send(Vec<u8>),
    /// Receive, and wait for bytes until this time. `None`: without a deadline, because handlers run and the gateway
    /// has nothing to send.
    Receive(Option<Instant>),
    /// As `Receive`, but no request is under way: the connection rests between two requests.
    Rest(Option<Instant>),
    /// Ask the kernel how many bytes of the answers are unacknowledged, and report that to [`Conversation::measured`].
    Measure,
    /// Receive nothing until a handler has read or has ended. Then ask for the next step.
    Hold,
    /// End the connection.
    End(End),
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct End {
    /// The bounds of the connection's lingering close.
    pub policy: Policy,
    /// Requests that were served.
    pub requests: u64,
    /// The gateway's violation of the protocol, if that ended the conversation.
    pub fault: Option<ProtocolError>,
    /// Whether a record or parameters that took too long ended the conversation.
    pub is_slow: bool,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Conversation {
    bounds: Bounds,
    incoming: Incoming,
    life: Life,
    /// Requests that were begun and not yet given to the driver.
    fresh: VecDeque<(Key, Start)>,
    open: Vec<OpenRequest>,
    /// The number of requests whose last records were not sent yet, those in `fresh` among them.
    running: usize,
    served: u64,
    drains: Drains,
    /// When the gateway's present silence becomes too long. Drains have deadlines of their own.
    deadline: Option<Instant>,
    pace: GatewayPace,
    is_held: bool,
    /// How many writers wait for the gateway to read.
    blocked: usize,
    /// When something was received last that belongs to a request.
    heard: Option<Instant>,
}

/// Whether the connection is still read, and whether it goes on after the present requests.
#[derive(Clone, Copy, Debug)]
enum Life {
    /// Requests come and go.
    Open,
    /// No new request is accepted; the running requests are served to their end.
    Last,
    /// Nothing more can be read; running requests may still answer.
    Deaf(Gone),
}

impl Conversation {
    /// Starts at the beginning of a connection.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            incoming: Incoming::new(bounds.limits, bounds.capacity),
            drains: Drains::new(bounds.policy),
            life: Life::Open,
            fresh: VecDeque::new(),
            open: Vec::new(),
            running: 0,
            served: 0,
            deadline: None,
            pace: GatewayPace::default(),
            is_held: false,
            blocked: 0,
            heard: None,
            bounds,
        }
    }

    /// The next request to be served. Each is to be [finished](Self::finish) and [answered](Self::answered).
    pub fn request(&mut self) -> Option<(Key, Start)> {
        self.fresh.pop_front()
    }

    /// Whether no request is under way: none that waits for its answer, nor one whose last records are being sent.
    pub fn is_idle(&self) -> bool {
        self.running == 0
    }

    /// Returns what to do at `now`. The driver must have taken all requests from [`request`](Self::request) before.
    pub fn next(&mut self, now: Instant) -> Step {
        debug_assert!(self.open.len() <= self.running, "a request was answered before it was finished");
        let step = self.step(now);
        self.is_held = step == Step::Hold;
        step
    }

    fn step(&mut self, now: Instant) -> Step {
        self.unpaced(now);
        if !self.incoming.replies().is_empty() {
            return Step::Send(std::mem::take(self.incoming.replies()));
        }
        match self.life {
            Life::Last | Life::Deaf(_) if self.running == 0 => return Step::End(self.end()),
            Life::Deaf(_) => return Step::Hold,
            Life::Open | Life::Last => {}
        }
        if self.is_full() {
            self.deadline = None;
            return Step::Hold;
        }
        let drained = match self.drains.next(now) {
            Need::GiveUp(policy) => {
                self.last();
                if self.running == 0 {
                    return Step::End(End { policy, ..self.end() });
                }
                None
            }
            Need::Measure => return Step::Measure,
            Need::Look => Some(now),
            Need::Wait(until) => Some(until),
            Need::Nothing => None,
        };
        let owes = self.incoming.expects_more();
        let rests = !owes && self.running == 0 && self.drains.is_empty() && self.served > 0;
        let patience = if rests {
            Some(self.bounds.keep_idle)
        } else if owes || self.served == 0 {
            Some(self.bounds.io_timeout)
        } else {
            // No deadline: handlers run and the gateway has nothing to send, or a drain has bounds of its own.
            None
        };
        self.deadline = patience.and_then(|patience| self.deadline.or(now.checked_add(patience)));
        let until = [self.deadline, drained, self.paced(now)].into_iter().flatten().min();
        if rests { Step::Rest(until) } else { Step::Receive(until) }
    }

    /// How the driver has to end the connection.
    pub fn end(&self) -> End {
        let fault = match self.life {
            Life::Deaf(Gone::Protocol(error)) => Some(error),
            _ => None,
        };
        let is_slow = matches!(self.life, Life::Deaf(Gone::Slow));
        End { policy: self.bounds.policy, requests: self.served, fault, is_slow }
    }

    /// Takes received bytes off the front of `input`, up to the next event that concerns a handler or the driver. Call
    /// it again, after [`next`](Self::next), until `input` is empty.
    pub fn take(&mut self, input: &mut &[u8], now: Instant) {
        debug_assert!(!matches!(self.life, Life::Deaf(_)), "received after the end");
        self.deadline = None;
        self.unpaced(now);
        loop {
            match self.incoming.next(input) {
                Ok(Some(Received::Discarded(bytes))) => {
                    self.drains.discarded(self.incoming.record_id(), bytes);
                    continue;
                }
                Ok(Some(event)) => {
                    self.heard = Some(now);
                    self.apply(event, now);
                }
                Ok(None) => {}
                Err(error) => self.life = Life::Deaf(Gone::Protocol(error)),
            }
            break;
        }
        if self.incoming.is_last() && matches!(self.life, Life::Open) {
            self.last();
        }
        self.drains.settle(|id| self.incoming.drains(id), now);
    }

    fn apply(&mut self, event: Received<'_>, now: Instant) {
        let (id, which, bytes) = match event {
            Received::Start(start) => return self.begin(start),
            Received::Abort(id) => {
                return self
                    .open
                    .iter_mut()
                    .filter(|open| open.id == id)
                    .for_each(|open| open.is_aborted = true);
            }
            Received::Stdin(id, bytes) => (id, Which::Stdin, Some(bytes)),
            Received::StdinEnd(id) => (id, Which::Stdin, None),
            Received::Data(id, bytes) => (id, Which::Data, Some(bytes)),
            Received::DataEnd(id) => (id, Which::Data, None),
            Received::Discarded(_) => return,
        };
        let spool = if self.has_memory() { None } else { self.bounds.spool.as_deref() };
        let open = self.open.iter_mut().find(|open| open.id == id);
        debug_assert!(open.is_some(), "a body for request {id}, which does not run");
        let Some(open) = open else { return };
        open.moved(bytes.map_or(0, <[u8]>::len), self.bounds.input_idle, now);
        match bytes {
            Some(bytes) => {
                if !open.push(which, bytes, spool) {
                    self.bounds.spool = None;
                }
            }
            None => open.end(which),
        }
    }

    fn begin(&mut self, start: Start) {
        debug_assert!(self.open.iter().all(|open| open.id != start.id), "request {} runs twice", start.id);
        self.params_came();
        self.served += 1;
        self.running += 1;
        let key = Key::new(self.served);
        self.open.push(OpenRequest::new(key, &start));
        self.fresh.push_back((key, start));
    }

    /// Reports that nothing came until the deadline of the step.
    pub fn silent(&mut self, now: Instant) {
        self.drains.silent(now);
        if self.is_too_slow(now) {
            self.life = Life::Deaf(Gone::Slow);
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.life = Life::Deaf(Gone::Silent);
        }
    }

    /// Reports that the gateway has closed its side.
    pub fn closed(&mut self) {
        self.life = Life::Deaf(Gone::Closed);
    }

    /// Reports that the connection failed, while it was read or while [replies](Step::Send) were sent.
    pub fn lost(&mut self, kind: ErrorKind) {
        self.life = Life::Deaf(Gone::Failed(kind));
    }

    /// Reports how many bytes are sent and not acknowledged: [`linger::Event::Unacknowledged`], with `fin` true if there
    /// are none, or [`linger::Event::Unknown`].
    pub fn measured(&mut self, event: linger::Event, now: Instant) {
        self.drains.measured(event, now);
    }

    /// Whether the last step was [`Step::Hold`]: when a handler has read, or waits, the driver should ask for the next one.
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Whether the gateway no longer waits for the answer, as far as is known: it has aborted the request, or nothing more can
    /// be read from it.
    pub fn is_aborted(&self, key: Key) -> bool {
        matches!(self.life, Life::Deaf(_)) || self.open.iter().any(|open| open.key == key && open.is_aborted)
    }

    /// How many bytes of a request's body have come, until it is [finished](Self::finish).
    pub(crate) fn received(&self, key: Key) -> u64 {
        self.open.iter().find(|open| open.key == key).map_or(0, |open| open.received)
    }

    /// Notes that a handler is done: with this status, or with `None` if it failed. Returns which records are to end the
    /// request ([`Answer::last`]).
    ///
    /// Call this before the last records are sent: once the gateway has END_REQUEST it may use the id again.
    pub fn finish(&mut self, key: Key, status: Option<u32>, said: Said, now: Instant) -> RequestEnd {
        let Some(at) = self.open.iter().position(|open| open.key == key) else {
            debug_assert!(false, "{key:?} was finished before");
            return RequestEnd::Cut;
        };
        let open = self.open.swap_remove(at);
        let end = RequestEnd::of(status, said, open.is_aborted);
        let draining = self.incoming.finish(open.id);
        tracing::debug!(id = open.id, aborted = open.is_aborted, ?end, draining, "request ends");
        if end == RequestEnd::Cut || !open.keep_conn {
            self.last();
        }
        if draining && matches!(self.life, Life::Open) {
            self.drains.begin(open.id, now);
        }
        self.deadline = None;
        end
    }

    /// Reports whether the last records of a request were sent.
    pub fn answered(&mut self, sent: bool) {
        debug_assert!(self.running > self.open.len(), "answered before it was finished");
        self.running -= 1;
        if !sent {
            self.last();
        }
    }

    /// Accepts no new request. The connection ends with the running ones.
    fn last(&mut self) {
        if let Life::Open = self.life {
            self.life = Life::Last;
        }
        self.drains.clear();
        self.incoming.refuse();
    }
}
