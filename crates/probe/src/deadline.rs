//! The time after which nothing is asked, nor waited for, any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// The end of a probe's time. It cuts each wait short, and remembers that it did.
#[derive(Clone, Debug)]
pub(crate) struct Deadline {
    /// `None`: the time has no end.
    at: Option<Instant>,
    has_cut: Arc<AtomicBool>,
}

impl Deadline {
    pub(crate) fn after(within: Duration) -> Self {
        Self { at: Instant::now().checked_add(within), has_cut: Arc::default() }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.at.is_some_and(|at| Instant::now() > at)
    }

    /// When a wait ends that was to last until `until`.
    pub(crate) fn bound(&self, until: Instant) -> Instant {
        self.at.map_or(until, |at| until.min(at))
    }

    /// The same of a duration; not less than a millisecond.
    pub(crate) fn bounded(&self, wait: Duration) -> Duration {
        let left = self.at.map_or(wait, |at| at.saturating_duration_since(Instant::now()).min(wait));
        left.max(Duration::from_millis(1))
    }

    /// Notes that a wait until `until` has ended without what it waited for.
    pub(crate) fn note(&self, until: Instant) {
        if self.at.is_some_and(|at| at < until && Instant::now() >= at) {
            self.has_cut.store(true, Relaxed);
        }
    }

    /// Sleeps, no longer than there is time.
    pub(crate) fn sleep(&self, wait: Duration) {
        let until = Instant::now() + wait;
        thread::sleep(self.bound(until).saturating_duration_since(Instant::now()));
        self.note(until);
    }

    /// Whether a wait was cut short: what was found by it says nothing of the server.
    pub(crate) fn has_cut(&self) -> bool {
        self.has_cut.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_cut_by_the_end_of_the_time_alone() {
        let now = Instant::now();
        let ends = Deadline::after(Duration::ZERO);
        thread::sleep(Duration::from_millis(1));
        assert!(ends.is_over() && !ends.has_cut());
        ends.note(now);
        assert!(!ends.has_cut(), "that wait was over before");
        ends.sleep(Duration::from_secs(600));
        assert!(ends.has_cut());
        let goes_on = Deadline::after(Duration::from_secs(600));
        assert_eq!(goes_on.bound(now), now);
        goes_on.sleep(Duration::from_millis(1));
        assert!(!goes_on.is_over() && !goes_on.has_cut());
    }
}
