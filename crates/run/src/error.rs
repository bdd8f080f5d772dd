//! Why a program could not be run, and what to do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a program could not be run under supervision.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such file.
    #[error("{command}: no such command; give a path, or a name that is found in PATH")]
    NotFound {
        /// As it was given.
        command: String,
    },
    /// The file is there, and cannot be executed.
    #[error("{path}: cannot be executed ({reason}); see its mode and its first line")]
    NotExecutable {
        /// Where it was found.
        path: PathBuf,
        /// What the system, or the file's form, says.
        reason: String,
    },
    /// Nothing can be preloaded into such a program.
    #[error("{path}: {reason}, so nothing can be preloaded into it")]
    NoLoader {
        /// Where it was found.
        path: PathBuf,
        /// What kind of program it is.
        reason: &'static str,
    },
    /// The loader ignores preloading for such a program.
    #[error(
        "{path}: is {bits}: the loader ignores preloading for programs that gain rights, and under seccomp without root \
         they gain none; run `linger run` as the user that it becomes, or give the program its rights by other means \
         (systemd's AmbientCapabilities=)"
    )]
    GainsRights {
        /// Where it was found.
        path: PathBuf,
        /// Which bits.
        bits: &'static str,
    },
    /// The program's system calls are not understood.
    #[error(
        "{path}: is for another architecture or word size than this program, so its calls are not understood; put a \
         server that lingers in front of it, such as nginx with `lingering_close always`"
    )]
    ForeignCalls {
        /// Where it was found.
        path: PathBuf,
    },
    /// The seccomp filter cannot be installed.
    #[error("the seccomp filter is refused ({source}); {remedy}")]
    SeccompRefused {
        /// What the system said.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The program's descriptors cannot be taken.
    #[error("the program's descriptors cannot be taken: {call} is refused ({source}); {remedy}")]
    DescriptorsRefused {
        /// The call that was refused.
        call: &'static str,
        /// What the system said.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// Nowhere to put the library.
    #[error(
        "no directory for the preloaded library: {tried} are read-only or mounted noexec; mount one of them without \
         noexec"
    )]
    NowhereToUnpack {
        /// Where it was tried.
        tried: String,
    },
    /// The endpoint for Prometheus cannot listen.
    #[error("the counts cannot be served on {address}: {source}")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The policy or the budget contradict themselves, or a list is too long.
    #[error("{0}")]
    Options(String),
    /// What the system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }
}
