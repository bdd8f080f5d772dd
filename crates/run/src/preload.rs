//! The preloaded library, as it is named in the program's environment.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use linger_preload::protocol::VARIABLE;

use crate::mark::Mark;
use crate::unpacked::{LIBRARY, Unpacked};
use crate::{Options, RunError, sweep};

/// The library, and what its processes are to know. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Preload {
    files: Unpacked,
    settings: String,
}

impl Preload {
    pub(crate) fn unpack(
        name: &str,
        token: [u8; 16],
        filters: u32,
        options: &Options,
    ) -> Result<Self, RunError> {
        let files = Unpacked::new(options)?;
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
        let mut all = OsString::from(self.files.library());
        if !preloaded.is_empty() {
            all.push(":");
            all.push(preloaded);
        }
        command.env("LD_PRELOAD", all).env(VARIABLE, &self.settings);
    }

    /// Whether the library is there only as long as the process that has unpacked it.
    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(self.files, Unpacked::Memory { .. })
    }

    /// The path at which it was unpacked, or is installed.
    pub(crate) fn name(&self) -> &str {
        self.files.path().to_str().unwrap_or_default()
    }

    /// What shows that a process has the library.
    pub(crate) fn mark(&self) -> Mark {
        let maps = self.files.in_maps();
        // The settings begin with the supervisor's own name.
        let name = || self.settings.split_inclusive(';').next().unwrap_or_default().to_owned();
        let owner = matches!(self.files, Unpacked::Installed(_)).then(name);
        Mark { maps, preloaded: self.files.library().to_str().unwrap_or_default().to_owned(), owner }
    }

    /// What another process needs to take this over with [`borrowed`](Self::borrowed).
    ///
    /// # Errors
    /// No fd is left.
    pub(crate) fn lend(&self) -> io::Result<Vec<OwnedFd>> {
        self.files.lend()
    }

    /// Takes over files that another process has unpacked, or the library that it has found installed; `name` is its supervisor's.
    ///
    /// # Errors
    /// The path is not one of ours, or `next`, which returns one fd after the other, fails.
    pub(crate) fn borrowed(
        path: String,
        name: &str,
        next: impl FnMut() -> io::Result<OwnedFd>,
    ) -> io::Result<Self> {
        Ok(Self { files: Unpacked::borrowed(path, next)?, settings: format!("name={name};") })
    }

    /// Removes the files. The drop alone may come too late: the metrics thread may keep this value until the process
    /// ends.
    pub(crate) fn remove(&self) {
        self.files.remove();
    }

    /// Removes what supervisors that were killed have left beside the files.
    pub(crate) fn sweep(&self) {
        if let Some(place) = self.files.place() {
            sweep::sweep(place.as_fd());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// By its path all programs know it, so each program's processes are told by the supervisor's name.
    #[test]
    fn an_installed_library_is_known_by_its_path_and_the_supervisors_name() {
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
