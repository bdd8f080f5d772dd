//! The side that connects: put, get and ls, over as many sessions as it takes.

mod connect;
mod prove;

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use linger_untrusted::Untrusted;

use crate::account::{Account, to_sign};
use crate::cancel::Cancel;
use crate::claim::{Claimant, Claims};
use crate::driver::{Activity, Session, SessionEvent};
use crate::error::Error;
use crate::hash::Tree;
use crate::host::{self, Rule};
use crate::identity::is_signed;
use crate::limit::Limiter;
use crate::message::{Get, Item, Kind, Message, Operation, Options, Put, Refusal, Signature, TransferId};
use crate::options::{ClientOptions, GetOptions, Input, Output, PutOptions};
use crate::outgoing::{Outgoing, Pipe, Source};
use crate::path::{BadPath, RelPath};
use crate::progress::{Confirmation, Progress, SignedAccount, Summary};
use crate::reason::{Reason, Remedy};
use crate::receive::{Announced, Receiver, Target};
use crate::remote::Destination;
use crate::root::{Links, Root};
use crate::send::Sender;
use crate::store::Modes;
use crate::walk::{Walk, WalkedEntry};
use crate::wire::Violation;
use connect::is_stranger;

/// Longest time for a close after the end was asked for.
const HURRY: Duration = Duration::from_millis(400);

/// Connects to one server.
#[derive(Debug)]
pub struct Client {
    host: String,
    port: u16,
    options: ClientOptions,
    cancel: Cancel,
    /// A server on this machine takes this client for another user's, so that it has to encrypt.
    stranger: AtomicBool,
    /// Of the session under way.
    activity: Mutex<Option<Arc<Activity>>>,
}

impl Client {
    /// A client of the server at `host`; nothing is connected yet.
    ///
    /// # Errors
    /// Returns an error if the process has no descriptors left.
    pub fn new(host: impl Into<String>, port: u16, options: ClientOptions) -> Result<Self, Error> {
        let cancel = Cancel::new().map_err(|error| Error::io("make", "an eventfd", error))?;
        Ok(Self {
            host: host.into(),
            port,
            options,
            cancel,
            stranger: AtomicBool::new(false),
            activity: Mutex::default(),
        })
    }

    /// A handle that ends the transfer under way.
    pub fn canceller(&self) -> Cancel {
        self.cancel.clone()
    }

    /// For how long the thread of the transfer under way has waited for a disk, and at which entry; `None` while it does
    /// not.
    ///
    /// Nobody can end a call of the system that waits for a disk. The server is told what is waited for, and once the
    /// [`canceller`](Self::canceller) is used it is told so and the connection is closed; but the thread, and with it
    /// [`put`](Self::put) or [`get`](Self::get), comes back when the disk answers.
    pub fn waits_for_disk(&self) -> Option<(Duration, Option<RelPath>)> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.away()
    }

    /// Sends a file, a directory or a pipe, and waits for the receipts, which `observe` gets.
    ///
    /// The summary is true whether or not there is an error: see [`Summary::verdict`].
    pub fn put(
        &self,
        input: Input,
        to: &Destination,
        options: &PutOptions,
        observe: &mut dyn FnMut(Progress),
    ) -> (Summary, Option<Error>) {
        let root;
        let (source, name) = match input {
            Input::Pipe(fd) => (Source::Pipe(Box::new(Pipe::new(fd))), Vec::new()),
            Input::Path(path) => match local(&path) {
                Ok((opened, top)) => {
                    root = opened;
                    let name = name_of(&path);
                    (Source::Tree(walk(&root, top, options)), name)
                }
                Err(error) => return (Summary::default(), Some(error)),
            },
        };
        if let (Destination::Port(name), Source::Tree(walk)) = (to, &source)
            && walk.is_directory()
        {
            let told = format!("a directory cannot go to @{name}: it takes one file, or `-`");
            return (Summary::default(), Some(Error::Usage(told.into())));
        }
        let (path, into, sink) = match to.clone() {
            Destination::Path { path, into } => (path, into, None),
            Destination::Port(name) => (RelPath::root(), true, Some(name)),
        };
        let mut id = TransferId::default();
        // The id only has to be unique, and hard to guess for others who may use the same sink.
        let _ = host::random(&mut id);
        let options_of_both = common(options);
        let exact_modes = options.chmod.is_some();
        let mut put = Put {
            path,
            into,
            name,
            sink,
            id,
            again: false,
            sent: None,
            options: options_of_both,
            exact_modes,
        };
        let mut outgoing = Outgoing::new(source);
        let mut heard_all = true;
        let mut limiter = Limiter::new(options.limit);
        let result = self.attempts(observe, |session, observe| {
            if outgoing.waiting.values().any(|sent| sent.ended) {
                put.sent = Some(outgoing.memory);
            }
            let stream = self.open(session, &Operation::Put(put.clone()))?;
            put.again = true;
            if host::lacks(Rule::KeepId) {
                let _ = host::random(&mut put.id);
            }
            let mut sender = Sender::new(session, stream, put.options, &mut limiter, &mut outgoing, observe);
            // A sink hands the content on, so no durability can be required of it, whatever was asked for.
            sender.least = put.sink.is_none().then_some(put.options.durability);
            match sender.run() {
                Ok(()) => Ok(Farewell::Due),
                // All receipts are here. That the peer does not know it does not change the result.
                Err(error) if outgoing.is_settled() && error.is_temporary() => {
                    tracing::info!(%error, "the session ended early, after the last receipt");
                    heard_all = false;
                    Ok(Farewell::Due)
                }
                Err(error) => Err(error),
            }
        });
        outgoing.settle();
        outgoing.summary.peer_knows = result.is_ok() && heard_all;
        outgoing.summary.transfer = Some(id);
        outgoing.summary.signed =
            outgoing.closed.and_then(|(account, signature)| signed_account(id, &account, &signature));
        (outgoing.summary, result.err())
    }

    /// Fetches a file, a directory or a source.
    ///
    /// The summary is true whether or not there is an error: see [`Summary::verdict`].
    pub fn get(
        &self,
        from: &Destination,
        output: &Output,
        options: &GetOptions,
        observe: &mut dyn FnMut(Progress),
    ) -> (Summary, Option<Error>) {
        let place = match output {
            Output::Path(path) => match landing_place(path, !options.dry_run) {
                Ok(place) => Some(place),
                Err(error) => return (Summary::default(), Some(error)),
            },
            Output::Stream(_) => None,
        };
        let (path, source) = match from.clone() {
            Destination::Path { path, .. } => (path, None),
            Destination::Port(name) => (RelPath::root(), Some(name)),
        };
        let asked = match &source {
            Some(name) => name.clone().into_bytes(),
            None => path.split().map_or_else(Vec::new, |(_, name)| name.to_vec()),
        };
        let &GetOptions { if_exists, verify, dry_run, durability, limit, selection, .. } = options;
        let common = Options { if_exists, verify, dry_run, durability };
        let patterns = options.patterns.iter().map(|line| line.clone().into_bytes()).collect();
        let request = Operation::Get(Get { path, source, patterns, limit, options: common, selection });
        let mut summary = Summary::default();
        let mut kept = Tree::new();
        let claims = Arc::new(Claims::default());
        let result = self.attempts(observe, |session, observe| {
            // The sender of a get starts from the first entry in every session. What is here is confirmed again.
            summary = Summary { wire: summary.wire, ..Summary::default() };
            let stream = self.open(session, &request)?;
            let directory = offer(session)?;
            let target = match (&place, output) {
                (None, Output::Stream(_)) if directory => {
                    let told = Reason::from("a directory cannot go to standard output");
                    return Err(Error::Usage(told.with(Remedy::NameOutput)));
                }
                (Some((root, name)), _) => {
                    Target::Tree { root, base: landing_name(root, name.as_ref(), &asked, directory)? }
                }
                (None, Output::Stream(out)) => Target::Stream { out, so_far: &mut kept },
                (None, Output::Path(_)) => return Err(Error::Usage("nowhere to put it".into())),
            };
            let before = session.received();
            let claimant = Claimant { claims: claims.clone(), session: 0, cancel: self.cancel.clone() };
            let mut receiver =
                Receiver::new(session, stream, target, common, claimant, &mut summary, observe);
            (receiver.from_the_start, receiver.offered_directory) = (true, Some(directory));
            if let Some(chmod) = &options.chmod {
                receiver.change_modes(Modes::Changed(chmod.clone()));
            }
            let received = receiver.run();
            summary.wire += session.received() - before;
            received?;
            // All files are in place. Only the sender's goodbye is missing, which shows that the sender has the receipts.
            summary.peer_knows = loop {
                match session.receive() {
                    Ok(SessionEvent::Bye { code, .. }) => break code == 0,
                    Ok(SessionEvent::Finished { .. } | SessionEvent::Works(_)) => {}
                    Ok(_) | Err(_) => break false,
                }
            };
            Ok(Farewell::Said)
        });
        (summary, result.err())
    }

    /// Lists a directory or one file; calls `each` for every item.
    ///
    /// # Errors
    /// Returns [`Error::Refused`] if there is nothing to list, and the errors of connecting.
    pub fn list(&self, path: &RelPath, each: &mut dyn FnMut(Item)) -> Result<(), Error> {
        let request = Operation::List { path: path.clone() };
        let mut session = self.connect()?;
        let stream = match self.open(&mut session, &request) {
            Err(error) if self.has_to_encrypt(&error) => {
                session.close(&self.options.policy);
                session = self.connect()?;
                self.open(&mut session, &request)?
            }
            other => other?,
        };
        let result = loop {
            match session.receive() {
                Ok(SessionEvent::Message { bytes, .. }) => match Message::decode(&bytes) {
                    Ok(Message::Item(item)) => each(item),
                    Ok(Message::Error { refusal, text }) => break Err(Error::Refused(refusal, text)),
                    Ok(_) => break Err(Violation::Unexpected("a message").into()),
                    Err(error) => break Err(error.into()),
                },
                Ok(SessionEvent::Finished { .. }) => break Ok(()),
                Ok(SessionEvent::Works(_)) => {}
                Ok(SessionEvent::Bye { code, reason }) => break Err(Error::goodbye(code, reason)),
                Ok(_) => break Err(Violation::Unexpected("a frame").into()),
                Err(error) => break Err(error),
            }
        };
        if result.is_ok() {
            session.finish(stream)?;
            session.goodbye(0, "")?;
        }
        session.close(&self.options.policy);
        result
    }

    /// Asks the server what came of the transfer `id` to a sink, perhaps days later.
    ///
    /// # Errors
    /// Returns [`Error::Refused`] if the server knows of no receipt: with `NotFound` no command was started for it, with
    /// `Busy` it is running, with `Command` it failed or nobody knows. Otherwise the errors of connecting.
    pub fn ask(&self, id: [u8; 16]) -> Result<Confirmation, Error> {
        let mut session = self.connect()?;
        session.open(&Operation::Ask { id }.encode())?;
        let answer = loop {
            match session.receive()? {
                SessionEvent::Message { bytes, .. } => match Message::decode(&bytes)? {
                    Message::Receipt(receipt) => break Ok(receipt),
                    Message::Error { refusal, text } => break Err(Error::Refused(refusal, text)),
                    _ => return Err(Violation::Unexpected("a message").into()),
                },
                SessionEvent::Works(_) => {}
                SessionEvent::Bye { code, reason } => return Err(Error::goodbye(code, reason)),
                _ => return Err(Violation::Unexpected("a frame").into()),
            }
        };
        // The answer is here, whatever becomes of the goodbye.
        drop(session.goodbye(0, ""));
        session.close(&self.options.policy);
        answer.map(|receipt| Confirmation::new(Announced::default(), receipt))
    }

    /// Bounds of a close. Whoever has asked for the end does not wait for a slow peer.
    fn policy(&self) -> linger::Policy {
        let policy = self.options.policy;
        if !self.cancel.is_cancelled() {
            return policy;
        }
        policy.with_total(policy.total.min(HURRY)).with_idle(policy.idle.min(HURRY))
    }

    /// Runs sessions until one succeeds, or there is no progress for too long.
    fn attempts(
        &self,
        observe: &mut dyn FnMut(Progress),
        mut once: impl FnMut(&mut Session, &mut dyn FnMut(Progress)) -> Result<Farewell, Error>,
    ) -> Result<(), Error> {
        let retry = self.options.retry;
        let mut pause = retry.first;
        // Since when there has been no lasting progress. Bytes that are sent again and again are no progress.
        let mut in_vain: Option<Instant> = None;
        let mut furthest = 0;
        let (mut connected, mut greeted) = (false, false);
        loop {
            let mut gained = false;
            let result = self.connect().and_then(|mut session| {
                connected = true;
                *self.activity.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.activity());
                session.watch(|| {});
                observe(Progress::Connected { secure: session.is_encrypted() });
                let mut watch = |progress: Progress| {
                    match progress {
                        Progress::Confirmed(_) => (gained, furthest) = (true, 0),
                        Progress::Started { resumed, .. } if resumed > furthest => {
                            (gained, furthest) = (true, resumed);
                        }
                        _ => {}
                    }
                    observe(progress);
                };
                let result = once(&mut session, &mut watch);
                match &result {
                    // All receipts are here. A goodbye that cannot be sent does not change that.
                    Ok(Farewell::Due) => drop(session.goodbye(0, "all receipts are here")),
                    Ok(Farewell::Said) => {}
                    Err(error) => drop(session.goodbye(error.code(), &error.farewell())),
                }
                greeted |= session.is_greeted();
                session.close(&self.policy());
                result.map(drop)
            });
            let Err(error) = result else { return Ok(()) };
            if error.is_temporary() && self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if connected && !greeted && is_stranger(&error) {
                return Err(self.stranger(&error));
            }
            if self.has_to_encrypt(&error) {
                continue;
            }
            if gained {
                (pause, in_vain) = (retry.first, None);
            }
            let waited =
                host::now().saturating_duration_since(*in_vain.get_or_insert_with(host::now)) + pause;
            let temporary = error.is_temporary();
            tracing::info!(%error, connected, temporary, waited_seconds = waited.as_secs_f64(), "session ended early");
            // Only an established transfer waits out an outage; the first connection has to succeed.
            if !connected || !temporary || waited > retry.patience {
                return Err(error);
            }
            observe(Progress::Retrying { error: error.to_string(), pause: pause.as_secs_f64() });
            if self.cancel.wait(pause) {
                return Err(Error::Cancelled);
            }
            pause = (pause * 2).min(retry.longest);
        }
    }
}

/// The receiver's account of the last session, if its signature is right.
fn signed_account(
    transfer: TransferId,
    account: &Account,
    &Signature { key, bytes }: &Signature,
) -> Option<SignedAccount> {
    let (failed, failed_sum) = (account.failed, account.failed_sum.bytes());
    let signed = SignedAccount { transfer, failed, failed_sum, key, signature: bytes };
    is_signed(&key, &to_sign(&transfer, &account.digest()), &bytes).then_some(signed)
}

/// Whether this side's goodbye is still to be sent.
enum Farewell {
    Due,
    Said,
}

/// Waits for the offer, and returns whether it is of a directory. The name in the offer is not used: the server chose it,
/// and names here come from the request alone.
fn offer(session: &mut Session) -> Result<bool, Error> {
    loop {
        match session.receive()? {
            SessionEvent::Message { bytes, .. } => match Message::decode(&bytes)? {
                Message::Offer { directory, .. } => return Ok(directory),
                Message::Error { refusal, text } => return Err(Error::Refused(refusal, text)),
                _ => return Err(Violation::Unexpected("a message before its offer").into()),
            },
            SessionEvent::Bye { code, reason } => return Err(Error::goodbye(code, reason)),
            SessionEvent::Finished { .. } | SessionEvent::Works(_) => {}
            _ => return Err(Violation::Unexpected("a frame before its offer").into()),
        }
    }
}

/// The directory in which the received files land, and the name there, if the user gave one. With `make`, makes the
/// directory if it is missing.
fn landing_place(dest: &Path, make: bool) -> Result<(Root, Option<RelPath>), Error> {
    let typed = dest.as_os_str().as_bytes();
    let parents = if typed.ends_with(b"/") { Some(dest) } else { dest.parent() };
    if let Some(missing) = parents.filter(|parent| make && !parent.as_os_str().is_empty() && !parent.exists())
    {
        std::fs::create_dir_all(missing)
            .map_err(|error| Error::io("make the directory", missing.display().to_string(), error))?;
    }
    if typed.is_empty() || typed.ends_with(b"/") || dest.file_name().is_none() || typed == b"." {
        return Ok((Root::open(if typed.is_empty() { Path::new(".") } else { dest })?, None));
    }
    let (root, name) = parent_and_name(dest)?;
    Ok((root, Some(name)))
}

/// The name of the local file: the given one, else the last component of the requested path.
fn landing_name(
    root: &Root,
    given: Option<&RelPath>,
    asked: &[u8],
    directory: bool,
) -> Result<RelPath, Error> {
    let is_taken = |name: &RelPath| root.directory(name, Links::Follow).is_ok();
    match given {
        // As with cp(1): a file goes into the directory that has the name.
        Some(name) if !directory && !asked.is_empty() && is_taken(name) => name
            .child(asked)
            .map_err(|why| Error::Usage(format!("{}: {why}", Untrusted::from(asked).terminal()).into())),
        Some(name) => Ok(name.clone()),
        // The shared directory itself has no name.
        None if asked.is_empty() => Ok(RelPath::root()),
        None => RelPath::root().child(asked).map_err(|why| {
            Error::Usage(format!("the name {} {why}", Untrusted::from(asked).terminal()).into())
        }),
    }
}

/// What is to be sent: a directory as its own root, or a file below its parent.
fn local(path: &Path) -> Result<(Root, RelPath), Error> {
    let found =
        std::fs::metadata(path).map_err(|error| Error::io("find", path.display().to_string(), error))?;
    if found.is_dir() {
        return Ok((Root::open(path)?, RelPath::root()));
    }
    if !found.is_file() {
        let told = Reason::from(format!("{} is neither file nor directory", path.display()));
        return Err(Error::Refused(Refusal::Source, told.with(Remedy::SendAsPipe)));
    }
    // A link named on the command line is followed; links inside a tree are sent as links.
    match std::fs::canonicalize(path) {
        Ok(real) => parent_and_name(&real),
        Err(_) => parent_and_name(path),
    }
}

fn parent_and_name(path: &Path) -> Result<(Root, RelPath), Error> {
    let usage = |why: BadPath| Error::Usage(format!("{}: {why}", path.display()).into());
    let name =
        path.file_name().ok_or_else(|| Error::Usage(format!("{} names no file", path.display()).into()))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((Root::open(parent)?, RelPath::root().child(name.as_bytes()).map_err(usage)?))
}

fn walk<'a>(root: &'a Root, top: RelPath, options: &PutOptions) -> Walk<'a> {
    Walk::local(root, top, options.patterns.clone(), options.selection, options.chmod.clone())
}

/// Walks through what [`Client::put`] would send: each entry's kind and length, as it would be announced.
///
/// # Errors
/// Returns [`Error::Io`] if there is nothing at `path`.
pub fn scan(path: &Path, options: &PutOptions, each: &mut dyn FnMut(Kind, u64)) -> Result<(), Error> {
    let (root, top) = local(path)?;
    let mut steps = walk(&root, top, options);
    while let Some(found) = steps.next() {
        if let WalkedEntry::Entry(entry, _) = found {
            each(entry.kind, entry.size.unwrap_or(0));
        }
    }
    Ok(())
}

/// The name that a path gets at the other side. For `.` and `dir/..` the real path is looked up.
fn name_of(path: &Path) -> Vec<u8> {
    let name = path.file_name().map(|name| name.as_bytes().to_vec());
    name.or_else(|| std::fs::canonicalize(path).ok()?.file_name().map(|name| name.as_bytes().to_vec()))
        .unwrap_or_default()
}

fn common(options: &PutOptions) -> Options {
    let PutOptions { if_exists, verify, dry_run, durability, .. } = *options;
    Options { if_exists, verify, dry_run, durability }
}

#[cfg(test)]
mod tests;
