//! The emulated link, without sockets or a clock: takes packets, and returns them when they are due.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use linger_packet::{Flags, Segment};

use crate::identity::{Identity, Names};
use crate::link::{Direction, Link, LinkFault};

/// Nanoseconds on the caller's monotonic clock.
pub type Nanos = u64;

/// What the link did with a packet; used in the decision log and in captures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// Passes without change.
    Pass,
    /// Lost at random.
    Lost,
    /// The queue before the rate limit was full.
    QueueFull,
    /// A fault dropped it.
    Dropped,
    /// Held back at random, so that later packets overtake it.
    Reordered,
    /// A fault holds it until a reset has passed, or for its longest time.
    Held,
    /// A fault delays it: it carries nothing but an acknowledgement.
    AckHeld,
}

impl Decision {
    /// The packet's comment in a capture; none for a packet that only passes.
    pub fn comment(self) -> Option<&'static str> {
        Some(match self {
            Self::Pass => return None,
            Self::Lost => "the link lost this packet (by chance)",
            Self::QueueFull => "the link dropped this packet (queue full)",
            Self::Dropped => "the link dropped this packet (fault: drop-data-segment)",
            Self::Reordered => "the link held this packet back (by chance): later ones overtake it",
            Self::Held => "the link held this packet (fault: hold-data-until-reset)",
            Self::AckHeld => "the link held this acknowledgement (fault: hold-acks)",
        })
    }

    fn drops(self) -> bool {
        matches!(self, Self::Lost | Self::QueueFull | Self::Dropped)
    }
}

/// A packet that leaves the link.
#[derive(Debug)]
pub struct Departure<P> {
    /// The direction in which the packet goes.
    pub direction: Direction,
    /// When the packet was due. The caller's clock is at or past that time.
    pub due: Nanos,
    /// What the link did with the packet.
    pub decision: Decision,
    /// The packet as it was given.
    pub packet: P,
}

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

/// The link's queues and decisions. `P` is the caller's form of an Ethernet frame.
pub struct Emulator<P> {
    link: Link,
    seed: u64,
    names: Names,
    /// Whether packets are parsed; a link without chance and faults does not need it.
    looks: bool,
    /// For each direction, when the rate limit will have sent everything queued.
    free_at: [Nanos; 2],
    last_due: [Nanos; 2],
    order: u64,
    queue: BinaryHeap<Reverse<Pending<P>>>,
    held: HashMap<u32, VecDeque<Held<P>>>,
    data_segments: HashMap<(u32, Direction), u32>,
    log: Option<Vec<(Identity, Decision)>>,
}

impl<P> std::fmt::Debug for Emulator<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Emulator({}, seed {}, {} queued)", self.link.name, self.seed, self.queue.len())
    }
}

impl<P: AsRef<[u8]>> Emulator<P> {
    /// Makes a link whose random decisions come from `seed`.
    pub fn new(link: Link, seed: u64) -> Self {
        let by_chance =
            link.paths.iter().any(|path| path.loss > 0.0 || path.reorder > 0.0 || !path.jitter.is_zero());
        let looks = by_chance || !link.faults.is_empty();
        Self {
            link,
            seed,
            names: Names::default(),
            looks,
            free_at: [0; 2],
            last_due: [0; 2],
            order: 0,
            queue: BinaryHeap::new(),
            held: HashMap::new(),
            data_segments: HashMap::new(),
            log: None,
        }
    }

    /// Keeps every decision from now on, for [`Self::take_log`].
    pub fn keep_log(&mut self) {
        self.looks = true;
        self.log = Some(Vec::new());
    }

    /// Returns the decisions kept so far, and keeps no further ones.
    pub fn take_log(&mut self) -> Vec<(Identity, Decision)> {
        self.log.take().unwrap_or_default()
    }

    /// Takes a packet that arrived at `now`. Returns the packet if it is dropped.
    pub fn arrive(&mut self, direction: Direction, now: Nanos, packet: P) -> (Decision, Option<P>) {
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
        match self.due(direction, now, packet.as_ref().len(), 0.0) {
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
        packet: P,
    ) -> (Decision, Option<P>) {
        let chance = identity.chance(self.seed);
        let path = self.link.path(direction);
        let (reorder, reorder_by, loss) = (path.reorder, path.reorder_by, path.loss);
        let fault = look.and_then(|look| self.strike(direction, &identity, look));
        if let Some((decision, _)) = fault.filter(|(decision, _)| decision.drops()) {
            return (decision, Some(packet));
        }
        if chance.loss < loss {
            return (Decision::Lost, Some(packet));
        }
        let Some(due) = self.due(direction, now, packet.as_ref().len(), chance.jitter) else {
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
            (None, Some(look)) if look.flags.has(Flags::RST) => {
                let answer = self.push(direction, due, Decision::Pass, packet);
                self.reset_passes(direction, identity.flow, look.sequence, due);
                answer
            }
            _ if chance.reorder < reorder => {
                self.push(direction, due + nanos(reorder_by), Decision::Reordered, packet)
            }
            _ => self.push(direction, due, Decision::Pass, packet),
        }
    }

    /// What the first fault that applies to this segment does to it, and the longest time for which; `None` if no fault applies.
    fn strike(
        &mut self,
        direction: Direction,
        identity: &Identity,
        look: SeenSegment,
    ) -> Option<(Decision, Duration)> {
        let reset_or_syn = look.flags.any(Flags::RST | Flags::SYN);
        let data = look.data;
        let ends = look.flags.has(Flags::FIN);
        for fault in &self.link.faults {
            match *fault {
                LinkFault::HoldDataUntilReset { direction: of, at_most }
                    if of == direction && !reset_or_syn && (data || ends) =>
                {
                    return Some((Decision::Held, at_most));
                }
                LinkFault::DropDataSegment { direction: of, nth }
                    if of == direction && data && identity.transmission == 0 =>
                {
                    let seen = self.data_segments.entry((identity.flow, direction)).or_default();
                    *seen += 1;
                    if *seen == nth {
                        return Some((Decision::Dropped, Duration::ZERO));
                    }
                }
                LinkFault::HoldAcks { direction: of, hold }
                    if of == direction && !reset_or_syn && !data && !ends =>
                {
                    return Some((Decision::AckHeld, hold));
                }
                _ => {}
            }
        }
        None
    }

    /// Ends [`LinkFault::HoldDataUntilReset`] for a connection: if the receiver will accept this reset, sends the held
    /// packets right after it. The receiver accepts a reset whose sequence number is that of the first held byte (RFC
    /// 5961 section 3.2).
    fn reset_passes(&mut self, direction: Direction, flow: u32, sequence: u32, due: Nanos) {
        let Some(held) = self.held.get(&flow) else { return };
        let oldest = held.iter().filter(|held| held.pending.direction == direction).map(|held| held.sequence);
        let oldest = oldest.min_by_key(|candidate| candidate.wrapping_sub(sequence) as i32);
        if oldest != Some(sequence) {
            return;
        }
        for held in self.held.remove(&flow).into_iter().flatten() {
            // Due with the reset, and queued after it in their own order.
            let order = self.next_order();
            self.queue.push(Reverse(Pending { due, order, ..held.pending }));
        }
    }

    /// Returns when a packet of this length leaves the link, by rate, delay and jitter, or `None` if the queue is full.
    fn due(&mut self, direction: Direction, now: Nanos, len: usize, jitter: f64) -> Option<Nanos> {
        let at = direction.index();
        let path = &self.link.paths[at];
        let mut sent = now;
        if let Some(rate) = path.rate {
            let start = self.free_at[at].max(now);
            if let Some(limit) = path.queue {
                let waiting = u128::from(start - now) * u128::from(rate.0) / 8_000_000_000;
                if waiting + len as u128 > u128::from(limit.0) {
                    return None;
                }
            }
            sent = start + (len as u64 * 8).saturating_mul(1_000_000_000).div_ceil(rate.0);
            self.free_at[at] = sent;
        }
        let due = sent + nanos(path.delay) + (nanos(path.jitter) as f64 * jitter) as u64;
        // Jitter changes gaps and never the order; `reorder` does that.
        self.last_due[at] = self.last_due[at].max(due);
        Some(self.last_due[at])
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
        [queued, held].into_iter().flatten().min()
    }

    /// The next packet that is due.
    pub fn depart(&mut self, now: Nanos) -> Option<Departure<P>> {
        if !self.held.is_empty() {
            self.release_overdue(now);
        }
        if self.queue.peek()?.0.due > now {
            return None;
        }
        let Reverse(Pending { due, direction, decision, packet, .. }) = self.queue.pop()?;
        Some(Departure { direction, due, decision, packet })
    }

    fn release_overdue(&mut self, now: Nanos) {
        for held in self.held.values_mut() {
            while held.front().is_some_and(|held| held.pending.due <= now) {
                self.queue.extend(held.pop_front().map(|held| Reverse(held.pending)));
            }
        }
        self.held.retain(|_, held| !held.is_empty());
    }
}

fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
#[path = "emulator_tests.rs"]
mod tests;
