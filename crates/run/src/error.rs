//! Errors of starting a program under supervision.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a program could not be run under supervision.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The command was not found.
    #[error("{command}: no such command; give a path, or a name that is found in PATH")]
    NotFound {
        /// As it was given.
        command: String,
    },
    /// The file exists and cannot be executed.
    #[error("{path}: cannot be executed ({reason}); see its mode and its first line")]
    NotExecutable {
        /// Where it was found.
        path: PathBuf,
        /// The system's error, or what is wrong with the file's format.
        reason: String,
    },
    /// The program uses no loader that could preload a library (static, Go, another C library).
    #[error("{path}: {reason}, so nothing can be preloaded into it")]
    NoLoader {
        /// Where it was found.
        path: PathBuf,
        /// The kind of program, as the rest of a sentence.
        reason: &'static str,
    },
    /// The program gains privileges, so the loader ignores LD_PRELOAD (AT_SECURE, ld.so(8)).
    #[error(
        "{path}: is {bits}: the loader ignores preloading for programs that gain rights, and under seccomp without root \
         they gain none; run `linger run` as the user that it becomes, or give the program its rights by other means \
         (systemd's AmbientCapabilities=)"
    )]
    GainsRights {
        /// Where it was found.
        path: PathBuf,
        /// The bits by which it gains them: setuid, setgid or file capabilities.
        bits: &'static str,
    },
    /// The program is of another architecture or word size, whose system calls the filter does not know.
    #[error(
        "{path}: is for another architecture or word size than this program, so its calls are not understood; put a \
         server that lingers in front of it, such as nginx with `lingering_close always`"
    )]
    ForeignCalls {
        /// Where it was found.
        path: PathBuf,
    },
    /// A seccomp filter around this process forbids system calls that `linger run` needs.
    #[error(
        "the seccomp filter around this process forbids {0}; permit it in the service (`SystemCallFilter={0}`, after its other \
         such lines) or in the container's profile",
        calls.join(" ")
    )]
    CallsForbidden {
        /// The names of the calls.
        calls: Vec<&'static str>,
        /// Whether only supervision by seccomp needs them, and the program can be run without it.
        optional: bool,
    },
    /// This process must not make unix sockets.
    #[error(
        "no unix socket can be made ({source}), over which the program's processes reach the supervisor; permit it in the \
         service (`RestrictAddressFamilies=AF_UNIX`, after its other such lines)"
    )]
    NoUnixSockets {
        /// The error of the system.
        source: io::Error,
    },
    /// The seccomp filter cannot be installed.
    #[error("the seccomp filter is refused ({source}); {remedy}")]
    SeccompRefused {
        /// The system's error number; `EIO` if there is none.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The program's fds cannot be copied (`pidfd_getfd(2)`).
    #[error("the program's descriptors cannot be taken: {call} is refused ({source}); {remedy}")]
    DescriptorsRefused {
        /// The call that was refused.
        call: &'static str,
        /// The error of the system.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// No directory for the preloaded library: none of those tried allows writing and executing.
    #[error(
        "no directory for the preloaded library: {tried}, and it cannot be kept in memory ({source}); make room in one of \
         them, mount it without noexec, or name another by TMPDIR"
    )]
    NowhereToUnpack {
        /// The directories tried, with the reasons.
        tried: String,
        /// Why not in memory.
        source: io::Error,
    },
    /// No file may have the size of the preloaded library.
    #[error(
        "the preloaded library cannot be unpacked: no file of this process may exceed {limit} bytes (RLIMIT_FSIZE); raise \
         that limit (`ulimit -f`, systemd's `LimitFSIZE=`)"
    )]
    FileSizeLimit {
        /// The limit.
        limit: u64,
    },
    /// The metrics endpoint cannot listen.
    #[error("the counts cannot be served on {address}: {source}")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// `/proc` is not there, by which the program's processes and their connections are looked at.
    #[error(
        "/proc cannot be read ({source}), by which it is seen who has a connection; mount it: `mount -t proc proc /proc`, \
         `unshare --mount-proc`, or systemd's `MountAPIVFS=yes` for a service with a RootDirectory="
    )]
    NoProc {
        /// The error of the system.
        source: io::Error,
    },
    /// The calling process has more than one thread.
    #[error("a program can be run only by a process with one thread")]
    Threads,
    /// The policy or the budget contradicts itself, or a list of ports is too long.
    #[error("{0}")]
    Options(String),
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The error of the system.
        source: io::Error,
    },
}

impl RunError {
    /// The error of the system; `EIO` if it is not known.
    pub(crate) fn number(&self) -> i32 {
        match self {
            Self::System { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            _ => libc::EIO,
        }
    }

    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }
}
