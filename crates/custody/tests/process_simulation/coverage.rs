//! Which kind of event has met an entry in which state.

use std::fmt::Write as _;

use linger_custody::process::Phase;

use super::kernel::World;
use super::schedule::{KINDS, Kind};

/// How often an event met an entry in a state.
#[derive(Clone, Debug)]
pub(crate) struct Coverage(pub(crate) [[u64; STATES]; KINDS.len()]);

pub(crate) const STATES: usize = 9;

impl Default for Coverage {
    fn default() -> Self {
        Self([[0; STATES]; KINDS.len()])
    }
}

/// The name of a state's number.
pub(crate) fn state_name(state: usize) -> String {
    let Some(state) = state.checked_sub(1) else { return "untracked".into() };
    let mut name = String::from(match state {
        0..4 => "ours",
        4..6 => "handed",
        _ => "given",
    });
    for (bit, flag) in [(1, "+copied"), (2, "+held")] {
        if state & bit != 0 && (bit < 2 || state < 4) {
            name.push_str(flag);
        }
    }
    name
}

impl Coverage {
    pub(super) fn note(&mut self, kind: Kind, world: &World, process: usize, fd: usize) {
        let state = world.processes[process].table.entry(fd as i32).map_or(0, |entry| {
            let bits = usize::from(entry.fds > 1);
            1 + match entry.phase {
                Phase::Ours => bits | usize::from(entry.held) << 1,
                Phase::Handed => 4 + bits,
                Phase::Given => 6 + bits,
            }
        });
        self.0[kind as usize][state] += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (row, other) in self.0.iter_mut().zip(&other.0) {
            row.iter_mut().zip(other).for_each(|(count, other)| *count += other);
        }
    }

    /// The combinations that no schedule has reached, although one could.
    ///
    /// An event that concerns a whole process is counted for tracked fds only. A new fd is opened where there was none;
    /// a table entry found there comes from a close by a bare system call, which is rare, and counted only if `rare`.
    pub(crate) fn empty(&self, rare: bool) -> Vec<String> {
        let mut empty = Vec::new();
        for kind in KINDS.into_iter().filter(|kind| !matches!(kind, Kind::Go | Kind::Peer | Kind::RawClone)) {
            let whole = matches!(kind, Kind::Fork | Kind::Exec | Kind::FailedExec | Kind::Exit | Kind::Kill);
            let gets = matches!(kind, Kind::Accept | Kind::Receive) && !rare;
            let states = if gets { 0..1 } else { usize::from(whole)..STATES };
            let none = states.filter(|state| self.0[kind as usize][*state] == 0);
            empty.extend(none.map(|state| format!("{kind:?} of {}", state_name(state))));
        }
        empty
    }

    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let shown = KINDS.into_iter().filter(|kind| self.0[*kind as usize].iter().any(|count| *count > 0));
        let shown: Vec<Kind> = shown.collect();
        write!(text, "{:28}", "").unwrap();
        shown.iter().for_each(|kind| write!(text, "{:>13}", format!("{kind:?}")).unwrap());
        for state in 0..STATES {
            write!(text, "\n{:28}", state_name(state)).unwrap();
            shown.iter().for_each(|kind| write!(text, "{:>13}", self.0[*kind as usize][state]).unwrap());
        }
        text
    }
}
