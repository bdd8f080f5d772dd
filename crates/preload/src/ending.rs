//! Carries out what custody decides about the connections that the program gets, copies, passes on and closes.

use core::ffi::c_int;

use linger_custody::process::{Close, Last, Shutdown, Unhold};
use linger_custody::{Count, Discarded, Fate, Socket, after_discarding, fate};

use crate::counts::{count, seen};
use crate::protocol::{Message, MessageKind};
use crate::state::{TABLE, aborts, is_this_process, shares, unwatch};
use crate::{channel, settings, sys};

/// How often, at 50 us, a close waits for a fork that is under way: a tenth of a second.
const FORK_PATIENCE: u32 = 2_000;

/// Asks until there is an answer, the last time so that there must be one.
pub(crate) fn patiently<T>(ask: impl Fn(bool) -> Option<T>) -> Option<T> {
    for _ in 0..FORK_PATIENCE {
        if let Some(answer) = ask(false) {
            return Some(answer);
        }
        sys::pause();
    }
    ask(true)
}

/// Lets the supervisor drop what it holds.
pub(crate) fn unhold(held: Option<Unhold>) {
    if let Some(Unhold { cookie }) = held {
        channel::send(Message::about(MessageKind::Release, cookie, 0), None);
    }
}

/// Lets the supervisor hold what it has held before, for this process or for its parent.
pub(crate) fn hold_again(fd: c_int, cookie: u64) {
    if !channel::send(Message::about(MessageKind::Hold, cookie, 0), Some(fd)) {
        TABLE.not_held(fd);
    }
}

/// Notes a connection that the program has accepted, or connected.
pub(crate) fn begin(fd: c_int) {
    note(fd, |cookie, held| TABLE.accepted(fd, cookie, held, shares()));
}

/// A connection received from another process: there is no telling accepted from outgoing, so TCP alone counts.
pub(crate) fn received(fd: c_int) {
    let _errno = sys::Errno::keep();
    if sys::is_tcp(fd) && sys::poll(fd, 0, 0) & sys::POLLHUP == 0 {
        note(fd, |cookie, held| TABLE.received(fd, cookie, held, shares()));
    }
}

fn note(fd: c_int, note: impl FnOnce(u64, bool) -> Option<Unhold>) {
    let Some(settings) = settings::settings() else { return };
    let _errno = sys::Errno::keep();
    if settings.filters_ports() && !sys::local_port(fd).is_some_and(|port| settings.wants(port)) {
        return;
    }
    if let Some(cookie) = sys::cookie(fd)
        && is_this_process()
        && TABLE.has_room_for(fd)
    {
        let held = settings.hold && channel::send(Message::about(MessageKind::Hold, cookie, 0), Some(fd));
        unhold(note(cookie, held));
    }
}

/// The program gives a connection to another process.
pub(crate) fn given_away(fd: c_int) {
    let _errno = sys::Errno::keep();
    unhold(TABLE.given_away(fd));
}

/// `new` has become another fd of what `old` is.
pub(crate) fn copied(old: c_int, new: c_int) {
    let _errno = sys::Errno::keep();
    // A child of `vfork` that makes the connection another program's standard input gives it away.
    unhold(if is_this_process() { TABLE.copied(old, new, shares()) } else { TABLE.given_away(old) });
}

/// What the close of an fd means.
pub(crate) fn close(fd: c_int) -> Close {
    if !TABLE.is_tracked(fd) || !is_this_process() {
        return Close::Leave;
    }
    let cookie = sys::cookie(fd);
    let decided = |insist| match TABLE.close(fd, cookie, shares(), insist) {
        Close::Wait => None,
        decision => Some(decision),
    };
    patiently(decided).unwrap_or(Close::Leave)
}

/// Ends what `fd` is if it is a connection of the program's; the real close is to follow.
pub(crate) fn end(fd: c_int) {
    let _errno = sys::Errno::keep();
    match close(fd) {
        Close::Leave | Close::Wait => {}
        Close::Unhold(held) => unhold(Some(held)),
        Close::Shared(held) => {
            unhold(held);
            seen(Count::Shared);
        }
        Close::Handed(epolls, held) => {
            unwatch(fd, epolls);
            unhold(held);
        }
        Close::Last(last) => finish(fd, last),
    }
}

fn finish(fd: c_int, last: Last) {
    let (fate, unread) = settle(fd);
    if last.held || fate == Fate::Linger {
        unwatch(fd, last.epolls);
    }
    if let Fate::Plain(reason) = fate {
        unhold(last.unhold());
        return seen(reason);
    }
    count_unread(unread);
    // Handed over and counted first: a peer that sees the end may have this process killed at once.
    let passed = (!last.held).then_some(fd);
    let taken = channel::send(Message::about(MessageKind::Close, last.cookie, unread), passed);
    seen(if taken { Count::Handed } else { Count::Refused });
    sys::shutdown(fd, sys::SHUT_WR);
}

fn count_unread(unread: u32) {
    if unread > 0 {
        count(Count::Unread);
    }
}

/// How a connection ends whose last fd this is, and how much is unread. What may be discarded is discarded.
pub(crate) fn settle(fd: c_int) -> (Fate, u32) {
    if aborts(fd) {
        return (fate(&Socket { aborts: true, ..Socket::default() }), 0);
    }
    let socket = ask(fd);
    let decided = match fate(&socket) {
        Fate::Discard => after_discarding(discard(fd)),
        decided => decided,
    };
    if decided == Fate::Plain(Count::Drained) {
        count(Count::Unread);
    }
    (decided, socket.unread)
}

fn ask(fd: c_int) -> Socket {
    let events = sys::poll(fd, sys::POLLIN | sys::POLLRDHUP, 0);
    Socket {
        aborts: false,
        peer_finished: events & sys::POLLRDHUP != 0,
        over: events & (sys::POLLHUP | sys::POLLERR) != 0,
        unread: sys::unread(fd),
    }
}

/// The peer has said its last: what is there is all there will be.
fn discard(fd: c_int) -> Discarded {
    loop {
        match sys::discard(fd) {
            Ok(0) => return Discarded::ToTheEnd,
            Ok(_) => {}
            Err(sys::EFAULT | sys::EINTR | sys::EAGAIN) => return Discarded::Unable,
            Err(_) => return Discarded::Failed,
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
    let errno = sys::Errno::keep();
    let cookie = match TABLE.shutdown(fd, sys::cookie(fd), shares()) {
        Shutdown::Leave => return None,
        Shutdown::Done => return Some(0),
        Shutdown::HandOver { cookie } => cookie,
    };
    let socket = ask(fd);
    if socket.peer_finished || socket.over {
        return None;
    }
    count_unread(socket.unread);
    if sys::shutdown(fd, sys::SHUT_WR) < 0 {
        core::mem::forget(errno);
        return Some(-1);
    }
    if !channel::send(Message::about(MessageKind::Shutdown, cookie, socket.unread), Some(fd)) {
        return None;
    }
    if TABLE.handed(fd, shares()) {
        // Here, for a process that is killed comes to no close.
        seen(Count::Handed);
    }
    Some(0)
}
