//! Ends connections: hands them over to the closer, and counts the outcomes.

use std::collections::{HashSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use linger::{Closer, Ended, Policy};
use linger_custody::world::Pid;
use linger_custody::{Count, Discarded};
use rustix::net::Shutdown;
use rustix::process::Signal;

use crate::prover::{Nominee, Proof};
use crate::socket;
use crate::tally::Tally;

/// Hands sockets over to the closer, and counts the outcomes.
#[derive(Debug)]
pub(crate) struct Ender {
    closer: Closer,
    policy: Policy,
    tally: Arc<Tally>,
    begun: Mutex<Begun>,
}

/// The connections that were ended last, by cookie.
#[derive(Debug, Default)]
struct Begun {
    cookies: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Begun {
    /// More than linger at a time, or are let go of by two processes at about the same one.
    const MOST: usize = 1 << 16;

    /// False if it was there.
    fn insert(&mut self, cookie: u64) -> bool {
        let new = self.cookies.insert(cookie);
        if new {
            self.order.push_back(cookie);
        }
        if self.order.len() > Self::MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.cookies.remove(&oldest);
        }
        new
    }
}

impl Ender {
    pub(crate) fn new(closer: Closer, policy: Policy, tally: Arc<Tally>) -> Self {
        Self { closer, policy, tally, begun: Mutex::default() }
    }

    /// Counts what a process has ended itself.
    pub(crate) fn count(&self, what: Count, number: u64) {
        self.tally.count(what, number);
    }

    /// Takes that back.
    pub(crate) fn uncount(&self, what: Count) {
        self.tally.uncount(what);
    }

    /// How often the fds of processes have been searched so far.
    pub(crate) fn looked(&self, looks: u64) {
        self.tally.looks.store(looks, Relaxed);
    }

    /// Carries out what a proof has come to.
    pub(crate) fn conclude(&self, proof: Proof) {
        match proof {
            Proof::Sole(nominee) => self.end(nominee),
            Proof::Shared(nominee) => {
                tracing::info!(nominee.cookie, "left plain: another process has it");
                self.tally.count(Count::Shared, nominee.closed.into());
            }
            Proof::Hidden(nominee, process) => {
                tracing::info!(nominee.cookie, ?process, "left plain: a process cannot be looked at");
                self.tally.count(Count::Refused, 1);
                if let Some(Pid(process)) = process
                    && self.tally.refuse(process)
                {
                    // The thread that tells it on waits for signals.
                    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::CHILD);
                }
            }
        }
    }

    /// One that nobody has any more.
    fn end(&self, nominee: Nominee) {
        let Nominee { fd, cookie, unread, .. } = nominee;
        if !self.begin(cookie) {
            // Another process has let go of it meanwhile, as the last.
            return self.tally.count(Count::Shared, nominee.closed.into());
        }
        self.tally.count(Count::Unread, (unread > 0).into());
        // All that will come is there: without it the plain close loses nothing.
        if unread > 0 && socket::socket(fd.as_fd()).peer_finished {
            let reason = match socket::discard(&fd) {
                Discarded::ToTheEnd => Some(Count::Drained),
                Discarded::Failed => Some(Count::Gone),
                Discarded::Unable => None,
            };
            if let Some(reason) = reason {
                return self.tally.count(reason, 1);
            }
        }
        tracing::info!(cookie, "lingers: nobody else has it");
        self.tally.count(Count::Handed, 1);
        // ENOTCONN: it is over.
        let _ = rustix::net::shutdown(&fd, Shutdown::Write);
        self.end_then(fd, || {});
    }

    /// Whether a connection is not ended yet: a process may let go of what another has shut down, or has let go of last.
    fn begin(&self, cookie: u64) -> bool {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).insert(cookie)
    }

    /// One that the seccomp thread has counted, and half-closed.
    pub(crate) fn end_proved(&self, fd: OwnedFd) {
        self.end_then(fd, || {});
    }

    /// For a socket that the program still has open: it learns of the end by what `shutdown` of both sides brings.
    pub(crate) fn end_and_shut_down(&self, fd: OwnedFd, cookie: u64, unread: u32) {
        if !self.begin(cookie) {
            return;
        }
        self.tally.count(Count::Handed, 1);
        self.tally.count(Count::Unread, (unread > 0).into());
        let Ok(other) = fd.try_clone() else { return self.end_then(fd, || {}) };
        self.end_then(fd, move || {
            let _ = rustix::net::shutdown(&other, Shutdown::Both);
        });
    }

    /// One that was to be held here, and is not.
    pub(crate) fn missed(&self) {
        self.tally.count(Count::Refused, 1);
    }

    fn end_then(&self, fd: OwnedFd, then: impl FnOnce() + Send + 'static) {
        // SIOCOUTQ counts the FIN of the half-close as one byte.
        let before = linger_sys::send_queue(fd.as_fd()).unwrap_or(0).saturating_sub(1);
        let tally = Arc::clone(&self.tally);
        self.closer.close_then(fd, &self.policy, move |outcome| {
            tally
                .bytes_saved
                .fetch_add(before.saturating_sub(outcome.unacknowledged.unwrap_or(before)), Relaxed);
            if outcome.unacknowledged.is_some_and(|bytes| bytes > 0) {
                tally.lost.fetch_add(1, Relaxed);
            }
            if outcome.ended == Ended::Gone && outcome.delivered() {
                tally.closed_before.fetch_add(1, Relaxed);
            }
            then();
        });
    }
}
