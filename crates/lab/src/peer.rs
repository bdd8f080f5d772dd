//! What the client does.

use std::fmt;

use crate::named::Named;

/// What the client does in addition to sending its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Sends what the server reads, and reads the response to its end.
    ReadsAll,
    /// Sends a few bytes more than the server reads, in the same write.
    Unread,
    /// Sends a few bytes once the response has begun.
    Late,
    /// Goes on uploading while the server answers early.
    Upload,
    /// Sends two requests at once; the server answers the first.
    Pipelined,
    /// Does what `unread` does, and keeps its socket open until the server has ended the connection.
    NeverCloses,
    /// Does what `unread` does, but does not read before the server has ended the connection.
    NeverReads,
}

impl Peer {
    /// All peers.
    pub const ALL: [Self; 7] = [
        Self::ReadsAll,
        Self::Unread,
        Self::Late,
        Self::Upload,
        Self::Pipelined,
        Self::NeverCloses,
        Self::NeverReads,
    ];

    /// The peer's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadsAll => "reads-all",
            Self::Unread => "unread",
            Self::Late => "late",
            Self::Upload => "upload",
            Self::Pipelined => "pipelined",
            Self::NeverCloses => "never-closes",
            Self::NeverReads => "never-reads",
        }
    }

    /// Whether the server reads everything that the client sends. Then only the ending `abort` loses anything.
    pub const fn is_innocent(self) -> bool {
        matches!(self, Self::ReadsAll)
    }
}

impl Named for Peer {
    const WHAT: &'static str = "peer";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|peer| peer.name()).collect()
    }

    fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|peer| peer.name() == name)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
