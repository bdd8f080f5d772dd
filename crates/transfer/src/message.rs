//! What sender and receiver say to each other, and its encoding; no I/O.

mod fields;

use crate::hash::{Hash, Tree};
use crate::path::{MAX_PATH, RelPath};
use crate::reason::Reason;
use crate::wire::Violation;
use fields::{Reader, Writer};

/// Longest text of an error, in bytes.
const MAX_TEXT: usize = 1 << 10;
/// Most patterns in one request, and the longest of them.
const MAX_PATTERNS: usize = 256;

/// Names what is sent, so that a later session can go on with it: see `docs/transfer-protocol.md`.
pub(crate) type Token = [u8; 16];

/// How much the receiver does before it says that a file is there.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Durability {
    /// It is in the kernel's memory: it survives the receiver's process, not a power cut.
    Memory,
    /// `fsync` of the file before the rename and of its directory after it.
    #[default]
    Disk,
}

/// Why one file or a whole request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Refusal {
    /// The final name exists, and nobody asked to replace it.
    Exists,
    /// No such file or directory.
    NotFound,
    /// The name or the link is not allowed: it would lead outside, or is no valid name.
    Forbidden,
    /// The receiver shares for reading only.
    ReadOnly,
    /// The disk or the quota is full, or a size limit was reached.
    NoSpace,
    /// What arrived is not what was sent.
    Corrupt,
    /// The source could not be read, or changed while it was read.
    Source,
    /// The same file is being received by another session, or there are too many; worth trying again.
    Busy,
    /// A sink's or source's command failed.
    Command,
    /// Anything else that the system said.
    Other,
}

/// What a client asks for, in the OPEN frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Put(Put),
    Get(Get),
    List { path: RelPath },
}

/// Wants to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Put {
    /// Where to, as typed: may name a directory to put it in, or the new name.
    pub(crate) path: RelPath,
    /// Whether the path was typed with a final `/`, so that only a directory will do.
    pub(crate) into: bool,
    /// The name it has at the sender; empty for a pipe.
    pub(crate) name: Vec<u8>,
    /// A sink of the receiver, instead of a path.
    pub(crate) sink: Option<String>,
    /// An earlier session of the same transfer was cut.
    pub(crate) again: bool,
    pub(crate) options: Options,
}

/// Wants to receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Get {
    pub(crate) path: RelPath,
    /// A source of the sender, instead of a path.
    pub(crate) source: Option<String>,
    /// gitignore lines, in order; those with `!` include.
    pub(crate) patterns: Vec<Vec<u8>>,
    /// Bytes a second the sender is to keep to; 0 for no limit.
    pub(crate) limit: u64,
    pub(crate) options: Options,
}

/// What both directions have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) replace: bool,
    pub(crate) verify: bool,
    pub(crate) dry_run: bool,
    pub(crate) durability: Durability,
}

/// Kinds of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link that stays inside the tree.
    Link,
    /// Bytes of unknown length.
    Pipe,
}

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[allow(clippy::exhaustive_structs)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds, below 10^9.
    pub nanos: u32,
}

/// One thing of the tree that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Counts up from 0 in a transfer, over all its sessions.
    pub(crate) index: u64,
    pub(crate) kind: Kind,
    /// Below the top of the transfer, whose own path is empty.
    pub(crate) path: RelPath,
    /// Permission bits, 0o7777 at most.
    pub(crate) mode: u32,
    pub(crate) mtime: Option<Time>,
    /// Length in bytes, where it is known before the end.
    pub(crate) size: Option<u64>,
    pub(crate) token: Token,
    /// A pipe that was read to its end in an earlier session.
    pub(crate) hash: Option<Hash>,
    /// The file has holes, and the copy should have them too.
    pub(crate) sparse: bool,
    /// What a link says.
    pub(crate) target: Vec<u8>,
}

/// What the receiver has of a file that was announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Fresh,
    Partial(Tree),
    /// A file of the same size and time under the final name.
    Complete(Hash),
    Refused(Refusal, Reason),
}

/// What a receipt says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) index: u64,
    pub(crate) size: u64,
    /// Missing where verification was not asked for.
    pub(crate) hash: Option<Hash>,
    pub(crate) durability: Durability,
    pub(crate) time: Time,
    /// The name it has at the receiver.
    pub(crate) name: Vec<u8>,
    /// It was there already, and was compared.
    pub(crate) present: bool,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Item {
    /// The name, one component.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Bytes of a file.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Last modification.
    pub mtime: Time,
}

/// What is said inside a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Sender of a `get`: the name and kind of what will come.
    Offer {
        name: Vec<u8>,
        directory: bool,
    },
    /// Receiver: go on. With `ask`, wait for an answer to each entry before its data.
    Accept {
        ask: bool,
    },
    Entry(Entry),
    Answer {
        index: u64,
        answer: Answer,
    },
    /// So many zero bytes, a whole number of blocks.
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
    },
    /// Receiver: all receipts are out.
    Done {
        confirmed: u64,
        failed: u64,
    },
    Item(Item),
    /// The request as a whole failed.
    Error {
        refusal: Refusal,
        text: Reason,
    },
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Put(put) => {
                out.u8(1);
                out.bytes(put.path.as_bytes());
                out.flag(put.into);
                out.bytes(&put.name);
                out.option(put.sink.as_ref(), |out, name| out.bytes(name.as_bytes()));
                out.flag(put.again);
                out.options(put.options);
            }
            Self::Get(get) => {
                out.u8(2);
                out.bytes(get.path.as_bytes());
                out.option(get.source.as_ref(), |out, name| out.bytes(name.as_bytes()));
                out.u64(get.patterns.len() as u64);
                for pattern in &get.patterns {
                    out.bytes(pattern);
                }
                out.u64(get.limit);
                out.options(get.options);
            }
            Self::List { path } => {
                out.u8(3);
                out.bytes(path.as_bytes());
            }
        }
        out.0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Violation> {
        let mut from = Reader { left: bytes, what: "request" };
        let request = match from.u8()? {
            1 => Self::Put(Put {
                path: from.path()?,
                into: from.flag()?,
                name: from.bytes(255)?,
                sink: from.option(|from| from.text(64))?,
                again: from.flag()?,
                options: from.options()?,
            }),
            2 => Self::Get(Get {
                path: from.path()?,
                source: from.option(|from| from.text(64))?,
                patterns: {
                    let count = from.u64()?;
                    if count > MAX_PATTERNS as u64 {
                        return Err(from.malformed());
                    }
                    (0..count).map(|_| from.bytes(MAX_TEXT)).collect::<Result<_, _>>()?
                },
                limit: from.u64()?,
                options: from.options()?,
            }),
            3 => Self::List { path: from.path()? },
            _ => return Err(from.malformed()),
        };
        from.end()?;
        Ok(request)
    }
}

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(64));
        match self {
            Self::Offer { name, directory } => {
                out.u8(1);
                out.bytes(name);
                out.flag(*directory);
            }
            Self::Accept { ask } => {
                out.u8(2);
                out.flag(*ask);
            }
            Self::Entry(entry) => {
                out.u8(3);
                out.entry(entry);
            }
            Self::Answer { index, answer } => {
                out.u8(4);
                out.u64(*index);
                out.answer(answer);
            }
            Self::Hole { bytes } => {
                out.u8(5);
                out.u64(*bytes);
            }
            Self::Sum { value } => {
                out.u8(6);
                out.fixed(value);
            }
            Self::End { index, size, hash } => {
                out.u8(7);
                out.u64(*index);
                out.u64(*size);
                out.option(hash.as_ref(), |out, hash| out.fixed(hash));
            }
            Self::Same { index } => {
                out.u8(8);
                out.u64(*index);
            }
            Self::Abort { index, refusal, text } => {
                out.u8(9);
                out.u64(*index);
                out.refusal(*refusal, text);
            }
            Self::Leave { index, mode, mtime } => {
                out.u8(10);
                out.u64(*index);
                out.u64(u64::from(*mode));
                out.time(*mtime);
            }
            Self::Progress { index, bytes } => {
                out.u8(11);
                out.u64(*index);
                out.u64(*bytes);
            }
            Self::Receipt(receipt) => {
                out.u8(12);
                out.u64(receipt.index);
                out.u64(receipt.size);
                out.option(receipt.hash.as_ref(), |out, hash| out.fixed(hash));
                out.durability(receipt.durability);
                out.time(receipt.time);
                out.bytes(&receipt.name);
                out.flag(receipt.present);
            }
            Self::Failed { index, refusal, text } => {
                out.u8(13);
                out.u64(*index);
                out.refusal(*refusal, text);
            }
            Self::Total { entries } => {
                out.u8(14);
                out.u64(*entries);
            }
            Self::Done { confirmed, failed } => {
                out.u8(15);
                out.u64(*confirmed);
                out.u64(*failed);
            }
            Self::Item(item) => {
                out.u8(16);
                out.bytes(&item.name);
                out.kind(item.kind);
                out.u64(item.size);
                out.u64(u64::from(item.mode));
                out.time(item.mtime);
            }
            Self::Error { refusal, text } => {
                out.u8(17);
                out.refusal(*refusal, text);
            }
        }
        out.0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Violation> {
        let mut from = Reader { left: bytes, what: "message" };
        let message = match from.u8()? {
            1 => Self::Offer { name: from.bytes(255)?, directory: from.flag()? },
            2 => Self::Accept { ask: from.flag()? },
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
            }),
            13 => Self::Failed { index: from.u64()?, refusal: from.refusal()?, text: from.reason()? },
            14 => Self::Total { entries: from.u64()? },
            15 => Self::Done { confirmed: from.u64()?, failed: from.u64()? },
            16 => Self::Item(Item {
                name: from.bytes(255)?,
                kind: from.kind()?,
                size: from.u64()?,
                mode: from.mode()?,
                mtime: from.time()?,
            }),
            17 => Self::Error { refusal: from.refusal()?, text: from.reason()? },
            _ => return Err(from.malformed()),
        };
        from.end()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Sum;
    use proptest::prelude::*;

    fn examples() -> Vec<Message> {
        let mut tree = Tree::new();
        tree.push(Sum::of(0, b"x"));
        let time = Time { seconds: -1, nanos: 999_999_999 };
        let path = RelPath::new(*b"a/b").unwrap();
        vec![
            Message::Offer { name: b"n".to_vec(), directory: true },
            Message::Accept { ask: true },
            Message::Entry(Entry {
                index: 7,
                kind: Kind::Link,
                path,
                mode: 0o7777,
                mtime: Some(time),
                size: Some(9),
                token: [3; 16],
                hash: Some([1; 32]),
                sparse: true,
                target: b"../x".to_vec(),
            }),
            Message::Answer { index: 1, answer: Answer::Partial(tree) },
            Message::Answer { index: 1, answer: Answer::Complete([2; 32]) },
            Message::Answer { index: 1, answer: Answer::Refused(Refusal::Exists, "é".into()) },
            Message::Answer { index: 1, answer: Answer::Fresh },
            Message::Hole { bytes: 1 << 20 },
            Message::Sum { value: [9; 32] },
            Message::End { index: 1, size: 2, hash: None },
            Message::Same { index: 1 },
            Message::Abort { index: 1, refusal: Refusal::Source, text: "gone".into() },
            Message::Leave { index: 1, mode: 0o755, mtime: time },
            Message::Progress { index: 1, bytes: 5 },
            Message::Receipt(Receipt {
                index: 1,
                size: 3,
                hash: Some([4; 32]),
                durability: Durability::Disk,
                time,
                name: b"x".to_vec(),
                present: false,
            }),
            Message::Failed { index: 1, refusal: Refusal::NoSpace, text: Reason::default() },
            Message::Total { entries: 4 },
            Message::Done { confirmed: 4, failed: 0 },
            Message::Item(Item { name: b"i".to_vec(), kind: Kind::File, size: 1, mode: 0o644, mtime: time }),
            Message::Error { refusal: Refusal::NotFound, text: "no".into() },
        ]
    }

    #[test]
    fn every_message_comes_back_as_it_was() {
        for message in examples() {
            assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(&message));
        }
    }

    #[test]
    fn a_cut_or_lengthened_message_is_refused() {
        for message in examples() {
            let bytes = message.encode();
            for end in 0..bytes.len() {
                assert!(Message::decode(&bytes[..end]).is_err(), "{message:?} cut at {end}");
            }
            assert!(Message::decode(&[&bytes[..], b"x"].concat()).is_err(), "{message:?} lengthened");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes.clone());
            }
            let _ = Request::decode(&bytes);
        }
    }
}
