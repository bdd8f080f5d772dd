//! Where received files are stored: first under a temporary name or none, then, verified, under the final name.

mod group;
mod landing;
pub(crate) mod sweep;
mod temporary;
mod tree;

use std::ffi::OsStr;
use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use crate::alive::Gauge;
use crate::chmod::Chmod;
use crate::claim::{Claim, Claimant};
use crate::fault::Fault;
use crate::hash::{BLOCK, Hash, Hashing, Sum, Tree, hex};
use crate::host;
use crate::message::{IfExists, Options, Receipt, Refusal, Time, Token, TreeEntry};
use crate::page_buffer::PageBuffer;
use crate::path::RelPath;
use crate::reason::{Reason, Remedy};
use crate::root::{self, Links, Root};
use crate::state::{Found, PartLog};
use group::Landed;
pub(crate) use landing::Landing;
use temporary::{Reach, WorkDir, umask};

/// What is done with the modes that a sender announces.
#[derive(Clone, Debug, Default)]
pub(crate) enum Modes {
    /// The umask is applied, as to every new file.
    #[default]
    Masked,
    /// The announced modes are used as they are: a person has chosen them.
    Exact,
    /// This side's user has given changes to them.
    Changed(Chmod),
}

/// Stores the files of one transfer below one directory.
pub(crate) struct Store<'a> {
    root: &'a Root,
    options: Options,
    claimant: Claimant,
    /// The work directories that are used.
    works: Vec<Rc<WorkDir>>,
    /// Where a work directory was swept.
    swept: Vec<Reach>,
    parent: Option<(RelPath, Rc<OwnedFd>)>,
    /// Directories with subdirectories that may be new, to be synced before anything below them is confirmed.
    grown: Vec<Rc<OwnedFd>>,
    /// Links that wait for their receipts, with their directories.
    linked: Vec<(Rc<OwnedFd>, Receipt)>,
    /// O_TMPFILE works. Otherwise temporary files get names in the work directory.
    nameless: bool,
    /// The process's umask.
    umask: u32,
    /// How announced modes are changed.
    pub(crate) modes: Modes,
    /// Bytes that may still be stored.
    pub(crate) quota: Option<u64>,
    /// This directory and those above it are made if they are missing.
    pub(crate) parents: RelPath,
    /// Temporary names are this random prefix and a counter.
    prefix: String,
    count: u64,
    group: Vec<Landed>,
    group_bytes: u64,
}

impl<'a> Store<'a> {
    pub(crate) fn new(root: &'a Root, options: Options, claimant: Claimant) -> Self {
        let mut random = [0; 8];
        // The prefix only has to be unique, which O_EXCL checks.
        let _ = host::random(&mut random);
        Self {
            root,
            options,
            claimant,
            works: Vec::new(),
            swept: Vec::new(),
            parent: None,
            grown: Vec::new(),
            linked: Vec::new(),
            nameless: true,
            umask: umask(),
            modes: Modes::default(),
            quota: None,
            parents: RelPath::root(),
            prefix: format!("{}{}", root::TEMPORARY, hex(&random)),
            count: 0,
            group: Vec::new(),
            group_bytes: 0,
        }
    }

    /// Whether some of the files may exist here already, so that the sender has to wait for an answer to each file.
    pub(crate) fn must_ask(&self, base: &RelPath) -> bool {
        if self.options.dry_run || self.root.stat(base, Links::Refuse).is_ok() {
            return true;
        }
        let is_log = |name: &[u8]| name.ends_with(b".state");
        let mut has_log = false;
        self.existing_works(base, |work, _| {
            has_log |= rustix::fs::Dir::read_from(&work)
                .is_ok_and(|dir| dir.flatten().any(|entry| is_log(entry.file_name().to_bytes())));
        });
        has_log
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
        let opened = match self.root.directory(&parent, Links::Refuse) {
            Err(Errno::NOENT) if parent == self.parents && !self.options.dry_run => {
                let made = self.make_parents();
                Ok(made.map_err(|(doing, error)| match error {
                    Errno::LOOP => no_directory(&parent, error),
                    error => Fault::new(doing, &parent, error),
                })?)
            }
            other => other,
        };
        let fd = Rc::new(opened.map_err(|error| no_directory(&parent, error))?);
        let name = name.to_vec();
        if parent == self.parents {
            self.note_parents();
        }
        self.parent = Some((parent, fd.clone()));
        Ok((fd, name))
    }

    /// Looks at what exists under a file's final name. Returns an error if that is something else and may not be replaced.
    pub(crate) fn look(&mut self, entry: &TreeEntry, dest: &RelPath) -> Result<Here, Fault> {
        let (parent, name) = self.parent_of(dest)?;
        match rustix::fs::statat(&*parent, os(&name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let kind = FileType::from_raw_mode(stat.st_mode);
                let is_file = kind == FileType::RegularFile;
                let same_time = entry.hash.is_some() || entry.mtime == Some(root::mtime(&stat));
                if is_file && entry.size == Some(stat.st_size as u64) && same_time {
                    if !self.options.verify && entry.hash.is_none() {
                        // An unverified transfer compares length and time only.
                        return Ok(Here::Same);
                    }
                    let (file, _) = self.root.file(dest).map_err(|error| Fault::new("read", dest, error))?;
                    return Ok(Here::Alike(file));
                }
                if !is_file || self.options.if_exists != IfExists::Replace {
                    return Err(self.taken(dest, kind));
                }
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(Fault::new("look at", dest, error)),
        }
        Ok(Here::Nothing)
    }

    /// The work directory in which an earlier session has left a partial file.
    pub(crate) fn left_in(
        &mut self,
        entry: &TreeEntry,
        dest: &RelPath,
    ) -> Result<Option<Rc<WorkDir>>, Fault> {
        if !leaves_part(entry) {
            return Ok(None);
        }
        let (parent, _) = self.parent_of(dest)?;
        let (_, log) = names(entry.token);
        self.work_with(&parent, dest, &log).map_err(|error| Fault::new("look for", "partial files", error))
    }

    /// Returns a closure that opens the partial file that an earlier session left in `work`, if it can be used.
    pub(crate) fn resumer(
        &self,
        work: &WorkDir,
        entry: &TreeEntry,
        dest: &RelPath,
    ) -> Result<impl FnOnce(&Gauge) -> Result<Option<Found>, Fault> + Send + use<>, Fault> {
        let (token, dest) = (entry.token, dest.clone());
        let hashing = Hashing::of(self.options.verify, entry.by_blocks);
        let dir = rustix::io::fcntl_dupfd_cloexec(&work.dir, 0);
        let dir = dir.map_err(|error| Fault::new("open", "the work directory", error))?;
        let is_unsynced = self.claimant.claims.is_unsynced(token);
        Ok(move |gauge: &Gauge| {
            if is_unsynced {
                return Ok(None);
            }
            let (part, log) = names(token);
            PartLog::resume(dir.as_fd(), token, hashing, &part, &log, gauge)
                .map_err(|error| in_use("resume", &dest, error))
        })
    }

    /// Removes the partial file and the log of a file that is complete here: an earlier session has given the file its final
    /// name and ended before it removed them, or a power cut has undone the removal.
    pub(crate) fn discard(&self, entry: &TreeEntry, dest: &RelPath) {
        if leaves_part(entry) {
            let (part, log) = names(entry.token);
            self.existing_works(dest, |work, top| {
                PartLog::discard(work.as_fd(), &part, &log);
                if let Some(top) = top {
                    top.tidy();
                }
            });
        }
    }

    /// The mode that a file or directory gets. Set-user-ID, set-group-ID and sticky are never taken from a peer.
    fn mode(&self, announced: u32, is_directory: bool) -> u32 {
        match &self.modes {
            // If the umask is unknown, none is applied: the sender's mode is better than none.
            Modes::Masked if self.umask != 0o777 => announced & 0o777 & !self.umask,
            Modes::Masked | Modes::Exact => announced & 0o777,
            Modes::Changed(chmod) => chmod.apply(announced, is_directory),
        }
    }

    /// The fault for a name that is taken.
    fn taken(&self, dest: &RelPath, kind: FileType) -> Fault {
        if self.options.if_exists == IfExists::Skip {
            return Fault(Refusal::Skipped, format!("{dest} exists already: left as it is").into());
        }
        exists(dest, kind)
    }

    /// Whether the path is a directory.
    pub(crate) fn has_directory(&self, path: &RelPath) -> bool {
        !path.is_root() && self.root.directory(path, Links::Refuse).is_ok()
    }

    /// Refuses a file if the file system has no room for `bytes` more, or no free inode. Nothing is refused if the file system
    /// cannot tell.
    fn room(&self, parent: &OwnedFd, dest: &RelPath, bytes: u64) -> Result<(), Fault> {
        let Ok(free) = rustix::fs::fstatvfs(parent) else { return Ok(()) };
        let told = if free.f_files > 0 && free.f_favail == 0 {
            format!("{dest}: the file system takes no further file, all its inodes are in use")
        } else if free.f_blocks > 0 && free.f_bavail.saturating_mul(free.f_frsize) < bytes {
            let free = free.f_bavail.saturating_mul(free.f_frsize);
            format!("{dest} needs {bytes} bytes more, and {free} are free")
        } else {
            return Ok(());
        };
        Err(Fault(Refusal::NoSpace, Reason::from(told).with(Remedy::MakeRoom)))
    }

    /// Counts bytes against the quota.
    fn charge(&mut self, dest: &RelPath, bytes: u64) -> Result<(), Fault> {
        let Some(left) = self.quota else { return Ok(()) };
        self.quota = Some(left.checked_sub(bytes).ok_or_else(|| {
            let told =
                format!("{dest} needs {bytes} bytes, and {left} are left of what this key may store here");
            Fault(Refusal::NoSpace, told.into())
        })?);
        Ok(())
    }

    /// Another name for a file whose own name other content has: a free one, or the one that an earlier transfer of the
    /// same file got; with `free`, in no case one that is taken.
    pub(crate) fn another_name(
        &mut self,
        entry: &TreeEntry,
        dest: &RelPath,
        free: bool,
    ) -> Result<RelPath, Fault> {
        let (parent, name) = self.parent_of(dest)?;
        for other in other_names(&name) {
            match rustix::fs::statat(&*parent, os(&other), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {}
                Err(error) => return Err(Fault::new("look at", dest, error)),
                Ok(stat)
                    if !free
                        && entry.size == Some(stat.st_size as u64)
                        && entry.mtime == Some(root::mtime(&stat)) => {}
                Ok(_) => continue,
            }
            return beside(dest, &other);
        }
        Err(exists(dest, FileType::RegularFile))
    }

    /// Claims a file that may leave a partial one behind. Meanwhile the watch thread tells the peer that this side waits.
    pub(crate) fn claim(&self, entry: &TreeEntry) -> Result<Option<Claim>, Fault> {
        if leaves_part(entry) { self.claimant.claim(entry.token).map(Some) } else { Ok(None) }
    }

    /// Removes the temporary files of this store that no later session can use, and the work directory if it is empty then.
    pub(crate) fn tidy(&mut self) {
        for landed in self.group.drain(..) {
            if landed.log.is_none() {
                landed.temporary.remove(false);
            }
        }
        if !self.options.dry_run {
            self.tidy_works();
        }
    }
}

/// The names for something whose own name is taken, if both are to be kept: `name (1).ext` and so on.
fn other_names(name: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let dot = name.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0).unwrap_or(name.len());
    let (stem, extension) = name.split_at(dot);
    (1..1000).map(move |number| [stem, format!(" ({number})").as_bytes(), extension].concat())
}

/// Another name in the same directory.
fn beside(dest: &RelPath, name: &[u8]) -> Result<RelPath, Fault> {
    let above = dest.split().map_or_else(RelPath::root, |(above, _)| above);
    above.child(name).map_err(|why| Fault(Refusal::Forbidden, format!("{dest} {why}").into()))
}

/// What is under a file's final name.
pub(crate) enum Here {
    /// Nothing that could be the file.
    Nothing,
    /// A file of the same length, and of the same time unless the entry has a hash. Its content has to be compared.
    Alike(OwnedFd),
    /// A file of the same length and time, which is all that an unverified transfer compares.
    Same,
}

/// Whether a partial file may be kept for a later session: only whole blocks are.
pub(crate) fn leaves_part(entry: &TreeEntry) -> bool {
    entry.size.is_none_or(|size| size >= BLOCK as u64)
}

fn exists(dest: &RelPath, kind: FileType) -> Fault {
    let (told, remedy) = match kind {
        FileType::RegularFile => ("exists already", Remedy::Replace),
        FileType::Directory => ("exists and is a directory", Remedy::PutInside(dest.to_string())),
        FileType::Symlink => ("is a link, which is neither followed nor replaced", Remedy::RemoveOrRename),
        _ => ("exists and is no regular file", Remedy::RemoveOrRename),
    };
    Fault(Refusal::Exists, Reason::from(format!("{dest} {told}")).with(remedy))
}

/// The fault for a directory that cannot be opened to put something into it.
fn no_directory(path: &RelPath, error: Errno) -> Fault {
    match error {
        // What is written goes through no link, wherever it leads.
        Errno::LOOP => {
            let told = format!("{path} is a link or lies behind one, and nothing is written through links");
            Fault(Refusal::Forbidden, Reason::from(told).with(Remedy::RemoveOrRename))
        }
        // What is to be written into it came with it, and listing what is there does not help.
        Errno::NOENT => {
            let told =
                format!("the directory {path} is not there: it could not be made, or was removed or renamed");
            Fault(Refusal::NotFound, told.into())
        }
        error => Fault::new("open the directory", path, error),
    }
}

/// The fault for a partial file that another process holds.
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

/// Computes the hash and length of a file, by blocks or as a whole. By blocks, holes are not read.
pub(crate) fn hash_as(file: BorrowedFd<'_>, by_blocks: bool, gauge: &Gauge) -> std::io::Result<(Hash, u64)> {
    if !by_blocks {
        return hash_file(file, gauge);
    }
    let mut tree = Tree::new().hashed(Hashing::Blocks);
    let mut memory = PageBuffer::default();
    let buffer = memory.bytes(BLOCK);
    let size = rustix::fs::fstat(file)?.st_size as u64;
    loop {
        let offset = tree.bytes();
        let data = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => data.min(size),
            Err(Errno::NXIO) => size,
            Err(_) => offset,
        };
        tree.push_zeros(data.saturating_sub(offset) / BLOCK as u64);
        let bytes = root::read_full(file, buffer, tree.bytes())?;
        if !gauge.advance(tree.bytes() - offset + bytes as u64) {
            return Err(std::io::Error::other("nobody waits for it"));
        }
        if bytes < buffer.len() {
            return Ok((tree.end(&buffer[..bytes]), tree.bytes() + bytes as u64));
        }
        tree.push(Sum::of(tree.place(), buffer));
    }
}

/// Computes the hash and length of a file by reading all of it.
pub(crate) fn hash_file(file: BorrowedFd<'_>, gauge: &Gauge) -> std::io::Result<(Hash, u64)> {
    let mut hasher = blake3::Hasher::new();
    // One read is enough for a small file, and shows its end.
    let size = rustix::fs::fstat(file)?.st_size.max(0) as u64;
    let mut memory = PageBuffer::default();
    let buffer = memory.bytes((size + 1).min(BLOCK as u64) as usize);
    let mut offset = 0;
    loop {
        let bytes = root::read_full(file, buffer, offset)?;
        hasher.update(&buffer[..bytes]);
        offset += bytes as u64;
        if !gauge.advance(bytes as u64) {
            return Err(std::io::Error::other("nobody waits for it"));
        }
        if bytes < buffer.len() {
            return Ok((*hasher.finalize().as_bytes(), offset));
        }
    }
}
