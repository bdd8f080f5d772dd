//! What can go wrong, said so that a person can act on it, and what it means for the exit status.

use std::io;

use crate::message::Refusal;
use crate::wire::Violation;

/// What went wrong with a session or a transfer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call of the system failed.
    #[error("cannot {doing} {what}: {source}")]
    Io {
        /// The verb.
        doing: &'static str,
        /// The file, directory or address.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The connection ended before the session did: reset, closed, or silent for too long.
    #[error("the connection was lost: {0}")]
    Cut(io::Error),
    /// The peer broke the protocol.
    #[error("the peer {0}")]
    Violation(#[from] Violation),
    /// The peer refused, or what it sent cannot be accepted.
    #[error("{1}")]
    Refused(Refusal, String),
    /// The peer ended the session for a reason of its own.
    #[error("the peer ended the session: {0}")]
    Ended(String),
    /// Somebody asked this session to stop.
    #[error("stopped on request")]
    Cancelled,
    /// The peer could not be authenticated, or did not accept who we are.
    #[error("{0}")]
    Identity(String),
    /// The peer's key is not the one that was pinned.
    #[error(
        "the key of {host} has changed: pinned {pinned}, offered {offered}\nhint: if it was replaced on \
         purpose, remove the line of {host} from {file} and pair again"
    )]
    KeyChanged {
        /// The host as it was named.
        host: String,
        /// Fingerprint on file.
        pinned: String,
        /// Fingerprint offered.
        offered: String,
        /// Where it is pinned.
        file: String,
    },
    /// A wrong request, known before anything was sent.
    #[error("{0}")]
    Usage(String),
    /// This machine or this user cannot do it.
    #[error("{0}")]
    NotPossibleHere(String),
}

impl Error {
    /// Shorthand for a failed call on a file.
    pub(crate) fn io(doing: &'static str, what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { doing, what: what.into(), source: source.into() }
    }

    /// Whether trying again later, on a new connection, may succeed: the connection or its bytes were bad.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Cut(_) | Self::Violation(_) => true,
            Self::Refused(refusal, _) => matches!(refusal, Refusal::Busy | Refusal::Corrupt),
            _ => false,
        }
    }

    /// What the goodbye says of it: 1, or 2 if trying again may help.
    pub(crate) fn code(&self) -> u16 {
        if self.is_temporary() || matches!(self, Self::Cancelled) { 2 } else { 1 }
    }

    /// The goodbye of a peer that did not get what it wanted.
    pub(crate) fn goodbye(code: u16, reason: String) -> Self {
        match code {
            2 => Self::Cut(io::Error::new(io::ErrorKind::ConnectionAborted, reason)),
            _ => Self::Ended(reason),
        }
    }
}

/// Turns what the system said of a file into what the peer is told.
pub(crate) fn refusal(error: &io::Error) -> Refusal {
    use io::ErrorKind as E;
    match error.kind() {
        E::AlreadyExists => Refusal::Exists,
        E::NotFound => Refusal::NotFound,
        E::StorageFull | E::QuotaExceeded | E::FileTooLarge => Refusal::NoSpace,
        E::ReadOnlyFilesystem => Refusal::ReadOnly,
        E::CrossesDevices | E::PermissionDenied | E::NotADirectory | E::IsADirectory | E::InvalidFilename => {
            Refusal::Forbidden
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => Refusal::Forbidden,
        _ => Refusal::Other,
    }
}
