//! The messages between sender and receiver, and their encoding. No I/O.

mod fields;
mod kinds;
mod request;

use linger_untrusted::Untrusted;

use crate::hash::{Hash, Tree};
use crate::path::{MAX_PATH, RelPath};
use crate::reason::Reason;
use crate::wire::Violation;
use fields::{Reader, Writer};
pub use kinds::{Durability, IfExists, Item, Kind, Refusal, Time};
pub(crate) use request::{Get, Operation, Options, Put};

/// Longest text of an error, in bytes.
const MAX_TEXT: usize = 1 << 10;

/// The most bytes of holes in a file that is not hashed by blocks: as many as the table of `zeros.rs` covers at the begin of a file.
pub(crate) const MOST_ZEROS: u64 = 64 << 30;

/// Identifies the content of a source without reading it, so that a later session can resume: for a file a hash of inode,
/// size, times and path (`walk/token.rs`), for a pipe a random number.
pub(crate) type Token = [u8; 16];

/// Tells one transfer from every other, over all its sessions: drawn at random by the client.
pub(crate) type TransferId = [u8; 16];

/// A random number of one side, so that a proof is good for one connection.
pub(crate) type Nonce = [u8; 32];

/// Names what a receiver remembers of transfers to sinks. If the name has changed, the receiver may have forgotten some.
pub(crate) type MemoryId = [u8; 16];

/// A receiver's signature of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) key: [u8; 32],
    pub(crate) bytes: [u8; 64],
}

/// An entry of the tree that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TreeEntry {
    /// Counts up from 0 in a transfer, over all its sessions.
    pub(crate) index: u64,
    pub(crate) kind: Kind,
    /// Below the top of the transfer, whose own path is empty.
    pub(crate) path: RelPath,
    /// Permission bits, 0o7777 at most.
    pub(crate) mode: u32,
    pub(crate) mtime: Option<Time>,
    /// Length in bytes, if it is known before the end.
    pub(crate) size: Option<u64>,
    pub(crate) token: Token,
    /// The hash of a pipe that an earlier session read to its end.
    pub(crate) hash: Option<Hash>,
    /// The file has holes, and the copy should have them too.
    pub(crate) sparse: bool,
    /// The file is hashed by blocks: see [`Hashing`](crate::hash::Hashing).
    pub(crate) by_blocks: bool,
    /// The target of a symbolic link.
    pub(crate) target: Vec<u8>,
}

/// How much of an announced file the receiver has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EntryAnswer {
    Fresh,
    Partial(Tree),
    /// A file of the same size has the final name, with the same time unless the entry has a hash; or the sink's command has
    /// succeeded already.
    Complete(Hash),
    Refused(Refusal, Reason),
}

/// The contents of a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) index: u64,
    pub(crate) size: u64,
    /// Missing where verification was not asked for.
    pub(crate) hash: Option<Hash>,
    pub(crate) durability: Durability,
    pub(crate) time: Time,
    /// The entry's name at the receiver.
    pub(crate) name: Vec<u8>,
    /// The same content was there already: it was compared, not sent.
    pub(crate) present: bool,
    /// The entry's permission bits at the receiver; missing if it is no file or directory there, and from a receiver of
    /// version 1.
    pub(crate) mode: Option<u32>,
}

/// A message inside a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Sender of a `get`: the name and kind of what will come.
    Offer {
        name: Vec<u8>,
        directory: bool,
    },
    /// Receiver: begin. With `ask`, wait for an answer to each file before its data.
    Accept {
        ask: bool,
        /// Names what the receiver remembers of transfers; see [`Put::sent`].
        memory: MemoryId,
    },
    Entry(TreeEntry),
    Answer {
        index: u64,
        answer: EntryAnswer,
    },
    /// A hole: this many zero bytes, a whole number of blocks.
    Hole {
        bytes: u64,
    },
    /// The chaining value of the block that was just completed.
    Sum {
        value: [u8; 32],
    },
    End {
        index: u64,
        size: u64,
        hash: Option<Hash>,
    },
    /// The sender has the same content that the receiver found.
    Same {
        index: u64,
    },
    /// The sender cannot send this entry.
    Abort {
        index: u64,
        refusal: Refusal,
        text: Reason,
    },
    /// The sender cannot send what has this path, or leaves it out as asked, and has not announced it.
    Unsent {
        path: RelPath,
        refusal: Refusal,
        text: Reason,
    },
    /// Server, on a connection over loopback that is not encrypted: show that you have the same key.
    Prove {
        nonce: Nonce,
    },
    /// Client: the proof.
    Proof {
        nonce: Nonce,
        proof: [u8; 32],
    },
    /// A directory is complete: these are its final mode and time.
    Leave {
        index: u64,
        mode: u32,
        mtime: Time,
    },
    /// Receiver: so many bytes are verified and written; the sender need not keep them.
    Progress {
        index: u64,
        bytes: u64,
    },
    Receipt(Receipt),
    Failed {
        index: u64,
        refusal: Refusal,
        text: Reason,
    },
    /// Sender: that was all.
    Total {
        entries: u64,
        /// What failed in earlier sessions of the transfer.
        failed_before: u64,
    },
    /// Receiver: all receipts are out.
    Done {
        confirmed: u64,
        failed: u64,
        /// Of the account (`account.rs`) of this session; missing from a receiver of version 1.
        digest: Option<Hash>,
        /// The receiver's key, and its signature of the account.
        signature: Option<Signature>,
    },
    Item(Item),
    /// The request as a whole failed.
    Error {
        refusal: Refusal,
        text: Reason,
    },
}

impl Message {
    /// The byte that a message begins with.
    fn tag(&self) -> u8 {
        match self {
            Self::Offer { .. } => 1,
            Self::Accept { .. } => 2,
            Self::Entry(_) => 3,
            Self::Answer { .. } => 4,
            Self::Hole { .. } => 5,
            Self::Sum { .. } => 6,
            Self::End { .. } => 7,
            Self::Same { .. } => 8,
            Self::Abort { .. } => 9,
            Self::Leave { .. } => 10,
            Self::Progress { .. } => 11,
            Self::Receipt(_) => 12,
            Self::Failed { .. } => 13,
            Self::Total { .. } => 14,
            Self::Done { .. } => 15,
            Self::Item(_) => 16,
            Self::Error { .. } => 17,
            Self::Unsent { .. } => 18,
            Self::Prove { .. } => 40,
            Self::Proof { .. } => 41,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(64));
        out.u8(self.tag());
        match self {
            Self::Offer { name, directory } => {
                out.bytes(name);
                out.flag(*directory);
            }
            Self::Accept { ask, memory } => {
                out.flag(*ask);
                out.fixed(memory);
            }
            Self::Entry(entry) => out.entry(entry),
            Self::Answer { index, answer } => {
                out.u64(*index);
                out.answer(answer);
            }
            Self::Hole { bytes } => out.u64(*bytes),
            Self::Sum { value } => out.fixed(value),
            Self::End { index, size, hash } => {
                out.u64(*index);
                out.u64(*size);
                out.option(hash.as_ref(), |out, hash| out.fixed(hash));
            }
            Self::Same { index } => out.u64(*index),
            Self::Abort { index, refusal, text } => {
                out.u64(*index);
                out.refusal(*refusal, text);
            }
            Self::Leave { index, mode, mtime } => {
                out.u64(*index);
                out.u64(u64::from(*mode));
                out.time(*mtime);
            }
            Self::Progress { index, bytes } => {
                out.u64(*index);
                out.u64(*bytes);
            }
            Self::Receipt(receipt) => out.receipt(receipt),
            Self::Failed { index, refusal, text } => {
                out.u64(*index);
                out.refusal(*refusal, text);
            }
            Self::Total { entries, failed_before } => {
                out.u64(*entries);
                out.u64(*failed_before);
            }
            Self::Done { confirmed, failed, digest, signature } => {
                out.u64(*confirmed);
                out.u64(*failed);
                out.signed(digest.as_ref(), signature.as_ref());
            }
            Self::Item(item) => {
                out.bytes(item.name.raw());
                out.kind(item.kind);
                out.u64(item.size);
                out.u64(u64::from(item.mode));
                out.time(item.mtime);
            }
            Self::Error { refusal, text } => out.refusal(*refusal, text),
            Self::Unsent { path, refusal, text } => {
                out.bytes(path.as_bytes());
                out.refusal(*refusal, text);
            }
            Self::Prove { nonce } => out.fixed(nonce),
            Self::Proof { nonce, proof } => {
                out.fixed(nonce);
                out.fixed(proof);
            }
        }
        out.0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Violation> {
        let mut from = Reader { left: bytes, what: "message" };
        let message = match from.u8()? {
            1 => Self::Offer { name: from.bytes(255)?, directory: from.flag()? },
            2 => Self::Accept { ask: from.flag()?, memory: from.added(Reader::fixed)?.unwrap_or_default() },
            3 => Self::Entry(from.entry()?),
            4 => Self::Answer { index: from.u64()?, answer: from.answer()? },
            5 => Self::Hole { bytes: from.u64()? },
            6 => Self::Sum { value: from.fixed()? },
            7 => Self::End { index: from.u64()?, size: from.u64()?, hash: from.option(Reader::fixed)? },
            8 => Self::Same { index: from.u64()? },
            9 => Self::Abort { index: from.u64()?, refusal: from.refusal()?, text: from.reason()? },
            10 => Self::Leave { index: from.u64()?, mode: from.mode()?, mtime: from.time()? },
            11 => Self::Progress { index: from.u64()?, bytes: from.u64()? },
            12 => Self::Receipt(Receipt {
                index: from.u64()?,
                size: from.u64()?,
                hash: from.option(Reader::fixed)?,
                durability: from.durability()?,
                time: from.time()?,
                name: from.bytes(MAX_PATH)?,
                present: from.flag()?,
                mode: from.added(|from| from.option(Reader::mode))?.flatten(),
            }),
            13 => Self::Failed { index: from.u64()?, refusal: from.refusal()?, text: from.reason()? },
            14 => Self::Total { entries: from.u64()?, failed_before: from.added(Reader::u64)?.unwrap_or(0) },
            15 => {
                let (confirmed, failed) = (from.u64()?, from.u64()?);
                let digest = from.added(Reader::fixed)?;
                let signed =
                    |from: &mut Reader<'_>| Ok(Signature { key: from.fixed()?, bytes: from.fixed()? });
                let signature = if digest.is_some() { from.option(signed)? } else { None };
                Self::Done { confirmed, failed, digest, signature }
            }
            16 => Self::Item(Item {
                name: Untrusted::from(from.bytes(255)?),
                kind: from.kind()?,
                size: from.u64()?,
                mode: from.mode()?,
                mtime: from.time()?,
            }),
            17 => Self::Error { refusal: from.refusal()?, text: from.reason()? },
            18 => Self::Unsent { path: from.path()?, refusal: from.refusal()?, text: from.reason()? },
            40 => Self::Prove { nonce: from.fixed()? },
            41 => Self::Proof { nonce: from.fixed()?, proof: from.fixed()? },
            _ => return Err(from.malformed()),
        };
        from.end()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests;
