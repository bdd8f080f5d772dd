//! The table of received and unanswered notifications, shared by the supervisor and its guard.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{self, Relaxed};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// Ids of the notifications that were received and not yet answered, in memory shared with the guard. The kernel delivers
/// each notification once, so after the supervisor's death the guard can answer these only by their ids.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unanswered {
    places: &'static [AtomicU64],
    /// How many calls the guard has continued.
    unheard: &'static AtomicU64,
}

impl Unanswered {
    /// Number of places. The kernel assigns ids in order, so only calls that wait for long (a held `accept`) can collide.
    const PLACES: usize = 4096;
    /// How far from its own place an id may be stored. If all those places are taken, the id is not stored.
    const NEAR: usize = 16;

    /// The mapping is never unmapped; there is one for each supervised program.
    pub(super) fn new() -> io::Result<Self> {
        let (length, flags) = ((Self::PLACES + 1) * size_of::<AtomicU64>(), MapFlags::SHARED);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe { mmap_anonymous(std::ptr::null_mut(), length, access, flags) }?;
        // SAFETY: zeroes, which are a valid value; page-aligned, as long as this, and never unmapped.
        let all: &'static [AtomicU64] =
            unsafe { std::slice::from_raw_parts(memory.cast(), Self::PLACES + 1) };
        let (unheard, places) = all.split_first().ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { places, unheard })
    }

    fn near(&self, id: u64) -> impl Iterator<Item = &'static AtomicU64> {
        let (places, first) = (self.places, id as usize);
        (0..Self::NEAR).map(move |step| &places[first.wrapping_add(step) % Self::PLACES])
    }

    pub(super) fn note(&self, id: u64) {
        let _ = self.near(id).find(|place| place.compare_exchange(0, id, Relaxed, Relaxed).is_ok());
    }

    pub(super) fn forget(&self, id: u64) {
        let _ = self.near(id).find(|place| place.compare_exchange(id, 0, Relaxed, Relaxed).is_ok());
    }

    pub(super) fn take_all(&self) -> impl Iterator<Item = u64> {
        self.places.iter().map(|place| place.swap(0, Relaxed)).filter(|id| *id != 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.iter().all(|place| place.load(Relaxed) == 0)
    }

    /// Called before the guard continues a call, so that whoever sees an effect of the call sees this count as well.
    pub(super) fn goes_unheard(&self) {
        self.unheard.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn unheard(&self) -> u64 {
        self.unheard.load(Ordering::SeqCst)
    }
}
