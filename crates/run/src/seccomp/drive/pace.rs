//! When to look whether the closes that were continued have happened.
//!
//! A look comes with a notification, and where none comes with a timer. The timer is a descriptor of its own
//! and not the timeout of `poll(2)`: a timeout is set and cancelled with each notification, and on a virtual machine
//! each of the two is an exit to the host. nginx under a supervisor that only continues calls spends 42.7 us a request,
//! and 48.8 us if that supervisor waits with a timeout (docs/run.md).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// The first pause before a continued call is looked at; doubles up to [`LATE`] while none has happened. Within it many
/// peers close, since they have their response: then there is nothing to half-close and to wait for.
pub(super) const SOON: Duration = Duration::from_micros(200);
const LATE: Duration = Duration::from_millis(100);

/// The longest pause of the timer while notifications bring all looks: one tick of a kernel with 250 Hz. A timer that
/// fires before the next tick makes the kernel reprogram its clock device.
const BUSY: Duration = Duration::from_millis(4);

/// The timer, and what it is set for.
#[derive(Debug)]
pub(super) struct Rounds {
    timer: OwnedFd,
    cadence: Cadence,
}

impl Rounds {
    /// # Errors
    /// No descriptor is left.
    pub(super) fn new(own: impl FnOnce(&OwnedFd) -> Option<OwnedFd>) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let timer = own(&timer).ok_or(io::Errno::MFILE)?;
        Ok(Self { timer, cadence: Cadence::default() })
    }

    /// Readable when it is time to look.
    pub(super) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// A close was continued.
    pub(super) fn closing(&mut self) {
        self.cadence.pause = SOON;
    }

    /// The timer has fired; `needed` if a look was due that no notification has brought.
    pub(super) fn fired(&mut self, needed: bool) {
        let _ = io::read(&self.timer, &mut [0; 8]);
        self.cadence.fired(needed);
    }

    /// The timer's look has found nothing closed.
    pub(super) fn in_vain(&mut self) {
        self.cadence.in_vain();
    }

    /// Whether the timer fires early enough: for the next look, if there are `calls` to look at, and for the
    /// half-closed connections that are `due`.
    pub(super) fn is_set(&self, now: Duration, calls: bool, due: Option<Duration>) -> bool {
        self.cadence.next(now, calls, due).is_none()
    }

    /// Sets the timer for both.
    pub(super) fn set(&mut self, now: Duration, calls: bool, due: Option<Duration>) {
        let Some(until) = self.cadence.next(now, calls, due) else { return };
        self.cadence.set = Some(until);
        // A timer of zero would be disarmed.
        let pause = until.saturating_sub(now).max(Duration::from_nanos(1));
        let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
        if let Ok(it_value) = Timespec::try_from(pause) {
            let once = Itimerspec { it_interval: nothing, it_value };
            let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
        }
    }
}

/// The decisions, without a clock.
#[derive(Debug)]
struct Cadence {
    /// Until the next look at a call that has not happened yet.
    pause: Duration,
    /// The shortest time for which the timer is set. Grows while notifications bring the looks.
    spare: Duration,
    /// When it fires.
    set: Option<Duration>,
}

impl Default for Cadence {
    fn default() -> Self {
        Self { pause: SOON, spare: SOON, set: None }
    }
}

impl Cadence {
    fn fired(&mut self, needed: bool) {
        self.set = None;
        self.spare = if needed { SOON } else { (self.spare * 2).min(BUSY) };
    }

    fn in_vain(&mut self) {
        self.pause = (self.pause * 2).min(LATE);
    }

    /// When the timer has to fire; `None` where it fires early enough.
    fn next(&self, now: Duration, calls: bool, due: Option<Duration>) -> Option<Duration> {
        // What is due is not urgent, and is done with the next notification as well.
        let due = due.map(|due| due.max(now + self.spare));
        let until = calls.then(|| now + self.pause.max(self.spare)).into_iter().chain(due).min()?;
        self.set.is_none_or(|set| set > until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(number: u64) -> Duration {
        Duration::from_micros(number)
    }

    #[test]
    fn the_timer_is_set_again_only_for_something_earlier() {
        let mut pace = Cadence::default();
        assert_eq!(pace.next(us(0), false, None), None);
        assert_eq!(pace.next(us(0), true, None), Some(SOON));
        pace.set = Some(SOON);
        assert_eq!(pace.next(us(1), true, None), None);
        assert_eq!(pace.next(us(1), false, Some(us(0))), None);
        pace.set = Some(us(500));
        assert_eq!(pace.next(us(1), false, Some(us(501))), None);
        assert_eq!(pace.next(us(1), false, Some(us(499))), Some(us(499)));
        pace.set = Some(LATE);
        assert_eq!(pace.next(us(1), true, None), Some(us(201)));
    }

    #[test]
    fn the_earlier_of_both_counts() {
        let pace = Cadence::default();
        assert_eq!(pace.next(us(0), true, Some(us(5_000))), Some(SOON));
        let late = Cadence { pause: LATE, ..Cadence::default() };
        assert_eq!(late.next(us(0), true, Some(us(5_000))), Some(us(5_000)));
        assert_eq!(pace.next(us(0), false, Some(us(5_000))), Some(us(5_000)));
    }

    #[test]
    fn a_timer_that_was_not_needed_fires_later_next_time() {
        let mut pace = Cadence { set: Some(SOON), ..Cadence::default() };
        pace.fired(false);
        assert_eq!(pace.next(us(0), true, None), Some(SOON * 2));
        (0..40).for_each(|_| pace.fired(false));
        assert_eq!(pace.next(us(0), true, None), Some(BUSY));
        assert_eq!(pace.next(us(0), false, Some(us(1))), Some(BUSY));
        pace.fired(true);
        assert_eq!(pace.next(us(0), true, None), Some(SOON));
    }

    #[test]
    fn a_call_that_does_not_happen_is_looked_at_ever_more_seldom() {
        let mut pace = Cadence::default();
        pace.in_vain();
        assert_eq!(pace.next(us(0), true, None), Some(SOON * 2));
        (0..40).for_each(|_| pace.in_vain());
        assert_eq!(pace.next(us(0), true, None), Some(LATE));
    }
}
