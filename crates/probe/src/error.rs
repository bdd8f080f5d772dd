//! Why a server could not be probed.

use std::io;

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
    /// The connection failed.
    #[error("cannot connect to {target}: {source} (is the server running?)")]
    Connect {
        /// The target of the probe.
        target: String,
        /// The error of the system.
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
    /// The probe was told to ask hostile questions of an address that is neither loopback nor private, and
    /// [`own_server`](crate::ProbeConfig::own_server) is not set.
    #[error("{0} is neither loopback nor private, and hostile questions are for a server of one's own")]
    NotYours(String),
    /// `tcp://` without a payload.
    #[error("tcp:// needs the bytes of a request")]
    NoPayload,
}
