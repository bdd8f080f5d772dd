//! One reset as a section of a pcapng file: its packets as a cooked capture, and comments.

use std::collections::HashMap;

use linger_packet::pcapng::{InterfaceId, Writer};
use linger_packet::{Flags, LinkType, Segment};

use crate::kernel::tap::SeenPacket;

/// Length of the header before each packet (`LINKTYPE_LINUX_SLL`).
const COOKED: usize = 16;

/// Comments of a section: on the whole, and on its first reset.
#[derive(Debug)]
pub(crate) struct Comments<'a> {
    pub(crate) section: &'a str,
    pub(crate) reset: &'a str,
}

/// Writes packets as a section. `name` names an interface.
pub(crate) fn section(
    packets: &[SeenPacket<'_>],
    snap: u32,
    comments: Option<&Comments<'_>>,
    mut name: impl FnMut(u32) -> String,
) -> Vec<u8> {
    let application = concat!("linger watch ", env!("CARGO_PKG_VERSION"));
    let mut write = || -> std::io::Result<Vec<u8>> {
        let comment = comments.map(|comments| comments.section);
        let mut writer = Writer::with_comment(Vec::new(), application, comment)?;
        let mut interfaces: HashMap<u32, InterfaceId> = HashMap::new();
        let snap = snap + COOKED as u32 + 4;
        let mut commented = false;
        for packet in packets {
            let interface = match interfaces.get(&packet.interface) {
                Some(known) => *known,
                None => {
                    let id = writer.interface(&name(packet.interface), LinkType::LINUX_SLL, snap)?;
                    interfaces.insert(packet.interface, id);
                    id
                }
            };
            let comment = comments.filter(|_| !commented && is_reset(packet)).map(|comments| comments.reset);
            commented |= comment.is_some();
            let frame = cooked(packet);
            let wire_len = packet.wire_len + (frame.len() - packet.data.len()) as u32;
            writer.packet(interface, packet.time_ns, &frame, wire_len, comment)?;
        }
        Ok(writer.into_inner())
    };
    // Memory takes any number of bytes, and the interfaces are the writer's own.
    write().unwrap_or_default()
}

fn is_reset(packet: &SeenPacket<'_>) -> bool {
    Segment::from_frame(LinkType::RAW, packet.data, packet.wire_len as usize)
        .is_ok_and(|segment| segment.flags.has(Flags::RST))
}

/// The packet behind a cooked header, with its VLAN tag put back.
fn cooked(packet: &SeenPacket<'_>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(COOKED + 4 + packet.data.len());
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
    frame
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
        let comments = Comments { section: "whole", reset: "the reset" };
        let bytes = section(&[packet, packet], 128, Some(&comments), |number| format!("if{number}"));
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
