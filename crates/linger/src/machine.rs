//! The lingering close as a state machine: no socket, no clock, no allocation.
//!
//! Whoever drives it asks for an [`Action`], does it, and reports the [`Event`] it led to; time is an
//! argument. The order that it keeps, whatever happens:
//! the half-close comes before the first read, reads go on while the policy allows waiting, and exactly one
//! close ends it. The read side is never shut.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::outcome::{Bound, Ended, Outcome};
use crate::policy::{AtLimit, Mode, Policy};

/// What the driver is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action<Time = Instant> {
    /// Call `shutdown(SHUT_WR)`; report [`Event::HalfClosed`] or [`Event::Gone`].
    HalfClose,
    /// Read and discard at most `max` bytes without waiting; report [`Event::Discarded`], [`Event::Empty`],
    /// [`Event::EndOfStream`] or an error.
    Discard {
        /// At least 1.
        max: u64,
    },
    /// Ask the kernel for the unacknowledged bytes; report [`Event::Unacknowledged`] or [`Event::Unknown`].
    Measure,
    /// Wait until the socket has news or the time has come; report [`Event::Woken`] in both cases.
    Wait {
        /// The end of the wait.
        until: Time,
    },
    /// Close the descriptor. The last action; asked again, the machine repeats it.
    Close {
        /// Set `SO_LINGER 0` first, so that the kernel sends a reset and keeps nothing.
        abort: bool,
        /// What the close came to.
        outcome: Outcome,
    },
}

/// What the driver has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// `shutdown(SHUT_WR)` succeeded.
    HalfClosed,
    /// `shutdown(SHUT_WR)` said that there is no connection (`ENOTCONN`, `EPIPE`, `ECONNRESET`).
    Gone,
    /// So many bytes were read and thrown away; never 0.
    Discarded(u64),
    /// Nothing is there to read now (`EAGAIN`).
    Empty,
    /// The peer has closed its side: `recv` returned 0.
    EndOfStream,
    /// The state of the send queue.
    Unacknowledged {
        /// Bytes not acknowledged, the FIN not counted.
        bytes: u64,
        /// Whether the FIN, too, is acknowledged, and so everything is.
        fin: bool,
    },
    /// The kernel cannot tell what is acknowledged.
    Unknown,
    /// The connection was reset (`ECONNRESET`, `EPIPE`, or the state said so).
    Reset,
    /// The kernel gave up on the peer (`ETIMEDOUT`).
    KernelTimeout,
    /// Any other error.
    Failed(ErrorKind),
    /// A wait is over: the socket has news, or the time has come.
    Woken,
}

/// The lingering close of one connection.
///
/// ```
/// use linger::{Action, Ended, Event, Machine, Policy};
/// use std::time::Instant;
///
/// let now = Instant::now();
/// let mut machine = Machine::new(&Policy::default(), now);
/// assert_eq!(machine.next(now), Action::HalfClose);
/// machine.on(Event::HalfClosed, now);
/// assert!(matches!(machine.next(now), Action::Discard { .. }));
/// machine.on(Event::EndOfStream, now);
/// assert_eq!(machine.next(now), Action::Measure);
/// machine.on(Event::Unacknowledged { bytes: 0, fin: true }, now);
/// let Action::Close { outcome, .. } = machine.next(now) else { panic!() };
/// assert_eq!(outcome.ended, Ended::PeerClosed);
/// ```
#[derive(Clone, Debug)]
pub struct Machine {
    started: Instant,
    core: Core,
}

impl Machine {
    /// Starts the close of one connection at `now`.
    ///
    /// Bounds are kept in milliseconds, rounded up, and end at 49 days.
    pub fn new(policy: &Policy, now: Instant) -> Self {
        Self { started: now, core: Core::new(policy, 0) }
    }

    /// Reports what was seen at `now`.
    ///
    /// Time that runs backwards is read as standing still.
    pub fn on(&mut self, event: Event, now: Instant) {
        self.core.on(event, self.since_start(now));
    }

    /// Says what to do at `now`. Asking changes nothing but to note a bound that has run out.
    pub fn next(&mut self, now: Instant) -> Action {
        match self.core.next(self.since_start(now)) {
            Action::HalfClose => Action::HalfClose,
            Action::Discard { max } => Action::Discard { max },
            Action::Measure => Action::Measure,
            Action::Wait { until } => Action::Wait { until: self.started + Duration::from_nanos(until) },
            Action::Close { abort, outcome } => Action::Close { abort, outcome },
        }
    }

    /// Tightens the bounds of a close that is under way, as before the process exits: it ends `total` from
    /// `now` at the latest, and at the next silence of `idle`. Never loosens a bound.
    pub fn hurry(&mut self, idle: Duration, total: Duration, now: Instant) {
        self.core.hurry(idle, total, self.since_start(now));
    }

    /// Whether the peer has acknowledged everything, the FIN included, as far as is known.
    pub fn acknowledged(&self) -> bool {
        self.core.acknowledged()
    }

    /// Whether the half-close has been done.
    pub fn half_closed(&self) -> bool {
        self.core.half_closed
    }

    fn since_start(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The machine without the width of an [`Instant`]: every time is in nanoseconds after an origin of the
/// driver's choice. The closer holds thousands of these.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    started: u64,
    discarded: u64,
    allowance: u64,
    /// The kernel counts its queue in an `int`.
    unacknowledged: u32,
    /// Milliseconds after `started` of the last byte received or newly acknowledged, rounded up.
    progress: u32,
    idle: u32,
    total: u32,
    grace: u32,
    mode: Mode,
    abort_at_limit: bool,
    half_closed: bool,
    /// The socket may have something to read.
    readable: bool,
    /// The send queue has not been asked since the last news.
    measure: bool,
    end_of_stream: bool,
    acknowledged: bool,
    known: bool,
    ended: Option<Ended>,
}

impl Core {
    pub(crate) fn new(policy: &Policy, now: u64) -> Self {
        Self {
            started: now,
            discarded: 0,
            allowance: policy.max_discard.unwrap_or(u64::MAX),
            unacknowledged: 0,
            progress: 0,
            idle: millis(policy.idle),
            total: millis(policy.total),
            grace: millis(policy.grace),
            mode: policy.mode,
            abort_at_limit: policy.at_limit == AtLimit::Abort,
            half_closed: false,
            readable: true,
            measure: true,
            end_of_stream: false,
            acknowledged: false,
            known: false,
            // A reset needs no half-close, and asks only what it costs.
            ended: (policy.mode == Mode::Abort).then_some(Ended::Aborted),
        }
    }

    pub(crate) fn on(&mut self, event: Event, now: u64) {
        if self.ended.is_some() {
            // Only the last question is still open: what a reset left unacknowledged.
            if let Event::Unacknowledged { bytes, .. } = event {
                self.known = true;
                self.unacknowledged = narrow(bytes);
            }
            self.measure = false;
            return;
        }
        match event {
            Event::HalfClosed => {
                self.half_closed = true;
                self.progressed(now);
            }
            Event::Gone => self.end_early(Ended::Gone),
            Event::Discarded(bytes) => {
                self.discarded = self.discarded.saturating_add(bytes);
                self.allowance = self.allowance.saturating_sub(bytes);
                self.readable &= self.mode == Mode::Linger;
                self.progressed(now);
            }
            Event::Empty => self.readable = false,
            Event::EndOfStream => {
                self.end_of_stream = true;
                self.readable = false;
                // What has been acknowledged stays so.
                self.measure = !self.acknowledged;
            }
            Event::Unacknowledged { bytes, fin } => {
                let bytes = narrow(bytes);
                let everything = fin && bytes == 0;
                if !self.known || bytes < self.unacknowledged || (everything && !self.acknowledged) {
                    self.progressed(now);
                }
                self.measure = false;
                self.known = true;
                self.unacknowledged = bytes;
                self.acknowledged = everything;
            }
            Event::Unknown => {
                self.measure = false;
                self.known = false;
            }
            Event::Reset => self.end_early(Ended::PeerReset),
            Event::KernelTimeout => self.end_early(Ended::TimedOut(Bound::Kernel)),
            Event::Failed(kind) => self.ended = Some(Ended::Failed(kind)),
            Event::Woken => {
                self.readable = !self.end_of_stream;
                self.measure = !self.acknowledged;
            }
        }
    }

    pub(crate) fn next(&mut self, now: u64) -> Action<u64> {
        if self.ended.is_none() {
            if !self.half_closed {
                return Action::HalfClose;
            }
            if now >= self.end() {
                // Even now the truth about the last bytes is worth one question.
                if self.measure {
                    return Action::Measure;
                }
                self.ended = Some(self.at_total());
            } else if self.readable && self.allowance > 0 {
                return Action::Discard { max: self.allowance };
            } else if self.measure {
                return Action::Measure;
            } else if self.mode == Mode::None {
                self.ended = Some(Ended::Unwaited);
            } else if self.end_of_stream && (self.acknowledged || !self.known) {
                self.ended = Some(Ended::PeerClosed);
            } else {
                let until = self.patience();
                if now < until {
                    return Action::Wait { until };
                }
                self.ended = Some(self.at_patience());
            }
        }
        if self.measure && matches!(self.ended, Some(ended) if ended.leaves_a_queue()) {
            return Action::Measure;
        }
        let ended = self.ended.unwrap_or(Ended::TimedOut(Bound::Total));
        Action::Close {
            abort: self.mode == Mode::Abort || (self.abort_at_limit && ended.is_a_limit()),
            outcome: Outcome {
                ended,
                discarded: self.discarded,
                unacknowledged: self.known.then_some(u64::from(self.unacknowledged)),
                elapsed: Duration::from_nanos(now.saturating_sub(self.started)),
            },
        }
    }

    pub(crate) fn hurry(&mut self, idle: Duration, total: Duration, now: u64) {
        let elapsed = now.saturating_sub(self.started).div_ceil(NANOS);
        let total = elapsed.saturating_add(u64::from(millis(total)));
        self.total = self.total.min(narrow(total));
        self.idle = self.idle.min(millis(idle));
        self.grace = self.grace.min(millis(idle));
    }

    /// Gives the close up for the sake of others; what is unacknowledged is asked once more.
    pub(crate) fn evict(&mut self) {
        if self.ended.is_none() {
            self.end_early(Ended::Evicted);
        }
    }

    pub(crate) fn acknowledged(&self) -> bool {
        self.acknowledged
    }

    pub(crate) fn discarded(&self) -> u64 {
        self.discarded
    }

    pub(crate) fn end_of_stream(&self) -> bool {
        self.end_of_stream
    }

    /// Whether everything was read that the policy lets be read.
    pub(crate) fn is_sated(&self) -> bool {
        self.allowance == 0
    }

    /// When `total` ends the close.
    pub(crate) fn end(&self) -> u64 {
        self.started.saturating_add(nanos(self.total))
    }

    /// When the present silence becomes too long.
    pub(crate) fn patience(&self) -> u64 {
        let silence = if self.acknowledged {
            self.grace.min(self.idle)
        } else if self.allowance == 0 {
            // Nothing is read any more, so silence proves nothing: only acknowledgement or `total` ends it.
            return self.end();
        } else {
            self.idle
        };
        let until = self.started.saturating_add(nanos(self.progress)).saturating_add(nanos(silence));
        until.min(self.end())
    }

    /// Ends where the peer or the kernel decided it; the send queue is asked once more, for it stays.
    fn end_early(&mut self, ended: Ended) {
        self.ended = Some(ended);
        self.measure = true;
    }

    fn progressed(&mut self, now: u64) {
        self.progress = self.progress.max(narrow(now.saturating_sub(self.started).div_ceil(NANOS)));
    }

    fn at_patience(&self) -> Ended {
        match (self.acknowledged, self.allowance) {
            (true, 0) => Ended::Limit,
            (true, _) => Ended::Acknowledged,
            (false, _) => Ended::TimedOut(Bound::Idle),
        }
    }

    fn at_total(&self) -> Ended {
        match (self.acknowledged, self.allowance) {
            (true, 0) => Ended::Limit,
            _ => Ended::TimedOut(Bound::Total),
        }
    }
}

/// Nanoseconds in a millisecond.
const NANOS: u64 = 1_000_000;

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(u128::from(NANOS))).unwrap_or(u32::MAX)
}

fn nanos(millis: u32) -> u64 {
    u64::from(millis) * NANOS
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
