//! The record kept of a packet.

use linger_packet::{Flags, Segment};

use crate::key::Dir;

/// Two packets with the same header fields are one packet captured twice if they are this close, in nanoseconds.
const DUPLICATE_WITHIN: u64 = 1_000_000;

/// A time since the connection's first packet: 48 bits of microseconds. A time above nine years becomes the
/// largest number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Since([u16; 3]);

impl Since {
    #[inline]
    pub(crate) fn micros(micros: u64) -> Self {
        let micros = micros.min((1 << 48) - 1);
        Self([micros as u16, (micros >> 16) as u16, (micros >> 32) as u16])
    }

    pub(crate) fn nanoseconds(self) -> u64 {
        let [low, middle, high] = self.0.map(u64::from);
        (high << 32 | middle << 16 | low) * 1_000
    }
}

/// The fields of a packet that a ladder shows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Record {
    /// Frames after the connection's first one.
    pub(crate) frame: u32,
    since: Since,
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
    /// `frame` and `since` count from the connection's first packet.
    #[inline]
    pub(crate) fn new(segment: &Segment<'_>, dir: Dir, frame: u32, since: Since) -> Self {
        Self {
            frame,
            since,
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

    pub(crate) fn mark_repeated(&mut self) {
        self.bits |= REPEATED;
    }

    /// Nanoseconds after the connection's first packet.
    pub(crate) fn since_first(&self) -> u64 {
        self.since.nanoseconds()
    }

    #[inline]
    pub(crate) fn same_packet(&self, other: &Self) -> bool {
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
    pub(crate) time_ns: u64,
}
