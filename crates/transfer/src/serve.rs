//! The side that listens: one directory, some sinks and sources, a thread for each connection.

mod accept;
mod caller;
mod count;
mod door;
mod greet;
mod lobby;
mod options;
mod requests;
mod slots;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::bundle::{Gathering, Greeted};
use crate::cancel::Cancel;
use crate::claim::{Claimant, Claims};
use crate::delivery::{DamagedJournal, Deliveries};
use crate::driver::{Phase, PhaseWork, Session};
use crate::error::Error;
use crate::hash::hex;
use crate::host;
use crate::launch::Launcher;
use crate::machine::{Role, SessionLimits};
use crate::message::{Refusal, TransferId};
use crate::pair::Codes;
use crate::progress::{Progress, Summary};
use crate::rights::Rights;
use crate::root::Root;
use crate::store::sweep::sweep;
use crate::transport::Transport;
use count::RequestCount;
pub use door::PeerAddress;
use door::{NewConnection, PeerGroup};
use lobby::Lobby;
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
    /// The client's address, or its user.
    pub peer: PeerAddress,
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
    Progress(PeerAddress, &'a Progress),
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
    /// Sessions that have ended while their threads still wait for a disk.
    behind: Arc<Mutex<BTreeSet<u64>>>,
    count: RequestCount,
}

impl Server {
    /// Opens the directory, and the journal of deliveries if there is one. In a writable directory, removes what abandoned
    /// transfers have left.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if the directory cannot be opened or the journal cannot be used, and
    /// [`Error::NotPossibleHere`] on kernels before 5.6.
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
            Some(directory) => remembered(&options, directory)?,
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

    /// A handle that ends [`serve`](Self::serve) and every session.
    pub fn canceller(&self) -> Cancel {
        self.cancel.clone()
    }

    /// A handle that lets [`serve`](Self::serve) accept nothing more, and return when the last session has ended.
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

    /// The number of sessions that have ended though their threads have not: these threads wait for a disk, and nobody can end
    /// them. [`serve`](Self::serve) returns once they have come back.
    pub fn left_behind(&self) -> usize {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Serves one connection to its end; the socket is closed on return.
    pub fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        observe: &(dyn Fn(Serving<'_>) + Sync),
    ) -> Served {
        self.receive(NewConnection::Tcp(stream, peer), observe)
    }

    fn receive(&self, accepted: NewConnection, observe: &(dyn Fn(Serving<'_>) + Sync)) -> Served {
        self.visit(accepted.peer(), observe, |visitor| match accepted {
            NewConnection::Tcp(stream, peer) => self.transport(stream, peer, visitor, observe),
            NewConnection::Unix(stream, uid) => self.unix_transport(stream, uid),
        })
    }

    /// Serves a connection that `greet` makes ready.
    fn visit(
        &self,
        peer: PeerAddress,
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
        self.lobby.enter(number, peer.group(), cancel.clone());
        let greeted = greet((number, &cancel));
        let result =
            greeted.and_then(|greeted| self.session(greeted, (number, cancel), &mut served, observe));
        if let Err(error) = result {
            served.error = Some(error);
            let summary = &mut served.summary;
            if served.came_back && summary.confirmed + summary.failed + summary.unsent == 0 {
                // The result of the earlier session is not known here: the client may have all its receipts.
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
        self.visit(PeerAddress::Tcp(peer), observe, |_| Ok((transport, Visitor::Accepted(Rights::default()))))
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
        let (claims, activity) = (self.claims.clone(), session.activity());
        let (transfer, ended) = (TransferId::default(), cancel.clone());
        let claimant = Claimant { claims, session: number, transfer, cancel, activity };
        let result = self.requests(&mut session, &caller, &claimant, served, observe);
        let result = result.map_err(|error| match error {
            Error::Cancelled => ended.error(),
            // The session's connection was closed while its thread waited for a disk.
            Error::Cut(cut) if cut.kind() == ErrorKind::NotConnected && ended.is_cancelled() => ended.error(),
            error => error,
        });
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

    /// Waits until there is a place for one more request, before the session's first request is answered.
    fn admit(&self, session: &mut Session, claimant: &Claimant, group: PeerGroup) -> Result<(), Error> {
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
        let asks = TakenSlot {
            number,
            // The key of a client that encrypts is known by now.
            stranger: (!session.is_encrypted()).then_some(group),
            cancel: claimant.cancel.clone(),
            activity: session.activity(),
        };
        if self.slots.take(&asks, host::now()) {
            return Ok(());
        }
        if !self.slots.queue(number, group) {
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

fn is_damage(error: &Error) -> bool {
    let Error::Io { source, .. } = error else { return false };
    source.get_ref().is_some_and(|source| source.is::<DamagedJournal>())
}

/// Opens the journal of deliveries. A damaged journal stops a server that has sinks; any other starts without it.
fn remembered(options: &ShareOptions, directory: &Path) -> Result<Deliveries, Error> {
    match Deliveries::open(&directory.join(journal_name(&options.directory)?)) {
        Err(error) if options.config.sink.is_empty() && is_damage(&error) => {
            tracing::warn!(%error, "what was handed to sinks is not known");
            Ok(Deliveries::default())
        }
        other => other,
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
