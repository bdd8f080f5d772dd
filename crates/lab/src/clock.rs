//! The clock that wires and captures share.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds on a monotonic clock.
pub type Nanos = u64;

/// The time on the monotonic clock, by which the link delays packets.
pub(crate) fn now() -> Nanos {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
