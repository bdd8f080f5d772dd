//! Compares several captures of the same connections, or several interfaces of one capture.
//!
//! A second pass collects the packets of the connections that were reset, in every capture. Connections are
//! matched by their ends, or, through address translation, by the initial sequence numbers of both sides.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use linger_packet::capture::{self, ReadError};
use linger_packet::{Flags, Segment};

use crate::finding::Evidence;
use crate::key::FlowKey;
use crate::{Cause, Class, Confidence, Finding};

/// Connections compared.
const MAX_FLOWS: usize = 4_096;
/// Packets kept of each connection and capture: the first and the latest.
const KEPT: usize = 512;

/// A packet of a connection.
#[derive(Clone, Copy, Debug)]
struct Seen {
    frame: u64,
    time_ns: u64,
    dir: usize,
    seq: u32,
    ack: u32,
    len: u32,
    flags: Flags,
    id: Option<u16>,
    ttl: u8,
}

impl Seen {
    fn same(&self, other: &Self, swapped: bool) -> bool {
        (self.dir == other.dir) != swapped
            && (self.seq, self.ack, self.len, self.flags) == (other.seq, other.ack, other.len, other.flags)
            && self.id == other.id
    }
}

#[derive(Debug, Default)]
struct Trace {
    head: Vec<Seen>,
    tail: std::collections::VecDeque<Seen>,
    isns: [Option<u32>; 2],
    dropped: bool,
}

impl Trace {
    fn push(&mut self, seen: Seen) {
        if self.head.len() < KEPT {
            self.head.push(seen);
            return;
        }
        if self.tail.len() == KEPT {
            self.tail.pop_front();
            self.dropped = true;
        }
        self.tail.push_back(seen);
    }

    fn iter(&self) -> impl DoubleEndedIterator<Item = &Seen> {
        self.head.iter().chain(&self.tail)
    }
}

/// The connections of interest, as seen on one interface of one capture; their keys are those of interface 0.
#[derive(Debug, Default)]
struct Traces {
    file: String,
    interface: u32,
    flows: HashMap<FlowKey, Trace>,
    by_isns: HashMap<(u32, u32), FlowKey>,
    first: u64,
    last: u64,
}

/// Compares findings of several captures with each other: `findings` were made of the captures in `paths`.
///
/// A reset seen in several captures stays one finding, that of the capture nearest to its sender.
///
/// # Errors
/// Returns an error if a capture cannot be opened a second time. Standard input never can.
pub fn compare(paths: &[&Path], findings: Vec<Finding>) -> Result<Vec<Finding>, ReadError> {
    let mut keys = HashSet::new();
    let mut isns = HashSet::new();
    for finding in findings.iter().take(MAX_FLOWS) {
        keys.insert(FlowKey::between(finding.from, finding.to, 0).0);
        isns.extend(finding.numbers.isns.into_iter().flatten());
    }
    let mut all = Vec::new();
    for path in paths {
        all.extend(collect(path, &keys, &isns)?);
    }
    let mut kept: Vec<Finding> = Vec::new();
    let mut known: HashMap<(usize, FlowKey, u64), usize> = HashMap::new();
    for mut finding in findings {
        let Some(own) = all.iter().position(|traces| traces.is_where(&finding)) else {
            kept.push(finding);
            continue;
        };
        let (key, by) = FlowKey::between(finding.from, finding.to, 0);
        let mut elsewhere = Vec::new();
        for (at, other) in all.iter().enumerate().filter(|&(at, _)| at != own) {
            let found = Comparison::of(&all[own], other, key, by, &finding)
                .map(|comparison| comparison.apply(&mut finding));
            if let Some(Some((their_key, frame))) = found {
                elsewhere.push((at, their_key, frame));
            }
        }
        let place = (own, key, finding.frame);
        // Already there from another capture: the one nearer to the sender stays.
        if let Some(&at) = known.get(&place) {
            if nearer(&finding, &kept[at]) {
                kept[at] = finding;
            }
            continue;
        }
        known.insert(place, kept.len());
        for place in elsewhere {
            known.insert(place, kept.len());
        }
        kept.push(finding);
    }
    Ok(kept)
}

/// Prefers the capture nearer to the sender of the reset (the higher TTL), then the surer verdict.
fn nearer(new: &Finding, old: &Finding) -> bool {
    (new.ttl, new.confidence) > (old.ttl, old.confidence)
}

impl Traces {
    fn is_where(&self, finding: &Finding) -> bool {
        self.file == finding.file && self.interface == finding.interface
    }

    /// The name of this place in evidence.
    fn name(&self) -> String {
        if self.interface == 0 {
            self.file.clone()
        } else {
            format!("{} interface {}", self.file, self.interface)
        }
    }
}

/// The interfaces of a capture that are compared.
const MAX_INTERFACES: u32 = 64;

fn collect(path: &Path, keys: &HashSet<FlowKey>, isns: &HashSet<u32>) -> Result<Vec<Traces>, ReadError> {
    let mut reader = capture::open(path)?;
    let file = path.display().to_string();
    let mut all: Vec<Traces> = Vec::new();
    // The first pass has reported read errors.
    while let Ok(Some(packet)) = reader.next() {
        if packet.interface >= MAX_INTERFACES {
            continue;
        }
        while all.len() <= packet.interface as usize {
            let interface = all.len() as u32;
            all.push(Traces { file: file.clone(), interface, first: packet.time_ns, ..Traces::default() });
        }
        let traces = &mut all[packet.interface as usize];
        traces.last = packet.time_ns;
        let Ok(segment) = Segment::from_frame(packet.link, packet.data, packet.wire_len) else { continue };
        let (key, dir) = FlowKey::of(&segment, 0);
        let syn = segment.flags.has(Flags::SYN);
        let known = traces.flows.contains_key(&key);
        let wanted = known || keys.contains(&key) || syn && isns.contains(&segment.seq);
        if !wanted || !known && traces.flows.len() >= MAX_FLOWS {
            continue;
        }
        let trace = traces.flows.entry(key).or_default();
        if syn {
            trace.isns[dir] = Some(segment.seq);
        }
        trace.push(Seen {
            frame: packet.frame,
            time_ns: packet.time_ns,
            dir,
            seq: segment.seq,
            ack: segment.ack,
            len: segment.payload_len,
            flags: segment.flags,
            id: segment.ip_id,
            ttl: segment.ttl,
        });
        if let [Some(low), Some(high)] = trace.isns {
            traces.by_isns.insert((low.min(high), low.max(high)), key);
        }
    }
    Ok(all)
}

/// One reset, seen from the capture it was found in and from another.
struct Comparison<'a> {
    other: &'a Traces,
    own_trace: &'a Trace,
    trace: &'a Trace,
    key: FlowKey,
    /// The resetting side in the other capture.
    by: usize,
    own_by: usize,
    swapped: bool,
}

impl<'a> Comparison<'a> {
    fn of(
        own: &'a Traces,
        other: &'a Traces,
        key: FlowKey,
        own_by: usize,
        finding: &Finding,
    ) -> Option<Self> {
        let own_trace = own.flows.get(&key)?;
        let (their_key, swapped) = match finding.numbers.isns {
            [Some(low), Some(high)] => {
                let key = *other.by_isns.get(&(low.min(high), low.max(high)))?;
                (key, other.flows.get(&key)?.isns[0] != Some(low))
            }
            _ => (key, false),
        };
        let trace = other.flows.get(&their_key)?;
        let by = if swapped { 1 - own_by } else { own_by };
        Some(Self { other, own_trace, trace, key: their_key, by, own_by, swapped })
    }

    /// The difference of the two captures' clocks (the other's less this one's, in nanoseconds), from packets that both have
    /// seen. The delay of a packet adds to the difference in one direction and is subtracted from it in the other.
    fn clock_offset(&self) -> Option<i64> {
        let mut bounds = [None::<(i64, i64)>; 2];
        for ours in self.own_trace.iter().filter(|seen| !seen.flags.has(Flags::RST)) {
            if let Some(theirs) = self.trace.iter().find(|theirs| ours.same(theirs, self.swapped)) {
                let difference = theirs.time_ns as i64 - ours.time_ns as i64;
                let bound = bounds[ours.dir].get_or_insert((difference, difference));
                *bound = (bound.0.min(difference), bound.1.max(difference));
            }
        }
        let [Some(low), Some(high)] = bounds else { return None };
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
            .filter(|ours| !self.trace.iter().any(|theirs| ours.same(theirs, self.swapped)))
            .count()
    }

    /// FINs and resets of the sender that never reached us.
    fn unheard(&self) -> impl Iterator<Item = &Seen> {
        self.trace.iter().filter(|seen| {
            seen.dir == self.by
                && seen.flags.any(Flags::FIN | Flags::RST)
                && !self.own_trace.iter().any(|ours| ours.same(seen, self.swapped))
        })
    }

    /// Adds the facts from the other capture to `finding`. If the other capture has the same reset, returns its connection and
    /// its frame there.
    fn apply(self, finding: &mut Finding) -> Option<(FlowKey, u64)> {
        let file = self.other.name();
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
            let before = |seen: &&Seen| seen.frame < same.frame;
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
            return Some((self.key, same.frame));
        }
        let theirs = self.trace.iter().filter(|seen| seen.dir == self.by).count();
        let covered = offset.is_none_or(|offset| {
            let time = finding.time_ns.saturating_add_signed(offset);
            (self.other.first..=self.other.last.saturating_add(1_000_000_000)).contains(&time)
        });
        if theirs == 0 || !covered || self.trace.dropped || self.own_trace.dropped {
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
        finding.class = Class::Foreign;
        finding.cause = Cause::Forged;
        finding.candidates = vec![Cause::Forged];
        finding.remedy = Cause::Forged.remedy();
        finding.harmless = false;
        finding.confidence = if missing == 0 { Confidence::Certain } else { Confidence::Likely };
        finding.would_decide = None;
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
