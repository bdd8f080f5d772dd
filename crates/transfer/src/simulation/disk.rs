//! The disk of the receiver's machine: real files, and a record of what was synced.
//!
//! No file is really removed before the schedule ends. A file that loses its last name is moved to a directory called
//! attic, because a power cut may bring it back.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::random::Random;
use super::shadow::{ContentChange, Image, Ino, Node, Renaming, Shadow};
use super::{EndOfTransfer, Planted};
use crate::host::DiskCall;
use crate::message::{Durability, Kind};
use crate::progress::Confirmation;

pub(super) struct Disk {
    pub(super) owner: EndOfTransfer,
    base: PathBuf,
    attic: File,
    shadow: Shadow,
    pub(super) shared: Ino,
    memory: Ino,
    /// Files whose sync comes too late, if that fault is planted.
    late: Vec<Ino>,
    late_is_due: bool,
}

/// The directories of a schedule.
const PLACES: [&str; 3] = ["shared", "memory", "attic"];

impl Disk {
    pub(super) fn new(base: &Path, owner: EndOfTransfer) -> io::Result<Self> {
        for place in PLACES {
            fs::create_dir(base.join(place))?;
        }
        let ino = |place: &str| fs::metadata(base.join(place)).map(|found| found.ino());
        let (shared, memory) = (ino("shared")?, ino("memory")?);
        let mut shadow = Shadow::default();
        shadow.root(shared);
        shadow.root(memory);
        let attic = File::open(base.join("attic"))?;
        Ok(Self {
            owner,
            base: base.to_owned(),
            attic,
            shadow,
            shared,
            memory,
            late: Vec::new(),
            late_is_due: false,
        })
    }

    /// The directory of the simulation.
    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// A call fails: what a sync was to make durable will be lost, whatever is synced later (as fsync(2) on Linux, which counts
    /// pages as written once it has reported that they were not).
    pub(super) fn fail(&mut self, call: &DiskCall<'_>) {
        match *call {
            DiskCall::Sync { file } => {
                if let Some(ino) = ino(file) {
                    self.shadow.spoil(ino);
                }
            }
            DiskCall::SyncAll => self.shadow.spoil_all(),
            _ => {}
        }
    }

    /// Makes a file that is durable from the start.
    pub(super) fn put_durable(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = self.base.join("shared").join(name);
        fs::write(&path, content)?;
        let ino = fs::metadata(&path)?.ino();
        self.shadow.file(ino);
        self.shadow.changed(ino, ContentChange::Write(0, content.to_vec()));
        self.shadow.renamed(self.shared, Renaming::Add(name.as_bytes().to_vec(), ino));
        self.shadow.sync_all();
        Ok(())
    }

    /// Removes everything.
    pub(super) fn clear(base: &Path) -> io::Result<()> {
        for place in PLACES {
            match fs::remove_dir_all(base.join(place)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The files and directories that exist, as programs see them.
    pub(super) fn found(&self) -> std::collections::BTreeMap<Vec<u8>, Image> {
        let mut whole = self.shadow.clone();
        whole.settle();
        whole.durable(self.shared)
    }

    /// The files and directories that survive any power cut.
    pub(super) fn durable(&self) -> std::collections::BTreeMap<Vec<u8>, Image> {
        self.shadow.durable(self.shared)
    }

    /// Says what a power cut right now would lose of a file whose receipt says that it is on disk. `None` if nothing.
    pub(super) fn is_lost(&self, confirmation: &Confirmation) -> Option<String> {
        if confirmation.durability < Durability::Disk {
            return None;
        }
        let name = confirmation.name.raw();
        let told = |why: &str| {
            Some(format!("a receipt says `disk` of {}, and {why}", String::from_utf8_lossy(name)))
        };
        if name.is_empty() {
            return None;
        }
        match (confirmation.kind, self.durable().get(name)) {
            (Kind::Directory, Some(Image::Directory)) | (Kind::Link, Some(Image::Link)) => None,
            (Kind::File | Kind::Pipe, Some(Image::File(content))) => {
                let is_whole = confirmation.hash.is_none_or(|hash| hash == *blake3::hash(content).as_bytes())
                    && content.len() as u64 == confirmation.size;
                if is_whole { None } else { told("its content would be lost") }
            }
            _ => told("its name would be lost"),
        }
    }

    fn child(&self, dir: BorrowedFd<'_>, name: &Path) -> Option<(Ino, Ino)> {
        let dir = ino(dir)?;
        let child = self.shadow.names(dir).get(name.as_os_str().as_bytes()).copied()?;
        Some((dir, child))
    }

    /// Moves the file with this name to the attic.
    fn keep(&self, dir: BorrowedFd<'_>, name: &Path, ino: Ino) -> Result<(), Errno> {
        rustix::fs::renameat(dir, name, &self.attic, ino.to_string())
    }

    pub(super) fn before(&mut self, call: &DiskCall<'_>, planted: Option<Planted>) -> Result<bool, Errno> {
        if std::mem::take(&mut self.late_is_due) {
            std::mem::take(&mut self.late).into_iter().for_each(|ino| self.shadow.sync(ino));
        }
        match *call {
            DiskCall::Open { dir, name, flags } if flags.contains(OFlags::TRUNC) => {
                if let Some((_, child)) = self.child(dir, name) {
                    self.shadow.changed(child, ContentChange::Truncate(0));
                }
            }
            DiskCall::Remove { dir, name } => {
                if let Some((parent, child)) = self.child(dir, name)
                    && self.shadow.names(child).is_empty()
                {
                    self.keep(dir, name, child)?;
                    self.shadow.renamed(parent, Renaming::Remove(bytes(name)));
                    return Ok(false);
                }
            }
            DiskCall::Rename { from, name, dir, to, replaces: true } if self.child(from, name).is_some() => {
                if let Some((_, victim)) = self.child(dir, to) {
                    self.keep(dir, to, victim)?;
                }
            }
            DiskCall::Sync { file } => {
                if let Some(ino) = ino(file) {
                    self.sync(ino, planted);
                }
                return Ok(false);
            }
            DiskCall::SyncAll => {
                self.shadow.sync_all();
                return Ok(false);
            }
            _ => {}
        }
        Ok(true)
    }

    fn sync(&mut self, ino: Ino, planted: Option<Planted>) {
        let is_directory = matches!(self.shadow.nodes.get(&ino), Some(Node::Directory { .. }));
        let is_journal = self.shadow.names(self.memory).values().any(|other| *other == ino);
        match planted {
            Some(Planted::NoFileSync) if !is_directory && !is_journal => {}
            Some(Planted::NoDirectorySync) if is_directory => {}
            Some(Planted::NoJournalSync) if is_journal => {}
            Some(Planted::NameBeforeSync) if !is_directory && !is_journal => self.late.push(ino),
            _ => self.shadow.sync(ino),
        }
    }

    pub(super) fn after(&mut self, call: &DiskCall<'_>) {
        match *call {
            DiskCall::Opened { dir, name, flags, file } => {
                let (Some(dir), Some(file)) = (ino(dir), ino(file)) else { return };
                if flags.contains(OFlags::TMPFILE) {
                    self.shadow.file(file);
                } else if !self.shadow.names(dir).contains_key(name.as_os_str().as_bytes()) {
                    self.shadow.file(file);
                    self.shadow.renamed(dir, Renaming::Add(bytes(name), file));
                }
            }
            DiskCall::MakeDirectory { dir, name } | DiskCall::SymbolicLink { dir, name } => {
                let made = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
                let (Some(dir), Ok(made)) = (ino(dir), made) else { return };
                if matches!(call, DiskCall::MakeDirectory { .. }) {
                    self.shadow.root(made.st_ino);
                } else {
                    self.shadow.nodes.insert(made.st_ino, Node::Link);
                }
                self.shadow.renamed(dir, Renaming::Add(bytes(name), made.st_ino));
            }
            DiskCall::Link { file, dir, name } => {
                if let (Some(file), Some(dir)) = (ino(file), ino(dir)) {
                    self.shadow.renamed(dir, Renaming::Add(bytes(name), file));
                    self.late_is_due = true;
                }
            }
            DiskCall::Rename { from, name, dir, to, .. } => {
                let Some((from, file)) = self.child(from, name) else { return };
                let Some(dir) = ino(dir) else { return };
                if from == dir {
                    self.shadow.renamed(dir, Renaming::Within(bytes(name), bytes(to), file));
                } else {
                    self.shadow.renamed(dir, Renaming::Add(bytes(to), file));
                    self.shadow.renamed(from, Renaming::Away(bytes(name), dir, bytes(to)));
                }
                self.late_is_due = true;
            }
            DiskCall::Write { file, offset, bytes } => {
                let Some(file) = ino(file) else { return };
                let offset = offset.unwrap_or_else(|| self.shadow.length(file));
                self.shadow.changed(file, ContentChange::Write(offset, bytes.to_vec()));
            }
            DiskCall::Truncate { file, length } => {
                if let Some(file) = ino(file) {
                    self.shadow.changed(file, ContentChange::Truncate(length));
                }
            }
            _ => {}
        }
    }

    /// Cuts the power: data that was not synced may be lost. Changes the real files accordingly.
    pub(super) fn cut(&mut self, random: &mut Random) -> io::Result<()> {
        self.late.clear();
        let before = self.shadow.clone();
        self.shadow.cut(random);
        let roots = [(self.shared, "shared"), (self.memory, "memory")];
        for (root, place) in roots {
            self.take_apart(&before, root, &self.base.join(place))?;
        }
        let mut placed = HashMap::new();
        for (root, place) in roots {
            self.put_together(&before, root, &self.base.join(place), &mut placed)?;
        }
        Ok(())
    }

    fn take_apart(&self, before: &Shadow, directory: Ino, path: &Path) -> io::Result<()> {
        for (name, ino) in before.names(directory) {
            let child = path.join(std::ffi::OsStr::from_bytes(&name));
            if matches!(before.nodes.get(&ino), Some(Node::Directory { .. })) {
                self.take_apart(before, ino, &child)?;
            }
            fs::rename(&child, self.base.join("attic").join(ino.to_string()))?;
            if fs::symlink_metadata(&child).is_ok() {
                // A second name of a file that is in the attic already.
                fs::remove_file(&child)?;
            }
        }
        Ok(())
    }

    fn put_together(
        &self,
        before: &Shadow,
        directory: Ino,
        path: &Path,
        placed: &mut HashMap<Ino, PathBuf>,
    ) -> io::Result<()> {
        for (name, ino) in self.shadow.names(directory) {
            let child = path.join(std::ffi::OsStr::from_bytes(&name));
            if let Some(first) = placed.get(&ino) {
                fs::hard_link(first, &child)?;
                continue;
            }
            fs::rename(self.base.join("attic").join(ino.to_string()), &child)?;
            match self.shadow.nodes.get(&ino) {
                Some(Node::Directory { .. }) => self.put_together(before, ino, &child, placed)?,
                Some(Node::File { durable, .. }) if before.content(ino) != *durable => {
                    // The content is changed in place, so that the file keeps its inode: an open descriptor must still
                    // refer to it. It keeps its times: a disk may write them before the content.
                    let (accessed, modified) = times(&child)?;
                    let file = File::options().write(true).truncate(true).open(&child)?;
                    rustix::fs::fchmod(&file, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
                    io::Write::write_all(&mut &file, durable)?;
                    file.set_times(fs::FileTimes::new().set_accessed(accessed).set_modified(modified))?;
                }
                _ => {}
            }
            placed.insert(ino, child);
        }
        Ok(())
    }
}

/// When a file was last accessed, and when its content was last changed.
fn times(path: &Path) -> io::Result<(SystemTime, SystemTime)> {
    let found = fs::metadata(path)?;
    Ok((found.accessed()?, found.modified()?))
}

fn bytes(name: &Path) -> Vec<u8> {
    name.as_os_str().as_bytes().to_vec()
}

fn ino(fd: impl AsFd) -> Option<Ino> {
    rustix::fs::fstat(fd).ok().map(|stat| stat.st_ino)
}
