//! Connections that were open when the program forked: the last process to close one ends it.

use core::ffi::c_int;

use crate::ending::{hold_again, patiently, unhold};
use crate::state::{TABLE, shares};
use crate::{channel, settings, sys};

/// Runs in the parent, before the fork.
pub(crate) extern "C" fn prepare() {
    patiently(|_| TABLE.begins().then_some(()));
    for fd in TABLE.fds(0, c_int::MAX) {
        unhold(TABLE.prepare(fd, shares()));
    }
}

pub(crate) extern "C" fn parent() {
    TABLE.parent();
}

pub(crate) extern "C" fn child() {
    channel::leave();
    TABLE.child(sys::pid());
    if !settings::settings().is_some_and(|settings| settings.hold) {
        return;
    }
    let _errno = sys::Errno::keep();
    for fd in TABLE.fds(0, c_int::MAX) {
        let cookie = sys::cookie(fd);
        if TABLE.child_holds(fd, cookie, shares())
            && let Some(cookie) = cookie
        {
            hold_again(fd, cookie);
        }
    }
}
