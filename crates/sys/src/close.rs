//! Closes a descriptor, and reports the error of the close.

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};

/// Closes a descriptor, and returns the result of `close(2)`, which a drop would hide.
///
/// # Errors
/// Returns the errors of `close(2)`. On Linux the descriptor is gone in every case.
pub fn close(fd: OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor was owned, is given up here, and is used by nobody afterwards.
    if unsafe { libc::close(fd.into_raw_fd()) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
