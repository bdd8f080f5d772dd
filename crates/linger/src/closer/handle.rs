//! The way from a handle to the board, which only the process that has the closer's thread may take.

use std::sync::Arc;
use std::time::Duration;

use linger_sys::Process;
use linger_sys::fd::OwnedFd;

use super::alarm::Clock;
use super::at_once::end_at_once;
use super::board::Shared;
use super::counts::Snapshot;
#[cfg(feature = "tokio")]
use super::watched::{Ticket, Watched};
use super::{Arrival, Watcher};
use crate::machine::{Action, Core};
use crate::outcome::Outcome;
use crate::policy::Policy;
use crate::socket::Socket;

/// A closer, shared by its clones in this process and in forked children.
///
/// A forked child has the memory of the closer but not its thread, and the lock may have been held at the fork. So the
/// board is private to this type, and [`here`](Self::here), which asks for the process first, is the only way to it.
/// Dropping the last handle tells the thread that no more sockets come.
pub(super) struct Handle {
    shared: Arc<Shared>,
    process: Process,
}

impl Handle {
    /// A handle to the board of a thread that this process has started.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, process: Process::current() }
    }

    /// The closer, if this is its process.
    pub(super) fn here(&self) -> Option<Here<'_>> {
        (self.process == Process::current()).then_some(Here { handle: self })
    }

    /// The clock by which the machines of this closer's sockets go. It runs in every process.
    pub(super) fn clock(&self) -> Clock {
        self.shared.clock()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(here) = self.here() {
            here.shared().no_more();
        }
    }
}

/// A closer whose thread runs in this process.
///
/// [`Handle::here`] makes it for one call. It is not kept: after a call of foreign code, which may fork, ask for a new one.
#[derive(Clone, Copy)]
pub(crate) struct Here<'a> {
    handle: &'a Handle,
}

impl<'a> Here<'a> {
    fn shared(self) -> &'a Shared {
        &self.handle.shared
    }

    /// Takes a descriptor over.
    pub(super) fn hand_over(self, fd: OwnedFd, policy: &Policy, watcher: Option<Watcher>) {
        let core = Core::new(policy, self.now());
        match Socket::new(fd) {
            Ok(socket) => self.submit(Arrival { socket, core, watcher }, false),
            Err((fd, error)) => {
                drop(fd);
                self.shared().refused();
                self.ended(Outcome::failed(error.kind()), watcher);
            }
        }
    }

    /// Hands a socket over to the thread. The FIN is sent here, so that the peer has it at once.
    fn submit(self, mut arrival: Arrival, is_counted: bool) {
        if arrival.core.next(self.now()) == Action::HalfClose {
            arrival.core.on(arrival.socket.half_close(), self.now());
        }
        if let Some(shed) = self.shared().submit(arrival, is_counted) {
            let (outcome, watcher) = end_at_once(shed, self.now());
            self.ended(outcome, watcher);
        }
    }

    /// Counts a close that the thread has no part in, and calls its watcher, here on the caller's thread.
    fn ended(self, outcome: Outcome, watcher: Option<Watcher>) {
        outcome.trace();
        self.shared().record(&outcome);
        let Some(watcher) = watcher else { return self.shared().reported() };
        let handle = self.handle;
        watcher(outcome);
        if let Some(here) = handle.here() {
            here.shared().reported();
        }
    }

    fn now(self) -> u64 {
        self.handle.clock().now()
    }

    pub(super) fn snapshot(self) -> Snapshot {
        self.shared().snapshot()
    }

    pub(super) fn evict(self, count: usize) {
        self.shared().evict(count);
    }

    pub(super) fn finish(self, deadline: Duration) -> Snapshot {
        self.shared().finish(deadline)
    }

    /// Notes a socket whose close is driven on the runtime. The thread takes it over if that takes too long.
    #[cfg(feature = "tokio")]
    pub(crate) fn watch(self, watched: Arc<dyn Watched>, now: u64) -> Ticket {
        self.shared().watch(watched, now)
    }

    /// Takes over a socket that was watched.
    #[cfg(feature = "tokio")]
    pub(crate) fn take_over(self, ticket: Ticket, arrival: Arrival) {
        self.shared().unwatch(ticket, None);
        self.submit(arrival, true);
    }

    /// Counts the end of a watched socket.
    #[cfg(feature = "tokio")]
    pub(crate) fn count_end(self, ticket: Ticket, outcome: &Outcome) {
        outcome.trace();
        self.shared().unwatch(ticket, Some(outcome));
    }
}

#[cfg(all(test, not(loom)))]
#[path = "handle_tests.rs"]
mod tests;
