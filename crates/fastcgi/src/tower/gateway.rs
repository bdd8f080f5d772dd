//! A FastCGI application as a service that takes HTTP requests.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use ::tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use ::tokio::net::{TcpStream, UnixStream};
use ::tokio::sync::oneshot;
use ::tokio::time::{error::Elapsed, timeout};
use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use tower_service::Service;

use super::appetite::Appetite;
use super::environment::environment;
use super::outbox::{Failure, Outbox, ResponseBody};
use crate::address::Address;
use crate::environment::Site;
use crate::gateway::idle::Idle;
use crate::gateway::{Cause, Config, Error};
use crate::params::push_pair;
use crate::record::{self, FULL, ProtocolStatus, RecordType, Role};
use crate::replies::{Replies, Reply};

const ID: u16 = 1;
const BUFFER: usize = 64 << 10;

/// Sends HTTP requests to a FastCGI application; a `tower` service. Clones share its idle connections.
///
/// The path of a request is decoded, its `.` and `..` are resolved, and one that leaves the document root is refused with
/// [`Error::Request`]. What the gateway cannot know (`REMOTE_ADDR`, `HTTPS`, ...) the caller may give as [`Variables`] among the
/// request's extensions. What the application writes to STDERR is logged (`tracing`, level WARN).
///
/// [`Variables`]: super::Variables
///
/// It keeps the promises of the blocking [`Client`](crate::Client): it reads while it writes, salvages what
/// arrived before a reset, and ends a response's body without error only after END_REQUEST.
#[derive(Clone, Debug)]
pub struct Gateway {
    shared: Arc<Application>,
}

#[derive(Debug)]
struct Application {
    address: Address,
    site: Site,
    config: Config,
    idle: Idle<ApplicationStream>,
}

#[derive(Debug)]
enum ApplicationStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Gateway {
    /// A gateway to the application at `address`, which finds its scripts as `site` says: a [`Site`], or only its root.
    pub fn new(address: Address, site: impl Into<Site>, config: Config) -> Self {
        let shared = Application { address, site: site.into(), config, idle: Idle::default() };
        Self { shared: Arc::new(shared) }
    }
}

impl<B> Service<http::Request<B>> for Gateway
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>> + Send,
{
    type Response = http::Response<ResponseBody>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let length = http_body::Body::size_hint(&body).exact();
            if length.is_none()
                && !http_body::Body::is_end_stream(&body)
                && !parts.headers.contains_key(http::header::CONTENT_LENGTH)
            {
                let body = http_body_util::Full::new(spooled(body, shared.config.spool).await?);
                return shared.answer(&parts, body).await;
            }
            shared.answer(&parts, body).await
        })
    }
}

/// Reads a body of unknown length to its end. Fails if it is longer than `most`.
async fn spooled<B>(body: B, most: usize) -> Result<Bytes, Error>
where
    B: http_body::Body,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let mut all = Vec::new();
    let mut body = pin!(body);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::Body(io::Error::other(error)))?;
        let Ok(mut data) = frame.into_data() else { continue };
        if data.remaining() > most - all.len() {
            return Err(Error::NoLength { most });
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            all.extend_from_slice(chunk);
            let length = chunk.len();
            data.advance(length);
        }
    }
    Ok(all.into())
}

impl Application {
    async fn answer<B>(
        self: Arc<Self>,
        parts: &http::request::Parts,
        body: B,
    ) -> Result<http::Response<ResponseBody>, Error>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn StdError + Send + Sync>> + Send,
    {
        let head = self.head(parts, http_body::Body::size_hint(&body).exact())?;
        let is_bare = http_body::Body::is_end_stream(&body);
        let reuses = parts.method.is_safe() && is_bare || self.config.reuses_after_bodies;
        let is_head = parts.method == http::Method::HEAD;
        let mut told = self.attempt(reuses, head.clone(), body, is_head).await;
        for _ in 0..if is_bare { self.config.retries } else { 0 } {
            match told {
                Err((failure, reused)) if is_safe(&failure, reused && parts.method.is_idempotent()) => {
                    tracing::info!(error = %failure.error, reused, "no response: the request is sent again");
                    // The application has most likely closed the other idle connections, too.
                    self.idle.clear();
                    told = self
                        .attempt(reuses, head.clone(), http_body_util::Empty::<Bytes>::new(), is_head)
                        .await;
                }
                told => return told.map_err(|(failure, _)| failure.error),
            }
        }
        told.map_err(|(failure, _)| failure.error)
    }

    /// Sends a request once. The error says also whether its connection was used before.
    async fn attempt<B>(
        self: &Arc<Self>,
        reuses: bool,
        head: Vec<u8>,
        body: B,
        is_head: bool,
    ) -> Result<http::Response<ResponseBody>, (Failure, bool)>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn StdError + Send + Sync>> + Send,
    {
        let failed = |error| Failure { error, is_untouched: true };
        let (wire, reused) = self.wire(reuses).await.map_err(|error| (failed(error), false))?;
        let (tell, told) = oneshot::channel();
        ::tokio::spawn(drive(self.clone(), (wire, reused), head, body, Outbox::new(tell, is_head)));
        let told = told.await.unwrap_or_else(|_| Err(failed(cut(0, Cause::Closed, None))));
        told.map_err(|failure| (failure, reused))
    }

    fn head(&self, parts: &http::request::Parts, length: Option<u64>) -> Result<Vec<u8>, Error> {
        let mut pairs = Vec::new();
        for (name, value) in environment(parts, &self.site, length)?.iter() {
            push_pair(&mut pairs, name, value);
        }
        let mut out = Vec::new();
        record::push_begin(&mut out, ID, Role::Responder, self.config.keep_conn);
        record::push_stream(&mut out, RecordType::Params, ID, &pairs);
        record::push(&mut out, RecordType::Params, ID, &[]);
        Ok(out)
    }

    /// Returns a connection, and whether it was used before. It is a new one unless `kept`.
    async fn wire(&self, kept: bool) -> Result<(ApplicationStream, bool), Error> {
        while let Some((wire, since)) = self.idle.pop() {
            if !kept {
                // Close the idle connection first: many applications serve one connection a worker, and the idle one
                // may occupy the worker that the new one needs.
                break;
            }
            if since.elapsed() < self.config.idle_timeout && wire.is_silent() {
                return Ok((wire, true));
            }
        }
        let connecting = async {
            match &self.address {
                Address::Tcp(address) => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Ok(ApplicationStream::Tcp(stream))
                }
                Address::Unix(path) => UnixStream::connect(path).await.map(ApplicationStream::Unix),
            }
        };
        let connected = timeout(self.config.connect_timeout, connecting).await;
        let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let connected =
            connected.map_err(|source| Error::Connect { address: self.address.clone(), source })?;
        Ok((connected, false))
    }
}

impl ApplicationStream {
    /// Whether an idle connection has nothing to read. Anything readable between two requests is the end of the stream
    /// or bytes that belong to no request; either way the connection cannot be used again.
    fn is_silent(&self) -> bool {
        let mut byte = [0];
        let said = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
        };
        said.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Whether a request without a body may be sent again: the application has done nothing for it, or, if that is asked of an
/// idempotent one, has ended a kept connection before any byte of a response.
fn is_safe(failure: &Failure, reused: bool) -> bool {
    match failure.error {
        Error::Refused(ProtocolStatus::Overloaded | ProtocolStatus::CantMultiplex) => true,
        Error::Cut { .. } => reused && failure.is_untouched,
        _ => false,
    }
}

fn cut(received: u64, cause: Cause, write_error: Option<io::ErrorKind>) -> Error {
    Error::Cut { received, cause, write_error }
}

/// Carries one request and its response. Then keeps the connection for the next request, if it can be used again and the
/// configuration asks for that.
async fn drive<B>(
    shared: Arc<Application>,
    (wire, reused): (ApplicationStream, bool),
    head: Vec<u8>,
    body: B,
    outbox: Outbox,
) where
    B: http_body::Body,
    B::Error: Into<Box<dyn StdError + Send + Sync>> + Send,
{
    let config = shared.config;
    let hunger = Appetite::new(&shared.idle, config.keep_conn && !reused);
    let reusable = |kept: bool, wire| {
        if kept && config.keep_conn {
            shared.idle.put(wire, config.idle_connections);
        }
    };
    match wire {
        ApplicationStream::Tcp(mut stream) => {
            let kept = exchange(&mut stream, &config, (head, body), outbox, hunger).await;
            reusable(kept, ApplicationStream::Tcp(stream));
        }
        ApplicationStream::Unix(mut stream) => {
            let kept = exchange(&mut stream, &config, (head, body), outbox, hunger).await;
            reusable(kept, ApplicationStream::Unix(stream));
        }
    }
}

/// Carries one request and its response over a connection. Returns whether the connection can be used again.
async fn exchange<S, B>(
    stream: &mut S,
    config: &Config,
    (head, body): (Vec<u8>, B),
    mut outbox: Outbox,
    mut appetite: Appetite<'_, ApplicationStream>,
) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: http_body::Body,
    B::Error: Into<Box<dyn StdError + Send + Sync>> + Send,
{
    let (mut reader, mut writer) = ::tokio::io::split(stream);
    let moved = AtomicU64::new(0);
    let mut sending = pin!(send(&mut writer, head, body, &moved));
    let mut sent: Option<Result<bool, SendFailed>> = None;
    let mut replies = Replies::new(ID);
    let mut buffer = vec![0; BUFFER];
    let (mut received, mut sent_before) = (0u64, 0);
    loop {
        if let Some(Err(SendFailed::Body(error))) = &mut sent {
            let error = std::mem::replace(error, io::ErrorKind::Other.into());
            outbox.fail(Error::Body(error), false).await;
            return false;
        }
        let got = ::tokio::select! {
            result = &mut sending, if sent.is_none() => {
                sent = Some(result);
                continue;
            }
            got = timeout(config.io_timeout, appetite.read(reader.read(&mut buffer))) => got,
            // The application learns by the connection's end that nobody waits.
            () = outbox.unwanted() => return false,
        };
        // A request that still goes out is progress as well.
        let before = std::mem::replace(&mut sent_before, moved.load(Relaxed));
        if got.is_err() && sent_before != before {
            continue;
        }
        let mut input = match came(got) {
            Ok(got) => &buffer[..got],
            Err(cause) => {
                // Earlier bytes of the application were still read.
                let write_error = sent.as_ref().and_then(wire_error);
                outbox.fail(cut(received, cause, write_error), replies.offset() == 0).await;
                return false;
            }
        };
        loop {
            match replies.next(&mut input) {
                Ok(Some(Reply::Stdout(bytes))) => {
                    received += bytes.len() as u64;
                    // The application may need the rest of its request before its reader takes more of the response.
                    if !beside(sending.as_mut(), &mut sent, outbox.take(bytes)).await {
                        // The caller has dropped the response, or has been told that its head is wrong.
                        return false;
                    }
                }
                Ok(Some(Reply::Stderr(bytes))) => {
                    tracing::warn!(log = ?String::from_utf8_lossy(bytes).trim_end(), "the application says");
                }
                Ok(Some(Reply::End(end))) => {
                    if let Err(error) = outbox.is_whole(end.protocol_status) {
                        outbox.fail(error, false).await;
                        return false;
                    }
                    let in_step =
                        matches!(sent, Some(Ok(had_body)) if config.reuses_after_bodies || !had_body);
                    return in_step && input.is_empty() && replies.at_boundary();
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    outbox.fail(error.into(), false).await;
                    return false;
                }
            }
        }
    }
}

/// How many bytes a read with a bound has got, or why none will come.
fn came(got: Result<io::Result<usize>, Elapsed>) -> Result<usize, Cause> {
    match got {
        Ok(Ok(0)) => Err(Cause::Closed),
        Ok(Ok(got)) => Ok(got),
        Ok(Err(error)) => Err(Cause::Error(error.kind())),
        Err(_) => Err(Cause::Silent),
    }
}

/// Awaits a future while the request is still being sent, and notes how that ends.
async fn beside<T>(
    mut sending: Pin<&mut impl Future<Output = Result<bool, SendFailed>>>,
    sent: &mut Option<Result<bool, SendFailed>>,
    awaited: impl Future<Output = T>,
) -> T {
    let mut awaited = pin!(awaited);
    loop {
        ::tokio::select! {
            biased;
            output = &mut awaited => return output,
            result = &mut sending, if sent.is_none() => *sent = Some(result),
        }
    }
}

/// Why the connection took no more of the request, if it did not.
fn wire_error(sent: &Result<bool, SendFailed>) -> Option<io::ErrorKind> {
    match sent {
        Err(SendFailed::Wire(error)) => Some(error.kind()),
        _ => None,
    }
}

enum SendFailed {
    Body(io::Error),
    Wire(io::Error),
}

/// Sends the request. Adds to `moved` the bytes of each record of the body that the connection has taken. Returns whether
/// there was a body.
async fn send<W, B>(writer: &mut W, head: Vec<u8>, body: B, moved: &AtomicU64) -> Result<bool, SendFailed>
where
    W: AsyncWrite + Unpin,
    B: http_body::Body,
    B::Error: Into<Box<dyn StdError + Send + Sync>> + Send,
{
    let mut out = head;
    let mut had_body = false;
    let mut body = pin!(body);
    if !body.is_end_stream() {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| SendFailed::Body(io::Error::other(error)))?;
            let Ok(mut data) = frame.into_data() else { continue };
            while data.has_remaining() {
                had_body = true;
                let chunk = data.chunk();
                let taken = chunk.len().min(FULL);
                record::push(&mut out, RecordType::Stdin, ID, &chunk[..taken]);
                data.advance(taken);
                writer.write_all(&out).await.map_err(SendFailed::Wire)?;
                moved.fetch_add(out.len() as u64, Relaxed);
                out.clear();
            }
        }
    }
    record::push(&mut out, RecordType::Stdin, ID, &[]);
    writer.write_all(&out).await.map_err(SendFailed::Wire)?;
    Ok(had_body)
}
