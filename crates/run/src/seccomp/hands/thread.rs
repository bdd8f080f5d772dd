//! Threads of the program by pidfd: unlike a thread id, a pidfd is never reused for another thread.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::rc::Rc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::lent::Lent;
use crate::kernel::{is_same_file, open_thread};

/// Most threads in the cache.
const THREADS: usize = 1_024;

/// A thread of the program.
#[derive(Debug)]
pub(in crate::seccomp) struct Thread {
    handle: OwnedFd,
    pub(in crate::seccomp) process: u32,
    pub(in crate::seccomp) thread: u32,
    lent: Option<Lent>,
    /// Whether no other thread can have the id `thread` before `handle` reports an end. False if `handle` is a pidfd of the
    /// process and this is not the process's first thread.
    is_exact: bool,
}

impl Thread {
    /// Opens a pidfd of a thread, with an fd of `least` or above.
    fn open(thread: u32, process: u32, least: RawFd, lent: Option<Lent>) -> Option<Self> {
        // Before Linux 6.9 (`PIDFD_THREAD`) there are pidfds of processes only.
        let handle = open_thread(thread).or_else(|_| open_thread(process)).ok()?;
        let handle = rustix::io::fcntl_dupfd_cloexec(&handle, least).ok()?;
        let is_exact = process == thread || is_of_thread(&handle);
        Some(Self { handle, process, thread, lent, is_exact })
    }

    /// A copy of one of the program's fds.
    pub(in crate::seccomp) fn take(&self, fd: RawFd) -> rustix::io::Result<OwnedFd> {
        if fd < 0 {
            // The program passed a negative fd: the kernel returns EBADF to it. rustix does not accept negative fds.
            return Err(Errno::BADF);
        }
        if let Some(lent) = &self.lent {
            return lent.take(self.process, self.thread, fd);
        }
        pidfd_getfd(&self.handle, fd, PidfdGetfdFlags::empty())
    }

    /// Whether its fds can be had only if they were lent.
    pub(in crate::seccomp) fn is_lent_to(&self) -> bool {
        self.lent.is_some()
    }

    /// Whether the thread has ended; where the pidfd is of the process, whether the process has.
    pub(in crate::seccomp) fn has_ended(&self) -> bool {
        has_ended(&self.handle)
    }

    /// Whether `fd` is of another file than the calling thread's `copy`, if the thread has not ended since. False if it is not known.
    pub(in crate::seccomp) fn has_another(&self, own: u32, copy: &OwnedFd, fd: RawFd) -> bool {
        self.is_exact
            && self.lent.is_none()
            && is_same_file(own, copy.as_fd(), self.thread, fd) == Some(false)
    }
}

/// Whether a pidfd is of a thread (`PIDFD_THREAD`, which `fcntl` shows as `O_EXCL`).
fn is_of_thread(handle: &OwnedFd) -> bool {
    rustix::fs::fcntl_getfl(handle).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::EXCL))
}

/// Whether the thread or process of a pidfd has ended.
pub(super) fn has_ended(handle: &OwnedFd) -> bool {
    let mut one = [PollFd::new(handle, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut one, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

/// Cache of the threads that have made a notified call.
#[derive(Debug)]
pub(super) struct Threads {
    known: HashMap<u32, Rc<Thread>>,
    least: RawFd,
    lent: Option<Lent>,
}

impl Threads {
    pub(super) fn new(least: RawFd, lent: Option<Lent>) -> Self {
        Self { known: HashMap::new(), least, lent }
    }

    /// The thread from the cache, or opened anew. `None` if `still` says that the notified call is gone: the thread id may then
    /// belong to another thread.
    pub(super) fn of(
        &mut self,
        thread: u32,
        process_of: impl FnOnce(u32) -> Option<u32>,
        still: impl FnOnce() -> bool,
    ) -> Option<Rc<Thread>> {
        if let Some(known) = self.known.get(&thread) {
            // After its end its thread id may belong to another thread.
            if !known.has_ended() {
                return Some(Rc::clone(known));
            }
            self.known.remove(&thread);
        }
        let found = Rc::new(Thread::open(thread, process_of(thread)?, self.least, self.lent.clone())?);
        if !still() {
            return None;
        }
        if found.is_exact {
            if self.known.len() >= THREADS {
                self.forget_ended();
            }
            self.known.insert(thread, Rc::clone(&found));
        }
        Some(found)
    }

    /// The thread from the cache.
    pub(super) fn known(&self, thread: u32) -> Option<Rc<Thread>> {
        self.known.get(&thread).map(Rc::clone)
    }

    /// The first thread of a process. Its thread id stays the same through `execve`.
    pub(super) fn first_of(&self, process: u32, still: impl FnOnce() -> bool) -> Option<Rc<Thread>> {
        let first = Thread::open(process, process, self.least, self.lent.clone())?;
        still().then(|| Rc::new(first))
    }

    /// Whether a cached thread has ended.
    pub(super) fn has_ended(&self, thread: u32) -> bool {
        self.known.get(&thread).is_some_and(|thread| thread.has_ended())
    }

    fn forget_ended(&mut self) {
        self.known.retain(|_, thread| !thread.has_ended());
        if self.known.len() >= THREADS {
            self.known.clear();
        }
    }
}
