//! Counts that the supervisor keeps itself, in addition to those of its closer.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use linger_preload::protocol::{COUNTS, Count};

use crate::refusal::Refusal;

/// Counts that the supervisor keeps itself, in addition to those of its closer.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) bytes_acknowledged: AtomicU64,
    /// Connections that the peer closed between their half-close and the closer's first check.
    pub(crate) closed_before: AtomicU64,
    /// Half-closed connections that wait for the closer, and those that were over before it could have them.
    pub(crate) parted: AtomicU64,
    pub(crate) over: AtomicU64,
    /// Connections that were over before the peer had acknowledged everything.
    pub(crate) lost: AtomicU64,
    /// Connections that were closed plainly with bytes that were not acknowledged.
    pub(crate) unknown: AtomicU64,
    /// What the preloaded libraries have reported, and the results of their nominations, in the order of [`Count`].
    /// `Seen` is not used: it is the sum.
    counts: [AtomicU64; COUNTS],
    /// Searches through the fds of processes.
    pub(crate) looks: AtomicU64,
    /// The first process that could not be looked at, until it is named.
    refusal: Mutex<FirstRefusal>,
}

/// The first process that could not be looked at.
#[derive(Debug, Default)]
enum FirstRefusal {
    #[default]
    None,
    Found(Refusal),
    Named,
}

impl Tally {
    pub(crate) fn count(&self, what: Count, number: u64) {
        self.counts[what as usize].fetch_add(number, Relaxed);
    }

    pub(crate) fn uncount(&self, what: Count) {
        let less = |number: u64| number.checked_sub(1);
        let _ = self.counts[what as usize].fetch_update(Relaxed, Relaxed, less);
    }

    /// The counts of a program with the preloaded library.
    pub(crate) fn all(&self) -> [u64; COUNTS] {
        let mut all: [u64; COUNTS] = std::array::from_fn(|place| self.counts[place].load(Relaxed));
        let reasons = Count::EACH.into_iter().filter(|count| !matches!(count, Count::Seen | Count::Unread));
        all[Count::Seen as usize] = reasons.map(|reason| all[reason as usize]).sum();
        all
    }

    /// Notes a process that cannot be looked at. True for the first.
    pub(crate) fn refuse(&self, process: u32) -> bool {
        let mut first = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = matches!(*first, FirstRefusal::None);
        if is_first {
            *first = FirstRefusal::Found(Refusal::new(process, rustix::io::Errno::PERM.into()));
        }
        is_first
    }

    /// The first process that could not be looked at, once.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        let mut first = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *first, FirstRefusal::Named) {
            FirstRefusal::Found(refusal) => Some(refusal),
            FirstRefusal::None => {
                *first = FirstRefusal::None;
                None
            }
            FirstRefusal::Named => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_of_the_reasons_alone() {
        let tally = Tally::default();
        Count::EACH.into_iter().enumerate().for_each(|(place, count)| tally.count(count, 1 << place));
        let all = tally.all();
        // Handed to Refused; what had unread bytes is one of them as well, and the sum is no part of itself.
        assert_eq!(all[Count::Seen as usize], 0b0_1111_1110);
        assert_eq!(all[Count::Unread as usize], 1 << 8);
        tally.uncount(Count::Handed);
        assert_eq!(tally.all()[Count::Handed as usize], 1);
        (0..3).for_each(|_| tally.uncount(Count::Handed));
        assert_eq!(tally.all()[Count::Handed as usize], 0);
    }

    #[test]
    fn the_first_refusal_is_named_once() {
        let tally = Tally::default();
        assert!(tally.refusal().is_none());
        assert!(tally.refuse(std::process::id()) && !tally.refuse(1));
        assert_eq!(tally.refusal().unwrap().process, std::process::id());
        assert!(tally.refusal().is_none() && !tally.refuse(1) && tally.refusal().is_none());
    }
}
