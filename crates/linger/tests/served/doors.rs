//! What programs on axum and tokio already do with their listeners and streams, and may go on doing.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use crate::support::{RESPONSE, no_resets, undelivered, until, upload};
use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::post;
use axum::serve::ListenerExt;
use linger::axum::{Peer, listen};
use linger::tokio::{Accept, Lingering, Stream};
use linger::{Closer, Policy};
use linger_testing::{Counters, sandboxed};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A policy where there is no code to make it.
static POLICY: Policy = Policy::new().with_total(std::time::Duration::from_secs(20));

const HEAD: &str = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 50000000\r\n\r\n";

/// An early answer, with the address of the peer in front.
async fn refuse(ConnectInfo(peer): ConnectInfo<SocketAddr>) -> Vec<u8> {
    assert!(peer.ip().is_loopback());
    vec![b'r'; RESPONSE]
}

fn app() -> Router {
    Router::new().route("/", post(refuse))
}

/// Serves an uploading client on what `server` makes of a listener. Nothing may be reset.
fn serves<F>(server: impl FnOnce(TcpListener) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let before = Counters::read().unwrap();
    let served = Closer::global().unwrap().snapshot().ended.total();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(server(listener));
        let got = tokio::task::spawn_blocking(move || upload(address, HEAD, 50_000_000)).await.unwrap();
        assert_eq!(got.body().map(<[u8]>::len), Some(RESPONSE), "{:?}", got.error);
        server.abort();
    });
    until(Closer::global().unwrap(), |snapshot| snapshot.ended.total() == served + 1);
    no_resets(&before);
}

#[test]
fn connect_info_is_what_it_was() {
    sandboxed(|| {
        let app = || app().into_make_service_with_connect_info::<SocketAddr>();
        serves(|listener| async move { axum::serve(listen(listener, POLICY), app()).await });
    });
}

#[test]
fn a_listener_may_be_tapped_before_and_after() {
    sandboxed(|| {
        static TAPPED: AtomicUsize = AtomicUsize::new(0);
        let app = || app().into_make_service_with_connect_info::<SocketAddr>();
        serves(|listener| async move {
            let listener = listener.tap_io(|stream| {
                stream.set_nodelay(true).unwrap();
                TAPPED.fetch_add(1, Ordering::SeqCst);
            });
            axum::serve(listen(listener, POLICY), app()).await
        });
        serves(|listener| async move {
            let listener = listen(listener, POLICY).tap_io(|stream| {
                stream.get_ref().set_nodelay(true).unwrap();
                TAPPED.fetch_add(1, Ordering::SeqCst);
            });
            axum::serve(listener, app()).await
        });
        assert_eq!(TAPPED.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn a_server_of_this_crate_has_both_connect_infos() {
    sandboxed(|| {
        async fn refuse(
            ConnectInfo(address): ConnectInfo<SocketAddr>,
            ConnectInfo(peer): ConnectInfo<Peer>,
        ) -> Vec<u8> {
            assert_eq!(peer.address, address);
            vec![b'r'; RESPONSE]
        }
        serves(|listener| async move {
            let app = Router::new().route("/", post(refuse));
            linger::http::serve(listener, app).policy(POLICY).await.map(drop)
        });
    });
}

/// Either of two kinds of socket.
enum Either<T, U> {
    Tcp(T),
    Unix(U),
}

type Both = Either<TcpStream, UnixStream>;

macro_rules! each {
    ($either:expr, $stream:ident => $do:expr) => {
        match $either {
            Either::Tcp($stream) => $do,
            Either::Unix($stream) => $do,
        }
    };
}

impl AsyncRead for Both {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(&mut *self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Both {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(&mut *self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl AsFd for Both {
    fn as_fd(&self) -> BorrowedFd<'_> {
        each!(self, stream => stream.as_fd())
    }
}

impl Stream for Both {
    fn into_fd(self) -> io::Result<OwnedFd> {
        each!(self, stream => stream.into_fd())
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_readable(context))
    }

    fn reading<R>(&self, read: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        each!(self, stream => stream.reading(read))
    }
}

impl Accept for Either<TcpListener, UnixListener> {
    type Io = Both;
    type Addr = String;

    async fn accept(&mut self) -> io::Result<(Both, String)> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                (Either::Tcp(stream), address.to_string())
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                (Either::Unix(stream), "unix".to_owned())
            }
        })
    }

    fn local_addr(&self) -> io::Result<String> {
        Ok("either".to_owned())
    }
}

/// What a client gets over a unix socket that uploads before it reads.
fn over_unix<F>(server: impl FnOnce(UnixListener) -> F) -> crate::support::Got
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let server = tokio::spawn(server(UnixListener::bind(&path).unwrap()));
        let client = move || {
            use std::io::Write;
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            stream.write_all(HEAD.as_bytes()).unwrap();
            stream.write_all(&[b'u'; 50_000]).unwrap();
            crate::support::Got::read(stream)
        };
        let got = tokio::task::spawn_blocking(client).await.unwrap();
        server.abort();
        got
    })
}

#[test]
fn tcp_or_unix_as_the_configuration_says() {
    sandboxed(|| {
        async fn refuse(ConnectInfo(from): ConnectInfo<String>) -> Vec<u8> {
            assert!(from.starts_with("127.") || from == "unix");
            vec![b'r'; RESPONSE]
        }
        let app = || Router::new().route("/", post(refuse)).into_make_service_with_connect_info::<String>();
        serves(|listener| async move { axum::serve(listen(Either::Tcp(listener), POLICY), app()).await });

        let got =
            over_unix(
                |listener| async move { axum::serve(listen(Either::Unix(listener), POLICY), app()).await },
            );
        assert_eq!(got.body().map(<[u8]>::len), Some(RESPONSE), "{:?}", got.error);
        // The same client of a bare server meets a reset, as over TCP.
        let bare = || {
            let app = Router::new().route("/", post(async || vec![b'r'; RESPONSE]));
            over_unix(|listener| async move { axum::serve(listener, app).await })
        };
        let failed = (0..20).map(|_| bare().error).find(Option::is_some).flatten();
        assert_eq!(failed, Some(io::ErrorKind::ConnectionReset));
        let snapshot = until(Closer::global().unwrap(), |snapshot| snapshot.ended.total() == 2);
        assert_eq!(snapshot.undelivered, undelivered(2), "{snapshot:?}");
    });
}

/// TLS as a listener of axum's, over the lingering one.
struct Tls {
    listener: linger::axum::LingeringListener<TcpListener>,
    tls: tokio_rustls::TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = tokio_rustls::server::TlsStream<Lingering<TcpStream>>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        axum::serve::Listener::local_addr(&self.listener)
    }
}

/// An acceptor, and a client's connection that trusts it.
fn tls() -> (tokio_rustls::TlsAcceptor, rustls::ClientConnection) {
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let chain = vec![made.cert.der().clone()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let server = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let client = rustls::ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
    (tokio_rustls::TlsAcceptor::from(Arc::new(server)), client)
}

/// What a client gets over TLS that has written more than the server reads.
fn upload_over_tls(address: SocketAddr, client: rustls::ClientConnection) -> crate::support::Got {
    use std::io::Write;
    let socket = crate::support::connect_small(address);
    socket.set_read_timeout(Some(crate::support::LONG)).unwrap();
    let mut stream = rustls::StreamOwned::new(client, socket);
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 3000000\r\n\r\n")
        .unwrap();
    stream.write_all(&[b'u'; 3_000_000]).unwrap();
    crate::support::Got::read(stream)
}

#[test]
fn tls_goes_above_as_a_listener_of_axums_or_as_a_handshake() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            for is_handshake in [true, false] {
                let (tls, client) = tls();
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                let app = Router::new().route("/", post(|| async { vec![b'r'; RESPONSE] }));
                let server = tokio::spawn(async move {
                    if is_handshake {
                        linger::http::serve(listener, app)
                            .above(move |stream| tls.accept(stream))
                            .await
                            .map(drop)
                    } else {
                        let listener = Tls { listener: listen(listener, POLICY), tls };
                        axum::serve(listener, app).await
                    }
                });
                let got = tokio::task::spawn_blocking(move || upload_over_tls(address, client));
                let got = got.await.unwrap();
                assert_eq!(got.body().map(<[u8]>::len), Some(RESPONSE), "{is_handshake} {:?}", got.error);
                server.abort();
            }
        });
        no_resets(&before);
    });
}
