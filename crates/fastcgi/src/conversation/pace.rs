//! How long a gateway may take for what it has begun to send.
//!
//! A silence has a bound of its own; these bounds are for whoever sends a byte now and then, and keeps a thread, memory and a handler
//! busy with nothing. Only time counts in which this side waited for the gateway: an application that reads slowly makes no
//! gateway slow.

use std::time::{Duration, Instant};

use super::Conversation;

/// The time that was spent on waiting for one thing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meter {
    spent: Duration,
    /// When the present wait began.
    since: Option<Instant>,
}

impl Meter {
    /// Begins to wait, or goes on, and returns when that becomes too long, if it ever does.
    pub(super) fn wait(&mut self, bound: Option<Duration>, now: Instant) -> Option<Instant> {
        self.pause(now);
        self.since = Some(now);
        now.checked_add(bound?.saturating_sub(self.spent))
    }

    /// Nobody waits any more, or something came.
    pub(super) fn pause(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.spent += now.saturating_duration_since(since);
        }
    }

    /// Whether the wait is too long.
    pub(super) fn is_over(&self, bound: Option<Duration>, now: Instant) -> bool {
        let present = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        bound.is_some_and(|bound| self.since.is_some() && self.spent + present >= bound)
    }
}

/// What a connection has spent on its present record, and on the parameters of its next request.
#[derive(Debug, Default)]
pub(super) struct GatewayPace {
    record: Meter,
    /// The number of the record that `record` is about.
    number: u64,
    params: Meter,
}

impl Conversation {
    /// Begins to wait for the gateway. Returns when the first of the things that it has begun to send takes too long.
    pub(super) fn paced(&mut self, now: Instant) -> Option<Instant> {
        let Self { incoming, bounds, pace, open, .. } = self;
        if std::mem::replace(&mut pace.number, incoming.records()) != incoming.records() {
            pace.record = Meter::default();
        }
        let record = if incoming.at_boundary() {
            pace.record = Meter::default();
            None
        } else {
            pace.record.wait(bounds.record_within, now)
        };
        let params = if incoming.expects_params() {
            pace.params.wait(bounds.params_within, now)
        } else {
            pace.params = Meter::default();
            None
        };
        let awaited = open.iter_mut().filter(|open| !open.is_slow && incoming.awaits(open.id));
        let bodies = awaited.filter_map(|open| open.body.wait(bounds.body_within, now));
        bodies.chain(record).chain(params).min()
    }

    /// Somebody's parameters are complete.
    pub(super) fn params_came(&mut self) {
        self.pace.params = Meter::default();
    }

    /// Nobody waits for the gateway now.
    pub(super) fn unpaced(&mut self, now: Instant) {
        self.pace.record.pause(now);
        self.pace.params.pause(now);
        self.open.iter_mut().for_each(|open| open.body.pause(now));
    }

    /// Notes whether something takes too long. Returns whether the connection cannot go on.
    pub(super) fn is_too_slow(&mut self, now: Instant) -> bool {
        for open in &mut self.open {
            open.is_slow |= open.body.is_over(self.bounds.body_within, now);
        }
        let GatewayPace { record, params, .. } = &self.pace;
        record.is_over(self.bounds.record_within, now) || params.is_over(self.bounds.params_within, now)
    }
}
