//! How many failures there were when: counts in intervals that grow with the time they cover.

use std::collections::BTreeMap;

/// The most intervals. Beyond it, several become one.
const MOST: u64 = 64;
/// The lengths that an interval may have, in milliseconds, as people name them: each holds the one before a whole number of times.
/// After the last one they double.
const LENGTHS: [u64; 20] = [
    1,
    5,
    10,
    50,
    100,
    500,
    1_000,
    5_000,
    15_000,
    30_000,
    60_000,
    5 * 60_000,
    15 * 60_000,
    30 * 60_000,
    HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
    24 * HOUR,
    48 * HOUR,
];
const HOUR: u64 = 3_600_000;
const MILLISECOND: u64 = 1_000_000;

/// Counts over time. A harmless failure is counted apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeline {
    /// Which of the lengths an interval has.
    step: u32,
    counts: BTreeMap<u64, TimelineCount>,
}

/// What is counted in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimelineCount {
    /// Harmful failures.
    pub harmful: u64,
    /// Harmless ones.
    pub harmless: u64,
}

impl Timeline {
    /// The length of an interval, in nanoseconds.
    pub fn interval_ns(&self) -> u64 {
        self.milliseconds().saturating_mul(MILLISECOND)
    }

    /// The same in words.
    pub(crate) fn interval(&self) -> String {
        let length = self.milliseconds();
        let units = [(24 * HOUR, "days", "day"), (HOUR, "hours", "hour"), (60_000, "minutes", "minute")];
        let units = units.into_iter().chain([(1_000, "seconds", "second")]);
        let unit = units.into_iter().find(|(unit, ..)| length >= *unit);
        let (unit, many, one) = unit.unwrap_or((1, "milliseconds", "millisecond"));
        format!("{} {}", length / unit, if length == unit { one } else { many })
    }

    fn milliseconds(&self) -> u64 {
        let last = LENGTHS.len() - 1;
        let step = self.step as usize;
        LENGTHS[step.min(last)] << step.saturating_sub(last)
    }

    /// The intervals from the first to the last that has a count, each with its beginning in nanoseconds.
    pub fn intervals(&self) -> impl Iterator<Item = (u64, TimelineCount)> {
        let ends = self.counts.keys().next().copied().zip(self.counts.keys().next_back().copied());
        let (first, last) = ends.unwrap_or((1, 0));
        let length = self.interval_ns();
        (first..=last)
            .map(move |at| (at.saturating_mul(length), self.counts.get(&at).copied().unwrap_or_default()))
    }

    pub(crate) fn of(time_ns: u64, count: TimelineCount) -> Self {
        let mut timeline = Self::default();
        timeline.add(time_ns, count);
        timeline
    }

    pub(crate) fn add(&mut self, time_ns: u64, count: TimelineCount) {
        let known = self.counts.entry(time_ns / self.interval_ns()).or_default();
        known.harmful += count.harmful;
        known.harmless += count.harmless;
        while self.span() > MOST {
            self.lengthen();
        }
    }

    /// Adds what another timeline has counted.
    pub(crate) fn join(&mut self, other: &Self) {
        while self.step < other.step {
            self.lengthen();
        }
        for (at, count) in other.intervals().filter(|(_, count)| *count != TimelineCount::default()) {
            self.add(at, count);
        }
    }

    fn span(&self) -> u64 {
        match (self.counts.keys().next(), self.counts.keys().next_back()) {
            (Some(first), Some(last)) => last - first + 1,
            _ => 0,
        }
    }

    fn lengthen(&mut self) {
        let before = self.milliseconds();
        self.step += 1;
        let times = self.milliseconds() / before;
        let mut longer = BTreeMap::<u64, TimelineCount>::new();
        for (at, count) in std::mem::take(&mut self.counts) {
            let known = longer.entry(at / times).or_default();
            known.harmful += count.harmful;
            known.harmless += count.harmless;
        }
        self.counts = longer;
        debug_assert!(self.counts.len() as u64 <= MOST + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARMFUL: TimelineCount = TimelineCount { harmful: 1, harmless: 0 };

    fn total(timeline: &Timeline) -> u64 {
        timeline.intervals().map(|(_, count)| count.harmful + count.harmless).sum()
    }

    #[test]
    fn any_span_fits_and_nothing_is_lost() {
        let mut timeline = Timeline::default();
        assert_eq!(timeline.intervals().count(), 0);
        for time in [u64::MAX, 0, 1_780_000_000_000_000_000, 1_780_000_000_000_000_001, 7] {
            timeline.add(time, HARMFUL);
            let intervals: Vec<_> = timeline.intervals().collect();
            assert!(intervals.len() as u64 <= MOST, "{}", intervals.len());
            let at = intervals.iter().rfind(|(begin, _)| *begin <= time).unwrap();
            assert!(at.1.harmful > 0 && time - at.0 < timeline.interval_ns());
        }
        assert_eq!(total(&timeline), 5);
    }

    #[test]
    fn the_lengths_are_those_that_people_name() {
        for (before, after) in LENGTHS.iter().zip(&LENGTHS[1..]) {
            assert!(after > before && after % before == 0, "{before} {after}");
        }
        let spanning = |seconds: u64| {
            let mut timeline = Timeline::default();
            timeline.add(1_780_000_000_000_000_000, HARMFUL);
            timeline.add((1_780_000_000 + seconds) * 1_000_000_000, HARMFUL);
            timeline.interval()
        };
        for (seconds, words) in [
            (0, "1 millisecond"),
            (1, "50 milliseconds"),
            (60, "1 second"),
            (3_000, "1 minute"),
            (86_400, "30 minutes"),
            (7 * 86_400, "3 hours"),
            (60 * 86_400, "1 day"),
            (300 * 86_400, "8 days"),
        ] {
            assert_eq!(spanning(seconds), words);
        }
        // Aligned with the clock: an hour begins at the full hour.
        let mut timeline = Timeline::default();
        timeline.add(1_780_000_123_000_000_000, HARMFUL);
        timeline.add(1_780_172_923_000_000_000, HARMFUL);
        assert_eq!(timeline.interval(), "1 hour");
        assert!(timeline.intervals().all(|(begin, _)| begin % 3_600_000_000_000 == 0));
    }

    #[test]
    fn a_second_has_intervals_of_fifty_milliseconds() {
        let mut timeline = Timeline::default();
        for at in 0..=1_000 {
            timeline.add(1_780_000_000_000_000_000 + at * 1_000_000, HARMFUL);
        }
        assert_eq!((timeline.interval_ns(), total(&timeline)), (50_000_000, 1_001));
        let mut other = Timeline::default();
        other.add(1_780_000_002_000_000_000, TimelineCount { harmful: 0, harmless: 3 });
        let mut turned = other.clone();
        turned.join(&timeline);
        timeline.join(&other);
        assert_eq!((total(&timeline), total(&turned)), (1_004, 1_004));
        assert_eq!(timeline.intervals().last().unwrap().1, TimelineCount { harmful: 0, harmless: 3 });
    }
}
