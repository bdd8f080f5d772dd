//! The program's epolls, which must not report a connection that the program has closed and this process has not.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use super::holders::{self, Open};
use super::thread::Thread;
use super::watch::Watcher;

/// The epolls of a process.
#[derive(Debug, Default)]
pub(super) struct Epolls {
    /// By the program's numbers.
    pub(super) fds: Vec<(RawFd, OwnedFd)>,
    /// There are no others.
    complete: bool,
}

impl Watcher {
    pub(super) fn forget_epolls(&mut self, thread: &Thread) {
        if let Some(epolls) = self.epolls.get_mut(&thread.process) {
            epolls.complete = false;
        }
    }

    pub(super) fn forget_epoll(&mut self, thread: &Thread, number: RawFd) {
        if let Some(epolls) = self.epolls.get_mut(&thread.process)
            && epolls.fds.iter().any(|(epoll, _)| *epoll == number)
        {
            epolls.fds.retain(|(epoll, _)| *epoll != number);
            epolls.complete = false;
        }
    }

    /// Removes a connection from the program's epolls, as the close of its last descriptor would, were it not
    /// held here as well: it would go on to be reported to a program that has forgotten it.
    ///
    /// Before the call, since the program's next may be the wait. `None` where that is not possible.
    pub(super) fn unwatch(
        &mut self,
        thread: &Rc<Thread>,
        lister: u32,
        number: RawFd,
        fd: OwnedFd,
    ) -> Option<OwnedFd> {
        let least = self.least;
        let epolls = self.epolls.entry(thread.process).or_default();
        if !epolls.complete {
            epolls.fds.clear();
            for (number, open) in holders::open(lister) {
                if open == Open::Epoll
                    && let Some(fd) = thread.take(number)
                {
                    epolls.fds.push((number, rustix::io::fcntl_dupfd_cloexec(fd, least).ok()?));
                }
            }
            epolls.complete = true;
        }
        if epolls.fds.is_empty() {
            return Some(fd);
        }
        if number >= least {
            return None;
        }
        let at_number = if fd.as_raw_fd() == number {
            None
        } else {
            if let Some(other) =
                self.pending.values_mut().flatten().find(|pending| pending.fd.as_raw_fd() == number)
            {
                other.fd = rustix::io::fcntl_dupfd_cloexec(&other.fd, least).ok()?;
            }
            Some(rustix::io::fcntl_dupfd_cloexec(&fd, number).ok()?)
        };
        let named = at_number.as_ref().unwrap_or(&fd);
        for (_, epoll) in &epolls.fds {
            // It may not be there: programs remove what they close, too.
            let _ = rustix::event::epoll::delete(epoll, named);
        }
        Some(fd)
    }
}
