//! Which descriptors of this process are connections to be ended well.
//!
//! One entry a descriptor, changed by single atomic operations, so that neither a signal nor a fork finds it
//! half-changed. An entry is a hint: [`Entry::cookie`] is compared with the kernel's before anything is done, since
//! a program may close and open descriptors behind this library's back.

use core::ffi::c_int;
use core::mem::size_of;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Descriptors from this number on are closed plainly; 4 MiB of address space, of which the touched pages are used.
const DESCRIPTORS: usize = 1 << 18;

/// A connection that this process accepted.
pub(crate) const TRACKED: u32 = 1;
/// Another descriptor of this process may refer to the same connection.
pub(crate) const COPIED: u32 = 2;
/// The supervisor has it already (`shutdown` was called).
pub(crate) const HANDED: u32 = 4;
/// Counted for the fork that is under way.
pub(crate) const FORKING: u32 = 8;
/// The supervisor holds it since it was accepted.
pub(crate) const HELD: u32 = 16;
/// The share's number plus one stands above these bits; zero is no share.
const SHARE_SHIFT: u32 = 8;

/// The epoll of an entry: none is known.
pub(crate) const NO_EPOLL: i32 = 0;
/// More than one.
pub(crate) const MANY_EPOLLS: i32 = -1;

struct Slot {
    state: AtomicU32,
    /// The epoll that has it, plus one; or one of the two above.
    epoll: AtomicI32,
    cookie: AtomicU64,
}

static TABLE: [Slot; DESCRIPTORS] =
    [const { Slot { state: AtomicU32::new(0), epoll: AtomicI32::new(0), cookie: AtomicU64::new(0) } };
        DESCRIPTORS];

/// No entry above this one was ever made.
static HIGHEST: AtomicI32 = AtomicI32::new(-1);

/// What was known of a descriptor.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) state: u32,
    pub(crate) epoll: i32,
    pub(crate) cookie: u64,
}

impl Entry {
    pub(crate) fn has(&self, bits: u32) -> bool {
        self.state & bits != 0
    }

    pub(crate) fn share(&self) -> Option<u32> {
        (self.state >> SHARE_SHIFT).checked_sub(1)
    }

    pub(crate) fn with_share(self, share: u32) -> u32 {
        (self.state & ((1 << SHARE_SHIFT) - 1)) | ((share + 1) << SHARE_SHIFT)
    }
}

fn slot(fd: c_int) -> Option<&'static Slot> {
    TABLE.get(usize::try_from(fd).ok()?)
}

/// Whether a descriptor has an entry: all that most calls come to.
#[inline]
pub(crate) fn is_tracked(fd: c_int) -> bool {
    slot(fd).is_some_and(|slot| slot.state.load(Relaxed) != 0)
}

pub(crate) fn entry(fd: c_int) -> Option<Entry> {
    let slot = slot(fd)?;
    let state = slot.state.load(Relaxed);
    let entry = Entry { state, epoll: slot.epoll.load(Relaxed), cookie: slot.cookie.load(Relaxed) };
    (state != 0).then_some(entry)
}

pub(crate) fn set(fd: c_int, state: u32, cookie: u64) {
    let Some(slot) = slot(fd) else { return };
    HIGHEST.fetch_max(fd, Relaxed);
    slot.cookie.store(cookie, Relaxed);
    slot.epoll.store(NO_EPOLL, Relaxed);
    slot.state.store(state, Relaxed);
}

/// How often, at 50 us, a close waits for a fork that is under way: a tenth of a second.
const FORK_PATIENCE: u32 = 2_000;

/// Takes the entry away; of two that come at once, one gets it.
///
/// While a fork is under way nobody can tell whether the child will have the connection, so the fork is waited
/// for. A signal handler in the middle of its own thread's fork would wait in vain, hence the bound.
pub(crate) fn take(fd: c_int) -> Option<Entry> {
    let slot = slot(fd)?;
    let mut patience = FORK_PATIENCE;
    loop {
        let entry = entry(fd)?;
        if entry.has(FORKING) && patience > 0 {
            patience -= 1;
            super::sys::pause();
        } else if slot.state.compare_exchange(entry.state, 0, Relaxed, Relaxed).is_ok() {
            return Some(entry);
        }
    }
}

/// Changes the state if it is still as it was read.
pub(crate) fn change(fd: c_int, from: u32, to: u32) -> bool {
    slot(fd).is_some_and(|slot| slot.state.compare_exchange(from, to, Relaxed, Relaxed).is_ok())
}

/// Sets bits of an entry that exists.
pub(crate) fn mark(fd: c_int, bits: u32) {
    while let Some(entry) = entry(fd) {
        if change(fd, entry.state, entry.state | bits) {
            return;
        }
    }
}

/// Notes that an epoll watches a descriptor.
pub(crate) fn watched(fd: c_int, epoll: c_int) {
    let Some(slot) = slot(fd) else { return };
    let known = slot.epoll.load(Relaxed);
    if known != epoll + 1 {
        slot.epoll.store(if known == NO_EPOLL { epoll + 1 } else { MANY_EPOLLS }, Relaxed);
    }
}

/// The descriptors from `first` to `last` that have an entry.
pub(crate) fn tracked(first: c_int, last: c_int) -> impl Iterator<Item = c_int> {
    (first.max(0)..=last.min(HIGHEST.load(Relaxed))).filter(|fd| is_tracked(*fd))
}

/// Whether any descriptor has an entry for this socket.
pub(crate) fn holds(cookie: u64) -> bool {
    tracked(0, c_int::MAX).any(|fd| entry(fd).is_some_and(|entry| entry.cookie == cookie))
}

/// How many processes have a connection that was open at a fork: counters in memory that the forked share.
static SHARES: AtomicU64 = AtomicU64::new(0);
static NEXT_SHARE: AtomicU32 = AtomicU32::new(0);
const MOST_SHARES: u32 = 1 << 16;

/// Makes the memory of the shares, before `main`.
pub(crate) fn prepare() {
    let size = MOST_SHARES as usize * size_of::<AtomicU32>();
    if let Some(memory) = super::sys::map(None, size) {
        SHARES.store(memory as u64, Relaxed);
    }
}

fn share(number: u32) -> Option<&'static AtomicU32> {
    let memory = SHARES.load(Relaxed) as *const AtomicU32;
    // SAFETY: the mapping has MOST_SHARES zeroed u32s, is page-aligned and never unmapped.
    (!memory.is_null() && number < MOST_SHARES).then(|| unsafe { &*memory.wrapping_add(number as usize) })
}

/// A counter of its own for a connection that two processes are about to have; `None` when there are none left.
pub(crate) fn new_share() -> Option<u32> {
    (0..MOST_SHARES).find_map(|_| {
        let number = NEXT_SHARE.fetch_add(1, Relaxed) % MOST_SHARES;
        share(number)?.compare_exchange(0, 2, Relaxed, Relaxed).ok().map(|_| number)
    })
}

pub(crate) fn join(number: u32) {
    if let Some(share) = share(number) {
        share.fetch_add(1, Relaxed);
    }
}

/// Gives a process's part up; whether it was the last.
pub(crate) fn leave(number: u32) -> bool {
    share(number).is_some_and(|share| share.fetch_sub(1, Relaxed) == 1)
}

/// The epolls of this process, for connections whose registration was not seen.
static EPOLLS: [AtomicI32; 64] = [const { AtomicI32::new(0) }; 64];

pub(crate) fn new_epoll(epoll: c_int) {
    for known in &EPOLLS {
        let free = known.load(Relaxed);
        if free == epoll + 1 || (free == 0 && known.compare_exchange(0, epoll + 1, Relaxed, Relaxed).is_ok())
        {
            return;
        }
    }
}

/// Removes a connection from the epolls that watch it: its file lives on elsewhere, and would go on to be
/// reported to a program that has forgotten it.
pub(crate) fn unwatch(fd: c_int, epoll: i32) {
    if epoll > 0 {
        return super::sys::forget(epoll - 1, fd);
    }
    for known in &EPOLLS {
        match known.load(Relaxed) {
            0 => return,
            known => super::sys::forget(known - 1, fd),
        }
    }
}
