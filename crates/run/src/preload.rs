//! Unpacks the preloaded library, and names it in the program's environment.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use linger_preload::protocol::VARIABLE;
use rustix::fs::{AtFlags, MemfdFlags, Mode, OFlags, StatVfsMountFlags, statvfs};
use tempfile::TempDir;

use crate::mark::Mark;
use crate::{Options, RunError};

/// Directories to unpack the library into; the first that allows it is used.
const PLACES: [&str; 4] = ["/tmp", "/dev/shm", "/var/tmp", "/run"];

/// The unpacked library. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Preload {
    files: Files,
    settings: String,
}

/// Where the library was unpacked.
#[derive(Debug)]
enum Files {
    Own(TempDir),
    /// By another process. The path may be another file here, so that the directories are used by their fds.
    Lent {
        path: PathBuf,
        parent: OwnedFd,
        directory: OwnedFd,
    },
    /// By a package, for all programs.
    Installed(PathBuf),
    /// Nowhere, but in this process's memory, as long as it lives.
    Memory {
        path: PathBuf,
        _library: OwnedFd,
    },
}

impl Files {
    fn path(&self) -> &Path {
        match self {
            Self::Own(directory) => directory.path(),
            Self::Lent { path, .. } | Self::Memory { path, .. } | Self::Installed(path) => path,
        }
    }
}

impl Preload {
    pub(crate) fn unpack(
        name: &str,
        token: [u8; 16],
        filters: u32,
        options: &Options,
    ) -> Result<Self, RunError> {
        let without = |place: &Path, flags| {
            statvfs(place).is_ok_and(|file_system| !file_system.f_flag.intersects(flags))
        };
        let executable = |place: &&Path| without(place, StatVfsMountFlags::NOEXEC);
        let writable = |place: &&Path| without(place, StatVfsMountFlags::RDONLY);
        let failed = RunError::system("cannot unpack the preloaded library");
        let wished = options.unpack_into.as_deref().into_iter();
        let made = wished
            .chain(PLACES.map(Path::new))
            .filter(|place| executable(place) && writable(place))
            .find_map(|place| tempfile::Builder::new().prefix(PREFIX).tempdir_in(place).ok());
        let files = match made {
            Some(directory) => {
                tracing::debug!(directory = %directory.path().display(), "unpacked the library");
                write(&directory).map_err(failed)?;
                Files::Own(directory)
            }
            None => match &options.installed {
                Some(path) if executable(&path.as_path()) && is_same_library(path) => {
                    tracing::debug!(path = %path.display(), "the library that is installed");
                    Files::Installed(path.clone())
                }
                _ => in_memory()
                    .map_err(|source| RunError::NowhereToUnpack { tried: PLACES.join(", "), source })?,
            },
        };
        let mut settings = format!("name={name};token=");
        for byte in token {
            let _ = write!(settings, "{byte:02x}");
        }
        let _ = write!(settings, ";filters={filters}");
        for (on, key) in [(options.hold, ";hold=1"), (options.outgoing, ";outgoing=1")] {
            settings.push_str(if on { key } else { "" });
        }
        for (key, ports) in [("ports", &options.ports), ("exclude", &options.exclude_ports)] {
            if !ports.is_empty() {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                let _ = write!(settings, ";{key}={}", ports.join(","));
            }
        }
        Ok(Self { files, settings })
    }

    /// Puts the library into a command's LD_PRELOAD, before what is already there.
    pub(crate) fn put_into(&self, command: &mut Command, preloaded: &OsStr) {
        let path = self.files.path();
        let is_file = matches!(self.files, Files::Memory { .. } | Files::Installed(_));
        let mut all = OsString::from(if is_file { path.to_owned() } else { path.join(LIBRARY) });
        if !preloaded.is_empty() {
            all.push(":");
            all.push(preloaded);
        }
        command.env("LD_PRELOAD", all).env(VARIABLE, &self.settings);
    }

    /// Whether the library is there only as long as the process that has unpacked it.
    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(self.files, Files::Memory { .. })
    }

    /// The path at which it was unpacked, or is installed.
    pub(crate) fn name(&self) -> &str {
        self.files.path().to_str().unwrap_or_default()
    }

    /// What shows that a process has the library.
    pub(crate) fn mark(&self) -> Mark {
        let (maps, owner) = match self.files {
            Files::Memory { .. } => (format!("/memfd:{} (deleted)", memory_name()), None),
            Files::Own(_) | Files::Lent { .. } => (self.name().to_owned(), None),
            Files::Installed(_) => {
                // The settings begin with the supervisor's own name.
                let name = self.settings.split_inclusive(';').next().unwrap_or_default();
                (self.name().to_owned(), Some(name.to_owned()))
            }
        };
        Mark { maps, owner }
    }

    /// What another process needs to take this over with [`borrowed`](Self::borrowed).
    ///
    /// # Errors
    /// No fd is left.
    pub(crate) fn lend(&self) -> io::Result<Vec<OwnedFd>> {
        if matches!(self.files, Files::Installed(_)) {
            return Ok(Vec::new());
        }
        let path = self.files.path();
        let open = |path: &Path| -> io::Result<OwnedFd> {
            Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
        };
        Ok(vec![open(path.parent().unwrap_or(path))?, open(path)?])
    }

    /// Takes over files that another process has unpacked, or the library that it has found installed; `name` is its supervisor's.
    ///
    /// # Errors
    /// The path is not one of ours, or `next`, which returns one fd after the other, fails.
    pub(crate) fn borrowed(
        path: String,
        name: &str,
        mut next: impl FnMut() -> io::Result<OwnedFd>,
    ) -> io::Result<Self> {
        let path = PathBuf::from(path);
        if path.file_name() == Some(OsStr::new(LIBRARY)) {
            // It is only named: nothing of it is read or removed here.
            return Ok(Self { files: Files::Installed(path), settings: format!("name={name};") });
        }
        let is_ours = |name: &OsStr| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        if !path.file_name().is_some_and(is_ours) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the library is nowhere that it is unpacked to",
            ));
        }
        let files = Files::Lent { path, parent: next()?, directory: next()? };
        Ok(Self { files, settings: String::new() })
    }

    /// Removes the files. The drop alone may come too late: the metrics thread may keep this value until the process
    /// ends.
    pub(crate) fn remove(&self) {
        match &self.files {
            Files::Own(directory) => drop(fs::remove_dir_all(directory.path())),
            Files::Memory { .. } | Files::Installed(_) => {}
            Files::Lent { path, parent, directory } => {
                let _ = rustix::fs::unlinkat(directory, LIBRARY, AtFlags::empty());
                if let Some(name) = path.file_name() {
                    let _ = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
                }
            }
        }
    }
}

/// Makes AddressSanitizer's library accept another library before itself. Where the sanitizer looks for functions of
/// the C library, it then finds those of the preloaded library.
pub(crate) fn permit_before_sanitizer(command: &mut Command, present: &OsStr) {
    let mut all = present.to_owned();
    all.push(if all.is_empty() { "" } else { ":" });
    all.push("verify_asan_link_order=0");
    command.env("ASAN_OPTIONS", all);
}

const LIBRARY: &str = "liblinger_preload.so";
const PREFIX: &str = "linger-run-";

fn write(directory: &TempDir) -> std::io::Result<()> {
    let path = directory.path();
    // Readable for everybody: a program that has changed its user still starts other programs.
    fs::set_permissions(path, Permissions::from_mode(0o711))?;
    fs::write(path.join(LIBRARY), linger_preload::LIBRARY)?;
    fs::set_permissions(path.join(LIBRARY), Permissions::from_mode(0o755))
}

/// Whether a file is this program's own library.
fn is_same_library(path: &Path) -> bool {
    let is_as_long = fs::metadata(path).is_ok_and(|file| file.len() == linger_preload::LIBRARY.len() as u64);
    is_as_long && fs::read(path).is_ok_and(|bytes| bytes == linger_preload::LIBRARY)
}

/// Writes the library to a directory, for a package or an image: see [`Options::installed`]. Returns its path.
///
/// # Errors
/// The directory or the file cannot be made.
pub fn install(directory: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let path = directory.join(LIBRARY);
    // A process that has the old file mapped keeps it.
    let new = tempfile::NamedTempFile::new_in(directory)?;
    fs::write(new.path(), linger_preload::LIBRARY)?;
    fs::set_permissions(new.path(), Permissions::from_mode(0o755))?;
    new.persist(&path)?;
    Ok(path)
}

/// The name of the library in memory. It contains the pid, by which the supervisor tells the processes that its program
/// has left behind from those of another program with a library in memory.
fn memory_name() -> String {
    format!("{LIBRARY}.{}", std::process::id())
}

/// Writes the library into a memfd, which the program's loader opens through this process's `/proc/PID/fd`.
fn in_memory() -> io::Result<Files> {
    let library = rustix::fs::memfd_create(memory_name(), MemfdFlags::CLOEXEC)?;
    File::from(library.try_clone()?).write_all(linger_preload::LIBRARY)?;
    let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), library.as_raw_fd()));
    tracing::info!(path = %path.display(), "no directory is writable and executable: the library is in memory");
    Ok(Files::Memory { path, _library: library })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_in_memory_is_told_from_that_of_another_program() {
        let files = in_memory().unwrap();
        let shown = fs::read_link(files.path()).unwrap();
        let mark = Preload { files, settings: String::new() }.mark();
        assert_eq!(shown, Path::new(&mark.maps), "as the kernel shows it in memory maps");
        let another = format!("/memfd:{LIBRARY}.{}0 (deleted)", std::process::id());
        assert!(!another.contains(&mark.maps));
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
        let names = |path: &str| {
            let borrowed = Preload::borrowed(path.to_owned(), "ab", || Err(io::ErrorKind::NotFound.into()));
            borrowed.map(|preload| preload.mark())
        };
        let mark = names("/usr/lib/linger/liblinger_preload.so").unwrap();
        assert_eq!(
            (&*mark.maps, mark.owner.as_deref()),
            ("/usr/lib/linger/liblinger_preload.so", Some("name=ab;"))
        );
        assert!(names("/usr/lib/linger/another.so").is_err());
    }
}
