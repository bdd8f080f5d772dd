//! Finds segments in hand-made frames. No frame makes the parser panic.

use proptest::prelude::*;

use std::net::Ipv6Addr;

use super::*;

/// A TCP header with timestamps and four bytes of payload: seq 100, ack 200, PSH+ACK, window 500.
fn tcp() -> Vec<u8> {
    let mut bytes = vec![0x1f, 0x90, 0xc0, 0x00, 0, 0, 0, 100, 0, 0, 0, 200, 0x80, 0x18, 1, 0xf4, 0, 0, 0, 0];
    bytes.extend([1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9]);
    bytes.extend(b"data");
    bytes
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = (20 + payload.len()) as u16;
    let mut bytes = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 63, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 61];
    bytes[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    bytes.extend(Ipv6Addr::LOCALHOST.octets());
    bytes.extend(Ipv6Addr::from(2u128).octets());
    bytes.extend(payload);
    bytes
}

fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    bytes.extend(ether_type.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn check(segment: &Segment<'_>) {
    assert_eq!((segment.source.port(), segment.destination.port()), (8080, 49152));
    assert_eq!((segment.seq, segment.ack, segment.window), (100, 200, Some(500)));
    assert_eq!(segment.flags, Flags::PSH | Flags::ACK);
    assert_eq!((segment.payload, segment.payload_len), (&b"data"[..], 4));
    assert_eq!(segment.parse_options().timestamps, Some((7, 9)));
    assert_eq!(segment.end(), 104);
}

#[test]
fn a_checksum_is_right_or_wrong_or_not_known() {
    for version in [4, 6] {
        let mut bytes = tcp();
        bytes.push(b'!');
        let framed = |bytes: &[u8]| match version {
            4 => ethernet(0x0800, &ipv4(6, bytes)),
            _ => ethernet(0x86dd, &ipv6(6, bytes)),
        };
        // Whether the segment with this checksum is accepted. All 65,536 are tried, and one must be right.
        let right = |bytes: &[u8], sum: u16| {
            let mut bytes = bytes.to_vec();
            bytes[16..18].copy_from_slice(&sum.to_be_bytes());
            let frame = framed(&bytes);
            Segment::from_ethernet(&frame).unwrap().has_right_checksum(&frame)
        };
        let all: Vec<u16> = (0..=u16::MAX).filter(|&sum| right(&bytes, sum) == Some(true)).collect();
        assert_eq!(all, [if version == 4 { 0x862a } else { 0x9a2a }]);
        // One bit of the sequence number is wrong.
        let mut other = bytes.clone();
        other[4] ^= 1;
        assert_eq!(right(&other, all[0]), Some(false));
        let frame = framed(&bytes);
        let cut = &frame[..frame.len() - 1];
        let segment = Segment::from_frame(LinkType::ETHERNET, cut, frame.len()).unwrap();
        assert_eq!(segment.has_right_checksum(cut), None, "the last byte is not there");
        let cut = &frame[..frame.len() - 10];
        let segment = Segment::from_frame(LinkType::ETHERNET, cut, frame.len()).unwrap();
        assert_eq!(segment.has_right_checksum(cut), None, "part of the options is not there");
    }
}

#[test]
fn plain_ipv4_and_its_padding() {
    let mut frame = ethernet(0x0800, &ipv4(6, &tcp()));
    frame.extend([0xee; 6]);
    let segment = Segment::from_ethernet(&frame).unwrap();
    check(&segment);
    assert_eq!(segment.source.to_string(), "10.0.0.1:8080");
    assert_eq!((segment.ip_id, segment.ttl), (Some(0x1234), 63));
    assert_eq!(&frame[segment.payload_offset..][..4], b"data");
    check(&Segment::from_ip(&frame[14..]).unwrap());
}

#[test]
fn ipv6_with_and_without_extension_headers() {
    check(&Segment::from_ethernet(&ethernet(0x86dd, &ipv6(6, &tcp()))).unwrap());
    let mut extended = vec![60, 0, 0, 0, 0, 0, 0, 0];
    extended.extend([6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    extended.extend(tcp());
    let packet = ipv6(0, &extended);
    let segment = Segment::from_ip(&packet).unwrap();
    check(&segment);
    assert_eq!((segment.ip_id, segment.ttl), (None, 61));
}

#[test]
fn tags_and_tunnels_are_followed() {
    let inner = ethernet(0x0800, &ipv4(6, &tcp()));
    let tagged = ethernet(0x88a8, &[&[0, 1, 0x81, 0, 0, 2][..], &inner[12..]].concat());
    check(&Segment::from_ethernet(&tagged).unwrap());
    let vxlan = [&[0x99, 0x99, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 5, 0][..], &inner].concat();
    check(&Segment::from_ip(&ipv4(17, &vxlan)).unwrap());
    let gre = [&[0x20, 0, 0x65, 0x58, 0, 0, 0, 9][..], &inner].concat();
    check(&Segment::from_ip(&ipv6(47, &gre)).unwrap());
    let geneve =
        [&[0x99, 0x99, 0x17, 0xc1, 0, 0, 0, 0, 1, 0, 0x65, 0x58, 0, 0, 5, 0, 1, 2, 3, 4][..], &inner];
    check(&Segment::from_ip(&ipv4(17, &geneve.concat())).unwrap());
    check(&Segment::from_ip(&ipv4(4, &ipv4(6, &tcp()))).unwrap());
}

#[test]
fn cooked_and_loopback_link_types() {
    let ip = ipv4(6, &tcp());
    let frame = [&[0; 14][..], &[8, 0], &ip].concat();
    check(&Segment::from_frame(LinkType::LINUX_SLL, &frame, frame.len()).unwrap());
    let frame = [&[8, 0][..], &[0; 18], &ip].concat();
    check(&Segment::from_frame(LinkType::LINUX_SLL2, &frame, frame.len()).unwrap());
    let frame = [&[2, 0, 0, 0][..], &ip].concat();
    check(&Segment::from_frame(LinkType::NULL, &frame, frame.len()).unwrap());
    assert_eq!(
        Segment::from_frame(LinkType(147), &frame, 90),
        Err(NotTcp::NotUnderstood(Layer::Link(LinkType(147))))
    );
}

#[test]
fn what_is_not_a_segment_is_said() {
    let udp = ethernet(0x0800, &ipv4(17, &[0; 8]));
    assert_eq!(Segment::from_ethernet(&udp), Err(NotTcp::OtherProtocol));
    assert_eq!(Segment::from_ethernet(&ethernet(0x0806, &[0; 28])), Err(NotTcp::OtherProtocol));
    let mut fragment = ipv4(6, &tcp());
    fragment[6] = 0x20;
    assert_eq!(Segment::from_ip(&fragment), Err(NotTcp::Fragment));
    let mut lying = ipv4(6, &tcp());
    lying[20 + 12] = 0xf0;
    assert_eq!(Segment::from_ip(&lying), Err(NotTcp::Malformed));
    assert_eq!(Segment::from_ip(&[]), Err(NotTcp::TooShort));
}

#[test]
fn a_snap_length_of_68_keeps_the_flags_even_of_ipv6() {
    let frame = ethernet(0x86dd, &ipv6(6, &tcp()));
    let segment = Segment::from_frame(LinkType::ETHERNET, &frame[..68], frame.len()).unwrap();
    assert_eq!((segment.seq, segment.flags), (100, Flags::PSH | Flags::ACK));
    assert_eq!((segment.window, segment.options, segment.payload), (None, &[][..], &[][..]));
    assert_eq!(segment.payload_len, 4, "the IP header still tells the length");
    assert_eq!(Segment::from_frame(LinkType::ETHERNET, &frame[..67], 120), Err(NotTcp::TooShort));
}

#[test]
fn zero_lengths_mean_an_undivided_segment() {
    let mut packet = ipv4(6, &tcp());
    packet[2..4].fill(0);
    check(&Segment::from_ip(&packet).unwrap());
    let mut packet = ipv6(6, &tcp());
    packet[4..6].fill(0);
    check(&Segment::from_ip(&packet).unwrap());
}

proptest! {
    #[test]
    fn no_frame_makes_it_panic(
        mut frame in prop::collection::vec(any::<u8>(), 0..200),
        template in 0usize..4,
        link in prop::sample::select(vec![0u16, 1, 12, 101, 108, 113, 228, 229, 276, 999]),
        wire in 0usize..300,
    ) {
        // Half of the frames begin plausibly, so that the deeper code is reached.
        let head: &[u8] = match template {
            0 => &[],
            1 => &[0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6],
            2 => &[0x60, 0, 0, 0, 0, 40, 0, 64],
            _ => &[2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 8, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 47],
        };
        let length = head.len().min(frame.len());
        frame[..length].copy_from_slice(&head[..length]);
        if let Ok(segment) = Segment::from_frame(LinkType(link), &frame, wire) {
            prop_assert!(segment.payload.len() <= segment.payload_len as usize);
            if !segment.payload.is_empty() {
                prop_assert_eq!(&frame[segment.payload_offset..][..segment.payload.len()], segment.payload);
            }
            segment.parse_options();
        }
    }
}
