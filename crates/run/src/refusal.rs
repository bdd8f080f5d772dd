//! A process that cannot be looked at.

use std::fmt;
use std::io;

use linger_untrusted::Untrusted;

/// A process that may have connections of others, or whose closes stay plain, because its fds cannot be looked at
/// (`/proc/PID/fd`) or copied (`pidfd_getfd(2)`): both need the right to trace it.
///
/// Its `Display` says which permission is missing and what to do.
#[derive(Debug)]
#[non_exhaustive]
pub struct Refusal {
    /// The pid.
    pub process: u32,
    /// Its name (`/proc/PID/comm`).
    pub name: Untrusted,
    /// The error of the call.
    pub source: io::Error,
    /// Whether the supervisor lacks CAP_SYS_PTRACE. With it, only a security module can refuse.
    pub lacks_capability: bool,
}

impl Refusal {
    pub(crate) fn new(process: u32, source: io::Error) -> Self {
        let name = std::fs::read(format!("/proc/{process}/comm")).unwrap_or_default();
        let name = Untrusted::from(name.strip_suffix(b"\n").unwrap_or(&name));
        let capable = rustix::thread::capabilities(None)
            .is_ok_and(|own| own.effective.contains(rustix::thread::CapabilitySet::SYS_PTRACE));
        Self { process, name, source, lacks_capability: !capable }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, name, source, .. } = self;
        let remedy = if self.lacks_capability {
            "it runs as another user or forbids to be looked into (PR_SET_DUMPABLE), and CAP_SYS_PTRACE is missing: run \
             `linger run` with it (--cap-add SYS_PTRACE, AmbientCapabilities=CAP_SYS_PTRACE), or as the user that the \
             program becomes"
        } else {
            "CAP_SYS_PTRACE is there: a security profile (AppArmor, SELinux) or a user namespace forbids ptrace of it; permit \
             that, or run both in one profile and namespace"
        };
        write!(
            f,
            "process {process} ({}): its descriptors cannot be looked at ({source}), so connections that it may have are \
             closed plainly, and counted as refused; {remedy}",
            name.terminal()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_the_process_and_what_is_missing() {
        let mut refusal = Refusal::new(std::process::id(), rustix::io::Errno::PERM.into());
        let own = std::fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(refusal.name.terminal().to_string(), own.trim_end());
        for (lacks, other, remedy) in
            [(true, "AppArmor", "--cap-add SYS_PTRACE"), (false, "--cap-add", "AppArmor, SELinux")]
        {
            refusal.lacks_capability = lacks;
            let text = refusal.to_string();
            assert!(text.contains(remedy) && !text.contains(other), "{text}");
            assert!(text.starts_with(&format!("process {} (", std::process::id())), "{text}");
        }
    }
}
