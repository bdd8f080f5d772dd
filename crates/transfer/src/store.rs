//! Where received files are stored: first under a temporary name or none, then, verified, under the final name.

mod group;
mod temporary;
mod tree;

use std::ffi::OsStr;
use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::claim::{Claim, Claimant};
use crate::fault::Fault;
use crate::hash::{BLOCK, Hash, Pieces, Sum, Tree, hex};
use crate::message::{Entry, Options, Receipt, Refusal, Time, Token};
use crate::path::RelPath;
use crate::reason::{Reason, Remedy};
use crate::root::{self, Links, Root};
use crate::state::State;
use group::Landed;
use temporary::{Temporary, Work, umask};

/// Stores the files of one transfer below one directory.
pub(crate) struct Store<'a> {
    root: &'a Root,
    options: Options,
    claimant: Claimant,
    work: Option<Rc<Work>>,
    parent: Option<(RelPath, Rc<OwnedFd>)>,
    /// Directories with new subdirectories, to be synced before anything below them is confirmed.
    grown: Vec<Rc<OwnedFd>>,
    /// O_TMPFILE works. Otherwise temporary files get names in the work directory.
    nameless: bool,
    /// The process's umask.
    umask: u32,
    /// Temporary names are this random prefix and a counter.
    prefix: String,
    count: u64,
    group: Vec<Landed>,
    group_bytes: u64,
}

/// A file that is being received.
pub(crate) struct Landing {
    pub(crate) entry: Entry,
    dest: RelPath,
    pub(crate) tree: Tree,
    pub(crate) opened: Option<Opened>,
    /// The right to its partial file, held while one may exist.
    claim: Option<Claim>,
}

/// The temporary file, once its first block is verified.
pub(crate) struct Opened {
    pub(crate) part: OwnedFd,
    state: Option<State>,
    temporary: Temporary,
}

impl<'a> Store<'a> {
    pub(crate) fn new(root: &'a Root, options: Options, claimant: Claimant) -> Self {
        let mut random = [0; 8];
        // It only has to be unique, which O_EXCL checks.
        let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
        Self {
            root,
            options,
            claimant,
            work: None,
            parent: None,
            grown: Vec::new(),
            nameless: true,
            umask: umask(),
            prefix: format!("tmp-{}", hex(&random)),
            count: 0,
            group: Vec::new(),
            group_bytes: 0,
        }
    }

    /// Whether something may be here already, so that every file has to be asked for.
    pub(crate) fn must_ask(&self, base: &RelPath) -> bool {
        if self.options.dry_run || self.root.stat(base, Links::Refuse).is_ok() {
            return true;
        }
        let Some(work) = self.root.existing_work() else { return false };
        rustix::fs::Dir::read_from(&work)
            .is_ok_and(|dir| dir.flatten().any(|entry| entry.file_name().to_bytes().ends_with(b".state")))
    }

    fn parent_of(&mut self, dest: &RelPath) -> Result<(Rc<OwnedFd>, Vec<u8>), Fault> {
        let (parent, name) = dest.split().ok_or_else(|| {
            Fault(Refusal::Forbidden, "the shared directory itself has no other name".into())
        })?;
        if root::hides_work(dest) {
            return Err(Fault(
                Refusal::Forbidden,
                format!("{dest}: this name is used by the receiver itself").into(),
            ));
        }
        if let Some((cached, fd)) = &self.parent
            && *cached == parent
        {
            return Ok((fd.clone(), name.to_vec()));
        }
        let fd = self
            .root
            .directory(&parent, Links::Refuse)
            .map_err(|error| Fault::new("open the directory", &parent, error))?;
        let fd = Rc::new(fd);
        let name = name.to_vec();
        self.parent = Some((parent, fd.clone()));
        Ok((fd, name))
    }

    /// What is here of a file: `Ok(Ok)` is its blocks, `Ok(Err)` its hash if it is complete, `Err` a refusal.
    pub(crate) fn look(&mut self, entry: &Entry, dest: &RelPath) -> Result<Result<Tree, Hash>, Fault> {
        let (parent, name) = self.parent_of(dest)?;
        match rustix::fs::statat(&*parent, os(&name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
                let same_time = entry.hash.is_some() || entry.mtime == Some(root::mtime(&stat));
                if is_file && entry.size == Some(stat.st_size as u64) && same_time {
                    if !self.options.verify && entry.hash.is_none() {
                        // An unverified transfer compares length and time only.
                        return Ok(Err(Hash::default()));
                    }
                    let (file, _) = self.root.file(dest).map_err(|error| Fault::new("read", dest, error))?;
                    return match hash_file(file.as_fd()) {
                        Ok((hash, _)) => Ok(Err(hash)),
                        Err(error) => Err(Fault::io(format!("cannot read {dest}: {error}"), &error)),
                    };
                }
                if !is_file || !self.options.replace {
                    return Err(exists(dest, is_file));
                }
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(Fault::new("look at", dest, error)),
        }
        if self.options.dry_run {
            return Ok(Ok(Tree::new()));
        }
        Ok(Ok(self.resume(entry, dest, &parent)?.map_or_else(Tree::new, |found| found.tree)))
    }

    fn resume(
        &mut self,
        entry: &Entry,
        dest: &RelPath,
        parent: &Rc<OwnedFd>,
    ) -> Result<Option<crate::state::Found>, Fault> {
        let (part, log) = names(entry.token);
        let token = entry.token;
        let work = self.work_for(parent)?;
        State::resume(work.dir.as_fd(), token, self.options.verify, &part, &log)
            .map_err(|error| in_use("resume", dest, error))
    }

    /// Claims a file that may leave a partial one behind.
    pub(crate) fn claim(&self, entry: &Entry) -> Result<Option<Claim>, Fault> {
        if leaves_part(entry) { self.claimant.claim(entry.token).map(Some) } else { Ok(None) }
    }

    /// Gets ready for a file; nothing is created before its first block is verified.
    pub(crate) fn begin(
        &mut self,
        entry: Entry,
        dest: RelPath,
        claim: Option<Claim>,
        resume: bool,
    ) -> Result<Landing, Fault> {
        let mut landing = Landing { entry, dest, tree: Tree::new(), opened: None, claim };
        if resume {
            let (parent, _) = self.parent_of(&landing.dest)?;
            if let Some(found) = self.resume(&landing.entry, &landing.dest, &parent)? {
                let work = self.work_for(&parent)?;
                let (name, _) = names(landing.entry.token);
                landing.tree = found.tree;
                let temporary = Temporary::Named { work, name };
                landing.opened = Some(Opened { part: found.part, state: Some(found.state), temporary });
            }
        }
        Ok(landing)
    }

    /// The partial file, made if there is none yet.
    pub(crate) fn open<'l>(&mut self, landing: &'l mut Landing) -> Result<&'l mut Opened, Fault> {
        if landing.opened.is_none() {
            let (parent, _) = self.parent_of(&landing.dest)?;
            landing.opened = Some(if leaves_part(&landing.entry) {
                let (name, log) = names(landing.entry.token);
                let token = landing.entry.token;
                let mut tries = 0;
                let (work, (state, part)) = loop {
                    let work = self.work_for(&parent)?;
                    tries += 1;
                    match State::create(work.dir.as_fd(), token, self.options.verify, &name, &log) {
                        Ok(made) => break (work, made),
                        // Another session has removed the directory meanwhile, being empty.
                        Err(Errno::NOENT) if tries < 5 => self.work = None,
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

    /// Writes a verified block and notes it. `block` is `None` for a hole.
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
            None => rustix::fs::ftruncate(&opened.part, offset + BLOCK as u64).map_err(Into::into),
        };
        written.map_err(|error| unwritten(&landing.dest, offset, &error))?;
        self.note(landing, sum)
    }

    /// Notes that the next block is written.
    pub(crate) fn note(&mut self, landing: &mut Landing, sum: Sum) -> Result<(), Fault> {
        let offset = landing.tree.bytes();
        if let Some(Opened { part, state: Some(state), .. }) = &mut landing.opened {
            let noted = state.append(part.as_fd(), sum);
            noted.map_err(|error| unwritten(&landing.dest, offset, &error.into()))?;
        }
        landing.tree.push(sum);
        Ok(())
    }

    /// Writes the last bytes, `tail`, of a verified file and sets mode and time. It gets its final name with its group.
    pub(crate) fn land(
        &mut self,
        mut landing: Landing,
        tail: Pieces<'_>,
        size: u64,
        hash: Option<Hash>,
    ) -> Result<(), Fault> {
        let (parent, _) = self.parent_of(&landing.dest)?;
        let dest = landing.dest;
        let io = |doing: &'static str| {
            let dest = &dest;
            move |error: Errno| Fault::new(doing, dest, error)
        };
        // Set-user-ID, set-group-ID and sticky are never taken from a peer.
        let mode = landing.entry.mode & 0o777;
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
                        rustix::fs::ftruncate(&file, size).map_err(io("set the length of"))?;
                    }
                    if !has_mode {
                        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
                            .map_err(io("set the mode of"))?;
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
        };
        let claim = landing.claim.take();
        self.group.push(Landed { file, temporary, parent, dest, log, claim, receipt });
        self.group_bytes += size;
        Ok(())
    }

    /// Removes temporary files of this store, and the work directory if that leaves it empty.
    pub(crate) fn tidy(&mut self) {
        for landed in self.group.drain(..) {
            if landed.log.is_none() {
                landed.temporary.remove(false);
            }
        }
        if self.work.is_some() {
            self.root.tidy();
        }
    }
}

impl Landing {
    pub(crate) fn dest(&self) -> &RelPath {
        &self.dest
    }

    /// A file without a temporary file of its own: one for a sink or stream, or one that is complete here.
    pub(crate) fn bare(entry: Entry, dest: RelPath, tree: Tree) -> Self {
        Self { entry, dest, tree, opened: None, claim: None }
    }

    /// Stops receiving the file. Verified blocks stay for a later session, unless `forget`.
    pub(crate) fn abandon(self, forget: bool) {
        let Some(opened) = self.opened else { return };
        if forget || opened.state.is_none() {
            opened.temporary.remove(true);
        }
    }
}

/// Whether a partial file may be kept for a later session: only whole blocks are.
pub(crate) fn leaves_part(entry: &Entry) -> bool {
    entry.size.is_none_or(|size| size >= BLOCK as u64)
}

fn exists(dest: &RelPath, is_file: bool) -> Fault {
    let told = if is_file {
        Reason::from(format!("{dest} exists already")).with(Remedy::Replace)
    } else {
        let told = format!("{dest} exists and is no regular file");
        Reason::from(told).with(Remedy::PutInside(dest.to_string()))
    };
    Fault(Refusal::Exists, told)
}

fn unwritten(dest: &RelPath, offset: u64, error: &std::io::Error) -> Fault {
    Fault::io(format!("cannot write {dest} at byte {offset}: {error}"), error)
}

/// A partial file that another process holds.
fn in_use(doing: &str, what: impl Display, error: Errno) -> Fault {
    match error {
        Errno::WOULDBLOCK => {
            let told = Reason::from(format!("another program is receiving {what}"));
            Fault(Refusal::Busy, told.with(Remedy::WaitForOther))
        }
        error => Fault::new(doing, what, error),
    }
}

fn names(token: Token) -> (String, String) {
    let name = hex(&token);
    (format!("{name}.part"), format!("{name}.state"))
}

fn log_name(part: &str) -> String {
    format!("{}.state", part.trim_end_matches(".part"))
}

fn os(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}

/// The wall clock, for receipts.
pub(crate) fn now() -> Time {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time { seconds: now.as_secs() as i64, nanos: now.subsec_nanos() }
}

/// Reads a whole file for its hash and length.
pub(crate) fn hash_file(file: BorrowedFd<'_>) -> std::io::Result<(Hash, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BLOCK];
    let mut offset = 0;
    loop {
        let bytes = root::read_full(file, &mut buffer, offset)?;
        hasher.update(&buffer[..bytes]);
        offset += bytes as u64;
        if bytes < buffer.len() {
            return Ok((*hasher.finalize().as_bytes(), offset));
        }
    }
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
    rustix::fs::ftruncate(file, offset + block.len() as u64).map_err(Into::into)
}
