//! The calls that differ between Unix systems and Windows.

use std::io;

use crate::fd::BorrowedFd;

/// Receives what is there now.
///
/// # Errors
/// Returns `WouldBlock` if nothing is there; otherwise the errors of `recv`.
pub(super) fn receive_now(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = never_blocking::receive(socket)?;
    let (got, _) = rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *buffer, flags))?;
    Ok(got)
}

/// Sends what the socket takes now. Returns the number of bytes.
///
/// Never waits, even on a blocking socket. Where a write to a closed connection raises SIGPIPE, it does no harm: Rust
/// programs ignore that signal from their start.
///
/// # Errors
/// Returns `WouldBlock` if the socket takes nothing now; otherwise the errors of `send`.
pub fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = never_blocking::send(socket)?;
    Ok(rustix::io::retry_on_intr(|| rustix::net::send(socket, bytes, flags))?)
}

/// Bytes received and not read yet (`FIONREAD`).
///
/// # Errors
/// Returns the errors of `ioctl`.
pub fn unread(socket: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(socket)?)
}

#[cfg(not(windows))]
mod never_blocking {
    use super::*;
    use rustix::net::{RecvFlags, SendFlags};

    pub(super) fn receive(_: BorrowedFd<'_>) -> io::Result<RecvFlags> {
        Ok(RecvFlags::DONTWAIT)
    }

    pub(super) fn send(_: BorrowedFd<'_>) -> io::Result<SendFlags> {
        Ok(SendFlags::DONTWAIT)
    }
}

/// Winsock has no flag that makes a single call non-blocking. So the socket itself is made non-blocking, and stays so.
#[cfg(windows)]
mod never_blocking {
    use super::*;
    use rustix::net::{RecvFlags, SendFlags};

    pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<RecvFlags> {
        rustix::io::ioctl_fionbio(socket, true)?;
        Ok(RecvFlags::empty())
    }

    pub(super) fn send(socket: BorrowedFd<'_>) -> io::Result<SendFlags> {
        rustix::io::ioctl_fionbio(socket, true)?;
        Ok(SendFlags::empty())
    }
}

/// How many descriptors the process may have now (the soft `RLIMIT_NOFILE`); `None` for no limit, as on Windows.
pub fn descriptor_limit() -> Option<u64> {
    #[cfg(unix)]
    return rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    None
}

/// The number of a descriptor. The kernel gives the lowest that is free, so a high number says that many are taken; `None` on
/// Windows, where a socket has no such number.
pub fn descriptor_number(fd: BorrowedFd<'_>) -> Option<u64> {
    #[cfg(unix)]
    return u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&fd)).ok();
    #[cfg(not(unix))]
    {
        let _ = fd;
        None
    }
}
