//! Ends connections: hands them over to the closer, and counts the outcomes.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use linger::{Bound, Closer, Ended, Policy};
use linger_custody::world::Pid;
use linger_custody::{Count, Discarded};
use rustix::net::Shutdown;
use rustix::process::Signal;

use crate::disposal::Disposal;
use crate::prover::{Nominee, Proof};
use crate::shares::{Passed, Share, Shares};
use crate::socket;
use crate::tally::Tally;

mod parted;
#[cfg(test)]
mod tests;

pub(crate) use parted::SHORTLY;
use parted::{Parted, PartedQueue};

/// Hands sockets over to the closer, and counts the outcomes.
#[derive(Debug)]
pub(crate) struct Ender {
    closer: Closer,
    policy: Policy,
    tally: Arc<Tally>,
    begun: Mutex<Begun>,
    /// The connections that linger.
    shares: Shares,
    /// Half-closed connections that the closer gets soon.
    parted: Mutex<PartedQueue>,
    disposal: Disposal<Option<Share>>,
}

/// The connections that were ended last, by cookie.
#[derive(Debug, Default)]
struct Begun {
    cookies: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Begun {
    /// More than the connections that linger at a time by default (16,384), or that two processes close at about the
    /// same time.
    const MOST: usize = 1 << 16;

    /// Remembers a cookie. Returns false if it is remembered already.
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
    /// `lingering` is the most connections that linger at once, for all users together. A single user has no share to
    /// exceed: the closer then ends its oldest connection for a new one.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(crate) fn new(
        closer: Closer,
        policy: Policy,
        tally: Arc<Tally>,
        lingering: usize,
    ) -> io::Result<Self> {
        let (begun, disposal) = (Mutex::default(), Disposal::start()?);
        let (shares, parted) = (Shares::new(lingering, usize::MAX), Mutex::new(PartedQueue::new(lingering)));
        Ok(Self { closer, policy, tally, begun, shares, parted, disposal })
    }

    /// Closes an fd of a connection that is not to be ended here.
    pub(crate) fn let_go(&self, Passed { fd, share }: Passed) {
        self.disposal.close(fd, Some(share));
    }

    /// Closes an fd of which nothing is known.
    pub(crate) fn dispose(&self, fd: OwnedFd) {
        self.disposal.close(fd, None);
    }

    /// Counts closes that a process has made plainly itself.
    pub(crate) fn count(&self, what: Count, number: u64) {
        self.tally.count(what, number);
    }

    /// Takes one close back that was counted with [`count`](Self::count).
    pub(crate) fn uncount(&self, what: Count) {
        self.tally.uncount(what);
    }

    /// How often the fds of processes have been searched so far.
    pub(crate) fn looked(&self, looks: u64) {
        self.tally.looks.store(looks, Relaxed);
    }

    /// Carries out the result of a proof.
    pub(crate) fn conclude(&self, proof: Proof) {
        match proof {
            Proof::Sole(nominee) => self.end(nominee),
            Proof::Shared(nominee) => {
                tracing::info!(nominee.cookie, "left plain: another process has it");
                self.tally.count(Count::Shared, nominee.closed.into());
                self.let_go(nominee.passed);
            }
            Proof::Hidden(nominee, process) => {
                tracing::info!(nominee.cookie, ?process, "left plain: a process cannot be looked at");
                self.missed(nominee.unread);
                self.let_go(nominee.passed);
                if let Some(Pid(process)) = process
                    && self.tally.refuse(process)
                {
                    // Wakes the main thread, which waits for signals, so that it reports the process.
                    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::CHILD);
                }
            }
        }
    }

    /// Ends a connection that no process holds any more.
    fn end(&self, nominee: Nominee) {
        let Nominee { passed, cookie, unread, .. } = nominee;
        if !self.begin(cookie) {
            // Another process has closed it meanwhile, as the last one.
            self.tally.count(Count::Shared, nominee.closed.into());
            return self.let_go(passed);
        }
        self.tally.count(Count::Unread, (unread > 0).into());
        // The peer has sent its FIN: once the unread bytes are discarded, a plain close loses nothing.
        if unread > 0 && socket::socket(passed.fd.as_fd()).peer_finished {
            let reason = match socket::discard(&passed.fd) {
                Discarded::ToTheEnd => Some(Count::Drained),
                Discarded::Failed => Some(Count::Gone),
                Discarded::Unable => None,
            };
            if let Some(reason) = reason {
                self.tally.count(reason, 1);
                return self.let_go(passed);
            }
        }
        if self.part(passed, unread) {
            tracing::info!(cookie, "lingers: nobody else has it");
            self.tally.count(Count::Handed, 1);
        }
    }

    /// Half-closes a connection. The closer gets it after [`SHORTLY`], unless it is over by then; at once if it has `unread`
    /// bytes. Returns as [`end_then`](Self::end_then).
    fn part(&self, passed: Passed, unread: u32) -> bool {
        let Some(lingering) = self.lingering(&passed) else {
            self.let_go(passed);
            return false;
        };
        let queued = linger_sys::send_queue(passed.fd.as_fd()).unwrap_or(0);
        let is_half_closed = rustix::net::shutdown(&passed.fd, Shutdown::Write).is_ok();
        let parted = Parted { passed, lingering, queued };
        // No peer has answered the half-close yet, so it is not asked whether the connection is over.
        if is_half_closed && unread == 0 {
            self.tally.parted.fetch_add(1, Relaxed);
            self.waiting().add(parted, Instant::now());
        } else {
            // If the half-close has failed, the closer finds out why.
            self.hand_over(parted, || {});
        }
        true
    }

    fn waiting(&self) -> MutexGuard<'_, PartedQueue> {
        self.parted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether half-closed connections wait for the closer.
    pub(crate) fn has_parted(&self) -> bool {
        !self.waiting().is_empty()
    }

    /// Hands over the half-closed connections whose time has come, if they are not over.
    pub(crate) fn hand_over_parted(&self, now: Instant) {
        self.settle(|waiting| waiting.next(now));
    }

    /// Hands over all that are not over.
    pub(crate) fn hand_over_all(&self) {
        self.settle(PartedQueue::next_of_all);
    }

    fn settle(&self, mut next: impl FnMut(&mut PartedQueue) -> Option<Parted>) {
        loop {
            let Some(parted) = next(&mut self.waiting()) else { return };
            if parted.is_over() {
                self.is_over(parted);
            } else {
                self.hand_over(parted, || {});
            }
            self.tally.parted.fetch_sub(1, Relaxed);
        }
    }

    /// Closes a connection that has ended in order.
    fn is_over(&self, parted: Parted) {
        tracing::debug!("the peer has closed");
        self.tally.bytes_acknowledged.fetch_add(parted.queued, Relaxed);
        self.tally.over.fetch_add(1, Relaxed);
        drop(parted);
    }

    /// Notes that a connection is being ended. Returns false if it is already: another process may have shut it down, or may have
    /// closed it as the last one.
    fn begin(&self, cookie: u64) -> bool {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).insert(cookie)
    }

    /// Ends a connection that the seccomp thread has counted, and half-closed.
    pub(crate) fn end_proved(&self, passed: Passed) {
        self.end_then(passed, || {});
    }

    /// Ends the connection of a socket that the program still has open. At the end both directions are shut down, which
    /// tells the program.
    pub(crate) fn end_and_shut_down(&self, passed: Passed, cookie: u64, unread: u32) {
        if !self.begin(cookie) {
            return self.let_go(passed);
        }
        let other = passed.fd.try_clone();
        let then = move || {
            let _ = other.map(|other| rustix::net::shutdown(&other, Shutdown::Both));
        };
        if self.end_then(passed, then) {
            self.tally.count(Count::Handed, 1);
            self.tally.count(Count::Unread, (unread > 0).into());
        }
    }

    /// Counts a close as refused: it was to be made here, and is plain. `unread` is the number of its unread bytes.
    pub(crate) fn missed(&self, unread: u32) {
        self.tally.count(Count::Unread, (unread > 0).into());
        self.tally.count(Count::Refused, 1);
    }

    /// Hands a connection that is half-closed over to the closer. Returns false if the user's share of lingering
    /// connections is used up: the close is then plain.
    fn end_then(&self, passed: Passed, then: impl FnOnce() + Send + 'static) -> bool {
        let Some(lingering) = self.lingering(&passed) else {
            self.let_go(passed);
            return false;
        };
        // SIOCOUTQ counts the FIN as one byte.
        let queued = linger_sys::send_queue(passed.fd.as_fd()).unwrap_or(0).saturating_sub(1);
        self.hand_over(Parted { passed, lingering, queued }, then);
        true
    }

    /// The user's share for one more lingering connection; `None`, and counted as refused, if there is none.
    fn lingering(&self, passed: &Passed) -> Option<Share> {
        let lingering = self.shares.take(passed.share.user());
        if lingering.is_none() {
            self.tally.count(Count::Refused, 1);
        }
        lingering
    }

    fn hand_over(&self, parted: Parted, then: impl FnOnce() + Send + 'static) {
        let Parted { passed: Passed { fd, share }, lingering, queued } = parted;
        let tally = Arc::clone(&self.tally);
        self.closer.close_then(fd, &self.policy, move |outcome| {
            tally
                .bytes_acknowledged
                .fetch_add(queued.saturating_sub(outcome.unacknowledged.unwrap_or(queued)), Relaxed);
            if outcome.unacknowledged.is_some_and(|bytes| bytes > 0) {
                let count = if is_dead(outcome.ended) { &tally.lost } else { &tally.unknown };
                count.fetch_add(1, Relaxed);
            }
            if outcome.ended == Ended::Gone && outcome.delivered() {
                tally.closed_before.fetch_add(1, Relaxed);
            }
            then();
            drop((share, lingering));
        });
    }
}

/// Whether the connection was over before its close. The kernel has then thrown away the bytes that were not
/// acknowledged.
fn is_dead(ended: Ended) -> bool {
    matches!(ended, Ended::PeerReset | Ended::Gone | Ended::Aborted | Ended::TimedOut(Bound::Kernel))
}
