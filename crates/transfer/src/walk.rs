//! The entries to be sent: a directory with all that is below it, in the order of each directory, or one file.
//!
//! The walk keeps one directory open for each of the upper levels, so that its memory does not grow with the number of
//! files. For deeper levels it keeps the names, and opens the directory again where it needs it.

mod levels;
mod links;
mod patterns;
mod token;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use linger_untrusted::Untrusted;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::chmod::Chmod;
use crate::kernel::generation;
use crate::message::{Kind, MOST_ZEROS, Refusal, Time, TreeEntry};
use crate::path::{RelPath, WORK};
use crate::root::{Links, Root, mtime, read_full};
use crate::selection::{LinkMode, Selection};
use levels::{Level, NamesLeft, Parent};
pub use patterns::Patterns;
use token::identified;
pub(crate) use token::token;

/// One step of the walk.
pub(crate) enum WalkedEntry {
    /// An entry. A regular file has its open descriptor with it. A directory's contents follow.
    Entry(TreeEntry, Option<OwnedFd>),
    /// A directory is complete.
    Leave { index: u64, mode: u32, mtime: Time },
    /// Something that cannot be sent, or is left out as the user wants it.
    Problem { path: RelPath, refusal: Refusal, text: String },
}

/// Levels whose directories stay open: two descriptors each, of the 1,024 that a process has by default.
const HELD: usize = 100;

/// A walk through `top` and all that is below it.
pub(crate) struct Walk<'a> {
    root: &'a Root,
    top: RelPath,
    begun: bool,
    levels: Vec<Level>,
    patterns: Patterns,
    selection: Selection,
    chmod: Option<Chmod>,
    /// Links are followed wherever this user may read, not inside the root alone.
    roams: bool,
    /// The file system makes no copies that share their blocks.
    no_clones: bool,
    next: u64,
}

impl<'a> Walk<'a> {
    /// A walk for a client, which sees nothing outside the root.
    pub(crate) fn new(root: &'a Root, top: RelPath, patterns: Patterns, selection: Selection) -> Self {
        Self {
            root,
            top,
            begun: false,
            levels: Vec::new(),
            patterns,
            selection,
            chmod: None,
            roams: false,
            no_clones: false,
            next: 0,
        }
    }

    /// A walk for this program's own user.
    pub(crate) fn local(
        root: &'a Root,
        top: RelPath,
        patterns: Patterns,
        selection: Selection,
        chmod: Option<Chmod>,
    ) -> Self {
        Self { chmod, roams: true, ..Self::new(root, top, patterns, selection) }
    }

    /// Whether files are sent as they are when their turn comes.
    pub(crate) fn is_live(&self) -> bool {
        self.selection.live
    }

    /// Whether what was sent of a file is read again where its transfer is resumed.
    pub(crate) fn rereads(&self) -> bool {
        self.selection.reread
    }

    /// Whether the top is a directory.
    pub(crate) fn is_directory(&self) -> bool {
        let top = self.root.stat(&self.top, Links::Follow);
        top.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// Opens a file of the walk again, for another session. Returns `None` if its name now belongs to another file or other
    /// content; of a file that is sent live, if it is shorter than was announced.
    pub(crate) fn reopen(&self, entry: &TreeEntry) -> Result<Option<OwnedFd>, Errno> {
        let path = self.top.join(&entry.path).map_err(|_| Errno::NAMETOOLONG)?;
        let (fd, stat) = if self.roams && self.selection.links == LinkMode::Follow {
            let fd = self.root.anywhere(&path)?;
            let stat = rustix::fs::fstat(&fd)?;
            (fd, stat)
        } else {
            self.root.file(&path)?
        };
        if self.is_live() {
            let has_all = entry.size.is_none_or(|size| stat.st_size as u64 >= size);
            return Ok(has_all.then_some(fd));
        }
        Ok((token(fd.as_fd(), &stat, &entry.path) == entry.token).then_some(fd))
    }

    /// The entry for what `stat` describes. `file` is its fd, if it has content.
    fn entry(&mut self, kind: Kind, path: RelPath, file: Option<BorrowedFd<'_>>, stat: &Stat) -> TreeEntry {
        let index = self.next;
        self.next += 1;
        let size = (kind == Kind::File).then_some(stat.st_size as u64);
        TreeEntry {
            index,
            kind,
            token: identified(stat, file.and_then(generation), &path),
            path,
            mode: self
                .chmod
                .as_ref()
                .map_or(stat.st_mode & 0o7777, |chmod| chmod.apply(stat.st_mode, kind == Kind::Directory)),
            mtime: Some(mtime(stat)),
            size,
            hash: None,
            sparse: size.is_some_and(|size| (stat.st_blocks as u64) * 512 < size),
            by_blocks: size.is_some_and(|size| (stat.st_blocks as u64) * 512 + MOST_ZEROS <= size),
            target: Vec::new(),
        }
    }

    /// What a sentence calls an entry: the top has no path, and is called what was asked for.
    pub(crate) fn told<'p>(&'p self, path: &'p RelPath) -> &'p RelPath {
        if path.is_root() { &self.top } else { path }
    }

    fn problem(&self, path: RelPath, doing: &str, error: Errno) -> WalkedEntry {
        let text = format!("cannot {doing} {}: {}", self.told(&path), std::io::Error::from(error));
        WalkedEntry::Problem { path, refusal: Refusal::Source, text }
    }

    /// Returns the next step of the walk, or `None` at its end.
    pub(crate) fn next(&mut self) -> Option<WalkedEntry> {
        if !self.begun {
            self.begun = true;
            return Some(self.first());
        }
        loop {
            let level = self.levels.last_mut()?;
            let (name, kind) = match level.next() {
                Some(Ok(entry)) => entry,
                Some(Err(error)) => {
                    let path = level.path.clone();
                    return Some(self.problem(path, "read the directory", error));
                }
                None => {
                    let level = self.levels.pop()?;
                    return Some(WalkedEntry::Leave {
                        index: level.index,
                        mode: level.mode,
                        mtime: level.mtime,
                    });
                }
            };
            let name = name.as_slice();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let path = match level.path.child(name) {
                Ok(path) => path,
                Err(why) => {
                    let text = format!("{}/{} {why}", level.path, Untrusted::from(name).terminal());
                    return Some(WalkedEntry::Problem {
                        path: level.path.clone(),
                        refusal: Refusal::Source,
                        text,
                    });
                }
            };
            if name == WORK.as_bytes() {
                if self.is_work_directory() {
                    continue;
                }
                let text = format!("{path}: receivers use this name themselves; give it another one");
                return Some(WalkedEntry::Problem { path, refusal: Refusal::Source, text });
            }
            if let Some(found) = self.visit(path, name, kind) {
                return Some(found);
            }
        }
    }

    /// The directory whose names are being visited.
    fn parent(&self) -> Result<Parent<'_>, Errno> {
        let level = self.levels.last().ok_or(Errno::NOENT)?;
        match &level.fd {
            Some(fd) => Ok(Parent::Held(fd.as_fd())),
            None => {
                let path = self.top.join(&level.path).map_err(|_| Errno::NAMETOOLONG)?;
                let fd = self.root.directory(&path, Links::Refuse)?;
                let stat = rustix::fs::fstat(&fd)?;
                // Somebody has put another directory in its place.
                if (stat.st_dev, stat.st_ino) != level.identity {
                    Err(Errno::AGAIN)
                } else {
                    Ok(Parent::Opened(fd))
                }
            }
        }
    }

    /// Whether `.linger` of the current directory is the work directory of a transfer into it, and nothing of the user's.
    fn is_work_directory(&self) -> bool {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = self.parent().and_then(|parent| rustix::fs::openat(parent, WORK, flags, Mode::empty()));
        opened.and_then(|fd| Dir::read_from(&fd)).is_ok_and(|dir| {
            dir.into_iter().all(|entry| entry.is_ok_and(|entry| is_work(entry.file_name().to_bytes())))
        })
    }

    fn first(&mut self) -> WalkedEntry {
        let top = self.top.clone();
        let stat = match self.root.stat(&top, Links::Follow) {
            Ok(stat) => stat,
            Err(error) => return self.problem(top, "find", error),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => match self.root.directory(&top, Links::Follow) {
                Ok(fd) => self.enter(RelPath::root(), fd),
                Err(error) => self.problem(top, "open", error),
            },
            FileType::RegularFile => match self.root.file(&top) {
                Ok((fd, stat)) => self.file(RelPath::root(), fd, stat),
                Err(error) => self.problem(top, "open", error),
            },
            other => {
                let text = format!("{top} is {}, which cannot be sent", describe(other));
                WalkedEntry::Problem { path: RelPath::root(), refusal: Refusal::Source, text }
            }
        }
    }

    fn enter(&mut self, path: RelPath, fd: OwnedFd) -> WalkedEntry {
        let opened = rustix::fs::fstat(&fd).and_then(|stat| Ok((stat, Dir::read_from(&fd)?)));
        let (stat, dir) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.problem(path, "read the directory", error),
        };
        let identity = (stat.st_dev, stat.st_ino);
        if self.levels.iter().any(|level| level.identity == identity) {
            return self.leave_out(path, "is a link back to a directory that holds it");
        }
        // A path that goes through links cannot be opened again: the kernel is asked to refuse links there.
        let is_held = self.levels.len() < HELD || self.selection.links == LinkMode::Follow;
        let (names, fd) = if is_held {
            (NamesLeft::Open(dir), Some(fd))
        } else {
            let names = dir
                .map(|entry| entry.map(|entry| (entry.file_name().to_bytes().to_vec(), entry.file_type())));
            match names.collect::<Result<Vec<_>, _>>() {
                Ok(names) => (NamesLeft::Read(names.into_iter()), None),
                Err(error) => return self.problem(path, "read the directory", error),
            }
        };
        let entry = self.entry(Kind::Directory, path.clone(), None, &stat);
        let (index, mode) = (entry.index, entry.mode);
        let (put_off, is_late) = (Vec::new(), false);
        let mtime = mtime(&stat);
        self.levels.push(Level { names, put_off, is_late, fd, path, identity, index, mode, mtime });
        WalkedEntry::Entry(entry, None)
    }

    /// An entry that cannot be sent: left out, or reported as a failure, as the user wants it.
    fn leave_out(&self, path: RelPath, told: &str) -> WalkedEntry {
        let (refusal, text) = if self.selection.skip_special {
            (Refusal::Skipped, format!("{path} {told}: left out"))
        } else {
            (Refusal::Source, format!("{path} {told}"))
        };
        WalkedEntry::Problem { path, refusal, text }
    }

    fn visit(&mut self, path: RelPath, name: &[u8], kind: FileType) -> Option<WalkedEntry> {
        let name = Path::new(OsStr::from_bytes(name));
        let looked = self.parent().and_then(|parent| match kind {
            FileType::Unknown => rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
                .map(|stat| FileType::from_raw_mode(stat.st_mode)),
            known => Ok(known),
        });
        let kind = match looked {
            Ok(kind) => kind,
            Err(error) => return Some(self.problem(path, "look at", error)),
        };
        if self.patterns.leave_out(&path, kind == FileType::Directory) {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Some(match kind {
            FileType::RegularFile => {
                let opened = self.parent().and_then(|parent| {
                    let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
                    let stat = rustix::fs::fstat(&fd)?;
                    Ok((fd, stat))
                });
                match opened {
                    Ok((fd, stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                        self.file(path, fd, stat)
                    }
                    Ok(_) => self.problem(path, "open", Errno::AGAIN),
                    Err(error) => self.problem(path, "open", error),
                }
            }
            FileType::Directory => {
                let opened = self.parent().and_then(|parent| {
                    rustix::fs::openat(parent, name, flags | OFlags::DIRECTORY, Mode::empty())
                });
                match opened {
                    Ok(fd) => self.enter(path, fd),
                    Err(error) => self.problem(path, "open", error),
                }
            }
            FileType::Symlink => return self.link(path, name),
            other => self.leave_out(path, &format!("is {}, which cannot be sent", describe(other))),
        })
    }

    /// The step for a regular file: the file itself, or a snapshot with `live`, or a copy if its length is not known.
    fn file(&mut self, path: RelPath, fd: OwnedFd, stat: Stat) -> WalkedEntry {
        let snapshot = if self.is_live() && !self.no_clones { self.snapshot(&fd) } else { None };
        if snapshot.is_none() && stat.st_size as usize <= MOST_CLAIMED && stat.st_blocks == 0 {
            match unsized_content(&fd, &stat) {
                Ok(None) => {}
                Ok(Some(copy)) => return self.copied(path, copy, &stat),
                Err(error) => return self.problem(path, "read", error),
            }
        }
        let mut entry = self.entry(Kind::File, path, Some(fd.as_fd()), &stat);
        match snapshot {
            Some((copy, size)) => {
                entry.size = Some(size);
                WalkedEntry::Entry(entry, Some(copy))
            }
            None => WalkedEntry::Entry(entry, Some(fd)),
        }
    }

    /// A file whose content had to be read first, to know how long it is. The file may have other content when it is read
    /// again, so the entry's token is that of the copy: a later session does not resume it.
    fn copied(&mut self, path: RelPath, copy: OwnedFd, original: &Stat) -> WalkedEntry {
        let stat = match rustix::fs::fstat(&copy) {
            Ok(mut stat) => {
                stat.st_mode = original.st_mode;
                stat
            }
            Err(error) => return self.problem(path, "read", error),
        };
        let mut entry = self.entry(Kind::File, path, Some(copy.as_fd()), &stat);
        entry.mtime = Some(mtime(original));
        WalkedEntry::Entry(entry, Some(copy))
    }

    /// A copy that has no name and shares its blocks with the file, so that nobody can write to it. It needs a file
    /// system that supports this, and a directory that this user may write to.
    fn snapshot(&mut self, fd: &OwnedFd) -> Option<(OwnedFd, u64)> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let parent = match self.top.split() {
            Some((above, _)) if self.levels.is_empty() => {
                Parent::Opened(self.root.directory(&above, Links::Follow).ok()?)
            }
            _ => self.parent().ok()?,
        };
        let copy = rustix::fs::openat(parent, ".", flags, Mode::RUSR | Mode::WUSR).ok()?;
        match rustix::fs::ioctl_ficlone(&copy, fd) {
            Ok(()) => rustix::fs::fstat(&copy).ok().map(|stat| (copy, stat.st_size as u64)),
            Err(_) => {
                self.no_clones = true;
                None
            }
        }
    }
}

/// The most bytes of a file that does not say how long it is.
const MOST_UNSIZED: usize = 64 << 20;
/// The longest length that a file of procfs or sysfs claims to have. sysfs claims a page for each attribute, and a page has 64
/// KiB at most.
const MOST_CLAIMED: usize = 64 << 10;

/// A copy, in memory, of a file whose `st_size` is not its length: files in procfs claim to be empty, those in sysfs to have a
/// page. `None` if the length is true, or if somebody is changing the file.
fn unsized_content(fd: &OwnedFd, stat: &Stat) -> Result<Option<OwnedFd>, Errno> {
    let claimed = stat.st_size as usize;
    let mut bytes = vec![0; claimed.max(1)];
    let read = read_full(fd.as_fd(), &mut bytes, 0).map_err(|error| errno(&error))?;
    let now = rustix::fs::fstat(fd)?;
    let is_as_it_was =
        (now.st_size, now.st_ctime, now.st_ctime_nsec) == (stat.st_size, stat.st_ctime, stat.st_ctime_nsec);
    if (claimed > 0 && !is_as_it_was) || read == claimed {
        return Ok(None);
    }
    bytes.resize(64 << 10, 0);
    let mut copy = File::from(rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC)?);
    let mut length = 0;
    loop {
        let read = read_full(fd.as_fd(), &mut bytes, length as u64).map_err(|error| errno(&error))?;
        if read == 0 {
            return Ok(Some(copy.into()));
        }
        length += read;
        if length > MOST_UNSIZED {
            return Err(Errno::FBIG);
        }
        copy.write_all(&bytes[..read]).map_err(|error| errno(&error))?;
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Whether a file in a work directory is one that a receiver makes there: see `store`.
fn is_work(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
        || name.starts_with(b"tmp-")
        || name.ends_with(b".part")
        || name.ends_with(b".state")
}

fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "no file",
    }
}
