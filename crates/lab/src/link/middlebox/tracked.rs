//! What a middlebox knows of one connection, and what it concludes from a packet of it.

use super::phase::{BoxPhase, PacketKind, PhaseChange};
use super::window::{Fit, Numbers, OneSide, check};
use crate::clock::Nanos;
use crate::link::Direction;
use crate::link::rewrite::Envelope;

/// What the box knows of a connection.
#[derive(Clone, Debug)]
pub(super) struct Tracked {
    pub(super) phase: BoxPhase,
    /// When it is forgotten, unless a packet comes before.
    pub(super) deadline: Nanos,
    /// The direction of the packet that opened it.
    pub(super) first: Direction,
    /// What each direction sends, by [`Direction::index`].
    pub(super) sides: [OneSide; 2],
    /// Something of the other direction has passed.
    pub(super) is_answered: bool,
    /// Picked up in its middle: nothing is out of its window.
    pub(super) is_liberal: bool,
    /// The last packet that was in the window, or was ignored for its flags.
    pub(super) last: Option<LastPacket>,
    /// The handshake is done, and something has come after it.
    pub(super) is_assured: bool,
    /// A FIN began the close.
    pub(super) has_fin: bool,
    /// The client's port on the server's side.
    pub(super) port: u16,
    /// How packets of each direction begin as they leave the box.
    pub(super) envelopes: [Option<Envelope>; 2],
    /// Both ends have been told that it was forgotten.
    pub(super) is_reset: bool,
}

/// A packet, as it matters for the next one.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastPacket {
    pub(super) direction: Direction,
    pub(super) kind: PacketKind,
    pub(super) numbers: Numbers,
}

impl Tracked {
    /// Notes that a packet of this direction passes.
    pub(super) fn heard(&mut self, direction: Direction) {
        self.is_answered |= direction != self.first;
    }

    /// Compares a packet's numbers with what is known, and learns from them.
    pub(super) fn fits(&mut self, direction: Direction, numbers: &Numbers) -> Fit {
        let is_opening = matches!(self.phase, BoxPhase::Asked | BoxPhase::Answered);
        let [to_client, to_server] = &mut self.sides;
        let (sender, receiver) = match direction {
            Direction::ToClient => (to_client, to_server),
            Direction::ToServer => (to_server, to_client),
        };
        check(sender, receiver, numbers, is_opening, self.is_liberal)
    }

    /// The state behind this packet, if it is in the window.
    pub(super) fn next(&mut self, packet: &LastPacket) -> PhaseChange {
        let &LastPacket { direction, kind, numbers } = packet;
        if let (PacketKind::SynAck, Some(syn)) = (kind, self.last)
            && syn.kind == PacketKind::Syn
            && syn.direction != direction
            && numbers.ack == Some(syn.numbers.end)
        {
            // It answers a SYN that was ignored: both ends have begun anew, and the box had not.
            self.sides[syn.direction.index()] = OneSide::first(&syn.numbers);
            self.sides[direction.index()] = OneSide::default();
            self.phase = BoxPhase::Asked;
        }
        match self.phase.next(direction == self.first, kind) {
            // Only who knows that the connection is over can mean to begin another.
            PhaseChange::Anew if !self.has_fin && !self.was_reset_by(direction) => PhaseChange::Ignore,
            PhaseChange::To(_) if kind == PacketKind::Rst => self.believed(packet),
            next => next,
        }
    }

    fn was_reset_by(&self, direction: Direction) -> bool {
        self.last.is_some_and(|last| last.kind == PacketKind::Rst && last.direction == direction)
    }

    /// What is made of a reset. It is INVALID below what its receiver has acknowledged, and one that its receiver may answer with a
    /// challenge (RFC 5961 section 3.2) ends nothing yet.
    fn believed(&self, packet: &LastPacket) -> PhaseChange {
        let ends = PhaseChange::To(BoxPhase::Reset);
        let is_outdated = self.last.is_some_and(|last| last.kind == PacketKind::Syn);
        let Some(expected) = self.sides[packet.direction.reverse().index()].max_ack else { return ends };
        if self.phase.is_closing() || is_outdated {
            return ends;
        }
        let is_established = self.phase == BoxPhase::Established && self.is_assured;
        let seq = packet.numbers.seq;
        let is_right_behind = self.last.is_some_and(|last| {
            last.kind == PacketKind::Ack && last.direction == packet.direction && last.numbers.end == seq
        });
        match seq.wrapping_sub(expected) as i32 {
            _ if seq == 0 && !is_established => ends,
            ..0 => PhaseChange::Invalid,
            0 => ends,
            _ if !is_established || is_right_behind => ends,
            _ => PhaseChange::To(self.phase),
        }
    }

    /// Whether a packet is a reset whose numbers cannot be compared: what is closing may be gone at the ends (tcp_can_early_drop), and
    /// what was ignored may be known to them.
    pub(super) fn needs_no_window(&self, packet: &LastPacket) -> bool {
        if packet.kind != PacketKind::Rst {
            return false;
        }
        let answers = self.last.is_some_and(|last| {
            let is_unknown = match last.kind {
                PacketKind::Syn => self.is_answered,
                PacketKind::Ack => !self.is_assured,
                _ => false,
            };
            let is_challenged = self.phase == BoxPhase::Asked
                && last.kind == PacketKind::Ack
                && last.direction != self.first
                && last.numbers.ack == Some(packet.numbers.seq);
            is_challenged || is_unknown && packet.numbers.ack == Some(last.numbers.end)
        });
        self.phase.is_closing() || answers
    }

    /// A reset in this direction that its receiver accepts: at the byte that it expects next.
    pub(super) fn reset(&self, direction: Direction) -> Option<Vec<u8>> {
        let [there, back] = [direction, direction.reverse()].map(|way| &self.sides[way.index()]);
        let seq = back.max_ack.unwrap_or(there.end);
        let way_back = self.envelopes[direction.reverse().index()].clone().map(Envelope::reversed);
        let envelope = self.envelopes[direction.index()].clone().or(way_back)?;
        Some(envelope.reset(seq, Some(back.end)))
    }
}
