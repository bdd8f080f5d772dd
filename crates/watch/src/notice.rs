//! Notices for the user, and the filter that selects them.

use std::net::SocketAddr;

use linger_untrusted::Untrusted;
use linger_why::Cause;
use serde::Serialize;

use crate::cgroup::KnownPlace;
use crate::counted::Counted;
use crate::live_reset::{AcceptQueue, LiveReset};
use crate::process::NamedProcess;

/// Selects resets and warnings by port and process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filter {
    /// Local or remote ports to show. Empty: all.
    pub ports: Vec<u16>,
    /// Names of processes to show. Empty: all.
    pub processes: Vec<Untrusted>,
    /// A process of this program that is a client of another: resets of its connections are counted, and not told.
    pub own: Option<OwnClient>,
}

/// A process of this program that connects to one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OwnClient {
    /// Its pid.
    pub pid: u32,
    /// The port that it connects to.
    pub port: u16,
}

impl OwnClient {
    /// The client with this pid, which connects to this port.
    pub fn new(pid: u32, port: u16) -> Self {
        Self { pid, port }
    }
}

impl Filter {
    /// Whether the filter admits a reset.
    pub fn admits(&self, reset: &LiveReset) -> bool {
        self.admits_all(&[Some(reset.local), reset.remote], reset.process.as_ref())
    }

    /// Whether the filter admits what concerns these addresses and this process.
    pub(crate) fn admits_all(
        &self,
        addresses: &[Option<SocketAddr>],
        process: Option<&NamedProcess>,
    ) -> bool {
        let is_shown = |address: &Option<SocketAddr>| {
            address.is_some_and(|address| self.ports.contains(&address.port()))
        };
        (self.ports.is_empty() || addresses.iter().any(is_shown))
            && (self.processes.is_empty()
                || process.is_some_and(|process| self.processes.contains(&process.name)))
    }

    /// Whether the filter admits a warning.
    pub(crate) fn admits_warning(&self, warning: &Warning) -> bool {
        match warning {
            Warning::ListenerNearLimit { local, process, .. } => {
                self.admits_all(&[Some(*local)], process.as_ref())
            }
            // Without a listener it may be of any port.
            Warning::AcceptQueueOverflowed { local: None, .. } => self.processes.is_empty(),
            Warning::AcceptQueueOverflowed { local, process, .. } => {
                self.admits_all(&[*local], process.as_ref())
            }
            Warning::UnreadAfterPeerClosed { local, remote, process, .. } => {
                self.admits_all(&[Some(*local), Some(*remote)], process.as_ref())
            }
        }
    }
}

/// A notice of a [`Watcher`](crate::Watcher).
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Notice {
    /// A reset was sent or received.
    Reset(Box<LiveReset>),
    /// More resets followed one that was reported before.
    Further(Box<FurtherResets>),
    /// A condition that leads to resets.
    Warning(Warning),
    /// The kernel's counters beside the events seen; every few seconds while they change.
    Counters(Box<Counted>),
}

/// Resets that this host sent after one that was reported before, for packets that the peer sent without knowing of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FurtherResets {
    /// This host's end of the connection.
    pub local: SocketAddr,
    /// The other end; `None` if the kernel does not say.
    pub remote: Option<SocketAddr>,
    /// The cause of the first reset.
    pub cause: Cause,
    /// The process of the first reset.
    pub process: Option<NamedProcess>,
    /// Where the first was sent; `None` if its namespace is not known.
    pub place: Option<KnownPlace>,
    /// How many followed, beyond those reported before.
    pub resets: u32,
}

/// A condition that leads to resets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "warning", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Warning {
    /// An accept queue is at four fifths of its limit or more.
    #[non_exhaustive]
    ListenerNearLimit {
        /// Where the listener is.
        place: KnownPlace,
        /// The listener.
        local: SocketAddr,
        /// The listener's accept queue.
        queue: AcceptQueue,
        /// The process that listens.
        process: Option<NamedProcess>,
    },
    /// The peer has closed, and bytes from it are unread: a plain `close()` now would reset the connection.
    #[non_exhaustive]
    UnreadAfterPeerClosed {
        /// Where the socket is.
        place: KnownPlace,
        /// This host's end.
        local: SocketAddr,
        /// The peer.
        remote: SocketAddr,
        /// Number of unread bytes.
        unread: u32,
        /// The process that holds the socket.
        process: Option<NamedProcess>,
    },
    /// Connections found no room in an accept queue since the last look (`ListenOverflows`). Without
    /// `tcp_abort_on_overflow` nothing is reset then: the client waits and tries again.
    #[non_exhaustive]
    AcceptQueueOverflowed {
        /// The network namespace whose counter grew.
        place: KnownPlace,
        /// The listener with the fullest queue, if one was near its limit. The kernel does not say which overflowed.
        local: Option<SocketAddr>,
        /// That listener's accept queue.
        queue: Option<AcceptQueue>,
        /// The process that listens.
        process: Option<NamedProcess>,
        /// How many connections found no room. Each may have tried more than once.
        overflows: u64,
    },
}

impl Warning {
    /// Where it is, and the process concerned.
    pub(crate) fn place_mut(&mut self) -> (&mut KnownPlace, Option<&NamedProcess>) {
        match self {
            Self::ListenerNearLimit { place, process, .. }
            | Self::UnreadAfterPeerClosed { place, process, .. }
            | Self::AcceptQueueOverflowed { place, process, .. } => (place, process.as_ref()),
        }
    }

    /// Where it is.
    pub fn place(&self) -> &KnownPlace {
        match self {
            Self::ListenerNearLimit { place, .. }
            | Self::UnreadAfterPeerClosed { place, .. }
            | Self::AcceptQueueOverflowed { place, .. } => place,
        }
    }
}
