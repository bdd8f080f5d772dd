//! Answers that wait for their uploads, at a stop in the middle of one.
//!
//! The runtime's clock stands still from the stop on, and moves on only when the server has nothing left to do. So the times
//! are exact, and how busy the machine is does not matter.

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use linger::http::Unread;
use linger::{Closer, Policy, Snapshot};
use linger_testing::sandboxed;
use tokio::time::Instant;

use crate::support::Got;
use crate::{LONG, Server, Signal, by_hyper, connect};

/// By the clock of the stop, an answer waits for six seconds, and after eight what is not answered is dropped.
const DEADLINE: Duration = Duration::from_secs(10);

/// Longer than any of these stops.
fn unread() -> Unread {
    let mut unread = Unread::behind_gateway();
    unread.wait = LONG;
    unread
}

/// What the handler does with the upload.
#[derive(Clone, Copy, PartialEq)]
enum Handler {
    /// Answers at once.
    Refuses,
    /// Answers when it has read all of it.
    Reads,
    NeverAnswers,
}

use Handler::{NeverAnswers, Reads, Refuses};

/// A server that is stopped in the middle of an upload.
struct InTheMiddle<F> {
    /// Serves until the signal.
    serve: F,
    handler: Handler,
    /// Whether the clock stands still.
    is_still: bool,
    /// What the client sends of its upload after the stop.
    rest: &'static [u8],
}

impl<F, S> InTheMiddle<F>
where
    F: FnOnce(tokio::net::TcpListener, Router, Signal) -> S + Send + 'static,
    S: Future<Output = Snapshot>,
{
    /// What the client gets, and how long the server has taken by its own clock.
    fn stop(self) -> (Got, Duration) {
        let Self { serve, handler, is_still, rest } = self;
        let (tell, is_asked) = mpsc::channel();
        let (tell_time, took) = mpsc::channel();
        let handler = async move |body: axum::body::Body| {
            tell.send(()).unwrap();
            match handler {
                Refuses => (StatusCode::PAYLOAD_TOO_LARGE, "too much".to_owned()),
                Reads => {
                    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
                    (StatusCode::OK, format!("{} bytes", body.len()))
                }
                NeverAnswers => std::future::pending().await,
            }
        };
        let app = Router::new().route("/upload", post(handler));
        let mut server = Server::run(move |listener, signal| async move {
            let (tell_start, start) = tokio::sync::oneshot::channel();
            let signal = async move {
                signal.await;
                if is_still {
                    tokio::time::pause();
                }
                tell_start.send(Instant::now()).unwrap();
            };
            let summary = serve(listener, app, Box::pin(signal)).await;
            tell_time.send(start.await.unwrap().elapsed()).unwrap();
            summary
        });
        let mut client = connect(server.address);
        client.write_all(b"POST /upload HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\nhalf ").unwrap();
        is_asked.recv().unwrap();
        client.set_nonblocking(true).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "it does not wait");
        client.set_nonblocking(false).unwrap();
        server.stop();
        client.write_all(rest).unwrap();
        let got = Got::read(&client);
        drop(client);
        server.thread.join().unwrap();
        (got, took.recv().unwrap())
    }
}

async fn by_linger(listener: tokio::net::TcpListener, app: Router, signal: Signal) -> Snapshot {
    let server = linger::http::serve(listener, app).unread(unread());
    server.stop_when(signal).within(DEADLINE).await.unwrap()
}

#[test]
fn an_answer_that_waits_for_its_upload_is_sent_before_a_stop_drops_it() {
    sandboxed(|| {
        let server = InTheMiddle { serve: by_linger, handler: Refuses, is_still: true, rest: b"" };
        let (got, took) = server.stop();
        assert_eq!(got.body(), Some(&b"too much"[..]), "{got:?}");
        assert_eq!(took.as_secs(), 6);
        // A handler that has not answered is dropped: the client gets the end of the stream and not a byte.
        let server = InTheMiddle { serve: by_linger, handler: NeverAnswers, is_still: true, rest: b"" };
        let (got, took) = server.stop();
        assert_eq!((got.bytes.len(), got.error), (0, None), "{got:?}");
        assert_eq!(took.as_secs(), 8);
    });
}

#[test]
fn an_answer_waits_through_a_stop_for_an_upload_that_ends() {
    sandboxed(|| {
        let serve = async |listener, app, signal| {
            let server = linger::http::serve(listener, app).unread(unread());
            // Only a failure takes this long.
            server.stop_when(signal).within(LONG).await.unwrap()
        };
        let server = InTheMiddle { serve, handler: Refuses, is_still: false, rest: b"whole" };
        let (got, _) = server.stop();
        assert_eq!(got.body(), Some(&b"too much"[..]), "{got:?}");
    });
}

#[test]
fn an_answer_that_waits_under_axum_or_hyper_learns_of_the_stop_from_its_connection() {
    sandboxed(|| {
        let by_axum = async |listener, app: Router, signal| {
            let (listener, stopped) = linger::axum::listen_until(listener, Policy::default(), signal);
            let app = app.layer(linger::http::layer().unread(unread()));
            let app = app.into_make_service_with_connect_info::<linger::axum::Peer>();
            axum::serve(listener, app).with_graceful_shutdown(stopped).await.unwrap();
            Closer::global().unwrap().snapshot()
        };
        let (got, took) = InTheMiddle { serve: by_axum, handler: Refuses, is_still: true, rest: b"" }.stop();
        assert_eq!(got.body(), Some(&b"too much"[..]), "{got:?}");
        // Three fifths of the nine seconds that a stop takes by default.
        assert_eq!(took.as_millis() / 100, 54);
        let by_hyper = async |listener, app, signal| {
            by_hyper(listener, app, Policy::default(), unread(), signal).await;
            Closer::global().unwrap().snapshot()
        };
        let (got, took) = InTheMiddle { serve: by_hyper, handler: Refuses, is_still: true, rest: b"" }.stop();
        assert_eq!(got.body(), Some(&b"too much"[..]), "{got:?}");
        assert_eq!(took.as_millis() / 100, 54);
        // A layer that does not know the connection waits as long as it was told to.
        let without = async |listener, app: Router, signal| {
            let (listener, stopped) = linger::axum::listen_until(listener, Policy::default(), signal);
            let app = app.layer(linger::http::layer().unread(unread()));
            axum::serve(listener, app).with_graceful_shutdown(stopped).await.unwrap();
            Closer::global().unwrap().snapshot()
        };
        let (got, took) = InTheMiddle { serve: without, handler: Refuses, is_still: true, rest: b"" }.stop();
        assert_eq!(got.body(), Some(&b"too much"[..]), "{got:?}");
        assert!(took > LONG / 2, "{took:?}");
    });
}

#[test]
fn a_stop_may_be_given_all_the_time_there_is() {
    sandboxed(|| {
        let serve = async |listener, app, signal| {
            let mut unread = unread();
            (unread.wait, unread.time, unread.idle) = (Duration::MAX, Duration::MAX, Duration::MAX);
            let server = linger::http::serve(listener, app).unread(unread);
            server.stop_when(signal).within(Duration::MAX).await.unwrap()
        };
        let server = InTheMiddle { serve, handler: Refuses, is_still: false, rest: b"whole" };
        assert_eq!(server.stop().0.body(), Some(&b"too much"[..]));
    });
}

/// By axum alone, with the deadline that many programs put around its stop, or with none, as it is by itself.
async fn by_bare_axum(
    listener: tokio::net::TcpListener,
    app: Router,
    signal: Signal,
    deadline: Option<Duration>,
) -> Snapshot {
    let (tell, is_stopping) = tokio::sync::oneshot::channel::<()>();
    let signal = async move {
        signal.await;
        _ = tell.send(());
    };
    let serving = axum::serve(listener, app).with_graceful_shutdown(signal);
    let too_late = async move {
        is_stopping.await.unwrap();
        match deadline {
            Some(deadline) => tokio::time::sleep(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        served = serving => served.unwrap(),
        () = too_late => {}
    }
    Snapshot::default()
}

/// axum's own stop has no deadline. Where a program gives it one, a request that goes on is dropped as it is here.
#[test]
fn an_upload_that_a_handler_reads_is_given_as_much_as_by_axum_with_the_same_deadline() {
    sandboxed(|| {
        let bare = async |listener, app, signal| by_bare_axum(listener, app, signal, Some(DEADLINE)).await;
        let (got, took) = InTheMiddle { serve: bare, handler: Reads, is_still: true, rest: b"" }.stop();
        assert_eq!((got.bytes.len(), got.error), (0, None), "{got:?}");
        assert_eq!(took.as_secs(), 10);
        let (got, took) = InTheMiddle { serve: by_linger, handler: Reads, is_still: true, rest: b"" }.stop();
        assert_eq!((got.bytes.len(), got.error), (0, None), "{got:?}");
        assert_eq!(took.as_secs(), 8);

        let bare = async |listener, app, signal| by_bare_axum(listener, app, signal, None).await;
        let (got, _) = InTheMiddle { serve: bare, handler: Reads, is_still: false, rest: b"whole" }.stop();
        assert_eq!(got.body(), Some(&b"10 bytes"[..]), "{got:?}");
        let unbounded = async |listener, app, signal| {
            linger::http::serve(listener, app).stop_when(signal).within(Duration::MAX).await.unwrap()
        };
        let (got, _) =
            InTheMiddle { serve: unbounded, handler: Reads, is_still: false, rest: b"whole" }.stop();
        assert_eq!(got.body(), Some(&b"10 bytes"[..]), "{got:?}");
    });
}
