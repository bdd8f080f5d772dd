//! What a forked child knows of the connections that it has inherited.

use super::table::Table;
use super::word::Record;
use crate::sync::Relaxed;

impl<const N: usize> Table<N> {
    /// In the child, whose process this is. The memory is the parent's at the moment of the fork, in which other threads may
    /// have been in the middle of something.
    pub fn child(&self, process: i32) {
        self.belongs_to(process);
        self.recount();
        self.under_way.store(0, Relaxed);
    }

    /// In the child, for each fd, whose cookie the kernel gives: whether the supervisor is to hold it for this process, too.
    pub fn child_holds(&self, fd: i32, cookie: Option<u64>) -> bool {
        let Some(open) = self.open(fd) else { return false };
        if cookie.is_none() || cookie != self.cookie(open.connection) {
            // Closed behind the library's back. The supervisor holds nothing for this process yet.
            let _ = self.take(fd).and_then(|stale| self.forget(stale));
            return false;
        }
        self.record(open.connection).is_some_and(|record| record.held)
    }

    /// The supervisor does not hold it for this process.
    pub fn not_held(&self, fd: i32) {
        if let Some(open) = self.open(fd) {
            self.update(open.connection, |record| Some(Record { held: false, ..record }));
        }
    }
}
