//! The lingering close as a state machine: no socket, no clock, no allocation.
//!
//! Whoever drives it asks for an [`Action`], does it, and reports the [`Event`] it led to; time is an
//! argument. The order that it keeps, whatever happens:
//! the half-close comes before the first read, reads go on while the policy allows waiting, and exactly one
//! close ends it. The read side is never shut.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::outcome::{Bound, Ended, Outcome};
use crate::policy::{AtLimit, Policy};

/// What the driver is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
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
        until: Instant,
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
    /// Nanoseconds after `started` of the last byte received or newly acknowledged.
    progress: u64,
    idle: u32,
    total: u32,
    grace: u32,
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
    allowance: u64,
    discarded: u64,
    unacknowledged: u64,
}

impl Machine {
    /// Starts the close of one connection at `now`.
    ///
    /// Bounds are kept in milliseconds, rounded up, and end at 49 days.
    pub fn new(policy: &Policy, now: Instant) -> Self {
        Self {
            started: now,
            progress: 0,
            idle: millis(policy.idle),
            total: millis(policy.total),
            grace: millis(policy.grace),
            abort_at_limit: policy.at_limit == AtLimit::Abort,
            half_closed: false,
            readable: true,
            measure: true,
            end_of_stream: false,
            acknowledged: false,
            known: false,
            ended: None,
            allowance: policy.max_discard.unwrap_or(u64::MAX),
            discarded: 0,
            unacknowledged: 0,
        }
    }

    /// Reports what was seen at `now`.
    ///
    /// Time that runs backwards is read as standing still.
    pub fn on(&mut self, event: Event, now: Instant) {
        if self.ended.is_some() {
            // Only the last question is still open: what a reset left unacknowledged.
            if let Event::Unacknowledged { bytes, .. } = event {
                self.known = true;
                self.unacknowledged = bytes;
            }
            self.measure = false;
            return;
        }
        match event {
            Event::HalfClosed => {
                self.half_closed = true;
                self.progress = self.since_start(now);
            }
            Event::Gone => self.end_early(Ended::Gone),
            Event::Discarded(bytes) => {
                self.discarded = self.discarded.saturating_add(bytes);
                self.allowance = self.allowance.saturating_sub(bytes);
                self.progress = self.since_start(now);
            }
            Event::Empty => self.readable = false,
            Event::EndOfStream => {
                self.end_of_stream = true;
                self.readable = false;
                self.measure = true;
            }
            Event::Unacknowledged { bytes, fin } => {
                let everything = fin && bytes == 0;
                if !self.known || bytes < self.unacknowledged || (everything && !self.acknowledged) {
                    self.progress = self.since_start(now);
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

    /// Says what to do at `now`. Asking changes nothing but to note a bound that has run out.
    pub fn next(&mut self, now: Instant) -> Action {
        let elapsed = self.since_start(now);
        if self.ended.is_none() {
            if !self.half_closed {
                return Action::HalfClose;
            }
            if elapsed >= nanos(self.total) {
                // Even now the truth about the last bytes is worth one question.
                if self.measure {
                    return Action::Measure;
                }
                self.ended = Some(self.at_total());
            } else if self.readable && self.allowance > 0 {
                return Action::Discard { max: self.allowance };
            } else if self.measure {
                return Action::Measure;
            } else if self.end_of_stream && (self.acknowledged || !self.known) {
                self.ended = Some(Ended::PeerClosed);
            } else {
                let until = self.patience();
                if elapsed < until {
                    return Action::Wait { until: self.started + Duration::from_nanos(until) };
                }
                self.ended = Some(self.at_patience());
            }
        }
        if self.measure && matches!(self.ended, Some(ended) if ended.leaves_a_queue()) {
            return Action::Measure;
        }
        let ended = self.ended.unwrap_or(Ended::TimedOut(Bound::Total));
        Action::Close {
            abort: self.abort_at_limit && matches!(ended, Ended::TimedOut(_) | Ended::Limit),
            outcome: Outcome {
                ended,
                discarded: self.discarded,
                unacknowledged: self.known.then_some(self.unacknowledged),
                elapsed: Duration::from_nanos(elapsed),
            },
        }
    }

    /// Tightens the bounds of a close that is under way, as before the process exits: it ends `total` from
    /// `now` at the latest, and at the next silence of `idle`. Never loosens a bound.
    pub fn hurry(&mut self, idle: Duration, total: Duration, now: Instant) {
        let total = self.since_start(now).div_ceil(1_000_000).saturating_add(u64::from(millis(total)));
        self.total = self.total.min(u32::try_from(total).unwrap_or(u32::MAX));
        self.idle = self.idle.min(millis(idle));
        self.grace = self.grace.min(millis(idle));
    }

    /// Whether the peer has acknowledged everything, the FIN included, as far as is known.
    pub fn acknowledged(&self) -> bool {
        self.acknowledged
    }

    /// Whether the half-close has been done.
    pub fn half_closed(&self) -> bool {
        self.half_closed
    }

    /// Ends where the peer or the kernel decided it; the send queue is asked once more, for it stays.
    fn end_early(&mut self, ended: Ended) {
        self.ended = Some(ended);
        self.measure = true;
    }

    /// When the present silence becomes too long, in nanoseconds after the start.
    fn patience(&self) -> u64 {
        let silence = if self.acknowledged {
            self.grace.min(self.idle)
        } else if self.allowance == 0 {
            // Nothing is read any more, so silence proves nothing: only acknowledgement or `total` ends it.
            return nanos(self.total);
        } else {
            self.idle
        };
        nanos(self.total).min(self.progress.saturating_add(nanos(silence)))
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

    fn since_start(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.started).as_nanos();
        u64::try_from(elapsed).unwrap_or(u64::MAX).max(self.progress)
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

fn nanos(millis: u32) -> u64 {
    u64::from(millis) * 1_000_000
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
