//! How a request is written in each protocol.

use std::io;

use linger_fastcgi::environment::{Environment, Underscores};
use linger_fastcgi::params::push_pair;
use linger_fastcgi::record::{self, RecordType, Role};

use crate::config::ProbeConfig;
use crate::framing::Framing;
use crate::proxy::is_for_proxy;
use crate::request::{AskedMethod, HeaderField};
use crate::target::{Scheme, Target};
use crate::websocket::key::WebSocketKey;

/// A protocol, with the request's target in it.
#[derive(Clone, Debug)]
pub(crate) enum Dialect {
    Http { host: String, path: String, extras: RequestExtras },
    Fcgi { script: String, extras: RequestExtras },
    Raw(Vec<u8>),
}

/// What each request has beside its target.
#[derive(Clone, Debug)]
pub(crate) struct RequestExtras {
    user_agent: String,
    headers: Vec<HeaderField>,
    method: Option<AskedMethod>,
}

impl RequestExtras {
    fn method<'m>(&'m self, asked: &'m str) -> &'m str {
        self.method.as_ref().map_or(asked, AskedMethod::name)
    }

    /// The length that the head announces. A request that changes something says that it has no body.
    fn announced(&self, ask: RequestShape) -> Option<usize> {
        let unsafe_method = self.method.as_ref().filter(|method| !method.is_safe() && !ask.is_chunked);
        ask.announced.or(unsafe_method.map(|_| 0))
    }

    /// The fields of a head: the user's, and of `own` those that the user has not set.
    fn fields<'f>(&'f self, own: &'f [(&'f str, &'f str)]) -> impl Iterator<Item = (&'f str, &'f str)> {
        let is_set = |name: &str| self.headers.iter().any(|field| field.name.eq_ignore_ascii_case(name));
        let own = own.iter().copied().filter(move |(name, _)| !is_set(name));
        own.chain(self.headers.iter().map(|field| (field.name.as_str(), field.value.as_str())))
    }
}

/// The form of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestShape {
    pub(crate) method: &'static str,
    /// The length of the body that the head announces.
    pub(crate) announced: Option<usize>,
    /// Bytes of the body that are sent with the head.
    pub(crate) body: usize,
    /// Whether the end of the body is sent with it (FastCGI: the empty STDIN record).
    pub(crate) end: bool,
    /// Whether the connection is to be kept for another request.
    pub(crate) is_kept: bool,
    /// Whether the body comes in chunks, and its length is not announced.
    pub(crate) is_chunked: bool,
    /// Whether the head asks if the body is wanted.
    pub(crate) expects: bool,
    /// Whether the head asks for a WebSocket, with this key.
    pub(crate) websocket: Option<WebSocketKey>,
}

impl RequestShape {
    pub(crate) const GET: Self = Self {
        method: "GET",
        announced: None,
        body: 0,
        end: true,
        is_kept: false,
        is_chunked: false,
        expects: false,
        websocket: None,
    };
    pub(crate) const KEPT: Self = Self { is_kept: true, ..Self::GET };

    pub(crate) fn with_body(method: &'static str, announced: usize, body: usize) -> Self {
        Self { method, announced: Some(announced), body, end: announced == body, ..Self::GET }
    }

    /// A body of so many bytes in chunks.
    pub(crate) fn chunked(method: &'static str, body: usize) -> Self {
        Self { method, body, is_chunked: true, ..Self::GET }
    }

    /// Whether the head says that a body follows.
    pub(crate) fn has_body(&self) -> bool {
        self.announced.is_some() || self.is_chunked
    }
}

impl Dialect {
    pub(crate) fn new(target: &Target, config: &ProbeConfig) -> Self {
        let is_tunnelled = config.proxy.is_some() && target.scheme == Scheme::Https;
        let headers = config.headers.iter().filter(|field| !(is_tunnelled && is_for_proxy(field)));
        let extras = RequestExtras {
            user_agent: config.user_agent.clone(),
            headers: headers.cloned().collect(),
            method: config.method.clone(),
        };
        match target.scheme {
            Scheme::Http if config.proxy.is_some() => {
                let path = format!("http://{}{}", target.authority(), target.path);
                Self::Http { host: target.authority(), path, extras }
            }
            Scheme::Http | Scheme::Https => {
                Self::Http { host: target.authority(), path: target.path.clone(), extras }
            }
            Scheme::Fcgi => Self::Fcgi { script: target.path.clone(), extras },
            Scheme::Tcp => Self::Raw(config.payload.clone()),
        }
    }

    pub(crate) fn is_raw(&self) -> bool {
        matches!(self, Self::Raw(_))
    }

    pub(crate) fn is_fcgi(&self) -> bool {
        matches!(self, Self::Fcgi { .. })
    }

    pub(crate) fn framing(&self) -> Framing {
        match self {
            Self::Http { .. } => Framing::http(),
            Self::Fcgi { .. } => Framing::fcgi(),
            Self::Raw(_) => Framing::none(),
        }
    }

    /// A request that asks the server to close the connection after its response, unless it is to be kept.
    pub(crate) fn request(&self, ask: RequestShape) -> Vec<u8> {
        let mut out = match self {
            Self::Http { host, path, extras } => {
                let mut head = format!("{} {path} HTTP/1.1\r\n", extras.method(ask.method));
                let length = extras.announced(ask).map(|length| length.to_string());
                let mut own =
                    vec![("Host", host.as_str()), ("User-Agent", &extras.user_agent), ("Accept", "*/*")];
                own.push(match ask.websocket {
                    Some(_) => ("Connection", "Upgrade"),
                    None if ask.is_kept => ("Connection", "keep-alive"),
                    None => ("Connection", "close"),
                });
                if let Some(key) = &ask.websocket {
                    own.extend([
                        ("Upgrade", "websocket"),
                        ("Sec-WebSocket-Version", "13"),
                        ("Sec-WebSocket-Key", key.text()),
                    ]);
                }
                if let Some(length) = &length {
                    own.extend([("Content-Type", "application/octet-stream"), ("Content-Length", length)]);
                }
                if ask.is_chunked {
                    own.extend([
                        ("Content-Type", "application/octet-stream"),
                        ("Transfer-Encoding", "chunked"),
                    ]);
                }
                if ask.expects {
                    own.push(("Expect", "100-continue"));
                }
                for (name, value) in extras.fields(&own) {
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                head.push_str("\r\n");
                head.into_bytes()
            }
            Self::Fcgi { script, extras } => {
                let (file, query) = script.split_once('?').unwrap_or((script, ""));
                let mut environment = Environment::of_file(extras.method(ask.method), file, query);
                environment.local().set("SERVER_SOFTWARE", extras.user_agent.as_str());
                environment.length(ask.announced.unwrap_or(0) as u64);
                let own = [
                    ("User-Agent", extras.user_agent.as_str()),
                    ("Content-Type", "application/octet-stream"),
                ];
                let fields = extras.fields(&own).map(|(name, value)| (name, value.as_bytes()));
                // Only fields that are to be refused are an error.
                let _ = environment.fields(fields, Underscores::Drop);
                let mut pairs = Vec::new();
                for (name, value) in environment.iter() {
                    push_pair(&mut pairs, name, value);
                }
                let mut out = Vec::new();
                record::push_begin(&mut out, 1, Role::Responder, false);
                record::push_stream(&mut out, RecordType::Params, 1, &pairs);
                record::push(&mut out, RecordType::Params, 1, &[]);
                out
            }
            Self::Raw(payload) => payload.clone(),
        };
        if !self.is_raw() {
            out.extend(self.piece(ask, ask.body));
            if ask.end {
                out.extend(self.end_of(ask));
            }
        }
        out
    }

    /// The head of a request over HTTP/2.
    ///
    /// # Errors
    /// Returns an error if the target's path or host may not stand in a URI.
    pub(crate) fn http2_request(&self, ask: RequestShape, tls: bool) -> io::Result<http::Request<()>> {
        let Self::Http { host, path, extras } = self else { return Err(io::ErrorKind::Unsupported.into()) };
        let set = extras.headers.iter().find(|field| field.name.eq_ignore_ascii_case("host"));
        let authority = set.map_or(host.as_str(), |field| &field.value);
        let scheme = if tls { "https" } else { "http" };
        let uri = http::Uri::builder().scheme(scheme).authority(authority).path_and_query(path.as_str());
        let mut request = http::Request::builder()
            .version(http::Version::HTTP_2)
            .method(extras.method(ask.method))
            .uri(uri.build().map_err(io::Error::other)?);
        let length = extras.announced(ask).map(|length| length.to_string());
        let mut own = vec![("user-agent", extras.user_agent.as_str()), ("accept", "*/*")];
        if let Some(length) = &length {
            own.extend([("content-type", "application/octet-stream"), ("content-length", length)]);
        }
        // `:authority` stands for Host (RFC 9113 section 8.3.1).
        for (name, value) in extras.fields(&own).filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
            request = request.header(name, value);
        }
        request.body(()).map_err(io::Error::other)
    }

    /// `length` bytes of request body in wire format.
    pub(crate) fn body(&self, length: usize) -> Vec<u8> {
        match self {
            Self::Fcgi { .. } => {
                let mut out = Vec::new();
                record::push_stream(&mut out, RecordType::Stdin, 1, &vec![b'b'; length]);
                out
            }
            _ => vec![b'b'; length],
        }
    }

    /// `length` bytes of the body of such a request in wire format.
    pub(crate) fn piece(&self, ask: RequestShape, length: usize) -> Vec<u8> {
        // RFC 9112 section 7.1; a chunk of no bytes would be the last.
        match self {
            Self::Http { .. } if ask.is_chunked && length == 0 => Vec::new(),
            Self::Http { .. } if ask.is_chunked => {
                [format!("{length:x}\r\n").as_bytes(), &self.body(length), b"\r\n"].concat()
            }
            _ => self.body(length),
        }
    }

    /// The bytes that end the body of such a request.
    pub(crate) fn end_of(&self, ask: RequestShape) -> Vec<u8> {
        match self {
            Self::Http { .. } if ask.is_chunked => b"0\r\n\r\n".to_vec(),
            _ => self.body_end(),
        }
    }

    /// The bytes that end a body (FastCGI: the empty STDIN record; HTTP: none).
    pub(crate) fn body_end(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.is_fcgi() {
            record::push(&mut out, RecordType::Stdin, 1, &[]);
        }
        out
    }

    /// Surplus bytes to send after a complete request.
    pub(crate) fn surplus(&self) -> Vec<u8> {
        match self {
            // An empty record of a stream that has ended is ignored by a server that reads it.
            Self::Fcgi { .. } => self.body_end(),
            _ => b"\r\n\r\n\r\n\r\n".to_vec(),
        }
    }
}
