//! What it means when the program gets, copies, passes, shuts down or closes a connection.

use super::table::{FoundAt, Gone, Table, Unhold};
use super::word::{Epolls, Exec, OpenFd, Phase, Record};
use crate::Origin;

/// What a close of an fd means.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Nothing is to be done: the fd is no tracked connection, or this process has other fds of the connection, or
    /// another process is to end it.
    Leave,
    /// The table has a connection at this fd, but that connection was closed earlier in a way that the library did not see.
    /// The supervisor is to drop the fd that it holds of that connection; nothing else is to be done.
    Unhold(Unhold),
    /// An fd of a connection that a `shutdown` has handed over, and either this process's last one or one that an epoll
    /// watches: remove it from these epolls before the close. After the close no call can.
    Handed(Epolls),
    /// This process's last fd: ask the socket for its state, and [`fate`](crate::fate()) how to end the connection. Whether
    /// another process has an fd of it is for the supervisor to find out.
    Last(Last),
}

/// A connection of which this process closes its last fd.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// The connection's cookie.
    pub cookie: u64,
    /// Which process accepted it, and when.
    pub origin: Origin,
    /// The supervisor has an fd of it already.
    pub held: bool,
    /// Which epolls watch the connection. The supervisor's fd keeps its file open, so the kernel would go on reporting
    /// events to a program that has closed the connection.
    pub epolls: Epolls,
    /// An epoll has the connection under an fd that was closed before this one. No call removes such a registration; the
    /// kernel drops it with the last reference to the file. If the supervisor's fd kept the file open, the epoll would go on
    /// to report a connection that the program has closed and forgotten. So close it plainly, unless the process is ending.
    pub stray: bool,
}

impl Last {
    pub(super) const fn of(gone: &Gone) -> Self {
        let Gone { record, cookie, origin, epolls } = *gone;
        Self { cookie, origin, held: record.is_held(), epolls, stray: record.stray }
    }

    /// What the supervisor must be told if the connection is closed plainly.
    pub fn unhold(&self) -> Option<Unhold> {
        self.held.then_some(Unhold { cookie: self.cookie })
    }
}

/// What a `shutdown` of both sides means.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Nothing is to be done: let the program's own `shutdown` happen.
    Leave,
    /// The supervisor has the connection already.
    Done,
    /// Ask the kernel about the socket. If the peer has sent its FIN, or the connection is over, let the program's own
    /// `shutdown` happen. Otherwise half-close, send the supervisor an fd with this cookie, and if it was sent, call
    /// [`Table::handed`]. Send an fd even if the supervisor holds one: a fork or an `execve` in another thread may make it
    /// drop its own meanwhile.
    HandOver {
        /// The connection's cookie.
        cookie: u64,
    },
}

impl<const N: usize> Table<N> {
    /// The program has accepted a connection, or connected one. `held` says that the supervisor has an fd of it. Returns the
    /// fd that the supervisor is to drop, if any: of this connection if there is no room for it, or of one that was closed
    /// unseen.
    pub fn accepted(&self, fd: i32, cookie: u64, origin: Origin, held: bool) -> Option<Unhold> {
        if let Some(open) = self.open(fd)
            && self.cookie(open.connection) == Some(cookie)
        {
            // A second `connect` of the same socket.
            return self.again(open.connection, held, |record| record);
        }
        // If the table still has another connection at this fd, that one was closed unseen by the library: remove it
        // first.
        let stale = self.take(fd).and_then(|stale| self.forget(stale));
        match self.claim(fd, cookie, origin, held) {
            Some(connection) => stale.or(self.publish(fd, connection).and_then(|stale| self.forget(stale))),
            None => stale.or(held.then_some(Unhold { cookie })),
        }
    }

    /// The program has received a connection in an SCM_RIGHTS message. The table may know the connection already, if
    /// this process has sent it or received it before: `found` is then the result of [`find`](Self::find).
    pub fn received(&self, fd: i32, cookie: u64, held: bool, found: Option<FoundAt>) -> Option<Unhold> {
        let Some(connection) = found.and_then(|found| self.hold(found, cookie)) else {
            return self.accepted(fd, cookie, Origin::UNKNOWN, held);
        };
        let unhold = self.again(connection, held, |record| {
            let phase = if record.phase == Phase::Given { Phase::Ours } else { record.phase };
            Record { phase, received: true, ..record }
        });
        let stale = self.publish(fd, connection).and_then(|stale| self.forget(stale));
        stale.or(unhold)
    }

    /// Applies `change` to the record of a connection that was in the table before the program got it again. `held` says that
    /// the supervisor has taken an fd of it. Returns that fd, to be dropped, unless the connection is in [`Phase::Ours`] after
    /// the change.
    fn again(&self, connection: usize, held: bool, change: impl Fn(Record) -> Record) -> Option<Unhold> {
        let before = self.update(connection, |record| {
            let record = change(record);
            Some(Record { held: record.held || held && record.phase == Phase::Ours, ..record })
        })?;
        let refused = held && change(before).phase != Phase::Ours;
        refused.then_some(Unhold { cookie: self.cookie(connection)? })
    }

    /// The program has made `new` another fd of the connection at `old`. If `new` is beyond the table's end, its close
    /// would not be seen. No process can then know which close is the last, so none ends the connection.
    pub fn copied(&self, old: i32, new: i32) -> Option<Unhold> {
        let open = self.open(old)?;
        if !self.has_room_for(new) {
            return self.give(open.connection);
        }
        self.update(open.connection, |record| Some(Record { fds: record.fds + 1, ..record }))?;
        self.publish(new, open.connection).and_then(|stale| self.forget(stale))
    }

    /// The program gives the connection to another process, or to a program that it spawns. The receiver is to end the
    /// connection; this process closes it plainly.
    pub fn given_away(&self, fd: i32) -> Option<Unhold> {
        let open = self.take(fd)?;
        let unhold = self.give(open.connection);
        self.let_go(open);
        unhold
    }

    /// Notes that this process is no longer to end a connection.
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
            OpenFd { epolls, registered: true, ..open }
        });
    }

    /// An epoll watches the fd no more. If other epolls have watched it, one of them may still do so.
    pub fn unwatched(&self, fd: i32, epoll: i32) {
        self.change(fd, |open| {
            let registered = open.registered && open.epolls != Epolls::One(epoll);
            OpenFd { registered, ..open }
        });
    }

    /// Takes an fd out of the table, and says what its close means; `cookie` is what the kernel gives for the fd. Called
    /// before the close itself.
    pub fn close(&self, fd: i32, cookie: Option<u64>) -> Close {
        let Some(open) = self.take(fd) else { return Close::Leave };
        let Some(gone) = self.let_go(open) else { return Close::Leave };
        if !gone.was_last() {
            let handed = gone.record.phase == Phase::Handed && open.registered && cookie == Some(gone.cookie);
            return if handed { Close::Handed(gone.epolls) } else { Close::Leave };
        }
        if cookie != Some(gone.cookie) {
            return gone.unhold().map_or(Close::Leave, Close::Unhold);
        }
        match gone.record.phase {
            Phase::Given => Close::Leave,
            // An `execve` under way has announced this close, or is about to.
            _ if matches!(gone.record.exec, Exec::Claimed | Exec::Announced(_)) => Close::Leave,
            Phase::Handed => Close::Handed(gone.epolls),
            Phase::Ours => Close::Last(Last::of(&gone)),
        }
    }

    /// The program shuts both sides down.
    pub fn shutdown(&self, fd: i32, cookie: Option<u64>) -> Shutdown {
        let Some(open) = self.open(fd) else { return Shutdown::Leave };
        let (Some(record), known) = (self.record(open.connection), self.cookie(open.connection)) else {
            return Shutdown::Leave;
        };
        match (record.phase, cookie) {
            (Phase::Given, _) | (_, None) => Shutdown::Leave,
            _ if cookie != known => Shutdown::Leave,
            // See `Last::stray`.
            (Phase::Ours, _) if record.stray => Shutdown::Leave,
            (Phase::Handed, _) => Shutdown::Done,
            (Phase::Ours, Some(cookie)) => Shutdown::HandOver { cookie },
        }
    }

    /// The supervisor has taken the connection that a `shutdown` half-closed.
    pub fn handed(&self, fd: i32) {
        let Some(open) = self.open(fd) else { return };
        // The supervisor has received the connection, and ends it: the fd that it has held since the accept is no longer held for
        // this process.
        self.update(open.connection, |record| Some(Record { phase: Phase::Handed, held: false, ..record }));
    }
}
