//! Closes that end in this process, plainly: each is told to the supervisor.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use linger_custody::Count;

use crate::channel;
use crate::protocol::{Message, MessageKind};

/// What could not be told yet: told with the next of its kind.
static UNTOLD: [AtomicU32; Count::ALL] = [const { AtomicU32::new(0) }; Count::ALL];

/// Counts a close. Does not wait for a supervisor that does not read.
pub(crate) fn count(what: Count) {
    let Some(untold) = UNTOLD.get(what as usize) else { return };
    let number = untold.swap(0, Relaxed) + 1;
    if !channel::try_send(Message::about(MessageKind::Counted, what as u64, number)) {
        untold.fetch_add(number, Relaxed);
    }
}

/// Takes a count back.
pub(crate) fn uncount(what: Count) {
    channel::send(Message::about(MessageKind::Uncounted, what as u64, 1), None);
}

/// In a forked child: the parent tells its own.
pub(crate) fn forget() {
    UNTOLD.iter().for_each(|untold| untold.store(0, Relaxed));
}

/// What has not been told: all, where there is no supervisor.
#[cfg(test)]
pub(crate) fn untold(what: Count) -> u64 {
    UNTOLD[what as usize].load(Relaxed).into()
}
