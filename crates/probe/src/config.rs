//! How much the probe may ask of a server.

use std::time::Duration;

use crate::check::Check;
use crate::direction::{ConnectRule, ResolveRule};
use crate::proxy::Proxy;
use crate::reload::by::ReloadBy;
use crate::request::{AskedMethod, HeaderField};

/// The values of [`ProbeConfig::default`], with their reasons.
pub mod defaults {
    use std::time::Duration;

    /// Small enough that a response of a few kilobytes does not fit. The kernel doubles the value (socket(7)).
    pub const RECEIVE_BUFFER: usize = 2048;
    /// Long enough that a server has written its response and closed before the first read.
    pub const DELAY: Duration = Duration::from_millis(300);
    /// More than the accept, read and write timeouts that a healthy server needs.
    pub const PATIENCE: Duration = Duration::from_secs(10);
    /// More than the largest known limit of a drain (gunicorn: 64 KiB) plus the server's own buffers.
    pub const BODY: usize = 512 << 10;
    /// More than the largest receive window with the kernel's default settings (half of the 6 MiB of `tcp_rmem`).
    pub const UPLOAD: usize = 4 << 20;
    /// Longer than the 30 s that nginx and httpd linger at most.
    pub const HOLD: Duration = Duration::from_secs(35);
    /// More than the common backlogs of 128 and 511, and below that of 1,024.
    pub const BURST: usize = 600;
    /// More than a drain should take from one client. Sent evenly over [`HOLD`] plus five seconds.
    pub const ENDLESS: u64 = 64 << 20;
    /// Enough for every question; asked some forty times, still less than a gigabyte.
    pub const MOST: u64 = 16 << 20;
    /// A response that takes longer is an event stream, or too slow to be asked for forty times.
    pub const LONGEST: Duration = Duration::from_secs(30);
    /// Long enough to ask everything of a server that takes 5 s for each answer.
    pub const WITHIN: Duration = Duration::from_secs(600);
}

/// How a server is probed. Plain data; every field may be set directly.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProbeConfig {
    /// The client's receive buffer (SO_RCVBUF) until it begins to read, in bytes.
    pub receive_buffer: usize,
    /// How long the client waits before it reads.
    pub delay: Duration,
    /// Longest time without progress before the client gives up.
    pub patience: Duration,
    /// The most that is read of a response, in bytes. A longer one cannot be probed.
    pub most: u64,
    /// The longest time for which a response is read, or twice [`patience`](Self::patience) if that is longer.
    pub longest: Duration,
    /// The time after which nothing more is asked, and what has begun is given up.
    pub within: Duration,
    /// Whether to ask more than a visitor does: POST, large uploads, held connections. `None`: only of a server on this
    /// host, by loopback or a unix socket. A probe that is not active sends and reads at most [`QUIET`](crate::QUIET)
    /// bytes each, asks with GET on one connection at a time, and holds none.
    pub active: Option<bool>,
    /// How often each question is asked. The worst answer counts.
    pub repeat: u32,
    /// The length of the response in bytes, for responses without framing.
    pub expect: Option<u64>,
    /// The request to send to a `tcp://` target.
    pub payload: Vec<u8>,
    /// Bytes of request body that the server may leave unread.
    pub body: usize,
    /// Length of an upload that the server may refuse early, in bytes.
    pub upload: usize,
    /// How long a connection is held open to see whether the server gives it up.
    pub hold: Duration,
    /// Whether to also ask the questions of a hostile client ([`Check::is_hostile`]).
    pub hostile: bool,
    /// Allows hostile questions to an address that is neither loopback nor private.
    pub own_server: bool,
    /// Connections in the burst of [`Check::Backlog`].
    pub burst: usize,
    /// Most bytes that are sent of an endless upload.
    pub endless: u64,
    /// Which questions to ask. If this is empty, all are asked.
    pub only: Vec<Check>,
    /// Which questions not to ask.
    pub except: Vec<Check>,
    /// The pid of a process of the server. The kernel counters of its network namespace are read.
    pub pid: Option<u32>,
    /// How to tell the server to reload, or to stop, for [`Check::Reload`]: as often as [`repeat`](Self::repeat) says, and to stop
    /// once. `None`: it is not asked.
    pub reload: Option<ReloadBy>,
    /// Whether to watch the server's resets in the kernel, if the server is on this host and the user has the rights to
    /// watch (crate `linger-watch`).
    pub watch: bool,
    /// The value of the User-Agent header.
    pub user_agent: String,
    /// Header fields of each request. They replace those of the same name that the probe would send.
    pub headers: Vec<HeaderField>,
    /// The method of each request, for a service that knows no GET. Other than GET, OPTIONS and the like, it needs
    /// [`active`](Self::active).
    pub method: Option<AskedMethod>,
    /// Whether to ask over HTTP/2: with TLS by ALPN, without it by prior knowledge. Otherwise over HTTP/1.1.
    pub http2: bool,
    /// Where to connect in place of the target's host and port, which still stand in the Host header and in TLS. The first that
    /// fits counts.
    pub connect_to: Vec<ConnectRule>,
    /// The addresses of names, in place of those that the system knows.
    pub resolve: Vec<ResolveRule>,
    /// The HTTP proxy to ask in place of the target.
    pub proxy: Option<Proxy>,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            receive_buffer: defaults::RECEIVE_BUFFER,
            delay: defaults::DELAY,
            patience: defaults::PATIENCE,
            most: defaults::MOST,
            longest: defaults::LONGEST,
            within: defaults::WITHIN,
            active: None,
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
            except: Vec::new(),
            pid: None,
            reload: None,
            watch: true,
            headers: Vec::new(),
            method: None,
            http2: false,
            connect_to: Vec::new(),
            resolve: Vec::new(),
            proxy: None,
            user_agent: concat!("linger-probe/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}
