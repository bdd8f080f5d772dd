//! The state of this process: the table of its connections, and the counters that it shares with its children.

use core::ffi::c_int;
use core::mem::size_of;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering::Relaxed};

use linger_custody::process::{Epolls, ShareWord, Shares, Table};

use crate::sys;

/// Fds from this number on are closed plainly; 6 MiB of address space, of which the touched pages are used.
const FDS: usize = 1 << 18;

pub(crate) static TABLE: Table<FDS> = Table::new();

static SHARES: AtomicPtr<ShareWord> = AtomicPtr::new(core::ptr::null_mut());

/// Whether the program has ever set `SO_LINGER`; an accepted socket inherits it.
static LINGERS: AtomicBool = AtomicBool::new(false);

/// Maps the shared memory, before `main`.
pub(crate) fn prepare() {
    if let Some(memory) = sys::map(None, Shares::MOST * size_of::<ShareWord>()) {
        SHARES.store(memory.cast(), Relaxed);
    }
    TABLE.belongs_to(sys::pid());
}

pub(crate) fn shares() -> Shares<'static> {
    let memory = SHARES.load(Relaxed);
    if memory.is_null() {
        return Shares::new(&[]);
    }
    // SAFETY: the mapping has MOST zeroed words, is page-aligned and never unmapped.
    Shares::new(unsafe { core::slice::from_raw_parts(memory, Shares::MOST) })
}

pub(crate) fn is_this_process() -> bool {
    TABLE.is_of(sys::pid())
}

pub(crate) fn program_lingers() {
    LINGERS.store(true, Relaxed);
}

/// Whether the program wants a reset (`SO_LINGER` with timeout 0). Asks the kernel only if the program has ever set it.
pub(crate) fn aborts(fd: c_int) -> bool {
    LINGERS.load(Relaxed) && sys::aborts(fd)
}

/// Removes a connection from the epolls that watch it. The kernel would do that at the last close, but the supervisor
/// keeps a copy, so the program would get events of a connection that it has closed.
pub(crate) fn unwatch(fd: c_int, epolls: Epolls) {
    TABLE.each_epoll(epolls).for_each(|epoll| sys::forget(epoll, fd));
}
