//! What a client asks for, in the frame that opens a stream.

use super::fields::{Reader, Writer};
use super::{Durability, IfExists, MAX_TEXT, MemoryId, TransferId};
use crate::path::RelPath;
use crate::selection::{LinkMode, Selection};
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

/// The client wants to send.
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
    /// Set if an earlier session has sent its content completely, so that the sink's command may have run already: the name
    /// of the receiver's memory in that session.
    pub(crate) sent: Option<MemoryId>,
    pub(crate) options: Options,
    /// The modes were chosen by a person: the receiver's umask does not change them.
    pub(crate) exact_modes: bool,
    /// A person wants the sink's command started, although it may have run for the same content before.
    pub(crate) anew: bool,
}

/// The client wants to receive.
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
    /// What the sender does with links, special files and files that grow.
    pub(crate) selection: Selection,
}

/// What both directions have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) if_exists: IfExists,
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
                let wishes = u8::from(put.exact_modes) | u8::from(put.anew) << 1;
                if wishes != 0 {
                    out.u8(wishes);
                }
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
                if get.selection != Selection::default() {
                    out.u8(selected(get.selection));
                }
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
            1 => {
                let mut put = Put {
                    path: from.path()?,
                    into: from.flag()?,
                    name: from.bytes(255)?,
                    sink: from.option(|from| from.text(64))?,
                    id: from.fixed()?,
                    again: from.flag()?,
                    sent: from.option(Reader::fixed)?,
                    options: from.options()?,
                    exact_modes: false,
                    anew: false,
                };
                let wishes = if from.left.is_empty() { 0 } else { from.u8()? };
                if wishes > 3 {
                    return Err(from.malformed());
                }
                (put.exact_modes, put.anew) = (wishes & 1 != 0, wishes & 2 != 0);
                Self::Put(put)
            }
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
                selection: match from.left {
                    [] => Selection::default(),
                    _ => selection(from.u8()?).ok_or_else(|| from.malformed())?,
                },
            }),
            3 => Self::List { path: from.path()? },
            4 => Self::Ask { id: from.fixed()? },
            _ => return Err(from.malformed()),
        };
        from.end()?;
        Ok(request)
    }
}

/// A selection in one byte.
fn selected(selection: Selection) -> u8 {
    let links = match selection.links {
        LinkMode::Keep => 0,
        LinkMode::Follow => 1,
        LinkMode::Skip => 2,
    };
    let flags = [(2, selection.skip_special), (3, selection.live), (4, selection.reread)];
    flags.iter().fold(links, |byte, (bit, set)| byte | u8::from(*set) << bit)
}

fn selection(byte: u8) -> Option<Selection> {
    let links = match byte & 3 {
        0 => LinkMode::Keep,
        1 => LinkMode::Follow,
        2 => LinkMode::Skip,
        _ => return None,
    };
    let has = |bit: u8| byte & 1 << bit != 0;
    (byte < 32).then_some(Selection { links, skip_special: has(2), live: has(3), reread: has(4) })
}
