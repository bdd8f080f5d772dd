//! Unpacks the preloaded library, and names it in the program's environment.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use linger_preload::protocol::{COUNTS, COUNTS_SIZE, VARIABLE};
use rustix::fs::{AtFlags, Mode, OFlags, StatVfsMountFlags, statvfs};
use tempfile::TempDir;

use crate::{Options, RunError};

/// Directories to unpack the library into; the first that allows it is used.
const PLACES: [&str; 4] = ["/tmp", "/dev/shm", "/var/tmp", "/run"];

/// The unpacked library, and the file of counts that all processes with the library share. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Preload {
    files: Files,
    counts: File,
    settings: String,
}

/// Where the library was unpacked.
#[derive(Debug)]
enum Files {
    Own(TempDir),
    /// By another process, which may see another file system by the same path.
    Lent {
        path: PathBuf,
        parent: OwnedFd,
        directory: OwnedFd,
    },
}

impl Files {
    fn path(&self) -> &Path {
        match self {
            Self::Own(directory) => directory.path(),
            Self::Lent { path, .. } => path,
        }
    }
}

impl Preload {
    pub(crate) fn unpack(name: &str, token: [u8; 16], options: &Options) -> Result<Self, RunError> {
        let executable = |place: &&&str| {
            statvfs(Path::new(place)).is_ok_and(|file_system| {
                !file_system.f_flag.intersects(StatVfsMountFlags::NOEXEC | StatVfsMountFlags::RDONLY)
            })
        };
        let made = PLACES
            .iter()
            .filter(executable)
            .find_map(|place| tempfile::Builder::new().prefix(PREFIX).tempdir_in(place).ok());
        let Some(directory) = made else {
            return Err(RunError::NowhereToUnpack { tried: PLACES.join(", ") });
        };
        tracing::debug!(directory = %directory.path().display(), "unpacked the library");
        let counts = write(&directory).map_err(RunError::system("cannot unpack the preloaded library"))?;
        let mut settings = format!("name={name};token=");
        for byte in token {
            let _ = write!(settings, "{byte:02x}");
        }
        let _ = write!(settings, ";counts={}", directory.path().join(COUNTED).display());
        for (on, key) in [(options.hold, ";hold=1"), (options.outgoing, ";outgoing=1")] {
            settings.push_str(if on { key } else { "" });
        }
        for (key, ports) in [("ports", &options.ports), ("exclude", &options.exclude_ports)] {
            if !ports.is_empty() {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                let _ = write!(settings, ";{key}={}", ports.join(","));
            }
        }
        Ok(Self { files: Files::Own(directory), counts, settings })
    }

    /// Puts the library into a command's LD_PRELOAD, before what is already there.
    pub(crate) fn put_into(&self, command: &mut Command, preloaded: &OsStr) {
        let mut all = OsString::from(self.files.path().join(LIBRARY));
        if !preloaded.is_empty() {
            all.push(":");
            all.push(preloaded);
        }
        command.env("LD_PRELOAD", all).env(VARIABLE, &self.settings);
    }

    /// The path at which it was unpacked.
    pub(crate) fn name(&self) -> &str {
        self.files.path().to_str().unwrap_or_default()
    }

    /// What the memory maps of every process with the library name.
    pub(crate) fn mark(&self) -> String {
        self.name().to_owned()
    }

    /// What another process needs to take this over with [`borrowed`](Self::borrowed).
    ///
    /// # Errors
    /// No fd is left.
    pub(crate) fn lend(&self) -> io::Result<[OwnedFd; 3]> {
        let path = self.files.path();
        let open = |path: &Path| -> io::Result<OwnedFd> {
            Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
        };
        Ok([open(path.parent().unwrap_or(path))?, open(path)?, self.counts.try_clone()?.into()])
    }

    /// Takes over files that another process has unpacked.
    ///
    /// # Errors
    /// The name is not one of ours, or `next`, which returns one fd after the other, fails.
    pub(crate) fn borrowed(name: String, mut next: impl FnMut() -> io::Result<OwnedFd>) -> io::Result<Self> {
        let path = PathBuf::from(name);
        let is_ours = |name: &OsStr| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        if !path.file_name().is_some_and(is_ours) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the library is nowhere that it is unpacked to",
            ));
        }
        let files = Files::Lent { path, parent: next()?, directory: next()? };
        Ok(Self { files, counts: next()?.into(), settings: String::new() })
    }

    /// Removes the files; the counts stay readable. Needed because the metrics thread may keep this value until the end.
    pub(crate) fn remove(&self) {
        match &self.files {
            Files::Own(directory) => drop(fs::remove_dir_all(directory.path())),
            Files::Lent { path, parent, directory } => {
                for name in [LIBRARY, COUNTED] {
                    let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
                }
                if let Some(name) = path.file_name() {
                    let _ = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
                }
            }
        }
    }

    /// The counts of all processes with the library, in the order of `protocol::Count`.
    pub(crate) fn counts(&self) -> [u64; COUNTS] {
        let mut bytes = [0; COUNTS * 8];
        // The file has exactly this length, and shares its pages with the mappings of the libraries.
        let _ = self.counts.read_exact_at(&mut bytes, 0);
        let mut counts = [0; COUNTS];
        for (count, bytes) in counts.iter_mut().zip(bytes.chunks_exact(8)) {
            *count = bytes.try_into().map_or(0, u64::from_ne_bytes);
        }
        counts
    }
}

const LIBRARY: &str = "liblinger_preload.so";
const COUNTED: &str = "counts";
const PREFIX: &str = "linger-run-";

fn write(directory: &TempDir) -> std::io::Result<File> {
    let path = directory.path();
    // Readable for everybody: a program that has changed its user still starts other programs.
    fs::set_permissions(path, Permissions::from_mode(0o711))?;
    fs::write(path.join(LIBRARY), linger_preload::LIBRARY)?;
    fs::set_permissions(path.join(LIBRARY), Permissions::from_mode(0o755))?;
    let counts = File::options().read(true).write(true).create_new(true).open(path.join(COUNTED))?;
    counts.set_len(COUNTS_SIZE as u64)?;
    counts.set_permissions(Permissions::from_mode(0o600))?;
    Ok(counts)
}
