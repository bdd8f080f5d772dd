//! `--hold`: connections are accepted here and given to the program, so that a killed program loses nothing either.
//!
//! There is no other way to have a descriptor before the program can write to it: what `accept` will return cannot be
//! known before, nor may the program run between its return and the look at it.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use crate::kernel::{Listener, Question, accept, open_thread, read_memory, write_memory};
use linger_shim::protocol::{Count, Kind, Message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::connection;
use super::thread::{Thread, has_ended};
use super::watch::Watcher;

/// A thread that waits for a connection.
#[derive(Debug)]
pub(super) struct Accepting {
    pub(super) question: Question,
    pub(super) thread: Rc<Thread>,
    pub(super) listener: OwnedFd,
}

/// What an attempt to accept came to.
#[derive(Debug)]
pub(super) enum Accepted {
    /// The program has it; the copy is this process's.
    Given(OwnedFd),
    /// Nobody was there to get it any more.
    Lost(OwnedFd),
    /// The call was answered, or its thread is gone.
    Answered,
    /// There is no connection yet, and the program wants to wait.
    NotYet,
}

impl Accepting {
    /// Lets a thread that has a signal to handle return with `EINTR`; whether it waits no more.
    ///
    /// The kernel does not: a call that was read from the listener is interrupted by nothing but a fatal signal
    /// (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`), without which a `close` might be.
    pub(super) fn give_way(&self, listener: &Listener) -> bool {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.question.thread)).unwrap_or_default();
        let mask = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| u64::from_str_radix(value.trim(), 16).ok()).unwrap_or(0)
        };
        let signals = (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:");
        if signals != 0 {
            listener.result(self.question.id, Err(libc::EINTR));
        }
        signals != 0 || !listener.waits(self.question.id)
    }

    /// Accepts a connection for the thread, if there is one.
    pub(super) fn attempt(&self, listener: &Listener) -> Accepted {
        let Question { id, thread, call, arguments: [_, address, length, flags, ..] } = self.question;
        if !listener.waits(id) {
            return Accepted::Answered;
        }
        let flags = if call == libc::SYS_accept4 { flags as i32 } else { 0 };
        let answer = |error: i32| {
            listener.result(id, Err(error));
            Accepted::Answered
        };
        let modes = fcntl_getfl(&self.listener).unwrap_or(OFlags::NONBLOCK);
        let waits = !modes.contains(OFlags::NONBLOCK);
        if waits {
            if !is_ready(&self.listener) {
                return Accepted::NotYet;
            }
            // Should a process outside the program have taken it meanwhile, this one must not wait.
            let _ = fcntl_setfl(&self.listener, modes | OFlags::NONBLOCK);
        }
        let accepted = accept(self.listener.as_fd(), flags | libc::SOCK_CLOEXEC);
        if waits {
            let _ = fcntl_setfl(&self.listener, modes);
        }
        let (connection, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if waits && error.kind() == std::io::ErrorKind::WouldBlock => return Accepted::NotYet,
            Err(error) => return answer(error.raw_os_error().unwrap_or(libc::EINVAL)),
        };
        if !listener.waits(id) {
            return Accepted::Lost(connection);
        }
        if address != 0 && tell(thread, address, length, &peer).is_err() {
            listener.result(id, Err(libc::EFAULT));
            return Accepted::Lost(connection);
        }
        match listener.give(id, connection.as_fd(), flags & libc::SOCK_CLOEXEC != 0) {
            Ok(()) => Accepted::Given(connection),
            Err(error) => {
                listener.result(id, Err(error.raw_os_error().unwrap_or(libc::EMFILE)));
                Accepted::Lost(connection)
            }
        }
    }
}

impl Watcher {
    /// Accepts for a thread, which gets the connection, an error, or waits on.
    pub(super) fn accept(&mut self, accepting: Accepting) {
        match accepting.attempt(&self.listener) {
            Accepted::NotYet => self.accepting.push(accepting),
            Accepted::Answered => {}
            Accepted::Lost(fd) => {
                self.hand_over(Message::about(Kind::Close, 0, 0), &fd);
            }
            Accepted::Given(fd) => {
                if let Some(cookie) = self.wanted.cookie(fd.as_fd())
                    && let Ok(fd) = rustix::io::fcntl_dupfd_cloexec(&fd, self.least)
                {
                    self.held.insert(cookie, (fd, accepting.thread.process));
                }
            }
        }
    }

    pub(super) fn accept_all(&mut self) {
        for accepting in std::mem::take(&mut self.accepting) {
            if !accepting.give_way(&self.listener) {
                self.accept(accepting);
            }
        }
    }

    /// Ends what processes had that were killed.
    pub(super) fn take_from_the_dead(&mut self) {
        self.processes.retain(|_, handle| !has_ended(handle));
        self.heirs.retain(|_, handle| !has_ended(handle));
        let alive = |process: &u32| self.processes.contains_key(process) || self.heirs.contains_key(process);
        let orphans = self.held.iter().filter(|(_, (_, process))| !alive(process));
        let orphans = orphans.map(|(cookie, _)| *cookie).filter(|cookie| !self.pending.contains_key(cookie));
        let orphans: Vec<u64> = orphans.collect();
        if orphans.is_empty() {
            return;
        }
        let open = self.look();
        for cookie in orphans {
            let Some((fd, _)) = self.held.remove(&cookie) else { continue };
            let inode = rustix::fs::fstat(&fd).map_or(0, |status| status.st_ino);
            match open.holder(inode) {
                Some(heir) => {
                    self.held.insert(cookie, (fd, heir));
                    self.inherit(cookie, heir);
                }
                // Killed while a message has it, perhaps.
                None if self.passing.is_passed(cookie) => {
                    self.put_off(&fd, cookie, connection::unread(fd.as_fd()), None);
                }
                None if open.blind && self.shared.contains_key(&cookie) => self.count(Count::Refused),
                None => self.end(&fd, cookie, connection::unread(fd.as_fd())),
            }
        }
    }

    /// Notes who has a held connection now.
    pub(super) fn inherit(&mut self, cookie: u64, heir: u32) {
        let Some((_, process)) = self.held.get_mut(&cookie) else { return };
        *process = heir;
        if !self.processes.contains_key(&heir)
            && let Ok(handle) = open_thread(heir)
            && let Ok(handle) = rustix::io::fcntl_dupfd_cloexec(&handle, self.least)
        {
            self.heirs.insert(heir, handle);
        }
    }
}

fn is_ready(listener: &OwnedFd) -> bool {
    let mut one = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut one, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// Writes the peer's address to where the program wants it, cut to its room there (`accept(2)`).
fn tell(thread: u32, address: u64, length: u64, peer: &[u8]) -> std::io::Result<()> {
    let mut room = [0; 4];
    read_memory(thread, length, &mut room)?;
    let room = usize::try_from(u32::from_ne_bytes(room)).unwrap_or(0).min(peer.len());
    if room > 0 {
        write_memory(thread, address, &peer[..room])?;
    }
    write_memory(thread, length, &(peer.len() as u32).to_ne_bytes())
}
