//! How much the probe may ask of a server.

use std::time::Duration;

use crate::finding::Check;

/// The values of [`ProbeConfig::default`], with their reasons.
pub mod defaults {
    use std::time::Duration;

    /// Small enough that a response of a few kilobytes does not fit; the kernel doubles it.
    pub const RECEIVE_BUFFER: usize = 2048;
    /// Long enough for any server to have written, closed and forgotten the connection before the first read.
    pub const DELAY: Duration = Duration::from_millis(300);
    /// More than the accept, read and write timeouts that a healthy server needs.
    pub const PATIENCE: Duration = Duration::from_secs(10);
    /// More than gunicorn's 64 KiB, the largest byte cap known, and what the server's own buffers may take.
    pub const BODY: usize = 512 << 10;
    /// More than a server's receive window at its largest without tuning (`tcp_rmem`, 6 MiB, is divided by two).
    pub const UPLOAD: usize = 4 << 20;
    /// Longer than the 30 s that nginx and httpd linger in all.
    pub const HOLD: Duration = Duration::from_secs(35);
    /// More than any common accept queue (128, 511, 1024 are defaults; the hostile check stays below the last).
    pub const BURST: usize = 600;
    /// More than any drain should take from one client; sent evenly over [`HOLD`] and five seconds.
    pub const ENDLESS: u64 = 64 << 20;
}

/// How a server is probed. Plain data; every field may be set directly.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProbeConfig {
    /// The client's receive buffer until it begins to read, in bytes.
    pub receive_buffer: usize,
    /// How long the client waits before it reads.
    pub delay: Duration,
    /// Longest wait for anything.
    pub patience: Duration,
    /// How often each question is asked; the worst answer counts.
    pub repeat: u32,
    /// The response's length in bytes, where the protocol does not tell it.
    pub expect: Option<u64>,
    /// The request to send to a `tcp://` target.
    pub payload: Vec<u8>,
    /// Bytes of request body that the server may leave unread.
    pub body: usize,
    /// Most bytes of an upload that the server may refuse.
    pub upload: usize,
    /// How long a connection is held to see whether the server lets go of it.
    pub hold: Duration,
    /// Whether to ask the questions that a hostile client asks ([`Check::is_hostile`]).
    pub hostile: bool,
    /// Allows those against an address that is neither loopback nor private.
    pub own_server: bool,
    /// Connections in the burst of [`Check::Backlog`].
    pub burst: usize,
    /// Most bytes of an endless upload.
    pub endless: u64,
    /// Which questions to ask; empty for all.
    pub only: Vec<Check>,
    /// A process of the server, whose network namespace's counters are read.
    pub pid: Option<u32>,
    /// Whether to show what the kernel saw of the server's resets, where the server is on this host and the user may
    /// watch (see `linger watch`).
    pub watch: bool,
    /// What the User-Agent says.
    pub user_agent: String,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            receive_buffer: defaults::RECEIVE_BUFFER,
            delay: defaults::DELAY,
            patience: defaults::PATIENCE,
            repeat: 2,
            expect: None,
            payload: Vec::new(),
            body: defaults::BODY,
            upload: defaults::UPLOAD,
            hold: defaults::HOLD,
            hostile: false,
            own_server: false,
            burst: defaults::BURST,
            endless: defaults::ENDLESS,
            only: Vec::new(),
            pid: None,
            watch: true,
            user_agent: concat!("linger-probe/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}
