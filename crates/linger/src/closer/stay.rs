//! Sockets that stay open behind a close that has ended.
//!
//! A peer whose kernel has acknowledged everything may not have read it, and may still send something: to a closed socket that is
//! a reset, which on some systems takes with it what was not read. So a socket whose close has ended with
//! [`Ended::Acknowledged`] stays, as long as nobody wants its descriptor. Its outcome is told before, nobody waits for it, and it is
//! the first to go.

use std::time::Duration;

use linger_sys::fd::{AsFd as _, BorrowedFd};

use super::peers::Peers;
use super::slab::{AGE, Entry, Flags, Ring, Slab};
use crate::outcome::{Ended, Outcome};
use crate::policy::defaults;

/// Longest time from the beginning of a close to the end of its socket's stay. A policy with a shorter `total` shortens it.
const LONGEST: Duration = defaults::TOTAL;

/// How long descriptors may be lacking before those that stay are let go, in nanoseconds. Nobody hands a socket over meanwhile: none can be
/// accepted.
const LOOK: u64 = 500_000_000;

/// How long it counts that descriptors are not lacking, in nanoseconds: an answer for each of some ten thousand closes a second
/// would cost as much as the rest of their stay.
const KNOWN: u64 = 3_000_000;

/// The sockets of a closer that stay.
pub(super) struct Staying {
    /// By age, the oldest first.
    ring: Ring<AGE>,
    count: usize,
    /// Those of each peer that is counted, the oldest first.
    pub(super) of_peers: Peers,
    /// Most sockets that may stay.
    most: usize,
    /// How many descriptors the process may have; `None` for no limit. Asked each time: a program may lower its limit at any time.
    descriptors: fn() -> Option<u64>,
    /// When to look for that next, if any stays.
    next_look: u64,
    /// Until when the last answer counts for those that are to stay.
    known_until: u64,
}

impl Staying {
    /// Room for `most` sockets in a process that may have so many descriptors (`None` for no limit). From half of them on they run short.
    pub(super) fn new(most: usize, descriptors: fn() -> Option<u64>) -> Self {
        Self {
            ring: Ring::EMPTY,
            count: 0,
            of_peers: Peers::default(),
            most,
            descriptors,
            next_look: 0,
            known_until: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Whether one more is one too many.
    pub(super) fn is_full(&self) -> bool {
        self.count >= self.most
    }

    /// The socket that has stayed longest.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.ring.head()
    }

    /// Whether the number of a new descriptor says that descriptors are running short.
    pub(super) fn is_crowded(&self, number: Option<u64>) -> bool {
        number.is_some_and(|number| (self.descriptors)().is_some_and(|limit| number >= limit / 2))
    }

    /// Whether descriptors are running short now: which number a copy of this one would have, or that there can be none.
    fn run_short_beside(&self, socket: BorrowedFd<'_>) -> bool {
        match socket.try_clone_to_owned() {
            Ok(copy) => self.is_crowded(linger_sys::descriptor_number(copy.as_fd())),
            Err(_) => true,
        }
    }

    /// Whether descriptors are not running short, as far as was found lately.
    pub(super) fn has_room_beside(&mut self, socket: BorrowedFd<'_>, now: u64) -> bool {
        if now < self.known_until {
            return true;
        }
        let has_room = !self.run_short_beside(socket);
        if has_room {
            self.known_until = now + KNOWN;
        }
        has_room
    }

    /// When to look whether descriptors are running short; `None` if none stays.
    pub(super) fn next_look(&self) -> Option<u64> {
        (self.count > 0).then_some(self.next_look)
    }

    /// Looks, if it is time to. Returns whether descriptors are running short, so that all are to go.
    pub(super) fn look(&mut self, slab: &mut Slab, now: u64) -> bool {
        if self.next_look().is_none_or(|next| now < next) {
            return false;
        }
        self.next_look = now + LOOK;
        let oldest = self.oldest().and_then(|index| slab.get(index));
        let runs_short = oldest.is_some_and(|entry| self.run_short_beside(entry.socket.as_fd()));
        if runs_short {
            self.known_until = 0;
        }
        runs_short
    }

    /// Lets the machine of a socket go on whose close has ended so, if it may stay. Returns whether it may.
    pub(super) fn may(&mut self, entry: &mut Entry, outcome: &Outcome, now: u64) -> bool {
        outcome.ended == Ended::Acknowledged
            && self.most > 0
            && !entry.flags.has(Flags::STAYS)
            && self.has_room_beside(entry.socket.as_fd(), now)
            && entry.core.stay(LONGEST, now)
    }

    /// Descriptors run short from now on.
    #[cfg(all(test, not(loom)))]
    pub(super) fn run_short(&mut self) {
        self.descriptors = || Some(0);
    }

    pub(super) fn enter(&mut self, slab: &mut Slab, index: u32, peer: u32, now: u64) {
        if self.count == 0 {
            self.next_look = now + LOOK;
        }
        self.ring.push_back(slab, index);
        self.of_peers.enter(slab, index, peer);
        self.count += 1;
    }

    pub(super) fn leave(&mut self, slab: &mut Slab, index: u32, peer: u32) {
        self.ring.remove(slab, index);
        self.of_peers.leave(slab, index, peer);
        debug_assert!(self.count > 0, "those that stay are counted wrongly");
        self.count -= 1;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn descriptors_run_short_from_half_of_the_limit_on() {
        let staying = Staying::new(1, || Some(1_024));
        assert_eq!([511, 512].map(|number| staying.is_crowded(Some(number))), [false, true]);
        // Without a limit nothing is short, nor where a descriptor has no number.
        assert!(
            !Staying::new(1, || None).is_crowded(Some(1 << 40))
                && !Staying::new(1, || Some(0)).is_crowded(None)
        );
    }
}
