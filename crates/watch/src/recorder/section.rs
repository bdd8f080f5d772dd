//! One reset as a section of a pcapng file: its packets as a cooked capture, and comments.

use std::io;

use linger_packet::pcapng::{InterfaceId, Writer};
use linger_packet::{Flags, LinkType, Segment};

use crate::kernel::tap::SeenPacket;

/// Length of the header before each packet (`LINKTYPE_LINUX_SLL`).
const COOKED: usize = 16;
/// Room for a packet's block, beside the bytes that are kept of the packet.
const BLOCK: usize = 128;

/// A section in memory, which has no comment on the whole until it is known what the packets show.
#[derive(Debug)]
pub(crate) struct BareSection {
    bytes: Vec<u8>,
    /// Length of its first block, which is the one for a comment on the whole.
    header: usize,
}

impl BareSection {
    /// Writes packets, with a comment on the first reset. `name` names an interface.
    pub(crate) fn new(
        packets: &[SeenPacket<'_>],
        snap: u32,
        on_reset: &str,
        name: impl FnMut(u32) -> String,
    ) -> Self {
        // Memory takes any number of bytes, and the interfaces are the writer's own.
        Self::written(packets, snap, on_reset, name).unwrap_or(Self { bytes: Vec::new(), header: 0 })
    }

    fn written(
        packets: &[SeenPacket<'_>],
        snap: u32,
        on_reset: &str,
        mut name: impl FnMut(u32) -> String,
    ) -> io::Result<Self> {
        let room: usize = packets.iter().map(|packet| packet.data.len() + BLOCK).sum();
        let header = header(None)?;
        let length = header.len();
        let mut bytes = Vec::with_capacity(length + room + BLOCK);
        bytes.extend(header);
        let mut writer = Writer::continuing(bytes);
        let mut interfaces: Vec<(u32, InterfaceId)> = Vec::new();
        let snap = snap + COOKED as u32 + 4;
        let mut is_commented = false;
        let mut frame = Vec::new();
        for packet in packets {
            let known = interfaces.iter().find(|(number, _)| *number == packet.interface);
            let interface = match known {
                Some((_, known)) => *known,
                None => {
                    let id = writer.interface(&name(packet.interface), LinkType::LINUX_SLL, snap)?;
                    interfaces.push((packet.interface, id));
                    id
                }
            };
            let comment = (!is_commented && is_reset(packet)).then_some(on_reset);
            is_commented |= comment.is_some();
            cook(packet, &mut frame);
            let wire_len = packet.wire_len + (frame.len() - packet.data.len()) as u32;
            writer.packet(interface, packet.time_ns, &frame, wire_len, comment)?;
        }
        Ok(Self { bytes: writer.into_inner(), header: length })
    }

    /// The section without a comment on the whole: a capture.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends the section with a comment on the whole to a capture.
    ///
    /// # Errors
    /// None: memory takes any number of bytes.
    pub(crate) fn append_to(&self, capture: &mut Vec<u8>, comment: &str) -> io::Result<()> {
        capture.extend(header(Some(comment))?);
        capture.extend(&self.bytes[self.header..]);
        Ok(())
    }
}

/// The first block of a section.
fn header(comment: Option<&str>) -> io::Result<Vec<u8>> {
    let application = concat!("linger watch ", env!("CARGO_PKG_VERSION"));
    Ok(Writer::with_comment(Vec::new(), application, comment)?.into_inner())
}

fn is_reset(packet: &SeenPacket<'_>) -> bool {
    Segment::from_frame(LinkType::RAW, packet.data, packet.wire_len as usize)
        .is_ok_and(|segment| segment.flags.has(Flags::RST))
}

/// Puts the packet behind a cooked header, with its VLAN tag back in its place, into `frame`.
fn cook(packet: &SeenPacket<'_>, frame: &mut Vec<u8>) {
    frame.clear();
    frame.extend(u16::from(packet.link.kind).to_be_bytes());
    frame.extend(packet.link.hardware.to_be_bytes());
    frame.extend(u16::from(packet.link.length).to_be_bytes());
    frame.extend(packet.link.address);
    if let Some((protocol, contents)) = packet.vlan {
        frame.extend(protocol.to_be_bytes());
        frame.extend(contents.to_be_bytes());
    }
    frame.extend(packet.protocol.to_be_bytes());
    frame.extend(packet.data);
}

#[cfg(test)]
mod tests {
    use linger_packet::capture::CaptureReader;

    use super::*;
    use crate::kernel::tap::LinkAddress;

    #[test]
    fn a_packet_is_written_with_its_tag_interface_and_length() {
        let link = LinkAddress { kind: 4, hardware: 1, length: 6, address: [2, 0, 0, 0, 0, 1, 0, 0] };
        let mut ip = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2].to_vec();
        ip.extend([0, 80, 0, 81, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, 4, 0, 0, 0, 0, 0, 0]);
        let packet = SeenPacket {
            time_ns: 1_700_000_000_123_456_789,
            wire_len: 1_040,
            interface: 7,
            link,
            protocol: 0x0800,
            vlan: Some((0x8100, 10)),
            data: &ip,
        };
        let section = BareSection::new(&[packet, packet], 128, "the reset", |number| format!("if{number}"));
        let mut bytes = Vec::new();
        section.append_to(&mut bytes, "whole").unwrap();
        assert_eq!(bytes.len(), section.as_bytes().len() + 12, "an option, its length, and its padding");
        let mut bare = CaptureReader::in_memory(section.as_bytes()).unwrap();
        assert_eq!(bare.next().unwrap().unwrap().comments().collect::<Vec<_>>(), ["the reset"]);
        let mut reader = CaptureReader::in_memory(&bytes).unwrap();
        let first = reader.next().unwrap().unwrap();
        assert_eq!((first.time_ns, first.wire_len), (packet.time_ns, 1_040 + 20));
        assert_eq!(first.comments().collect::<Vec<_>>(), ["the reset"]);
        let segment = Segment::from_frame(first.link, first.data, first.wire_len).unwrap();
        assert_eq!((segment.source.to_string().as_str(), segment.seq), ("10.0.0.1:80", 9));
        assert_eq!(segment.path, {
            let mut tagged = vec![0; 12];
            tagged.extend([0x81, 0, 0, 10, 8, 0]);
            tagged.extend(&ip);
            Segment::from_frame(LinkType::ETHERNET, &tagged, tagged.len()).unwrap().path
        });
        assert_eq!(reader.next().unwrap().unwrap().comments().count(), 0, "only the first");
        assert!(reader.next().unwrap().is_none());
        assert!(bytes.windows(5).any(|window| window == b"whole"));
    }
}
