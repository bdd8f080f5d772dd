//! What is remembered of one connection while its packets pass: bounded, copied when a reset comes.

use linger_packet::{Flags, Segment};

use crate::key::{Dir, Key};
use crate::record::{At, Record};
use crate::reset::Reset;
use crate::side::Side;

/// Packets kept of each flow, the latest ones.
const KEPT: usize = 8;

/// A connection, as far as it has been seen.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) key: Key,
    pub(crate) first_time: u64,
    pub(crate) first_frame: u64,
    pub(crate) last_time: u64,
    pub(crate) sides: [Side; 2],
    ring: [Record; KEPT],
    ring_len: u32,
    pub(crate) duplicates: u32,
    /// Microseconds after the first packet: SYN-ACK, and the opener's answer to it.
    pub(crate) syn_ack_after: u32,
    pub(crate) ack_after: u32,
    pub(crate) syn_frame: u32,
    pub(crate) syn_ack_frame: u32,
    /// SYN-ACKs sent again after the opener had acknowledged the first.
    pub(crate) syn_ack_repeats: u16,
    /// The side that sent the SYN, or received the SYN-ACK.
    opener: Option<u8>,
    /// The queue entry of the table that this flow answers to.
    pub(crate) generation: u32,
    pub(crate) reset: Option<Box<Reset>>,
}

/// What a packet did to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// The first reset of the connection.
    Reset,
    /// Both sides have sent FIN.
    Closed,
}

impl Flow {
    pub(crate) fn new(key: Key, at: At) -> Self {
        Self {
            key,
            first_time: at.time,
            first_frame: at.frame,
            last_time: at.time,
            sides: [Side::default(); 2],
            ring: [Record::default(); KEPT],
            ring_len: 0,
            duplicates: 0,
            syn_ack_after: 0,
            ack_after: 0,
            syn_frame: 0,
            syn_ack_frame: 0,
            syn_ack_repeats: 0,
            opener: None,
            generation: 0,
            reset: None,
        }
    }

    /// The side that opened the connection, where its handshake was seen.
    pub(crate) fn opener(&self) -> Option<Dir> {
        self.opener.map(usize::from)
    }

    /// The latest packets, oldest first.
    pub(crate) fn records(&self) -> impl DoubleEndedIterator<Item = &Record> {
        let kept = (self.ring_len as usize).min(KEPT);
        let first = self.ring_len as usize - kept;
        (first..first + kept).map(|at| &self.ring[at % KEPT])
    }

    /// Whether this SYN begins another connection on the same ports.
    pub(crate) fn is_succeeded_by(&self, segment: &Segment<'_>, dir: Dir) -> bool {
        let side = &self.sides[dir];
        let first = segment.flags.has(Flags::SYN) && !segment.flags.any(Flags::ACK | Flags::RST);
        let again = segment.seq == side.isn;
        first
            && (self.reset.is_some()
                || side.seen()
                    && !again
                    && (side.fin() || self.sides[1 - dir].fin() || side.payload > 0 || !side.syn()))
    }

    /// Takes a packet of side `dir`.
    pub(crate) fn observe(&mut self, segment: &Segment<'_>, dir: Dir, at: At) -> Step {
        self.last_time = self.last_time.max(at.time);
        let micros = at.time.saturating_sub(self.first_time) / 1_000;
        let frame = at.frame.saturating_sub(self.first_frame).min(u64::from(u32::MAX)) as u32;
        let mut record = Record::new(segment, dir, frame, micros);
        if self.may_repeat(segment, dir)
            && self.records().rev().take(3).any(|earlier| earlier.same_packet(&record))
        {
            self.duplicates = self.duplicates.saturating_add(1);
            if !segment.flags.has(Flags::RST) {
                self.sides[dir].note_ttl(segment.ttl);
            }
            return Step::Nothing;
        }
        if segment.flags.has(Flags::RST) {
            return self.observe_reset(segment, dir, at, record);
        }
        if self.ack_after == 0 || segment.flags.has(Flags::SYN) {
            self.observe_handshake(segment.flags, dir, micros.min(u64::from(u32::MAX)) as u32, frame);
        }
        let closed = self.closed();
        let [low, high] = &mut self.sides;
        let (side, other) = if dir == 0 { (low, high) } else { (high, low) };
        if side.take(segment, other, at, frame) {
            record.mark_repeated();
        }
        self.push(record);
        if let Some(reset) = &mut self.reset {
            reset.followed_by(segment, dir, at, record);
        }
        if !closed && self.closed() { Step::Closed } else { Step::Nothing }
    }

    /// Both sides have sent FIN.
    pub(crate) fn closed(&self) -> bool {
        self.sides[0].fin() && self.sides[1].fin()
    }

    /// Whether a segment brings nothing new, as the second copy of one captured twice.
    #[inline]
    fn may_repeat(&self, segment: &Segment<'_>, dir: Dir) -> bool {
        let side = &self.sides[dir];
        let new = |number: u32, known: u32| {
            let ahead = number.wrapping_sub(known);
            ahead != 0 && ahead < 1 << 31
        };
        segment.flags.has(Flags::RST)
            || !(new(segment.end(), side.next) || segment.flags.has(Flags::ACK) && new(segment.ack, side.ack))
    }

    fn push(&mut self, record: Record) {
        self.ring[self.ring_len as usize % KEPT] = record;
        // The count wraps only after it has passed KEPT by far, and KEPT divides what it falls back by.
        self.ring_len = if self.ring_len == u32::MAX { KEPT as u32 * 2 } else { self.ring_len + 1 };
    }

    /// Notes who opened the connection and when the handshake's packets passed.
    #[cold]
    fn observe_handshake(&mut self, flags: Flags, dir: Dir, micros: u32, frame: u32) {
        if flags.has(Flags::SYN) {
            if self.sides[dir].syn() {
                if flags.has(Flags::ACK) && self.ack_after != 0 {
                    self.syn_ack_repeats = self.syn_ack_repeats.saturating_add(1);
                }
            } else if flags.has(Flags::ACK) {
                self.opener = Some(1 - dir as u8);
                self.syn_ack_after = micros;
                self.syn_ack_frame = frame;
            } else {
                self.opener = Some(dir as u8);
                self.syn_frame = frame;
            }
        } else if self.opener == Some(dir as u8) && self.syn_ack_after != 0 {
            self.ack_after = micros.max(1);
        }
    }

    fn observe_reset(&mut self, segment: &Segment<'_>, dir: Dir, at: At, record: Record) -> Step {
        if let Some(reset) = &mut self.reset {
            reset.again(dir, record);
            self.push(record);
            return Step::Nothing;
        }
        let flow = self.clone();
        self.push(record);
        self.reset = Some(Box::new(Reset::new(flow, segment, dir, at)));
        Step::Reset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_flows_fit_into_64_mib() {
        let flow = size_of::<Flow>();
        assert!(flow <= 592, "{flow} bytes");
    }
}
