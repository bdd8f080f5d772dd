//! Where the preloaded library lies: unpacked for one program, installed for all, or in memory.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, MemfdFlags, Mode, OFlags, StatVfsMountFlags, flock, statvfs};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use crate::{Options, RunError};

pub(crate) const LIBRARY: &str = "liblinger_preload.so";

/// How the names of directories with an unpacked library begin.
pub(crate) const PREFIX: &str = "linger-run-";

/// Directories to unpack the library into; the first that allows it is used.
const PLACES: [&str; 4] = ["/tmp", "/dev/shm", "/var/tmp", "/run"];

/// Removed when dropped, unless it is for all programs or another process has made it.
#[derive(Debug)]
pub(crate) enum Unpacked {
    Own {
        directory: TempDir,
        /// The directory, locked as long as a process that will remove it is alive (see `sweep`).
        locked: OwnedFd,
    },
    /// By another process, which may see another file system by the same path.
    Lent { path: PathBuf, parent: OwnedFd, directory: OwnedFd },
    /// By a package, for all programs.
    Installed(PathBuf),
    /// Nowhere, but in this process's memory, as long as it lives.
    Memory { path: PathBuf, _library: OwnedFd },
}

impl Unpacked {
    /// Unpacks the library where that is possible, and otherwise takes the installed one.
    ///
    /// # Errors
    /// There is no place for it, not even in memory.
    pub(crate) fn new(options: &Options) -> Result<Self, RunError> {
        let sizes = FileSizes::raised_to(linger_preload::LIBRARY.len() as u64);
        let mut tried = Vec::new();
        if sizes.is_ok() {
            for place in options.unpack_into.as_deref().into_iter().chain(PLACES.map(Path::new)) {
                match Self::in_directory(place) {
                    Ok(files) => {
                        tracing::debug!(directory = %files.path().display(), "unpacked the library");
                        return Ok(files);
                    }
                    Err(reason) => tried.push(format!("{} ({reason})", place.display())),
                }
            }
            tracing::info!(tried = tried.join(", "), "no directory for the preloaded library");
        }
        if let Some(path) = &options.installed
            && is_nameable(path)
            && is_executable(path)
            && is_same_library(path)
        {
            tracing::debug!(path = %path.display(), "the library that is installed");
            return Ok(Self::Installed(path.clone()));
        }
        sizes.map_err(|limit| RunError::FileSizeLimit { limit })?;
        in_memory().map_err(|source| RunError::NowhereToUnpack { tried: tried.join(", "), source })
    }

    /// The error says why a library in this place could not be loaded, or cannot be written.
    fn in_directory(place: &Path) -> io::Result<Self> {
        let place = std::path::absolute(place)?;
        if !is_nameable(&place) {
            return Err(io::Error::other("LD_PRELOAD cannot name it"));
        }
        let flags = statvfs(&place)?.f_flag;
        if flags.contains(StatVfsMountFlags::NOEXEC) {
            return Err(io::Error::other("mounted noexec"));
        }
        if flags.contains(StatVfsMountFlags::RDONLY) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place)?;
        let path = directory.path();
        let locked = File::open(path)?;
        flock(&locked, FlockOperation::NonBlockingLockExclusive)?;
        // Readable for everybody: a program that has changed its user still starts other programs.
        fs::set_permissions(path, Permissions::from_mode(0o711))?;
        fs::write(path.join(LIBRARY), linger_preload::LIBRARY)?;
        fs::set_permissions(path.join(LIBRARY), Permissions::from_mode(0o755))?;
        Ok(Self::Own { directory, locked: locked.into() })
    }

    /// The directory that was unpacked into, or the path of the file.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Own { directory, .. } => directory.path(),
            Self::Lent { path, .. } | Self::Memory { path, .. } | Self::Installed(path) => path,
        }
    }

    /// The path of the library, for the loader.
    pub(crate) fn library(&self) -> PathBuf {
        match self {
            Self::Own { .. } | Self::Lent { .. } => self.path().join(LIBRARY),
            Self::Installed(path) | Self::Memory { path, .. } => path.clone(),
        }
    }

    /// What the memory maps of the library's processes contain.
    pub(crate) fn in_maps(&self) -> String {
        match self {
            Self::Memory { .. } => format!("/memfd:{} (deleted)", memory_name()),
            _ => self.path().to_str().unwrap_or_default().to_owned(),
        }
    }

    /// What another process needs to take this over with [`borrowed`](Self::borrowed).
    ///
    /// # Errors
    /// No fd is left.
    pub(crate) fn lend(&self) -> io::Result<Vec<OwnedFd>> {
        let Self::Own { directory, locked } = self else { return Ok(Vec::new()) };
        let parent = directory.path().parent().unwrap_or(directory.path());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The lock goes with the fd.
        Ok(vec![rustix::fs::open(parent, flags, Mode::empty())?, locked.try_clone()?])
    }

    /// Takes over files that another process has unpacked, or the library that it has found installed.
    ///
    /// # Errors
    /// The path is not one of ours, or `next`, which returns one fd after the other, fails.
    pub(crate) fn borrowed(path: String, mut next: impl FnMut() -> io::Result<OwnedFd>) -> io::Result<Self> {
        let path = PathBuf::from(path);
        if path.file_name() == Some(OsStr::new(LIBRARY)) {
            // It is only named: nothing of it is read or removed here.
            return Ok(Self::Installed(path));
        }
        let is_ours = |name: &OsStr| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        if !path.file_name().is_some_and(is_ours) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the library is nowhere that it is unpacked to",
            ));
        }
        Ok(Self::Lent { path, parent: next()?, directory: next()? })
    }

    pub(crate) fn remove(&self) {
        match self {
            Self::Own { directory, .. } => drop(fs::remove_dir_all(directory.path())),
            Self::Memory { .. } | Self::Installed(_) => {}
            Self::Lent { path, parent, directory } => {
                let _ = rustix::fs::unlinkat(directory, LIBRARY, AtFlags::empty());
                if let Some(name) = path.file_name() {
                    let _ = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
                }
            }
        }
    }

    /// The directory in which the one with the library was made.
    pub(crate) fn place(&self) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match self {
            Self::Own { directory, .. } => {
                rustix::fs::open(directory.path().parent()?, flags, Mode::empty()).ok()
            }
            Self::Lent { parent, .. } => rustix::fs::openat(parent, c".", flags, Mode::empty()).ok(),
            Self::Installed(_) | Self::Memory { .. } => None,
        }
    }
}

/// Whether LD_PRELOAD can name a path: the loader takes it for two at a space or a colon, and replaces names after a `$`
/// (ld.so(8)). The kernel writes control characters into memory maps in another way.
fn is_nameable(path: &Path) -> bool {
    let is_odd = |letter: char| letter.is_control() || " :$".contains(letter);
    path.is_absolute() && path.to_str().is_some_and(|text| !text.contains(is_odd))
}

fn is_executable(place: &Path) -> bool {
    statvfs(place).is_ok_and(|file_system| !file_system.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// Whether a file is this program's own library.
fn is_same_library(path: &Path) -> bool {
    let is_as_long = fs::metadata(path).is_ok_and(|file| file.len() == linger_preload::LIBRARY.len() as u64);
    is_as_long && fs::read(path).is_ok_and(|bytes| bytes == linger_preload::LIBRARY)
}

/// The name of the library in memory. It contains the pid: by it the supervisor knows what its program has left behind,
/// and another program's processes have a library in memory as well.
fn memory_name() -> String {
    format!("{LIBRARY}.{}", std::process::id())
}

/// Makes the library a file without a name, which the program's loader opens by way of this process.
fn in_memory() -> io::Result<Unpacked> {
    let library = rustix::fs::memfd_create(memory_name(), MemfdFlags::CLOEXEC)?;
    File::from(library.try_clone()?).write_all(linger_preload::LIBRARY)?;
    let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), library.as_raw_fd()));
    tracing::info!(path = %path.display(), "no directory is writable and executable: the library is in memory");
    Ok(Unpacked::Memory { path, _library: library })
}

/// The limit of the size of files, raised as long as this value lives. A write beyond it would end this process by SIGXFSZ,
/// and it holds for files in memory as well.
#[derive(Debug)]
struct FileSizes {
    before: Option<Rlimit>,
}

impl FileSizes {
    /// # Errors
    /// The hard limit, if that is lower.
    fn raised_to(needed: u64) -> Result<Self, u64> {
        let before = getrlimit(Resource::Fsize);
        if before.current.is_none_or(|limit| limit >= needed) {
            return Ok(Self { before: None });
        }
        match before.maximum {
            Some(limit) if limit < needed => Err(limit),
            maximum => {
                let raised = Rlimit { current: maximum, maximum };
                setrlimit(Resource::Fsize, raised).map_err(|_| before.current.unwrap_or_default())?;
                Ok(Self { before: Some(before) })
            }
        }
    }
}

impl Drop for FileSizes {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = setrlimit(Resource::Fsize, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preload::install;

    #[test]
    fn a_library_in_memory_is_told_from_that_of_another_program() {
        let files = in_memory().unwrap();
        let shown = fs::read_link(files.path()).unwrap();
        assert_eq!(shown, Path::new(&files.in_maps()), "as the kernel shows it in memory maps");
        let another = format!("/memfd:{LIBRARY}.{}0 (deleted)", std::process::id());
        assert!(!another.contains(&files.in_maps()));
    }

    #[test]
    fn only_this_programs_own_library_is_taken_from_where_it_is_installed() {
        let directory = tempfile::tempdir().unwrap();
        let path = install(&directory.path().join("linger")).unwrap();
        assert!(is_same_library(&path) && install(&directory.path().join("linger")).is_ok());
        let mut other = fs::read(&path).unwrap();
        other[0x400] ^= 1;
        fs::write(&path, other).unwrap();
        assert!(!is_same_library(&path) && !is_same_library(directory.path()));
    }

    /// A path that LD_PRELOAD cannot name is passed over, as one that is not there; a relative one is named in full.
    #[test]
    fn the_loader_can_name_where_the_library_is() {
        let directory = tempfile::tempdir().unwrap();
        for (name, is_taken) in
            [("plain", true), ("a b", false), ("a:b", false), ("a$LIB", false), ("a\nb", false)]
        {
            let place = directory.path().join(name);
            let options = Options { unpack_into: Some(place.clone()), ..Options::default() };
            let absent = Unpacked::new(&options).unwrap();
            assert!(!absent.path().starts_with(&place) && absent.library().exists(), "{name}");
            fs::create_dir(&place).unwrap();
            let files = Unpacked::new(&options).unwrap();
            assert_eq!(files.path().starts_with(&place), is_taken, "{name:?}: {files:?}");
            assert!(files.library().exists() && is_nameable(&files.library()), "{name:?}");
        }
        let options = Options { unpack_into: Some(".".into()), ..Options::default() };
        let files = Unpacked::new(&options).unwrap();
        assert!(files.path().starts_with(std::env::current_dir().unwrap()), "{files:?}");
    }
}
