//! Where the program runs: in this process's place, or as its child.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::kernel::{may_be_supervised_from_beside, may_copy_fds, own_pidfd};
use crate::{Options, Via};

/// Which process becomes the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// The calling process. Everything that its starter gave it is the program's: the pid, signals, the terminal,
    /// sockets. The supervisor is a separate process, which outlives the program.
    Itself,
    /// A child of the calling process, which is the supervisor and stays until the last connection has ended.
    Child,
}

/// The inode of the first pid namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFC;

impl Place {
    /// Chooses, and says why.
    pub(crate) fn choose(via: Via, options: &Options) -> (Self, &'static str) {
        if options.stay {
            return (Self::Child, "as asked");
        }
        if rustix::process::getpid().is_init() {
            return (
                Self::Child,
                "this is the first process of its pid namespace, and all others end with it",
            );
        }
        if ends_with_us() {
            return (
                Self::Child,
                "the parent is the init of a container, which ends with its child, and all others with it",
            );
        }
        // That this process is a child subreaper is kept across an exec (prctl(2)): the supervisor would become the
        // program's child.
        if !matches!(rustix::process::child_subreaper(), Ok(None)) {
            return (Self::Child, "this process adopts orphans, and the supervisor is one");
        }
        if own_pidfd().is_err() {
            return (Self::Child, "pidfd_open is refused, so that the program's end could not be seen");
        }
        match via {
            Via::Preload => (Self::Itself, "nothing prevents it"),
            Via::Seccomp => Self::for_seccomp(),
        }
    }

    /// As [`choose`](Self::choose), for seccomp: the supervisor needs the program's fds, and has to know all of its
    /// processes.
    fn for_seccomp() -> (Self, &'static str) {
        if !may_copy_fds() {
            return (
                Self::Child,
                "pidfd_getfd is refused, so that the program's sockets are made by its parent",
            );
        }
        if fs::read("/proc/1/stat").is_err() {
            return (Self::Child, "/proc hides processes, and only a parent is told of all of the program's");
        }
        if !may_be_supervised_from_beside() {
            return (
                Self::Child,
                "Yama, or another security module, permits pidfd_getfd on descendants only",
            );
        }
        (Self::Itself, "nothing prevents it")
    }
}

/// Whether the parent is likely to end when this process ends: whether it is the first process of a container, and not
/// systemd. The first processes that containers have (tini, dumb-init, a shell) end with their child; systemd does not.
fn ends_with_us() -> bool {
    let container =
        fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() != FIRST_NAMESPACE);
    let child_of_first = rustix::process::getppid().is_some_and(rustix::process::Pid::is_init);
    container && child_of_first && !Path::new("/run/systemd/system").exists()
}
