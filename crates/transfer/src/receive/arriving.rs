//! What has arrived of the current file since its last block was stored.

use std::os::fd::OwnedFd;

use super::block::Block;
use crate::hash::{BLOCK, Hash, Pieces, Sum, Tree};

/// Less than a block, or one whose value is awaited; and where it is.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    state: State,
    /// Its memory and its assistant are used again for the next block.
    block: Block,
    /// What the kernel moves bytes through; empty between frames.
    pipe: Option<(OwnedFd, OwnedFd)>,
}

#[derive(Debug, Default)]
enum State {
    /// In memory: less than a block, perhaps nothing.
    #[default]
    Filling,
    /// In memory: a whole block, and its chaining value comes next.
    Whole,
    /// In the file already, where the kernel put so many bytes; less than a block.
    Moved(usize),
}

impl Arriving {
    /// How many bytes have arrived.
    pub(super) fn bytes(&self) -> usize {
        match self.state {
            State::Filling | State::Whole => self.block.filled(),
            State::Moved(bytes) => bytes,
        }
    }

    /// Whether a block's chaining value has to come next.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.state, State::Whole)
    }

    /// Whether data of this length may come now.
    pub(super) fn takes(&self, length: usize) -> bool {
        !self.is_whole() && self.bytes() + length <= BLOCK
    }

    /// Where the next bytes go, at most `most` of them.
    pub(super) fn room(&mut self, most: usize) -> &mut [u8] {
        debug_assert!(matches!(self.state, State::Filling), "what is moved leaves no room in memory");
        self.block.room(most)
    }

    /// So many bytes are where there was room.
    pub(super) fn arrived(&mut self, bytes: usize) {
        self.block.arrived(bytes);
    }

    /// Hashes what has arrived of block `number`. Once it is whole its value is due.
    pub(super) fn hash(&mut self, number: u64) {
        self.block.hash_pieces(number);
        if self.block.filled() == BLOCK {
            self.state = State::Whole;
        }
    }

    /// What the whole block `number` contributes to the hash of its file.
    pub(super) fn sum(&mut self, number: u64) -> Sum {
        debug_assert!(self.is_whole());
        self.block.sum(number)
    }

    /// Asks for an assistant if this program has `processors` or more.
    pub(super) fn hire(&mut self, processors: usize) {
        self.block.hire(processors);
    }

    /// The hash of the file that ends here.
    pub(super) fn end(&mut self, tree: &Tree) -> Hash {
        debug_assert!(matches!(self.state, State::Filling), "what is moved cannot be hashed");
        self.block.end(tree)
    }

    /// The bytes that are in memory.
    pub(super) fn pieces(&self) -> Pieces<'_> {
        debug_assert!(!matches!(self.state, State::Moved(_)) || self.block.filled() == 0);
        self.block.pieces()
    }

    /// The kernel has put `bytes` more into the file; true if that makes a block, after which nothing has arrived of
    /// the next.
    pub(super) fn moved(&mut self, bytes: usize) -> bool {
        debug_assert!(self.block.filled() == 0, "what is moved is not in memory");
        let bytes = self.bytes() + bytes;
        debug_assert!(bytes <= BLOCK);
        self.state = if bytes == BLOCK { State::Filling } else { State::Moved(bytes) };
        bytes == BLOCK
    }

    /// What the kernel moves bytes through, made on first use.
    pub(super) fn pipe(&mut self) -> rustix::io::Result<&(OwnedFd, OwnedFd)> {
        let pipe = match self.pipe.take() {
            Some(pipe) => pipe,
            None => {
                let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
                // The default of 64 KiB works too, with more calls.
                let _ = rustix::pipe::fcntl_setpipe_size(&pipe.1, BLOCK);
                pipe
            }
        };
        Ok(self.pipe.insert(pipe))
    }

    /// Forgets the pipe with what is left in it.
    pub(super) fn drop_pipe(&mut self) {
        self.pipe = None;
    }

    /// Nothing has arrived.
    pub(super) fn clear(&mut self) {
        self.block.clear();
        self.state = State::Filling;
    }
}
