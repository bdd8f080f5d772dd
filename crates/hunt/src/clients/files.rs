//! The files of a client that is hunted: what it may send, and what it printed.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};

use crate::serve::content;

/// A file in memory, of no name, for the client to send.
pub(super) fn upload(bytes: u64) -> io::Result<File> {
    let memory = rustix::fs::memfd_create("linger-hunt", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(&content(0, bytes))?;
    Ok(file)
}

/// A name for a file without one, for as long as this process has it open.
pub(super) fn path(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_fd().as_raw_fd())
}

pub(super) fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// What a file has from its beginning on; or the `last` bytes of it.
pub(super) fn printed(mut file: &File, last: u64, most: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let from = if last > 0 { length.saturating_sub(last) } else { 0 };
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}
