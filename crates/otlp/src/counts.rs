//! [`ExportCounts`]: what became of the events.

use linger_untrusted::Untrusted;
use serde::{Deserialize, Serialize};

/// Longest text of a trouble, in bytes: part of it is the collector's.
const LONGEST: usize = 300;

/// What became of the events, and of the metrics that were to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExportCounts {
    /// Events that the collector has taken.
    pub sent: u64,
    /// Events for which there was no room: the collector is slower than they come, or it is not there.
    pub queue_full: u64,
    /// Events that were given up after the longest time for which they are tried again, or at the end.
    pub given_up: u64,
    /// Events in requests that the collector has refused for good.
    pub refused: u64,
    /// Events that the collector has left out of requests that it has taken (`partial_success`).
    pub rejected: u64,
    /// Events that the sender had when it ended out of turn: whether they were sent nobody knows.
    pub unknown: u64,
    /// Rounds of metrics that the collector has taken.
    pub metrics_sent: u64,
    /// Rounds of metrics that it has not taken. The next one says what they would have said.
    pub metrics_failed: u64,
    /// The last trouble, in words. Part of them may be the collector's.
    pub trouble: Option<String>,
    /// How often there was trouble.
    pub troubles: u64,
}

impl ExportCounts {
    /// Events that did not reach the collector, by reason.
    pub fn dropped(&self) -> [(&'static str, u64); 5] {
        [
            ("queue-full", self.queue_full),
            ("given-up", self.given_up),
            ("refused", self.refused),
            ("rejected", self.rejected),
            ("unknown", self.unknown),
        ]
    }

    /// Events of which this says what became.
    pub(crate) fn all(&self) -> u64 {
        self.sent + self.dropped().iter().map(|(_, count)| count).sum::<u64>()
    }

    /// The last trouble.
    pub fn trouble(&self) -> Option<Untrusted> {
        self.trouble.as_deref().map(Untrusted::from)
    }

    pub(crate) fn note_trouble(&mut self, trouble: &str) {
        let end = trouble.floor_char_boundary(LONGEST);
        self.trouble = Some(trouble[..end].to_owned());
        self.troubles += 1;
    }
}
