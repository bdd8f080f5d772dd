//! A connection in the table: what was seen of it, and its first reset.

use linger_packet::{Flags, Segment};

use crate::connection::ObservedConnection;
use crate::facts::Facts;
use crate::key::{Dir, FlowKey, PathId};
use crate::names::NameId;
use crate::opening::{OpeningStep, UnheardPackets};
use crate::record::{At, Record, Since};
use crate::recorded_reset::RecordedReset;
use crate::side::Marks;

/// An entry of the table.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) connection: ObservedConnection,
    /// Tells this flow's entry in the table's queue from stale ones.
    pub(crate) generation: u32,
    /// The name that the client has asked for.
    pub(crate) asked_name: NameId,
    pub(crate) reset: Option<Box<RecordedReset>>,
}

/// The effect of a packet on its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlowStep {
    Nothing,
    /// The packet was captured twice.
    Copy,
    /// A SYN-ACK that was sent again after its answer. Those packets of the client since the one before were dropped.
    SynAckAgain(UnheardPackets),
    /// After such SYN-ACKs the client was heard. Those of its packets since the last of them were dropped.
    Heard(UnheardPackets),
    /// The first FIN of its side.
    Fin,
    /// The first FIN of its side, after the other side's FIN.
    Closed,
    /// The first reset of the connection.
    Reset,
    /// A SYN that was refused, once more.
    AskedAgain,
    /// The refusal of a SYN that had been refused before.
    RefusedAgain,
}

impl Flow {
    pub(crate) fn new(key: FlowKey, at: At, generation: u32) -> Self {
        Self {
            connection: ObservedConnection::new(key, at),
            generation,
            asked_name: NameId::default(),
            reset: None,
        }
    }

    /// Whether this SYN begins another connection on the same ports. Some systems repeat a SYN that was refused: that is the same
    /// connection, until it is accepted.
    pub(crate) fn is_succeeded_by(&self, segment: &Segment<'_>, dir: Dir, path: PathId) -> bool {
        let [side, other] = [&self.connection.sides[dir], &self.connection.sides[1 - dir]];
        let first = segment.flags.has(Flags::SYN) && !segment.flags.any(Flags::ACK | Flags::RST);
        let again = segment.seq == side.isn();
        let refused = || self.reset.as_ref().filter(|reset| Facts::new(reset).answers_syn());
        let same = again && side.syn() && self.connection.paths[dir] == path;
        if first && same && refused().is_some_and(|reset| reset.by != dir) {
            return false;
        }
        if segment.flags.has(Flags::SYN | Flags::ACK)
            && refused().is_some_and(|reset| reset.by == dir && reset.after.asked_again > 0)
        {
            return true;
        }
        first
            && (self.reset.is_some()
                || side.seen()
                    && !again
                    && (side.has_fin() || other.has_fin() || side.payload > 0 || !side.syn()))
    }

    /// Takes a packet of side `dir`.
    pub(crate) fn observe(&mut self, segment: &Segment<'_>, dir: Dir, at: At) -> FlowStep {
        let (micros, frame) = self.connection.since_first(at);
        let record = Record::new(segment, dir, frame, Since::micros(micros));
        if self.connection.is_copy(segment, dir, &record) && !self.answers_another(&record) {
            if !segment.flags.has(Flags::RST) {
                self.connection.sides[dir].note_ttl(segment.ttl);
            }
            self.connection.sides[dir].marks.note(Marks::TWICE, true);
            return FlowStep::Copy;
        }
        if segment.flags.has(Flags::RST) {
            return self.observe_reset(segment, dir, at, record);
        }
        let had_fin = self.connection.sides[dir].has_fin();
        let (record, step) = self.connection.take(segment, dir, at, record, micros);
        if let Some(reset) = &mut self.reset {
            reset.followed_by(segment, dir, at, record, self.connection.sides[dir].app);
            if dir != reset.by && segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK) {
                return FlowStep::AskedAgain;
            }
        }
        if let OpeningStep::SynAckAgain(dropped) = step {
            FlowStep::SynAckAgain(dropped)
        } else if let OpeningStep::Heard(dropped) = step
            && !self.connection.sides[dir].has_fin()
        {
            FlowStep::Heard(dropped)
        } else if had_fin || !self.connection.sides[dir].has_fin() {
            FlowStep::Nothing
        } else if self.connection.closed() {
            FlowStep::Closed
        } else {
            FlowStep::Fin
        }
    }

    /// Whether a reset with the same fields as the one before it is another one all the same: so many packets ask for it. Linux gives
    /// bare resets no identification. Where other packets of the connection are there twice, this one may be, too.
    fn answers_another(&self, record: &Record) -> bool {
        if !record.flags.has(Flags::RST) || record.flags.has(Flags::ACK) {
            return false;
        }
        let sender = &self.connection.sides[record.dir()];
        let twice = self.connection.sides.iter().any(|side| side.marks.has(Marks::TWICE));
        let own = |earlier: &&Record| earlier.dir() == record.dir();
        let asks = |earlier: &&Record| {
            !own(earlier)
                && (earlier.len > 0 || earlier.flags.has(Flags::FIN))
                && earlier.ack == record.seq
                && !earlier.flags.has(Flags::RST)
                && earlier.frame > sender.last_frame
        };
        let answers =
            |earlier: &&Record| own(earlier) && earlier.flags.has(Flags::RST) && earlier.seq == record.seq;
        let count = |which: &dyn Fn(&&Record) -> bool| self.connection.records().filter(which).count();
        !twice && count(&asks) > count(&answers)
    }

    #[cold]
    fn observe_reset(&mut self, segment: &Segment<'_>, dir: Dir, at: At, record: Record) -> FlowStep {
        if let Some(reset) = &mut self.reset {
            reset.again(dir, record);
            self.connection.keep(record);
            let refused = dir == reset.by && reset.after.asked_again > 0;
            return if refused { FlowStep::RefusedAgain } else { FlowStep::Nothing };
        }
        self.reset = Some(Box::new(RecordedReset::new(self.connection.clone(), segment, dir, at)));
        self.connection.keep(record);
        FlowStep::Reset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_flows_fit_into_64_mib() {
        let flow = size_of::<Flow>();
        assert!(flow <= 600, "{flow} bytes");
    }
}
