//! What the closer's thread goes by: a clock, and an alarm that interrupts its wait for events.

#[cfg(loom)]
pub(super) use model::{Alarm, Clock};
#[cfg(not(loom))]
pub(super) use real::{Alarm, Clock};

#[cfg(not(loom))]
mod real {
    use std::os::fd::{BorrowedFd, OwnedFd};
    use std::time::{Duration, Instant};

    use rustix::event::epoll;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };

    /// Nanoseconds since it was made.
    #[derive(Clone, Copy, Debug)]
    pub(in crate::closer) struct Clock(Instant);

    impl Clock {
        pub(in crate::closer) fn new() -> Self {
            Self(Instant::now())
        }

        pub(in crate::closer) fn now(self) -> u64 {
            u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
        }
    }

    /// A timer whose fd becomes readable at the time that was set last.
    #[derive(Debug)]
    pub(in crate::closer) struct Alarm(OwnedFd);

    impl Alarm {
        /// # Errors
        /// Returns the errors of `timerfd_create(2)`.
        pub(in crate::closer) fn new() -> rustix::io::Result<Self> {
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).map(Self)
        }

        /// Lets an epoll report each ring with `data`.
        pub(in crate::closer) fn register(&self, epoll: BorrowedFd<'_>, data: u64) -> rustix::io::Result<()> {
            // Edge-triggered, so that the timer need not be read.
            let interest = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(epoll, &self.0, epoll::EventData::new_u64(data), interest)
        }

        /// Sets the alarm to ring in `within` nanoseconds. An earlier setting is replaced.
        pub(in crate::closer) fn set(&self, within: u64) {
            let timer = Itimerspec {
                it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
                // Zero would stop the timer.
                it_value: Timespec::try_from(Duration::from_nanos(within.max(1))).unwrap_or(A_SECOND),
            };
            // It fails for bad arguments only.
            let _ = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &timer);
        }
    }

    const A_SECOND: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::os::fd::AsFd;

        use rustix::event::{PollFd, PollFlags, poll};

        /// Milliseconds until the alarm rings; 0 if it is not set or has rung.
        fn left(alarm: &Alarm) -> i64 {
            let value = rustix::time::timerfd_gettime(&alarm.0).unwrap().it_value;
            (value.tv_sec * 1_000_000_000 + value.tv_nsec).div_euclid(1_000_000)
        }

        #[test]
        fn it_rings_at_the_time_that_was_set_last() {
            let alarm = Alarm::new().unwrap();
            assert_eq!(left(&alarm), 0, "it is not set");
            alarm.set(50_000_000_000_000);
            assert!((40_000_000..=50_000_000).contains(&left(&alarm)));
            // At once is a time like any other.
            alarm.set(0);
            poll(&mut [PollFd::new(&alarm.0, PollFlags::IN)], None).unwrap();
            alarm.set(u64::MAX);
            assert!(left(&alarm) > 1_000_000_000_000);
        }

        #[test]
        fn an_epoll_reports_each_ring_once() {
            let (alarm, epoll) = (Alarm::new().unwrap(), epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
            alarm.register(epoll.as_fd(), 7).unwrap();
            let heard = |wait: i64| {
                let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 2];
                let timeout = Timespec { tv_sec: wait, tv_nsec: 0 };
                let (got, _) = epoll::wait(&epoll, &mut events, Some(&timeout)).unwrap();
                got.iter().map(|event| event.data.u64()).collect::<Vec<_>>()
            };
            for _ in 0..2 {
                alarm.set(1);
                assert_eq!(heard(10), [7]);
                // Nobody has read the timer.
                assert!(heard(0).is_empty());
            }
        }

        #[test]
        fn the_clock_counts_nanoseconds() {
            let clock = Clock(Instant::now() - Duration::from_secs(7));
            assert!((7_000_000_000..3_607_000_000_000).contains(&clock.now()));
        }
    }
}

#[cfg(loom)]
#[path = "alarm_models.rs"]
mod model;
