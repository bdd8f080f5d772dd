//! Who may have a connection that one process has let go of.
//!
//! A process nominates a connection: it has closed its last fd of it. That ends the connection only if no other process
//! has an fd. Nobody notifies of the calls that give one away, so this must be proved from what the kernel tells: when
//! each process was made, and which fds it has. What is not proved is left as it is.

use std::collections::BTreeMap;
use std::vec::Vec;

use crate::Origin;
use crate::world::{Name, Pid};

/// The processes that may have a connection, and when each was made.
#[derive(Clone, Debug, Default)]
pub struct Family {
    born_by_ms: BTreeMap<Pid, u64>,
    youngest_ms: u64,
}

/// Which processes must be looked at before a connection is known to be nobody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heirs {
    /// None: all were made before the connection was accepted, by the process that lets go of it.
    None,
    /// These.
    Some(Vec<Pid>),
    /// All: it is not known where the connection comes from.
    All,
}

impl Family {
    /// Adds a process, made at `born_by_ms` of `CLOCK_BOOTTIME` at the latest; `u64::MAX` where that is not known.
    pub fn insert(&mut self, pid: Pid, born_by_ms: u64) {
        self.born_by_ms.insert(pid, born_by_ms);
        self.youngest_ms = self.youngest_ms.max(born_by_ms);
    }

    /// Removes a process that has ended.
    pub fn remove(&mut self, pid: Pid) {
        if let Some(born_by_ms) = self.born_by_ms.remove(&pid)
            && born_by_ms == self.youngest_ms
        {
            self.youngest_ms = self.born_by_ms.values().copied().max().unwrap_or(0);
        }
    }

    /// Whether a process is one of them.
    pub fn contains(&self, pid: Pid) -> bool {
        self.born_by_ms.contains_key(&pid)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = Pid> {
        self.born_by_ms.keys().copied()
    }

    /// Who may have a connection of this origin, of which `by` has let go.
    ///
    /// A process gets the fds of the one that makes it at that moment. So one made before the accept has not inherited the
    /// connection, nor has any that it makes, unless it is the one that accepted. What is passed in a message is not
    /// considered here: it comes without an origin.
    pub fn heirs(&self, origin: Origin, by: Pid) -> Heirs {
        let Some((acceptor, accepted_ms)) = origin.known() else { return Heirs::All };
        let acceptor = Pid(acceptor.cast_unsigned());
        if self.youngest_ms < accepted_ms && acceptor == by {
            return Heirs::None;
        }
        let may = |(pid, born_by_ms): (&Pid, &u64)| {
            let heir = *born_by_ms >= accepted_ms || (*pid == acceptor && acceptor != by);
            heir.then_some(*pid)
        };
        let heirs: Vec<Pid> = self.born_by_ms.iter().filter_map(may).collect();
        if heirs.is_empty() { Heirs::None } else { Heirs::Some(heirs) }
    }
}

/// What a look at one process has shown of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It has these fds of it, or none.
    Fds(Vec<i32>),
    /// The process does not let its fds be looked at.
    Hidden,
}

/// What the looks at all heirs come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody has the connection.
    Sole,
    /// Only fds that are being closed: look again.
    Closing,
    /// A process has it by this fd.
    Held(Name),
    /// This process cannot be looked at, so nobody can tell.
    Hidden(Pid),
}

/// Judges what was seen of a connection; `closing` are the fds of which was said that they are being closed.
pub fn judge(seen: &[(Pid, Sight)], closing: &[Name]) -> Verdict {
    let names = seen.iter().flat_map(|(pid, sight)| {
        let fds = if let Sight::Fds(fds) = sight { fds.as_slice() } else { &[] };
        fds.iter().map(|fd| Name { pid: *pid, fd: *fd })
    });
    let mut verdict = Verdict::Sole;
    for name in names {
        if !closing.contains(&name) {
            return Verdict::Held(name);
        }
        verdict = Verdict::Closing;
    }
    if verdict == Verdict::Closing {
        return verdict;
    }
    let hidden = seen.iter().find(|(_, sight)| *sight == Sight::Hidden);
    hidden.map_or(verdict, |(pid, _)| Verdict::Hidden(*pid))
}
