//! Timers in constant time: a wheel of seven levels of 64 slots, the finest about a millisecond wide.
//!
//! A timer far away stands in a coarse slot and comes out when that slot begins: early, never late by more
//! than a tick. The worker then looks at the real deadline and arms it again, which is also how a
//! deadline that has moved away is served without touching the wheel at every byte of progress.

use super::slab::{Ring, Slab, TIMER, UNARMED};

const LEVELS: usize = 7;
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;

/// A tick is 2^20 ns, 1.05 ms.
const TICK: u32 = 20;

/// The last tick that the top level can tell apart, 146 years after the origin.
const LAST: u64 = (1 << (BITS * LEVELS as u32)) - 1;

/// The timers of all entries.
#[derive(Debug)]
pub(super) struct Wheel {
    /// Ticks up to here have been served; every armed slot begins later.
    now: u64,
    occupied: [u64; LEVELS],
    slots: Box<[Ring<TIMER>]>,
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self { now: 0, occupied: [0; LEVELS], slots: vec![Ring::EMPTY; LEVELS * SLOTS].into() }
    }

    /// Arms the timer of an entry for a time in nanoseconds; one that was armed is moved.
    pub(super) fn arm(&mut self, slab: &mut Slab, index: u32, when: u64) {
        self.disarm(slab, index);
        let tick = when.div_ceil(1 << TICK).clamp(self.now + 1, LAST);
        // The level is where the two times first differ, so a slot always begins after `now`.
        let level = (u64::BITS - 1 - (tick ^ self.now).leading_zeros()) / BITS;
        let slot = (tick >> (level * BITS)) as usize % SLOTS;
        let place = level as usize * SLOTS + slot;
        self.occupied[level as usize] |= 1 << slot;
        self.slots[place].push_back(slab, index);
        if let Some(entry) = slab.get(index) {
            entry.slot = place as u16;
        }
    }

    pub(super) fn disarm(&mut self, slab: &mut Slab, index: u32) {
        let Some(entry) = slab.get(index) else { return };
        let place = usize::from(std::mem::replace(&mut entry.slot, UNARMED));
        if place == usize::from(UNARMED) {
            return;
        }
        self.slots[place].remove(slab, index);
        if self.slots[place].head().is_none() {
            self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
        }
    }

    /// When the next slot begins, in nanoseconds; `None` with no timer armed.
    pub(super) fn next(&self) -> Option<u64> {
        self.first().map(|(_, tick)| tick << TICK)
    }

    /// Takes out one entry whose slot has begun, if there is one; its timer is no longer armed.
    pub(super) fn pop(&mut self, slab: &mut Slab, now: u64) -> Option<u32> {
        let now = (now >> TICK).min(LAST - 1);
        match self.first() {
            Some((place, tick)) if tick <= now => {
                self.now = self.now.max(tick);
                let index = self.slots[place].head()?;
                self.disarm(slab, index);
                Some(index)
            }
            _ => {
                self.now = self.now.max(now);
                None
            }
        }
    }

    /// The place and the first tick of the slot that begins first.
    ///
    /// That is one of the finest level, unless a coarser slot has begun and is not yet empty.
    fn first(&self) -> Option<(usize, u64)> {
        let starts =
            self.occupied.iter().enumerate().filter(|&(_, &slots)| slots != 0).map(|(level, slots)| {
                let slot = u64::from(slots.trailing_zeros());
                let shift = level as u32 * BITS;
                let tick = (self.now >> (shift + BITS) << (shift + BITS)) | slot << shift;
                (level * SLOTS + slot as usize, tick)
            });
        starts.min_by_key(|&(_, tick)| tick)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::slab::Entry;
    use super::*;
    use crate::machine::Core;
    use crate::{Policy, socket::Socket};
    use proptest::prelude::*;

    fn slab(size: usize) -> Slab {
        let mut slab = Slab::new();
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        for _ in 0..size {
            let socket = Socket::new(socket.try_clone().unwrap().into()).unwrap();
            slab.insert(Entry::new(Core::new(&Policy::default(), 0), socket));
        }
        slab
    }

    proptest! {
        /// Timers armed, moved, disarmed and served in any order come out once, in time and not a tick late.
        #[test]
        fn no_timer_is_lost_or_late(
            steps in proptest::collection::vec((0u32..8, 0u64..40, any::<u64>(), 0u64..36, any::<u64>()), 1..120),
        ) {
            let mut slab = slab(8);
            let mut wheel = Wheel::new();
            let mut deadlines = [None; 8];
            let mut now = 0u64;
            for (index, exponent, fraction, pause, rest) in steps {
                let delay = fraction & ((1 << exponent) - 1);
                if delay % 7 == 0 {
                    wheel.disarm(&mut slab, index);
                    deadlines[index as usize] = None;
                } else {
                    wheel.arm(&mut slab, index, now + delay);
                    deadlines[index as usize] = Some(now + delay);
                }
                now += rest & ((1 << pause) - 1);
                let mut spins = 0;
                while let Some(index) = wheel.pop(&mut slab, now) {
                    spins += 1;
                    prop_assert!(spins < 1_000, "the wheel spins");
                    let deadline = deadlines[index as usize].expect("only armed timers come out");
                    if deadline > now {
                        wheel.arm(&mut slab, index, deadline);
                    } else {
                        deadlines[index as usize] = None;
                    }
                }
                // What is left is due later, give or take the tick.
                let tick = 1u64 << TICK;
                for deadline in deadlines.iter().flatten() {
                    prop_assert!(deadline.div_ceil(tick) > now / tick, "{} is late at {}", deadline, now);
                }
                match wheel.next() {
                    Some(next) => {
                        prop_assert!(next > now - now % tick, "a wait into the past");
                        let first = deadlines.iter().flatten().min().copied().expect("an armed timer");
                        prop_assert!(next <= first.div_ceil(tick).max(now / tick + 1) * tick);
                    }
                    None => prop_assert!(deadlines.iter().all(Option::is_none)),
                }
            }
        }
    }
}
