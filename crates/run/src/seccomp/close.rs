//! A close: what the call is about to end is kept, seen to be closed, and handed on to be ended.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::kernel::Question;
use linger_shim::protocol::{Count, Kind, Message};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown};
use rustix::process::Signal;

use crate::Refusal;

use super::connection;
use super::holders::{self, Open};
use super::pass::Passed;
use super::thread::Thread;
use super::watch::Watcher;

/// How long a call that may fail (`execve`, `dup2` from a bad descriptor) is given to close what it would.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections that are remembered after they were handed over.
pub(super) const LATELY: usize = 256;

/// A connection that the program was let close, and whether it did is to be seen.
#[derive(Debug)]
pub(super) struct Pending {
    /// This process's own: as long as it is open the connection cannot end.
    pub(super) fd: OwnedFd,
    pub(super) cookie: u64,
    pub(super) thread: Rc<Thread>,
    /// The program's number of it.
    pub(super) number: RawFd,
    unread: u32,
    way: Way,
    /// A message may have had it when the call was made.
    passed: bool,
    since: Instant,
    /// The number was seen to name the connection no more.
    closed: bool,
}

/// What closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The call cannot fail.
    Close,
    /// The call may fail, and the program go on with the connection.
    Perhaps,
    /// The end of the process, or what it becomes: of a connection that others have it is no news.
    Process,
    /// `execve`.
    Exec,
}

impl Pending {
    /// Whether the number names the connection no more; `None` if it never will, or nobody can tell.
    fn is_closed(&self) -> Option<bool> {
        match self.thread.get(self.number) {
            Err(Errno::BADF) => Some(true),
            // The thread is on its way out; that its process's descriptors are closed is seen elsewhere.
            Err(Errno::SRCH) => {
                let inode = rustix::fs::fstat(&self.fd).ok()?.st_ino;
                Some(holders::at(self.thread.process, self.number) != Some(Open::Socket(inode)))
            }
            Ok(fd) if !connection::is(&fd, self.cookie) => Some(true),
            Ok(_) if matches!(self.way, Way::Perhaps | Way::Exec) && self.since.elapsed() > PATIENCE => None,
            Ok(_) | Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Some(false),
            Err(_) => None,
        }
    }
}

impl Watcher {
    /// The program is about to close one number.
    pub(super) fn closing(&mut self, question: &Question, thread: &Rc<Thread>, number: RawFd, way: Way) {
        self.forget_epoll(thread, number);
        self.closing_one_of_many(question, thread, number, way);
    }

    /// As [`closing`](Self::closing), for all numbers that are meant.
    pub(super) fn closing_all(
        &mut self,
        question: &Question,
        thread: &Rc<Thread>,
        lister: u32,
        way: Way,
        meant: impl Fn(RawFd) -> bool,
    ) {
        for (number, open) in holders::open(lister) {
            if meant(number) && matches!(open, Open::Socket(_)) {
                self.closing_one_of_many(question, thread, number, way);
            }
        }
    }

    pub(super) fn closing_one_of_many(
        &mut self,
        question: &Question,
        thread: &Rc<Thread>,
        number: RawFd,
        way: Way,
    ) {
        match thread.get(number) {
            Ok(fd) => self.consider(question, thread, number, fd, way),
            Err(Errno::PERM) => self.refuse(thread.process),
            Err(_) => {}
        }
    }

    /// Keeps a connection if its end is to be seen to.
    pub(super) fn consider(
        &mut self,
        question: &Question,
        thread: &Rc<Thread>,
        number: RawFd,
        fd: OwnedFd,
        way: Way,
    ) {
        let Some(cookie) = self.wanted.cookie(fd.as_fd()) else { return };
        if self.done.contains(&cookie) || !self.listener.waits(question.id) {
            return;
        }
        let passed = self.passing.seen_at(cookie, thread.process);
        if passed == Passed::Abroad {
            // Whoever has got it is to end it.
            self.held.remove(&cookie);
            return;
        }
        // A call that was interrupted, or an exec that failed, may have left one behind.
        let me = thread.process;
        if let Some(same) = self.pending.get_mut(&cookie) {
            same.retain(|old| old.number != number || old.thread.process != me);
        }
        if self.blind {
            self.share(cookie, &fd, (me, number));
        }
        let alone = !self.shared.contains_key(&cookie);
        if alone && way == Way::Close {
            if self.handed.remove(&cookie) {
                self.held.remove(&cookie);
                self.unwatch(thread, question.thread, number, fd);
                return;
            }
            if let Some(reason) = connection::safe_to_close(fd.as_fd()) {
                self.held.remove(&cookie);
                return self.count(reason);
            }
        }
        let unread = connection::unread(fd.as_fd());
        let fd = match way {
            Way::Close | Way::Perhaps if passed == Passed::No && self.is_last(cookie, (me, number)) => {
                self.unwatch(thread, question.thread, number, fd)
            }
            _ => Some(fd),
        };
        let Some(fd) = fd else { return };
        let (thread, since) = (Rc::clone(thread), Instant::now());
        let passed = passed != Passed::No;
        let pending = Pending { fd, cookie, thread, number, unread, way, passed, since, closed: false };
        self.pending.entry(cookie).or_default().push(pending);
    }

    pub(super) fn count(&self, reason: Count) {
        self.counts.add(Count::Seen);
        self.counts.add(reason);
    }

    pub(super) fn refuse(&mut self, process: u32) {
        self.blind = true;
        if self.refused.insert(process) {
            self.count(Count::Refused);
        }
        if let Some(tell) = self.tell.take()
            && tell.send(Refusal::new(process, Errno::PERM.into())).is_ok()
        {
            // The thread that tells it on waits for signals; this one says no more than that there is news.
            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::CHILD);
        }
    }

    /// Hands on what the program has closed by now.
    pub(super) fn settle(&mut self) {
        let started = Instant::now();
        if self.pending.is_empty() || started < self.settle_at {
            return;
        }
        let mut closed = Vec::new();
        self.pending.retain(|cookie, same| {
            same.retain_mut(|pending| {
                let state = pending.is_closed();
                pending.closed = state == Some(true);
                if pending.closed {
                    closed.push(*cookie);
                }
                state.is_some()
            });
            !same.is_empty()
        });
        let took = started.elapsed();
        for cookie in closed {
            let Some(same) = self.pending.get_mut(&cookie) else { continue };
            let Some(at) = same.iter().position(|pending| pending.closed) else { continue };
            let pending = same.swap_remove(at);
            if same.is_empty() {
                self.pending.remove(&cookie);
            }
            self.closed(pending);
        }
        if !self.pending.is_empty() {
            self.settle_at = Instant::now() + took * 4;
        }
    }

    /// Ends a connection that the program has closed, unless it has it under another number, or in another process.
    pub(super) fn closed(&mut self, pending: Pending) {
        let Pending { fd, cookie, unread, way, thread, number, passed: given, .. } = pending;
        if let Some(inode) = self.shared.get(&cookie).map(|shared| shared.inode) {
            let closing = self.pending.get(&cookie).and_then(|others| others.first());
            let closing = closing.map(|other| other.thread.process);
            let passed = self.passing.passed(cookie, thread.process);
            if passed == Passed::BySender && closing.is_none() {
                // Most likely it is under way: to look for it can wait.
                return self.put_off(&fd, cookie, unread, Some((thread, number)));
            }
            let (holder, blind) = match closing {
                Some(_) => (closing, false),
                None => self.holder(cookie, inode),
            };
            if let Some(holder) = holder {
                // A bystander's end, one of two names in one process, and what was passed on are no close.
                if !given && !matches!(way, Way::Process | Way::Exec) && holder != thread.process {
                    self.count(Count::Shared);
                }
                self.inherit(cookie, holder);
                return;
            }
            if passed != Passed::No {
                return self.put_off(&fd, cookie, unread, Some((thread, number)));
            }
            self.shared.remove(&cookie);
            if blind {
                // A process that nobody may look into may have it: no end is better than one of what it has.
                self.held.remove(&cookie);
                return self.count(Count::Refused);
            }
        }
        self.end(&fd, cookie, unread);
    }

    /// Ends a connection that the program has no more.
    pub(super) fn end(&mut self, fd: &OwnedFd, cookie: u64, unread: u32) {
        self.held.remove(&cookie);
        if self.handed.remove(&cookie) {
            return;
        }
        if let Some(reason) = connection::safe_to_close(fd.as_fd()) {
            return self.count(reason);
        }
        if unread > 0 {
            self.counts.add(Count::Unread);
        }
        let taken = self.hand_over(Message::about(Kind::Close, cookie, unread), fd);
        let _ = rustix::net::shutdown(fd, Shutdown::Write);
        self.done.truncate(LATELY - 1);
        self.done.push_front(cookie);
        self.count(if taken { Count::Handed } else { Count::Refused });
    }

    /// Gives a connection to the intake; whether it is there.
    pub(super) fn hand_over(&self, message: Message, fd: &OwnedFd) -> bool {
        let fds = [fd.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        for _ in 0..100 {
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&fds));
            match rustix::net::sendmsg(
                &self.intake,
                &[IoSlice::new(&message.to_bytes())],
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                Ok(_) => return true,
                Err(Errno::INTR) => {}
                // Too many descriptors are under way for this user (unix(7)): they get fewer as they are received.
                Err(Errno::TOOMANYREFS) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => return false,
            }
        }
        false
    }

    /// `shutdown` of both sides, as half a close; of the read side, as nothing at all.
    pub(super) fn shutdown(&mut self, question: &Question, thread: &Rc<Thread>, number: RawFd, how: i32) {
        let go_on = |watcher: &Self| {
            watcher.listener.go_on(question.id);
        };
        let Some(fd) = thread.take(number) else { return go_on(self) };
        let Some(cookie) = self.wanted.cookie(fd.as_fd()) else { return go_on(self) };
        if !self.listener.waits(question.id) || connection::safe_to_close(fd.as_fd()).is_some() {
            return go_on(self);
        }
        if how == libc::SHUT_RD || self.handed.contains(&cookie) {
            self.listener.result(question.id, Ok(0));
            return;
        }
        if how != libc::SHUT_RDWR {
            return go_on(self);
        }
        let unread = connection::unread(fd.as_fd());
        let result = rustix::net::shutdown(&fd, Shutdown::Write);
        if result.is_ok() && self.hand_over(Message::about(Kind::Shutdown, cookie, unread), &fd) {
            self.handed.insert(cookie);
            // Here, for a process that is killed comes to no close.
            self.count(Count::Handed);
            if unread > 0 {
                self.counts.add(Count::Unread);
            }
            self.listener.result(question.id, Ok(0));
        } else {
            go_on(self);
        }
    }

    pub(super) fn copying_over(&mut self, question: &Question, thread: &Rc<Thread>, old: RawFd, new: RawFd) {
        if old != new {
            self.copying(question, thread, old);
            self.closing(question, thread, new, Way::Perhaps);
        }
    }
}
