//! The events of a running transfer, and its summary.

use linger_untrusted::Untrusted;

use crate::driver::PhaseWork;
use crate::error::Error;
use crate::message::{Durability, Kind, Refusal, Time};
use crate::path::RelPath;
use crate::reason::Reason;

/// Something worth showing. Paths are below the top of the transfer, which is itself the empty path.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Progress {
    /// The tree is being counted. The numbers so far:
    Scanning {
        /// Files, links and directories.
        entries: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A connection is up, or up again.
    Connected {
        /// Whether the connection is encrypted, and each side knows the other's key.
        secure: bool,
    },
    /// A file, directory or link is next.
    Started {
        /// The entry's path.
        path: RelPath,
        /// What it is.
        kind: Kind,
        /// The entry's length, if it is known.
        size: Option<u64>,
        /// Bytes the receiver has from an earlier session.
        resumed: u64,
    },
    /// More bytes of content were sent or received.
    Moved {
        /// Bytes since the last such event.
        bytes: u64,
    },
    /// All is sent; the receiver verifies, writes and confirms.
    Waiting {
        /// Entries without receipt.
        entries: u64,
    },
    /// The peer reports work: it verifies, or waits for its disk, a command or its turn.
    PeerWorks(PhaseWork),
    /// What is on disk is compared with a hash or made durable.
    Verifying {
        /// The entry's path.
        path: RelPath,
    },
    /// An entry is confirmed.
    Confirmed(Confirmation),
    /// An entry was not delivered.
    NotDelivered {
        /// The entry's path.
        path: RelPath,
        /// Why, as a class.
        refusal: Refusal,
        /// The reason in words, and the remedy.
        text: Reason,
    },
    /// In a dry run: what would be done.
    WouldSend {
        /// The entry's path.
        path: RelPath,
        /// What it is.
        kind: Kind,
        /// Bytes that would be sent.
        bytes: u64,
    },
    /// The connection was lost; another is made after a pause.
    Retrying {
        /// Why the connection was lost.
        error: String,
        /// Seconds until the next attempt.
        pause: f64,
    },
}

/// What a receiver says of one entry that is there: the content of a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Confirmation {
    /// Below the top of the transfer at the sender.
    pub path: RelPath,
    /// What it is.
    pub kind: Kind,
    /// Where a link leads; empty for anything else.
    pub target: Untrusted,
    /// Length in bytes.
    pub size: u64,
    /// BLAKE3 of the content; missing for directories, links and unverified transfers.
    pub hash: Option<[u8; 32]>,
    /// The file is mostly holes and was hashed by blocks, so that the hash is not what other programs print.
    pub by_blocks: bool,
    /// How durable the file was when the receiver confirmed it.
    pub durability: Durability,
    /// The receiver's clock.
    pub time: Time,
    /// The name at the receiver, below the directory it shares.
    pub name: Untrusted,
    /// Whether the same content was there already.
    pub present: bool,
    /// The entry's permission bits at the receiver; `None` if it is no file or directory there.
    pub mode: Option<u32>,
}

/// What a transfer came to, as far as this side can know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Entries whose receipt was received (or, at the receiver, sent).
    pub confirmed: u64,
    /// Bytes of content in the confirmed entries.
    pub bytes: u64,
    /// Entries that are known not to be delivered.
    pub failed: u64,
    /// Entries that an option or a rule left out. That is no failure.
    pub skipped: u64,
    /// Entries that were sent whole, without an answer.
    pub unconfirmed: u64,
    /// Entries that were announced and not sent whole. At the sender, one more stands for all that was never announced.
    pub unsent: u64,
    /// The first of the failures in words; all of them were reported as they came.
    pub first_failure: Option<Reason>,
    /// Bytes that the sender sent and the receiver received, payload and framing, in all sessions together.
    pub wire: u64,
    /// Whether the session ended in order, so that the peer knows the same.
    pub peer_knows: bool,
    /// The id of a put, by which its receiver can be asked later.
    pub transfer: Option<[u8; 16]>,
    /// The receiver's signature of what it confirmed in the last session.
    pub signed: Option<SignedAccount>,
}

/// A receiver's signature of the account of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignedAccount {
    /// The transfer.
    pub transfer: [u8; 16],
    /// Entries that were not delivered.
    pub failed: u64,
    /// The sum of their hashes; see docs/transfer-protocol.md.
    pub failed_sum: [u8; 32],
    /// The receiver's key.
    pub key: [u8; 32],
    /// Ed25519, of the account and the transfer's id.
    pub signature: [u8; 64],
}

/// The verdict on one transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ItemVerdict {
    /// Everything is confirmed.
    Confirmed,
    /// Everything was sent, but not everything is confirmed.
    Unconfirmed,
    /// Something was not delivered.
    NotDelivered,
}

impl Summary {
    /// Notes an entry that was not delivered, or was left out.
    pub(crate) fn not_delivered(&mut self, refusal: Refusal, text: &Reason) {
        if refusal == Refusal::Skipped {
            self.skipped += 1;
        } else {
            self.failed += 1;
            self.first_failure.get_or_insert_with(|| text.clone());
        }
    }

    /// Adds the result of a later transfer, whose id and signature replace those of this summary. `peer_knows` holds if it
    /// holds for both, or for `other` alone if this summary is empty.
    pub fn add(&mut self, other: &Self) {
        let is_first = *self == Self::default();
        self.confirmed += other.confirmed;
        self.bytes += other.bytes;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.unconfirmed += other.unconfirmed;
        self.unsent += other.unsent;
        self.wire += other.wire;
        self.peer_knows = other.peer_knows && (is_first || self.peer_knows);
        (self.transfer, self.signed) = (other.transfer, other.signed);
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&other.first_failure);
        }
    }

    /// The verdict on the transfer. `error` is the error that ended the transfer early, if one did.
    pub fn verdict(&self, error: Option<&Error>) -> ItemVerdict {
        if self.failed > 0 || self.unsent > 0 {
            return ItemVerdict::NotDelivered;
        }
        match error {
            None if self.unconfirmed == 0 => ItemVerdict::Confirmed,
            Some(_) if self.unconfirmed == 0 => ItemVerdict::NotDelivered,
            _ => ItemVerdict::Unconfirmed,
        }
    }
}
