//! The log beside a partial file, by which a later session continues without reading the file again.
//!
//! A header names the source and the partial file. Then comes one record for each block that was verified *and*
//! written, with its chaining value and the file's mtime after the write. A record is appended after its block, so the
//! log never promises more than the file holds. If the file has the length and mtime of the last record, and the
//! machine has not rebooted, the log is believed. Otherwise every block is read and compared with its record, up to
//! the first block that differs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::alive::Gauge;
use crate::hash::{BLOCK, Sum, Tree};
use crate::message::{Time, Token};
use crate::root::{mtime, read_full, write_full};

const MAGIC: [u8; 8] = *b"LNGRST01";
/// How both files are opened.
const OPEN: OFlags = OFlags::RDWR.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Length of the header, and of each record.
const RECORD: usize = 96;

/// The log of one partial file, locked by this process.
#[derive(Debug)]
pub(crate) struct PartLog {
    log: OwnedFd,
    key: [u8; 32],
    records: u64,
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
    /// `verified`: the records hold chaining values. `same_boot`: no written page can have been lost by a reboot.
    /// `untouched`: the file has the length and mtime of the last record.
    fn of(verified: bool, same_boot: bool, untouched: bool) -> Self {
        match (verified, same_boot, untouched) {
            (true, true, true) => Self::Log,
            (true, ..) => Self::Content,
            // An unverified transfer has no chaining values to compare with; it goes by length.
            (false, true, _) => Self::Log,
            (false, false, _) => Self::Nothing,
        }
    }
}

/// The state that an earlier session left.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) state: PartLog,
    pub(crate) part: OwnedFd,
    pub(crate) tree: Tree,
}

impl PartLog {
    /// Makes an empty partial file and its log in `dir`. Without `verified` the records only count the blocks written.
    pub(crate) fn create(
        dir: BorrowedFd<'_>,
        token: Token,
        verified: bool,
        part: &str,
        log: &str,
    ) -> Result<(Self, OwnedFd), Errno> {
        let log = rustix::fs::openat(dir, log, OPEN.union(OFlags::CREATE), PRIVATE)?;
        lock(&log)?;
        let empty = OPEN.union(OFlags::CREATE).union(OFlags::TRUNC);
        let part = rustix::fs::openat(dir, part, empty, PRIVATE)?;
        let header = header(token, verified, &rustix::fs::fstat(&part)?);
        rustix::fs::ftruncate(&log, 0)?;
        write_full(log.as_fd(), &header, 0)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok((Self { log, key: key(&header), records: 0 }, part))
    }

    /// Opens the partial file and the log that an earlier session left. Returns `None` if there are none that can be used.
    ///
    /// # Errors
    /// Returns `WOULDBLOCK` while another session holds the lock.
    pub(crate) fn resume(
        dir: BorrowedFd<'_>,
        token: Token,
        verified: bool,
        part: &str,
        log: &str,
        gauge: &Gauge,
    ) -> Result<Option<Found>, Errno> {
        let log = match rustix::fs::openat(dir, log, OPEN, Mode::empty()) {
            Ok(log) => log,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        lock(&log)?;
        let Ok(part) = rustix::fs::openat(dir, part, OPEN, Mode::empty()) else { return Ok(None) };
        let stat = rustix::fs::fstat(&part)?;
        let mut stored = [0; RECORD];
        let Ok(RECORD) = read_full(log.as_fd(), &mut stored, 0) else { return Ok(None) };
        let expected = header(token, verified, &stat);
        // Everything but the boot has to match; the boot decides how far the log is believed.
        if stored[..BOOT] != expected[..BOOT] || stored[BOOT + 16..] != expected[BOOT + 16..] {
            return Ok(None);
        }
        let mut state = Self { log, key: key(&stored), records: 0 };
        let tree = state.replay(part.as_fd(), &stat, verified, stored == expected, gauge);
        let length = tree.bytes();
        if stat.st_size as u64 != length {
            rustix::fs::ftruncate(&part, length)?;
        }
        rustix::fs::ftruncate(&state.log, (state.records + 1) * RECORD as u64)?;
        Ok(Some(Found { state, part, tree }))
    }

    /// Returns the blocks that can be used: those of the log or, if the log is not believed, those in the file that agree with
    /// it.
    fn replay(
        &mut self,
        part: BorrowedFd<'_>,
        stat: &Stat,
        verified: bool,
        same_boot: bool,
        gauge: &Gauge,
    ) -> Tree {
        let (logged, last) = self.read_log(stat.st_size as u64 / BLOCK as u64);
        let untouched = stat.st_size as u64 == logged.bytes() && last.is_none_or(|time| time == mtime(stat));
        let tree = match Trust::of(verified, same_boot, untouched) {
            Trust::Log => logged,
            Trust::Content => self.compare(part, logged.blocks(), gauge),
            Trust::Nothing => Tree::new(),
        };
        debug_assert!(tree.bytes() <= stat.st_size as u64, "the log promises no more than the file holds");
        self.records = tree.blocks();
        tree
    }

    /// Reads the records of at most `whole` blocks, up to the first record that is damaged. Returns their blocks, and the mtime
    /// in the last record.
    fn read_log(&self, whole: u64) -> (Tree, Option<Time>) {
        let mut sums = Tree::new();
        let mut last = None;
        let mut buffer = vec![0; RECORD * 512];
        loop {
            let offset = (sums.blocks() + 1) * RECORD as u64;
            let bytes = read_full(self.log.as_fd(), &mut buffer, offset).unwrap_or(0);
            for record in buffer[..bytes].chunks_exact(RECORD) {
                match self.read_record(sums.blocks(), record) {
                    Some((sum, time)) if sums.blocks() < whole => {
                        sums.push(sum);
                        last = Some(time);
                    }
                    _ => return (sums, last),
                }
            }
            if bytes < buffer.len() {
                return (sums, last);
            }
        }
    }

    /// Reads the file block by block, up to the first block that differs from its record.
    fn compare(&self, part: BorrowedFd<'_>, blocks: u64, gauge: &Gauge) -> Tree {
        let mut tree = Tree::new();
        let mut block = vec![0; BLOCK];
        let mut record = [0; RECORD];
        for number in 0..blocks {
            let logged = match read_full(self.log.as_fd(), &mut record, (number + 1) * RECORD as u64) {
                Ok(RECORD) => self.read_record(number, &record),
                _ => None,
            };
            let whole = matches!(read_full(part, &mut block, number * BLOCK as u64), Ok(BLOCK));
            let sum = Sum::of(number, &block);
            if !whole || logged.is_none_or(|(logged, _)| logged != sum) {
                break;
            }
            tree.push(sum);
            // What nobody waits for is compared again by the next session.
            if !gauge.advance(BLOCK as u64) {
                break;
            }
        }
        tree
    }

    /// Appends the record of the next block, which is verified and written.
    pub(crate) fn append(&mut self, part: BorrowedFd<'_>, sum: Sum) -> Result<(), Errno> {
        let time = mtime(&rustix::fs::fstat(part)?);
        let mut record = [0; RECORD];
        record[..32].copy_from_slice(&sum.value);
        record[32..64].copy_from_slice(&sum.alone.unwrap_or_default());
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

    fn read_record(&self, number: u64, record: &[u8]) -> Option<(Sum, Time)> {
        if record.get(80..)? != self.check(number, record) {
            return None;
        }
        let value = *record.first_chunk()?;
        let alone = (number == 0).then(|| record[32..].first_chunk().copied()).flatten();
        let seconds = i64::from_be_bytes(*record[64..].first_chunk()?);
        let nanos = u32::from_be_bytes(*record[72..].first_chunk()?);
        Some((Sum { value, alone }, Time { seconds, nanos }))
    }

    /// A keyed hash over a record and its number. It detects torn records, and records of another place or of another log.
    fn check(&self, number: u64, record: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&number.to_be_bytes());
        hasher.update(&record[..80]);
        short(hasher.finalize())
    }
}

/// Offset of the boot's name in the header (16 bytes), and of the flag `verified`.
const BOOT: usize = 48;
const VERIFIED: usize = 40;

fn header(token: Token, verified: bool, part: &Stat) -> [u8; RECORD] {
    let mut header = [0; RECORD];
    header[..8].copy_from_slice(&MAGIC);
    header[8..24].copy_from_slice(&token);
    header[24..32].copy_from_slice(&part.st_dev.to_be_bytes());
    header[32..40].copy_from_slice(&part.st_ino.to_be_bytes());
    header[VERIFIED] = u8::from(verified);
    header[BOOT..BOOT + 16].copy_from_slice(&boot());
    header
}

fn key(header: &[u8; RECORD]) -> [u8; 32] {
    blake3::derive_key("linger-transfer 2026 state of a partial file", header)
}

/// Names the current boot. What was written before a reboot may not have reached the disk.
fn boot() -> [u8; 16] {
    named(&std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default())
}

fn named(boot: &[u8]) -> [u8; 16] {
    short(blake3::hash(boot))
}

pub(crate) fn short(hash: blake3::Hash) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&hash.as_bytes()[..16]);
    short
}

fn lock(log: &OwnedFd) -> Result<(), Errno> {
    rustix::fs::flock(log, FlockOperation::NonBlockingLockExclusive)
}

#[cfg(test)]
mod tests;
