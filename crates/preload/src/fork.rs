//! The child of a fork.

use core::ffi::c_int;

use crate::ending::hold_again;
use crate::state::TABLE;
use crate::{channel, counts, releases, sandbox, settings, sys};

/// Runs in the child: its connections are its own from now on.
pub(crate) extern "C" fn child() {
    if sandbox::is_entered() {
        return;
    }
    channel::leave();
    counts::forget();
    releases::forget();
    TABLE.child(sys::pid());
    if !settings::settings().is_some_and(|settings| settings.hold) {
        return;
    }
    let _errno = sys::Errno::keep();
    for fd in TABLE.fds(0, c_int::MAX) {
        let cookie = sys::cookie(fd);
        if TABLE.child_holds(fd, cookie)
            && let Some(cookie) = cookie
        {
            hold_again(fd, cookie);
        }
    }
}
