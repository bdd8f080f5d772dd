//! The facts about one connection so far: bounded in size, and copied at a reset.

use linger_packet::{Flags, Segment};

use crate::key::{Dir, FlowKey, PathId};
use crate::opening::{Opening, OpeningStep, SynAck, UnheardPackets};
use crate::record::{At, Record, Since};
use crate::service;
use crate::side::Side;

/// Packets kept of each connection, the latest ones.
const KEPT: usize = 8;
/// How far a packet's sequence and acknowledgement numbers may be from the expected ones, if both are compared, or only one.
/// Windows are seldom larger. A packet of another connection passes by chance once in 4 million (2^22), or once in 32,768
/// (2^15).
const NEAR_BOTH: u32 = 1 << 20;
const NEAR_ONE: u32 = 1 << 16;

/// The shortest time between the first of three SYNs and the last, in nanoseconds. None is repeated sooner than after 1 s (RFC 6298
/// section 2); most systems wait 2 s for the second time, macOS and Linux since 6.5 (`tcp_syn_linear_timeouts`) 1 s again. This is a
/// little less than 1 s twice.
pub(crate) const TWO_PAUSES: u64 = 1_800_000_000;
/// A little less than 1 s once.
pub(crate) const A_PAUSE: u64 = 900_000_000;

/// A connection, as far as it has been seen.
#[derive(Clone, Debug)]
pub(crate) struct ObservedConnection {
    pub(crate) key: FlowKey,
    pub(crate) first_time: u64,
    pub(crate) first_frame: u64,
    pub(crate) last_time: u64,
    pub(crate) sides: [Side; 2],
    ring: [Record; KEPT],
    ring_len: u8,
    pub(crate) opening: Opening,
    /// The tags and tunnels around the first packet of each side.
    pub(crate) paths: [PathId; 2],
    /// The side that the payload shows to be the client. Only kept while no handshake tells.
    asks: Option<u8>,
}

impl ObservedConnection {
    pub(crate) fn new(key: FlowKey, at: At) -> Self {
        Self {
            key,
            first_time: at.time_ns,
            first_frame: at.frame,
            last_time: at.time_ns,
            sides: [Side::default(); 2],
            ring: [Record::default(); KEPT],
            ring_len: 0,
            opening: Opening::Unseen,
            paths: [PathId::default(); 2],
            asks: None,
        }
    }

    /// The client: the side that opened the connection. If the capture lacks the handshake, the side whose payload is that of a
    /// client; else, the side whose peer has the port of a well-known service, or the only port below those that systems give
    /// to clients.
    pub(crate) fn client(&self) -> Option<Dir> {
        self.opener().or(self.asks.map(usize::from)).or_else(|| {
            let [low, high] = [0, 1].map(|dir| service::rank(self.key.end(dir).port()));
            (low != high).then(|| usize::from(low < high))
        })
    }

    /// Whether a packet of side `dir` continues this connection, by its sequence numbers. An unrelated connection with the same
    /// ends has other ones: they begin at random (RFC 6528).
    pub(crate) fn fits(&self, segment: &Segment<'_>, dir: Dir) -> bool {
        let (side, other) = (&self.sides[dir], &self.sides[1 - dir]);
        let near = |number: u32, known: u32, within: u32| {
            number.wrapping_sub(known).wrapping_add(within) <= 2 * within
        };
        let acknowledges = segment.flags.has(Flags::ACK);
        if segment.flags.has(Flags::SYN) && !acknowledges {
            let answered = !side.seen() && other.ack() == Some(segment.seq.wrapping_add(1));
            return side.syn() && side.isn() == segment.seq || answered;
        }
        let known_seq = if side.seen() { Some(side.next) } else { other.ack() };
        let known_ack = if other.seen() { Some(other.next) } else { side.ack() };
        match (known_seq, known_ack.filter(|_| acknowledges)) {
            // An answer to a SYN has no sequence number of its own.
            (_, Some(ack)) if segment.flags.has(Flags::RST) && segment.seq == 0 => segment.ack == ack,
            (Some(seq), Some(ack)) => near(segment.seq, seq, NEAR_BOTH) && near(segment.ack, ack, NEAR_BOTH),
            (Some(seq), None) => near(segment.seq, seq, NEAR_ONE),
            (None, Some(ack)) => near(segment.ack, ack, NEAR_ONE),
            (None, None) => false,
        }
    }

    /// Whether a packet with `bytes` of payload, already taken, has brought the first payload of side `dir`.
    #[inline]
    pub(crate) fn begins(&self, dir: Dir, bytes: u32) -> bool {
        bytes > 0 && self.sides[dir].payload == u64::from(bytes)
    }

    /// The side that opened the connection, where its handshake was seen.
    pub(crate) fn opener(&self) -> Option<Dir> {
        self.opening.opener()
    }

    /// The latest packets, oldest first.
    pub(crate) fn records(&self) -> impl DoubleEndedIterator<Item = &Record> {
        let kept = (self.ring_len as usize).min(KEPT);
        let first = self.ring_len as usize - kept;
        (first..first + kept).map(|at| &self.ring[at % KEPT])
    }

    /// Whether it has had more packets than are kept.
    pub(crate) fn has_forgotten(&self) -> bool {
        usize::from(self.ring_len) > KEPT
    }

    /// The opener's packets since the latest SYN-ACK, and how many of them have data, if the other side has sent nothing since. At
    /// least so many: only the latest packets are kept.
    fn unheard(&self) -> (UnheardPackets, u32) {
        let Some(opener) = self.opener() else { return Default::default() };
        let is_own = |record: &Record| record.dir() == opener;
        let since = || {
            let records = self.records().rev();
            records.take_while(|record| is_own(record) || !record.flags.has(Flags::SYN))
        };
        if !since().all(is_own) {
            return Default::default();
        }
        let count = |which: fn(&Record) -> bool| since().filter(|record| which(record)).count() as u32;
        let bare = count(|record| record.len == 0 && !record.flags.has(Flags::FIN));
        (UnheardPackets { all: count(|_| true), bare }, count(|record| record.len > 0))
    }

    /// The opener's packets that were dropped since the latest SYN-ACK, at the end of a connection whose opener was not heard.
    pub(crate) fn unheard_at_end(&self) -> UnheardPackets {
        if matches!(self.opening, Opening::Unheard { .. }) { self.unheard().0 } else { Default::default() }
    }

    /// Whether the packets after `last`, up to frame `until`, show that data was sent which the capture does not hold: numbers
    /// go on, or are acknowledged, beyond what is there. `last` is the latest packet with data before `until`.
    pub(crate) fn lacks_data(&self, last: &Record, until: u32) -> bool {
        let beyond = |number: u32, known: u32| number.wrapping_sub(known).wrapping_sub(1) < 1 << 30;
        let end = |record: &Record| {
            let counted = u32::from(record.flags.has(Flags::SYN)) + u32::from(record.flags.has(Flags::FIN));
            record.seq.wrapping_add(record.len).wrapping_add(counted)
        };
        // How far each side had come, as far as the latest packets show.
        let mut ends = [None::<u32>; 2];
        for record in self.records().take_while(|record| record.frame <= until) {
            let dir = record.dir();
            if record.frame > last.frame {
                // A probe stands one number behind.
                let jumps = ends[dir].is_some_and(|known| beyond(record.seq, known.wrapping_add(1)));
                let other = &self.sides[1 - dir];
                let acknowledges = record.flags.has(Flags::ACK) && other.seen();
                if jumps || acknowledges && beyond(record.ack, other.next) {
                    return true;
                }
            }
            let newer = ends[dir].is_none_or(|known| beyond(end(record), known));
            if newer {
                ends[dir] = Some(end(record));
            }
        }
        false
    }

    /// If two SYNs or more were sent before the SYN-ACK: how many, and how many nanoseconds after the first the SYN-ACK came. Only
    /// if the connection begins with the SYN.
    pub(crate) fn opened_again(&self) -> Option<(u8, u64)> {
        let syn_ack = self.opening.syn_ack()?;
        let repeated = self.opening.syns() >= 2 && self.opening.syn_frame() == 0;
        repeated.then_some((self.opening.syns(), u64::from(syn_ack.after_us) * 1_000))
    }

    /// [`Self::opened_again`], if there were three SYNs or more, over [`TWO_PAUSES`] or more.
    pub(crate) fn opened_late(&self) -> Option<(u8, u64)> {
        self.opened_again().filter(|&(syns, delay)| syns >= 3 && delay >= TWO_PAUSES)
    }

    /// Both sides have sent FIN.
    pub(crate) fn closed(&self) -> bool {
        self.sides[0].has_fin() && self.sides[1].has_fin()
    }

    /// Whether the connection may have failed without a reset. A cheap test that rules most connections out.
    pub(crate) fn may_have_failed(&self) -> bool {
        let unanswered = self.sides.iter().any(|side| !side.seen());
        let closed =
            self.sides.iter().any(Side::has_fin) && self.sides.iter().any(|side| side.app.has_ends());
        let stands = |side: &Side| side.repeats > 0 || side.window() == Some(0);
        unanswered || closed || self.sides.iter().any(stands) || self.opened_again().is_some()
    }

    /// The time of a packet so many nanoseconds after the first one, to the microsecond.
    pub(crate) fn time_of(&self, since_first: u64) -> u64 {
        self.first_time / 1_000 * 1_000 + since_first
    }

    /// Microseconds and frames between the connection's first packet and this one. Notes the time as the latest, too.
    #[inline]
    pub(crate) fn since_first(&mut self, at: At) -> (u64, u32) {
        self.last_time = self.last_time.max(at.time_ns);
        // Both times are rounded down before they are subtracted, so that `time_of` gives the packet's own microsecond.
        let micros = (at.time_ns / 1_000).saturating_sub(self.first_time / 1_000);
        (micros, at.frame.saturating_sub(self.first_frame).min(u64::from(u32::MAX)) as u32)
    }

    /// Whether this is the second copy of a packet that was captured twice: the first is among the last three.
    #[inline]
    pub(crate) fn is_copy(&self, segment: &Segment<'_>, dir: Dir, record: &Record) -> bool {
        self.may_repeat(segment, dir)
            && self.records().rev().take(3).any(|earlier| earlier.same_packet(record))
    }

    /// Whether a segment may be a copy: it acknowledges nothing new and has no new sequence number, or is a reset.
    #[inline]
    fn may_repeat(&self, segment: &Segment<'_>, dir: Dir) -> bool {
        let side = &self.sides[dir];
        let new = |number: u32, known: u32| {
            let ahead = number.wrapping_sub(known);
            ahead != 0 && ahead < 1 << 31
        };
        segment.flags.has(Flags::RST)
            || !(new(segment.end(), side.next)
                || segment.flags.has(Flags::ACK) && new(segment.ack, side.ack().unwrap_or(0)))
    }

    /// Takes a packet of side `dir` that is no reset. Returns the record that is kept of the packet, and what it means for the
    /// handshake.
    #[inline]
    pub(crate) fn take(
        &mut self,
        segment: &Segment<'_>,
        dir: Dir,
        at: At,
        mut record: Record,
        since: u64,
    ) -> (Record, OpeningStep) {
        let step = if !matches!(self.opening, Opening::Answered { .. }) || segment.flags.has(Flags::SYN) {
            self.take_opening(segment, dir, record.frame, since)
        } else {
            OpeningStep::Nothing
        };
        if self.asks.is_none() && segment.payload_len > 0 && matches!(self.opening, Opening::Unseen) {
            self.asks = service::speaks(segment.payload)
                .map(|is_client| if is_client { dir as u8 } else { 1 - dir as u8 });
        }
        let [low, high] = &mut self.sides;
        let (side, other) = if dir == 0 { (low, high) } else { (high, low) };
        if side.take(segment, other, at, record.frame, Since::micros(since)) {
            record.mark_repeated();
            // Since its SYN-ACK the other side has sent nothing.
            let unheard = |syn_ack: SynAck| other.seen() && other.last_frame == syn_ack.frame;
            if segment.payload_len > 0
                && self.opening.opener() == Some(dir)
                && self.opening.syn_ack().is_some_and(unheard)
            {
                self.opening.is_unheard();
            }
        }
        self.keep(record);
        (record, step)
    }

    #[cold]
    fn take_opening(&mut self, segment: &Segment<'_>, dir: Dir, frame: u32, since: u64) -> OpeningStep {
        let known = self.sides[dir].syn();
        let step = self.opening.take(segment.flags, dir, known, since.min(u64::from(u32::MAX)) as u32, frame);
        match step {
            OpeningStep::SynAckAgain(_) => OpeningStep::SynAckAgain(self.unheard().0),
            // Bytes that were sent twice since then had met no socket the first time. The last packet was heard, and an
            // acknowledgement before it may have been.
            OpeningStep::Heard(_) => match self.unheard() {
                (UnheardPackets { all, bare }, 2..) => {
                    OpeningStep::Heard(UnheardPackets { all: all.saturating_sub(1), bare })
                }
                (UnheardPackets { all, bare }, _) => {
                    let (all, bare) = (all.saturating_sub(2), bare.saturating_sub(1));
                    OpeningStep::Heard(UnheardPackets { all, bare: bare.min(all) })
                }
            },
            step => step,
        }
    }

    /// Keeps a packet for the ladder.
    pub(crate) fn keep(&mut self, record: Record) {
        self.ring[self.ring_len as usize % KEPT] = record;
        // Before it overflows, the count goes back to a small number above KEPT. The position in the ring continues,
        // because KEPT divides 256.
        self.ring_len = if self.ring_len == u8::MAX { KEPT as u8 * 2 } else { self.ring_len + 1 };
    }
}
