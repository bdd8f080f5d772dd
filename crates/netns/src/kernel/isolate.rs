//! Gets the right to make network namespaces, with or without root.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, UnshareFlags};

/// How this process can get a private network: prepared first, and entered later.
///
/// Entering makes system calls only and allocates nothing, so that [`enter_before_exec`](Self::enter_before_exec) can enter
/// between `fork` and `exec`.
#[derive(Debug)]
pub struct Isolation {
    /// Whether the process has CAP_SYS_ADMIN, so that it needs no user namespace.
    privileged: bool,
    uid_map: String,
    gid_map: String,
}

impl Isolation {
    /// Reads the capabilities and user ids of this process.
    pub fn prepare() -> Self {
        let privileged = rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
        Self {
            privileged,
            uid_map: format!("0 {} 1", rustix::process::geteuid().as_raw()),
            gid_map: format!("0 {} 1", rustix::process::getegid().as_raw()),
        }
    }

    /// Moves the calling thread into a network namespace of its own; if it is the only thread, that is the whole
    /// process. Without CAP_SYS_ADMIN it enters a user namespace first, in which it is root. Inside, it may make more
    /// network namespaces.
    ///
    /// # Errors
    /// Returns [`IsolationRefused`], with the cause as far as it can be found out. Its error is
    /// `EINVAL` if a user namespace is needed and the process already has more than one thread (`unshare(2)`).
    pub fn enter(&self) -> Result<(), IsolationRefused> {
        self.enter_raw().map_err(|error| IsolationRefused::with(error.into(), self.privileged))
    }

    /// Makes a command enter the namespace before `exec`. A refusal becomes the error of `spawn`.
    pub fn enter_before_exec(self, command: &mut Command) {
        // SAFETY: `enter_raw` makes system calls only: no allocation and no lock between fork and exec.
        unsafe { command.pre_exec(move || Ok(self.enter_raw()?)) };
    }

    fn enter_raw(&self) -> Result<(), Errno> {
        if self.privileged {
            match unshare(UnshareFlags::NEWNET) {
                Err(Errno::PERM) => {}
                done => return done,
            }
        }
        unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET)?;
        // An unprivileged process may write gid_map only after setgroups is denied (user_namespaces(7)).
        write(c"/proc/self/setgroups", "deny")?;
        write(c"/proc/self/uid_map", &self.uid_map)?;
        write(c"/proc/self/gid_map", &self.gid_map)
    }
}

fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: neither flag changes which fds or memory this process shares with others; the caller's other threads, if
    // there are any, stay in their own network namespace.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

fn write(path: &std::ffi::CStr, text: &str) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text.as_bytes()).map(|_| ())
}

/// This process cannot get a private network.
#[derive(Debug, thiserror::Error)]
#[error("no private network namespace: {error}; {hint}")]
pub struct IsolationRefused {
    error: io::Error,
    /// What the user can do about the refusal, as a sentence.
    pub hint: String,
}

impl IsolationRefused {
    /// Explains the error of starting a command with [`Isolation::enter_before_exec`].
    pub fn explain(error: io::Error) -> Self {
        Self::with(error, false)
    }

    fn with(error: io::Error, privileged: bool) -> Self {
        let zero = |path| fs::read_to_string(path).is_ok_and(|text: String| text.trim() == "0");
        let one = |path| fs::read_to_string(path).is_ok_and(|text: String| text.trim() == "1");
        let hint = if zero("/proc/sys/user/max_user_namespaces") {
            "run as root, or allow user namespaces: sysctl user.max_user_namespaces=10000"
        } else if zero("/proc/sys/kernel/unprivileged_userns_clone") {
            "run as root, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1"
        } else if one("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") {
            "run as root, or allow user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        } else if privileged {
            "the kernel may be built without network namespaces (CONFIG_NET_NS)"
        } else {
            "a container's seccomp or security profile may forbid it: run as root on the host, or with \
             --cap-add SYS_ADMIN --security-opt seccomp=unconfined"
        };
        Self { error, hint: hint.to_owned() }
    }
}
