//! Where trials lie: how long the side that was played paused, how much it sent, and what came of it.

use std::collections::BTreeMap;

use linger_verdict::Verdict;

use crate::judge::Unjudged;
use crate::schedule::{HuntStep, Schedule};

/// What came of the trials of one cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrialCounts {
    /// Those whose responses were kept.
    pub kept: u64,
    /// Those with a response at risk.
    pub at_risk: u64,
    /// Those with a lost response.
    pub lost: u64,
    /// Those that say nothing about losses.
    pub undecided: u64,
}

impl TrialCounts {
    fn count(&mut self, verdict: Result<Verdict, Unjudged>) {
        match verdict {
            Ok(Verdict::Kept) => self.kept += 1,
            Ok(Verdict::AtRisk) => self.at_risk += 1,
            Ok(Verdict::Lost) => self.lost += 1,
            Err(_) => self.undecided += 1,
        }
    }
}

/// The place of a trial: both numbers are the lower ends of steps of a scale, of which each cell is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct TrialCell {
    /// Milliseconds of all pauses together.
    pub pauses_from_ms: u64,
    /// Bytes sent behind the heads of the requests or responses, in all.
    pub sent_from_bytes: u64,
}

/// A scale: 0, and then in each decade these numbers.
const PAUSES: &[u64] = &[1, 2, 5];
const BYTES: &[u64] = &[1, 3];

impl TrialCell {
    /// The cell of a schedule.
    pub fn of(schedule: &Schedule) -> Self {
        let sent = |step: &HuntStep| match *step {
            HuntStep::Request { sent: bytes, .. }
            | HuntStep::Respond { sent: bytes, .. }
            | HuntStep::Send { bytes } => bytes,
            _ => 0,
        };
        let milliseconds = u64::try_from(schedule.pauses().as_millis()).unwrap_or(u64::MAX);
        Self {
            pauses_from_ms: floor(milliseconds, PAUSES),
            sent_from_bytes: floor(schedule.steps.iter().map(sent).sum(), BYTES),
        }
    }

    /// The beginning of the next step of the pauses' scale.
    pub fn pauses_below_ms(self) -> u64 {
        above(self.pauses_from_ms, PAUSES)
    }

    /// The beginning of the next step of the bytes' scale.
    pub fn sent_below_bytes(self) -> u64 {
        above(self.sent_from_bytes, BYTES)
    }
}

fn floor(value: u64, steps: &[u64]) -> u64 {
    let Some(magnitude) = value.checked_ilog10() else { return 0 };
    let decade = 10u64.pow(magnitude);
    steps.iter().rev().map(|step| step.saturating_mul(decade)).find(|step| *step <= value).unwrap_or(decade)
}

fn above(from: u64, steps: &[u64]) -> u64 {
    let Some(magnitude) = from.checked_ilog10() else { return 1 };
    let decade = 10u64.pow(magnitude);
    let next = steps.iter().map(|step| step.saturating_mul(decade)).find(|step| *step > from);
    next.unwrap_or(decade.saturating_mul(10))
}

/// Trials by time and size. Its size is bounded by the scales, however many trials there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrialMap(BTreeMap<TrialCell, TrialCounts>);

impl TrialMap {
    /// Counts a trial; not one that the hunt has halted, which was not played to its end.
    pub(crate) fn count(&mut self, schedule: &Schedule, verdict: Result<Verdict, Unjudged>) {
        if verdict != Err(Unjudged::Halted) {
            self.0.entry(TrialCell::of(schedule)).or_default().count(verdict);
        }
    }

    /// The cells with a trial, in the order of the pauses, then of the bytes.
    pub fn cells(&self) -> impl Iterator<Item = (TrialCell, TrialCounts)> {
        self.0.iter().map(|(cell, counts)| (*cell, *counts))
    }

    /// The trials in a cell.
    pub fn at(&self, cell: TrialCell) -> Option<TrialCounts> {
        self.0.get(&cell).copied()
    }

    /// The steps of both scales from the smallest to the largest of any trial, without gaps between the smallest that is not 0 and
    /// the largest: pauses in milliseconds, and bytes.
    pub fn scales(&self) -> (Vec<u64>, Vec<u64>) {
        let of = |value: fn(&TrialCell) -> u64, steps| {
            let mut all: Vec<u64> = self.0.keys().map(value).collect();
            all.sort_unstable();
            let mut scale: Vec<u64> = Vec::new();
            for value in all {
                while let Some(last) = scale.last().copied().filter(|last| *last > 0 && *last < value) {
                    scale.push(above(last, steps));
                }
                if scale.last() != Some(&value) {
                    scale.push(value);
                }
            }
            scale
        };
        (of(|cell| cell.pauses_from_ms, PAUSES), of(|cell| cell.sent_from_bytes, BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(milliseconds: u64, bytes: u64) -> Schedule {
        let mut steps = vec![HuntStep::Request { body: 0, sent: 0 }];
        steps.extend((milliseconds > 0).then_some(HuntStep::Pause { milliseconds }));
        steps.extend((bytes > 0).then_some(HuntStep::Send { bytes }));
        Schedule::of(steps)
    }

    #[test]
    fn a_trial_lies_between_the_ends_of_its_cell() {
        for (value, pauses, bytes) in [
            (0, (0, 1), (0, 1)),
            (1, (1, 2), (1, 3)),
            (2, (2, 5), (1, 3)),
            (3, (2, 5), (3, 10)),
            (9, (5, 10), (3, 10)),
            (10, (10, 20), (10, 30)),
            (5_158, (5_000, 10_000), (3_000, 10_000)),
            (3_600_000, (2_000_000, 5_000_000), (3_000_000, 10_000_000)),
        ] {
            let cell = TrialCell::of(&schedule(value, value));
            assert_eq!((cell.pauses_from_ms, cell.pauses_below_ms()), pauses, "{value} ms");
            assert_eq!((cell.sent_from_bytes, cell.sent_below_bytes()), bytes, "{value} bytes");
        }
        let largest = TrialCell::of(&schedule(0, u64::MAX));
        assert!(largest.sent_below_bytes() >= largest.sent_from_bytes);
        let body = Schedule::of([
            HuntStep::Request { body: 9, sent: 4 },
            HuntStep::Pause { milliseconds: 6 },
            HuntStep::Send { bytes: 5 },
            HuntStep::Pause { milliseconds: 6 },
        ]);
        let cell = TrialCell::of(&body);
        assert_eq!((cell.pauses_from_ms, cell.sent_from_bytes), (10, 3), "pauses and bytes are summed");
    }

    #[test]
    fn each_trial_is_counted_once_and_a_halted_one_is_not() {
        let mut map = TrialMap::default();
        for verdict in [
            Ok(Verdict::Kept),
            Ok(Verdict::AtRisk),
            Ok(Verdict::Lost),
            Err(Unjudged::Silent),
            Err(Unjudged::Halted),
        ] {
            map.count(&schedule(7, 0), verdict);
        }
        map.count(&schedule(0, 40), Ok(Verdict::Kept));
        let counts = map.at(TrialCell::of(&schedule(5, 0)));
        assert_eq!(counts, Some(TrialCounts { kept: 1, at_risk: 1, lost: 1, undecided: 1 }));
        assert_eq!((map.cells().count(), map.at(TrialCell::of(&schedule(5, 40)))), (2, None));
    }

    #[test]
    fn a_scale_has_no_gap_between_the_first_step_and_the_last() {
        let mut map = TrialMap::default();
        assert_eq!(map.scales(), (vec![], vec![]));
        for (milliseconds, bytes) in [(0, 5), (6, 5), (210, 700)] {
            map.count(&schedule(milliseconds, bytes), Ok(Verdict::Kept));
        }
        let (pauses, bytes) = map.scales();
        assert_eq!(pauses, [0, 5, 10, 20, 50, 100, 200]);
        assert_eq!(bytes, [3, 10, 30, 100, 300]);
    }
}
