//! Which listeners of a program are covered, and why others are not.

use std::fmt;

use linger_untrusted::Untrusted;

use crate::{ProgramKind, Via};

/// Which of the sockets that a program listens on have connections that end in a lingering close.
///
/// Its `Display` is one line, and one more for each process that is not covered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Coverage {
    /// Each listening socket with each process that has it open, sorted by both.
    pub listeners: Vec<CoveredListener>,
}

/// A process of the program that has a listening socket open.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoveredListener {
    /// Its address and port, or its path.
    pub address: Untrusted,
    /// The inode of the socket, which tells listeners of one address apart (`SO_REUSEPORT`).
    pub inode: u64,
    /// The pid.
    pub process: u32,
    /// The process's name (`/proc/PID/comm`).
    pub name: Untrusted,
    /// How its closes are seen, or why they are not.
    pub covered: Result<Via, Gap>,
}

/// Why the closes of a process are not seen. Its `Display` says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gap {
    /// A library cannot be preloaded into this kind of program.
    Kind(ProgramKind),
    /// The library is not in its memory.
    NotLoaded,
    /// It has installed a seccomp filter of its own.
    Sandboxed,
    /// It cannot be looked at.
    Hidden,
    /// The kernel gives sockets no cookie.
    NoCookie,
}

impl Coverage {
    /// The number of listening sockets, and of those whose every process is covered.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let inodes: Vec<u64> = self.listeners.iter().map(|one| one.inode).collect();
        let mut all = inodes;
        all.sort_unstable();
        all.dedup();
        let is_covered =
            |inode: &u64| self.listeners.iter().all(|one| one.inode != *inode || one.covered.is_ok());
        let covered = all.iter().filter(|inode| is_covered(inode)).count();
        (all.len() as u64, covered as u64)
    }

    /// Whether a process is not covered.
    #[must_use]
    pub fn has_gaps(&self) -> bool {
        self.listeners.iter().any(|one| one.covered.is_err())
    }
}

impl Via {
    /// Its name, as the program's options have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preload => "preload",
            Self::Seccomp => "seccomp",
        }
    }
}

impl Gap {
    /// Why, as the rest of a sentence about the process.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Kind(kind) => kind.obstacle().unwrap_or("is a program of an unknown kind"),
            Self::NotLoaded => "does not have the preloaded library",
            Self::Sandboxed => {
                "has a seccomp filter of its own, under which the library makes no call that the filter might not permit"
            }
            Self::Hidden => {
                "cannot be looked at: it runs as another user or is not dumpable, and CAP_SYS_PTRACE is missing"
            }
            Self::NoCookie => "runs on a kernel without SO_COOKIE, so its connections cannot be told apart",
        }
    }

    /// What to do.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Kind(ProgramKind::Foreign) | Self::NoCookie => {
                "put a server that lingers in front of it, such as nginx with `lingering_close always`"
            }
            Self::Kind(_) | Self::Sandboxed => "run the whole command with --via seccomp",
            Self::NotLoaded => {
                "let LD_PRELOAD and LINGER_RUN through to it (an `env -i`, a `sudo` or a setuid program takes them out), or \
                 run the whole command with --via seccomp"
            }
            Self::Hidden => {
                "give `linger run` CAP_SYS_PTRACE (--cap-add SYS_PTRACE, AmbientCapabilities=), or run it as the user that \
                 the program becomes"
            }
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, covered) = self.counts();
        write!(f, "{covered} of {all} listener{} covered", if all == 1 { "" } else { "s" })?;
        let mut named = Vec::new();
        for one in &self.listeners {
            if let Ok(via) = one.covered
                && !named.contains(&(one.inode, via))
            {
                let sign = if named.is_empty() { ": " } else { ", " };
                write!(f, "{sign}{} by {}", one.address.terminal(), via.name())?;
                named.push((one.inode, via));
            }
        }
        for one in &self.listeners {
            if let Err(gap) = one.covered {
                write!(
                    f,
                    "\n{} is not covered in process {} ({}), which {}; {}",
                    one.address.terminal(),
                    one.process,
                    one.name.terminal(),
                    gap.reason(),
                    gap.remedy()
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(inode: u64, process: u32, covered: Result<Via, Gap>) -> CoveredListener {
        let text = |text: &str| Untrusted::from(text.as_bytes());
        CoveredListener { address: text("*:80"), inode, process, name: text("srv"), covered }
    }

    #[test]
    fn a_listener_is_covered_if_it_is_in_every_process() {
        let covered = Ok(Via::Preload);
        let both = Coverage { listeners: vec![one(1, 7, covered), one(1, 8, covered), one(2, 8, covered)] };
        assert_eq!((both.counts(), both.has_gaps()), ((2, 2), false));
        let gap = Err(Gap::Kind(ProgramKind::Static));
        let less = Coverage { listeners: vec![one(1, 7, covered), one(1, 8, gap), one(2, 8, covered)] };
        assert_eq!((less.counts(), less.has_gaps()), ((2, 1), true));
        let text = less.to_string();
        assert!(text.starts_with("1 of 2 listeners covered: *:80 by preload"), "{text}");
        assert!(text.contains("not covered in process 8 (srv), which is linked statically; run"), "{text}");
        assert_eq!(Coverage::default().counts(), (0, 0));
    }
}
