//! How long this process waits for a supervisor that does not read, and when the supervisor counts as not answering.
//!
//! Whatever the supervisor does, a close waits at most [`ONCE_US`] and a tenth of a millisecond more, and all closes of
//! the process together at most [`TOGETHER_US`] in any second. A connection in the queue of a supervisor that does not
//! read is not ended at all, which is worse than a plain close. So none is sent after [`SILENCE_MS`] without progress.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Longest timeout of one close. The kernel's timers may be late by a tenth of a millisecond (`timer_slack_ns`,
/// prctl(2)), so that a close costs a millisecond at most.
const ONCE_US: u64 = 900;

/// All waits of the process, in any second.
const TOGETHER_US: u64 = 50_000;

/// After this time without a wait, the sum starts at zero again.
const PERIOD_MS: u64 = 1_000;

/// If the queue has not moved for this long, the supervisor counts as stopped.
const SILENCE_MS: u64 = 100;

/// Pause before the next attempt to reach a supervisor that has hung up.
const RETRY_MS: u64 = 100;

/// The waits of all threads: when the last began (in milliseconds, 40 bits), and their sum (in microseconds, 24 bits).
pub(crate) struct Waits(AtomicU64);

impl Waits {
    const SUM_BITS: u32 = 24;

    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The longest wait for a message now, in microseconds, which is added to the sum; 0 if the sum permits none.
    pub(crate) fn take(&self, now_ms: u64) -> u64 {
        let mut taken = 0;
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            let (last_ms, sum) = (word >> Self::SUM_BITS, word & ((1 << Self::SUM_BITS) - 1));
            let sum = if now_ms >= last_ms + PERIOD_MS { 0 } else { sum };
            taken = ONCE_US.min(TOGETHER_US.saturating_sub(sum));
            (taken > 0).then_some(now_ms.max(last_ms) << Self::SUM_BITS | (sum + taken))
        });
        taken
    }
}

/// What is known of the supervisor's reading.
pub(crate) struct Progress {
    /// When the queue was last looked at, and when it last moved, in milliseconds.
    looked_ms: AtomicU64,
    moved_ms: AtomicU64,
    /// The bytes that were queued at the last look, and whether something was sent since.
    queued: AtomicU64,
    sent: AtomicU64,
}

impl Progress {
    pub(crate) const fn new() -> Self {
        let [looked_ms, moved_ms, queued, sent] = [const { AtomicU64::new(0) }; 4];
        Self { looked_ms, moved_ms, queued, sent }
    }

    /// Notes a new connection, whose first message may be unread yet.
    pub(crate) fn begins(&self, now_ms: u64) {
        self.queued.store(u64::MAX, Relaxed);
        self.moved_ms.store(now_ms, Relaxed);
    }

    /// Whether the supervisor reads. `queued` asks how many bytes it has not read; once a millisecond is enough.
    pub(crate) fn reads(&self, now_ms: u64, queued: impl FnOnce() -> u64) -> bool {
        if self.looked_ms.swap(now_ms, Relaxed) != now_ms {
            let (sent, queued) = (self.sent.swap(0, Relaxed) > 0, queued());
            let before = self.queued.swap(queued, Relaxed);
            // If as much was read as was sent, the queue is as long as before.
            if queued == 0 || queued < before || (queued == before && sent) {
                self.moved_ms.store(now_ms, Relaxed);
            }
        }
        now_ms.saturating_sub(self.moved_ms.load(Relaxed)) < SILENCE_MS
    }

    pub(crate) fn sent(&self) {
        self.sent.store(1, Relaxed);
    }
}

/// When the supervisor has hung up; 0 if it has not.
pub(crate) struct HungUp(AtomicU64);

impl HungUp {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(crate) fn note(&self, now_ms: u64) {
        self.0.store(now_ms.max(1), Relaxed);
    }

    pub(crate) fn forget(&self) {
        self.0.store(0, Relaxed);
    }

    pub(crate) fn is_noted(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// Whether it is time for one thread to try again.
    pub(crate) fn may_try(&self, now_ms: u64) -> bool {
        let since = self.0.load(Relaxed);
        now_ms >= since + RETRY_MS && self.0.compare_exchange(since, now_ms, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_waits_a_millisecond_at_most_and_all_of_them_fifty_a_second() {
        let waits = Waits::new();
        let (mut sum, mut most) = (0, 0);
        for now_ms in 5_000..5_900 {
            let taken = waits.take(now_ms);
            (sum, most) = (sum + taken, taken.max(most));
        }
        assert_eq!((sum, most), (TOGETHER_US, ONCE_US));
        // The last wait was in the millisecond 5,055: a second later they are counted anew, and not sooner.
        assert_eq!(waits.take(6_054), 0);
        assert_eq!(waits.take(6_055), ONCE_US);
    }

    #[test]
    fn no_second_has_more_than_its_waits() {
        let (waits, mut all) = (Waits::new(), std::vec::Vec::new());
        for now_ms in 1..20_000u64 {
            // Bursts of waits and single ones.
            if now_ms % 700 < 40 || now_ms % 13 == 0 {
                all.push((now_ms, waits.take(now_ms)));
            }
        }
        for (start, _) in &all {
            let within = all.iter().filter(|(at, _)| (*start..start + 1_000).contains(at));
            assert!(within.map(|(_, taken)| taken).sum::<u64>() <= TOGETHER_US, "from {start}");
        }
        assert!(all.iter().filter(|(at, taken)| *at > 15_000 && *taken > 0).count() > 20);
    }

    #[test]
    fn who_reads_nothing_for_a_tenth_of_a_second_does_not_read() {
        let progress = Progress::new();
        assert!(progress.reads(1_000, || 0));
        progress.sent();
        for (now_ms, queued) in [(1_001, 768), (1_050, 1_536), (1_099, 2_304)] {
            assert!(progress.reads(now_ms, || queued), "{now_ms}");
            progress.sent();
        }
        assert!(!progress.reads(1_100, || 3_072));
        // Nothing was sent since, so a queue of the same length has not moved.
        for now_ms in [1_101, 1_150, 5_000] {
            assert!(!progress.reads(now_ms, || 3_072), "{now_ms}");
        }
        // It reads again.
        assert!(progress.reads(5_001, || 2_304));
    }

    #[test]
    fn a_queue_that_moves_is_read_though_it_is_never_empty() {
        let progress = Progress::new();
        progress.begins(999);
        for now_ms in 1_000..2_000 {
            assert!(progress.reads(now_ms, || 7_680));
            progress.sent();
        }
        // As full as before although nothing was sent in between: nobody reads. That is believed after 100 ms.
        assert!(progress.reads(2_000, || 7_680));
        assert!(!progress.reads(2_100, || 7_680));
    }

    #[test]
    fn the_first_message_of_a_connection_may_be_unread() {
        let progress = Progress::new();
        progress.begins(1_000);
        assert!(
            progress.reads(1_001, || 768) && progress.reads(1_100, || 768) && !progress.reads(1_101, || 768)
        );
    }

    #[test]
    fn the_queue_is_looked_at_once_a_millisecond() {
        let progress = Progress::new();
        assert!(progress.reads(1_000, || 0));
        assert!(progress.reads(1_000, || unreachable!("it was looked at in this millisecond")));
    }

    #[test]
    fn one_thread_tries_again_and_not_before_its_time() {
        let hung_up = HungUp::new();
        assert!(!hung_up.is_noted());
        hung_up.note(7_000);
        assert!(hung_up.is_noted() && !hung_up.may_try(7_099));
        assert!(hung_up.may_try(7_100) && !hung_up.may_try(7_100) && !hung_up.may_try(7_199));
        assert!(hung_up.may_try(7_200));
        hung_up.forget();
        assert!(!hung_up.is_noted());
    }
}
