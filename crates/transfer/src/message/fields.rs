//! The fields of messages: integers, strings, options, and the numbers of enum values.

use super::{
    Durability, EntryAnswer, IfExists, Kind, MAX_TEXT, Options, Receipt, Refusal, Signature, Time, TreeEntry,
};
use crate::hash::{Hash, Tree};
use crate::path::{MAX_PATH, RelPath};
use crate::reason::Reason;
use crate::wire::Violation;

#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn flag(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn fixed(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// Bytes, preceded by their length in 16 bits. The caller keeps within what the reader accepts.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let length = bytes.len().min(usize::from(u16::MAX));
        self.0.extend((length as u16).to_be_bytes());
        self.0.extend(&bytes[..length]);
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn time(&mut self, time: Time) {
        self.u64(time.seconds as u64);
        self.0.extend(time.nanos.to_be_bytes());
    }

    pub(super) fn kind(&mut self, kind: Kind) {
        self.u8(kind.number());
    }

    pub(super) fn durability(&mut self, durability: Durability) {
        self.u8(durability.number());
    }

    pub(super) fn options(&mut self, options: Options) {
        self.u8(match options.if_exists {
            IfExists::Fail => 0,
            IfExists::Replace => 1,
            IfExists::Skip => 2,
            IfExists::KeepBoth => 3,
        });
        self.flag(options.verify);
        self.flag(options.dry_run);
        self.durability(options.durability);
    }

    pub(super) fn refusal(&mut self, refusal: Refusal, text: &Reason) {
        self.u8(match refusal {
            Refusal::Exists => 1,
            Refusal::NotFound => 2,
            Refusal::Forbidden => 3,
            Refusal::ReadOnly => 4,
            Refusal::NoSpace => 5,
            Refusal::Corrupt => 6,
            Refusal::Source => 7,
            Refusal::Busy => 8,
            Refusal::Command => 9,
            Refusal::Other => 10,
            Refusal::Skipped => 11,
        });
        self.bytes(text.to_wire(MAX_TEXT).as_bytes());
    }

    pub(super) fn receipt(&mut self, receipt: &Receipt) {
        self.u64(receipt.index);
        self.u64(receipt.size);
        self.option(receipt.hash.as_ref(), |out, hash| out.fixed(hash));
        self.durability(receipt.durability);
        self.time(receipt.time);
        self.bytes(&receipt.name);
        self.flag(receipt.present);
        self.option(receipt.mode, |out, mode| out.u64(u64::from(mode)));
    }

    /// Writes the fields that version 2 has added at the end of Done.
    pub(super) fn signed(&mut self, digest: Option<&Hash>, signature: Option<&Signature>) {
        let Some(digest) = digest else { return };
        self.fixed(digest);
        self.option(signature, |out, Signature { key, bytes }| {
            out.fixed(key);
            out.fixed(bytes);
        });
    }

    pub(super) fn entry(&mut self, entry: &TreeEntry) {
        self.u64(entry.index);
        self.kind(entry.kind);
        self.bytes(entry.path.as_bytes());
        self.u64(u64::from(entry.mode));
        self.option(entry.mtime, Self::time);
        self.option(entry.size, Self::u64);
        self.fixed(&entry.token);
        self.option(entry.hash.as_ref(), |out, hash| out.fixed(hash));
        self.flag(entry.sparse);
        self.bytes(&entry.target);
        self.flag(entry.by_blocks);
    }

    pub(super) fn answer(&mut self, answer: &EntryAnswer) {
        match answer {
            EntryAnswer::Fresh => self.u8(0),
            EntryAnswer::Partial(tree) => {
                let mut tree = tree.clone();
                tree.settle();
                self.u8(1);
                self.u64(tree.blocks());
                self.u8(tree.stack().len() as u8);
                for value in tree.stack() {
                    self.fixed(value);
                }
                self.option(tree.alone().as_ref(), |out, hash| out.fixed(hash));
            }
            EntryAnswer::Complete(hash) => {
                self.u8(2);
                self.fixed(hash);
            }
            EntryAnswer::Refused(refusal, text) => {
                self.u8(3);
                self.refusal(*refusal, text);
            }
        }
    }
}

pub(super) struct Reader<'a> {
    pub(super) left: &'a [u8],
    pub(super) what: &'static str,
}

impl Reader<'_> {
    pub(super) fn malformed(&self) -> Violation {
        Violation::Malformed(self.what)
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<&[u8], Violation> {
        let (taken, left) = self.left.split_at_checked(bytes).ok_or(Violation::Malformed(self.what))?;
        self.left = left;
        Ok(taken)
    }

    pub(super) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    pub(super) fn end(&self) -> Result<(), Violation> {
        if self.left.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }

    pub(super) fn u8(&mut self) -> Result<u8, Violation> {
        self.fixed::<1>().map(|[byte]| byte)
    }

    pub(super) fn flag(&mut self) -> Result<bool, Violation> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed()),
        }
    }

    pub(super) fn u64(&mut self) -> Result<u64, Violation> {
        self.fixed().map(u64::from_be_bytes)
    }

    pub(super) fn bytes(&mut self, most: usize) -> Result<Vec<u8>, Violation> {
        let length = usize::from(u16::from_be_bytes(self.fixed()?));
        if length > most {
            return Err(self.malformed());
        }
        self.take(length).map(<[u8]>::to_vec)
    }

    /// Reads a field that version 2 has added at the end of a message; nothing in a message of version 1.
    pub(super) fn added<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Violation>,
    ) -> Result<Option<T>, Violation> {
        if self.left.is_empty() { Ok(None) } else { read(self).map(Some) }
    }

    pub(super) fn text(&mut self, most: usize) -> Result<String, Violation> {
        String::from_utf8(self.bytes(most)?).map_err(|_| self.malformed())
    }

    pub(super) fn reason(&mut self) -> Result<Reason, Violation> {
        self.text(MAX_TEXT).map(Reason::from_wire)
    }

    pub(super) fn path(&mut self) -> Result<RelPath, Violation> {
        RelPath::new(self.bytes(MAX_PATH)?).map_err(|_| Violation::Malformed("path"))
    }

    pub(super) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Violation>,
    ) -> Result<Option<T>, Violation> {
        Ok(if self.flag()? { Some(read(self)?) } else { None })
    }

    pub(super) fn mode(&mut self) -> Result<u32, Violation> {
        u32::try_from(self.u64()?).ok().filter(|mode| *mode <= 0o7777).ok_or(self.malformed())
    }

    pub(super) fn time(&mut self) -> Result<Time, Violation> {
        let seconds = self.u64()? as i64;
        let nanos = u32::from_be_bytes(self.fixed()?);
        if nanos < 1_000_000_000 { Ok(Time { seconds, nanos }) } else { Err(self.malformed()) }
    }

    pub(super) fn kind(&mut self) -> Result<Kind, Violation> {
        Ok(match self.u8()? {
            0 => Kind::File,
            1 => Kind::Directory,
            2 => Kind::Link,
            3 => Kind::Pipe,
            _ => return Err(self.malformed()),
        })
    }

    pub(super) fn durability(&mut self) -> Result<Durability, Violation> {
        Ok(match self.u8()? {
            0 => Durability::Memory,
            1 => Durability::Disk,
            2 => Durability::Handed,
            3 => Durability::FileSystem,
            _ => return Err(self.malformed()),
        })
    }

    pub(super) fn options(&mut self) -> Result<Options, Violation> {
        Ok(Options {
            if_exists: match self.u8()? {
                0 => IfExists::Fail,
                1 => IfExists::Replace,
                2 => IfExists::Skip,
                3 => IfExists::KeepBoth,
                _ => return Err(self.malformed()),
            },
            verify: self.flag()?,
            dry_run: self.flag()?,
            durability: match self.durability()? {
                // These describe what was done. A request cannot ask for them.
                Durability::Handed | Durability::FileSystem => return Err(self.malformed()),
                asked => asked,
            },
        })
    }

    pub(super) fn refusal(&mut self) -> Result<Refusal, Violation> {
        Ok(match self.u8()? {
            1 => Refusal::Exists,
            2 => Refusal::NotFound,
            3 => Refusal::Forbidden,
            4 => Refusal::ReadOnly,
            5 => Refusal::NoSpace,
            6 => Refusal::Corrupt,
            7 => Refusal::Source,
            8 => Refusal::Busy,
            9 => Refusal::Command,
            10 => Refusal::Other,
            11 => Refusal::Skipped,
            _ => return Err(self.malformed()),
        })
    }

    pub(super) fn entry(&mut self) -> Result<TreeEntry, Violation> {
        Ok(TreeEntry {
            index: self.u64()?,
            kind: self.kind()?,
            path: self.path()?,
            mode: self.mode()?,
            mtime: self.option(Self::time)?,
            size: self.option(Self::u64)?.map(|size| self.length(size)).transpose()?,
            token: self.fixed()?,
            hash: self.option(Self::fixed)?,
            sparse: self.flag()?,
            target: self.bytes(MAX_PATH)?,
            by_blocks: self.added(Self::flag)?.unwrap_or(false),
        })
    }

    /// A length that `off_t` can hold.
    pub(super) fn length(&self, length: u64) -> Result<u64, Violation> {
        if length <= i64::MAX as u64 { Ok(length) } else { Err(self.malformed()) }
    }

    pub(super) fn answer(&mut self) -> Result<EntryAnswer, Violation> {
        Ok(match self.u8()? {
            0 => EntryAnswer::Fresh,
            1 => {
                let blocks = self.u64()?;
                let depth = usize::from(self.u8()?);
                if depth > Tree::DEEPEST {
                    return Err(self.malformed());
                }
                let stack = (0..depth).map(|_| self.fixed()).collect::<Result<_, _>>()?;
                let alone = self.option(Self::fixed)?;
                EntryAnswer::Partial(Tree::restore(blocks, stack, alone).ok_or(self.malformed())?)
            }
            2 => EntryAnswer::Complete(self.fixed()?),
            3 => EntryAnswer::Refused(self.refusal()?, self.reason()?),
            _ => return Err(self.malformed()),
        })
    }
}
