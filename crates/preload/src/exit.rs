//! Connections that the end of the process closes, or the next `execve`.

use core::ffi::c_int;

use linger_custody::Count;
use linger_custody::process::{Close, Executes, Last};

use crate::counts::{count, tell_the_rest, uncount};
use crate::ending::{close, hold_again, nominate, settle, unhold};
use crate::protocol::MessageKind;
use crate::state::{TABLE, is_this_process, unwatch};
use crate::sys;

/// How often an `execve` waits 50 us for an `execve` of another thread: a tenth of a second in all.
const PATIENCE: u32 = 2_000;

/// Called before the process ends. Treats every tracked fd as closed. If it is this process's last fd of a connection, and a
/// plain close could lose something, tells the supervisor, which ends the connection once the process has gone.
pub(crate) fn exit() {
    let _errno = sys::Errno::keep();
    for fd in TABLE.fds(0, c_int::MAX) {
        match close(fd) {
            Close::Unhold(held) => unhold(Some(held)),
            Close::Handed(epolls) => unwatch(fd, epolls),
            Close::Last(last) => drop(announce(fd, last)),
            Close::Leave => {}
        }
    }
    tell_the_rest();
}

/// Announces a connection whose last fd the kernel closes, at the end of the process or in an `execve`: no call of the
/// program's shows that close. Returns what was counted for it here, or will be by the supervisor.
fn announce(fd: c_int, last: Last) -> Count {
    let reason = match settle(fd) {
        Err(reason) => reason,
        // Also sent for a held connection: the supervisor then knows how its process ends.
        Ok(unread) if nominate(MessageKind::Last, fd, &last, unread) || last.held => return Count::Handed,
        Ok(_) => Count::Refused,
    };
    unhold(last.unhold());
    count(reason);
    reason
}

/// Announces the connections that an `execve` closes.
pub(crate) fn before_exec() {
    let _errno = sys::Errno::keep();
    if !is_this_process() {
        return;
    }
    for _ in 0..PATIENCE {
        if TABLE.begins() {
            break;
        }
        sys::pause();
    }
    for fd in TABLE.fds(0, c_int::MAX) {
        if let Some(closes) = sys::closes_on_exec(fd) {
            unhold(TABLE.will_close(fd, closes));
        }
    }
    for fd in TABLE.fds(0, c_int::MAX) {
        match TABLE.executes(fd, sys::cookie(fd)) {
            Executes::Leave => {}
            Executes::Unhold(held) => unhold(Some(held)),
            Executes::Last(last) => TABLE.announced(fd, announce(fd, last)),
        }
    }
}

/// After a failed `execve`: makes the supervisor forget what was announced.
pub(crate) fn after_exec() {
    let _errno = sys::Errno::keep();
    if !is_this_process() {
        return;
    }
    for fd in TABLE.fds(0, c_int::MAX) {
        let back = TABLE.failed_to_execute(fd, sys::cookie(fd));
        unhold(back.unhold);
        back.hold.into_iter().for_each(|cookie| hold_again(fd, cookie));
        // The supervisor counts `Handed` itself, once it has ended the connection.
        if let Some(reason) = back.uncount.filter(|reason| *reason != Count::Handed) {
            uncount(reason);
        }
    }
    TABLE.goes_on();
}
