//! How many processes hold a connection that was open at a fork: counters in memory that the forked share.

use super::field::Field;
use crate::sync::{AtomicU64, Relaxed};

/// One counter of the memory that processes share. All zero at first.
///
/// | bits | |
/// |---|---|
/// | 0..32 | processes that hold the connection; 0: free |
/// | 32..47 | generation: changes whenever another connection takes the counter |
/// | 47 | the supervisor has the connection since a `shutdown` |
pub struct ShareWord(AtomicU64);

impl ShareWord {
    /// A free one.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// A free one.
    #[cfg(loom)]
    #[allow(missing_docs)]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Default for ShareWord {
    fn default() -> Self {
        Self::new()
    }
}

const COUNT: Field = Field::new(0, 32);
const GENERATION: Field = Field::new(32, 15);
const HANDED: Field = Field::new(47, 1);

/// A counter, and the generation of it that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Share {
    number: u32,
    generation: u32,
}

impl Share {
    /// Plus one, so that zero is none.
    const NUMBER: Field = Field::new(0, 17);
    const GENERATION: Field = Field::new(17, 15);

    pub(super) fn pack(self) -> u64 {
        Self::NUMBER.put(u64::from(self.number) + 1) + Self::GENERATION.put(self.generation.into())
    }

    pub(super) fn unpack(word: u64) -> Option<Self> {
        let number = Self::NUMBER.of(word).checked_sub(1)?;
        Some(Self { number: number as u32, generation: Self::GENERATION.of(word) as u32 })
    }
}

/// The counters that a process shares with those it was forked from and has forked.
#[derive(Clone, Copy)]
pub struct Shares<'a>(&'a [ShareWord]);

/// What a process leaves behind that has let go of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// Another process holds it.
    pub(super) others: bool,
    /// The supervisor has it already.
    pub(super) handed: bool,
}

impl<'a> Shares<'a> {
    /// At most this many are used.
    pub const MOST: usize = 1 << 16;

    /// Without memory for counters, what is open at a fork is ended by nobody.
    pub const fn new(words: &'a [ShareWord]) -> Self {
        Self(words)
    }

    /// A counter for a connection that two processes are about to hold. `hint` is where to look first.
    pub(super) fn begin(&self, hint: usize, handed: bool) -> Option<Share> {
        let most = self.0.len().min(Self::MOST);
        (0..most).find_map(|step| {
            let number = (hint + step) % most;
            let word = &self.0.get(number)?.0;
            let free = word.load(Relaxed);
            // The next generation.
            let fresh = GENERATION.put(GENERATION.of(free) + 1) + HANDED.put(handed.into()) + COUNT.put(2);
            let taken = COUNT.of(free) == 0 && word.compare_exchange(free, fresh, Relaxed, Relaxed).is_ok();
            let generation = GENERATION.of(fresh) as u32;
            taken.then_some(Share { number: number as u32, generation })
        })
    }

    /// Counts one more process. Returns whether the counter still belongs to that connection.
    pub(super) fn join(&self, share: Share) -> bool {
        self.update(share, |word| word + 1).is_some()
    }

    /// One process less.
    pub(super) fn leave(&self, share: Share) -> Left {
        match self.update(share, |word| word - 1) {
            Some(before) => Left { others: COUNT.of(before) > 1, handed: HANDED.of(before) == 1 },
            // All others have left before: it is over.
            None => Left { others: false, handed: true },
        }
    }

    /// Notes that the supervisor has it. Returns whether that is new.
    pub(super) fn hand(&self, share: Share) -> bool {
        self.update(share, |word| word | HANDED.put(1)).is_some_and(|before| HANDED.of(before) == 0)
    }

    pub(super) fn is_handed(&self, share: Share) -> bool {
        self.word(share).is_some_and(|word| HANDED.of(word.load(Relaxed)) == 1)
    }

    fn word(&self, share: Share) -> Option<&'a AtomicU64> {
        self.0.get(share.number as usize).map(|word| &word.0)
    }

    /// Changes a counter, if it still belongs to the same connection. Returns its value before.
    fn update(&self, share: Share, change: impl Fn(u64) -> u64) -> Option<u64> {
        let word = self.word(share)?;
        let mut seen = word.load(Relaxed);
        loop {
            let same = GENERATION.of(seen) == u64::from(share.generation);
            if !same || COUNT.of(seen) == 0 {
                return None;
            }
            match word.compare_exchange(seen, change(seen), Relaxed, Relaxed) {
                Ok(before) => return Some(before),
                Err(now) => seen = now,
            }
        }
    }
}
