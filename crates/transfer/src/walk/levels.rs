//! The directories that a walk is in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType};
use rustix::io::Errno;

use crate::message::Time;
use crate::path::RelPath;

/// A directory that the walk is in.
pub(super) struct Level {
    pub(super) names: NamesLeft,
    /// Links that are visited after all other names; see [`Level::puts_off`].
    pub(super) put_off: Vec<Vec<u8>>,
    /// The links that were put off are being visited.
    pub(super) is_late: bool,
    /// The open directory; `None` in deep levels.
    pub(super) fd: Option<OwnedFd>,
    pub(super) path: RelPath,
    /// Device and inode of the directory, to notice a link that leads back to it.
    pub(super) identity: (u64, u64),
    pub(super) index: u64,
    pub(super) mode: u32,
    pub(super) mtime: Time,
}

impl Level {
    /// The most links of a directory that are put off: what others have made in a shared directory costs little memory.
    const MOST: usize = 1000;

    /// Puts a link off until everything else in the directory was visited. Returns false if it has to be visited now.
    ///
    /// A receiver makes no link that leaves by `..` what is no directory there. If it is to be one, it comes first.
    pub(super) fn puts_off(&mut self, name: &[u8]) -> bool {
        let puts_off = !self.is_late && self.put_off.len() < Self::MOST;
        if puts_off {
            self.put_off.push(name.to_vec());
        }
        puts_off
    }

    /// The next name, and those of links that were put off last.
    pub(super) fn next(&mut self) -> Option<Result<(Vec<u8>, FileType), Errno>> {
        let next = self.names.next();
        if next.is_some() || self.put_off.is_empty() {
            return next;
        }
        self.is_late = true;
        let links = std::mem::take(&mut self.put_off).into_iter().map(|name| (name, FileType::Symlink));
        self.names = NamesLeft::Read(links.collect::<Vec<_>>().into_iter());
        self.names.next()
    }
}

/// The names of a directory that are not visited yet.
pub(super) enum NamesLeft {
    Open(Dir),
    Read(std::vec::IntoIter<(Vec<u8>, FileType)>),
}

impl NamesLeft {
    pub(super) fn next(&mut self) -> Option<Result<(Vec<u8>, FileType), Errno>> {
        match self {
            Self::Open(dir) => dir
                .next()
                .map(|entry| entry.map(|entry| (entry.file_name().to_bytes().to_vec(), entry.file_type()))),
            Self::Read(names) => names.next().map(Ok),
        }
    }
}

/// The open directory of a level.
pub(super) enum Parent<'a> {
    Held(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Held(fd) => *fd,
            Self::Opened(fd) => fd.as_fd(),
        }
    }
}
