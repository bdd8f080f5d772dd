//! The side that connects: put, get and ls, over as many sessions as it takes.

mod ask;
mod attempts;
mod connect;
mod goodbye;
mod local;
mod patience;
mod prove;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::account::{Account, to_sign};
use crate::cancel::Cancel;
use crate::claim::{Claimant, Claims};
use crate::driver::{Activity, Session, SessionEvent};
use crate::error::Error;
use crate::hash::Tree;
use crate::host::{self, Rule};
use crate::identity::is_signed;
use crate::limit::Limiter;
use crate::message::{Get, Message, Operation, Options, Put, Signature, TransferId};
use crate::options::{ClientOptions, GetOptions, Input, Output, PutOptions};
use crate::outgoing::{Outgoing, Pipe, Source};
use crate::path::RelPath;
use crate::progress::{Progress, SignedAccount, Summary};
use crate::reason::{Reason, Remedy};
use crate::receive::{Receiver, Target};
use crate::remote::Destination;
use crate::send::Sender;
use crate::store::Modes;
use crate::wire::Violation;
use attempts::{Farewell, last_word};
use connect::ServerAddress;
use local::{landing_name, landing_place, local, name_of, walk};
pub use local::{linked_directory, scan};

/// Connects to one server.
#[derive(Debug)]
pub struct Client {
    server: ServerAddress,
    options: ClientOptions,
    cancel: Cancel,
    /// A server on this machine has taken this client for another user's: connections are encrypted from then on.
    stranger: AtomicBool,
    /// The activity of the session under way.
    activity: Mutex<Option<Arc<Activity>>>,
}

impl Client {
    /// A client of the server at `host`; nothing is connected yet.
    ///
    /// # Errors
    /// Returns an error if the process has no descriptors left.
    pub fn new(host: impl Into<String>, port: u16, options: ClientOptions) -> Result<Self, Error> {
        Self::of(ServerAddress::Tcp { host: host.into(), port }, options)
    }

    /// A client of the server that listens on a unix socket; nothing is connected yet.
    ///
    /// Nothing is encrypted there, so [`Security::Always`](crate::Security::Always) is refused. The server has to be this
    /// user's or root's, except with [`Security::Never`](crate::Security::Never).
    ///
    /// # Errors
    /// Returns an error if the process has no descriptors left.
    pub fn unix(path: impl Into<PathBuf>, options: ClientOptions) -> Result<Self, Error> {
        Self::of(ServerAddress::Unix(path.into()), options)
    }

    fn of(server: ServerAddress, options: ClientOptions) -> Result<Self, Error> {
        let cancel = Cancel::new().map_err(|error| Error::io("make", "an eventfd", error))?;
        Ok(Self { server, options, cancel, stranger: AtomicBool::new(false), activity: Mutex::default() })
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
        if let (Destination::Named(name), Source::Tree(walk)) = (to, &source)
            && walk.is_directory()
        {
            let told = format!("a directory cannot go to @{name}: it takes one file, or `-`");
            return (Summary::default(), Some(Error::Usage(told.into())));
        }
        let (path, into, sink) = match to.clone() {
            Destination::Path { path, into } => (path, into, None),
            Destination::Named(name) => (RelPath::root(), true, Some(name)),
        };
        let mut id = TransferId::default();
        // The id only has to be unique, and hard to guess for others who may use the same sink.
        let _ = host::random(&mut id);
        let mut put = Put {
            path,
            into,
            name,
            sink,
            id,
            again: false,
            sent: None,
            options: common(options),
            exact_modes: options.chmod.is_some(),
            anew: options.anew,
        };
        let mut outgoing = Outgoing::new(source);
        let mut heard_all = true;
        let mut limiter = Limiter::new(options.limit);
        let result = self.attempts(false, observe, |session, observe| {
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
            let run = sender.run();
            heard_all = run.is_ok();
            last_word(run, outgoing.is_settled())
        });
        outgoing.settle(put.sink.is_some());
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
            Destination::Named(name) => (RelPath::root(), Some(name)),
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
        let (mut kept, mut settled) = (Tree::new(), None);
        let claims = Arc::new(Claims::default());
        let result = self.attempts(true, observe, |session, observe| {
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
            let claimant = Claimant {
                claims: claims.clone(),
                session: 0,
                transfer: TransferId::default(),
                cancel: self.cancel.clone(),
                activity: session.activity(),
            };
            let mut receiver =
                Receiver::new(session, stream, target, common, claimant, &mut summary, observe);
            (receiver.from_the_start, receiver.offered_directory) = (true, Some(directory));
            receiver.settled = Some(&mut settled);
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
        if result.is_err() && settled.is_some() && summary.failed == 0 {
            // The sender may have all receipts. Whether more was to come is not known here.
            summary.unconfirmed += std::mem::take(&mut summary.unsent).max(1);
        }
        (summary, result.err())
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

fn common(options: &PutOptions) -> Options {
    let PutOptions { if_exists, verify, dry_run, durability, .. } = *options;
    Options { if_exists, verify, dry_run, durability }
}

#[cfg(test)]
mod tests;
