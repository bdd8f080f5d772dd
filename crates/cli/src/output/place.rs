//! Where the bytes of a file go until it is whole, and how it gets its name.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, OFlags, linkat};
use rustix::io::Errno;
use tempfile::{Builder, NamedTempFile};

/// A file that is being written.
#[derive(Debug)]
pub(super) enum WritePlace {
    /// A file without a name in the directory of its final name (`O_TMPFILE`): the kernel removes it with the process.
    Nameless(File, PathBuf),
    /// A temporary file beside its final name, where the file system has no nameless ones.
    Beside(NamedTempFile, PathBuf),
    /// A device or a pipe, which nothing can be renamed onto.
    Direct(File),
}

impl WritePlace {
    /// Begins a file that is to be called `last`, with these permissions.
    ///
    /// # Errors
    /// Returns the error of the directory, which cannot have a new file.
    pub(super) fn of(last: PathBuf, mode: u32) -> io::Result<Self> {
        match nameless(directory_of(&last), mode) {
            Ok(Some(file)) => Ok(Self::Nameless(file, last)),
            Ok(None) => Self::beside(last, mode),
            Err(error) => Err(error),
        }
    }

    fn beside(last: PathBuf, mode: u32) -> io::Result<Self> {
        let open = |path: &Path| File::options().write(true).create_new(true).mode(mode).open(path);
        temporary()
            .permissions(Permissions::from_mode(mode))
            .make_in(directory_of(&last), open)
            .map(|file| Self::Beside(file, last))
    }

    /// Opens a device or a pipe. A FIFO that nobody reads is an error: waiting for a reader could not be interrupted.
    pub(super) fn direct(path: &Path, is_fifo: bool) -> io::Result<Self> {
        if !is_fifo {
            return File::options().write(true).open(path).map(Self::Direct);
        }
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().write(true).custom_flags(nonblocking).open(path)?;
        rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
        Ok(Self::Direct(file))
    }

    pub(super) fn file(&self) -> &File {
        match self {
            Self::Nameless(file, _) | Self::Direct(file) => file,
            Self::Beside(file, _) => file.as_file(),
        }
    }

    /// The name that the file is going to have, if it has none yet.
    pub(super) fn last(&self) -> Option<&Path> {
        match self {
            Self::Nameless(_, last) | Self::Beside(_, last) => Some(last),
            Self::Direct(_) => None,
        }
    }

    /// Gives the file its name. It takes the place of what has that name.
    pub(super) fn finish(self) -> io::Result<()> {
        match self {
            Self::Nameless(file, last) => name(&file, &last),
            Self::Beside(file, last) => file.persist(last).map(drop).map_err(|error| error.error),
            Self::Direct(_) => Ok(()),
        }
    }
}

impl Write for WritePlace {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

/// The directory in which a file of this name lies.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn temporary() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(".linger-");
    builder
}

/// Makes a file without a name; `None` if the file system cannot, or if there is no /proc by which to name it later.
fn nameless(directory: &Path, mode: u32) -> io::Result<Option<File>> {
    let flags = OFlags::TMPFILE.bits().cast_signed();
    match File::options().write(true).mode(mode).custom_flags(flags).open(directory) {
        Ok(file) => Ok(Some(file).filter(|file| fs::symlink_metadata(proc_name(file)).is_ok())),
        // EISDIR is a kernel's answer that knows no O_TMPFILE (open(2)), EINVAL that of some file systems in user space.
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => Ok(None),
            _ => Err(error),
        },
    }
}

fn proc_name(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Links a nameless file to its name. A link replaces nothing, so that in place of an existing file it is linked to a temporary name,
/// and renamed at once: a process that is killed between these two calls leaves that name.
fn name(file: &File, last: &Path) -> io::Result<()> {
    let from = proc_name(file);
    let link = |to: &Path| linkat(CWD, &*from, CWD, to, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from);
    match link(last) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let linked = temporary().make_in(directory_of(last), link)?;
            linked.persist(last).map(drop).map_err(|error| error.error)
        }
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What both kinds of files come to: the one that tests get here is nameless, if this file system can.
    #[test]
    fn a_file_has_its_name_and_permissions_once_it_is_whole_however_it_was_made() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("page");
        let count = || fs::read_dir(folder.path()).unwrap().count();
        for begin in [WritePlace::of, WritePlace::beside] {
            for (there, mode) in [(None, 0o600), (Some("old"), 0o640)] {
                let _ = fs::remove_file(&at);
                if let Some(text) = there {
                    fs::write(&at, text).unwrap();
                }
                let mut place = begin(at.clone(), mode).unwrap();
                place.write_all(b"new").unwrap();
                assert_eq!(fs::read_to_string(&at).ok().as_deref(), there, "not before it is whole");
                drop(place);
                assert_eq!(count(), usize::from(there.is_some()), "dropped");
                let mut place = begin(at.clone(), mode).unwrap();
                place.write_all(b"new").unwrap();
                place.finish().unwrap();
                assert_eq!(fs::read(&at).unwrap(), b"new");
                assert_eq!(fs::metadata(&at).unwrap().permissions().mode() & 0o777, mode);
                assert_eq!(count(), 1);
            }
        }
    }

    #[test]
    fn a_file_that_came_meanwhile_is_replaced_and_a_directory_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("page");
        for begin in [WritePlace::of, WritePlace::beside] {
            let _ = fs::remove_file(&at);
            let place = begin(at.clone(), 0o600).unwrap();
            fs::write(&at, "meanwhile").unwrap();
            place.finish().unwrap();
            assert_eq!(fs::read(&at).unwrap(), b"");
            fs::remove_file(&at).unwrap();
            let place = begin(at.clone(), 0o600).unwrap();
            fs::create_dir(&at).unwrap();
            place.finish().unwrap_err();
            fs::remove_dir(&at).unwrap();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing beside it");
        }
    }

    #[test]
    fn what_is_written_has_no_name_where_the_file_system_allows() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let place = WritePlace::of(folder.path().join("page"), 0o600).unwrap();
        assert!(matches!(place, WritePlace::Nameless(..)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
