//! Which kinds of event were met in which state of a connection.

use std::collections::BTreeMap;
use std::fmt;

use linger_custody::world::State;

use crate::schedule::Outcome;

/// A schedule of fewer events is run, and not counted.
pub(crate) const LEAST: usize = 30;

/// Kinds of event, as the driver names them.
const EVENTS: [&str; 19] = [
    "accepted",
    "appeared",
    "close",
    "closed",
    "copy",
    "exec",
    "exit",
    "fork",
    "hidden",
    "lost",
    "replace",
    "send",
    "shutdown",
    "still open",
    "died",
    "remembered",
    "tick",
    "unheard",
    "heard",
];

const STATES: [State; 8] = [
    State::Unknown,
    State::Held,
    State::Shared,
    State::Sent,
    State::Closing,
    State::InFlight,
    State::ShutDown,
    State::Ended,
];

/// The reason if an event cannot meet a state.
fn cannot_be(event: &str, state: State) -> Option<&'static str> {
    match (event, state) {
        ("died" | "tick" | "hidden", _) => Some("concerns no single connection"),
        ("remembered", State::Shared) => None,
        ("remembered", _) => Some("an fd that is remembered is one of several"),
        ("accepted", State::Unknown) => None,
        ("accepted", _) => Some("a connection is accepted once, and nothing is known of it before"),
        ("closed" | "still open" | "lost", State::Unknown | State::Held | State::Shared | State::Sent) => {
            Some("a kept fd is one that is being closed")
        }
        ("closed" | "still open" | "lost", State::ShutDown | State::Ended) => {
            Some("a kept fd is one that is being closed")
        }
        // A connection that ended lately can be met again only if its fd was copied without the supervisor's
        // knowledge.
        _ => None,
    }
}

/// How often each was met.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    met: BTreeMap<(&'static str, State), u64>,
    pub(crate) schedules: u64,
    /// How many schedules were too short to be counted.
    pub(crate) short: u64,
    pub(crate) events: u64,
    /// The number of connections, and of those that were excused, because the program copied or sent them in
    /// a race with itself.
    connections: u64,
    raced: u64,
    pub(crate) fewest: Option<usize>,
}

impl Coverage {
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        for (what, times) in &outcome.covered {
            *self.met.entry(*what).or_default() += times;
        }
        if outcome.events < LEAST {
            self.short += 1;
            return;
        }
        self.schedules += 1;
        self.events += outcome.events as u64;
        self.connections += outcome.connections as u64;
        self.raced += outcome.raced as u64;
        self.fewest = Some(self.fewest.map_or(outcome.events, |fewest| fewest.min(outcome.events)));
    }

    /// The combinations that are possible and were never met.
    pub(crate) fn missing(&self) -> Vec<String> {
        let all = EVENTS.iter().flat_map(|event| STATES.iter().map(move |state| (*event, *state)));
        let missing = all.filter(|what| !self.met.contains_key(what) && cannot_be(what.0, what.1).is_none());
        missing.map(|(event, state)| format!("{event} in {state:?}")).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} schedules of {LEAST} events or more: {} events, at least {} in one; {} connections, {} of them excused",
            self.schedules,
            self.events,
            self.fewest.unwrap_or(0),
            self.connections,
            self.raced
        )?;
        write!(f, "{:12}", "")?;
        for state in STATES {
            write!(f, "{:>11}", format!("{state:?}"))?;
        }
        for event in EVENTS {
            write!(f, "\n{event:12}")?;
            for state in STATES {
                match (self.met.get(&(event, state)), cannot_be(event, state)) {
                    (Some(times), _) => write!(f, "{times:>11}")?,
                    (None, Some(_)) => write!(f, "{:>11}", "-")?,
                    (None, None) => write!(f, "{:>11}", "never")?,
                }
            }
        }
        Ok(())
    }
}
