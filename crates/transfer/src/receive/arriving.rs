//! The content of the current file that has arrived since its last block was stored.

use super::block::Block;
use crate::conduit::Conduit;
use crate::hash::{BLOCK, Hash, Pieces, Sum, Tree};

/// The bytes that have arrived and are not stored as a block yet, in memory or in the file: less than a block, or a
/// whole block whose chaining value has not arrived yet.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    tail: Tail,
    /// The block that is being received. Its memory and its assistant are used again for the next block.
    block: Block,
    /// An empty pipe, kept between frames.
    pipe: Option<Conduit>,
}

#[derive(Debug, Default)]
enum Tail {
    /// In memory: less than a block, perhaps nothing.
    #[default]
    Filling,
    /// In memory: a whole block. Its chaining value must be the next message.
    Whole,
    /// In the file already: the kernel moved this many bytes there, less than a block.
    Moved(usize),
}

impl Arriving {
    /// How many bytes have arrived.
    pub(super) fn bytes(&self) -> usize {
        match self.tail {
            Tail::Filling | Tail::Whole => self.block.filled(),
            Tail::Moved(bytes) => bytes,
        }
    }

    /// Whether the next message has to be a block's chaining value.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.tail, Tail::Whole)
    }

    /// Whether a DATA frame of this length may come now.
    pub(super) fn takes(&self, length: usize) -> bool {
        !self.is_whole() && self.bytes() + length <= BLOCK
    }

    /// Where the next bytes go, at most `most` of them.
    pub(super) fn room(&mut self, most: usize) -> &mut [u8] {
        debug_assert!(matches!(self.tail, Tail::Filling), "what is moved leaves no room in memory");
        self.block.room(most)
    }

    /// Notes that the first `bytes` bytes of the last [`room`](Self::room) were filled.
    pub(super) fn arrived(&mut self, bytes: usize) {
        self.block.arrived(bytes);
    }

    /// Hashes the bytes of block `number` that have arrived.
    pub(super) fn hash(&mut self, number: u64) {
        self.block.hash_pieces(number);
        if self.block.filled() == BLOCK {
            self.tail = Tail::Whole;
        }
    }

    /// The chaining value of the whole block `number`, computed from the bytes that have arrived.
    pub(super) fn sum(&mut self, number: u64) -> Sum {
        debug_assert!(self.is_whole());
        self.block.sum(number)
    }

    /// Starts an assistant thread if this process may use at least `processors` processors.
    pub(super) fn hire(&mut self, processors: usize) {
        self.block.hire(processors);
    }

    /// The hash of the file, which ends with the bytes that have arrived.
    pub(super) fn end(&mut self, tree: &Tree) -> Hash {
        debug_assert!(matches!(self.tail, Tail::Filling), "what is moved cannot be hashed");
        self.block.end(tree)
    }

    /// The bytes that are in memory.
    pub(super) fn pieces(&self) -> Pieces<'_> {
        debug_assert!(!matches!(self.tail, Tail::Moved(_)) || self.block.filled() == 0);
        self.block.pieces()
    }

    /// Notes that the kernel has moved `bytes` more into the file. Returns whether a block is complete; then this
    /// starts anew for the next block.
    pub(super) fn moved(&mut self, bytes: usize) -> bool {
        debug_assert!(self.block.filled() == 0, "what is moved is not in memory");
        let bytes = self.bytes() + bytes;
        debug_assert!(bytes <= BLOCK);
        self.tail = if bytes == BLOCK { Tail::Filling } else { Tail::Moved(bytes) };
        bytes == BLOCK
    }

    /// An empty pipe, for the kernel to move bytes through.
    pub(super) fn take_pipe(&mut self) -> std::io::Result<Conduit> {
        self.pipe.take().map_or_else(|| Conduit::new(BLOCK), Ok)
    }

    /// Keeps the pipe for the next frame. The caller must have emptied it. A pipe that still holds bytes must be
    /// dropped instead.
    pub(super) fn keep_pipe(&mut self, pipe: Conduit) {
        self.pipe = Some(pipe);
    }

    /// Forgets what has arrived.
    pub(super) fn clear(&mut self) {
        self.block.clear();
        self.tail = Tail::Filling;
    }
}
