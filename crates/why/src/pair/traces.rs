//! The packets of some connections, as each place has captured them. Their number is bounded.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use linger_packet::capture::{self, Packet, ReadError};
use linger_packet::{Flags, Path as Wrapping, Segment};

use crate::Finding;
use crate::key::FlowKey;

/// Connections compared.
const MAX_FLOWS: usize = 4_096;
/// Packets kept over all connections and captures, about 10 MB. Exceeded by half if there are so many connections and captures
/// that the least number of each ([`KEPT`]) is more.
const MAX_SEEN: usize = 130_000;
/// Traces kept over all captures. If there are more, fewer connections are compared, those of the first findings, each in all
/// captures that have it.
const MAX_TRACES: usize = 2 * MAX_FLOWS;
/// Packets kept of each connection and capture, half of them the first and half the latest: at least the first number; at
/// most the second number of either half.
const KEPT: (usize, usize) = (24, 512);
/// Connections of another capture that one finding is compared with: the first ones that fit it. Those of networks that share a
/// wire have equal ends, and a capture may have any number of them.
pub(super) const MAX_CANDIDATES: usize = 16;
/// Packets of one direction with the same numbers whose data is compared.
const MAX_ALIKE: usize = 8;
/// How many interfaces of a capture are compared, those with the lowest numbers.
const MAX_INTERFACES: u32 = 64;

/// A packet of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// The number of its file within the series.
    pub(super) file: u32,
    pub(super) frame: u64,
    pub(super) time_ns: u64,
    pub(super) dir: usize,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) len: u32,
    pub(super) flags: Flags,
    id: Option<u16>,
    pub(super) ttl: u8,
    start: FirstBytes,
}

/// The first bytes of a segment's data, as far as they were captured.
#[derive(Clone, Copy, Debug)]
struct FirstBytes {
    bytes: [u8; Self::MOST],
    count: u8,
}

impl FirstBytes {
    /// As much as tells most protocols' messages apart, and is within what cut captures keep.
    const MOST: usize = 16;

    fn of(payload: &[u8]) -> Self {
        let mut start = Self { bytes: [0; Self::MOST], count: payload.len().min(Self::MOST) as u8 };
        start.bytes.iter_mut().zip(payload).for_each(|(to, byte)| *to = *byte);
        start
    }

    fn differs(&self, other: &Self) -> bool {
        let both = usize::from(self.count.min(other.count));
        self.bytes[..both] != other.bytes[..both]
    }
}

/// What the same packet has in every capture: direction, numbers, length, flags, identification.
type PacketName = (usize, u32, u32, u32, u8, Option<u16>);

impl Seen {
    /// `swapped`: as a capture names it that numbers the sides the other way round.
    fn name(&self, swapped: bool) -> PacketName {
        let dir = if swapped { 1 - self.dir } else { self.dir };
        (dir, self.seq, self.len, self.ack, self.flags.0, self.id)
    }
}

/// The packets of one connection in one capture: the first ones and the latest.
#[derive(Debug, Default)]
pub(super) struct Trace {
    head: Vec<Seen>,
    tail: VecDeque<Seen>,
    /// The places of all packets, in the order of their names.
    by_name: Vec<u16>,
    isns: [Option<u32>; 2],
    /// How many pairs of initial sequence numbers lead to it.
    openings: u8,
    /// The place of its finding among all: the first with its ends or its initial sequence number.
    rank: usize,
    /// Whether packets between the two were not kept.
    pub(super) dropped: bool,
}

impl Trace {
    fn push(&mut self, seen: Seen, kept: usize) {
        if self.head.len() < kept {
            self.head.push(seen);
            return;
        }
        if self.tail.len() == kept {
            self.tail.pop_front();
            self.dropped = true;
        }
        self.tail.push_back(seen);
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Seen> {
        self.head.iter().chain(&self.tail)
    }

    pub(super) fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    fn at(&self, place: u16) -> Option<&Seen> {
        let place = usize::from(place);
        self.head.get(place).or_else(|| self.tail.get(place - self.head.len()))
    }

    /// Sorts the packets, so that one is found without looking at all.
    fn sort(&mut self) {
        let mut places: Vec<u16> = (0..self.len() as u16).collect();
        places.sort_by_key(|&place| self.at(place).map(|seen| seen.name(false)));
        self.by_name = places;
    }

    /// The packets from the first one on whose name is not before `name`.
    fn beginning_at(&self, name: PacketName) -> impl Iterator<Item = &Seen> {
        let before = |place: &u16| self.at(*place).is_some_and(|seen| seen.name(false) < name);
        let first = self.by_name.partition_point(before);
        self.by_name.iter().skip(first).filter_map(|&place| self.at(place))
    }

    /// The first packet here that is `other`. `swapped`: the trace of `other` numbers the sides the other way round.
    pub(super) fn find(&self, other: &Seen, swapped: bool) -> Option<&Seen> {
        let name = other.name(swapped);
        self.beginning_at(name).next().filter(|seen| seen.name(false) == name)
    }

    /// Whether the data of this trace differs from that of the other one, so that it is another connection.
    pub(super) fn contradicts(&self, other: &Self, swapped: bool) -> bool {
        self.iter().filter(|ours| ours.len > 0).any(|ours| {
            let (dir, seq, len, ..) = ours.name(swapped);
            let alike = |theirs: &&Seen| (theirs.dir, theirs.seq, theirs.len) == (dir, seq, len);
            let theirs = other.beginning_at((dir, seq, len, 0, 0, None)).take_while(alike).take(MAX_ALIKE);
            theirs.into_iter().any(|theirs| ours.start.differs(&theirs.start))
        })
    }

    /// How many packets of this trace are in the other one, too.
    pub(super) fn shared_with(&self, other: &Self, swapped: bool) -> usize {
        self.iter().filter(|ours| other.find(ours, swapped).is_some()).count()
    }
}

/// A connection of one network. The interface in the key is always 0, so that keys of all captures can be compared.
pub(super) type TraceKey = (FlowKey, Wrapping);

/// The connections of interest, as seen on one interface of one capture.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// The number of the series.
    pub(super) series: usize,
    pub(super) interface: u32,
    pub(super) flows: HashMap<TraceKey, Trace>,
    by_isns: HashMap<(u32, u32), Vec<TraceKey>>,
    by_ends: HashMap<FlowKey, Vec<TraceKey>>,
    /// The rank up to which traces were forgotten.
    end: usize,
    /// The times of the earliest and the latest packet, TCP or not, in nanoseconds.
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Traces {
    /// The connections that may be the one of `finding`: the one with its ends in its network, those with its initial sequence
    /// numbers, and those with its ends.
    pub(super) fn candidates(&self, finding: &Finding) -> Vec<TraceKey> {
        let ends = FlowKey::between(finding.from, finding.to, 0).0;
        let by_isns = match finding.numbers.isns {
            [Some(one), Some(other)] => self.by_isns.get(&(one.min(other), one.max(other))),
            _ => None,
        };
        let own = (ends, finding.numbers.network);
        let mut keys: Vec<TraceKey> = Vec::new();
        let alike = by_isns.into_iter().chain(self.by_ends.get(&ends)).flatten();
        for key in self.flows.contains_key(&own).then_some(&own).into_iter().chain(alike) {
            if keys.len() == MAX_CANDIDATES {
                break;
            }
            if !keys.contains(key) {
                keys.push(*key);
            }
        }
        keys
    }

    /// How many pairs of initial sequence numbers lead to connections.
    #[cfg(test)]
    pub(super) fn names(&self) -> usize {
        self.by_isns.len()
    }

    /// Forgets the traces from rank `end` on.
    fn forget(&mut self, end: usize) {
        if self.end == end {
            return;
        }
        self.end = end;
        self.flows.retain(|_, trace| trace.rank < end);
        let flows = &self.flows;
        for keys in self.by_ends.values_mut().chain(self.by_isns.values_mut()) {
            keys.retain(|key| flows.contains_key(key));
        }
        self.by_ends.retain(|_, keys| !keys.is_empty());
        self.by_isns.retain(|_, keys| !keys.is_empty());
    }

    fn take(&mut self, packet: &Packet<'_>, file: u32, wanted: &Wanted) {
        self.first = self.first.min(packet.time_ns);
        self.last = self.last.max(packet.time_ns);
        let Ok(segment) = Segment::from_frame(packet.link, packet.data, packet.wire_len) else { return };
        let (ends, dir) = FlowKey::of(&segment, 0);
        let syn = segment.flags.has(Flags::SYN);
        let key = (ends, segment.path.network());
        let known = self.flows.contains_key(&key);
        if !known {
            let isn = Some(segment.seq).filter(|_| syn);
            let Some(rank) = wanted.rank(&ends, isn) else { return };
            if self.flows.len() >= MAX_FLOWS || !wanted.room.take(rank) {
                return;
            }
            self.forget(wanted.room.end());
            self.by_ends.entry(ends).or_default().push(key);
            self.flows.insert(key, Trace { rank, ..Trace::default() });
        }
        let Some(trace) = self.flows.get_mut(&key) else { return };
        if syn {
            trace.isns[dir] = Some(segment.seq);
            if let [Some(low), Some(high)] = trace.isns {
                let pair = (low.min(high), low.max(high));
                // A capture may have any number of SYNs between the same ends.
                let is_known = self.by_isns.contains_key(&pair);
                if is_known || usize::from(trace.openings) < MAX_CANDIDATES {
                    trace.openings += u8::from(!is_known);
                    let same = self.by_isns.entry(pair).or_default();
                    if same.len() < MAX_CANDIDATES && !same.contains(&key) {
                        same.push(key);
                    }
                }
            }
        }
        let seen = Seen {
            file,
            frame: packet.frame,
            time_ns: packet.time_ns,
            dir,
            seq: segment.seq,
            ack: segment.ack,
            len: segment.payload_len,
            flags: segment.flags,
            id: segment.ip_id,
            ttl: segment.ttl,
            start: FirstBytes::of(segment.payload),
        };
        trace.push(seen, wanted.kept);
    }
}

/// Which connections are collected, and how many packets of each.
pub(super) struct Wanted {
    /// The first finding with these ends, and with this initial sequence number.
    ends: HashMap<FlowKey, usize>,
    isns: HashMap<u32, usize>,
    kept: usize,
    room: Room,
}

/// Room for so many traces over all captures. If it is too little, the findings of the highest ranks lose all of theirs, so that what
/// is kept does not depend on the order in which captures are read.
struct Room {
    most: usize,
    /// Ranks from here on have no traces.
    end: AtomicUsize,
    /// How many traces each rank has, and their number below `end`.
    taken: Mutex<(Vec<usize>, usize)>,
}

impl Room {
    fn new(most: usize, ranks: usize) -> Self {
        Self { most, end: AtomicUsize::new(ranks), taken: Mutex::new((vec![0; ranks], 0)) }
    }

    fn end(&self) -> usize {
        self.end.load(Ordering::Relaxed)
    }

    /// Takes the place of one trace. Returns false if there is none for this rank.
    fn take(&self, rank: usize) -> bool {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (ranks, sum) = &mut *taken;
        let mut end = self.end();
        let Some(count) = ranks.get_mut(rank).filter(|_| rank < end) else { return false };
        *count += 1;
        *sum += 1;
        while *sum > self.most {
            end -= 1;
            *sum -= ranks[end];
        }
        self.end.store(end, Ordering::Relaxed);
        rank < end
    }
}

impl Wanted {
    /// The connections of the first findings. `places` is how many captures are read.
    pub(super) fn of(findings: &[Finding], places: usize) -> Self {
        let ranks = findings.len().min(MAX_FLOWS);
        let room = Room::new(MAX_TRACES, ranks);
        let mut wanted = Self { ends: HashMap::new(), isns: HashMap::new(), kept: 0, room };
        for (rank, finding) in findings.iter().take(ranks).enumerate() {
            wanted.ends.entry(FlowKey::between(finding.from, finding.to, 0).0).or_insert(rank);
            for isn in finding.numbers.isns.into_iter().flatten() {
                wanted.isns.entry(isn).or_insert(rank);
            }
        }
        let traces = wanted.ends.len().max(1) * places.max(1);
        wanted.kept = (MAX_SEEN / traces).clamp(KEPT.0, 2 * KEPT.1) / 2;
        wanted
    }

    /// The first finding with these ends or this initial sequence number.
    fn rank(&self, ends: &FlowKey, isn: Option<u32>) -> Option<usize> {
        let by_isn = isn.and_then(|isn| self.isns.get(&isn));
        self.ends.get(ends).into_iter().chain(by_isn).min().copied()
    }
}

/// A file that could not be read, and why.
type Problem = (PathBuf, ReadError);

/// Collects the wanted connections of all series, several at a time.
pub(super) fn collect_all(series: &[Vec<&Path>], wanted: &Wanted) -> (Vec<Traces>, Vec<Problem>) {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(series.len());
    let next = AtomicUsize::new(0);
    let collected = Mutex::new((Vec::new(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(files) = series.get(number) else { return };
                    let (traces, problems) = collect(number, files, wanted);
                    let mut all = collected.lock().unwrap_or_else(PoisonError::into_inner);
                    all.0.extend(traces);
                    all.1.extend(problems);
                    all.0.iter_mut().for_each(|traces| traces.forget(wanted.room.end()));
                }
            });
        }
    });
    let (mut traces, problems) = collected.into_inner().unwrap_or_else(PoisonError::into_inner);
    traces.sort_by_key(|traces| (traces.series, traces.interface));
    traces.iter_mut().flat_map(|traces| traces.flows.values_mut()).for_each(Trace::sort);
    (traces, problems)
}

/// Collects the wanted connections of one series.
fn collect(series: usize, files: &[&Path], wanted: &Wanted) -> (Vec<Traces>, Vec<Problem>) {
    let (mut all, mut problems) = (Vec::<Traces>::new(), Vec::new());
    for (file, path) in files.iter().enumerate() {
        let mut reader = match capture::open(path) {
            Ok(reader) => reader,
            Err(error) => {
                problems.push((path.to_path_buf(), error));
                continue;
            }
        };
        // The first pass has reported read errors.
        while let Ok(Some(packet)) = reader.next() {
            if packet.interface >= MAX_INTERFACES {
                continue;
            }
            while all.len() <= packet.interface as usize {
                let interface = all.len() as u32;
                all.push(Traces { series, interface, first: u64::MAX, ..Traces::default() });
            }
            all[packet.interface as usize].take(&packet, file as u32, wanted);
        }
    }
    (all, problems)
}

#[cfg(test)]
#[path = "traces_tests.rs"]
mod tests;
