//! IEEE 802.11 frames, and the radiotap header before them.

use super::cursor::{Cursor, be16};
use super::{Layer, NotTcp, Segment};

impl<'a> Cursor<'a> {
    /// Radiotap (radiotap.org): its length in little-endian order, then words that say which fields follow.
    pub(super) fn radiotap(self) -> Result<Segment<'a>, NotTcp> {
        let rest = self.rest();
        let length = usize::from(be16(rest, 2).ok_or(NotTcp::TooShort)?.swap_bytes());
        let mut at = 4;
        let present = *rest.get(at).ok_or(NotTcp::TooShort)?;
        // Bit 31 of the last word of flags is clear.
        while rest.get(at + 3).ok_or(NotTcp::TooShort)? & 0x80 != 0 {
            at += 4;
        }
        at += 4;
        if present & 1 != 0 {
            at = at.next_multiple_of(8) + 8; // a timestamp, aligned to its size
        }
        let flags = if present & 2 == 0 { 0 } else { *rest.get(at).ok_or(NotTcp::TooShort)? };
        // Some drivers pad the 802.11 header to words (flag 0x20).
        self.skip(length).wireless_frame(flags & 0x20 != 0, false)
    }

    pub(super) fn wireless(self) -> Result<Segment<'a>, NotTcp> {
        self.wireless_frame(false, false)
    }

    /// Cisco's access points swap the two bytes of frame control in CAPWAP. A data frame has a type that is not plausible in the
    /// other order: its flags would name a reserved protocol version, or a frame without data.
    pub(super) fn wireless_in_capwap(self) -> Result<Segment<'a>, NotTcp> {
        let [first, second] = *self.rest().first_chunk::<2>().ok_or(NotTcp::TooShort)?;
        self.wireless_frame(false, first & 0x0f != 0x08 && second & 0x0f == 0x08)
    }

    /// A data frame (IEEE 802.11 section 9.3.2) carries LLC, unless it is empty, encrypted, a fragment or an aggregate.
    fn wireless_frame(self, is_padded: bool, is_swapped: bool) -> Result<Segment<'a>, NotTcp> {
        let rest = self.rest();
        let control = *rest.first_chunk::<2>().ok_or(NotTcp::TooShort)?;
        let [control, flags] = if is_swapped { [control[1], control[0]] } else { control };
        // Only version 0, frames of type data, and no subtype without data.
        if control & 0x0f != 0x08 || control & 0x40 != 0 {
            return Err(NotTcp::OtherProtocol);
        }
        if flags & 0x40 != 0 {
            return Err(NotTcp::NotUnderstood(Layer::Encrypted));
        }
        let sequence = be16(rest, 22).ok_or(NotTcp::TooShort)?.swap_bytes();
        // More fragments follow, or this is not the first one.
        if flags & 0x04 != 0 || sequence & 0x0f != 0 {
            return Err(NotTcp::Fragment);
        }
        // Frames between access points have a fourth address.
        let mut length = if flags & 0x03 == 0x03 { 30 } else { 24 };
        if control & 0x80 != 0 {
            let quality = *rest.get(length).ok_or(NotTcp::TooShort)?;
            if quality & 0x80 != 0 {
                return Err(NotTcp::NotUnderstood(Layer::Aggregated));
            }
            length += 2;
            if flags & 0x80 != 0 {
                length += 4; // HT control
            }
        }
        let length = if is_padded { length.next_multiple_of(4) } else { length };
        self.skip(length).llc()
    }
}
