//! Models of clock and alarm: time stands still, and an alarm that was set, for whatever time, rings when it is waited for.

use std::time::Duration;

use crate::sync::{Condvar, Mutex, lock};

#[derive(Clone, Copy, Debug)]
pub(in crate::closer) struct Clock;

impl Clock {
    pub(in crate::closer) fn new() -> Self {
        Self
    }

    pub(in crate::closer) fn now(self) -> u64 {
        1
    }
}

#[derive(Debug)]
pub(in crate::closer) struct Alarm {
    set: Mutex<Option<u64>>,
    rings: Condvar,
}

impl Alarm {
    pub(in crate::closer) fn new() -> std::io::Result<Self> {
        Ok(Self { set: Mutex::new(None), rings: Condvar::new() })
    }

    pub(in crate::closer) fn set(&self, within: Duration) {
        *lock(&self.set) = Some(u64::try_from(within.as_nanos()).unwrap_or(u64::MAX));
        self.rings.notify_one();
    }

    /// For how long it is set.
    pub(in crate::closer) fn is_set(&self) -> Option<u64> {
        *lock(&self.set)
    }

    /// Waits for it, as the thread waits in `epoll_wait`; each ring is heard once.
    pub(in crate::closer) fn wait(&self) {
        let mut set = lock(&self.set);
        while set.take().is_none() {
            set = self.rings.wait(set).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}
