//! A thread of the program, by a handle that cannot come to mean another.

use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;

use crate::kernel::{Listener, open_thread};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::holders;

/// A thread of the program.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) handle: OwnedFd,
    pub(super) process: u32,
}

impl Thread {
    /// Opens the handle of a thread, or of its process, while the question `id` waits; at `least` or above.
    pub(super) fn open(thread: u32, id: u64, listener: &Listener, least: RawFd) -> Option<Rc<Self>> {
        let process = holders::process_of(thread)?;
        // Before Linux 6.9 there are handles of processes only.
        let handle = open_thread(thread).or_else(|_| open_thread(process)).ok()?;
        let handle = rustix::io::fcntl_dupfd_cloexec(&handle, least).ok()?;
        // Still the same question: so the number was this thread's all the time.
        listener.waits(id).then(|| Rc::new(Self { handle, process }))
    }

    /// A descriptor of the program's, as one of this process's.
    pub(super) fn take(&self, number: RawFd) -> Option<OwnedFd> {
        self.get(number).ok()
    }

    /// As [`take`](Self::take), with the reason where there is none.
    pub(super) fn get(&self, number: RawFd) -> rustix::io::Result<OwnedFd> {
        if number < 0 {
            // The program's mistake, and its own to be told; rustix takes no such number.
            return Err(Errno::BADF);
        }
        pidfd_getfd(&self.handle, number, PidfdGetfdFlags::empty())
    }

    /// Whether the handle is the thread's own (`PIDFD_THREAD`, shown as `O_EXCL`).
    pub(super) fn is_exact(&self) -> bool {
        rustix::fs::fcntl_getfl(&self.handle).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::EXCL))
    }
}

/// Whether the thread, or the process, of a handle has ended.
pub(super) fn has_ended(handle: &OwnedFd) -> bool {
    let mut one = [PollFd::new(handle, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut one, Some(&at_once)).is_ok_and(|ready| ready > 0)
}
