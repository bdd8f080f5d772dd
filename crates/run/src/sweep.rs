//! Removes the unpacked libraries that nobody is left to remove: those of supervisors and starters that were killed.
//!
//! Whoever will remove an unpacked library has its directory locked. If nobody has, the library may still be in use, by a program
//! whose supervisor was killed: its next `execve` would print the loader's error. So one is removed only if that is proved:
//! by the kernel, which grants a lease for writing on files only that nobody has open or mapped; where the file system does not
//! count its files so, by a look at all processes.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, flock, fstat, fstatfs, openat, unlinkat};
use rustix::io::Errno;

use crate::kernel::is_open_elsewhere;
use crate::proc;
use crate::unpacked::{LIBRARY, PREFIX};

/// A directory that was changed later is left alone: whoever makes it locks it a moment later.
const YOUNG: Duration = Duration::from_secs(60);

/// Most directories that are looked at in one sweep.
const MOST: usize = 1_024;

/// File systems whose open and mapped files are counted in the inode that a path names (magic numbers of statfs(2)): tmpfs, ext2 to
/// ext4, XFS, Btrfs and F2FS. On overlayfs a mapped file is one of the file system below.
const COUNTING: [u64; 5] = [0x0102_1994, 0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010];

/// Removes the leftovers of this user in a directory.
pub(crate) fn sweep(place: BorrowedFd<'_>) {
    let Ok(entries) = Dir::read_from(place) else { return };
    let names = entries.flatten().map(|entry| entry.file_name().to_owned());
    let names = names.filter(|name| name.to_bytes().starts_with(PREFIX.as_bytes()));
    let leftovers = names.take(MOST).filter_map(|name| Some((leftover(place, &name)?, name)));
    let mut processes = None;
    for (directory, name) in leftovers {
        let is_unused = match is_in_use(&directory) {
            Some(in_use) => !in_use,
            None => processes.get_or_insert_with(Users::look).are_without(name.to_bytes()),
        };
        if is_unused {
            tracing::debug!(?name, "removed what a supervisor has left that was killed");
            let _ = unlinkat(&directory, LIBRARY, AtFlags::empty());
            let _ = unlinkat(place, &name, AtFlags::REMOVEDIR);
        }
    }
}

/// The directory of an unpacked library that no process will remove, locked.
fn leftover(place: BorrowedFd<'_>, name: &std::ffi::CStr) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(place, name, flags, Mode::empty()).ok()?;
    let status = fstat(&directory).ok()?;
    let changed = UNIX_EPOCH + Duration::from_secs(u64::try_from(status.st_mtime).ok()?);
    let is_old = SystemTime::now().duration_since(changed).is_ok_and(|age| age >= YOUNG);
    let is_ours = status.st_uid == rustix::process::geteuid().as_raw() && status.st_mode & 0o022 == 0;
    (is_old && is_ours && flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok())
        .then_some(directory)
}

/// Whether a process has the library of a directory; `None` if the kernel does not tell.
fn is_in_use(directory: &OwnedFd) -> Option<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let library = match openat(directory, LIBRARY, flags, Mode::empty()) {
        Ok(library) => File::from(library),
        // Its maker was killed before there was one.
        Err(Errno::NOENT) => return Some(false),
        Err(_) => return Some(true),
    };
    let counts = fstatfs(&library).is_ok_and(|fs| COUNTING.contains(&(fs.f_type as u64)));
    is_open_elsewhere(library.as_fd()).filter(|is_open| *is_open || counts)
}

/// Whom the processes of this machine name as their libraries' directories.
struct Users {
    names: HashSet<Vec<u8>>,
    /// A process that may use one does not let itself be looked at.
    hidden: bool,
}

impl Users {
    fn look() -> Self {
        let mut users = Self { names: HashSet::new(), hidden: false };
        let own = rustix::process::getuid();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
            // Who is not root cannot make a process of another user that has a preloaded library (ld.so(8)).
            if !own.is_root() && proc::user(process) != Some(own.as_raw()) {
                continue;
            }
            // A process that has ended and was not waited for uses nothing, and its environment is root's. If only its first
            // thread has ended, the others have its memory.
            if fs::read(format!("/proc/{process}/maps")).is_ok_and(|maps| maps.is_empty()) {
                let threads = fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count);
                users.hidden |= threads > 1;
                continue;
            }
            for file in ["maps", "environ"] {
                match fs::read(format!("/proc/{process}/{file}")) {
                    Ok(text) => users.names.extend(named_in(&text)),
                    Err(error) => users.hidden |= error.kind() == std::io::ErrorKind::PermissionDenied,
                }
            }
        }
        users
    }

    fn are_without(&self, name: &[u8]) -> bool {
        !self.hidden && !self.names.contains(name)
    }
}

/// The names of such directories in a text.
fn named_in(text: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let begins = |part: &&[u8]| part.starts_with(PREFIX.as_bytes());
    text.split(|byte| b"/\n\0: ".contains(byte)).filter(begins).map(<[u8]>::to_vec)
}
