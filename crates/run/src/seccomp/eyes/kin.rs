//! Which processes are the program's.

use linger_custody::world::{Census, Pid};

use crate::kernel::least_of_own;
use crate::proc;
use crate::relatives::Relatives;

/// The processes of the program.
///
/// A process too many only costs time. If one is missing, a connection that it holds could be ended.
#[derive(Debug)]
pub(in crate::seccomp) enum Kin {
    /// All below this process, which adopts the orphans.
    Below,
    /// The program has the place of the process that was called, and this one is no ancestor of it.
    Beside(Box<Relatives>),
}

impl Kin {
    /// `beside` is the pid of the process whose place the program has taken, and the number of seccomp filters that it
    /// had before; `None` if the program is below this process. Call it in the thread that uses it.
    pub(in crate::seccomp) fn new(beside: Option<(u32, u32)>) -> Self {
        match beside {
            None => Self::Below,
            Some((root, filters)) => {
                Self::Beside(Box::new(Relatives::with_filter(root, filters, least_of_own())))
            }
        }
    }

    /// All of them, at a moment after this call began, with those that have `called`; `None` where they cannot be known.
    pub(in crate::seccomp) fn all(&mut self, called: impl Iterator<Item = u32>) -> Option<Vec<u32>> {
        match self {
            Self::Below => Some(proc::processes()),
            Self::Beside(relatives) => {
                let family = relatives.update()?;
                let others = called.filter(|pid| !family.contains(Pid(*pid)));
                Some(family.all().map(|Pid(pid)| pid).chain(others).collect())
            }
        }
    }
}

/// A census of these processes. Where they are not known, any may have any connection.
pub(in crate::seccomp) fn census_among(processes: Option<&[u32]>) -> Census {
    match processes {
        Some(processes) => proc::census_of(processes),
        None => Census { hidden: true, ..Census::default() },
    }
}
