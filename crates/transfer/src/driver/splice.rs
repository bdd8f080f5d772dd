//! Payload that the kernel moves between files and the socket (sendfile, splice), without a copy in user space.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::PollFlags;

use super::{Session, eof};
use crate::error::Error;

impl Session {
    /// Sends `length` bytes of a file from `offset`, at most 1 MiB, as one DATA frame, without copying them through this
    /// process (`sendfile(2)`). Returns how many bytes the file had: if it ends early, the rest of the frame is filled
    /// with zeros, because the frame's header has been sent already.
    ///
    /// # Errors
    /// Returns the errors of [`message`](Self::message) and of reading the file.
    pub fn data_from(
        &mut self,
        stream: u16,
        file: BorrowedFd<'_>,
        offset: u64,
        length: usize,
    ) -> Result<usize, Error> {
        self.begin_data(stream, length)?;
        self.flush()?;
        let mut offset = offset;
        while self.unfinished > 0 {
            match rustix::fs::sendfile(self.transport.socket(), file, Some(&mut offset), self.unfinished) {
                Ok(0) => {
                    let done = length - self.unfinished;
                    return self.pad_data().map(|()| done);
                }
                Ok(bytes) => {
                    self.continued(bytes);
                    self.sent += bytes as u64;
                    self.heard = Instant::now();
                }
                Err(rustix::io::Errno::AGAIN) => self.await_writable()?,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::Cut(error.into())),
            }
        }
        Ok(length)
    }

    /// Moves announced data from the socket into a file at `offset`, without copying it through this process
    /// (`splice(2)`). `pipe` is an empty pipe of the caller's. Returns the number of bytes, which are all that were
    /// announced.
    ///
    /// # Errors
    /// Returns the errors of [`receive`](Self::receive), and [`Error::Io`] if the bytes cannot be written to the file.
    pub fn data_into(
        &mut self,
        pipe: &(OwnedFd, OwnedFd),
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<usize, Error> {
        use rustix::pipe::{SpliceFlags, splice};
        let full = |error: rustix::io::Errno| Error::io("write", "the file", error);
        let length = self.payload;
        let mut offset = offset;
        // Bytes that were read together with the header are in our buffer, and written from there.
        let mut first = vec![0; (self.ahead.len() + self.filled - self.parsed).min(length)];
        self.read_data(&mut first)?;
        let mut rest = &first[..];
        while !rest.is_empty() {
            let bytes = rustix::io::pwrite(file, rest, offset).map_err(full)?;
            offset += bytes as u64;
            rest = &rest[bytes..];
        }
        let mut left = length - first.len();
        while left > 0 {
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK | SpliceFlags::MORE;
            let mut moved = match splice(self.transport.socket(), None, &pipe.1, None, left, flags) {
                Ok(0) => return Err(eof()),
                Ok(bytes) => bytes,
                Err(rustix::io::Errno::AGAIN) => {
                    self.wait(PollFlags::IN, true)?;
                    continue;
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(Error::Cut(error.into())),
            };
            self.received += moved as u64;
            left -= moved;
            while moved > 0 {
                match splice(&pipe.0, None, file, Some(&mut offset), moved, SpliceFlags::MOVE) {
                    Ok(0) => return Err(full(rustix::io::Errno::NOSPC)),
                    Ok(bytes) => moved -= bytes,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(full(error)),
                }
            }
        }
        self.took(length - first.len())?;
        Ok(length)
    }
}
