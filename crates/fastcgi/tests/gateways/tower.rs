//! An axum application behind FastCGI, and the gateway service in front of it: every size, read or not.

use axum::Router;
use axum::extract::Request;
use axum::routing::{get, post};
use http_body_util::{BodyExt, Full};
use linger_fastcgi::gateway::{self, Error};
use linger_fastcgi::responder::Config;
use linger_fastcgi::tower::{Gateway, serve};
use linger_fastcgi::{Address, Params};
use tower_service::Service;

const ANSWER: usize = 300_000;

fn app() -> Router {
    Router::new()
        .route("/unread", post(|| async { vec![b'r'; ANSWER] }))
        .route(
            "/read",
            post(|request: Request| async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                body.len().to_string()
            }),
        )
        .route(
            "/seen",
            get(|request: Request| async move {
                let params = request.extensions().get::<Params>().unwrap();
                let header = request.headers().get("x-test").unwrap().to_str().unwrap();
                let query = request.uri().query().unwrap();
                format!("{} {header} {query}", params.text("SCRIPT_FILENAME").unwrap())
            }),
        )
        .route(
            "/announced",
            post(|request: Request| async move {
                let announced = request.headers()["content-length"].to_str().unwrap().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                format!("{announced} {}", body.len())
            }),
        )
        .route(
            "/odd/{*rest}",
            get(|request: Request| async move {
                let types = request.headers().get_all("content-type").iter().count();
                format!("{} {} {types}", request.method(), request.uri())
            }),
        )
        .route("/short", get(|| async { ([("content-length", "10")], Odd("only5")) }))
        .route(
            "/cut",
            get(|| async {
                let broken =
                    vec![Ok(vec![b'r'; ANSWER]), Err(std::io::Error::other("the database went away"))];
                axum::body::Body::from_stream(futures_util::stream::iter(broken))
            }),
        )
}

/// A body that says nothing of its length, so that the one in the header is believed.
struct Odd(&'static str);

impl axum::response::IntoResponse for Odd {
    fn into_response(self) -> axum::response::Response {
        let body = futures_util::stream::iter([Ok::<_, std::io::Error>(self.0)]);
        axum::body::Body::from_stream(body).into_response()
    }
}

async fn gateway(keep_conn: bool) -> Gateway {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Address = listener.local_addr().unwrap().into();
    tokio::spawn(serve(listener, Config::default(), app()));
    let mut config = gateway::Config::default();
    (config.keep_conn, config.reuses_after_bodies) = (keep_conn, keep_conn);
    Gateway::new(address, "/srv", config)
}

fn request(method: &str, uri: &str, body: usize) -> http::Request<Full<bytes::Bytes>> {
    let body = Full::new(vec![b'b'; body].into());
    http::Request::builder().method(method).uri(uri).header("x-test", "hello").body(body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_size_read_or_not() {
    for keep_conn in [false, true] {
        let mut gateway = gateway(keep_conn).await;
        for body in [0, 8, 67_000, 2 << 20, 8 << 20] {
            let response = gateway.call(request("POST", "/unread", body)).await.unwrap();
            assert_eq!(response.status(), 200);
            let got = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(got.len(), ANSWER, "keep {keep_conn}, body {body}");
            let response = gateway.call(request("POST", "/read", body)).await.unwrap();
            let got = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(got, body.to_string().as_bytes(), "keep {keep_conn}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_translated_both_ways() {
    let mut gateway = gateway(true).await;
    let response = gateway.call(request("GET", "/seen?a=b", 0)).await.unwrap();
    let got = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(got, "/srv/seen hello a=b".as_bytes());
    let response = gateway.call(request("GET", "/nothing", 0)).await.unwrap();
    assert_eq!(response.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_body_is_an_error_on_the_other_side() {
    let mut gateway = gateway(false).await;
    let response = gateway.call(request("GET", "/cut", 0)).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert!(matches!(error, Error::Cut { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_bytes_than_announced_are_an_error_and_to_head_they_are_none() {
    let mut gateway = gateway(false).await;
    let response = gateway.call(request("GET", "/short", 0)).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert!(matches!(error, Error::Short { got: 5, announced: 10 }), "{error}");
    let response = gateway.call(request("HEAD", "/short", 0)).await.unwrap();
    assert_eq!(response.headers()["content-length"], "10");
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_unknown_length_is_told_with_its_length_or_refused() {
    let mut gateway = gateway(false).await;
    let chunked = |pieces: usize| {
        let pieces = (0..pieces).map(|_| Ok::<_, std::io::Error>(bytes::Bytes::from(vec![b'b'; 1 << 16])));
        let body = axum::body::Body::from_stream(futures_util::stream::iter(pieces.collect::<Vec<_>>()));
        http::Request::builder().method("POST").uri("/announced").body(body).unwrap()
    };
    let response = gateway.call(chunked(16)).await.unwrap();
    let got = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(got, "1048576 1048576".as_bytes());
    let error = gateway.call(chunked(17)).await.unwrap_err();
    assert!(matches!(error, Error::NoLength { most: 1_048_576 }), "{error}");
}

/// Sends a request with these parameters as a gateway does, and returns the response's STDOUT.
async fn raw(pairs: &[(&str, &[u8])]) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Address = listener.local_addr().unwrap().into();
    tokio::spawn(serve(listener, Config::default(), app()));
    let mut request = gateway::GatewayRequest::new("GET", "/odd");
    for (name, value) in pairs {
        request = request.param(name, value);
    }
    tokio::task::spawn_blocking(move || {
        let mut response =
            linger_fastcgi::Client::new(address, gateway::Config::default()).send(request).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut response, &mut text).unwrap();
        text
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_utf_8_reach_the_application_or_are_400() {
    let seen = raw(&[("REQUEST_URI", b"/odd/caf\xe9?q=\xff")]).await;
    assert!(seen.ends_with("GET /odd/caf%E9?q=%FF 0"), "{seen}");
    let refused = raw(&[("REQUEST_METHOD", b"G\xffT"), ("REQUEST_URI", b"/odd/x")]).await;
    assert!(refused.starts_with("Status: 400"), "{refused}");
    // nginx gives these twice.
    let types = [("CONTENT_TYPE", &b"a/b"[..]), ("HTTP_CONTENT_TYPE", b"a/b"), ("REQUEST_URI", b"/odd/x")];
    assert!(raw(&types).await.ends_with("GET /odd/x 1"), "one copy");
    assert!(raw(&types[1..]).await.ends_with("GET /odd/x 1"), "the only copy stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_leave_take_no_slot_with_them() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (begun, mut waits) = tokio::sync::mpsc::channel(8);
    let app = Router::new().route("/quick", get(|| async { "here" })).route(
        "/never",
        get(move || {
            let begun = begun.clone();
            async move {
                begun.send(()).await.unwrap();
                std::future::pending::<()>().await
            }
        }),
    );
    let mut config = Config::default();
    config.connections = 2;
    config.policy.grace = std::time::Duration::from_millis(10);
    tokio::spawn(serve(listener, config, app));
    let mut gateway = Gateway::new(address.into(), "/srv", gateway::Config::default());
    for _ in 0..5 {
        let leaves = tokio::spawn({
            let mut gateway = gateway.clone();
            async move { gateway.call(request("GET", "/never", 0)).await.map(drop) }
        });
        waits.recv().await.unwrap();
        // The gateway ends its connection when nobody waits for the response.
        leaves.abort();
    }
    let response = gateway.call(request("GET", "/quick", 0)).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "here".as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_what_is_under_way_and_not_for_what_rests() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (begun, mut begins) = tokio::sync::mpsc::channel(1);
    let go_on = std::sync::Arc::new(tokio::sync::Notify::new());
    let waits = go_on.clone();
    let app = Router::new().route("/quick", get(|| async { "here" })).route(
        "/waits",
        get(move || {
            let (begun, waits) = (begun.clone(), waits.clone());
            async move {
                begun.send(()).await.unwrap();
                waits.notified().await;
                vec![b'r'; ANSWER]
            }
        }),
    );
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut config = Config::default();
    config.policy.grace = std::time::Duration::from_millis(10);
    // Only the stop ends a resting connection in this test's time.
    config.keep_idle = std::time::Duration::from_secs(3600);
    let server = tokio::spawn(linger_fastcgi::tower::serve_until(listener, config, app, async {
        drop(stopped.await);
    }));
    let mut kept = gateway::Config::default();
    (kept.keep_conn, kept.reuses_after_bodies) = (true, true);
    let mut resting = Gateway::new(address.into(), "/srv", kept);
    let response = resting.call(request("GET", "/quick", 0)).await.unwrap();
    response.into_body().collect().await.unwrap();
    let under_way = tokio::spawn(async move {
        let mut gateway = Gateway::new(address.into(), "/srv", gateway::Config::default());
        let response = gateway.call(request("GET", "/waits", 0)).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes().len()
    });
    begins.recv().await.unwrap();
    stop.send(()).unwrap();
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!server.is_finished(), "a request is under way");
    go_on.notify_one();
    assert_eq!(under_way.await.unwrap(), ANSWER);
    server.await.unwrap().unwrap();
    drop(resting);
}

#[test]
fn an_axum_application_behind_nginx() {
    linger_testing::sandboxed(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(|| async { vec![b'r'; ANSWER] });
        runtime.spawn(serve(listener, Config::default(), app));
        for (buffered, keep_conn) in [(true, false), (false, false), (true, true)] {
            let mut options = linger_testing::servers::GatewayOptions::default();
            (options.buffered, options.keep_conn) = (buffered, keep_conn);
            let Some(nginx) = crate::common::available(linger_testing::servers::nginx_fcgi(address, options))
            else {
                return;
            };
            for body in crate::common::SIZES {
                let got = crate::common::post(nginx.address, body, None, ANSWER);
                assert!(got.is_complete(ANSWER), "body {body}: {got:?}\n{}", nginx.log());
            }
        }
        let counters = linger_testing::Counters::read().unwrap();
        assert_eq!(counters.of("TCPAbortOnClose"), 0);
    });
}
