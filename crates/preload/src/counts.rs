//! Closes that end in this process, plainly: each is told to the supervisor.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use linger_custody::Count;

use crate::channel;
use crate::protocol::{Message, MessageKind};

/// What could not be told yet: told as soon as the supervisor hears anything again.
static UNTOLD: [AtomicU32; Count::ALL] = [const { AtomicU32::new(0) }; Count::ALL];

/// Whether there is any.
static ANY: AtomicBool = AtomicBool::new(false);

/// Counts a close. Does not wait for a supervisor that does not read.
pub(crate) fn count(what: Count) {
    tell(what, 1);
}

/// Tells what could not be told before: the supervisor has just heard something.
pub(crate) fn tell_the_rest() {
    if ANY.load(Relaxed) && ANY.swap(false, Relaxed) {
        Count::EACH.into_iter().for_each(|what| tell(what, 0));
    }
}

fn tell(what: Count, more: u32) {
    let Some(untold) = UNTOLD.get(what as usize) else { return };
    let number = untold.swap(0, Relaxed) + more;
    if number > 0 && !channel::try_send(Message::about(MessageKind::Counted, what as u64, number)) {
        untold.fetch_add(number, Relaxed);
        ANY.store(true, Relaxed);
    }
}

/// Takes a count back.
pub(crate) fn uncount(what: Count) {
    channel::send(Message::about(MessageKind::Uncounted, what as u64, 1), None);
}

/// In a forked child: the parent tells its own.
pub(crate) fn forget() {
    ANY.store(false, Relaxed);
    UNTOLD.iter().for_each(|untold| untold.store(0, Relaxed));
}

/// What has not been told: all, where there is no supervisor.
#[cfg(test)]
pub(crate) fn untold(what: Count) -> u64 {
    UNTOLD[what as usize].load(Relaxed).into()
}
