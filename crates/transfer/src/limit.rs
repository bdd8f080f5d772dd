//! A rate limit for sending.

use std::time::{Duration, Instant};

use crate::host;

/// A token bucket that holds the bytes of a tenth of a second.
#[derive(Debug)]
pub(crate) struct Limiter {
    rate: u64,
    /// The time at which, at the given rate, all bytes sent so far may have been sent.
    free_at: Instant,
}

impl Limiter {
    /// `rate` in bytes a second; 0 for no limit.
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate, free_at: host::now() }
    }

    /// The most bytes to send at once, to avoid bursts.
    pub(crate) fn piece(&self, most: usize) -> usize {
        if self.rate == 0 { most } else { most.min((self.rate / 10).clamp(1024, 1 << 20) as usize) }
    }

    /// How long to wait before `bytes` more may go.
    pub(crate) fn pause(&mut self, bytes: usize, now: Instant) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let wait = self.free_at.saturating_duration_since(now);
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        // Idle time earns at most one bucket.
        let earliest = now.checked_sub(Duration::from_millis(100)).unwrap_or(now);
        self.free_at = self.free_at.max(earliest) + cost;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_time() {
        let start = Instant::now();
        let mut limiter = Limiter::new(1_000_000);
        let mut now = start;
        for _ in 0..100 {
            now += limiter.pause(100_000, now);
        }
        let spent = now.duration_since(start).as_secs_f64();
        assert!((9.7..=10.0).contains(&spent), "{spent} s for 10 MB at 1 MB/s");
        assert_eq!(Limiter::new(0).pause(1 << 30, now), Duration::ZERO);
    }
}
