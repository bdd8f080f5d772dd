//! Held connections that this process has closed and whose close could not be reported to the supervisor, whose copies
//! still keep them open.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::channel;
use crate::protocol::{Message, MessageKind};

/// Cookies; 0 is a free place. What does not fit stays open until the process ends.
static COOKIES: [AtomicU64; 1_024] = [const { AtomicU64::new(0) }; 1_024];

/// Whether any cookie is stored.
static ANY: AtomicBool = AtomicBool::new(false);

/// Tells the supervisor to drop its copy, now or as soon as it takes messages again.
pub(crate) fn release(cookie: u64) {
    if !channel::send(Message::about(MessageKind::Release, cookie, 0), None) {
        remember(cookie);
    }
}

/// Stores a cookie. It is released as soon as the supervisor takes messages again.
pub(crate) fn remember(cookie: u64) {
    let free = |place: &&AtomicU64| place.compare_exchange(0, cookie, Relaxed, Relaxed).is_ok();
    if COOKIES.iter().find(free).is_some() {
        ANY.store(true, Relaxed);
    }
}

/// Releases the stored cookies: the supervisor has just taken a message.
pub(crate) fn tell() {
    if ANY.load(Relaxed) && ANY.swap(false, Relaxed) {
        for place in &COOKIES {
            let cookie = place.swap(0, Relaxed);
            if cookie != 0 && !channel::try_send(Message::about(MessageKind::Release, cookie, 0)) {
                remember(cookie);
            }
        }
    }
}

/// In a forked child: forgets the parent's cookies, which the parent releases.
pub(crate) fn forget() {
    ANY.store(false, Relaxed);
    COOKIES.iter().for_each(|place| place.store(0, Relaxed));
}
