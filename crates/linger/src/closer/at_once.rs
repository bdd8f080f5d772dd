//! Ends that cannot wait: without a thread, or without room.

use std::io;
use std::os::fd::OwnedFd;

use linger_sys::Discarder;

use super::{Arrival, Watcher};
use crate::machine::{Action, Core};
use crate::outcome::Outcome;
use crate::policy::Policy;
use crate::socket::Socket;

/// What is read at once of what has arrived: as much as the largest usual receive buffer holds.
const AT_ONCE: u64 = 1 << 20;

/// Ends the connection of a descriptor where no closer can: the process could make none, or was forked from the
/// closer's.
pub(super) fn close_at_once(fd: OwnedFd, policy: &Policy, watcher: Option<Watcher>) {
    match Socket::new(fd) {
        Ok(socket) => end_and_tell(Arrival { socket, core: Core::new(policy, 0), watcher }),
        Err((fd, error)) => {
            drop(fd);
            tell(Outcome::failed(error.kind()), watcher);
        }
    }
}

/// Ends a connection where no closer can.
pub(crate) fn end_and_tell(arrival: Arrival) {
    let (outcome, watcher) = end_at_once(arrival, 0);
    tell(outcome, watcher);
}

fn tell(outcome: Outcome, watcher: Option<Watcher>) {
    outcome.trace();
    watcher.into_iter().for_each(|watcher| watcher(outcome));
}

/// Half-closes, empties once, closes.
pub(super) fn end_at_once(arrival: Arrival, now: u64) -> (Outcome, Option<Watcher>) {
    let Arrival { socket, mut core, watcher } = arrival;
    if core.next(now) == Action::HalfClose {
        core.on(socket.half_close(), now);
    }
    core.on(socket.discard(&mut Discarder::new(), AT_ONCE), now);
    core.evict();
    core.on(socket.measure(), now);
    let Action::Close { abort, outcome } = core.next(now) else {
        return (Outcome::failed(io::ErrorKind::Other), watcher);
    };
    socket.close(abort, core.acknowledged());
    (outcome, watcher)
}
