//! Connections with more than one name: by a copy, by a fork.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::rc::Rc;

use linger_host::seccomp::Question;

use super::holders::{self, Open};
use super::thread::Thread;
use super::watch::Watcher;

/// Sockets that may have more than one descriptor before those that are gone are looked for.
const SHARED: usize = 4_096;

impl Watcher {
    /// A number is about to get a second one beside it.
    pub(super) fn copying(&mut self, thread: &Rc<Thread>, number: RawFd) {
        if let Some(fd) = thread.take(number) {
            if let Some(cookie) = self.wanted.cookie(fd.as_fd()) {
                self.share(cookie, fd);
            } else if self.epolls.get(&thread.process).is_some_and(|epolls| !epolls.fds.is_empty()) {
                // Perhaps an epoll's.
                self.forget_epolls(thread);
            }
        }
    }

    /// A process is about to become two, or is new: each connection is both's.
    pub(super) fn forking(&mut self, question: &Question, thread: &Rc<Thread>, is_new: bool) {
        let known: HashSet<u64> = self.shared.values().copied().collect();
        let mut sockets = HashSet::new();
        for (number, open) in holders::open(question.thread) {
            let Open::Socket(inode) = open else { continue };
            sockets.insert(inode);
            if !known.contains(&inode)
                && let Some(fd) = thread.take(number)
                && let Some(cookie) = self.wanted.cookie(fd.as_fd())
            {
                self.share(cookie, fd);
            }
        }
        self.passing.forked(thread.process, &sockets, is_new);
    }

    pub(super) fn share(&mut self, cookie: u64, fd: OwnedFd) {
        if self.shared.len() >= SHARED && self.shared.len().is_power_of_two() {
            let open = holders::every_socket();
            let passing = &self.passing;
            self.shared.retain(|cookie, inode| open.contains(inode) || passing.is_under_way(*cookie));
            self.passing.retain(&self.shared);
        }
        if let Ok(status) = rustix::fs::fstat(&fd) {
            self.shared.insert(cookie, status.st_ino);
        }
    }

    /// A process of the program that has the socket.
    pub(super) fn holder(&self, socket: impl AsFd) -> Option<u32> {
        let inode = rustix::fs::fstat(socket).ok()?.st_ino;
        holders::processes()
            .into_iter()
            .find(|process| holders::open(*process).any(|(_, open)| open == Open::Socket(inode)))
    }

    /// Whether nobody has the socket but by numbers that are being closed.
    pub(super) fn is_last(&self, cookie: u64, socket: impl AsFd, process: u32, number: RawFd) -> bool {
        let Ok(status) = rustix::fs::fstat(socket) else { return false };
        holders::processes().into_iter().all(|holder| {
            holders::open(holder).filter(|(_, open)| *open == Open::Socket(status.st_ino)).all(
                |(place, _)| {
                    let closing = self.pending.iter().any(|pending| {
                        pending.cookie == cookie
                            && pending.number == place
                            && pending.thread.process == holder
                    });
                    closing || (holder == process && place == number)
                },
            )
        })
    }
}
