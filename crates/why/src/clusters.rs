//! Silences that many resets have in common, whatever their cause and service: the mark of one timeout on their way.

use crate::group::Group;
use crate::timeouts;

/// Shorter silences are those of every exchange. Nanoseconds.
const LEAST_SILENCE: u64 = 2_000_000_000;
/// Resets that make a cluster, and how many clusters are reported.
const LEAST: usize = 3;
const MOST: usize = 3;

/// Resets after silences of one length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub(crate) resets: usize,
    /// How many groups these resets belong to.
    groups: usize,
    silence_ns: u64,
    spread_ns: u64,
}

impl Cluster {
    /// The clusters over all groups, the greatest first. A cluster within one group is left out if the group's own report tells
    /// of the silence.
    pub(crate) fn of(groups: &[Group]) -> Vec<Self> {
        let silences = groups.iter().enumerate().flat_map(|(at, group)| {
            let members = group.members.iter().filter_map(|member| member.silence_ns);
            members.map(move |silence| (silence, at))
        });
        let mut silences: Vec<_> = silences.filter(|(silence, _)| *silence >= LEAST_SILENCE).collect();
        silences.sort_unstable();
        let mut clusters = Vec::new();
        while clusters.len() < MOST {
            let Some((begin, end)) = densest(&silences) else { break };
            let (cluster, whole) = Self::new(&silences[begin..end], groups);
            // Among many silences of all lengths some are alike by chance. So the other silences between 0.8 and 1.25 times this
            // length must be fewer.
            let about =
                |silence: u64| silence >= cluster.silence_ns / 5 * 4 && silence <= cluster.silence_ns / 4 * 5;
            let others = silences.iter().filter(|(silence, _)| about(*silence)).count() - cluster.resets;
            if !whole && others < cluster.resets {
                clusters.push(cluster);
            }
            silences.drain(begin..end);
        }
        clusters
    }

    /// The cluster of these silences, and whether all are of one group whose own report tells of the silence.
    fn new(silences: &[(u64, usize)], groups: &[Group]) -> (Self, bool) {
        let middle = silences[silences.len() / 2].0;
        let (least, most) = (silences[0].0, silences[silences.len() - 1].0);
        let mut places: Vec<usize> = silences.iter().map(|(_, group)| *group).collect();
        places.sort_unstable();
        places.dedup();
        let whole = places.len() == 1 && groups[places[0]].timing.silence.is_some();
        let spread_ns = (most - middle).max(middle - least);
        (Self { resets: silences.len(), groups: places.len(), silence_ns: middle, spread_ns }, whole)
    }

    pub(crate) fn words(&self) -> String {
        let places =
            if self.groups == 1 { "of one finding" } else { &format!("of {} findings", self.groups) };
        let who: Vec<_> = timeouts::like(self.silence_ns).collect();
        let who = if who.is_empty() {
            "a timeout on their way".to_owned()
        } else {
            format!("as with a timeout of {}", who.join("; "))
        };
        format!(
            "{} resets {places} came {:.1} s \u{b1} {:.1} after the last byte: {who}",
            self.resets,
            self.silence_ns as f64 / 1e9,
            self.spread_ns as f64 / 1e9
        )
    }
}

/// The longest run of sorted silences that differ by at most 1 %, or 0.1 s if that is more: its begin and end.
fn densest(silences: &[(u64, usize)]) -> Option<(usize, usize)> {
    let (mut begin, mut best) = (0, None::<(usize, usize)>);
    for end in 1..=silences.len() {
        let least = silences[begin..end].first()?.0;
        let last = silences[end - 1].0;
        if last - least > (least / 100).max(100_000_000) {
            // The window does not fit. It has grown by one at the end, and loses one at the beginning: a window shorter than
            // the best one need not be tried.
            begin += 1;
        }
        let fits = last - silences[begin].0 <= (silences[begin].0 / 100).max(100_000_000);
        if fits && end - begin >= LEAST && best.is_none_or(|(from, to)| end - begin > to - from) {
            best = Some((begin, end));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(silences: &[f64]) -> Vec<(u64, usize)> {
        silences.iter().enumerate().map(|(at, seconds)| ((seconds * 1e9) as u64, at)).collect()
    }

    #[test]
    fn the_longest_run_is_found() {
        assert_eq!(densest(&seconds(&[2.0, 5.0, 349.9, 350.0, 350.1, 352.0, 900.0])), Some((2, 6)));
        assert_eq!(densest(&seconds(&[2.0, 2.05, 2.1, 2.2, 350.0, 350.1])), Some((0, 3)));
        assert_eq!(densest(&seconds(&[350.0, 350.1, 360.0])), None);
        assert_eq!(densest(&[]), None);
    }
}
