//! The receiving half of a transfer, the same for `put` at the server and for `get` at the client.

mod account;
mod arriving;
mod block;
mod content;
mod entry;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::account::{Account, to_sign};
use crate::alive::away;
use crate::claim::Claimant;
use crate::delivery::{Deliveries, DeliveryOrder};
use crate::driver::{Phase, PhaseWork, Session, SessionEvent};
use crate::error::Error;
use crate::fault::Fault;
use crate::hash::{Hash, Pieces, Tree};
use crate::identity::Identity;
use crate::message::{
    Durability, IfExists, MemoryId, Message, Options, Receipt, Refusal, Signature, TransferId,
};
use crate::path::RelPath;
use crate::progress::{Progress, Summary};
use crate::reason::Reason;
use crate::root::Root;
use crate::sink::Spool;
use crate::store::{Landing, Store, now};
use crate::wire::Violation;
use crate::zeros::Allowance;
pub(crate) use account::Announced;
use account::receipt;
use arriving::Arriving;
use content::write_stream;

/// Announced files that wait for their data, at most.
pub(crate) const MAX_ANNOUNCED: usize = 64;
/// Directories that are open at once, at most: a walk goes depth first.
const MAX_DIRECTORIES: usize = crate::path::MAX_DEPTH + 1;

/// The key that signs the account of a transfer.
type Signer<'a> = (&'a Identity, TransferId);

/// Where the received content goes.
pub(crate) enum Target<'a> {
    /// Below a directory. The transfer's top entry gets the path `base`.
    Tree { root: &'a Root, base: RelPath },
    /// To a command of the receiver, which starts when all content is here, and once for each transfer.
    Sink { spool: Box<Spool>, deliveries: Arc<Deliveries>, id: TransferId, anew: bool },
    /// To an fd, block by block. Each block is verified before it is written; the hashes so far are kept here for
    /// later sessions.
    Stream { out: &'a OwnedFd, so_far: &'a mut Tree },
}

/// A [`Target`] while the transfer is being received.
enum OpenTarget<'a> {
    Tree { base: RelPath, store: Box<Store<'a>> },
    Sink { spool: Box<Spool>, deliveries: Arc<Deliveries>, id: TransferId, anew: bool },
    Stream { out: &'a OwnedFd, so_far: &'a mut Tree },
}

pub(crate) struct Receiver<'a> {
    pub(crate) session: &'a mut Session,
    pub(crate) stream: u16,
    pub(crate) options: Options,
    pub(crate) summary: &'a mut Summary,
    pub(crate) observe: &'a mut dyn FnMut(Progress),
    place: OpenTarget<'a>,
    /// Announced files, in the order in which their content arrives; the content of the first is arriving.
    files: VecDeque<Waiting>,
    /// Directories that were announced, and have not been left yet.
    directories: BTreeMap<u64, RelPath>,
    /// An earlier session of this transfer was cut: some of the files may be here, or may still be written by
    /// that session.
    pub(crate) again: bool,
    /// Whether each session of this transfer announces all entries from the first on, as in a get. In a put, a later session
    /// announces only the entries without a receipt.
    pub(crate) from_the_start: bool,
    /// Where a get notes, over all its sessions, how many entries had their receipts when nothing was under way.
    pub(crate) settled: Option<&'a mut Option<u64>>,
    /// Whether the top is a directory, if the peer has told that before the entries (Offer).
    pub(crate) offered_directory: Option<bool>,
    /// The file's name at the sender, which is used if the path that the user gave is a directory.
    pub(crate) own_name: Vec<u8>,
    /// Entries that were announced in this session.
    announced: u64,
    account: Account,
    /// The key that signs the account, and the transfer's id.
    pub(crate) signs: Option<Signer<'a>>,
    /// The name of this receiver's memory of deliveries; zeros if it has none.
    pub(crate) memory: MemoryId,
    /// Whether the sender has to wait for an answer to each file before it sends data.
    ask: bool,
    arriving: Arriving,
    /// The zeros that the sender may still have hashed.
    allowance: Allowance,
    paths: BTreeMap<u64, Announced>,
}

/// A file that was announced and has not ended.
struct Waiting {
    index: u64,
    state: Waits,
}

enum Waits {
    Landing(Box<Landing>),
    /// The file is here already, if the sender has the same content.
    Complete {
        hash: Hash,
        landing: Box<Landing>,
    },
    /// Refused or failed. The sender has been told; content of the file that still arrives is dropped.
    Dropped,
}

impl Waits {
    /// Bytes of the file that are here from an earlier session.
    fn so_far(&self) -> u64 {
        if let Self::Landing(landing) = self { landing.tree.bytes() } else { 0 }
    }

    /// If the file is here already, the sender has other content: receives a new file, under another name if both are to be
    /// kept.
    fn differs(&mut self, place: &mut OpenTarget<'_>, options: Options) {
        if let Self::Complete { .. } = self
            && let Self::Complete { mut landing, .. } = std::mem::replace(self, Self::Dropped)
        {
            if let (OpenTarget::Tree { store, .. }, IfExists::KeepBoth) = (place, options.if_exists) {
                // Without another name the file fails when it lands, as its own is taken.
                let _ = store.rename(&mut landing);
            }
            *self = Self::Landing(landing);
        }
    }
}

impl<'a> Receiver<'a> {
    pub(crate) fn new(
        session: &'a mut Session,
        stream: u16,
        target: Target<'a>,
        options: Options,
        claimant: Claimant,
        summary: &'a mut Summary,
        observe: &'a mut dyn FnMut(Progress),
    ) -> Self {
        let place = match target {
            Target::Tree { root, base } => {
                OpenTarget::Tree { base, store: Box::new(Store::new(root, options, claimant)) }
            }
            Target::Sink { spool, deliveries, id, anew } => OpenTarget::Sink { spool, deliveries, id, anew },
            Target::Stream { out, so_far } => OpenTarget::Stream { out, so_far },
        };
        Self {
            session,
            stream,
            options,
            summary,
            observe,
            place,
            files: VecDeque::new(),
            directories: BTreeMap::new(),
            again: false,
            from_the_start: false,
            settled: None,
            offered_directory: None,
            own_name: Vec::new(),
            announced: 0,
            account: Account::default(),
            signs: None,
            memory: MemoryId::default(),
            ask: false,
            arriving: Arriving::default(),
            allowance: Allowance::default(),
            paths: BTreeMap::new(),
        }
    }

    /// Receives until the sender has sent its last entry, and sends the last receipts. Does not wait for the sender's goodbye.
    ///
    /// Verified blocks of files that have not ended are kept for a later session, however this one ends.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        let result = self.receive();
        if let Some(settled) = self.settled.take() {
            let is_under_way = !self.files.is_empty() || !self.directories.is_empty();
            let is_wrong = !matches!(result, Ok(()) | Err(Error::Cut(_) | Error::Cancelled));
            if !is_under_way && !is_wrong && self.announced > 0 {
                *settled = Some(self.announced);
            } else if is_wrong || settled.is_some_and(|before| before < self.announced) {
                *settled = None;
            }
        }
        for waiting in std::mem::take(&mut self.files) {
            self.summary.unsent += 1;
            if let Waits::Landing(landing) = waiting.state {
                landing.abandon(false);
            }
        }
        if let OpenTarget::Tree { store, .. } = &mut self.place {
            store.tidy();
        }
        result
    }

    fn receive(&mut self) -> Result<(), Error> {
        self.ask = match &self.place {
            OpenTarget::Tree { base, store } => self.again || store.must_ask(base),
            OpenTarget::Stream { so_far, .. } => so_far.blocks() > 0,
            OpenTarget::Sink { deliveries, id, .. } => {
                // An earlier session's command may still run: it outlives the connection.
                while deliveries.is_running(*id) {
                    self.session.works(PhaseWork::new(Phase::Command, 0, 0))?;
                    self.session.linger_for(Duration::from_millis(500))?;
                }
                deliveries.outcome(*id).is_some()
            }
        };
        self.say(&Message::Accept { ask: self.ask, memory: self.memory })?;
        loop {
            let event = match self.session.try_receive()? {
                Some(event) => event,
                None => {
                    // Nothing more has arrived: the files that are complete are not kept waiting for more to
                    // share a sync with.
                    self.commit()?;
                    self.session.receive()?
                }
            };
            match event {
                SessionEvent::Data { stream, length } if stream == self.stream => self.data(length)?,
                SessionEvent::Message { stream, bytes } if stream == self.stream => {
                    if self.message(Message::decode(&bytes)?)? {
                        return self.finish();
                    }
                }
                SessionEvent::Works(work) => (self.observe)(Progress::PeerWorks(work)),
                SessionEvent::Cancelled { reason, .. } => {
                    return Err(Error::Ended(Reason::from_wire(reason)));
                }
                SessionEvent::Bye { code, reason } => return Err(Error::goodbye(code, reason)),
                _ => return Err(Violation::Unexpected("a frame").into()),
            }
        }
    }

    /// All entries have ended: sends the last receipts and the signed account (Done).
    fn finish(&mut self) -> Result<(), Error> {
        debug_assert!(self.files.is_empty(), "the total comes after every end");
        self.commit()?;
        let Account { confirmed, failed, .. } = self.account;
        let digest = self.account.digest();
        let signature = self.signs.and_then(|(identity, id)| {
            let bytes = identity.sign(&to_sign(&id, &digest))?;
            Some(Signature { key: identity.public(), bytes })
        });
        self.say(&Message::Done { confirmed, failed, digest: Some(digest), signature })?;
        self.session.finish(self.stream)?;
        self.session.flush()?;
        Ok(())
    }

    fn say(&mut self, message: &Message) -> Result<(), Error> {
        self.session.message(self.stream, &message.encode())
    }

    fn dest(&self, path: &RelPath) -> Result<RelPath, Fault> {
        match &self.place {
            OpenTarget::Tree { base, .. } => {
                base.join(path).map_err(|why| Fault(Refusal::Forbidden, format!("{path} {why}").into()))
            }
            _ => Ok(path.clone()),
        }
    }

    /// Handles one message. Returns true after the last one.
    fn message(&mut self, message: Message) -> Result<bool, Error> {
        match message {
            Message::Entry(entry) => self.entry(entry)?,
            Message::Sum { value } => self.sum(value)?,
            Message::Hole { bytes } => self.hole(bytes)?,
            Message::End { index, size, hash } => self.end(index, size, hash)?,
            Message::Same { index } => self.same(index)?,
            Message::Abort { index, refusal, text } => self.abort(index, refusal, text)?,
            Message::Leave { index, mode, mtime } => self.leave(index, mode, mtime)?,
            Message::Unsent { path, refusal, text } => {
                self.account.unsent(path.as_bytes());
                self.note_failure(refusal, &text);
                (self.observe)(Progress::NotDelivered { path, refusal, text });
            }
            Message::Total { entries, failed_before } if self.files.is_empty() => {
                // In a put that goes on, some of the entries may have been announced in an earlier session.
                let counts = if self.from_the_start || !self.again {
                    let has_something = entries > 0 || self.summary.failed > 0 || self.summary.skipped > 0;
                    has_something && entries == self.announced
                } else {
                    entries >= self.announced
                };
                if !counts || !self.directories.is_empty() {
                    return Err(Violation::Unexpected("a total of something else").into());
                }
                if failed_before > 0 {
                    // The transfer has failed, even if this session has delivered the rest of it.
                    self.summary.failed = self.summary.failed.saturating_add(failed_before);
                    let told = || Reason::from("something failed in an earlier session of this transfer");
                    self.summary.first_failure.get_or_insert_with(told);
                }
                return Ok(true);
            }
            _ => return Err(Violation::Unexpected("a message").into()),
        }
        Ok(false)
    }

    fn end(&mut self, index: u64, size: u64, hash: Option<Hash>) -> Result<(), Error> {
        self.pay()?;
        let mut waiting = self.take(index)?;
        waiting.state.differs(&mut self.place, self.options);
        if self.arriving.is_whole() {
            return Err(Violation::Unexpected("an end instead of a block's value").into());
        }
        let Waits::Landing(landing) = waiting.state else {
            self.arriving.clear();
            return Ok(());
        };
        let arrived = landing.tree.bytes() + self.arriving.bytes() as u64;
        if size != arrived || (landing.entry.size.is_some_and(|known| known != size)) {
            landing.abandon(true);
            return Err(Error::Refused(
                Refusal::Corrupt,
                format!("{arrived} bytes arrived instead of {size}").into(),
            ));
        }
        if self.options.verify && hash != Some(self.arriving.end(&landing.tree)) {
            landing.abandon(hash.is_some());
            return Err(Error::Refused(Refusal::Corrupt, "the end of a file arrived damaged".into()));
        }
        let arriving = std::mem::take(&mut self.arriving);
        let landed = self.land(*landing, arriving.pieces(), size, hash);
        self.arriving = arriving;
        self.arriving.clear();
        landed
    }

    fn land(
        &mut self,
        landing: Landing,
        tail: Pieces<'_>,
        size: u64,
        hash: Option<Hash>,
    ) -> Result<(), Error> {
        let index = landing.entry.index;
        // The files of a tree get their final names and receipts in groups, everything else immediately, one by one.
        let landed = match &mut self.place {
            OpenTarget::Tree { store, .. } => match store.land(landing, tail, size, hash) {
                Ok(()) if store.is_due() => return self.commit(),
                Ok(()) => return Ok(()),
                Err(fault) => Err(fault),
            },
            OpenTarget::Sink { spool, deliveries, id, anew } => {
                let receipt = Receipt {
                    name: format!("@{}", spool.name()).into_bytes(),
                    durability: Durability::Handed,
                    ..receipt(index, size, hash, self.options, &RelPath::root())
                };
                match spool.write(tail).and_then(|()| spool.hand_over()) {
                    Ok(mut spool) => {
                        let (deliveries, id, anew) = (deliveries.clone(), *id, *anew);
                        // The command goes on without the session if that is cancelled; its result is remembered
                        // for a later session.
                        away(self.session, Phase::Command, 0, move |_| {
                            let content = spool.content(hash)?;
                            let order = DeliveryOrder { id, content, anew };
                            let command = || spool.deliver().map(|()| Receipt { time: now(), ..receipt });
                            deliveries.run(&order, command)
                        })?
                    }
                    Err(fault) => Err(fault),
                }
            }
            OpenTarget::Stream { out, so_far } => write_stream(out, tail).map(|()| {
                **so_far = Tree::new();
                let receipt = receipt(index, size, hash, self.options, &RelPath::root());
                Receipt { name: Vec::new(), durability: Durability::Handed, ..receipt }
            }),
        };
        match landed {
            Ok(receipt) => self.confirm(receipt),
            // Not a failure: nobody knows whether the command ran. For the sender, the entry is sent and unconfirmed.
            Err(fault) if fault.is_open() => {
                let Fault(refusal, text) = fault;
                self.say(&Message::Error { refusal, text: text.clone() })?;
                self.session.finish(self.stream)?;
                self.session.flush()?;
                Err(Error::Refused(refusal, text))
            }
            Err(fault) => self.failed_entry(index, fault),
        }
    }

    /// Gives complete files their final names, and sends the receipts.
    fn commit(&mut self) -> Result<(), Error> {
        let OpenTarget::Tree { store, .. } = &mut self.place else { return Ok(()) };
        if !store.waits() {
            return Ok(());
        }
        let synced = match store.syncer() {
            Ok(Some(sync)) => away(self.session, Phase::Disk, 0, move |_| sync())?,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        for result in store.commit(synced) {
            match result {
                Ok(receipt) => self.confirm(receipt)?,
                Err((index, fault)) => self.failed_entry(index, fault)?,
            }
        }
        Ok(())
    }

    fn same(&mut self, index: u64) -> Result<(), Error> {
        match self.take(index)?.state {
            Waits::Complete { hash, landing } => {
                let size = landing.entry.size.unwrap_or(0);
                let hash = self.options.verify.then_some(hash);
                if let OpenTarget::Sink { deliveries, id, .. } = &self.place {
                    return match deliveries.outcome(*id) {
                        Some(Ok(receipt)) => self.confirm(Receipt { index, ..receipt }),
                        _ => Err(Violation::Unexpected("the same of nothing").into()),
                    };
                }
                let mut receipt = receipt(index, size, hash, self.options, landing.dest());
                receipt.present = true;
                if let OpenTarget::Tree { store, .. } = &mut self.place {
                    let settled = match store.settler(&landing) {
                        Ok(settle) => away(self.session, Phase::Disk, 0, move |_| settle())?,
                        Err(fault) => Err(fault),
                    };
                    match settled.and_then(|mode| store.settle_above(landing.dest()).map(|()| mode)) {
                        Ok(mode) => receipt.mode = Some(mode),
                        Err(fault) => return self.failed_entry(index, fault),
                    }
                }
                self.confirm(receipt)
            }
            _ => Err(Violation::Unexpected("the same of another file").into()),
        }
    }

    fn abort(&mut self, index: u64, refusal: Refusal, text: Reason) -> Result<(), Error> {
        self.arriving.clear();
        match self.take(index)?.state {
            Waits::Landing(landing) => landing.abandon(refusal == Refusal::Source),
            Waits::Complete { .. } => {}
            // The failure was noted when the file was dropped.
            Waits::Dropped => return Ok(()),
        }
        let Announced { path, .. } = self.paths.remove(&index).unwrap_or_default();
        self.account.fail(index);
        self.note_failure(refusal, &text);
        (self.observe)(Progress::NotDelivered { path, refusal, text });
        Ok(())
    }

    fn leave(&mut self, index: u64, mode: u32, mtime: crate::message::Time) -> Result<(), Error> {
        // Files of this directory that still wait for their final names would change the directory's time again.
        self.commit()?;
        let Some(dest) = self.directories.remove(&index) else {
            // The directory failed when it was announced, and the sender has been told.
            return Ok(());
        };
        let left = match &mut self.place {
            OpenTarget::Tree { store, .. } => store.leave_directory(&dest, mode, mtime),
            OpenTarget::Sink { .. } | OpenTarget::Stream { .. } => Ok(None),
        };
        match left {
            Ok(mode) => self.confirm(Receipt { mode, ..receipt(index, 0, None, self.options, &dest) }),
            Err(fault) => self.failed(index, &dest, fault),
        }
    }

    fn take(&mut self, index: u64) -> Result<Waiting, Error> {
        match self.files.pop_front() {
            Some(waiting) if waiting.index == index => Ok(waiting),
            _ => Err(Violation::Unexpected("the end of another file").into()),
        }
    }

    /// Gives up the current file, which cannot be written. What still arrives of it is dropped.
    fn fail_current(&mut self, fault: Fault) -> Result<(), Error> {
        self.arriving.clear();
        let Some(waiting) = self.files.front_mut() else { return Ok(()) };
        let index = waiting.index;
        if let Waits::Landing(landing) = std::mem::replace(&mut waiting.state, Waits::Dropped) {
            // A pipe cannot be read twice: nobody can go on with it.
            let is_pipe = landing.entry.kind == crate::message::Kind::Pipe;
            landing.abandon(is_pipe);
        }
        self.failed_entry(index, fault)
    }
}

#[cfg(test)]
mod tests;
