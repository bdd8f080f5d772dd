//! The responder on a tokio runtime.
//!
//! One task reads a connection and hands each request to a task of its own, so that requests may always be
//! multiplexed. The end of a connection is the same as on threads.

mod exchange;

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::tokio::io::{AsyncReadExt, AsyncWriteExt};
use ::tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use ::tokio::sync::{Semaphore, mpsc};
use ::tokio::task::JoinSet;
use ::tokio::time::timeout;
use bytes::Bytes;
use linger::tokio::Stream;

use crate::cgi;
use crate::incoming::{Capacity, Event, Incoming, Start};
use crate::responder::Config;
use exchange::{Complete, ENDED, FRESH, Writer};
pub use exchange::{Request, Response};

/// Pieces of a body that wait for a handler; each is at most [`BUFFER`] bytes.
const PIECES: usize = 4;
const BUFFER: usize = 64 << 10;

/// Where connections come from.
pub trait Listener {
    /// What it gives.
    type Connection: Stream + Send + 'static;
    /// Waits for the next one.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

impl Listener for TcpListener {
    type Connection = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Listener for UnixListener {
    type Connection = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        UnixListener::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Serves connections until the listener fails; drop the future to stop accepting.
///
/// `handler` answers each request and [ends](Response::end) its response. [`Config::multiplex`] is always on here, and
/// [`Config::allowed`] is left to the listener.
///
/// # Errors
/// The listener's, where waiting does not help.
pub async fn serve<L, H, F>(listener: L, config: Config, handler: H) -> io::Result<()>
where
    L: Listener,
    H: Fn(Request, Response) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let config = Arc::new(config);
    let handler = Arc::new(handler);
    let room = Arc::new(Semaphore::new(config.connections));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return Ok(()) };
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) if is_passing(&error) => {
                // It stays in the queue; a connection that ends makes room.
                ::tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let (config, handler) = (config.clone(), handler.clone());
        ::tokio::spawn(async move {
            let policy = config.policy;
            if let Some(stream) = connection(stream, config, handler).await {
                // END_REQUEST is out: half-close, bounded drain, close.
                linger::tokio::close(stream, &policy).await;
            }
            drop(permit);
        });
    }
}

/// Out of descriptors or memory, or a peer that gave up in the queue: the next accept may work.
fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::CONNABORTED | Errno::PROTO)
    )
}

/// A running request, as the task that reads the connection knows it.
struct Running {
    id: u16,
    stdin: Option<mpsc::Sender<Bytes>>,
    data: Option<mpsc::Sender<Bytes>>,
    complete: Arc<Complete>,
}

/// Serves a connection; gives the stream back for the close.
async fn connection<C, H, F>(stream: C, config: Arc<Config>, handler: Arc<H>) -> Option<C>
where
    C: Stream + Send + 'static,
    H: Fn(Request, Response) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let capacity =
        Capacity::new(config.connections, config.connections.saturating_mul(config.limits.multiplexed), true);
    let incoming = Arc::new(Mutex::new(Incoming::new(config.limits, capacity)));
    let (mut reader, writer) = ::tokio::io::split(stream);
    let writer: Writer<C> = Arc::new(::tokio::sync::Mutex::new(writer));
    let shared = Shared { incoming: incoming.clone(), writer: writer.clone(), io_timeout: config.io_timeout };
    let mut running: Vec<Running> = Vec::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; BUFFER];
    let mut draining: Option<(Instant, u64)> = None;
    let mut discarded = 0;
    let mut finished = false;
    loop {
        let (is_draining, expects_more) = {
            let incoming = lock(&incoming);
            (incoming.is_draining(), incoming.expects_more())
        };
        if is_draining {
            let (since, before) = *draining.get_or_insert((Instant::now(), discarded));
            let too_many = config.policy.max_discard.is_some_and(|most| discarded - before > most);
            if too_many || since.elapsed() >= config.policy.total {
                break;
            }
        } else {
            draining = None;
        }
        let patience = match (is_draining, expects_more, tasks.is_empty()) {
            (true, ..) => config.policy.idle,
            (_, true, _) => config.io_timeout,
            (_, _, true) => config.keep_idle,
            _ => Duration::from_secs(365 * 24 * 60 * 60),
        };
        let got = ::tokio::select! {
            biased;
            Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                match done {
                    Ok(last) => finished |= last,
                    // A panic in a handler: its response can no longer be told from a part.
                    Err(_) => finished = true,
                }
                if finished && tasks.is_empty() { break }
                continue;
            }
            got = timeout(patience, reader.read(&mut buffer)) => match got {
                Ok(Ok(got)) if got > 0 => got,
                _ => break,
            }
        };
        let mut input = &buffer[..got];
        let mut failed = false;
        loop {
            let (event, replies) = {
                let mut incoming = lock(&incoming);
                let event = incoming.next(&mut input);
                (event, std::mem::take(incoming.replies()))
            };
            if !replies.is_empty() && writer.lock().await.write_all(&replies).await.is_err() {
                failed = true;
                break;
            }
            match event {
                Ok(Some(Event::Start(start))) => {
                    let (stdin, stdin_rx) = mpsc::channel(PIECES);
                    let (data, data_rx) = mpsc::channel(PIECES);
                    let complete = Arc::new(Complete::default());
                    // A handler that is done has dropped its request.
                    running
                        .retain(|running| running.id != start.id && Arc::strong_count(&running.complete) > 1);
                    running.push(Running {
                        id: start.id,
                        stdin: Some(stdin),
                        data: Some(data),
                        complete: complete.clone(),
                    });
                    let keep_conn = start.keep_conn;
                    let (shared, handler) = (shared.clone(), handler.clone());
                    tasks.spawn(async move {
                        let streams = (stdin_rx, data_rx, complete);
                        let kept = one(start, streams, shared, handler).await;
                        !kept || !keep_conn
                    });
                }
                Ok(Some(Event::Stdin(id, bytes))) => feed(&mut running, id, Which::Stdin, Some(bytes)).await,
                Ok(Some(Event::StdinEnd(id))) => feed(&mut running, id, Which::Stdin, None).await,
                Ok(Some(Event::Data(id, bytes))) => feed(&mut running, id, Which::Data, Some(bytes)).await,
                Ok(Some(Event::DataEnd(id))) => feed(&mut running, id, Which::Data, None).await,
                Ok(Some(Event::Abort(id))) => running.retain(|running| running.id != id),
                Ok(Some(Event::Discarded(bytes))) => discarded += bytes as u64,
                Ok(None) => break,
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
        if failed {
            break;
        }
    }
    // Whoever still runs may answer; it gets no more input.
    drop(running);
    while tasks.join_next().await.is_some() {}
    drop(shared);
    // A handler may have moved its response elsewhere; then it is the one to close, plainly.
    let writer = Arc::into_inner(writer)?.into_inner();
    Some(reader.unsplit(writer))
}

/// Serves one request; `false` when the connection cannot go on.
async fn one<C, H, F>(
    start: Start,
    streams: (mpsc::Receiver<Bytes>, mpsc::Receiver<Bytes>, Arc<Complete>),
    shared: Shared<C>,
    handler: Arc<H>,
) -> bool
where
    C: Stream + Send + 'static,
    H: Fn(Request, Response) -> F,
    F: Future<Output = io::Result<()>>,
{
    let id = start.id;
    let progress = Arc::new(AtomicU8::new(FRESH));
    let (stdin, data, complete) = streams;
    let request = Request { start, stdin, data, complete };
    let handled = handler(request, shared.response(id, progress.clone())).await;
    match progress.load(Ordering::Acquire) {
        ENDED => handled.is_ok(),
        FRESH => {
            let reason =
                handled.err().map_or("the handler gave no response".to_owned(), |error| error.to_string());
            refuse(shared.response(id, progress), &reason).await.is_ok()
        }
        // Part of it is gone: no END_REQUEST, so that nobody takes the part for the whole.
        _ => {
            lock(&shared.incoming).finish(id);
            false
        }
    }
}

async fn refuse(mut response: Response, reason: &str) -> io::Result<()> {
    response.log(reason).await?;
    let mut head = Vec::new();
    cgi::head(&mut head, 500, [("Content-Type", "text/plain")])?;
    response.write(&head).await?;
    response.write(b"The application failed; its log says why.\n").await?;
    response.end(1).await
}

/// What the requests of a connection share.
struct Shared<C> {
    incoming: Arc<Mutex<Incoming>>,
    writer: Writer<C>,
    io_timeout: Duration,
}

impl<C> Clone for Shared<C> {
    fn clone(&self) -> Self {
        Self { incoming: self.incoming.clone(), writer: self.writer.clone(), io_timeout: self.io_timeout }
    }
}

impl<C: Stream + Send + 'static> Shared<C> {
    fn response(&self, id: u16, progress: Arc<AtomicU8>) -> Response {
        Response {
            out: Box::new(self.writer.clone()),
            incoming: self.incoming.clone(),
            id,
            gathered: Vec::new(),
            progress,
            io_timeout: self.io_timeout,
        }
    }
}

/// Hands a piece of a body, or its end, to its request; waits while that has enough.
async fn feed(running: &mut [Running], id: u16, which: Which, bytes: Option<&[u8]>) {
    let Some(running) = running.iter_mut().find(|running| running.id == id) else { return };
    let (sender, complete) = match which {
        Which::Stdin => (&mut running.stdin, &running.complete.stdin),
        Which::Data => (&mut running.data, &running.complete.data),
    };
    match (bytes, &*sender) {
        (Some(bytes), Some(to)) => {
            // A handler that has dropped its request wants no more of it.
            let _ = to.send(Bytes::copy_from_slice(bytes)).await;
        }
        (None, _) => {
            complete.store(true, Ordering::Release);
            *sender = None;
        }
        (Some(_), None) => {}
    }
}

#[derive(Clone, Copy)]
enum Which {
    Stdin,
    Data,
}

fn lock(incoming: &Mutex<Incoming>) -> std::sync::MutexGuard<'_, Incoming> {
    incoming.lock().unwrap_or_else(PoisonError::into_inner)
}
