//! Errors: a sentence that a person can act on, and the exit status that follows.

use std::io;

use rustix::io::Errno;

use crate::machine::Role;
use crate::message::Refusal;
use crate::reason::{Reason, Remedy};
use crate::wire::{MAX_REASON, Violation};

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
    #[error("cannot connect to {what}: {source}")]
    Unreachable {
        /// The host and its port, or the path of a unix socket.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The peer broke the protocol.
    #[error("the peer {0}")]
    Violation(#[from] Violation),
    /// The peer refused, or sent something that cannot be accepted.
    #[error("{1}")]
    Refused(Refusal, Reason),
    /// The peer ended the session for a reason of its own.
    #[error("the peer ended the session: {0}")]
    Ended(Reason),
    /// Somebody asked this session to stop.
    #[error("stopped on request")]
    Cancelled,
    /// The peer could not be authenticated, or did not accept who we are.
    #[error("{0}")]
    Identity(Reason),
    /// The peer's key is not the one that was pinned.
    #[error("the key of {host} has changed: pinned {pinned}, offered {offered}")]
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
    Usage(Reason),
    /// This machine or this user cannot do it.
    #[error("{0}")]
    NotPossibleHere(String),
}

impl Error {
    /// Shorthand for a failed call on a file.
    pub(crate) fn io(doing: &'static str, what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { doing, what: what.into(), source: source.into() }
    }

    /// Whether trying again later, on a new connection, may succeed: the connection or its bytes were bad, or the peer was
    /// busy.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Cut(_) | Self::Unreachable { .. } | Self::Violation(_) => true,
            Self::Refused(refusal, _) => matches!(refusal, Refusal::Busy | Refusal::Corrupt),
            _ => false,
        }
    }

    /// What the user can do about it.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Unreachable { source, .. } => Some(reach(source)),
            Self::Refused(_, reason) | Self::Ended(reason) | Self::Identity(reason) | Self::Usage(reason) => {
                reason.remedy().cloned()
            }
            Self::KeyChanged { host, file, .. } => {
                Some(Remedy::ForgetKey { host: host.clone(), file: file.clone() })
            }
            // The goodbye of a peer; see `goodbye`.
            Self::Cut(error) => error.get_ref()?.downcast_ref::<Reason>()?.remedy().cloned(),
            _ => None,
        }
    }

    /// The reason in the goodbye.
    pub(crate) fn farewell(&self) -> String {
        Reason::from(self.to_string()).with(self.remedy()).to_wire(MAX_REASON)
    }

    /// The code in the goodbye of a side: 1, or 2 if a new connection may help. A server that was stopped may be started
    /// again; a client that was stopped does not come back.
    pub(crate) fn code(&self, side: Role) -> u16 {
        let may_help = match self {
            Self::Cancelled => side == Role::Responder,
            error => error.is_temporary(),
        };
        if may_help { 2 } else { 1 }
    }

    /// The error for a peer's goodbye whose code is not 0.
    pub(crate) fn goodbye(code: u16, reason: String) -> Self {
        let reason = Reason::from_wire(reason);
        match code {
            2 => {
                let told = Reason::from(format!("the other side says: {reason}"));
                let told = told.with(reason.remedy().cloned());
                Self::Cut(io::Error::new(io::ErrorKind::ConnectionAborted, told))
            }
            _ => Self::Ended(reason),
        }
    }
}

/// The remedy for a host that cannot be reached.
fn reach(error: &io::Error) -> Remedy {
    use io::ErrorKind as E;
    match error.kind() {
        E::ConnectionRefused => Remedy::StartServer,
        // A unix socket that is not there.
        _ if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Remedy::StartServer,
        E::PermissionDenied => Remedy::CheckPermissions,
        E::TimedOut | E::HostUnreachable | E::NetworkUnreachable => Remedy::OpenTheWay,
        _ => Remedy::CheckHost,
    }
}
