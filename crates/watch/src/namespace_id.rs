//! The identity of a network namespace.

use std::fs;
use std::io;
use std::os::linux::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

/// A network namespace, by the inode that `/proc/PID/ns/net` and `lsns` show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct NamespaceId(u64);

impl NamespaceId {
    /// Stands for the only namespace where `/proc` does not tell its number.
    pub(crate) const UNKNOWN: Self = Self(0);

    /// The inode.
    pub fn inode(self) -> u64 {
        self.0
    }

    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|found| Self(found.st_ino()))
    }

    /// The namespace of the calling process.
    pub(crate) fn own() -> Option<Self> {
        Self::of(Path::new("/proc/self/ns/net")).ok()
    }

    /// That of an open file.
    pub(crate) fn of_file(file: &fs::File) -> io::Result<Self> {
        file.metadata().map(|found| Self(found.st_ino()))
    }

    pub(crate) const fn from_inode(inode: u64) -> Self {
        Self(inode)
    }
}
