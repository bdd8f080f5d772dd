//! Connections that were open at a fork: the last process to close one ends it.

use super::shares::Shares;
use super::table::{Table, Taken, Unhold};
use super::word::{Phase, Record};
use crate::sync::{Acquire, Relaxed, Release};

impl<const N: usize> Table<N> {
    /// Notes that a fork or an `execve` begins. Returns `false` if another thread's fork or `execve` is still under way:
    /// a fork must not count the child as a holder of a connection that an `execve` is giving up.
    pub fn begins(&self) -> bool {
        self.under_way.compare_exchange(0, 1, Acquire, Relaxed).is_ok()
    }

    /// Notes that the fork or `execve` is over: it has failed, or there is a child.
    pub(super) fn ends(&self) {
        // Release, for the Acquire in `begins`: the next fork must not see a connection as counted for this fork.
        self.under_way.store(0, Release);
    }

    /// To be called in the parent, before the fork, for each fd. Counts the child as a holder already, so that the
    /// parent cannot end a connection that the child is about to inherit.
    pub fn prepare(&self, fd: i32, shares: Shares<'_>) -> Option<Unhold> {
        // Marked first: from then on no other thread closes it.
        self.mark_forking(fd, true);
        let open = self.open(fd)?;
        let record = self.record(open.connection)?;
        // A connection that was given away is counted too, because another thread may receive it back before the child
        // exists.
        if record.joined {
            return None;
        }
        match record.share {
            Some(share) if shares.join(share) => {
                self.update(open.connection, |record| Some(Record { joined: true, ..record }));
                None
            }
            _ => {
                let handed = record.phase == Phase::Handed;
                let share = shares.begin(open.connection, handed);
                // Without a counter no process knows that it is the last holder, so none ends the connection.
                let phase = if share.is_some() { record.phase } else { Phase::Given };
                let held = record.held && share.is_some();
                self.update(open.connection, |record| {
                    Some(Record { share, joined: true, phase, held, ..record })
                });
                (record.held && !held)
                    .then(|| self.cookie(open.connection).map(|cookie| Unhold { cookie }))
                    .flatten()
            }
        }
    }

    /// To be called in the parent after the fork, whether or not there is a child.
    pub fn parent(&self) {
        for fd in self.fds(0, i32::MAX) {
            if let Some(open) = self.open(fd) {
                self.update(open.connection, |record| {
                    record.joined.then_some(Record { joined: false, ..record })
                });
            }
            self.mark_forking(fd, false);
        }
        self.ends();
    }

    /// In the child, whose process this is.
    pub fn child(&self, process: i32) {
        self.belongs_to(process);
        for fd in self.fds(0, i32::MAX) {
            match self.open(fd) {
                Some(open) if open.forking => self.mark_forking(fd, false),
                // Another thread of the parent got this connection after the fds were prepared, so the child is not
                // counted as a holder. The child forgets the connection; only the parent ends it.
                _ => drop(self.take(fd, true)),
            }
        }
        self.recount();
        self.ends();
    }

    /// In the child, for each fd, whose cookie the kernel gives: whether the supervisor is to hold it for this process, too.
    pub fn child_holds(&self, fd: i32, cookie: Option<u64>, shares: Shares<'_>) -> bool {
        let Some(open) = self.open(fd) else { return false };
        if cookie.is_none() || cookie != self.cookie(open.connection) {
            // Closed behind the library's back. The supervisor holds nothing for this process yet.
            if let Taken::Fd(stale) = self.take(fd, true) {
                let _ = self.forget(stale, shares);
            }
            return false;
        }
        // A connection that another process, or the supervisor, is to end is not held for this process.
        let ours = |record: Record| Record { held: record.held && record.phase == Phase::Ours, ..record };
        self.update(open.connection, |record| Some(ours(record))).is_some_and(|record| ours(record).held)
    }

    /// The supervisor does not hold it for this process.
    pub fn not_held(&self, fd: i32) {
        if let Some(open) = self.open(fd) {
            self.update(open.connection, |record| Some(Record { held: false, ..record }));
        }
    }
}
