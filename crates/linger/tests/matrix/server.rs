//! Servers that answer before they have read the request, and end the connection lingering.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock, mpsc};

use axum::routing::post;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use linger::tokio::Lingering;
use linger::{Budget, Closer, Ended, Outcome};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{RootCertStore, ServerConnection, StreamOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Cell, Ending, Peer, Server, Transport, policy, stalled};
use crate::support::{LONG, until};

/// Where a client connects.
pub(crate) enum Connect {
    Tcp(SocketAddr, Option<Arc<rustls::ClientConfig>>),
    Unix(UnixStream),
}

/// Where a server gets its one connection.
pub(crate) enum Accept {
    Tcp(TcpListener),
    Unix(UnixStream),
}

pub(crate) fn listen(transport: Transport) -> (Connect, Accept) {
    if transport == Transport::Unix {
        let (client, server) = UnixStream::pair().unwrap();
        return (Connect::Unix(client), Accept::Unix(server));
    }
    let address = if transport == Transport::Ipv6 { "[::1]:0" } else { "127.0.0.1:0" };
    let listener = TcpListener::bind(address).unwrap();
    let tls = Certificate::get().map_or_else(|| unreachable!("prepared"), |all| all.client(transport));
    (Connect::Tcp(listener.local_addr().unwrap(), tls), Accept::Tcp(listener))
}

/// Serves one connection. Returns how it ended, and whether everything was acknowledged; a bare server does not know
/// this.
pub(crate) fn run(accept: Accept, cell: Cell) -> (Ended, bool) {
    let fd: OwnedFd = match accept {
        Accept::Tcp(listener) => listener.accept().unwrap().0.into(),
        Accept::Unix(stream) => stream.into(),
    };
    let tls = Certificate::get().and_then(|all| all.server(cell.transport));
    let outcome = match cell.server {
        Server::Blocking | Server::Closer if cell.ending == Ending::Bare => {
            bare(fd, tls, cell);
            return (Ended::Unwaited, true);
        }
        Server::Blocking => blocking(fd, tls, cell),
        Server::Closer => closer(fd, tls, cell),
        Server::Tokio | Server::AxumHttp1 | Server::AxumHttp2 => return in_runtime(fd, tls, cell),
    };
    (outcome.ended, outcome.delivered())
}

fn answer(mut stream: impl Read + Write, size: usize) {
    // What the peer does may end the connection here; the close then says so.
    if stream.read_exact(&mut [0; 7]).is_ok() {
        let _ = stream.write_all(&vec![b'r'; size]).and_then(|()| stream.flush());
    }
}

fn secure(fd: &OwnedFd, tls: Arc<rustls::ServerConfig>) -> StreamOwned<ServerConnection, File> {
    StreamOwned::new(ServerConnection::new(tls).unwrap(), File::from(fd.try_clone().unwrap()))
}

fn give_up_when_stalled(fd: &OwnedFd, peer: Peer) {
    let limit = Some(stalled(peer));
    rustix::net::sockopt::set_socket_timeout(fd, rustix::net::sockopt::Timeout::Send, limit).unwrap();
}

/// A server without this crate.
fn bare(fd: OwnedFd, tls: Option<Arc<rustls::ServerConfig>>, Cell { peer, size, .. }: Cell) {
    give_up_when_stalled(&fd, peer);
    match tls {
        None => answer(&File::from(fd), size),
        Some(tls) => {
            let mut stream = secure(&fd, tls);
            answer(&mut stream, size);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    }
}

fn blocking(fd: OwnedFd, tls: Option<Arc<rustls::ServerConfig>>, Cell { peer, size, .. }: Cell) -> Outcome {
    give_up_when_stalled(&fd, peer);
    match tls {
        None => {
            answer(&File::from(fd.try_clone().unwrap()), size);
            linger::close(fd, &policy(peer))
        }
        Some(tls) => {
            let mut stream = secure(&fd, tls);
            answer(&mut stream, size);
            let StreamOwned { conn: mut connection, sock } = stream;
            drop(sock);
            linger::rustls::close(&mut connection, fd, &policy(peer))
        }
    }
}

fn closer(fd: OwnedFd, tls: Option<Arc<rustls::ServerConfig>>, Cell { peer, size, .. }: Cell) -> Outcome {
    give_up_when_stalled(&fd, peer);
    match tls {
        None => answer(&File::from(fd.try_clone().unwrap()), size),
        Some(tls) => {
            let mut stream = secure(&fd, tls);
            answer(&mut stream, size);
            let _ = linger::rustls::send_close_notify(&mut stream.conn, &fd, stalled(peer));
        }
    }
    let closer = Closer::new(Budget::default()).unwrap();
    let (tell, told) = mpsc::channel();
    closer.close_then(fd, &policy(peer), move |outcome| tell.send(outcome).unwrap());
    told.recv_timeout(LONG).unwrap()
}

fn in_runtime(fd: OwnedFd, tls: Option<Arc<rustls::ServerConfig>>, cell: Cell) -> (Ended, bool) {
    // Bare without a closer.
    let closer = (cell.ending == Ending::Lingering).then(|| Closer::new(Budget::default()).unwrap());
    let policy = policy(cell.peer);
    rustix::io::ioctl_fionbio(&fd, true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if cell.transport == Transport::Unix {
            let stream = tokio::net::UnixStream::from_std(fd.into()).unwrap();
            match &closer {
                Some(closer) => serve(Lingering::with_closer(stream, policy, closer), cell).await,
                None => serve(stream, cell).await,
            }
            return;
        }
        let stream = tokio::net::TcpStream::from_std(fd.into()).unwrap();
        match &closer {
            Some(closer) => above(Lingering::with_closer(stream, policy, closer), tls, cell).await,
            None => above(stream, tls, cell).await,
        }
    });
    let Some(closer) = closer else { return (Ended::Unwaited, true) };
    let snapshot = until(&closer, |snapshot| snapshot.ended.total() == 1);
    let mut ways = vec![Ended::PeerClosed, Ended::Acknowledged, Ended::PeerReset, Ended::Limit, Ended::Gone];
    ways.extend([linger::Bound::Idle, linger::Bound::Total, linger::Bound::Kernel].map(Ended::TimedOut));
    let ended = ways.into_iter().find(|ended| snapshot.ended.of(*ended) == 1);
    (ended.unwrap_or_else(|| panic!("{snapshot:?}")), snapshot.undelivered == 0)
}

async fn above<S>(stream: S, tls: Option<Arc<rustls::ServerConfig>>, cell: Cell)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(tls) = tls else { return serve(stream, cell).await };
    // A peer that resets early fails the handshake, which drops the stream: that is an end, too.
    if let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await {
        serve(stream, cell).await;
    }
}

async fn serve<S>(mut stream: S, Cell { server, peer, size, .. }: Cell)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if server == Server::Tokio {
        if stream.read_exact(&mut [0; 7]).await.is_ok() {
            let body = vec![b'r'; size];
            let writing = async { stream.write_all(&body).await.and(stream.flush().await) };
            let _ = tokio::time::timeout(stalled(peer), writing).await;
        }
        let _ = stream.shutdown().await;
        return;
    }
    let answered = Arc::new(tokio::sync::Notify::new());
    let handler = {
        let answered = answered.clone();
        move || async move {
            answered.notify_one();
            vec![b'r'; size]
        }
    };
    let app = TowerToHyperService::new(axum::Router::new().route("/", post(handler)));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().half_close(true);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), app));
    // One request and then a graceful end, as a server that is shut down.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = answered.notified() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// A certificate of this test's own, and who trusts it.
pub(crate) struct Certificate {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();

impl Certificate {
    pub(crate) fn prepare() {
        CERTIFICATE.get_or_init(|| {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            Self { certificate: made.cert.der().clone(), key: made.signing_key.serialize_der() }
        });
    }

    fn get() -> Option<&'static Self> {
        CERTIFICATE.get()
    }

    fn version(transport: Transport) -> Option<&'static rustls::SupportedProtocolVersion> {
        match transport {
            Transport::Tls12 => Some(&rustls::version::TLS12),
            Transport::Tls13 => Some(&rustls::version::TLS13),
            _ => None,
        }
    }

    fn server(&self, transport: Transport) -> Option<Arc<rustls::ServerConfig>> {
        let version = Self::version(transport)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let config = rustls::ServerConfig::builder_with_protocol_versions(&[version])
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key);
        Some(Arc::new(config.unwrap()))
    }

    fn client(&self, transport: Transport) -> Option<Arc<rustls::ClientConfig>> {
        let version = Self::version(transport)?;
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(roots)
            .with_no_client_auth();
        Some(Arc::new(config))
    }
}
