//! Reads and discards the rest of a request's body after the response.

use std::fmt;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf;
use http_body::Body;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};

use super::Unread;
use crate::tokio::{Connection, ResponsePlace, ResponseWrites, StopNotice, WriteHold, after};

/// What a handler has left of a body.
#[derive(Debug)]
pub(super) struct Rest<B> {
    pub(super) body: B,
    /// Whether the handler has read from the body, or tried to. If so, hyper has answered an `Expect: 100-continue`.
    pub(super) was_polled: bool,
}

/// What is to become of a body that a handler drops after its answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum LateDrop {
    /// The body is dropped: the connection is upgraded, or the client still waits for `100 Continue`.
    Drop,
    /// The rest is discarded within the bounds, unless the client waits for `100 Continue` and nobody has read from the
    /// body.
    Discard { unread: Unread, expects: bool },
}

impl LateDrop {
    pub(super) fn discard<B: Body + Unpin + Send + 'static>(self, rest: Rest<B>) {
        let Self::Discard { unread, expects } = self else { return };
        if rest.was_polled || !expects {
            // A handler that kept the body after its answer has agreed with its client on what comes: no short end is feared.
            drop(discard(rest.body, unread, ShortEnd::Harmless, None));
        }
    }
}

/// Held until the server has been handed the whole of a response.
#[derive(Debug)]
pub(super) struct ResponseInFlight {
    /// The response's bytes until now, without its headers.
    pub(super) bytes: u64,
    over: Option<oneshot::Sender<u64>>,
}

impl Drop for ResponseInFlight {
    fn drop(&mut self) {
        if let Some(over) = self.over.take() {
            // Nobody listens if the body has been discarded already.
            let _ = over.send(self.bytes);
        }
    }
}

/// What it costs if the client ends its upload short while the body is still being discarded. If that may be the response, the
/// body is dropped early.
///
/// curl (7.88 seen) ends its stream when it has the status of a response that refuses its upload. If that is short of the request's
/// `content-length`, h2 takes the request for malformed (RFC 9113 section 8.1.1), resets the stream, and throws away what it
/// holds of the response. It does not if nobody has the request's body any more and the response is complete: then it has begun
/// to end the stream by itself, with `NO_ERROR` behind the response's last byte, and ignores what still arrives.
///
/// hyper hands h2 the headers and then the body. Between the two another thread may write the headers, and read the short end for
/// which they are the reason. So a connection's writes are held back until a short response is complete.
#[derive(Debug)]
pub(super) enum ShortEnd {
    /// The request has no length of which it can be short.
    Harmless,
    /// It costs the client what the server holds of the response. `None` if nothing is known of the connection's writes.
    Fatal(Option<ResponseWrites>),
}

/// As much as the send buffer of any new connection holds (`tcp_wmem[1]`).
const SURELY_TAKEN: u64 = 16 << 10;

impl ShortEnd {
    /// Returns once it is known that the server still holds the response, so that a short end of the upload would cost it. If
    /// that is not so, never returns.
    async fn would_cost(self, bytes: u64) {
        let place = match self {
            Self::Harmless => ResponsePlace::Socket,
            Self::Fatal(Some(mut writes)) => writes.place(bytes).await,
            Self::Fatal(None) if bytes <= SURELY_TAKEN => ResponsePlace::Socket,
            Self::Fatal(None) => ResponsePlace::Server,
        };
        if place == ResponsePlace::Socket {
            pending().await
        }
    }
}

/// The longest response for which writes are held back: what hyper hands h2 of one stream before anything is written (the default
/// of `max_send_buf_size`).
pub(super) const HELD_RESPONSE: u64 = 400 << 10;

/// How long a response may hold writes back. Only a body that its program makes slowly, or one of several frames that is longer
/// than the client's window, takes this long, and only once on a connection.
const HELD_AT_MOST: Duration = Duration::from_millis(50);

/// Discards the body in a task, within its bounds, which begin when the response has been sent: returns what is to be held until
/// then. Writes to `held` wait until then too. Without a runtime the body is dropped.
pub(super) fn discard<B: Body + Unpin + Send + 'static>(
    body: B,
    unread: Unread,
    short_end: ShortEnd,
    held: Option<Connection>,
) -> Option<ResponseInFlight> {
    let runtime = Handle::try_current().ok()?;
    let (over, is_over) = oneshot::channel();
    // Made here, and not in the task: the server begins to write as soon as it has the response.
    let hold = held.map(|connection| (connection.hold_writes(), connection));
    drop(runtime.spawn(run(body, unread, short_end, hold, is_over)));
    Some(ResponseInFlight { bytes: 0, over: Some(over) })
}

async fn run<B: Body + Unpin>(
    mut body: B,
    unread: Unread,
    short_end: ShortEnd,
    hold: Option<(WriteHold, Connection)>,
    mut sent: oneshot::Receiver<u64>,
) {
    let mut left = unread.bytes;
    // While the response is being sent, the stream is open in any case.
    let mut sent = pin!(poll_fn(|context| {
        if poll_discard(&mut body, &mut left, context).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut sent).poll(context).map(|bytes| Some(bytes.unwrap_or_default()))
    }));
    let bytes = match hold {
        None => sent.await,
        Some((hold, connection)) => match timeout(HELD_AT_MOST, sent.as_mut()).await {
            Ok(bytes) => {
                drop(hold);
                bytes
            }
            Err(_) => {
                connection.hold_no_more();
                sent.await
            }
        },
    };
    let Some(bytes) = bytes else { return };
    let mut would_cost = pin!(short_end.would_cost(bytes));
    let end = after(unread.time);
    let mut timer = pin!(sleep_until(end.min(after(unread.idle))));
    let mut before = left;
    poll_fn(|context| {
        if would_cost.as_mut().poll(context).is_ready()
            || poll_discard(&mut body, &mut left, context).is_ready()
        {
            return Poll::Ready(());
        }
        if std::mem::replace(&mut before, left) != left {
            timer.as_mut().reset(end.min(after(unread.idle)));
        }
        timer.as_mut().poll(context)
    })
    .await;
}

/// Discards what has arrived. Ready when nothing more is to be read: at the body's end, at an error, or when more comes than
/// the `left` bytes that may be discarded.
fn poll_discard<B: Body + Unpin>(
    body: &mut B,
    left: &mut u64,
    context: &mut Context<'_>,
) -> Poll<HowDiscarded> {
    loop {
        match Pin::new(&mut *body).poll_frame(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(HowDiscarded::All),
            Poll::Ready(Some(Err(_))) => return Poll::Ready(HowDiscarded::Part),
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                match left.checked_sub(bytes) {
                    Some(fewer) => *left = fewer,
                    None => return Poll::Ready(HowDiscarded::Part),
                }
                if body.is_end_stream() {
                    return Poll::Ready(HowDiscarded::All);
                }
            }
        }
    }
}

/// How discarding a body has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HowDiscarded {
    /// The body was discarded to its end.
    All,
    /// Discarding ended before the body's end.
    Part,
}

/// Discards the part of a body that has arrived, or that arrives within a time.
#[derive(Debug)]
pub(super) struct DiscardFirst<B> {
    body: B,
    left: u64,
    /// `None` to discard only what has arrived.
    until: Option<TimeOver>,
    /// The server has been given a turn to read the connection since the last byte.
    has_yielded: bool,
}

impl<B: Body + Unpin> DiscardFirst<B> {
    /// Discards at most [`Unread::keep`] bytes, and waits for them as long as [`Unread::wait`], or until a stop of the server
    /// shortens that time.
    pub(super) fn new(body: B, unread: Unread, stop: impl FnOnce() -> Option<StopNotice>) -> Self {
        // Without a runtime there is no timer.
        let waits = !unread.wait.is_zero() && Handle::try_current().is_ok();
        let until = waits.then(|| TimeOver(Box::pin(time_over(unread.wait, stop()))));
        Self { body, left: unread.keep, until, has_yielded: false }
    }

    /// Discards the body. Returns [`HowDiscarded::Part`] if no more of it has arrived, or arrives in time.
    ///
    /// hyper's dispatcher reads the connection between two polls of its service, in the same task (`poll_loop`), but only
    /// after somebody has asked for a frame of the body. So if two polls in a row return no frame, none has arrived. No
    /// clock is needed for that.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<HowDiscarded> {
        let before = self.left;
        if let Poll::Ready(discarded) = poll_discard(&mut self.body, &mut self.left, context) {
            return Poll::Ready(discarded);
        }
        if let Some(until) = &mut self.until {
            return until.0.as_mut().poll(context).map(|()| HowDiscarded::Part);
        }
        if self.has_yielded && self.left == before {
            return Poll::Ready(HowDiscarded::Part);
        }
        self.has_yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The end of the time for which a response waits.
struct TimeOver(Pin<Box<dyn Future<Output = ()> + Send>>);

impl fmt::Debug for TimeOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TimeOver")
    }
}

async fn time_over(wait: Duration, stop: Option<StopNotice>) {
    let stopped = async {
        match stop {
            Some(mut stop) => sleep_until(stop.waits_until().await).await,
            None => pending().await,
        }
    };
    let _ = timeout(wait, stopped).await;
}
