//! The steps of one connection: the calls of both programs, and the reset on the link.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use linger::Outcome;
use linger_packet::{Flags, Segment};

use crate::clock::Nanos;
use crate::clock::now;
use crate::ending::Ending;
use crate::link::Direction;
use crate::lock;

/// Who made a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The client program.
    Client,
    /// The server program.
    Server,
    /// The link, where the server's reset is seen to enter and to leave.
    Link,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepAction {
    /// The client's `connect()` returned.
    Connected,
    /// A `write()` accepted this many bytes.
    Wrote(u64),
    /// A `write()` failed.
    WriteFailed(String),
    /// A `read()` returned this many bytes. Several in a row are one step.
    Read(u64),
    /// A `read()` returned the end of the stream.
    EndOfStream,
    /// A `read()` failed.
    ReadFailed(String),
    /// The calls of the ending returned.
    Ended {
        /// The ending.
        ending: Ending,
        /// Unread bytes in the receive queue before the first call.
        unread: u64,
        /// The error, if a call failed.
        error: Option<String>,
        /// The outcome of a lingering close.
        outcome: Option<Outcome>,
    },
    /// A reset entered the link after this many bytes of the response.
    ResetSent(u64),
    /// The reset left the link after this many bytes of the response.
    ResetArrived(u64),
    /// The client's own close: its FIN was acknowledged, or answered with a reset.
    Closed {
        /// Whether the answer was a reset.
        reset: bool,
    },
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Time since the first step. A read is timed at its return, a write or close at its call.
    pub at: Duration,
    /// The end, or the link, that made the step.
    pub actor: Actor,
    /// What was done.
    pub action: StepAction,
}

/// Collects the steps of both ends and of the link, with one clock.
#[derive(Debug, Default)]
pub struct Steps {
    noted: Mutex<Vec<(Nanos, Actor, StepAction)>>,
}

impl Steps {
    pub(crate) fn note(&self, at: Nanos, actor: Actor, action: StepAction) {
        lock(&self.noted).push((at, actor, action));
    }

    /// All steps in order of time. Consecutive writes of one side are joined into one step, and so are consecutive
    /// reads.
    pub(crate) fn take(&self) -> Vec<Step> {
        let mut noted = std::mem::take(&mut *lock(&self.noted));
        noted.sort_by_key(|(at, _, _)| *at);
        let first = noted.first().map_or(0, |(at, _, _)| *at);
        let mut steps: Vec<Step> = Vec::new();
        for (at, actor, action) in noted {
            let at = Duration::from_nanos(at - first);
            // Steps of the other side between two reads or two writes are passed over, so that a whole transfer is
            // one step.
            let before = steps.iter_mut().rev().find(|step| step.actor == actor);
            match (before.map(|step| (&mut step.action, &mut step.at)), &action) {
                (Some((StepAction::Read(sum), last)), StepAction::Read(bytes)) => {
                    (*sum, *last) = (*sum + bytes, at)
                }
                (Some((StepAction::Wrote(sum), _)), StepAction::Wrote(bytes)) => *sum += bytes,
                _ => steps.push(Step { at, actor, action }),
            }
        }
        steps.sort_by_key(|step| step.at);
        steps
    }
}

/// Notes the steps of one side; does nothing if no steps are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notes<'a> {
    steps: Option<&'a Steps>,
    actor: Actor,
}

impl<'a> Notes<'a> {
    pub(crate) fn of(steps: Option<&'a Steps>, actor: Actor) -> Self {
        Self { steps, actor }
    }

    /// The present time, to be passed to [`Self::at`]; 0 if no steps are wanted.
    pub(crate) fn clock(self) -> Nanos {
        if self.steps.is_some() { now() } else { 0 }
    }

    pub(crate) fn now(self, action: impl FnOnce() -> StepAction) {
        self.at(self.clock(), action);
    }

    pub(crate) fn at(self, at: Nanos, action: impl FnOnce() -> StepAction) {
        if let Some(steps) = self.steps {
            steps.note(at, self.actor, action());
        }
    }
}

/// Finds the server's first reset among the frames of a link, and counts the response bytes before it.
#[derive(Debug, Default)]
pub(crate) struct ResetWatch {
    /// Bytes of the response that have entered, and that have left, the link: the highest sequence number of each,
    /// relative to the SYN.
    bytes: [u64; 2],
    start: Option<u32>,
    seen: [bool; 2],
}

impl ResetWatch {
    /// Examines a frame that enters or leaves the link. Returns the step to note, if any.
    pub(crate) fn look(&mut self, direction: Direction, leaving: bool, frame: &[u8]) -> Option<StepAction> {
        if direction != Direction::ToClient {
            return None;
        }
        let segment = Segment::from_ethernet(frame).ok()?;
        let end = usize::from(leaving);
        if segment.flags.has(Flags::SYN) {
            self.start = Some(segment.seq.wrapping_add(1));
        }
        if segment.flags.has(Flags::RST) {
            let first = !std::mem::replace(&mut self.seen[end], true);
            let bytes = self.bytes[end];
            return first.then_some(if leaving {
                StepAction::ResetArrived(bytes)
            } else {
                StepAction::ResetSent(bytes)
            });
        }
        if segment.payload_len > 0 {
            let last = segment.seq.wrapping_add(segment.payload_len);
            let bytes = last.wrapping_sub(self.start.unwrap_or(segment.seq));
            self.bytes[end] = self.bytes[end].max(u64::from(bytes));
        }
        None
    }
}

impl fmt::Display for StepAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("connect(): ok"),
            Self::Wrote(bytes) => write!(f, "write() {bytes} bytes: ok"),
            Self::WriteFailed(error) => write!(f, "write(): {error}"),
            Self::Read(bytes) => write!(f, "read() {bytes} bytes"),
            Self::EndOfStream => f.write_str("read(): end of stream"),
            Self::ReadFailed(error) => write!(f, "read(): {error}"),
            Self::Ended { ending, unread, error, outcome } => {
                f.write_str(&ending.calls())?;
                if *unread > 0 {
                    write!(f, " with {unread} bytes unread")?;
                }
                match (error, outcome) {
                    (Some(error), _) => write!(f, ": {error}"),
                    (None, Some(outcome)) => write!(f, ": {outcome}"),
                    (None, None) => f.write_str(": ok"),
                }
            }
            Self::ResetSent(bytes) => write!(f, "RST sent behind {bytes} bytes"),
            Self::ResetArrived(bytes) => write!(f, "RST arrives after {bytes} bytes"),
            Self::Closed { reset: false } => f.write_str("close(): acknowledged"),
            Self::Closed { reset: true } => f.write_str("close(): answered with RST"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_in_order_of_time_and_reads_in_a_row_are_one() {
        let steps = Steps::default();
        let ms = |ms: u64| 5_000_000_000 + ms * 1_000_000;
        steps.note(ms(9), Actor::Client, StepAction::Read(20));
        steps.note(ms(3), Actor::Client, StepAction::Wrote(7));
        steps.note(ms(5), Actor::Client, StepAction::Read(10));
        steps.note(ms(7), Actor::Server, StepAction::Read(7));
        steps.note(ms(11), Actor::Client, StepAction::EndOfStream);
        let taken = steps.take();
        let shown: Vec<_> =
            taken.iter().map(|step| (step.at.as_millis(), step.actor, step.action.clone())).collect();
        assert_eq!(
            shown,
            [
                (0, Actor::Client, StepAction::Wrote(7)),
                (4, Actor::Server, StepAction::Read(7)),
                (6, Actor::Client, StepAction::Read(30)),
                (8, Actor::Client, StepAction::EndOfStream),
            ]
        );
    }

    #[test]
    fn a_write_parts_reads() {
        let steps = Steps::default();
        for (at, action) in [(1, StepAction::Read(1)), (2, StepAction::Wrote(2)), (3, StepAction::Read(3))] {
            steps.note(at, Actor::Client, action);
        }
        assert_eq!(steps.take().len(), 3);
    }
}
