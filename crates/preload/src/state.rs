//! What this process knows of its connections: the one table.

use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use linger_custody::process::{Epolls, Table};

use crate::{sandbox, sys};

/// Fds from this number on are closed plainly; 6 MiB of address space, of which the touched pages are used.
const FDS: usize = 1 << 18;

pub(crate) static TABLE: Table<FDS> = Table::new();

/// Whether the program has ever set `SO_LINGER`; an accepted socket inherits it.
static LINGERS: AtomicBool = AtomicBool::new(false);

/// Whether the program has ever called `shutdown` with `SHUT_RD`.
static SHUTS_READ_SIDE: AtomicBool = AtomicBool::new(false);

/// Whether the program has ever set `SO_RCVLOWAT`; an accepted socket inherits it.
static WAITS_FOR_MORE: AtomicBool = AtomicBool::new(false);

/// Notes that the table is of this process. Called before `main`.
pub(crate) fn prepare() {
    TABLE.belongs_to(sys::pid());
}

pub(crate) fn is_this_process() -> bool {
    TABLE.is_of(sys::pid())
}

/// Whether an fd has an entry. False in a process with a seccomp filter of its own, where no call may be made for the
/// fd.
#[inline]
pub(crate) fn is_tracked(fd: c_int) -> bool {
    TABLE.is_tracked(fd) && !sandbox::is_entered()
}

pub(crate) fn program_shuts_read_side() {
    SHUTS_READ_SIDE.store(true, Relaxed);
}

pub(crate) fn shuts_read_side() -> bool {
    SHUTS_READ_SIDE.load(Relaxed)
}

pub(crate) fn program_waits_for_more() {
    WAITS_FOR_MORE.store(true, Relaxed);
}

/// Received bytes that are unread, of an fd for which `poll` has told whether it `is_readable`: without a low-water mark of the
/// program's own, each unread byte makes it so (`tcp_poll`).
pub(crate) fn unread(fd: c_int, is_readable: bool) -> u32 {
    if is_readable || WAITS_FOR_MORE.load(Relaxed) { sys::unread(fd) } else { 0 }
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
