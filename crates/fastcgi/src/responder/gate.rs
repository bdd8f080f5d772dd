//! How many requests are served at once, and how many kept connections may rest.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Slots for connections that are being served. A kept connection gives its slot up while it rests, so that
/// idle ones never keep a new one waiting.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<Slots>,
    freed: Condvar,
    most_resting: usize,
}

#[derive(Debug)]
struct Slots {
    free: usize,
    resting: usize,
}

impl Gate {
    pub(super) fn new(slots: usize, most_resting: usize) -> Self {
        let state = Mutex::new(Slots { free: slots.max(1), resting: 0 });
        Self { state, freed: Condvar::new(), most_resting }
    }

    /// Waits for a slot and takes it.
    pub(super) fn enter(&self) {
        let mut state = self.state();
        while state.free == 0 {
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.free -= 1;
    }

    pub(super) fn leave(&self) {
        self.state().free += 1;
        self.freed.notify_one();
    }

    /// Gives the slot up, runs `wait`, and takes a slot again. Returns `None`, without running `wait`, if too many
    /// connections rest already.
    pub(super) fn rest<T>(&self, wait: impl FnOnce() -> T) -> Option<T> {
        {
            let mut state = self.state();
            if state.resting >= self.most_resting {
                return None;
            }
            state.resting += 1;
            state.free += 1;
        }
        self.freed.notify_one();
        let result = wait();
        self.state().resting -= 1;
        self.enter();
        Some(result)
    }

    fn state(&self) -> MutexGuard<'_, Slots> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
