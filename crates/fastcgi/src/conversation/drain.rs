//! Drains bodies whose requests were answered before all of the body was read, and bounds the time and the bytes of
//! that.
//!
//! [`linger::Machine`] makes the decisions, as it does for the close of a connection. For the machine, END_REQUEST is the
//! half-close, the body's end is the end of the stream, and its close means that the connection is given up.

use std::time::{Duration, Instant};

use linger::{Action, Event, Machine, Mode, Policy};

/// How often to ask the kernel whether everything is acknowledged: before a FIN is sent, no event reports that.
const ASK: Duration = Duration::from_millis(100);

/// The drains of one connection.
#[derive(Debug)]
pub(super) struct Drains {
    policy: Policy,
    list: Vec<Drain>,
}

/// What the drains of a connection need next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: there are no drains.
    Nothing,
    /// The number of bytes that arrive until this time.
    Wait(Instant),
    /// The number of bytes that have arrived already.
    Look,
    /// The number of bytes that are not acknowledged.
    Measure,
    /// The end of the connection, within what is left of the policy.
    GiveUp(Policy),
}

impl Need {
    /// The more urgent of two.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Wait(one), Self::Wait(two)) => Self::Wait(one.min(two)),
            _ if self.rank() >= other.rank() => self,
            _ => other,
        }
    }

    fn rank(self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Wait(_) => 1,
            Self::Look => 2,
            Self::Measure => 3,
            Self::GiveUp(_) => 4,
        }
    }
}

impl Drains {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, list: Vec::new() }
    }

    /// Begins a drain: END_REQUEST of request `id` is about to be sent, and the request's body has not ended.
    pub(super) fn begin(&mut self, id: u16, now: Instant) {
        debug_assert!(self.list.iter().all(|drain| drain.id != id), "request {id} is drained already");
        self.list.push(Drain {
            id,
            began: now,
            machine: Machine::new(&self.policy, now),
            asked: Asked::Nothing,
            discarded: 0,
            untold: 0,
            is_unacknowledged: false,
        });
    }

    /// Notes that bytes of a body were dropped. [`settle`](Self::settle) reports them to the drain's machine.
    pub(super) fn discarded(&mut self, id: u16, bytes: usize) {
        if let Some(drain) = self.list.iter_mut().find(|drain| drain.id == id) {
            drain.untold += bytes as u64;
        }
    }

    /// Called after the connection was read: forgets the drains that are over, and reports the dropped bytes to the
    /// others.
    pub(super) fn settle(&mut self, is_draining: impl Fn(u16) -> bool, now: Instant) {
        self.list.retain(|drain| is_draining(drain.id));
        self.list.iter_mut().for_each(|drain| drain.settle(now));
    }

    /// Notes that nothing came until the time of the last [`Need::Look`] or [`Need::Wait`].
    pub(super) fn silent(&mut self, now: Instant) {
        for drain in &mut self.list {
            match drain.asked {
                Asked::Look => drain.machine.on(Event::Empty, now),
                Asked::Wait(until) if now >= until => drain.machine.on(Event::Woken, now),
                // The time that has come is another drain's.
                _ => continue,
            }
            drain.asked = Asked::Nothing;
        }
    }

    /// Reports the state of the send queue to the drains that have asked for it.
    pub(super) fn measured(&mut self, event: Event, now: Instant) {
        for drain in self.list.iter_mut().filter(|drain| drain.asked == Asked::Measure) {
            drain.is_unacknowledged = matches!(event, Event::Unacknowledged { bytes, .. } if bytes > 0);
            drain.machine.on(event, now);
            drain.asked = Asked::Nothing;
        }
    }

    pub(super) fn next(&mut self, now: Instant) -> Need {
        let policy = &self.policy;
        self.list.iter_mut().fold(Need::Nothing, |need, drain| need.and(drain.next(policy, now)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Forgets all drains, because the connection ends in another way.
    pub(super) fn clear(&mut self) {
        self.list.clear();
    }
}

/// The drain of the rest of one body.
#[derive(Debug)]
struct Drain {
    id: u16,
    began: Instant,
    machine: Machine,
    asked: Asked,
    discarded: u64,
    /// The discarded bytes that have not been reported to the machine yet, and are not in `discarded`.
    untold: u64,
    is_unacknowledged: bool,
}

/// What the machine has asked for and not been told yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Look,
    Measure,
    Wait(Instant),
}

impl Drain {
    fn settle(&mut self, now: Instant) {
        if let Asked::Wait(_) = self.asked {
            self.machine.on(Event::Woken, now);
            self.asked = Asked::Nothing;
        }
        if self.untold > 0 {
            self.discarded += self.untold;
            self.machine.on(Event::Discarded(std::mem::take(&mut self.untold)), now);
        }
    }

    fn next(&mut self, policy: &Policy, now: Instant) -> Need {
        loop {
            let (asked, need) = match self.machine.next(now) {
                // END_REQUEST has told the gateway that no more follows, as a FIN tells a peer. So there is nothing to
                // shut down.
                Action::HalfClose => {
                    self.machine.on(Event::HalfClosed, now);
                    continue;
                }
                // Whether the peer is alive is left to the lingering close of the connection.
                Action::Inspect => {
                    self.machine.on(Event::NotInspected, now);
                    continue;
                }
                Action::Discard { .. } => (Asked::Look, Need::Look),
                Action::Measure => (Asked::Measure, Need::Measure),
                // Once `max_discard` is used up the machine would wait only for an acknowledgement. The drain gives up
                // instead: the lingering close of the connection waits for that.
                Action::Wait { until } if self.left(policy) != Some(0) => {
                    let ask = if self.is_unacknowledged { until.min(now + ASK) } else { until };
                    (Asked::Wait(ask), Need::Wait(ask))
                }
                other => {
                    let abort = matches!(other, Action::Close { abort: true, .. });
                    (Asked::Nothing, Need::GiveUp(self.rest(policy, abort, now)))
                }
            };
            self.asked = asked;
            return need;
        }
    }

    /// How many bytes may still be discarded.
    fn left(&self, policy: &Policy) -> Option<u64> {
        policy.max_discard.map(|most| most.saturating_sub(self.discarded))
    }

    /// Returns what is left of the policy's bounds for the close that follows this drain, so that drain and close together
    /// keep them.
    fn rest(&self, policy: &Policy, abort: bool, now: Instant) -> Policy {
        let mut rest = *policy;
        rest.total = policy.total.saturating_sub(now.saturating_duration_since(self.began));
        rest.max_discard = self.left(policy);
        if abort {
            rest.mode = Mode::Abort;
        }
        rest
    }
}
