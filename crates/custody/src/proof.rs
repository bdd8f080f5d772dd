//! Which processes may still have a connection that one process has closed.
//!
//! A process nominates a connection when it has closed its own last fd of that connection. The supervisor may end the
//! connection only if no other process has an fd of it. Calls that give another process an fd are not reported, so this
//! must be proved from what the kernel tells: when each process was made, and which fds it has. If it cannot be proved,
//! the connection is left as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use crate::Origin;
use crate::world::{Pid, ProcessFd};

/// The processes that may have a connection, and when each was made.
#[derive(Clone, Debug, Default)]
pub struct Relations {
    born_by_ms: BTreeMap<Pid, u64>,
    /// The same processes by the time of their start: those made since an accept are found without a walk through all
    /// processes, and mostly there are none.
    by_birth: BTreeSet<(u64, Pid)>,
}

/// The processes that may have inherited a connection. Each of them must be looked at before it is known that nobody
/// has the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heirs {
    /// None: every process was made before the accept, and the acceptor is the process that has closed the connection, or
    /// has ended.
    None,
    /// These: all that were made since the accept, and the acceptor if another process has closed the connection.
    Some(Vec<Pid>),
    /// All processes: the connection's origin is not known.
    All,
}

impl Relations {
    /// Adds a process, made at `born_by_ms` of `CLOCK_BOOTTIME` at the latest; `u64::MAX` where that is not known. It
    /// replaces what was known of the pid.
    pub fn insert(&mut self, pid: Pid, born_by_ms: u64) {
        self.remove(pid);
        self.born_by_ms.insert(pid, born_by_ms);
        self.by_birth.insert((born_by_ms, pid));
    }

    /// Removes a process that has ended.
    pub fn remove(&mut self, pid: Pid) {
        if let Some(born_by_ms) = self.born_by_ms.remove(&pid) {
            self.by_birth.remove(&(born_by_ms, pid));
        }
        debug_assert_eq!(self.born_by_ms.len(), self.by_birth.len(), "each process has one birth");
    }

    /// Whether a process was inserted, and not removed.
    pub fn contains(&self, pid: Pid) -> bool {
        self.born_by_ms.contains_key(&pid)
    }

    /// All processes.
    pub fn all(&self) -> impl Iterator<Item = Pid> {
        self.born_by_ms.keys().copied()
    }

    /// The processes that may still have a connection of this origin after `by` has closed it.
    ///
    /// A process inherits the fds that its parent has at the fork. So a process made before the accept has not inherited the
    /// connection; only the acceptor, and processes made since, may have it. A connection that was passed in a message is not
    /// considered here: its origin is unknown.
    pub fn heirs(&self, origin: Origin, by: Pid) -> Heirs {
        let Some((acceptor, accepted_ms)) = origin.known() else { return Heirs::All };
        let acceptor = Pid(acceptor.cast_unsigned());
        let mut heirs: BTreeSet<Pid> =
            self.by_birth.range((accepted_ms, Pid(0))..).map(|(_, pid)| *pid).collect();
        if acceptor != by && self.contains(acceptor) {
            heirs.insert(acceptor);
        }
        if heirs.is_empty() { Heirs::None } else { Heirs::Some(heirs.into_iter().collect()) }
    }
}

/// What `/proc` has shown of one process and one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The fds of the connection that the process has; empty if it has none.
    Fds(Vec<i32>),
    /// The process does not let its fds be looked at.
    Hidden,
}

/// The result of the looks at all heirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No process has the connection.
    Nobody,
    /// The only fds of it are being closed: look again.
    Closing,
    /// A process has it, under this fd.
    Held(ProcessFd),
    /// This process cannot be looked at, so nobody can tell.
    Hidden(Pid),
}

/// Judges what was seen of a connection; `closing` are the fds that are known to be closing. `Held` goes before `Closing`, and
/// `Closing` before `Hidden`.
pub fn judge(seen: &[(Pid, Sight)], closing: &[ProcessFd]) -> Standing {
    let names = seen.iter().flat_map(|(pid, sight)| {
        let fds = if let Sight::Fds(fds) = sight { fds.as_slice() } else { &[] };
        fds.iter().map(|fd| ProcessFd { pid: *pid, fd: *fd })
    });
    let mut verdict = Standing::Nobody;
    for name in names {
        if !closing.contains(&name) {
            return Standing::Held(name);
        }
        verdict = Standing::Closing;
    }
    if verdict == Standing::Closing {
        return verdict;
    }
    let hidden = seen.iter().find(|(_, sight)| *sight == Sight::Hidden);
    hidden.map_or(verdict, |(pid, _)| Standing::Hidden(*pid))
}
