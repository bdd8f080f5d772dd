//! Bytes of a body in a file without a name, first in, first out.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// How much is read back at once.
const PIECE: u64 = 64 << 10;
/// Names to try: another user may have made files of the first ones.
const ATTEMPTS: u32 = 64;

/// Bytes in the files of all connections of this process.
static IN_ALL: AtomicU64 = AtomicU64::new(0);

/// A queue of bytes in a file.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    from: u64,
    to: u64,
}

impl Spool {
    /// Makes the file in `folder`, without a name, so that the kernel frees it whatever becomes of this process.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let unnamed = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = match rustix::fs::open(folder, unnamed, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file.into(),
            // Not every file system has files without names (open(2), O_TMPFILE).
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Self::named(folder)?,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { file, from: 0, to: 0 })
    }

    /// Makes a file with a name, and removes the name.
    fn named(folder: &Path) -> io::Result<File> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        for _ in 0..ATTEMPTS {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("linger-fastcgi-{}-{number}", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    std::fs::remove_file(&path)?;
                    return Ok(file);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Bytes in the files of all connections.
    pub(super) fn in_all() -> u64 {
        IN_ALL.load(Ordering::Relaxed)
    }

    /// Bytes that were not read back.
    pub(super) fn len(&self) -> u64 {
        self.to - self.from
    }

    /// Bytes that the file takes: those that were read back stay until all were.
    pub(super) fn extent(&self) -> u64 {
        self.to
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.to)?;
        self.to += bytes.len() as u64;
        IN_ALL.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Takes the next bytes; none if there are none.
    pub(super) fn pop(&mut self) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; self.len().min(PIECE) as usize];
        self.file.read_exact_at(&mut piece, self.from)?;
        self.from += piece.len() as u64;
        if self.from == self.to {
            IN_ALL.fetch_sub(self.to, Ordering::Relaxed);
            (self.from, self.to) = (0, 0);
            self.file.set_len(0)?;
        }
        Ok(piece)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        IN_ALL.fetch_sub(self.to, Ordering::Relaxed);
    }
}
