//! Unpacks the preloaded library, and names it in the program's environment.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use linger_preload::protocol::VARIABLE;
use rustix::fs::{StatVfsMountFlags, statvfs};
use tempfile::TempDir;

use crate::{Options, RunError};

/// Directories to unpack the library into; the first that allows it is used.
const PLACES: [&str; 4] = ["/tmp", "/dev/shm", "/var/tmp", "/run"];

/// The unpacked library. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Preload {
    directory: TempDir,
    settings: String,
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
            .find_map(|place| tempfile::Builder::new().prefix("linger-run-").tempdir_in(place).ok());
        let Some(directory) = made else {
            return Err(RunError::NowhereToUnpack { tried: PLACES.join(", ") });
        };
        tracing::debug!(directory = %directory.path().display(), "unpacked the library");
        write(&directory).map_err(RunError::system("cannot unpack the preloaded library"))?;
        let mut settings = format!("name={name};token=");
        for byte in token {
            let _ = write!(settings, "{byte:02x}");
        }
        for (on, key) in [(options.hold, ";hold=1"), (options.outgoing, ";outgoing=1")] {
            settings.push_str(if on { key } else { "" });
        }
        for (key, ports) in [("ports", &options.ports), ("exclude", &options.exclude_ports)] {
            if !ports.is_empty() {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                let _ = write!(settings, ";{key}={}", ports.join(","));
            }
        }
        Ok(Self { directory, settings })
    }

    /// Puts the library into a command's LD_PRELOAD, before what is already there.
    pub(crate) fn put_into(&self, command: &mut Command, preloaded: &OsStr) {
        let mut all = OsString::from(self.directory.path().join(LIBRARY));
        if !preloaded.is_empty() {
            all.push(":");
            all.push(preloaded);
        }
        command.env("LD_PRELOAD", all).env(VARIABLE, &self.settings);
    }

    /// What the memory maps of every process with the library name.
    pub(crate) fn mark(&self) -> String {
        self.directory.path().display().to_string()
    }

    /// Removes the files. Needed because the metrics thread may keep this value until the end.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_dir_all(self.directory.path());
    }
}

const LIBRARY: &str = "liblinger_preload.so";

fn write(directory: &TempDir) -> std::io::Result<()> {
    let path = directory.path();
    // Readable for everybody: a program that has changed its user still starts other programs.
    fs::set_permissions(path, Permissions::from_mode(0o711))?;
    fs::write(path.join(LIBRARY), linger_preload::LIBRARY)?;
    fs::set_permissions(path.join(LIBRARY), Permissions::from_mode(0o755))
}
