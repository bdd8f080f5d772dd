//! Which listeners of a program are covered, and why others are not.

use std::fmt::Write as _;

use linger_untrusted::Untrusted;

use crate::{ProgramKind, Via};

/// Which of the sockets that a program listens on have connections that end in a lingering close.
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
    /// The socket's address and port, or its path.
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

/// Why the closes of a process are not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gap {
    /// A library cannot be preloaded into this kind of program.
    Kind(ProgramKind),
    /// The library is not in its memory.
    NotLoaded,
    /// It has installed a seccomp filter of its own.
    Sandboxed,
    /// Its fds and memory maps cannot be read.
    Hidden,
    /// The kernel gives sockets no cookie.
    NoCookie,
    /// It waits for connections by an io_uring, of whose operations nobody is told.
    Ring,
}

/// What would have the closes of a process seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapRemedy {
    /// No option of this crate: a server that lingers, in front of the program.
    Front,
    /// [`Via::Seccomp`] for the whole command.
    Seccomp,
    /// To let the environment variables through to it that name the library, or [`Via::Seccomp`].
    Environment,
    /// The right to look at it (`CAP_SYS_PTRACE`, or its user).
    Trace,
}

impl Coverage {
    /// The coverage as text: one line, and one more for each process that is not covered. `words` says what to do about a gap.
    #[must_use]
    pub fn text(&self, words: impl Fn(GapRemedy) -> &'static str) -> String {
        let (all, covered) = self.counts();
        let mut text = format!("{covered} of {all} listener{} covered", if all == 1 { "" } else { "s" });
        let mut named = Vec::new();
        for one in &self.listeners {
            if let Ok(via) = one.covered
                && !named.contains(&(one.inode, via))
            {
                let sign = if named.is_empty() { ": " } else { ", " };
                let _ = write!(text, "{sign}{} by {}", one.address.terminal(), via.name());
                named.push((one.inode, via));
            }
        }
        for one in &self.listeners {
            if let Err(gap) = one.covered {
                let (address, name) = (one.address.terminal(), one.name.terminal());
                let (process, reason, remedy) = (one.process, gap.reason(), words(gap.remedy()));
                let _ = write!(
                    text,
                    "\n{address} is not covered in process {process} ({name}), which {reason}; {remedy}"
                );
            }
        }
        text
    }

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
            Self::Ring => "accepts connections by io_uring, whose operations nobody is told of",
            Self::NoCookie => "runs on a kernel without SO_COOKIE, so its connections cannot be told apart",
        }
    }

    /// What to do.
    #[must_use]
    pub fn remedy(self) -> GapRemedy {
        match self {
            Self::Kind(ProgramKind::Foreign) | Self::NoCookie | Self::Ring => GapRemedy::Front,
            Self::Kind(_) | Self::Sandboxed => GapRemedy::Seccomp,
            Self::NotLoaded => GapRemedy::Environment,
            Self::Hidden => GapRemedy::Trace,
        }
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
        let text = less.text(|remedy| if remedy == GapRemedy::Seccomp { "by seccomp" } else { "otherwise" });
        assert!(text.starts_with("1 of 2 listeners covered: *:80 by preload"), "{text}");
        assert!(
            text.contains("not covered in process 8 (srv), which is linked statically; by seccomp"),
            "{text}"
        );
        assert_eq!(Coverage::default().counts(), (0, 0));
    }

    /// Why a process is not covered, and what to do, which no two kinds of reasons share wrongly.
    #[test]
    fn each_gap_has_its_reason_and_its_remedy() {
        let kinds = [ProgramKind::Go, ProgramKind::Static, ProgramKind::ForeignLoader];
        assert!(kinds.iter().all(|kind| Gap::Kind(*kind).remedy() == GapRemedy::Seccomp));
        assert_eq!(
            Gap::Kind(ProgramKind::Foreign).remedy(),
            GapRemedy::Front,
            "seccomp does not know its calls"
        );
        assert_eq!([Gap::NoCookie, Gap::Ring].map(Gap::remedy), [GapRemedy::Front; 2]);
        assert_eq!(Gap::Sandboxed.remedy(), GapRemedy::Seccomp);
        assert_eq!(
            (Gap::NotLoaded.remedy(), Gap::Hidden.remedy()),
            (GapRemedy::Environment, GapRemedy::Trace)
        );
        let gaps = kinds.map(Gap::Kind).into_iter().chain([
            Gap::Kind(ProgramKind::Foreign),
            Gap::NotLoaded,
            Gap::Sandboxed,
            Gap::Hidden,
            Gap::NoCookie,
            Gap::Ring,
        ]);
        let reasons: std::collections::BTreeSet<&str> = gaps.map(Gap::reason).collect();
        assert_eq!(reasons.len(), 9);
        assert_eq!(Gap::Kind(ProgramKind::Dynamic).reason(), "is a program of an unknown kind");
    }

    #[test]
    fn a_listener_is_named_once_for_each_way_by_which_it_is_covered() {
        let listeners =
            vec![one(1, 7, Ok(Via::Preload)), one(1, 8, Ok(Via::Preload)), one(1, 9, Ok(Via::Seccomp))];
        let text = Coverage { listeners }.text(|_| unreachable!());
        assert_eq!(text, "1 of 1 listener covered: *:80 by preload, *:80 by seccomp");
    }
}
