//! The sources of a capture's bytes: a buffered stream, or memory that holds all of them.

use super::ReadError;
use super::ahead::{Ahead, Block, Stopper};

/// A source of records that lends its bytes without copying them.
///
/// Only this crate implements it.
pub trait Source: sealed::Sealed {
    #[doc(hidden)]
    fn offset(&self) -> u64;
    /// The next `length` bytes, or as many as there are before the end.
    #[doc(hidden)]
    fn peek(&mut self, length: usize) -> Result<&[u8], ReadError>;
    /// Skips `length` bytes that a peek has shown.
    #[doc(hidden)]
    fn consume(&mut self, length: usize);
    /// The last `length` bytes before the current position, which an earlier peek has shown.
    #[doc(hidden)]
    fn behind(&self, length: usize) -> &[u8];
    /// The bytes in memory, and the current position in them.
    #[doc(hidden)]
    fn at_hand(&mut self) -> (&[u8], &mut usize);
    /// Skips bytes. Returns false if the capture ends before.
    #[doc(hidden)]
    fn skip(&mut self, length: u64) -> Result<bool, ReadError>;

    /// Returns the next `length` bytes without consuming them, or `None` if the capture ends before the first of them.
    #[doc(hidden)]
    #[inline]
    fn record(&mut self, length: usize) -> Result<Option<&[u8]>, ReadError> {
        let offset = self.offset();
        let bytes = self.peek(length)?;
        if bytes.len() == length {
            Ok(Some(bytes))
        } else if bytes.is_empty() {
            Ok(None)
        } else {
            Err(ReadError::CutOff { offset })
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::FileStream {}
    impl Sealed for super::Memory<'_> {}
}

/// A capture that is wholly in memory.
#[derive(Debug)]
pub struct Memory<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Memory<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl Source for Memory<'_> {
    fn offset(&self) -> u64 {
        self.at as u64
    }

    fn peek(&mut self, length: usize) -> Result<&[u8], ReadError> {
        let rest = &self.bytes[self.at..];
        Ok(&rest[..rest.len().min(length)])
    }

    fn consume(&mut self, length: usize) {
        self.at = self.bytes.len().min(self.at + length);
    }

    fn behind(&self, length: usize) -> &[u8] {
        &self.bytes[self.at - length..self.at]
    }

    fn at_hand(&mut self) -> (&[u8], &mut usize) {
        (self.bytes, &mut self.at)
    }

    fn skip(&mut self, length: u64) -> Result<bool, ReadError> {
        let rest = self.bytes.len() - self.at;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.at += rest.min(length);
        Ok(length <= rest)
    }
}

/// A capture that is read ahead in blocks.
///
/// Reading copies the bytes, which mapping the file would not. It is as fast all the same: two threads share the copying, and
/// headers are parsed while they are in a cache. If the file is truncated meanwhile, as by rotation, reading ends early; with
/// a mapping, SIGBUS would kill the process.
#[derive(Debug)]
pub struct FileStream {
    ahead: Ahead,
    block: Block,
    /// Bytes of the capture that the reading threads have delivered: the offset of `block.end`.
    come: u64,
    ended: bool,
}

impl FileStream {
    pub(super) fn stopper(&self) -> Stopper {
        self.ahead.stopper()
    }

    pub(super) fn new(ahead: Ahead) -> Self {
        Self { ahead, block: Block::empty(), come: 0, ended: false }
    }

    #[cold]
    fn fill(&mut self, length: usize) -> Result<(), ReadError> {
        while self.block.end - self.block.start < length && !self.ended {
            match self.ahead.next() {
                Some(Ok(next)) => self.append(next),
                Some(Err(source)) => {
                    self.ended = true;
                    return Err(ReadError::Io { offset: self.come, source });
                }
                None => self.ended = true,
            }
        }
        Ok(())
    }

    /// Copies the rest of this block into the space before the next one. A rest that is too large for that space is
    /// joined with the next block in a buffer.
    fn append(&mut self, mut next: Block) {
        let block = &mut self.block;
        self.come += (next.end - next.start) as u64;
        let rest = block.end - block.start;
        if rest <= next.start {
            let start = next.start - rest;
            next.bytes[start..next.start].copy_from_slice(&block.bytes[block.start..block.end]);
            next.start = start;
            std::mem::swap(block, &mut next);
        } else {
            block.bytes.truncate(block.end);
            block.bytes.drain(..block.start);
            block.bytes.extend_from_slice(&next.bytes[next.start..next.end]);
            block.start = 0;
            block.end = block.bytes.len();
        }
        self.ahead.give_back(next);
    }
}

impl Source for FileStream {
    #[inline]
    fn offset(&self) -> u64 {
        self.come - (self.block.end - self.block.start) as u64
    }

    #[inline]
    fn peek(&mut self, length: usize) -> Result<&[u8], ReadError> {
        if self.block.end - self.block.start < length {
            self.fill(length)?;
        }
        let Block { bytes, start, end, .. } = &self.block;
        Ok(&bytes[*start..*end.min(&(start + length))])
    }

    #[inline]
    fn consume(&mut self, length: usize) {
        self.block.start = self.block.end.min(self.block.start + length);
    }

    #[inline]
    fn behind(&self, length: usize) -> &[u8] {
        &self.block.bytes[self.block.start - length..self.block.start]
    }

    fn at_hand(&mut self) -> (&[u8], &mut usize) {
        (&self.block.bytes[..self.block.end], &mut self.block.start)
    }

    fn skip(&mut self, mut length: u64) -> Result<bool, ReadError> {
        loop {
            let here = ((self.block.end - self.block.start) as u64).min(length);
            self.block.start += here as usize;
            length -= here;
            if length == 0 {
                return Ok(true);
            }
            if self.peek(1)?.is_empty() {
                return Ok(false);
            }
        }
    }
}
