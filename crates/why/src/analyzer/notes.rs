//! What packets with SYN, FIN or RST show beyond their own connection: of their listener, and of their checksum.

use linger_packet::{Flags, Segment};

use super::{Analyzer, MAX_LATE};
use crate::connection::A_PAUSE;
use crate::facts::Facts;
use crate::flow::{Flow, FlowStep};
use crate::key::Dir;
use crate::opening::{Opening, UnheardPackets};
use crate::places::Places;
use crate::record::{At, Since};
use crate::side::Marks;
use crate::streams::SeenAt;
use crate::surroundings::{Drops, ListenerAddress, Surroundings};
use crate::table::FlowSlot;

impl Analyzer {
    /// Reads the frames of HTTP/2 in a segment, until the connection's first reset.
    #[inline]
    pub(super) fn follow_streams(&mut self, slot: FlowSlot, segment: &Segment<'_>, dir: Dir, at: At) {
        if segment.payload_len == 0 {
            return;
        }
        let followed = |flow: &&mut Flow| flow.connection.sides[dir].app.is_http2() && flow.reset.is_none();
        if let Some(flow) = self.table.get(slot).filter(followed) {
            let (micros, frame) = flow.connection.since_first(at);
            let seen = SeenAt { frame, since: Since::micros(micros) };
            let acked = flow.connection.sides[1 - dir].ack();
            self.streams.take(flow.connection.key, dir, segment, acked, seen);
        }
    }

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
                let again = connection.opened_again().is_some_and(|(_, delay)| delay >= A_PAUSE);
                if again && self.late.len() < MAX_LATE {
                    self.late.insert(connection.key, connection.records().copied().collect());
                }
            }
            self.surroundings.accepts(source, at.time_ns, segment.ttl);
            if let FlowStep::SynAckAgain(dropped) = step {
                self.surroundings.repeats(source, at.time_ns);
                self.surroundings.drops(source, Drops::of(dropped));
            }
            return;
        }
        if segment.flags.has(Flags::SYN) {
            if flow.reset.is_none() && matches!(connection.opening, Opening::Asked { syns: 2.., .. }) {
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
            FlowStep::RefusedAgain => self.surroundings.refuses(source, at.time_ns, at.frame),
            FlowStep::Reset => {
                let Some(reset) = &flow.reset else { return };
                let facts = Facts::new(reset);
                if facts.refuses_after_handshake() {
                    self.surroundings.turns_away(source, at.time_ns);
                    self.surroundings.drops(source, Drops { refused: 1, ..Drops::default() });
                } else if facts.answers_syn() {
                    self.surroundings.refuses(source, at.time_ns, at.frame);
                } else if facts.active() && facts.client() != Some(dir) && !facts.sender.has_fin() {
                    self.surroundings.ends(source, at.time_ns);
                }
            }
            _ => {}
        }
    }

    /// The server has taken note of a client after all.
    #[cold]
    pub(super) fn note_heard(&mut self, slot: FlowSlot, dir: Dir, dropped: UnheardPackets) {
        let Some(flow) = self.table.get(slot) else { return };
        let connection = &flow.connection;
        let listener = (connection.key.end(dir), self.places.network(connection, dir));
        self.surroundings.drops(listener, Drops::of(dropped));
        // The last packet of the handshake, and the first data twice.
        let again = dropped.all >= 3 || connection.opening.repeats() > 0;
        if let Some(syn_ack) = connection.opening.syn_ack().filter(|_| again)
            && connection.opening.syns() == 1
        {
            let time = connection.time_of(u64::from(syn_ack.after_us) * 1_000);
            self.surroundings.ignores(listener, time);
        }
    }
}

/// Records what a connection shows about its listener when it is forgotten, or when the capture ends.
pub(super) fn note_end(surroundings: &mut Surroundings, places: &mut Places, flow: &Flow) {
    let connection = flow.reset.as_ref().map_or(&flow.connection, |reset| &reset.connection);
    let Some(opener) = connection.opener() else { return };
    let syns = if let Opening::Asked { syns, .. } = connection.opening { u32::from(syns) } else { 0 };
    let answers = connection.unheard_at_end();
    let server = &connection.sides[1 - opener];
    let refused = flow.reset.as_ref().is_some_and(|reset| reset.by != opener);
    let spoke = server.payload > 0 || server.has_fin();
    let opened = connection.opening.syn_ack();
    if syns + answers.all == 0 && opened.is_none() {
        return;
    }
    let listener: ListenerAddress = (connection.key.end(1 - opener), places.network(connection, 1 - opener));
    // The last packet was not dropped, if it was answered with a reset.
    let all = answers.all.saturating_sub(u32::from(refused));
    let drops = Drops {
        syns: syns.saturating_sub(u32::from(refused)),
        ..Drops::of(UnheardPackets { all, bare: answers.bare.min(all) })
    };
    surroundings.drops(listener, drops);
    let Some(syn_ack) = opened else { return };
    if spoke {
        surroundings.serves(listener, server.last_time);
    } else if matches!(connection.opening, Opening::Answered { .. }) && connection.sides[opener].payload > 0 {
        let time = connection.time_of(u64::from(syn_ack.after_us) * 1_000);
        let heard = (server.last_frame > syn_ack.frame).then_some(server.last_time);
        let ended = flow.reset.as_ref().filter(|_| refused).map(|reset| reset.at.time_ns);
        surroundings.holds(listener, time, heard, ended);
    }
}
