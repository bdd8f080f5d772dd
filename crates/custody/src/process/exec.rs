//! What an `execve` closes, and what must be taken back where it fails.
//!
//! An `execve` [begins](Table::begins) only while no other is under way. No code of this program runs after an `execve` that
//! succeeds, so the supervisor must be told everything before the call. There are two passes over all fds, because the
//! close of a connection is announced only if none of its fds survives: [`Table::will_close`], then [`Table::executes`].

use super::close::Last;
use super::table::{Gone, Table, Unhold};
use super::word::{Exec, Phase, Record};
use crate::Count;
use crate::sync::{Acquire, Relaxed, Release};

/// What an `execve` means for a connection.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executes {
    /// Nothing.
    Leave,
    /// It was closed earlier, unseen by the library: the supervisor is to drop its fd.
    Unhold(Unhold),
    /// The `execve` closes this process's last fd: announce that as at an exit, then call [`Table::announced`] with the
    /// reason under which it was counted.
    Last(Last),
}

/// What is taken back when an `execve` has failed.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenBack {
    /// The supervisor is to drop the fd that it got with the announcement.
    pub unhold: Option<Unhold>,
    /// The supervisor is to hold an fd again under this cookie; if it does not, call [`Table::not_held`].
    pub hold: Option<u64>,
    /// The close was counted for this reason: take that back.
    pub uncount: Option<Count>,
}

impl<const N: usize> Table<N> {
    /// Notes that an `execve` begins. Returns `false` if another thread's `execve` is still under way.
    pub fn begins(&self) -> bool {
        self.under_way.compare_exchange(0, 1, Acquire, Relaxed).is_ok()
    }

    /// Called before an `execve`, for each fd: `closes` says whether the call closes this one. A connection of which
    /// the next program inherits an fd does not end. If the supervisor holds an fd of it, that fd is returned to be dropped,
    /// because no code of this program runs after the call and could report the last close.
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

    /// Called before an `execve`, for each fd, after [`will_close`](Self::will_close) for all of them.
    pub fn executes(&self, fd: i32, cookie: Option<u64>) -> Executes {
        let Some(open) = self.open(fd) else { return Executes::Leave };
        let Some(known) = self.cookie(open.connection) else { return Executes::Leave };
        if cookie != Some(known) {
            // The program has closed this fd without the library's knowledge.
            let stale = self.take(fd).and_then(|stale| self.forget(stale));
            return stale.map_or(Executes::Leave, Executes::Unhold);
        }
        // Mark the connection first: from here on a close by another thread does not end it.
        let claim = |record: Record| {
            let free = record.exec == Exec::Closes && record.phase == Phase::Ours;
            free.then_some(Record { exec: Exec::Claimed, ..record })
        };
        let Some(record) = self.update(open.connection, claim) else { return Executes::Leave };
        let Some(origin) = self.origin(open.connection, &record) else { return Executes::Leave };
        Executes::Last(Last::of(&Gone { record, cookie: known, origin, epolls: open.epolls }))
    }

    /// Notes that the close of a connection by the `execve` was announced, and counted for this reason.
    pub fn announced(&self, fd: i32, reason: Count) {
        if let Some(open) = self.open(fd) {
            let announced = |record| Some(Record { exec: Exec::Announced(reason), ..record });
            self.update(open.connection, announced);
        }
    }

    /// Notes that a failed `execve` is over: everything has been taken back.
    pub fn goes_on(&self) {
        // Release, for the next one's Acquire: it must see all that was taken back.
        self.under_way.store(0, Release);
    }

    /// Called for each fd after a failed `execve`. Returns what is to be taken back.
    pub fn failed_to_execute(&self, fd: i32, cookie: Option<u64>) -> TakenBack {
        let nothing = TakenBack::default();
        let Some(open) = self.open(fd) else { return nothing };
        // If this fd is another file by now, nothing is taken back here: the call for another fd of the connection does it.
        let Some(cookie) = cookie.filter(|cookie| self.cookie(open.connection) == Some(*cookie)) else {
            return nothing;
        };
        let none = |record: Record| Some(Record { exec: Exec::None, ..record });
        let Some(record) = self.update(open.connection, none) else { return nothing };
        let hold = record.held.then_some(cookie);
        match record.exec {
            Exec::None | Exec::Closes | Exec::Claimed => nothing,
            Exec::Survives => TakenBack { hold, ..nothing },
            Exec::Announced(reason) => {
                let announced = reason == Count::Handed && !record.held;
                let unhold = announced.then_some(Unhold { cookie });
                // A connection that a `shutdown` has handed over meanwhile stays counted.
                let uncount = (record.phase == Phase::Ours).then_some(reason);
                TakenBack { unhold, uncount, hold }
            }
        }
    }
}
