//! Payload that the kernel moves between a pipe and the socket (splice), without a copy in user space.

use std::os::fd::BorrowedFd;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use super::core::{Core, eof};
use crate::error::Error;
use crate::host;

impl Core {
    /// Sends the `length` bytes that are in a pipe, at most 1 MiB, as one DATA frame.
    ///
    /// # Errors
    /// Returns the errors of [`message`](Self::message).
    pub(super) fn data_of_pipe(
        &mut self,
        stream: u16,
        outlet: BorrowedFd<'_>,
        length: usize,
    ) -> Result<(), Error> {
        self.begin_data(stream, length)?;
        self.flush()?;
        while self.unfinished > 0 {
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            match splice(outlet, None, self.transport.socket(), None, self.unfinished, flags) {
                Ok(0) => return Err(Error::Cut(Errno::PIPE.into())),
                Ok(bytes) => {
                    self.continued(bytes);
                    self.sent += bytes as u64;
                    self.heard = host::now();
                }
                Err(Errno::AGAIN) => self.await_writable()?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::Cut(error.into())),
            }
        }
        Ok(())
    }

    /// Bytes of the announced data that were read from the socket already: they have to be taken before others.
    pub(super) fn read_already(&self) -> usize {
        (self.ahead.len() + self.filled - self.parsed).min(self.payload)
    }

    /// Moves announced data from the socket into an empty pipe, as much as has arrived. Returns the number of bytes.
    ///
    /// # Errors
    /// Returns the errors of [`receive`](Self::receive).
    pub(super) fn data_to_pipe(&mut self, inlet: BorrowedFd<'_>) -> Result<usize, Error> {
        debug_assert!(self.read_already() == 0, "they would be overtaken");
        while self.payload > 0 {
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK | SpliceFlags::MORE;
            match splice(self.transport.socket(), None, inlet, None, self.payload, flags) {
                Ok(0) => return Err(eof()),
                Ok(bytes) => {
                    self.received += bytes as u64;
                    // Whatever becomes of them, these bytes are not in the socket any more: the next frame begins where
                    // the rest of this one ends.
                    self.took(bytes)?;
                    return Ok(bytes);
                }
                Err(Errno::AGAIN) => drop(self.wait(PollFlags::IN, true)?),
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::Cut(error.into())),
            }
        }
        Ok(0)
    }
}
