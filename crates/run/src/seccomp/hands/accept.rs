//! `--hold`: connections are accepted here and given to the program, so that a killed program loses nothing either.
//!
//! There is no other way to have an fd before the program can write to it: what `accept` will return cannot be
//! known before, nor may the program run between its return and the look at it.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::thread::Thread;
use crate::kernel::{Notification, accept, read_memory, write_memory};
use crate::seccomp::ask::Ask;

/// A thread that waits for a connection.
#[derive(Debug)]
pub(in crate::seccomp) struct Accepting {
    pub(in crate::seccomp) notification: Notification,
    pub(in crate::seccomp) thread: Rc<Thread>,
    pub(in crate::seccomp) listener: OwnedFd,
}

/// What an attempt to accept came to.
#[derive(Debug)]
pub(in crate::seccomp) enum Accepted {
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
    pub(in crate::seccomp) fn give_way(&self, ask: &Ask) -> bool {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.notification.thread)).unwrap_or_default();
        let mask = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| u64::from_str_radix(value.trim(), 16).ok()).unwrap_or(0)
        };
        let signals = (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:");
        if signals != 0 {
            ask.result(self.notification.id, Err(libc::EINTR));
        }
        signals != 0 || !ask.waits(self.notification.id)
    }

    /// Accepts a connection for the thread, if there is one.
    pub(in crate::seccomp) fn attempt(&self, ask: &Ask) -> Accepted {
        let Notification { id, thread, call, arguments: [_, address, length, flags, ..] } = self.notification;
        if !ask.waits(id) {
            return Accepted::Answered;
        }
        let flags = if call == libc::SYS_accept4 { flags as i32 } else { 0 };
        let answer = |error: i32| {
            ask.result(id, Err(error));
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
        if !ask.waits(id) {
            return Accepted::Lost(connection);
        }
        if address != 0 && tell(thread, address, length, &peer).is_err() {
            ask.result(id, Err(libc::EFAULT));
            return Accepted::Lost(connection);
        }
        match ask.give(id, connection.as_fd(), flags & libc::SOCK_CLOEXEC != 0) {
            Ok(()) => Accepted::Given(connection),
            Err(error) => {
                ask.result(id, Err(error.raw_os_error().unwrap_or(libc::EMFILE)));
                Accepted::Lost(connection)
            }
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
