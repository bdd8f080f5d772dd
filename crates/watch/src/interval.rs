//! When to poll, so that polls take a bounded share of a processor.

use std::time::{Duration, Instant};

/// Schedules a poll whose interval grows with its duration.
#[derive(Debug)]
pub(crate) struct LookInterval {
    every: Duration,
    /// The poll may use one part in so many of a core.
    share: u32,
    next: Option<Instant>,
}

impl LookInterval {
    pub(crate) fn new(every: Duration, share: u32) -> Self {
        Self { every, share, next: None }
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// Notes that the poll is done. Call it right afterwards.
    pub(crate) fn done(&mut self, started: Instant) {
        let now = Instant::now();
        self.next = Some(now + self.every.max((now - started) * self.share));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_done_rarely() {
        let mut pace = LookInterval::new(Duration::from_secs(3), 4_000);
        let now = Instant::now();
        assert!(pace.is_due(now));
        pace.done(now);
        assert!(!pace.is_due(now + Duration::from_secs(2)));
        let Some(earlier) = now.checked_sub(Duration::from_millis(10)) else { return };
        pace.done(earlier);
        assert!(!pace.is_due(now + Duration::from_secs(39)), "10 ms are a four-thousandth of 40 s");
    }
}
