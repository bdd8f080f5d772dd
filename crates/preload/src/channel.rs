//! This process's connection to the supervisor.
//!
//! Made when first needed, and again when it is gone: programs close descriptors that they do not know. It is known by the
//! kernel's cookie as well as by its number, so that nothing is ever written into a connection of the program's.

use core::ffi::c_int;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::protocol::Message;
use crate::{message, settings, sys};

/// Descriptor and cookie in one word, so that they are always of one and the same socket; zero is none.
static CHANNEL: AtomicU64 = AtomicU64::new(0);
/// Cookies count up from one on each processor: 44 bits last for some 17 million million sockets.
const COOKIE_BITS: u32 = 44;
const COOKIE: u64 = (1 << COOKIE_BITS) - 1;

/// Above what programs use, where that can be, and below what `select(2)` can name.
const AROUND: c_int = 900;

/// How long a close waits for a supervisor that does not read, at most: this often, this long. Where there is room again,
/// another thread may take it first.
const TRIES: u32 = 20;
const TRY_MS: i64 = 5;

/// Whether a descriptor is the connection, which the program must not close.
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
        // The limit of descriptors is lower than that.
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
            // Another thread was faster.
            sys::close(fd);
            (other != 0).then_some((other >> COOKIE_BITS) as c_int)
        }
    }
}

/// Sends a message; whether the supervisor will get it.
pub(crate) fn send(message: Message, fd: Option<c_int>) -> bool {
    let Some(channel) = current() else { return false };
    let bytes = message.to_bytes();
    for _ in 0..TRIES {
        match message::send(channel, &bytes, fd) {
            Ok(()) => return true,
            Err(sys::EAGAIN) => {
                sys::poll(channel, sys::POLLOUT, TRY_MS);
            }
            // Too many descriptors are under way for this user (`unix(7)`): they get fewer as they are received.
            Err(sys::ETOOMANYREFS) => {
                sys::poll(channel, 0, TRY_MS);
            }
            Err(_) => return false,
        }
    }
    false
}

/// In a forked child: the connection is the parent's, whose end it must not delay.
pub(crate) fn leave() {
    if let Some(fd) = descriptor() {
        CHANNEL.store(0, Relaxed);
        sys::close(fd);
    }
}

/// Frees the number for the program, which wants it for itself.
pub(crate) fn make_way(fd: c_int) {
    if is(fd) {
        leave();
    }
}
