//! Compares several captures of the same connections, or several interfaces of one capture.
//!
//! A second pass collects the packets of the connections that were reset, in every capture. Connections are
//! matched by their ends, or, through address translation, by the initial sequence numbers of both sides; and they are
//! the same connection only if both captures have some of its packets. So neither the next file of a rotated capture nor
//! a capture of another network says anything about a reset.

mod conversations;
mod traces;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use linger_packet::Flags;
use linger_packet::capture::ReadError;

use self::conversations::{Conversations, OtherView, place_name, spend};
use self::traces::{Seen, Trace, TraceKey, Traces, Wanted, collect_all};
use crate::advice::{Capture, NextEvidence};
use crate::finding::Evidence;
use crate::key::FlowKey;
use crate::{Cause, Class, Confidence, Finding};

/// Compares findings of several captures with each other: `findings` were made of the captures in `paths`.
///
/// A reset seen in several captures stays one finding, that of the capture nearest to its sender.
///
/// # Errors
/// Returns an error if a capture cannot be opened a second time. Standard input never can.
pub fn compare(paths: &[&Path], findings: Vec<Finding>) -> Result<Vec<Finding>, ReadError> {
    let series: Vec<Vec<&Path>> = paths.iter().map(|path| vec![*path]).collect();
    let (findings, problems) = compare_series(&series, findings);
    problems.into_iter().next().map_or(Ok(findings), |(_, error)| Err(error))
}

/// Does what [`compare`] does, for captures that consist of several files each. Returns the files that could not be read a second
/// time, too: they may have been removed meanwhile, as by rotation.
pub fn compare_series(
    series: &[Vec<&Path>],
    findings: Vec<Finding>,
) -> (Vec<Finding>, Vec<(PathBuf, ReadError)>) {
    let wanted = Wanted::of(&findings, series.len());
    let (mut all, problems) = collect_all(series, &wanted);
    all.retain(|traces| !traces.flows.is_empty());
    (Views::new(series, &all).compare(findings, MAX_STEPS).0, problems)
}

/// What all captures hold of the connections, and where the captures of findings are.
struct Views<'a> {
    series: &'a [Vec<&'a Path>],
    all: &'a [Traces],
    /// The number of each file's series, and its place there.
    files: HashMap<String, (usize, u32)>,
    /// The place in `all` of the traces of a series and an interface.
    places: HashMap<(usize, u32), usize>,
}

impl<'a> Views<'a> {
    fn new(series: &'a [Vec<&'a Path>], all: &'a [Traces]) -> Self {
        let of_series = |(number, paths): (usize, &Vec<&Path>)| {
            let numbered = paths.iter().enumerate();
            let named = numbered.map(|(file, path)| (path.display().to_string(), (number, file as u32)));
            named.collect::<Vec<_>>()
        };
        let files = series.iter().enumerate().flat_map(of_series).collect();
        let numbered = all.iter().enumerate();
        let places = numbered.map(|(at, traces)| ((traces.series, traces.interface), at)).collect();
        Self { series, all, files, places }
    }

    /// Compares the findings, with at most so many steps ([`MAX_STEPS`]). Returns the steps that are left, too.
    fn compare(&self, findings: Vec<Finding>, mut steps: usize) -> (Vec<Finding>, usize) {
        let mut kept = Conversations::default();
        for mut finding in findings {
            let place = self.files.get(&finding.file).copied();
            let own = place.and_then(|(series, _)| self.places.get(&(series, finding.interface)).copied());
            let (Some((_, file)), Some(own)) = (place, own) else {
                kept.keep(finding);
                continue;
            };
            let (ends, by) = FlowKey::between(finding.from, finding.to, 0);
            let key = (ends, finding.numbers.network);
            let mut elsewhere = Vec::new();
            for (at, other) in self.all.iter().enumerate().filter(|&(at, _)| at != own) {
                let found = Comparison::of(&self.all[own], other, key, by, &finding, &mut steps);
                let Some(comparison) = found else { continue };
                let name = name(self.series, other, comparison.trace);
                let (key, offset) = (comparison.key, comparison.clock_offset());
                let same = comparison.apply(&mut finding, &name).map(|seen| (seen.file, seen.frame));
                elsewhere.push(OtherView { place: at, key, offset, same });
            }
            kept.take(finding, (own, key, file), &elsewhere, &mut steps);
        }
        (kept.into_findings(), steps)
    }
}

/// How evidence names the capture that holds `trace`: the file with its last packet, and the interface if it is not 0.
fn name(series: &[Vec<&Path>], traces: &Traces, trace: &Trace) -> String {
    let file = trace.iter().next_back().map_or(0, |seen| seen.file as usize);
    let file = series.get(traces.series).and_then(|files| files.get(file));
    let file = file.map_or(String::new(), |path| path.display().to_string());
    place_name(&file, traces.interface)
}

/// Packets that are looked up at most. A few captures of as many connections as are compared need a hundredth; what is over is
/// judged by its own capture alone. A capture made to keep the reader busy may have any number of connections that resemble each
/// other.
const MAX_STEPS: usize = 1 << 26;
/// The most that the clocks of two captures of one connection may differ: by the farthest time zones, UTC-12 and UTC+14, where
/// one was set to local time. Beyond it the packets are others with the same numbers, as in captures made by hand.
const CLOCKS_DIFFER: u64 = 26 * 3_600 * 1_000_000_000;

/// One reset, seen from the capture it was found in and from another.
struct Comparison<'a> {
    other: &'a Traces,
    own_trace: &'a Trace,
    trace: &'a Trace,
    key: TraceKey,
    /// The resetting side in the other capture.
    by: usize,
    own_by: usize,
    /// Whether side 0 here is side 1 in the other capture, as address translation may have it.
    swapped: bool,
    /// Both are interfaces of one capture.
    is_one_capture: bool,
}

impl<'a> Comparison<'a> {
    /// The connection in the other capture that shares most packets with the finding's; `None` if none shares any. One with other
    /// data, or of another day, is not the same.
    fn of(
        own: &'a Traces,
        other: &'a Traces,
        key: TraceKey,
        own_by: usize,
        finding: &Finding,
        steps: &mut usize,
    ) -> Option<Self> {
        let own_trace = own.flows.get(&key)?;
        let mut best: Option<(usize, Self)> = None;
        for their_key in other.candidates(finding) {
            let Some(trace) = other.flows.get(&their_key) else { continue };
            // Address translation may change which end is the lower one.
            for swapped in [false, true] {
                if !spend(steps, own_trace.len()) {
                    return None;
                }
                let shared = own_trace.shared_with(trace, swapped);
                if shared > best.as_ref().map_or(0, |(most, _)| *most) {
                    let by = if swapped { 1 - own_by } else { own_by };
                    let is_one_capture = own.series == other.series;
                    let comparison =
                        Self { other, own_trace, trace, key: their_key, by, own_by, swapped, is_one_capture };
                    let offset = comparison.clock_offset();
                    let is_of_another_day =
                        offset.is_some_and(|offset| offset.unsigned_abs() > CLOCKS_DIFFER);
                    if !is_of_another_day && !own_trace.contradicts(trace, swapped) {
                        best = Some((shared, comparison));
                    }
                }
            }
        }
        best.map(|(_, comparison)| comparison)
    }

    /// The difference of the two captures' clocks (the other's less this one's, in nanoseconds), from packets that both have
    /// seen. The delay of a packet adds to the difference in one direction and is subtracted from it in the other.
    fn clock_offset(&self) -> Option<i64> {
        let mut bounds = [None::<(i64, i64)>; 2];
        for ours in self.own_trace.iter().filter(|seen| !seen.flags.has(Flags::RST)) {
            if let Some(theirs) = self.trace.find(ours, self.swapped) {
                let difference = theirs.time_ns as i64 - ours.time_ns as i64;
                let bound = bounds[ours.dir].get_or_insert((difference, difference));
                *bound = (bound.0.min(difference), bound.1.max(difference));
            }
        }
        let (low, high) = match bounds {
            [Some(low), Some(high)] => (low, high),
            // One direction alone: the difference is too great or too small by the delay.
            [Some(one), None] | [None, Some(one)] => return Some(one.0),
            [None, None] => return None,
        };
        // The direction with the greater differences runs from us to them. Its least difference is offset plus delay.
        let (there, back) = if low.0 > high.0 { (low.0, high.1) } else { (high.0, low.1) };
        Some(there.midpoint(back))
    }

    /// Whether the other capture was taken nearer to the resetting side.
    fn other_is_nearer(&self) -> Option<bool> {
        let ttl = |trace: &Trace, by| {
            trace.iter().find(|seen| seen.dir == by && !seen.flags.has(Flags::RST)).map(|seen| seen.ttl)
        };
        let (ours, theirs) = (ttl(self.own_trace, self.own_by)?, ttl(self.trace, self.by)?);
        if ours != theirs {
            return Some(theirs > ours);
        }
        // On one link TTLs are equal. Near a side, that side's answers come sooner.
        let quickest = |trace: &Trace, by: usize| {
            let mut quickest = None::<u64>;
            let mut asked = None;
            for seen in trace.iter() {
                if seen.dir != by {
                    asked = Some(seen.time_ns);
                } else if let Some(time) = asked.take() {
                    let answer = seen.time_ns.saturating_sub(time);
                    quickest = Some(quickest.map_or(answer, |known| known.min(answer)));
                }
            }
            quickest
        };
        let (ours, theirs) = (quickest(self.own_trace, self.own_by)?, quickest(self.trace, self.by)?);
        (ours != theirs).then_some(theirs < ours)
    }

    /// Packets of the resetting side that we saw and they did not.
    fn missing_there(&self) -> usize {
        self.own_trace
            .iter()
            .filter(|seen| seen.dir == self.own_by && !seen.flags.has(Flags::RST))
            .filter(|ours| self.trace.find(ours, self.swapped).is_none())
            .count()
    }

    /// FINs and resets of the sender that never reached us.
    fn unheard(&self) -> impl Iterator<Item = &Seen> {
        self.trace.iter().filter(|seen| {
            seen.dir == self.by
                && seen.flags.any(Flags::FIN | Flags::RST)
                && self.own_trace.find(seen, self.swapped).is_none()
        })
    }

    /// Adds the facts from the other capture to `finding`. Returns the same reset as the other capture has it, if it does.
    fn apply(self, finding: &mut Finding, file: &str) -> Option<Seen> {
        // A failure without a reset has no packet that one place may lack.
        if !finding.class.is_reset() {
            return None;
        }
        let say = |finding: &mut Finding, says: String| {
            finding.evidence.push(Evidence::view(says));
        };
        let same = self.trace.iter().find(|seen| {
            seen.dir == self.by && seen.flags.has(Flags::RST) && seen.seq == finding.numbers.seq
        });
        let offset = self.clock_offset();
        if let Some(same) = same {
            let delay = offset
                .map(|offset| same.time_ns as i64 - offset - finding.time_ns as i64)
                .map_or(String::new(), |delay| format!(", {:+.3} ms by aligned clocks", delay as f64 / 1e6));
            say(finding, format!("{file} has it too, as frame {}{delay}", same.frame));
            let before = |seen: &&Seen| (seen.file, seen.frame) < (same.file, same.frame);
            if self.other_is_nearer() == Some(true)
                && let Some(goodbye) = self.unheard().find(before)
            {
                say(
                    finding,
                    format!(
                        "before it the sender's {} (frame {} there) was sent, and never arrived here",
                        goodbye.flags, goodbye.frame
                    ),
                );
                let closed = goodbye.flags.has(Flags::FIN);
                finding.cause = if closed { Cause::DataAfterClose } else { Cause::HalfOpen };
                finding.confidence = Confidence::Certain;
                finding.candidates = vec![finding.cause];
                finding.remedy = finding.cause.remedy();
                finding.would_decide = None;
            }
            return Some(*same);
        }
        let theirs = self.trace.iter().filter(|seen| seen.dir == self.by).count();
        let time = offset.map(|offset| finding.time_ns.saturating_add_signed(offset))?;
        if theirs > 0 && time > self.other.last {
            self.ended_before(finding, file, (time - self.other.last) as f64 / 1e6);
            return None;
        }
        if theirs == 0 || time < self.other.first || self.trace.dropped || self.own_trace.dropped {
            return None;
        }
        match self.other_is_nearer() {
            Some(true) => {}
            Some(false) => {
                say(finding, format!("it never reached {file}"));
                return None;
            }
            None => {
                say(finding, format!("{file} does not have it, and which place is nearer is not known"));
                return None;
            }
        }
        let missing = self.missing_there();
        let unheard = self.unheard().next();
        say(
            finding,
            format!("{file}, nearer to the alleged sender, has {theirs} packets of it, and not this reset"),
        );
        judge_forged(finding, missing);
        if missing > 0 {
            say(
                finding,
                format!("but it lacks {missing} other packets of that side: it may have lost this one too"),
            );
        }
        if let Some(unheard) = unheard {
            say(
                finding,
                format!("its own {} (frame {} there) never arrived here", unheard.flags, unheard.frame),
            );
        }
        None
    }
}

impl Comparison<'_> {
    /// The other capture's last packet is so many milliseconds before the reset. If it had ended by then it cannot have the reset.
    fn ended_before(&self, finding: &mut Finding, file: &str, early: f64) {
        // An interface of the same capture is being captured still, unless files of several hosts were merged into one.
        let says = if self.is_one_capture && self.other_is_nearer() != Some(false) {
            doubt(finding);
            format!(
                "{file} has its last packet {early:.3} ms before it, and not this reset: it may be of a box between"
            )
        } else {
            format!("{file} ends {early:.3} ms before it, by aligned clocks")
        };
        finding.evidence.push(Evidence::view(says));
    }
}

/// Judges that another host may have sent the reset.
fn doubt(finding: &mut Finding) {
    finding.confidence = finding.confidence.min(Confidence::Likely);
    if !finding.candidates.contains(&Cause::Forged) {
        finding.candidates.push(Cause::Forged);
    }
    finding.would_decide.get_or_insert(NextEvidence::Capture(Capture::AllegedSender));
}

/// Judges that another host sent the reset. `missing`: other packets that the capture near the alleged sender lacks, too.
fn judge_forged(finding: &mut Finding, missing: usize) {
    finding.class = Class::Foreign;
    finding.cause = Cause::Forged;
    finding.candidates = vec![Cause::Forged];
    finding.remedy = Cause::Forged.remedy();
    finding.harmless = false;
    finding.confidence = if missing == 0 { Confidence::Certain } else { Confidence::Likely };
    finding.would_decide = None;
}

#[cfg(test)]
#[path = "pair_tests.rs"]
mod tests;
