//! For tests: a child made by `fork` alone, as the workers of a server are, and an option that nobody else reads.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// Far longer than such a child takes. A child that reaches it hangs.
const LONG: Duration = Duration::from_secs(60);

/// The `SO_RCVLOWAT` of a socket.
///
/// Whether the option holds wake-ups back cannot be tested with `poll`: while memory is scarce in the control group or on the
/// machine, the kernel reports every byte (`tcp_epollin_ready`, `tcp_under_memory_pressure`).
///
/// # Errors
/// Returns the errors of `getsockopt(2)`.
pub fn receive_low_water(socket: BorrowedFd<'_>) -> std::io::Result<i32> {
    let (mut bytes, mut length) = (0_i32, size_of::<i32>() as libc::socklen_t);
    let (value, length) = (&raw mut bytes, &raw mut length);
    // SAFETY: both pointers are to variables of this function, and the length is that of the value.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value.cast(), length)
    };
    if result == 0 { Ok(bytes) } else { Err(std::io::Error::last_os_error()) }
}

/// Runs `body` in a forked child, without `exec` in between, and returns what `body` returned.
///
/// In the child only the caller's thread exists, and locks that other threads held stay locked. When the child ends, nothing
/// is dropped but what `body` drops, and no exit handler runs.
///
/// # Errors
/// Returns the message of the child's panic, or a text that says by which signal the child was killed; a child that
/// hangs is killed from here.
///
/// # Panics
/// Panics if no child can be made or waited for.
pub fn forked(body: impl FnOnce() -> String) -> Result<String, String> {
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    // SAFETY: the child goes on with its copy of the memory, as the workers of every prefork server do. The C library
    // makes its allocator usable in the child of a process with threads.
    match unsafe { libc::fork() } {
        -1 => panic!("no child: {}", std::io::Error::last_os_error()),
        0 => child(body, write),
        pid => {
            drop(write);
            let child = Pid::from_raw(pid).expect("a process id is positive");
            let said = read_all(read);
            if said.is_none() {
                // Not reaped yet, so the id is still this child's.
                let _ = kill_process(child, Signal::KILL);
            }
            let status = waitpid(Some(child), WaitOptions::empty()).expect("a child").expect("has ended").1;
            match (said, status.exit_status()) {
                (Some(said), Some(0)) => Ok(said),
                (Some(said), Some(_)) => Err(said),
                (Some(said), None) => {
                    Err(format!("killed by signal {:?}: {said}", status.terminating_signal()))
                }
                (None, _) => Err(format!("it hung for {LONG:?}")),
            }
        }
    }
}

fn child(body: impl FnOnce() -> String, write: OwnedFd) -> ! {
    let result = catch_unwind(AssertUnwindSafe(body));
    let (text, status) = match &result {
        Ok(said) => (said.as_str(), 0),
        Err(panic) => (message(&**panic), 101),
    };
    let mut rest = text.as_bytes();
    while let Ok(written @ 1..) = rustix::io::write(&write, rest) {
        rest = &rest[written..];
    }
    // SAFETY: ends this process, which nothing outlives; the handlers of `exit` are the parent's business.
    unsafe { libc::_exit(status) }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without words")
}

/// Reads until the other end is closed. Returns `None` if that takes too long.
fn read_all(from: OwnedFd) -> Option<String> {
    let end = Instant::now() + LONG;
    let mut bytes = Vec::new();
    loop {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).ok()?;
        if poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&left)).ok()? == 0 {
            return None;
        }
        let mut part = [0; 4096];
        match rustix::io::read(&from, &mut part).ok()? {
            0 => return Some(String::from_utf8_lossy(&bytes).into_owned()),
            got => bytes.extend_from_slice(&part[..got]),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_child_says_what_it_came_to() {
        assert_eq!(forked(|| "fine".to_owned()).as_deref(), Ok("fine"));
        assert_eq!(forked(|| panic!("on purpose")).unwrap_err(), "on purpose");
        assert_eq!(forked(|| panic!("{} on purpose", 2)).unwrap_err(), "2 on purpose");
        let killed = forked(|| {
            let _ = kill_process(rustix::process::getpid(), Signal::KILL);
            unreachable!("killed")
        });
        assert!(killed.unwrap_err().contains("signal"));
    }
}
