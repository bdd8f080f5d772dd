//! Connections that the end of the process closes, or the next `execve`.

use core::ffi::c_int;

use linger_custody::process::{Close, Executes, Last};
use linger_custody::{Count, Fate};

use crate::counts::{seen, unseen};
use crate::ending::{close, hold_again, patiently, settle, unhold};
use crate::protocol::{Message, MessageKind};
use crate::state::{TABLE, is_this_process, shares, unwatch};
use crate::{channel, sys};

/// Announces every connection, before the process ends.
pub(crate) fn exit() {
    let _errno = sys::Errno::keep();
    for fd in TABLE.fds(0, c_int::MAX) {
        match close(fd) {
            // Not counted: the exit of a child that inherited the connection and never used it.
            Close::Shared(held) => unhold(held),
            Close::Unhold(held) => unhold(Some(held)),
            Close::Handed(epolls, held) => {
                unwatch(fd, epolls);
                unhold(held);
            }
            Close::Last(last) => drop(announce(fd, last)),
            Close::Leave | Close::Wait => {}
        }
    }
}

/// Announces a connection that is closed without a further call. Returns the count that was incremented for it.
fn announce(fd: c_int, last: Last) -> Count {
    let (fate, unread) = settle(fd);
    let reason = match fate {
        Fate::Plain(reason) => reason,
        _ => {
            // Also sent for a held connection: it ends the supervisor's assumption that another process may hold it.
            let passed = (!last.held).then_some(fd);
            let sent = channel::send(Message::about(MessageKind::Last, last.cookie, unread), passed);
            if sent || last.held { Count::Handed } else { Count::Refused }
        }
    };
    if reason != Count::Handed {
        unhold(last.unhold());
    }
    seen(reason);
    reason
}

/// Announces the connections that an `execve` closes.
pub(crate) fn before_exec() {
    let _errno = sys::Errno::keep();
    if !is_this_process() {
        return;
    }
    patiently(|_| TABLE.begins().then_some(()));
    for fd in TABLE.fds(0, c_int::MAX) {
        if let Some(closes) = sys::closes_on_exec(fd) {
            unhold(TABLE.will_close(fd, closes));
        }
    }
    for fd in TABLE.fds(0, c_int::MAX) {
        match TABLE.executes(fd, sys::cookie(fd), shares()) {
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
        let back = TABLE.failed_to_execute(fd, sys::cookie(fd), shares());
        unhold(back.unhold);
        back.hold.into_iter().for_each(|cookie| hold_again(fd, cookie));
        if let Some(reason) = back.uncount {
            unseen(reason);
        }
    }
    TABLE.goes_on();
}
