//! One side's frames (RFC 9113 section 4.1), read from its segments as they come.

use linger_packet::{Flags, Segment};

/// Bytes of a frame before its payload.
const HEADER: usize = 9;
/// Bytes kept of the debug data of GOAWAY.
const DEBUG_DATA: usize = 96;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

/// A frame whose header has been read. Its payload may not have been sent to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    flags: u8,
    pub(super) stream: u32,
    /// The first bytes of the payload of RST_STREAM and GOAWAY.
    pub(super) payload: &'a [u8],
    /// The sequence numbers of its first byte, and the one after its last byte.
    pub(super) begin: u32,
    pub(super) end: u32,
}

impl Frame<'_> {
    /// Whether a frame of DATA or HEADERS ends its stream. The flag means something else of other frames.
    pub(super) fn ends_stream(&self) -> bool {
        self.flags & 1 != 0
    }

    /// The number of 32 bits at this place of the payload.
    pub(super) fn number(&self, at: usize) -> Option<u32> {
        self.payload.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }
}

/// Why a side's frames cannot be followed to their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FramesLost {
    /// Bytes are not in the capture, not in order, or cut off by the snap length.
    Missing,
    /// What is there are no frames, or frames that cannot stand there.
    Invalid,
}

/// How far one side's frames were read.
#[derive(Clone, Debug)]
pub(super) struct FrameReader {
    /// The sequence number of the next byte.
    next: u32,
    /// Bytes of the current payload that are still to come and are not needed.
    skip: u32,
    /// The current frame's header, and what is needed of its payload, as far as they have come.
    kept: Vec<u8>,
    pub(super) lost: Option<FramesLost>,
}

impl FrameReader {
    pub(super) fn new(next: u32) -> Self {
        Self { next, skip: 0, kept: Vec::new(), lost: None }
    }

    /// Whether everything up to the sequence number `end` was read.
    pub(super) fn has_read_to(&self, end: u32) -> bool {
        self.lost.is_none() && self.next == end
    }

    /// Gives each frame whose header ends in a segment to `each`, which returns whether the frame can stand there.
    pub(super) fn take(&mut self, segment: &Segment<'_>, mut each: impl FnMut(&Frame<'_>) -> bool) {
        let begin = segment.seq.wrapping_add(u32::from(segment.flags.has(Flags::SYN)));
        let known = self.next.wrapping_sub(begin);
        if self.lost.is_some() || known < 1 << 31 && known >= segment.payload_len {
            return;
        }
        if known >= 1 << 31 {
            self.lost = Some(FramesLost::Missing);
            return;
        }
        let mut bytes = segment.payload.get(known as usize..).unwrap_or(&[]);
        let mut left = segment.payload_len - known;
        // Each round takes a byte at least.
        while left > 0 {
            let wanted = self.wanted() - self.kept.len();
            let count = if self.skip > 0 { self.skip } else { wanted as u32 }.min(left);
            let new = bytes.get(..count as usize);
            bytes = bytes.get(count as usize..).unwrap_or(&[]);
            (self.next, left) = (self.next.wrapping_add(count), left - count);
            if self.skip > 0 {
                self.skip -= count;
                continue;
            }
            let Some(new) = new else {
                self.lost = Some(FramesLost::Missing);
                return;
            };
            self.kept.extend_from_slice(new);
            if self.kept.len() == HEADER && !self.is_possible()
                || self.kept.len() == self.wanted() && !self.frame(&mut each)
            {
                self.lost = Some(FramesLost::Invalid);
                return;
            }
        }
    }

    /// How many bytes of the current frame are needed, as far as is known.
    fn wanted(&self) -> usize {
        let Some(&[high, middle, low, kind, ..]) = self.kept.first_chunk::<HEADER>() else { return HEADER };
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        HEADER
            + match kind {
                RST_STREAM => length.min(4),
                GOAWAY => length.min(8 + DEBUG_DATA),
                _ => 0,
            }
    }

    /// Whether the header that has just come can be one. What it says is looked at before its payload is waited for.
    fn is_possible(&self) -> bool {
        let Some(&[high, middle, low, kind, _, a, b, c, d]) = self.kept.first_chunk::<HEADER>() else {
            return false;
        };
        let length = u32::from_be_bytes([0, high, middle, low]);
        is_possible(kind, length, u32::from_be_bytes([a & 0x7f, b, c, d]))
    }

    /// Gives the current frame to `each`, and goes on behind it. Returns whether it is a frame that can stand there.
    fn frame(&mut self, each: &mut impl FnMut(&Frame<'_>) -> bool) -> bool {
        let Some((&[high, middle, low, kind, flags, a, b, c, d], payload)) =
            self.kept.split_first_chunk::<HEADER>()
        else {
            return false;
        };
        let length = u32::from_be_bytes([0, high, middle, low]);
        let begin = self.next.wrapping_sub(self.kept.len() as u32);
        let end = begin.wrapping_add(HEADER as u32).wrapping_add(length);
        // The first bit is reserved, and ignored.
        let stream = u32::from_be_bytes([a & 0x7f, b, c, d]);
        let right = each(&Frame { kind, flags, stream, payload, begin, end });
        self.skip = end.wrapping_sub(self.next);
        self.kept.clear();
        right
    }
}

/// Whether a frame of this type can have this length and stream (RFC 9113 section 6). Unknown types may have any (section 5.5).
fn is_possible(kind: u8, length: u32, stream: u32) -> bool {
    match kind {
        DATA | HEADERS | PUSH_PROMISE | CONTINUATION => stream != 0,
        PRIORITY => stream != 0 && length == 5,
        RST_STREAM => stream != 0 && length == 4,
        SETTINGS => stream == 0 && length.is_multiple_of(6),
        PING => stream == 0 && length == 8,
        GOAWAY => stream == 0 && length >= 8,
        WINDOW_UPDATE => length == 4,
        _ => true,
    }
}
