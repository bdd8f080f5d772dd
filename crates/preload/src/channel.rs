//! This process's connection to the supervisor.
//!
//! Made when first needed, and made again after the program has closed it: programs close fds that they do not know. The
//! socket's cookie is compared before each use, so that nothing is ever written into a connection of the program.
//!
//! A supervisor that does not read, or is gone, costs a close what [`patience`](crate::patience) permits.

use core::ffi::c_int;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::patience::{HungUp, Progress, Waits};
use crate::protocol::Message;
use crate::{message, sandbox, settings, sys};

/// The fd and the cookie in one atomic word, so that both are always of the same socket. Zero is none.
static CHANNEL: AtomicU64 = AtomicU64::new(0);
/// Bits of the cookie in that word; the fd has the other 20. The kernel counts cookies up, so 44 bits suffice for
/// 1.7e13 sockets.
const COOKIE_BITS: u32 = 44;
const COOKIE: u64 = (1 << COOKIE_BITS) - 1;

/// Lowest fd for the connection: above the fds that programs use, and below FD_SETSIZE of `select(2)`.
const AROUND: c_int = 900;

static WAITS: Waits = Waits::new();
static PROGRESS: Progress = Progress::new();
static HUNG_UP: HungUp = HungUp::new();

/// Whether an fd is the connection to the supervisor, which the program must not close. Once the program is in a
/// sandbox no fd is: nothing is sent any more, so it may close this one, too.
#[inline]
pub(crate) fn is(fd: c_int) -> bool {
    descriptor() == Some(fd)
}

pub(crate) fn descriptor() -> Option<c_int> {
    match CHANNEL.load(Relaxed) {
        0 => None,
        _ if sandbox::is_entered() => None,
        both => Some((both >> COOKIE_BITS) as c_int),
    }
}

fn current(now_ms: u64) -> Option<c_int> {
    let both = CHANNEL.load(Relaxed);
    let fd = (both >> COOKIE_BITS) as c_int;
    let is_ours = both != 0 && sys::cookie(fd).is_some_and(|cookie| cookie & COOKIE == both & COOKIE);
    if HUNG_UP.is_noted() {
        return if HUNG_UP.may_try(now_ms) { connect(both, is_ours.then_some(fd), now_ms) } else { None };
    }
    if is_ours { Some(fd) } else { connect(both, None, now_ms) }
}

/// Connects, in the place of the connection at `dead` if there is one: another thread may be about to write there, and must
/// never find a file of the program at that number.
fn connect(both: u64, dead: Option<c_int>, now_ms: u64) -> Option<c_int> {
    let settings = settings::settings()?;
    let Some(low) = sys::connect(settings.name()) else {
        HUNG_UP.note(now_ms);
        return None;
    };
    let fd = match dead {
        Some(dead) => sys::replace(low, dead).then_some(dead),
        None => sys::fcntl(low, sys::F_DUPFD_CLOEXEC, AROUND),
    };
    let fd = match fd {
        Some(high) => {
            sys::close(low);
            high
        }
        // The limit of fds is lower than that number.
        None => low,
    };
    let fresh = sys::cookie(fd).map(|cookie| (fd as u64) << COOKIE_BITS | (cookie & COOKIE));
    let greeted = message::send(fd, &Message::hello(settings.token).to_bytes(), None).is_ok();
    let (Some(fresh), true) = (fresh, greeted) else {
        HUNG_UP.note(now_ms);
        if dead != Some(fd) {
            sys::close(fd);
        }
        return None;
    };
    PROGRESS.begins(now_ms);
    HUNG_UP.forget();
    match CHANNEL.compare_exchange(both, fresh, Relaxed, Relaxed) {
        Ok(_) => Some(fd),
        Err(other) => {
            // Another thread has connected first; use its connection.
            if dead != Some(fd) {
                sys::close(fd);
            }
            (other != 0).then_some((other >> COOKIE_BITS) as c_int)
        }
    }
}

/// Sends a message, and waits for room if [`Waits::take`] permits. Returns whether it was sent.
///
/// A supervisor that was stopped meanwhile receives the message when it is continued. To one that does not read
/// ([`Progress::reads`]) nothing is sent.
pub(crate) fn send(message: Message, fd: Option<c_int>) -> bool {
    let now_ms = sys::since_start_ms();
    attempt(message, fd, now_ms, |channel, error| {
        let wait_us = WAITS.take(now_ms);
        match error {
            sys::EAGAIN if wait_us > 0 => sys::poll(channel, sys::POLLOUT, wait_us as i64) != 0,
            // Too many fds of this user are in flight (unix(7)). The number falls as they are received.
            sys::ETOOMANYREFS if wait_us > 0 => {
                sys::poll(channel, 0, wait_us as i64);
                true
            }
            _ => false,
        }
    })
}

/// Sends a message without an fd, unless that would wait. Returns whether it was sent.
pub(crate) fn try_send(message: Message) -> bool {
    attempt(message, None, sys::since_start_ms(), |_, _| false)
}

/// Sends a message. If there is no room, tries once more if `wait` returns true.
fn attempt(
    message: Message,
    fd: Option<c_int>,
    now_ms: u64,
    wait: impl FnOnce(c_int, c_int) -> bool,
) -> bool {
    let Some(channel) = current(now_ms).filter(|channel| PROGRESS.reads(now_ms, || sys::queued(*channel)))
    else {
        return false;
    };
    let bytes = message.to_bytes();
    let sent = match message::send(channel, &bytes, fd) {
        Err(error @ (sys::EAGAIN | sys::ETOOMANYREFS)) => {
            if wait(channel, error) {
                message::send(channel, &bytes, fd)
            } else {
                Err(error)
            }
        }
        sent => sent,
    };
    match sent {
        Ok(()) => PROGRESS.sent(),
        // The supervisor has ended, or has turned this process away.
        Err(sys::EPIPE | sys::ECONNRESET | sys::ENOTCONN) => HUNG_UP.note(now_ms),
        // No room; or the program has closed the fd that was to be passed.
        Err(_) => {}
    }
    sent.is_ok()
}

/// In a forked child: closes the copy of the parent's connection, which would delay its hang-up.
pub(crate) fn leave() {
    if let Some(fd) = descriptor() {
        CHANNEL.store(0, Relaxed);
        HUNG_UP.forget();
        sys::close(fd);
    }
}

/// Closes the connection if the program is about to use its fd number (`dup2`). The next message connects again.
pub(crate) fn make_way(fd: c_int) {
    if is(fd) {
        leave();
    }
}
