//! Discards the bytes that a socket has received.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::SCRATCH;

/// The most bytes one call discards; `recv` takes a signed length.
const MOST: u64 = i32::MAX as u64;

/// Discards received bytes, without copying them if the kernel can do that.
///
/// On TCP `recv(fd, NULL, n, MSG_TRUNC)` moves the read position and copies nothing (`tcp(7)`). AF_UNIX and kernel
/// TLS answer `EFAULT` to the missing buffer and leave the data queued. The call is then repeated with a buffer,
/// which is kept for the next socket.
#[derive(Debug, Default)]
pub struct Discarder {
    scratch: Vec<u8>,
}

impl Discarder {
    /// Makes a discarder; it allocates nothing before a socket needs a buffer.
    pub const fn new() -> Self {
        Self { scratch: Vec::new() }
    }

    /// Discards at most `max` received bytes. Returns their number; 0 is the end of the stream. A `max` of 0 counts as 1: a
    /// `recv` of no bytes returns 0 in any case.
    ///
    /// Never waits, even on a blocking socket. Repeats the call after `EINTR`.
    ///
    /// # Errors
    /// Returns `WouldBlock` if nothing has arrived; otherwise the errors of `recv(2)`. A pending socket error
    /// (`ECONNRESET`, `EPIPE`, `ETIMEDOUT`) is among them, and the call consumes it.
    pub fn discard(&mut self, socket: BorrowedFd<'_>, max: u64) -> io::Result<u64> {
        let max = max.clamp(1, MOST) as usize;
        // SAFETY: with MSG_TRUNC the kernel treats the null buffer as "discard"; if it does not
        // know that, it finds the address unmapped and answers EFAULT. No memory of ours is written.
        match retry(|| unsafe {
            libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), max, libc::MSG_TRUNC | libc::MSG_DONTWAIT)
        }) {
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => self.copy_away(socket, max),
            other => other,
        }
    }

    fn copy_away(&mut self, socket: BorrowedFd<'_>, max: usize) -> io::Result<u64> {
        if self.scratch.is_empty() {
            self.scratch.resize(SCRATCH as usize, 0);
        }
        let max = max.min(self.scratch.len());
        let buffer = &mut self.scratch[..max];
        // SAFETY: the pointer and the length are those of a live, exclusively borrowed slice.
        retry(|| unsafe {
            libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
        })
    }
}

/// Repeats a call that a signal interrupted and turns its result into Rust's.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<u64> {
    loop {
        let got = call();
        if got >= 0 {
            return Ok(got as u64);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn drains_exactly(mut from: impl Write, to: impl AsFd) {
        let mut discarder = Discarder::new();
        assert_eq!(discarder.discard(to.as_fd(), 10).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        from.write_all(b"0123456789").unwrap();
        assert_eq!(discarder.discard(to.as_fd(), 4).unwrap(), 4);
        assert_eq!(discarder.discard(to.as_fd(), u64::MAX).unwrap(), 6);
        drop(from);
        assert_eq!(discarder.discard(to.as_fd(), 1).unwrap(), 0);
    }

    #[test]
    fn unix_sockets_fall_back_to_a_buffer() {
        let (a, b) = UnixStream::pair().unwrap();
        drains_exactly(a, b);
    }

    #[test]
    fn tcp_discards_without_a_buffer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut from = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (to, _) = listener.accept().unwrap();
        let mut discarder = Discarder::new();
        from.write_all(b"0123456789").unwrap();
        from.shutdown(std::net::Shutdown::Write).unwrap();
        // The end of the stream has arrived once poll reports it; nothing is awaited by time.
        let mut total = 0;
        loop {
            let mut ready = [rustix::event::PollFd::new(&to, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut ready, None).unwrap();
            match discarder.discard(to.as_fd(), 3).unwrap() {
                0 => break,
                n => total += n,
            }
        }
        assert_eq!(total, 10);
        assert!(discarder.scratch.is_empty());
    }
}
