//! The log beside a partial file, by which a later session continues without reading the file again.
//!
//! A header names the source and the partial file. Then comes one record for each block that was verified *and*
//! written, with its chaining value and the file's mtime after the write. A record is appended after its block, so the
//! log never promises more than the file holds. If the file has the length and mtime of the last record, and the
//! machine has not rebooted, the log is believed. Otherwise every block is read and compared with its record, up to
//! the first block that differs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::alive::Gauge;
use crate::disk;
use crate::hash::{BLOCK, Hashing, Sum, Tree};
use crate::host::{self, Rule};
use crate::message::{Time, Token};
use crate::page_buffer::PageBuffer;
use crate::root::{mtime, read_full, write_full};

const MAGIC: [u8; 8] = *b"LNGRST01";
/// The flags with which the partial file and its log are opened.
const OPEN: OFlags = OFlags::RDWR.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Length of the header, and of each record.
const RECORD: usize = 96;

/// The log of one partial file, locked by this process.
#[derive(Debug)]
pub(crate) struct PartLog {
    log: Locked,
    key: [u8; 32],
    records: u64,
    hashing: Hashing,
}

/// What one record stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LogStep {
    /// One block.
    Block(Sum),
    /// A hole of this many blocks.
    Hole(u64),
}

impl LogStep {
    /// Whether this step, after `after` blocks, ends within `whole` blocks.
    fn fits(self, after: u64, whole: u64) -> bool {
        let blocks = if let Self::Hole(blocks) = self { blocks } else { 1 };
        after.checked_add(blocks).is_some_and(|end| end <= whole)
    }

    pub(crate) fn add_to(self, tree: &mut Tree) {
        match self {
            Self::Block(sum) => tree.push(sum),
            Self::Hole(blocks) => tree.push_zeros(blocks),
        }
    }
}

/// How far a log is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// The blocks are as the log says.
    Log,
    /// The file has to be read and compared with the log.
    Content,
    /// The contents of the file are unknown.
    Nothing,
}

impl Trust {
    /// `verified`: the records hold chaining values. `same_boot`: the machine has not rebooted since, so no written
    /// page can have been lost. `untouched`: the file has the length and mtime of the last record.
    fn of(verified: bool, same_boot: bool, untouched: bool) -> Self {
        match (verified, same_boot, untouched) {
            (true, true, true) => Self::Log,
            (true, ..) => Self::Content,
            // An unverified transfer has no chaining values to compare with: the file's length decides.
            (false, true, _) => Self::Log,
            (false, false, _) => Self::Nothing,
        }
    }
}

/// The partial file and the log that an earlier session left.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) state: PartLog,
    pub(crate) part: OwnedFd,
    pub(crate) tree: Tree,
}

impl PartLog {
    /// Makes an empty partial file and its log in `dir`. Without hashes (`hashing`) its records only count the blocks that are
    /// written.
    pub(crate) fn create(
        dir: BorrowedFd<'_>,
        token: Token,
        hashing: Hashing,
        part: &str,
        log: &str,
    ) -> Result<(Self, OwnedFd), Errno> {
        let name = log;
        let log = Locked::new(disk::openat(dir, name, OPEN.union(OFlags::CREATE), PRIVATE)?)?;
        // Remove an old partial file instead of emptying it: after a power cut it may be a second name of a delivered file.
        match disk::unlinkat(dir, part, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        let new = OPEN.union(OFlags::CREATE).union(OFlags::EXCL);
        let made = disk::openat(dir, part, new, PRIVATE).and_then(|part| {
            let header = header(token, hashing, &rustix::fs::fstat(&part)?);
            disk::ftruncate(log.as_fd(), 0)?;
            write_full(log.as_fd(), &header, 0)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            Ok((header, part))
        });
        match made {
            Ok((header, part)) => Ok((Self { log, key: key(&header), records: 0, hashing }, part)),
            Err(error) => {
                // Without its header the log would stay for good: nobody can tell that it is one.
                let _ = disk::unlinkat(dir, part, AtFlags::empty());
                let _ = disk::unlinkat(dir, name, AtFlags::empty());
                Err(error)
            }
        }
    }

    /// Opens the partial file and the log that an earlier session left. Returns `None` if there are none that can be used.
    ///
    /// # Errors
    /// Returns `WOULDBLOCK` while another session holds the lock.
    pub(crate) fn resume(
        dir: BorrowedFd<'_>,
        token: Token,
        hashing: Hashing,
        part: &str,
        log: &str,
        gauge: &Gauge,
    ) -> Result<Option<Found>, Errno> {
        let log = match disk::openat(dir, log, OPEN, Mode::empty()) {
            Ok(log) => log,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        let log = Locked::new(log)?;
        let Ok(part) = disk::openat(dir, part, OPEN, Mode::empty()) else { return Ok(None) };
        let stat = rustix::fs::fstat(&part)?;
        if stat.st_nlink > 1 {
            // After a power cut the partial file may have its final name as well. A delivered file must not be written to.
            return Ok(None);
        }
        let mut stored = [0; RECORD];
        let Ok(RECORD) = read_full(log.as_fd(), &mut stored, 0) else { return Ok(None) };
        let expected = header(token, hashing, &stat);
        // Everything but the name of the boot has to match; that decides how far the log is believed.
        if stored[..BOOT] != expected[..BOOT] || stored[BOOT + 16..] != expected[BOOT + 16..] {
            return Ok(None);
        }
        let mut state = Self { log, key: key(&stored), records: 0, hashing };
        let mut tree = state.replay(part.as_fd(), &stat, stored == expected, gauge);
        // Zeros at the end are paid for by no session: a few blocks, or none.
        tree.settle();
        let length = tree.bytes();
        if stat.st_size as u64 != length {
            disk::ftruncate(&part, length)?;
        }
        disk::ftruncate(state.log.as_fd(), (state.records + 1) * RECORD as u64)?;
        Ok(Some(Found { state, part, tree }))
    }

    /// Removes the partial file and the log of an earlier session, unless another session holds them.
    pub(crate) fn discard(dir: BorrowedFd<'_>, part: &str, log: &str) {
        let Ok(held) = disk::openat(dir, log, OPEN, Mode::empty()) else { return };
        if let Ok(_held) = Locked::new(held) {
            let _ = disk::unlinkat(dir, part, AtFlags::empty());
            let _ = disk::unlinkat(dir, log, AtFlags::empty());
        }
    }

    /// Returns the blocks that can be used: those of the log or, if the log is not believed, those in the file that agree with
    /// it.
    fn replay(&mut self, part: BorrowedFd<'_>, stat: &Stat, same_boot: bool, gauge: &Gauge) -> Tree {
        let (logged, records, last) = self.read_log(stat.st_size as u64 / BLOCK as u64);
        let verified = self.hashing != Hashing::None;
        let untouched = stat.st_size as u64 == logged.bytes() && last.is_none_or(|time| time == mtime(stat));
        let tree = match Trust::of(verified, same_boot, untouched) {
            Trust::Log => (logged, records),
            Trust::Content if host::lacks(Rule::ComparePrefix) => (logged, records),
            Trust::Content => self.compare(part, records, gauge),
            Trust::Nothing => (Tree::new().hashed(self.hashing), 0),
        };
        let (tree, records) = tree;
        debug_assert!(tree.bytes() <= stat.st_size as u64, "the log promises no more than the file holds");
        self.records = records;
        tree
    }

    /// Reads the records of at most `whole` blocks, up to the first record that is damaged. Returns their blocks, the number
    /// of records, and the mtime in the last one.
    fn read_log(&self, whole: u64) -> (Tree, u64, Option<Time>) {
        let mut sums = Tree::new().hashed(self.hashing);
        let mut last = None;
        let mut records = 0;
        let mut buffer = vec![0; RECORD * 512];
        loop {
            let offset = (records + 1) * RECORD as u64;
            let bytes = read_full(self.log.as_fd(), &mut buffer, offset).unwrap_or(0);
            for record in buffer[..bytes].chunks_exact(RECORD) {
                let Some((step, time)) = self.read_record(records, record) else {
                    return (sums, records, last);
                };
                if !step.fits(sums.blocks(), whole) {
                    return (sums, records, last);
                }
                step.add_to(&mut sums);
                records += 1;
                last = Some(time);
            }
            if bytes < buffer.len() {
                return (sums, records, last);
            }
        }
    }

    /// Reads the file block by block, up to the first block that differs from its record. Returns the blocks and the number
    /// of records that agree.
    fn compare(&self, part: BorrowedFd<'_>, records: u64, gauge: &Gauge) -> (Tree, u64) {
        let mut tree = Tree::new().hashed(self.hashing);
        let mut memory = PageBuffer::default();
        let block = memory.bytes(BLOCK);
        let mut record = [0; RECORD];
        for number in 0..records {
            let logged = match read_full(self.log.as_fd(), &mut record, (number + 1) * RECORD as u64) {
                Ok(RECORD) => self.read_record(number, &record),
                _ => None,
            };
            let agrees = match logged {
                None => false,
                Some((LogStep::Block(logged), _)) => {
                    let whole = matches!(read_full(part, block, tree.bytes()), Ok(BLOCK));
                    whole && logged == Sum::of(tree.place(), block)
                }
                // There must be no data in the hole.
                Some((LogStep::Hole(blocks), _)) => {
                    let end = (tree.blocks() + blocks) * BLOCK as u64;
                    match rustix::fs::seek(part, SeekFrom::Data(tree.bytes())) {
                        Ok(data) => data >= end,
                        Err(error) => error == Errno::NXIO,
                    }
                }
            };
            let Some((step, _)) = logged.filter(|_| agrees) else { return (tree, number) };
            step.add_to(&mut tree);
            // If nobody waits for the result any more, the comparison stops, and the next session compares again.
            if !gauge.advance(BLOCK as u64) {
                return (tree, number + 1);
            }
        }
        (tree, records)
    }

    /// Appends the record of the next step, which is verified and written.
    pub(crate) fn append(&mut self, part: BorrowedFd<'_>, step: LogStep) -> Result<(), Errno> {
        let time = mtime(&rustix::fs::fstat(part)?);
        let mut record = [0; RECORD];
        match step {
            LogStep::Block(sum) => {
                record[..32].copy_from_slice(&sum.value);
                record[32..64].copy_from_slice(&sum.alone.unwrap_or_default());
            }
            LogStep::Hole(blocks) => {
                record[..8].copy_from_slice(&blocks.to_be_bytes());
                record[HOLE] = 1;
            }
        }
        record[64..72].copy_from_slice(&time.seconds.to_be_bytes());
        record[72..76].copy_from_slice(&time.nanos.to_be_bytes());
        let check = self.check(self.records, &record);
        record[80..].copy_from_slice(&check);
        let offset = (self.records + 1) * RECORD as u64;
        write_full(self.log.as_fd(), &record, offset)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        self.records += 1;
        Ok(())
    }

    fn read_record(&self, number: u64, record: &[u8]) -> Option<(LogStep, Time)> {
        if record.get(80..)? != self.check(number, record) {
            return None;
        }
        let seconds = i64::from_be_bytes(*record[64..].first_chunk()?);
        let nanos = u32::from_be_bytes(*record[72..].first_chunk()?);
        let time = Time { seconds, nanos };
        if record[HOLE] == 1 {
            return Some((LogStep::Hole(u64::from_be_bytes(*record.first_chunk()?)), time));
        }
        let value = *record.first_chunk()?;
        let first = self.hashing.place(number) == 0;
        let alone = first.then(|| record[32..].first_chunk().copied()).flatten();
        Some((LogStep::Block(Sum { value, alone }), time))
    }

    /// A keyed hash over a record and its number. It detects records that were written partly, and records from another
    /// place or another log.
    fn check(&self, number: u64, record: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&number.to_be_bytes());
        hasher.update(&record[..80]);
        short(hasher.finalize())
    }
}

/// Offset in the header of the name of the boot (16 bytes).
const BOOT: usize = 48;
/// Offset in the header of the kind of hashing (1 byte).
const HASHING: usize = 40;
/// Offset in a record of the flag that says that the record stands for a hole.
const HOLE: usize = 76;

fn header(token: Token, hashing: Hashing, part: &Stat) -> [u8; RECORD] {
    let mut header = [0; RECORD];
    header[..8].copy_from_slice(&MAGIC);
    header[8..24].copy_from_slice(&token);
    header[24..32].copy_from_slice(&part.st_dev.to_be_bytes());
    header[32..40].copy_from_slice(&part.st_ino.to_be_bytes());
    header[HASHING] = match hashing {
        Hashing::None => 0,
        Hashing::Blocks => 2,
        // 1 was a log without records of holes. Its reader would misread those of this one.
        Hashing::Whole => 3,
    };
    header[BOOT..BOOT + 16].copy_from_slice(&boot());
    header
}

fn key(header: &[u8; RECORD]) -> [u8; 32] {
    blake3::derive_key("linger-transfer 2026 state of a partial file", header)
}

/// A name for the current boot, from its boot id. Data that was written before a reboot may not have reached the disk.
fn boot() -> [u8; 16] {
    named(&host::boot())
}

fn named(boot: &[u8]) -> [u8; 16] {
    short(blake3::hash(boot))
}

pub(crate) fn short(hash: blake3::Hash) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&hash.as_bytes()[..16]);
    short
}

/// Whether a file begins as a log does.
pub(crate) fn is_log(file: BorrowedFd<'_>) -> bool {
    let mut magic = [0; MAGIC.len()];
    matches!(read_full(file, &mut magic, 0), Ok(8)) && magic == MAGIC
}

/// A locked file.
#[derive(Debug)]
struct Locked(OwnedFd);

impl Locked {
    fn new(file: OwnedFd) -> Result<Self, Errno> {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self(file))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Locked {
    /// Unlocks the file. Closing it would not, as long as a child that another session has forked has not executed its command:
    /// the child has copies of all fds until then, and a lock belongs to the open file (flock(2)).
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests;
