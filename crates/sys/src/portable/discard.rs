//! Discards the bytes that a socket has received, by way of a buffer.

use std::io;

use super::call::receive_now;
use crate::SCRATCH;
use crate::fd::BorrowedFd;

/// Discards received bytes, by way of a buffer that is kept for the next socket.
#[derive(Debug, Default)]
pub struct Discarder {
    scratch: Vec<u8>,
}

impl Discarder {
    /// Makes a discarder; it allocates nothing before a socket needs a buffer.
    pub const fn new() -> Self {
        Self { scratch: Vec::new() }
    }

    /// Discards at most `max` received bytes (0 counts as 1), and at most [`SCRATCH`]. Returns their number; 0 is the end of
    /// the stream.
    ///
    /// Never waits, even on a blocking socket.
    ///
    /// # Errors
    /// Returns `WouldBlock` if nothing has arrived; otherwise the errors of `recv`.
    pub fn discard(&mut self, socket: BorrowedFd<'_>, max: u64) -> io::Result<u64> {
        if self.scratch.is_empty() {
            self.scratch.resize(SCRATCH as usize, 0);
        }
        let max = max.clamp(1, SCRATCH) as usize;
        Ok(receive_now(socket, &mut self.scratch[..max])? as u64)
    }
}
