//! What a session notes of both sides' work, and says of its own.

use std::sync::atomic::Ordering;

use super::core::Core;
use super::phase::{Activity, Phase, PhaseWork};
use crate::error::Error;
use crate::host;
use crate::wire::{FrameKind, Header};

/// Payload bytes that count as progress, as the end of a DATA frame does: single bytes of a long frame do not.
const STEP: usize = 64 << 10;

impl Core {
    /// Tells the peer what this side is busy with, so that the peer waits.
    ///
    /// # Errors
    /// Returns the errors of [`flush`](Self::flush).
    pub(super) fn works(&mut self, work: PhaseWork) -> Result<(), Error> {
        if self.version < 2 {
            // Version 1 of the protocol has no WORK. A ping at least shows that this side is alive.
            return self.ping();
        }
        let aside = self.aside();
        let payload = work.encode();
        aside.extend(Header { kind: FrameKind::Work, stream: 0, length: 17 }.encode(&payload));
        aside.extend(payload);
        self.flush()
    }

    /// When this session last made progress, for the server's decision on which session has to make room for another.
    pub(super) fn activity(&self) -> std::sync::Arc<Activity> {
        self.activity.clone()
    }

    /// Marks the begin and the end of this side's own work, during which the session does not count as idle.
    pub(super) fn set_working(&mut self, works: bool) {
        self.activity.works.store(works, Ordering::Relaxed);
        self.activity.got_on(host::now());
        self.heard = host::now();
    }

    /// Notes a frame of the peer's, before it is judged further.
    pub(super) fn frame_came(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), Error> {
        match kind {
            // No progress: pings cost nothing, and credit can be given a byte at a time. DATA counts in `payload_went`.
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

    /// Notes payload that went either way. It counts as progress after every [`STEP`] bytes, and at the end of a frame
    /// (`ends`).
    pub(super) fn payload_went(&mut self, bytes: usize, ends: bool) {
        self.uncounted += bytes;
        if self.uncounted >= STEP || ends {
            self.uncounted = 0;
            self.peers_work = None;
            self.activity.got_on(self.heard);
        }
    }

    /// Whether the peer may be without progress for any time: it waits for its turn, for a command with a bound of its own,
    /// or for a source that gives nothing.
    pub(super) fn peer_may_rest(&self) -> bool {
        self.peers_work
            .is_some_and(|work| matches!(work.phase, Phase::Queue | Phase::Command | Phase::Source))
    }
}
