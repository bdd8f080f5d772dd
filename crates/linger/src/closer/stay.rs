//! Sockets that stay open behind a close that has ended.
//!
//! A peer whose kernel has acknowledged everything may not have read it, and may still send something: to a closed socket that is
//! a reset, which on some systems takes with it what was not read. So a socket whose close has ended with
//! [`Ended::Acknowledged`] stays, as long as nobody wants for its descriptor. Its outcome is told before, nobody waits for it, and it is
//! the first to go.

use std::time::Duration;

use super::slab::Flags;
use super::worker::Worker;
use crate::outcome::{Ended, Outcome};
use crate::policy::defaults;

/// Longest time from the beginning of a close to the end of its socket's stay. A policy with a shorter `total` shortens it.
const LONGEST: Duration = defaults::TOTAL;

/// From this number of a descriptor on, so many are taken that no socket stays: half of those that the process may have.
pub(super) fn crowded_from(limit: Option<u64>) -> u64 {
    limit.map_or(u64::MAX, |limit| limit / 2)
}

impl Worker {
    /// Lets a socket whose close has ended so stay open. Returns whether it does.
    pub(super) fn keep_open(&mut self, index: u32, outcome: &Outcome) -> bool {
        let is_stopping = self.orders.deadline.is_some() || self.orders.no_more;
        if outcome.ended != Ended::Acknowledged || is_stopping || self.budget.staying == 0 {
            return false;
        }
        let Some(entry) = self.slab.get(index) else { return false };
        if entry.flags.has(Flags::STAYS) || is_crowded(entry.socket.number(), self.crowded) {
            return false;
        }
        if !entry.core.stay(LONGEST, self.now) {
            return false;
        }
        entry.flags.set(Flags::STAYS | Flags::ACKNOWLEDGED);
        // It is no more one of its peer's, whose bound is on sockets that linger.
        entry.peer = 0;
        while self.report.staying >= self.budget.staying as u64 {
            self.let_one_go();
        }
        self.staying.push_back(&mut self.slab, index);
        self.report.staying += 1;
        true
    }

    /// Lets all go that stay, if a new socket's descriptor says that descriptors are running short.
    pub(super) fn make_room(&mut self, number: Option<u64>) {
        if is_crowded(number, self.crowded) {
            self.let_all_go();
        }
    }

    pub(super) fn let_all_go(&mut self) {
        while self.let_one_go() {}
    }

    /// Closes the socket that has stayed longest. Returns whether there was one.
    fn let_one_go(&mut self) -> bool {
        let victim = self.staying.head();
        victim.into_iter().for_each(|index| self.evict(index));
        victim.is_some()
    }
}

fn is_crowded(number: Option<u64>, crowded: u64) -> bool {
    number.is_some_and(|number| number >= crowded)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn descriptors_run_short_from_half_of_the_limit_on() {
        let crowded = crowded_from(Some(1_024));
        assert_eq!([511, 512].map(|number| is_crowded(Some(number), crowded)), [false, true]);
        // Without a limit nothing is short, nor where a descriptor has no number.
        assert!(!is_crowded(Some(1 << 40), crowded_from(None)) && !is_crowded(None, 0));
    }
}
