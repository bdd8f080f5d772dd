//! What is told to the user, and what of it the user wants to see.

use std::net::SocketAddr;

use linger_untrusted::Untrusted;
use serde::Serialize;

use crate::counted::Counted;
use crate::diagnose::{Queue, Reset};
use crate::process::Process;

/// What a user wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filter {
    /// Only these ports, local or remote; none means all.
    pub ports: Vec<u16>,
    /// Only processes of these names; none means all.
    pub processes: Vec<Untrusted>,
}

impl Filter {
    /// Whether it lets a reset through.
    pub fn admits(&self, reset: &Reset) -> bool {
        let remote = reset.remote.map(|remote| remote.port());
        (self.ports.is_empty()
            || self.ports.contains(&reset.local.port())
            || remote.is_some_and(|port| self.ports.contains(&port)))
            && (self.processes.is_empty()
                || reset.process.as_ref().is_some_and(|process| self.processes.contains(&process.name)))
    }
}

/// What a [`Watcher`](crate::Watcher) has to say.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Notice {
    /// A reset was sent or received.
    Reset(Box<Reset>),
    /// One is about to be.
    Warning(Warning),
    /// The kernel's counters, and what was seen beside them; every few seconds while they change.
    Counters(Box<Counted>),
}

/// What will end in resets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "warning", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Warning {
    /// A listener's accept queue is at four fifths or more.
    #[non_exhaustive]
    ListenerNearLimit {
        /// The listener.
        local: SocketAddr,
        /// Its queue.
        queue: Queue,
        /// Who listens.
        process: Option<Process>,
    },
    /// The peer has closed, and bytes of it lie unread: closing now would reset.
    #[non_exhaustive]
    UnreadAfterPeerClosed {
        /// This host's end.
        local: SocketAddr,
        /// The peer.
        remote: SocketAddr,
        /// Bytes that lie unread.
        unread: u32,
        /// Who has the socket.
        process: Option<Process>,
    },
}
