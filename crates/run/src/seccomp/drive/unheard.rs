//! Calls that the guard has continued while this process was stopped: what they have done is not known.

use std::time::{Duration, Instant};

use linger_custody::world::{Census, Event};

use super::super::eyes;
use super::Driver;

/// After this time a call that the guard has continued is taken to be over.
const OVER: Duration = Duration::from_secs(1);

/// Looks for what these calls have done take at most one in this many parts of the time.
const SHARE: u32 = 20;

/// What is known of these calls, without a clock.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    /// How many the guard has continued in all, as far as custody knows.
    calls: u64,
    /// Their effects are not known yet.
    is_any: bool,
    /// Until when one of them may not be over, and when that is reported again.
    until: Duration,
    next: Duration,
    /// The last look has found nothing in flight, and nothing hidden.
    quiet: bool,
}

/// What is to be done about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    /// Custody is told that one may not be over.
    Report,
    /// They are over: a look at all processes shows what they have done.
    Look,
}

impl Unheard {
    /// When something is due next.
    pub(super) fn due(&self) -> Option<Duration> {
        self.is_any.then_some(self.next)
    }

    /// Whether the guard has continued more calls than custody knows of, if `calls` are all.
    fn is_news(&self, calls: u64) -> bool {
        calls != self.calls
    }

    /// What to do now.
    fn at(&mut self, calls: u64, now: Duration) -> Due {
        if self.is_news(calls) {
            tracing::warn!(calls, "the guard has let calls happen: this process was stopped");
            *self = Self { calls, is_any: calls > 0, until: now + OVER, next: now, quiet: false };
        }
        if !self.is_any || now < self.next {
            return Due::Nothing;
        }
        self.next = now + OVER / 10;
        if now < self.until { Due::Report } else { Due::Look }
    }

    /// Notes a look: whether it has found nothing in flight (`quiet`), and a process that cannot be looked at
    /// (`hidden`). Returns whether everything is known that the calls have done.
    ///
    /// Two quiet looks are needed: `recvmsg` takes an fd out of its queue a moment before its process has it.
    fn looked(&mut self, quiet: bool, hidden: bool) -> bool {
        // Nobody knows what a process that cannot be looked at has, and what it has been sent, until it ends.
        let is_quiet = quiet && !hidden;
        let is_over = std::mem::replace(&mut self.quiet, is_quiet) && is_quiet;
        self.is_any &= !is_over;
        is_over
    }

    /// The look that began at `begun` is over.
    fn rest(&mut self, begun: Duration, took: Duration, hidden: bool) {
        let pause = if hidden { OVER } else { OVER / 10 };
        self.next = begun + took + (took * SHARE).max(pause);
    }
}

impl Driver {
    /// Reports calls that the guard has continued while this process was stopped.
    ///
    /// Checked with each notification: the guard counts a call before it continues it. `others` says whether anything
    /// else has happened.
    pub(super) fn mind_unheard(&mut self, others: bool) {
        let calls = if others { self.ask.unheard() } else { self.ask.counted() };
        if self.unheard.due().is_none() && !self.unheard.is_news(calls) {
            return;
        }
        let begun = Instant::now();
        let now = begun - self.started;
        match self.unheard.at(calls, now) {
            Due::Nothing => {}
            Due::Report => {
                self.tell(Event::Unnotified, None);
            }
            Due::Look => {
                let processes = self.processes();
                // The messages are checked first: an fd that is received between the two looks is then found open.
                let quiet = processes.as_deref().is_some_and(eyes::quiet);
                let census = eyes::census_among(processes.as_deref());
                if self.unheard.looked(quiet, census.hidden) {
                    self.tell(Event::CaughtUp(&census), None);
                }
                self.unheard.rest(now, begun.elapsed(), census.hidden);
            }
        }
    }

    /// Whether the guard has let calls happen of which custody has not been told: what it knows may be wrong.
    pub(super) fn has_news(&self) -> bool {
        self.unheard.is_news(self.ask.counted())
    }

    /// Marks a census as incomplete if the guard has let calls happen of which custody has not been told.
    pub(super) fn seen(&self, census: Census) -> Census {
        Census { hidden: census.hidden || self.has_news(), ..census }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn calls_are_over_a_second_after_the_last_was_heard_of() {
        let mut unheard = Unheard::default();
        assert_eq!((unheard.at(0, ms(5)), unheard.due()), (Due::Nothing, None));
        assert!(unheard.is_news(3) && !unheard.is_news(0));
        assert_eq!((unheard.at(3, ms(5_000)), unheard.due()), (Due::Report, Some(ms(5_100))));
        assert!(!unheard.is_news(3));
        assert_eq!(unheard.at(3, ms(5_099)), Due::Nothing);
        // One more: its second begins anew, and it is told at once.
        assert_eq!(unheard.at(4, ms(5_500)), Due::Report);
        assert_eq!((unheard.at(4, ms(6_499)), unheard.at(4, ms(6_500))), (Due::Report, Due::Nothing));
        assert_eq!(unheard.at(4, ms(6_599)), Due::Look);
    }

    #[test]
    fn two_quiet_looks_show_what_they_have_done() {
        // Neither a look that something was in flight at, nor one at a hidden process, is one of the two.
        for (quiet, hidden) in [(false, false), (true, true)] {
            let mut unheard = Unheard::default();
            unheard.at(1, ms(0));
            assert_eq!(unheard.at(1, ms(1_000)), Due::Look);
            assert!(
                !unheard.looked(true, false)
                    && !unheard.looked(quiet, hidden)
                    && !unheard.looked(true, false)
            );
            assert!(unheard.due().is_some());
            assert!(unheard.looked(true, false));
            assert_eq!((unheard.due(), unheard.at(1, ms(9_000))), (None, Due::Nothing));
            // The guard continues another one.
            assert_eq!(unheard.at(2, ms(9_000)), Due::Report);
            assert!(!unheard.looked(true, false), "what was seen before is no look at what it has done");
        }
    }

    #[test]
    fn looks_take_one_part_in_twenty_of_the_time() {
        let mut unheard = Unheard::default();
        unheard.at(1, ms(0));
        for (took, hidden, next) in
            [(1, false, 1_101), (5, false, 1_105), (10, false, 1_210), (1, true, 2_001)]
        {
            unheard.rest(ms(1_000), ms(took), hidden);
            assert_eq!(unheard.due(), Some(ms(next)), "{took} {hidden}");
        }
    }
}
