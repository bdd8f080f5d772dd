//! This process's connection to the supervisor.
//!
//! Made when first needed, and made again after the program has closed it: programs close fds that they do not know. The
//! socket's cookie is compared before each use, so that nothing is ever written into a connection of the program.

use core::ffi::c_int;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::protocol::Message;
use crate::{message, settings, sys};

/// The fd and the cookie in one atomic word, so that both are always of the same socket. Zero is none.
static CHANNEL: AtomicU64 = AtomicU64::new(0);
/// Cookies count up from one on each processor: 44 bits suffice for 1.7e13 sockets.
const COOKIE_BITS: u32 = 44;
const COOKIE: u64 = (1 << COOKIE_BITS) - 1;

/// Lowest fd for the connection: above the fds that programs use, and below FD_SETSIZE of `select(2)`.
const AROUND: c_int = 900;

/// How often and how long (in milliseconds) a close waits for a supervisor that does not read. Several waits, because
/// another thread may fill the buffer first.
const TRIES: u32 = 20;
const TRY_MS: i64 = 5;

/// Whether an fd is the connection to the supervisor, which the program must not close.
#[inline]
pub(crate) fn is(fd: c_int) -> bool {
    descriptor() == Some(fd)
}

pub(crate) fn descriptor() -> Option<c_int> {
    match CHANNEL.load(Relaxed) {
        0 => None,
        both => Some((both >> COOKIE_BITS) as c_int),
    }
}

fn current() -> Option<c_int> {
    let both = CHANNEL.load(Relaxed);
    let fd = (both >> COOKIE_BITS) as c_int;
    if both != 0 && sys::cookie(fd).is_some_and(|cookie| cookie & COOKIE == both & COOKIE) {
        return Some(fd);
    }
    let settings = settings::settings()?;
    let low = sys::connect(settings.name())?;
    let fd = match sys::fcntl(low, sys::F_DUPFD_CLOEXEC, AROUND) {
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
        sys::close(fd);
        return None;
    };
    match CHANNEL.compare_exchange(both, fresh, Relaxed, Relaxed) {
        Ok(_) => Some(fd),
        Err(other) => {
            // Another thread has connected first; use its connection.
            sys::close(fd);
            (other != 0).then_some((other >> COOKIE_BITS) as c_int)
        }
    }
}

/// Sends a message. True if the supervisor will receive it.
pub(crate) fn send(message: Message, fd: Option<c_int>) -> bool {
    let Some(channel) = current() else { return false };
    let bytes = message.to_bytes();
    for _ in 0..TRIES {
        match message::send(channel, &bytes, fd) {
            Ok(()) => return true,
            Err(sys::EAGAIN) => {
                sys::poll(channel, sys::POLLOUT, TRY_MS);
            }
            // ETOOMANYREFS: too many fds of this user are in flight (unix(7)). The number falls as they are received.
            Err(sys::ETOOMANYREFS) => {
                sys::poll(channel, 0, TRY_MS);
            }
            Err(_) => return false,
        }
    }
    false
}

/// Sends a message without an fd, unless that would wait.
pub(crate) fn try_send(message: Message) -> bool {
    current().is_some_and(|channel| message::send(channel, &message.to_bytes(), None).is_ok())
}

/// In a forked child: closes the copy of the parent's connection, which would delay its hang-up.
pub(crate) fn leave() {
    if let Some(fd) = descriptor() {
        CHANNEL.store(0, Relaxed);
        sys::close(fd);
    }
}

/// Closes the connection if the program is about to use its fd number (`dup2`). The next message connects again.
pub(crate) fn make_way(fd: c_int) {
    if is(fd) {
        leave();
    }
}
