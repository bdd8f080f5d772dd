//! What it means when the program gets, copies, passes, shuts down or closes a connection.

use super::shares::Shares;
use super::table::{Gone, Table, Taken, Unhold};
use super::word::{Epolls, Exec, OpenFd, Phase, Record};

/// What a close of an fd means.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Nothing is to be done: the fd is no tracked connection, or this process has other fds of the connection, or
    /// another process is to end it.
    Leave,
    /// A fork is under way, so nobody can tell whether the child will have the connection: ask again soon. A signal handler
    /// in the middle of its own thread's fork would ask in vain, so after a bound ask with `insist`.
    Wait,
    /// The table's connection was closed earlier, unseen by the library. The supervisor is to drop its fd of it;
    /// nothing else is to be done.
    Unhold(Unhold),
    /// This process's last fd; another process still holds the connection.
    Shared(Option<Unhold>),
    /// This process's last fd of what was handed over at a `shutdown`: take it out of the epolls, and drop what is held.
    Handed(Epolls, Option<Unhold>),
    /// The last fd of all: ask the socket, and [`fate`](crate::fate()) how to end it.
    Last(Last),
}

/// A connection that ends with the fd that is closed.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// The connection's.
    pub cookie: u64,
    /// The supervisor has an fd of it already.
    pub held: bool,
    /// Which epolls watch the connection. The supervisor's fd keeps its file open, so the kernel would go on reporting
    /// events to a program that has closed the connection.
    pub epolls: Epolls,
}

impl Last {
    /// What the supervisor must be told if it is closed plainly.
    pub fn unhold(&self) -> Option<Unhold> {
        self.held.then_some(Unhold { cookie: self.cookie })
    }
}

/// What a `shutdown` of both sides means.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// It is the program's own affair.
    Leave,
    /// The supervisor has it already.
    Done,
    /// If the peer may still send, half-close and hand over under this cookie, then call [`Table::handed`]. Pass an fd
    /// even if the supervisor holds one: a fork or an `execve` in another thread may cause the supervisor to drop it
    /// meanwhile.
    HandOver {
        /// The connection's.
        cookie: u64,
    },
}

impl<const N: usize> Table<N> {
    /// The program has accepted a connection, or connected one. `held` says that the supervisor has an fd of it.
    pub fn accepted(&self, fd: i32, cookie: u64, held: bool, shares: Shares<'_>) -> Option<Unhold> {
        if let Some(open) = self.open(fd)
            && self.cookie(open.connection) == Some(cookie)
        {
            // A second `connect` of the same socket.
            self.update(open.connection, |record| Some(Record { held: record.held || held, ..record }));
            return None;
        }
        // If the table still has another connection at this fd, that one was closed unseen by the library: remove it
        // first.
        let stale =
            if let Taken::Fd(stale) = self.take(fd, true) { self.forget(stale, shares) } else { None };
        match self.claim(fd, cookie, held) {
            Some(connection) => {
                stale.or(self.publish(fd, connection).and_then(|stale| self.forget(stale, shares)))
            }
            None => stale.or(held.then_some(Unhold { cookie })),
        }
    }

    /// The program has received a connection in an SCM_RIGHTS message. The table may know the connection already, if
    /// this process has sent it or received it before.
    pub fn received(&self, fd: i32, cookie: u64, held: bool, shares: Shares<'_>) -> Option<Unhold> {
        let Some(connection) = self.find(cookie) else { return self.accepted(fd, cookie, held, shares) };
        // Two records stay as they are. Where an `execve` is under way, it has been decided what the call means for the
        // connection. Where a fork is under way and all counters are in use, the child gets the connection uncounted:
        // no process can know that it is the last holder, so none ends it.
        let uncounted =
            |record: &Record| record.exec != Exec::None || record.joined && record.share.is_none();
        let before = self.update(connection, |record| {
            if uncounted(&record) {
                return Some(record);
            }
            let phase = if record.phase == Phase::Given { Phase::Ours } else { record.phase };
            Some(Record { held: record.held || held, phase, ..record })
        });
        let stale = self.publish(fd, connection).and_then(|stale| self.forget(stale, shares));
        let refused = before.is_some_and(|record| uncounted(&record)) && held;
        stale.or(refused.then_some(Unhold { cookie }))
    }

    /// The program has made `new` another fd of the connection at `old`. If `new` is beyond the table's end, its close
    /// would not be seen. No process can then know which close is the last, so none ends the connection.
    pub fn copied(&self, old: i32, new: i32, shares: Shares<'_>) -> Option<Unhold> {
        let open = self.open(old)?;
        if !self.has_room_for(new) {
            return self.give(open.connection);
        }
        self.update(open.connection, |record| Some(Record { fds: record.fds + 1, ..record }))?;
        self.publish(new, open.connection).and_then(|stale| self.forget(stale, shares))
    }

    /// The program gives the connection to another process, or to a program that it spawns. The receiver is to end the
    /// connection; this process closes it plainly.
    pub fn given_away(&self, fd: i32) -> Option<Unhold> {
        let Taken::Fd(open) = self.take(fd, true) else { return None };
        let unhold = self.give(open.connection);
        self.let_go(open);
        unhold
    }

    /// A connection is not this process's to end from here on.
    fn give(&self, connection: usize) -> Option<Unhold> {
        let given = |record| Some(Record { phase: Phase::Given, held: false, ..record });
        let before = self.update(connection, given)?;
        let cookie = self.cookie(connection)?;
        before.is_held().then_some(Unhold { cookie })
    }

    /// An epoll watches the fd.
    pub fn watched(&self, fd: i32, epoll: i32) {
        self.change(fd, |open| {
            let epolls = match open.epolls {
                Epolls::Unknown => Epolls::One(epoll),
                Epolls::One(known) if known == epoll => open.epolls,
                _ => Epolls::Many,
            };
            OpenFd { epolls, ..open }
        });
    }

    /// The program closes an fd, whose cookie the kernel gives as `cookie`. This is to be asked before the close itself.
    pub fn close(&self, fd: i32, cookie: Option<u64>, shares: Shares<'_>, insist: bool) -> Close {
        let open = match self.take(fd, insist) {
            Taken::Nothing => return Close::Leave,
            Taken::Forking => return Close::Wait,
            Taken::Fd(open) => open,
        };
        let Some(gone) = self.let_go(open).filter(Gone::was_last) else { return Close::Leave };
        let left = self.leave(&gone, shares);
        if cookie != Some(gone.cookie) {
            return gone.unhold().map_or(Close::Leave, Close::Unhold);
        }
        match gone.record.phase {
            Phase::Given => Close::Leave,
            // An `execve` under way has announced it.
            _ if matches!(gone.record.exec, Exec::LeftToOthers | Exec::Announced(_)) => Close::Leave,
            _ if left.handed => Close::Handed(gone.epolls, gone.unhold()),
            _ if left.others => Close::Shared(gone.unhold()),
            _ => Close::Last(Last { cookie: gone.cookie, held: gone.record.is_held(), epolls: gone.epolls }),
        }
    }

    /// The program shuts both sides down.
    pub fn shutdown(&self, fd: i32, cookie: Option<u64>, shares: Shares<'_>) -> Shutdown {
        let Some(open) = self.open(fd) else { return Shutdown::Leave };
        let (Some(record), known) = (self.record(open.connection), self.cookie(open.connection)) else {
            return Shutdown::Leave;
        };
        match (record.phase, cookie) {
            (Phase::Given, _) | (_, None) => Shutdown::Leave,
            _ if cookie != known => Shutdown::Leave,
            (Phase::Handed, _) => Shutdown::Done,
            _ if record.share.is_some_and(|share| shares.is_handed(share)) => Shutdown::Done,
            (Phase::Ours, Some(cookie)) => Shutdown::HandOver { cookie },
        }
    }

    /// The supervisor has taken the connection that a `shutdown` half-closed. Returns whether the caller is to count
    /// it: if two threads shut it down at the same time, one of them gets `true`.
    pub fn handed(&self, fd: i32, shares: Shares<'_>) -> bool {
        let Some(open) = self.open(fd) else { return false };
        // Nothing is held from now on: with the message the supervisor has taken the connection over, to end it.
        let handed = |record| Some(Record { phase: Phase::Handed, held: false, ..record });
        let Some(before) = self.update(open.connection, handed) else { return false };
        // An `execve` under way in another thread may have counted it.
        let counted = before.phase != Phase::Ours || matches!(before.exec, Exec::Announced(_));
        !counted && before.share.is_none_or(|share| shares.hand(share))
    }
}
