//! Why a server could not be probed.

use std::io;

/// Why a server could not be probed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The host name has no address.
    #[error("cannot find {target}: {source} (is the name right?)")]
    Resolve {
        /// Where.
        target: String,
        /// Why.
        source: io::Error,
    },
    /// The connection failed.
    #[error("cannot connect to {target}: {source} (is the server running?)")]
    Connect {
        /// Where.
        target: String,
        /// Why.
        source: io::Error,
    },
    /// A plain request gets no understandable response.
    #[error("{target} does not answer a plain request: {reason}")]
    NoAnswer {
        /// The target.
        target: String,
        /// What arrived instead.
        reason: String,
    },
    /// Hostile questions to an address that is neither loopback nor private, without [`own_server`](crate::ProbeConfig::own_server).
    #[error("{0} is neither loopback nor private, and hostile questions are for a server of one's own")]
    NotYours(String),
    /// `tcp://` without a payload.
    #[error("tcp:// needs the bytes of a request")]
    NoPayload,
}
