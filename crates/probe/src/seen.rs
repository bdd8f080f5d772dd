//! The result of one trial, as the client saw it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use linger_untrusted::Untrusted;

/// How a connection ended, as the client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ConnectionEnd {
    /// An end of stream.
    Closed,
    /// A reset.
    Reset,
    /// An end of stream, and then a reset.
    ClosedThenReset,
    /// HTTP/2: the connection may live on, but the server reset the request's stream, or left with an error.
    StreamReset,
    /// The server left it open; the client closed it.
    Open,
    /// No more bytes came, and the response was incomplete; the client gave up.
    Silent,
    /// The connection was never established.
    Refused,
}

impl ConnectionEnd {
    /// Whether the server reset it, or the request's stream in it.
    pub(crate) fn is_reset(self) -> bool {
        matches!(self, Self::Reset | Self::ClosedThenReset | Self::StreamReset)
    }
}

impl fmt::Display for ConnectionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::ClosedThenReset => "closed, then reset",
            Self::StreamReset => "stream reset",
            Self::Open => "left open",
            Self::Silent => "silent",
            Self::Refused => "refused",
        })
    }
}

/// The result of a trial.
#[derive(Clone, Debug)]
pub(crate) struct TrialResult {
    pub(crate) got: u64,
    pub(crate) expected: Option<u64>,
    pub(crate) complete: bool,
    pub(crate) unframed: bool,
    /// The client stopped reading, since the response was too long or took too long.
    pub(crate) is_endless: bool,
    /// Nobody knows whether `got` is all of a response without framing: its length varies.
    pub(crate) is_unsure: bool,
    pub(crate) status: Option<u16>,
    pub(crate) server: Option<Untrusted>,
    pub(crate) location: Option<Untrusted>,
    pub(crate) framing: &'static str,
    pub(crate) ended: ConnectionEnd,
    /// HTTP/2: the code with which the server reset the stream, or left.
    pub(crate) code: Option<String>,
    /// What is wrong with what came, if it is not valid in its protocol.
    pub(crate) invalid: Option<String>,
    /// TLS: the end of the stream came without close_notify.
    pub(crate) is_tls_cut: bool,
    pub(crate) write_failed: bool,
    pub(crate) elapsed: Duration,
    /// How long it took to connect.
    pub(crate) round_trip: Duration,
    pub(crate) counters: BTreeMap<String, u64>,
}
