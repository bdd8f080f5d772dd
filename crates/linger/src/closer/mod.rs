//! The close for a server: handed over in microseconds, done in the background.

mod alarm;
mod at_once;
mod board;
mod budget;
mod counts;
mod decide;
mod global;
mod handle;
#[cfg(feature = "metrics")]
mod metrics;
mod peers;
#[cfg(any(feature = "tokio", loom))]
#[cfg_attr(loom, allow(dead_code))] // The models use a part.
mod place;
mod slab;
mod stay;
mod watched;
mod wheel;
mod worker;

#[cfg(all(test, not(loom)))]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use linger_sys::fd::OwnedFd;

pub use budget::{Budget, InvalidBudget};
pub use counts::{EndedCounts, Snapshot};

use crate::machine::Core;
use crate::outcome::Outcome;
use crate::policy::Policy;
use crate::socket::Socket;
#[cfg(feature = "tokio")]
pub(crate) use at_once::end_and_tell;
#[cfg(feature = "tokio")]
pub(crate) use board::LONGEST_WATCH;
use board::Shared;
use handle::Handle;
#[cfg(feature = "tokio")]
pub(crate) use handle::Here;
#[cfg(feature = "tokio")]
pub(crate) use place::{Look, Next, Place};
#[cfg(feature = "tokio")]
pub(crate) use watched::{Ticket, Watched};
use worker::Worker;

/// The callback for the outcome.
type Watcher = Box<dyn FnOnce(Outcome) + Send>;

/// A socket on its way from the caller to the thread.
pub(crate) struct Arrival {
    pub(crate) socket: Socket,
    pub(crate) core: Core,
    pub(crate) watcher: Option<Watcher>,
}

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
/// A process that forks workers makes the closer after the fork: threads do not survive it.
/// [`global`](Self::global) gives each process one of its own. In a child that uses its parent's closer all the
/// same, a socket is half-closed, emptied once and closed; none is counted, so that a snapshot there is empty, and
/// [`finish`](Self::finish) has nothing to wait for.
#[derive(Clone)]
pub struct Closer {
    handle: Arc<Handle>,
}

impl fmt::Debug for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closer").finish_non_exhaustive()
    }
}

impl Closer {
    /// Makes a closer, and starts its thread.
    ///
    /// # Errors
    /// Returns `InvalidInput` with an [`InvalidBudget`] inside, or the errors of `epoll_create1`, of `timerfd_create`
    /// and of starting a thread, usually because a limit is reached.
    pub fn new(budget: Budget) -> io::Result<Self> {
        budget.validate().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let shared = Arc::new(Shared::new(budget.sockets)?);
        let worker = Worker::new(Arc::clone(&shared), budget)?;
        std::thread::Builder::new().name("linger-closer".into()).spawn(move || worker.run())?;
        Ok(Self { handle: Arc::new(Handle::new(shared)) })
    }

    /// The closer of this process, made with the default budget when first asked for.
    ///
    /// The global closer ends the connections for which no other closer was named, such as those of a dropped wrapper. A
    /// forked child does not use its parent's: the child's own is made when the child first asks for it.
    ///
    /// # Errors
    /// Returns the errors of [`new`](Self::new). After an error the next call tries again.
    pub fn global() -> io::Result<&'static Self> {
        static LINE: global::Line = global::Line::new();
        LINE.of_this_process()
    }

    /// Takes a connected stream socket, blocking or not, and closes it by `policy`. Returns at once.
    ///
    /// Bytes that were written before are sent, then a FIN. As with [`close`](crate::close), an fd that is not a
    /// stream socket is closed plainly and counted as failed.
    pub fn close(&self, stream: impl Into<OwnedFd>, policy: &Policy) {
        self.hand_over(stream.into(), policy, None);
    }

    /// As [`close`](Self::close), and calls `watcher` with the outcome.
    ///
    /// `watcher` is called once, as a rule on the closer's thread. All other sockets wait until it returns: it may send, count
    /// or log, but must not block. A caller of this closer calls it, on its own thread, where the closer's thread has no part
    /// in the close: in a forked child, for an fd that is no stream socket, and for a socket that the caller's new one
    /// displaces because [`Budget::sockets`] of them wait for the thread already.
    pub fn close_then(
        &self,
        stream: impl Into<OwnedFd>,
        policy: &Policy,
        watcher: impl FnOnce(Outcome) + Send + 'static,
    ) {
        self.hand_over(stream.into(), policy, Some(Box::new(watcher)));
    }

    fn hand_over(&self, fd: OwnedFd, policy: &Policy, watcher: Option<Watcher>) {
        match self.handle.here() {
            Some(here) => here.hand_over(fd, policy, watcher),
            None => at_once::close_at_once(fd, policy, watcher),
        }
    }

    /// The closer, if its thread runs in this process.
    #[cfg(feature = "tokio")]
    pub(crate) fn here(&self) -> Option<Here<'_>> {
        self.handle.here()
    }

    /// The time by which the machines of this closer's sockets go.
    #[cfg(feature = "tokio")]
    pub(crate) fn now(&self) -> u64 {
        self.handle.clock().now()
    }

    /// The counts so far.
    pub fn snapshot(&self) -> Snapshot {
        self.handle.here().map_or_else(Snapshot::default, |here| here.snapshot())
    }

    /// Evicts up to `count` sockets; first those that stay behind their closes ([`Budget::staying`]), then those whose peers have
    /// acknowledged everything. For a server whose `accept` fails because no descriptors are left.
    pub fn evict(&self, count: usize) {
        self.handle.here().into_iter().for_each(|here| here.evict(count));
    }

    /// Waits until every socket has ended, but at most for `deadline`, or a second longer if the closer's thread is not
    /// scheduled or a watcher blocks. Returns the counts of the closes that it waited for.
    ///
    /// Call this before the process exits, after the server has stopped accepting and its handlers have ended, so that no
    /// socket is handed over too late. Sockets that stay behind their closes ([`Budget::staying`]) are let go at once. It shortens the bounds of all sockets to the time that is left, also of sockets
    /// that are handed over meanwhile. Sockets that are left at the deadline are closed. The closer can be used again
    /// afterwards.
    pub fn finish(&self, deadline: Duration) -> Snapshot {
        self.handle.here().map_or_else(Snapshot::default, |here| here.finish(deadline))
    }
}
