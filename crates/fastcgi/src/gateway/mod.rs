//! The web server's end: sends requests to an application, and believes only complete responses.
//!
//! An application may answer before it has read the request, and may reset the connection when it closes. The client
//! therefore reads while it writes, and after a failed write it reads what is left. It takes a response for complete only
//! with END_REQUEST: once a socket's error has been consumed, a cut stream ends like a complete one.

mod abort;
mod exchange;
pub(crate) mod idle;
mod pool;
mod values;

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::cgi::InvalidHead;
use crate::environment::{Environment, InvalidRequest};
use crate::error::ProtocolError;
use crate::record::{ProtocolStatus, Role};

pub use abort::AbortedRequest;
pub use exchange::GatewayResponse;
use pool::Pool;
pub use values::VALUES;

/// How a client connects and waits. Plain data; every field may be set directly.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Whether to ask the application to keep connections open (FCGI_KEEP_CONN).
    pub keep_conn: bool,
    /// Whether a kept connection is also used after a request that had a body, and for a request that must not be sent
    /// twice. Set this if the application is this crate's responder. libfcgi leaves an unread body on the connection, and the
    /// next request fails on it; uWSGI closes kept connections. With these two, requests would fail now and then.
    pub reuses_after_bodies: bool,
    /// Most idle connections kept; each holds a thread or a process of most applications. Where there is one more, the one
    /// that was idle longest is closed; and so is one for a request that has waited on a new connection for 100 ms without a byte, as the
    /// idle connection may hold the worker that it needs.
    pub idle_connections: usize,
    /// How long an idle connection is kept. It should be shorter than the application's own patience.
    pub idle_timeout: Duration,
    /// Longest time to connect.
    pub connect_timeout: Duration,
    /// Longest time without a byte in either direction.
    pub io_timeout: Duration,
    /// Most bytes of a request body without an announced length, which is read to its end before the request is sent: a CGI
    /// program is told the length first (RFC 3875 section 4.1.2). Used by the `tower` gateway only.
    pub spool: usize,
    /// How often a request whose body is in memory is sent again if that is safe. It is safe if the application refused the
    /// request for lack of room (FCGI_OVERLOADED, FCGI_CANT_MPX_CONN); and, for idempotent methods (RFC 9110 section 9.2.2), if a
    /// kept connection ended before any byte of the response. The `tower` gateway sends only requests without a body again.
    pub retries: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keep_conn: false,
            reuses_after_bodies: false,
            idle_connections: 16,
            idle_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(5),
            io_timeout: Duration::from_secs(60),
            spool: 1 << 20,
            retries: 1,
        }
    }
}

/// A request body.
#[non_exhaustive]
pub enum Body {
    /// Bytes in memory, which can be sent again. Empty for no body.
    Bytes(Arc<[u8]>),
    /// Read as the application takes it. A source that blocks delays the response too.
    Stream(Box<dyn Read + Send>),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// A request to an application.
#[derive(Debug)]
#[non_exhaustive]
pub struct GatewayRequest {
    /// The role in which the application is called.
    pub role: Role,
    /// The environment: names and values.
    pub params: Vec<(Vec<u8>, Vec<u8>)>,
    /// What goes on STDIN.
    pub body: Body,
    /// What goes on DATA, for a Filter.
    pub data: Option<Arc<[u8]>>,
}

impl GatewayRequest {
    /// A request for the script at `filename`, with the parameters that every application expects.
    pub fn new(method: &str, filename: &str) -> Self {
        let mut environment = Environment::of_file(method, filename, "");
        environment.local();
        Self::of(environment)
    }

    /// A request with this environment, and without a body.
    pub fn of(environment: Environment) -> Self {
        let (role, params, body) = (Role::Responder, environment.into_pairs(), Body::Bytes([].into()));
        Self { role, params, body, data: None }
    }

    /// Sets a parameter, in place of one of the same name.
    #[must_use]
    pub fn param(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        let (name, value) = (name.as_ref(), value.as_ref());
        match self.params.iter_mut().find(|(this, _)| this == name) {
            Some((_, old)) => *old = value.to_vec(),
            None => self.params.push((name.to_vec(), value.to_vec())),
        }
        self
    }

    /// Sends `bytes` as the body, with their CONTENT_LENGTH.
    #[must_use]
    pub fn body(mut self, bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let length = bytes.len().to_string();
        self.body = Body::Bytes(bytes);
        self.param("CONTENT_LENGTH", length)
    }

    /// Sends the output of `source` as the body. The caller sets CONTENT_LENGTH if it is known.
    #[must_use]
    pub fn stream(mut self, source: impl Read + Send + 'static) -> Self {
        self.body = Body::Stream(Box::new(source));
        self
    }

    /// Sends `bytes` on DATA, which only a Filter gets. The caller sets FCGI_DATA_LENGTH.
    #[must_use]
    pub fn data(mut self, bytes: impl Into<Arc<[u8]>>) -> Self {
        self.data = Some(bytes.into());
        self
    }

    fn is_repeatable(&self) -> bool {
        let method = self.params.iter().find(|(name, _)| name == b"REQUEST_METHOD");
        let method = method.map_or(&b""[..], |(_, value)| value);
        matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
    }

    /// A copy of the request, to send again; `None` if its body cannot be sent again.
    fn again(&self) -> Option<Self> {
        let Body::Bytes(bytes) = &self.body else { return None };
        let body = Body::Bytes(bytes.clone());
        Some(Self { role: self.role, params: self.params.clone(), body, data: self.data.clone() })
    }
}

/// Why there is no complete response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody answers at the address.
    #[error("cannot connect to {address}: {source} (is the application running, and does it listen there?)")]
    Connect {
        /// The address of the application.
        address: Address,
        /// The error of connecting.
        source: io::Error,
    },
    /// The application refused the request, and has done nothing for it.
    #[error("the application refused the request: {0:?}")]
    Refused(ProtocolStatus),
    /// The connection ended before END_REQUEST: what arrived is not the whole response.
    #[error("the response was cut after {received} bytes of it: {cause}{}", .write_error.map(|kind| format!(" (sending the request had failed before: {kind})")).unwrap_or_default())]
    Cut {
        /// Bytes of STDOUT that had arrived.
        received: u64,
        /// How the connection ended.
        cause: Cause,
        /// The error that a write had met before, if one had.
        write_error: Option<io::ErrorKind>,
    },
    /// The application ended the request, and gave fewer bytes than its own `Content-Length` says.
    #[error("the response has {got} bytes of body, and its Content-Length is {announced}")]
    Short {
        /// Bytes of the body that arrived.
        got: u64,
        /// What its header block announces.
        announced: u64,
    },
    /// The request's body has no announced length, and is longer than is read ahead of a request ([`Config::spool`]). The
    /// client's answer is 411 or 413.
    #[error("the request's body has no announced length, and more than {most} bytes")]
    NoLength {
        /// The bound, in bytes.
        most: usize,
    },
    /// The request is not passed on. The client's answer is 400. Used by the `tower` gateway only.
    #[error(transparent)]
    Request(#[from] InvalidRequest),
    /// The application does not speak the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The response does not begin with a CGI header block.
    #[error(transparent)]
    Head(#[from] InvalidHead),
    /// The request's body could not be read from its source.
    #[error("cannot read the request's body: {0}")]
    Body(io::Error),
    /// The system refused something that has nothing to do with the application.
    #[error("cannot wait for the application: {0}")]
    System(io::Error),
}

impl Error {
    /// The HTTP status with which a web server answers its client, as long as no response has begun.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::Request(_) | Self::Body(_) => 400,
            Self::NoLength { .. } => 411,
            Self::Refused(ProtocolStatus::Overloaded | ProtocolStatus::CantMultiplex) => 503,
            Self::Cut { cause: Cause::Silent, .. } => 504,
            Self::System(_) => 500,
            _ => 502,
        }
    }
}

/// How a connection ended that should not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// An end of stream.
    #[error("the application closed the connection without END_REQUEST")]
    Closed,
    /// An error, `ConnectionReset` most of all.
    #[error("{0}")]
    Error(io::ErrorKind),
    /// Neither side moved for [`Config::io_timeout`].
    #[error("the application was silent for too long")]
    Silent,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Connect { source, .. } => source.kind(),
            Error::Cut { cause: Cause::Error(kind), .. } => *kind,
            Error::Cut { cause: Cause::Silent, .. } => io::ErrorKind::TimedOut,
            Error::Cut { .. } => io::ErrorKind::UnexpectedEof,
            Error::Body(source) | Error::System(source) => source.kind(),
            Error::Short { .. } => io::ErrorKind::UnexpectedEof,
            Error::NoLength { .. } | Error::Request(_) => io::ErrorKind::InvalidInput,
            Error::Refused(_) => io::ErrorKind::Other,
            Error::Protocol(_) | Error::Head(_) => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// A gateway to one application.
#[derive(Debug)]
pub struct Client {
    pool: Arc<Pool>,
    config: Config,
}

impl Client {
    /// A client of the application at `address`; nothing is connected yet.
    pub fn new(address: Address, config: Config) -> Self {
        Self { pool: Arc::new(Pool::new(address, config)), config }
    }

    /// Sends a request. Returns the response as soon as its first bytes arrive.
    ///
    /// # Errors
    /// Returns the errors that come before the first byte of the response. Later errors come from reading the response.
    pub fn send(&self, request: GatewayRequest) -> Result<GatewayResponse, Error> {
        let mut request = request;
        let mut retries = self.config.retries;
        loop {
            let (again, repeatable) = (request.again(), request.is_repeatable());
            let (socket, reused) = self.pool.take(repeatable || self.config.reuses_after_bodies)?;
            let mut response =
                GatewayResponse::start((socket, reused), request, self.pool.clone(), self.config);
            let error = match response.begin() {
                Ok(()) => return Ok(response),
                Err(error) => error,
            };
            let safe = match &error {
                Error::Refused(ProtocolStatus::Overloaded | ProtocolStatus::CantMultiplex) => true,
                Error::Cut { .. } => reused && repeatable && response.is_untouched(),
                _ => false,
            };
            tracing::info!(%error, reused, repeatable, safe, retries, "no response");
            match again {
                Some(again) if safe && retries > 0 => {
                    retries -= 1;
                    // The application has most likely closed the other idle connections, too.
                    self.pool.idle.clear();
                    request = again;
                }
                _ => return Err(error),
            }
        }
    }
}
