//! Waits until a service says that it is ready (sd_notify(3)).
#![allow(dead_code)] // Each test is compiled with a copy of this file, and uses a part of it.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

/// The socket that `NOTIFY_SOCKET` names. It is in a file system over which nothing is mounted, and its name is short enough for an
/// address.
pub(crate) struct Readiness {
    directory: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Readiness {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let socket = UnixDatagram::bind(directory.path().join("ready")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { directory, socket }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("ready")
    }

    /// Whether the service reports that it is ready. Gives up when no message has come for half a minute.
    pub(crate) fn wait(&self) -> bool {
        let mut message = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut message) {
            if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return true;
            }
        }
        false
    }
}
