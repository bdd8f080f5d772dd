//! What an `execve` closes, and what must be taken back where it fails.
//!
//! Like a fork, an `execve` [begins](Table::begins) only while no other fork or `execve` is under way. No code of this
//! program runs after an `execve` that succeeds, so the supervisor must be told everything before the call. All fds are
//! gone through twice, because a connection is given up only if none of its fds survives.

use super::close::Last;
use super::shares::Shares;
use super::table::{Gone, Table, Taken, Unhold};
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
    /// The supervisor is to hold it again under this cookie; where it does not, say [`Table::not_held`].
    pub hold: Option<u64>,
    /// It was counted for this reason.
    pub uncount: Option<Count>,
}

impl<const N: usize> Table<N> {
    /// Before an `execve`, for each fd: whether it closes this one. What the next program inherits does not end with this one.
    ///
    /// A connection that another thread opens after this is left alone, because nobody knows whether its fd survives
    /// the `execve`.
    pub fn will_close(&self, fd: i32, closes: bool) -> Option<Unhold> {
        let open = self.open(fd)?;
        let change = |record: Record| {
            let exec = if closes && record.exec != Exec::Survives { Exec::Closes } else { Exec::Survives };
            Some(Record { exec, ..record })
        };
        let before = self.update(open.connection, change)?;
        let cookie = self.cookie(open.connection)?;
        (!closes && before.is_held()).then_some(Unhold { cookie })
    }

    /// Before an `execve`, for each fd, once [`will_close`](Self::will_close) has been said of all.
    pub fn executes(&self, fd: i32, cookie: Option<u64>, shares: Shares<'_>) -> Executes {
        let Some(open) = self.open(fd) else { return Executes::Leave };
        let Some(known) = self.cookie(open.connection) else { return Executes::Leave };
        if cookie != Some(known) {
            // Closed behind the library's back.
            let Taken::Fd(stale) = self.take(fd, true) else { return Executes::Leave };
            return self.forget(stale, shares).map_or(Executes::Leave, Executes::Unhold);
        }
        // Mark the connection first: from here on a close by another thread does not end it.
        let claim = |record: Record| {
            let free = record.exec == Exec::Closes && record.phase != Phase::Given;
            free.then_some(Record { exec: Exec::LeftToOthers, ..record })
        };
        let Some(record) = self.update(open.connection, claim) else { return Executes::Leave };
        let left = self.leave(&Gone { record, cookie: known, epolls: open.epolls }, shares);
        if left.others {
            let held = record.is_held() && record.phase == Phase::Ours;
            return if held { Executes::Unhold(Unhold { cookie: known }) } else { Executes::Leave };
        }
        // The last holder needs no counter.
        let (exec, phase) =
            if left.handed { (Exec::None, Phase::Handed) } else { (Exec::LeftToOthers, Phase::Ours) };
        self.update(open.connection, |record| Some(Record { share: None, exec, phase, ..record }));
        if left.handed {
            return Executes::Leave;
        }
        Executes::Last(Last { cookie: known, held: record.is_held(), epolls: open.epolls })
    }

    /// What was counted for the last fd of a connection that the `execve` closes.
    pub fn announced(&self, fd: i32, reason: Count) {
        if let Some(open) = self.open(fd) {
            let announced = |record| Some(Record { exec: Exec::Announced(reason), ..record });
            self.update(open.connection, announced);
        }
    }

    /// The `execve` has failed, and all has been taken back.
    pub fn goes_on(&self) {
        self.ends();
    }

    /// The `execve` has failed: for each fd.
    pub fn failed_to_execute(&self, fd: i32, cookie: Option<u64>, shares: Shares<'_>) -> TakenBack {
        let nothing = TakenBack::default();
        let Some(open) = self.open(fd) else { return nothing };
        // If this fd is no longer the connection, nothing is taken back here: the call for another fd of the connection
        // does it.
        let Some(cookie) = cookie.filter(|cookie| self.cookie(open.connection) == Some(*cookie)) else {
            return nothing;
        };
        let none = |record| Some(Record { exec: Exec::None, ..record });
        let Some(record) = self.update(open.connection, none) else { return nothing };
        let hold = (record.held && record.phase == Phase::Ours).then_some(cookie);
        match record.exec {
            Exec::None | Exec::Closes => nothing,
            Exec::Survives => TakenBack { hold, ..nothing },
            Exec::LeftToOthers if record.share.is_some_and(|share| shares.join(share)) => {
                TakenBack { hold, ..nothing }
            }
            Exec::LeftToOthers => {
                // All other processes have closed the connection meanwhile, and the last of them has ended it.
                self.update(open.connection, |record| {
                    Some(Record { phase: Phase::Handed, held: false, ..record })
                });
                nothing
            }
            Exec::Announced(reason) => {
                let announced = reason == Count::Handed && !record.held;
                let unhold = announced.then_some(Unhold { cookie });
                // What a `shutdown` has handed over meanwhile stays counted.
                let uncount = (record.phase == Phase::Ours).then_some(reason);
                TakenBack { unhold, uncount, hold }
            }
        }
    }
}
