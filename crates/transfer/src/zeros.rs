//! The chaining values of zeros, and how many of them a peer may have computed.
//!
//! BLAKE3 numbers the chunks of its input (BLAKE3 specification, section 7.5), so that zeros have another value at every place,
//! and a hole costs as much to hash as data. Yet those values are the same in every file. A table has them for the first 64 GiB:
//! the first 256 blocks one by one, then by groups of 16. Of a hole there, only the blocks before the first whole group and
//! after the last are hashed. `examples/zeros.rs` computes the table.
//!
//! What is hashed still costs the peer nothing, so each session has an [`Allowance`] for it. The sender keeps the same count, and
//! sends a block of zeros as data where its allowance is used up. A hole of a file lies behind data, or at its begin: a
//! block of data pays for all that is to be hashed of the hole behind it.

use crate::sum::{Sum, ZEROS};

type Value = [u8; 32];

/// Blocks of a group.
pub(crate) const GROUP: u64 = 16;
/// Blocks at the begin of a file that have values of their own in the table.
const SINGLES: u64 = 256;
const GROUPS: u64 = 4096;
/// Blocks at the begin of a file whose zeros the table has.
pub(crate) const TABLED: u64 = GROUPS * GROUP;

static TABLE: &[u8; ((SINGLES + GROUPS) * 32) as usize] = include_bytes!("zeros.bin");

fn value(at: u64) -> Option<Value> {
    TABLE.as_chunks().0.get(at as usize).copied()
}

/// The value of the group of blocks of zeros that begins at block `first`, if that is where a group in the table begins.
pub(crate) fn group(first: u64) -> Option<Value> {
    (first.is_multiple_of(GROUP) && first < TABLED).then(|| value(SINGLES + first / GROUP)).flatten()
}

/// The contribution of block `number` of a file, if it is zeros.
pub(crate) fn block(number: u64) -> Sum {
    match value(number) {
        // The first block may be the whole file, whose hash the table does not have.
        Some(value) if (1..SINGLES).contains(&number) => Sum { value, alone: None },
        _ => Sum::of(number, &ZEROS),
    }
}

/// How many of `blocks` blocks of zeros from block `first` on have to be hashed. The last group is never taken from the table,
/// because it may be the end of the file.
pub(crate) fn cost(first: u64, blocks: u64) -> u64 {
    let (start, end) = (first.max(SINGLES), first + blocks);
    if end <= start {
        return 0;
    }
    let groups = start.next_multiple_of(GROUP)..((end - 1) / GROUP * GROUP).min(TABLED);
    end - start - groups.end.saturating_sub(groups.start)
}

/// How many blocks of zeros one side still hashes for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance(u64);

impl Default for Allowance {
    /// A gibibyte: half a second's work.
    fn default() -> Self {
        Self(1024)
    }
}

impl Allowance {
    /// For each block of data. Holes behind it, up to the next data, cost less than this in the table.
    const EARNED: u64 = 2 * GROUP;

    /// Notes a whole block of data.
    pub(crate) fn earn(&mut self) {
        self.0 = self.0.saturating_add(Self::EARNED);
    }

    /// Takes `blocks` off. Returns false, and takes nothing, if there are fewer.
    pub(crate) fn pay(&mut self, blocks: u64) -> bool {
        let left = self.0.checked_sub(blocks);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }

    /// Pays for a hole of at most `blocks` blocks from block `first` on. Returns how long it is: nothing if even the part of it
    /// that the table has cannot be paid for.
    pub(crate) fn affords(&mut self, first: u64, blocks: u64) -> u64 {
        let near = blocks.min(TABLED.saturating_sub(first));
        if !self.pay(cost(first, near)) {
            return 0;
        }
        let far = (blocks - near).min(self.0);
        self.0 -= far;
        near + far
    }

    #[cfg(test)]
    pub(crate) fn less(self, blocks: u64) -> Self {
        Self(self.0 - blocks)
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::hash::{Hashing, Tree};

    /// A value that stands for data.
    const DATA: Sum = Sum { value: [7; 32], alone: Some([8; 32]) };

    /// All blocks of zeros at the begin of a file, hashed one by one.
    fn hashed(blocks: u64) -> Vec<Sum> {
        (0..blocks).map(|number| Sum::of(number, &ZEROS)).collect()
    }

    #[test]
    fn zeros_from_the_table_are_those_that_are_hashed() {
        let hashed = hashed(SINGLES + 5 * GROUP);
        let mut random = ChaCha8Rng::seed_from_u64(17);
        let mut below = |most: u64| u64::from(random.next_u32()) % most;
        for round in 0..40 {
            let (mut slow, mut fast) = (Tree::new(), Tree::new());
            let (mut cost, mut runs) = (0, Vec::new());
            while slow.blocks() < SINGLES + GROUP {
                let run = if round == 0 { hashed.len() as u64 } else { below(90) + 1 };
                let run = run.min(hashed.len() as u64 - slow.blocks());
                cost += super::cost(slow.blocks(), run);
                (0..run).for_each(|_| slow.push(hashed[slow.blocks() as usize]));
                // A hole may be told in parts.
                let part = below(run + 1);
                fast.push_zeros(part);
                fast.push_zeros(run - part);
                assert_eq!(fast.blocks(), slow.blocks());
                assert_eq!(fast.owes(), super::cost(slow.blocks() - run, run));
                assert_eq!(fast.finish(None), slow.finish(None), "{round} {runs:?} {run}");
                if below(2) == 0 {
                    fast.settle();
                    assert!(fast == slow && fast.owes() == 0, "{round} {runs:?} {run}");
                }
                for tree in [&mut slow, &mut fast] {
                    tree.push(DATA);
                }
                runs.push(run);
            }
            assert_eq!(fast, slow, "{round} {runs:?}");
            assert!(cost <= runs.len() as u64 * Allowance::EARNED, "{cost} for {runs:?}");
        }
        assert_ne!(hashed[1], hashed[2]);
    }

    #[test]
    fn the_tables_are_those_of_zeros_at_their_places() {
        let single = |number| value(number).unwrap();
        for number in [0, 1, 100, SINGLES - 1] {
            assert_eq!(single(number), Sum::of(number, &ZEROS).value, "{number}");
        }
        for first in [0, GROUP, SINGLES, 777 * GROUP, TABLED / 2, TABLED - GROUP] {
            let mut value = Vec::new();
            for number in first..first + GROUP {
                value.push(Sum::of(number, &ZEROS).value);
            }
            while value.len() > 1 {
                let merge = |pair: &[Value]| {
                    blake3::hazmat::merge_subtrees_non_root(&pair[0], &pair[1], blake3::hazmat::Mode::Hash)
                };
                value = value.chunks(2).map(merge).collect();
            }
            assert_eq!(group(first), Some(value[0]), "{first}");
            assert_eq!(group(first + 1), None);
        }
        assert_eq!(group(TABLED), None);
    }

    #[test]
    fn behind_the_table_every_block_is_hashed() {
        let (mut slow, mut fast) = (Tree::new(), Tree::new());
        fast.push_zeros(TABLED + 3);
        slow.push_zeros(TABLED - 17);
        (0..20).for_each(|_| slow.push(Sum::of(slow.blocks(), &ZEROS)));
        assert_eq!(fast.finish(None), slow.finish(None));
        // The last group before the end of the table is used, as more follows it.
        assert_eq!((fast.owes(), cost(0, TABLED), cost(TABLED, 7)), (3, GROUP, 7));
        let mut by_blocks = Tree::new().hashed(Hashing::Blocks);
        by_blocks.push_zeros(TABLED + 3);
        assert_eq!(by_blocks.owes(), 0);
    }

    #[test]
    fn data_pays_for_the_holes_behind_it() {
        for first in 0..2 * SINGLES {
            assert!((0..100).all(|blocks| cost(first, blocks) < Allowance::EARNED), "{first}");
        }
        assert_eq!((cost(0, SINGLES), cost(0, SINGLES + GROUP), cost(SINGLES + 1, 31)), (0, GROUP, 31));
        let mut allowance = Allowance(15);
        assert_eq!(allowance.affords(0, SINGLES + GROUP), 0);
        assert_eq!((allowance.affords(0, SINGLES + 15), allowance), (SINGLES + 15, Allowance(0)));
        allowance.earn();
        assert_eq!((allowance.affords(TABLED, 40), allowance.pay(1)), (32, false));
    }
}
