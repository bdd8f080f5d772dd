//! Carries out what custody decides about the connections that the program gets, copies, passes on and closes.

use core::ffi::c_int;

use linger_custody::process::{Close, Last, Shutdown, Unhold};
use linger_custody::{Count, Discarded, Fate, Socket, after_discarding, fate};

use crate::counts::{count, seen, shut_down};
use crate::protocol::{Message, MessageKind};
use crate::state::{TABLE, aborts, is_this_process, shares, unwatch};
use crate::{channel, settings, sys};

/// How often a close waits 50 us for a fork in another thread: a tenth of a second in all.
const FORK_PATIENCE: u32 = 2_000;

/// Asks custody until it can decide. The last attempt does not wait for the fork, so it always gets an answer.
pub(crate) fn patiently<T>(ask: impl Fn(bool) -> Option<T>) -> Option<T> {
    for _ in 0..FORK_PATIENCE {
        if let Some(answer) = ask(false) {
            return Some(answer);
        }
        sys::pause();
    }
    ask(true)
}

/// Tells the supervisor to drop the held copy of a connection.
pub(crate) fn unhold(held: Option<Unhold>) {
    if let Some(Unhold { cookie }) = held {
        channel::send(Message::about(MessageKind::Release, cookie, 0), None);
    }
}

/// Tells the supervisor to hold a connection again that it held for this process or its parent.
pub(crate) fn hold_again(fd: c_int, cookie: u64) {
    if !channel::send(Message::about(MessageKind::Hold, cookie, 0), Some(fd)) {
        TABLE.not_held(fd);
    }
}

/// Notes a connection that the program has accepted, or connected.
pub(crate) fn begin(fd: c_int) {
    note(fd, |cookie, held| TABLE.accepted(fd, cookie, held, shares()));
}

/// A connection received from another process. Accepted and outgoing ones cannot be told apart, so every TCP connection
/// counts.
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

/// The program passes a connection to another process.
pub(crate) fn given_away(fd: c_int) {
    let _errno = sys::Errno::keep();
    unhold(TABLE.given_away(fd));
}

/// `new` has become another fd of the file at `old`.
pub(crate) fn copied(old: c_int, new: c_int) {
    let _errno = sys::Errno::keep();
    // A child of `vfork` that makes the connection standard input of another program passes it on.
    unhold(if is_this_process() { TABLE.copied(old, new, shares()) } else { TABLE.given_away(old) });
}

/// Decides what the close of an fd means.
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

/// If `fd` is a tracked connection, ends it as custody decides. The caller makes the real close afterwards.
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
    // Handed over first: a peer that sees the end may have this process killed at once.
    let passed = (!last.held).then_some(fd);
    if !channel::send(Message::about(MessageKind::Close, last.cookie, unread), passed) {
        seen(Count::Refused);
    }
    sys::shutdown(fd, sys::SHUT_WR);
}

fn count_unread(unread: u32) {
    if unread > 0 {
        count(Count::Unread);
    }
}

/// For the last fd of a connection: how it ends, and the number of unread bytes. Discards them if the peer has closed.
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

/// The peer has sent its FIN, so no more bytes will arrive.
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

/// `shutdown` of both directions: half-closes, and hands the connection over. The supervisor drains it, and shuts down the
/// other direction at the end.
///
/// `None` if this library does not handle the connection; the caller then makes the system call.
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
        // Counted here and not at the close, because a process that is killed never reaches its close.
        shut_down();
    }
    Some(0)
}
