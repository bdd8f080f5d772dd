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
    /// No connection could be made.
    #[error("cannot connect to {what}: {source}\nhint: {}", reach(.source))]
    Unreachable {
        /// The host and its port.
        what: String,
        /// What the system said.
        source: io::Error,
    },
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
            Self::Cut(_) | Self::Unreachable { .. } | Self::Violation(_) => true,
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
            2 => Self::Cut(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                format!("the other side says: {reason}"),
            )),
            _ => Self::Ended(reason),
        }
    }
}

/// What to do about a host that cannot be reached.
fn reach(error: &io::Error) -> &'static str {
    use io::ErrorKind as E;
    match error.kind() {
        E::ConnectionRefused => "is `linger share` running there, and does it listen on this port?",
        E::TimedOut | E::HostUnreachable | E::NetworkUnreachable => {
            "is the machine on, and does every firewall let this port through?"
        }
        _ => "is the name right? `getent hosts NAME` asks the same",
    }
}

/// What to do about a file that the system refused, as a line of its own; empty where nothing can be said.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    use io::ErrorKind as E;
    match error.kind() {
        E::NotFound => {
            "\nhint: `linger ls` shows what is there; a directory to put something into has to be there already"
        }
        E::NotADirectory => {
            "\nhint: a file stands where a directory is meant; `linger ls` shows what is there"
        }
        E::PermissionDenied => {
            "\nhint: the user that the program runs as there may not; `namei -l` of the path says who may"
        }
        E::ReadOnlyFilesystem => {
            "\nhint: it has to be mounted for writing there, or something else to be shared"
        }
        E::StorageFull | E::QuotaExceeded => {
            "\nhint: make room there and send it again: the blocks that arrived are kept and not sent twice"
        }
        E::FileTooLarge => "\nhint: `ulimit -f` there, or the file system, allows no files of that size",
        E::InvalidFilename => "\nhint: the file system there takes shorter names only",
        _ => "",
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
