//! [`RecordFiles`]: captures and their indexes in a directory, rotated, and bounded in bytes.
//!
//! Resets are collected, and written together: their pcapng sections to the capture in one call, then their lines to its index in
//! another. Files are never renamed and never appended to by a later run, so that whatever a killed watcher leaves can be read up to
//! its last whole section, and no line names a section that is not there.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

/// Part of the bound that one file may take: with fewer files, much is removed at once.
const FILES: u64 = 8;
/// Largest capture, in bytes.
const LARGEST: u64 = 64 << 20;

/// Most bytes that are collected before they are written.
const MOST_COLLECTED: usize = 256 << 10;

/// Where a reset will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrittenAt {
    /// The number of the file, and of the reset in it.
    pub(crate) file: u64,
    pub(crate) number: u64,
    /// Bytes of the capture before its section.
    pub(crate) offset: u64,
    /// The number of its first packet in the capture, from 1.
    pub(crate) first_frame: u64,
}

/// A capture with its index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sizes {
    capture: u64,
    index: u64,
}

impl Sizes {
    fn total(self) -> u64 {
        self.capture + self.index
    }
}

/// The files that are written to.
#[derive(Debug)]
struct OpenFiles {
    file: u64,
    capture: File,
    index: File,
    /// Those that are collected included.
    resets: u64,
    frames: u64,
    /// Resets that are written.
    written: u64,
}

/// Resets that could not be written, by their numbers: those of a file from one on.
#[derive(Debug)]
pub(crate) struct LostResets {
    file: u64,
    after: u64,
    pub(crate) error: io::Error,
}

impl LostResets {
    /// Whether a reset is among them.
    pub(crate) fn has(&self, file: u64, number: u64) -> bool {
        self.file == file && number > self.after
    }
}

impl OpenFiles {
    /// Whether one of them has no name any more: nobody will find what is written to it.
    fn is_removed(&self) -> bool {
        let has_no_name = |file: &File| file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        has_no_name(&self.capture) || has_no_name(&self.index)
    }
}

/// The files of a directory.
#[derive(Debug)]
pub(crate) struct RecordFiles {
    directory: PathBuf,
    /// Locked: one watcher writes to the directory.
    lock: File,
    keep: u64,
    files: BTreeMap<u64, Sizes>,
    current: Option<OpenFiles>,
    /// What is not written yet: sections, and lines of the index.
    sections: Vec<u8>,
    lines: Vec<u8>,
    lost: Vec<LostResets>,
    last: u64,
    overwritten: u64,
}

/// Why a directory cannot be written to.
#[derive(Debug)]
pub(crate) enum DirectoryError {
    NotADirectory,
    Locked,
    Io(io::Error),
}

impl From<io::Error> for DirectoryError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotADirectory => Self::NotADirectory,
            _ => Self::Io(error),
        }
    }
}

/// The name of a capture.
pub(crate) fn capture_name(file: u64) -> String {
    format!("resets-{file:06}.pcapng")
}

/// The name of a capture's index.
pub(crate) fn index_name(file: u64) -> String {
    format!("resets-{file:06}.jsonl")
}

impl RecordFiles {
    /// Opens a directory, which is made if it is not there, and makes sure that files can be made in it.
    pub(crate) fn open(directory: &Path, keep: u64) -> Result<Self, DirectoryError> {
        match DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        Self::attach(directory, keep)
    }

    /// Opens a directory that is there.
    fn attach(directory: &Path, keep: u64) -> Result<Self, DirectoryError> {
        let options = OFlags::DIRECTORY.bits() as i32;
        let lock = OpenOptions::new().read(true).custom_flags(options).open(directory)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DirectoryError::Locked),
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let probe = directory.join(".linger-probe");
        let _ = fs::remove_file(&probe);
        // A byte: an empty file takes no space on a full disk.
        let written = create(&probe).and_then(|mut file| file.write_all(b"x"));
        let _ = fs::remove_file(&probe);
        written?;
        let mut files = BTreeMap::<u64, Sizes>::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((file, is_capture)) = name.to_str().and_then(parse) else { continue };
            let size = entry.metadata().map_or(0, |metadata| metadata.len());
            let sizes = files.entry(file).or_default();
            if is_capture {
                sizes.capture = size;
            } else {
                sizes.index = size;
            }
        }
        let last = files.last_key_value().map_or(0, |(file, _)| *file);
        let mut opened = Self {
            directory: directory.to_owned(),
            lock,
            keep,
            files,
            current: None,
            sections: Vec::new(),
            lines: Vec::new(),
            lost: Vec::new(),
            last,
            overwritten: 0,
        };
        opened.make_room(0);
        Ok(opened)
    }

    /// Whether the path still leads to the directory that is locked.
    fn is_attached(&self) -> bool {
        let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
        fs::metadata(&self.directory).map(id).ok() == self.lock.metadata().map(id).ok()
    }

    /// Opens the directory anew, which was removed and may be there again. Its records get other ids than those that are lost.
    fn attach_again(&mut self) -> io::Result<()> {
        let mut opened = Self::attach(&self.directory, self.keep).map_err(|error| match error {
            DirectoryError::NotADirectory => io::ErrorKind::NotADirectory.into(),
            DirectoryError::Locked => io::ErrorKind::ResourceBusy.into(),
            DirectoryError::Io(error) => error,
        })?;
        opened.last = opened.last.max(self.last);
        opened.overwritten += self.overwritten;
        opened.lost.append(&mut self.lost);
        *self = opened;
        Ok(())
    }

    /// Number of resets whose packets were removed to stay within the bound.
    pub(crate) fn overwritten(&self) -> u64 {
        self.overwritten
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the next reset of about `bytes` bytes will be written. Makes room for it.
    ///
    /// # Errors
    /// Returns the errors of making files.
    pub(crate) fn next(&mut self, bytes: u64) -> io::Result<WrittenAt> {
        let largest = (self.keep / FILES).min(LARGEST);
        let size =
            self.current.as_ref().and_then(|current| self.files.get(&current.file)).map(|size| size.total());
        if size.is_some_and(|size| size > 0 && size + bytes > largest) || self.total() + bytes > self.keep {
            self.flush();
        }
        if size.is_some_and(|size| size > 0 && size + bytes > largest) {
            self.current = None;
        }
        // Somebody has removed the files, or the directory with them.
        if self.sections.is_empty() && self.lines.is_empty() {
            self.current.take_if(|current| current.is_removed());
        }
        self.make_room(bytes);
        if self.current.is_none() {
            if !self.is_attached() {
                self.attach_again()?;
            }
            self.begin()?;
        }
        let Some(current) = &self.current else { return Err(io::ErrorKind::NotFound.into()) };
        let size = self.files.get(&current.file).copied().unwrap_or_default();
        Ok(WrittenAt {
            file: current.file,
            number: current.resets + 1,
            offset: size.capture,
            first_frame: current.frames + 1,
        })
    }

    /// Makes the next files.
    fn begin(&mut self) -> io::Result<()> {
        let file = self.last.saturating_add(1);
        let capture = create(&self.directory.join(capture_name(file)))?;
        let index = create(&self.directory.join(index_name(file))).inspect_err(|_| {
            let _ = fs::remove_file(self.directory.join(capture_name(file)));
        })?;
        self.last = file;
        self.files.insert(file, Sizes::default());
        self.current = Some(OpenFiles { file, capture, index, resets: 0, frames: 0, written: 0 });
        Ok(())
    }

    /// Collects a reset for where [`next`](Self::next) has said; without a section its packets are there already. It is on disk
    /// after [`flush`](Self::flush).
    pub(crate) fn collect(&mut self, section: &[u8], frames: u64, line: &str) {
        let Some(current) = &mut self.current else { return };
        current.resets += 1;
        current.frames += frames;
        let size = self.files.entry(current.file).or_default();
        size.capture += section.len() as u64;
        size.index += line.len() as u64;
        self.sections.extend(section);
        self.lines.extend(line.as_bytes());
        if self.sections.len() + self.lines.len() > MOST_COLLECTED {
            self.flush();
        }
    }

    /// Writes what was collected. If that fails nothing of it is left; see [`take_lost`](Self::take_lost).
    pub(crate) fn flush(&mut self) {
        let Some(current) = &mut self.current else { return };
        let written =
            current.capture.write_all(&self.sections).and_then(|()| current.index.write_all(&self.lines));
        if let Err(error) = written {
            let (file, after) = (current.file, current.written);
            self.lost.push(LostResets { file, after, error });
            let size = self.files.entry(file).or_default();
            size.capture = size.capture.saturating_sub(self.sections.len() as u64);
            size.index = size.index.saturating_sub(self.lines.len() as u64);
            let cut = current.capture.set_len(size.capture).and_then(|()| current.index.set_len(size.index));
            let is_empty = size.total() == 0;
            // Go on with new files: where these end is certain only if nothing was written beyond.
            self.current = None;
            if cut.is_ok() && is_empty {
                self.remove(file);
            }
        } else {
            current.written = current.resets;
        }
        self.sections.clear();
        self.lines.clear();
    }

    /// The resets that could not be written since the last call.
    pub(crate) fn take_lost(&mut self) -> Vec<LostResets> {
        std::mem::take(&mut self.lost)
    }

    fn total(&self) -> u64 {
        self.files.values().map(|size| size.total()).sum()
    }

    /// Removes the oldest files until `bytes` more fit.
    fn make_room(&mut self, bytes: u64) {
        let mut total = self.total();
        while total + bytes > self.keep {
            let Some((&file, size)) = self.files.first_key_value() else { return };
            total -= size.total();
            if self.current.as_ref().is_some_and(|current| current.file == file) {
                self.current = None;
            }
            self.overwritten += lines(&self.directory.join(index_name(file)));
            self.remove(file);
        }
    }

    fn remove(&mut self, file: u64) {
        self.files.remove(&file);
        // The index first: what it names is there.
        for name in [index_name(file), capture_name(file)] {
            if let Err(error) = fs::remove_file(self.directory.join(name))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, file, "an old capture stays");
            }
        }
    }
}

/// Makes a file that only its owner may read: packets are private.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}

/// The number in the name of a capture or an index, and whether it is a capture. Other spellings of a number are names of files
/// that this program has not made.
fn parse(name: &str) -> Option<(u64, bool)> {
    let (number, _) = name.strip_prefix("resets-")?.split_once('.')?;
    let file = number.parse().ok().filter(|file| *file < u64::MAX)?;
    [(capture_name(file), true), (index_name(file), false)]
        .into_iter()
        .find_map(|(own, is_capture)| (own == name).then_some((file, is_capture)))
}

/// Opens a file to be read. Where somebody has put something else in its place, such as a pipe, that is an error and no wait.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// Number of lines in a file; 0 if it cannot be read.
fn lines(path: &Path) -> u64 {
    let Ok(mut file) = open_regular(path) else { return 0 };
    let mut buffer = [0; 16 << 10];
    let mut lines = 0;
    while let Ok(length @ 1..) = file.read(&mut buffer) {
        lines += buffer[..length].iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    lines
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
