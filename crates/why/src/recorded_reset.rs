//! A reset, its connection at that moment, and the packets after it.

use std::sync::Arc;

use linger_packet::{Flags, MptcpEnd, Segment};

use crate::app::App;
use crate::connection::ObservedConnection;
use crate::key::Dir;
use crate::names::AskedName;
use crate::record::{At, Record};

/// Packets kept that came after the reset.
const KEPT: usize = 6;
/// Bytes kept of a reset's payload.
const PAYLOAD: usize = 96;
/// A sequence number further ahead than this belongs to another connection.
const PLAUSIBLE: u32 = 1 << 26;

/// A reset, with its connection as it was when the reset came.
#[derive(Clone, Debug)]
pub(crate) struct RecordedReset {
    pub(crate) connection: ObservedConnection,
    pub(crate) by: Dir,
    pub(crate) at: At,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: Flags,
    pub(crate) window: Option<u16>,
    pub(crate) timestamps: bool,
    /// Whether part of the options was not captured.
    pub(crate) options_cut: bool,
    pub(crate) mptcp_end: Option<MptcpEnd>,
    /// Whether its checksum is right, if that can be told.
    pub(crate) right_checksum: Option<bool>,
    pub(crate) ttl: u8,
    pub(crate) id: Option<u16>,
    pub(crate) payload: Vec<u8>,
    /// The name that the client has asked for. It is copied because it may be forgotten, for newer names, before the reset is
    /// judged.
    pub(crate) asked_name: Option<AskedName<Arc<str>>>,
    pub(crate) after: After,
}

/// What followed a reset on the same connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct After {
    /// Further resets by the same side, and by the other.
    pub(crate) resets: [u32; 2],
    /// How often a SYN that was refused was sent again.
    pub(crate) asked_again: u32,
    /// The first packet which shows that the alleged sender knows of no reset: its frame, and what shows it.
    pub(crate) genuine: Option<(u64, Genuine)>,
    /// Other packets: of the sender of the reset, and of the other side.
    pub(crate) packets: [u32; 2],
    pub(crate) records: Vec<Record>,
    /// The latest acknowledgement of each side.
    pub(crate) acks: [Option<u32>; 2],
    /// New payload of the other side: it was on its way when the reset was sent.
    pub(crate) arrived: Option<LatePayload>,
}

/// Payload that arrived after the reset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LatePayload {
    /// The first packet of it.
    pub(crate) frame: u64,
    /// The number after its last byte.
    pub(crate) end: u32,
    /// How many bytes of it no packet before the reset held.
    pub(crate) bytes: u32,
    /// What the stream shows up to its end.
    pub(crate) app: App,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Genuine {
    /// The alleged sender acknowledged bytes that had not arrived when the reset was sent.
    NewAck,
    /// The alleged sender sent bytes beyond the reset's sequence number.
    NewData,
}

impl RecordedReset {
    pub(crate) fn new(connection: ObservedConnection, segment: &Segment<'_>, by: Dir, at: At) -> Self {
        let options = segment.parse_options();
        Self {
            connection,
            by,
            at,
            seq: segment.seq,
            ack: segment.ack,
            flags: segment.flags,
            window: segment.window,
            timestamps: options.timestamps.is_some(),
            options_cut: false,
            mptcp_end: options.mptcp_end,
            right_checksum: None,
            ttl: segment.ttl,
            id: segment.ip_id,
            payload: segment.payload[..segment.payload.len().min(PAYLOAD)].to_vec(),
            asked_name: None,
            after: After::default(),
        }
    }

    /// What stands in for the reset of a connection that had none.
    pub(crate) fn none(connection: ObservedConnection, by: Dir) -> Self {
        let at = At { frame: connection.first_frame, time_ns: connection.last_time };
        Self {
            connection,
            by,
            at,
            seq: 0,
            ack: 0,
            flags: Flags::default(),
            window: None,
            timestamps: false,
            options_cut: false,
            mptcp_end: None,
            right_checksum: None,
            ttl: 0,
            id: None,
            payload: Vec::new(),
            asked_name: None,
            after: After::default(),
        }
    }

    /// Whether it is a reset, and does not only stand in for one.
    pub(crate) fn is_any(&self) -> bool {
        self.flags.has(Flags::RST)
    }

    /// Takes a further reset of the connection.
    pub(crate) fn again(&mut self, dir: Dir, record: Record) {
        let count = &mut self.after.resets[usize::from(dir != self.by)];
        *count = count.saturating_add(1);
        self.after.keep(record);
    }

    /// Takes a later packet that is no reset. `app` is what the stream of its sender shows by now.
    pub(crate) fn followed_by(&mut self, segment: &Segment<'_>, dir: Dir, at: At, record: Record, app: App) {
        let from_sender = dir == self.by;
        if !from_sender && segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK) {
            self.after.asked_again = self.after.asked_again.saturating_add(1);
        }
        let count = &mut self.after.packets[usize::from(!from_sender)];
        *count = count.saturating_add(1);
        self.after.keep(record);
        if segment.flags.has(Flags::ACK) {
            let ack = &mut self.after.acks[dir];
            if ack.is_none_or(|known| segment.ack.wrapping_sub(known) < 1 << 31) {
                *ack = Some(segment.ack);
            }
        }
        if !from_sender && segment.payload_len > 0 && !segment.flags.has(Flags::SYN) {
            self.arrives(segment, at, app);
        }
        if !from_sender || self.after.genuine.is_some() || segment.flags.has(Flags::SYN) {
            return;
        }
        let peer = &self.connection.sides[1 - dir];
        let beyond = |number: u32, limit: u32| {
            let ahead = number.wrapping_sub(limit);
            ahead != 0 && ahead < PLAUSIBLE
        };
        // Packets in flight when the reset was sent may be captured after it. A packet that acknowledges bytes which the
        // sender of the reset did not have then, or that goes beyond the reset's sequence number, was sent later.
        let active = self.flags.has(Flags::ACK);
        let had = if active { self.ack } else { peer.next };
        if segment.flags.has(Flags::ACK) && peer.seen() && beyond(segment.ack, had) {
            self.after.genuine = Some((at.frame, Genuine::NewAck));
        } else if active && segment.payload_len > 0 && beyond(segment.end(), self.seq) && self.seq != 0 {
            self.after.genuine = Some((at.frame, Genuine::NewData));
        }
    }
}

impl RecordedReset {
    /// Takes payload of the other side. What was sent before the reset, or is acknowledged by it, is not new.
    fn arrives(&mut self, segment: &Segment<'_>, at: At, app: App) {
        let peer = &self.connection.sides[1 - self.by];
        let newer = |number: u32, than: u32| number.wrapping_sub(than).wrapping_sub(1) < PLAUSIBLE;
        let known = peer.next.wrapping_sub(u32::from(peer.has_fin()));
        let active = self.flags.has(Flags::ACK);
        let had = if active && newer(self.ack, known) { self.ack } else { known };
        let end = segment.seq.wrapping_add(segment.payload_len);
        if !peer.seen() || !newer(end, self.after.arrived.map_or(had, |arrived| arrived.end)) {
            return;
        }
        let frame = self.after.arrived.map_or(at.frame, |arrived| arrived.frame);
        self.after.arrived = Some(LatePayload { frame, end, bytes: end.wrapping_sub(had), app });
    }

    /// Whether the receiver went on as if there had been no reset: it acknowledged what the sender sent after it.
    pub(crate) fn survived(&self) -> bool {
        let before = self.connection.sides[self.by].next;
        let ahead = self.after.acks[1 - self.by].map_or(0, |ack| ack.wrapping_sub(before));
        self.after.genuine.is_some() && ahead != 0 && ahead < PLAUSIBLE
    }
}

impl After {
    fn keep(&mut self, record: Record) {
        if self.records.len() < KEPT {
            self.records.push(record);
        }
    }
}
