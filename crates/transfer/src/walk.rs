//! What is to be sent: a tree walked in the order of the directory, or one file, or a pipe.
//!
//! The walk holds one open directory for each level and nothing else, so that its memory does not grow with the number
//! of files.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use linger_untrusted::Untrusted;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::Error;
use crate::message::{Kind, Refusal, Time, Token, TreeEntry};
use crate::path::{MAX_DEPTH, RelPath, WORK};
use crate::root::{Links, Root, mtime};
use crate::state::short;

/// Which files of a tree are left out, as in `.gitignore`.
#[derive(Clone, Debug)]
pub struct Patterns(Option<Gitignore>);

impl Patterns {
    /// Leaves nothing out.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Reads lines of `.gitignore` syntax. The last line that matches a file decides; a line with `!` includes the file.
    ///
    /// # Errors
    /// Returns [`Error::Usage`], which names the line that cannot be read.
    pub fn new<S: AsRef<str>>(lines: &[S]) -> Result<Self, Error> {
        if lines.is_empty() {
            return Ok(Self(None));
        }
        let mut builder = GitignoreBuilder::new("");
        for line in lines {
            builder.add_line(None, line.as_ref()).map_err(|error| Error::Usage(error.to_string().into()))?;
        }
        builder
            .build()
            .map(|patterns| Self(Some(patterns)))
            .map_err(|error| Error::Usage(error.to_string().into()))
    }

    fn leave_out(&self, path: &RelPath, is_dir: bool) -> bool {
        self.0.as_ref().is_some_and(|patterns| patterns.matched(path.as_path(), is_dir).is_ignore())
    }
}

/// One step of the walk.
pub(crate) enum WalkedEntry {
    /// One entry; a regular file comes with its open fd. A directory's contents follow it.
    Entry(TreeEntry, Option<OwnedFd>),
    /// A directory is complete.
    Leave { index: u64, mode: u32, mtime: Time },
    /// Something that cannot be sent.
    Problem { path: RelPath, refusal: Refusal, text: String },
}

/// Holes of so many bytes in one file are too much to hash as zeros: half a minute's work at either end.
const MOSTLY_HOLES: u64 = 64 << 30;

struct Level {
    dir: Dir,
    fd: OwnedFd,
    path: RelPath,
    index: u64,
    mode: u32,
    mtime: Time,
}

/// A walk through what is below `top`, itself included.
pub(crate) struct Walk<'a> {
    root: &'a Root,
    top: RelPath,
    begun: bool,
    levels: Vec<Level>,
    patterns: Patterns,
    next: u64,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(root: &'a Root, top: RelPath, patterns: Patterns) -> Self {
        Self { root, top, begun: false, levels: Vec::new(), patterns, next: 0 }
    }

    /// Whether the walk goes through a directory.
    pub(crate) fn is_directory(&self) -> bool {
        let top = self.root.stat(&self.top, Links::Follow);
        top.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// Opens a file of the walk again, for another session. `None` if another file, or another content, has its name by now.
    pub(crate) fn reopen(&self, entry: &TreeEntry) -> Result<Option<OwnedFd>, Errno> {
        let path = self.top.join(&entry.path).map_err(|_| Errno::NAMETOOLONG)?;
        let (fd, stat) = self.root.file(&path)?;
        Ok((token(&stat, &entry.path) == entry.token).then_some(fd))
    }

    fn entry(&mut self, kind: Kind, path: RelPath, stat: &Stat) -> TreeEntry {
        let index = self.next;
        self.next += 1;
        let size = (kind == Kind::File).then_some(stat.st_size as u64);
        TreeEntry {
            index,
            kind,
            token: token(stat, &path),
            path,
            mode: stat.st_mode & 0o7777,
            mtime: Some(mtime(stat)),
            size,
            hash: None,
            sparse: size.is_some_and(|size| (stat.st_blocks as u64) * 512 < size),
            by_blocks: size.is_some_and(|size| (stat.st_blocks as u64) * 512 + MOSTLY_HOLES <= size),
            target: Vec::new(),
        }
    }

    fn problem(&self, path: RelPath, doing: &str, error: Errno) -> WalkedEntry {
        let text = format!("cannot {doing} {path}: {}", std::io::Error::from(error));
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
            let entry = match level.dir.next() {
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
            let name = entry.file_name().to_bytes();
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
            let kind = entry.file_type();
            if let Some(found) = self.visit(path, entry.file_name().to_bytes(), kind) {
                return Some(found);
            }
        }
    }

    /// Whether `.linger` of the current directory is the work directory of a transfer into it, and nothing of the user's.
    fn is_work_directory(&self) -> bool {
        let Some(level) = self.levels.last() else { return false };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&level.fd, WORK, flags, Mode::empty());
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
                Ok((fd, stat)) => {
                    WalkedEntry::Entry(self.entry(Kind::File, RelPath::root(), &stat), Some(fd))
                }
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
        if self.levels.len() >= MAX_DEPTH {
            let text = format!("{path} lies deeper than {MAX_DEPTH} directories");
            return WalkedEntry::Problem { path, refusal: Refusal::Source, text };
        }
        let entry = self.entry(Kind::Directory, path.clone(), &stat);
        let (index, mode) = (entry.index, entry.mode);
        self.levels.push(Level { dir, fd, path, index, mode, mtime: mtime(&stat) });
        WalkedEntry::Entry(entry, None)
    }

    fn visit(&mut self, path: RelPath, name: &[u8], kind: FileType) -> Option<WalkedEntry> {
        let parent = self.levels.last()?.fd.as_fd();
        let name = Path::new(OsStr::from_bytes(name));
        let kind = if kind == FileType::Unknown {
            match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(error) => return Some(self.problem(path, "look at", error)),
            }
        } else {
            kind
        };
        if self.patterns.leave_out(&path, kind == FileType::Directory) {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Some(match kind {
            FileType::RegularFile => {
                let opened = rustix::fs::openat(parent, name, flags, Mode::empty())
                    .and_then(|fd| rustix::fs::fstat(&fd).map(|stat| (fd, stat)));
                match opened {
                    Ok((fd, stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                        WalkedEntry::Entry(self.entry(Kind::File, path, &stat), Some(fd))
                    }
                    Ok(_) => self.problem(path, "open", Errno::AGAIN),
                    Err(error) => self.problem(path, "open", error),
                }
            }
            FileType::Directory => {
                match rustix::fs::openat(parent, name, flags | OFlags::DIRECTORY, Mode::empty()) {
                    Ok(fd) => self.enter(path, fd),
                    Err(error) => self.problem(path, "open", error),
                }
            }
            FileType::Symlink => {
                let read = rustix::fs::readlinkat(parent, name, Vec::new()).and_then(|target| {
                    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| (target, stat))
                });
                match read {
                    Ok((target, _)) if !path.link_stays_inside(target.as_bytes()) => {
                        let to = Untrusted::from(target.as_bytes());
                        let text = format!("{path} is a link to {}, outside of what is sent", to.terminal());
                        WalkedEntry::Problem { path, refusal: Refusal::Source, text }
                    }
                    Ok((target, stat)) => {
                        let mut entry = self.entry(Kind::Link, path, &stat);
                        entry.target = target.into_bytes();
                        WalkedEntry::Entry(entry, None)
                    }
                    Err(error) => self.problem(path, "read the link", error),
                }
            }
            other => {
                let text = format!("{path} is {}, which cannot be sent", describe(other));
                WalkedEntry::Problem { path, refusal: Refusal::Source, text }
            }
        })
    }
}

/// Whether a file in a work directory is a receiver's: see `store`.
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

/// Identifies the content of a file without reading it: device, inode, size, ctime and mtime. A write changes it, and so
/// does whatever else changes the ctime, which no program can set.
pub(crate) fn token(stat: &Stat, path: &RelPath) -> Token {
    let mut identity = b"linger-transfer source file\0".to_vec();
    for number in [
        stat.st_dev,
        stat.st_ino,
        stat.st_size as u64,
        stat.st_mtime as u64,
        stat.st_mtime_nsec,
        stat.st_ctime as u64,
        stat.st_ctime_nsec,
    ] {
        identity.extend(number.to_be_bytes());
    }
    // Hard links are files of their own at the receiver.
    identity.extend(path.as_bytes());
    short(blake3::hash(&identity))
}
