//! Counts of the closes that this process makes plainly itself. They are reported to the supervisor.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use linger_custody::Count;

use crate::channel;
use crate::protocol::{Message, MessageKind};

/// Counts that could not be reported yet. They are reported as soon as the supervisor takes messages again.
static UNTOLD: [AtomicU32; Count::ALL] = [const { AtomicU32::new(0) }; Count::ALL];

/// Whether any of them is not zero.
static ANY: AtomicBool = AtomicBool::new(false);

/// Counts a close. Does not wait for a supervisor that does not read.
pub(crate) fn count(what: Count) {
    tell(what, 1);
}

/// Reports the counts that could not be reported before: the supervisor has just taken a message.
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

/// In a forked child: forgets the parent's counts, which the parent reports.
pub(crate) fn forget() {
    ANY.store(false, Relaxed);
    UNTOLD.iter().for_each(|untold| untold.store(0, Relaxed));
}

/// Counts that were not reported: all of them, if there is no supervisor.
#[cfg(test)]
pub(crate) fn untold(what: Count) -> u64 {
    UNTOLD[what as usize].load(Relaxed).into()
}
