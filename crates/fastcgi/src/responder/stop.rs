//! How a responder is told to end, and by when.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// Ends a running [`Responder`](super::Responder) from elsewhere.
#[derive(Clone, Debug)]
pub struct StopResponder(Arc<StopOrder>);

#[derive(Debug)]
struct StopOrder {
    /// An eventfd: readable from the stop on.
    asked: OwnedFd,
    /// A timerfd: readable when the time for an end in order is over.
    overdue: OwnedFd,
    within: Option<Duration>,
    at: OnceLock<Instant>,
    /// No time is left, whatever `within` says.
    now: AtomicBool,
}

impl StopResponder {
    pub(super) fn new(within: Option<Duration>) -> io::Result<Self> {
        let asked = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let overdue =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(StopOrder {
            asked,
            overdue,
            within,
            at: OnceLock::new(),
            now: AtomicBool::new(false),
        })))
    }

    /// Makes the responder accept no more than what waits in its queue, and close its listener; [`Responder::run`](super::Responder::run) returns when its requests have ended, or
    /// [`Config::stop_within`](super::Config::stop_within) has passed.
    pub fn stop(&self) {
        let is_first = self.0.at.set(Instant::now()).is_ok();
        if let Some(within) = self.0.within.filter(|_| is_first) {
            self.fire_after(within);
            if self.0.now.load(Ordering::SeqCst) {
                // Another thread wants the end now, and may have set the timer before this one.
                self.fire_after(Duration::ZERO);
            }
        }
        // An eventfd counts up to 2^64 - 2 before a write fails.
        let _ = rustix::io::write(&self.0.asked, &1u64.to_ne_bytes());
    }

    /// Does what [`stop`](Self::stop) does, and lets every wait for a gateway fail now.
    pub fn stop_now(&self) {
        self.0.now.store(true, Ordering::SeqCst);
        self.stop();
        self.fire_after(Duration::ZERO);
    }

    fn fire_after(&self, time: Duration) {
        // A timer of zero would be switched off (timerfd_settime(2)).
        let it_value = Timespec::try_from(time.max(Duration::from_nanos(1)));
        let Ok(it_value) = it_value else { return };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let timer = Itimerspec { it_interval, it_value };
        let set = timerfd_settime(&self.0.overdue, TimerfdTimerFlags::empty(), &timer);
        debug_assert!(set.is_ok(), "{set:?}");
    }

    /// Readable from the stop on.
    pub(super) fn asked(&self) -> &OwnedFd {
        &self.0.asked
    }

    /// Readable when the time for an end in order is over.
    pub(super) fn overdue(&self) -> &OwnedFd {
        &self.0.overdue
    }

    /// How much of the time for an end in order is left; `None` without such a bound, or before the stop.
    pub(super) fn left(&self) -> Option<Duration> {
        let began = self.0.at.get()?;
        if self.0.now.load(Ordering::SeqCst) {
            return Some(Duration::ZERO);
        }
        Some(self.0.within?.saturating_sub(began.elapsed()))
    }
}

/// The error of a wait for a gateway when the time for an end in order is over.
pub(crate) fn overdue() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the responder ends")
}
