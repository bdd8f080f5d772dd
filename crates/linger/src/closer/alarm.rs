//! The closer's clock, and the alarm that interrupts its thread's wait for events.

#[cfg(not(loom))]
pub(super) use linger_sys::Alarm;
#[cfg(loom)]
pub(super) use model::{Alarm, Clock};
#[cfg(not(loom))]
pub(super) use real::Clock;

#[cfg(not(loom))]
mod real {
    use std::time::Instant;

    /// Counts the nanoseconds since it was made.
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

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::time::Duration;

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
