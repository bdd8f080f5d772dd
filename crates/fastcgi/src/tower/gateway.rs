//! A FastCGI application as a service that takes HTTP requests.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use ::tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use ::tokio::net::{TcpStream, UnixStream};
use ::tokio::sync::{mpsc, oneshot};
use ::tokio::time::timeout;
use bytes::{Buf, Bytes};
use http::{HeaderName, HeaderValue, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use tower_service::Service;

use super::environment::environment;
use crate::address::Address;
use crate::announced::Announced;
use crate::cgi::Head;
use crate::gateway::{Cause, Config, Error};
use crate::params::push_pair;
use crate::record::{self, FULL, ProtocolStatus, RecordType, Role};
use crate::replies::{Replies, Reply};

const ID: u16 = 1;
const BUFFER: usize = 64 << 10;

/// Sends HTTP requests to a FastCGI application; a `tower` service. Clones share its idle connections.
///
/// The path of a request is decoded, its `.` and `..` are resolved, and one that leaves the document root is refused with
/// [`Error::Target`]. What the gateway cannot know (`REMOTE_ADDR`, `HTTPS`, `PATH_INFO`, ...) the caller may give as [`Variables`] among the
/// request's extensions.
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
    document_root: String,
    config: Config,
    idle: Mutex<Vec<(ApplicationStream, Instant)>>,
}

#[derive(Debug)]
enum ApplicationStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Gateway {
    /// A gateway to the application at `address`, which finds its scripts under `document_root`.
    pub fn new(address: Address, document_root: impl Into<String>, config: Config) -> Self {
        let shared =
            Application { address, document_root: document_root.into(), config, idle: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }
}

/// The body of a response. An error in it means that the response was cut.
#[derive(Debug)]
pub struct ResponseBody(mpsc::Receiver<Result<Bytes, Error>>);

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.0.poll_recv(context).map(|next| next.map(|bytes| bytes.map(Frame::data)))
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
        let reusable = parts.method.is_safe() && http_body::Body::is_end_stream(&body);
        let wire = self.wire(reusable || self.config.reuses_after_bodies).await?;
        let (tell, told) = oneshot::channel();
        let is_head = parts.method == http::Method::HEAD;
        ::tokio::spawn(drive(self, wire, head, body, Outbox::new(tell, is_head)));
        told.await.unwrap_or_else(|_| Err(cut(0, Cause::Closed, None)))
    }

    fn head(&self, parts: &http::request::Parts, length: Option<u64>) -> Result<Vec<u8>, Error> {
        let mut pairs = Vec::new();
        for (name, value) in environment(parts, &self.document_root, length)? {
            push_pair(&mut pairs, name.as_bytes(), &value);
        }
        let mut out = Vec::new();
        record::push_begin(&mut out, ID, Role::Responder, self.config.keep_conn);
        record::push_stream(&mut out, RecordType::Params, ID, &pairs);
        record::push(&mut out, RecordType::Params, ID, &[]);
        Ok(out)
    }

    async fn wire(&self, kept: bool) -> Result<ApplicationStream, Error> {
        while let Some((wire, since)) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            if !kept {
                // Close the idle connection first: many applications serve one connection a worker, and the idle one
                // may occupy the worker that the new one needs.
                break;
            }
            if since.elapsed() < self.config.idle_timeout && wire.is_silent() {
                return Ok(wire);
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
        connected.map_err(|source| Error::Connect { address: self.address.clone(), source })
    }

    fn put(&self, wire: ApplicationStream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= self.config.idle_connections && !idle.is_empty() {
            idle.remove(0);
        }
        if self.config.idle_connections > 0 {
            idle.push((wire, Instant::now()));
        }
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

fn cut(received: u64, cause: Cause, write_error: Option<io::ErrorKind>) -> Error {
    Error::Cut { received, cause, write_error }
}

type Told = oneshot::Sender<Result<http::Response<ResponseBody>, Error>>;

/// Carries one request and its response. Then keeps the connection for the next request, if it can be used again and the
/// configuration asks for that.
async fn drive<B>(shared: Arc<Application>, wire: ApplicationStream, head: Vec<u8>, body: B, outbox: Outbox)
where
    B: http_body::Body,
    B::Error: Into<Box<dyn StdError + Send + Sync>> + Send,
{
    let config = shared.config;
    let reusable = |kept: bool, wire| {
        if kept && config.keep_conn {
            shared.put(wire);
        }
    };
    match wire {
        ApplicationStream::Tcp(mut stream) => {
            let kept = exchange(&mut stream, &config, head, body, outbox).await;
            reusable(kept, ApplicationStream::Tcp(stream));
        }
        ApplicationStream::Unix(mut stream) => {
            let kept = exchange(&mut stream, &config, head, body, outbox).await;
            reusable(kept, ApplicationStream::Unix(stream));
        }
    }
}

/// Carries one request and its response over a connection. Returns whether the connection can be used again.
async fn exchange<S, B>(stream: &mut S, config: &Config, head: Vec<u8>, body: B, mut outbox: Outbox) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: http_body::Body,
    B::Error: Into<Box<dyn StdError + Send + Sync>> + Send,
{
    let (mut reader, mut writer) = ::tokio::io::split(stream);
    let moved = AtomicU64::new(0);
    let mut sending = pin!(send(&mut writer, head, body, &moved));
    let mut replies = Replies::new(ID);
    let mut buffer = vec![0; BUFFER];
    let (mut sent, mut had_body, mut write_error, mut received) = (false, false, None, 0u64);
    let mut sent_before = 0;
    loop {
        let done_sending = sent || write_error.is_some();
        let got = ::tokio::select! {
            result = &mut sending, if !done_sending => {
                match result {
                    Ok(body) => (sent, had_body) = (true, body),
                    Err(SendFailed::Body(error)) => {
                        outbox.fail(Error::Body(error)).await;
                        return false;
                    }
                    // Earlier bytes of the application can still be read.
                    Err(SendFailed::Wire(error)) => write_error = Some(error.kind()),
                }
                continue;
            }
            got = timeout(config.io_timeout, reader.read(&mut buffer)) => got,
            // The application learns by the connection's end that nobody waits.
            () = outbox.unwanted() => return false,
        };
        // A request that still goes out is progress as well.
        let before = std::mem::replace(&mut sent_before, moved.load(Relaxed));
        if got.is_err() && sent_before != before {
            continue;
        }
        let got = match got {
            Ok(Ok(0)) => Err(Cause::Closed),
            Ok(Ok(got)) => Ok(got),
            Ok(Err(error)) => Err(Cause::Error(error.kind())),
            Err(_) => Err(Cause::Silent),
        };
        let mut input = match got {
            Ok(got) => &buffer[..got],
            Err(cause) => {
                outbox.fail(cut(received, cause, write_error)).await;
                return false;
            }
        };
        loop {
            match replies.next(&mut input) {
                Ok(Some(Reply::Stdout(bytes))) => {
                    received += bytes.len() as u64;
                    if !outbox.take(bytes).await {
                        // The caller has dropped the response, or has been told that its head is wrong.
                        return false;
                    }
                }
                Ok(Some(Reply::End(end))) => {
                    if let Err(error) = outbox.is_whole(end.protocol_status, received, write_error) {
                        outbox.fail(error).await;
                        return false;
                    }
                    let in_step = config.reuses_after_bodies || !had_body;
                    return sent && in_step && input.is_empty() && replies.at_boundary();
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    outbox.fail(error.into()).await;
                    return false;
                }
            }
        }
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

/// Where the response goes: the head to the caller, then the body to its reader.
struct Outbox {
    tell: Option<Told>,
    head: Vec<u8>,
    body: Option<mpsc::Sender<Result<Bytes, Error>>>,
    is_head: bool,
    announced: Announced,
}

impl Outbox {
    /// `is_head` is whether the request's method is HEAD.
    fn new(tell: Told, is_head: bool) -> Self {
        Self { tell: Some(tell), head: Vec::new(), body: None, is_head, announced: Announced::new(true) }
    }

    /// Waits until the caller has dropped the response, or the future that waits for it.
    async fn unwanted(&mut self) {
        match (&mut self.tell, &self.body) {
            (Some(tell), _) => tell.closed().await,
            (None, Some(body)) => body.closed().await,
            (None, None) => std::future::pending().await,
        }
    }

    /// Passes bytes of STDOUT on. Returns false if the caller has dropped the response, or if its head is wrong, which the
    /// caller is told.
    async fn take(&mut self, bytes: &[u8]) -> bool {
        if let Some(body) = &self.body {
            self.announced.take(bytes);
            return body.send(Ok(Bytes::copy_from_slice(bytes))).await.is_ok();
        }
        self.head.extend_from_slice(bytes);
        let (head, length) = match Head::parse(&self.head) {
            Ok(Some(done)) => done,
            Ok(None) => return true,
            Err(error) => {
                self.fail(error.into()).await;
                return false;
            }
        };
        let (to, from) = mpsc::channel(4);
        self.announced = Announced::of(&head, self.is_head);
        self.announced.take(&self.head[length..]);
        let mut response = http::Response::new(ResponseBody(from));
        *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY);
        for (name, value) in head.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                response.headers_mut().append(name, value);
            }
        }
        let rest = Bytes::copy_from_slice(&self.head[length..]);
        self.head = Vec::new();
        let wanted = self.tell.take().is_some_and(|tell| tell.send(Ok(response)).is_ok());
        let wanted = wanted && (rest.is_empty() || to.send(Ok(rest)).await.is_ok());
        self.body = Some(to);
        wanted
    }

    /// Returns an error if the response was not complete when END_REQUEST came with this status.
    fn is_whole(
        &self,
        status: ProtocolStatus,
        received: u64,
        write_error: Option<io::ErrorKind>,
    ) -> Result<(), Error> {
        if status != ProtocolStatus::RequestComplete {
            return Err(Error::Refused(status));
        }
        if self.body.is_none() {
            return Err(cut(received, Cause::Closed, write_error));
        }
        match self.announced.missing() {
            Some((got, announced)) => Err(Error::Short { got, announced }),
            None => Ok(()),
        }
    }

    async fn fail(&mut self, error: Error) {
        match (self.tell.take(), &self.body) {
            (Some(tell), _) => drop(tell.send(Err(error))),
            (None, Some(body)) => drop(body.send(Err(error)).await),
            (None, None) => {}
        }
    }
}
