//! One pass over a capture: packets in, findings out.

mod notes;
mod settle;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use linger_packet::capture::Packet;
use linger_packet::{Flags, IcmpError, Layer, NotTcp, Segment};

use crate::cause::no_reset::{FailureLook, ReportedError};
use crate::connection::ObservedConnection;
use crate::counts::{AnalyzerLimits, PacketCounts};
use crate::finding::Finding;
use crate::flow::{Flow, FlowStep};
use crate::key::{Dir, FlowKey, PathId};
use crate::names::AskedNames;
use crate::places::Places;
use crate::record::{At, Record};
use crate::select::Selection;
use crate::series::SeriesFiles;
use crate::streams::StreamsByConnection;
use crate::surroundings::{Drops, ListenerHistory, Surroundings};
use crate::table::{FlowSlot, Table};

/// How long a connection is watched after its reset, in nanoseconds. Later packets of the alleged sender show a forged
/// reset; connections that are refused meanwhile show the end of a process.
const AFTER_RESET: u64 = 10_000_000_000;
/// How long a connection is kept after both FINs, for a late reset, in nanoseconds.
const AFTER_CLOSE: u64 = 120_000_000_000;
/// A forged reset that both sides ignore is reported after this many packets of each side. The connection is then
/// followed as if it had not come.
const IGNORED: u32 = 8;
/// How many packets are parsed ahead of the one that is judged.
const AHEAD: usize = 16;
/// Comments kept for ladders.
const MAX_COMMENTS: usize = 4_096;

/// Connections of which an ICMP error is kept until they end.
const MAX_REPORTED: usize = 4_096;

/// Connections that opened late of which the SYNs are kept for the ladder.
const MAX_LATE: usize = 4_096;

/// Largest number of kinds of layers that are told apart. A capture of noise has any number of them.
const MAX_LAYERS: usize = 64;

/// A segment that was parsed and is not yet judged.
#[derive(Debug)]
struct QueuedSegment<'a> {
    segment: Segment<'a>,
    key: FlowKey,
    dir: Dir,
    at: At,
    path: PathId,
    /// The slot of its flow at the time of parsing.
    slot: Option<FlowSlot>,
    frame: &'a [u8],
}

/// A ring of segments that wait to be judged.
#[derive(Debug)]
struct SegmentQueue<'a> {
    all: Vec<QueuedSegment<'a>>,
    oldest: usize,
}

/// Takes packets in the capture's order. Gives findings in the order in which they become final.
#[derive(Debug)]
pub struct Analyzer {
    files: SeriesFiles,
    selection: Option<Selection>,
    table: Table,
    places: Places,
    surroundings: Surroundings,
    ready: Vec<Finding>,
    counts: PacketCounts,
    latest: u64,
    comments: HashMap<u64, String>,
    layers: BTreeMap<Layer, u64>,
    reported: HashMap<FlowKey, ReportedError>,
    /// The packets up to a SYN-ACK that came late, of connections in the table.
    late: HashMap<FlowKey, Vec<Record>>,
    names: AskedNames,
    streams: StreamsByConnection,
}

impl Analyzer {
    /// Begins an analysis. Findings name the capture `file`.
    pub fn new(file: impl Into<String>, limits: AnalyzerLimits) -> Self {
        Self {
            files: SeriesFiles::new(file.into()),
            selection: None,
            table: Table::new(limits.flows),
            places: Places::default(),
            surroundings: Surroundings::default(),
            ready: Vec::new(),
            counts: PacketCounts::default(),
            latest: 0,
            comments: HashMap::new(),
            layers: BTreeMap::new(),
            reported: HashMap::new(),
            late: HashMap::new(),
            names: AskedNames::default(),
            streams: StreamsByConnection::default(),
        }
    }

    /// Looks only at the packets that `selection` names.
    pub fn select(&mut self, selection: &Selection) {
        self.selection = (!selection.is_all()).then(|| selection.clone());
    }

    /// Continues with the next file of a rotated series. What is known of its connections is kept. The number of a packet counts
    /// from the beginning of its own file.
    pub fn next_file(&mut self, file: impl Into<String>) {
        self.files.next(file.into());
    }

    /// The time of the latest packet, selected or not, in nanoseconds since 1970-01-01 00:00 UTC.
    pub(crate) fn latest(&self) -> u64 {
        self.latest
    }

    /// The layers that were not understood, each with its number of packets, the commonest first.
    pub fn not_understood(&self) -> Vec<(Layer, u64)> {
        let mut layers: Vec<_> = self.layers.iter().map(|(layer, packets)| (*layer, *packets)).collect();
        layers.sort_by_key(|(_, packets)| std::cmp::Reverse(*packets));
        layers
    }

    /// Takes the next packet.
    pub fn packet(&mut self, packet: &Packet<'_>) {
        self.packets(std::iter::once(*packet));
    }

    /// Takes the next packets.
    ///
    /// A packet is judged after the next few packets were parsed. By then the packet's flow is in the processor's cache, and
    /// the processor has work while it waits for the memory of the next header.
    #[inline]
    pub fn packets<'a>(&mut self, packets: impl Iterator<Item = Packet<'a>>) {
        let mut waiting = SegmentQueue { all: Vec::with_capacity(AHEAD), oldest: 0 };
        for packet in packets {
            if self.files.note(packet.frame) {
                self.files.begin(packet.time_ns);
            }
            self.latest = self.latest.max(packet.time_ns);
            if self.selection.as_ref().is_some_and(|selection| !selection.has_time(packet.time_ns)) {
                self.counts.outside += 1;
                continue;
            }
            if self.counts.packets == 0 {
                self.counts.first = packet.time_ns;
            }
            self.counts.packets += 1;
            self.counts.last = packet.time_ns;
            match Segment::plain(packet.link, packet.data, packet.wire_len) {
                Some(ref segment) => self.queue(&packet, segment, &mut waiting),
                None => self.look_closer(&packet, &mut waiting),
            }
        }
        self.judge_waiting(&mut waiting);
    }

    fn judge_waiting(&mut self, waiting: &mut SegmentQueue<'_>) {
        let (later, sooner) = waiting.all.split_at(waiting.oldest);
        for seen in sooner.iter().chain(later) {
            self.segment(seen);
        }
        waiting.all.clear();
        waiting.oldest = 0;
    }

    #[inline(never)]
    fn look_closer<'a>(&mut self, packet: &Packet<'a>, waiting: &mut SegmentQueue<'a>) {
        match Segment::from_frame(packet.link, packet.data, packet.wire_len) {
            Ok(segment) => self.queue(packet, &segment, waiting),
            Err(NotTcp::OtherProtocol) => {}
            Err(NotTcp::Icmp(error)) => {
                // The segments that the error is about may still wait in the ring.
                self.judge_waiting(waiting);
                self.report(packet, error);
            }
            Err(NotTcp::Fragment) => self.counts.fragments += 1,
            Err(NotTcp::TooShort) => self.counts.cut += 1,
            Err(NotTcp::NotUnderstood(layer)) => {
                self.counts.not_understood += 1;
                if self.layers.len() < MAX_LAYERS || self.layers.contains_key(&layer) {
                    *self.layers.entry(layer).or_default() += 1;
                }
            }
            Err(_) => self.counts.malformed += 1,
        }
    }

    /// Keeps an ICMP error about a connection that is known: the latest of each, for [`MAX_REPORTED`] connections.
    fn report(&mut self, packet: &Packet<'_>, error: IcmpError) {
        let (key, _) = FlowKey::between(error.source, error.destination, packet.interface);
        let room = self.reported.len() < MAX_REPORTED || self.reported.contains_key(&key);
        if room && self.table.find(&key).is_some() {
            let frame = self.files.frame(packet.frame);
            self.reported.insert(key, ReportedError { frame, error });
        }
    }

    /// Adds a segment to the ring and judges the oldest.
    #[inline(always)]
    fn queue<'a>(&mut self, packet: &Packet<'a>, segment: &Segment<'a>, waiting: &mut SegmentQueue<'a>) {
        if self.selection.as_ref().is_some_and(|selection| !selection.has(segment)) {
            self.counts.unselected += 1;
            return;
        }
        if packet.has_options() && self.comments.len() < MAX_COMMENTS {
            self.comment(packet);
        }
        let (key, dir) = FlowKey::of(segment, packet.interface);
        let at = At { frame: self.files.frame(packet.frame), time_ns: packet.time_ns };
        let path = self.places.id(segment.path);
        let slot = self.table.find(&key);
        let frame = packet.data;
        if waiting.all.len() < AHEAD {
            waiting.all.push(QueuedSegment { segment: *segment, key, dir, at, path, slot, frame });
        } else if let Some(place) = waiting.all.get_mut(waiting.oldest) {
            self.segment(place);
            // Field by field: a whole one would be made elsewhere and copied here.
            place.segment = *segment;
            (place.key, place.dir, place.at) = (key, dir, at);
            (place.path, place.slot, place.frame) = (path, slot, frame);
            waiting.oldest = (waiting.oldest + 1) % AHEAD;
        }
    }

    #[cold]
    fn comment(&mut self, packet: &Packet<'_>) {
        let text: Vec<_> = packet.comments().collect();
        if !text.is_empty() {
            self.comments.insert(self.files.frame(packet.frame), text.join("; "));
        }
    }

    fn segment(&mut self, seen: &QueuedSegment<'_>) {
        self.counts.segments += 1;
        let &QueuedSegment { ref segment, mut key, dir, at, path, slot, frame } = seen;
        while let Some(flow) = self.table.due(at.time_ns) {
            self.settle(flow);
        }
        let mut found = slot.filter(|&slot| self.table.is_at(slot, &key)).or_else(|| self.table.find(&key));
        if self.places.any() {
            (key, found) = self.places.find(&mut self.table, segment, (key, dir), path);
        }
        if let Some(slot) = found
            && self.table.get(slot).is_some_and(|flow| {
                segment.flags.has(Flags::SYN) && flow.is_succeeded_by(segment, dir, path)
                    || self.files.is_before(flow.connection.last_time) && !flow.connection.fits(segment, dir)
            })
        {
            if let Some(flow) = self.table.remove(slot) {
                if segment.flags.has(Flags::SYN | Flags::ACK) {
                    let listener = (segment.source, self.places.network(&flow.connection, dir));
                    self.surroundings.accepts(listener, at.time_ns, segment.ttl);
                }
                self.settle(flow);
            }
            found = None;
        }
        let slot = match found {
            Some(slot) => slot,
            None => self.open(key, at),
        };
        let Some(flow) = self.table.get(slot) else { return };
        if !flow.connection.sides[dir].seen() {
            flow.connection.paths[dir] = path;
        }
        let step = flow.observe(segment, dir, at);
        if flow.connection.begins(dir, segment.payload_len)
            && let Some(name) = self.names.note(segment.payload)
        {
            flow.asked_name = name;
        }
        if let Some(reset) = &mut flow.reset
            && reset.asked_name.is_none()
        {
            reset.asked_name = self.names.of(flow.asked_name).cloned();
        }
        let ignored = flow.reset.as_ref().is_some_and(|reset| {
            reset.after.genuine.is_some() && reset.after.packets.iter().all(|&count| count >= IGNORED)
        });
        if step == FlowStep::Copy {
            self.counts.duplicates += 1;
            return;
        }
        self.follow_streams(slot, segment, dir, at);
        if segment.flags.any(Flags::SYN | Flags::FIN | Flags::RST) {
            self.note_checksum(slot, segment, frame, dir, step);
            self.note_surroundings(slot, segment, dir, at, step);
        }
        match step {
            FlowStep::Nothing | FlowStep::Copy | FlowStep::SynAckAgain(_) | FlowStep::Fin => {}
            FlowStep::AskedAgain => self.table.keep(slot),
            FlowStep::RefusedAgain => self.table.end_at(slot, at.time_ns.saturating_add(AFTER_RESET)),
            FlowStep::Heard(dropped) => self.note_heard(slot, dir, dropped),
            FlowStep::Reset => {
                self.counts.resets += 1;
                self.table.end_at(slot, at.time_ns.saturating_add(AFTER_RESET));
            }
            FlowStep::Closed => self.table.end_at(slot, at.time_ns.saturating_add(AFTER_CLOSE)),
        }
        if ignored {
            self.table.keep(slot);
            if let Some(reset) = self.table.get(slot).and_then(|flow| flow.reset.take()) {
                let streams = self.streams.get(&key).cloned();
                self.judge(&reset, streams.as_ref());
            }
        }
    }

    #[cold]
    fn open(&mut self, key: FlowKey, at: At) -> FlowSlot {
        self.counts.connections += 1;
        let (slot, evicted) = self.table.insert(key, at);
        if let Some(flow) = evicted {
            if flow.reset.is_none() && !flow.connection.closed() {
                self.counts.forgotten += 1;
            }
            self.settle(flow);
        }
        slot
    }

    /// The findings that became final since the last call.
    pub fn take(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.ready)
    }

    /// Whether [`Analyzer::take`] would return a finding.
    #[inline]
    pub fn has_findings(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Ends the analysis. Returns the findings that were not taken, those of connections that were still open, the counts, and what
    /// listeners have dropped.
    pub fn finish(mut self) -> (Vec<Finding>, PacketCounts, BTreeMap<SocketAddr, Drops>) {
        for flow in self.table.flows() {
            notes::note_end(&mut self.surroundings, &mut self.places, flow);
        }
        let (reported, streams, unknown) = (&self.reported, &self.streams, ListenerHistory::default());
        let failed = |connection: &ObservedConnection| {
            let icmp = reported.get(&connection.key);
            // What its listener shows decides whether a late opening is a finding.
            let streams = streams.get(&connection.key);
            let broken = streams.is_some_and(|streams| streams.broken().is_some());
            connection.opened_again().is_some()
                || (icmp.is_some() || broken || connection.may_have_failed())
                    && FailureLook { connection, listener: &unknown, icmp, streams }.failed().is_some()
        };
        let drained = self.table.drain();
        let mut open: Vec<Flow> =
            drained.filter(|flow| flow.reset.is_some() || failed(&flow.connection)).collect();
        open.sort_by_key(|flow| {
            flow.reset.as_ref().map_or(flow.connection.first_frame, |reset| reset.at.frame)
        });
        for flow in open {
            self.conclude(flow);
        }
        (self.ready, self.counts, self.surroundings.dropped())
    }
}
