//! When to poll, so that polls take a bounded share of a processor.

use std::time::{Duration, Instant};

/// Schedules a poll whose interval grows with its duration, up to a bound: what is seldom looked at is not seen.
#[derive(Debug)]
pub(crate) struct LookInterval {
    every: Duration,
    most: Duration,
    /// The poll may use one part in so many of a core, as long as the interval is below `most`.
    share: u32,
    /// How long the last poll took.
    last: Option<Duration>,
    next: Option<Instant>,
}

impl LookInterval {
    pub(crate) const fn new(every: Duration, most: Duration, share: u32) -> Self {
        Self { every, most, share, last: None, next: None }
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// Notes that the poll is done. Call it right afterwards.
    pub(crate) fn done(&mut self, started: Instant) {
        self.done_at(started, Instant::now());
    }

    fn done_at(&mut self, started: Instant, now: Instant) {
        let took = now - started;
        // One that took long where the one before did not was held up by others: that was not its cost.
        let cost = self.last.replace(took).map_or(took, |last| last.min(took));
        self.next = Some(now + cost.saturating_mul(self.share).clamp(self.every, self.most));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_done_rarely() {
        let mut pace = pace();
        let now = Instant::now();
        assert!(pace.is_due(now));
        pace.done_at(now, now + Duration::from_millis(10));
        let now = now + Duration::from_millis(10);
        assert!(!pace.is_due(now + Duration::from_millis(39_999)), "10 ms are a four-thousandth of 40 s");
        assert!(pace.is_due(now + Duration::from_secs(40)));
        pace.done_at(now, now);
        assert!(
            !pace.is_due(now + Duration::from_millis(2_999)) && pace.is_due(now + Duration::from_secs(3))
        );
    }

    fn pace() -> LookInterval {
        LookInterval::new(Duration::from_secs(3), Duration::from_secs(60), 4_000)
    }

    #[test]
    fn a_look_that_was_held_up_does_not_put_the_next_off_for_long() {
        let (mut pace, start) = (pace(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        // The first, with nothing in any cache: it would be 20 minutes.
        pace.done_at(at(0), at(300));
        assert!(!pace.is_due(at(60_299)) && pace.is_due(at(60_300)));
        pace.done_at(at(60_300), at(60_301));
        assert!(pace.is_due(at(64_301)), "1 ms is a four-thousandth of 4 s");
        pace.done_at(at(70_000), at(70_900));
        assert!(pace.is_due(at(74_900)), "by others: the one before took 1 ms");
        pace.done_at(at(80_000), at(80_900));
        assert!(!pace.is_due(at(140_899)) && pace.is_due(at(140_900)), "it takes so long");
    }
}
