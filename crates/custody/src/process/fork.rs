//! Connections that were open at a fork: the last process to close one ends it.

use super::shares::Shares;
use super::table::{Table, Unhold};
use super::word::{Phase, Record};
use crate::sync::{Acquire, Relaxed, Release};

impl<const N: usize> Table<N> {
    /// A fork begins; `false` while another thread's is under way, which would count with this one as one.
    pub fn fork_begins(&self) -> bool {
        self.fork.compare_exchange(0, 1, Acquire, Relaxed).is_ok()
    }

    /// In the parent, before, for each fd: counted now, so that the parent cannot end what the child is about to have.
    pub fn prepare(&self, fd: i32, shares: Shares<'_>) -> Option<Unhold> {
        // Marked first: from then on no other thread closes it.
        self.mark_forking(fd, true);
        let open = self.open(fd)?;
        let record = self.record(open.connection)?;
        if record.joined || record.phase == Phase::Given {
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
                // Without a counter nobody ends it.
                let phase = if share.is_some() { record.phase } else { Phase::Given };
                let held = record.held && share.is_some();
                self.update(open.connection, |record| {
                    Some(Record { share, joined: share.is_some(), phase, held, ..record })
                });
                (record.held && !held)
                    .then(|| self.cookie(open.connection).map(|cookie| Unhold { cookie }))
                    .flatten()
            }
        }
    }

    /// In the parent, after, whether or not there is a child.
    pub fn parent(&self) {
        for fd in self.fds(0, i32::MAX) {
            if let Some(open) = self.open(fd) {
                self.update(open.connection, |record| {
                    record.joined.then_some(Record { joined: false, ..record })
                });
            }
            self.mark_forking(fd, false);
        }
        // Release, for the next fork's Acquire: it must not see a connection as counted for this one.
        self.fork.store(0, Release);
    }

    /// In the child, whose process this is.
    pub fn child(&self, process: i32) {
        self.belongs_to(process);
        for fd in self.fds(0, i32::MAX) {
            match self.open(fd) {
                Some(open) if open.forking => self.mark_forking(fd, false),
                // Got by another thread after it was prepared: the parent's alone.
                _ => drop(self.take(fd, true)),
            }
        }
        self.recount();
        self.fork.store(0, Relaxed);
    }

    /// In the child, for each fd: the cookie under which the supervisor is to hold it for this process, too.
    pub fn child_holds(&self, fd: i32) -> Option<u64> {
        let open = self.open(fd)?;
        let record = self.record(open.connection)?;
        let wanted = record.held && record.phase == Phase::Ours;
        wanted.then(|| self.cookie(open.connection)).flatten()
    }

    /// The supervisor does not hold it for this process.
    pub fn not_held(&self, fd: i32) {
        if let Some(open) = self.open(fd) {
            self.update(open.connection, |record| Some(Record { held: false, ..record }));
        }
    }
}
