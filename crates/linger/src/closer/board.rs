//! What the callers and the closer's thread share: new sockets, orders, counts.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Arrival;
use super::alarm::{Alarm, Clock};
use super::counts::Snapshot;
use super::decide::urgency;
#[cfg(any(feature = "tokio", loom))]
use super::watched::Ticket;
use super::watched::{WatchList, Watched};
use crate::outcome::Outcome;
use crate::sync::{Condvar, Mutex, MutexGuard, lock};

/// Longest time that new sockets may stay unserved, in nanoseconds. Their FIN is out; only draining is delayed, and the
/// receive window absorbs that. Setting a timer costs the caller a tenth of waking a thread, one wake-up serves all sockets
/// that come meanwhile, and by then most peers have closed, so that one look ends the close.
pub(super) const LULL: u64 = 3_000_000;

/// How long a close may be driven on its runtime before the thread takes it over, in nanoseconds: as long as a round trip
/// across a continent. Most peers close within one, and then the socket never leaves the runtime's threads.
pub(super) const WATCH: u64 = 100_000_000;

/// The thread may take a socket over later by this many nanoseconds, so that one wake-up serves many.
const SLACK: u64 = WATCH / 4;

/// [`WATCH`] and [`SLACK`] together: the latest time at which the thread takes a close over from a task. A task may not
/// watch a close whose policy has a shorter bound, because the thread might be too late to keep that bound.
#[cfg(feature = "tokio")]
pub(crate) const LONGEST_WATCH: Duration = Duration::from_nanos(WATCH + SLACK);

/// Everything that callers and the thread share, for sockets of type `A`.
pub(super) struct Shared<A = Arrival> {
    clock: Clock,
    /// Wakes the thread.
    alarm: Alarm,
    /// The budget's limit. Above this number of lingering sockets the thread is woken at once. If as many new sockets wait on
    /// the board, the next one displaces the oldest of them.
    most: usize,
    board: Mutex<Board<A>>,
    /// Signalled when closes have ended or were reported, while `finish` waits.
    ended: Condvar,
}

/// The part of [`Shared`] that its lock guards.
pub(super) struct Board<A> {
    /// New sockets, the oldest first.
    arrivals: VecDeque<A>,
    watched: WatchList<A>,
    orders: Orders,
    handed_over: u64,
    done: Snapshot,
    /// Closes that have ended and whose watchers, if any, have returned.
    reported: u64,
    /// Calls of `finish` under way.
    finishing: usize,
    /// When the thread looks here next, by the clock, even if no caller wakes it.
    look: u64,
}

/// What the thread has done since it last published.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The counts of the closes that have ended.
    pub(super) done: Snapshot,
    /// Of these closes, those whose watcher has been told the outcome, and those that have no watcher.
    pub(super) reported: u64,
    /// Sockets that linger now although their peers have acknowledged everything: all of them, where `done` and `reported` are
    /// changes since the last report.
    pub(super) acknowledged: u64,
    /// All sockets that stay now behind a close that has ended.
    pub(super) staying: u64,
}

/// Orders to the thread, beside new sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Orders {
    pub(super) evict: usize,
    /// The time by which every close is to end.
    pub(super) deadline: Option<u64>,
    /// Nothing is to stay any longer behind a close that has ended.
    pub(super) leave: bool,
    /// The last handle is gone.
    pub(super) no_more: bool,
}

/// The new work that the thread takes from the board.
pub(super) struct Work<A = Arrival> {
    pub(super) arrivals: VecDeque<A>,
    /// Sockets whose tasks have watched them long enough.
    pub(super) watched: Vec<Arc<dyn Watched<A>>>,
    pub(super) orders: Orders,
    /// When the thread has to look at the board again.
    pub(super) next: Option<u64>,
}

impl<A> Work<A> {
    pub(super) fn new() -> Self {
        Self { arrivals: VecDeque::new(), watched: Vec::new(), orders: Orders::default(), next: None }
    }
}

impl<A> Board<A> {
    fn snapshot(&self) -> Snapshot {
        let lingering = self.lingering();
        let lingering_acknowledged = self.done.lingering_acknowledged.min(lingering);
        Snapshot { handed_over: self.handed_over, lingering, lingering_acknowledged, ..self.done }
    }

    fn lingering(&self) -> u64 {
        debug_assert!(self.handed_over >= self.done.ended.total(), "a socket has ended twice");
        self.handed_over - self.done.ended.total()
    }

    /// Whether every socket has ended and its watcher, if any, has returned.
    fn has_reported_all(&self) -> bool {
        self.reported >= self.handed_over
    }

    #[cfg(any(feature = "tokio", loom))]
    /// Counts a close that has ended and whose watcher, if any, has returned.
    fn over(&mut self, outcome: &Outcome) {
        self.done.record(outcome);
        self.reported += 1;
    }
}

impl<A> Shared<A> {
    /// # Errors
    /// Returns the errors of [`Alarm::new`].
    pub(super) fn new(most: usize) -> std::io::Result<Self> {
        let board = Board {
            arrivals: VecDeque::new(),
            watched: WatchList::new(),
            orders: Orders::default(),
            handed_over: 0,
            done: Snapshot::default(),
            reported: 0,
            finishing: 0,
            look: 0,
        };
        let (board, ended) = (Mutex::new(board), Condvar::new());
        Ok(Self { clock: Clock::new(), alarm: Alarm::new()?, most, board, ended })
    }

    /// The alarm, which rings when the thread is to look at the board.
    pub(super) fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    fn lock(&self) -> MutexGuard<'_, Board<A>> {
        lock(&self.board)
    }

    /// How many sockets have not ended, or have ended and not been reported to their watchers.
    #[cfg(all(test, not(loom)))]
    pub(super) fn unreported(&self) -> u64 {
        let board = self.lock();
        board.handed_over - board.reported
    }

    /// Puts a new socket on the board. If too many wait there, because the thread cannot keep up, returns the one that has
    /// waited longest, which the caller ends: waiting sockets hold descriptors, so the budget must hold for them, too.
    /// Nothing is known of their peers yet, and the oldest has had the most time for its last bytes.
    pub(super) fn submit(&self, arrival: A, is_counted: bool) -> Option<A> {
        self.change(LULL, |board| {
            board.handed_over += u64::from(!is_counted);
            let full = board.arrivals.len() >= self.most;
            let shed = if full { board.arrivals.pop_front() } else { None };
            board.arrivals.push_back(arrival);
            shed
        })
    }

    /// Counts a descriptor that never reaches the board.
    pub(super) fn refused(&self) {
        self.lock().handed_over += 1;
    }

    /// Notes a socket that the thread is to take over when its task has watched it long enough.
    #[cfg(any(feature = "tokio", loom))]
    pub(super) fn watch(&self, watched: Arc<dyn Watched<A>>, now: u64) -> Ticket {
        self.change_at(now, WATCH + SLACK, |board| {
            board.handed_over += 1;
            board.watched.push(now + WATCH, watched)
        })
    }

    /// Forgets a watched socket, and counts its end if there is one.
    #[cfg(any(feature = "tokio", loom))]
    pub(super) fn unwatch(&self, ticket: Ticket, outcome: Option<&Outcome>) {
        let mut board = self.lock();
        let watched = board.watched.remove(ticket);
        if let Some(outcome) = outcome {
            board.over(outcome);
            self.wake_finishers(&board);
        }
        drop(board);
        // The entry is freed after the lock is released.
        drop(watched);
    }

    /// Lets the thread evict so many sockets more, at once.
    pub(super) fn evict(&self, count: usize) {
        self.change(0, |board| board.orders.evict = board.orders.evict.saturating_add(count));
    }

    /// Tells the thread that nobody is left to hand anything over.
    pub(super) fn no_more(&self) {
        self.change(0, |board| board.orders.no_more = true);
    }

    /// Changes the board, and sees to it that the thread looks at it within so many nanoseconds.
    fn change<R>(&self, within: u64, change: impl FnOnce(&mut Board<A>) -> R) -> R {
        self.change_at(self.clock.now(), within, change)
    }

    fn change_at<R>(&self, now: u64, within: u64, change: impl FnOnce(&mut Board<A>) -> R) -> R {
        let mut board = self.lock();
        let result = change(&mut board);
        let within = urgency(within, board.lingering(), self.most);
        let look = now.saturating_add(within);
        if look < board.look {
            board.look = look;
            // Under the lock, so that a later time never replaces an earlier one (model
            // `loom_the_earliest_time_wins`).
            self.alarm.set(Duration::from_nanos(within));
        }
        result
    }

    /// Called by the thread: publishes what it has done, and takes new work.
    pub(super) fn look(&self, now: u64, report: &mut Report, work: &mut Work<A>) {
        let mut board = self.lock();
        self.publish_to(&mut board, report);
        std::mem::swap(&mut board.arrivals, &mut work.arrivals);
        work.orders = board.orders;
        (board.orders.evict, board.orders.leave) = (0, false);
        let Orders { evict, deadline, no_more, leave: _ } = work.orders;
        let all = evict > 0 || deadline.is_some() || no_more || board.lingering() > self.most as u64;
        board.watched.take(if all { u64::MAX } else { now }, &mut work.watched);
        work.next = board.watched.next().map(|until| until.saturating_add(SLACK));
        // Written under the same lock under which new sockets are taken, so that the next caller sees this value and
        // sets the alarm if it needs the thread earlier.
        board.look = work.next.unwrap_or(u64::MAX);
    }

    /// Called by the thread: publishes what it has done.
    pub(super) fn publish(&self, report: &mut Report) {
        self.publish_to(&mut self.lock(), report);
    }

    fn publish_to(&self, board: &mut Board<A>, report: &mut Report) {
        board.done.add(&std::mem::take(&mut report.done));
        board.done.lingering_acknowledged = report.acknowledged;
        board.done.staying = report.staying;
        board.reported += std::mem::take(&mut report.reported);
        debug_assert!(
            board.reported <= board.done.ended.total(),
            "an end was reported before it was counted"
        );
        self.wake_finishers(board);
    }

    /// Counts a close that the caller has ended, and not the thread.
    pub(super) fn record(&self, outcome: &Outcome) {
        self.lock().done.record(outcome);
    }

    /// Notes that the callback of an ended close has returned, if there was one.
    pub(super) fn reported(&self) {
        let mut board = self.lock();
        board.reported += 1;
        self.wake_finishers(&board);
    }

    fn wake_finishers(&self, board: &Board<A>) {
        if board.finishing > 0 {
            self.ended.notify_all();
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.lock().snapshot()
    }

    /// Waits until every socket has ended and been reported: for at most `deadline`, or a second longer if the thread or a
    /// watcher is late. Returns the counts of what happened meanwhile.
    pub(super) fn finish(&self, deadline: Duration) -> Snapshot {
        let end = self.clock.now().saturating_add(u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX));
        let before = self.change(0, |board| {
            board.finishing += 1;
            // An order of its own: if nothing lingers, the deadline is gone before the thread looks.
            board.orders.leave = true;
            board.orders.deadline = Some(board.orders.deadline.map_or(end, |other| other.min(end)));
            board.snapshot()
        });
        // The thread closes everything at the deadline. If not all ends have been reported one second later, the thread
        // is not being scheduled or a watcher blocks. Return then, so that the program does not hang at its exit.
        let patience = end.saturating_add(1_000_000_000);
        let mut board = self.lock();
        let mut in_time = true;
        while in_time && !board.has_reported_all() {
            (board, in_time) = self.await_end(board, patience);
        }
        debug_assert!(board.finishing > 0, "calls of finish are counted wrongly");
        board.finishing -= 1;
        if board.finishing == 0 {
            board.orders.deadline = None;
        }
        // Sockets that were lingering when this call began count as handed over during it, so that the numbers of the
        // difference add up.
        board.snapshot().since(&Snapshot { handed_over: before.handed_over - before.lingering, ..before })
    }

    /// Waits for the next end, at most until `end`, and returns whether there was time left.
    fn await_end<'a>(&self, board: MutexGuard<'a, Board<A>>, end: u64) -> (MutexGuard<'a, Board<A>>, bool) {
        let left = end.saturating_sub(self.clock.now());
        if left == 0 {
            return (board, false);
        }
        let waited = self.ended.wait_timeout(board, Duration::from_nanos(left));
        (waited.unwrap_or_else(PoisonError::into_inner).0, true)
    }
}

#[cfg(all(test, not(loom)))]
#[path = "board_tests.rs"]
mod tests;

#[cfg(all(test, loom))]
#[path = "board_models.rs"]
mod models;
