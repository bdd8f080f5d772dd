//! The machine's states and decisions, in nanoseconds.

use std::time::Duration;

use super::{Action, Event};
use crate::outcome::{Bound, Ended, Outcome};
use crate::policy::{AtLimit, Mode, Policy};

/// The machine without the width of an [`Instant`]: every time is in nanoseconds after an origin of the
/// driver's choice. The closer holds thousands of these.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    started: u64,
    discarded: u64,
    /// How many bytes more may be discarded.
    allowance: u64,
    /// Milliseconds after `started` of the last byte received or newly acknowledged, rounded up.
    progress: u32,
    idle: u32,
    total: u32,
    grace: u32,
    mode: Mode,
    at_limit: AtLimit,
    state: State,
}

/// How far a close has come.
#[derive(Clone, Copy, Debug)]
enum State {
    /// The FIN has not been sent.
    Open,
    /// The FIN is out, and the peer may still send.
    Draining {
        /// There may be something to read.
        readable: bool,
        sent: Sent,
    },
    /// The peer has closed its side, and may not have acknowledged everything.
    PeerClosed { sent: Sent },
    /// It is decided how it ends; what is left may have to be asked for the outcome.
    Ended { ended: Ended, sent: Sent },
}

/// What is known of the bytes that were sent; `ask`: the send queue may have changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// The kernel cannot tell, or has not been asked.
    Unknown { ask: bool },
    /// So many bytes, or the FIN, are not acknowledged. The kernel counts them in an `int`.
    Holds { bytes: u32, ask: bool },
    /// The peer has acknowledged everything, the FIN included, and that stays so.
    Acknowledged,
}

impl Sent {
    const UNASKED: Self = Self::Unknown { ask: true };

    fn asks(self) -> bool {
        matches!(self, Self::Unknown { ask: true } | Self::Holds { ask: true, .. })
    }

    /// The same, to be asked again or not.
    fn asking(self, ask: bool) -> Self {
        match self {
            Self::Unknown { .. } => Self::Unknown { ask },
            Self::Holds { bytes, .. } => Self::Holds { bytes, ask },
            Self::Acknowledged => Self::Acknowledged,
        }
    }

    /// What a look at the queue makes of it.
    fn measured(self, bytes: u64, fin: bool) -> Self {
        match self {
            Self::Acknowledged => self,
            _ if fin && bytes == 0 => Self::Acknowledged,
            _ => Self::Holds { bytes: narrow(bytes), ask: false },
        }
    }

    /// Whether the peer has acknowledged something between an earlier look and this one; the first look counts.
    fn is_progress_since(self, earlier: Self) -> bool {
        match (earlier, self) {
            (Self::Unknown { .. }, _) | (Self::Holds { .. }, Self::Acknowledged) => true,
            (Self::Holds { bytes: before, .. }, Self::Holds { bytes, .. }) => bytes < before,
            _ => false,
        }
    }

    /// The kernel cannot tell.
    fn unknown(self) -> Self {
        match self {
            Self::Acknowledged => self,
            _ => Self::Unknown { ask: false },
        }
    }

    fn bytes(self) -> Option<u64> {
        match self {
            Self::Unknown { .. } => None,
            Self::Holds { bytes, .. } => Some(u64::from(bytes)),
            Self::Acknowledged => Some(0),
        }
    }
}

impl Core {
    pub(crate) fn new(policy: &Policy, now: u64) -> Self {
        let state = match policy.mode {
            // A reset needs no half-close, and asks only what it costs.
            Mode::Abort => State::Ended { ended: Ended::Aborted, sent: Sent::UNASKED },
            Mode::Linger | Mode::None => State::Open,
        };
        Self {
            started: now,
            discarded: 0,
            allowance: policy.max_discard.unwrap_or(u64::MAX),
            progress: 0,
            idle: millis(policy.idle),
            total: millis(policy.total),
            grace: millis(policy.grace),
            mode: policy.mode,
            at_limit: policy.at_limit,
            state,
        }
    }

    pub(crate) fn on(&mut self, event: Event, now: u64) {
        if let State::Ended { sent, .. } = &mut self.state {
            // Only the last question is still open: what is left unacknowledged.
            *sent = match event {
                Event::Unacknowledged { bytes, fin } => sent.measured(bytes, fin),
                _ => sent.asking(false),
            };
            return;
        }
        match event {
            Event::HalfClosed => {
                if let State::Open = self.state {
                    self.state = State::Draining { readable: true, sent: Sent::UNASKED };
                }
                self.progressed(now);
            }
            Event::Discarded(bytes) => {
                self.discarded = self.discarded.saturating_add(bytes);
                self.allowance = self.allowance.saturating_sub(bytes);
                // Without lingering one read is enough: a peer that floods cannot make it stay.
                if self.mode == Mode::None {
                    self.set_readable(false);
                }
                self.progressed(now);
            }
            Event::Empty => self.set_readable(false),
            Event::EndOfStream => {
                if let State::Draining { sent, .. } = self.state {
                    self.state = State::PeerClosed { sent: sent.asking(true) };
                }
            }
            Event::Unacknowledged { bytes, fin } => {
                if let Some(sent) = self.sent_mut() {
                    let earlier = std::mem::replace(sent, sent.measured(bytes, fin));
                    if sent.is_progress_since(earlier) {
                        self.progressed(now);
                    }
                }
            }
            Event::Unknown => {
                if let Some(sent) = self.sent_mut() {
                    *sent = sent.unknown();
                }
            }
            Event::Woken => {
                self.set_readable(true);
                if let Some(sent) = self.sent_mut() {
                    *sent = sent.asking(true);
                }
            }
            Event::Gone => self.end_early(Ended::Gone),
            Event::Reset => self.end_early(Ended::PeerReset),
            Event::KernelTimeout => self.end_early(Ended::TimedOut(Bound::Kernel)),
            Event::Failed(kind) => self.end(Ended::Failed(kind), false),
        }
    }

    pub(crate) fn next(&mut self, now: u64) -> Action<u64> {
        loop {
            match self.state {
                State::Open => return Action::HalfClose,
                State::Draining { readable: true, .. } if now < self.end_at() && !self.is_sated() => {
                    return Action::Discard { max: self.allowance };
                }
                // Even when time is over the truth about the last bytes is worth one question.
                State::Draining { sent, .. } | State::PeerClosed { sent } | State::Ended { sent, .. }
                    if sent.asks() =>
                {
                    return Action::Measure;
                }
                State::Draining { .. } | State::PeerClosed { .. } => match self.wait(now) {
                    Ok(until) => return Action::Wait { until },
                    Err(ended) => self.end(ended, false),
                },
                State::Ended { ended, sent } => return self.close(ended, sent, now),
            }
        }
    }

    /// Until when to wait for the peer; where there is nothing to wait for, how it ends.
    fn wait(&self, now: u64) -> Result<u64, Ended> {
        if now >= self.end_at() {
            return Err(self.at_total());
        }
        if self.mode == Mode::None {
            return Err(Ended::Unwaited);
        }
        if let State::PeerClosed { sent: Sent::Unknown { .. } | Sent::Acknowledged } = self.state {
            return Err(Ended::PeerClosed);
        }
        let until = self.patience();
        debug_assert!(until <= self.end_at(), "no wait goes past `total`");
        if now < until { Ok(until) } else { Err(self.at_patience()) }
    }

    fn close(&self, ended: Ended, sent: Sent, now: u64) -> Action<u64> {
        debug_assert!(!sent.asks(), "an outcome is told with a question open");
        Action::Close {
            abort: self.mode == Mode::Abort || (self.at_limit == AtLimit::Abort && ended.is_a_limit()),
            outcome: Outcome {
                ended,
                discarded: self.discarded,
                unacknowledged: sent.bytes(),
                elapsed: Duration::from_nanos(now.saturating_sub(self.started)),
            },
        }
    }

    /// Tightens the bounds; never loosens one.
    pub(crate) fn hurry(&mut self, idle: Duration, total: Duration, now: u64) {
        let elapsed = now.saturating_sub(self.started).div_ceil(NANOS);
        let total = elapsed.saturating_add(u64::from(millis(total)));
        self.total = self.total.min(narrow(total));
        self.idle = self.idle.min(millis(idle));
        self.grace = self.grace.min(millis(idle));
    }

    /// Gives the close up for the sake of others.
    pub(crate) fn evict(&mut self) {
        if !matches!(self.state, State::Ended { .. }) {
            self.end_early(Ended::Evicted);
        }
    }

    /// Whether the peer has acknowledged everything, as far as is known.
    pub(crate) fn acknowledged(&self) -> bool {
        self.sent() == Sent::Acknowledged
    }

    pub(crate) fn half_closed(&self) -> bool {
        !matches!(self.state, State::Open)
    }

    pub(crate) fn discarded(&self) -> u64 {
        self.discarded
    }

    /// Whether the peer has closed its side.
    pub(crate) fn end_of_stream(&self) -> bool {
        matches!(self.state, State::PeerClosed { .. })
    }

    /// Whether everything was read that the policy lets be read.
    pub(crate) fn is_sated(&self) -> bool {
        self.allowance == 0
    }

    /// When `total` ends the close.
    pub(crate) fn end_at(&self) -> u64 {
        self.started.saturating_add(nanos(self.total))
    }

    /// When the present silence becomes too long.
    pub(crate) fn patience(&self) -> u64 {
        let silence = if self.acknowledged() {
            self.grace.min(self.idle)
        } else if self.is_sated() {
            // Nothing is read any more, so silence proves nothing: only acknowledgement or `total` ends it.
            return self.end_at();
        } else {
            self.idle
        };
        let until = self.started.saturating_add(nanos(self.progress)).saturating_add(nanos(silence));
        until.min(self.end_at())
    }

    fn sent(&self) -> Sent {
        match self.state {
            State::Open => Sent::UNASKED,
            State::Draining { sent, .. } | State::PeerClosed { sent } | State::Ended { sent, .. } => sent,
        }
    }

    fn sent_mut(&mut self) -> Option<&mut Sent> {
        match &mut self.state {
            State::Draining { sent, .. } | State::PeerClosed { sent } => Some(sent),
            State::Open | State::Ended { .. } => None,
        }
    }

    fn set_readable(&mut self, is_readable: bool) {
        if let State::Draining { readable, .. } = &mut self.state {
            *readable = is_readable;
        }
    }

    /// Ends where the peer or the kernel decided it. `SIOCOUTQ` still answers after a reset: ask once more.
    fn end_early(&mut self, ended: Ended) {
        self.end(ended, true);
    }

    fn end(&mut self, ended: Ended, ask: bool) {
        debug_assert!(!matches!(self.state, State::Ended { .. }), "a close ends once");
        self.state = State::Ended { ended, sent: self.sent().asking(ask) };
    }

    fn progressed(&mut self, now: u64) {
        self.progress = self.progress.max(narrow(now.saturating_sub(self.started).div_ceil(NANOS)));
    }

    fn at_patience(&self) -> Ended {
        match (self.acknowledged(), self.is_sated()) {
            (true, true) => Ended::Limit,
            (true, false) => Ended::Acknowledged,
            (false, _) => Ended::TimedOut(Bound::Idle),
        }
    }

    fn at_total(&self) -> Ended {
        match (self.acknowledged(), self.is_sated()) {
            (true, true) => Ended::Limit,
            _ => Ended::TimedOut(Bound::Total),
        }
    }
}

/// The closer holds thousands of cores. 56 bytes, so that a socket with all that belongs to it takes 96.
const _: () = assert!(size_of::<Core>() <= 56);

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

#[cfg(all(test, not(loom)))]
#[path = "core_tests.rs"]
mod tests;
