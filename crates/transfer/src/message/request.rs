//! What a client asks for, in the frame that opens a stream.

use super::fields::{Reader, Writer};
use super::{Durability, MAX_TEXT, MemoryId, TransferId};
use crate::path::RelPath;
use crate::wire::Violation;

/// Most patterns in one request.
const MAX_PATTERNS: usize = 256;

/// A client's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Put(Put),
    Get(Get),
    List {
        path: RelPath,
    },
    /// Asks what came of a transfer to a sink.
    Ask {
        id: TransferId,
    },
}

/// Wants to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Put {
    /// The destination as typed: a directory into which it is put, or the new name.
    pub(crate) path: RelPath,
    /// Whether the path was typed with a final `/`, so that only a directory will do.
    pub(crate) into: bool,
    /// The name at the sender of what is sent; empty for a pipe.
    pub(crate) name: Vec<u8>,
    /// A sink of the receiver, instead of a path.
    pub(crate) sink: Option<String>,
    /// The transfer's id, the same in every session of one transfer.
    pub(crate) id: TransferId,
    /// An earlier session of the same transfer was cut.
    pub(crate) again: bool,
    /// An earlier session has sent something completely, so its command may have run already: what the receiver's
    /// memory was then.
    pub(crate) sent: Option<MemoryId>,
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

impl Operation {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Put(put) => {
                out.u8(1);
                out.bytes(put.path.as_bytes());
                out.flag(put.into);
                out.bytes(&put.name);
                out.option(put.sink.as_ref(), |out, name| out.bytes(name.as_bytes()));
                out.fixed(&put.id);
                out.flag(put.again);
                out.option(put.sent.as_ref(), |out, memory| out.fixed(memory));
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
            Self::Ask { id } => {
                out.u8(4);
                out.fixed(id);
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
                id: from.fixed()?,
                again: from.flag()?,
                sent: from.option(Reader::fixed)?,
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
            4 => Self::Ask { id: from.fixed()? },
            _ => return Err(from.malformed()),
        };
        from.end()?;
        Ok(request)
    }
}
