//! One request and its response, as a handler has them.

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll};

use ::tokio::sync::oneshot;
use ::tokio::time::timeout_at;
use bytes::Bytes;

use super::desk::{Desk, Out};
use super::wire::AsyncWire;
use crate::conversation::{Accepted, Answer, Key, RequestEnd, Said, SaidSoFar, Which};
use crate::incoming::Start;
use crate::journal::RequestEntry;
use crate::params::Params;
use crate::record::Role;

/// A request. Its body arrives in pieces and need not be read.
#[derive(Debug)]
pub struct Request {
    desk: Arc<Desk>,
    key: Key,
    start: Start,
}

impl Request {
    pub(super) fn new(desk: Arc<Desk>, key: Key, start: Start) -> Self {
        Self { desk, key, start }
    }

    /// The request's environment.
    pub fn params(&self) -> &Params {
        &self.start.params
    }

    /// The role in which the application is asked to act.
    pub fn role(&self) -> Role {
        self.start.role
    }

    /// The gateway's id for the request.
    pub fn id(&self) -> u16 {
        self.start.id
    }

    /// Tells when the response is not wanted any more, for a handler that can stop its work then.
    pub fn aborted(&self) -> Aborted {
        Aborted { desk: self.desk.clone(), key: self.key }
    }

    /// The next piece of the body, or `None` at its end.
    ///
    /// # Errors
    /// Returns `ConnectionAborted` if the gateway aborted the request, `UnexpectedEof` if the gateway is gone or the
    /// request has been answered, `TimedOut` if the gateway is silent, and `InvalidData` if it broke the protocol.
    pub async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        poll_fn(|context| self.poll_chunk(context)).await
    }

    /// Does what [`chunk`](Self::chunk) does, for a caller that polls.
    pub fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        self.desk.poll_piece(self.key, Which::Stdin, context)
    }

    /// The next piece of the file that a Filter works on, or `None` at its end.
    ///
    /// # Errors
    /// Returns the errors of [`chunk`](Self::chunk).
    pub async fn data_chunk(&mut self) -> io::Result<Option<Bytes>> {
        poll_fn(|context| self.desk.poll_piece(self.key, Which::Data, context)).await
    }
}

/// Learns that nobody waits for a response any more.
#[derive(Debug)]
pub struct Aborted {
    desk: Arc<Desk>,
    key: Key,
}

impl Aborted {
    /// Waits until the gateway aborts the request or is gone: it has ended its side of the connection, or the connection has
    /// failed. This is noticed only while the connection is read: not while more than
    /// [`Limits::buffered`](crate::Limits::buffered) bytes of a request wait for a handler that does not read.
    pub async fn wait(&mut self) {
        poll_fn(|context| self.desk.poll_aborted(self.key, context)).await;
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.desk.unwanted(self.key);
    }
}

/// A response: gathers what is written into STDOUT records, and must be [ended](Self::end).
///
/// If a response is dropped before it was ended and nothing of it was sent, the gateway gets a `500`. If a part of it
/// was sent, the connection is closed without END_REQUEST, so that no gateway takes the part for the whole response.
pub struct Response {
    live: Option<(Live, oneshot::Sender<Live>)>,
}

/// A response that was not ended.
pub(super) struct Live {
    key: Key,
    answer: Answer,
    entry: Option<Box<RequestEntry>>,
    desk: Arc<Desk>,
    out: Arc<Out<dyn AsyncWire>>,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response")
            .field("key", &self.live.as_ref().map(|(live, _)| live.key))
            .finish_non_exhaustive()
    }
}

impl Drop for Response {
    fn drop(&mut self) {
        let Some((live, back)) = self.live.take() else { return };
        if let Err(live) = back.send(live) {
            // The task that would receive and end it no longer exists: the runtime has dropped it.
            live.abandon();
        }
    }
}

impl Response {
    /// A response, and a receiver that gets it back if it is dropped before it was ended.
    pub(super) fn new(
        key: Key,
        id: u16,
        entry: Option<Box<RequestEntry>>,
        desk: Arc<Desk>,
        out: Arc<Out<dyn AsyncWire>>,
    ) -> (Self, oneshot::Receiver<Live>) {
        let (back, dropped) = oneshot::channel();
        let mut answer = Answer::new(id, Vec::new());
        if entry.is_some() {
            answer.look();
        }
        let live = Live { key, answer, entry, desk, out };
        (Self { live: Some((live, back)) }, dropped)
    }

    /// Writes to STDOUT; the CGI header block comes first. If the future is dropped before it is done, the response is torn:
    /// nothing more can be written, and the connection ends without END_REQUEST.
    ///
    /// # Errors
    /// Returns the errors of the connection, `TimedOut` if the gateway stopped reading, and `BrokenPipe` after an
    /// earlier error.
    pub async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let live = self.live()?;
        loop {
            match live.answer.accept(bytes) {
                Accepted::Gathered => return Ok(()),
                Accepted::Full => live.flush().await?,
                Accepted::Large(record) => {
                    live.out.send(&mut record.slices()).await?;
                    bytes = &bytes[record.content()..];
                    live.answer.sent_large();
                }
                Accepted::Torn => return Err(ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// Sends what is gathered.
    ///
    /// # Errors
    /// Returns the errors of [`write`](Self::write).
    pub async fn flush(&mut self) -> io::Result<()> {
        self.live()?.flush().await
    }

    /// Sends a line to the gateway's log (STDERR), at once.
    ///
    /// # Errors
    /// Returns the errors of [`write`](Self::write).
    pub async fn log(&mut self, message: &str) -> io::Result<()> {
        let live = self.live()?;
        live.out.send(&mut [IoSlice::new(&live.answer.log(message.as_bytes()))]).await
    }

    /// Ends the request: sends what is gathered, the end of the stream and END_REQUEST. Before END_REQUEST it waits for the rest of the
    /// request as long as that moves ([`Config::input_idle`](crate::responder::Config::input_idle)).
    ///
    /// # Errors
    /// Returns the errors of [`write`](Self::write).
    pub async fn end(mut self, app_status: u32) -> io::Result<()> {
        match self.live.take() {
            Some((live, _)) => live.finish(Ok(app_status)).await,
            None => Err(ErrorKind::BrokenPipe.into()),
        }
    }

    fn live(&mut self) -> io::Result<&mut Live> {
        self.live.as_mut().map(|(live, _)| live).ok_or_else(|| ErrorKind::BrokenPipe.into())
    }
}

impl Live {
    async fn flush(&mut self) -> io::Result<()> {
        if let Some(record) = self.answer.gathered() {
            self.out.send(&mut [IoSlice::new(&record)]).await?;
            self.answer.sent(record);
        }
        Ok(())
    }

    /// Ends the request with the handler's result.
    pub(super) async fn finish(self, handled: io::Result<u32>) -> io::Result<()> {
        // A refusal is not held back behind an upload: nothing of it is sent before END_REQUEST.
        let settles = handled.is_ok() || self.answer.said() != Said::Nothing;
        let settled = if settles { self.settled(handled.is_ok()).await } else { self };
        let Self { key, answer, entry, desk, out } = settled;
        let status = handled.as_ref().ok().copied();
        let reason = handled.err().map(|error| error.to_string()).unwrap_or_default();
        let (end, body) = desk.finish(key, status, answer.said());
        let last = answer.last(end, &reason);
        let line = entry.map(|entry| UntoldRequest { entry, end, told: last.told(), body });
        let mut answering = Answering { desk, out: Some(out), line, sent: false };
        if let Some(out) = &answering.out {
            out.send(&mut [IoSlice::new(last.bytes())]).await?;
            answering.sent = true;
        }
        match (status, end) {
            (Some(_), RequestEnd::Cut) => Err(ErrorKind::BrokenPipe.into()),
            _ => Ok(()),
        }
    }

    /// Waits for the rest of the request, as long as that moves. If the future is dropped meanwhile, the request is abandoned.
    async fn settled(self, is_done: bool) -> Self {
        let mut live = Abandons(Some(self));
        let mut is_sent = !is_done;
        while let Some(this) = &mut live.0 {
            let Some(until) = this.desk.settle(this.key) else { break };
            if std::mem::replace(&mut is_sent, true) {
                let settled = poll_fn(|context| this.desk.poll_settled(this.key, context));
                let _ = timeout_at(until.into(), settled).await;
            } else {
                // If this fails the answer is torn, and the end says so.
                let _ = this.flush().await;
            }
        }
        live.0.take().expect("nothing else takes it")
    }

    fn abandon(self) {
        let Self { key, answer, entry, desk, out } = self;
        let (end, body) = desk.finish(key, None, answer.said());
        let line = entry.map(|entry| UntoldRequest { entry, end, told: answer.told(), body });
        drop(Answering { desk, out: Some(out), line, sent: false });
    }
}

/// Abandons a request when it is dropped.
struct Abandons(Option<Live>);

impl Drop for Abandons {
    fn drop(&mut self) {
        if let Some(live) = self.0.take() {
            live.abandon();
        }
    }
}

/// Last records that are being sent. When the sending ends, also by an error or because its future is dropped, the
/// conversation is told. Before that, this request gives up its share of the connection.
struct Answering {
    desk: Arc<Desk>,
    out: Option<Arc<Out<dyn AsyncWire>>>,
    line: Option<UntoldRequest>,
    sent: bool,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.out = None;
        if let Some(UntoldRequest { entry, end, told, body }) = self.line.take() {
            entry.end(end, told, body, self.sent);
        }
        self.desk.answered(self.sent);
    }
}

/// What the journal is told of a request, but for whether its last records were sent.
struct UntoldRequest {
    entry: Box<RequestEntry>,
    end: RequestEnd,
    told: SaidSoFar,
    body: u64,
}
