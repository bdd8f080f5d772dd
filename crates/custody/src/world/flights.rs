//! Connections that no process of the program has and that a message may carry, and when to look for them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::vocabulary::{Cookie, Kept};

/// The first pause before a look, and the longest. The pause doubles while connections stay in flight, and is longer than
/// this where looks take long (`SHARE`).
const SOON: Duration = Duration::from_millis(20);
const LATE: Duration = Duration::from_secs(1);

/// The time between two looks that must agree: `recvmsg` takes an fd out of the queue a moment before its process has it.
const CERTAIN: Duration = Duration::from_millis(50);

/// Looks take at most one in this many parts of the time: the pause is that many times the last look's duration, or more.
const SHARE: u32 = 20;

/// Connections in flight.
#[derive(Debug)]
pub(super) struct Flights {
    most: usize,
    /// By cookie, each with the time since which no message was found that may carry it.
    flights: BTreeMap<Cookie, Flight>,
    next: Duration,
    pause: Duration,
    /// How long the last look took.
    took: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    kept: Kept,
    quiet_since: Option<Duration>,
}

/// The state of one connection in flight, as a look has found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// A message may carry it.
    InFlight,
    /// No message carries it, and nobody has it.
    Over,
}

impl Flights {
    pub(super) fn new(most: usize) -> Self {
        Self { most, flights: BTreeMap::new(), next: Duration::ZERO, pause: SOON, took: Duration::ZERO }
    }

    /// Begins to look for a connection; `false` if too many are looked for already.
    pub(super) fn begin(&mut self, cookie: Cookie, kept: Kept, now: Duration) -> bool {
        debug_assert!(!self.flights.contains_key(&cookie), "it is looked for once");
        if self.flights.len() >= self.most {
            return false;
        }
        if self.flights.is_empty() {
            self.pause = SOON;
            self.next = now + SOON.max(self.took * SHARE);
        }
        self.flights.insert(cookie, Flight { kept, quiet_since: None });
        true
    }

    /// Ends looking for a connection: it has arrived, or is over.
    pub(super) fn end(&mut self, cookie: Cookie) -> Option<Kept> {
        self.flights.remove(&cookie).map(|flight| flight.kept)
    }

    pub(super) fn contains(&self, cookie: Cookie) -> bool {
        self.flights.contains_key(&cookie)
    }

    pub(super) fn cookies(&self) -> impl Iterator<Item = Cookie> {
        self.flights.keys().copied()
    }

    /// When to look; `None` where there is nothing to look for.
    pub(super) fn due(&self) -> Option<Duration> {
        (!self.flights.is_empty()).then_some(self.next)
    }

    /// Judges a connection that no process was seen to have. `silent`: the look has found nothing that may carry it.
    pub(super) fn judge(&mut self, cookie: Cookie, silent: bool, now: Duration) -> Whereabouts {
        let Some(flight) = self.flights.get_mut(&cookie) else { return Whereabouts::InFlight };
        if !silent {
            flight.quiet_since = None;
            return Whereabouts::InFlight;
        }
        let since = *flight.quiet_since.get_or_insert(now);
        if now.saturating_sub(since) >= CERTAIN { Whereabouts::Over } else { Whereabouts::InFlight }
    }

    /// Notes that a process has a connection that is looked for. That no message was found before proves nothing
    /// any more.
    pub(super) fn seen(&mut self, cookie: Cookie) {
        if let Some(flight) = self.flights.get_mut(&cookie) {
            flight.quiet_since = None;
        }
    }

    /// Sets the time of the next look, after one.
    pub(super) fn looked(&mut self, took: Duration, now: Duration) {
        self.took = took;
        self.pause = (self.pause * 2).min(LATE);
        if self.flights.values().any(|flight| flight.quiet_since.is_some()) {
            self.pause = CERTAIN;
        }
        self.next = now + self.pause.max(took * SHARE);
    }
}
