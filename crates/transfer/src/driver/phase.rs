//! The work of a side during which it sends nothing, and whether a session makes progress.
//!
//! A peer that answers pings is alive, but may make no progress. A session makes progress with each message, with
//! content, and with each step of work that the peer reports (WORK). A peer that only answers is tolerated for
//! [`Deadlines::progress`](super::Deadlines::progress), and for less if somebody else needs its place.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::host;
use crate::path::RelPath;
use crate::wire::Violation;

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
    /// The kind of work.
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

    pub(super) fn encode(self) -> [u8; 17] {
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
    pub(super) fn is_beyond(self, before: Option<Self>) -> bool {
        before.is_none_or(|before| self.phase != before.phase || self.done > before.done)
    }
}

/// When a session last made progress, for other threads to see.
///
/// Its thread counts as away during a call that does not use the session, such as one that waits for a disk; see `watch.rs`.
#[derive(Debug)]
pub(crate) struct Activity {
    born: Instant,
    /// Milliseconds from `born` to the last step.
    step_ms: AtomicU64,
    /// This side works on something itself: the peer can do nothing.
    pub(super) works: AtomicBool,
    /// Milliseconds from `born` to when the session's thread went away; [`HERE`] if it has not.
    away_ms: AtomicU64,
    /// The entry that the session's thread last began to work on.
    at: Mutex<Option<RelPath>>,
}

/// The session's thread is not away.
const HERE: u64 = u64::MAX;

impl Default for Activity {
    fn default() -> Self {
        Self {
            born: host::now(),
            step_ms: AtomicU64::new(0),
            works: AtomicBool::new(false),
            away_ms: AtomicU64::new(HERE),
            at: Mutex::new(None),
        }
    }
}

impl Activity {
    pub(crate) fn got_on(&self, now: Instant) {
        self.step_ms.fetch_max(self.since_born(now), Ordering::Relaxed);
    }

    fn since_born(&self, then: Instant) -> u64 {
        let passed = then.saturating_duration_since(self.born).as_millis();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }

    /// Notes since when the session's thread is away, if it is.
    pub(super) fn set_away(&self, since: Option<Instant>) {
        self.away_ms.store(since.map_or(HERE, |since| self.since_born(since)), Ordering::Relaxed);
    }

    /// Notes the entry that the session's thread works on next.
    pub(crate) fn turns_to(&self, path: &RelPath) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.clone());
    }

    /// For how long the session's thread has been away, and at which entry, if it is away.
    pub(crate) fn away(&self) -> Option<(Duration, Option<RelPath>)> {
        let since = self.away_ms.load(Ordering::Relaxed);
        (since != HERE).then(|| {
            let at = self.at.lock().unwrap_or_else(PoisonError::into_inner).clone();
            (self.born.elapsed().saturating_sub(Duration::from_millis(since)), at)
        })
    }

    /// How long the session has made no progress.
    pub(crate) fn idle(&self, now: Instant) -> Duration {
        if self.works.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let step = self.born + Duration::from_millis(self.step_ms.load(Ordering::Relaxed));
        now.saturating_duration_since(step)
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
