//! Connections that were open when the program forked: the last process to close one ends it.

use core::ffi::c_int;

use super::table::{self, FORKING, HANDED, HELD};
use super::{channel, ending, setup, sys};
use crate::protocol::{Kind, Message};

/// In the parent, before: counted now, so that the parent cannot end what the child is about to have.
pub(crate) extern "C" fn prepare() {
    for fd in table::tracked(0, c_int::MAX) {
        let Some(entry) = table::entry(fd) else { continue };
        match entry.share() {
            // Marked first: from then on nobody closes it.
            Some(share) => {
                if table::change(fd, entry.state, entry.state | FORKING) {
                    table::join(share);
                }
            }
            None => match table::new_share() {
                Some(share) => {
                    if !table::change(fd, entry.state, entry.with_share(share) | FORKING) {
                        // Closed meanwhile by another thread.
                        table::leave(share);
                        table::leave(share);
                    }
                }
                None => {
                    table::take(fd);
                }
            },
        }
    }
}

pub(crate) extern "C" fn parent() {
    for fd in table::tracked(0, c_int::MAX) {
        unmark(fd);
    }
}

pub(crate) extern "C" fn child() {
    channel::leave();
    ending::this_process();
    for fd in table::tracked(0, c_int::MAX) {
        let Some(entry) = table::entry(fd) else { continue };
        if !entry.has(FORKING) {
            // Accepted by another thread between the two: the parent's alone.
            table::take(fd);
            continue;
        }
        unmark(fd);
        if entry.has(HELD) && !entry.has(HANDED) && setup::settings().is_some_and(|settings| settings.hold) {
            let _errno = sys::Errno::keep();
            channel::send(Message::about(Kind::Hold, entry.cookie, 0), Some(fd));
        }
    }
}

fn unmark(fd: c_int) {
    while let Some(entry) = table::entry(fd) {
        if !entry.has(FORKING) || table::change(fd, entry.state, entry.state & !FORKING) {
            return;
        }
    }
}
