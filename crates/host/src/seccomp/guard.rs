//! Who answers once the supervisor has died: a process beside it, and the table of what was asked and not answered.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

use super::{Listener, Refused};

/// The questions that were received and not answered, in memory that the guard shares: the kernel gives each question
/// once, so whoever takes over has to know the names of those that its predecessor left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unanswered(&'static [AtomicU64]);

impl Unanswered {
    /// Names are given in order, so that only calls which wait for long, `accept` with `--hold`, meet in one place.
    const PLACES: usize = 4096;
    /// How far from its place a name may stand. One for which there is no place is not noted.
    const NEAR: usize = 16;

    /// Never unmapped: there is one for each program that is supervised.
    pub(super) fn new() -> Result<Self, Refused> {
        let (length, flags) = (Self::PLACES * size_of::<AtomicU64>(), MapFlags::SHARED);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe { mmap_anonymous(std::ptr::null_mut(), length, access, flags) }
            .map_err(|error| Refused::Means(error.into()))?;
        // SAFETY: zeroes, which are a valid value; page-aligned, as long as this, and never unmapped.
        Ok(Self(unsafe { std::slice::from_raw_parts(memory.cast(), Self::PLACES) }))
    }

    fn near(&self, id: u64) -> impl Iterator<Item = &'static AtomicU64> {
        let (places, first) = (self.0, id as usize);
        (0..Self::NEAR).map(move |step| &places[first.wrapping_add(step) % Self::PLACES])
    }

    pub(super) fn note(&self, id: u64) {
        let _ = self.near(id).find(|place| place.compare_exchange(0, id, Relaxed, Relaxed).is_ok());
    }

    pub(super) fn forget(&self, id: u64) {
        let _ = self.near(id).find(|place| place.compare_exchange(id, 0, Relaxed, Relaxed).is_ok());
    }

    fn take_all(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|place| place.swap(0, Relaxed)).filter(|id| *id != 0)
    }
}

impl Listener {
    /// Starts a process that takes over once `alive` hangs up: it lets every call happen, those
    /// first that wait for an answer already.
    ///
    /// Without it the calls of a program whose supervisor has died fail with `ENOSYS`, its exit among them. The
    /// process ends when the last user of the filter has ended. It blocks all signals, and does not count
    /// among the children that `wait` waits for (it is a `__WCLONE` child).
    ///
    /// # Errors
    /// Where no process can be made.
    pub fn guard(&self, alive: BorrowedFd<'_>) -> io::Result<()> {
        let nothing = 0usize;
        // SAFETY: a fork that sends no SIGCHLD. The child makes system calls only and never returns.
        match unsafe { libc::syscall(libc::SYS_clone, nothing, nothing, nothing, nothing, nothing) } {
            -1 => Err(io::Error::last_os_error()),
            0 => self.stand_in(alive.as_raw_fd()),
            _ => Ok(()),
        }
    }

    fn stand_in(&self, alive: RawFd) -> ! {
        let listener = self.fd.as_raw_fd();
        let (low, high) = (alive.min(listener) as u32, alive.max(listener) as u32);
        for (first, last) in [(0, low.wrapping_sub(1)), (low + 1, high - 1), (high + 1, u32::MAX)] {
            if first <= last {
                // SAFETY: nothing in this process uses any other descriptor; the write end of `alive` must go.
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
        for id in self.unanswered.take_all() {
            self.go_on(id);
        }
        while wait(listener, libc::POLLIN) & libc::POLLHUP == 0 {
            if let Ok(Some(question)) = self.next() {
                self.go_on(question.id);
            }
        }
        // SAFETY: ends this process without running the supervisor's exit handlers.
        unsafe { libc::_exit(0) }
    }
}
