//! How a directory is shared.

use std::path::PathBuf;
use std::time::Duration;

use super::slots;
use crate::driver::Deadlines;
use crate::message::Durability;
use crate::sink::{Displays, StreamsConfig};
use crate::tls::ServerKeys;

/// How a directory is shared.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShareOptions {
    /// The directory; nothing outside of it can be reached.
    pub directory: PathBuf,
    /// Whether peers may write into it.
    pub writable: bool,
    /// Sinks and sources.
    pub config: StreamsConfig,
    /// What the desktop offers to sinks and sources.
    pub displays: Displays,
    /// The least that is done before a receipt is sent; a peer may ask for more.
    pub durability: Durability,
    /// The server's own key and the keys of known clients.
    pub keys: Option<ServerKeys>,
    /// Accept unencrypted connections over loopback without a proof that the client is the same user, and every user over
    /// a unix socket. Then every user of this machine can connect, and everybody who reaches it through a forwarded port.
    pub insecure_loopback: bool,
    /// Accept unencrypted connections from anywhere, not only from this machine.
    pub insecure: bool,
    /// The largest number of requests that are served at the same time; a request takes up to 20 MiB of memory. Further
    /// clients wait until a request ends, or has made no progress for [`idle`](Self::idle) and is therefore ended. With
    /// keys, a quarter of the places is for clients whose key is known, and clients without a key from one address get
    /// at most half of the others. Connections that have not sent a request yet do not count here: there may be 256 of
    /// them, and 64 from one address. One more ends an older one.
    pub connections: usize,
    /// A directory in which the server remembers the transfers that it has handed to sinks, so that no command runs
    /// twice even if the server is restarted. Without it, they are remembered as long as the process lives.
    pub memory: Option<PathBuf>,
    /// How long a session may make no progress while another client waits for its place.
    pub idle: Duration,
    /// How long a session may be silent, and without progress.
    pub deadlines: Deadlines,
    /// Bounds of every close.
    pub policy: linger::Policy,
    /// How long [`Server::serve`](crate::Server::serve) waits for a client to come back whose request ended because its connection was cut, if it
    /// serves a number of requests only. What such a client asks then belongs to the same request.
    pub patience: Duration,
    /// How a session ends: to show in a test what a bare `close()` loses.
    pub ending: ShareEnding,
}

/// How the listening side ends a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShareEnding {
    /// Waits for the peer's goodbye, then closes as [`linger::close`] does.
    #[default]
    Lingering,
    /// Closes at once after its last frame, as many programs do: loses receipts.
    Close,
}

impl ShareOptions {
    /// Shares a directory for reading. Over TCP nobody can connect before [`keys`](Self::keys) or one of the two insecure
    /// options is set; over a unix socket this user can, and root.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            writable: false,
            config: StreamsConfig::default(),
            displays: Displays::default(),
            durability: Durability::Memory,
            keys: None,
            insecure_loopback: false,
            insecure: false,
            connections: 64,
            memory: None,
            idle: slots::IDLE,
            deadlines: Deadlines::default(),
            policy: linger::Policy::default(),
            patience: Duration::ZERO,
            ending: ShareEnding::Lingering,
        }
    }
}
