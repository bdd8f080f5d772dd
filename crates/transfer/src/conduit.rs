//! A pipe through which the kernel moves payload between files and the socket, without a copy in user space.
//!
//! Two splices instead of one sendfile(2): the one that may wait for the disk is then not made inside a call of the session,
//! which must not wait for disks (`driver/watch.rs`).

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

/// A pipe, empty between frames.
#[derive(Debug)]
pub(crate) struct Conduit {
    pub(crate) outlet: OwnedFd,
    pub(crate) inlet: OwnedFd,
}

impl Conduit {
    /// Makes a pipe that holds `bytes` at once, if the kernel allows that. A smaller pipe costs more calls.
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
        let (outlet, inlet) = pipe_with(PipeFlags::CLOEXEC)?;
        let _ = fcntl_setpipe_size(&inlet, bytes);
        Ok(Self { outlet, inlet })
    }

    /// Takes up to `length` bytes of a file. Returns how many: fewer at its end, or where the pipe is full.
    pub(crate) fn fill(&self, file: BorrowedFd<'_>, offset: u64, length: usize) -> io::Result<usize> {
        let (mut at, mut done) = (offset, 0);
        while done < length {
            // A pipe has a limited number of buffers and can be full before its size in bytes is used: do not block then.
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            match splice(file, Some(&mut at), &self.inlet, None, length - done, flags) {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if done > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    /// Puts `bytes` bytes, which are in the pipe, into a file at `offset`.
    pub(crate) fn empty(&self, file: BorrowedFd<'_>, offset: u64, bytes: usize) -> io::Result<()> {
        let (mut at, mut left) = (offset, bytes);
        while left > 0 {
            match splice(self.outlet.as_fd(), None, file, Some(&mut at), left, SpliceFlags::MOVE) {
                Ok(0) => return Err(Errno::NOSPC.into()),
                Ok(bytes) => left -= bytes,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
