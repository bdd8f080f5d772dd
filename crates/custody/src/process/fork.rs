//! What a forked child knows of the connections that it has inherited.

use super::table::Table;
use super::word::Record;
use crate::sync::Relaxed;

impl<const N: usize> Table<N> {
    /// Called in the child, whose pid is `process`. The memory is a copy of the parent's at the moment of the fork,
    /// when other threads may have been in the middle of a change.
    pub fn child(&self, process: i32) {
        self.belongs_to(process);
        self.recount();
        self.under_way.store(0, Relaxed);
    }

    /// Called in the child for each fd, with the cookie that the kernel gives. Returns whether the supervisor is to
    /// hold the connection for this process, too.
    pub fn child_holds(&self, fd: i32, cookie: Option<u64>) -> bool {
        let Some(open) = self.open(fd) else { return false };
        if cookie.is_none() || cookie != self.cookie(open.connection) {
            // The parent has closed it without the library's knowledge. The supervisor holds nothing for this process
            // yet.
            let _ = self.take(fd).and_then(|stale| self.forget(stale));
            return false;
        }
        self.record(open.connection).is_some_and(|record| record.held)
    }

    /// Notes that the supervisor does not hold a connection for this process.
    pub fn not_held(&self, fd: i32) {
        if let Some(open) = self.open(fd) {
            self.update(open.connection, |record| Some(Record { held: false, ..record }));
        }
    }
}
