//! Counters in a file that the supervisor and all processes of the program map.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::sys;
use crate::protocol::{COUNTS, COUNTS_SIZE, Count};

/// For a process that could not map the file: counted here, and told to nobody.
static LOST: [AtomicU64; COUNTS] = [const { AtomicU64::new(0) }; COUNTS];
static SHARED: AtomicU64 = AtomicU64::new(0);

pub(crate) fn prepare(path: &core::ffi::CStr) {
    if let Some(memory) = sys::map(Some(path), COUNTS_SIZE) {
        SHARED.store(memory as u64, Relaxed);
    }
}

pub(crate) fn count(what: Count) {
    let shared = SHARED.load(Relaxed) as *const [AtomicU64; COUNTS];
    // SAFETY: the mapping is COUNTS_SIZE bytes, page-aligned, of a file the supervisor keeps, and never unmapped.
    let all = if shared.is_null() { &LOST } else { unsafe { &*shared } };
    if let Some(counter) = all.get(what as usize) {
        counter.fetch_add(1, Relaxed);
    }
}
