//! The directories that a walk is in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType};
use rustix::io::Errno;

use crate::message::Time;
use crate::path::RelPath;

/// A directory that the walk is in.
pub(super) struct Level {
    pub(super) names: NamesLeft,
    /// The open directory; `None` in deep levels.
    pub(super) fd: Option<OwnedFd>,
    pub(super) path: RelPath,
    /// Device and inode of the directory, to notice a link that leads back to it.
    pub(super) identity: (u64, u64),
    pub(super) index: u64,
    pub(super) mode: u32,
    pub(super) mtime: Time,
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
