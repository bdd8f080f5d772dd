//! What an `execve` closes, and what must be taken back where it fails.
//!
//! No code of this program runs after an `execve` that succeeds, so everything is said before. Each fd is gone through twice:
//! a connection is let go of only if no fd of it survives.

use super::close::Last;
use super::shares::Shares;
use super::table::{Gone, Table, Unhold};
use super::word::{Exec, Phase, Record};
use crate::Count;

/// What an `execve` means for a connection.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executes {
    /// Nothing.
    Leave,
    /// The next program inherits it, or another process holds it: it is not ended with this process.
    Unhold(Unhold),
    /// Its last fd is closed: announce it as for an exit, and say what was counted to [`Table::announced`].
    Last(Last),
}

/// What is taken back when an `execve` has failed.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenBack {
    /// The supervisor is to drop what was announced.
    pub unhold: Option<Unhold>,
    /// It was counted for this reason.
    pub uncount: Option<Count>,
}

impl<const N: usize> Table<N> {
    /// Before an `execve` that leaves this fd open.
    pub fn survives(&self, fd: i32) {
        if let Some(open) = self.open(fd) {
            self.update(open.connection, |record| Some(Record { exec: Exec::Survives, ..record }));
        }
    }

    /// Before an `execve`, for each fd, once all that survive have been named.
    pub fn executes(&self, fd: i32, cookie: Option<u64>, shares: Shares<'_>) -> Executes {
        let Some(open) = self.open(fd) else { return Executes::Leave };
        let (Some(record), Some(known)) = (self.record(open.connection), self.cookie(open.connection)) else {
            return Executes::Leave;
        };
        let unhold = record.held.then_some(Unhold { cookie: known });
        let not_held = |exec| {
            self.update(open.connection, |record| Some(Record { exec, held: false, ..record }));
            unhold.map_or(Executes::Leave, Executes::Unhold)
        };
        if record.exec == Exec::Survives {
            return not_held(Exec::Survives);
        }
        if cookie != Some(known) {
            return Executes::Leave;
        }
        // Claimed first: a close by another thread leaves it alone from here on.
        let claim = |record: Record| {
            let free = record.exec == Exec::None && record.phase != Phase::Given;
            free.then_some(Record { exec: Exec::LeftToOthers, ..record })
        };
        let Some(record) = self.update(open.connection, claim) else { return Executes::Leave };
        let left = self.leave(&Gone { record, cookie: known, epolls: open.epolls }, shares);
        if left.others {
            return not_held(Exec::LeftToOthers);
        }
        // The last holder needs no counter.
        let (exec, phase) =
            if left.handed { (Exec::None, Phase::Handed) } else { (Exec::LeftToOthers, Phase::Ours) };
        self.update(open.connection, |record| Some(Record { share: None, exec, phase, ..record }));
        if left.handed {
            return Executes::Leave;
        }
        Executes::Last(Last { cookie: known, held: record.held, epolls: open.epolls })
    }

    /// What was counted for the last fd of a connection that the `execve` closes.
    pub fn announced(&self, fd: i32, reason: Count) {
        if let Some(open) = self.open(fd) {
            self.update(open.connection, |record| {
                // What is closed plainly is not held on.
                let held = record.held && reason == Count::Handed;
                Some(Record { exec: Exec::Announced(reason), held, ..record })
            });
        }
    }

    /// The `execve` has failed: for each fd.
    pub fn failed_to_execute(&self, fd: i32, shares: Shares<'_>) -> TakenBack {
        let Some(open) = self.open(fd) else { return TakenBack::default() };
        let none = |record| Some(Record { exec: Exec::None, ..record });
        let (Some(record), Some(cookie)) = (self.update(open.connection, none), self.cookie(open.connection))
        else {
            return TakenBack::default();
        };
        match record.exec {
            Exec::None | Exec::Survives => TakenBack::default(),
            Exec::LeftToOthers => {
                // Where all others have closed it meanwhile, it has ended.
                if !record.share.is_some_and(|share| shares.join(share)) {
                    self.update(open.connection, |record| {
                        Some(Record { share: None, phase: Phase::Handed, ..record })
                    });
                }
                TakenBack::default()
            }
            Exec::Announced(reason) => {
                let announced = reason == Count::Handed && !record.held;
                let unhold = announced.then_some(Unhold { cookie });
                TakenBack { unhold, uncount: Some(reason) }
            }
        }
    }
}
