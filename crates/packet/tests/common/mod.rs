//! A capture of two interfaces and two packets, as this crate writes it.

use linger_packet::LinkType;
use linger_packet::pcapng::Writer;

pub(crate) fn capture() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), "linger test").unwrap();
    let wire = writer.interface("wire", LinkType::ETHERNET, 0).unwrap();
    let short = writer.interface("short", LinkType::RAW, 20).unwrap();
    let frame: Vec<u8> = [&[2; 12][..], &[8, 0], &[0x45, 0, 0, 20], &[1; 16], &[0; 7]].concat();
    let time = 1_700_000_000_123_456_789;
    writer.packet(wire, time, &frame, frame.len() as u32, Some("a comment, ünïcödé")).unwrap();
    writer.packet(short, time + 1, &frame[14..], 9_000, None).unwrap();
    writer.into_inner()
}
