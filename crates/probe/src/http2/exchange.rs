//! Requests over HTTP/2, one at a time on a connection of their own, driven step by step in this thread, without a runtime.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use linger_untrusted::Untrusted;

use super::pipe::{Gate, GatedStream, SharedGated};
use crate::counters::grown;
use crate::dialect::RequestShape;
use crate::prober::Prober;
use crate::seen::{ConnectionEnd, TrialResult};

/// The windows that the client gives the server, in bytes: the response waits in the sockets alone.
const WINDOW: u32 = 1 << 20;
/// The largest frame of an upload, in bytes; the least that servers accept as their largest (RFC 9113 section 4.2).
const FRAME: usize = 16 << 10;

/// Whether anything has become possible within `h2` since the last poll.
#[derive(Default)]
struct TurnWaker(AtomicBool);

impl Wake for TurnWaker {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

type FrameLoop<'p> = Pin<Box<dyn Future<Output = Result<(), h2::Error>> + 'p>>;

pub(crate) struct Exchange<'p> {
    prober: &'p Prober,
    pipe: Rc<RefCell<GatedStream<'p>>>,
    /// What reads and writes; `None` when it has ended.
    connection: Option<FrameLoop<'p>>,
    /// While it lives the connection stays open.
    requests: SendRequest<Bytes>,
    response: Option<ResponseFuture>,
    status: Option<u16>,
    expected: Option<u64>,
    server: Option<Untrusted>,
    location: Option<Untrusted>,
    body: Option<RecvStream>,
    upload: Option<SendStream<Bytes>>,
    /// Bytes of the upload that may be sent now, and whether its end follows them.
    left: usize,
    ends: bool,
    /// What `h2` found wrong with what the server sent.
    invalid: Option<String>,
    started: Instant,
    before: BTreeMap<String, u64>,
}

impl<'p> Exchange<'p> {
    /// Connects, with a small receive buffer if `small`, and begins to speak HTTP/2, without waiting for the server.
    pub(crate) fn open(prober: &'p Prober, small: bool, gate: Gate) -> io::Result<Self> {
        let before = prober.counters.read();
        let started = Instant::now();
        let buffer = small.then_some(prober.config.receive_buffer);
        let mut pipe = GatedStream::new(prober, prober.connect(buffer)?);
        pipe.gate = gate;
        let pipe = Rc::new(RefCell::new(pipe));
        let mut builder = client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
        let mut handshake = Box::pin(builder.handshake(SharedGated(pipe.clone())));
        let (requests, connection) = loop {
            match handshake.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(both)) => break both,
                Poll::Ready(Err(error)) => return Err(io::Error::other(error)),
                Poll::Pending if pipe.borrow().wait(Instant::now() + prober.config.patience) => {}
                Poll::Pending => return Err(io::ErrorKind::TimedOut.into()),
            }
        };
        Ok(Self {
            prober,
            pipe,
            connection: Some(Box::pin(connection)),
            requests,
            response: None,
            status: None,
            expected: None,
            server: None,
            location: None,
            body: None,
            upload: None,
            left: 0,
            ends: false,
            invalid: None,
            started,
            before,
        })
    }

    fn pipe(&self) -> Ref<'_, GatedStream<'p>> {
        self.pipe.borrow()
    }

    fn pipe_mut(&self) -> RefMut<'_, GatedStream<'p>> {
        self.pipe.borrow_mut()
    }

    /// Asks. Of the body that `ask` announces so much is sent as is said there, as the server's window permits.
    pub(crate) fn request(&mut self, ask: RequestShape) -> io::Result<()> {
        let request = self.prober.dialect.http2_request(ask, self.prober.tls_host.is_some())?;
        let has_body = ask.announced.is_some_and(|length| length > 0);
        let (response, upload) = self.requests.send_request(request, !has_body).map_err(io::Error::other)?;
        self.response = Some(response);
        (self.left, self.ends) = (ask.body, ask.end);
        self.upload = has_body.then_some(upload);
        Ok(())
    }

    /// Asks again on the same connection, without a body. What is read from now on is the response to it.
    pub(crate) fn again(&mut self, ask: RequestShape) -> io::Result<()> {
        self.pipe_mut().next();
        (self.status, self.expected, self.body, self.upload) = (None, None, None, None);
        self.request(ask)
    }

    /// Whether another request can be made on the connection, as far as the server has said.
    pub(crate) fn takes_more(&mut self) -> bool {
        self.turn();
        let pipe = self.pipe();
        pipe.log.ended && pipe.log.goaway.is_none() && !self.has_failed()
    }

    /// Whether the server has said that it did not work on the request.
    pub(crate) fn is_returned(&self) -> bool {
        self.pipe().log.is_returned()
    }

    /// Permits so many bytes more of the upload, and then its end if `ends`.
    pub(crate) fn send_more(&mut self, bytes: usize, ends: bool) {
        (self.left, self.ends) = (self.left + bytes, ends);
    }

    /// Ends the upload here, whatever the head has announced.
    pub(crate) fn cut_short(&mut self) {
        (self.left, self.ends) = (0, true);
    }

    pub(crate) fn read_to(&mut self, gate: Gate) {
        if gate == Gate::Open {
            self.pipe().wire.widen();
        }
        self.pipe_mut().gate = gate;
    }

    /// The status, once the response has begun.
    pub(crate) fn status(&self) -> Option<u16> {
        self.status
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.pipe().log.begun
    }

    /// Whether the response's end came, whole or not.
    pub(crate) fn is_over(&self) -> bool {
        let pipe = self.pipe();
        pipe.log.ended || self.has_failed()
    }

    /// Whether nothing more can come on the stream.
    pub(crate) fn has_failed(&self) -> bool {
        let pipe = self.pipe();
        pipe.log.reset.is_some() || pipe.ended.is_some() || pipe.is_endless || self.connection.is_none()
    }

    pub(crate) fn is_uploading(&self) -> bool {
        self.upload.is_some()
    }

    pub(crate) fn unsent(&self) -> usize {
        self.left
    }

    /// Writes and reads until `goal` is reached or nothing more can come, or nothing moves for `patience`.
    pub(crate) fn run(&mut self, patience: Duration, goal: impl Fn(&Self) -> bool) {
        loop {
            let before = self.moved();
            self.turn();
            if goal(self) || self.has_failed() || !self.pipe().wait(Instant::now() + patience) {
                return;
            }
            if before == self.moved() {
                // Bytes wait that `h2` does not read before it has written: the server reads nothing.
                if Instant::now() > self.pipe().last {
                    self.pipe_mut().is_endless = true;
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Bytes read and sent so far.
    fn moved(&self) -> (u64, u64) {
        (self.pipe().read, self.prober.spent.so_far().1)
    }

    /// Writes what can be written at once, without reading beyond the gate.
    pub(crate) fn send(&mut self, stuck: Duration) {
        loop {
            self.turn();
            if !self.pipe().wants_write || !self.pipe().wait(Instant::now() + stuck) {
                return;
            }
        }
    }

    /// Lets `h2` do all that it can without waiting.
    fn turn(&mut self) {
        let woken = Arc::new(TurnWaker::default());
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        self.pipe_mut().wants_write = false;
        loop {
            woken.0.store(false, Relaxed);
            self.answer(&mut context);
            self.upload(&mut context);
            if let Some(connection) = &mut self.connection
                && let Poll::Ready(ended) = connection.as_mut().poll(&mut context)
            {
                self.connection = None;
                self.invalid = ended.err().filter(|error| error.is_library()).map(|error| error.to_string());
            }
            if !woken.0.load(Relaxed) || Instant::now() > self.pipe().last {
                // What the connection's last poll has brought.
                self.answer(&mut context);
                return;
            }
        }
    }

    fn answer(&mut self, context: &mut Context<'_>) {
        if let Some(response) = &mut self.response
            && let Poll::Ready(came) = Pin::new(response).poll(context)
        {
            self.response = None;
            if let Ok(response) = came {
                let field = |name: &str| response.headers().get(name).map(|value| value.as_bytes());
                let length = field("content-length").and_then(|value| std::str::from_utf8(value).ok());
                self.expected = length.and_then(|length| length.parse().ok());
                (self.server, self.location) =
                    (field("server").map(Into::into), field("location").map(Into::into));
                self.status = Some(response.status().as_u16());
                self.body = Some(response.into_body());
            }
        }
        while let Some(body) = &mut self.body {
            match body.poll_data(context) {
                Poll::Ready(Some(Ok(bytes))) => {
                    let _ = body.flow_control().release_capacity(bytes.len());
                }
                Poll::Ready(_) => self.body = None,
                Poll::Pending => return,
            }
        }
    }

    fn upload(&mut self, context: &mut Context<'_>) {
        let at_the_head = {
            let pipe = self.pipe.borrow();
            pipe.gate == Gate::Head && pipe.log.begun
        };
        // A client that reads to the response's head decides there whether to go on.
        while let Some(upload) = self.upload.as_mut().filter(|_| !at_the_head) {
            if self.left == 0 {
                if self.ends {
                    let _ = upload.send_data(Bytes::new(), true);
                    self.upload = None;
                }
                return;
            }
            upload.reserve_capacity(self.left.min(FRAME));
            let room = match upload.capacity() {
                0 => match upload.poll_capacity(context) {
                    Poll::Ready(Some(Ok(room))) => room,
                    Poll::Ready(_) => {
                        self.upload = None;
                        return;
                    }
                    Poll::Pending => return,
                },
                room => room,
            };
            let now = room.min(self.left).min(FRAME);
            if now > 0 && upload.send_data(Bytes::from(vec![b'b'; now]), false).is_err() {
                self.upload = None;
                return;
            }
            self.left -= now;
            if now == 0 {
                return;
            }
        }
    }

    /// After the response's end: waits for what may follow it, a reset of the stream or the connection's end.
    pub(crate) fn settle(&mut self) {
        if self.pipe().log.ended && !self.has_failed() {
            // Where the request has been sent, nothing of the server's can be on its way to a stream that is over.
            let patience = if self.is_uploading() { self.prober.settling() } else { self.prober.moment() };
            let until = Instant::now() + patience;
            while !self.has_failed() && Instant::now() < until {
                self.turn();
                if !self.has_failed() && !self.pipe().wait(until) {
                    return;
                }
            }
        }
    }

    /// What is no HTTP/2.
    pub(crate) fn not_understood(&self) -> Option<Untrusted> {
        self.pipe().log.not_http2()
    }

    /// What `h2` found wrong with what came.
    pub(crate) fn invalid(&self) -> Option<&str> {
        self.invalid.as_deref()
    }

    pub(crate) fn finish(mut self) -> TrialResult {
        self.result()
    }

    /// What was seen of the last request.
    pub(crate) fn result(&mut self) -> TrialResult {
        self.turn();
        let moment = self.prober.moment();
        self.pipe_mut().settle_the_end(moment);
        let pipe = self.pipe.borrow();
        let log = &pipe.log;
        let expected = self.expected.or(log.ended.then_some(log.got));
        let complete = log.ended && expected == Some(log.got);
        // RFC 9113 section 8.1: a server that needs no more of the request may say so behind its complete response.
        let reset = log.reset.filter(|code| !complete || *code != Reason::NO_ERROR);
        let reset = reset.or(log.goaway.filter(|code| *code != Reason::NO_ERROR));
        let ended = match pipe.ended {
            Some(ended) if ended.is_reset() => ended,
            _ if reset.is_some() => ConnectionEnd::StreamReset,
            // Shorter than announced, with an orderly end.
            _ if log.ended && !complete => ConnectionEnd::Closed,
            Some(ended) => ended,
            None if complete => ConnectionEnd::Open,
            None => ConnectionEnd::Silent,
        };
        TrialResult {
            got: log.got,
            expected,
            complete,
            unframed: false,
            is_endless: pipe.is_endless,
            is_unsure: false,
            status: self.status,
            server: self.server.clone(),
            location: self.location.clone(),
            framing: "end-stream",
            ended,
            code: reset.filter(|_| ended == ConnectionEnd::StreamReset).map(|code| format!("{code:?}")),
            invalid: self.invalid.as_ref().map(|invalid| format!("no valid HTTP/2 ({invalid})")),
            is_tls_cut: pipe.wire.is_tls_cut,
            write_failed: pipe.write_failed,
            elapsed: self.started.elapsed(),
            round_trip: pipe.wire.round_trip,
            counters: grown(&self.before, &self.prober.counters.read()),
        }
    }
}
