//! The side that listens: one directory, some sinks and sources, a thread for each connection.

mod caller;
mod count;
mod greet;
mod lobby;
mod options;
mod requests;
mod slots;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::bundle::{Gathering, Greeted};
use crate::cancel::Cancel;
use crate::claim::{Claimant, Claims};
use crate::delivery::Deliveries;
use crate::driver::{Phase, PhaseWork, Session};
use crate::error::Error;
use crate::hash::hex;
use crate::host;
use crate::launch::Launcher;
use crate::machine::{Role, SessionLimits};
use crate::message::Refusal;
use crate::pair::Codes;
use crate::progress::{Progress, Summary};
use crate::rights::Rights;
use crate::root::Root;
use crate::store::sweep::sweep;
use crate::transport::Transport;
use count::RequestCount;
use lobby::{Lobby, network};
pub use options::{ShareEnding, ShareOptions};
use slots::{Slots, TakenSlot};

/// Who has connected, as far as the connection itself shows.
#[derive(Clone, Debug)]
enum Visitor {
    /// A client with a known key or the right code, or anybody if the server asks for neither.
    Accepted(Rights),
    /// A client over loopback. It has to prove that it is the same user.
    Unproven { ours: SocketAddr, theirs: SocketAddr },
}

/// The result of one connection, at the listening side.
#[derive(Debug)]
#[non_exhaustive]
pub struct Served {
    /// The client's address.
    pub peer: SocketAddr,
    /// The request in words; empty if there was none.
    pub request: String,
    /// The summary of the transfer.
    pub summary: Summary,
    /// The error that ended the session early, if one did.
    pub error: Option<Error>,
    /// How the connection itself ended.
    pub outcome: Option<linger::Outcome>,
    /// The client had an earlier session for the same request.
    came_back: bool,
}

/// The request that is reported for a connection of a bundle; the last connection of the bundle has the real request.
const PART: &str = "one connection of several";

impl Served {
    /// Whether the connection has made a request.
    pub fn has_asked(&self) -> bool {
        !self.request.is_empty() && self.request != PART
    }

    /// Whether the client's request was cut, so that the client may come back for it.
    pub fn may_return(&self) -> bool {
        self.has_asked() && matches!(self.error, Some(Error::Cut(_)))
    }
}

/// An event while serving.
#[derive(Debug)]
#[non_exhaustive]
pub enum Serving<'a> {
    /// A connection's transfer goes on.
    Progress(SocketAddr, &'a Progress),
    /// A connection is over.
    Served(Box<Served>),
    /// There is a new code: tell it to the person who wants to pair.
    Code(String),
    /// An address that has used up a code gets a code for itself alone.
    CodeFor(IpAddr, String),
}

/// A directory that is shared.
#[derive(Debug)]
pub struct Server {
    options: ShareOptions,
    root: Root,
    claims: Arc<Claims>,
    deliveries: Arc<Deliveries>,
    launcher: Launcher,
    gathering: Gathering,
    accepted: AtomicU64,
    cancel: Cancel,
    last: Cancel,
    codes: Codes,
    lobby: Lobby,
    /// Sessions with a request.
    slots: Arc<Slots>,
    /// Sessions whose threads were left behind: they wait for a disk.
    behind: Arc<Mutex<BTreeSet<u64>>>,
    count: RequestCount,
}

impl Server {
    /// Opens the directory.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if the directory cannot be opened, and [`Error::NotPossibleHere`] on kernels before 5.6.
    pub fn new(options: ShareOptions) -> Result<Self, Error> {
        let root = Root::open(&options.directory)?;
        if options.writable
            && let Some(work) = root.existing_work()
        {
            sweep(work.as_fd(), SystemTime::now());
            root.tidy();
        }
        let eventfd = || Cancel::new().map_err(|error| Error::io("make", "an eventfd", error));
        let (cancel, last) = (eventfd()?, eventfd()?);
        let codes = Codes::new()?;
        let deliveries = match &options.memory {
            Some(directory) => Deliveries::open(&directory.join(journal_name(&options.directory)?))?,
            None => Deliveries::default(),
        };
        let has_commands = !(options.config.sink.is_empty() && options.config.source.is_empty());
        // A simulation runs commands itself, and has no threads.
        let starts = has_commands && host::simulated().is_none();
        let launcher = if starts { Launcher::start() } else { Launcher::default() };
        let slots = Slots::new(options.connections, options.keys.is_some(), options.idle);
        Ok(Self {
            options,
            root,
            claims: Arc::default(),
            deliveries: Arc::new(deliveries),
            launcher,
            gathering: Gathering::default(),
            accepted: AtomicU64::new(0),
            cancel,
            last,
            codes,
            lobby: Lobby::default(),
            slots: Arc::new(slots),
            behind: Arc::default(),
            count: RequestCount::new().map_err(|error| Error::io("make", "an eventfd", error))?,
        })
    }

    /// Ends [`serve`](Self::serve) and every session when it is used.
    pub fn canceller(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Lets [`serve`](Self::serve) accept nothing more when it is used, and return when the last session has ended.
    pub fn finisher(&self) -> Cancel {
        self.last.clone()
    }

    /// The code for the next unknown client. Every change is reported as [`Serving::Code`].
    pub fn code(&self) -> String {
        self.codes.current()
    }

    /// The code that counts for an address. An address that has used up a code has one of its own, reported as
    /// [`Serving::CodeFor`].
    pub fn code_for(&self, address: IpAddr) -> String {
        self.codes.of(address)
    }

    /// Sessions that have ended though their threads have not: these wait for a disk, and nobody can end them.
    /// [`serve`](Self::serve) returns once they have come back.
    pub fn left_behind(&self) -> usize {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Serves connections, and returns when the last connection has ended. With `most`, accepts no more connections
    /// once this many requests have ended. A connection without a request, such as a port scan's, does not count. Nor
    /// does, for [`ShareOptions::returns`], a request whose connection was cut.
    ///
    /// # Errors
    /// Returns the errors of `accept(2)` that do not concern a single connection.
    pub fn serve(
        &self,
        listener: &TcpListener,
        most: Option<usize>,
        observe: &(dyn Fn(Serving<'_>) + Sync),
    ) -> Result<(), Error> {
        listener.set_nonblocking(true).map_err(|error| Error::io("set up", "the listener", error))?;
        self.count.set_most(most);
        std::thread::scope(|scope| {
            while !self.count.is_over() {
                if self.last.is_cancelled() {
                    break;
                }
                let (stream, peer) = match listener.accept() {
                    Ok(accepted) => accepted,
                    Err(error) => match error.kind() {
                        io::ErrorKind::WouldBlock => {
                            if self.await_connection(listener)? {
                                continue;
                            } else {
                                break;
                            }
                        }
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => continue,
                        // ENFILE, EMFILE: no descriptor is free until a session ends.
                        _ if matches!(error.raw_os_error(), Some(23 | 24)) => {
                            std::thread::sleep(Duration::from_millis(50));
                            continue;
                        }
                        _ => return Err(Error::io("accept on", "the listener", error)),
                    },
                };
                // A dual-stack socket reports IPv4 peers as mapped addresses.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                // The stream is behind an `Arc`: if it were moved into the thread, and the thread could not be started,
                // the stream would be dropped, and the connection reset.
                let slot = Arc::new(Mutex::new(Some(stream)));
                let serve = move |slot: &Mutex<Option<TcpStream>>| {
                    let stream = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
                    let Some(served) = stream.map(|stream| self.connection(stream, peer, observe)) else {
                        return;
                    };
                    let has_asked = served.has_asked();
                    let returns = served.may_return() && !self.options.returns.is_zero();
                    observe(Serving::Served(Box::new(served)));
                    let returns_until = returns.then(|| host::now() + self.options.returns);
                    if has_asked && self.count.end(returns_until) {
                        self.accept_no_more();
                    }
                };
                let its = slot.clone();
                if let Err(error) = Builder::new().spawn_scoped(scope, move || serve(&its)) {
                    tracing::warn!(%error, %peer, "no thread can be had: others wait until this connection is over");
                    serve(&slot);
                }
            }
            Ok(())
        })
    }

    /// Lets whoever has not asked for anything go.
    fn accept_no_more(&self) {
        self.last.cancel();
        self.lobby.clear();
    }

    /// Waits until a connection can be accepted. Returns false when serving is to end.
    fn await_connection(&self, listener: &TcpListener) -> Result<bool, Error> {
        let waits = self.count.waits(host::now());
        if waits == Some(Duration::ZERO) {
            self.accept_no_more();
            return Ok(false);
        }
        let timeout = waits.and_then(|waits| Timespec::try_from(waits).ok());
        let mut fds = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::from_borrowed_fd(self.cancel.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.last.as_fd(), PollFlags::IN),
            PollFd::new(&self.count, PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) => Ok((fds[1].revents() | fds[2].revents()).is_empty()),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(Error::io("wait on", "the listener", error)),
        }
    }

    /// Serves one connection to its end; the socket is closed on return.
    pub fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        observe: &(dyn Fn(Serving<'_>) + Sync),
    ) -> Served {
        self.visit(peer, observe, |visitor| self.transport(stream, peer, visitor, observe))
    }

    /// Serves a connection that `greet` makes ready.
    fn visit(
        &self,
        peer: SocketAddr,
        observe: &(dyn Fn(Serving<'_>) + Sync),
        greet: impl FnOnce((u64, &Cancel)) -> Result<(Box<dyn Transport>, Visitor), Error>,
    ) -> Served {
        let mut served = Served {
            peer,
            request: String::new(),
            summary: Summary::default(),
            error: None,
            outcome: None,
            came_back: false,
        };
        // Each session has a handle of its own, so that a newer session for the same file can cancel this one alone.
        let cancel = match self.cancel.also() {
            Ok(cancel) => cancel,
            Err(error) => {
                served.error = Some(Error::io("make", "an eventfd", error));
                return served;
            }
        };
        let number = self.accepted.fetch_add(1, Ordering::Relaxed);
        self.lobby.enter(number, peer.ip(), cancel.clone());
        let greeted = greet((number, &cancel));
        let result =
            greeted.and_then(|greeted| self.session(greeted, (number, cancel), &mut served, observe));
        if let Err(error) = result {
            served.error = Some(error);
            let summary = &mut served.summary;
            if served.came_back && summary.confirmed + summary.failed + summary.unsent == 0 {
                // What the earlier session has come to is not known here: perhaps the client has all its receipts.
                summary.unconfirmed += 1;
            }
        }
        self.lobby.leave(number);
        self.slots.leave(number);
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        served
    }

    /// Serves a connection of a simulated network.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn simulated_connection(
        &self,
        transport: Box<dyn Transport>,
        peer: SocketAddr,
        observe: &(dyn Fn(Serving<'_>) + Sync),
    ) -> Served {
        self.visit(peer, observe, |_| Ok((transport, Visitor::Accepted(Rights::default()))))
    }

    fn session(
        &self,
        (transport, caller): (Box<dyn Transport>, Visitor),
        (number, cancel): (u64, Cancel),
        served: &mut Served,
        observe: &(dyn Fn(Serving<'_>) + Sync),
    ) -> Result<(), Error> {
        let (transport, first) = match self.gathering.greet(transport, &cancel)? {
            Greeted::Single(transport, first) => (transport, Some(first)),
            Greeted::Complete(transport) => (transport, None),
            Greeted::Waiting => {
                served.request = PART.into();
                served.summary.peer_knows = true;
                return Ok(());
            }
        };
        let deadlines = self.options.deadlines;
        let mut session =
            Session::with(transport, Role::Responder, SessionLimits::default(), deadlines, cancel.clone());
        if let Some(first) = first {
            session.prepend(&first);
        }
        let claimant = Claimant { claims: self.claims.clone(), session: number, cancel };
        let result = self.requests(&mut session, &caller, &claimant, served, observe);
        if self.options.ending == ShareEnding::Close {
            session.close_carelessly();
        } else {
            if let Err(error) = &result
                && !matches!(error, Error::Cut(_))
            {
                // Try to send the reason, unless the connection is gone.
                let _ = session.goodbye(error.code(Role::Responder), &error.farewell());
            }
            served.outcome = session.close(&self.options.policy);
        }
        result
    }

    /// Waits until there is a place for one more request. Then the session's first request is answered.
    fn admit(&self, session: &mut Session, claimant: &Claimant, peer: SocketAddr) -> Result<(), Error> {
        let number = claimant.session;
        self.lobby.leave(number);
        let (slots, behind) = (self.slots.clone(), self.behind.clone());
        session.watch(move || {
            behind.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
            slots.leave(number);
        });
        if !self.count.begin() {
            return Err(Error::Refused(
                Refusal::Busy,
                "it serves one request, and another came first".into(),
            ));
        }
        let address = network(peer.ip());
        let asks = TakenSlot {
            number,
            // The key of a client that encrypts is known by now.
            stranger: (!session.is_encrypted()).then_some(address),
            cancel: claimant.cancel.clone(),
            activity: session.activity(),
        };
        if self.slots.take(&asks, host::now()) {
            return Ok(());
        }
        if !self.slots.queue(number, address) {
            return Err(Error::Refused(Refusal::Busy, "too many wait here already".into()));
        }
        for waits in 0u64.. {
            if waits.is_multiple_of(10) {
                session.works(PhaseWork::new(Phase::Queue, 0, 0))?;
            }
            session.linger_for(Duration::from_millis(100))?;
            if self.slots.take(&asks, host::now()) {
                break;
            }
        }
        Ok(())
    }
}

/// The name of the file that remembers deliveries: one for each shared directory, because one server at a time uses it.
fn journal_name(shared: &Path) -> Result<String, Error> {
    let real = shared.canonicalize();
    let real = real.map_err(|error| Error::io("find", shared.display().to_string(), error))?;
    let name = hex(blake3::hash(real.as_os_str().as_bytes()).as_bytes());
    Ok(format!("deliveries-{}", &name[..16]))
}

/// Whether an address is a loopback address.
pub fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|address| address.is_loopback())
        }
    }
}
