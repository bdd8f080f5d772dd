//! Finds a program, starts it, waits until it serves, and ends it.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tempfile::TempDir;

use crate::skip::skip;

/// Why a server is not available.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// The server is not installed: the test skips.
    #[error("{program} is not installed (package {package}; `cargo xtask setup` installs it)")]
    Missing {
        /// The program looked for.
        program: String,
        /// The package that contains it.
        package: String,
    },
    /// The server is installed, but cannot run in the test's environment: the test skips.
    #[error("{name} cannot run here: {reason}")]
    Unsuited {
        /// The server.
        name: String,
        /// The obstacle.
        reason: String,
    },
    /// The server is installed, but does not work: an error.
    #[error("{name} does not start: {reason}")]
    Failed {
        /// The server.
        name: String,
        /// The server's output.
        reason: String,
    },
}

/// Unwraps an available server. If it is not installed or cannot run here, calls [`skip`] and returns `None`.
///
/// # Panics
/// Panics if the server is installed and does not work, or if the skip is not allowed.
#[track_caller]
pub fn available<T>(server: Result<T, Unavailable>) -> Option<T> {
    let missing = match server {
        Ok(there) => return Some(there),
        Err(missing) => missing,
    };
    match &missing {
        Unavailable::Missing { package, .. } => skip(package, &missing.to_string()),
        Unavailable::Unsuited { .. } => skip("root", &missing.to_string()),
        Unavailable::Failed { .. } => panic!("{missing}"),
    }
    None
}

/// Finds a program in PATH or in Debian's folders for daemons.
///
/// # Errors
/// Returns [`Unavailable::Missing`] if no such program is found.
pub fn program(name: &str, package: &str) -> Result<PathBuf, Unavailable> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let mut candidates = folders.map(|folder| folder.join(name));
    candidates
        .find(|path| path.is_file())
        .ok_or_else(|| Unavailable::Missing { program: name.to_owned(), package: package.to_owned() })
}

/// A port that was free a moment ago.
///
/// The port is found by binding a socket, without listening on it. A child that another thread forks meanwhile has a copy of
/// that socket until its exec; a client that connected to a listening copy would be reset.
///
/// # Panics
/// Panics if loopback has no free port.
pub fn free_port() -> u16 {
    let port = || -> io::Result<u16> {
        let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // With SO_REUSEADDR here and at the server, the server can bind although a forked child has a copy of this socket.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        Ok(SocketAddrV4::try_from(net::getsockname(&socket)?)?.port())
    };
    port().expect("loopback has a free port")
}

/// A server to be started: its folder and its port.
#[derive(Debug)]
pub struct Launch {
    name: String,
    folder: TempDir,
    /// The port on 127.0.0.1 at which the server is to listen.
    pub port: u16,
}

impl Launch {
    /// Makes the folder and picks the port.
    ///
    /// # Panics
    /// Panics if no temporary folder can be made.
    pub fn new(name: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("linger-").tempdir().expect("a temporary folder");
        // Readable for everybody: servers that start as root change their user, and must still find their files.
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(folder.path(), open).expect("the folder is ours");
        Self { name: name.to_owned(), folder, port: free_port() }
    }

    /// A path in the folder.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// The folder, for configuration texts.
    pub fn folder(&self) -> std::path::Display<'_> {
        self.folder.path().display()
    }

    /// Writes a file into the folder, and returns its path.
    ///
    /// # Panics
    /// Panics if the file cannot be written.
    pub fn file(&self, file: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(file);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("a folder in the temporary folder");
        }
        fs::write(&path, content).expect("a file in the temporary folder");
        path
    }

    /// Starts the server, and waits until it accepts connections at its port.
    ///
    /// # Errors
    /// Returns [`Unavailable::Failed`] with the end of what the server printed.
    pub fn start(self, command: Command) -> Result<RunningServer, Unavailable> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        self.start_when(command, |_| TcpStream::connect(address).is_ok())
    }

    /// Starts the server, and waits until `ready` returns true for its folder.
    ///
    /// # Errors
    /// Returns [`Unavailable::Failed`] with the end of what the server printed.
    pub fn start_when(
        self,
        mut command: Command,
        ready: impl Fn(&Path) -> bool,
    ) -> Result<RunningServer, Unavailable> {
        let failed = |reason: String| Unavailable::Failed { name: self.name.clone(), reason };
        let log = self.path("output.log");
        let output = File::create(&log).and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) = output.map_err(|error| failed(error.to_string()))?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let mut child = command.spawn().map_err(|error| failed(format!("{command:?}: {error}")))?;
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if ready(self.folder.path()) {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
                return Ok(RunningServer { name: self.name, address, child, folder: self.folder });
            }
            let ended = child.try_wait().map_err(|error| failed(error.to_string()))?;
            if ended.is_some() || Instant::now() > until {
                end(&mut child);
                let said = fs::read_to_string(&log).unwrap_or_default();
                let tail: Vec<&str> = said.lines().rev().take(15).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                return Err(failed(format!("{command:?} ({ended:?}): {}", tail.join("\n"))));
            }
            // There is no event for a server that begins to listen, so this polls.
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A running server. Dropping it ends all processes of its group.
#[derive(Debug)]
pub struct RunningServer {
    /// The server's name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    folder: TempDir,
}

impl RunningServer {
    /// The pid of the server's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A path in its folder.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// The server's output so far.
    pub fn log(&self) -> String {
        let read = |file| fs::read_to_string(self.path(file)).unwrap_or_default();
        read("output.log") + &read("error.log")
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Sends SIGTERM to the process group, and SIGKILL when the child has ended, after half a second at the latest.
fn end(child: &mut Child) {
    let Ok(id) = i32::try_from(child.id()) else { return };
    let Some(group) = Pid::from_raw(id) else { return };
    let _ = kill_process_group(group, Signal::TERM);
    if let Ok(process) = pidfd_open(group, PidfdFlags::empty()) {
        let half_a_second = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
        let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&half_a_second));
    }
    // Workers may outlive their master.
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}
