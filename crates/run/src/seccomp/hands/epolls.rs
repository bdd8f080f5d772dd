//! Copies of the program's epolls, to remove connections from them that the program has closed and the supervisor keeps.

use std::collections::HashMap;
use std::os::fd::{OwnedFd, RawFd};

use super::thread::Thread;

/// The epolls of a process.
#[derive(Debug, Default)]
struct Epolls {
    /// Copies of the epolls, by the program's fd.
    fds: Vec<(RawFd, OwnedFd)>,
    /// Whether `fds` holds all epolls of the process.
    complete: bool,
}

/// The epoll instances of all processes, by process.
#[derive(Debug)]
pub(super) struct AllEpolls {
    of: HashMap<u32, Epolls>,
    /// The lowest fd of a copy. Those below stay free for copies of connections at the program's own numbers.
    least: RawFd,
}

impl AllEpolls {
    pub(super) fn new(least: RawFd) -> Self {
        Self { of: HashMap::new(), least }
    }

    /// Notes that the process has made or copied an epoll, or closed several fds: its list must be read again.
    pub(super) fn changed(&mut self, process: u32) {
        if let Some(epolls) = self.of.get_mut(&process) {
            epolls.complete = false;
        }
    }

    /// Notes that the process is about to close an fd, which may be an epoll.
    pub(super) fn closing(&mut self, process: u32, fd: RawFd) {
        if let Some(epolls) = self.of.get_mut(&process)
            && epolls.fds.iter().any(|(epoll, _)| *epoll == fd)
        {
            epolls.fds.retain(|(epoll, _)| *epoll != fd);
            epolls.complete = false;
        }
    }

    /// Forgets a process that has ended or has called `execve`.
    pub(super) fn forget(&mut self, process: u32) {
        self.of.remove(&process);
    }

    /// Whether the process may have an epoll.
    pub(super) fn any(&self, process: u32) -> bool {
        self.of.get(&process).is_some_and(|epolls| !epolls.fds.is_empty())
    }

    /// The epolls of a thread's process. `list` is called if they may have changed.
    pub(super) fn of(
        &mut self,
        thread: &Thread,
        list: impl FnOnce() -> Vec<RawFd>,
    ) -> Option<impl Iterator<Item = &OwnedFd>> {
        let epolls = self.of.entry(thread.process).or_default();
        if !epolls.complete {
            epolls.fds.clear();
            for fd in list() {
                match thread.take(fd) {
                    Ok(epoll) => {
                        epolls.fds.push((fd, rustix::io::fcntl_dupfd_cloexec(&epoll, self.least).ok()?));
                    }
                    // An epoll that was not lent may have the connection, and cannot be changed.
                    Err(_) if thread.is_lent_to() => return None,
                    Err(_) => {}
                }
            }
            epolls.complete = true;
        }
        Some(epolls.fds.iter().map(|(_, epoll)| epoll))
    }
}
