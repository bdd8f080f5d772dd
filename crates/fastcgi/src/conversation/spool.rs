//! Bytes of a body in a file without a name, first in, first out.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much is read back at once.
const PIECE: u64 = 64 << 10;

/// A queue of bytes in a file.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    from: u64,
    to: u64,
}

impl Spool {
    /// Makes the file in `folder`. Its name is removed at once, so that the kernel frees it whatever becomes of this process.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("linger-fastcgi-{}-{number}", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    std::fs::remove_file(&path)?;
                    return Ok(Self { file, from: 0, to: 0 });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.to - self.from
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.to)?;
        self.to += bytes.len() as u64;
        Ok(())
    }

    /// Takes the next bytes; none if there are none.
    pub(super) fn pop(&mut self) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; self.len().min(PIECE) as usize];
        self.file.read_exact_at(&mut piece, self.from)?;
        self.from += piece.len() as u64;
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
            self.file.set_len(0)?;
        }
        Ok(piece)
    }
}
