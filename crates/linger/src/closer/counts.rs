//! What a closer has done so far.

use crate::outcome::{Bound, Ended, Outcome};

/// What a [`Closer`](crate::Closer) has done since it was made, at one moment.
///
/// `handed_over` is always `lingering` plus the sum of `ended`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// Sockets taken over.
    pub handed_over: u64,
    /// Sockets whose close is under way.
    pub lingering: u64,
    /// Those of them whose peers have acknowledged everything, and that are evicted first.
    pub lingering_acknowledged: u64,
    /// Closes by how they ended.
    pub ended: EndedCounts,
    /// Bytes of the peers that were read and discarded.
    pub discarded: u64,
    /// Bytes written to the peers and never acknowledged, as far as the kernel could tell.
    pub unacknowledged: u64,
    /// Closes after which not every byte was known to have arrived.
    pub undelivered: u64,
}

/// Numbers of closes by [`Ended`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[allow(missing_docs)] // The names are those of `Ended` and `Bound`.
#[non_exhaustive]
pub struct EndedCounts {
    pub peer_closed: u64,
    pub acknowledged: u64,
    pub peer_reset: u64,
    pub timed_out_idle: u64,
    pub timed_out_total: u64,
    pub timed_out_kernel: u64,
    pub limit: u64,
    pub unwaited: u64,
    pub aborted: u64,
    pub evicted: u64,
    pub gone: u64,
    pub failed: u64,
}

impl EndedCounts {
    /// How many ended in one way.
    pub fn of(&self, ended: Ended) -> u64 {
        let mut copy = *self;
        *copy.place(ended)
    }

    /// Each way to end by name, `snake_case`, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        [
            ("peer_closed", self.peer_closed),
            ("acknowledged", self.acknowledged),
            ("peer_reset", self.peer_reset),
            ("timed_out_idle", self.timed_out_idle),
            ("timed_out_total", self.timed_out_total),
            ("timed_out_kernel", self.timed_out_kernel),
            ("limit", self.limit),
            ("unwaited", self.unwaited),
            ("aborted", self.aborted),
            ("evicted", self.evicted),
            ("gone", self.gone),
            ("failed", self.failed),
        ]
        .into_iter()
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }

    fn place(&mut self, ended: Ended) -> &mut u64 {
        match ended {
            Ended::PeerClosed => &mut self.peer_closed,
            Ended::Acknowledged => &mut self.acknowledged,
            Ended::PeerReset => &mut self.peer_reset,
            Ended::TimedOut(Bound::Idle) => &mut self.timed_out_idle,
            Ended::TimedOut(Bound::Total) => &mut self.timed_out_total,
            Ended::TimedOut(Bound::Kernel) => &mut self.timed_out_kernel,
            Ended::Limit => &mut self.limit,
            Ended::Unwaited => &mut self.unwaited,
            Ended::Aborted => &mut self.aborted,
            Ended::Evicted => &mut self.evicted,
            Ended::Gone => &mut self.gone,
            Ended::Failed(_) => &mut self.failed,
        }
    }

    fn add(&mut self, more: &Self) {
        self.peer_closed += more.peer_closed;
        self.acknowledged += more.acknowledged;
        self.peer_reset += more.peer_reset;
        self.timed_out_idle += more.timed_out_idle;
        self.timed_out_total += more.timed_out_total;
        self.timed_out_kernel += more.timed_out_kernel;
        self.limit += more.limit;
        self.unwaited += more.unwaited;
        self.aborted += more.aborted;
        self.evicted += more.evicted;
        self.gone += more.gone;
        self.failed += more.failed;
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            peer_closed: self.peer_closed.saturating_sub(earlier.peer_closed),
            acknowledged: self.acknowledged.saturating_sub(earlier.acknowledged),
            peer_reset: self.peer_reset.saturating_sub(earlier.peer_reset),
            timed_out_idle: self.timed_out_idle.saturating_sub(earlier.timed_out_idle),
            timed_out_total: self.timed_out_total.saturating_sub(earlier.timed_out_total),
            timed_out_kernel: self.timed_out_kernel.saturating_sub(earlier.timed_out_kernel),
            limit: self.limit.saturating_sub(earlier.limit),
            unwaited: self.unwaited.saturating_sub(earlier.unwaited),
            aborted: self.aborted.saturating_sub(earlier.aborted),
            evicted: self.evicted.saturating_sub(earlier.evicted),
            gone: self.gone.saturating_sub(earlier.gone),
            failed: self.failed.saturating_sub(earlier.failed),
        }
    }
}

impl Snapshot {
    pub(super) fn record(&mut self, outcome: &Outcome) {
        *self.ended.place(outcome.ended) += 1;
        self.discarded += outcome.discarded;
        self.unacknowledged += outcome.unacknowledged.unwrap_or(0);
        self.undelivered += u64::from(!outcome.delivered());
    }

    /// Adds what has ended meanwhile.
    pub(super) fn add(&mut self, more: &Self) {
        self.ended.add(&more.ended);
        self.discarded += more.discarded;
        self.unacknowledged += more.unacknowledged;
        self.undelivered += more.undelivered;
    }

    /// What happened between an earlier snapshot of the same closer and this one; what
    /// lingers is that of now.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            handed_over: self.handed_over.saturating_sub(earlier.handed_over),
            lingering: self.lingering,
            lingering_acknowledged: self.lingering_acknowledged,
            ended: self.ended.since(&earlier.ended),
            discarded: self.discarded.saturating_sub(earlier.discarded),
            unacknowledged: self.unacknowledged.saturating_sub(earlier.unacknowledged),
            undelivered: self.undelivered.saturating_sub(earlier.undelivered),
        }
    }
}
