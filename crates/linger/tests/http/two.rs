//! HTTP/2: the rest of a stream is discarded within its bounds, and then the stream is reset.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use linger::http::Unread;
use linger_testing::sandboxed;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::server::{Kind, SHORT, Server};
use crate::support::{LONG, RESPONSE};

/// A body without an end, or one that never begins; it tells when the client's side gives it up.
struct Endless {
    taken: Arc<AtomicU64>,
    sends: bool,
    _given_up: oneshot::Sender<()>,
}

const CHUNK: [u8; 16 << 10] = [b'u'; 16 << 10];

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.sends {
            return Poll::Pending;
        }
        self.taken.fetch_add(CHUNK.len() as u64, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&CHUNK)))))
    }
}

/// Uploads until the server ends the stream. Returns how much of the body was taken. The response must have
/// come whole.
///
/// An upload to [`SHORTLY`] says how long it will be.
async fn upload(server: &Server, path: &str, sends: bool) -> u64 {
    let io = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let (tell, given_up) = oneshot::channel();
    let taken = Arc::new(AtomicU64::new(0));
    let body = Endless { taken: taken.clone(), sends, _given_up: tell };
    let mut request = hyper::Request::post(format!("http://t{path}"));
    let is_short = path == SHORTLY;
    if is_short {
        request = request.header("content-length", u32::MAX);
    }
    let response = send.send_request(request.body(body).unwrap()).await.unwrap();
    assert_eq!(response.status(), 401);
    let length = response.into_body().collect().await.unwrap().to_bytes().len();
    assert_eq!(length, if is_short { SHORT } else { RESPONSE });
    tokio::time::timeout(LONG, given_up).await.expect("the stream ends").unwrap_err();
    // The connection is as good as before.
    drop(send);
    connection.await.unwrap().unwrap();
    taken.load(Ordering::SeqCst)
}

fn unread(bytes: u64, time: Duration, idle: Duration) -> Unread {
    let mut unread = Unread::default();
    (unread.bytes, unread.time, unread.idle) = (bytes, time, idle);
    unread
}

/// What the windows and buffers of both ends hold of a stream at most, beside what has been read.
const WINDOWS: u64 = 4 << 20;

#[test]
fn an_upload_without_an_end_is_discarded_up_to_the_bound() {
    sandboxed(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for bytes in [1 << 20, 64 << 20] {
            let server = Server::with(Kind::Layer, unread(bytes, LONG, LONG));
            let taken = runtime.block_on(upload(&server, "/refused", true));
            assert!((bytes..bytes + WINDOWS).contains(&taken), "{taken} of {bytes}");
        }
    });
}

/// Its answer leaves in one write.
const SHORTLY: &str = "/refused_shortly";

/// Once the answer is in the socket nothing can be lost by holding the body of an upload whose length was told.
#[test]
fn an_upload_that_says_how_long_it_is_is_discarded_as_well() {
    sandboxed(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for kind in [Kind::Layer, Kind::Serve] {
            let server = Server::with(kind, unread(8 << 20, LONG, LONG));
            let taken = runtime.block_on(upload(&server, SHORTLY, true));
            assert!((8 << 20..(8 << 20) + WINDOWS).contains(&taken), "{kind:?}: {taken}");
        }
    });
}

#[test]
fn a_silent_upload_is_given_up_and_an_endless_one_too() {
    sandboxed(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let short = Duration::from_millis(50);
        let server = Server::with(Kind::Layer, unread(u64::MAX, LONG * 10, short));
        assert_eq!(runtime.block_on(upload(&server, "/refused", false)), 0);
        let server = Server::with(Kind::Layer, unread(u64::MAX, short, LONG * 10));
        assert!(runtime.block_on(upload(&server, "/refused", true)) > 0);
    });
}
