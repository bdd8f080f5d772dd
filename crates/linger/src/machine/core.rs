//! The machine's states and decisions, in nanoseconds.

use std::time::Duration;

use super::sent::{Sent, narrow};
use super::{Action, Event};
use crate::outcome::{Bound, Ended, Outcome};
use crate::policy::{AtLimit, Mode, Policy, defaults};

/// The machine, with times in nanoseconds after an origin of the driver's choice: an [`Instant`](std::time::Instant) takes more
/// room, and the closer holds thousands of cores.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    started: u64,
    discarded: u64,
    /// How many more bytes may be discarded.
    allowance: u64,
    /// The peer's last sign of life, in milliseconds after `started`, rounded up: a byte received or newly acknowledged, or
    /// the kernel's report that the peer answers. The bounds, too, are in milliseconds.
    progress: u32,
    idle: u32,
    total: u32,
    grace: u32,
    mode: Mode,
    at_limit: AtLimit,
    look: Look,
    peer_end: PeerEnd,
    state: CloseState,
}

/// What caused the present look at the socket, and what it has found so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// An event of the socket, within the policy's patience.
    InTime,
    /// The bound of silence had run out before the look.
    Late,
    /// As `Late`, and more bytes are acknowledged than at the last look. No event tells of the acknowledgement of a part, so
    /// it may have come at any time since that look.
    LateAcknowledgement,
    /// The kernel has been asked about the peer.
    Inspected,
    /// As `Inspected`, and the peer's kernel answers, but its program has read nothing for the whole of `idle`.
    Paused,
}

/// When the peer's end of the stream came, as far as the looks at the socket can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerEnd {
    /// No look since the half-close has found the stream open.
    Unseen,
    /// A look since the half-close has found the stream open.
    Open,
    /// The end was seen while something was not yet acknowledged.
    Before,
}

/// How far a close has come.
#[derive(Clone, Copy, Debug)]
enum CloseState {
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
    /// How the close ends is decided. The send queue may still have to be measured for the outcome.
    Ended { ended: Ended, sent: Sent },
}

impl Core {
    pub(crate) fn new(policy: &Policy, now: u64) -> Self {
        let state = match policy.mode {
            // A reset needs no half-close. The send queue is still measured, for the outcome.
            Mode::Abort => CloseState::Ended { ended: Ended::Aborted, sent: Sent::UNASKED },
            Mode::Linger | Mode::None => CloseState::Open,
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
            look: Look::InTime,
            peer_end: PeerEnd::Unseen,
            state,
        }
    }

    /// As [`new`](Self::new), for a socket whose owner may have sent the FIN before.
    #[cfg(feature = "tokio")]
    pub(crate) fn begin(policy: &Policy, is_half_closed: bool, now: u64) -> Self {
        let mut core = Self::new(policy, now);
        if is_half_closed && !core.half_closed() {
            core.on(Event::HalfClosed, now);
        }
        core
    }

    pub(crate) fn on(&mut self, event: Event, now: u64) {
        if let CloseState::Ended { sent, .. } = &mut self.state {
            // Only the last measurement still matters: how much is left unacknowledged.
            *sent = match event {
                Event::Unacknowledged { bytes, fin } => sent.measured(bytes, fin),
                _ => sent.asking(false),
            };
            return;
        }
        match event {
            Event::HalfClosed => {
                if let CloseState::Open = self.state {
                    self.state = CloseState::Draining { readable: true, sent: Sent::UNASKED };
                }
                self.progressed(now);
            }
            Event::Discarded(bytes) => {
                self.discarded = self.discarded.saturating_add(bytes);
                self.allowance = self.allowance.saturating_sub(bytes);
                // Without lingering one read is enough; a flooding peer must not keep the close open.
                if self.mode == Mode::None {
                    self.set_readable(false);
                }
                self.progressed(now);
            }
            Event::Empty => {
                self.set_readable(false);
                if let CloseState::Draining { .. } = self.state {
                    self.peer_end = PeerEnd::Open;
                }
            }
            Event::EndOfStream => {
                if let CloseState::Draining { sent, .. } = self.state {
                    self.state = CloseState::PeerClosed { sent: sent.asking(true) };
                }
            }
            Event::Unacknowledged { bytes, fin } => {
                self.measured(bytes, fin, now);
            }
            Event::Inspected { probes, retransmits, last_ack, round_trip, data_segments } => {
                let answers = probes < GONE_PROBES && retransmits < GONE_RETRANSMITS;
                self.inspected(answers, last_ack, round_trip, data_segments, now);
            }
            Event::NotInspected => {
                if self.look == Look::LateAcknowledgement {
                    self.progressed(now);
                }
                self.look = Look::Inspected;
            }
            Event::Unknown => {
                if let Some(sent) = self.sent_mut() {
                    *sent = sent.unknown();
                }
            }
            Event::Woken => {
                self.look = if now < self.patience() { Look::InTime } else { Look::Late };
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
                CloseState::Open => return Action::HalfClose,
                CloseState::Draining { readable: true, .. } if now < self.end_at() && !self.is_sated() => {
                    return Action::Discard { max: self.allowance };
                }
                // Even when time is over, the outcome is to say how much is unacknowledged: ask once more.
                CloseState::Draining { sent, .. }
                | CloseState::PeerClosed { sent }
                | CloseState::Ended { sent, .. }
                    if sent.asks() =>
                {
                    return Action::Measure;
                }
                CloseState::Draining { .. } | CloseState::PeerClosed { .. } => match self.wait(now) {
                    Wait::Until(until) => return Action::Wait { until },
                    Wait::Inspect => return Action::Inspect,
                    Wait::Over(ended) => self.end(ended, false),
                },
                CloseState::Ended { ended, sent } => return self.close(ended, sent, now),
            }
        }
    }

    fn wait(&self, now: u64) -> Wait {
        if now >= self.end_at() {
            return Wait::Over(self.at_total());
        }
        if self.mode == Mode::None {
            return Wait::Over(Ended::Unwaited);
        }
        if let CloseState::PeerClosed { sent: Sent::Unknown { .. } | Sent::Acknowledged } = self.state {
            return Wait::Over(Ended::PeerClosed);
        }
        let until = self.patience();
        debug_assert!(until <= self.end_at(), "no wait goes past `total`");
        match self.look {
            _ if now < until => Wait::Until(until),
            Look::Inspected | Look::Paused => Wait::Over(self.at_patience()),
            Look::InTime | Look::Late | Look::LateAcknowledgement => Wait::Inspect,
        }
    }

    fn close(&self, ended: Ended, sent: Sent, now: u64) -> Action<u64> {
        debug_assert!(!sent.asks(), "an outcome is told with a question open");
        Action::Close {
            abort: self.mode == Mode::Abort || (self.at_limit == AtLimit::Abort && ended.is_a_limit()),
            outcome: Outcome {
                ended,
                discarded: self.discarded,
                unacknowledged: sent.bytes(),
                closed_after: ended == Ended::PeerClosed
                    && sent == Sent::Acknowledged
                    && self.peer_end == PeerEnd::Open,
                elapsed: Duration::from_nanos(now.saturating_sub(self.started)),
            },
        }
    }

    /// Shortens the bounds; `total` is counted from `now`. A bound that is shorter already stays.
    pub(crate) fn hurry(&mut self, idle: Duration, total: Duration, now: u64) {
        let elapsed = now.saturating_sub(self.started).div_ceil(NANOS);
        let total = elapsed.saturating_add(u64::from(millis(total)));
        self.total = self.total.min(narrow(total));
        self.idle = self.idle.min(millis(idle));
        self.grace = self.grace.min(millis(idle));
    }

    /// Goes on behind an end that was told: everything is acknowledged, and what the peer still sends is read until it closes,
    /// at most until `total`, or for `longest` where that is shorter. Returns false where there is nothing to go on for.
    pub(crate) fn stay(&mut self, longest: Duration, now: u64) -> bool {
        let total = self.total.min(millis(longest));
        let CloseState::Ended { ended: Ended::Acknowledged, sent } = self.state else { return false };
        if now >= self.started.saturating_add(nanos(total)) {
            return false;
        }
        (self.total, self.grace, self.look) = (total, u32::MAX, Look::InTime);
        // Its end is no limit that the close has run into: a reset then would be for nothing.
        self.at_limit = AtLimit::Close;
        self.state = CloseState::Draining { readable: false, sent };
        true
    }

    /// Ends the close early: to make room for other sockets, or because no closer can wait for this one.
    pub(crate) fn evict(&mut self) {
        if !matches!(self.state, CloseState::Ended { .. }) {
            self.end_early(Ended::Evicted);
        }
    }

    /// Whether the peer has acknowledged everything, as far as is known.
    pub(crate) fn acknowledged(&self) -> bool {
        self.sent() == Sent::Acknowledged
    }

    /// Whether the last look has found that the peer's kernel answers and its program reads nothing.
    pub(crate) fn is_paused(&self) -> bool {
        self.look == Look::Paused
    }

    pub(crate) fn half_closed(&self) -> bool {
        !matches!(self.state, CloseState::Open)
    }

    pub(crate) fn discarded(&self) -> u64 {
        self.discarded
    }

    /// Whether the peer has closed its side.
    pub(crate) fn end_of_stream(&self) -> bool {
        matches!(self.state, CloseState::PeerClosed { .. })
    }

    /// Whether as many bytes were discarded as the policy allows.
    pub(crate) fn is_sated(&self) -> bool {
        self.allowance == 0
    }

    /// When `total` ends the close.
    pub(crate) fn end_at(&self) -> u64 {
        self.started.saturating_add(nanos(self.total))
    }

    /// When the present silence becomes too long.
    pub(crate) fn patience(&self) -> u64 {
        let silence = match (self.acknowledged(), self.is_sated()) {
            // Nothing is read any more, so silence proves nothing: only the acknowledgement or `total` ends the close.
            (false, true) => return self.end_at(),
            // A peer that was still sending when the close began may have paused in the middle of its request.
            (true, false) if self.discarded > 0 => self.grace.max(self.idle),
            (true, _) => self.grace,
            (false, false) => self.idle,
        };
        let until = self.started.saturating_add(nanos(self.progress)).saturating_add(nanos(silence));
        until.min(self.end_at())
    }

    fn sent(&self) -> Sent {
        match self.state {
            CloseState::Open => Sent::UNASKED,
            CloseState::Draining { sent, .. }
            | CloseState::PeerClosed { sent }
            | CloseState::Ended { sent, .. } => sent,
        }
    }

    fn sent_mut(&mut self) -> Option<&mut Sent> {
        match &mut self.state {
            CloseState::Draining { sent, .. } | CloseState::PeerClosed { sent } => Some(sent),
            CloseState::Open | CloseState::Ended { .. } => None,
        }
    }

    fn set_readable(&mut self, is_readable: bool) {
        if let CloseState::Draining { readable, .. } = &mut self.state {
            *readable = is_readable;
        }
    }

    /// Ends the close because the connection has ended, or because it is evicted. `SIOCOUTQ` still answers after a reset: the
    /// send queue is measured once more.
    fn end_early(&mut self, ended: Ended) {
        self.end(ended, true);
    }

    fn end(&mut self, ended: Ended, ask: bool) {
        debug_assert!(!matches!(self.state, CloseState::Ended { .. }), "a close ends once");
        self.state = CloseState::Ended { ended, sent: self.sent().asking(ask) };
    }

    fn progressed(&mut self, now: u64) {
        self.progress = self.progress.max(narrow(now.saturating_sub(self.started).div_ceil(NANOS)));
    }

    /// Takes note of the send queue.
    fn measured(&mut self, bytes: u64, fin: bool, now: u64) {
        let Some(sent) = self.sent_mut() else { return };
        let earlier = std::mem::replace(sent, sent.measured(bytes, fin));
        if sent.is_progress_since(earlier) {
            self.acknowledgement_seen(now);
        }
        if self.end_of_stream() && !self.acknowledged() {
            self.peer_end = PeerEnd::Before;
        }
    }

    /// Notes what the kernel reports about the peer.
    fn inspected(
        &mut self,
        answers: bool,
        last_ack: Duration,
        round_trip: Duration,
        data_segments: u32,
        now: u64,
    ) {
        if self.look == Look::LateAcknowledgement {
            self.progressed(now.saturating_sub(nanos(millis(last_ack))));
        }
        let round_trips = millis(round_trip.saturating_mul(defaults::GRACE_ROUND_TRIPS));
        self.grace = self.grace.max(round_trips.min(self.idle));
        // If nothing more is read, a longer wait is of no use: further bytes of the peer cause a reset in any case.
        if data_segments > WHOLE_REQUEST && !self.is_sated() {
            self.grace = self.grace.max(self.idle);
        }
        let is_spared = answers && !self.acknowledged();
        if is_spared {
            self.progressed(now);
        }
        let has_read = self.look == Look::LateAcknowledgement;
        self.look = if is_spared && !has_read { Look::Paused } else { Look::Inspected };
    }

    /// Notes a new acknowledgement as progress. After a late look the machine does not know when it came: the kernel is asked
    /// first ([`Look::LateAcknowledgement`]).
    fn acknowledgement_seen(&mut self, now: u64) {
        if self.look == Look::Late {
            self.look = Look::LateAcknowledgement;
        } else {
            self.progressed(now);
        }
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
            // It was silent all the time since: `grace` reached beyond `total`.
            (true, false) if self.discarded == 0 => Ended::Acknowledged,
            _ => Ended::TimedOut(Bound::Total),
        }
    }
}

/// A request that came in so many segments is taken for complete. After more segments the peer may still be sending: the
/// machine does not know how much the program has read.
const WHOLE_REQUEST: u32 = 1;

/// What the close waits for.
enum Wait {
    /// An event of the socket, until this time.
    Until(u64),
    /// The kernel's report on a peer that has been silent too long.
    Inspect,
    /// There is nothing to wait for: the close is over.
    Over(Ended),
}

/// With this many window probes unanswered, the peer is taken for gone. A living peer answers each probe within a round
/// trip, so at most one answer is on its way (`tcp_send_probe0`; an answer resets the counter, `tcp_ack`).
const GONE_PROBES: u8 = 2;

/// With this many unanswered retransmissions of one segment, the peer is taken for gone: the second retransmission follows
/// the first after a doubled timeout (RFC 6298 section 5.5), which leaves time for an answer.
const GONE_RETRANSMITS: u8 = 2;

/// The closer holds thousands of cores. 56 bytes, so that a socket with all that belongs to it takes 96.
const _: () = assert!(size_of::<Core>() <= 56);

/// Nanoseconds in a millisecond.
const NANOS: u64 = 1_000_000;

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(u128::from(NANOS))).unwrap_or(u32::MAX)
}

fn nanos(millis: u32) -> u64 {
    u64::from(millis) * NANOS
}

#[cfg(all(test, not(loom)))]
#[path = "core_tests.rs"]
mod tests;

#[cfg(all(test, not(loom)))]
#[path = "peer_tests.rs"]
mod peer_tests;
