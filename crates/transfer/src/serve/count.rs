//! Counts the requests of a server that serves a limited number of them (`share --once`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;

/// The requests that have begun and ended, and the most that there may be.
#[derive(Debug)]
pub(super) struct RequestCount {
    state: Mutex<Requests>,
    /// Readable when `patient_until` has changed.
    changed: OwnedFd,
}

#[derive(Debug)]
struct Requests {
    most: usize,
    begun: usize,
    ended: usize,
    /// Until when a client that was cut may come back.
    patient_until: Option<Instant>,
}

impl RequestCount {
    pub(super) fn new() -> io::Result<Self> {
        let state = Requests { most: usize::MAX, begun: 0, ended: 0, patient_until: None };
        let changed = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { state: Mutex::new(state), changed })
    }

    fn state(&self) -> MutexGuard<'_, Requests> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_most(&self, most: Option<usize>) {
        self.state().most = most.unwrap_or(usize::MAX);
    }

    /// Counts a request that begins. Returns false if there may be no more.
    pub(super) fn begin(&self) -> bool {
        let mut state = self.state();
        let may = state.begun < state.most;
        if may {
            state.begun += 1;
            state.patient_until = None;
        }
        may
    }

    /// Counts a request that has ended. Returns whether it was the last. `patient_until` says until when its client may come
    /// back, if its connection was cut: what it asks then belongs to the same request.
    pub(super) fn end(&self, patient_until: Option<Instant>) -> bool {
        let mut state = self.state();
        if state.most == usize::MAX {
            return false;
        }
        if patient_until.is_some() {
            state.begun -= 1;
            state.patient_until = patient_until;
            drop(state);
            // write(2) can fail only if the counter would overflow.
            let _ = rustix::io::write(&self.changed, &1u64.to_ne_bytes());
            return false;
        }
        state.ended += 1;
        state.ended >= state.most
    }

    pub(super) fn is_over(&self) -> bool {
        let state = self.state();
        state.ended >= state.most
    }

    /// How long to wait still for a client that was cut; `None` if there is none to wait for.
    pub(super) fn waits(&self, now: Instant) -> Option<Duration> {
        let _ = rustix::io::read(&self.changed, &mut [0; 8]);
        self.state().patient_until.map(|until| until.saturating_duration_since(now))
    }
}

impl AsFd for RequestCount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changed.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_cut_is_not_over_before_its_client_is_given_up() {
        let count = RequestCount::new().unwrap();
        let now = Instant::now();
        let until = now + Duration::from_secs(120);
        count.set_most(Some(1));
        assert!(count.begin() && !count.begin(), "one at a time");
        assert!(!count.end(Some(until)) && !count.is_over());
        assert_eq!(count.waits(now), Some(Duration::from_secs(120)));
        assert!(count.begin(), "it comes back");
        assert_eq!(count.waits(until + Duration::from_secs(1)), None, "and is not waited for any more");
        assert!(count.end(None) && count.is_over() && !count.begin());
    }

    #[test]
    fn without_a_bound_nothing_is_waited_for() {
        let count = RequestCount::new().unwrap();
        let now = Instant::now();
        assert!(count.begin() && count.begin());
        assert!(!count.end(Some(now)) && !count.end(None) && !count.is_over());
        assert_eq!(count.waits(now), None);
    }
}
