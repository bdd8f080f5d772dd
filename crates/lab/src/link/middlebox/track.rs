//! What a middlebox knows of connections, and what it does with a packet: without sockets and without a clock of its own.

use std::collections::HashMap;
use std::net::SocketAddr;

use linger_packet::Segment;

use super::phase::{BoxPhase, PacketKind, PhaseChange};
use super::tracked::{LastPacket, Tracked};
use super::window::{Fit, Numbers, OneSide};
use super::{Forgotten, Middlebox, MiddleboxCounts, MiddleboxKind, WithoutState};
use crate::clock::Nanos;
use crate::link::Direction;
use crate::link::lane::nanos;
use crate::link::rewrite::{Envelope, PortOf, set_port};

/// What a middlebox does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BoxDecision {
    /// Lets it through, maybe with another port.
    Pass,
    /// Lets it through, and takes its connection for one under way.
    PickUp,
    /// Drops it: it knows no connection of it.
    NoState(Forgotten),
    /// Drops it as INVALID.
    Invalid,
}

/// A packet of the box's own, and which way it goes.
pub(crate) type OwnPacket = (Direction, Vec<u8>);

/// The ends of a connection as they are named on one side of the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct NamedEnds {
    client: SocketAddr,
    server: SocketAddr,
}

impl NamedEnds {
    fn of(direction: Direction, segment: &Segment<'_>) -> Self {
        match direction {
            Direction::ToClient => Self { client: segment.destination, server: segment.source },
            Direction::ToServer => Self { client: segment.source, server: segment.destination },
        }
    }

    fn with_port(mut self, port: u16) -> Self {
        self.client.set_port(port);
        self
    }
}

/// Most connections that a box knows. Packets of further ones have no state, as where conntrack's table is full.
const MOST: usize = 1 << 16;

/// The ports that a NAT gives to connections that it picks up: behind those of the lab's clients.
const PORTS: std::ops::RangeInclusive<u16> = 60_000..=65_535;

/// The memory of a middlebox.
#[derive(Debug)]
pub(crate) struct Tracker {
    rules: Middlebox,
    /// By their names on the client's side. What was forgotten stays until its place is needed, so that it can be said why.
    connections: HashMap<NamedEnds, Tracked>,
    /// Of a NAT: the names on the server's side, and those on the client's.
    outside: HashMap<NamedEnds, NamedEnds>,
    next_port: u16,
    /// The latest time that was heard of: a packet that is told late must not wake what is forgotten.
    now: Nanos,
    counts: MiddleboxCounts,
}

impl Tracker {
    pub(crate) fn new(rules: Middlebox) -> Self {
        Self {
            rules,
            connections: HashMap::new(),
            outside: HashMap::new(),
            next_port: *PORTS.start(),
            now: 0,
            counts: MiddleboxCounts::default(),
        }
    }

    pub(crate) fn rules(&self) -> &Middlebox {
        &self.rules
    }

    pub(crate) fn counts(&self) -> MiddleboxCounts {
        self.counts
    }

    /// Decides on a packet, which may get another port, and may be answered. What is not TCP passes.
    pub(crate) fn pass(
        &mut self,
        direction: Direction,
        now: Nanos,
        frame: &mut [u8],
    ) -> (BoxDecision, Option<OwnPacket>) {
        self.now = self.now.max(now);
        let Ok(segment) = Segment::from_ethernet(frame) else { return (BoxDecision::Pass, None) };
        let (kind, numbers) = (PacketKind::of(segment.flags), Numbers::of(&segment));
        let seen = NamedEnds::of(direction, &segment);
        let is_translated = self.rules.kind == MiddleboxKind::Nat && direction == Direction::ToClient;
        let mapped = if is_translated { self.outside.get(&seen).copied() } else { Some(seen) };
        let inside = mapped.unwrap_or(seen);
        let known = mapped.map_or(Err(Forgotten::Unknown), |inside| self.known(&inside));
        let decision = match known {
            Ok(()) => self.judge(direction, &inside, kind, &numbers),
            Err(why) => self.without_state(direction, &inside, kind, &numbers, why),
        };
        match decision {
            BoxDecision::Invalid => self.counts.invalid += 1,
            BoxDecision::NoState(_) => self.counts.without_state += 1,
            BoxDecision::PickUp => self.counts.picked_up += 1,
            BoxDecision::Pass => {}
        }
        let answers = matches!(self.rules.then, WithoutState::Reset | WithoutState::ResetBoth);
        if matches!(decision, BoxDecision::NoState(_)) && answers && kind != PacketKind::Rst {
            return (decision, self.answer(direction, frame, &numbers));
        }
        let has_state = known.is_ok() || self.known(&inside).is_ok();
        if has_state && matches!(decision, BoxDecision::Pass | BoxDecision::PickUp) {
            self.send_on(direction, &inside, frame);
        }
        (decision, None)
    }

    /// Whether the box knows a connection now, and if not, what it remembers of it.
    fn known(&self, inside: &NamedEnds) -> Result<(), Forgotten> {
        match self.connections.get(inside) {
            Some(tracked) if self.now < tracked.deadline => Ok(()),
            Some(tracked) => Err(tracked.phase.forgotten()),
            None => Err(Forgotten::Unknown),
        }
    }

    /// Decides on a packet of a connection that is known.
    fn judge(
        &mut self,
        direction: Direction,
        inside: &NamedEnds,
        kind: PacketKind,
        numbers: &Numbers,
    ) -> BoxDecision {
        let refused = if self.rules.drop_invalid { BoxDecision::Invalid } else { BoxDecision::Pass };
        let Some(tracked) = self.connections.get_mut(inside) else { return refused };
        let packet = LastPacket { direction, kind, numbers: *numbers };
        let (before, was_answered) = (tracked.phase, tracked.is_answered);
        let next = match tracked.next(&packet) {
            PhaseChange::To(next) => next,
            PhaseChange::Invalid => return refused,
            PhaseChange::Ignore => {
                tracked.last = Some(packet);
                tracked.heard(direction);
                return BoxDecision::Pass;
            }
            PhaseChange::Anew => {
                self.open(direction, *inside, BoxPhase::Asked, numbers);
                return BoxDecision::Pass;
            }
        };
        if !tracked.needs_no_window(&packet) {
            match tracked.fits(direction, numbers) {
                Fit::Inside => {}
                Fit::Ignored => {
                    tracked.heard(direction);
                    return BoxDecision::Pass;
                }
                Fit::Outside => return refused,
            }
        }
        tracked.heard(direction);
        tracked.is_assured |= was_answered
            && matches!(before, BoxPhase::Answered | BoxPhase::Established)
            && next == BoxPhase::Established;
        tracked.has_fin |= next == BoxPhase::HalfClosed;
        tracked.last = Some(packet);
        tracked.phase = next;
        if kind == PacketKind::Rst && !was_answered {
            // Nothing came of it: the next packet begins anew.
            (tracked.phase, tracked.deadline) = (BoxPhase::Reset, self.now);
            return BoxDecision::Pass;
        }
        // A SYN sent again does not keep a half-open connection.
        if kind == PacketKind::Syn && before == BoxPhase::Asked && !was_answered {
            return BoxDecision::Pass;
        }
        let silence = if kind == PacketKind::Rst { BoxPhase::Reset } else { next };
        tracked.deadline = self.now.saturating_add(nanos(silence.timeout(&self.rules.timeouts)));
        BoxDecision::Pass
    }

    /// Decides on a packet of no connection that is known.
    fn without_state(
        &mut self,
        direction: Direction,
        inside: &NamedEnds,
        kind: PacketKind,
        numbers: &Numbers,
        why: Forgotten,
    ) -> BoxDecision {
        let may_open = self.rules.kind == MiddleboxKind::Firewall || direction == Direction::ToServer;
        let phase = match kind {
            PacketKind::Syn => BoxPhase::Asked,
            PacketKind::Ack if self.rules.then == WithoutState::PickUp => BoxPhase::Established,
            // Senseless here: to conntrack these are INVALID, as there is nothing that they could end or answer.
            _ if self.rules.then == WithoutState::PickUp && self.rules.drop_invalid => {
                return BoxDecision::Invalid;
            }
            _ if self.rules.then == WithoutState::PickUp => return BoxDecision::Pass,
            _ => return BoxDecision::NoState(why),
        };
        if !may_open || !self.has_room() {
            return BoxDecision::NoState(why);
        }
        self.open(direction, *inside, phase, numbers);
        if phase == BoxPhase::Asked { BoxDecision::Pass } else { BoxDecision::PickUp }
    }

    /// Whether one more connection can be known. Makes room by what is forgotten.
    fn has_room(&mut self) -> bool {
        if self.connections.len() >= MOST {
            let now = self.now;
            self.connections.retain(|_, tracked| now < tracked.deadline);
            let known = &self.connections;
            self.outside.retain(|_, inside| known.contains_key(inside));
        }
        self.connections.len() < MOST
    }

    /// Begins to know a connection, by its SYN or in its middle.
    fn open(&mut self, first: Direction, inside: NamedEnds, phase: BoxPhase, numbers: &Numbers) {
        let port = match self.rules.kind {
            MiddleboxKind::Firewall => inside.client.port(),
            MiddleboxKind::Nat => self.port_for(&inside, phase == BoxPhase::Asked),
        };
        let mut sides = [OneSide::default(); 2];
        sides[first.index()] = OneSide::first(numbers);
        let deadline = self.now.saturating_add(nanos(phase.timeout(&self.rules.timeouts)));
        let tracked = Tracked {
            phase,
            deadline,
            first,
            sides,
            is_answered: false,
            is_liberal: phase == BoxPhase::Established,
            last: None,
            is_assured: false,
            has_fin: false,
            port,
            envelopes: [None, None],
            is_reset: false,
        };
        self.connections.insert(inside, tracked);
    }

    /// The port of a connection on the server's side: the client's own at its SYN, if no other has it there, as Linux and many NATs at
    /// home do; else the next that is free.
    fn port_for(&mut self, inside: &NamedEnds, keeps: bool) -> u16 {
        self.outside.retain(|_, other| other != inside);
        let mut port = inside.client.port();
        let mut tries = PORTS.len();
        while (!keeps && port == inside.client.port())
            || (self.outside.contains_key(&inside.with_port(port)) && tries > 0)
        {
            port = self.next_port;
            self.next_port = if port == *PORTS.end() { *PORTS.start() } else { port + 1 };
            tries = tries.saturating_sub(1);
        }
        self.outside.insert(inside.with_port(port), *inside);
        port
    }

    /// Gives a packet that passes its port on the other side, and remembers how such packets begin.
    fn send_on(&mut self, direction: Direction, inside: &NamedEnds, frame: &mut [u8]) {
        let Some(tracked) = self.connections.get_mut(inside) else { return };
        if tracked.port != inside.client.port() {
            match direction {
                Direction::ToServer => set_port(frame, PortOf::Source, tracked.port),
                Direction::ToClient => set_port(frame, PortOf::Destination, inside.client.port()),
            };
        }
        let envelope = &mut tracked.envelopes[direction.index()];
        if self.rules.then == WithoutState::ResetBoth && envelope.is_none() {
            *envelope = Envelope::of(frame);
        }
    }

    /// The reset that answers a packet of no connection (RFC 9293 section 3.10.7.1).
    fn answer(&mut self, direction: Direction, frame: &[u8], numbers: &Numbers) -> Option<OwnPacket> {
        let back = Envelope::of(frame)?.reversed();
        self.counts.resets += 1;
        let reset = match numbers.ack {
            Some(ack) => back.reset(ack, None),
            None => back.reset(0, Some(numbers.end)),
        };
        Some((direction.reverse(), reset))
    }

    /// When the box has something to say by itself, unless a packet comes before.
    pub(crate) fn next_word(&self) -> Option<Nanos> {
        let waiting = self.connections.values().filter(|tracked| self.is_to_be_told(tracked));
        waiting.map(|tracked| tracked.deadline).min()
    }

    fn is_to_be_told(&self, tracked: &Tracked) -> bool {
        self.rules.then == WithoutState::ResetBoth && !tracked.is_reset && !tracked.phase.is_over()
    }

    /// The resets of the connections that are forgotten by now and whose ends are to know it, those first that are forgotten first.
    pub(crate) fn last_words(&mut self, now: Nanos) -> Vec<OwnPacket> {
        if self.next_word().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.now = self.now.max(now);
        let is_due = |tracked: &Tracked| self.is_to_be_told(tracked) && tracked.deadline <= now;
        let due = self.connections.iter().filter(|(_, tracked)| is_due(tracked));
        let mut due: Vec<(Nanos, NamedEnds)> = due.map(|(ends, tracked)| (tracked.deadline, *ends)).collect();
        due.sort_unstable();
        let mut resets = Vec::new();
        for (_, ends) in due {
            let Some(tracked) = self.connections.get_mut(&ends) else { continue };
            tracked.is_reset = true;
            for direction in Direction::BOTH {
                resets.extend(tracked.reset(direction).map(|frame| (direction, frame)));
            }
        }
        self.counts.resets += resets.len() as u64;
        resets
    }
}

#[cfg(test)]
#[path = "track_tests.rs"]
mod tests;
