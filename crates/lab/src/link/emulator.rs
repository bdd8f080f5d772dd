//! The emulated link, without sockets or a clock: takes packets, and returns them when they are due.

mod at_box;
mod faults;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use linger_packet::{Flags, Segment};

use crate::clock::Nanos;
use crate::link::decision::{Decision, Departure};
use crate::link::identity::{Chance, Identity, Names};
use crate::link::lane::{Lane, nanos};
use crate::link::loss::Loss;
use crate::link::middlebox::track::Tracker;
use crate::link::mtu::{ETHERNET, too_big};
use crate::link::{Direction, Link, Path};

struct Pending<P> {
    due: Nanos,
    /// Order of arrival, for packets that are due at the same time.
    order: u64,
    direction: Direction,
    decision: Decision,
    packet: P,
}

impl<P> Ord for Pending<P> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}
impl<P> PartialOrd for Pending<P> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<P> PartialEq for Pending<P> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl<P> Eq for Pending<P> {}

/// A packet that is held until its connection's reset has passed.
struct Held<P> {
    sequence: u32,
    pending: Pending<P>,
}

/// The properties of a TCP segment that the faults depend on.
#[derive(Clone, Copy)]
struct SeenSegment {
    sequence: u32,
    flags: Flags,
    data: bool,
}

/// Number of connections above which their lanes and states are forgotten: those that are still open begin anew.
const CONNECTIONS: usize = 1 << 16;

/// The link's queues and decisions. `P` is the caller's form of an Ethernet frame.
pub struct Emulator<P> {
    link: Arc<Link>,
    seed: u64,
    names: Names,
    /// The memory of the middlebox.
    middlebox: Option<Tracker>,
    /// Whether packets are parsed; a link without chance and faults does not need it.
    looks: bool,
    /// Whether each connection has a lane of its own.
    is_apart: bool,
    /// What all connections share; only what is not TCP if each has a lane of its own.
    lane: Lane,
    /// Each connection's own, if its clock begins with it.
    lanes: HashMap<u32, Lane>,
    /// Whether a connection's last packet in a direction left the link in the bad state of [`Loss::Bursts`].
    bad: HashMap<(u32, Direction), bool>,
    order: u64,
    queue: BinaryHeap<Reverse<Pending<P>>>,
    held: HashMap<u32, VecDeque<Held<P>>>,
    data_segments: HashMap<(u32, Direction), u32>,
    log: Option<Vec<(Identity, Decision)>>,
    /// The identities of packets at the middlebox, for the log: who names a packet counts it, and the link counts what enters it.
    box_names: Names,
}

impl<P> std::fmt::Debug for Emulator<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Emulator({}, seed {}, {} queued)", self.link.name, self.seed, self.queue.len())
    }
}

impl<P: AsRef<[u8]> + AsMut<[u8]> + for<'a> From<&'a [u8]>> Emulator<P> {
    /// Makes a link whose random decisions come from `seed`.
    pub fn new(link: Link, seed: u64) -> Self {
        let (looks, is_apart) = (link.looks(), link.is_apart());
        let middlebox = link.middlebox.map(Tracker::new);
        Self {
            link: Arc::new(link),
            seed,
            names: Names::default(),
            middlebox,
            looks,
            is_apart,
            lane: Lane::default(),
            lanes: HashMap::new(),
            bad: HashMap::new(),
            order: 0,
            queue: BinaryHeap::new(),
            held: HashMap::new(),
            data_segments: HashMap::new(),
            log: None,
            box_names: Names::default(),
        }
    }

    /// Keeps every decision from now on, for [`Self::take_log`]: the link's on each packet, and those of the middlebox on packets that it does
    /// not simply let through.
    pub fn keep_log(&mut self) {
        self.looks = true;
        self.log = Some(Vec::new());
    }

    /// Returns the decisions kept so far, and keeps no further ones.
    pub fn take_log(&mut self) -> Vec<(Identity, Decision)> {
        self.log.take().unwrap_or_default()
    }

    /// How many decisions are kept.
    #[cfg(test)]
    pub(crate) fn log_length(&self) -> usize {
        self.log.as_ref().map_or(0, Vec::len)
    }

    /// Takes a packet that arrived at `now`. Returns the packet if it is dropped.
    pub fn arrive(&mut self, direction: Direction, now: Nanos, mut packet: P) -> (Decision, Option<P>) {
        let entered = self.at_box(direction, now, &mut packet, true);
        if entered.drops() {
            return (entered, Some(packet));
        }
        let (decision, back) = self.enter(direction, now, packet);
        (if decision == Decision::Pass { entered } else { decision }, back)
    }

    /// Takes a packet onto the link.
    fn enter(&mut self, direction: Direction, now: Nanos, packet: P) -> (Decision, Option<P>) {
        if !self.looks {
            return self.enqueue(direction, now, packet);
        }
        let (identity, look) = match Segment::from_ethernet(packet.as_ref()) {
            Ok(segment) => {
                let look = SeenSegment {
                    sequence: segment.seq,
                    flags: segment.flags,
                    data: segment.payload_len > 0,
                };
                (self.names.tcp(direction, &segment), Some(look))
            }
            Err(_) => (self.names.other(direction), None),
        };
        let (decision, packet) = self.decide(direction, now, identity, look, packet);
        if let Some(log) = &mut self.log {
            log.push((identity, decision));
        }
        (decision, packet)
    }

    /// Queues a packet without parsing it.
    fn enqueue(&mut self, direction: Direction, now: Nanos, packet: P) -> (Decision, Option<P>) {
        match self.lane.due(&self.link, direction, now, packet.as_ref().len(), 0.0) {
            Some(due) => self.push(direction, due, Decision::Pass, packet),
            None => (Decision::QueueFull, Some(packet)),
        }
    }

    fn decide(
        &mut self,
        direction: Direction,
        now: Nanos,
        identity: Identity,
        look: Option<SeenSegment>,
        mut packet: P,
    ) -> (Decision, Option<P>) {
        if look.is_some_and(|look| look.flags.0 & (Flags::SYN | Flags::ACK).0 == Flags::SYN.0) {
            self.begin(direction, &identity);
        }
        let chance = identity.chance(self.seed);
        let link = self.link.clone();
        let path = &self.lane_of(identity.flow).paths(&link, now)[direction.index()];
        let fault = look.and_then(|look| self.strike(direction, &identity, look));
        if let Some((decision, _)) = fault.filter(|(decision, _)| decision.drops()) {
            return (decision, Some(packet));
        }
        if let Some(mtu) = path.mtu.filter(|mtu| mtu.is_exceeded(packet.as_ref())) {
            if mtu.icmp {
                self.answer(direction, now, identity.flow, too_big(packet.as_ref(), mtu.bytes));
            }
            return (Decision::TooBig, Some(packet));
        }
        if self.is_lost(path.loss, direction, &identity, &chance) {
            return (Decision::Lost, Some(packet));
        }
        let ecn = path.ecn.map_or(Decision::Pass, |handling| {
            let is_crowded = self.lane_of(identity.flow).is_crowded(&link, direction, now);
            handling.apply(packet.as_mut(), is_crowded)
        });
        if ecn.drops() {
            return (ecn, Some(packet));
        }
        let Some(due) = self.due(direction, now, identity.flow, packet.as_ref().len(), chance.jitter) else {
            return (Decision::QueueFull, Some(packet));
        };
        match (fault, look) {
            (Some((Decision::Held, at_most)), Some(look)) => {
                let pending = self.pending(direction, due + nanos(at_most), Decision::Held, packet);
                let held = Held { sequence: look.sequence, pending };
                self.held.entry(identity.flow).or_default().push_back(held);
                (Decision::Held, None)
            }
            (Some((decision, extra)), _) => self.push(direction, due + nanos(extra), decision, packet),
            (None, Some(look))
                if look.flags.has(Flags::RST) && !self.held.is_empty() && chance.corrupt >= path.corrupt =>
            {
                let answer = self.push(direction, due, Decision::Pass, packet);
                self.reset_passes(direction, identity.flow, look.sequence, due);
                answer
            }
            _ => self.by_chance(direction, (now, due), identity.flow, (path, &chance, ecn), packet),
        }
    }

    /// Queues a packet that no fault concerns: changed, held back, twice, or as it is.
    fn by_chance(
        &mut self,
        direction: Direction,
        (now, due): (Nanos, Nanos),
        flow: u32,
        (path, chance, otherwise): (&Path, &Chance, Decision),
        mut packet: P,
    ) -> (Decision, Option<P>) {
        if chance.corrupt < path.corrupt {
            flip(packet.as_mut(), chance.place);
            return self.push(direction, due, Decision::Corrupted, packet);
        }
        if chance.reorder < path.reorder {
            return self.push(direction, due + nanos(path.reorder_by), Decision::Reordered, packet);
        }
        if chance.duplicate >= path.duplicate {
            return self.push(direction, due, otherwise, packet);
        }
        let second = P::from(packet.as_ref());
        let answer = self.push(direction, due, Decision::Duplicated, packet);
        // The second takes its own time on the link, and none of the queue that is full.
        if let Some(due) = self.due(direction, now, flow, second.as_ref().len(), chance.jitter) {
            self.push(direction, due, Decision::Second, second);
        }
        answer
    }

    /// Forgets what was before this connection, at its first SYN.
    fn begin(&mut self, direction: Direction, identity: &Identity) {
        if direction == Direction::ToServer && identity.transmission == 0 {
            self.lanes.remove(&identity.flow);
            self.bad.retain(|(flow, _), _| *flow != identity.flow);
        }
    }

    /// The lane of this connection.
    fn lane_of(&mut self, flow: u32) -> &mut Lane {
        if flow == 0 || !self.is_apart {
            return &mut self.lane;
        }
        if self.lanes.len() > CONNECTIONS {
            self.lanes.clear();
        }
        self.lanes.entry(flow).or_default()
    }

    fn due(&mut self, direction: Direction, now: Nanos, flow: u32, len: usize, jitter: f64) -> Option<Nanos> {
        let link = self.link.clone();
        self.lane_of(flow).due(&link, direction, now, len, jitter)
    }

    /// Whether chance loses this packet. In bursts each direction of a connection has a state of its own, so that a trial does
    /// not depend on those beside it; it begins as the model is in the long run.
    fn is_lost(&mut self, loss: Loss, direction: Direction, identity: &Identity, chance: &Chance) -> bool {
        let model = match loss {
            Loss::Each(probability) => return chance.loss < probability,
            Loss::Bursts(model) => model,
        };
        if self.bad.len() > 2 * CONNECTIONS {
            self.bad.clear();
        }
        let start = chance.start < model.share_of_bad();
        let state = self.bad.entry((identity.flow, direction)).or_insert(start);
        let (probability, next) = model.step(*state, chance.burst);
        *state = next;
        chance.loss < probability
    }

    /// Sends what the link itself has to say to the sender of a packet. It takes the way back as any other packet.
    fn answer(&mut self, direction: Direction, now: Nanos, flow: u32, frame: Option<Vec<u8>>) {
        let Some(frame) = frame else { return };
        let back = direction.reverse();
        if let Some(due) = self.due(back, now, flow, frame.len(), 0.0) {
            self.push(back, due, Decision::Answer, P::from(&frame));
        }
    }

    fn push(
        &mut self,
        direction: Direction,
        due: Nanos,
        decision: Decision,
        packet: P,
    ) -> (Decision, Option<P>) {
        let pending = self.pending(direction, due, decision, packet);
        self.queue.push(Reverse(pending));
        (decision, None)
    }

    fn pending(&mut self, direction: Direction, due: Nanos, decision: Decision, packet: P) -> Pending<P> {
        Pending { due, order: self.next_order(), direction, decision, packet }
    }

    fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// When the next packet is due, unless another one arrives.
    pub fn next_due(&self) -> Option<Nanos> {
        let queued = self.queue.peek().map(|Reverse(pending)| pending.due);
        let held = self.held.values().filter_map(|held| held.front()).map(|held| held.pending.due).min();
        let word = self.middlebox.as_ref().and_then(Tracker::next_word);
        [queued, held, word].into_iter().flatten().min()
    }

    /// The next packet that is due. The middlebox may drop it there ([`Decision::drops`]).
    pub fn depart(&mut self, now: Nanos) -> Option<Departure<P>> {
        let first = self.queue.peek().map_or(now, |Reverse(pending)| pending.due);
        self.say_last_words(first.min(now));
        if !self.held.is_empty() {
            self.release_overdue(now);
        }
        if self.queue.peek()?.0.due > now {
            return None;
        }
        let Reverse(Pending { due, direction, decision, mut packet, .. }) = self.queue.pop()?;
        let decision = match decision {
            Decision::BoxReset => decision,
            _ => Some(self.at_box(direction, due, &mut packet, false))
                .filter(|met| *met != Decision::Pass)
                .unwrap_or(decision),
        };
        Some(Departure { direction, due, decision, packet })
    }
}

/// Changes one bit behind the Ethernet header, at a place from 0 to 1.
fn flip(frame: &mut [u8], place: f64) {
    let Some(packet) = frame.get_mut(ETHERNET..).filter(|packet| !packet.is_empty()) else { return };
    let bit = (place * (packet.len() * 8) as f64) as usize;
    packet[bit / 8] ^= 1 << (bit % 8);
}

#[cfg(test)]
#[path = "emulator_tests.rs"]
mod tests;
