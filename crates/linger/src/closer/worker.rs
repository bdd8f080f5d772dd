//! The closer's thread: a reactor, a timer wheel, and the machine of each socket.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use linger_sys::{Discarder, Reactor, Ready, ReadyList};

use super::board::{Orders, Report, Shared, Work};
use super::budget::{Budget, Throttle};
use super::decide::{Fired, earliest, fired, is_emptied};
use super::peers::Peers;
use super::slab::{AGE, Entry, Flags, Ring, Slab, UNARMED};
use super::stay::Staying;
use super::watched::Watched;
use super::wheel::Wheel;
use super::{Arrival, Watcher};
use crate::machine::{Action, Event};
use crate::outcome::Outcome;

/// Most bytes that are discarded for one socket before the next socket's turn. Discarding them takes about 30 us, which is
/// the time by which a flooding peer delays the others.
const TURN: u64 = 512 << 10;

/// Descriptors taken in, or sockets driven, between two looks at the epoll.
const BATCH: usize = 256;

/// A list of arrivals with at most this capacity is kept for the next ones; a larger one is freed.
const KEPT: usize = 64;

pub(super) struct Worker {
    shared: Arc<Shared>,
    reactor: Reactor,
    budget: Budget,
    slab: Slab,
    wheel: Wheel,
    /// Sockets whose peers have acknowledged everything and are silent. They are evicted first.
    acknowledged: Ring<AGE>,
    /// All others: first those whose peers answer probes and read nothing, then by age, the oldest first.
    pending: Ring<AGE>,
    /// Sockets that are open behind a close that has ended. They go before all others.
    staying: Staying,
    peers: Peers,
    /// Sockets that have, or may have, something to read, in the order of their turns.
    queue: VecDeque<u32>,
    watchers: HashMap<u32, Watcher>,
    throttle: Throttle,
    discarder: Discarder,
    now: u64,
    /// The work from the last look at the board.
    work: Work,
    /// The orders that have been carried out.
    orders: Orders,
    /// Counts to be published.
    report: Report,
}

impl Worker {
    /// # Errors
    /// Returns the errors of [`Reactor::new`].
    pub(super) fn new(shared: Arc<Shared>, budget: Budget) -> io::Result<Self> {
        let reactor = reactor(&shared)?;
        Ok(Self {
            shared,
            reactor,
            budget,
            slab: Slab::new(),
            wheel: Wheel::new(),
            acknowledged: Ring::EMPTY,
            pending: Ring::EMPTY,
            staying: Staying::new(budget.staying, linger_sys::descriptor_limit),
            peers: Peers::default(),
            queue: VecDeque::new(),
            watchers: HashMap::new(),
            throttle: Throttle::new(budget.discard_per_second),
            discarder: Discarder::new(),
            now: 0,
            work: Work::new(),
            orders: Orders::default(),
            report: Report::default(),
        })
    }

    /// Works until the closer is dropped and the last socket has ended.
    pub(super) fn run(mut self) {
        let mut ready = ReadyList::new(BATCH);
        while self.turn() {
            self.await_events(&mut ready);
        }
        self.publish();
    }

    /// Does what there is to do now. Returns whether there is anything left to wait for.
    fn turn(&mut self) -> bool {
        self.now = self.shared.clock().now();
        self.shared.look(self.now, &mut self.report, &mut self.work);
        let orders = self.work.orders;
        if self.orders.deadline != orders.deadline {
            self.hurry_all(orders.deadline);
        }
        self.orders = orders;
        if orders.no_more || orders.leave {
            self.let_all_go();
        }
        for _ in 0..orders.evict.min(self.slab.len()) {
            self.evict_one();
        }
        let (mut arrivals, mut watched) =
            (std::mem::take(&mut self.work.arrivals), std::mem::take(&mut self.work.watched));
        let taken = watched.drain(..).filter_map(Watched::take);
        for arrival in arrivals.drain(..).chain(taken) {
            self.admit(arrival);
        }
        if arrivals.capacity() <= KEPT {
            self.work.arrivals = arrivals;
        }
        if self.staying.look(&mut self.slab, self.now) {
            self.let_all_go();
        }
        self.serve_timers();
        self.serve_queue();
        !(orders.no_more && self.slab.len() == 0)
    }

    /// Takes a socket over, after making room for it.
    fn admit(&mut self, arrival: Arrival) {
        let Arrival { socket, core, watcher } = arrival;
        if self.staying.len() > 0 && self.staying.is_crowded(socket.number()) {
            self.let_all_go();
        }
        let peer = match self.budget.sockets_per_peer {
            Some(most) => {
                let peer = self.peers.hash(socket.peer());
                while let Some(victim) = self.one_too_many(peer, most) {
                    self.evict(victim);
                }
                peer
            }
            None => 0,
        };
        while self.slab.len() >= self.budget.sockets {
            self.evict_one();
        }
        let index = self.slab.insert(Entry::new(core, socket));
        self.pending.push_back(&mut self.slab, index);
        self.peers.enter(&mut self.slab, index, peer);
        if let Some(deadline) = self.orders.deadline {
            self.hurry(index, deadline);
        }
        if let (Some(watcher), Some(entry)) = (watcher, self.slab.get(index)) {
            entry.flags.set(Flags::WATCHED);
            self.watchers.insert(index, watcher);
        }
        self.drive(index, TURN, false);
    }

    /// Does what the machine asks for until it wants to wait, has ended, or has used up its turn.
    ///
    /// `fresh`: see [`Ready::is_fresh`].
    fn drive(&mut self, index: u32, mut turn: u64, fresh: bool) {
        let Self { slab, discarder, throttle, now, .. } = self;
        let Some(entry) = slab.get(index) else { return };
        loop {
            let event = match entry.core.next(*now) {
                Action::HalfClose => entry.socket.half_close(),
                Action::Discard { max } => {
                    let share = throttle.share(*now, self.queue.len()).min(turn).min(max);
                    if share == 0 {
                        return self.enqueue(index);
                    }
                    match entry.socket.discard(discarder, share) {
                        event @ Event::Discarded(bytes) => {
                            throttle.spend(bytes);
                            turn = turn.saturating_sub(bytes);
                            entry.core.on(event, *now);
                            entry.adjust_buffer(throttle.is_bounded());
                            if !is_emptied(fresh, bytes, share) {
                                continue;
                            }
                            Event::Empty
                        }
                        event => event,
                    }
                }
                Action::Measure => entry.socket.measure(),
                Action::Inspect => entry.socket.inspect(),
                Action::Wait { until } => match self.wait(index, until) {
                    Ok(()) => return,
                    // Without a registration no event would ever wake this close.
                    Err(error) => return self.fail(index, &error),
                },
                Action::Close { abort, outcome } => return self.end(index, abort, outcome),
            };
            entry.core.on(event, *now);
        }
    }

    /// Gives a socket another turn later. Its deadline does not move.
    fn enqueue(&mut self, index: u32) {
        let Some(entry) = self.slab.get(index) else { return };
        if entry.flags.set(Flags::QUEUED) {
            self.queue.push_back(index);
        }
        if entry.slot == UNARMED {
            let until = entry.core.patience();
            self.wheel.arm(&mut self.slab, index, until);
        }
    }

    fn wait(&mut self, index: u32, until: u64) -> io::Result<()> {
        let Some(entry) = self.slab.get(index) else { return Ok(()) };
        let (socket, key) = (entry.socket.as_fd(), u64::from(index));
        if entry.flags.set(Flags::REGISTERED) {
            if let Err(error) = self.reactor.add(socket, key, !entry.core.acknowledged()) {
                entry.flags.clear(Flags::REGISTERED);
                return Err(error);
            }
        } else if !entry.core.is_sated() && !entry.core.end_of_stream() {
            // Not re-armed once nothing more is read: unread bytes would be reported again and again.
            self.reactor.again(socket, key)?;
        }
        // A later deadline is handled when the timer fires; an earlier one must be re-armed now.
        let nearer = entry.core.acknowledged() && entry.flags.set(Flags::ACKNOWLEDGED);
        // The limit of bytes can bring the deadline nearer, too: once nothing more is read and everything is acknowledged,
        // `grace` applies and not `idle`.
        let is_sated = entry.core.is_sated();
        let rearm = nearer || is_sated || entry.flags.has(Flags::FAR) || entry.slot == UNARMED;
        let paused = entry.core.is_paused() && !entry.flags.has(Flags::ACKNOWLEDGED);
        if nearer {
            self.pending.remove(&mut self.slab, index);
            self.acknowledged.push_back(&mut self.slab, index);
            self.peers.prefer(&mut self.slab, index);
            self.report.acknowledged += 1;
        }
        if paused {
            self.pending.remove(&mut self.slab, index);
            self.pending.push_front(&mut self.slab, index);
            self.peers.prefer(&mut self.slab, index);
        }
        if rearm {
            if let Some(entry) = self.slab.get(index) {
                entry.flags.clear(Flags::FAR);
            }
            self.wheel.arm(&mut self.slab, index, until);
        }
        Ok(())
    }

    fn serve_timers(&mut self) {
        while let Some(index) = self.wheel.pop(&mut self.slab, self.now) {
            let Some(entry) = self.slab.get(index) else { continue };
            let (end, patience) = (entry.core.end_at(), entry.core.patience());
            match fired(self.now, entry.flags.has(Flags::QUEUED), end, patience) {
                Fired::UntilItsEnd => {
                    entry.flags.set(Flags::FAR);
                    self.wheel.arm(&mut self.slab, index, end);
                }
                Fired::Again => self.wheel.arm(&mut self.slab, index, patience),
                Fired::Due => {
                    // An acknowledgement of a part of the queue raises no event: look for one before giving up.
                    entry.core.on(Event::Woken, self.now);
                    self.drive(index, TURN, false);
                }
            }
        }
    }

    fn serve_queue(&mut self) {
        for _ in 0..self.queue.len().min(BATCH) {
            if self.throttle.share(self.now, self.queue.len()) == 0 {
                break;
            }
            let Some(index) = self.queue.pop_front() else { break };
            let Some(entry) = self.slab.get(index) else { continue };
            if entry.flags.has(Flags::QUEUED) {
                entry.flags.clear(Flags::QUEUED);
                self.drive(index, TURN, false);
            }
        }
        if self.queue.is_empty() && self.queue.capacity() > BATCH {
            self.queue = VecDeque::new();
        }
    }

    fn await_events(&mut self, ready: &mut ReadyList) {
        let turn = (!self.queue.is_empty()).then(|| self.throttle.refilled());
        let until = earliest([self.wheel.next(), turn, self.work.next, self.staying.next_look()]);
        self.publish();
        let timeout = until.map(|until| Duration::from_nanos(until.saturating_sub(self.now)));
        self.reactor.wait(ready, timeout);
        self.now = self.shared.clock().now();
        for Ready { key, is_over, is_fresh, .. } in ready.iter() {
            // A stale event for a reused index causes one spurious wake-up.
            let index = key as u32;
            let Some(entry) = self.slab.get(index) else { continue };
            // Before the end of the stream the next read tells of a reset; after it nothing is read any more.
            let seen = match is_over && entry.core.end_of_stream() && entry.socket.is_dead() {
                true => entry.socket.pending().unwrap_or(Event::Reset),
                false => Event::Woken,
            };
            entry.core.on(seen, self.now);
            self.drive(index, TURN, is_fresh);
        }
    }

    /// The socket to evict before this peer may have another one; first those that stay.
    fn one_too_many(&self, peer: u32, most: usize) -> Option<u32> {
        let left = most.saturating_sub(self.peers.count(peer));
        self.staying.of_peers.to_evict(peer, left).or_else(|| self.peers.to_evict(peer, most))
    }

    fn evict_one(&mut self) {
        let in_order = [self.staying.oldest(), self.acknowledged.head(), self.pending.head()];
        if let Some(victim) = in_order.into_iter().flatten().next() {
            self.evict(victim);
        }
    }

    /// Evicts a socket. Bytes that have arrived are read first: a close with unread bytes would reset, and the peer
    /// might lose the response.
    fn evict(&mut self, index: u32) {
        let Some(entry) = self.slab.get(index) else { return };
        if let discarded @ Event::Discarded(_) = entry.socket.discard(&mut self.discarder, TURN) {
            entry.core.on(discarded, self.now);
        }
        entry.core.evict();
        self.drive(index, 0, false);
    }

    /// Lets a socket whose close has ended so stay open, if it may. Returns whether it does.
    fn keep_open(&mut self, index: u32, peer: u32, outcome: &Outcome) -> bool {
        let is_stopping = self.orders.deadline.is_some() || self.orders.no_more;
        let Some(entry) = self.slab.get(index) else { return false };
        if is_stopping || !self.staying.may(entry, outcome, self.now) {
            return false;
        }
        entry.flags.set(Flags::STAYS | Flags::ACKNOWLEDGED);
        // If the process ends before the stay, the kernel closes the socket as the program has set this option: `SO_LINGER 0` would reset.
        entry.socket.forget_linger();
        while self.staying.is_full() && self.let_one_go() {}
        self.staying.enter(&mut self.slab, index, peer, self.now);
        true
    }

    fn let_all_go(&mut self) {
        while self.let_one_go() {}
    }

    /// Closes the socket that has stayed longest. Returns whether there was one.
    fn let_one_go(&mut self) -> bool {
        let oldest = self.staying.oldest();
        oldest.into_iter().for_each(|index| self.evict(index));
        oldest.is_some()
    }

    fn hurry_all(&mut self, deadline: Option<u64>) {
        let Some(deadline) = deadline else { return };
        for index in self.slab.indices() {
            self.hurry(index, deadline);
            let Some(entry) = self.slab.get(index) else { continue };
            let until = entry.core.patience();
            self.wheel.arm(&mut self.slab, index, until);
        }
    }

    fn hurry(&mut self, index: u32, deadline: u64) {
        let Some(entry) = self.slab.get(index) else { return };
        // A socket that is handed over after the deadline gets a millisecond: its unread bytes must be read before it
        // is closed.
        let left = Duration::from_nanos(deadline.saturating_sub(self.now)).max(Duration::from_millis(1));
        entry.core.hurry(left, left, self.now);
    }

    fn fail(&mut self, index: u32, error: &io::Error) {
        let Some(entry) = self.slab.get(index) else { return };
        entry.core.on(Event::Failed(error.kind()), self.now);
        if let Action::Close { abort, outcome } = entry.core.next(self.now) {
            self.end(index, abort, outcome);
        }
    }

    fn end(&mut self, index: u32, abort: bool, outcome: Outcome) {
        self.wheel.disarm(&mut self.slab, index);
        let Some(entry) = self.slab.get(index) else { return };
        let (flags, peer) = (entry.flags, entry.peer);
        self.leave_rings(index, flags, peer);
        let watcher = if flags.has(Flags::WATCHED) { self.watchers.remove(&index) } else { None };
        let stays = !abort && self.keep_open(index, peer, &outcome);
        let over = if stays { None } else { self.slab.remove(index) };
        if let Some(entry) = over {
            if flags.has(Flags::REGISTERED) && !entry.socket.is_lost() {
                self.reactor.remove(entry.socket.as_fd());
            }
            entry.socket.close(abort);
        }
        // The outcome of a socket that has stayed was told when its stay began.
        if !flags.has(Flags::STAYS) {
            self.record(outcome, watcher);
        }
        if stays {
            self.drive(index, 0, false);
        }
    }

    /// Takes a socket out of the orders in which sockets are evicted.
    fn leave_rings(&mut self, index: u32, flags: Flags, peer: u32) {
        if flags.has(Flags::STAYS) {
            return self.staying.leave(&mut self.slab, index, peer);
        }
        self.peers.leave(&mut self.slab, index, peer);
        if flags.has(Flags::ACKNOWLEDGED) {
            self.acknowledged.remove(&mut self.slab, index);
            debug_assert!(self.report.acknowledged > 0, "the acknowledged are counted wrongly");
            self.report.acknowledged -= 1;
        } else {
            self.pending.remove(&mut self.slab, index);
        }
    }

    fn publish(&mut self) {
        self.report.staying = self.staying.len() as u64;
        self.shared.publish(&mut self.report);
    }

    fn record(&mut self, outcome: Outcome, watcher: Option<Watcher>) {
        self.report.done.record(&outcome);
        outcome.trace();
        if let Some(watcher) = watcher {
            // Publish first, so that a watcher that reads the counts finds its own close counted.
            self.publish();
            // A watcher that panics costs its own report, not everybody's close.
            let _ = catch_unwind(AssertUnwindSafe(|| watcher(outcome)));
        }
        self.report.reported += 1;
    }
}

#[cfg(not(loom))]
fn reactor(shared: &Shared) -> io::Result<Reactor> {
    Reactor::new(shared.alarm())
}

/// The models have an alarm of their own, and no thread.
#[cfg(loom)]
fn reactor(_: &Shared) -> io::Result<Reactor> {
    Reactor::new(&linger_sys::Alarm::new()?)
}

#[cfg(all(test, not(loom)))]
#[path = "worker_tests.rs"]
mod tests;
