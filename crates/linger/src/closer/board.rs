//! What the callers and the closer's thread share: what has come, what is to be done, what was done.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::{Snapshot, Watcher};
use crate::machine::Core;
#[cfg(feature = "tokio")]
use crate::outcome::Outcome;
use crate::socket::Socket;

/// How long the thread may let arrivals wait. They have sent their FIN; what waits is the reading, for which the
/// receive window has room. Setting a timer costs the caller a tenth of waking a thread, one wake-up serves
/// all that come meanwhile, and by then most peers have closed, so that one look ends the matter.
pub(super) const LULL: u64 = 3_000_000;

/// How long a task may watch the end of its connection before the thread takes it over: a round trip over a
/// continent and back. Most peers close within one, and then the socket never leaves the task's processor.
pub(super) const WATCH: u64 = 100_000_000;

/// How much later than that it may become, so that one wake-up serves many.
const SLACK: u64 = WATCH / 4;

/// A socket on its way from the caller to the thread.
pub(crate) struct Arrival {
    pub(crate) socket: Socket,
    pub(crate) core: Core,
    pub(crate) watcher: Option<Watcher>,
}

/// A socket that a task watches until its time is over; whoever takes it first ends it.
pub(crate) trait Watched: Send + Sync {
    /// Takes the socket, unless it is over already.
    fn take(self: Arc<Self>) -> Option<Arrival>;
}

pub(super) struct Shared {
    origin: Instant,
    /// Wakes the thread at the time that was set last.
    alarm: OwnedFd,
    /// More sockets than this are not left waiting.
    most: usize,
    board: Mutex<Board>,
    /// Something has ended.
    ended: Condvar,
}

pub(super) struct Board {
    pub(super) arrivals: Vec<Arrival>,
    watched: Vigil,
    pub(super) orders: Orders,
    pub(super) handed_over: u64,
    pub(super) done: Snapshot,
    /// Ends whose watchers have returned.
    pub(super) reported: u64,
    /// Calls of `finish` under way.
    pub(super) finishing: usize,
    /// When the thread looks here next, whatever comes.
    look: u64,
}

/// What the thread has to tell.
#[derive(Debug, Default)]
pub(super) struct News {
    /// What has ended since it told last.
    pub(super) done: Snapshot,
    /// How many of the ends have been reported to their watchers, if they have any.
    pub(super) reported: u64,
    /// Lingering sockets whose peers have everything.
    pub(super) acknowledged: u64,
}

/// What the thread is to do beside taking arrivals.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Orders {
    pub(super) evict: usize,
    /// Everything is to end by then.
    pub(super) deadline: Option<u64>,
    /// The last handle is gone.
    pub(super) no_more: bool,
}

/// What the thread takes from the board at one look.
#[derive(Default)]
pub(super) struct Work {
    pub(super) arrivals: Vec<Arrival>,
    /// Those whose tasks have watched long enough.
    pub(super) watched: Vec<Arc<dyn Watched>>,
    pub(super) orders: Orders,
    /// When it has to look again.
    pub(super) next: Option<u64>,
}

impl Board {
    pub(super) fn snapshot(&self) -> Snapshot {
        let lingering = self.lingering();
        let lingering_acknowledged = self.done.lingering_acknowledged.min(lingering);
        Snapshot { handed_over: self.handed_over, lingering, lingering_acknowledged, ..self.done }
    }

    fn lingering(&self) -> u64 {
        self.handed_over - self.done.ended.total()
    }
}

impl Shared {
    /// # Errors
    /// What `timerfd_create` says.
    pub(super) fn new(most: usize) -> rustix::io::Result<Self> {
        let alarm =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let board = Board {
            arrivals: Vec::new(),
            watched: Vigil::default(),
            orders: Orders::default(),
            handed_over: 0,
            done: Snapshot::default(),
            reported: 0,
            finishing: 0,
            look: 0,
        };
        let ended = Condvar::new();
        Ok(Self { origin: Instant::now(), alarm, most, board: Mutex::new(board), ended })
    }

    /// What becomes readable when the thread is to look here.
    pub(super) fn alarm(&self) -> BorrowedFd<'_> {
        self.alarm.as_fd()
    }

    /// Nanoseconds since the closer was made.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Board> {
        // Nothing that runs under the lock panics; if it did, what it guards would still be whole.
        self.board.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Puts an arrival on the board. Where the thread cannot keep up, what has waited longest is given back, so
    /// that the budget holds for those that wait, too: they hold descriptors.
    pub(super) fn bring(&self, arrival: Arrival, counted: bool) -> Option<Arrival> {
        self.tell(LULL, |board| {
            board.handed_over += u64::from(!counted);
            let full = board.arrivals.len() >= self.most;
            let shed = if full { Some(board.arrivals.swap_remove(0)) } else { None };
            board.arrivals.push(arrival);
            shed
        })
    }

    #[cfg(feature = "tokio")]
    /// Notes a socket that the thread is to take over when its task has watched it long enough.
    pub(super) fn watch(&self, watched: Arc<dyn Watched>) -> Ticket {
        let until = self.now() + WATCH;
        self.tell(WATCH + SLACK, |board| {
            board.handed_over += 1;
            board.watched.push(until, watched)
        })
    }

    #[cfg(feature = "tokio")]
    /// Forgets a socket that was watched, and counts its end if that is why.
    pub(super) fn unwatch(&self, ticket: Ticket, outcome: Option<&Outcome>) {
        let mut board = self.lock();
        let watched = board.watched.remove(ticket);
        if let Some(outcome) = outcome {
            board.done.record(outcome);
            board.reported += 1;
            self.wake_finishers(&board);
        }
        drop(board);
        // Freed without the lock.
        drop(watched);
    }

    /// Gives orders, which the thread follows at once.
    pub(super) fn order(&self, change: impl FnOnce(&mut Board)) {
        self.tell(0, change);
    }

    /// Changes the board, and sees to it that the thread looks at it `within` so many nanoseconds.
    fn tell<R>(&self, within: u64, change: impl FnOnce(&mut Board) -> R) -> R {
        let now = self.now();
        let mut board = self.lock();
        let result = change(&mut board);
        let within = if board.lingering() > self.most as u64 { 0 } else { within };
        let look = now.saturating_add(within);
        if look < board.look {
            board.look = look;
            let timer = Itimerspec {
                it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
                // Zero would stop the timer.
                it_value: Timespec::try_from(Duration::from_nanos(within.max(1))).unwrap_or(A_SECOND),
            };
            // Under the lock, so that a later time never replaces an earlier one. It fails for bad arguments only.
            let _ = timerfd_settime(&self.alarm, TimerfdTimerFlags::empty(), &timer);
        }
        result
    }

    /// For the thread: publishes its news and takes what there is to do.
    pub(super) fn look(&self, now: u64, news: &mut News, work: &mut Work) {
        let mut board = self.lock();
        self.publish(&mut board, news);
        std::mem::swap(&mut board.arrivals, &mut work.arrivals);
        work.orders = board.orders;
        board.orders.evict = 0;
        let Orders { evict, deadline, no_more } = work.orders;
        let all = evict > 0 || deadline.is_some() || no_more || board.lingering() > self.most as u64;
        board.watched.take(if all { u64::MAX } else { now }, &mut work.watched);
        work.next = board.watched.next().map(|until| until.saturating_add(SLACK));
        board.look = work.next.unwrap_or(u64::MAX);
    }

    /// Notes that the watcher of an end, if it has one, has returned.
    pub(super) fn reported(&self) {
        let mut board = self.lock();
        board.reported += 1;
        self.wake_finishers(&board);
    }

    /// For the thread: tells what has happened.
    pub(super) fn publish(&self, board: &mut Board, news: &mut News) {
        board.done.add(&std::mem::take(&mut news.done));
        board.done.lingering_acknowledged = news.acknowledged;
        board.reported += std::mem::take(&mut news.reported);
        self.wake_finishers(board);
    }

    fn wake_finishers(&self, board: &Board) {
        if board.finishing > 0 {
            self.ended.notify_all();
        }
    }

    /// Waits for the next end, at most until `end`, and says whether there was time left.
    pub(super) fn await_end<'a>(
        &self,
        board: MutexGuard<'a, Board>,
        end: u64,
    ) -> (MutexGuard<'a, Board>, bool) {
        let left = end.saturating_sub(self.now());
        if left == 0 {
            return (board, false);
        }
        let waited = self.ended.wait_timeout(board, Duration::from_nanos(left));
        (waited.map_or_else(|poisoned| poisoned.into_inner().0, |(board, _)| board), true)
    }
}

/// The sockets that tasks watch, by the time at which the thread takes them over.
///
/// What is over leaves at once: a server that ends many thousand connections a second would otherwise keep a
/// tenth of a second's worth of small allocations between its own, and its heap would never be warm.
#[derive(Default)]
struct Vigil {
    sockets: VecDeque<(u64, Option<Arc<dyn Watched>>)>,
    /// The ticket of the first.
    first: Ticket,
}

/// Names a watched socket.
pub(crate) type Ticket = u64;

impl Vigil {
    #[cfg(feature = "tokio")]
    /// Adds a socket; `until` is never before that of an earlier one by more than callers race each other.
    fn push(&mut self, until: u64, watched: Arc<dyn Watched>) -> Ticket {
        self.sockets.push_back((until, Some(watched)));
        self.first + self.sockets.len() as u64 - 1
    }

    #[cfg(feature = "tokio")]
    /// Removes a socket, unless it has been taken.
    fn remove(&mut self, ticket: Ticket) -> Option<Arc<dyn Watched>> {
        let place = usize::try_from(ticket.checked_sub(self.first)?).ok()?;
        let watched = self.sockets.get_mut(place)?.1.take();
        self.forget();
        watched
    }

    /// Takes those whose time has come.
    fn take(&mut self, now: u64, taken: &mut Vec<Arc<dyn Watched>>) {
        while let Some((until, watched)) = self.sockets.front_mut()
            && *until <= now
        {
            taken.extend(watched.take());
            self.forget();
        }
    }

    /// When the time of the first comes.
    fn next(&self) -> Option<u64> {
        self.sockets.front().map(|(until, _)| *until)
    }

    /// Drops the empty places at the front.
    fn forget(&mut self) {
        while let Some((_, None)) = self.sockets.front() {
            self.sockets.pop_front();
            self.first += 1;
        }
    }
}

const A_SECOND: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

#[cfg(all(test, feature = "tokio"))]
mod tests {
    use super::*;

    struct Nothing;

    impl Watched for Nothing {
        fn take(self: Arc<Self>) -> Option<Arrival> {
            None
        }
    }

    #[test]
    fn who_is_over_leaves_and_the_rest_is_taken_in_time() {
        let mut vigil = Vigil::default();
        let tickets: Vec<_> = (0..6).map(|until| vigil.push(until, Arc::new(Nothing))).collect();
        // In any order, twice, and one that was never given out.
        for gone in [3, 0, 3] {
            drop(vigil.remove(tickets[gone]));
        }
        assert!(vigil.remove(Ticket::MAX).is_none());
        let mut taken = Vec::new();
        vigil.take(2, &mut taken);
        assert_eq!((taken.len(), vigil.next()), (2, Some(4)));
        assert!(vigil.remove(tickets[1]).is_none(), "it has been taken");
        assert!(vigil.remove(tickets[4]).is_some());
        vigil.take(u64::MAX, &mut taken);
        assert_eq!((taken.len(), vigil.next(), vigil.sockets.len()), (3, None, 0));
        assert_eq!(vigil.push(9, Arc::new(Nothing)), 6);
    }
}
