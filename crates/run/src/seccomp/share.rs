//! Connections with more than one name: by a copy, by a fork.
//!
//! Who has one is known by looking at all descriptors of the program, which takes time in proportion to them. So what a look
//! finds is remembered: a name that still is the connection's shows that it is held without another look, and what has
//! one name left is shared no more.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::rc::Rc;

use crate::kernel::Question;

use super::holders::{self, Everything, Open};
use super::thread::{Thread, has_ended};
use super::watch::Watcher;

/// Sockets that may have more than one descriptor before those that are gone are looked for.
const SHARED: usize = 4_096;

/// Names that are remembered of one connection.
const NAMES: usize = 16;

/// The calls that copy descriptors, but for messages: those are `pass.rs`'s.
const COPYING: &[i64] = &[
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_clone,
    libc::SYS_clone3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

/// A connection that may have several descriptors.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) inode: u64,
    /// Processes and numbers that had it when they were last seen.
    names: Vec<(u32, RawFd)>,
}

impl Shared {
    fn note(&mut self, name: (u32, RawFd)) {
        if self.names.len() < NAMES && !self.names.contains(&name) {
            self.names.push(name);
        }
    }
}

impl Watcher {
    /// A number is about to get a second one beside it.
    pub(super) fn copying(&mut self, question: &Question, thread: &Rc<Thread>, number: RawFd) {
        let Some(fd) = thread.take(number) else { return };
        if let Some(cookie) = self.wanted.cookie(fd.as_fd()) {
            self.copiers.insert(question.thread, Rc::clone(thread));
            self.share(cookie, &fd, (thread.process, number));
        } else if self.epolls.get(&thread.process).is_some_and(|epolls| !epolls.fds.is_empty())
            && holders::is_epoll(&fd)
        {
            self.forget_epolls(thread);
        }
    }

    /// A process is about to become two, or is new: each connection is both's.
    pub(super) fn forking(&mut self, question: &Question, thread: &Rc<Thread>, is_new: bool) {
        if !is_new {
            self.copiers.insert(question.thread, Rc::clone(thread));
        }
        let known: HashMap<u64, u64> =
            self.shared.iter().map(|(cookie, shared)| (shared.inode, *cookie)).collect();
        let mut sockets = HashSet::new();
        let mut nothing = true;
        for (number, open) in holders::open(question.thread) {
            nothing = false;
            let Open::Socket(inode) = open else { continue };
            sockets.insert(inode);
            let name = (thread.process, number);
            if let Some(shared) = known.get(&inode).and_then(|cookie| self.shared.get_mut(cookie)) {
                shared.note(name);
            } else if let Some(fd) = thread.take(number)
                && let Some(cookie) = self.wanted.cookie(fd.as_fd())
            {
                self.share(cookie, &fd, name);
            }
        }
        // Its descriptors are refused: from now on any connection may be one of them.
        self.blind |= nothing && Everything::of(&[thread.process]).blind;
        self.passing.forked(thread.process, &sockets, is_new);
    }

    /// Notes that a connection may have more descriptors than this one.
    pub(super) fn share(&mut self, cookie: u64, fd: &OwnedFd, name: (u32, RawFd)) {
        if let Some(shared) = self.shared.get_mut(&cookie) {
            return shared.note(name);
        }
        if self.shared.len() >= SHARED && self.shared.len().is_power_of_two() {
            let open = self.look();
            let passing = &self.passing;
            if !open.blind {
                self.shared.retain(|cookie, shared| {
                    !open.names(shared.inode).is_empty() || passing.is_under_way(*cookie)
                });
                self.passing.retain(&self.shared);
            }
        }
        if let Ok(status) = rustix::fs::fstat(fd) {
            self.shared.insert(cookie, Shared { inode: status.st_ino, names: vec![name] });
        }
    }

    /// Looks at all descriptors of the program. What has one name left is shared no more, unless a call that
    /// copies, or a message, may be about to give it another.
    pub(super) fn look(&mut self) -> Everything {
        self.counts.look();
        // Before the look: what such a call has made is seen by it if the call is over.
        self.copiers
            .retain(|thread, handle| !has_ended(&handle.handle) && holders::may_be_in(*thread, COPYING));
        let found = Everything::now();
        self.blind = found.blind;
        let certain = self.copiers.is_empty() && !found.blind;
        let (passing, pending) = (&self.passing, &self.pending);
        self.shared.retain(|cookie, shared| {
            let names = found.names(shared.inode);
            shared.names.clear();
            shared.names.extend(names.iter().take(NAMES));
            names.len() > 1 || !certain || passing.is_passed(*cookie) || pending.contains_key(cookie)
        });
        found
    }

    /// A process that has a shared connection by a name known from before, not counting names that are being closed.
    fn known_holder(&self, cookie: u64, besides: Option<(u32, RawFd)>) -> Option<u32> {
        let shared = self.shared.get(&cookie)?;
        let mut names = shared.names.iter().filter(|name| !self.is_closing(cookie, **name, besides));
        let has = |(process, number): &&(u32, RawFd)| {
            holders::at(*process, *number) == Some(Open::Socket(shared.inode))
        };
        names.find(has).map(|(process, _)| *process)
    }

    fn is_closing(&self, cookie: u64, name: (u32, RawFd), besides: Option<(u32, RawFd)>) -> bool {
        let closing = self.pending.get(&cookie).into_iter().flatten();
        Some(name) == besides
            || closing.map(|pending| (pending.thread.process, pending.number)).any(|other| other == name)
    }

    /// A process of the program that has a shared connection; whether there may be one that cannot be seen.
    pub(super) fn holder(&mut self, cookie: u64, inode: u64) -> (Option<u32>, bool) {
        if let Some(holder) = self.known_holder(cookie, None) {
            return (Some(holder), false);
        }
        let found = self.look();
        (found.holder(inode), found.blind)
    }

    /// Whether nobody has a connection but by numbers that are being closed.
    pub(super) fn is_last(&mut self, cookie: u64, name: (u32, RawFd)) -> bool {
        let Some(inode) = self.shared.get(&cookie).map(|shared| shared.inode) else { return true };
        if self.known_holder(cookie, Some(name)).is_some() {
            return false;
        }
        let found = self.look();
        !found.blind && found.names(inode).iter().all(|other| self.is_closing(cookie, *other, Some(name)))
    }
}
