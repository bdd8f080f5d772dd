//! Asks whether a file is open.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `F_SETSIG` of fcntl(2), which the crate `libc` does not have.
const F_SETSIG: i32 = 10;

/// Whether a file, which is open for reading here, is open or mapped by way of another open file, in any process; `None` where
/// that cannot be told: the file is not this user's, or its file system has no leases.
pub(crate) fn is_open_elsewhere(file: BorrowedFd<'_>) -> Option<bool> {
    let fd = file.as_raw_fd();
    // If anyone opens the file while this process has the lease, the kernel sends it a signal: by default SIGIO, which would
    // end it. SIGCHLD does nothing.
    // SAFETY: sets which signal that is, for a live fd.
    if unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGCHLD) } < 0 {
        return None;
    }
    // SAFETY: asks for a lease on a live fd (fcntl(2)).
    if unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK) } < 0 {
        return (io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)).then_some(true);
    }
    // SAFETY: gives it back.
    unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
    Some(false)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_file_that_another_process_has_open_or_mapped_is_told_from_one_that_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("library.so");
        std::fs::copy("/bin/cat", &path).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(is_open_elsewhere(file.as_fd()), Some(false));
        let other = File::open(&path).unwrap();
        assert_eq!(is_open_elsewhere(file.as_fd()), Some(true));
        drop(other);
        // An executable is mapped, and no process has an fd of it.
        let mut runs = Command::new(&path).stdin(Stdio::piped()).spawn().unwrap();
        assert_eq!(is_open_elsewhere(file.as_fd()), Some(true));
        drop(runs.stdin.take());
        runs.wait().unwrap();
        assert_eq!(is_open_elsewhere(file.as_fd()), Some(false));
    }
}
