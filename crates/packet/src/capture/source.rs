//! Where a capture's bytes come from: a stream with a buffer, or memory that holds them all.

use std::fmt;
use std::io::{self, Read};

use super::ReadError;

/// Fits the second-level cache with room to spare, so that what the kernel just copied there is looked at there.
/// A second thread that reads ahead, and mapping the file, were both measured to be no faster: the one pays for
/// moving each line between cores, the other for address translation.
const CAPACITY: usize = 128 << 10;

/// A place to read records from, without copying each.
///
/// Only this crate implements it.
pub trait Source: sealed::Sealed {
    #[doc(hidden)]
    fn offset(&self) -> u64;
    /// The next `length` bytes, or as many as there are before the end.
    #[doc(hidden)]
    fn peek(&mut self, length: usize) -> Result<&[u8], ReadError>;
    /// Steps over `length` bytes that a peek has shown.
    #[doc(hidden)]
    fn consume(&mut self, length: usize);
    /// `length` bytes that an earlier peek has shown, counted back from the place reached.
    #[doc(hidden)]
    fn behind(&self, length: usize) -> &[u8];
    /// Steps over bytes without keeping them; false where the capture ends before.
    #[doc(hidden)]
    fn skip(&mut self, length: u64) -> Result<bool, ReadError>;

    /// The next `length` bytes; `None` at a clean end.
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
    impl Sealed for super::Stream {}
    impl Sealed for super::Memory<'_> {}
}

/// A capture that is in memory as a whole.
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

    fn skip(&mut self, length: u64) -> Result<bool, ReadError> {
        let rest = self.bytes.len() - self.at;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.at += rest.min(length);
        Ok(length <= rest)
    }
}

/// A capture that is read as it comes.
pub struct Stream {
    input: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The stream's offset of `buffer[0]`.
    base: u64,
    ended: bool,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("offset", &self.offset()).finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) fn new(input: Box<dyn Read + Send>) -> Self {
        Self { input, buffer: vec![0; CAPACITY], start: 0, end: 0, base: 0, ended: false }
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
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    self.ended = true;
                    return Err(ReadError::Io { offset: self.base + self.end as u64, source });
                }
            }
        }
        Ok(())
    }
}

impl Source for Stream {
    #[inline]
    fn offset(&self) -> u64 {
        self.base + self.start as u64
    }

    #[inline]
    fn peek(&mut self, length: usize) -> Result<&[u8], ReadError> {
        if self.end - self.start < length {
            self.fill(length)?;
        }
        Ok(&self.buffer[self.start..self.end.min(self.start + length)])
    }

    #[inline]
    fn consume(&mut self, length: usize) {
        self.start = self.end.min(self.start + length);
    }

    #[inline]
    fn behind(&self, length: usize) -> &[u8] {
        &self.buffer[self.start - length..self.start]
    }

    fn skip(&mut self, mut length: u64) -> Result<bool, ReadError> {
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
}
