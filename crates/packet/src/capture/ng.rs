//! pcapng files (draft-ietf-opsawg-pcapng): sections, interfaces and packets. Other blocks are skipped.

use super::source::Source;
use super::{MAX_PACKET, Order, Packet, ReadError};
use crate::LinkType;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// The largest number of interfaces in a section. A file with more counts as damaged.
const MAX_INTERFACES: usize = 65_536;
/// The largest block that is accepted: fixed fields, the largest packet, and 256 KiB for the rest, mostly options.
const MAX_BLOCK: usize = MAX_PACKET + (256 << 10);

#[derive(Debug, Default)]
pub(super) struct Section {
    order: Order,
    interfaces: Vec<Interface>,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: LinkType,
    snap_length: u32,
    clock: Clock,
    /// Seconds to add to every time (`if_tsoffset`).
    offset: i64,
}

#[derive(Clone, Copy, Debug)]
enum Clock {
    /// Nanoseconds in a unit.
    Coarse(u64),
    /// Units in a nanosecond.
    Fine(u64),
    /// Units of 2^-n seconds.
    Binary(u32),
}

impl Interface {
    #[inline]
    fn time(&self, units: u64) -> u64 {
        let time = match self.clock {
            Clock::Coarse(nanoseconds) => units.saturating_mul(nanoseconds),
            Clock::Fine(units_in_one) => units / units_in_one,
            Clock::Binary(bits) => {
                u64::try_from((u128::from(units) * 1_000_000_000) >> bits).unwrap_or(u64::MAX)
            }
        };
        time.saturating_add_signed(self.offset.saturating_mul(1_000_000_000))
    }
}

/// The options at the end of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockOptions<'a> {
    bytes: &'a [u8],
    order: Order,
}

impl<'a> Iterator for BlockOptions<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.len() < 4 {
            return None;
        }
        let code = self.order.u16(self.bytes, 0);
        let length = usize::from(self.order.u16(self.bytes, 2));
        let value = self.bytes.get(4..4 + length)?;
        if code == 0 {
            return None;
        }
        self.bytes = self.bytes.get(4 + length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((code, value))
    }
}

impl Section {
    #[inline]
    pub(super) fn next<'a>(
        &mut self,
        source: &'a mut impl Source,
        frame: &mut u64,
    ) -> Result<Option<Packet<'a>>, ReadError> {
        loop {
            let offset = source.offset();
            let damaged = |what: String| ReadError::Damaged { offset, what };
            let Some(header) = source.record(12)? else { return Ok(None) };
            // A section header's block type reads the same in both byte orders.
            if Order::Little.u32(header, 0) == SECTION_HEADER {
                self.order = match Order::Little.u32(header, 8) {
                    0x1a2b_3c4d => Order::Little,
                    0x4d3c_2b1a => Order::Big,
                    other => return Err(damaged(format!("a section header with byte order {other:#010x}"))),
                };
                self.interfaces.clear();
            }
            let kind = self.order.u32(header, 0);
            let length = self.order.u32(header, 4) as usize;
            if length < 12 || !length.is_multiple_of(4) {
                return Err(damaged(format!("a block of {length} bytes")));
            }
            match kind {
                ENHANCED_PACKET | SIMPLE_PACKET | OBSOLETE_PACKET | INTERFACE_DESCRIPTION => {}
                _ => {
                    if !source.skip(length as u64)? {
                        return Err(ReadError::CutOff { offset });
                    }
                    continue;
                }
            }
            if length > MAX_BLOCK {
                return Err(damaged(format!("a packet or interface block of {length} bytes")));
            }
            if source.peek(length)?.len() < length {
                return Err(ReadError::CutOff { offset });
            }
            source.consume(length);
            // The body stands between the block's two length fields.
            let body = length - 12;
            let block = &source.behind(length)[8..8 + body];
            if kind == INTERFACE_DESCRIPTION {
                let interface = self.interface(block).map_err(damaged)?;
                if self.interfaces.len() == MAX_INTERFACES {
                    return Err(damaged("more interfaces than any machine has".into()));
                }
                self.interfaces.push(interface);
                continue;
            }
            self.place(kind, block).map_err(damaged)?;
            *frame += 1;
            return Ok(self
                .whole(source.behind(length))
                .map(|(_, packet)| Packet { frame: *frame, ..packet }));
        }
    }

    /// Reads the packet block at the start of `bytes`. Returns the block's length and the packet, whose frame number is
    /// left at 0. Returns `None` if `bytes` does not begin with a complete, valid packet block.
    #[inline(always)]
    pub(super) fn whole<'a>(&self, bytes: &'a [u8]) -> Option<(usize, Packet<'a>)> {
        let header = bytes.first_chunk::<12>()?;
        let kind = self.order.u32(header, 0);
        let length = self.order.u32(header, 4) as usize;
        if !matches!(kind, ENHANCED_PACKET | SIMPLE_PACKET | OBSOLETE_PACKET)
            || length < 12
            || !length.is_multiple_of(4)
            || length > MAX_BLOCK
        {
            return None;
        }
        // The body stands between the block's two length fields.
        let block = bytes.get(8..length)?.get(..length - 12)?;
        let place = self.place(kind, block).ok()?;
        let data = block.get(place.at..place.at + place.captured)?;
        let after = block.get(place.at + place.captured.next_multiple_of(4)..).unwrap_or(&[]);
        let options = (kind != SIMPLE_PACKET && after.len() >= 4)
            .then_some(BlockOptions { bytes: after, order: self.order });
        let packet = Packet {
            frame: 0,
            time_ns: place.time_ns,
            link: place.link,
            interface: place.interface,
            data,
            wire_len: place.wire_len.max(place.captured),
            options,
        };
        Some((length, packet))
    }

    /// Reads an Interface Description Block with its options 9 (`if_tsresol`) and 14 (`if_tsoffset`).
    fn interface(&self, block: &[u8]) -> Result<Interface, String> {
        if block.len() < 8 {
            return Err("an interface description that is too short".into());
        }
        let mut interface = Interface {
            link: LinkType(self.order.u16(block, 0)),
            snap_length: self.order.u32(block, 4),
            clock: Clock::Coarse(1_000),
            offset: 0,
        };
        for (code, value) in (BlockOptions { bytes: &block[8..], order: self.order }) {
            match (code, value) {
                (9, [resolution]) => interface.clock = clock(*resolution)?,
                (14, value) if value.len() == 8 => {
                    let (low, high) = match self.order {
                        Order::Little => (0, 4),
                        Order::Big => (4, 0),
                    };
                    let high = u64::from(self.order.u32(value, high)) << 32;
                    interface.offset = (high | u64::from(self.order.u32(value, low))) as i64;
                }
                _ => {}
            }
        }
        Ok(interface)
    }

    #[inline]
    fn place(&self, kind: u32, block: &[u8]) -> Result<PacketPlace, String> {
        let (fixed, id) = match kind {
            SIMPLE_PACKET => (4, 0),
            OBSOLETE_PACKET => {
                (20, block.first_chunk::<4>().map_or(0, |_| u32::from(self.order.u16(block, 0))))
            }
            _ => (20, block.first_chunk::<4>().map_or(0, |_| self.order.u32(block, 0))),
        };
        if block.len() < fixed {
            return Err("a packet block that is too short".into());
        }
        let Some(interface) = self.interfaces.get(id as usize) else {
            return Err(format!("a packet of interface {id}, which was never described"));
        };
        let (time_ns, captured, wire_len) = if kind == SIMPLE_PACKET {
            let wire_len = self.order.u32(block, 0);
            let limit = if interface.snap_length == 0 { u32::MAX } else { interface.snap_length };
            (0, wire_len.min(limit), wire_len)
        } else {
            let units = u64::from(self.order.u32(block, 4)) << 32 | u64::from(self.order.u32(block, 8));
            (interface.time(units), self.order.u32(block, 12), self.order.u32(block, 16))
        };
        let captured = captured as usize;
        if captured > block.len() - fixed {
            return Err(format!(
                "a packet of {captured} bytes in a block with room for {}",
                block.len() - fixed
            ));
        }
        let (link, wire_len) = (interface.link, wire_len as usize);
        Ok(PacketPlace { time_ns, link, interface: id, at: fixed, captured, wire_len })
    }
}

/// The fixed fields of a packet block. The packet's bytes are `captured` bytes of the block from `at` on.
struct PacketPlace {
    time_ns: u64,
    link: LinkType,
    interface: u32,
    at: usize,
    captured: usize,
    wire_len: usize,
}

/// Reads the option `if_tsresol` (section 4.2 of the draft): the unit of times is a negative power of ten or, with the
/// top bit set, of two.
fn clock(resolution: u8) -> Result<Clock, String> {
    let exponent = u32::from(resolution & 0x7f);
    let impossible = || format!("a clock of resolution {resolution:#04x}");
    if resolution & 0x80 != 0 {
        return if exponent < 64 { Ok(Clock::Binary(exponent)) } else { Err(impossible()) };
    }
    match exponent {
        0..=9 => Ok(Clock::Coarse(10u64.pow(9 - exponent))),
        10..=19 => Ok(Clock::Fine(10u64.pow(exponent - 9))),
        _ => Err(impossible()),
    }
}
