//! The bytes of one file: read, hashed and sent block by block, or moved by the kernel.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::SeekFrom;

use super::Sender;
use crate::alive::{Gauge, away};
use crate::conduit::Conduit;
use crate::driver::Phase;
use crate::error::Error;
use crate::hash::{BLOCK, BlockHasher, Hash, Hashing, PIECE, Sum, Tree, ZEROS};
use crate::host;
use crate::message::{MOST_ZEROS, Message, TreeEntry};
use crate::outgoing::Source;
use crate::page_buffer::PageBuffer;
use crate::path::RelPath;
use crate::progress::Progress;
use crate::reason::{Reason, Remedy};
use crate::root::read_full;
use crate::walk::token;
use crate::zeros::{Allowance, TABLED};

/// Payload bytes of a frame. Fewer frames mean fewer wake-ups at both ends; two fit into half of the default window (2 MiB),
/// so that one is in transit while the other is read.
const FRAME: usize = 512 << 10;

/// The most blocks that one Hole message stands for, unless the file is hashed by blocks: a tenth of a second's hashing.
const HOLE: u64 = 256;

/// What the receiver was told of a file's holes.
#[derive(Debug, Default)]
pub(super) struct Run {
    by_blocks: bool,
    /// The block before which the hole ends that is being told.
    until: u64,
    /// Blocks that were told.
    told: u64,
}

impl Run {
    /// How many of the next blocks, all of them zeros, are told as a hole: a portion, so that the receiver works while this side
    /// hashes the next, and both notice a request to stop. None if the receiver does not take the hole, because it has hashed
    /// enough zeros for this side, or was told of as many as it takes: an allocated file that was not written yet counts as full
    /// when it is announced, and is read as a hole.
    fn portion(&mut self, first: u64, blocks: u64, allowance: &mut Allowance) -> u64 {
        if self.by_blocks {
            return blocks;
        }
        if first >= self.until {
            let most = (MOST_ZEROS / BLOCK as u64).saturating_sub(self.told);
            self.until = first + allowance.affords(first, blocks.min(most));
        }
        let portion = blocks.min(HOLE).min(self.until - first);
        self.told += portion;
        portion
    }
}

/// The result of reading a block.
enum Read {
    /// A full block.
    Whole(Sum),
    /// Less than a block, perhaps nothing: the file ends here. Holds the hash of the file.
    Last(Hash),
}

impl Sender<'_, '_> {
    /// Sends a file by blocks with their chaining values. Returns `None` if the entry was aborted.
    pub(super) fn verified(
        &mut self,
        entry: &TreeEntry,
        file: BorrowedFd<'_>,
        mut tree: Tree,
    ) -> Result<Option<(u64, Option<Hash>)>, Error> {
        let mut piece = std::mem::take(&mut self.piece);
        let ended = self.blocks(entry, file, &mut tree, &mut piece);
        self.piece = piece;
        ended
    }

    pub(super) fn blocks(
        &mut self,
        entry: &TreeEntry,
        file: BorrowedFd<'_>,
        tree: &mut Tree,
        piece: &mut PageBuffer,
    ) -> Result<Option<(u64, Option<Hash>)>, Error> {
        let size = entry.size.unwrap_or(0);
        let (mut data_until, mut hole) = (0, Run { by_blocks: entry.by_blocks, ..Run::default() });
        loop {
            let offset = tree.bytes();
            if entry.sparse
                && offset >= data_until
                && self.holes(file, tree, size, &mut data_until, &mut hole)?
            {
                continue;
            }
            match self.block(entry, file, tree, size.saturating_sub(offset), piece)? {
                Some(Read::Whole(sum)) => {
                    tree.push(sum);
                    self.sum(sum.value)?;
                    self.look_around(BLOCK as u64)?;
                }
                Some(Read::Last(hash)) => return Ok(Some((size, Some(hash)))),
                None => return Ok(None),
            }
            if !self.outgoing.waiting.contains_key(&entry.index) {
                return Ok(Some((size, None)));
            }
        }
    }

    /// Reads, hashes and sends the next block, or only `left` bytes if the file has no more. Returns `None` if the entry
    /// was aborted. Hashes and sends small pieces, so that each is sent while it is in the processor's cache.
    fn block(
        &mut self,
        entry: &TreeEntry,
        file: BorrowedFd<'_>,
        tree: &Tree,
        left: u64,
        piece: &mut PageBuffer,
    ) -> Result<Option<Read>, Error> {
        let number = tree.blocks();
        let mut hasher = None;
        let is_last = left < BLOCK as u64;
        let length = left.min(BLOCK as u64) as usize;
        let mut done = 0;
        while done < length {
            // All of a frame is read before it begins: a frame that waits for the disk would keep every other one back.
            let frame = self.limiter.piece(FRAME).min(length - done);
            let bytes = piece.bytes(frame);
            let wrong = match read_full(file, bytes, number * BLOCK as u64 + done as u64) {
                Ok(read) if read == frame => None,
                Ok(_) => Some(self.changed(entry)),
                Err(error) => Some(format!("cannot read {}: {error}", self.told(entry)).into()),
            };
            if let Some(wrong) = wrong {
                return self.abort(entry, wrong).map(|()| None);
            }
            self.pause(frame)?;
            self.session.begin_data(self.stream, frame)?;
            for part in bytes.chunks(PIECE) {
                if length > PIECE {
                    hasher.get_or_insert_with(|| BlockHasher::new(tree.place())).update(part);
                }
                self.session.continue_data(part)?;
            }
            (self.observe)(Progress::Moved { bytes: frame as u64 });
            done += frame;
        }
        if is_last && !self.is_unchanged(entry, file) {
            return self.abort(entry, self.changed(entry)).map(|()| None);
        }
        Ok(Some(match hasher {
            Some(hasher) if is_last => Read::Last(tree.finish(Some(hasher.finish()))),
            Some(hasher) => Read::Whole(hasher.finish()),
            // At most one piece: hash it directly, without a hasher of 2 KiB.
            None => Read::Last(tree.end(piece.bytes(length))),
        }))
    }

    /// If the file has a hole of at least one block here, tells the receiver its length instead of sending zeros. Returns
    /// whether it did. If the receiver does not take the hole, its first block is sent.
    pub(super) fn holes(
        &mut self,
        file: BorrowedFd<'_>,
        tree: &mut Tree,
        size: u64,
        data_until: &mut u64,
        hole: &mut Run,
    ) -> Result<bool, Error> {
        let offset = tree.bytes();
        let data = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(data) => data.min(size),
            Err(rustix::io::Errno::NXIO) => size,
            // SEEK_DATA is not supported: treat the file as one without holes.
            Err(_) => offset,
        };
        let blocks = data.saturating_sub(offset) / BLOCK as u64;
        if blocks == 0 {
            *data_until = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(u64::MAX);
            return Ok(false);
        }
        let portion = hole.portion(tree.blocks(), blocks, &mut self.allowance);
        if portion == 0 {
            *data_until = offset + BLOCK as u64;
            return Ok(false);
        }
        let near = if hole.by_blocks { portion } else { portion.min(TABLED.saturating_sub(tree.blocks())) };
        tree.push_zeros(near);
        for _ in near..portion {
            tree.push(Sum::of(tree.blocks(), &ZEROS));
        }
        self.say(&Message::Hole { bytes: portion * BLOCK as u64 })?;
        (self.observe)(Progress::Moved { bytes: portion * BLOCK as u64 });
        self.session.rest(Duration::ZERO)?;
        self.look_around(BLOCK as u64)?;
        Ok(true)
    }

    pub(super) fn unverified(
        &mut self,
        entry: &TreeEntry,
        file: BorrowedFd<'_>,
        mut offset: u64,
    ) -> Result<Option<(u64, Option<Hash>)>, Error> {
        let size = entry.size.unwrap_or(0);
        let mut fast = self.conduit();
        while offset < size {
            let piece = self.limiter.piece(BLOCK).min(BLOCK - (offset % BLOCK as u64) as usize);
            let length = piece.min(usize::try_from(size - offset).unwrap_or(usize::MAX));
            self.pause(length)?;
            let sent = match &fast {
                Some(conduit) => match conduit.fill(file, offset, length) {
                    Ok(filled) => {
                        if filled > 0 {
                            self.session.data_of_pipe(self.stream, conduit.outlet.as_fd(), filled)?;
                        }
                        filled
                    }
                    // Not every file system supports splice(2).
                    Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                        fast = None;
                        continue;
                    }
                    Err(_) => 0,
                },
                None => self.copied(file, offset, length)?,
            };
            if sent == 0 {
                self.abort(entry, self.changed(entry))?;
                return Ok(None);
            }
            offset += sent as u64;
            (self.observe)(Progress::Moved { bytes: sent as u64 });
            self.look_around(sent as u64)?;
            if !self.outgoing.waiting.contains_key(&entry.index) {
                break;
            }
        }
        if !self.is_unchanged(entry, file) {
            self.abort(entry, self.changed(entry))?;
            return Ok(None);
        }
        Ok(Some((size, None)))
    }

    /// A pipe for the kernel to move bytes through, where it can.
    fn conduit(&self) -> Option<Conduit> {
        if self.session.is_plain() { Conduit::new(BLOCK).ok() } else { None }
    }

    /// Sends up to `length` bytes of a file from memory. Returns how many it has.
    fn copied(&mut self, file: BorrowedFd<'_>, offset: u64, length: usize) -> Result<usize, Error> {
        let mut piece = std::mem::take(&mut self.piece);
        let bytes = piece.bytes(length);
        let read = read_full(file, bytes, offset).unwrap_or(0);
        let sent = if read > 0 { self.session.data(self.stream, &bytes[..read]) } else { Ok(()) };
        self.piece = piece;
        sent.map(|()| read)
    }

    /// Whether the file still has the content that was announced. Compares tokens, which include the ctime: a program
    /// can set the length and the modification time, but not the ctime. Always true of a file that is sent live, which may
    /// grow.
    fn is_unchanged(&self, entry: &TreeEntry, file: BorrowedFd<'_>) -> bool {
        self.is_live()
            || rustix::fs::fstat(file).is_ok_and(|stat| token(file, &stat, &entry.path) == entry.token)
    }

    fn changed(&self, entry: &TreeEntry) -> Reason {
        Reason::from(format!("{} changed while it was read", self.told(entry))).with(Remedy::SendAgain)
    }

    /// What a sentence calls an entry.
    pub(super) fn told(&self, entry: &TreeEntry) -> RelPath {
        match &self.outgoing.source {
            Source::Tree(walk) => walk.told(&entry.path).clone(),
            Source::Pipe(_) => entry.path.clone(),
        }
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(&self.outgoing.source, Source::Tree(walk) if walk.is_live())
    }

    /// Whether a receiver's blocks are to be compared with the file before more is sent.
    pub(super) fn rereads(&self) -> bool {
        matches!(&self.outgoing.source, Source::Tree(walk) if walk.rereads())
    }

    /// Whether the file begins with the blocks that the receiver has. Without hashes they cannot be compared, which counts as
    /// no. Gives the file back.
    pub(super) fn begins_with(
        &mut self,
        entry: &TreeEntry,
        file: OwnedFd,
        theirs: &Tree,
    ) -> Result<(OwnedFd, bool), Error> {
        if theirs.blocks() == 0 || !self.options.verify {
            return Ok((file, theirs.blocks() == 0));
        }
        (self.observe)(Progress::Verifying { path: entry.path.clone() });
        let (bytes, hashing) = (theirs.bytes(), Hashing::of(true, entry.by_blocks));
        let theirs = theirs.clone().hashed(hashing);
        away(self.session, Phase::Verify, bytes, move |gauge| {
            let ours = beginning(file.as_fd(), theirs.blocks(), hashing, gauge);
            (file, ours == Some(theirs))
        })
    }

    /// Sends bytes, no faster than the rate limit allows.
    pub(super) fn content(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let piece = self.limiter.piece(BLOCK);
        for part in bytes.chunks(piece) {
            self.pause(part.len())?;
            self.session.data(self.stream, part)?;
            (self.observe)(Progress::Moved { bytes: part.len() as u64 });
        }
        Ok(())
    }

    pub(super) fn sum(&mut self, value: [u8; 32]) -> Result<(), Error> {
        if !self.options.verify {
            return Ok(());
        }
        self.allowance.earn();
        self.say(&Message::Sum { value })
    }

    pub(super) fn pause(&mut self, bytes: usize) -> Result<(), Error> {
        let mut pause = self.limiter.pause(bytes, host::now());
        while !pause.is_zero() {
            let step = pause.min(Duration::from_secs(5));
            self.session.rest(step)?;
            pause -= step;
            if !pause.is_zero() {
                self.session.ping()?;
            }
        }
        Ok(())
    }
}

/// The values of the first blocks of a file; `None` if it is shorter, cannot be read, or nobody wants to know any more.
fn beginning(file: BorrowedFd<'_>, blocks: u64, hashing: Hashing, gauge: &Gauge) -> Option<Tree> {
    let mut tree = Tree::new().hashed(hashing);
    let mut buffer = PageBuffer::default();
    let block = buffer.bytes(BLOCK);
    while tree.blocks() < blocks {
        if hashing == Hashing::Blocks {
            let offset = tree.bytes();
            let data = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
                Ok(data) => data,
                Err(rustix::io::Errno::NXIO) => rustix::fs::fstat(file).ok()?.st_size as u64,
                // Without SEEK_DATA, every block is read.
                Err(_) => offset,
            };
            let zeros = (data.saturating_sub(offset) / BLOCK as u64).min(blocks - tree.blocks());
            if zeros > 0 {
                tree.push_zeros(zeros);
                continue;
            }
        }
        if read_full(file, block, tree.bytes()).ok()? != BLOCK || !gauge.advance(BLOCK as u64) {
            return None;
        }
        tree.push(Sum::of(tree.place(), block));
    }
    Some(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_told_in_portions_and_no_more_of_them_than_a_receiver_takes() {
        let most = MOST_ZEROS / BLOCK as u64;
        let portion = |first, blocks, told| {
            Run { told, ..Run::default() }.portion(first, blocks, &mut Allowance::default())
        };
        assert_eq!((portion(0, 1, 0), portion(0, HOLE + 1, 0)), (1, HOLE));
        assert_eq!(
            (portion(0, HOLE, most - 1), portion(0, HOLE, most), portion(0, HOLE, most + 1)),
            (1, 0, 0)
        );
        // The whole of a hole is paid for when it begins.
        let (mut hole, mut allowance) = (Run::default(), Allowance::default());
        let mut first = 0;
        while first < most {
            first += hole.portion(first, most - first, &mut allowance);
        }
        assert_eq!((hole.told, allowance), (most, Allowance::default().less(16)));
        // Behind the table every block is paid for, until nothing is left.
        let (mut hole, mut allowance) = (Run::default(), Allowance::default());
        let mut first = TABLED;
        while let told @ 1.. = hole.portion(first, 4096, &mut allowance) {
            first += told;
        }
        assert_eq!((first, allowance), (TABLED + 1024, Allowance::default().less(1024)));
        allowance.earn();
        assert_eq!(hole.portion(first + 1, 4096, &mut allowance), 32);
        let mut far = Run { by_blocks: true, ..Run::default() };
        assert_eq!(far.portion(first, 1 << 40, &mut allowance), 1 << 40);
    }
}
