//! axum, bare or served by this crate, plain and above TLS, and the gateways in front of it.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use linger::http::Unread;
use linger_testing::servers::{Launch, RunningServer, Unavailable, available, free_port, nginx, program};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::support::RESPONSE;
use crate::{HttpVersion, Kind, Via};

/// A server on a runtime of its own, which lives as long as this.
pub(crate) struct Server {
    plain: SocketAddr,
    tls: SocketAddr,
    certificate: Certificate,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let certificate = Certificate::new();
        let plain = serve(&runtime, kind, None);
        let tls = serve(&runtime, kind, Some(certificate.acceptor()));
        Self { plain, tls, certificate, _runtime: runtime }
    }
}

/// Answers an upload before it has read it, and says hello.
fn app() -> Router {
    Router::new()
        .route("/refused", post(|| async { (StatusCode::PAYLOAD_TOO_LARGE, vec![b'r'; RESPONSE]) }))
        .route("/hello", get(|| async { "hello" }))
}

fn serve(runtime: &tokio::runtime::Runtime, kind: Kind, tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        match (kind, tls) {
            (Kind::Bare, None) => axum::serve(listener, app()).await.unwrap(),
            (Kind::Bare, Some(tls)) => bare_above_tls(listener, tls).await,
            (Kind::Lingering | Kind::Waiting, None) => {
                linger::http::serve(listener, app()).unread(unread(kind)).await.unwrap();
            }
            (Kind::Lingering | Kind::Waiting, Some(tls)) => {
                let server = linger::http::serve(listener, app()).unread(unread(kind));
                server.above(move |stream| tls.accept(stream)).await.unwrap();
            }
        }
    });
    address
}

fn unread(kind: Kind) -> Unread {
    if kind == Kind::Waiting { Unread::behind_gateway() } else { Unread::default() }
}

async fn bare_above_tls(listener: tokio::net::TcpListener, tls: TlsAcceptor) {
    while let Ok((stream, _)) = listener.accept().await {
        let tls = tls.clone();
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let app = TowerToHyperService::new(app());
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), app).await;
        });
    }
}

/// A certificate that nobody trusts.
struct Certificate {
    der: rustls::pki_types::CertificateDer<'static>,
    key: Vec<u8>,
    /// Certificate and key, as the gateways read them.
    pem: String,
}

impl Certificate {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let pem = made.cert.pem() + &made.signing_key.serialize_pem();
        Self { der: made.cert.der().clone(), key: made.signing_key.serialize_der(), pem }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let mut config = config.with_single_cert(vec![self.der.clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// What clients talk to: a server, or a gateway in front of it.
pub(crate) struct Front {
    plain: SocketAddr,
    tls: SocketAddr,
    _gateway: Option<RunningServer>,
}

impl Front {
    /// `None` if the gateway is not there.
    pub(crate) fn start(via: Via, server: &Server) -> Option<Self> {
        let tls = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let gateway = match via {
            Via::Direct => return Some(Self { plain: server.plain, tls: server.tls, _gateway: None }),
            Via::Nginx => available(nginx_in_front(server, tls, "on"))?,
            Via::NginxUnbuffered => available(nginx_in_front(server, tls, "off"))?,
            Via::Haproxy => available(haproxy_in_front(server, tls))?,
        };
        Some(Self { plain: gateway.address, tls, _gateway: Some(gateway) })
    }

    pub(crate) fn url(&self, version: HttpVersion) -> String {
        match version {
            HttpVersion::One => format!("http://{}", self.plain),
            HttpVersion::Two => format!("https://{}", self.tls),
        }
    }
}

/// Keeps its connections to the server.
fn nginx_in_front(
    server: &Server,
    tls: SocketAddr,
    request_buffering: &str,
) -> Result<RunningServer, Unavailable> {
    let pem = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(pem.path(), &server.certificate.pem).unwrap();
    let (pem, upstream) = (pem.path().display(), server.plain);
    let http = format!(
        "upstream u {{ server {upstream}; keepalive 8; }}
         server {{
           listen 127.0.0.1:PORT; listen {tls} ssl http2; ssl_certificate {pem}; ssl_certificate_key {pem};
           location / {{
             proxy_request_buffering {request_buffering}; proxy_http_version 1.1; proxy_set_header connection \"\";
             proxy_pass http://u;
           }}
         }}"
    );
    nginx("nginx", 1, &http)
}

fn haproxy_in_front(server: &Server, tls: SocketAddr) -> Result<RunningServer, Unavailable> {
    let haproxy = program("haproxy", "haproxy")?;
    let launch = Launch::new("haproxy");
    let pem: PathBuf = launch.file("both.pem", &server.certificate.pem);
    let config = format!(
        "global\n  maxconn 200\n  tune.ssl.default-dh-param 2048\ndefaults\n  mode http\n  timeout client 60s
  timeout server 60s\n  timeout connect 5s\nfrontend front\n  bind 127.0.0.1:{}
  bind {tls} ssl crt {} alpn h2,http/1.1\n  default_backend back\nbackend back\n  server s {}\n",
        launch.port,
        pem.display(),
        server.plain
    );
    let file = launch.file("haproxy.cfg", config);
    let mut command = Command::new(haproxy);
    command.arg("-db").arg("-f").arg(file);
    launch.start(command)
}
