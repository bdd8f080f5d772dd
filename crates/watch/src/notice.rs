//! Notices for the user, and the filter that selects them.

use std::net::SocketAddr;

use linger_untrusted::Untrusted;
use serde::Serialize;

use crate::counted::Counted;
use crate::diagnose::{AcceptQueue, LiveReset};
use crate::process::NamedProcess;

/// Selects resets and warnings by port and process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filter {
    /// Local or remote ports to show. Empty: all.
    pub ports: Vec<u16>,
    /// Names of processes to show. Empty: all.
    pub processes: Vec<Untrusted>,
}

impl Filter {
    /// Whether the filter admits a reset.
    pub fn admits(&self, reset: &LiveReset) -> bool {
        let remote = reset.remote.map(|remote| remote.port());
        (self.ports.is_empty()
            || self.ports.contains(&reset.local.port())
            || remote.is_some_and(|port| self.ports.contains(&port)))
            && (self.processes.is_empty()
                || reset.process.as_ref().is_some_and(|process| self.processes.contains(&process.name)))
    }
}

/// A notice of a [`Watcher`](crate::Watcher).
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Notice {
    /// A reset was sent or received.
    Reset(Box<LiveReset>),
    /// A condition that leads to resets.
    Warning(Warning),
    /// The kernel's counters beside the events seen; every few seconds while they change.
    Counters(Box<Counted>),
}

/// A condition that leads to resets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "warning", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Warning {
    /// An accept queue is at four fifths of its limit or more.
    #[non_exhaustive]
    ListenerNearLimit {
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
        /// This host's end.
        local: SocketAddr,
        /// The peer.
        remote: SocketAddr,
        /// Number of unread bytes.
        unread: u32,
        /// The process that holds the socket.
        process: Option<NamedProcess>,
    },
}
