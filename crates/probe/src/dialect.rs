//! How a request is written in each protocol.

use linger_fastcgi::params::push_pair;
use linger_fastcgi::record::{self, RecordType, Role};

use crate::framing::Framing;
use crate::target::{Scheme, Target};

/// A protocol, with the request's target in it.
#[derive(Clone, Debug)]
pub(crate) enum Dialect {
    Http { host: String, path: String, user_agent: String },
    Fcgi { script: String, user_agent: String },
    Raw(Vec<u8>),
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
}

impl RequestShape {
    pub(crate) const GET: Self = Self { method: "GET", announced: None, body: 0, end: true };

    pub(crate) fn with_body(method: &'static str, announced: usize, body: usize) -> Self {
        Self { method, announced: Some(announced), body, end: announced == body }
    }
}

impl Dialect {
    pub(crate) fn new(target: &Target, payload: &[u8], user_agent: &str) -> Self {
        let user_agent = user_agent.to_owned();
        match target.scheme {
            Scheme::Http | Scheme::Https => {
                Self::Http { host: target.authority(), path: target.path.clone(), user_agent }
            }
            Scheme::Fcgi => Self::Fcgi { script: target.path.clone(), user_agent },
            Scheme::Tcp => Self::Raw(payload.to_vec()),
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

    /// A request that asks the server to close the connection after its response.
    pub(crate) fn request(&self, ask: RequestShape) -> Vec<u8> {
        let mut out = match self {
            Self::Http { host, path, user_agent } => {
                let mut head = format!(
                    "{} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {user_agent}\r\nAccept: */*\r\nConnection: close\r\n",
                    ask.method
                );
                if let Some(length) = ask.announced {
                    head.push_str(&format!(
                        "Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n"
                    ));
                }
                head.push_str("\r\n");
                head.into_bytes()
            }
            Self::Fcgi { script, user_agent } => {
                let (file, query) = script.split_once('?').unwrap_or((script, ""));
                let length = ask.announced.unwrap_or(0).to_string();
                let mut pairs = Vec::new();
                for (name, value) in [
                    ("GATEWAY_INTERFACE", "CGI/1.1"),
                    ("SERVER_PROTOCOL", "HTTP/1.1"),
                    ("SERVER_SOFTWARE", user_agent),
                    ("SERVER_NAME", "localhost"),
                    ("SERVER_PORT", "80"),
                    ("REMOTE_ADDR", "127.0.0.1"),
                    ("REDIRECT_STATUS", "200"),
                    ("REQUEST_METHOD", ask.method),
                    ("SCRIPT_FILENAME", file),
                    ("SCRIPT_NAME", file),
                    ("REQUEST_URI", script),
                    ("QUERY_STRING", query),
                    ("HTTP_USER_AGENT", user_agent),
                    ("CONTENT_TYPE", "application/octet-stream"),
                    ("CONTENT_LENGTH", &length),
                ] {
                    push_pair(&mut pairs, name.as_bytes(), value.as_bytes());
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
            out.extend(self.body(ask.body));
            if ask.end {
                out.extend(self.body_end());
            }
        }
        out
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
