//! The calls that change a file system, named as in `rustix`.
//!
//! Transfers make all such calls here, so that a simulation sees each. The simulation counts the calls, can end a process or
//! cut the power between two of them, and knows what has been synced.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Timestamps};
use rustix::io::Errno;

use crate::host::{DiskCall, simulated};

fn change(call: DiskCall<'_>, act: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    let Some(host) = simulated() else { return act() };
    if host.before(&call)? {
        act()?;
        host.after(&call);
    }
    Ok(())
}

/// Opens a file for writing.
pub(crate) fn openat(
    dir: impl AsFd,
    name: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let (dir, name) = (dir.as_fd(), name.as_ref());
    let Some(host) = simulated() else { return rustix::fs::openat(dir, name, flags, mode) };
    host.before(&DiskCall::Open { dir, name, flags })?;
    let file = rustix::fs::openat(dir, name, flags, mode)?;
    host.after(&DiskCall::Opened { dir, name, flags, file: file.as_fd() });
    Ok(file)
}

pub(crate) fn mkdirat(dir: impl AsFd, name: impl AsRef<Path>, mode: Mode) -> Result<(), Errno> {
    let (dir, name) = (dir.as_fd(), name.as_ref());
    change(DiskCall::MakeDirectory { dir, name }, || rustix::fs::mkdirat(dir, name, mode))
}

pub(crate) fn unlinkat(dir: impl AsFd, name: impl AsRef<Path>, flags: AtFlags) -> Result<(), Errno> {
    let (dir, name) = (dir.as_fd(), name.as_ref());
    change(DiskCall::Remove { dir, name }, || rustix::fs::unlinkat(dir, name, flags))
}

/// Gives a file without a name (O_TMPFILE) its name.
pub(crate) fn link(file: &OwnedFd, dir: impl AsFd, name: &Path) -> Result<(), Errno> {
    use std::os::fd::AsRawFd as _;
    let dir = dir.as_fd();
    change(DiskCall::Link { file: file.as_fd(), dir, name }, || {
        match rustix::fs::linkat(file, "", dir, name, AtFlags::EMPTY_PATH) {
            // Before Linux 6.10 this needed CAP_DAC_READ_SEARCH. open(2) describes the other way, through
            // /proc/self/fd.
            Err(Errno::NOENT) => {
                let link = format!("/proc/self/fd/{}", file.as_raw_fd());
                rustix::fs::linkat(rustix::fs::CWD, link, dir, name, AtFlags::SYMLINK_FOLLOW)
            }
            other => other,
        }
    })
}

pub(crate) fn symlinkat(target: &Path, dir: impl AsFd, name: impl AsRef<Path>) -> Result<(), Errno> {
    let (dir, name) = (dir.as_fd(), name.as_ref());
    change(DiskCall::SymbolicLink { dir, name }, || rustix::fs::symlinkat(target, dir, name))
}

pub(crate) fn renameat(
    from: impl AsFd,
    name: impl AsRef<Path>,
    dir: impl AsFd,
    to: impl AsRef<Path>,
) -> Result<(), Errno> {
    renameat_with(from, name, dir, to, RenameFlags::empty())
}

pub(crate) fn renameat_with(
    from: impl AsFd,
    name: impl AsRef<Path>,
    dir: impl AsFd,
    to: impl AsRef<Path>,
    flags: RenameFlags,
) -> Result<(), Errno> {
    let (from, name, dir, to) = (from.as_fd(), name.as_ref(), dir.as_fd(), to.as_ref());
    let call = DiskCall::Rename { from, name, dir, to, replaces: flags.is_empty() };
    change(call, || rustix::fs::renameat_with(from, name, dir, to, flags))
}

pub(crate) fn fchmod(file: impl AsFd, mode: Mode) -> Result<(), Errno> {
    change(DiskCall::Attributes, || rustix::fs::fchmod(file, mode))
}

pub(crate) fn futimens(file: impl AsFd, times: &Timestamps) -> Result<(), Errno> {
    change(DiskCall::Attributes, || rustix::fs::futimens(file, times))
}

pub(crate) fn ftruncate(file: impl AsFd, length: u64) -> Result<(), Errno> {
    let file = file.as_fd();
    change(DiskCall::Truncate { file, length }, || rustix::fs::ftruncate(file, length))
}

pub(crate) fn pwrite(file: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
    let Some(host) = simulated() else { return rustix::io::pwrite(file, bytes, offset) };
    let call = DiskCall::Write { file, offset: Some(offset), bytes };
    host.before(&call)?;
    let written = rustix::io::pwrite(file, bytes, offset)?;
    host.after(&DiskCall::Write { file, offset: Some(offset), bytes: &bytes[..written] });
    Ok(written)
}

/// Writes all bytes to a file that was opened for appending.
pub(crate) fn append(file: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    let file = file.as_fd();
    while !bytes.is_empty() {
        let mut written = 0;
        change(DiskCall::Write { file, offset: None, bytes }, || {
            written = match rustix::io::write(file, bytes) {
                Err(Errno::INTR) => 0,
                written => written?,
            };
            Ok(())
        })?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// `fsync(2)`.
pub(crate) fn fsync(file: impl AsFd) -> Result<(), Errno> {
    let file = file.as_fd();
    change(DiskCall::Sync { file }, || rustix::fs::fsync(file))
}

/// `fdatasync(2)`: makes the content durable, and of the metadata only what is needed to read it.
pub(crate) fn fdatasync(file: impl AsFd) -> Result<(), Errno> {
    let file = file.as_fd();
    change(DiskCall::Sync { file }, || rustix::fs::fdatasync(file))
}

pub(crate) fn syncfs(file: impl AsFd) -> Result<(), Errno> {
    change(DiskCall::SyncAll, || rustix::fs::syncfs(file))
}
