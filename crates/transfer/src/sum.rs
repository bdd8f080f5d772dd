//! The contribution of one block to the hash of its file.

use blake3::Hasher;
use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// Bytes of a block: what is verified, acknowledged and resumed as one.
pub const BLOCK: usize = 1 << 20;

/// Bytes moved and hashed at once: a fraction of an L2 cache, and a complete subtree of the hash.
pub(crate) const PIECE: usize = BLOCK / PIECES;

/// Pieces of a block.
pub(crate) const PIECES: usize = 4;

/// The bytes of a block, or of the beginning of one.
pub(crate) type Pieces<'a> = [&'a [u8]; PIECES];

/// A block of a hole.
pub(crate) static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// The BLAKE3 of a whole file.
pub type Hash = [u8; 32];

/// The contribution of one block to the hash of its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    /// The chaining value of the block at its place in the file.
    pub(crate) value: [u8; 32],
    /// The hash of the file if this block is all of the file. Only block 0 has it: the topmost node of the tree is
    /// computed differently from the others.
    pub(crate) alone: Option<Hash>,
}

impl Sum {
    /// The contribution of block `number` (from 0), given the chaining values of its pieces in order: 2 to 4, of which
    /// the last piece may be shorter than [`PIECE`]. A single value is allowed only if the file has other blocks,
    /// because [`Sum::alone`] cannot be computed from it.
    pub(crate) fn of_pieces(number: u64, values: &[[u8; 32]]) -> Self {
        let merge = |left: &[u8; 32], right: &[u8; 32]| merge_subtrees_non_root(left, right, Mode::Hash);
        let (left, right) = match values {
            [] => return Self::default(),
            [value] => return Self { value: *value, alone: None },
            [first, second] => (*first, *second),
            [first, second, third] => (merge(first, second), *third),
            [first, second, third, fourth, ..] => (merge(first, second), merge(third, fourth)),
        };
        let alone = (number == 0).then(|| *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes());
        Self { value: merge(&left, &right), alone }
    }

    /// The contribution of block `number` (from 0). Only the last block of a file may be shorter than [`BLOCK`], and only
    /// the block of an empty file may be empty.
    pub(crate) fn of(number: u64, block: &[u8]) -> Self {
        let mut hasher = BlockHasher::new(number);
        hasher.update(block);
        hasher.finish()
    }
}

/// The chaining value of a subtree at `offset` of its file. It is at most as long as the greatest power of two that
/// divides the offset, and is not the whole file.
pub(crate) fn subtree(bytes: &[u8], offset: u64) -> [u8; 32] {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset).update(bytes);
    hasher.finalize_non_root()
}

/// Hashes one block in portions of any size.
#[derive(Clone, Debug)]
pub(crate) struct BlockHasher {
    hasher: Hasher,
    number: u64,
    length: usize,
}

impl BlockHasher {
    /// Begins block `number`, from 0.
    pub(crate) fn new(number: u64) -> Self {
        let mut hasher = Hasher::new();
        hasher.set_input_offset(number.saturating_mul(BLOCK as u64));
        Self { hasher, number, length: 0 }
    }

    /// Adds bytes; at most [`BLOCK`] in all.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        debug_assert!(self.length <= BLOCK);
        self.hasher.update(bytes);
    }

    /// Ends the block.
    pub(crate) fn finish(&self) -> Sum {
        let alone = (self.number == 0).then(|| *self.hasher.finalize().as_bytes());
        // Only an empty file has an empty block, which is part of no tree.
        let value = if self.length == 0 { [0; 32] } else { self.hasher.finalize_non_root() };
        Sum { value, alone }
    }
}
