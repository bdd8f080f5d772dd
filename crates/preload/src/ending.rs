//! What happens to a connection that the program closes.

use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};

use super::counts::count;
use super::table::{self, COPIED, Entry, HANDED, HELD, TRACKED};
use super::{channel, setup, sys};
use crate::protocol::{Count, Kind, Message};

/// The process whose descriptors the table describes. A child of `vfork` has other descriptors and the same
/// table: there nothing is done.
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// Whether the program has ever set `SO_LINGER`; an accepted socket inherits it.
static LINGERS: AtomicBool = AtomicBool::new(false);

pub(crate) fn this_process() {
    PROCESS.store(sys::pid(), Relaxed);
}

pub(crate) fn is_this_process() -> bool {
    PROCESS.load(Relaxed) == sys::pid()
}

pub(crate) fn program_lingers() {
    LINGERS.store(true, Relaxed);
}

/// Notes a connection that the program has accepted, or received from another process.
pub(crate) fn begin(fd: c_int) {
    let Some(settings) = setup::settings() else { return };
    let _errno = sys::Errno::keep();
    if settings.filters_ports() && !sys::local_port(fd).is_some_and(|port| settings.wants(port)) {
        return;
    }
    if let Some(cookie) = sys::cookie(fd)
        && is_this_process()
    {
        let held = settings.hold && channel::send(Message::about(Kind::Hold, cookie, 0), Some(fd));
        table::set(fd, if held { TRACKED | HELD } else { TRACKED }, cookie);
    }
}

/// A connection received from another process: there is no telling accepted from outgoing, so TCP alone counts.
pub(crate) fn received(fd: c_int) {
    let _errno = sys::Errno::keep();
    if sys::is_tcp(fd) && sys::poll(fd, 0, 0) & sys::POLLHUP == 0 {
        begin(fd);
    }
}

/// The program gives a connection to another process: it is that one's to end.
pub(crate) fn given_away(fd: c_int) {
    let _errno = sys::Errno::keep();
    if let Some(entry) = table::take(fd) {
        release(&entry);
    }
}

/// `new` has become another name of `old`.
pub(crate) fn copied(old: c_int, new: c_int) {
    let _errno = sys::Errno::keep();
    if !is_this_process() {
        // A child of `vfork` that makes the connection another program's standard input: that one's to end.
        table::take(old);
        return;
    }
    table::mark(old, COPIED);
    if let Some(entry) = table::entry(old) {
        table::set(new, entry.state, entry.cookie);
    }
}

/// Ends what `fd` refers to if it is a connection of the program's; the real close is to follow.
pub(crate) fn end(fd: c_int) {
    let _errno = sys::Errno::keep();
    let Some((entry, taken)) = last_of(fd) else { return };
    match taken {
        Some(reason) => seen(reason),
        None => finish(fd, &entry),
    }
}

fn seen(reason: Count) {
    count(Count::Seen);
    count(reason);
}

/// Announces a connection that the coming exit, or `execve`, closes.
fn end_with_process(fd: c_int) -> Option<Entry> {
    let (entry, reason) = last_of(fd)?;
    if reason == Some(Count::Shared) {
        // The end of a bystander: a child that inherited the connection and had nothing to do with it.
        return None;
    }
    count(Count::Seen);
    let (reason, announced) = match reason {
        Some(reason) => (reason, None),
        None => match safe_to_close(fd) {
            Some(reason) => (reason, None),
            None if entry.has(HELD) => (Count::Handed, Some(entry)),
            None if channel::send(Message::about(Kind::Last, entry.cookie, sys::unread(fd)), Some(fd)) => {
                (Count::Handed, Some(entry))
            }
            None => (Count::Refused, None),
        },
    };
    if announced.is_none() {
        release(&entry);
    }
    count(reason);
    announced
}

/// Takes the entry of `fd` if no other descriptor of the process has its connection, with the reason not to end it.
fn last_of(fd: c_int) -> Option<(Entry, Option<Count>)> {
    if !table::is_tracked(fd) || !is_this_process() {
        return None;
    }
    let entry = table::take(fd)?;
    if sys::cookie(fd) != Some(entry.cookie) {
        return None;
    }
    if entry.has(COPIED) && table::holds(entry.cookie) {
        return None;
    }
    if entry.share().is_some_and(|share| !table::leave(share)) {
        release(&entry);
        return Some((entry, Some(Count::Shared)));
    }
    if entry.has(HANDED) {
        // Counted when it was handed over.
        table::unwatch(fd, entry.epoll);
        return None;
    }
    if LINGERS.load(Relaxed) && sys::aborts(fd) {
        release(&entry);
        return Some((entry, Some(Count::Aborted)));
    }
    Some((entry, None))
}

/// Lets the supervisor drop what it holds.
fn release(entry: &Entry) {
    if entry.has(HELD) {
        channel::send(Message::about(Kind::Release, entry.cookie, 0), None);
    }
}

fn finish(fd: c_int, entry: &Entry) {
    if let Some(reason) = safe_to_close(fd) {
        if entry.has(HELD) {
            table::unwatch(fd, entry.epoll);
            release(entry);
        }
        return seen(reason);
    }
    let unread = unread(fd);
    table::unwatch(fd, entry.epoll);
    // Handed over and counted first: a peer that sees the end may have this process killed at once.
    let passed = (!entry.has(HELD)).then_some(fd);
    let taken = channel::send(Message::about(Kind::Close, entry.cookie, unread), passed);
    seen(if taken { Count::Handed } else { Count::Refused });
    sys::shutdown(fd, sys::SHUT_WR);
}

fn unread(fd: c_int) -> u32 {
    let unread = sys::unread(fd);
    if unread > 0 {
        count(Count::Unread);
    }
    unread
}

/// Whether a plain close loses nothing, and why: the peer can send no more, and nothing is unread.
fn safe_to_close(fd: c_int) -> Option<Count> {
    let events = sys::poll(fd, sys::POLLIN | sys::POLLRDHUP, 0);
    if events & sys::POLLRDHUP == 0 {
        return (events & (sys::POLLHUP | sys::POLLERR) != 0).then_some(Count::Gone);
    }
    if sys::unread(fd) == 0 {
        return Some(Count::Finished);
    }
    // The peer has said its last: what is there is all there will be, and may be read away here, on TCP.
    loop {
        match sys::discard(fd) {
            Ok(0) => {
                count(Count::Unread);
                return Some(Count::Drained);
            }
            Ok(_) => {}
            Err(sys::EFAULT | sys::EINTR | sys::EAGAIN) => return None,
            Err(_) => return Some(Count::Gone),
        }
    }
}

/// `shutdown` of both sides, as half a close: the supervisor reads on, and shuts the other side down at the end.
///
/// `None` where it is not ours to do.
pub(crate) fn shutdown(fd: c_int) -> Option<c_int> {
    if !is_this_process() {
        return None;
    }
    let entry = table::entry(fd)?;
    let errno = sys::Errno::keep();
    if sys::cookie(fd) != Some(entry.cookie) {
        return None;
    }
    if entry.has(HANDED) {
        return Some(0);
    }
    let before = sys::poll(fd, sys::POLLRDHUP, 0);
    if before & (sys::POLLRDHUP | sys::POLLHUP | sys::POLLERR) != 0 {
        return None;
    }
    let unread = unread(fd);
    if sys::shutdown(fd, sys::SHUT_WR) < 0 {
        core::mem::forget(errno);
        return Some(-1);
    }
    let passed = (!entry.has(HELD)).then_some(fd);
    if !channel::send(Message::about(Kind::Shutdown, entry.cookie, unread), passed) {
        return None;
    }
    table::mark(fd, HANDED);
    // Here, for a process that is killed comes to no close.
    seen(Count::Handed);
    Some(0)
}

/// Announces every connection: the process is about to end.
pub(crate) fn exit() {
    let _errno = sys::Errno::keep();
    for fd in table::tracked(0, c_int::MAX) {
        end_with_process(fd);
    }
}

/// Announces the connections that an `execve` closes.
pub(crate) fn before_exec() {
    let _errno = sys::Errno::keep();
    if !is_this_process() {
        return;
    }
    for fd in table::tracked(0, c_int::MAX) {
        if sys::closes_on_exec(fd) == Some(false) {
            // The next program inherits it, and this process's end is not the connection's.
            if let Some(entry) = table::entry(fd)
                && entry.has(HELD)
                && table::change(fd, entry.state, entry.state & !HELD)
            {
                release(&entry);
            }
        } else {
            let state = table::entry(fd).map_or(0, |entry| entry.state);
            if let Some(entry) = end_with_process(fd) {
                // Should the call fail, the program goes on with the connection.
                table::set(fd, (state & !HELD) | TRACKED, entry.cookie);
                table::watched(fd, entry.epoll - 1);
            }
        }
    }
}

/// The `execve` has failed: the supervisor forgets what was announced.
pub(crate) fn after_exec() {
    let _errno = sys::Errno::keep();
    if !is_this_process() {
        return;
    }
    for fd in table::tracked(0, c_int::MAX) {
        if let Some(entry) = table::entry(fd)
            && sys::closes_on_exec(fd) == Some(true)
        {
            channel::send(Message::about(Kind::Release, entry.cookie, 0), None);
        }
    }
}
