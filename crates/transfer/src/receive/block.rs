//! The block that is being received. It is hashed in pieces as it fills; an assistant's thread hashes half of it.

use std::cell::OnceCell;

use crate::assistant::{Assistant, LENT};
use crate::hash::{BLOCK, Hash, PIECE, PIECES, Pieces, Sum, Tree, subtree};
use crate::page_buffer::PageBuffer;

#[derive(Debug, Default)]
pub(super) struct Block {
    /// Each piece is allocated with [`PIECE`] bytes when its first byte arrives. It is empty while the assistant has
    /// it.
    pieces: [PageBuffer; PIECES],
    filled: usize,
    values: [[u8; 32]; PIECES],
    hashed: Hashed,
    assistant: OnceCell<Option<Assistant>>,
}

/// Where the chaining values of the pieces are.
#[derive(Clone, Copy, Debug)]
enum Hashed {
    /// This many pieces are hashed, and their values are here.
    Here(usize),
    /// This many pieces are hashed or being hashed. The assistant has the first [`LENT`] of them, with their values.
    Lent(usize),
}

impl Default for Hashed {
    fn default() -> Self {
        Self::Here(0)
    }
}

impl Hashed {
    fn pieces(self) -> usize {
        match self {
            Self::Here(pieces) | Self::Lent(pieces) => pieces,
        }
    }

    fn one_more(self) -> Self {
        debug_assert!(self.pieces() < PIECES);
        match self {
            Self::Here(pieces) => Self::Here(pieces + 1),
            Self::Lent(pieces) => Self::Lent(pieces + 1),
        }
    }
}

impl Block {
    /// Bytes that have arrived.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// Where the next bytes go, at most `most` of them and not beyond the end of a piece.
    pub(super) fn room(&mut self, most: usize) -> &mut [u8] {
        let (piece, at) = (&mut self.pieces[self.filled / PIECE % PIECES], self.filled % PIECE);
        let end = PIECE.min(at + most);
        &mut piece.bytes(PIECE)[at..end]
    }

    /// Notes that the first `bytes` bytes of the last [`room`](Self::room) were filled.
    pub(super) fn arrived(&mut self, bytes: usize) {
        self.filled += bytes;
        debug_assert!(self.filled <= BLOCK, "room() gave no more");
    }

    /// Hashes the pieces that have arrived completely, or lends them to the assistant. `number` is the block's number
    /// in its file.
    pub(super) fn hash_pieces(&mut self, number: u64) {
        if let (Hashed::Here(0), Some(Some(assistant))) = (self.hashed, self.assistant.get()) {
            if self.filled < LENT * PIECE {
                return;
            }
            let pieces = std::array::from_fn(|at| std::mem::take(&mut self.pieces[at]));
            assistant.lend(pieces, number.saturating_mul(BLOCK as u64));
            self.hashed = Hashed::Lent(LENT);
        }
        while (self.hashed.pieces() + 1) * PIECE <= self.filled {
            self.hash(number);
        }
    }

    /// Returns the chaining value of the bytes that have arrived, as block `number` of the file. They must be more than
    /// one piece, unless the file has other blocks: the root of a tree is computed by another function.
    pub(super) fn sum(&mut self, number: u64) -> Sum {
        while self.hashed.pieces() * PIECE < self.filled {
            self.hash(number);
        }
        self.take_back();
        Sum::of_pieces(number, &self.values[..self.hashed.pieces()])
    }

    /// Starts an assistant, once, if this process may use at least `processors`. Without an assistant, all pieces are hashed
    /// by this thread.
    pub(super) fn hire(&mut self, processors: usize) {
        self.assistant.get_or_init(|| Assistant::hire(processors));
    }

    /// The hash of the file that ends with these bytes. `tree` holds all blocks before them.
    pub(super) fn end(&mut self, tree: &Tree) -> Hash {
        if self.filled <= PIECE {
            // These bytes may be the whole file, whose hash is a root, which another function computes.
            return tree.end(self.pieces()[0]);
        }
        tree.finish(Some(self.sum(tree.place())))
    }

    /// The pieces that have arrived and are not lent to the assistant.
    pub(super) fn pieces(&self) -> Pieces<'_> {
        debug_assert!(matches!(self.hashed, Hashed::Here(_)), "lent pieces are empty");
        let mut left = self.filled;
        self.pieces.each_ref().map(|piece| {
            let here = left.min(PIECE);
            left -= here;
            piece.first(here)
        })
    }

    /// Forgets what has arrived.
    pub(super) fn clear(&mut self) {
        self.take_back();
        (self.filled, self.hashed) = (0, Hashed::Here(0));
    }

    /// Hashes the next piece, or as much of it as has arrived.
    fn hash(&mut self, number: u64) {
        let piece = self.hashed.pieces();
        let start = piece * PIECE;
        let bytes = self.pieces[piece].first(PIECE.min(self.filled - start));
        let offset = number.saturating_mul(BLOCK as u64).saturating_add(start as u64);
        self.values[piece] = subtree(bytes, offset);
        self.hashed = self.hashed.one_more();
    }

    fn take_back(&mut self) {
        let Hashed::Lent(hashed) = self.hashed else { return };
        self.hashed = Hashed::Here(hashed);
        let lent = self.assistant.get().and_then(Option::as_ref).and_then(Assistant::take_back);
        debug_assert!(lent.is_some(), "what was lent comes back");
        for (at, (piece, value)) in lent.into_iter().flat_map(|(p, v)| p.into_iter().zip(v)).enumerate() {
            (self.pieces[at], self.values[at]) = (piece, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Receives a file in portions of `portion` bytes. Returns its hash, and the bytes that would be written.
    fn receive(block: &mut Block, file: &[u8], portion: usize) -> (Hash, Vec<u8>) {
        let mut tree = Tree::new();
        let mut written = Vec::new();
        for mut arrives in file.chunks(BLOCK) {
            while !arrives.is_empty() {
                let room = block.room(portion.min(arrives.len()));
                let bytes = room.len();
                room.copy_from_slice(&arrives[..bytes]);
                arrives = &arrives[bytes..];
                block.arrived(bytes);
                block.hash_pieces(tree.blocks());
            }
            if block.filled() == BLOCK {
                tree.push(block.sum(tree.blocks()));
                written.extend(block.pieces().concat());
                block.clear();
            }
        }
        let hash = block.end(&tree);
        written.extend(block.pieces().concat());
        block.clear();
        (hash, written)
    }

    #[test]
    fn whatever_the_portions_and_with_an_assistant_or_without_the_hash_is_that_of_the_file() {
        let mut file = vec![0; 3 * BLOCK + 1];
        blake3::Hasher::new().finalize_xof().fill(&mut file);
        let around = |piece: usize| [piece * PIECE, piece * PIECE + 1, (piece + 1) * PIECE - 1];
        let sizes: Vec<usize> = (0..3 * PIECES).flat_map(around).collect();
        for hires in [false, true] {
            let mut block = Block::default();
            block.hire(if hires { 2 } else { usize::MAX });
            for portion in [PIECE, BLOCK, 100_000] {
                for &size in &sizes {
                    let (hash, written) = receive(&mut block, &file[..size], portion);
                    let told = format!("{size} bytes by {portion}, assistant: {hires}");
                    assert_eq!(hash, *blake3::hash(&file[..size]).as_bytes(), "{told}");
                    assert!(written == file[..size], "{told}");
                }
            }
        }
    }

    #[test]
    fn what_is_given_up_in_the_middle_leaves_nothing_behind() {
        let mut block = Block::default();
        block.hire(2);
        let file = vec![1; BLOCK];
        for arrived in [1, PIECE, PIECE + 1, BLOCK - 1, BLOCK] {
            while block.filled() < arrived {
                let bytes = block.room(arrived - block.filled()).len();
                block.arrived(bytes);
                block.hash_pieces(7);
            }
            block.clear();
            assert_eq!(receive(&mut block, &file, PIECE).0, *blake3::hash(&file).as_bytes());
        }
    }
}
