//! What packets with SYN, FIN or RST show beyond their own connection: of their listener, and of their checksum.

use linger_packet::{Flags, Segment};

use super::Analyzer;
use crate::connection::Opening;
use crate::facts::Facts;
use crate::flow::FlowStep;
use crate::key::Dir;
use crate::record::At;
use crate::side::Marks;
use crate::table::FlowSlot;

impl Analyzer {
    /// Looks at the checksum of a SYN, or of a connection's first reset.
    pub(super) fn note_checksum(
        &mut self,
        slot: FlowSlot,
        segment: &Segment<'_>,
        frame: &[u8],
        dir: Dir,
        step: FlowStep,
    ) {
        if let Some(flow) = self.table.get(slot) {
            if segment.flags.has(Flags::SYN) {
                let right = segment.has_right_checksum(frame) == Some(true);
                flow.connection.sides[dir].marks.note(Marks::RIGHT_CHECKSUM, right);
            } else if step == FlowStep::Reset
                && let Some(reset) = &mut flow.reset
            {
                reset.right_checksum = segment.has_right_checksum(frame);
                reset.options_cut = segment.payload_offset > frame.len();
            }
        }
    }

    /// Records what this packet shows about its listener.
    pub(super) fn note_surroundings(
        &mut self,
        slot: FlowSlot,
        segment: &Segment<'_>,
        dir: Dir,
        at: At,
        step: FlowStep,
    ) {
        let Some(flow) = self.table.get(slot) else { return };
        let connection = &flow.connection;
        let source = (segment.source, self.places.network(connection, dir));
        if segment.flags.has(Flags::SYN | Flags::ACK) {
            let first = connection
                .opening
                .syn_ack()
                .is_some_and(|syn_ack| connection.first_frame + u64::from(syn_ack.frame) == at.frame);
            if first && connection.opening.syns() > 0 {
                let (syns, late) = (connection.opening.syns(), connection.opened_late().is_some());
                self.surroundings.opens(source, at.time_ns, syns, late);
            }
            self.surroundings.accepts(source, at.time_ns, segment.ttl);
            if step == FlowStep::SynAckAgain {
                self.surroundings.repeats(source, at.time_ns);
            }
            return;
        }
        if segment.flags.has(Flags::SYN) {
            if matches!(connection.opening, Opening::Asked { syns: 2.., .. }) {
                let listener = (segment.destination, self.places.network(connection, 1 - dir));
                let known = connection.sides[dir].marks.has(Marks::OTHERS_SERVED);
                let first = connection.first_time;
                let served = self.surroundings.asks_again(listener, first, at.time_ns, known);
                flow.connection.sides[dir].marks.note(Marks::OTHERS_SERVED, served);
            }
            return;
        }
        if connection.opener() != Some(dir) {
            self.surroundings.hears(source, at.time_ns);
        }
        match step {
            FlowStep::Fin | FlowStep::Closed if flow.connection.opener() != Some(dir) => {
                self.surroundings.ends(source, at.time_ns);
            }
            FlowStep::Reset => {
                let Some(reset) = &flow.reset else { return };
                let facts = Facts::new(reset);
                if facts.refuses_after_handshake() {
                    self.surroundings.turns_away(source, at.time_ns);
                } else if facts.answers_syn() {
                    self.surroundings.refuses(source, at.time_ns, at.frame);
                } else if facts.active() && facts.client() != Some(dir) && !facts.sender.has_fin() {
                    self.surroundings.ends(source, at.time_ns);
                }
            }
            _ => {}
        }
    }
}
