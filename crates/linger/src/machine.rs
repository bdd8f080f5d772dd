//! The lingering close as a state machine: no socket, no clock, no allocation.
//!
//! A driver asks for an [`Action`], does it, and reports the [`Event`] that came of it; time is an argument. Whatever
//! happens, the machine keeps this order: the half-close comes before the first read, reads go on while the policy allows
//! waiting, and exactly one close comes last. The read side is never shut.

mod core;
mod sent;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::outcome::Outcome;
use crate::policy::Policy;

pub(crate) use self::core::Core;

/// The driver's next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action<Time = Instant> {
    /// Call `shutdown(SHUT_WR)`; report [`Event::HalfClosed`] or [`Event::Gone`].
    HalfClose,
    /// Read and discard at most `max` bytes without waiting; report [`Event::Discarded`], [`Event::Empty`],
    /// [`Event::EndOfStream`] or an error.
    Discard {
        /// At least 1.
        max: u64,
    },
    /// Ask the kernel for the unacknowledged bytes; report [`Event::Unacknowledged`] or [`Event::Unknown`].
    Measure,
    /// Ask the kernel about the peer and the path (`TCP_INFO`); report [`Event::Inspected`] or
    /// [`Event::NotInspected`].
    ///
    /// Comes when a silence has lasted too long, before the close is ended because of it.
    Inspect,
    /// Wait for an event of the socket or for the time; report [`Event::Woken`] in both cases.
    Wait {
        /// The end of the wait.
        until: Time,
    },
    /// Close the descriptor. The last action; asked again, the machine repeats it.
    Close {
        /// Set `SO_LINGER 0` first, so that the kernel sends a reset and keeps nothing.
        abort: bool,
        /// How the close ended.
        outcome: Outcome,
    },
}

/// An event that the driver has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// `shutdown(SHUT_WR)` succeeded.
    HalfClosed,
    /// `shutdown(SHUT_WR)` said that there is no connection (`ENOTCONN`, `EPIPE`, `ECONNRESET`).
    Gone,
    /// This many bytes were read and discarded; never 0.
    Discarded(u64),
    /// There is nothing to read now (`EAGAIN`).
    Empty,
    /// The peer has closed its side: `recv` returned 0.
    EndOfStream,
    /// The state of the send queue.
    Unacknowledged {
        /// Bytes not acknowledged, the FIN not counted.
        bytes: u64,
        /// Whether the FIN, too, is acknowledged, and so everything is.
        fin: bool,
    },
    /// The kernel cannot tell what is acknowledged.
    Unknown,
    /// The kernel's report on the peer and the path.
    Inspected {
        /// Window probes that the peer's kernel has not answered (`tcpi_probes`).
        probes: u8,
        /// Retransmissions of the oldest segment that it has not acknowledged (`tcpi_retransmits`).
        retransmits: u8,
        /// Time since its last ACK, whether or not that acknowledged anything new (`tcpi_last_ack_recv`).
        last_ack: Duration,
        /// The smoothed round-trip time (`tcpi_rtt`).
        round_trip: Duration,
        /// Segments with data that it has sent since the connection began (`tcpi_data_segs_in`).
        data_segments: u32,
    },
    /// The kernel cannot tell, as for a socket that is not TCP.
    NotInspected,
    /// The connection was reset (`ECONNRESET`, `EPIPE`, or the state said so).
    Reset,
    /// The kernel gave up on the peer (`ETIMEDOUT`).
    KernelTimeout,
    /// Any other error.
    Failed(ErrorKind),
    /// A wait is over: the socket has had an event, or the time has come.
    Woken,
}

/// The lingering close of one connection.
///
/// ```
/// use linger::{Action, Ended, Event, Machine, Policy};
/// use std::time::Instant;
///
/// let now = Instant::now();
/// let mut machine = Machine::new(&Policy::default(), now);
/// assert_eq!(machine.next(now), Action::HalfClose);
/// machine.on(Event::HalfClosed, now);
/// assert!(matches!(machine.next(now), Action::Discard { .. }));
/// machine.on(Event::EndOfStream, now);
/// assert_eq!(machine.next(now), Action::Measure);
/// machine.on(Event::Unacknowledged { bytes: 0, fin: true }, now);
/// let Action::Close { outcome, .. } = machine.next(now) else { panic!() };
/// assert_eq!(outcome.ended, Ended::PeerClosed);
/// ```
#[derive(Clone, Debug)]
pub struct Machine {
    started: Instant,
    core: Core,
}

impl Machine {
    /// Starts the close of one connection at `now`.
    ///
    /// The policy's bounds are kept in milliseconds, rounded up, and cannot be longer than 49 days.
    pub fn new(policy: &Policy, now: Instant) -> Self {
        Self { started: now, core: Core::new(policy, 0) }
    }

    /// Reports an event seen at `now`.
    ///
    /// A `now` that is earlier than that of an earlier call sets no time back.
    pub fn on(&mut self, event: Event, now: Instant) {
        self.core.on(event, self.since_start(now));
    }

    /// Says what to do at `now`. Changes nothing, except that it notes a bound that has run out.
    pub fn next(&mut self, now: Instant) -> Action {
        match self.core.next(self.since_start(now)) {
            Action::HalfClose => Action::HalfClose,
            Action::Discard { max } => Action::Discard { max },
            Action::Measure => Action::Measure,
            Action::Inspect => Action::Inspect,
            Action::Wait { until } => Action::Wait { until: self.started + Duration::from_nanos(until) },
            Action::Close { abort, outcome } => Action::Close { abort, outcome },
        }
    }

    /// Tightens the bounds of a close that is under way, as before the process exits: the close ends at the latest after
    /// `total`, counted from `now`, and at the next silence of `idle`. No bound becomes looser.
    pub fn hurry(&mut self, idle: Duration, total: Duration, now: Instant) {
        self.core.hurry(idle, total, self.since_start(now));
    }

    /// Whether the peer has acknowledged everything, the FIN included, as far as is known.
    pub fn acknowledged(&self) -> bool {
        self.core.acknowledged()
    }

    /// Whether the half-close has been done.
    pub fn half_closed(&self) -> bool {
        self.core.half_closed()
    }

    fn since_start(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(all(test, not(loom)))]
#[path = "machine_tests.rs"]
mod tests;
