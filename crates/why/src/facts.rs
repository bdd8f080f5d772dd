//! What a reset and its connection show. Each method answers one question; `cause` judges. A "bare" reset has no ACK flag.

mod answers;
mod exchange;
mod ladder;
mod sender;
mod streams;

use linger_packet::Flags;

use crate::claim::{Asked, Party};
use crate::connection::ObservedConnection;
use crate::key::Dir;
use crate::opening::Opening;
use crate::record::Record;
use crate::recorded_reset::{Genuine, RecordedReset};
use crate::side::{Marks, Side};
use crate::streams::Http2Streams;

pub(crate) use answers::Unasked;

/// A reset with the two sides of its connection: the sender of the reset and its receiver.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) reset: &'a RecordedReset,
    pub(crate) sender: &'a Side,
    pub(crate) receiver: &'a Side,
    /// The packet that the reset answers, if it is among those kept.
    pub(crate) trigger: Option<Record>,
    /// The streams of HTTP/2, where they are followed.
    pub(crate) streams: Option<&'a Http2Streams>,
}

/// The TTLs that systems give to new packets.
const INITIAL_TTLS: [u8; 4] = [32, 64, 128, 255];

/// How many routers a packet has passed, if it began with the next higher initial TTL.
pub(crate) fn hops(ttl: u8) -> u8 {
    INITIAL_TTLS.iter().find(|&&initial| initial >= ttl).map_or(0, |initial| initial - ttl)
}

/// Bytes that never arrived: of the response at the client, of the request at the server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Losses {
    pub(crate) response: Option<u64>,
    pub(crate) request: Option<u64>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(reset: &'a RecordedReset) -> Self {
        let sender = &reset.connection.sides[reset.by];
        let receiver = &reset.connection.sides[1 - reset.by];
        let trigger = if reset.flags.has(Flags::ACK) { None } else { answers::trigger(reset, sender) };
        Self { reset, sender, receiver, trigger, streams: None }
    }

    /// The same with what is known of the streams.
    pub(crate) fn with_streams(self, streams: Option<&'a Http2Streams>) -> Self {
        Self { streams, ..self }
    }

    pub(crate) fn connection(&self) -> &'a ObservedConnection {
        &self.reset.connection
    }

    pub(crate) fn frame_at(&self, relative: u32) -> u64 {
        self.connection().first_frame + u64::from(relative)
    }

    pub(crate) fn frame_of(&self, record: &Record) -> u64 {
        self.frame_at(record.frame)
    }

    pub(crate) fn kind_of(&self, record: &Record) -> Asked {
        match (record.len, record.flags.has(Flags::FIN), record.flags.has(Flags::SYN)) {
            (_, _, true) => Asked::SynAck,
            (0, false, _) => Asked::Acknowledgement,
            (0, true, _) => Asked::Fin,
            (bytes, fin, _) => Asked::Data { bytes, fin },
        }
    }

    /// A side, as evidence names it.
    pub(crate) fn party(&self, dir: Dir) -> Party {
        Party { is_resetter: dir == self.reset.by, is_client: self.client().map(|client| client == dir) }
    }

    /// RST+ACK to a SYN, from a side that sent nothing before.
    pub(crate) fn answers_syn(&self) -> bool {
        let r = self.receiver;
        let expected = r.isn().wrapping_add(1);
        // In a capture of one direction the form is enough: no other reset has both ACK and sequence number 0.
        if !r.seen() && !self.sender.seen() && self.reset.flags.has(Flags::ACK) && self.reset.seq == 0 {
            return true;
        }
        !self.sender.seen()
            && r.syn()
            && r.ack().is_none()
            && self.reset.flags.has(Flags::ACK)
            && (self.reset.ack == expected || self.reset.ack == r.next)
    }

    /// A bare RST to a SYN-ACK, or to an acknowledgement out of place, from a client that never acknowledged.
    pub(crate) fn answers_syn_ack(&self) -> bool {
        let (s, r) = (self.sender, self.receiver);
        // Where the capture lacks the SYN-ACK, the server may seem never to have acknowledged.
        !self.reset.flags.has(Flags::ACK)
            && s.ack().is_none()
            && r.ack() == Some(self.reset.seq)
            && self.connection().opener() == Some(self.reset.by)
    }

    /// The server refuses the first packet after the handshake: it has sent its SYN-ACK and nothing else.
    pub(crate) fn refuses_after_handshake(&self) -> bool {
        let s = self.sender;
        !self.active()
            && self.handshake_seen()
            && self.sender_is_client() == Some(false)
            && self.reset.seq == s.isn().wrapping_add(1)
            && s.payload == 0
            && !s.has_fin()
            && !self.acknowledged_data()
    }

    /// The server refuses the first packet after the handshake, and no data of the client was seen.
    pub(crate) fn refuses_third_ack(&self) -> bool {
        self.refuses_after_handshake() && self.receiver.payload == 0
    }

    /// How many of the sender's SYN-ACKs were never answered, if it has sent nothing else.
    pub(crate) fn unanswered_syn_acks(&self) -> u16 {
        match self.connection().opening {
            Opening::Accepted { opener, .. } if usize::from(opener) != self.reset.by => {
                let own = self.connection().records().filter(|record| record.dir() == self.reset.by);
                own.filter(|record| record.flags.has(Flags::SYN | Flags::ACK)).count() as u16
            }
            _ => 0,
        }
    }

    /// The acknowledgement of an older connection with which a SYN was answered.
    pub(crate) fn stale_answer(&self) -> Option<Record> {
        if self.sender.syn() && !self.receiver.syn() { self.trigger } else { None }
    }

    /// RST+ACK in the form of an answer to a SYN, and the capture holds no packet of the other side.
    pub(crate) fn answers_unseen_syn(&self) -> bool {
        self.answers_syn() && !self.receiver.seen()
    }

    /// The reset stands at the number after the last byte that the capture holds of its sender.
    pub(crate) fn at_next(&self) -> bool {
        self.sender.seen() && self.reset.seq == self.sender.next
    }

    /// How far the reset's number is beyond what the capture holds of its sender, if the other side has acknowledged as much:
    /// bytes or a FIN are missing here. A number further ahead than a window belongs to another connection.
    pub(crate) fn beyond_capture(&self) -> Option<u32> {
        let ahead = self.reset.seq.wrapping_sub(self.sender.next);
        let acknowledged = self.receiver.ack().is_some_and(|ack| ack.wrapping_sub(self.reset.seq) < 1 << 31);
        (self.sender.seen() && ahead != 0 && ahead < 1 << 26 && acknowledged).then_some(ahead)
    }

    /// The reset's number is beyond what the other side has acknowledged. An answer has the number that the packet acknowledges.
    pub(crate) fn is_number_unacknowledged(&self) -> bool {
        let known = self.receiver.ack().unwrap_or(self.sender.next);
        let ahead = self.reset.seq.wrapping_sub(known);
        self.sender.seen() && ahead != 0 && ahead < 1 << 30
    }

    /// The first packet of the alleged sender that no side sends after its own reset: its frame, and why. After a bare reset that
    /// no packet asks for, a packet with new bytes is one.
    pub(crate) fn genuine(&self) -> Option<(u64, Genuine)> {
        let reset = self.reset;
        let new = |record: &&Record| {
            let ahead = record.seq.wrapping_add(record.len).wrapping_sub(reset.seq);
            record.dir() == reset.by && record.len > 0 && record.len >= ahead && ahead > 0
        };
        let sent = || reset.after.records.iter().find(new).filter(|_| self.bare_unasked().is_some());
        reset.after.genuine.or_else(|| sent().map(|record| (self.frame_of(record), Genuine::NewData)))
    }

    /// The frame of an RST+ACK of the same sender, at its next number, less than a second behind a bare reset. A connection that has
    /// gone sends none, so that one was sent first: two processors may swap packets.
    pub(crate) fn own_reset_behind(&self) -> Option<u64> {
        let reset = self.reset;
        let own = |record: &&Record| {
            let ahead = record.seq.wrapping_sub(reset.seq);
            let later =
                (self.connection().first_time + record.since_first()).saturating_sub(reset.at.time_ns);
            record.dir() == reset.by
                && record.flags.has(Flags::RST | Flags::ACK)
                && ahead < 1 << 26
                && later < 1_000_000_000
        };
        let found = reset.after.records.iter().find(own).filter(|_| !reset.flags.has(Flags::ACK));
        found.map(|record| self.frame_of(record))
    }

    /// RST+ACK that answers no SYN: the sender's own decision (`tcp_send_active_reset`).
    pub(crate) fn active(&self) -> bool {
        self.reset.flags.has(Flags::ACK) && !self.answers_syn()
    }

    /// An RST+ACK in the form in which Windows answers bytes that reach a closed socket: without window and timestamps, the
    /// sender's first packet after its own FIN, and it acknowledges those bytes. Linux answers them with a bare reset, and offers
    /// a window in an RST+ACK.
    pub(crate) fn answers_late_bytes(&self) -> bool {
        let first = self.sender.fin().is_some_and(|fin| fin.late > 0 && self.sender.last_frame == fin.frame);
        let form = self.active() && self.reset.window == Some(0) && !self.reset.timestamps;
        first && form && self.acknowledges_all()
    }

    pub(crate) fn handshake_seen(&self) -> bool {
        self.sender.syn() && self.receiver.syn()
    }

    /// The capture holds both directions from the handshake on.
    pub(crate) fn whole(&self) -> bool {
        self.handshake_seen()
    }

    /// The sender has acknowledged payload of the receiver.
    pub(crate) fn acknowledged_data(&self) -> bool {
        let (s, r) = (self.sender, self.receiver);
        let Some(ack) = s.ack().filter(|_| r.seen()) else { return false };
        let beyond = ack.wrapping_sub(r.isn().wrapping_add(1));
        beyond != 0 && beyond < 1 << 31
    }

    /// The sender has acknowledged bytes of the receiver that the capture does not hold.
    pub(crate) fn acknowledges_unseen(&self) -> bool {
        let beyond = |ack: u32| ack.wrapping_sub(self.receiver.next).wrapping_sub(1) < 1 << 26;
        self.receiver.seen()
            && (self.sender.ack().is_some_and(beyond) || self.active() && beyond(self.reset.ack))
    }

    /// The sender has acknowledged every byte of the receiver, at the latest with the reset.
    pub(crate) fn acknowledges_all(&self) -> bool {
        self.delivered(self.receiver, self.sender)
    }

    /// Whether the sender is the client. The handshake tells; if the capture lacks it, payload and ports do.
    pub(crate) fn sender_is_client(&self) -> Option<bool> {
        self.client().map(|client| client == self.reset.by)
    }

    /// The side that opened the connection, or that seems to have opened it.
    pub(crate) fn client(&self) -> Option<Dir> {
        self.connection().client()
    }

    /// The sender's usual TTL, if the reset has another.
    pub(crate) fn foreign_ttl(&self) -> Option<u8> {
        let s = self.sender;
        (s.seen() && !s.ttl.contains(&self.reset.ttl)).then_some(s.ttl[0])
    }

    /// The last side to send new payload, and whether the other side has acknowledged all of it.
    pub(crate) fn spoke_last(&self) -> Option<(Dir, bool)> {
        let [low, high] = &self.connection().sides;
        let dir = match (low.payload, high.payload) {
            (0, 0) => return None,
            (_, 0) => 0,
            (0, _) => 1,
            _ => usize::from(high.spoke_frame > low.spoke_frame),
        };
        let sides = &self.connection().sides;
        Some((dir, self.delivered(&sides[dir], &sides[1 - dir])))
    }

    /// The server was the last to send payload, and the client has acknowledged all of it.
    pub(crate) fn server_spoke_last(&self) -> bool {
        self.client().is_some_and(|client| self.spoke_last() == Some((1 - client, true)))
    }

    /// Nanoseconds between the sender's last packet and the reset.
    pub(crate) fn since_sender(&self) -> u64 {
        self.reset.at.time_ns.saturating_sub(self.sender.last_time)
    }

    /// Bytes of the sender beyond the number of a bare reset, which is the acknowledgement of the packet that it answers: they
    /// were in flight then.
    pub(crate) fn in_flight(&self) -> u32 {
        let s = self.sender;
        let inside = s.next.wrapping_sub(self.reset.seq) <= s.next.wrapping_sub(s.isn());
        if s.seen() && inside { s.payload_after(self.reset.seq) } else { 0 }
    }

    /// The packet, by its frame after the connection's first one, that shows that the other side's window had no room for another
    /// full segment, of 536 bytes at least (the default MSS, RFC 9293 section 3.7.1). Section 3.8.6.2.1 lets a sender wait below
    /// that.
    ///
    /// The window may open in the data that the reset answers, or behind it: a closed socket answers the data first (in
    /// `tcp_rcv_state_process`, and only then would it send what waits).
    pub(crate) fn window_full(&self) -> Option<u32> {
        let r = self.receiver;
        // Where the snap length cuts the field off, the records hold 0.
        let window = r.window()?;
        if r.ack().is_some_and(|ack| self.is_full(ack, window)) {
            return Some(r.last_frame);
        }
        let data = self.trigger.filter(|trigger| trigger.len > 0)?;
        let known = |record: &&Record| record.dir() != self.reset.by && record.ack == data.ack;
        let before = self.connection().records().rev().filter(|record| record.frame <= data.frame);
        before
            .filter(known)
            .take(2)
            .find(|record| self.is_full(record.ack, record.window))
            .map(|record| record.frame)
    }

    /// Whether a window that was offered with this acknowledgement, unscaled, had no room for another full segment.
    fn is_full(&self, ack: u32, window: u16) -> bool {
        let (s, r) = (self.sender, self.receiver);
        // Without a scale, the snap length may have cut the option off.
        let known = s.syn() && r.syn() && r.scale > 0;
        let window = u64::from(window) << if known { r.scale } else { 0 };
        let used = u64::from(s.next.wrapping_sub(ack));
        used <= u64::from(s.next.wrapping_sub(s.isn()))
            && window.saturating_sub(used) < 536
            && s.payload > 0
            && (known || window == 0)
    }

    /// How long no data was sent, new or again, before the reset, or before the packet that it answers, in nanoseconds. The
    /// bytes of probes count as silence. `None` if the packets show that data is missing in the capture.
    pub(crate) fn silence(&self) -> Option<u64> {
        let flow = self.connection();
        let (end, until) = match self.trigger {
            Some(trigger) => (flow.first_time + trigger.since_first(), trigger.frame),
            None => (self.reset.at.time_ns, u32::MAX),
        };
        let said = |record: &&Record| {
            (record.len > 1 || record.flags.any(Flags::SYN | Flags::FIN)) && record.frame < until
        };
        let last = flow.records().rev().find(said)?;
        let complete = self.answers_syn()
            || self.sender.seen() && self.receiver.seen() && !(self.active() && self.names_unseen());
        if !complete || flow.lacks_data(last, until) {
            return None;
        }
        end.checked_sub(flow.first_time + last.since_first())
    }

    /// The numbers of an active reset are beyond what the capture holds.
    fn names_unseen(&self) -> bool {
        let beyond = |number: u32, known: u32| number.wrapping_sub(known).wrapping_sub(1) < 1 << 30;
        beyond(self.reset.ack, self.receiver.next) || beyond(self.reset.seq, self.sender.next)
    }

    /// How long no data was sent before the sender's FIN, in nanoseconds.
    pub(crate) fn silence_before_fin(&self) -> Option<u64> {
        let fin = self.sender.fin()?;
        let before = |record: &&Record| record.frame < fin.frame && record.len > 1;
        let last = self.connection().records().rev().find(before)?;
        if !self.receiver.seen() || self.connection().lacks_data(last, fin.frame) {
            return None;
        }
        fin.since.nanoseconds().checked_sub(last.since_first())
    }

    /// The sender's last IP identification and that of the reset, if the sender counts them up and the reset's is out of order.
    ///
    /// Only for active resets: Linux gives answers the identification 0.
    pub(crate) fn foreign_id(&self) -> Option<(u16, u16)> {
        let (last, id) = (self.sender.counted_id()?, self.reset.id?);
        let step = id.wrapping_sub(last);
        (self.active() && !(1..=1024).contains(&step)).then_some((last, id))
    }

    /// If the reset came sooner than its alleged sender can have answered, returns two times in nanoseconds: how long
    /// after its trigger (the packet that it answers) the reset came, and the sender's quickest answer of all. "Sooner" is less
    /// than a quarter of the quickest of three answers or more, if that took 2 ms at least.
    pub(crate) fn answered_too_fast(&self) -> Option<(u64, u64)> {
        let trigger = self.trigger?;
        let s = self.sender;
        let answered =
            self.reset.at.time_ns.saturating_sub(self.connection().first_time + trigger.since_first());
        let round_trip = u64::from(s.quickest_us) * 1_000;
        (s.replies >= 3 && round_trip >= 2_000_000 && answered < round_trip / 4)
            .then_some((answered, round_trip))
    }

    /// The sender's last window and that of the reset, both unscaled, if Linux resets after its own FIN with a window that is larger
    /// at the same acknowledgement, by 512 bytes at least.
    ///
    /// After `shutdown` it resets only if the application leaves bytes unread, or closes with `SO_LINGER 0`.
    pub(crate) fn window_grew_after_fin(&self) -> Option<(u16, u16)> {
        let s = self.sender;
        let (before, now) = (s.window()?, self.reset.window?);
        let room = u32::from(now.saturating_sub(before)) << s.scale;
        (s.has_fin()
            && s.marks.has(Marks::LINUX)
            && self.active()
            && s.ack() == Some(self.reset.ack)
            && self.receiver.payload > 0
            && self.reset.timestamps == s.marks.has(Marks::TIMESTAMPS)
            && self.foreign_id().is_none()
            && room >= 512)
            .then_some((before, now))
    }

    /// The sender's last window and that of the reset, both unscaled, if the reset has a larger window at the same
    /// acknowledgement: at least twice as large, and by 512 bytes.
    ///
    /// `tcp_close` frees the receive queue before it sends the reset. Had the application read the bytes, the kernel
    /// would have announced the larger window at once (`tcp_cleanup_rbuf`, when it at least doubles). The window of a
    /// reset that differs otherwise from the sender's packets proves nothing.
    pub(crate) fn window_reopened(&self) -> Option<(u16, u16)> {
        let s = self.sender;
        let (before, now) = (s.window()?, self.reset.window?);
        let room = u32::from(now.saturating_sub(before)) << s.scale;
        (self.active()
            && s.ack() == Some(self.reset.ack)
            && self.receiver.payload > 0
            && self.reset.timestamps == s.marks.has(Marks::TIMESTAMPS)
            && self.foreign_id().is_none()
            && u32::from(before) * 2 <= u32::from(s.greatest_window)
            && u32::from(now) >= 2 * u32::from(before)
            && room >= 512)
            .then_some((before, now))
    }
}
