//! Carries out what custody decides about the connections that the program gets, copies, passes on and closes.

use core::ffi::c_int;

use linger_custody::process::{Close, Last, Shutdown, Unhold};
use linger_custody::{Count, Fate, Origin, Socket, fate};

use crate::counts::{count, tell_the_rest};
use crate::protocol::{Message, MessageKind};
use crate::state::{TABLE, aborts, is_this_process, is_tracked, shuts_read_side, unread, unwatch};
use crate::{channel, releases, sandbox, settings, sys};

/// Tells the supervisor to drop the held copy of a connection.
pub(crate) fn unhold(held: Option<Unhold>) {
    if let Some(Unhold { cookie }) = held {
        releases::release(cookie);
    }
}

/// Tells the supervisor to hold a connection again that it held for this process or its parent.
pub(crate) fn hold_again(fd: c_int, cookie: u64) {
    let origin = TABLE.entry(fd).map_or(Origin::UNKNOWN, |entry| entry.origin);
    if !hold(fd, cookie, origin) {
        TABLE.not_held(fd);
    }
}

fn hold(fd: c_int, cookie: u64, origin: Origin) -> bool {
    channel::send(Message::about(MessageKind::Hold, cookie, 0).by(TABLE.process(), fd, origin), Some(fd))
}

/// Notes a connection that the program has accepted.
///
/// The time is that of the accept's return. A child that another thread forks before that may have the fd by chance, but
/// nobody has told it of the connection.
pub(crate) fn accepted(fd: c_int) {
    note(
        fd,
        || Origin::new(TABLE.process(), sys::since_start_ms()),
        |cookie, origin, held| TABLE.accepted(fd, cookie, origin, held),
    );
}

/// Notes a socket that the program has connected. Which processes have inherited the socket before is not known.
pub(crate) fn connected(fd: c_int) {
    note(fd, || Origin::UNKNOWN, |cookie, origin, held| TABLE.accepted(fd, cookie, origin, held));
}

/// Notes a connection that another process has sent. Accepted and outgoing ones cannot be told apart, so every TCP connection
/// counts.
pub(crate) fn received(fd: c_int) {
    if settings::settings().is_none() {
        return;
    }
    let _errno = sys::Errno::keep();
    if sys::is_tcp(fd) && sys::poll(fd, 0, 0) & sys::POLLHUP == 0 {
        note(fd, || Origin::UNKNOWN, |cookie, _, held| TABLE.received(fd, cookie, held, TABLE.find(cookie)));
    }
}

fn note(fd: c_int, origin: impl FnOnce() -> Origin, note: impl FnOnce(u64, Origin, bool) -> Option<Unhold>) {
    let Some(settings) = settings::settings() else { return };
    let _errno = sys::Errno::keep();
    if settings.filters_ports() && !sys::local_port(fd).is_some_and(|port| settings.wants(port)) {
        return;
    }
    if let Some(cookie) = sys::cookie(fd)
        && is_this_process()
        && TABLE.has_room_for(fd)
    {
        let origin = origin();
        let held = settings.hold && hold(fd, cookie, origin);
        unhold(note(cookie, origin, held));
    }
}

/// The program passes a connection to another process.
pub(crate) fn given_away(fd: c_int) {
    let _errno = sys::Errno::keep();
    unhold(TABLE.given_away(fd));
}

/// `new` has become another fd of the file at `old`.
pub(crate) fn copied(old: c_int, new: c_int) {
    // A child of `vfork` has fds of its own, and the parent's table.
    if is_this_process() {
        let _errno = sys::Errno::keep();
        unhold(TABLE.copied(old, new));
    }
}

/// Decides what the close of an fd means.
pub(crate) fn close(fd: c_int) -> Close {
    if !is_tracked(fd) || !is_this_process() {
        return Close::Leave;
    }
    TABLE.close(fd, sys::cookie(fd))
}

/// If `fd` is a tracked connection, ends it as custody decides. The caller makes the real close afterwards.
pub(crate) fn end(fd: c_int) {
    let _errno = sys::Errno::keep();
    match close(fd) {
        Close::Leave => {}
        Close::Unhold(held) => unhold(Some(held)),
        Close::Handed(epolls) => unwatch(fd, epolls),
        Close::Last(last) => finish(fd, last),
    }
}

fn finish(fd: c_int, last: Last) {
    let unread = match settle(fd) {
        Ok(unread) => unread,
        Err(reason) => {
            if last.held {
                unwatch(fd, last.epolls);
            }
            unhold(last.unhold());
            return count(reason);
        }
    };
    if last.stray {
        if last.held {
            unwatch(fd, last.epolls);
        }
        unhold(last.unhold());
        return refuse(unread);
    }
    unwatch(fd, last.epolls);
    // The supervisor's fd outlives the close, and the FIN is sent once it is proved that no other process has the connection.
    if !nominate(MessageKind::Close, fd, &last, unread) {
        if last.held {
            releases::remember(last.cookie);
        }
        refuse(unread);
    }
}

fn refuse(unread: u32) {
    if unread > 0 {
        count(Count::Unread);
    }
    count(Count::Refused);
}

/// Nominates a connection: tells the supervisor that this process closes its last fd of it. Returns whether that was sent.
pub(crate) fn nominate(kind: MessageKind, fd: c_int, last: &Last, unread: u32) -> bool {
    let passed = (!last.held).then_some(fd);
    let word = Message::about(kind, last.cookie, unread).by(TABLE.process(), fd, last.origin);
    let sent = channel::send(word, passed);
    if sent {
        tell_the_rest();
        releases::tell();
    }
    sent
}

/// For this process's last fd of a connection: the number of unread bytes, or why a plain close loses nothing. Another
/// process may still read the unread bytes.
pub(crate) fn settle(fd: c_int) -> Result<u32, Count> {
    let socket = if aborts(fd) { Socket { aborts: true, ..Socket::default() } } else { ask(fd) };
    match fate(&socket) {
        Fate::Plain(reason) => Err(reason),
        Fate::Linger | Fate::Discard => Ok(socket.unread),
    }
}

fn ask(fd: c_int) -> Socket {
    let events = sys::poll(fd, sys::POLLIN | sys::POLLRDHUP, 0);
    Socket {
        aborts: false,
        // The kernel reports the program's own `SHUT_RD` like the peer's FIN, which an established connection has not had.
        peer_finished: events & sys::POLLRDHUP != 0 && !(shuts_read_side() && sys::is_established(fd)),
        over: events & (sys::POLLHUP | sys::POLLERR) != 0,
        unread: unread(fd, events & sys::POLLIN != 0),
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
    let cookie = match TABLE.shutdown(fd, sys::cookie(fd)) {
        Shutdown::Leave => return None,
        Shutdown::Done => return Some(0),
        Shutdown::HandOver { cookie } => cookie,
    };
    let socket = ask(fd);
    if socket.peer_finished || socket.over {
        return None;
    }
    if sys::shutdown(fd, sys::SHUT_WR) < 0 {
        core::mem::forget(errno);
        return Some(-1);
    }
    if !channel::send(Message::about(MessageKind::Shutdown, cookie, socket.unread), Some(fd)) {
        return None;
    }
    TABLE.handed(fd);
    Some(0)
}

/// Makes a call that restricts the process (`seccomp(2)`): from then on it has no connection that this library handles.
pub(crate) fn entering_sandbox<T: Default + PartialOrd>(real: impl FnOnce() -> T) -> T {
    if settings::settings().is_some_and(|settings| settings.hold) {
        // The later close of held connections could not be reported to the supervisor.
        let _errno = sys::Errno::keep();
        TABLE.fds(0, c_int::MAX).for_each(|fd| unhold(TABLE.given_away(fd)));
    }
    let result = real();
    // `SECCOMP_FILTER_FLAG_NEW_LISTENER` returns an fd.
    if result >= T::default() {
        sandbox::enter();
    }
    result
}
