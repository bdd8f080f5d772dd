//! The work of a side during which it sends nothing, and whether a session makes progress.
//!
//! A peer that answers pings is alive; that is not the same as getting on. A session gets on with each message, with
//! content, and with each step of the work that the peer says it does (WORK). What only answers is borne for
//! [`Deadlines::progress`](super::Deadlines::progress), and gives way sooner where somebody else needs its place.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Session;
use crate::error::Error;
use crate::host;
use crate::wire::{FrameKind, Header, Violation};

/// Payload that counts as a step: a peer that drips single bytes does not get on.
const STEP: usize = 64 << 10;

/// What a side is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// It waits for a free place.
    Queue,
    /// It reads and hashes what it has.
    Verify,
    /// It waits for the disk.
    Disk,
    /// It waits for a command.
    Command,
    /// It waits for the source of a pipe.
    Source,
}

/// How far the work of a phase is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PhaseWork {
    /// What is done.
    pub phase: Phase,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; 0 if nobody knows.
    pub total: u64,
}

impl PhaseWork {
    /// Work that is done to this point.
    pub fn new(phase: Phase, done: u64, total: u64) -> Self {
        Self { phase, done, total }
    }

    fn encode(self) -> [u8; 17] {
        let mut bytes = [0; 17];
        bytes[0] = match self.phase {
            Phase::Queue => 0,
            Phase::Verify => 1,
            Phase::Disk => 2,
            Phase::Command => 3,
            Phase::Source => 4,
        };
        bytes[1..9].copy_from_slice(&self.done.to_be_bytes());
        bytes[9..].copy_from_slice(&self.total.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Violation> {
        let malformed = Violation::Malformed("word about its work");
        let bytes: [u8; 17] = bytes.try_into().map_err(|_| malformed)?;
        let [phase, numbers @ ..] = bytes;
        let phase = match phase {
            0 => Phase::Queue,
            1 => Phase::Verify,
            2 => Phase::Disk,
            3 => Phase::Command,
            4 => Phase::Source,
            _ => return Err(malformed),
        };
        let (done, total) = numbers.split_at(8);
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        Ok(Self { phase, done: number(done), total: number(total) })
    }

    /// Whether this is a step beyond what was said before.
    fn is_beyond(self, before: Option<Self>) -> bool {
        before.is_none_or(|before| self.phase != before.phase || self.done > before.done)
    }
}

/// When a session last got on, for other threads to see.
#[derive(Debug)]
pub(crate) struct Activity {
    born: Instant,
    /// Milliseconds from `born` to the last step.
    step_ms: AtomicU64,
    /// This side works on something itself: the peer can do nothing.
    works: AtomicBool,
}

impl Default for Activity {
    fn default() -> Self {
        Self { born: host::now(), step_ms: AtomicU64::new(0), works: AtomicBool::new(false) }
    }
}

impl Activity {
    pub(super) fn got_on(&self, now: Instant) {
        let passed = now.saturating_duration_since(self.born).as_millis();
        self.step_ms.fetch_max(u64::try_from(passed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long the session has not got on.
    pub(crate) fn idle(&self, now: Instant) -> Duration {
        if self.works.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let step = self.born + Duration::from_millis(self.step_ms.load(Ordering::Relaxed));
        now.saturating_duration_since(step)
    }
}

impl Session {
    /// Tells the peer what this side is busy with, so that the peer waits.
    ///
    /// # Errors
    /// Returns the errors of [`flush`](Self::flush).
    pub fn works(&mut self, work: PhaseWork) -> Result<(), Error> {
        if self.version < 2 {
            // It would not understand; so much it does.
            return self.ping();
        }
        let aside = self.aside();
        let payload = work.encode();
        aside.extend(Header { kind: FrameKind::Work, stream: 0, length: 17 }.encode(&payload));
        aside.extend(payload);
        self.flush()
    }

    /// The session's own measure, for whoever gives out places.
    pub(crate) fn activity(&self) -> std::sync::Arc<Activity> {
        self.activity.clone()
    }

    /// Marks the begin and the end of this side's own work, for which the peer is not to blame.
    pub(crate) fn set_working(&mut self, works: bool) {
        self.activity.works.store(works, Ordering::Relaxed);
        self.activity.got_on(host::now());
        self.heard = host::now();
    }

    /// Notes a frame of the peer's, before it is judged further.
    pub(super) fn frame_came(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), Error> {
        match kind {
            // These are no progress: credit, for one, could be given a byte at a time.
            FrameKind::Ping | FrameKind::Pong | FrameKind::Credit | FrameKind::Data => {}
            FrameKind::Work => {
                let work = PhaseWork::decode(payload)?;
                if work.is_beyond(self.peers_work.replace(work)) {
                    self.activity.got_on(self.heard);
                }
            }
            _ => {
                self.peers_work = None;
                self.activity.got_on(self.heard);
            }
        }
        Ok(())
    }

    /// Notes payload that went either way. A long frame that drips does not count before it has moved on.
    pub(super) fn payload_went(&mut self, bytes: usize, ends: bool) {
        self.uncounted += bytes;
        if self.uncounted >= STEP || ends {
            self.uncounted = 0;
            self.peers_work = None;
            self.activity.got_on(self.heard);
        }
    }

    /// Whether the peer is at work for which this side has no bound: it waits for its turn, for a command with a
    /// bound of its own, or for a source that gives nothing.
    pub(super) fn peer_may_rest(&self) -> bool {
        self.peers_work
            .is_some_and(|work| matches!(work.phase, Phase::Queue | Phase::Command | Phase::Source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_beyond_the_last_is_progress() {
        let work = |phase, done| PhaseWork::new(phase, done, 100);
        assert!(work(Phase::Verify, 0).is_beyond(None));
        for (now, before, steps) in [
            (work(Phase::Verify, 5), work(Phase::Verify, 4), true),
            (work(Phase::Verify, 5), work(Phase::Verify, 5), false),
            (work(Phase::Verify, 4), work(Phase::Verify, 5), false),
            (work(Phase::Disk, 0), work(Phase::Verify, 5), true),
            (PhaseWork::new(Phase::Verify, 5, 200), work(Phase::Verify, 5), false),
        ] {
            assert_eq!(now.is_beyond(Some(before)), steps, "{now:?} after {before:?}");
        }
    }

    #[test]
    fn what_is_said_of_work_comes_back() {
        for phase in [Phase::Queue, Phase::Verify, Phase::Disk, Phase::Command, Phase::Source] {
            let work = PhaseWork::new(phase, 1 << 40, u64::MAX);
            assert_eq!(PhaseWork::decode(&work.encode()), Ok(work));
        }
        let mut bytes = PhaseWork::new(Phase::Source, 0, 0).encode();
        bytes[0] += 1;
        assert!(PhaseWork::decode(&bytes).is_err() && PhaseWork::decode(&bytes[1..]).is_err());
    }

    #[test]
    fn own_work_is_not_idleness() {
        let activity = Activity::default();
        let later = activity.born + Duration::from_secs(60);
        assert_eq!(activity.idle(later), Duration::from_secs(60));
        activity.works.store(true, Ordering::Relaxed);
        assert_eq!(activity.idle(later), Duration::ZERO);
        activity.works.store(false, Ordering::Relaxed);
        activity.got_on(activity.born + Duration::from_secs(50));
        assert_eq!(activity.idle(later), Duration::from_secs(10));
    }
}
