//! What a closer has done: its counts.

use crate::outcome::{Bound, Ended, Outcome};

/// The counts of a [`Closer`](crate::Closer) at one moment.
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
    /// Lingering sockets whose peers have acknowledged everything. They are evicted first.
    pub lingering_acknowledged: u64,
    /// Sockets that are open behind a close that has ended ([`Budget::staying`](crate::Budget::staying)); no part of `lingering`.
    pub staying: u64,
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
    /// How many closes ended in this way.
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

    /// Adds the closes that `more` has counted.
    pub(super) fn add(&mut self, more: &Self) {
        self.ended.add(&more.ended);
        self.discarded += more.discarded;
        self.unacknowledged += more.unacknowledged;
        self.undelivered += more.undelivered;
    }

    /// The difference to an earlier snapshot of the same closer. Only the numbers of sockets that linger or stay are not
    /// differences but the present numbers.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            handed_over: self.handed_over.saturating_sub(earlier.handed_over),
            lingering: self.lingering,
            lingering_acknowledged: self.lingering_acknowledged,
            staying: self.staying,
            ended: self.ended.since(&earlier.ended),
            discarded: self.discarded.saturating_sub(earlier.discarded),
            unacknowledged: self.unacknowledged.saturating_sub(earlier.unacknowledged),
            undelivered: self.undelivered.saturating_sub(earlier.undelivered),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::time::Duration;

    const ALL: [Ended; 12] = [
        Ended::PeerClosed,
        Ended::Acknowledged,
        Ended::PeerReset,
        Ended::TimedOut(Bound::Idle),
        Ended::TimedOut(Bound::Total),
        Ended::TimedOut(Bound::Kernel),
        Ended::Limit,
        Ended::Unwaited,
        Ended::Aborted,
        Ended::Evicted,
        Ended::Gone,
        Ended::Failed(ErrorKind::Other),
    ];

    /// The first way to end three times, the second four times, and so on: no sum of two is their product.
    fn each() -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (ended, times) in ALL.into_iter().zip(3..) {
            for _ in 0..times {
                let outcome = Outcome {
                    ended,
                    discarded: 10,
                    unacknowledged: Some(1),
                    closed_after: false,
                    elapsed: Duration::ZERO,
                };
                snapshot.record(&outcome);
            }
        }
        snapshot
    }

    #[test]
    fn each_way_to_end_has_its_count_and_its_name() {
        let counts = each().ended;
        assert_eq!(ALL.map(|ended| counts.of(ended)), [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        let names: Vec<_> = counts.iter().collect();
        assert_eq!(names.iter().map(|(_, count)| *count).collect::<Vec<_>>(), (3..=14).collect::<Vec<_>>());
        assert_eq!(
            (names[0], names[3], names[11]),
            (("peer_closed", 3), ("timed_out_idle", 6), ("failed", 14))
        );
        assert_eq!(counts.total(), 102);
    }

    #[test]
    fn what_is_recorded_adds_up_and_is_taken_away_again() {
        let once = each();
        assert_eq!((once.discarded, once.unacknowledged, once.undelivered), (1_020, 102, 102));
        let mut twice = once;
        twice.add(&once);
        assert_eq!(ALL.map(|ended| twice.ended.of(ended)), [6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28]);
        assert_eq!((twice.discarded, twice.unacknowledged, twice.undelivered), (2_040, 204, 204));
        let more = Snapshot { handed_over: 90, lingering: 7, lingering_acknowledged: 3, staying: 2, ..twice };
        let since = more.since(&Snapshot { handed_over: 50, lingering: 20, staying: 9, ..once });
        assert_eq!(
            since,
            Snapshot { handed_over: 40, lingering: 7, lingering_acknowledged: 3, staying: 2, ..once }
        );
    }

    #[test]
    fn what_is_not_known_to_have_arrived_is_undelivered() {
        for (unacknowledged, undelivered, bytes) in [(Some(0), 0, 0), (Some(3), 1, 3), (None, 1, 0)] {
            let mut snapshot = Snapshot::default();
            let ended = Ended::PeerClosed;
            snapshot.record(&Outcome {
                ended,
                discarded: 0,
                unacknowledged,
                closed_after: false,
                elapsed: Duration::ZERO,
            });
            assert_eq!((snapshot.undelivered, snapshot.unacknowledged), (undelivered, bytes));
        }
    }
}
