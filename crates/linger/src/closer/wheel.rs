//! Timers in constant time: a wheel of seven levels of 64 slots, the finest about a millisecond wide.
//!
//! A timer for a distant time stands in a coarse slot and comes out when that slot begins: early, and late by at most a
//! tick. The worker then compares the real deadline, and arms the timer again if that is later. So a deadline that moves
//! away with every byte of progress costs nothing in the wheel until its timer comes out.

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

    /// Removes one entry whose slot has begun, if there is one, and disarms its timer.
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

    /// Where each time stands, in ticks: `(now, the time, where its slot begins)`.
    const SLOTS_OF_TIMES: [(u64, u64, u64); 16] = [
        (0, 0, 1),
        (0, 1, 1),
        (0, 63, 63),
        (0, 64, 64),
        (0, 127, 64),
        (0, 4095, 4032),
        (0, 4096, 4096),
        (0, 5000, 4096),
        (63, 65, 64),
        (100, 7, 101),
        (100, 127, 127),
        (100, 128, 128),
        (100, 200, 192),
        (100_000, 100_000 + 4096, 102_400),
        (1 << 40, (1 << 40) + 1, (1 << 40) + 1),
        (1 << 35, (1 << 41) + 9, 1 << 41),
    ];

    #[test]
    fn a_timer_comes_out_when_its_slot_begins() {
        for (now, when, begin) in SLOTS_OF_TIMES {
            let (mut slab, mut wheel) = (slab(1), Wheel::new());
            assert_eq!((wheel.pop(&mut slab, now << TICK), wheel.next()), (None, None));
            wheel.arm(&mut slab, 0, when << TICK);
            assert_eq!(wheel.next(), Some(begin << TICK), "{now} {when}");
            assert_eq!(wheel.pop(&mut slab, (begin << TICK) - 1), None, "{now} {when}");
            assert_eq!(wheel.next(), Some(begin << TICK));
            assert_ne!(slab.get(0).unwrap().slot, UNARMED);
            assert_eq!(wheel.pop(&mut slab, begin << TICK), Some(0), "{now} {when}");
            assert_eq!((wheel.pop(&mut slab, begin << TICK), wheel.next()), (None, None));
            assert_eq!(slab.get(0).unwrap().slot, UNARMED);
        }
        // A time within a tick is served with the next one: early is worse than late.
        let (mut slab, mut wheel) = (slab(1), Wheel::new());
        wheel.arm(&mut slab, 0, (5 << TICK) + 1);
        assert_eq!(wheel.next(), Some(6 << TICK));
    }

    #[test]
    fn a_slot_is_occupied_until_its_last_timer_leaves() {
        let (mut slab, mut wheel) = (slab(4), Wheel::new());
        // Two in one slot, one in the next, and one in a slot of the same number a level higher.
        for (index, tick) in [(0, 5), (1, 5), (2, 6), (3, 5 * 64)] {
            wheel.arm(&mut slab, index, tick << TICK);
        }
        for (gone, next) in [(0, Some(5)), (1, Some(6)), (2, Some(5 * 64)), (2, Some(5 * 64)), (3, None)] {
            wheel.disarm(&mut slab, gone);
            assert_eq!(wheel.next(), next.map(|tick| tick << TICK), "without {gone}");
        }
        // Moved, it stands in one slot.
        wheel.arm(&mut slab, 0, 5 << TICK);
        wheel.arm(&mut slab, 0, 7 << TICK);
        assert_eq!((wheel.next(), wheel.pop(&mut slab, 6 << TICK)), (Some(7 << TICK), None));
        assert_eq!(wheel.pop(&mut slab, 7 << TICK), Some(0));
    }

    #[test]
    fn time_that_was_slept_through_is_served_in_order() {
        let (mut slab, mut wheel) = (slab(3), Wheel::new());
        for (index, tick) in [(0, 5_000), (1, 70), (2, 3)] {
            wheel.arm(&mut slab, index, tick << TICK);
        }
        let mut order = Vec::new();
        while let Some(index) = wheel.pop(&mut slab, 6_000 << TICK) {
            order.push(index);
        }
        assert_eq!(order, [2, 1, 0]);
        wheel.arm(&mut slab, 0, 0);
        assert_eq!(wheel.next(), Some(6_001 << TICK), "what is late is due in the next tick");
    }

    #[test]
    fn there_is_a_last_tick() {
        assert_eq!(LAST, (1 << 42) - 1);
        for (now, next) in [(0, 63 << 36), (u64::MAX, LAST)] {
            let (mut slab, mut wheel) = (slab(1), Wheel::new());
            assert_eq!(wheel.pop(&mut slab, now), None);
            wheel.arm(&mut slab, 0, u64::MAX);
            assert_eq!(wheel.next(), Some(next << TICK));
            // Time stands still there: a timer is never due, and is found all the same.
            assert_eq!(wheel.pop(&mut slab, now), None);
            wheel.arm(&mut slab, 0, 0);
            assert!(wheel.next().is_some());
        }
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
