//! The sending half of a transfer, the same for `put` at the client and for `get` at the server.
//!
//! [`Outgoing`] outlives sessions. It holds the entries that were announced and are not confirmed; every new session
//! begins with them.

mod content;
mod pipe;

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, OwnedFd};

use crate::account::Account;
use crate::alive::{Gauge, away};
use crate::driver::{Phase, Session, SessionEvent};
use crate::error::Error;
use crate::hash::{BLOCK, Hash, Hashing, Tree};
use crate::limit::Limiter;
use crate::message::{Durability, EntryAnswer, Kind, Message, Options, Receipt, Refusal, TreeEntry};
use crate::outgoing::{Act, Outgoing, SentEntry, Source};
use crate::page_buffer::PageBuffer;
use crate::path::RelPath;
use crate::progress::{Confirmation, Progress};
use crate::reason::{Reason, Remedy};
use crate::receive::{Announced, MAX_ANNOUNCED};
use crate::store::hash_as;
use crate::wire::Violation;
use crate::zeros::Allowance;

/// The most entries that wait for their receipts. Each costs some hundred bytes here.
const MAX_WAITING: usize = 2048;
/// The end of a file counts as at most this many bytes of work. After a block's worth of work, messages are read.
const SMALL: u64 = 64 << 10;

/// One session's worth of sending.
pub(crate) struct Sender<'s, 'a> {
    pub(crate) session: &'s mut Session,
    pub(crate) stream: u16,
    pub(crate) options: Options,
    pub(crate) limiter: &'s mut Limiter,
    pub(crate) outgoing: &'s mut Outgoing<'a>,
    pub(crate) observe: &'s mut dyn FnMut(Progress),
    ask: bool,
    asked: VecDeque<(TreeEntry, Option<OwnedFd>)>,
    answers: VecDeque<(u64, EntryAnswer)>,
    done: bool,
    piece: PageBuffer,
    since_look: u64,
    /// The least durability that a receipt has to state, if one was asked for.
    pub(crate) least: Option<Durability>,
    account: Account,
    /// The zeros that the receiver still hashes for this side.
    allowance: Allowance,
    /// Why a receipt is not for the content that was sent, if that happened.
    disputed: Option<Reason>,
}

impl<'s, 'a> Sender<'s, 'a> {
    pub(crate) fn new(
        session: &'s mut Session,
        stream: u16,
        options: Options,
        limiter: &'s mut Limiter,
        outgoing: &'s mut Outgoing<'a>,
        observe: &'s mut dyn FnMut(Progress),
    ) -> Self {
        Self {
            session,
            stream,
            options,
            limiter,
            outgoing,
            observe,
            ask: false,
            asked: VecDeque::new(),
            answers: VecDeque::new(),
            done: false,
            piece: PageBuffer::default(),
            since_look: 0,
            least: None,
            account: Account::default(),
            allowance: Allowance::default(),
            disputed: None,
        }
    }

    /// Sends everything and waits for every receipt.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        let sent_before = self.session.sent();
        let result = self.send().or_else(|error| self.explain(error));
        self.outgoing.summary.wire += self.session.sent() - sent_before;
        result
    }

    /// Returns the reason that the peer sent before the connection was cut, as an error; without one, `error` itself.
    fn explain(&mut self, error: Error) -> Result<(), Error> {
        if !matches!(error, Error::Cut(_)) {
            return Err(error);
        }
        while let Some(event) = self.session.last_words() {
            match self.event(event) {
                Err(Error::Violation(_)) | Ok(()) => {}
                Err(told) => return Err(told),
            }
        }
        Err(error)
    }

    fn send(&mut self) -> Result<(), Error> {
        // Failures to read a source are sent again in every session, and so are not counted as earlier failures.
        // What was left out as asked is among the problems, and has not failed.
        let unsent = self.outgoing.problems.iter().filter(|(_, refusal, _)| *refusal != Refusal::Skipped);
        self.outgoing.failed_before = self.outgoing.summary.failed - unsent.count() as u64;
        self.await_accept()?;
        for at in 0..self.outgoing.problems.len() {
            self.say_problem(at)?;
        }
        let mut again = self.outgoing.again();
        while let Some(act) = again.pop_front().or_else(|| self.outgoing.next()) {
            match act {
                Act::Entry(entry, file) => self.announce(entry, file)?,
                Act::Leave(index, mode, mtime) => {
                    // Record it before sending: the walk yields it once, and a later session may have to repeat it.
                    if let Some(sent) = self.outgoing.waiting.get_mut(&index) {
                        sent.leave = Some((mode, mtime));
                    }
                    while !self.asked.is_empty() {
                        self.transfer_next()?;
                    }
                    if let Some(sent) = self.outgoing.waiting.get_mut(&index) {
                        sent.ended = true;
                        self.say(&Message::Leave { index, mode, mtime })?;
                    }
                }
                Act::Problem(path, refusal, text) => {
                    let text = Reason::from(text);
                    self.outgoing.problems.push((path.clone(), refusal, text.clone()));
                    self.not_delivered(path, refusal, text);
                    self.say_problem(self.outgoing.problems.len() - 1)?;
                }
            }
            while self.outgoing.waiting.len() >= MAX_WAITING {
                self.await_event()?;
            }
        }
        while !self.asked.is_empty() {
            self.transfer_next()?;
        }
        let entries = self.outgoing.announced;
        let failed_before = self.outgoing.failed_before;
        self.say(&Message::Total { entries, failed_before })?;
        self.session.finish(self.stream)?;
        self.session.flush()?;
        if !self.outgoing.waiting.is_empty() {
            (self.observe)(Progress::Waiting { entries: self.outgoing.waiting.len() as u64 });
        }
        while !self.done {
            self.await_event()?;
        }
        match self.disputed.take() {
            // The receiver counts the entry as confirmed, so it has to be told that it is not.
            Some(why) => Err(Error::Refused(Refusal::Other, why)),
            None if self.outgoing.waiting.is_empty() => Ok(()),
            None => Err(Violation::Unexpected("its end before all receipts").into()),
        }
    }

    fn await_accept(&mut self) -> Result<(), Error> {
        loop {
            match self.session.receive()? {
                SessionEvent::Message { bytes, .. } => match Message::decode(&bytes)? {
                    Message::Accept { ask, memory } => {
                        self.outgoing.memory = memory;
                        self.ask = ask;
                        return Ok(());
                    }
                    Message::Error { refusal, text } => return Err(Error::Refused(refusal, text)),
                    _ => return Err(Violation::Unexpected("a message before its acceptance").into()),
                },
                other => self.event(other)?,
            }
        }
    }

    fn say(&mut self, message: &Message) -> Result<(), Error> {
        self.session.message(self.stream, &message.encode())
    }

    fn say_problem(&mut self, at: usize) -> Result<(), Error> {
        let Some((path, refusal, text)) = self.outgoing.problems.get(at).cloned() else { return Ok(()) };
        self.account.unsent(path.as_bytes());
        self.say(&Message::Unsent { path, refusal, text })
    }

    fn not_delivered(&mut self, path: RelPath, refusal: Refusal, text: Reason) {
        self.outgoing.summary.not_delivered(refusal, &text);
        (self.observe)(Progress::NotDelivered { path, refusal, text });
    }

    /// Whether the receiver's account of the session is this side's.
    fn agrees(&self, confirmed: u64, failed: u64, digest: Option<Hash>) -> bool {
        (confirmed, failed) == (self.account.confirmed, self.account.failed)
            && digest.is_none_or(|digest| digest == self.account.digest())
    }

    /// Notes that a receipt is not for what was sent.
    fn dispute(&mut self, path: RelPath, refusal: Refusal, text: Reason) {
        self.disputed.get_or_insert_with(|| text.clone());
        self.not_delivered(path, refusal, text);
    }

    fn announce(&mut self, entry: TreeEntry, file: Option<OwnedFd>) -> Result<(), Error> {
        let index = entry.index;
        let has_content = matches!(entry.kind, Kind::File | Kind::Pipe);
        self.outgoing.announced = self.outgoing.announced.max(index + 1);
        if self.options.dry_run {
            self.say(&Message::Entry(entry.clone()))?;
            return self.dry(entry);
        }
        // If an earlier session has left this directory, it is left again in this one.
        let before = self.outgoing.waiting.get(&index);
        let (leave, was_ended) = before.map_or((None, false), |sent| (sent.leave, sent.was_ended));
        // Record it before sending: the walk yields it once, and a later session may have to repeat it.
        let sent = SentEntry { entry: entry.clone(), leave, ended: false, was_ended, content: None };
        self.outgoing.waiting.insert(index, sent);
        self.say(&Message::Entry(entry.clone()))?;
        if entry.kind == Kind::Link
            && let Some(sent) = self.outgoing.waiting.get_mut(&index)
        {
            sent.ended = true;
        }
        if !has_content {
            let TreeEntry { path, kind, .. } = entry;
            (self.observe)(Progress::Started { path, kind, size: None, resumed: 0 });
            return Ok(());
        }
        if !self.ask {
            return self.transfer(entry, file, Tree::new());
        }
        self.asked.push_back((entry, file));
        if self.asked.len() >= MAX_ANNOUNCED / 2 { self.transfer_next() } else { Ok(()) }
    }

    fn dry(&mut self, entry: TreeEntry) -> Result<(), Error> {
        let (index, answer) = loop {
            match self.answers.pop_front() {
                Some(answer) => break answer,
                None => self.await_event()?,
            }
        };
        if index != entry.index {
            return Err(Violation::Unexpected("an answer to another question").into());
        }
        match answer {
            EntryAnswer::Refused(refusal, text) => {
                self.account.fail(index);
                self.not_delivered(entry.path, refusal, text);
            }
            answer => {
                let same = matches!(answer, EntryAnswer::Complete(_));
                let bytes = if same { 0 } else { entry.size.unwrap_or(0) };
                (self.observe)(Progress::WouldSend { path: entry.path, kind: entry.kind, bytes });
            }
        }
        Ok(())
    }

    /// Takes the next answer, and sends the content that it asks for.
    fn transfer_next(&mut self) -> Result<(), Error> {
        let (index, answer) = loop {
            match self.answers.pop_front() {
                Some(answer) => break answer,
                None => self.await_event()?,
            }
        };
        let Some((entry, file)) = self.asked.pop_front().filter(|(entry, _)| entry.index == index) else {
            return Err(Violation::Unexpected("an answer to another question").into());
        };
        match answer {
            EntryAnswer::Fresh => self.transfer(entry, file, Tree::new()),
            EntryAnswer::Partial(tree) => self.transfer(entry, file, tree),
            EntryAnswer::Complete(hash) => self.compare(entry, file, hash),
            EntryAnswer::Refused(refusal, text) => {
                self.outgoing.waiting.remove(&index);
                self.account.fail(index);
                self.not_delivered(entry.path, refusal, text);
                Ok(())
            }
        }
    }

    fn compare(&mut self, entry: TreeEntry, file: Option<OwnedFd>, theirs: Hash) -> Result<(), Error> {
        let index = entry.index;
        let (ours, file) = if entry.hash.is_some() {
            (entry.hash, file)
        } else if !self.options.verify {
            // The transfer is not verified: the receiver has compared length and time, which has to be enough.
            (Some(theirs), file)
        } else {
            let Some(file) = self.reopen(&entry, file)? else { return Ok(()) };
            (self.observe)(Progress::Verifying { path: entry.path.clone() });
            let by_blocks = entry.by_blocks;
            let hash = move |gauge: &Gauge| (hash_as(file.as_fd(), by_blocks, gauge).ok(), file);
            let (hashed, file) = away(self.session, Phase::Verify, entry.size.unwrap_or(0), hash)?;
            (hashed.map(|(hash, _)| hash), Some(file))
        };
        if ours != Some(theirs) {
            return self.transfer(entry, file, Tree::new());
        }
        if let Some(sent) = self.outgoing.waiting.get_mut(&index) {
            sent.ended = true;
            sent.content = entry.size.map(|size| (size, ours.filter(|_| self.options.verify)));
        }
        self.say(&Message::Same { index })
    }

    /// Returns `file`, or opens the entry again if only an earlier session had it open. If that fails, aborts the entry and
    /// returns `None`.
    fn reopen(&mut self, entry: &TreeEntry, file: Option<OwnedFd>) -> Result<Option<OwnedFd>, Error> {
        if file.is_some() {
            return Ok(file);
        }
        let Source::Tree(walk) = &self.outgoing.source else { return Ok(None) };
        match walk.reopen(entry) {
            Ok(Some(file)) => Ok(Some(file)),
            Ok(None) => {
                let text =
                    format!("{} was replaced or changed while the connection was down", self.told(entry));
                self.abort(entry, Reason::from(text).with(Remedy::SendAgain))?;
                Ok(None)
            }
            Err(error) => {
                let text = format!("cannot open {}: {}", self.told(entry), std::io::Error::from(error));
                self.abort(entry, text.into())?;
                Ok(None)
            }
        }
    }

    fn abort(&mut self, entry: &TreeEntry, text: Reason) -> Result<(), Error> {
        let index = entry.index;
        if self.outgoing.waiting.remove(&index).is_some() {
            self.account.fail(index);
            self.not_delivered(entry.path.clone(), Refusal::Source, text.clone());
        }
        self.say(&Message::Abort { index, refusal: Refusal::Source, text })
    }

    fn transfer(&mut self, entry: TreeEntry, file: Option<OwnedFd>, tree: Tree) -> Result<(), Error> {
        self.session.turns_to(&entry.path);
        let started = Progress::Started {
            path: entry.path.clone(),
            kind: entry.kind,
            size: entry.size,
            resumed: tree.bytes(),
        };
        (self.observe)(started);
        if entry.kind == Kind::Pipe {
            return self.pipe(entry, &tree);
        }
        let is_reopened = file.is_none();
        let Some(file) = self.reopen(&entry, file)? else { return Ok(()) };
        let reads_again = (is_reopened && self.is_live()) || self.rereads();
        let (file, begins) = if reads_again { self.begins_with(&entry, file, &tree)? } else { (file, true) };
        if !begins {
            let text = format!("{} does not begin any more with what was sent of it", self.told(&entry));
            return self.abort(&entry, Reason::from(text).with(Remedy::SendAgain));
        }
        let ended = if self.options.verify {
            let tree = tree.hashed(Hashing::of(true, entry.by_blocks));
            self.verified(&entry, file.as_fd(), tree)?
        } else {
            self.unverified(&entry, file.as_fd(), tree.bytes())?
        };
        let Some((size, hash)) = ended else { return Ok(()) };
        self.end(entry.index, size, hash)
    }

    fn end(&mut self, index: u64, size: u64, hash: Option<Hash>) -> Result<(), Error> {
        if let Some(sent) = self.outgoing.waiting.get_mut(&index) {
            sent.ended = true;
            sent.content = Some((size, hash));
            self.say(&Message::End { index, size, hash })?;
        } else {
            // The receiver has failed the file while it was being sent.
            let text = "given up by the receiver".into();
            self.say(&Message::Abort { index, refusal: Refusal::Other, text })?;
        }
        self.look_around(size.min(SMALL))
    }

    /// Handles messages that have arrived, once for each block's worth of work.
    fn look_around(&mut self, work: u64) -> Result<(), Error> {
        self.since_look = self.since_look.saturating_add(work.max(4096));
        if self.since_look >= BLOCK as u64 {
            self.since_look = 0;
            while let Some(event) = self.session.try_receive()? {
                self.event(event)?;
            }
        }
        Ok(())
    }

    fn await_event(&mut self) -> Result<(), Error> {
        let event = self.session.receive()?;
        self.event(event)
    }

    fn event(&mut self, event: SessionEvent) -> Result<(), Error> {
        match event {
            SessionEvent::Message { bytes, .. } => self.message(Message::decode(&bytes)?),
            SessionEvent::Finished { .. } => Ok(()),
            SessionEvent::Works(work) => {
                (self.observe)(Progress::PeerWorks(work));
                Ok(())
            }
            SessionEvent::Cancelled { reason, .. } => Err(Error::Ended(Reason::from_wire(reason))),
            SessionEvent::Bye { code, reason } => Err(Error::goodbye(code, reason)),
            _ => Err(Violation::Unexpected("a frame").into()),
        }
    }

    fn message(&mut self, message: Message) -> Result<(), Error> {
        match message {
            Message::Answer { index, answer } => {
                if self.answers.len() >= MAX_ANNOUNCED {
                    return Err(Violation::Unexpected("an answer nobody asked for").into());
                }
                self.answers.push_back((index, answer));
            }
            Message::Progress { index, bytes } => {
                if let Source::Pipe(pipe) = &mut self.outgoing.source
                    && index == 0
                {
                    let confirmed = bytes / BLOCK as u64;
                    while pipe.tree.blocks() - (pipe.held.len() as u64) < confirmed && !pipe.held.is_empty() {
                        pipe.held.pop_front();
                    }
                }
            }
            Message::Receipt(receipt) => self.receipt(receipt)?,
            Message::Failed { index, refusal, text } => {
                if let Some(sent) = self.outgoing.waiting.remove(&index) {
                    self.account.fail(index);
                    self.not_delivered(sent.entry.path, refusal, text);
                }
            }
            Message::Done { confirmed, failed, digest, .. } if !self.agrees(confirmed, failed, digest) => {
                return Err(Violation::Unexpected("another account of the session").into());
            }
            Message::Done { signature, .. } => {
                // A session that only repeats a lost goodbye has no entries: the signature of the session before stays.
                if self.account != Account::default() || self.outgoing.closed.is_none() {
                    self.outgoing.closed = signature.map(|signature| (self.account, signature));
                }
                self.done = true;
            }
            Message::Error { refusal, text } => return Err(Error::Refused(refusal, text)),
            _ => return Err(Violation::Unexpected("a message").into()),
        }
        Ok(())
    }

    fn receipt(&mut self, receipt: Receipt) -> Result<(), Error> {
        let known = self.outgoing.waiting.get(&receipt.index).is_some_and(|sent| sent.ended);
        if !known {
            return Err(Violation::Unexpected("a receipt for what was not sent").into());
        }
        let Some(sent) = self.outgoing.waiting.remove(&receipt.index) else { return Ok(()) };
        let announced = Announced::from(&sent.entry);
        self.account.confirm(&announced.confirmed(&receipt));
        if let Some(least) = self.least
            && receipt.durability < least
        {
            let text =
                format!("{} was received, but less was done for it than was asked for", sent.entry.path);
            self.dispute(sent.entry.path, Refusal::Other, text.into());
            return Ok(());
        }
        if sent.content.is_some_and(|content| content != (receipt.size, receipt.hash)) {
            let text = format!("the receipt of {} is for other content than was sent", sent.entry.path);
            self.dispute(sent.entry.path, Refusal::Corrupt, text.into());
            return Ok(());
        }
        self.outgoing.summary.confirmed += 1;
        self.outgoing.summary.bytes += receipt.size;
        (self.observe)(Progress::Confirmed(Confirmation::new(announced, receipt)));
        Ok(())
    }
}
