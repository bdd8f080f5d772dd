//! The identity of a source.

use std::os::fd::BorrowedFd;

use rustix::fs::Stat;

use crate::kernel::generation;
use crate::message::Token;
use crate::path::RelPath;
use crate::state::short;

/// Identifies the content of an open file without reading it: by its path, device, inode, size, mtime, ctime and the inode's
/// generation. Every write changes the ctime, and no program can set it. Other changes, such as of the mode, change it,
/// too.
pub(crate) fn token(file: BorrowedFd<'_>, stat: &Stat, path: &RelPath) -> Token {
    identified(stat, generation(file), path)
}

/// The token of a file with this status. The generation matters if the clock was set back: a new file with the inode of a
/// removed one may have the same times as well, but its generation differs.
pub(super) fn identified(stat: &Stat, generation: Option<u64>, path: &RelPath) -> Token {
    let mut identity = b"linger-transfer source file\0".to_vec();
    for number in [
        stat.st_dev,
        stat.st_ino,
        stat.st_size as u64,
        stat.st_mtime as u64,
        stat.st_mtime_nsec,
        stat.st_ctime as u64,
        stat.st_ctime_nsec,
        u64::from(generation.is_some()),
        generation.unwrap_or(0),
    ] {
        identity.extend(number.to_be_bytes());
    }
    // Hard links are separate files at the receiver, so the path is part of the token.
    identity.extend(path.as_bytes());
    short(blake3::hash(&identity))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Anything but the same file with the same content has another token.
    #[test]
    fn a_source_is_one_file_with_one_content() {
        let dir = tempfile::tempdir().unwrap();
        let stat = rustix::fs::stat(dir.path()).unwrap();
        let path = RelPath::new(*b"a").unwrap();
        let same = identified(&stat, Some(7), &path);
        assert_eq!(identified(&{ stat }, Some(7), &path), same);
        type Change = fn(&mut Stat);
        let changes: [Change; 7] = [
            |stat| stat.st_dev += 1,
            |stat| stat.st_ino += 1,
            |stat| stat.st_size += 1,
            |stat| stat.st_mtime += 1,
            |stat| stat.st_mtime_nsec += 1,
            |stat| stat.st_ctime += 1,
            |stat| stat.st_ctime_nsec += 1,
        ];
        for (which, change) in changes.iter().enumerate() {
            let mut other = stat;
            change(&mut other);
            assert_ne!(identified(&other, Some(7), &path), same, "{which}");
        }
        for generation in [Some(8), None] {
            assert_ne!(identified(&stat, generation, &path), same, "{generation:?}");
        }
        assert_ne!(identified(&stat, None, &path), identified(&stat, Some(0), &path));
        assert_ne!(identified(&stat, Some(7), &RelPath::new(*b"b").unwrap()), same);
    }
}
