//! A directory as the root of all names: the kernel resolves each of them below one fd.
//!
//! `openat2(2)` with `RESOLVE_BENEATH` refuses `..`, absolute names and symbolic links that lead outside, and a
//! rename at the same time cannot deceive it. A path that is written to may have no symbolic link in it at all.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::disk;
use crate::error::Error;
use crate::message::Time;
use crate::path::{RelPath, WORK};

/// How the names of temporary files in the work directory begin.
pub(crate) const TEMPORARY: &str = "tmp-";

/// A directory and everything below it that can be reached without leaving it.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

/// Whether symbolic links on the way are followed, while they stay inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    Follow,
    Refuse,
}

impl Root {
    /// Opens a directory as the root.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if there is no such directory, and [`Error::NotPossibleHere`] before Linux 5.6.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| Error::io("open the directory", path.display().to_string(), error))?;
        let root = Self { fd, path: path.to_owned() };
        match root.directory(&RelPath::root(), Links::Refuse) {
            Err(Errno::NOSYS) => Err(Error::NotPossibleHere(
                "this kernel has no openat2(2), without which names cannot be kept inside a directory; \
                 Linux 5.6 or later is needed"
                    .into(),
            )),
            Err(error) => Err(Error::io("open the directory", path.display().to_string(), error)),
            Ok(_) => Ok(root),
        }
    }

    /// Opens a directory below this one as a root of its own.
    pub(crate) fn below(&self, path: &RelPath) -> Result<Self, Errno> {
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty(), Links::Refuse)?;
        Ok(Self { fd, path: self.path.join(path.as_path()) })
    }

    /// The path it was opened by, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn resolve(&self, path: &RelPath, flags: OFlags, mode: Mode, links: Links) -> Result<OwnedFd, Errno> {
        let mut how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        if links == Links::Refuse {
            how |= ResolveFlags::NO_SYMLINKS;
        }
        let name = if path.is_root() { Path::new(".") } else { path.as_path() };
        loop {
            match rustix::fs::openat2(&self.fd, name, flags | OFlags::CLOEXEC, mode, how) {
                // Something in the tree was renamed or mounted during the resolution; openat2(2) says to try again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// The same directory through another descriptor, for another thread.
    pub(crate) fn again(&self) -> Result<Self, Errno> {
        Ok(Self { fd: rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?, path: self.path.clone() })
    }

    /// Opens a directory for use with `*at` calls and for reading.
    pub(crate) fn directory(&self, path: &RelPath, links: Links) -> Result<OwnedFd, Errno> {
        if hides_work(path) {
            return Err(Errno::NOENT);
        }
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty(), links)
    }

    /// Opens a regular file for reading. Its type is checked first, because opening a device or FIFO can have effects.
    pub(crate) fn file(&self, path: &RelPath) -> Result<(OwnedFd, Stat), Errno> {
        if hides_work(path) {
            return Err(Errno::NOENT);
        }
        let handle = self.resolve(path, OFlags::PATH, Mode::empty(), Links::Follow)?;
        let found = rustix::fs::fstat(&handle)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(Errno::OPNOTSUPP);
        }
        let fd = self.resolve(
            path,
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
            Mode::empty(),
            Links::Follow,
        )?;
        let opened = rustix::fs::fstat(&fd)?;
        // The path was replaced between the two calls: the opened file is not the one whose type was checked.
        if (opened.st_dev, opened.st_ino) != (found.st_dev, found.st_ino) {
            return Err(Errno::AGAIN);
        }
        Ok((fd, opened))
    }

    /// Opens a regular file for reading, wherever links lead. Only for paths that this program's own user has named.
    pub(crate) fn anywhere(&self, path: &RelPath) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let found = rustix::fs::statat(&self.fd, path.as_path(), AtFlags::empty())?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(Errno::OPNOTSUPP);
        }
        rustix::fs::openat(&self.fd, path.as_path(), flags, Mode::empty())
    }

    /// The status of a path. A link in its last component is not followed.
    pub(crate) fn stat(&self, path: &RelPath, links: Links) -> Result<Stat, Errno> {
        if hides_work(path) {
            return Err(Errno::NOENT);
        }
        let flags = if links == Links::Refuse { OFlags::PATH | OFlags::NOFOLLOW } else { OFlags::PATH };
        // NO_SYMLINKS refuses a final link even with O_NOFOLLOW, so the last component is looked up separately.
        match path.split() {
            Some((parent, name)) if links == Links::Refuse => {
                let parent = self.resolve(&parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty(), links)?;
                rustix::fs::statat(&parent, Path::new(OsStr::from_bytes(name)), AtFlags::SYMLINK_NOFOLLOW)
            }
            _ => rustix::fs::fstat(self.resolve(path, flags, Mode::empty(), links)?),
        }
    }

    /// The directory for incomplete files; made if it does not exist.
    pub(crate) fn work(&self) -> Result<OwnedFd, Errno> {
        let path = RelPath::new(WORK).map_err(|_| Errno::INVAL)?;
        let mut tries = 0;
        loop {
            match disk::mkdirat(&self.fd, WORK, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            tries += 1;
            match self.resolve(&path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty(), Links::Refuse) {
                // Another session has removed the directory in between, because it was empty.
                Err(Errno::NOENT) if tries < 10 => {}
                other => return other,
            }
        }
    }

    /// The directory for incomplete files, if it exists.
    pub(crate) fn existing_work(&self) -> Option<OwnedFd> {
        let path = RelPath::new(WORK).ok()?;
        self.resolve(&path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty(), Links::Refuse).ok()
    }

    /// Removes the work directory if nothing is left in it that a later session could use. Sessions hold a shared lock
    /// (flock(2)) on it while they use it. Whoever gets the exclusive lock may remove temporary files of ended processes.
    pub(crate) fn tidy(&self) {
        let removed = disk::unlinkat(&self.fd, WORK, AtFlags::REMOVEDIR);
        if removed != Err(Errno::NOTEMPTY) {
            return;
        }
        let Some(work) = self.existing_work() else { return };
        if rustix::fs::flock(&work, FlockOperation::NonBlockingLockExclusive).is_err() {
            return;
        }
        let Ok(names) = rustix::fs::Dir::read_from(&work) else { return };
        for name in names.flatten() {
            if name.file_name().to_bytes().starts_with(TEMPORARY.as_bytes()) {
                let name = Path::new(OsStr::from_bytes(name.file_name().to_bytes()));
                let _ = disk::unlinkat(&work, name, AtFlags::empty());
            }
        }
        let _ = disk::unlinkat(&self.fd, WORK, AtFlags::REMOVEDIR);
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether a path leads into a work directory, in any spelling that a file system may take for it: in upper case, or with
/// characters that HFS+ ignores. On another file system that is mounted inside, a work directory may be at any depth.
pub(crate) fn hides_work(path: &RelPath) -> bool {
    path.as_bytes().split(|byte| *byte == b'/').any(is_work_name)
}

/// Whether a name is that of a work directory, in any such spelling.
pub(crate) fn is_work_name(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let ignored = |c: &char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let folded = name.chars().filter(|c| !ignored(c)).flat_map(char::to_lowercase);
    // Full-width and other compatibility letters are not folded: no file system of Linux takes them for the plain
    // letters.
    folded.eq(WORK.chars())
}

/// The modification time in a `stat`.
pub(crate) fn mtime(stat: &Stat) -> Time {
    Time { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 }
}

/// Sets the modification time of an open file.
pub(crate) fn set_mtime(fd: BorrowedFd<'_>, time: Time) -> Result<(), Errno> {
    use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let last_modification = Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    disk::futimens(fd, &Timestamps { last_access, last_modification })
}

/// Reads a file to its end or until the buffer is full, from `offset`.
pub(crate) fn read_full(fd: BorrowedFd<'_>, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match rustix::io::pread(fd, &mut into[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// Writes all of a buffer at `offset`.
pub(crate) fn write_full(fd: BorrowedFd<'_>, mut from: &[u8], mut offset: u64) -> io::Result<()> {
    while !from.is_empty() {
        match disk::pwrite(fd, from, offset) {
            Ok(0) => return Err(Errno::NOSPC.into()),
            Ok(bytes) => (from, offset) = (&from[bytes..], offset + bytes as u64),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_of_the_work_directory_is_a_peers_at_any_depth() {
        for (path, hides) in [
            (".linger", true),
            (".Linger/x", true),
            ("a/.LINGER/b", true),
            ("sub/.linger", true),
            (".l\u{200d}inger", true),
            ("linger", false),
            (".linger2/a", false),
            ("a/x.linger", false),
        ] {
            assert_eq!(hides_work(&RelPath::new(path.as_bytes()).unwrap()), hides, "{path}");
        }
    }
}
