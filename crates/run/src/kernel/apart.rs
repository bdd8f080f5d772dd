//! Starts a thread with an fd table of its own.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rustix::process::Resource;

/// The lowest fd of a thread started by [`apart`]: three quarters of the limit, at most 2^18. All numbers below are
/// free in its table, for copies at the numbers that the program uses.
pub(crate) fn least_of_own() -> RawFd {
    let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    (limit / 4 * 3).min(1 << 18) as RawFd
}

/// Starts a thread with an fd table of its own that contains only `fds`, from [`least_of_own`] on.
///
/// Fds of other threads are not valid there and must not be moved into or dropped in it. The thread has no standard
/// streams: its output goes nowhere.
///
/// # Errors
/// The thread cannot be started, or `close_range(2)` fails (before Linux 5.9).
pub(crate) fn apart<R: Send + 'static>(
    name: &str,
    fds: Vec<OwnedFd>,
    task: impl FnOnce(Vec<OwnedFd>) -> R + Send + 'static,
) -> io::Result<JoinHandle<Option<R>>> {
    let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let (tell, told) = mpsc::channel();
    let body = move || {
        let mine = own_table(&numbers);
        let (mine, result) = match mine {
            Ok(mine) => (Some(mine), Ok(())),
            Err(error) => (None, Err(error)),
        };
        let _ = tell.send(result);
        mine.map(task)
    };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(body)?;
    // The originals are closed here, after the thread has its copies.
    let done = told.recv().unwrap_or_else(|_| Err(io::Error::other("the thread has ended")));
    drop(fds);
    done.map(|()| thread)
}

fn own_table(numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    // Closes nothing: this only gives the thread its own table. `unshare(2)` would do, too, but the profiles of
    // containers permit it with CAP_SYS_ADMIN only.
    // SAFETY: until now this thread has only fd numbers and memory; no fd of the shared table is used or dropped here
    // afterwards, and the threads that share it are not affected.
    if unsafe { libc::close_range(u32::MAX, u32::MAX, libc::CLOSE_RANGE_UNSHARE as i32) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let least = least_of_own();
    let mut mine = Vec::new();
    for number in numbers {
        // SAFETY: open in the copied table, which the caller of `apart` guarantees by owning them meanwhile.
        let fd = unsafe { BorrowedFd::borrow_raw(*number) };
        mine.push(rustix::io::fcntl_dupfd_cloexec(fd, least)?);
    }
    // SAFETY: closes the copies of everybody else's fds, in this thread's table alone.
    let result = unsafe { libc::close_range(0, least as u32 - 1, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let own: Vec<RawFd> = mine.iter().map(AsRawFd::as_raw_fd).collect();
    let end = own.iter().max().map_or(least, |highest| highest + 1);
    for number in (least..end).filter(|number| !own.contains(number)) {
        // SAFETY: as above.
        unsafe { libc::close(number) };
    }
    // SAFETY: as above.
    unsafe { libc::close_range(end as u32, u32::MAX, 0) };
    Ok(mine)
}
