//! Models of clock and alarm: time stands still, and an alarm that was set to whichever time rings when it is waited for.

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
    pub(in crate::closer) fn new() -> rustix::io::Result<Self> {
        Ok(Self { set: Mutex::new(None), rings: Condvar::new() })
    }

    pub(in crate::closer) fn register(
        &self,
        _epoll: std::os::fd::BorrowedFd<'_>,
        _data: u64,
    ) -> rustix::io::Result<()> {
        Ok(())
    }

    pub(in crate::closer) fn set(&self, within: u64) {
        *lock(&self.set) = Some(within);
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
