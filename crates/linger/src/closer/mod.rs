//! The close for a server: handed over in microseconds, done in the background.

mod board;
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
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use linger_sys::Discarder;
use rustix::event::epoll;

pub use budget::{Budget, InvalidBudget};
pub use counts::{EndedCounts, Snapshot};

use crate::machine::{Action, Core};
use crate::outcome::Outcome;
use crate::policy::Policy;
use crate::socket::Socket;
pub(crate) use board::Arrival;
use board::Shared;
#[cfg(feature = "tokio")]
pub(crate) use board::{Ticket, Watched};
use worker::{ALARM, Worker};

/// What is called with the outcome.
type Watcher = Box<dyn FnOnce(Outcome) + Send>;

/// Ends connections in the background, each as [`close`](crate::close) would, any number at once.
///
/// One thread, one epoll. Handing a socket over takes a lock, the `shutdown` and, if none came in the last
/// milliseconds, the call that sets the thread's alarm; it never waits for a peer. A clone is another handle to
/// the same thread; the thread ends when the last handle is dropped **and** the last socket has ended.
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
    /// `InvalidInput` with an [`InvalidBudget`] inside; what `epoll_create1`, `timerfd_create` or the start of a
    /// thread say, usually that there are too many.
    pub fn new(budget: Budget) -> io::Result<Self> {
        budget.validate().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let shared = Arc::new(Shared::new(budget.sockets)?);
        // Edge-triggered, so that the alarm need not be read.
        let interest = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, shared.alarm(), epoll::EventData::new_u64(ALARM), interest)?;
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
        let core = Core::new(policy, shared.now());
        let socket = match Socket::new(fd) {
            Ok(socket) => socket,
            Err((fd, error)) => {
                drop(fd);
                shared.lock().handed_over += 1;
                return self.ended_here(Outcome::failed(error.kind()), watcher);
            }
        };
        let arrival = Arrival { socket, core, watcher };
        if *process == std::process::id() {
            return self.bring(arrival, false);
        }
        // The lock may have been held when the process forked: nothing shared is touched here.
        let (outcome, watcher) = end_at_once(arrival, shared.now());
        watcher.into_iter().for_each(|watcher| watcher(outcome));
    }

    /// The time by which the machines of this closer's sockets go.
    #[cfg(feature = "tokio")]
    pub(crate) fn now(&self) -> u64 {
        self.handle.shared.now()
    }

    /// Notes a socket whose end a task watches, and takes it over when that lasts.
    #[cfg(feature = "tokio")]
    pub(crate) fn watch(&self, watched: Arc<dyn Watched>) -> Ticket {
        self.handle.shared.watch(watched)
    }

    /// Takes over a socket that was watched.
    #[cfg(feature = "tokio")]
    pub(crate) fn take_over(&self, ticket: Ticket, arrival: Arrival) {
        self.handle.shared.unwatch(ticket, None);
        self.bring(arrival, true);
    }

    /// Counts the end of a watched socket.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_over(&self, ticket: Ticket, outcome: &Outcome) {
        #[cfg(feature = "tracing")]
        worker::trace(outcome);
        self.handle.shared.unwatch(ticket, Some(outcome));
    }

    /// Gives an arrival to the thread; its FIN is sent here, so that the peer has it at once.
    fn bring(&self, mut arrival: Arrival, counted: bool) {
        let shared = &self.handle.shared;
        if arrival.core.next(shared.now()) == Action::HalfClose {
            arrival.core.on(arrival.socket.half_close(), shared.now());
        }
        if let Some(shed) = shared.bring(arrival, counted) {
            let (outcome, watcher) = end_at_once(shed, shared.now());
            self.ended_here(outcome, watcher);
        }
    }

    /// Counts and tells an end that the thread has no part in.
    fn ended_here(&self, outcome: Outcome, watcher: Option<Watcher>) {
        #[cfg(feature = "tracing")]
        worker::trace(&outcome);
        let shared = &self.handle.shared;
        shared.lock().done.record(&outcome);
        watcher.into_iter().for_each(|watcher| watcher(outcome));
        shared.reported();
    }

    /// What has been done so far.
    pub fn snapshot(&self) -> Snapshot {
        self.handle.shared.lock().snapshot()
    }

    /// Evicts up to `count` sockets, those first whose peers have everything: for a server whose `accept`
    /// says that there are no descriptors left.
    pub fn evict(&self, count: usize) {
        self.handle.shared.order(|board| board.orders.evict += count);
    }

    /// Waits until every socket has ended, for at most `deadline`, and says how those ended that it waited for.
    ///
    /// For the time before the process exits. The bounds of all sockets, those handed over while it waits
    /// among them, are shortened to what is left until the deadline; what is there then is closed. The closer
    /// can be used on. Stop accepting and let the handlers end before, so that nothing comes after.
    pub fn finish(&self, deadline: Duration) -> Snapshot {
        let shared = &self.handle.shared;
        let end = shared.now().saturating_add(u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX));
        let mut before = Snapshot::default();
        shared.order(|board| {
            board.finishing += 1;
            board.orders.deadline = Some(board.orders.deadline.map_or(end, |other| other.min(end)));
            before = board.snapshot();
        });
        // The thread closes everything at the deadline. One that was not scheduled for a second more is no
        // reason to hang at exit.
        let patience = end.saturating_add(1_000_000_000);
        let mut board = shared.lock();
        let mut in_time = true;
        while in_time && board.reported < board.handed_over {
            (board, in_time) = shared.await_end(board, patience);
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
            self.shared.order(|board| board.orders.no_more = true);
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
            match Socket::new(fd) {
                Ok(socket) => do_without(Arrival { socket, core: Core::new(policy, 0), watcher }),
                Err((fd, error)) => {
                    drop(fd);
                    watcher.into_iter().for_each(|watcher| watcher(Outcome::failed(error.kind())));
                }
            }
        }
    }
}

/// Ends a connection without a closer, which the process could not make.
#[cfg(feature = "tokio")]
pub(crate) fn do_without(arrival: Arrival) {
    let (outcome, watcher) = end_at_once(arrival, 0);
    watcher.into_iter().for_each(|watcher| watcher(outcome));
}

/// What a close comes to that cannot wait: half-closed, emptied once, closed.
fn end_at_once(arrival: Arrival, now: u64) -> (Outcome, Option<Watcher>) {
    let Arrival { socket, mut core, watcher } = arrival;
    if core.next(now) == Action::HalfClose {
        core.on(socket.half_close(), now);
    }
    core.on(socket.discard(&mut Discarder::new(), 1 << 20), now);
    core.evict();
    core.on(socket.measure(), now);
    let Action::Close { abort, outcome } = core.next(now) else {
        return (Outcome::failed(io::ErrorKind::Other), watcher);
    };
    socket.close(abort, core.acknowledged());
    (outcome, watcher)
}
