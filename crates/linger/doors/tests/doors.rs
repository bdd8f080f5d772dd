//! A client that reads the answer only after its upload gets all of it from a server made by each recipe.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Longer than what fits into the client's buffers.
const ANSWER: usize = 300_000;
const UPLOAD: usize = 3_000_000;
/// Clients one after the other: a plain close loses nearly each of them.
const CLIENTS: usize = 10;

/// What a client has got of its answer's body.
fn upload(address: SocketAddr) -> io::Result<usize> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let head =
        format!("POST / HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {UPLOAD}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(&vec![b'u'; UPLOAD])?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    let body = got.windows(4).position(|window| window == b"\r\n\r\n").map(|head| got.len() - head - 4);
    body.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Every client gets everything from the server that the argument makes of a listener.
fn all_whole<F>(server: impl FnOnce(TcpListener) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = Runtime::new().unwrap();
    let _inside = runtime.enter();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(server(TcpListener::from_std(listener).unwrap()));
    for client in 0..CLIENTS {
        assert_eq!(upload(address).unwrap(), ANSWER, "client {client}");
    }
}

fn answer() -> Vec<u8> {
    vec![b'r'; ANSWER]
}

#[test]
fn axum_server() {
    let app = || axum::Router::new().route("/", axum::routing::post(async || answer())).into_make_service();
    all_whole(|listener| async move {
        let server = axum_server::from_tcp(listener.into_std().unwrap()).unwrap();
        server.acceptor(linger_doors::axum_server::Linger).serve(app()).await.unwrap();
    });
}

#[test]
fn poem() {
    #[poem::handler]
    fn refuse() -> Vec<u8> {
        answer()
    }
    all_whole(|listener| async move {
        let app = poem::Route::new().at("/", poem::post(refuse));
        poem::Server::new_with_acceptor(linger_doors::poem::Linger::new(listener)).run(app).await.unwrap();
    });
}

#[test]
fn salvo() {
    struct Refuse;

    #[salvo_core::async_trait]
    impl salvo_core::Handler for Refuse {
        async fn handle(
            &self,
            _: &mut salvo_core::Request,
            _: &mut salvo_core::Depot,
            response: &mut salvo_core::Response,
            _: &mut salvo_core::FlowCtrl,
        ) {
            response.status_code(salvo_core::http::StatusCode::PAYLOAD_TOO_LARGE);
            response.write_body(answer()).unwrap();
        }
    }
    all_whole(|listener| async move {
        let server = salvo_core::Server::new(linger_doors::salvo::Linger::new(listener).unwrap());
        server.serve(salvo_core::Router::new().post(Refuse)).await;
    });
}

#[test]
fn warp() {
    use warp::Filter;
    all_whole(|listener| async move {
        linger_doors::warp::serve(listener, warp::post().map(answer)).await.unwrap();
    });
}

#[test]
fn smol() {
    use smol::io::{AsyncReadExt, AsyncWriteExt};
    async fn serve(mut stream: smol::net::TcpStream) -> io::Result<()> {
        stream.read(&mut [0; 1000]).await?;
        let head = format!("HTTP/1.1 413 Too Large\r\ncontent-length: {ANSWER}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&answer()).await?;
        linger_doors::smol::close(stream)
    }
    let listener = smol::block_on(smol::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        smol::block_on(async {
            for _ in 0..CLIENTS {
                serve(listener.accept().await?.0).await?;
            }
            Ok::<(), io::Error>(())
        })
    });
    for client in 0..CLIENTS {
        assert_eq!(upload(address).unwrap(), ANSWER, "client {client}");
    }
    serving.join().unwrap().unwrap();
}

/// A call with a message that the server refuses by its length, early: the status arrives each time.
#[test]
fn tonic() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_reporter, service) = tonic_health::server::health_reporter();
        let routes = tonic::service::Routes::new(service);
        tokio::spawn(linger_doors::tonic::serve(listener, routes));
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let mut client = HealthClient::new(endpoint.connect().await.unwrap());
        for _ in 0..CLIENTS {
            let large = HealthCheckRequest { service: "s".repeat(20_000_000) };
            let status = client.check(large).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::OutOfRange, "{status}");
            let small = HealthCheckRequest { service: String::new() };
            client.check(small).await.unwrap();
        }
    });
}

/// Otherwise the tests above would show nothing.
#[test]
fn without_a_door_answers_are_lost() {
    let runtime = Runtime::new().unwrap();
    let whole = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().route("/", axum::routing::post(async || answer()));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let uploads = move || (0..CLIENTS).filter(|_| upload(address).is_ok_and(|got| got == ANSWER)).count();
        tokio::task::spawn_blocking(uploads).await.unwrap()
    });
    assert!(whole < CLIENTS, "{whole} of {CLIENTS} whole with a plain close");
}
