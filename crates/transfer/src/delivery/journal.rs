//! The record on disk of deliveries to sinks: for which of them the command was started, and how it ended.
//!
//! One file, to which records are appended. A record is synced before its effect becomes visible: "started" before the command
//! is started, "ended" before the receipt is sent (if the disk has room; otherwise the delivery is in doubt after a restart). A
//! last record that a power cut left incomplete was not acted upon. Anything else that cannot be read is damage: what it said
//! is not known, so the file is neither used nor changed.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::disk;
use crate::error::Error;
use crate::fault::Fault;
use crate::hash::Hash;
use crate::host;
use crate::message::{MemoryId, Message, Receipt, TransferId};

const MAGIC: [u8; 8] = *b"LNGRDJ01";
/// Length of the file's header: the magic and the [`MemoryId`].
const HEADER: usize = 24;
/// Bytes of a record before its message: the message's length (32 bits), the kind and the transfer's id. After the message
/// comes the check.
const BEFORE: usize = 4 + 1 + 16;
const CHECK: usize = 16;
/// The longest message, in bytes.
const LONGEST: usize = 64 << 10;

/// What a record says of a transfer.
#[derive(Clone, Debug)]
pub(super) enum DeliveryRecord {
    /// Its command was started, with this content; `None` once a person has had the content delivered again, so that this
    /// transfer raises no doubt about it any more.
    Started(Option<Hash>),
    Ended(Result<Receipt, Fault>),
    /// Its command has ended well with this content, and no client has said that it knows.
    Unheard(Receipt, Hash),
}

/// What a journal held when it was opened, the oldest first.
pub(super) type History = Vec<(TransferId, DeliveryRecord)>;

/// The file, locked by this process.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// Length of the header and the whole records. If `torn`, a part of a record follows that could not be written completely.
    length: u64,
    torn: bool,
    /// Where it lies, and its name there.
    directory: File,
    name: OsString,
}

impl Drop for Journal {
    /// Unlocks the file. Closing it would not, as long as a child that another thread has forked has not executed its program:
    /// the child has copies of all fds until then, and a lock belongs to the open file (flock(2)).
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// How the file is opened.
const OPEN: OFlags = OFlags::RDWR.union(OFlags::APPEND).union(OFlags::CREATE).union(OFlags::CLOEXEC);
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

impl Journal {
    /// Opens the journal, or makes it. `keep` is the number of transfers to remember; if the file has more, the oldest are
    /// forgotten, and the memory gets another name.
    ///
    /// # Errors
    /// Returns [`Error::Io`] with a [`DamagedJournal`] if the file is damaged or is no journal. It stays as it is.
    pub(super) fn open(path: &Path, keep: usize) -> Result<(Self, MemoryId, History), Error> {
        let failed = |doing| {
            let shown = path.display().to_string();
            move |error: io::Error| Error::io(doing, shown, error)
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = File::open(parent.unwrap_or(Path::new("."))).map_err(failed("open"))?;
        let name = path.file_name().unwrap_or_default().to_owned();
        let file = disk::openat(&directory, &name, OPEN, PRIVATE);
        let mut file = File::from(file.map_err(|error| failed("open")(error.into()))?);
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| failed("lock")(locked(error)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read"))?;
        let known = read(&bytes).map_err(|at| failed("use")(io::Error::other(DamagedJournal(at))))?;
        let mut latest = latest(known);
        let forgets = latest.len() > keep;
        latest.drain(..latest.len().saturating_sub(keep));
        let mut memory = MemoryId::default();
        match bytes.get(8..HEADER) {
            Some(name) if !forgets => memory.copy_from_slice(name),
            _ => host::random(&mut memory).map_err(|error| failed("name")(error.into()))?,
        }
        let mut journal = Self { file, length: 0, torn: false, directory, name };
        journal.write_anew(&memory, &latest, RenameFlags::empty()).map_err(failed("write"))?;
        Ok((journal, memory, latest))
    }

    /// The name of the file in its directory.
    pub(super) fn name(&self) -> String {
        self.name.to_string_lossy().into_owned()
    }

    /// Whether somebody has removed the file, so that what is appended to it is lost.
    pub(super) fn is_removed(&self) -> io::Result<bool> {
        Ok(rustix::fs::fstat(&self.file)?.st_nlink == 0)
    }

    /// Writes the file again that was removed. A file that has taken its name stays as it is, and is an error.
    pub(super) fn restore(&mut self, memory: &MemoryId, history: &History) -> io::Result<()> {
        self.write_anew(memory, history, RenameFlags::NOREPLACE)
    }

    /// Writes the file anew, without what is not needed any more, and without a torn end.
    fn write_anew(&mut self, memory: &MemoryId, history: &History, flags: RenameFlags) -> io::Result<()> {
        let temporary = Path::new(&self.name).with_extension("new");
        // A leftover of a crash; nobody else writes it, because the old file is locked. If it cannot be removed, that is what is
        // wrong, and not that it exists.
        match disk::unlinkat(&self.directory, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let file = File::from(disk::openat(&self.directory, &temporary, OPEN.union(OFlags::EXCL), PRIVATE)?);
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let mut bytes = [&MAGIC[..], memory].concat();
        for (id, record) in history {
            bytes.extend(encode(id, record));
        }
        let written = disk::append(&file, &bytes).and_then(|()| disk::fsync(&file)).and_then(|()| {
            disk::renameat_with(&self.directory, &temporary, &self.directory, &self.name, flags)
        });
        if let Err(error) = written {
            // A full disk needs the room.
            let _ = disk::unlinkat(&self.directory, &temporary, AtFlags::empty());
            return Err(error.into());
        }
        disk::fsync(&self.directory)?;
        (self.file, self.length, self.torn) = (file, bytes.len() as u64, false);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn replace_file(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }

    /// Appends a record, which is on disk on return.
    pub(super) fn append(&mut self, id: &TransferId, record: &DeliveryRecord) -> io::Result<()> {
        let bytes = encode(id, record);
        self.mend()?;
        self.torn = true;
        let written = disk::append(&self.file, &bytes).and_then(|()| disk::fdatasync(&self.file));
        if let Err(error) = written {
            // If that fails, too, the next `append` tries again before it writes.
            let _ = self.mend();
            return Err(error.into());
        }
        (self.length, self.torn) = (self.length + bytes.len() as u64, false);
        Ok(())
    }

    /// Truncates what was written of a record that failed, as on a full disk: a reader stops at a damaged record, and would
    /// not see the records behind it.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            disk::ftruncate(&self.file, self.length)?;
            self.torn = false;
        }
        Ok(())
    }
}

/// The error to report if the file could not be locked.
fn locked(error: Errno) -> io::Error {
    match error {
        Errno::WOULDBLOCK => {
            io::Error::new(io::ErrorKind::ResourceBusy, "another server that shares this directory has it")
        }
        error => error.into(),
    }
}

fn encode(id: &TransferId, record: &DeliveryRecord) -> Vec<u8> {
    let (kind, message) = match record {
        DeliveryRecord::Started(content) => (1, content.map_or_else(Vec::new, |content| content.to_vec())),
        DeliveryRecord::Ended(Ok(receipt)) => (2, Message::Receipt(receipt.clone()).encode()),
        DeliveryRecord::Ended(Err(Fault(refusal, text))) => {
            (3, Message::Failed { index: 0, refusal: *refusal, text: text.clone() }.encode())
        }
        DeliveryRecord::Unheard(receipt, content) => {
            (4, [&content[..], &Message::Receipt(receipt.clone()).encode()].concat())
        }
    };
    let mut bytes = (message.len() as u32).to_be_bytes().to_vec();
    bytes.push(kind);
    bytes.extend(id);
    bytes.extend(message);
    let check = check(&bytes);
    bytes.extend(&check[..CHECK]);
    bytes
}

fn check(record: &[u8]) -> Hash {
    blake3::derive_key("linger-transfer 2026 record of a delivery", record)
}

/// A file that cannot be believed from this byte on.
#[derive(Debug, thiserror::Error)]
#[error(
    "it is damaged at byte {0}, and what was handed to sinks may be missing, so nothing could be kept from being done twice. \
     It was left as it is: look what was done, move the file away, and start again"
)]
pub(crate) struct DamagedJournal(usize);

/// The records of a file. The error is the offset of the damage, in bytes.
fn read(bytes: &[u8]) -> Result<History, usize> {
    let mut history = History::new();
    if bytes.is_empty() {
        return Ok(history);
    }
    if bytes.len() < HEADER || bytes[..8] != MAGIC {
        return Err(0);
    }
    let mut rest = &bytes[HEADER..];
    while let Some((id, record, behind)) = next(rest) {
        history.push((id, record));
        rest = behind;
    }
    if is_torn(rest) { Ok(history) } else { Err(bytes.len() - rest.len()) }
}

/// Whether the end of a file is a record that was being written when the power was cut: a part of one, or one with pages
/// that have not reached the disk, which are zeros. Nothing has been written behind it.
fn is_torn(rest: &[u8]) -> bool {
    const ZEROS: [u8; 8] = [0; 8];
    let length = rest.first_chunk().map_or(0, |length| u32::from_be_bytes(*length) as usize);
    let is_part = length <= LONGEST && rest.len() < BEFORE + length + CHECK;
    let has_gap = rest.starts_with(&ZEROS) || rest.ends_with(&ZEROS);
    (is_part || has_gap) && (1..rest.len()).all(|at| next(&rest[at..]).is_none())
}

fn next(bytes: &[u8]) -> Option<(TransferId, DeliveryRecord, &[u8])> {
    let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    if length > LONGEST {
        return None;
    }
    let (record, rest) = bytes.split_at_checked(BEFORE + length)?;
    let (found, rest) = rest.split_at_checked(CHECK)?;
    if found != &check(record)[..CHECK] {
        return None;
    }
    let id = record[5..BEFORE].try_into().ok()?;
    Some((id, decode(record[4], &record[BEFORE..])?, rest))
}

fn decode(kind: u8, body: &[u8]) -> Option<DeliveryRecord> {
    let (content, message) = match kind {
        4 => body.split_first_chunk().map(|(content, message)| (Some(*content), message))?,
        _ => (None, body),
    };
    Some(match (kind, content, Message::decode(message)) {
        (1, ..) => DeliveryRecord::Started(body.try_into().ok()),
        (2, _, Ok(Message::Receipt(receipt))) => DeliveryRecord::Ended(Ok(receipt)),
        (3, _, Ok(Message::Failed { refusal, text, .. })) => DeliveryRecord::Ended(Err(Fault(refusal, text))),
        (4, Some(content), Ok(Message::Receipt(receipt))) => DeliveryRecord::Unheard(receipt, content),
        _ => return None,
    })
}

/// The last record of each transfer, in the order in which the transfers first appear.
fn latest(history: History) -> History {
    let mut places = std::collections::HashMap::new();
    let mut latest = History::new();
    for (id, record) in history {
        match places.get(&id) {
            Some(&place) => latest[place] = (id, record),
            None => {
                places.insert(id, latest.len());
                latest.push((id, record));
            }
        }
    }
    latest
}

#[cfg(test)]
mod tests;
