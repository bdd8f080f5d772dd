//! How many failures there were when: counts in intervals that grow with the time they cover.

use std::collections::BTreeMap;

/// The most intervals. Beyond it, two become one.
const MOST: u64 = 64;
/// The first length of an interval, in nanoseconds.
const SHORTEST: u64 = 1_000_000;

/// Counts over time. A harmless failure is counted apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeline {
    /// The length of an interval is the shortest one, doubled this many times.
    doubled: u32,
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
        SHORTEST << self.doubled
    }

    /// The intervals from the first to the last that has a count, each with its beginning in nanoseconds.
    pub fn intervals(&self) -> impl Iterator<Item = (u64, TimelineCount)> {
        let ends = self.counts.keys().next().copied().zip(self.counts.keys().next_back().copied());
        let (first, last) = ends.unwrap_or((1, 0));
        (first..=last).map(|at| (at << self.doubled, at)).map(|(at, key)| {
            (at.saturating_mul(SHORTEST), self.counts.get(&key).copied().unwrap_or_default())
        })
    }

    pub(crate) fn of(time_ns: u64, count: TimelineCount) -> Self {
        let mut timeline = Self::default();
        timeline.add(time_ns, count);
        timeline
    }

    pub(crate) fn add(&mut self, time_ns: u64, count: TimelineCount) {
        let known = self.counts.entry((time_ns / SHORTEST) >> self.doubled).or_default();
        known.harmful += count.harmful;
        known.harmless += count.harmless;
        while self.span() > MOST {
            self.double();
        }
    }

    /// Adds what another timeline has counted.
    pub(crate) fn join(&mut self, other: &Self) {
        while self.doubled < other.doubled {
            self.double();
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

    fn double(&mut self) {
        self.doubled += 1;
        let mut doubled = BTreeMap::<u64, TimelineCount>::new();
        for (at, count) in std::mem::take(&mut self.counts) {
            let known = doubled.entry(at / 2).or_default();
            known.harmful += count.harmful;
            known.harmless += count.harmless;
        }
        self.counts = doubled;
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
    fn a_second_has_intervals_of_sixteen_milliseconds() {
        let mut timeline = Timeline::default();
        for at in 0..=1_000 {
            timeline.add(1_780_000_000_000_000_000 + at * 1_000_000, HARMFUL);
        }
        assert_eq!((timeline.interval_ns(), total(&timeline)), (16_000_000, 1_001));
        let mut other = Timeline::default();
        other.add(1_780_000_002_000_000_000, TimelineCount { harmful: 0, harmless: 3 });
        let mut turned = other.clone();
        turned.join(&timeline);
        timeline.join(&other);
        assert_eq!((total(&timeline), total(&turned)), (1_004, 1_004));
        assert_eq!(timeline.intervals().last().unwrap().1, TimelineCount { harmful: 0, harmless: 3 });
    }
}
