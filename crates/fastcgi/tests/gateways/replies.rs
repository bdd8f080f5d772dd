//! The gateway service and applications that answer oddly, written here record by record.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use axum::body::Body;
use http_body_util::BodyExt;
use linger_fastcgi::cgi::InvalidHead;
use linger_fastcgi::gateway::{Config, Error};
use linger_fastcgi::record::{EndRequest, ProtocolStatus, RecordType, push, push_end, push_stream};
use linger_fastcgi::tower::{Gateway, serve};
use tower_service::Service;

/// Reads a request without a body to its last record.
fn request(stream: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    let last = [1, RecordType::Stdin.into(), 0, 1, 0, 0, 0, 0u8];
    while !seen.ends_with(&last) {
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(got @ 1..) => seen.extend_from_slice(&bytes[..got]),
            _ => return false,
        }
    }
    true
}

fn response(stdout: &str) -> Vec<u8> {
    let mut out = Vec::new();
    push_stream(&mut out, RecordType::Stdout, 1, stdout.as_bytes());
    push(&mut out, RecordType::Stdout, 1, &[]);
    push_end(&mut out, 1, EndRequest::new(0, ProtocolStatus::RequestComplete));
    out
}

/// An application that answers the request with this number (from 0, on all its connections) as `answer` says, or ends the connection.
/// Returns a gateway to it, and how many connections there were.
async fn application(
    config: Config,
    answer: impl Fn(usize) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> (Gateway, Arc<AtomicUsize>) {
    application_that_ends(config, usize::MAX, answer).await
}

/// The same, which ends each connection after so many answers.
async fn application_that_ends(
    config: Config,
    most: usize,
    answer: impl Fn(usize) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> (Gateway, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::new(listener.local_addr().unwrap().into(), "/srv", config);
    let (connections, counted) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let accepted = connections.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            accepted.fetch_add(1, Ordering::SeqCst);
            let mut stream = stream.unwrap();
            for _ in 0..most {
                if !request(&mut stream) {
                    break;
                }
                match answer(counted.fetch_add(1, Ordering::SeqCst)) {
                    Some(bytes) => stream.write_all(&bytes).unwrap(),
                    None => break,
                }
            }
        }
    });
    (gateway, connections)
}

async fn ask(gateway: &mut Gateway, method: &str) -> Result<http::Response<Vec<u8>>, Error> {
    let request = http::Request::builder().method(method).uri("/x").body(Body::empty()).unwrap();
    let (parts, body) = gateway.call(request).await?.into_parts();
    let body = body.collect().await?.to_bytes().to_vec();
    Ok(http::Response::from_parts(parts, body))
}

#[tokio::test]
async fn what_is_beyond_a_response_does_not_reach_the_client() {
    for (head, method, expected) in [
        ("Content-Length: 4", "GET", "body"),
        ("Content-Length: 4\r\nContent-Length: 4", "GET", "body"),
        ("Content-Type: a/b", "GET", "body and more"),
        ("Content-Length: 13", "HEAD", ""),
        ("Content-Type: a/b", "HEAD", ""),
        ("Status: 304 Not Modified", "GET", ""),
        ("Status: 204", "GET", ""),
    ] {
        let text = format!(
            "{head}\r\nConnection: x\r\nTransfer-Encoding: chunked\r\nKeep-Alive: 5\r\n\r\nbody and more"
        );
        let (mut gateway, _) = application(Config::default(), move |_| Some(response(&text))).await;
        let got = ask(&mut gateway, method).await.unwrap();
        assert_eq!(String::from_utf8_lossy(got.body()), expected, "{method} {head}");
        assert!(got.headers().get_all("content-length").iter().count() < 2, "{head}");
        for gone in ["connection", "transfer-encoding", "keep-alive"] {
            assert!(!got.headers().contains_key(gone), "{gone}");
        }
    }
}

#[tokio::test]
async fn a_response_whose_length_is_unclear_is_none() {
    for (stdout, expected, status) in [
        ("Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody!", InvalidHead::Length, 502),
        ("Content-Length: +4\r\n\r\nbody", InvalidHead::Length, 502),
        ("Content-Type: a/b\r\n", InvalidHead::Missing, 502),
        ("", InvalidHead::Missing, 502),
    ] {
        let (mut gateway, _) = application(Config::default(), |_| Some(response(stdout))).await;
        let error = ask(&mut gateway, "GET").await.unwrap_err();
        assert!(matches!(&error, Error::Head(head) if *head == expected), "{stdout:?}: {error}");
        assert_eq!(error.http_status(), status);
    }
}

#[tokio::test]
async fn what_no_response_begins_with_is_none() {
    let endless = format!("X: {}", "x".repeat(70_000));
    let many = "X: y\r\n".repeat(300) + "\r\n";
    for stdout in [
        // The client of a server that passed this on would wait for another protocol, or for the response.
        "Status: 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "Status: 100\r\n\r\nbody",
        "Status: 103 Early Hints\r\nLink: </x>\r\n\r\nbody",
        "Status: 20\r\n\r\nbody",
        "Status: two hundred\r\n\r\nbody",
        "Status: -20\r\n\r\nbody",
        "Status:\r\n\r\nbody",
        "X: a\0b\r\n\r\nbody",
        "X: a\rSet-Cookie: b\r\n\r\nbody",
        "X : a\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\n\r\nbody",
        "<p>no header block\n\n",
        endless.as_str(),
        many.as_str(),
    ] {
        let bytes = response(stdout);
        let (mut gateway, _) = application(Config::default(), move |_| Some(bytes.clone())).await;
        let error = ask(&mut gateway, "GET").await.unwrap_err();
        assert!(matches!(&error, Error::Head(_)), "{:.60?}: {error}", stdout);
        assert_eq!(error.http_status(), 502);
    }
    // One field away.
    let (mut gateway, _) =
        application(Config::default(), |_| Some(response("Status: 200\r\n\r\nbody"))).await;
    assert_eq!(ask(&mut gateway, "GET").await.unwrap().body(), b"body");
}

#[tokio::test]
async fn a_kept_connection_that_ends_is_asked_again_elsewhere_if_that_is_safe() {
    let mut config = Config::default();
    (config.keep_conn, config.reuses_after_bodies) = (true, true);
    for (method, retries, is_answered) in
        [("GET", 1, true), ("DELETE", 1, true), ("POST", 1, false), ("GET", 0, false)]
    {
        config.retries = retries;
        let answer = |number| (number != 1).then(|| response("Content-Length: 4\r\n\r\nbody"));
        let (mut gateway, connections) = application(config, answer).await;
        assert_eq!(ask(&mut gateway, "GET").await.unwrap().body(), b"body");
        let second = ask(&mut gateway, method).await;
        assert_eq!(second.is_ok(), is_answered, "{method}, {retries} retries: {second:?}");
        assert_eq!(connections.load(Ordering::SeqCst), if is_answered { 2 } else { 1 }, "{method}");
    }
    // One field away: a byte had come, the beginning of a record.
    config.retries = 1;
    let answer = |number| match number {
        1 => Some(vec![1, 6, 0, 1, 0, 9, 0, 0]),
        _ => Some(response("Content-Length: 4\r\n\r\nbody")),
    };
    let (mut gateway, connections) = application_that_ends(config, 2, answer).await;
    ask(&mut gateway, "GET").await.unwrap();
    let error = ask(&mut gateway, "GET").await.unwrap_err();
    assert!(matches!(error, Error::Cut { received: 0, .. }), "{error}");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// The reader of the response takes nothing before the request is sent: an application that answers first and reads later
/// must still get all of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_on_while_its_response_finds_no_reader() {
    const SENT: usize = 8 << 20;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback(|request: axum::extract::Request| async move {
        let mut body = request.into_body().into_data_stream();
        let answer = async_stream(move |to| async move {
            to.send(vec![b'r'; 4 << 20]).await.unwrap();
            let mut got = 0;
            while let Some(piece) = futures_util::StreamExt::next(&mut body).await {
                got += piece.unwrap().len();
            }
            to.send(got.to_string().into_bytes()).await.unwrap();
        });
        Body::from_stream(answer)
    });
    tokio::spawn(serve(listener, linger_fastcgi::responder::Config::default(), app));
    let mut gateway = Gateway::new(address.into(), "/srv", Config::default());
    let (all, mut sent) = tokio::sync::oneshot::channel();
    let mut all = Some(all);
    let pieces = (0..=SENT >> 16).filter_map(move |number| {
        if number == SENT >> 16 {
            all.take().unwrap().send(()).unwrap();
            return None;
        }
        Some(Ok::<_, std::io::Error>(vec![b'b'; 1 << 16]))
    });
    let request = http::Request::post("/x")
        .header("content-length", SENT)
        .body(Body::from_stream(futures_util::stream::iter(pieces)))
        .unwrap();
    let response = gateway.call(request).await.unwrap();
    (&mut sent).await.unwrap();
    let got = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(got.len(), (4 << 20) + 7);
    assert!(got.ends_with(SENT.to_string().as_bytes()));
}

/// What a task sends, as a stream.
fn async_stream<F>(
    make: impl FnOnce(tokio::sync::mpsc::Sender<Vec<u8>>) -> F,
) -> impl futures_util::Stream<Item = Result<Vec<u8>, std::io::Error>>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (to, mut from) = tokio::sync::mpsc::channel(1);
    tokio::spawn(make(to));
    futures_util::stream::poll_fn(move |context| from.poll_recv(context).map(|piece| piece.map(Ok)))
}
