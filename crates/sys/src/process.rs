//! Which process this is.

use crate::platform::process_number;

/// A process, as its own memory knows it: equal in all threads of one process, different in every child that
/// `fork` makes of it.
///
/// A library's threads do not survive a `fork`, and neither does a thread that would unlock a lock; but what they wrote
/// into memory is still there in the child. A library that stores the `Process` in which it started its threads can
/// compare it with the current one, and so notice that it runs in a child.
///
/// On Linux no process is equal to one of its ancestors. Elsewhere, and on Linux before 4.14, this is the process id: a
/// process that got the id of a dead ancestor would be taken for that ancestor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u64);

impl Process {
    /// The calling process.
    pub fn current() -> Self {
        Self(process_number())
    }
}
