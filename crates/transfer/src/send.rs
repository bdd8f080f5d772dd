//! The sending half of a transfer, the same for `put` at the client and for `get` at the server.
//!
//! [`Outgoing`] outlives sessions: it knows what was announced and is not confirmed, and every new session
//! begins with that.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::SeekFrom;

use crate::driver::{Event, Session};
use crate::error::Error;
use crate::hash::{BLOCK, BlockHasher, Hash, Sum, Tree};
use crate::limit::Limiter;
use crate::message::{Answer, Entry, Kind, Message, Options, Receipt, Refusal, Time};
use crate::path::RelPath;
use crate::progress::{Confirmation, Progress, Summary};
use crate::receive::{MAX_ANNOUNCED, keep_alive};
use crate::root::{mtime, read_full};
use crate::sink::finish;
use crate::store::hash_file;
use crate::walk::{Found, Walk};
use crate::wire::Violation;

/// Entries without receipt, at most. Each costs some hundred bytes here.
const MAX_WAITING: usize = 2048;
/// Blocks of a pipe that are kept until the receiver has them.
const MAX_HELD: usize = 8;
/// Files of at most this length are sent a few at a time between looks at what has come back.
const SMALL: u64 = 64 << 10;

/// What is read, hashed and sent at once: a fraction of a second-level cache.
const PIECE: usize = 256 << 10;

/// Where the bytes come from.
pub(crate) enum Source<'a> {
    Tree(Walk<'a>),
    Pipe(Box<Pipe>),
}

/// Bytes of unknown length.
pub(crate) struct Pipe {
    input: OwnedFd,
    /// The command that writes them, if it is one: it has to end well.
    child: Option<(std::process::Child, String, Instant)>,
    entry: Option<Entry>,
    /// Complete blocks, all of them hashed, whether held or not.
    tree: Tree,
    /// Blocks that the receiver has not confirmed; the last of them is number `tree.blocks() - 1`.
    held: VecDeque<Vec<u8>>,
    current: Vec<u8>,
    ended: bool,
}

impl Pipe {
    pub(crate) fn new(input: OwnedFd) -> Self {
        let mut token = [0; 16];
        // Uniqueness is all that is asked of it; it is no secret.
        let _ = rustix::rand::getrandom(&mut token, rustix::rand::GetRandomFlags::empty());
        let entry = Entry {
            index: 0,
            kind: Kind::Pipe,
            path: RelPath::root(),
            mode: 0o644,
            mtime: None,
            size: None,
            token,
            hash: None,
            sparse: false,
            target: Vec::new(),
        };
        Self {
            input,
            child: None,
            entry: Some(entry),
            tree: Tree::new(),
            held: VecDeque::new(),
            current: Vec::new(),
            ended: false,
        }
    }

    pub(crate) fn of_command(
        child: std::process::Child,
        program: String,
        input: OwnedFd,
        end: Instant,
    ) -> Self {
        Self { child: Some((child, program, end)), ..Self::new(input) }
    }

    fn length(&self) -> u64 {
        self.tree.bytes() + self.current.len() as u64
    }

    fn hash(&self) -> Hash {
        self.tree.end(&self.current)
    }
}

/// An entry without receipt.
struct Sent {
    entry: Entry,
    leave: Option<(u32, Time)>,
    ended: bool,
    /// Length and hash of the content as it was sent, which the receipt has to repeat.
    content: Option<(u64, Option<Hash>)>,
}

/// What is to be sent, and what has become of it; outlives sessions.
pub(crate) struct Outgoing<'a> {
    source: Source<'a>,
    waiting: BTreeMap<u64, Sent>,
    announced: u64,
    exhausted: bool,
    pub(crate) summary: Summary,
}

/// One thing to do, from the walk or again.
enum Act {
    Entry(Entry, Option<OwnedFd>),
    Leave(u64, u32, Time),
    Problem(RelPath, Refusal, String),
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new(source: Source<'a>) -> Self {
        let summary = Summary::default();
        Self { source, waiting: BTreeMap::new(), announced: 0, exhausted: false, summary }
    }

    /// Writes down what is known after the last session: what was sent whole, and what was not.
    pub(crate) fn settle(&mut self) {
        self.summary.unconfirmed = self.waiting.values().filter(|sent| sent.ended).count() as u64;
        self.summary.unsent = self.waiting.values().filter(|sent| !sent.ended).count() as u64;
        self.summary.unsent += u64::from(!self.exhausted);
    }

    /// What an earlier session left to be done again, in the order of the walk.
    fn again(&mut self) -> VecDeque<Act> {
        let mut acts = VecDeque::new();
        let mut open: Vec<(u64, RelPath, u32, Time)> = Vec::new();
        for (index, sent) in &mut self.waiting {
            sent.ended = false;
            let path = sent.entry.path.as_bytes();
            while let Some((_, above, ..)) = open.last() {
                let above = above.as_bytes();
                let inside =
                    above.is_empty() || (path.starts_with(above) && path.get(above.len()) == Some(&b'/'));
                if inside {
                    break;
                }
                if let Some((index, _, mode, time)) = open.pop() {
                    acts.push_back(Act::Leave(index, mode, time));
                }
            }
            acts.push_back(Act::Entry(sent.entry.clone(), None));
            if let Some((mode, time)) = sent.leave {
                open.push((*index, sent.entry.path.clone(), mode, time));
            }
        }
        acts.extend(open.into_iter().rev().map(|(index, _, mode, time)| Act::Leave(index, mode, time)));
        acts
    }

    fn next(&mut self) -> Option<Act> {
        let act = match &mut self.source {
            Source::Tree(walk) => walk.next().map(|found| match found {
                Found::Entry(entry, file) => Act::Entry(entry, file),
                Found::Leave { index, mode, mtime } => Act::Leave(index, mode, mtime),
                Found::Problem { path, refusal, text } => Act::Problem(path, refusal, text),
            }),
            Source::Pipe(pipe) => pipe.entry.take().map(|entry| Act::Entry(entry, None)),
        };
        self.exhausted = act.is_none();
        act
    }
}

/// What was read of a file.
enum Read {
    /// A full block.
    Whole(Sum),
    /// Less than one, perhaps nothing: the file ends here.
    Last(Hash),
}

/// One session's worth of sending.
pub(crate) struct Sender<'s, 'a> {
    pub(crate) session: &'s mut Session,
    pub(crate) stream: u16,
    pub(crate) options: Options,
    pub(crate) limiter: &'s mut Limiter,
    pub(crate) outgoing: &'s mut Outgoing<'a>,
    pub(crate) observe: &'s mut dyn FnMut(Progress),
    ask: bool,
    asked: VecDeque<(Entry, Option<OwnedFd>)>,
    answers: VecDeque<(u64, Answer)>,
    done: bool,
    piece: Vec<u8>,
    since_look: u64,
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
            piece: Vec::new(),
            since_look: 0,
        }
    }

    /// Sends everything and waits for every receipt.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        let sent_before = self.session.sent();
        let result = self.send().or_else(|error| self.explain(error));
        self.outgoing.summary.wire += self.session.sent() - sent_before;
        result
    }

    /// If the connection is gone, the peer may still have said why.
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
        self.await_accept()?;
        let mut again = self.outgoing.again();
        while let Some(act) = again.pop_front().or_else(|| self.outgoing.next()) {
            match act {
                Act::Entry(entry, file) => self.announce(entry, file)?,
                Act::Leave(index, mode, mtime) => {
                    // Noted first: the walk will not say it again to another session.
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
                Act::Problem(path, refusal, text) => self.not_delivered(path, refusal, text),
            }
            while self.outgoing.waiting.len() >= MAX_WAITING {
                self.await_event()?;
            }
        }
        while !self.asked.is_empty() {
            self.transfer_next()?;
        }
        let entries = self.outgoing.announced;
        self.say(&Message::Total { entries })?;
        self.session.finish(self.stream)?;
        self.session.flush()?;
        if !self.outgoing.waiting.is_empty() {
            (self.observe)(Progress::Waiting { entries: self.outgoing.waiting.len() as u64 });
        }
        while !self.done {
            self.await_event()?;
        }
        if self.outgoing.waiting.is_empty() {
            Ok(())
        } else {
            Err(Violation::Unexpected("its end before all receipts").into())
        }
    }

    fn await_accept(&mut self) -> Result<(), Error> {
        loop {
            match self.session.receive()? {
                Event::Message { bytes, .. } => match Message::decode(&bytes)? {
                    Message::Accept { ask } => {
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

    fn not_delivered(&mut self, path: RelPath, refusal: Refusal, text: String) {
        self.outgoing.summary.failed += 1;
        self.outgoing.summary.first_failure.get_or_insert_with(|| text.clone());
        (self.observe)(Progress::NotDelivered { path, refusal, text });
    }

    fn announce(&mut self, entry: Entry, file: Option<OwnedFd>) -> Result<(), Error> {
        let index = entry.index;
        let has_content = matches!(entry.kind, Kind::File | Kind::Pipe);
        self.outgoing.announced = self.outgoing.announced.max(index + 1);
        if self.options.dry_run {
            self.say(&Message::Entry(entry.clone()))?;
            return self.dry(entry);
        }
        // A directory that was left in an earlier session is left again.
        let leave = self.outgoing.waiting.get(&index).and_then(|sent| sent.leave);
        // Noted first: the walk will not give it to another session.
        let sent = Sent { entry: entry.clone(), leave, ended: false, content: None };
        self.outgoing.waiting.insert(index, sent);
        self.say(&Message::Entry(entry.clone()))?;
        if entry.kind == Kind::Link
            && let Some(sent) = self.outgoing.waiting.get_mut(&index)
        {
            sent.ended = true;
        }
        if !has_content {
            return Ok(());
        }
        if !self.ask {
            return self.transfer(entry, file, Tree::new());
        }
        self.asked.push_back((entry, file));
        if self.asked.len() >= MAX_ANNOUNCED / 2 { self.transfer_next() } else { Ok(()) }
    }

    fn dry(&mut self, entry: Entry) -> Result<(), Error> {
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
            Answer::Refused(refusal, text) => self.not_delivered(entry.path, refusal, text),
            answer => {
                let same = matches!(answer, Answer::Complete(_));
                let bytes = if same { 0 } else { entry.size.unwrap_or(0) };
                (self.observe)(Progress::WouldSend { path: entry.path, kind: entry.kind, bytes });
            }
        }
        Ok(())
    }

    /// Takes the next answer and does what it asks for.
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
            Answer::Fresh => self.transfer(entry, file, Tree::new()),
            Answer::Partial(tree) => self.transfer(entry, file, tree),
            Answer::Complete(hash) => self.compare(entry, file, hash),
            Answer::Refused(refusal, text) => {
                self.outgoing.waiting.remove(&index);
                self.not_delivered(entry.path, refusal, text);
                Ok(())
            }
        }
    }

    fn compare(&mut self, entry: Entry, file: Option<OwnedFd>, theirs: Hash) -> Result<(), Error> {
        let index = entry.index;
        let (ours, file) = if entry.hash.is_some() {
            (entry.hash, file)
        } else if !self.options.verify {
            // The receiver has gone by length and time.
            (Some(theirs), file)
        } else {
            let Some(file) = self.reopen(&entry, file)? else { return Ok(()) };
            (self.observe)(Progress::Verifying { path: entry.path.clone() });
            let fd = file.as_fd();
            let hashed = keep_alive(self.session, entry.size.unwrap_or(0), || hash_file(fd))?;
            (hashed.ok().map(|(hash, _)| hash), Some(file))
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

    /// The file of an entry, opened again if an earlier session had it; aborts the entry if that fails.
    fn reopen(&mut self, entry: &Entry, file: Option<OwnedFd>) -> Result<Option<OwnedFd>, Error> {
        if file.is_some() {
            return Ok(file);
        }
        let Source::Tree(walk) = &self.outgoing.source else { return Ok(None) };
        match walk.reopen(&entry.path) {
            Ok(file) => Ok(Some(file)),
            Err(error) => {
                let text = format!("cannot open {}: {}", entry.path, std::io::Error::from(error));
                self.abort(entry, text)?;
                Ok(None)
            }
        }
    }

    fn abort(&mut self, entry: &Entry, text: String) -> Result<(), Error> {
        let index = entry.index;
        if self.outgoing.waiting.remove(&index).is_some() {
            self.not_delivered(entry.path.clone(), Refusal::Source, text.clone());
        }
        self.say(&Message::Abort { index, refusal: Refusal::Source, text })
    }

    fn transfer(&mut self, entry: Entry, file: Option<OwnedFd>, tree: Tree) -> Result<(), Error> {
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
        let Some(file) = self.reopen(&entry, file)? else { return Ok(()) };
        let ended = if self.options.verify {
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
            // The receiver gave it up while it was under way.
            let text = "given up by the receiver".to_owned();
            self.say(&Message::Abort { index, refusal: Refusal::Other, text })?;
        }
        self.look_around(size.min(SMALL))
    }

    /// Sends a file by blocks with their chaining values; `None` if it was aborted.
    fn verified(
        &mut self,
        entry: &Entry,
        file: BorrowedFd<'_>,
        mut tree: Tree,
    ) -> Result<Option<(u64, Option<Hash>)>, Error> {
        let mut piece = std::mem::take(&mut self.piece);
        let ended = self.blocks(entry, file, &mut tree, &mut piece);
        self.piece = piece;
        ended
    }

    fn blocks(
        &mut self,
        entry: &Entry,
        file: BorrowedFd<'_>,
        tree: &mut Tree,
        piece: &mut Vec<u8>,
    ) -> Result<Option<(u64, Option<Hash>)>, Error> {
        let size = entry.size.unwrap_or(0);
        let mut data_until = 0;
        loop {
            let offset = tree.bytes();
            if entry.sparse && offset >= data_until && self.holes(file, tree, size, &mut data_until)? {
                continue;
            }
            match self.block(entry, file, tree, size.saturating_sub(offset), piece)? {
                Some(Read::Whole(sum)) => {
                    tree.push(sum);
                    self.sum(sum.value)?;
                    self.look_around(BLOCK as u64)?;
                }
                Some(Read::Last(hash)) => return Ok(Some((size, Some(hash)))),
                None => return Ok(None),
            }
            if !self.outgoing.waiting.contains_key(&entry.index) {
                return Ok(Some((size, None)));
            }
        }
    }

    /// Reads, hashes and sends the next block, or the `left` bytes that are all there is of it; `None` if the
    /// entry was aborted. Small pieces, so that each is sent while it is in the processor's cache.
    fn block(
        &mut self,
        entry: &Entry,
        file: BorrowedFd<'_>,
        tree: &Tree,
        left: u64,
        piece: &mut Vec<u8>,
    ) -> Result<Option<Read>, Error> {
        let number = tree.blocks();
        let mut hasher = None;
        let is_last = left < BLOCK as u64;
        let length = left.min(BLOCK as u64) as usize;
        let mut done = 0;
        while done < length {
            let into = PIECE.min(length - done);
            if piece.len() < into {
                piece.resize(into, 0);
            }
            match read_full(file, &mut piece[..into], number * BLOCK as u64 + done as u64) {
                Ok(read) if read == into => {}
                Ok(_) => return self.abort(entry, changed(entry)).map(|()| None),
                Err(error) => {
                    return self.abort(entry, format!("cannot read {}: {error}", entry.path)).map(|()| None);
                }
            }
            if length > PIECE {
                hasher.get_or_insert_with(|| BlockHasher::new(number)).update(&piece[..into]);
            }
            self.content(&piece[..into])?;
            done += into;
        }
        if is_last && !unchanged(entry, file) {
            return self.abort(entry, changed(entry)).map(|()| None);
        }
        Ok(Some(match hasher {
            Some(hasher) if is_last => Read::Last(tree.finish(&hasher)),
            Some(hasher) => Read::Whole(hasher.finish()),
            // A piece or less: no need for a hasher of two kilobytes.
            None => Read::Last(tree.end(&piece[..length])),
        }))
    }

    /// At a hole of at least one block says so instead of sending zeros.
    fn holes(
        &mut self,
        file: BorrowedFd<'_>,
        tree: &mut Tree,
        size: u64,
        data_until: &mut u64,
    ) -> Result<bool, Error> {
        let offset = tree.bytes();
        let data = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(data) => data.min(size),
            Err(rustix::io::Errno::NXIO) => size,
            // A file system that cannot tell has no holes.
            Err(_) => offset,
        };
        let blocks = data.saturating_sub(offset) / BLOCK as u64;
        if blocks == 0 {
            *data_until = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(u64::MAX);
            return Ok(false);
        }
        for _ in 0..blocks {
            tree.push(Sum::of(tree.blocks(), &ZEROS));
        }
        self.say(&Message::Hole { bytes: blocks * BLOCK as u64 })?;
        (self.observe)(Progress::Moved { bytes: blocks * BLOCK as u64 });
        Ok(true)
    }

    fn unverified(
        &mut self,
        entry: &Entry,
        file: BorrowedFd<'_>,
        mut offset: u64,
    ) -> Result<Option<(u64, Option<Hash>)>, Error> {
        let size = entry.size.unwrap_or(0);
        let fast = self.session.is_plain();
        while offset < size {
            let piece = self.limiter.piece(BLOCK).min(BLOCK - (offset % BLOCK as u64) as usize);
            let length = piece.min(usize::try_from(size - offset).unwrap_or(usize::MAX));
            self.pause(length)?;
            let read = if fast {
                self.session.data_from(self.stream, file, offset, length)?
            } else {
                let mut piece = std::mem::take(&mut self.piece);
                piece.resize(length.max(piece.len()), 0);
                let read = read_full(file, &mut piece[..length], offset).unwrap_or(0);
                self.session.data(self.stream, &piece[..length])?;
                self.piece = piece;
                read
            };
            if read < length {
                self.abort(entry, changed(entry))?;
                return Ok(None);
            }
            offset += length as u64;
            (self.observe)(Progress::Moved { bytes: length as u64 });
            self.look_around(length as u64)?;
            if !self.outgoing.waiting.contains_key(&entry.index) {
                break;
            }
        }
        if !unchanged(entry, file) {
            self.abort(entry, changed(entry))?;
            return Ok(None);
        }
        Ok(Some((size, None)))
    }

    /// Sends bytes, at the rate that is allowed.
    fn content(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let piece = self.limiter.piece(BLOCK);
        for part in bytes.chunks(piece) {
            self.pause(part.len())?;
            self.session.data(self.stream, part)?;
            (self.observe)(Progress::Moved { bytes: part.len() as u64 });
        }
        Ok(())
    }

    fn sum(&mut self, value: [u8; 32]) -> Result<(), Error> {
        if self.options.verify { self.say(&Message::Sum { value }) } else { Ok(()) }
    }

    fn pause(&mut self, bytes: usize) -> Result<(), Error> {
        let mut pause = self.limiter.pause(bytes, Instant::now());
        while !pause.is_zero() {
            self.session.flush()?;
            let step = pause.min(Duration::from_secs(5));
            std::thread::sleep(step);
            pause -= step;
            if !pause.is_zero() {
                self.session.ping()?;
            }
        }
        Ok(())
    }

    fn pipe(&mut self, entry: Entry, theirs: &Tree) -> Result<(), Error> {
        let index = entry.index;
        let Source::Pipe(pipe) = &self.outgoing.source else { return Ok(()) };
        let first_held = pipe.tree.blocks() - pipe.held.len() as u64;
        let Some(skip) =
            theirs.blocks().checked_sub(first_held).filter(|skip| *skip <= pipe.held.len() as u64)
        else {
            let text =
                "the receiver does not have what it confirmed, and a pipe cannot be read twice".to_owned();
            return self.abort(&entry, text);
        };
        // What an earlier session sent in vain.
        for place in skip as usize..pipe.held.len() {
            let Source::Pipe(pipe) = &mut self.outgoing.source else { return Ok(()) };
            let Some(block) = pipe.held.get_mut(place).map(std::mem::take) else { break };
            let value = Sum::of(first_held + place as u64, &block).value;
            let sent = self.content(&block).and_then(|()| self.sum(value));
            if let Source::Pipe(pipe) = &mut self.outgoing.source {
                pipe.held[place] = block;
            }
            sent?;
        }
        let Source::Pipe(pipe) = &self.outgoing.source else { return Ok(()) };
        let current = pipe.current.clone();
        self.content(&current)?;
        while !self.read_pipe(&entry)? {
            if !self.outgoing.waiting.contains_key(&index) {
                return self.end(index, 0, None);
            }
        }
        self.end_pipe(&entry)
    }

    /// Reads what the pipe has and sends it; true at its end.
    fn read_pipe(&mut self, entry: &Entry) -> Result<bool, Error> {
        let Source::Pipe(pipe) = &mut self.outgoing.source else { return Ok(true) };
        if pipe.ended {
            return Ok(true);
        }
        if pipe.held.len() >= MAX_HELD {
            self.await_event()?;
            return Ok(false);
        }
        if !self.session.wait_for(pipe.input.as_fd(), Duration::from_secs(10))? {
            self.session.ping()?;
            return self.look_around(u64::MAX).map(|()| false);
        }
        let from = pipe.current.len();
        pipe.current.resize(BLOCK, 0);
        let read = match rustix::io::read(&pipe.input, &mut pipe.current[from..]) {
            Ok(read) => read,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {
                pipe.current.truncate(from);
                return Ok(false);
            }
            Err(error) => {
                pipe.current.truncate(from);
                let text = format!("cannot read the pipe: {}", std::io::Error::from(error));
                // The caller sees that it is gone, and tells the receiver.
                self.outgoing.waiting.remove(&entry.index);
                self.not_delivered(entry.path.clone(), Refusal::Source, text);
                return Ok(false);
            }
        };
        pipe.current.truncate(from + read);
        if read == 0 {
            pipe.ended = true;
            return Ok(true);
        }
        let bytes = pipe.current[from..].to_vec();
        let full = (pipe.current.len() == BLOCK).then(|| {
            let block = std::mem::take(&mut pipe.current);
            let sum = Sum::of(pipe.tree.blocks(), &block);
            pipe.tree.push(sum);
            pipe.held.push_back(block);
            sum.value
        });
        self.content(&bytes)?;
        if let Some(value) = full {
            self.sum(value)?;
        }
        self.look_around(BLOCK as u64)?;
        Ok(false)
    }

    fn end_pipe(&mut self, entry: &Entry) -> Result<(), Error> {
        let Source::Pipe(pipe) = &mut self.outgoing.source else { return Ok(()) };
        if let Some((mut child, program, end)) = pipe.child.take()
            && let Err(fault) = finish(&mut child, &program, end)
        {
            return self.abort(entry, fault.1);
        }
        let (size, hash) = (pipe.length(), pipe.hash());
        // Another session can then ask whether the receiver has all of it.
        if let Some(sent) = self.outgoing.waiting.get_mut(&entry.index) {
            (sent.entry.size, sent.entry.hash) = (Some(size), Some(hash));
        }
        self.end(entry.index, size, self.options.verify.then_some(hash))
    }

    /// Takes what has come back, after every block's worth of work.
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

    fn event(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Message { bytes, .. } => self.message(Message::decode(&bytes)?),
            Event::Finished { .. } => Ok(()),
            Event::Cancelled { reason, .. } => Err(Error::Ended(reason)),
            Event::Bye { code, reason } => Err(Error::goodbye(code, reason)),
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
                    self.not_delivered(sent.entry.path, refusal, text);
                }
            }
            Message::Done { .. } => self.done = true,
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
        if sent.content.is_some_and(|content| content != (receipt.size, receipt.hash)) {
            let text = format!("the receipt of {} is for other content than was sent", sent.entry.path);
            self.not_delivered(sent.entry.path, Refusal::Corrupt, text);
            return Ok(());
        }
        self.outgoing.summary.confirmed += 1;
        self.outgoing.summary.bytes += receipt.size;
        let Entry { path, kind, .. } = sent.entry;
        (self.observe)(Progress::Confirmed(Confirmation::new(path, kind, receipt)));
        Ok(())
    }
}

static ZEROS: [u8; BLOCK] = [0; BLOCK];

fn unchanged(entry: &Entry, file: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(file)
        .is_ok_and(|stat| Some(stat.st_size as u64) == entry.size && Some(mtime(&stat)) == entry.mtime)
}

fn changed(entry: &Entry) -> String {
    format!("{} changed while it was read\nhint: send it again when nobody writes to it", entry.path)
}
