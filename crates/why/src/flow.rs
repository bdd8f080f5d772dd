//! A connection in the table: what was seen of it, and its first reset.

use linger_packet::{Flags, Segment};

use crate::connection::ObservedConnection;
use crate::key::{Dir, FlowKey};
use crate::names::NameId;
use crate::opening::OpeningStep;
use crate::record::{At, Record, Since};
use crate::recorded_reset::RecordedReset;

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
    /// A SYN-ACK that was sent again after its answer. So many packets of the client since the one before were dropped.
    SynAckAgain(u32),
    /// After such SYN-ACKs the client was heard. So many of its packets since the last of them were dropped.
    Heard(u32),
    /// The first FIN of its side.
    Fin,
    /// The first FIN of its side, after the other side's FIN.
    Closed,
    /// The first reset of the connection.
    Reset,
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

    /// Whether this SYN begins another connection on the same ports.
    pub(crate) fn is_succeeded_by(&self, segment: &Segment<'_>, dir: Dir) -> bool {
        let [side, other] = [&self.connection.sides[dir], &self.connection.sides[1 - dir]];
        let first = segment.flags.has(Flags::SYN) && !segment.flags.any(Flags::ACK | Flags::RST);
        let again = segment.seq == side.isn();
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
        if self.connection.is_copy(segment, dir, &record) {
            if !segment.flags.has(Flags::RST) {
                self.connection.sides[dir].note_ttl(segment.ttl);
            }
            return FlowStep::Copy;
        }
        if segment.flags.has(Flags::RST) {
            return self.observe_reset(segment, dir, at, record);
        }
        let had_fin = self.connection.sides[dir].has_fin();
        let (record, step) = self.connection.take(segment, dir, at, record, micros);
        if let Some(reset) = &mut self.reset {
            reset.followed_by(segment, dir, at, record, self.connection.sides[dir].app);
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

    #[cold]
    fn observe_reset(&mut self, segment: &Segment<'_>, dir: Dir, at: At, record: Record) -> FlowStep {
        if let Some(reset) = &mut self.reset {
            reset.again(dir, record);
            self.connection.keep(record);
            return FlowStep::Nothing;
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
