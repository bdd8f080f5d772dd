//! Writing without waiting, and the limit of descriptors.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::SendFlags;
use rustix::process::{Resource, getrlimit};

/// Sends what the socket takes now. Returns the number of bytes.
///
/// Never waits, even on a blocking socket, and raises no SIGPIPE.
///
/// # Errors
/// Returns `WouldBlock` if the socket takes nothing now; otherwise the errors of `send(2)`.
pub fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| {
        rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
    })?)
}

/// The number of a descriptor. The kernel gives the lowest that is free, so a high number says that many are taken.
pub fn descriptor_number(fd: BorrowedFd<'_>) -> Option<u64> {
    u64::try_from(fd.as_raw_fd()).ok()
}

/// How many descriptors the process may have now (the soft `RLIMIT_NOFILE`); `None` for no limit.
pub fn descriptor_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}
