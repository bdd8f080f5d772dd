//! One connection to the collector, and one request after the other on it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tonic::metadata::{MetadataKey, MetadataValue};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::SendOptions;
use super::messages::OtlpRequest;
use super::retry::{SendResult, of_grpc, of_http};
use super::tls;
use crate::endpoint::OtlpProtocol;

/// Longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 64 << 10;
/// Longest head of an answer.
const LONGEST_HEAD: usize = 32 << 10;
/// Longest time for one of several addresses of a name; less where they have less together.
const ONE_ADDRESS: Duration = Duration::from_secs(3);

/// A stream, with TLS or without.
trait OtlpStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> OtlpStream for T {}

/// Sends requests, over a connection that is made when it is needed, and kept.
pub(super) struct OtlpClient<'a> {
    options: &'a SendOptions,
    tls: Option<TlsConnector>,
    connection: Option<OtlpConnection>,
}

impl<'a> OtlpClient<'a> {
    pub(super) fn new(options: &'a SendOptions) -> Self {
        let roots = options.roots.as_ref().filter(|_| options.endpoint.is_encrypted);
        // What is spoken here is TLS's usual: this provider has it.
        let tls = roots.and_then(|roots| tls::connector(roots, options.endpoint.protocol).ok());
        Self { options, tls, connection: None }
    }

    /// Sends a request and reads its answer, within the longest time for one.
    pub(super) async fn send<R: OtlpRequest>(&mut self, request: &R) -> SendResult {
        let result = match timeout(self.options.timeout, self.exchange(request)).await {
            Ok(result) => result,
            Err(_) => {
                let seconds = self.options.timeout.as_secs_f64();
                SendResult::Later(format!("no answer within {seconds} s"), None)
            }
        };
        if !matches!(result, SendResult::Taken { .. }) {
            // Whatever state it is in.
            self.connection = None;
        }
        result
    }

    async fn exchange<R: OtlpRequest>(&mut self, request: &R) -> SendResult {
        let usable = self.connection.as_ref().is_some_and(|connection| !connection.task.is_finished());
        if !usable {
            self.connection = match self.connect().await {
                Ok(connection) => Some(connection),
                Err(error) => return SendResult::Later(error, None),
            };
        }
        let Some(connection) = &mut self.connection else {
            return SendResult::Later("no connection".into(), None);
        };
        match &mut connection.speaker {
            Speaker::Http(sender) => over_http(self.options, sender, request).await,
            Speaker::Grpc(channel) => over_grpc(self.options, channel.clone(), request).await,
        }
    }

    async fn connect(&self) -> Result<OtlpConnection, String> {
        let endpoint = &self.options.endpoint;
        let stream = self.tcp().await?;
        let wire: Box<dyn OtlpStream> = match &self.tls {
            Some(connector) => Box::new(tls::encrypt(connector, endpoint, stream).await?),
            None if endpoint.is_encrypted => return Err("no certificates of authorities".into()),
            None => Box::new(stream),
        };
        let words = |error: hyper::Error| error.to_string();
        match endpoint.protocol {
            OtlpProtocol::HttpProtobuf => {
                let mut builder = http1::Builder::new();
                builder.max_buf_size(LONGEST_HEAD);
                let (sender, connection) = builder.handshake(TokioIo::new(wire)).await.map_err(words)?;
                let task = tokio::spawn(async move { drop(connection.await) });
                Ok(OtlpConnection { speaker: Speaker::Http(sender), task })
            }
            OtlpProtocol::Grpc => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.max_header_list_size(LONGEST_HEAD as u32);
                let (sender, connection) = builder.handshake(TokioIo::new(wire)).await.map_err(words)?;
                let task = tokio::spawn(async move { drop(connection.await) });
                Ok(OtlpConnection { speaker: Speaker::Grpc(GrpcChannel(sender)), task })
            }
        }
    }

    async fn tcp(&self) -> Result<TcpStream, String> {
        let endpoint = &self.options.endpoint;
        let unknown = |error: std::io::Error| format!("cannot look up {}: {error}", endpoint.host);
        let addresses = lookup_host((endpoint.host.as_str(), endpoint.port)).await.map_err(unknown)?;
        let addresses: Vec<_> = addresses.collect();
        let stream = first_that_answers(&addresses, self.options.timeout).await;
        stream.unwrap_or_else(|| Err(format!("{} has no address", endpoint.host)))
    }
}

/// Connects to the first of the addresses that answers: in the system's order, and so that the last has its part of the `time`, too, and
/// the request behind it. `None` if there is no address; else the error of the last.
async fn first_that_answers(addresses: &[SocketAddr], time: Duration) -> Option<Result<TcpStream, String>> {
    let until = Instant::now() + time;
    let mut last = None;
    for (at, address) in addresses.iter().enumerate() {
        let parts = addresses.len() - at + 1;
        let part = until.saturating_duration_since(Instant::now()) / u32::try_from(parts).unwrap_or(u32::MAX);
        last = Some(match timeout(ONE_ADDRESS.min(part), TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Some(Ok(stream));
            }
            Ok(Err(error)) => Err(format!("cannot connect to {address}: {error}")),
            Err(_) => Err(format!("cannot connect to {address}: no answer")),
        });
    }
    last
}

/// A connection, and the task that drives it. It ends with this.
struct OtlpConnection {
    speaker: Speaker,
    task: JoinHandle<()>,
}

impl Drop for OtlpConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

enum Speaker {
    Http(http1::SendRequest<Full<Bytes>>),
    Grpc(GrpcChannel),
}

async fn over_http<R: OtlpRequest>(
    options: &SendOptions,
    sender: &mut http1::SendRequest<Full<Bytes>>,
    message: &R,
) -> SendResult {
    let path = format!("{}{}", options.endpoint.path, R::HTTP_PATH);
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, options.endpoint.authority())
        .header(USER_AGENT, user_agent(options))
        .header(CONTENT_TYPE, "application/x-protobuf");
    for (name, value) in &options.headers {
        request = request.header(name, value);
    }
    let request = match request.body(Full::new(Bytes::from(message.encode_to_vec()))) {
        Ok(request) => request,
        Err(error) => return SendResult::Refused(error.to_string()),
    };
    let answer = async {
        sender.ready().await?;
        sender.send_request(request).await
    };
    let (head, body) = match answer.await {
        Ok(response) => response.into_parts(),
        Err(error) => return SendResult::Later(format!("no answer: {error}"), None),
    };
    // A body that is too long or breaks off changes nothing of what the status says.
    let body = Limited::new(body, LONGEST_ANSWER).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    if !head.status.is_success() {
        return of_http(head.status, &head.headers, &body);
    }
    taken::<R>(&R::Answer::decode_lossily(&body))
}

async fn over_grpc<R: OtlpRequest>(options: &SendOptions, channel: GrpcChannel, message: &R) -> SendResult {
    let scheme = if options.endpoint.is_encrypted { "https" } else { "http" };
    let origin = Uri::builder().scheme(scheme).authority(options.endpoint.authority()).path_and_query("/");
    let Ok(origin) = origin.build() else { return SendResult::Refused("no URL".into()) };
    let mut grpc =
        tonic::client::Grpc::with_origin(channel, origin).max_decoding_message_size(LONGEST_ANSWER);
    if let Err(error) = grpc.ready().await {
        return SendResult::Later(format!("no answer: {error}"), None);
    }
    let mut request = tonic::Request::new(message.clone());
    let own = ("user-agent".to_owned(), user_agent(options));
    for (name, value) in std::iter::once(&own).chain(&options.headers) {
        let name = MetadataKey::from_bytes(name.to_lowercase().as_bytes());
        if let (Ok(name), Ok(value)) = (name, MetadataValue::try_from(value.as_str())) {
            request.metadata_mut().insert(name, value);
        }
    }
    let path = hyper::http::uri::PathAndQuery::from_static(R::GRPC_PATH);
    match grpc.unary(request, path, ProstCodec::<R, R::Answer>::default()).await {
        Ok(answer) => taken::<R>(answer.get_ref()),
        Err(status) => of_grpc(&status),
    }
}

fn taken<R: OtlpRequest>(answer: &R::Answer) -> SendResult {
    let (rejected, message) = R::rejected(answer);
    SendResult::Taken { rejected: rejected.try_into().unwrap_or(0), message: message.to_owned() }
}

fn user_agent(options: &SendOptions) -> String {
    format!("{}/{}", options.scope.0, options.scope.1)
}

/// Reads what can be read: an answer that is no message says no more than its status.
trait DecodeLossily: prost::Message + Default {
    fn decode_lossily(bytes: &[u8]) -> Self {
        Self::decode(bytes).unwrap_or_default()
    }
}
impl<T: prost::Message + Default> DecodeLossily for T {}

/// hyper's sender, as tonic wants it.
#[derive(Clone, Debug)]
struct GrpcChannel(http2::SendRequest<tonic::body::Body>);

impl Service<Request<tonic::body::Body>> for GrpcChannel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// The first address of a name is dead: its queue is full, and it drops what comes.
    #[tokio::test]
    async fn a_dead_address_leaves_time_for_the_next() {
        let full = TcpSocket::new_v4().unwrap();
        full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = full.listen(0).unwrap();
        let live = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let [dead, live] = [&full, &live].map(|listener| listener.local_addr().unwrap());
        let _only = TcpStream::connect(dead).await.unwrap();
        let time = Duration::from_secs(2);
        let found = timeout(time, first_that_answers(&[dead, live], time)).await.expect("within the time");
        assert_eq!(found.unwrap().unwrap().peer_addr().unwrap(), live);
        let alone = first_that_answers(&[dead], Duration::from_millis(50)).await.unwrap().unwrap_err();
        assert_eq!(alone, format!("cannot connect to {dead}: no answer"));
        assert!(first_that_answers(&[], time).await.is_none());
    }
}
