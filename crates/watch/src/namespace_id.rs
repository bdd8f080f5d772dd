//! The identity of a network namespace.

use std::fs;
use std::io;
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

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
        Self::of_found(&fs::metadata(path)?)
    }

    /// The namespace of the calling process.
    pub(crate) fn own() -> Option<Self> {
        Self::of(Path::new("/proc/self/ns/net")).ok()
    }

    /// That of an open file.
    pub(crate) fn of_file(file: &fs::File) -> io::Result<Self> {
        Self::of_found(&file.metadata()?)
    }

    /// Something else, which the folder of names may hold as well, can have the number of a namespace.
    fn of_found(found: &fs::Metadata) -> io::Result<Self> {
        static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
        let device = DEVICE.get_or_init(|| Some(fs::metadata("/proc/self/ns/net").ok()?.st_dev()));
        if device.is_some_and(|device| device != found.st_dev()) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Self(found.st_ino()))
    }

    pub(crate) const fn from_inode(inode: u64) -> Self {
        Self(inode)
    }
}
