//! What one side of a connection has sent, updated with each packet.

use linger_packet::{Flags, Segment};

use crate::app::App;
use crate::record::{At, Since};
use crate::sacked::Sacked;

/// Consecutive probes or retransmissions that the other side has not answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) kind: RunKind,
    pub(crate) count: u16,
    /// When the last one was sent, and milliseconds from the first to it.
    pub(crate) last: u64,
    pub(crate) span_ms: u32,
    /// The shortest and the longest pause between two of them, in milliseconds.
    pub(crate) pauses_ms: (u32, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunKind {
    Retransmissions,
    Keepalive,
    WindowProbes,
}

/// Where a side's sequence numbers begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Start {
    /// No packet of the side was seen.
    #[default]
    Unseen,
    /// The side's SYN was not seen. Holds one less than the first sequence number that was seen.
    Middle(u32),
    /// The initial sequence number of its SYN.
    Syn(u32),
}

/// Whether a side has sent its FIN.
#[derive(Clone, Copy, Debug, Default)]
enum End {
    #[default]
    Open,
    /// The fields of [`Fin`]; the enum's tag takes the place of what would be padding there.
    Closed { seq: u32, frame: u32, late: u32, since: Since, defied: bool },
}

/// A side's first FIN, and what the other side sent after it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fin {
    /// The FIN's own number, after the last byte of payload.
    pub(crate) seq: u32,
    /// Frames after the connection's first one.
    pub(crate) frame: u32,
    pub(crate) since: Since,
    /// Bytes of the other side's payload that the FIN does not acknowledge, each counted once. Bytes that were captured before
    /// the FIN count too: they had not arrived when the FIN was sent.
    pub(crate) late: u32,
    /// Whether some of them were sent by a side that had acknowledged the FIN. Otherwise all of them crossed the FIN.
    pub(crate) defied: bool,
}

/// The IP identifications of a side. IPv6 has none.
#[derive(Clone, Copy, Debug, Default)]
struct Ids {
    last: u16,
    /// How often the next one was greater by 1 to 64, and how often it was not.
    steps: u8,
    jumps: u8,
}

/// What a side's packets show, a bit each: a flow has no room for more.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks(u8);

impl Marks {
    /// Its packets carry timestamps.
    pub(crate) const TIMESTAMPS: u8 = 1;
    /// Its SYN has the options of Linux, in their order.
    pub(crate) const LINUX: u8 = 2;
    /// Its SYN has a right checksum.
    pub(crate) const RIGHT_CHECKSUM: u8 = 4;
    /// Some of its bytes are not in the capture, or out of order.
    const GAP: u8 = 8;
    /// A packet other than a SYN has offered a window.
    const WINDOW: u8 = 16;
    /// It has sent an IP identification.
    const ID: u8 = 32;
    /// While its SYN went unanswered, the listener answered others.
    pub(crate) const OTHERS_SERVED: u8 = 64;
    /// A packet of it was captured twice.
    pub(crate) const TWICE: u8 = 128;

    pub(crate) fn note(&mut self, mark: u8, is_shown: bool) {
        self.0 |= if is_shown { mark } else { 0 };
    }

    pub(crate) fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }
}

/// The highest acknowledgement that a side has sent, and what it has acknowledged beyond that.
#[derive(Clone, Copy, Debug)]
struct Acked {
    number: u32,
    sacked: Sacked,
}

/// What one side has sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Side {
    pub(crate) start: Start,
    /// The sequence number after the last byte it has sent.
    pub(crate) next: u32,
    acked: Option<Acked>,
    /// The bytes of payload it has sent, each counted once.
    pub(crate) payload: u64,
    pub(crate) last_time: u64,
    /// The latest packets, if they are unanswered probes or retransmissions.
    pub(crate) run: Option<Run>,
    end: End,
    pub(crate) last_frame: u32,
    /// The frame of its latest new payload, after the connection's first one.
    pub(crate) spoke_frame: u32,
    /// The window field of its last packet other than a SYN, unscaled; only if the marks say that there is one.
    window: u16,
    /// The greatest window it has offered, in the same units.
    pub(crate) greatest_window: u16,
    /// Retransmitted segments.
    pub(crate) repeats: u16,
    /// The longest segment that may have been acknowledged, and the longest that was sent since everything was acknowledged, in
    /// bytes.
    pub(crate) longest_taken: u16,
    longest_waiting: u16,
    ids: Ids,
    /// The last two different TTLs, the latest first. A capture that holds each packet twice, before and after a
    /// router, shows two TTLs for one side.
    pub(crate) ttl: [u8; 2],
    pub(crate) scale: u8,
    /// How often it acknowledged something new, and its quickest answer, in microseconds.
    pub(crate) replies: u8,
    pub(crate) quickest_us: u32,
    pub(crate) marks: Marks,
    pub(crate) app: App,
}

impl Side {
    /// Whether a packet of this side was seen.
    #[inline]
    pub(crate) fn seen(&self) -> bool {
        self.start != Start::Unseen
    }

    /// Whether the side's SYN was seen.
    #[inline]
    pub(crate) fn syn(&self) -> bool {
        matches!(self.start, Start::Syn(_))
    }

    /// The initial sequence number. If the SYN was not captured: one less than the first number seen; without any packet, 0.
    #[inline]
    pub(crate) fn isn(&self) -> u32 {
        match self.start {
            Start::Unseen => 0,
            Start::Middle(number) | Start::Syn(number) => number,
        }
    }

    /// The highest acknowledgement it has sent.
    #[inline]
    pub(crate) fn ack(&self) -> Option<u32> {
        self.acked.map(|acked| acked.number)
    }

    /// The window field of its last packet other than a SYN, unscaled.
    pub(crate) fn window(&self) -> Option<u16> {
        self.marks.has(Marks::WINDOW).then_some(self.window)
    }

    /// Some of its bytes are not in the capture, or out of order.
    pub(crate) fn has_gap(&self) -> bool {
        self.marks.has(Marks::GAP)
    }

    /// What it has acknowledged beyond [`Self::ack`].
    pub(crate) fn sacked(&self) -> Sacked {
        self.acked.map_or_else(Sacked::default, |acked| acked.sacked)
    }

    #[inline]
    pub(crate) fn has_fin(&self) -> bool {
        matches!(self.end, End::Closed { .. })
    }

    /// The side's FIN, if it has sent one.
    pub(crate) fn fin(&self) -> Option<Fin> {
        match self.end {
            End::Open => None,
            End::Closed { seq, frame, late, since, defied } => Some(Fin { seq, frame, since, late, defied }),
        }
    }

    /// Bytes of the other side that this side's FIN does not acknowledge ([`Fin::late`]); 0 without a FIN.
    pub(crate) fn late(&self) -> u32 {
        self.fin().map_or(0, |fin| fin.late)
    }

    /// The side's last IP identification, if the side counts them up: a packet of another sender would then have a number
    /// out of order.
    pub(crate) fn counted_id(&self) -> Option<u16> {
        let Ids { last, steps, jumps } = self.ids;
        (steps >= 3 && jumps <= steps / 8).then_some(last)
    }

    /// The bytes of payload that this side has sent from a sequence number on, FIN and SYN not counted.
    ///
    /// Returns at most the bytes that were seen: a sequence number that is far behind belongs to an older connection on the
    /// same ports, or to bytes that passed before the capture began.
    pub(crate) fn payload_after(&self, seq: u32) -> u32 {
        self.payload_beyond(seq, Sacked::default())
    }

    /// What [`Self::payload_after`] returns, less the bytes that were acknowledged selectively: at least so many were not
    /// acknowledged.
    pub(crate) fn payload_beyond(&self, seq: u32, sacked: Sacked) -> u32 {
        let mut bytes = self.next.wrapping_sub(seq);
        if bytes > 1 << 31 {
            return 0;
        }
        if let End::Closed { seq: fin, .. } = self.end
            && fin.wrapping_sub(seq) < 1 << 31
        {
            bytes = bytes.saturating_sub(1);
        }
        if self.start == Start::Syn(seq) {
            bytes = bytes.saturating_sub(1);
        }
        bytes.saturating_sub(sacked.bytes).min(u32::try_from(self.payload).unwrap_or(u32::MAX))
    }

    /// Takes the side's next packet, `frame` frames after the connection's first. `other` is the opposite side.
    ///
    /// Returns whether the packet is a retransmission or a probe.
    pub(crate) fn take(
        &mut self,
        segment: &Segment<'_>,
        other: &mut Self,
        at: At,
        frame: u32,
        since: Since,
    ) -> bool {
        let flags = segment.flags;
        let first = !self.seen();
        self.note_ttl(segment.ttl);
        if flags.has(Flags::SYN) {
            self.take_syn(segment);
        } else {
            self.take_window(segment);
        }
        if let Some(id) = segment.ip_id {
            self.take_id(id);
        }
        let (advances, repeated) = self.take_sequence(segment, other);
        if !repeated && segment.payload_len > 0 {
            self.spoke_frame = frame;
        }
        // A probe's sequence number is one less than the next, and it carries no byte or one (RFC 1122 section
        // 4.2.3.6).
        let probe = !advances
            && segment.payload_len <= 1
            && segment.seq == self.next.wrapping_sub(1)
            && !flags.any(Flags::SYN | Flags::FIN)
            && !first;
        if repeated || probe {
            self.take_run(probe, other, at.time_ns);
        }
        if flags.has(Flags::FIN) && !self.has_fin() {
            let late =
                if flags.has(Flags::ACK) && other.seen() { other.payload_after(segment.ack) } else { 0 };
            let seq = segment.end().wrapping_sub(1);
            self.end = End::Closed { seq, frame, late, since, defied: false };
        }
        if flags.has(Flags::ACK) {
            self.take_ack(segment.ack, other, at.time_ns);
            if segment.sack_blocks().next().is_some()
                && let Some(acked) = self.acked.as_mut().filter(|acked| acked.number == segment.ack)
            {
                acked.sacked.take(segment);
            }
        }
        self.last_time = at.time_ns;
        self.last_frame = frame;
        other.run = None;
        debug_assert!(self.seen());
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
        self.scale = options.window_scale.unwrap_or(0);
        self.marks.note(Marks::TIMESTAMPS, options.timestamps.is_some());
        self.marks.note(Marks::LINUX, is_of_linux(segment.options));
        // The window of a SYN is never scaled (RFC 7323 section 2.2); the shift brings it to the unit of later windows.
        // Without a window scale option it is not counted: the snap length may have cut the option off.
        if options.window_scale.is_some() {
            self.greatest_window = segment.window.unwrap_or(0) >> self.scale;
        }
        match self.start {
            Start::Unseen => {
                self.next = segment.seq;
                self.start = Start::Syn(segment.seq);
            }
            Start::Middle(_) => self.start = Start::Syn(segment.seq),
            Start::Syn(_) => {}
        }
    }

    #[inline]
    fn take_window(&mut self, segment: &Segment<'_>) {
        if !self.seen() {
            self.start = Start::Middle(segment.seq.wrapping_sub(1));
            self.next = segment.seq;
        }
        if !self.marks.has(Marks::TIMESTAMPS) {
            self.marks.note(Marks::TIMESTAMPS, segment.parse_options().timestamps.is_some());
        }
        if let Some(window) = segment.window {
            self.marks.note(Marks::WINDOW, true);
            self.window = window;
            self.greatest_window = self.greatest_window.max(window);
        }
    }

    /// A per-connection counter grows by one for each packet, or for each segment that the network card made of it.
    #[inline]
    fn take_id(&mut self, id: u16) {
        if self.marks.has(Marks::ID) {
            let little = (1..=64).contains(&id.wrapping_sub(self.ids.last));
            self.ids.steps = self.ids.steps.saturating_add(u8::from(little));
            self.ids.jumps = self.ids.jumps.saturating_add(u8::from(!little));
        }
        self.marks.note(Marks::ID, true);
        self.ids.last = id;
    }

    /// Payload and sequence numbers. Returns whether the segment has new bytes, and whether it is a retransmission.
    #[inline]
    fn take_sequence(&mut self, segment: &Segment<'_>, other: &mut Self) -> (bool, bool) {
        // Some stacks send a second FIN, one number on.
        let counted = segment.flags.has(Flags::FIN) && self.has_fin();
        let end = segment.end().wrapping_sub(u32::from(counted));
        let ahead = end.wrapping_sub(self.next);
        let advances = ahead != 0 && ahead < 1 << 31;
        let (mut repeated, mut fills) = (false, false);
        if segment.payload_len > 0 || segment.flags.has(Flags::FIN) {
            if segment.seq == self.next {
                if segment.payload_len > 0 {
                    self.app.in_order(segment, &other.app);
                }
            } else if segment.seq.wrapping_sub(self.next) >= 1 << 31 && self.awaits(segment) {
                self.app.in_order(segment, &other.app);
                fills = true;
            } else if segment.seq.wrapping_sub(self.next) < 1 << 31 || advances {
                self.marks.note(Marks::GAP, true);
                self.app.after_gap(segment);
            } else {
                repeated = true;
            }
        }
        if advances || fills {
            let new = if fills { segment.payload_len } else { ahead.min(segment.payload_len) };
            self.speak(segment, end, new, other);
        }
        if advances {
            self.next = end;
            debug_assert!(u64::from(other.late()) <= self.payload, "what came late was sent");
        }
        (advances, repeated)
    }

    /// Whether a segment behind `next` brings the next bytes of the stream all the same. A segment without payload had moved
    /// `next` past bytes that the capture lacked, and now they are sent again.
    #[cold]
    fn awaits(&self, segment: &Segment<'_>) -> bool {
        let none = self.payload == 0 && self.start == Start::Syn(segment.seq.wrapping_sub(1));
        segment.payload_len > 0 && (none || self.app.ends_at(segment.seq))
    }

    /// Counts `new` bytes of payload, which end with the segment, at `end`.
    #[inline]
    fn speak(&mut self, segment: &Segment<'_>, end: u32, new: u32, other: &mut Self) {
        self.payload += u64::from(new);
        let acknowledged = other.ack();
        if let End::Closed { late, seq, defied, .. } = &mut other.end {
            // A capture may show an acknowledgement before the bytes: those had arrived.
            let end = end.wrapping_sub(u32::from(segment.flags.has(Flags::FIN)));
            let beyond = acknowledged.map_or(new, |ack| end.wrapping_sub(ack));
            let more = if beyond < 1 << 31 { new.min(beyond) } else { 0 };
            *late = late.saturating_add(more);
            let knows =
                segment.flags.has(Flags::ACK) && segment.ack.wrapping_sub(*seq).wrapping_sub(1) < 1 << 31;
            *defied |= more > 0 && knows;
        }
        let bytes = segment.payload_len.min(u32::from(u16::MAX)) as u16;
        self.longest_waiting = self.longest_waiting.max(bytes);
    }

    /// Counts a retransmission or a probe: one more of this run, or the first of another.
    fn take_run(&mut self, probe: bool, other: &Self, time: u64) {
        let kind = if !probe {
            self.repeats = self.repeats.saturating_add(1);
            RunKind::Retransmissions
        } else if other.window() == Some(0) {
            RunKind::WindowProbes
        } else {
            RunKind::Keepalive
        };
        match &mut self.run {
            Some(run) if run.kind == kind => {
                let pause = (time.saturating_sub(run.last) / 1_000_000).min(u64::from(u32::MAX)) as u32;
                run.pauses_ms = (run.pauses_ms.0.min(pause), run.pauses_ms.1.max(pause));
                run.count = run.count.saturating_add(1);
                run.span_ms = run.span_ms.saturating_add(pause);
                run.last = time;
                debug_assert!(run.count >= 2 && run.pauses_ms.0 <= run.pauses_ms.1);
            }
            run => *run = Some(Run { kind, count: 1, last: time, span_ms: 0, pauses_ms: (u32::MAX, 0) }),
        }
    }

    #[inline]
    fn take_ack(&mut self, ack: u32, other: &mut Self, time: u64) {
        let newer = self.ack().map_or(1, |known| ack.wrapping_sub(known));
        if newer >= 1 << 31 {
            return;
        }
        if newer != 0 && other.seen() {
            let answer = (time.saturating_sub(other.last_time) / 1_000).min(u64::from(u32::MAX)) as u32;
            self.quickest_us = if self.replies == 0 { answer } else { self.quickest_us.min(answer) };
            self.replies = self.replies.saturating_add(1);
            other.longest_taken = other.longest_taken.max(other.longest_waiting);
            if ack == other.next {
                other.longest_waiting = 0;
            }
        }
        if newer != 0 {
            self.acked = Some(Acked { number: ack, sacked: Sacked::default() });
        }
    }
}

/// Whether the options of a SYN are those of Linux, in its order (`tcp_options_write`): the segment size, then selective
/// acknowledgements with timestamps in one block, then the window scale. Others have the scale before, or put fillers between.
fn is_of_linux(options: &[u8]) -> bool {
    matches!(
        options,
        [2, 4, _, _, 4, 2, 8, 10, _, _, _, _, _, _, _, _]
            | [2, 4, _, _, 4, 2, 8, 10, _, _, _, _, _, _, _, _, 1, 3, 3, ..]
            | [2, 4, _, _, 1, 1, 4, 2]
            | [2, 4, _, _, 1, 1, 4, 2, 1, 3, 3, ..]
    )
}
