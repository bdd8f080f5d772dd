//! [`Flows`]: the last packets of each connection, in bounded memory. The connection that is idle longest makes room.

use std::collections::VecDeque;
use std::net::SocketAddr;

use linger_packet::{Flags, LinkType, Segment};

use super::slots::{NONE, PacketList, PacketSlots, SeenAt};
use crate::addresses::{Endpoints, PackedEnds};
use crate::ends_index::EndsIndex;
use crate::kernel::tap::SeenPacket;

/// Most connections with packets.
const MOST_FLOWS: usize = 32_768;
/// Most flows of the same four numbers: interfaces, and connections one after the other.
const MOST_ALIKE: usize = 8;
/// A reset that the kernel says nothing of for this long ended no connection (nanoseconds).
const IGNORED_AFTER: u64 = 2_000_000_000;
/// The kernel's event and the packet of a reset are this far apart at most (nanoseconds).
const SAME_RESET: u64 = 1_000_000_000;
/// The same where only the reset's sender is known.
const SAME_SENDER: u64 = 20_000_000;
/// Resets by sender that are remembered.
const MOST_RESETS: usize = 4_096;

/// A connection's ends, the lower first.
type Ends = (SocketAddr, SocketAddr);

/// A reset packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SeenReset {
    time_ns: u64,
    /// Packets that came after it.
    after: u32,
}

/// The packets of one connection at one place.
#[derive(Debug)]
struct KeptFlow {
    ends: PackedEnds,
    place: SeenAt,
    packets: PacketList,
    /// The sequence number of the SYN that began it.
    began: Option<u32>,
    reset: Option<SeenReset>,
    /// Number of the record that has its packets.
    written: Option<u64>,
    /// An older flow with the same ends.
    alike: u32,
    /// Neighbours by the time of the last packet.
    older: u32,
    younger: u32,
}

/// A connection's flows that belong to one reset: one for each place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Matching {
    flows: Vec<u32>,
    /// Whether a packet of the reset is among theirs.
    pub(crate) has_reset: bool,
    /// The record that has their packets already.
    pub(crate) written: Option<u64>,
}

impl Matching {
    pub(crate) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }
}

/// The last packets of each connection.
#[derive(Debug)]
pub(crate) struct Flows {
    slots: PacketSlots,
    flows: Vec<KeptFlow>,
    free: Vec<u32>,
    /// The newest flow with the same ends.
    newest: EndsIndex,
    /// The flow that is idle longest, and the one with the latest packet.
    idlest: u32,
    busiest: u32,
    per_flow: u32,
    /// The latest resets: when, by whom, and the ends.
    resets: VecDeque<(u64, SocketAddr, Ends)>,
}

impl Flows {
    /// Keeps `per_flow` packets of each connection, each `snap` bytes, in `memory` bytes.
    pub(crate) fn new(memory: usize, snap: usize, per_flow: u32) -> Self {
        Self {
            slots: PacketSlots::new(memory, snap),
            // Pages that are not written to take no memory.
            flows: Vec::with_capacity(MOST_FLOWS),
            free: Vec::new(),
            newest: EndsIndex::with_capacity(MOST_FLOWS),
            idlest: NONE,
            busiest: NONE,
            per_flow: per_flow.max(1),
            resets: VecDeque::new(),
        }
    }

    /// Takes a packet.
    pub(crate) fn take(&mut self, packet: &SeenPacket<'_>) {
        let Ok(segment) = Segment::from_frame(LinkType::RAW, packet.data, packet.wire_len as usize) else {
            return;
        };
        let at = self.flow_of(&segment, packet);
        self.touch(at);
        let is_reset = segment.flags.has(Flags::RST);
        let quarter = self.per_flow / 4;
        let flow = &mut self.flows[at as usize];
        if let Some(reset) = &mut flow.reset {
            // What follows a reset pushes out a quarter of what led to it, until it is clear that nobody has minded it.
            // Either way: the clock may have been set back meanwhile.
            if packet.time_ns.abs_diff(reset.time_ns) > IGNORED_AFTER {
                flow.reset = None;
            } else if reset.after >= quarter {
                return;
            } else {
                reset.after += 1;
            }
        }
        if is_reset && flow.reset.is_none() {
            flow.reset = Some(SeenReset { time_ns: packet.time_ns, after: 0 });
            flow.written = None;
            let ends = flow.ends.into();
            if self.resets.len() == MOST_RESETS {
                self.resets.pop_front();
            }
            self.resets.push_back((packet.time_ns, segment.source, ends));
        }
        if self.flows[at as usize].packets.length >= self.per_flow {
            self.slots.drop_first(&mut self.flows[at as usize].packets);
        }
        while self.slots.is_full() && self.idlest != at {
            self.evict(self.idlest);
        }
        let packets = &mut self.flows[at as usize].packets;
        if self.slots.is_full() {
            self.slots.drop_first(packets);
        }
        self.slots.append(packets, packet);
    }

    /// The flow of a packet; a new one for the first packet of a connection.
    fn flow_of(&mut self, segment: &Segment<'_>, packet: &SeenPacket<'_>) -> u32 {
        let ends = in_order(segment.source, segment.destination);
        let place = (packet.interface, packet.vlan);
        let known = self.alike(ends).find(|at| self.flows[*at as usize].place == place);
        let began = (segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK)).then_some(segment.seq);
        if let Some(at) = known {
            let flow = &mut self.flows[at as usize];
            if began.is_none() || began == flow.began {
                return at;
            }
            let is_wanted =
                flow.reset.is_some_and(|reset| packet.time_ns.abs_diff(reset.time_ns) < SAME_RESET);
            if !is_wanted || flow.written.is_some() {
                // The next connection with these numbers.
                self.slots.clear(&mut flow.packets);
                (flow.began, flow.reset, flow.written) = (began, None, None);
                return at;
            }
        }
        self.begin(ends, place, began)
    }

    fn begin(&mut self, ends: Ends, place: SeenAt, began: Option<u32>) -> u32 {
        let alike: Vec<u32> = self.alike(ends).skip(MOST_ALIKE - 1).collect();
        alike.into_iter().for_each(|at| self.evict(at));
        if self.free.is_empty() && self.flows.len() == MOST_FLOWS {
            self.evict(self.idlest);
        }
        let before = self.newest(&ends).unwrap_or(NONE);
        let flow = KeptFlow {
            ends: ends.into(),
            place,
            packets: PacketList::default(),
            began,
            reset: None,
            written: None,
            alike: before,
            older: NONE,
            younger: NONE,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.flows[at as usize] = flow;
                at
            }
            None => {
                self.flows.push(flow);
                self.flows.len() as u32 - 1
            }
        };
        if before == NONE {
            self.newest.add(at, |at| self.flows[at as usize].ends);
        } else {
            self.newest.replace(&ends.into(), before, at);
        }
        self.link(at);
        at
    }

    fn newest(&self, ends: &Ends) -> Option<u32> {
        self.newest.all((*ends).into(), |at| self.flows[at as usize].ends).next()
    }

    /// The flows with these ends, the newest first.
    fn alike(&self, ends: Ends) -> impl Iterator<Item = u32> {
        let first = self.newest(&ends);
        std::iter::successors(first, |at| Some(self.flows[*at as usize].alike).filter(|next| *next != NONE))
    }

    /// Makes a flow the one with the latest packet.
    fn touch(&mut self, at: u32) {
        if self.busiest != at {
            self.unlink(at);
            self.link(at);
        }
    }

    fn link(&mut self, at: u32) {
        let before = std::mem::replace(&mut self.busiest, at);
        let flow = &mut self.flows[at as usize];
        (flow.older, flow.younger) = (before, NONE);
        match self.flows.get_mut(before as usize) {
            Some(before) => before.younger = at,
            None => self.idlest = at,
        }
    }

    fn unlink(&mut self, at: u32) {
        let (older, younger) = (self.flows[at as usize].older, self.flows[at as usize].younger);
        match self.flows.get_mut(older as usize) {
            Some(flow) => flow.younger = younger,
            None => self.idlest = younger,
        }
        match self.flows.get_mut(younger as usize) {
            Some(flow) => flow.older = older,
            None => self.busiest = older,
        }
    }

    fn evict(&mut self, at: u32) {
        let Some(flow) = self.flows.get_mut(at as usize) else { return };
        self.slots.clear(&mut flow.packets);
        let (ends, next) = (flow.ends, flow.alike);
        let before = self.alike(ends.into()).find(|other| self.flows[*other as usize].alike == at);
        match before {
            Some(before) => self.flows[before as usize].alike = next,
            None if next == NONE => {
                self.newest.remove(&ends, at);
            }
            None => {
                self.newest.replace(&ends, at, next);
            }
        }
        self.unlink(at);
        self.free.push(at);
    }

    /// The flows of a connection that was reset at a time, by the kernel's event. Of several connections with the same numbers,
    /// that with the packet of the reset.
    pub(crate) fn matching(&self, ends: &Endpoints, time_ns: u64) -> Matching {
        let ends = if ends.1.port() == 0 {
            match self.sent_by(ends.0, time_ns) {
                Some(ends) => ends,
                None => return Matching::default(),
            }
        } else {
            in_order(ends.0, ends.1)
        };
        let distance = |at: u32| {
            let reset = self.flows[at as usize].reset?;
            Some(reset.time_ns.abs_diff(time_ns)).filter(|distance| *distance < SAME_RESET)
        };
        let mut chosen: Vec<u32> = Vec::new();
        for at in self.alike(ends) {
            let place = self.flows[at as usize].place;
            match chosen.iter_mut().find(|other| self.flows[**other as usize].place == place) {
                Some(other) => {
                    if distance(at).unwrap_or(u64::MAX) < distance(*other).unwrap_or(u64::MAX) {
                        *other = at;
                    }
                }
                None => chosen.push(at),
            }
        }
        let has_reset = chosen.iter().any(|at| distance(*at).is_some());
        if has_reset {
            chosen.retain(|at| distance(*at).is_some());
        }
        let written = chosen.iter().find_map(|at| self.flows[*at as usize].written).filter(|_| has_reset);
        Matching { flows: chosen, has_reset, written }
    }

    /// The ends of the connection that a listener reset, of whose event the peer is not known.
    fn sent_by(&self, local: SocketAddr, time_ns: u64) -> Option<Ends> {
        let is_local = |from: &SocketAddr| {
            from.port() == local.port() && (local.ip().is_unspecified() || from.ip() == local.ip())
        };
        let near = |(time, from, _): &&(u64, SocketAddr, Ends)| {
            time.abs_diff(time_ns) < SAME_SENDER && is_local(from)
        };
        let closest = self.resets.iter().filter(near).min_by_key(|(time, ..)| time.abs_diff(time_ns));
        closest.map(|(_, _, ends)| *ends)
    }

    /// The packets of these flows, in the order of their times.
    pub(crate) fn packets(&self, matching: &Matching) -> Vec<SeenPacket<'_>> {
        let flows = matching.flows.iter().filter_map(|at| self.flows.get(*at as usize));
        let mut all: Vec<_> = flows.flat_map(|flow| self.slots.iter(flow.packets, flow.place)).collect();
        all.sort_by_key(|packet| packet.time_ns);
        all
    }

    /// Notes the record that has the packets of these flows.
    pub(crate) fn written(&mut self, matching: &Matching, record: u64) {
        for at in &matching.flows {
            if let Some(flow) = self.flows.get_mut(*at as usize) {
                flow.written = Some(record);
            }
        }
    }
}

fn in_order(one: SocketAddr, other: SocketAddr) -> Ends {
    if one <= other { (one, other) } else { (other, one) }
}

#[cfg(test)]
#[path = "flows_tests.rs"]
mod tests;
