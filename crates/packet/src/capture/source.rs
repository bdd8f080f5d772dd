//! A buffer over a stream, from which records are borrowed.

use std::fmt;
use std::io::Read;

use super::ReadError;

/// Fits the second-level cache, so that what was just copied there is parsed there.
const CAPACITY: usize = 256 << 10;

pub(super) struct Source {
    input: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The stream's offset of `buffer[0]`.
    base: u64,
    ended: bool,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("offset", &self.offset()).finish_non_exhaustive()
    }
}

impl Source {
    pub(super) fn new(input: Box<dyn Read + Send>) -> Self {
        Self { input, buffer: vec![0; CAPACITY], start: 0, end: 0, base: 0, ended: false }
    }

    #[inline]
    pub(super) fn offset(&self) -> u64 {
        self.base + self.start as u64
    }

    /// The next `length` bytes, or as many as there are before the end.
    #[inline]
    pub(super) fn peek(&mut self, length: usize) -> Result<&[u8], ReadError> {
        if self.end - self.start < length {
            self.fill(length)?;
        }
        Ok(&self.buffer[self.start..self.end.min(self.start + length)])
    }

    /// The next `length` bytes; `None` at a clean end.
    #[inline]
    pub(super) fn record(&mut self, length: usize) -> Result<Option<&[u8]>, ReadError> {
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

    /// Steps over `length` bytes that a peek has shown.
    #[inline]
    pub(super) fn consume(&mut self, length: usize) {
        self.start = self.end.min(self.start + length);
    }

    /// Steps over bytes without keeping them; false where the stream ends before.
    pub(super) fn skip(&mut self, mut length: u64) -> Result<bool, ReadError> {
        loop {
            let here = ((self.end - self.start) as u64).min(length);
            self.start += here as usize;
            length -= here;
            if length == 0 {
                return Ok(true);
            }
            if self.peek(1)?.is_empty() {
                return Ok(false);
            }
        }
    }

    /// `length` bytes that an earlier peek has shown, counted back from the place reached.
    #[inline]
    pub(super) fn behind(&self, length: usize) -> &[u8] {
        &self.buffer[self.start - length..self.start]
    }

    #[cold]
    fn fill(&mut self, length: usize) -> Result<(), ReadError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.base += self.start as u64;
        self.end -= self.start;
        self.start = 0;
        if length > self.buffer.len() {
            self.buffer.resize(length, 0);
        }
        while self.end < length && !self.ended {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => {
                    self.ended = true;
                    return Err(ReadError::Io { offset: self.base + self.end as u64, source });
                }
            }
        }
        Ok(())
    }
}
