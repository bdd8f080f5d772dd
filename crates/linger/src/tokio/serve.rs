//! A server's whole life: accepting, handling, and a stop that is bounded, lingering included.

use std::fmt;
use std::future::{IntoFuture, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::{Accept, Lingering, Listener};
use crate::{Closer, Policy, Snapshot};

/// Handles what a listener accepts, each connection by a future of its own in a task of its own.
///
/// Awaited, it goes on until the signal of [`stop_when`](Serve::stop_when), or for ever. Lingering sockets make room when
/// descriptors run out. For HTTP there is [`linger::http::serve`](crate::http::serve), which has the same life.
///
/// ```no_run
/// use std::time::Duration;
/// use tokio::io::AsyncWriteExt;
/// use tokio::signal::unix::{SignalKind, signal};
///
/// #[tokio::main]
/// async fn main() -> std::io::Result<()> {
///     let listener = tokio::net::TcpListener::bind("127.0.0.1:7007").await?;
///     let mut terminated = signal(SignalKind::terminate())?;
///     linger::tokio::serve(listener, async |mut stream, _, _| {
///         let _ = stream.write_all(b"hello\n").await; // and it lingers when it is dropped
///     })
///     .stop_when(async move { _ = terminated.recv().await })
///     .within(Duration::from_secs(20))
///     .await?;
///     Ok(())
/// }
/// ```
pub fn serve<L, H, F>(listener: L, handler: H) -> Serve<L, H>
where
    L: Accept,
    H: Fn(Lingering<L::Io>, L::Addr, StopNotice) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    Serve { listener, handler, life: ServerLife::default() }
}

/// A server; see [`serve`].
#[must_use = "a server does nothing unless awaited"]
pub struct Serve<L, H> {
    listener: L,
    handler: H,
    life: ServerLife,
}

/// The settings of a server: how its connections are closed, and how it stops.
#[derive(Default)]
pub(crate) struct ServerLife {
    pub(crate) policy: Policy,
    pub(crate) closer: Option<Closer>,
    pub(crate) signal: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// `None` if handlers may take as long as they will.
    pub(crate) deadline: Option<Duration>,
}

/// How long a stop lingers that nobody has given a deadline. Docker kills after 10 s; Kubernetes
/// (`terminationGracePeriodSeconds`) allows 30 s, systemd 90 s.
const DEADLINE: Duration = Duration::from_secs(9);

/// One in this many parts of a stop's deadline is left to lingering, even if handlers use up the rest. The part before it is
/// for sending the answers that have waited for their uploads.
const LINGERING_SHARE: u32 = 5;

/// How long a connection out of the accept queue, or a new one, may take for its first byte after a stop.
pub(super) const FIRST_BYTE: Duration = Duration::from_secs(1);

impl<L, H> fmt::Debug for Serve<L, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServerLife { policy, deadline, .. } = &self.life;
        f.debug_struct("Serve").field("policy", policy).field("deadline", deadline).finish_non_exhaustive()
    }
}

impl<L, H> Serve<L, H> {
    /// Ends connections by this policy.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.life.policy = policy;
        self
    }

    /// Lets `closer` end the connections, within that closer's budget, instead of the global closer.
    pub fn with_closer(mut self, closer: &Closer) -> Self {
        self.life.closer = Some(closer.clone());
        self
    }

    /// Stops when this is ready, as at SIGTERM.
    ///
    /// After that no connection is accepted but those in the accept queue. Handlers are told by their [`StopNotice`] and are
    /// waited for, however long they take; then the lingering closes are waited for, until 9 s after the signal or 1.8 s after
    /// the end of the last handler, whichever is later. [`within`](Self::within) bounds the whole stop.
    pub fn stop_when(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.life.signal = Some(Box::pin(signal));
        self
    }

    /// How long a stop may take, lingering included. Without a deadline it waits for every handler.
    ///
    /// Handlers get four fifths of this time. Handlers that have not ended by then are dropped with their streams, which
    /// linger for the rest of it.
    pub fn within(mut self, deadline: Duration) -> Self {
        self.life.deadline = Some(deadline);
        self
    }
}

impl<L, H, F> IntoFuture for Serve<L, H>
where
    L: Accept,
    H: Fn(Lingering<L::Io>, L::Addr, StopNotice) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    /// Counts of the closes for which the stop has waited.
    ///
    /// An error names the wrong field of an invalid policy (`InvalidInput`, before anything is accepted), or means that
    /// [`Closer::global`] could not make a closer; no connection has needed one in that case.
    type Output = io::Result<Snapshot>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(run(self.listener, self.handler, self.life))
    }
}

pub(crate) async fn run<L, H, F>(listener: L, handler: H, life: ServerLife) -> io::Result<Snapshot>
where
    L: Accept,
    H: Fn(Lingering<L::Io>, L::Addr, StopNotice) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let ServerLife { policy, closer, mut signal, deadline } = life;
    policy.validate().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let (stop, stopped) = StopNotice::new();
    let mut listener = Listener::new(listener, policy).with_notice(stopped.clone());
    if let Some(closer) = &closer {
        listener = listener.with_closer(closer);
    }
    let mut connections = Connections(JoinSet::new());
    while let Some((stream, address)) = next(&mut listener, &mut signal).await {
        // Forgets the connections that have ended. No wake-up is needed for each of them.
        while connections.0.try_join_next().is_some() {}
        connections.0.spawn(handler(stream, address, stopped.clone()));
    }
    let times = StopTimes::now(deadline);
    let queue = listener.close().await;
    stop.send_replace(Some(times));
    for (stream, address) in queue {
        connections.0.spawn(handler(stream, address, stopped.clone()));
    }
    if timeout_at(times.last_answer(), connections.ended()).await.is_err() {
        // Each drops its stream, which lingers. A handler that blocks its thread is not waited for.
        connections.0.abort_all();
        let _ = timeout_at(times.end(), connections.ended()).await;
    }
    finish(closer, times.end().saturating_duration_since(Instant::now())).await
}

async fn finish(closer: Option<Closer>, deadline: Duration) -> io::Result<Snapshot> {
    let finish = move || match closer {
        Some(closer) => Ok(closer.finish(deadline)),
        None => Closer::global().map(|closer| closer.finish(deadline)),
    };
    tokio::task::spawn_blocking(finish).await.map_err(io::Error::other)?
}

/// The connections that are being handled. Where the server is dropped, they go on.
struct Connections(JoinSet<()>);

impl Connections {
    async fn ended(&mut self) {
        while self.0.join_next().await.is_some() {}
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.0.detach_all();
    }
}

/// Waits for the next connection; `None` when the server is to stop.
async fn next<L: Accept>(
    listener: &mut Listener<L>,
    signal: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
) -> Option<(Lingering<L::Io>, L::Addr)> {
    let mut accept = pin!(listener.accept());
    poll_fn(|context| {
        if signal.as_mut().is_some_and(|signal| signal.as_mut().poll(context).is_ready()) {
            return Poll::Ready(None);
        }
        accept.as_mut().poll(context).map(Some)
    })
    .await
}

/// Tells a handler that its server is to stop.
#[derive(Clone, Debug)]
pub struct StopNotice {
    times: watch::Receiver<Option<StopTimes>>,
}

/// When a stop has begun, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct StopTimes {
    started: Instant,
    /// As given, or [`DEADLINE`].
    deadline: Duration,
    /// Whether the deadline was given, and so holds for handlers, too.
    is_given: bool,
}

/// Longer than anybody waits, and short enough to be added to any instant.
const LONGEST: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The instant that comes after this time, which may be [`Duration::MAX`].
#[cfg(feature = "http")]
pub(crate) fn after(time: Duration) -> Instant {
    Instant::now() + time.min(LONGEST)
}

impl StopTimes {
    /// A stop that begins now.
    fn now(deadline: Option<Duration>) -> Self {
        let time = deadline.unwrap_or(DEADLINE).min(LONGEST);
        Self { started: Instant::now(), deadline: time, is_given: deadline.is_some() }
    }

    /// A stop of a server whose deadline nobody here knows.
    pub(super) fn of_a_foreign_server() -> Self {
        Self::now(None)
    }

    /// When handlers that have not answered are dropped.
    fn last_answer(self) -> Instant {
        if self.is_given { self.started + (self.deadline - self.share()) } else { self.started + LONGEST }
    }

    /// The time that is left to lingering.
    fn share(self) -> Duration {
        self.deadline / LINGERING_SHARE
    }

    /// When what lingers is given up, as of now.
    fn end(self) -> Instant {
        let end = self.started + self.deadline;
        if self.is_given { end } else { end.max(Instant::now() + self.share()) }
    }

    /// Until when a connection that is open may still begin to send.
    #[cfg(feature = "hyper")]
    fn begun_until(self) -> Instant {
        (self.started + FIRST_BYTE).min(self.last_answer())
    }
}

impl StopNotice {
    /// A notice, and the sender that gives it.
    pub(super) fn new() -> (watch::Sender<Option<StopTimes>>, Self) {
        let (tell, times) = watch::channel(None);
        (tell, Self { times })
    }

    /// Waits until the server is to stop; for ever if it never stops, or was dropped.
    pub async fn requested(&mut self) {
        self.times().await;
    }

    /// As [`requested`](Self::requested). Returns until when an open connection may still begin to send.
    #[cfg(feature = "hyper")]
    pub(crate) async fn begun_until(&mut self) -> Instant {
        self.times().await.begun_until()
    }

    /// As [`requested`](Self::requested). Returns until when an answer may wait for its upload, so that there is time left to
    /// send the answer.
    #[cfg(feature = "http")]
    pub(crate) async fn waits_until(&mut self) -> Instant {
        let times = self.times().await;
        times.started + (times.deadline - 2 * times.share())
    }

    async fn times(&mut self) -> StopTimes {
        let times = self.times.wait_for(Option::is_some).await.ok().and_then(|times| *times);
        match times {
            Some(times) => times,
            // The server was dropped, and its connections go on.
            None => std::future::pending().await,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    /// What axum's own stop would have waited for must not be cut off, and what lingers has its time behind it.
    #[tokio::test(start_paused = true)]
    async fn without_a_deadline_handlers_are_waited_for_and_lingering_is_not() {
        let times = StopTimes::now(None);
        assert!(times.last_answer() > times.started + DAY);
        assert_eq!(times.end(), times.started + DEADLINE);
        tokio::time::advance(DEADLINE * 2).await;
        assert_eq!(times.end(), Instant::now() + DEADLINE / 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_given_holds_for_all() {
        let times = StopTimes::now(Some(DEADLINE));
        assert_eq!(times.last_answer(), times.started + DEADLINE * 4 / 5);
        tokio::time::advance(DEADLINE * 2).await;
        assert_eq!(times.end(), times.started + DEADLINE);
        assert!(StopTimes::now(Some(Duration::MAX)).last_answer() > times.started + DAY);
    }

    /// Answers that wait for their uploads are sent while Docker waits, deadline or not.
    #[cfg(feature = "http")]
    #[tokio::test(start_paused = true)]
    async fn answers_wait_for_three_fifths() {
        for (deadline, waits) in [(None, 5.4), (Some(Duration::from_secs(20)), 12.0)] {
            let (tell, mut notice) = StopNotice::new();
            let times = StopTimes::now(deadline);
            tell.send_replace(Some(times));
            assert_eq!(notice.waits_until().await, times.started + Duration::from_secs_f64(waits));
        }
    }
}
