//! What is confirmed and what has failed: told to the sender, to the program, and counted.

use linger_untrusted::Untrusted;

use super::Receiver;
use crate::error::Error;
use crate::fault::Fault;
use crate::hash::Hash;
use crate::message::{Kind, Message, Options, Receipt};
use crate::path::RelPath;
use crate::progress::{Confirmation, Progress};
use crate::reason::Reason;
use crate::store::now;

impl Receiver<'_> {
    pub(super) fn confirm(&mut self, receipt: Receipt) -> Result<(), Error> {
        let (path, kind) = self.paths.remove(&receipt.index).unwrap_or((RelPath::root(), Kind::File));
        self.summary.confirmed += 1;
        self.summary.bytes += receipt.size;
        self.say(&Message::Receipt(receipt.clone()))?;
        (self.observe)(Progress::Confirmed(Confirmation::new(path, kind, receipt)));
        Ok(())
    }

    pub(super) fn note_failure(&mut self, text: &Reason) {
        self.summary.failed += 1;
        self.summary.first_failure.get_or_insert_with(|| text.clone());
    }

    pub(super) fn failed(
        &mut self,
        index: u64,
        path: &RelPath,
        Fault(refusal, text): Fault,
    ) -> Result<(), Error> {
        self.paths.remove(&index);
        self.note_failure(&text);
        (self.observe)(Progress::NotDelivered { path: path.clone(), refusal, text: text.clone() });
        self.say(&Message::Failed { index, refusal, text })?;
        // The sender may be in the middle of this file, and can stop sending it.
        self.session.flush()
    }

    /// The same, of an entry whose path is on record.
    pub(super) fn failed_entry(&mut self, index: u64, fault: Fault) -> Result<(), Error> {
        let path = self.paths.get(&index).map(|(path, _)| path.clone()).unwrap_or_default();
        self.failed(index, &path, fault)
    }
}

impl Confirmation {
    pub(crate) fn new(path: RelPath, kind: Kind, receipt: Receipt) -> Self {
        let Receipt { size, hash, durability, time, name, present, .. } = receipt;
        Self { path, kind, size, hash, durability, time, name: Untrusted::from(name), present }
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
    }
}
