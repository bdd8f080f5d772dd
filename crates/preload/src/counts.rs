//! Counters in a file that the supervisor and all processes of the program map.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use linger_custody::Count;

use crate::protocol::COUNTS_SIZE;
use crate::sys;

/// Used by a process that could not map the file: its counts are not reported.
static LOST: [AtomicU64; Count::ALL] = [const { AtomicU64::new(0) }; Count::ALL];
static SHARED: AtomicU64 = AtomicU64::new(0);

pub(crate) fn prepare(path: &core::ffi::CStr) {
    if let Some(memory) = sys::map(Some(path), COUNTS_SIZE) {
        SHARED.store(memory as u64, Relaxed);
    }
}

pub(crate) fn count(what: Count) {
    add(what, 1);
}

/// Counts a close of a connection, under its reason.
///
/// A connection that is handed over is counted by the supervisor when it arrives there, because this process may be
/// killed in between. So nothing is counted here for [`Count::Handed`], except by [`shut_down`].
pub(crate) fn seen(reason: Count) {
    if reason != Count::Handed {
        count(Count::Seen);
        count(reason);
    }
}

/// Counts a connection that a `shutdown` has handed over. If two threads shut it down at the same time, the supervisor
/// gets two messages; only the library knows which of the two calls is to be counted (`Table::handed`).
pub(crate) fn shut_down() {
    count(Count::Seen);
    count(Count::Handed);
}

/// Reverts a count of [`seen`].
pub(crate) fn unseen(reason: Count) {
    if reason != Count::Handed {
        add(Count::Seen, u64::MAX);
        add(reason, u64::MAX);
    }
}

fn add(what: Count, number: u64) {
    let shared = SHARED.load(Relaxed) as *const [AtomicU64; Count::ALL];
    // SAFETY: the mapping is COUNTS_SIZE bytes, page-aligned, of a file the supervisor keeps, and never unmapped.
    let all = if shared.is_null() { &LOST } else { unsafe { &*shared } };
    if let Some(counter) = all.get(what as usize) {
        counter.fetch_add(number, Relaxed);
    }
}

/// The counts so far.
#[cfg(test)]
pub(crate) fn counted(what: Count) -> u64 {
    LOST[what as usize].load(Relaxed)
}
