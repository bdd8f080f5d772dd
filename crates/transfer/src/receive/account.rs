//! Confirmations and failures: they are sent to the sender, reported to the program, and counted.

use linger_untrusted::Untrusted;

use super::Receiver;
use crate::account::ConfirmedEntry;
use crate::error::Error;
use crate::fault::Fault;
use crate::hash::Hash;
use crate::message::{Kind, Message, Options, Receipt, Refusal, TreeEntry};
use crate::path::RelPath;
use crate::progress::{Confirmation, Progress};
use crate::reason::Reason;
use crate::store::now;

impl Receiver<'_> {
    pub(super) fn confirm(&mut self, receipt: Receipt) -> Result<(), Error> {
        let announced = self.paths.remove(&receipt.index).unwrap_or_default();
        self.summary.confirmed += 1;
        self.summary.bytes += receipt.size;
        self.account.confirm(&announced.confirmed(&receipt));
        self.say(&Message::Receipt(receipt.clone()))?;
        (self.observe)(Progress::Confirmed(Confirmation::new(announced, receipt)));
        Ok(())
    }

    pub(super) fn note_failure(&mut self, refusal: Refusal, text: &Reason) {
        self.summary.not_delivered(refusal, text);
    }

    pub(super) fn failed(
        &mut self,
        index: u64,
        path: &RelPath,
        Fault(refusal, text): Fault,
    ) -> Result<(), Error> {
        self.paths.remove(&index);
        self.account.fail(index);
        self.note_failure(refusal, &text);
        (self.observe)(Progress::NotDelivered { path: path.clone(), refusal, text: text.clone() });
        self.say(&Message::Failed { index, refusal, text })?;
        // The sender may be in the middle of this file, and can stop sending it.
        self.session.flush()
    }

    /// Notes that an entry failed. Its path is looked up by its index.
    pub(super) fn failed_entry(&mut self, index: u64, fault: Fault) -> Result<(), Error> {
        let path = self.paths.get(&index).map(|announced| announced.path.clone()).unwrap_or_default();
        self.failed(index, &path, fault)
    }
}

/// What was announced under an index.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    pub(crate) path: RelPath,
    pub(crate) kind: Kind,
    /// The target of a link; empty for everything else.
    pub(crate) target: Vec<u8>,
    /// The file is hashed by blocks.
    pub(crate) by_blocks: bool,
}

impl Default for Announced {
    /// A single file at the top, as for a sink.
    fn default() -> Self {
        Self { path: RelPath::root(), kind: Kind::File, target: Vec::new(), by_blocks: false }
    }
}

impl Announced {
    /// The entry as it stands in the account.
    pub(crate) fn confirmed<'a>(&'a self, receipt: &'a Receipt) -> ConfirmedEntry<'a> {
        ConfirmedEntry {
            path: self.path.as_bytes(),
            kind: self.kind,
            target: &self.target,
            size: receipt.size,
            hash: receipt.hash.as_ref(),
            durability: receipt.durability,
            present: receipt.present,
            mode: receipt.mode,
        }
    }
}

impl From<&TreeEntry> for Announced {
    fn from(entry: &TreeEntry) -> Self {
        Self {
            path: entry.path.clone(),
            kind: entry.kind,
            target: entry.target.clone(),
            by_blocks: entry.by_blocks,
        }
    }
}

impl Confirmation {
    pub(crate) fn new(announced: Announced, receipt: Receipt) -> Self {
        let Announced { path, kind, target, by_blocks } = announced;
        let Receipt { size, hash, durability, time, name, present, mode, .. } = receipt;
        Self {
            path,
            kind,
            target: Untrusted::from(target),
            size,
            hash,
            by_blocks,
            durability,
            time,
            name: Untrusted::from(name),
            present,
            mode,
        }
    }
}

pub(super) fn receipt(
    index: u64,
    size: u64,
    hash: Option<Hash>,
    options: Options,
    dest: &RelPath,
) -> Receipt {
    Receipt {
        index,
        size,
        hash,
        durability: options.durability,
        time: now(),
        name: dest.as_bytes().to_vec(),
        present: false,
        mode: None,
    }
}
