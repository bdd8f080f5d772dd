//! Accepts connections in place of the program ([`Options::hold`](crate::Options::hold)), so that the supervisor holds a
//! copy of each from the start, and even a program killed by SIGKILL loses nothing.
//!
//! There is no other way to have a copy before the program can write: the fd that `accept` will return cannot be known
//! before the call, and after it the program runs on.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::thread::Thread;
use crate::kernel::{Notification, accept, read_memory, write_memory};
use crate::seccomp::ask::Ask;
use crate::seccomp::eyes;

/// A thread of the program that is blocked in `accept`.
#[derive(Debug)]
pub(in crate::seccomp) struct Accepting {
    pub(in crate::seccomp) notification: Notification,
    pub(in crate::seccomp) thread: Rc<Thread>,
    pub(in crate::seccomp) listener: OwnedFd,
}

/// The result of an attempt to accept.
#[derive(Debug)]
pub(in crate::seccomp) enum Accepted {
    /// The program has the connection; this is the supervisor's copy.
    Given(OwnedFd),
    /// The thread was gone before it could get the connection.
    Lost(OwnedFd),
    /// The call was answered otherwise, or its thread is gone.
    Answered,
    /// There is no connection yet, and the listener is blocking.
    NotYet,
}

impl Accepting {
    /// Returns EINTR to a thread with a pending signal. True if it no longer waits.
    ///
    /// The kernel does not do it: with `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, only a fatal signal interrupts a call whose
    /// notification was received. The flag is needed so that no signal interrupts a `close`.
    pub(in crate::seccomp) fn give_way(&self, ask: &Ask) -> bool {
        let status = eyes::text(format!("/proc/{}/status", self.notification.thread)).unwrap_or_default();
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

    /// Accepts a connection for the thread, if one is pending.
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
            // Accept without blocking: a process outside the program may have taken the connection meanwhile.
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
            Ok(_) => Accepted::Given(connection),
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

/// Writes the peer's address into the program's memory, truncated to the program's buffer (`accept(2)`).
fn tell(thread: u32, address: u64, length: u64, peer: &[u8]) -> std::io::Result<()> {
    let mut room = [0; 4];
    read_memory(thread, length, &mut room)?;
    let room = usize::try_from(u32::from_ne_bytes(room)).unwrap_or(0).min(peer.len());
    if room > 0 {
        write_memory(thread, address, &peer[..room])?;
    }
    write_memory(thread, length, &(peer.len() as u32).to_ne_bytes())
}
