//! BLAKE3 of a file, one block of 1 MiB at a time, in a state small enough to keep.
//!
//! A block is 1,024 BLAKE3 chunks, so it is a complete subtree of the hash and has a chaining value of its
//! own. Chaining values can be computed in any order, stored, and merged later; the result is the BLAKE3 of
//! the whole file, the same that `b3sum` prints (BLAKE3 specification, section 2.1; `blake3::hazmat`).

use blake3::hazmat::{Mode, merge_subtrees_non_root, merge_subtrees_root};

pub use crate::sum::{BLOCK, Hash};
pub(crate) use crate::sum::{BlockHasher, PIECE, PIECES, Pieces, Sum, ZEROS, subtree};
use crate::zeros;

/// How the content of a file is hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hashing {
    /// Not at all.
    None,
    /// As a whole: the hash is what `b3sum` prints.
    #[default]
    Whole,
    /// By blocks, for files that are mostly holes. BLAKE3 numbers the chunks of its input, so that zeros at two places have
    /// two values (BLAKE3 specification, section 7.5: against just this shortcut), and ten terabytes of them cost an hour.
    /// Here every block is hashed as if it was the first, the tree above them is BLAKE3's, and a hole costs a few merges.
    Blocks,
}

impl Hashing {
    pub(crate) fn of(verified: bool, by_blocks: bool) -> Self {
        match (verified, by_blocks) {
            (false, _) => Self::None,
            (true, false) => Self::Whole,
            (true, true) => Self::Blocks,
        }
    }

    /// The number with which block `number` of the file is hashed.
    pub(crate) fn place(self, number: u64) -> u64 {
        if self == Self::Blocks { 0 } else { number }
    }
}

/// The values of subtrees of zeros: 1 block, 2 blocks, 4 and so on, each block hashed as if it was the first.
fn zero_subtrees() -> &'static [[u8; 32]; Tree::DEEPEST] {
    static VALUES: std::sync::OnceLock<[[u8; 32]; Tree::DEEPEST]> = std::sync::OnceLock::new();
    VALUES.get_or_init(|| {
        let mut value = Sum::of(0, &ZEROS).value;
        std::array::from_fn(|_| {
            let above = merge_subtrees_non_root(&value, &value, Mode::Hash);
            std::mem::replace(&mut value, above)
        })
    })
}

/// The hash of everything before a block boundary: the chaining values of complete subtrees.
///
/// A tree holds at most one value for each bit of the number of blocks: 41 values are enough for a million terabytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    /// Blocks whose values are in the stack.
    blocks: u64,
    /// Blocks of zeros that follow them and have no values yet: most of them need none once it is known where the zeros end.
    zeros: u64,
    stack: Vec<[u8; 32]>,
    alone: Option<Hash>,
    hashing: Hashing,
}

impl Tree {
    /// The most chaining values a tree can hold: those of 2^44 blocks, which are 2^64 bytes.
    pub(crate) const DEEPEST: usize = 45;

    /// A file of which nothing has been hashed.
    pub(crate) const fn new() -> Self {
        Self { blocks: 0, zeros: 0, stack: Vec::new(), alone: None, hashing: Hashing::Whole }
    }

    /// Restores a tree from its [`blocks`](Self::blocks), [`stack`](Self::stack) and [`alone`](Self::alone). Returns
    /// `None` if their number is not that of one tree; the hashes are not checked.
    pub(crate) fn restore(blocks: u64, stack: Vec<[u8; 32]>, alone: Option<Hash>) -> Option<Self> {
        let depth = if blocks == 0 { 0 } else { (blocks - 1).count_ones() as usize + 1 };
        let fits = stack.len() == depth && alone.is_some() == (blocks == 1) && blocks <= 1 << 44;
        fits.then_some(Self { blocks, zeros: 0, stack, alone, hashing: Hashing::Whole })
    }

    /// The same values, taken for those of a file that is hashed this way.
    pub(crate) fn hashed(self, hashing: Hashing) -> Self {
        Self { hashing, ..self }
    }

    /// The number with which the next block is hashed.
    pub(crate) fn place(&self) -> u64 {
        self.hashing.place(self.blocks())
    }

    /// Complete blocks hashed so far.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks + self.zeros
    }

    /// Bytes hashed so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.blocks() * BLOCK as u64
    }

    /// The chaining values to keep, once the tree is [settled](Self::settle).
    pub(crate) fn stack(&self) -> &[[u8; 32]] {
        debug_assert!(self.zeros == 0, "zeros at the end have no values yet");
        &self.stack
    }

    /// The hash of the file if it ends after its first block; `None` unless exactly one block has been added.
    pub(crate) fn alone(&self) -> Option<Hash> {
        self.alone
    }

    /// Merges the values of earlier blocks, only now that another block follows: the last merge of a file makes the
    /// root, which another function computes.
    fn merge(&mut self) {
        while self.stack.len() > self.blocks.count_ones() as usize {
            let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) else { break };
            self.stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
    }

    /// Adds the next block.
    pub(crate) fn push(&mut self, sum: Sum) {
        self.settle();
        self.push_value(sum);
    }

    fn push_value(&mut self, sum: Sum) {
        self.merge();
        self.stack.push(sum.value);
        self.blocks += 1;
        self.alone = if self.blocks == 1 { sum.alone } else { None };
    }

    /// Adds `blocks` blocks of zeros, in a few steps.
    pub(crate) fn push_zeros(&mut self, blocks: u64) {
        if self.hashing == Hashing::Whole {
            self.zeros += blocks;
            return;
        }
        if blocks == 0 {
            return;
        }
        let mut left = blocks;
        while left > 0 {
            self.merge();
            // The largest whole subtree that begins here. Its last merge is left for later, as that of any subtree.
            let most = if self.blocks == 0 { 63 } else { self.blocks.trailing_zeros() };
            let level = most.min(left.ilog2()) as usize;
            let values = zero_subtrees();
            let level = level.min(values.len() - 1);
            self.stack.extend(values[..level].iter().rev());
            self.stack.push(values[0]);
            self.blocks += 1 << level;
            left -= 1 << level;
        }
        self.alone = (self.blocks == 1).then(|| Sum::of(0, &ZEROS).alone).flatten();
    }

    /// How many blocks [`settle`](Self::settle) would hash.
    pub(crate) fn owes(&self) -> u64 {
        zeros::cost(self.blocks, self.zeros)
    }

    /// Computes the values of the zeros at the end. Takes them from the table of subtrees of zeros where it can: the last
    /// blocks stay single, because the topmost merge of a file is another one.
    pub(crate) fn settle(&mut self) {
        let mut left = std::mem::take(&mut self.zeros);
        while left > 0 {
            match zeros::group(self.blocks) {
                Some(value) if left > zeros::GROUP => {
                    self.merge();
                    self.stack.push(value);
                    self.blocks += zeros::GROUP;
                    self.alone = None;
                    left -= zeros::GROUP;
                }
                _ => {
                    self.push_value(zeros::block(self.blocks));
                    left -= 1;
                }
            }
        }
    }

    /// The hash of a file that consists of the complete blocks and `tail`, which is shorter than a block.
    pub(crate) fn end(&self, tail: &[u8]) -> Hash {
        if self.blocks() == 0 {
            return *blake3::hash(tail).as_bytes();
        }
        self.finish((!tail.is_empty()).then(|| Sum::of(self.place(), tail)))
    }

    /// The hash of a file that ends after the complete blocks and `tail`. If there are no complete blocks, there must be a tail.
    pub(crate) fn finish(&self, tail: Option<Sum>) -> Hash {
        let mut tree = self.clone();
        tree.settle();
        if let Some(sum) = tail {
            tree.push(sum);
        }
        if let Some(alone) = tree.alone {
            // The only block of a file is its first, so that both ways of hashing give the same.
            return alone;
        }
        let mut right = tree.stack.pop().unwrap_or_default();
        while tree.stack.len() > 1 {
            let left = tree.stack.pop().unwrap_or_default();
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
        if tree.hashing == Hashing::Blocks {
            let top =
                tree.stack.pop().map_or(right, |left| merge_subtrees_non_root(&left, &right, Mode::Hash));
            let named = [&tree.blocks.to_be_bytes()[..], &top].concat();
            return blake3::derive_key("linger-transfer 2026 file of blocks", &named);
        }
        match tree.stack.pop() {
            Some(left) => *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes(),
            None => right,
        }
    }
}

/// Writes a hash the way `b3sum` does.
pub fn hex(hash: &[u8]) -> String {
    use std::fmt::Write as _;
    hash.iter().fold(String::with_capacity(hash.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads the output of [`hex`]; `None` for any other text.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Reads the output of [`hex`] of any length.
pub(crate) fn unhex_any(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Hashes by blocks, storing and restoring the state before every block.
    fn by_blocks(file: &[u8]) -> Hash {
        let mut tree = Tree::new();
        let whole = file.len() / BLOCK * BLOCK;
        for (number, block) in file[..whole].chunks(BLOCK).enumerate() {
            tree.push(Sum::of(number as u64, block));
            tree = Tree::restore(tree.blocks(), tree.stack().to_vec(), tree.alone()).expect("own state");
        }
        let rest = &file[whole..];
        tree.end(rest)
    }

    #[test]
    fn the_hash_is_that_of_the_file() {
        let file = bytes(19 * BLOCK + 1);
        let sizes = [0, 1, 1024, 1025, BLOCK - 1];
        let around = (1..=19).flat_map(|n| [n * BLOCK - 1, n * BLOCK, n * BLOCK + 1]);
        for size in sizes.into_iter().chain(around) {
            assert_eq!(by_blocks(&file[..size]), *blake3::hash(&file[..size]).as_bytes(), "{size} bytes");
        }
    }

    #[test]
    fn zeros_by_the_terabyte_are_those_by_the_block() {
        let zero = Sum::of(0, &ZEROS);
        let data = Sum::of(0, &bytes(BLOCK));
        for before in 0..9 {
            for zeros in 0..20 {
                let mut slow = Tree::new().hashed(Hashing::Blocks);
                (0..before).for_each(|_| slow.push(data));
                let mut fast = slow.clone();
                (0..zeros).for_each(|_| slow.push(zero));
                fast.push_zeros(zeros);
                assert_eq!(fast, slow, "{before} + {zeros}");
                assert!(Tree::restore(fast.blocks(), fast.stack().to_vec(), fast.alone()).is_some());
                if before + zeros > 0 {
                    slow.push(data);
                    fast.push(data);
                    assert_eq!(fast.end(b"tail"), slow.end(b"tail"), "{before} + {zeros}");
                }
            }
        }
        let mut large = Tree::new().hashed(Hashing::Blocks);
        large.push(data);
        large.push_zeros(10 << 20);
        assert_eq!((large.blocks(), large.stack().len()), ((10 << 20) + 1, 3), "ten terabytes and a block");
        let mut other = Tree::new().hashed(Hashing::Blocks);
        other.push_zeros(10 << 20);
        other.push(data);
        assert_ne!(large.end(b""), other.end(b""), "the place of the data counts");
    }

    #[test]
    fn a_state_that_cannot_be_is_refused() {
        assert!(Tree::restore(0, vec![[0; 32]], None).is_none());
        assert!(Tree::restore(1, vec![[0; 32]], None).is_none());
        assert!(Tree::restore(2, vec![[0; 32]; 2], None).is_some());
        assert!(Tree::restore(3, vec![[0; 32]; 3], None).is_none());
        assert!(Tree::restore(u64::MAX, vec![[0; 32]; 64], None).is_none());
    }

    #[test]
    fn hexadecimal_goes_both_ways() {
        assert_eq!(hex(&[0, 0xab, 0xff]), "00abff");
        assert_eq!(unhex::<3>("00abff"), Some([0, 0xab, 0xff]));
        assert_eq!(unhex::<3>("00abf"), None);
        assert_eq!(unhex::<2>("é0a"), None);
        assert_eq!(unhex::<1>("+f"), None, "from_str_radix takes a sign");
    }
}
