//! One finding of each conversation, however many captures show it.

use std::collections::HashMap;

use super::traces::TraceKey;
use crate::Finding;
use crate::finding::Evidence;

/// How long a packet may be on its way between two captures, in nanoseconds, where nothing but time tells connections apart.
const ON_THE_WAY: u64 = 200_000_000;

/// The connection of a finding in another capture.
pub(super) struct OtherView {
    pub(super) place: usize,
    pub(super) key: TraceKey,
    /// How much that capture's clock is ahead of the finding's, in nanoseconds.
    pub(super) offset: Option<i64>,
    /// File and frame of the same reset there.
    pub(super) same: Option<(u32, u64)>,
}

/// The findings so far, one of each conversation, however many captures show it.
#[derive(Default)]
pub(super) struct Conversations {
    /// Each with the place of its capture.
    findings: Vec<(Finding, Option<usize>)>,
    /// Which of them a reset is told by, by its place, connection, file and frame.
    resets: HashMap<(usize, TraceKey, u32, u64), usize>,
    /// Which of them are of a connection in a capture. There are several if its ends were used again.
    connections: HashMap<(usize, TraceKey), Vec<usize>>,
}

impl Conversations {
    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.findings.into_iter().map(|(finding, _)| finding).collect()
    }

    /// Keeps a finding that is compared with nothing.
    pub(super) fn keep(&mut self, finding: Finding) {
        self.findings.push((finding, None));
    }

    /// Takes a finding of this place, connection and file.
    pub(super) fn take(
        &mut self,
        finding: Finding,
        own: (usize, TraceKey, u32),
        elsewhere: &[OtherView],
        steps: &mut usize,
    ) {
        let (place, key, file) = own;
        let told = self.resets.get(&(place, key, file, finding.frame)).copied();
        let known = told.or_else(|| self.of_same_connection(&finding, elsewhere, steps));
        let at = known.unwrap_or(self.findings.len());
        let frame = finding.frame;
        if known.is_some() {
            self.merge(at, (finding, place), elsewhere, told.is_some());
        } else {
            self.findings.push((finding, Some(place)));
        }
        self.resets.entry((place, key, file, frame)).or_insert(at);
        for view in elsewhere {
            if let Some((file, frame)) = view.same {
                self.resets.entry((view.place, view.key, file, frame)).or_insert(at);
            }
        }
        let known = self.connections.entry((place, key)).or_default();
        if known.last() != Some(&at) {
            known.push(at);
        }
    }

    /// The finding that another capture gave of the same connection. Captures may differ in which reset is the first: one may have
    /// been lost on the way, or two changed places.
    fn of_same_connection(
        &self,
        finding: &Finding,
        elsewhere: &[OtherView],
        steps: &mut usize,
    ) -> Option<usize> {
        let is_it = |at: &usize| {
            let Some((other, Some(place))) = self.findings.get(*at) else { return false };
            let view = elsewhere.iter().find(|view| view.place == *place);
            view.is_some_and(|view| is_same_connection(finding, other, view.offset))
        };
        let known = elsewhere.iter().filter_map(|view| self.connections.get(&(view.place, view.key)));
        known.flatten().take_while(|_| spend(steps, 1)).find(|at| is_it(at)).copied()
    }

    /// Joins a finding of this place with the one of the same connection at `at`. One of both stays.
    fn merge(&mut self, at: usize, new: (Finding, usize), elsewhere: &[OtherView], is_same_reset: bool) {
        let ((mut new, place), Some((old, old_place))) = (new, self.findings.get_mut(at)) else { return };
        let offset =
            elsewhere.iter().find(|view| Some(view.place) == *old_place).and_then(|view| view.offset);
        let is_better = if is_same_reset { is_nearer(&new, old) } else { tells_more(&new, old, offset) };
        if !is_same_reset {
            let (better, other) = if is_better { (&mut new, &*old) } else { (old, &new) };
            better.evidence.push(Evidence::view(format!(
                "{} shows the end of the same connection by frame {}",
                place_name(&other.file, other.interface),
                other.frame
            )));
        }
        if is_better {
            self.findings[at] = (new, Some(place));
        }
    }
}

/// Takes so many steps from those that are left. Returns false if there are too few.
pub(super) fn spend(steps: &mut usize, count: usize) -> bool {
    let left = steps.checked_sub(count);
    *steps = left.unwrap_or(0);
    left.is_some()
}

/// Whether two findings whose traces have packets in common are of one connection, rather than of two with the same ends.
/// `offset`: how much the other's clock is ahead, in nanoseconds.
fn is_same_connection(one: &Finding, other: &Finding, offset: Option<i64>) -> bool {
    if let ([Some(low), Some(high)], [Some(their_low), Some(their_high)]) =
        (one.numbers.isns, other.numbers.isns)
    {
        // Address translation may change which end is the lower one.
        return (low.min(high), low.max(high)) == (their_low.min(their_high), their_low.max(their_high));
    }
    let Some(offset) = offset else { return false };
    let end = one.time_ns.saturating_add_signed(offset);
    let begins = |finding: &Finding, end: u64| end.saturating_sub(finding.age_ns.unwrap_or(0));
    begins(one, end) <= other.time_ns.saturating_add(ON_THE_WAY)
        && begins(other, other.time_ns) <= end.saturating_add(ON_THE_WAY)
}

/// Whether `new` is preferred: its capture is nearer to the sender of the reset (the higher TTL), or as near with a surer
/// verdict.
fn is_nearer(new: &Finding, old: &Finding) -> bool {
    (new.ttl, new.confidence) > (old.ttl, old.confidence)
}

/// Whether `new`, of another packet of the same connection, is preferred: a reset over a failure without one, and of two resets the
/// earlier one, whose consequence the other is. `offset`: how much the other's clock is ahead, in nanoseconds.
fn tells_more(new: &Finding, old: &Finding, offset: Option<i64>) -> bool {
    match (new.class.is_reset(), old.class.is_reset(), offset) {
        (true, true, Some(offset)) => new.time_ns.saturating_add_signed(offset) < old.time_ns,
        (true, true, None) => is_nearer(new, old),
        (false, false, _) => (new.confidence, new.ttl) > (old.confidence, old.ttl),
        (is_reset, _, _) => is_reset,
    }
}

/// How evidence names an interface of a capture.
pub(super) fn place_name(file: &str, interface: u32) -> String {
    if interface == 0 { file.to_owned() } else { format!("{file} interface {interface}") }
}
