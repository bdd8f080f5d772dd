//! The hash state kept beside a partial file, so that a later session can go on without reading it again.
//!
//! A log: a header that names what is received and into which file, then one record for each block that was
//! verified *and* written. A record is appended after its block, so the log never promises more than the
//! file holds; it also keeps the file's modification time at that moment. If that is still the time of the
//! file, and the machine has not been booted since, nobody has touched the file and the log is believed.
//! Otherwise every block is read and compared with its chaining value, and the good ones are kept.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::hash::{BLOCK, Sum, Tree};
use crate::message::{Time, Token};
use crate::root::{mtime, read_full, write_full};

const MAGIC: [u8; 8] = *b"LNGRST01";
/// Length of the header, and of each record.
const RECORD: usize = 96;

/// The log of one partial file, locked by this process.
#[derive(Debug)]
pub(crate) struct State {
    log: OwnedFd,
    key: [u8; 32],
    records: u64,
}

/// What was found of an earlier session.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) state: State,
    pub(crate) part: OwnedFd,
    pub(crate) tree: Tree,
}

impl State {
    /// Begins a log for an empty partial file; both are made in `dir` under the names given. Without
    /// `verified` its sums mean nothing, and it says only how much was written.
    pub(crate) fn create(
        dir: BorrowedFd<'_>,
        token: Token,
        verified: bool,
        part: &str,
        log: &str,
    ) -> Result<(Self, OwnedFd), Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let log = rustix::fs::openat(dir, log, flags, Mode::RUSR | Mode::WUSR)?;
        lock(&log)?;
        let part = rustix::fs::openat(dir, part, flags | OFlags::TRUNC, Mode::RUSR | Mode::WUSR)?;
        let header = header(token, verified, &rustix::fs::fstat(&part)?);
        rustix::fs::ftruncate(&log, 0)?;
        write_full(log.as_fd(), &header, 0)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok((Self { log, key: key(&header), records: 0 }, part))
    }

    /// Takes up what an earlier session left, if there is something and it is sound.
    ///
    /// # Errors
    /// `WOULDBLOCK` while another session holds it. Anything that is not sound is as good as absent.
    pub(crate) fn resume(
        dir: BorrowedFd<'_>,
        token: Token,
        verified: bool,
        part: &str,
        log: &str,
    ) -> Result<Option<Found>, Errno> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let log = match rustix::fs::openat(dir, log, flags, Mode::empty()) {
            Ok(log) => log,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        lock(&log)?;
        let Ok(part) = rustix::fs::openat(dir, part, flags, Mode::empty()) else { return Ok(None) };
        let stat = rustix::fs::fstat(&part)?;
        let mut stored = [0; RECORD];
        let Ok(RECORD) = read_full(log.as_fd(), &mut stored, 0) else { return Ok(None) };
        let expected = header(token, verified, &stat);
        // All but the boot, which only decides how much the rest is believed.
        if stored[..BOOT] != expected[..BOOT] || stored[BOOT + 16..] != expected[BOOT + 16..] {
            return Ok(None);
        }
        let mut state = Self { log, key: key(&stored), records: 0 };
        let tree = state.replay(part.as_fd(), &stat, verified, stored == expected);
        let length = tree.bytes();
        if stat.st_size as u64 != length {
            rustix::fs::ftruncate(&part, length)?;
        }
        rustix::fs::ftruncate(&state.log, (state.records + 1) * RECORD as u64)?;
        Ok(Some(Found { state, part, tree }))
    }

    /// Reads the records back, and as much of the file as they cannot vouch for.
    fn replay(&mut self, part: BorrowedFd<'_>, stat: &Stat, verified: bool, same_boot: bool) -> Tree {
        let mut sums = Tree::new();
        let mut last = None;
        let mut buffer = vec![0; RECORD * 512];
        let whole = stat.st_size as u64 / BLOCK as u64;
        let mut read = 0u64;
        'log: loop {
            let offset = (read + 1) * RECORD as u64;
            let bytes = read_full(self.log.as_fd(), &mut buffer, offset).unwrap_or(0);
            for record in buffer[..bytes].chunks_exact(RECORD) {
                match self.read_record(read, record) {
                    Some((sum, time)) if read < whole => {
                        sums.push(sum);
                        last = Some(time);
                        read += 1;
                    }
                    _ => break 'log,
                }
            }
            if bytes < buffer.len() {
                break;
            }
        }
        let untouched =
            same_boot && stat.st_size as u64 == sums.bytes() && last.is_none_or(|time| time == mtime(stat));
        if !untouched && verified {
            sums = self.compare(part, read);
        } else if !verified && !same_boot {
            // There is nothing to compare with.
            sums = Tree::new();
        }
        self.records = sums.blocks();
        sums
    }

    /// Reads blocks of the file while they are what the log says.
    fn compare(&self, part: BorrowedFd<'_>, blocks: u64) -> Tree {
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
        }
        tree
    }

    /// Notes that the next block is verified and written.
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

    /// Ties a record to its place and to this log, and tells a torn one.
    fn check(&self, number: u64, record: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&number.to_be_bytes());
        hasher.update(&record[..80]);
        short(hasher.finalize())
    }
}

/// Where the boot's name stands in the header, and whether the sums are sums.
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

/// Names this boot of the machine: what was written before another one may not have reached the disk.
fn boot() -> [u8; 16] {
    let id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    short(blake3::hash(&id))
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
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn block(number: u64) -> Vec<u8> {
        vec![number as u8 + 1; BLOCK]
    }

    fn dir() -> (tempfile::TempDir, OwnedFd) {
        let temp = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = rustix::fs::open(temp.path(), flags, Mode::empty()).unwrap();
        (temp, fd)
    }

    /// Receives three blocks and goes away.
    fn three_blocks(dir: &OwnedFd) {
        let (mut state, part) = State::create(dir.as_fd(), [7; 16], true, "p", "s").unwrap();
        for number in 0..3 {
            write_full(part.as_fd(), &block(number), number * BLOCK as u64).unwrap();
            state.append(part.as_fd(), Sum::of(number, &block(number))).unwrap();
        }
    }

    fn resumed(dir: &OwnedFd) -> u64 {
        State::resume(dir.as_fd(), [7; 16], true, "p", "s").unwrap().map_or(0, |found| {
            let mut whole = Tree::new();
            (0..found.tree.blocks()).for_each(|number| whole.push(Sum::of(number, &block(number))));
            assert_eq!(found.tree, whole);
            found.tree.blocks()
        })
    }

    #[test]
    fn what_was_written_is_found_again() {
        let (_temp, dir) = dir();
        assert_eq!(resumed(&dir), 0);
        three_blocks(&dir);
        assert_eq!(resumed(&dir), 3);
        assert_eq!(resumed(&dir), 3, "resuming changes nothing");
        assert!(
            State::resume(dir.as_fd(), [8; 16], true, "p", "s").unwrap().is_none(),
            "another file's token"
        );
    }

    #[test]
    fn one_session_at_a_time() {
        let (_temp, dir) = dir();
        let held = State::create(dir.as_fd(), [7; 16], true, "p", "s").unwrap();
        assert_eq!(State::resume(dir.as_fd(), [7; 16], true, "p", "s").unwrap_err(), Errno::WOULDBLOCK);
        drop(held);
        assert_eq!(resumed(&dir), 0);
    }

    #[test]
    fn a_block_that_was_changed_since_is_not_trusted() {
        let (temp, dir) = dir();
        three_blocks(&dir);
        let part = std::fs::OpenOptions::new().write(true).open(temp.path().join("p")).unwrap();
        write_full(part.as_fd(), b"!", BLOCK as u64 + 5).unwrap();
        assert_eq!(resumed(&dir), 1);
    }

    #[test]
    fn a_longer_or_shorter_part_is_brought_back_to_whole_blocks() {
        let (temp, dir) = dir();
        three_blocks(&dir);
        let part = std::fs::OpenOptions::new().write(true).open(temp.path().join("p")).unwrap();
        write_full(part.as_fd(), b"tail", 3 * BLOCK as u64).unwrap();
        assert_eq!(resumed(&dir), 3);
        part.set_len(2 * BLOCK as u64 + 9).unwrap();
        assert_eq!(resumed(&dir), 2);
        assert_eq!(part.metadata().unwrap().len(), 2 * BLOCK as u64);
    }

    #[test]
    fn a_torn_or_changed_record_ends_the_log() {
        let (temp, dir) = dir();
        three_blocks(&dir);
        let log = std::fs::OpenOptions::new().write(true).open(temp.path().join("s")).unwrap();
        log.set_len(RECORD as u64 * 3 + 50).unwrap();
        assert_eq!(resumed(&dir), 2);
        write_full(log.as_fd(), b"x", RECORD as u64 + 3).unwrap();
        assert_eq!(resumed(&dir), 0);
    }

    #[test]
    fn an_unverified_log_is_not_taken_for_a_verified_one() {
        let (_temp, dir) = dir();
        let (mut state, part) = State::create(dir.as_fd(), [7; 16], false, "p", "s").unwrap();
        write_full(part.as_fd(), &block(0), 0).unwrap();
        state.append(part.as_fd(), Sum::default()).unwrap();
        // A kill before the next record.
        write_full(part.as_fd(), &block(1), BLOCK as u64).unwrap();
        drop((state, part));
        let found = State::resume(dir.as_fd(), [7; 16], false, "p", "s").unwrap().unwrap();
        assert_eq!((found.tree.blocks(), found.tree.alone().is_some()), (1, true));
        drop(found);
        assert_eq!(resumed(&dir), 0);
    }

    #[test]
    fn the_part_of_another_name_is_not_taken() {
        let (temp, dir) = dir();
        three_blocks(&dir);
        std::fs::copy(temp.path().join("p"), temp.path().join("q")).unwrap();
        std::fs::rename(temp.path().join("q"), temp.path().join("p")).unwrap();
        assert_eq!(resumed(&dir), 0);
    }
}
