//! The entries to be sent, and the state of each: outlives sessions, so that a cut transfer goes on.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::account::Account;
use crate::hash::{Hash, Tree};
use crate::host;
use crate::launch::Launched;
use crate::message::{Kind, MemoryId, Refusal, Signature, Time, TreeEntry};
use crate::path::RelPath;
use crate::progress::Summary;
use crate::reason::Reason;
use crate::walk::{Walk, WalkedEntry};

/// The source of the bytes.
pub(crate) enum Source<'a> {
    Tree(Walk<'a>),
    Pipe(Box<Pipe>),
}

/// The command that a pipe comes from.
pub(crate) struct Producer {
    pub(crate) launched: Launched,
    pub(crate) program: String,
    /// The command's deadline.
    pub(crate) end: Instant,
}

impl Drop for Producer {
    /// Kills the command if it still runs, with what it has started, and reaps it.
    fn drop(&mut self) {
        self.launched.end();
    }
}

/// The largest number of bytes that are read from a pipe at a time: four times what a pipe holds unless somebody made it larger.
const READ: usize = 256 << 10;

/// Bytes of unknown length.
pub(crate) struct Pipe {
    pub(crate) input: OwnedFd,
    /// The command that writes the bytes, if a command does: it has to end with status 0.
    pub(crate) child: Option<Producer>,
    /// The largest number of bytes that the pipe may give.
    pub(crate) most: u64,
    pub(crate) entry: Option<TreeEntry>,
    /// Complete blocks, all of them hashed, whether held or not.
    pub(crate) tree: Tree,
    /// Blocks that the receiver has not confirmed; the last of them is number `tree.blocks() - 1`.
    pub(crate) held: VecDeque<Vec<u8>>,
    pub(crate) current: Vec<u8>,
    /// Where the pipe is read to. Not the block itself, all of which would have to be made zeros before each read.
    pub(crate) buffer: Vec<u8>,
    pub(crate) ended: bool,
}

impl Pipe {
    pub(crate) fn new(input: OwnedFd) -> Self {
        let mut token = [0; 16];
        // The token must be unique, not secret.
        let _ = host::random(&mut token);
        let entry = TreeEntry {
            index: 0,
            kind: Kind::Pipe,
            path: RelPath::root(),
            mode: 0o644,
            mtime: None,
            size: None,
            token,
            hash: None,
            sparse: false,
            by_blocks: false,
            target: Vec::new(),
        };
        Self {
            input,
            child: None,
            most: u64::MAX,
            entry: Some(entry),
            tree: Tree::new(),
            held: VecDeque::new(),
            current: Vec::new(),
            buffer: vec![0; READ],
            ended: false,
        }
    }

    pub(crate) fn of_command(producer: Producer, input: OwnedFd, most: u64) -> Self {
        Self { child: Some(producer), most, ..Self::new(input) }
    }

    pub(crate) fn length(&self) -> u64 {
        self.tree.bytes() + self.current.len() as u64
    }

    pub(crate) fn hash(&self) -> Hash {
        self.tree.end(&self.current)
    }
}

/// An entry without receipt.
pub(crate) struct SentEntry {
    pub(crate) entry: TreeEntry,
    pub(crate) leave: Option<(u32, Time)>,
    pub(crate) ended: bool,
    /// The entry was sent whole in an earlier session, and the receiver may have it.
    pub(crate) was_ended: bool,
    /// Length and hash of the content as it was sent, which the receipt has to repeat.
    pub(crate) content: Option<(u64, Option<Hash>)>,
}

impl SentEntry {
    /// Whether all of it was sent, in whichever session.
    fn is_sent(&self) -> bool {
        self.ended || self.was_ended
    }
}

/// The entries to be sent, and the state of each. Outlives sessions.
pub(crate) struct Outgoing<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) waiting: BTreeMap<u64, SentEntry>,
    pub(crate) announced: u64,
    /// What could not be sent: the receiver of each session is told, so that it counts the same.
    pub(crate) problems: Vec<(RelPath, Refusal, Reason)>,
    pub(crate) exhausted: bool,
    pub(crate) summary: Summary,
    /// What failed in earlier sessions, without [`problems`](Self::problems).
    pub(crate) failed_before: u64,
    /// Names what the receiver remembers of transfers.
    pub(crate) memory: MemoryId,
    /// The last session's account, with the receiver's signature.
    pub(crate) closed: Option<(Account, Signature)>,
}

/// One thing to do: a step of the walk, or an entry that is sent again.
pub(crate) enum Act {
    Entry(TreeEntry, Option<OwnedFd>),
    Leave(u64, u32, Time),
    Problem(RelPath, Refusal, String),
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new(source: Source<'a>) -> Self {
        let summary = Summary::default();
        Self {
            source,
            waiting: BTreeMap::new(),
            announced: 0,
            problems: Vec::new(),
            exhausted: false,
            summary,
            failed_before: 0,
            memory: MemoryId::default(),
            closed: None,
        }
    }

    /// After the last session, counts the entries without a receipt: as unconfirmed if they were sent whole, otherwise as
    /// unsent. One more counts as unsent for all that was never announced. A sink takes one entry: if that was announced,
    /// nothing else is left to send.
    pub(crate) fn settle(&mut self, to_sink: bool) {
        self.exhausted |= to_sink && !self.waiting.is_empty();
        self.summary.unconfirmed = self.waiting.values().filter(|sent| sent.is_sent()).count() as u64;
        self.summary.unsent = self.waiting.values().filter(|sent| !sent.is_sent()).count() as u64;
        self.summary.unsent += u64::from(!self.exhausted);
    }

    /// Whether every entry has its receipt or is known not to be delivered, and at least one has a receipt.
    pub(crate) fn is_settled(&self) -> bool {
        self.exhausted && self.waiting.is_empty() && self.summary.confirmed > 0
    }

    /// The entries that an earlier session left unconfirmed, in the order of the walk, to be sent again.
    pub(crate) fn again(&mut self) -> VecDeque<Act> {
        let mut acts = VecDeque::new();
        let mut open: Vec<(u64, RelPath, u32, Time)> = Vec::new();
        for (index, sent) in &mut self.waiting {
            sent.was_ended |= std::mem::take(&mut sent.ended);
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

    pub(crate) fn next(&mut self) -> Option<Act> {
        let act = match &mut self.source {
            Source::Tree(walk) => walk.next().map(|found| match found {
                WalkedEntry::Entry(entry, file) => Act::Entry(entry, file),
                WalkedEntry::Leave { index, mode, mtime } => Act::Leave(index, mode, mtime),
                WalkedEntry::Problem { path, refusal, text } => Act::Problem(path, refusal, text),
            }),
            Source::Pipe(pipe) => pipe.entry.take().map(|entry| Act::Entry(entry, None)),
        };
        self.exhausted = act.is_none();
        act
    }
}
