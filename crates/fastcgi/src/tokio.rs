//! The responder on a tokio runtime.
//!
//! One task reads a connection and hands each request to a task of its own, so that requests may always be
//! multiplexed. What is answered, and how a connection ends, is the same as on threads: both drive one
//! [conversation](crate::conversation).

mod desk;
mod exchange;
mod floor;
#[cfg(test)]
pub(crate) mod memory;
mod stop;
mod wire;

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use ::tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use ::tokio::sync::{mpsc, watch};
use ::tokio::time::{timeout, timeout_at};
use linger::tokio::Stream;
use rustix::io::Errno;

use crate::conversation::{Conversation, End, Key, PANICKED, SILENT, Step};
use crate::incoming::Start;
use crate::journal::{Incident, Lack, RequestEntry, note};
use crate::leaving::{LOOK, LastHandshakes, admit_no_more};
use crate::lobby::Lobby;
use crate::responder::Config;
use crate::responder::overdue;
use crate::socket::{PAUSE, is_passing};
use desk::{Desk, Out};
pub use exchange::{Aborted, Request, Response};
use floor::{Floor, Visit};
use stop::StopNews;
use wire::AsyncWire;

const BUFFER: usize = 64 << 10;

/// A stream that can carry a conversation: [`TcpStream`] or [`UnixStream`].
pub trait GatewayStream: Stream + sealed::GatewayStream {}

impl GatewayStream for TcpStream {}
impl GatewayStream for UnixStream {}

mod sealed {
    use ::tokio::net::{TcpStream, UnixStream};

    pub trait GatewayStream: super::AsyncWire {}
    impl GatewayStream for TcpStream {}
    impl GatewayStream for UnixStream {}
}

/// Where connections come from.
pub trait Acceptor {
    /// The stream of an accepted connection.
    type Stream: GatewayStream;
    /// Waits for the next one.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
    /// The listening socket, for a stop with [`Config::owns_listener`]; `None`, as in the provided method, if there is no single one.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Longest accept queue that Linux allows by default is 4,096 (`net.core.somaxconn`); what comes beyond it during a stop is new.
const QUEUE: u32 = 4096;

impl Acceptor for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

impl Acceptor for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        UnixListener::accept(self).await.map(|(stream, _)| stream)
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

/// Serves connections until the listener fails; drop the future to stop accepting. For a stop that waits for what is under way
/// there is [`serve_until`].
///
/// `handler` answers each request and [ends](Response::end) its response. If it returns an error or panics, the gateway
/// gets what [`Handler::handle`](crate::responder::Handler::handle) describes. Requests are always multiplexed,
/// whatever [`Config::multiplex`] says. [`Config::allowed`] is ignored: the listener may check addresses. So is
/// [`Config::backlog`].
///
/// # Errors
/// Returns the errors of accepting that do not pass by themselves.
pub async fn serve<L, H, F>(listener: L, config: Config, handler: H) -> io::Result<()>
where
    L: Acceptor,
    H: Fn(Request, Response) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    serve_until(listener, config, handler, std::future::pending()).await
}

/// Does what [`serve`] does, until `stop` is ready. Then it accepts no more, ends the connections that rest between two requests, lets each
/// request that is under way end, and waits for the lingering closes ([`Config::policy`] bounds each).
///
/// It returns when all of that is done. After [`Config::stop_within`] every wait of a request for its gateway fails, and the request
/// counts as [aborted](Request::aborted); handlers that go on all the same, and connections that linger, are waited for no longer
/// than `policy.grace` from then on. Connections that outlive this future go on.
///
/// # Errors
/// Returns the errors of [`serve`].
pub async fn serve_until<L, H, F>(
    listener: L,
    config: Config,
    handler: H,
    stop: impl Future<Output = ()>,
) -> io::Result<()>
where
    L: Acceptor,
    H: Fn(Request, Response) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let config = Arc::new(config);
    let handler = Arc::new(handler);
    let floor = Floor::new(config.connections, Lobby::within_descriptors(config.resting));
    let (stopping, stopped) = watch::channel(None);
    let stopped = StopNews(stopped);
    // Each connection holds `open` until it is closed.
    let (open, mut all_closed) = mpsc::channel::<()>(1);
    let begin = |stream| {
        let (config, handler, stopped, open) =
            (config.clone(), handler.clone(), stopped.clone(), open.clone());
        let visit = floor.enter();
        ::tokio::spawn(async move {
            if let Some((stream, end)) = converse(stream, &config, &handler, visit, stopped).await {
                // END_REQUEST is out: half-close, bounded drain, close.
                let End { requests, fault, policy, is_slow } = end;
                if is_slow {
                    note(config.journal.as_ref(), &Incident::TooSlow);
                }
                tracing::debug!(requests, ?fault, "closes: FIN, then a bounded drain");
                let outcome = linger::tokio::close(stream, &policy).await;
                tracing::debug!(requests, ?outcome, "closed");
            }
            drop(open);
        });
    };
    let (mut stop, mut lack) = (pin!(stop), Lack::default());
    loop {
        let accepted = async {
            // What cannot be served yet waits in the listener's queue.
            floor.has_room().await;
            listener.accept().await
        };
        let accepted = ::tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok(stream) => {
                lack.ended(config.journal.as_ref());
                begin(stream);
            }
            Err(error) if concerns_one(&error) => {}
            Err(error) if is_passing(&error) => {
                lack.began(config.journal.as_ref(), &error);
                // The connection stays in the listener's queue until another one ends and frees an fd.
                floor.evict();
                ::tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
    let overdue = config.stop_within.and_then(|within| Instant::now().checked_add(within));
    // First, so that connections that rest end.
    let _ = stopping.send(Some(overdue));
    let queue = serve_queue(&listener, &floor, &config, begin);
    match overdue {
        Some(overdue) => drop(timeout_at(overdue.into(), queue).await),
        None => queue.await,
    }
    drop(listener);
    drop(open);
    let ended = all_closed.recv();
    match overdue.and_then(|overdue| overdue.checked_add(config.policy.grace)) {
        Some(last) => drop(timeout_at(last.into(), ended).await),
        None => drop(ended.await),
    }
    Ok(())
}

/// Begins the connections that wait in the accept queue: they would be reset with the listener.
async fn serve_queue<L: Acceptor>(listener: &L, floor: &Floor, config: &Config, begin: impl Fn(L::Stream)) {
    let own = listener.socket().filter(|_| config.owns_listener);
    // Without it, the look at the queue below is the last that can be done for those who connect.
    let shut = own.and_then(|socket| admit_no_more(socket).ok());
    // The runtime may not have reported a connection yet: it does before it reports that a time is over.
    let look = if own.is_some() { LOOK } else { Duration::from_millis(1) };
    let mut handshakes = LastHandshakes::new();
    for _ in 0..QUEUE {
        floor.has_room().await;
        match timeout(look, listener.accept()).await {
            Ok(Ok(stream)) => {
                if let Some(shut) = &shut {
                    shut.accepted(&stream);
                }
                begin(stream);
                handshakes = LastHandshakes::new();
            }
            Ok(Err(error)) if concerns_one(&error) => {}
            Ok(Err(error)) if is_passing(&error) => {
                floor.evict();
                ::tokio::time::sleep(PAUSE).await;
            }
            Ok(Err(_)) => return,
            Err(_) if own.is_some_and(|socket| handshakes.may_end(socket)) => {}
            Err(_) => return,
        }
    }
}

/// Whether a peer gave up in the queue.
fn concerns_one(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::CONNABORTED | Errno::PROTO))
}

/// Holds the conversation on a connection. Returns the connection, and how it is to end.
async fn converse<W, H, F>(
    wire: W,
    config: &Config,
    handler: &Arc<H>,
    mut visit: Visit,
    stopped: StopNews,
) -> Option<(W, End)>
where
    W: AsyncWire,
    H: Fn(Request, Response) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let desk = Arc::new(Desk::new(Conversation::new(config.bounds(true))));
    let out = Arc::new(Out::new(wire, desk.clone(), config, stopped.clone()));
    let mut buffer = vec![0; BUFFER];
    let (mut start, mut end, mut is_over) = (0, 0, false);
    loop {
        let begun = desk.lock().conversation.request();
        if let Some((key, start)) = begun {
            visit.serve(&stopped).await;
            ::tokio::spawn(one(key, start, desk.clone(), out.clone(), handler.clone()));
            continue;
        }
        let (step, is_idle) = {
            let conversation = &mut desk.lock().conversation;
            (conversation.next(Instant::now()), conversation.is_idle())
        };
        match step {
            Step::Send(records) => reply(&desk, &out, &records).await,
            Step::Receive(until) | Step::Rest(until) => {
                if start == end {
                    let rests = matches!(step, Step::Rest(_));
                    let received = ::tokio::select! {
                        biased;
                        () = stopped.overdue() => Some(Err(overdue())),
                        () = desk.news.notified() => continue,
                        // A request that has arrived by now is still served.
                        received = receive(&out.wire, &mut buffer, until) => received,
                        () = stopped.asked(), if rests => break,
                        () = visit.rest(rests, config.journal.as_ref()), if is_idle => break,
                    };
                    visit.stand_up();
                    let conversation = &mut desk.lock().conversation;
                    match received {
                        Some(Ok(0)) => conversation.closed(),
                        Some(Ok(got)) => (start, end) = (0, got),
                        Some(Err(error)) => conversation.lost(error.kind()),
                        None => conversation.silent(Instant::now()),
                    }
                }
                let mut state = desk.lock();
                let mut input = &buffer[start..end];
                if !input.is_empty() {
                    state.conversation.take(&mut input, Instant::now());
                    start = end - input.len();
                }
                state.wake();
            }
            Step::Measure => desk.lock().conversation.measured(out.wire.unacknowledged(), Instant::now()),
            Step::Hold if is_over => desk.news.notified().await,
            Step::Hold => ::tokio::select! {
                () = desk.news.notified() => {}
                () = stopped.overdue() => {
                    is_over = true;
                    let mut state = desk.lock();
                    state.conversation.lost(overdue().kind());
                    state.wake();
                }
            },
            // Every response has ended. Each gave up its `Arc` of the connection before the conversation was told of
            // its end.
            Step::End(end) => return Some((Arc::into_inner(out)?.wire, end)),
        }
    }
    // No request is under way.
    let end = desk.lock().conversation.end();
    Some((Arc::into_inner(out)?.wire, end))
}

/// Sends what the conversation itself says.
async fn reply(desk: &Desk, out: &Out<impl AsyncWire>, records: &[u8]) {
    if let Err(error) = out.send(&mut [io::IoSlice::new(records)]).await {
        let mut state = desk.lock();
        state.conversation.lost(error.kind());
        state.wake();
    }
}

/// Receives, waiting for bytes until `until`. Returns `None` if none came in time.
async fn receive(wire: &impl AsyncWire, to: &mut [u8], until: Option<Instant>) -> Option<io::Result<usize>> {
    let receiving = poll_fn(|context| wire.poll_receive(context, to));
    match until {
        Some(until) => timeout_at(until.into(), receiving).await.ok(),
        None => Some(receiving.await),
    }
}

/// Serves one request.
async fn one<H, F>(key: Key, start: Start, desk: Arc<Desk>, out: Arc<Out<dyn AsyncWire>>, handler: Arc<H>)
where
    H: Fn(Request, Response) -> F,
    F: Future<Output = io::Result<()>>,
{
    let entry = RequestEntry::begin(out.journal.as_ref(), &start);
    let (response, dropped) = Response::new(key, start.id, entry, desk.clone(), out);
    let request = Request::new(desk, key, start);
    let handled = caught(|| handler(request, response)).await;
    // The handler may have given its response to another task. The request is over when the response has been ended or
    // dropped.
    let Ok(live) = dropped.await else { return };
    let error = match handled {
        Some(Ok(())) => io::Error::other(SILENT),
        Some(Err(error)) => error,
        None => io::Error::other(PANICKED),
    };
    // If this answer cannot be sent, the connection has failed, and the gateway sees it end.
    let _ = live.finish(Err(error)).await;
}

/// Awaits the future that `make` makes, and returns its output. Returns `None` if the future, or `make`, panics.
async fn caught<F: Future>(make: impl FnOnce() -> F) -> Option<F::Output> {
    let mut future = pin!(catch_unwind(AssertUnwindSafe(make)).ok()?);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}
