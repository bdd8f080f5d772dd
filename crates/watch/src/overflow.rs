//! How often accept queues overflowed lately.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::diagnose::Overflow;

/// A connection that found no room in the queue may be reset this much later. The kernel keeps its request for 63 s
/// (`tcp_synack_retries` 5: 1 + 2 + 4 + 8 + 16 + 32 s).
const LIFE: Duration = Duration::from_secs(64);
/// Shortest time between readings that are kept, so that their number is bounded.
const STEP: Duration = Duration::from_secs(1);

/// Readings of `ListenOverflows` of one network namespace.
#[derive(Debug, Default)]
pub(crate) struct OverflowHistory {
    readings: VecDeque<(Instant, u64)>,
    resets: bool,
}

impl OverflowHistory {
    /// Notes a reading of `ListenOverflows`, and whether `tcp_abort_on_overflow` is set. Returns the growth since the last
    /// reading.
    pub(crate) fn note(&mut self, now: Instant, overflows: u64, resets: bool) -> u64 {
        self.resets = resets;
        let grown = self.readings.back().map_or(0, |(_, last)| overflows.saturating_sub(*last));
        // Keeps one reading that is older than `LIFE`: growth counts from there.
        while self.readings.get(1).is_some_and(|(time, _)| now.saturating_duration_since(*time) > LIFE) {
            self.readings.pop_front();
        }
        match self.readings.len() {
            // The last reading moves on until it is a step away from the one before it.
            length @ 2.. if now.saturating_duration_since(self.readings[length - 2].0) < STEP => {
                self.readings[length - 1] = (now, overflows);
            }
            _ => self.readings.push_back((now, overflows)),
        }
        grown
    }

    pub(crate) fn now(&self) -> Overflow {
        let (first, last) = (self.readings.front(), self.readings.back());
        let grown = first.zip(last).map_or(0, |((_, first), (_, last))| last.saturating_sub(*first));
        Overflow { grown, resets: self.resets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_forgotten_after_a_life() {
        let start = Instant::now();
        let mut history = OverflowHistory::default();
        let mut grown = |seconds: u64, overflows: u64| {
            history.note(start + Duration::from_secs(seconds), overflows, false);
            history.now().grown
        };
        assert_eq!(grown(0, 7), 0, "what was before the start does not count");
        assert_eq!(grown(3, 9), 2);
        assert_eq!(grown(60, 9), 2);
        assert_eq!(grown(66, 9), 2, "a connection of second 3 may still be reset");
        assert_eq!(grown(132, 9), 0);
    }

    #[test]
    fn frequent_readings_are_few() {
        let start = Instant::now();
        let mut history = OverflowHistory::default();
        for millis in 0..2_000 {
            history.note(start + Duration::from_millis(millis), millis, true);
        }
        assert_eq!(history.now(), Overflow { grown: 1_999, resets: true });
        assert!(history.readings.len() <= 4, "{}", history.readings.len());
    }
}
