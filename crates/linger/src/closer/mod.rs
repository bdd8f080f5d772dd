//! The close for a server: handed over in microseconds, done in the background.

mod budget;
mod counts;
#[cfg(feature = "metrics")]
mod metrics;
mod slab;
mod wheel;
mod worker;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use linger_sys::Discarder;
use rustix::event::{EventfdFlags, epoll, eventfd};

pub use budget::{Budget, InvalidBudget};
pub use counts::{EndedCounts, Snapshot};

use crate::machine::{Action, Core};
use crate::outcome::{Ended, Outcome};
use crate::policy::Policy;
use crate::socket::Socket;
use worker::{Arrival, WAKER, Watcher, Worker};

/// Ends connections in the background, each as [`close`](crate::close) would, any number at once.
///
/// One thread, one epoll. Handing a socket over takes a lock and a system call, the `shutdown` itself or the
/// `write` that wakes the thread; it never waits for a peer. A clone is another handle to the same thread; the thread ends when the last handle
/// is dropped **and** the last socket has ended.
///
/// When the process ends, the kernel closes what still lingers, which is the loss all over again: call
/// [`finish`](Self::finish) first.
///
/// ```
/// use std::io::Write;
/// use std::time::Duration;
/// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let client = std::net::TcpStream::connect(listener.local_addr()?)?;
/// # let (mut stream, _) = listener.accept()?;
/// let closer = linger::Closer::new(linger::Budget::default())?;
/// stream.write_all(b"HTTP/1.0 413 Content Too Large\r\n\r\n")?;
/// closer.close(stream, &linger::Policy::default());
/// # drop(client);
/// let summary = closer.finish(Duration::from_secs(10));
/// assert_eq!(summary.lingering, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A process that forks workers makes the closer after the fork: threads do not survive it. In a child that
/// uses its parent's closer all the same, a socket is half-closed, emptied once and closed.
#[derive(Clone)]
pub struct Closer {
    handle: Arc<Handle>,
}

impl fmt::Debug for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closer").finish_non_exhaustive()
    }
}

/// What all clones share; its drop says that no more sockets come.
struct Handle {
    shared: Arc<Shared>,
    process: u32,
}

impl Closer {
    /// Starts the thread.
    ///
    /// # Errors
    /// `InvalidInput` with an [`InvalidBudget`] inside; what `epoll_create1`, `eventfd` or the start of a
    /// thread say, usually that there are too many.
    pub fn new(budget: Budget) -> io::Result<Self> {
        budget.validate().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let waker = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, waker.as_fd(), epoll::EventData::new_u64(WAKER), epoll::EventFlags::IN)?;
        let shared = Arc::new(Shared {
            origin: Instant::now(),
            waker,
            most_waiting: budget.sockets,
            asleep: AtomicBool::new(false),
            board: Mutex::new(Board::default()),
            ended: Condvar::new(),
        });
        let worker = Worker::new(Arc::clone(&shared), epoll, budget);
        std::thread::Builder::new().name("linger-closer".into()).spawn(move || worker.run())?;
        Ok(Self { handle: Arc::new(Handle { shared, process: std::process::id() }) })
    }

    /// The closer of this process, made with the default budget when first asked for.
    ///
    /// It takes the connections that no other closer was named for, such as those of a dropped wrapper.
    ///
    /// # Errors
    /// As [`new`](Self::new); the next call tries again.
    pub fn global() -> io::Result<&'static Self> {
        static GLOBAL: OnceLock<Closer> = OnceLock::new();
        if let Some(closer) = GLOBAL.get() {
            return Ok(closer);
        }
        // Two that come at once may both make one; the thread of the one too many ends at once.
        let closer = Self::new(Budget::default())?;
        Ok(GLOBAL.get_or_init(|| closer))
    }

    /// Takes a connected stream socket and ends it by `policy`; returns at once.
    ///
    /// What was written before is sent, then a FIN. The socket may be blocking or not. As with
    /// [`close`](crate::close), a descriptor that is no stream socket is closed plainly, and counted as failed.
    pub fn close(&self, stream: impl Into<OwnedFd>, policy: &Policy) {
        self.hand_over(stream.into(), policy, None);
    }

    /// As [`close`](Self::close), and calls `watcher` with what it came to.
    ///
    /// It is called once, on the closer's thread: everything else waits meanwhile, so it should send, count or
    /// log, and not block.
    pub fn close_then(
        &self,
        stream: impl Into<OwnedFd>,
        policy: &Policy,
        watcher: impl FnOnce(Outcome) + Send + 'static,
    ) {
        self.hand_over(stream.into(), policy, Some(Box::new(watcher)));
    }

    fn hand_over(&self, fd: OwnedFd, policy: &Policy, watcher: Option<Watcher>) {
        let Handle { shared, process } = &*self.handle;
        let mut core = Core::new(policy, shared.now());
        // A sleeping thread is woken and sends the FIN; a busy one is left in peace, and the FIN sent here, so
        // that the peer has it at once in either case.
        let forked = *process != std::process::id();
        let here = forked || !shared.asleep.load(Ordering::Relaxed);
        if here && core.next(shared.now()) == Action::HalfClose {
            core.on(crate::socket::half_close(fd.as_fd()), shared.now());
        }
        if forked {
            // The lock may have been held when the process forked: nothing shared is touched here.
            let outcome = end_at_once(fd, core, shared.now());
            return watcher.into_iter().for_each(|watcher| watcher(outcome));
        }
        let shed = shared.tell(|board| {
            board.handed_over += 1;
            // The thread cannot keep up: what has waited longest is given up here, so that the bound holds.
            let full = board.arrivals.len() >= shared.most_waiting;
            let shed = if full { Some(board.arrivals.swap_remove(0)) } else { None };
            // One without its FIN cannot wait for the next look of a thread that has just dozed off.
            board.prompt |= !core.half_closed();
            board.arrivals.push(Arrival { fd, core, watcher });
            shed
        });
        if let Some(Arrival { fd, core, watcher }) = shed {
            let outcome = end_at_once(fd, core, shared.now());
            shared.lock().done.record(&outcome);
            watcher.into_iter().for_each(|watcher| watcher(outcome));
            shared.lock().reported += 1;
            shared.ended.notify_all();
        }
    }

    /// What has been done so far.
    pub fn snapshot(&self) -> Snapshot {
        self.handle.shared.lock().snapshot()
    }

    /// Evicts up to `count` sockets, those first whose peers have everything: for a server whose `accept`
    /// says that there are no descriptors left.
    pub fn evict(&self, count: usize) {
        self.handle.shared.tell(|board| board.orders.evict += count);
    }

    /// Waits until every socket has ended, for at most `deadline`, and says how those ended that it waited for.
    ///
    /// For the time before the process exits. The bounds of all sockets, those handed over while it waits
    /// among them, are shortened to what is left until the deadline; what is there then is closed. The closer
    /// can be used on. Stop accepting and let the handlers end before, so that nothing comes after.
    pub fn finish(&self, deadline: Duration) -> Snapshot {
        let shared = &self.handle.shared;
        let end = shared.now().saturating_add(u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX));
        let before = shared.tell(|board| {
            board.finishing += 1;
            board.orders.deadline = Some(board.orders.deadline.map_or(end, |other| other.min(end)));
            board.snapshot()
        });
        // The thread closes everything at the deadline. One that was not scheduled for a second more is no
        // reason to hang at exit.
        let patience = end.saturating_add(1_000_000_000);
        let mut board = shared.lock();
        while board.reported < board.handed_over {
            let left = patience.saturating_sub(shared.now());
            if left == 0 {
                break;
            }
            let waited = shared.ended.wait_timeout(board, Duration::from_nanos(left));
            board = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(board, _)| board);
        }
        board.finishing -= 1;
        if board.finishing == 0 {
            board.orders.deadline = None;
        }
        board.snapshot().since(&Snapshot { handed_over: before.handed_over - before.lingering, ..before })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            self.shared.tell(|board| board.orders.no_more = true);
        }
    }
}

/// Hands a descriptor to a closer, or to the global one.
#[cfg(feature = "tokio")]
pub(crate) fn hand_over(closer: Option<&Closer>, fd: OwnedFd, policy: &Policy, watcher: Option<Watcher>) {
    let closer = match closer {
        Some(closer) => Ok(closer),
        None => Closer::global(),
    };
    match closer {
        Ok(closer) => closer.hand_over(fd, policy, watcher),
        Err(_) => {
            // The process has no thread or descriptor left for a closer, and this caller cannot wait.
            let outcome = end_at_once(fd, Core::new(policy, 0), 0);
            watcher.into_iter().for_each(|watcher| watcher(outcome));
        }
    }
}

/// What a close comes to that cannot wait: half-closed, emptied once, closed.
fn end_at_once(fd: OwnedFd, mut core: Core, now: u64) -> Outcome {
    let (ended, elapsed) = (Ended::Evicted, Duration::ZERO);
    let nothing = Outcome { ended, discarded: 0, unacknowledged: None, elapsed };
    let Ok(socket) = Socket::new(fd) else { return nothing };
    if core.next(now) == Action::HalfClose {
        core.on(socket.half_close(), now);
    }
    core.on(socket.discard(&mut Discarder::new(), 1 << 20), now);
    core.evict();
    core.on(socket.measure(), now);
    let Action::Close { abort, outcome } = core.next(now) else { return nothing };
    socket.close(abort, core.acknowledged());
    outcome
}

/// What the callers and the thread share.
struct Shared {
    origin: Instant,
    waker: OwnedFd,
    /// More arrivals than this are not left waiting.
    most_waiting: usize,
    /// What the board says of it, for a look without the lock.
    asleep: AtomicBool,
    board: Mutex<Board>,
    /// Something has ended.
    ended: Condvar,
}

#[derive(Default)]
struct Board {
    arrivals: Vec<Arrival>,
    orders: Orders,
    handed_over: u64,
    done: Snapshot,
    /// Ends whose watchers have returned.
    reported: u64,
    /// Calls of `finish` under way.
    finishing: usize,
    /// The thread sleeps, or is about to, and wants to be woken.
    asleep: bool,
    /// The thread will look again by itself within milliseconds.
    dozing: bool,
    /// Something has come that cannot wait so long.
    prompt: bool,
}

/// What the thread has to tell.
#[derive(Debug, Default)]
struct News {
    /// What has ended since it told last.
    done: Snapshot,
    /// How many of the ends have been reported to their watchers, if they have any.
    reported: u64,
    /// Lingering sockets whose peers have everything.
    acknowledged: u64,
}

/// What the thread is to do beside taking arrivals.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Orders {
    evict: usize,
    /// Everything is to end by then.
    deadline: Option<u64>,
    /// The last handle is gone.
    no_more: bool,
}

impl Board {
    fn snapshot(&self) -> Snapshot {
        let lingering = self.handed_over - self.done.ended.total();
        let lingering_acknowledged = self.done.lingering_acknowledged.min(lingering);
        Snapshot { handed_over: self.handed_over, lingering, lingering_acknowledged, ..self.done }
    }
}

impl Shared {
    /// Nanoseconds since the closer was made.
    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        // Nothing that runs under the lock panics; if it did, what it guards would still be whole.
        self.board.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Changes the board, and wakes the thread if it sleeps.
    fn tell<R>(&self, change: impl FnOnce(&mut Board) -> R) -> R {
        let mut board = self.lock();
        let orders = board.orders;
        let result = change(&mut board);
        // The budget is for those that wait, too: they hold descriptors.
        let spent = board.handed_over - board.done.ended.total() > self.most_waiting as u64;
        let urgent = board.orders != orders || board.prompt || spent;
        let wake = board.asleep || (board.dozing && urgent);
        (board.asleep, board.dozing) = (board.asleep && !wake, board.dozing && !wake);
        drop(board);
        if wake {
            // It fails only when the counter is full, and then the thread is awake.
            let _ = rustix::io::write(&self.waker, &1u64.to_ne_bytes());
        }
        result
    }

    /// For the thread: publishes its news, swaps the arrivals for `empty` and says what else to do.
    fn orders(&self, news: &mut News, empty: &mut Vec<Arrival>) -> Orders {
        let mut board = self.lock();
        self.publish(&mut board, news);
        (board.asleep, board.dozing, board.prompt) = (false, false, false);
        self.asleep.store(false, Ordering::Relaxed);
        std::mem::swap(&mut board.arrivals, empty);
        let orders = board.orders;
        board.orders.evict = 0;
        orders
    }

    /// For the thread: publishes its news and says whether nothing has come meanwhile; if so, whoever comes
    /// next writes to the waker.
    fn may_sleep(&self, news: &mut News, known: Orders) -> bool {
        let mut board = self.lock();
        self.publish(&mut board, news);
        board.asleep = board.arrivals.is_empty() && board.orders == Orders { evict: 0, ..known };
        self.asleep.store(board.asleep, Ordering::Relaxed);
        board.asleep
    }

    /// For the thread: publishes its news and says whether nothing urgent has come meanwhile; if so, it
    /// may wait for some milliseconds, and other arrivals with it.
    fn may_doze(&self, news: &mut News, known: Orders) -> bool {
        let mut board = self.lock();
        self.publish(&mut board, news);
        board.dozing = !board.prompt && board.orders == Orders { evict: 0, ..known };
        board.dozing
    }

    fn publish(&self, board: &mut Board, news: &mut News) {
        board.done.add(&std::mem::take(&mut news.done));
        board.done.lingering_acknowledged = news.acknowledged;
        board.reported += std::mem::take(&mut news.reported);
        if board.finishing > 0 {
            self.ended.notify_all();
        }
    }

    /// For the thread: takes note that it was woken.
    fn heard(&self) {
        let _ = rustix::io::read(&self.waker, &mut [0u8; 8]);
    }
}
