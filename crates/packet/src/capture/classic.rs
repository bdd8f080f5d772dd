//! pcap files (draft-ietf-opsawg-pcap).

use super::source::Source;
use super::{MAX_PACKET, Order, Packet, ReadError};
use crate::LinkType;

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// The magic number of a patched libpcap of old Linux distributions, whose record headers have eight more bytes.
const PATCHED: u32 = 0xa1b2_cd34;

#[derive(Debug)]
pub(super) struct FileHeader {
    order: Order,
    link: LinkType,
    nanoseconds_per_unit: u64,
    record_header: usize,
}

pub(super) fn is_magic(bytes: [u8; 4]) -> bool {
    [u32::from_le_bytes(bytes), u32::from_be_bytes(bytes)]
        .iter()
        .any(|magic| [MICROSECONDS, NANOSECONDS, PATCHED].contains(magic))
}

impl FileHeader {
    pub(super) fn read(source: &mut impl Source) -> Result<Self, ReadError> {
        let bytes = source.record(24)?.unwrap_or(&[0; 24]);
        let little = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let order =
            if [MICROSECONDS, NANOSECONDS, PATCHED].contains(&little) { Order::Little } else { Order::Big };
        let magic = order.u32(bytes, 0);
        let header = Self {
            order,
            // The upper bits say whether frames end with a frame check sequence. They are not needed: the IP header's
            // length leaves it out.
            link: LinkType(order.u32(bytes, 20) as u16),
            nanoseconds_per_unit: if magic == NANOSECONDS { 1 } else { 1_000 },
            record_header: if magic == PATCHED { 24 } else { 16 },
        };
        source.consume(24);
        Ok(header)
    }

    #[inline]
    pub(super) fn next<'a>(
        &self,
        source: &'a mut impl Source,
        frame: &mut u64,
    ) -> Result<Option<Packet<'a>>, ReadError> {
        let offset = source.offset();
        let Some(header) = source.record(self.record_header)? else { return Ok(None) };
        let captured = self.captured(header);
        if captured > MAX_PACKET {
            let what = format!("a packet of {captured} bytes");
            return Err(ReadError::Damaged { offset, what });
        }
        let length = self.record_header + captured;
        if source.peek(length)?.len() < length {
            return Err(ReadError::CutOff { offset });
        }
        source.consume(length);
        *frame += 1;
        Ok(self.whole(source.behind(length)).map(|(_, packet)| Packet { frame: *frame, ..packet }))
    }

    /// Reads the record at the start of `bytes`. Returns the record's length and the packet, whose frame number is left at 0.
    /// Returns `None` if `bytes` does not begin with a complete record, or if the record is longer than any packet.
    #[inline(always)]
    pub(super) fn whole<'a>(&self, bytes: &'a [u8]) -> Option<(usize, Packet<'a>)> {
        let header = bytes.get(..self.record_header)?;
        let captured = self.captured(header);
        if captured > MAX_PACKET {
            return None;
        }
        let length = self.record_header + captured;
        let data = bytes.get(self.record_header..length)?;
        let seconds = u64::from(self.order.u32(header, 0));
        let fraction = u64::from(self.order.u32(header, 4));
        let packet = Packet {
            frame: 0,
            time_ns: seconds * 1_000_000_000 + fraction * self.nanoseconds_per_unit,
            link: self.link,
            interface: 0,
            data,
            wire_len: (self.order.u32(header, 12) as usize).max(captured),
            options: None,
        };
        Some((length, packet))
    }

    #[inline]
    fn captured(&self, record_header: &[u8]) -> usize {
        self.order.u32(record_header, 8) as usize
    }
}
