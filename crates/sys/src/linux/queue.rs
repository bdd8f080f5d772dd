//! The two queues of a socket, in bytes.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes written that the peer has not acknowledged (`SIOCOUTQ`).
///
/// On TCP this is `write_seq - snd_una` (`tcp_ioctl`): bytes, **and a FIN that was sent counts as one**, so
/// that 0 after a half-close means that the peer has everything, the FIN included. If a reset ends the connection, the number
/// stays as it was before. On AF_UNIX the number is the memory that the kernel uses for bytes that the peer has not read: more
/// than the bytes, and 0 exactly if there are none.
///
/// # Errors
/// Returns `EINVAL` on a listening socket, and `ENOTTY` if the protocol has no such queue.
pub fn send_queue(socket: BorrowedFd<'_>) -> io::Result<u64> {
    ask(socket, libc::TIOCOUTQ)
}

/// Bytes received and not read yet (`SIOCINQ`).
///
/// # Errors
/// Returns `EINVAL` on a listening socket, and `ENOTTY` if the protocol has no such queue.
pub fn unread(socket: BorrowedFd<'_>) -> io::Result<u64> {
    ask(socket, libc::FIONREAD)
}

/// Sets how many received bytes make a socket readable (`SO_RCVLOWAT`).
///
/// On TCP this holds for `poll` and `epoll`, too. The end of the stream, and a window that is about to close, make the socket
/// readable with fewer bytes. The kernel caps the number at half of `tcp_rmem[2]`, and enlarges the receive buffer to hold it; if
/// `SO_RCVBUF` was set, it caps the number at half of that buffer (`tcp_set_rcvlowat`).
///
/// # Errors
/// Returns the errors of `setsockopt(2)`.
pub fn set_receive_low_water(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let value = c_int::try_from(bytes).unwrap_or(c_int::MAX);
    // SAFETY: the kernel reads one int from a live place of that size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn ask(socket: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<u64> {
    let mut answer: c_int = 0;
    // SAFETY: both requests write one int through the pointer, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut answer) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(u64::try_from(answer).unwrap_or(0)) }
}
