//! Tests of one process that must not run at the same time.
//!
//! A process has all of its maker's fds until its `exec`. So a test that makes one is a holder of the connections of every other
//! test of this process, and of its listeners.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static PROCESSES: RwLock<()> = RwLock::new(());

/// For a test that makes a process, until the process is another program.
pub(crate) fn makes_processes() -> RwLockWriteGuard<'static, ()> {
    PROCESSES.write().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that looks who has an fd.
pub(crate) fn minds_processes() -> RwLockReadGuard<'static, ()> {
    PROCESSES.read().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the body of a test in a process of its own, for fds that other tests of this one must not see, or have.
pub(crate) fn apart(body: fn()) {
    let turn = makes_processes();
    linger_testing::sandboxed(move || {
        drop(turn);
        body();
    });
}
