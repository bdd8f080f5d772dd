//! What is remembered of one connection while its packets pass: bounded, copied when a reset comes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use linger_packet::{Flags, Segment};

use crate::app::App;

/// Packets kept of each flow, the latest ones.
const KEPT: usize = 8;
/// Packets kept that came after the reset.
pub(crate) const KEPT_AFTER: usize = 6;
/// Two packets alike in everything visible are one, captured twice, if they are this close.
const DUPLICATE_WITHIN: u64 = 1_000_000;
/// Beyond this distance a sequence number belongs to another connection.
pub(crate) const PLAUSIBLE: u32 = 1 << 26;

/// A connection's two ends, the lower one first, as seen on one interface: each of a capture's interfaces is a
/// place of its own, and what passes two of them is there twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    addresses: [[u64; 2]; 2],
    ports: [u16; 2],
    pub(crate) interface: u32,
}

impl std::hash::Hash for Key {
    /// Five words; the derived one adds a length before each array.
    #[inline]
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let [[a, b], [c, d]] = self.addresses;
        let [low, high] = self.ports;
        state.write_u64(a);
        state.write_u64(b);
        state.write_u64(c);
        state.write_u64(d);
        state.write_u64(u64::from(low) << 48 | u64::from(high) << 32 | u64::from(self.interface));
    }
}

/// One of a flow's two sides: an index into [`Flow::sides`].
pub(crate) type Dir = usize;

fn words(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(v4) => [0, 0xffff << 32 | u64::from(v4.to_bits())],
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            [(bits >> 64) as u64, bits as u64]
        }
    }
}

impl Key {
    /// The key of a segment's connection, and which side sent the segment.
    #[inline]
    pub(crate) fn of(segment: &Segment<'_>, interface: u32) -> (Self, Dir) {
        Self::between(segment.source, segment.destination, interface)
    }

    /// The key of the connection between two ends, and which side the first is.
    #[inline]
    pub(crate) fn between(from: SocketAddr, to: SocketAddr, interface: u32) -> (Self, Dir) {
        let (source, destination) = ((words(from.ip()), from.port()), (words(to.ip()), to.port()));
        let ((low, high), dir) =
            if source <= destination { ((source, destination), 0) } else { ((destination, source), 1) };
        (Self { addresses: [low.0, high.0], ports: [low.1, high.1], interface }, dir)
    }

    pub(crate) fn end(&self, dir: Dir) -> SocketAddr {
        let [high, low] = self.addresses[dir];
        let v6 = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
        SocketAddr::new(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4), self.ports[dir])
    }
}

/// A packet as it is kept for the ladder.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Record {
    /// Frames after the flow's first one.
    pub(crate) frame: u32,
    time_low: u32,
    time_high: u16,
    pub(crate) window: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) len: u32,
    pub(crate) id: u16,
    pub(crate) flags: Flags,
    bits: u8,
}

const FROM_HIGH: u8 = 1;
const REPEATED: u8 = 2;

impl Record {
    fn new(segment: &Segment<'_>, dir: Dir, at: At, flow: &Flow) -> Self {
        // 48 bits of microseconds: nine years.
        let micros = at.time.saturating_sub(flow.first_time) / 1_000;
        Self {
            frame: at.frame.saturating_sub(flow.first_frame).min(u64::from(u32::MAX)) as u32,
            time_low: micros as u32,
            time_high: (micros >> 32) as u16,
            window: segment.window.unwrap_or(0),
            seq: segment.seq,
            ack: segment.ack,
            len: segment.payload_len,
            id: segment.ip_id.unwrap_or(0),
            flags: segment.flags,
            bits: dir as u8,
        }
    }

    pub(crate) fn dir(&self) -> Dir {
        usize::from(self.bits & FROM_HIGH)
    }

    pub(crate) fn repeated(&self) -> bool {
        self.bits & REPEATED != 0
    }

    /// Nanoseconds after the flow's first packet.
    pub(crate) fn since_first(&self) -> u64 {
        (u64::from(self.time_high) << 32 | u64::from(self.time_low)) * 1_000
    }

    #[inline]
    fn same_packet(&self, other: &Self) -> bool {
        self.seq == other.seq
            && self.ack == other.ack
            && self.len == other.len
            && self.id == other.id
            && self.window == other.window
            && self.flags == other.flags
            && self.dir() == other.dir()
            && self.since_first().abs_diff(other.since_first()) < DUPLICATE_WITHIN
    }
}

/// Where and when a packet was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) frame: u64,
    /// Nanoseconds since the epoch.
    pub(crate) time: u64,
}

/// Packets of one side that the other leaves unanswered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    pub(crate) kind: RunKind,
    pub(crate) count: u16,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// The shortest and longest pause between two of them, in milliseconds.
    pub(crate) pauses: (u32, u32),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RunKind {
    #[default]
    None,
    Retransmissions,
    Keepalive,
    WindowProbes,
}

/// What one side has sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Side {
    /// Its initial sequence number; without its SYN, one less than the first seen.
    pub(crate) isn: u32,
    /// The sequence number after the last byte it has sent.
    pub(crate) next: u32,
    /// The highest acknowledgement it has sent.
    pub(crate) ack: u32,
    /// The bytes of payload it has sent, each counted once.
    pub(crate) payload: u64,
    pub(crate) fin_time: u64,
    pub(crate) last_time: u64,
    pub(crate) run: Run,
    pub(crate) fin_frame: u32,
    pub(crate) fin_seq: u32,
    pub(crate) last_frame: u32,
    /// Bytes of payload sent after the other side's FIN had passed.
    pub(crate) after_fin: u32,
    pub(crate) packets: u32,
    /// The window field of its last packet other than a SYN, unscaled.
    pub(crate) window: u16,
    /// The greatest window it has offered, in the same units.
    pub(crate) greatest_window: u16,
    /// Its data segments that repeated something.
    pub(crate) repeats: u16,
    pub(crate) id: u16,
    id_steps: u8,
    id_jumps: u8,
    /// The last TTL and the one before it; two in captures that hold each packet twice.
    pub(crate) ttl: [u8; 2],
    pub(crate) syns: u8,
    pub(crate) scale: u8,
    /// How often it acknowledged something new, and its quickest answer, in microseconds.
    pub(crate) replies: u8,
    pub(crate) quickest: u32,
    marks: u16,
    pub(crate) app: App,
}

const SEEN: u16 = 1;
const SYN: u16 = 2;
const FIN: u16 = 4;
const TIMESTAMPS: u16 = 8;
const GAP: u16 = 16;
const ACKED: u16 = 32;
const WINDOW: u16 = 64;
const IPV4: u16 = 128;

impl Side {
    pub(crate) fn seen(&self) -> bool {
        self.marks & SEEN != 0
    }
    pub(crate) fn syn(&self) -> bool {
        self.marks & SYN != 0
    }
    pub(crate) fn fin(&self) -> bool {
        self.marks & FIN != 0
    }
    pub(crate) fn timestamps(&self) -> bool {
        self.marks & TIMESTAMPS != 0
    }
    /// The capture missed some of its bytes, or they came out of order.
    pub(crate) fn gap(&self) -> bool {
        self.marks & GAP != 0
    }
    /// It has sent an acknowledgement.
    pub(crate) fn acked(&self) -> bool {
        self.marks & ACKED != 0
    }
    /// Its last window is known.
    pub(crate) fn has_window(&self) -> bool {
        self.marks & WINDOW != 0
    }
    /// Whether its IP identifications count up, so that a stranger's would stand out.
    pub(crate) fn counts_ids(&self) -> bool {
        self.marks & IPV4 != 0 && self.id_steps >= 3 && self.id_jumps <= self.id_steps / 8
    }

    /// The bytes of payload between two sequence numbers of this side, FIN and SYN not counted.
    pub(crate) fn payload_after(&self, seq: u32) -> u32 {
        let mut bytes = self.next.wrapping_sub(seq);
        if bytes > 1 << 31 {
            return 0;
        }
        if self.fin() && self.fin_seq.wrapping_sub(seq) < 1 << 31 {
            bytes = bytes.saturating_sub(1);
        }
        if self.syn() && seq == self.isn {
            bytes = bytes.saturating_sub(1);
        }
        bytes
    }
}

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

/// A reset, with the flow as it was when it came.
#[derive(Clone, Debug)]
pub(crate) struct Reset {
    pub(crate) flow: Flow,
    pub(crate) by: Dir,
    pub(crate) at: At,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: Flags,
    pub(crate) window: Option<u16>,
    pub(crate) timestamps: bool,
    pub(crate) ttl: u8,
    pub(crate) id: Option<u16>,
    pub(crate) payload: Vec<u8>,
    pub(crate) after: After,
}

/// What followed a reset on the same connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct After {
    /// Further resets by the same side, and by the other.
    pub(crate) resets: [u32; 2],
    /// A packet that the side which had reset would not have sent: its frame, and what it proves.
    pub(crate) genuine: Option<(u64, Genuine)>,
    /// Packets of each side that were no resets.
    pub(crate) packets: [u32; 2],
    pub(crate) records: Vec<Record>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Genuine {
    /// It acknowledged bytes that had not arrived when the reset was sent.
    NewAck,
    /// It sent bytes beyond the reset's sequence number.
    NewData,
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
        let mut record = Record::new(segment, dir, at, self);
        if self.may_repeat(segment, dir)
            && self.records().rev().take(3).any(|earlier| earlier.same_packet(&record))
        {
            self.duplicates = self.duplicates.saturating_add(1);
            if !segment.flags.has(Flags::RST) {
                self.note_ttl(dir, segment.ttl);
            }
            return Step::Nothing;
        }
        if segment.flags.has(Flags::RST) {
            return self.observe_reset(segment, dir, at, record);
        }
        let closed = self.sides[0].fin() && self.sides[1].fin();
        let repeated = self.update(segment, dir, at);
        if repeated {
            record.bits |= REPEATED;
        }
        self.push(record);
        if self.reset.is_some() {
            self.after_reset(segment, dir, at, record);
        }
        if !closed && self.sides[0].fin() && self.sides[1].fin() { Step::Closed } else { Step::Nothing }
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

    fn note_ttl(&mut self, dir: Dir, ttl: u8) {
        let side = &mut self.sides[dir];
        if side.ttl[0] != ttl {
            side.ttl = [ttl, side.ttl[0]];
        }
    }

    /// Brings one side up to date; answers whether the segment repeated something.
    fn update(&mut self, segment: &Segment<'_>, dir: Dir, at: At) -> bool {
        self.note_ttl(dir, segment.ttl);
        let micros = (at.time.saturating_sub(self.first_time) / 1_000).min(u64::from(u32::MAX)) as u32;
        let frame = at.frame.saturating_sub(self.first_frame).min(u64::from(u32::MAX)) as u32;
        let [side, other] = match self.sides.get_disjoint_mut([dir, 1 - dir]) {
            Ok(sides) => sides,
            Err(_) => return false,
        };
        let end = segment.end();
        let flags = segment.flags;
        if flags.has(Flags::SYN) {
            let options = segment.parse_options();
            side.syns = side.syns.saturating_add(1);
            side.scale = options.window_scale.unwrap_or(0);
            if options.timestamps.is_some() {
                side.marks |= TIMESTAMPS;
            }
            // Windows of SYNs are never scaled (RFC 7323 section 2.2). Without the option the scale may be cut off.
            if options.window_scale.is_some() {
                side.greatest_window = segment.window.unwrap_or(0) >> side.scale;
            }
            if !side.syn() {
                side.isn = segment.seq;
                if !side.seen() {
                    side.next = segment.seq;
                }
                side.marks |= SYN | SEEN;
                if flags.has(Flags::ACK) {
                    self.opener = Some(1 - dir as u8);
                    self.syn_ack_after = micros;
                    self.syn_ack_frame = frame;
                } else {
                    self.opener = Some(dir as u8);
                    self.syn_frame = frame;
                }
            } else if flags.has(Flags::ACK) && self.ack_after != 0 {
                self.syn_ack_repeats = self.syn_ack_repeats.saturating_add(1);
            }
        } else {
            if !side.seen() {
                side.isn = segment.seq.wrapping_sub(1);
                side.next = segment.seq;
                side.marks |= SEEN;
            }
            if side.marks & TIMESTAMPS == 0 && segment.parse_options().timestamps.is_some() {
                side.marks |= TIMESTAMPS;
            }
            if let Some(window) = segment.window {
                side.window = window;
                side.greatest_window = side.greatest_window.max(window);
                side.marks |= WINDOW;
            }
            if self.ack_after == 0 && self.opener == Some(dir as u8) && self.syn_ack_after != 0 {
                self.ack_after = micros.max(1);
            }
        }
        if let Some(id) = segment.ip_id {
            // Per-connection counters step by one a packet, or by one a segment the card made.
            if side.marks & IPV4 != 0 {
                let step = id.wrapping_sub(side.id);
                if (1..=64).contains(&step) {
                    side.id_steps = side.id_steps.saturating_add(1);
                } else {
                    side.id_jumps = side.id_jumps.saturating_add(1);
                }
            }
            side.id = id;
            side.marks |= IPV4;
        }
        let ahead = end.wrapping_sub(side.next);
        let advances = ahead != 0 && ahead < 1 << 31;
        let mut repeated = false;
        if segment.payload_len > 0 || flags.has(Flags::FIN) {
            if segment.seq == side.next {
                if segment.payload_len > 0 {
                    side.app.in_order(segment, &other.app);
                }
            } else if segment.seq.wrapping_sub(side.next) < 1 << 31 || advances {
                side.marks |= GAP;
                side.app.gap();
            } else {
                repeated = true;
            }
        }
        if advances {
            let new = ahead.min(segment.payload_len);
            side.payload += u64::from(new);
            if other.fin() {
                side.after_fin = side.after_fin.saturating_add(new);
            }
            side.next = end;
        }
        // RFC 1122 section 4.2.3.6: one less than the next, with no byte or one.
        let probe = segment.payload_len <= 1
            && segment.seq == side.next.wrapping_sub(1)
            && !flags.any(Flags::SYN | Flags::FIN)
            && side.packets > 0;
        let run_kind = if probe && other.has_window() && other.window == 0 {
            RunKind::WindowProbes
        } else if probe {
            RunKind::Keepalive
        } else if repeated {
            RunKind::Retransmissions
        } else {
            RunKind::None
        };
        match run_kind {
            RunKind::None => {}
            kind if side.run.kind == kind => {
                let pause =
                    (at.time.saturating_sub(side.run.last) / 1_000_000).min(u64::from(u32::MAX)) as u32;
                side.run.pauses = (side.run.pauses.0.min(pause), side.run.pauses.1.max(pause));
                side.run.count = side.run.count.saturating_add(1);
                side.run.last = at.time;
            }
            kind => {
                side.run = Run { kind, count: 1, first: at.time, last: at.time, pauses: (u32::MAX, 0) };
            }
        }
        if repeated && !probe {
            side.repeats = side.repeats.saturating_add(1);
        }
        if flags.has(Flags::FIN) && !side.fin() {
            side.marks |= FIN;
            side.fin_seq = end.wrapping_sub(1);
            side.fin_frame = frame;
            side.fin_time = at.time;
        }
        if flags.has(Flags::ACK) {
            let newer = segment.ack.wrapping_sub(side.ack);
            if (!side.acked() || newer != 0 && newer < 1 << 31) && other.seen() {
                let answer =
                    (at.time.saturating_sub(other.last_time) / 1_000).min(u64::from(u32::MAX)) as u32;
                side.quickest = if side.replies == 0 { answer } else { side.quickest.min(answer) };
                side.replies = side.replies.saturating_add(1);
            }
            if !side.acked() || newer < 1 << 31 {
                side.ack = segment.ack;
                side.marks |= ACKED;
            }
        }
        side.packets = side.packets.saturating_add(1);
        side.last_time = at.time;
        side.last_frame = frame;
        other.run = Run::default();
        repeated || probe
    }

    fn observe_reset(&mut self, segment: &Segment<'_>, dir: Dir, at: At, record: Record) -> Step {
        if let Some(reset) = &mut self.reset {
            let count = &mut reset.after.resets[usize::from(dir != reset.by)];
            *count = count.saturating_add(1);
            if reset.after.records.len() < KEPT_AFTER {
                reset.after.records.push(record);
            }
            self.push(record);
            return Step::Nothing;
        }
        let flow = self.clone();
        self.push(record);
        self.reset = Some(Box::new(Reset {
            flow,
            by: dir,
            at,
            seq: segment.seq,
            ack: segment.ack,
            flags: segment.flags,
            window: segment.window,
            timestamps: segment.parse_options().timestamps.is_some(),
            ttl: segment.ttl,
            id: segment.ip_id,
            payload: segment.payload[..segment.payload.len().min(96)].to_vec(),
            after: After::default(),
        }));
        Step::Reset
    }

    fn after_reset(&mut self, segment: &Segment<'_>, dir: Dir, at: At, record: Record) {
        let Some(reset) = &mut self.reset else { return };
        let from_sender = dir == reset.by;
        let count = &mut reset.after.packets[usize::from(!from_sender)];
        *count = count.saturating_add(1);
        if reset.after.records.len() < KEPT_AFTER {
            reset.after.records.push(record);
        }
        if !from_sender || reset.after.genuine.is_some() || segment.flags.has(Flags::SYN) {
            return;
        }
        let peer = &reset.flow.sides[1 - dir];
        let beyond = |number: u32, limit: u32| {
            let ahead = number.wrapping_sub(limit);
            ahead != 0 && ahead < PLAUSIBLE
        };
        // What was on the way when the reset was sent may arrive after it, new to this capture. A packet that
        // acknowledges what the reset's sender had not got, or goes beyond its last byte, was sent later.
        let active = reset.flags.has(Flags::ACK);
        let had = if active { reset.ack } else { peer.next };
        if segment.flags.has(Flags::ACK) && peer.seen() && beyond(segment.ack, had) {
            reset.after.genuine = Some((at.frame, Genuine::NewAck));
        } else if active && segment.payload_len > 0 && beyond(segment.end(), reset.seq) && reset.seq != 0 {
            reset.after.genuine = Some((at.frame, Genuine::NewData));
        }
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

    #[test]
    fn ends_survive_the_key() {
        for text in ["10.1.2.3:80", "[fd00::1]:443", "[::1]:1"] {
            let end: SocketAddr = text.parse().unwrap();
            let key = Key { addresses: [words(end.ip()), [0, 0]], ports: [end.port(), 0], interface: 0 };
            assert_eq!(key.end(0), end);
        }
    }
}
