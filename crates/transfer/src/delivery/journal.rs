//! The record on disk of deliveries to sinks: for which of them the command was started, and how it ended.
//!
//! One file, to which records are appended. A record is synced before what it stands for becomes visible: "started" before the
//! command is, "ended" before the receipt leaves. A last record that a power cut tore is not whole, and was not acted upon.
//! Anything else that cannot be read is damage: what stands there is not known, so the file is neither used nor changed.

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
/// Magic and the memory's name.
const HEADER: usize = 24;
/// Length (32 bits), kind, id, then the message, then the check.
const BEFORE: usize = 4 + 1 + 16;
const CHECK: usize = 16;
/// The longest message.
const LONGEST: usize = 64 << 10;

/// What a record says of a transfer.
#[derive(Clone, Debug)]
pub(super) enum DeliveryRecord {
    /// Its command was started, with this content. Without one nobody doubts any more whether it is to be delivered.
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
    /// The bytes of its whole records. What lies behind them, if `torn`, is the part of one that could not be written.
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
    /// Opens the journal, or makes it. `keep` are the transfers to remember; if there are more, the oldest are forgotten,
    /// and the memory gets another name.
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
        // A leftover of a crash; nobody else writes it, because the old file is locked.
        let _ = disk::unlinkat(&self.directory, &temporary, AtFlags::empty());
        let file = File::from(disk::openat(&self.directory, &temporary, OPEN.union(OFlags::EXCL), PRIVATE)?);
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let mut bytes = [&MAGIC[..], memory].concat();
        for (id, record) in history {
            bytes.extend(encode(id, record));
        }
        disk::append(&file, &bytes)?;
        disk::fsync(&file)?;
        disk::renameat_with(&self.directory, &temporary, &self.directory, &self.name, flags)?;
        disk::fsync(&self.directory)?;
        (self.file, self.length, self.torn) = (file, bytes.len() as u64, false);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn replace_file(&mut self, file: File) {
        self.file = file;
    }

    /// Appends a record, which is on disk on return.
    pub(super) fn append(&mut self, id: &TransferId, record: &DeliveryRecord) -> io::Result<()> {
        let bytes = encode(id, record);
        self.mend()?;
        self.torn = true;
        let written = disk::append(&self.file, &bytes).and_then(|()| disk::fdatasync(&self.file));
        if let Err(error) = written {
            // If that fails, too, the next record has to wait for it.
            let _ = self.mend();
            return Err(error.into());
        }
        (self.length, self.torn) = (self.length + bytes.len() as u64, false);
        Ok(())
    }

    /// Takes off what was written of a record that failed, as on a full disk: whoever reads the file stops there, and would
    /// not know of the records behind it.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            disk::ftruncate(&self.file, self.length)?;
            self.torn = false;
        }
        Ok(())
    }
}

/// The error of a lock that was not had.
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

/// The records of a file. The error is the place of the damage.
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

/// The last record of each transfer, in the order of their first.
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
mod tests {
    use std::fs;

    use super::*;
    use crate::message::{Durability, Refusal, Time};

    fn receipt(size: u64) -> Receipt {
        Receipt {
            index: 0,
            size,
            hash: Some([1; 32]),
            durability: Durability::Handed,
            time: Time { seconds: 5, nanos: 6 },
            name: b"@print".to_vec(),
            present: false,
            mode: None,
        }
    }

    fn sizes(history: &History) -> Vec<(u8, Option<u64>)> {
        let of = |record: &DeliveryRecord| match record {
            DeliveryRecord::Started(_) => None,
            DeliveryRecord::Ended(Ok(receipt)) | DeliveryRecord::Unheard(receipt, _) => Some(receipt.size),
            DeliveryRecord::Ended(Err(_)) => Some(0),
        };
        history.iter().map(|(id, record)| (id[0], of(record))).collect()
    }

    /// Asserts that the file is damaged, and stays as it is.
    fn refuses(path: &Path) {
        let before = fs::read(path).unwrap();
        let told = Journal::open(path, 10).unwrap_err().to_string();
        assert!(told.contains("it is damaged at byte") && told.contains("move the file away"), "{told}");
        assert_eq!(fs::read(path).unwrap(), before);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing was put beside it");
    }

    #[test]
    fn a_damaged_file_is_neither_used_nor_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, memory, _) = Journal::open(&path, 10).unwrap();
        for id in 1..=3 {
            journal.append(&[id; 16], &DeliveryRecord::Started(Some([id; 32]))).unwrap();
        }
        drop(journal);
        let whole = fs::read(&path).unwrap();
        let size = (whole.len() - HEADER) / 3;
        // The name of the memory has no check. The length of the last record may make it look like a part of one.
        let last = HEADER + 2 * size;
        for at in (0..8).chain(HEADER..last).chain(last + 4..whole.len()) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xa5;
            fs::write(&path, &damaged).unwrap();
            refuses(&path);
        }
        for foreign in [b"[sink]\n".to_vec(), vec![0xa5; 500], [&whole[..], &[0xa5; 100]].concat()] {
            fs::write(&path, &foreign).unwrap();
            refuses(&path);
        }
        // A record that a power cut has torn: pages of it are missing at its end or at its beginning.
        for gap in [last + 40..whole.len(), last..last + 40] {
            let mut torn = whole.clone();
            torn[gap].fill(0);
            fs::write(&path, &torn).unwrap();
            let (_, name, history) = Journal::open(&path, 10).unwrap();
            assert_eq!((name, sizes(&history)), (memory, vec![(1, None), (2, None)]));
        }
    }

    #[test]
    fn what_was_written_is_there_again_and_a_torn_end_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, memory, history) = Journal::open(&path, 10).unwrap();
        assert!(history.is_empty());
        let empty = fs::metadata(&path).unwrap().len() as usize;
        journal.append(&[1; 16], &DeliveryRecord::Started(Some([1; 32]))).unwrap();
        journal.append(&[1; 16], &DeliveryRecord::Ended(Ok(receipt(7)))).unwrap();
        journal.append(&[2; 16], &DeliveryRecord::Started(None)).unwrap();
        let failed = Fault(Refusal::Command, "no paper".into());
        journal.append(&[3; 16], &DeliveryRecord::Ended(Err(failed))).unwrap();
        let locked = Journal::open(&path, 10).unwrap_err().to_string();
        assert!(locked.contains("another server that shares this directory"), "{locked}");
        drop(journal);
        let whole = fs::read(&path).unwrap();
        let all = [(1, Some(7)), (2, None), (3, Some(0))];
        for end in 0..=whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            if (1..empty).contains(&end) {
                // It is written whole or not at all.
                refuses(&path);
                continue;
            }
            let (_, name, history) = Journal::open(&path, 10).unwrap();
            let found = sizes(&history);
            if end == 0 {
                assert!(found.is_empty() && name != memory, "it remembers nothing, and says so");
                continue;
            }
            assert_eq!(name, memory);
            let started = found == [(1, None)];
            assert!(started || all.starts_with(&found), "{end}: {found:?}");
            assert_eq!(found == all, end == whole.len());
        }
    }

    #[test]
    fn what_follows_a_record_that_failed_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, memory, _) = Journal::open(&path, 10).unwrap();
        journal.append(&[1; 16], &DeliveryRecord::Started(Some([1; 32]))).unwrap();
        // No record fits, and only a part of it is written; nor can it be taken off.
        let half = encode(&[2; 16], &DeliveryRecord::Started(None));
        disk::append(&journal.file, &half[..half.len() / 2]).unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let whole = std::mem::replace(&mut journal.file, full);
        assert!(journal.append(&[2; 16], &DeliveryRecord::Started(None)).is_err());
        assert!(journal.append(&[3; 16], &DeliveryRecord::Started(None)).is_err());
        journal.file = whole;
        journal.append(&[4; 16], &DeliveryRecord::Started(Some([4; 32]))).unwrap();
        journal.append(&[5; 16], &DeliveryRecord::Ended(Ok(receipt(5)))).unwrap();
        drop(journal);
        let (_, same, history) = Journal::open(&path, 10).unwrap();
        assert_eq!((same, sizes(&history)), (memory, vec![(1, None), (4, None), (5, Some(5))]));
    }

    #[test]
    fn a_delivery_is_known_by_its_content() {
        for content in [None, Some([7; 32])] {
            let record = encode(&[9; 16], &DeliveryRecord::Started(content));
            let Some((_, DeliveryRecord::Started(read), [])) = next(&record) else { panic!("{record:?}") };
            assert_eq!(read, content);
        }
    }

    #[test]
    fn an_outcome_that_nobody_has_heard_is_known_by_its_content() {
        let record = encode(&[9; 16], &DeliveryRecord::Unheard(receipt(5), [7; 32]));
        let Some((_, DeliveryRecord::Unheard(read, content), [])) = next(&record) else {
            panic!("{record:?}")
        };
        assert_eq!((read, content), (receipt(5), [7; 32]));
        // With the bytes of another kind of record, or cut within the content, it is none.
        assert!(decode(4, &Message::Receipt(receipt(5)).encode()).is_none());
        assert!(decode(4, &[7; 31]).is_none() && decode(4, &[7; 32]).is_none());
    }

    #[test]
    fn no_flipped_bit_makes_another_record() {
        let record = encode(&[9; 16], &DeliveryRecord::Unheard(receipt(1), [7; 32]));
        assert!(next(&record).is_some());
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(next(&damaged).is_none(), "{bit}");
        }
    }

    #[test]
    fn whoever_forgets_gets_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, memory, _) = Journal::open(&path, 2).unwrap();
        for id in 1..=2 {
            journal.append(&[id; 16], &DeliveryRecord::Started(Some([id; 32]))).unwrap();
        }
        drop(journal);
        let (mut journal, same, history) = Journal::open(&path, 2).unwrap();
        assert_eq!((same, history.len()), (memory, 2));
        journal.append(&[3; 16], &DeliveryRecord::Started(Some([3; 32]))).unwrap();
        drop(journal);
        let (_, another, history) = Journal::open(&path, 2).unwrap();
        assert_ne!(another, memory);
        assert_eq!(sizes(&history), [(2, None), (3, None)], "the oldest is forgotten first");
    }
}
