//! One file while it is received: its verified blocks, its last bytes, its mode and time.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{Access, AtFlags, Mode};
use rustix::io::Errno;

use super::group::Landed;
use super::temporary::{Temporary, WorkDir};
use super::{Store, in_use, leaves_part, names};
use crate::claim::Claim;
use crate::disk;
use crate::fault::Fault;
use crate::hash::{BLOCK, Hash, Hashing, Pieces, Sum, Tree};
use crate::message::{Durability, Kind, Receipt, Refusal, Time, TreeEntry};
use crate::path::RelPath;
use crate::root::{self, Links};
use crate::state::{Found, LogStep, PartLog};

/// A file that is being received.
pub(crate) struct Landing {
    pub(crate) entry: TreeEntry,
    dest: RelPath,
    pub(crate) tree: Tree,
    pub(crate) opened: Option<Opened>,
    /// Bytes of holes that were hashed one by one.
    pub(crate) zeros: u64,
    /// The claim to the file, held until it has its final name or is given up.
    claim: Option<Claim>,
}

/// The temporary file, once its first block is verified.
pub(crate) struct Opened {
    pub(crate) part: OwnedFd,
    state: Option<PartLog>,
    temporary: Temporary,
}

impl Store<'_> {
    /// Gets ready for a file; nothing is created before its first block is verified.
    pub(crate) fn begin(
        &mut self,
        entry: TreeEntry,
        dest: RelPath,
        claim: Option<Claim>,
        found: Option<(Found, Rc<WorkDir>)>,
    ) -> Result<Landing, Fault> {
        let hashing = Hashing::of(self.options.verify, entry.by_blocks);
        let tree = Tree::new().hashed(hashing);
        let mut landing = Landing { entry, dest, tree, opened: None, zeros: 0, claim };
        let (parent, _) = self.parent_of(&landing.dest)?;
        if let Some((found, work)) = found {
            let (name, _) = names(landing.entry.token);
            landing.tree = found.tree;
            let temporary = Temporary::Named { work, name };
            landing.opened = Some(Opened { part: found.part, state: Some(found.state), temporary });
        }
        if let Some(size) = landing.entry.size {
            self.charge(&landing.dest, size)?;
        }
        if leaves_part(&landing.entry) {
            may_write(&parent, &landing.dest)?;
        }
        if let Some(size) = landing.entry.size.filter(|size| *size >= BLOCK as u64 && !landing.entry.sparse) {
            self.room(&parent, &landing.dest, size - landing.tree.bytes().min(size))?;
        }
        Ok(landing)
    }

    /// Gives the file another name, which is free. Nothing of the file may be written yet.
    pub(crate) fn rename(&mut self, landing: &mut Landing) -> Result<(), Fault> {
        landing.dest = self.another_name(&landing.entry, &landing.dest, true)?;
        Ok(())
    }

    /// The partial file, made if there is none yet.
    pub(crate) fn open<'l>(&mut self, landing: &'l mut Landing) -> Result<&'l mut Opened, Fault> {
        if landing.opened.is_none() {
            let (parent, _) = self.parent_of(&landing.dest)?;
            let hashing = Hashing::of(self.options.verify, landing.entry.by_blocks);
            landing.opened = Some(if leaves_part(&landing.entry) {
                let (name, log) = names(landing.entry.token);
                let token = landing.entry.token;
                let mut tries = 0;
                let (work, (state, part)) = loop {
                    let work = self.work_for(&parent, &landing.dest)?;
                    tries += 1;
                    match PartLog::create(work.dir.as_fd(), token, hashing, &name, &log) {
                        Ok(made) => {
                            self.claimant.claims.begin_anew(token);
                            break (work, made);
                        }
                        // Another session has removed the directory, because it was empty.
                        Err(Errno::NOENT) if tries < 5 => self.forget_work(&work),
                        Err(error) => {
                            return Err(in_use("create a partial file for", &landing.dest, error));
                        }
                    }
                };
                Opened { part, state: Some(state), temporary: Temporary::Named { work, name } }
            } else {
                let (temporary, part) = self.temporary(&parent, &landing.dest, 0o600)?;
                Opened { part, state: None, temporary }
            });
        }
        landing.opened.as_mut().ok_or_else(|| Fault(Refusal::Other, "no partial file".into()))
    }

    /// Writes a verified block and appends its record to the log. `block` is `None` for a hole.
    pub(crate) fn block(
        &mut self,
        landing: &mut Landing,
        block: Option<Pieces<'_>>,
        sum: Sum,
    ) -> Result<(), Fault> {
        let offset = landing.tree.bytes();
        let sparse = landing.entry.sparse;
        let opened = self.open(landing)?;
        let written = match block {
            Some(pieces) if sparse => {
                write_pieces(pieces, offset, |piece, offset| write_sparse(opened.part.as_fd(), piece, offset))
            }
            Some(pieces) => write_pieces(pieces, offset, |piece, offset| {
                root::write_full(opened.part.as_fd(), piece, offset)
            }),
            None => disk::ftruncate(&opened.part, offset + BLOCK as u64).map_err(Into::into),
        };
        written.map_err(|error| unwritten(&landing.dest, offset, &error))?;
        self.note(landing, LogStep::Block(sum))
    }

    /// Appends the record of the step that was written.
    pub(crate) fn note(&mut self, landing: &mut Landing, step: LogStep) -> Result<(), Fault> {
        let offset = landing.tree.bytes();
        if landing.entry.size.is_none() {
            self.charge(&landing.dest, BLOCK as u64)?;
        }
        if let Some(Opened { part, state: Some(state), .. }) = &mut landing.opened {
            let noted = state.append(part.as_fd(), step);
            noted.map_err(|error| unwritten(&landing.dest, offset, &error.into()))?;
        }
        step.add_to(&mut landing.tree);
        Ok(())
    }

    /// Makes a hole of `blocks` blocks, in a file that is hashed by blocks or not at all.
    pub(crate) fn hole(&mut self, landing: &mut Landing, blocks: u64) -> Result<(), Fault> {
        let offset = landing.tree.bytes();
        let opened = self.open(landing)?;
        disk::ftruncate(&opened.part, offset + blocks * BLOCK as u64)
            .map_err(|error| unwritten(&landing.dest, offset, &error.into()))?;
        self.note(landing, LogStep::Hole(blocks))
    }

    /// Returns a closure for a file that was complete here already. It gives the file the announced mode and, if durability
    /// was asked for, syncs it to the disk, so that the receipt is true. It returns the mode that the file has then.
    pub(crate) fn settler(
        &self,
        landing: &Landing,
    ) -> Result<impl FnOnce() -> Result<u32, Fault> + Send + use<>, Fault> {
        let dest = landing.dest.clone();
        let mode = Mode::from_raw_mode(self.mode(landing.entry.mode, false));
        // Nobody has chosen the mode that is announced for a pipe, so it is not applied.
        let wished = landing.entry.kind == Kind::File;
        let root = self.root.again().map_err(|error| Fault::new("open", &dest, error))?;
        let options = self.options;
        Ok(move || {
            let io = |doing: &'static str| {
                let dest = &dest;
                move |error: Errno| Fault::new(doing, dest, error)
            };
            let (file, stat) = root.file(&dest).map_err(io("open"))?;
            let mut has = stat.st_mode & 0o7777;
            if wished && Mode::from_raw_mode(stat.st_mode & 0o777) != mode {
                disk::fchmod(&file, mode).map_err(io("set the mode of"))?;
                has = mode.as_raw_mode();
            }
            if options.durability != Durability::Disk {
                return Ok(has);
            }
            let parent = dest.split().map_or_else(RelPath::root, |(parent, _)| parent);
            disk::fsync(&file)
                .and_then(|()| disk::fsync(root.directory(&parent, Links::Refuse)?))
                .map_err(io("make durable"))?;
            Ok(has)
        })
    }

    /// Writes `tail`, the last bytes of a verified file, and sets mode and time. The file gets its final name with its
    /// group.
    pub(crate) fn land(
        &mut self,
        mut landing: Landing,
        tail: Pieces<'_>,
        size: u64,
        hash: Option<Hash>,
    ) -> Result<(), Fault> {
        if landing.entry.size.is_none() {
            let tail = tail.iter().map(|piece| piece.len() as u64).sum();
            self.charge(&landing.dest, tail)?;
        }
        let (parent, _) = self.parent_of(&landing.dest)?;
        let dest = landing.dest;
        let io = |doing: &'static str| {
            let dest = &dest;
            move |error: Errno| Fault::new(doing, dest, error)
        };
        let mode = self.mode(landing.entry.mode, false);
        let (temporary, file, log, has_mode) = match landing.opened.take() {
            Some(opened) => (opened.temporary, opened.part, opened.state, false),
            None => {
                let (temporary, file) = self.temporary(&parent, &dest, mode)?;
                (temporary, file, None, mode & self.umask == 0 && mode & 0o600 == 0o600)
            }
        };
        let offset = size - tail.iter().map(|piece| piece.len() as u64).sum::<u64>();
        let written =
            write_pieces(tail, offset, |piece, offset| root::write_full(file.as_fd(), piece, offset))
                .map_err(|error| Fault::io(format!("cannot write {dest}: {error}"), &error))
                .and_then(|()| {
                    if landing.entry.sparse {
                        disk::ftruncate(&file, size).map_err(io("set the length of"))?;
                    }
                    if !has_mode {
                        disk::fchmod(&file, Mode::from_raw_mode(mode)).map_err(io("set the mode of"))?;
                    }
                    match landing.entry.mtime {
                        Some(time) => root::set_mtime(file.as_fd(), time).map_err(io("set the time of")),
                        None => Ok(()),
                    }
                });
        if let Err(fault) = written {
            if log.is_none() {
                temporary.remove(false);
            }
            return Err(fault);
        }
        let receipt = Receipt {
            index: landing.entry.index,
            size,
            hash,
            durability: self.options.durability,
            time: Time::default(),
            name: dest.as_bytes().to_vec(),
            present: false,
            mode: Some(mode),
        };
        let claim = landing.claim.take();
        let by_blocks = landing.entry.by_blocks;
        self.group.push(Landed { by_blocks, file, temporary, parent, dest, log, claim, receipt });
        self.group_bytes += size;
        Ok(())
    }
}

impl Landing {
    pub(crate) fn dest(&self) -> &RelPath {
        &self.dest
    }

    /// A file that needs no temporary file: for a sink or a stream, or because it exists here already.
    pub(crate) fn bare(entry: TreeEntry, dest: RelPath, tree: Tree) -> Self {
        Self { entry, dest, tree, opened: None, zeros: 0, claim: None }
    }

    /// Stops receiving the file. Verified blocks stay for a later session, unless `forget`. Where there are none, nothing stays:
    /// a full disk needs the room.
    pub(crate) fn abandon(self, forget: bool) {
        let Some(opened) = self.opened else { return };
        if forget || opened.state.is_none() || self.tree.blocks() == 0 {
            opened.temporary.remove(true);
        }
    }
}

/// Refuses a large file for a directory into which this user may not write: it would be received to its end first, and then
/// get no name. What else may be wrong is found out then.
fn may_write(parent: &OwnedFd, dest: &RelPath) -> Result<(), Fault> {
    match rustix::fs::accessat(parent, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Err(error @ (Errno::ACCESS | Errno::ROFS)) => {
            Err(Fault::new("write into the directory of", dest, error))
        }
        _ => Ok(()),
    }
}

fn unwritten(dest: &RelPath, offset: u64, error: &std::io::Error) -> Fault {
    Fault::io(format!("cannot write {dest} at byte {offset}: {error}"), error)
}

/// Writes the pieces of a block at their places.
fn write_pieces(
    pieces: Pieces<'_>,
    mut offset: u64,
    mut write: impl FnMut(&[u8], u64) -> std::io::Result<()>,
) -> std::io::Result<()> {
    for piece in pieces {
        write(piece, offset)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

/// Writes a block, leaving a hole for every page of zeros.
fn write_sparse(file: BorrowedFd<'_>, block: &[u8], offset: u64) -> std::io::Result<()> {
    const PAGE: usize = 4096;
    let mut at = 0;
    while at < block.len() {
        let is_zero = |from: usize| block[from..(from + PAGE).min(block.len())].iter().all(|byte| *byte == 0);
        let zero = is_zero(at);
        let mut end = (at + PAGE).min(block.len());
        while end < block.len() && is_zero(end) == zero {
            end = (end + PAGE).min(block.len());
        }
        if !zero {
            root::write_full(file, &block[at..end], offset + at as u64)?;
        }
        at = end;
    }
    // A final hole does not lengthen the file.
    disk::ftruncate(file, offset + block.len() as u64).map_err(Into::into)
}
