//! The application's end on blocking threads: accepts, serves, and ends each request so that nothing is lost.
//!
//! One thread serves a connection while another accepts. A [`linger::Closer`] closes served connections in the
//! background, so a slow peer never delays the next one. If the gateway may multiplex ([`Config::multiplex`]), the
//! connection's thread only reads, and each request has a thread of its own.

mod exchange;
mod gate;
mod link;
#[cfg(all(test, feature = "tokio"))]
pub(crate) mod memory;
mod serve;
mod stop;
mod wire;
mod workers;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use socket2::{SockAddr, Socket};

use crate::address::Address;
use crate::conversation::Bounds;
use crate::error::ProtocolError;
use crate::incoming::Capacity;
use crate::journal::Journal;
use crate::limits::Limits;

pub use exchange::{DataStream, Request, Response};
pub use stop::StopResponder;
#[cfg(feature = "tokio")]
pub(crate) use stop::overdue;

/// How a responder serves. Plain data; every field may be set directly.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// How long, and for how many bytes, the end of a connection may wait for the gateway. The same bounds
    /// hold for the rest of a request body on a connection that is kept.
    pub policy: linger::Policy,
    /// Bounds on the memory of one connection.
    pub limits: Limits,
    /// Most connections with a request at once; more wait in the listener's queue. Raising it costs a thread each.
    pub connections: usize,
    /// Most connections that wait without a request, beside those that have one: they rest between two requests, or have not sent
    /// all parameters of their first. Each holds 64 KB and, on threads, a thread and a second descriptor. There are never more than a quarter of
    /// the descriptors that the process may have. For one too many, the one that has been without a request longest ends, so that
    /// idle connections keep nobody out. Zero: connections end after their request.
    pub resting: usize,
    /// Whether a connection may carry several requests at once. This costs a hand-over between threads for each request. No common
    /// gateway needs it. If this is off, a second request on the same connection is answered with `CANT_MPX_CONN`.
    pub multiplex: bool,
    /// Longest silence of the gateway in the middle of a request and before the first, and longest time that a write waits for
    /// room in the send buffer.
    pub io_timeout: Duration,
    /// Longest time for one record, from its first byte to its last. Gateways write a record at once, also if their client sends
    /// slowly. This bounds whoever sends a byte now and then, as the next two do. Of all three only time counts in which this side waits for the
    /// gateway, not that of a handler which does not read.
    pub record_within: Option<Duration>,
    /// Longest time for a request's parameters, from BEGIN_REQUEST on. A connection that waits for them takes no slot.
    pub params_within: Option<Duration>,
    /// Longest time for a request's body. Then the handler's reads fail with `TimedOut`, and it may still answer. `None`, the default,
    /// leaves that to the gateway and its client: an upload may last for hours, and a gateway that does not buffer it passes its pauses on.
    /// Without a bound here, a client behind such a gateway that sends a byte now and then keeps a slot for as long as the gateway lets it.
    pub body_within: Option<Duration>,
    /// How long a kept connection may rest between two requests.
    pub keep_idle: Duration,
    /// How long END_REQUEST waits, once the handler is done, for a request body that has stopped moving. While it moves it is read and
    /// dropped, within the bounds of `policy`; the response is sent meanwhile. Some gateways never end a response whose
    /// END_REQUEST came before they had sent all of the body (HAProxy); others stop sending it when the response begins (nginx), and
    /// their clients wait this long for the end of an answer to a body that was not read. Zero: END_REQUEST follows at once.
    pub input_idle: Duration,
    /// A folder for bodies that arrive while the response finds no room, as [`Limits::spooled`] says. Files there have no name.
    /// `None`: they are not read beyond [`Limits::buffered`]. They are written as they arrive, on tokio by the task that reads the
    /// connection: the folder should not be on a disk that is slow to take bytes into the page cache, such as NFS.
    pub spool: Option<Arc<Path>>,
    /// How long after a stop requests under way may still wait for their gateway, to read of it or to write to it. Then such a wait
    /// fails, and the connection ends without the rest of its response. A handler that does not wait for its gateway is never
    /// interrupted. `None` for no such bound but the other timeouts. Service managers kill what takes longer than they allow: systemd 90 s,
    /// Kubernetes 30 s, Docker 10 s.
    pub stop_within: Option<Duration>,
    /// The listener's queue, if this responder makes the listener; the kernel caps it at `somaxconn`.
    pub backlog: i32,
    /// No other process has the listener. Then a stop lets the kernel admit no more connections to it, so that none is reset which comes
    /// between the last look at the queue and the close. [`Responder::bind`] knows it without this. Set it for a listener that was made elsewhere
    /// in this process and is neither shared with others nor kept by a service manager: to them the kernel would admit nobody either.
    /// On TCP that is a socket filter, or where the kernel grants none (it may want CAP_NET_ADMIN) a least TTL.
    pub owns_listener: bool,
    /// Gateways that may connect over IP, as `FCGI_WEB_SERVER_ADDRS` names them; `None` for all.
    pub allowed: Option<Vec<IpAddr>>,
    /// Is told of each request that has ended, and of what keeps gateways waiting; `None` for nobody.
    pub journal: Option<Arc<dyn Journal>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: linger::Policy::default(),
            limits: Limits::default(),
            connections: 256,
            resting: 1024,
            multiplex: false,
            io_timeout: Duration::from_secs(60),
            record_within: Some(Duration::from_secs(60)),
            params_within: Some(Duration::from_secs(30)),
            body_within: None,
            keep_idle: Duration::from_secs(60),
            input_idle: Duration::from_millis(100),
            spool: Some(Path::new("/tmp").into()),
            stop_within: Some(Duration::from_secs(25)),
            backlog: 1024,
            owns_listener: false,
            allowed: None,
            journal: None,
        }
    }
}

impl Config {
    /// The bounds for one connection. `multiplex`: it may carry several requests at once.
    pub(crate) fn bounds(&self, multiplex: bool) -> Bounds {
        let requests = if multiplex { self.limits.multiplexed } else { 1 };
        let requests = self.connections.saturating_mul(requests);
        let capacity = Capacity::new(self.connections, requests, multiplex);
        let mut bounds = Bounds::new(self.policy, self.limits, capacity, self.io_timeout, self.keep_idle);
        (bounds.record_within, bounds.params_within) = (self.record_within, self.params_within);
        bounds.body_within = self.body_within;
        (bounds.input_idle, bounds.spool) = (self.input_idle, self.spool.clone());
        bounds
    }
}

/// An application: answers requests.
pub trait Handler: Send + Sync {
    /// Answers one request: reads what it wants of the body, and writes the response (a CGI header block first). Returns the
    /// application's exit status.
    ///
    /// # Errors
    /// If this returns an error or panics before any of the response was sent, the gateway gets a `500` and a line in
    /// its log. If a part was sent, the connection ends **without** END_REQUEST, so that no gateway takes the part for
    /// the whole response; other requests on the connection are served to their end first, and new requests are
    /// refused. A request that the gateway has aborted is only ended.
    fn handle(&self, request: &mut Request, response: &mut Response) -> io::Result<u32>;

    /// Called with the outcome of each closed connection. All closes share the calling thread, so count or log here,
    /// and do not block.
    fn closed(&self, _connection: &Closed) {}
}

impl<F: Fn(&mut Request, &mut Response) -> io::Result<u32> + Send + Sync> Handler for F {
    fn handle(&self, request: &mut Request, response: &mut Response) -> io::Result<u32> {
        self(request, response)
    }
}

/// A connection that has ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Closed {
    /// Requests served on it.
    pub requests: u64,
    /// The peer's violation of the protocol, if that ended the connection.
    pub fault: Option<ProtocolError>,
    /// The outcome of its close.
    pub outcome: linger::Outcome,
}

/// A listening FastCGI application.
#[derive(Debug)]
pub struct Responder {
    listener: Socket,
    /// No other process has the listener.
    is_own: bool,
    config: Config,
    stop: StopResponder,
}

impl Responder {
    /// Listens on `address`.
    ///
    /// # Errors
    /// Returns the errors of `bind(2)` and `listen(2)`.
    pub fn bind(address: &Address, config: Config) -> io::Result<Self> {
        Self::new(address.listen(config.backlog)?, true, config)
    }

    /// Takes over a socket that listens already, as systemd or a parent hands it down. It becomes non-blocking for every process that
    /// has it.
    ///
    /// # Errors
    /// Returns `InvalidInput` if the socket does not listen.
    pub fn from_listener(listener: impl Into<OwnedFd>, config: Config) -> io::Result<Self> {
        let listener = listener.into();
        if !sockopt::socket_acceptconn(&listener).unwrap_or(false) {
            let message = "the descriptor is no listening socket: start the program through spawn-fcgi, a web \
                           server or a service manager, or name an address to listen on";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Self::new(listener.into(), false, config)
    }

    /// Takes over descriptor 0, where spawn-fcgi, httpd and lighttpd leave the listening socket
    /// (specification section 2.2).
    ///
    /// # Errors
    /// Returns the errors of [`from_listener`](Self::from_listener).
    pub fn inherited(config: Config) -> io::Result<Self> {
        Self::from_listener(io::stdin().as_fd().try_clone_to_owned()?, config)
    }

    fn new(listener: Socket, is_own: bool, config: Config) -> io::Result<Self> {
        // Several processes may wait for the same connection, and only one gets it: the others must not wait in accept, where no
        // stop reaches them.
        listener.set_nonblocking(true)?;
        let stop = StopResponder::new(config.stop_within)?;
        let is_own = is_own || config.owns_listener;
        Ok(Self { listener, is_own, config, stop })
    }

    /// The address at which the responder listens.
    ///
    /// # Errors
    /// Returns the errors of `getsockname(2)`.
    pub fn local_address(&self) -> io::Result<Address> {
        Ok(address_of(&self.listener.local_addr()?))
    }

    /// Returns a handle that stops the responder from another thread.
    pub fn stopper(&self) -> StopResponder {
        self.stop.clone()
    }

    /// Serves until [`StopResponder::stop`] is called, then waits for the requests that are under way, as long as
    /// [`Config::stop_within`] says, and for the lingering closes.
    ///
    /// # Errors
    /// Returns an error if the listener failed for good, or if no thread can be started.
    pub fn run(self, handler: impl Handler + 'static) -> io::Result<()> {
        let Self { listener, is_own, config, stop } = self;
        workers::run(listener, is_own, &config, &stop, handler)
    }
}

fn address_of(address: &SockAddr) -> Address {
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => address.into(),
        (None, path) => Address::Unix(path.map(Into::into).unwrap_or_default()),
    }
}
