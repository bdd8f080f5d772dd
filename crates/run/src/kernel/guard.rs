//! The guard: a process that answers notifications once the supervisor has died.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::listener::Listener;

impl Listener {
    /// Starts a process that takes over once the pipe `alive` hangs up. It continues every call, first those that already
    /// wait for an answer.
    ///
    /// Without it, all notified calls of the program would fail with `ENOSYS` after the supervisor's death, even its exit.
    /// The guard ends when the last process with the filter has ended. It blocks all signals, and `wait` does not report it
    /// (it is a `__WCLONE` child).
    ///
    /// # Errors
    /// No process can be made.
    pub(crate) fn guard(&self, alive: BorrowedFd<'_>) -> io::Result<()> {
        let nothing = 0usize;
        // SAFETY: a fork that sends no SIGCHLD. The child makes system calls only and never returns.
        match unsafe { libc::syscall(libc::SYS_clone, nothing, nothing, nothing, nothing, nothing) } {
            -1 => Err(io::Error::last_os_error()),
            0 => self.stand_in(alive.as_raw_fd()),
            _ => Ok(()),
        }
    }

    fn stand_in(&self, alive: RawFd) -> ! {
        let listener = self.as_fd().as_raw_fd();
        let (low, high) = (alive.min(listener) as u32, alive.max(listener) as u32);
        for (first, last) in [(0, low.wrapping_sub(1)), (low + 1, high - 1), (high + 1, u32::MAX)] {
            if first <= last {
                // SAFETY: nothing in this process uses any other fd; the write end of `alive` must go.
                unsafe { libc::close_range(first, last, 0) };
            }
        }
        // SAFETY: an empty set of signals is a valid value, which is filled next.
        let mut all: libc::sigset_t = unsafe { zeroed() };
        // SAFETY: fills a live set.
        unsafe { libc::sigfillset(&raw mut all) };
        // SAFETY: reads a live set; null is "do not tell the old one".
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) };
        // SAFETY: reads a string that ends in a zero.
        unsafe { libc::prctl(libc::PR_SET_NAME, c"linger-guard".as_ptr()) };
        let wait = |fd, events| {
            let mut one = libc::pollfd { fd, events, revents: 0 };
            // SAFETY: one live pollfd.
            unsafe { libc::poll(&raw mut one, 1, -1) };
            one.revents
        };
        while wait(alive, 0) & libc::POLLHUP == 0 {}
        self.go_on_with_all();
        while wait(listener, libc::POLLIN) & libc::POLLHUP == 0 {
            if let Ok(Some(notification)) = self.next() {
                self.go_on(notification.id);
            }
        }
        // SAFETY: ends this process without running the supervisor's exit handlers.
        unsafe { libc::_exit(0) }
    }
}
