//! Why a server could not be probed.

use std::io;

use linger_untrusted::Untrusted;

use crate::no_response::NoResponse;
use crate::tunnel::is_no_tunnel;

/// Why a server could not be probed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The host name has no address.
    #[error("cannot find {target}: {source} (is the name right?)")]
    Resolve {
        /// The target of the probe.
        target: String,
        /// The error of the system.
        source: io::Error,
    },
    /// The system has not said in time where the host is: its name server does not answer.
    #[error(
        "cannot find {target}: no name server has answered in the {seconds:.1} s that there were for all"
    )]
    Unresolved {
        /// The target of the probe.
        target: String,
        /// How long that was, in seconds ([`within`](crate::ProbeConfig::within)).
        seconds: f64,
    },
    /// The connection failed.
    #[error("cannot connect to {target}: {source} ({})", on_connecting(.source))]
    Connect {
        /// The target of the probe.
        target: String,
        /// The error of the system.
        source: io::Error,
    },
    /// A plain response did not begin, or did not go on, and the connection stayed open.
    #[error(
        "{target} does not answer a plain request: {bytes} bytes of a response came, and then nothing for {seconds:.0} s"
    )]
    Silent {
        /// The target.
        target: String,
        /// How much of the response's body came.
        bytes: u64,
        /// How long it was waited for, in seconds ([`patience`](crate::ProbeConfig::patience)).
        seconds: f64,
    },
    /// The time was over before a plain request had its response.
    #[error("{target} has not answered a plain request in the {seconds:.1} s that there were for all")]
    OutOfTime {
        /// The target.
        target: String,
        /// How long that was, in seconds ([`within`](crate::ProbeConfig::within)).
        seconds: f64,
    },
    /// The target is of a kind that is not asked through a proxy.
    #[error("{target} is not asked through a proxy: {reason}")]
    NotThroughProxy {
        /// The target.
        target: String,
        /// What is asked through one.
        reason: &'static str,
    },
    /// A plain request gets no understandable response.
    #[error("{target} does not answer a plain request: {reason}")]
    NoAnswer {
        /// The target.
        target: String,
        /// What arrived instead.
        reason: String,
    },
    /// What comes is in the right protocol, and no response that a client could use.
    #[error("{target} does not answer a plain request with a response: {why}")]
    NoResponse {
        /// The target.
        target: String,
        /// What is wrong with it.
        why: NoResponse,
    },
    /// What answers speaks another protocol.
    #[error("{target} answers in another protocol: {}", other_protocol(*.http2, .opening))]
    NotThisProtocol {
        /// The target.
        target: String,
        /// Whether it was asked in HTTP/2.
        http2: bool,
        /// What it said first.
        opening: Untrusted,
    },
    /// The plain response is too long to be asked for several times, or does not end, as an event stream.
    #[error("{target}: {}: name a path with a response between 64 KB and {most} bytes", too_long(*.bytes, *.seconds, *.most))]
    TooLong {
        /// The target.
        target: String,
        /// How much of it came, or how much was announced, in bytes.
        bytes: u64,
        /// How long it was read, in seconds.
        seconds: f64,
        /// The bound, in bytes.
        most: u64,
    },
    /// The probe was told to ask hostile questions of an address that is neither loopback nor private, and
    /// [`own_server`](crate::ProbeConfig::own_server) is not set.
    #[error("{0} is neither loopback nor private, and hostile questions are for a server of one's own")]
    NotYours(String),
    /// The method may change something, and the probe is not [`active`](crate::ProbeConfig::active).
    #[error("{0} may change something at a server that others use, too")]
    NotSafe(String),
    /// The payload alone is more than a probe that is not active may send.
    #[error("the request has {bytes} bytes, and of a server that others use, too, at most {most} are spent")]
    LongPayload {
        /// The length of the request.
        bytes: usize,
        /// The bound ([`QUIET`](crate::QUIET)).
        most: u64,
    },
    /// HTTP/2 was to be spoken with a target that is not `http://` or `https://`.
    #[error("{0} is not asked in HTTP/2: that is for http:// and https://")]
    NotHttp(String),
    /// `tcp://` without a payload.
    #[error("tcp:// needs the bytes of a request")]
    NoPayload,
}

impl ProbeError {
    /// Whether the server answered in HTTP/2 without TLS, and was asked in HTTP/1.1.
    pub fn is_http2(&self) -> bool {
        matches!(self, Self::NotThisProtocol { http2: false, opening, .. } if is_settings(opening.raw()))
    }
}

/// RFC 9113 sections 4.1 and 6.5: the frame that a server sends first, on stream 0.
fn is_settings(bytes: &[u8]) -> bool {
    matches!(bytes, [_, _, _, 4, _, 0, 0, 0, 0, ..])
}

fn on_connecting(error: &io::Error) -> &'static str {
    use io::ErrorKind::*;
    if is_no_tunnel(error) {
        return "does it allow that host and port, and does it know who asks?";
    }
    match error.kind() {
        ConnectionReset | BrokenPipe => {
            "the server takes the connection and resets it before a byte is asked"
        }
        UnexpectedEof => "the server takes the connection and ends it at once: does it speak TLS?",
        Unsupported => "ask it in HTTP/1.1",
        TimedOut => "nothing answers there: does a firewall drop it?",
        // Of the handshake.
        Other => "the TLS handshake failed: does it speak TLS?",
        _ => "is the server running?",
    }
}

fn too_long(bytes: u64, seconds: f64, most: u64) -> String {
    if bytes > most {
        format!("its response has {bytes} bytes or more, which is too much to ask for again and again")
    } else {
        format!("its response has not ended after {seconds:.1} s and {bytes} bytes")
    }
}

/// What the first bytes of something that is no response are.
fn other_protocol(http2: bool, opening: &Untrusted) -> String {
    let bytes = opening.raw();
    match bytes {
        [b'H', b'T', b'T', b'P', b'/', b'1', ..] if http2 => "HTTP/1, and this asks in HTTP/2".to_owned(),
        _ if !http2 && is_settings(bytes) => "HTTP/2 without TLS, and this asks in HTTP/1.1".to_owned(),
        [0x15 | 0x16, 3, ..] => "TLS: write https://".to_owned(),
        _ => format!("it begins with `{}`", opening.terminal()),
    }
}
