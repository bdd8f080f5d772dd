//! What one side of a connection has sent, brought up to date packet by packet.

use linger_packet::{Flags, Segment};

use crate::app::App;
use crate::record::At;

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

    /// The bytes of payload that this side has sent from a sequence number on, FIN and SYN not counted.
    ///
    /// Never more than were seen: a number that is far behind belongs to an older connection on the same ports,
    /// or to bytes that passed before the capture began.
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
        bytes.min(u32::try_from(self.payload).unwrap_or(u32::MAX))
    }

    /// Takes the side's next packet, the `frame`th after the flow's first; `other` is the opposite side.
    ///
    /// Answers whether it repeats something or probes.
    pub(crate) fn take(&mut self, segment: &Segment<'_>, other: &mut Self, at: At, frame: u32) -> bool {
        let flags = segment.flags;
        self.note_ttl(segment.ttl);
        if flags.has(Flags::SYN) {
            self.take_syn(segment);
        } else {
            self.take_window(segment);
        }
        if let Some(id) = segment.ip_id {
            self.take_id(id);
        }
        let (repeated, probe) = self.take_sequence(segment, other);
        self.take_run(repeated, probe, other, at.time);
        if flags.has(Flags::FIN) && !self.fin() {
            self.marks |= FIN;
            self.fin_seq = segment.end().wrapping_sub(1);
            self.fin_frame = frame;
            self.fin_time = at.time;
        }
        if flags.has(Flags::ACK) {
            self.take_ack(segment.ack, other, at.time);
        }
        self.packets = self.packets.saturating_add(1);
        self.last_time = at.time;
        self.last_frame = frame;
        if other.run.kind != RunKind::None {
            other.run = Run::default();
        }
        repeated || probe
    }

    pub(crate) fn note_ttl(&mut self, ttl: u8) {
        if self.ttl[0] != ttl {
            self.ttl = [ttl, self.ttl[0]];
        }
    }

    #[cold]
    fn take_syn(&mut self, segment: &Segment<'_>) {
        let options = segment.parse_options();
        self.syns = self.syns.saturating_add(1);
        self.scale = options.window_scale.unwrap_or(0);
        if options.timestamps.is_some() {
            self.marks |= TIMESTAMPS;
        }
        // Windows of SYNs are never scaled (RFC 7323 section 2.2). Without the option the scale may be cut off.
        if options.window_scale.is_some() {
            self.greatest_window = segment.window.unwrap_or(0) >> self.scale;
        }
        if !self.syn() {
            self.isn = segment.seq;
            if !self.seen() {
                self.next = segment.seq;
            }
            self.marks |= SYN | SEEN;
        }
    }

    #[inline]
    fn take_window(&mut self, segment: &Segment<'_>) {
        if !self.seen() {
            self.isn = segment.seq.wrapping_sub(1);
            self.next = segment.seq;
            self.marks |= SEEN;
        }
        if !self.timestamps() && segment.parse_options().timestamps.is_some() {
            self.marks |= TIMESTAMPS;
        }
        if let Some(window) = segment.window {
            self.window = window;
            self.greatest_window = self.greatest_window.max(window);
            self.marks |= WINDOW;
        }
    }

    /// Per-connection counters step by one a packet, or by one a segment the card made.
    #[inline]
    fn take_id(&mut self, id: u16) {
        if self.marks & IPV4 != 0 {
            let step = id.wrapping_sub(self.id);
            if (1..=64).contains(&step) {
                self.id_steps = self.id_steps.saturating_add(1);
            } else {
                self.id_jumps = self.id_jumps.saturating_add(1);
            }
        }
        self.id = id;
        self.marks |= IPV4;
    }

    /// Payload and sequence numbers: whether the segment repeats something, and whether it probes.
    #[inline]
    fn take_sequence(&mut self, segment: &Segment<'_>, other: &Self) -> (bool, bool) {
        let flags = segment.flags;
        let end = segment.end();
        let ahead = end.wrapping_sub(self.next);
        let advances = ahead != 0 && ahead < 1 << 31;
        let mut repeated = false;
        if segment.payload_len > 0 || flags.has(Flags::FIN) {
            if segment.seq == self.next {
                if segment.payload_len > 0 {
                    self.app.in_order(segment, &other.app);
                }
            } else if segment.seq.wrapping_sub(self.next) < 1 << 31 || advances {
                self.marks |= GAP;
                self.app.gap();
            } else {
                repeated = true;
            }
        }
        if advances {
            let new = ahead.min(segment.payload_len);
            self.payload += u64::from(new);
            if other.fin() {
                self.after_fin = self.after_fin.saturating_add(new);
            }
            self.next = end;
        }
        // RFC 1122 section 4.2.3.6: one less than the next, with no byte or one.
        let probe = segment.payload_len <= 1
            && segment.seq == self.next.wrapping_sub(1)
            && !flags.any(Flags::SYN | Flags::FIN)
            && self.packets > 0;
        (repeated, probe)
    }

    #[inline]
    fn take_run(&mut self, repeated: bool, probe: bool, other: &Self, time: u64) {
        let kind = if probe && other.has_window() && other.window == 0 {
            RunKind::WindowProbes
        } else if probe {
            RunKind::Keepalive
        } else if repeated {
            self.repeats = self.repeats.saturating_add(1);
            RunKind::Retransmissions
        } else {
            return;
        };
        if self.run.kind == kind {
            let pause = (time.saturating_sub(self.run.last) / 1_000_000).min(u64::from(u32::MAX)) as u32;
            self.run.pauses = (self.run.pauses.0.min(pause), self.run.pauses.1.max(pause));
            self.run.count = self.run.count.saturating_add(1);
            self.run.last = time;
        } else {
            self.run = Run { kind, count: 1, first: time, last: time, pauses: (u32::MAX, 0) };
        }
    }

    #[inline]
    fn take_ack(&mut self, ack: u32, other: &Self, time: u64) {
        let newer = ack.wrapping_sub(self.ack);
        if (!self.acked() || newer != 0 && newer < 1 << 31) && other.seen() {
            let answer = (time.saturating_sub(other.last_time) / 1_000).min(u64::from(u32::MAX)) as u32;
            self.quickest = if self.replies == 0 { answer } else { self.quickest.min(answer) };
            self.replies = self.replies.saturating_add(1);
        }
        if !self.acked() || newer < 1 << 31 {
            self.ack = ack;
            self.marks |= ACKED;
        }
    }
}
