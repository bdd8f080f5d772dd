//! Finds a segment in every wrapping. What the crate does not understand is reported as such, and not as "no
//! TCP".

#[path = "common/layers.rs"]
mod layers;

use layers::{PORTS, SEQ, SNAP_OF_OTHERS, WIRELESS, ethernet, ipv4, join, segment, udp, wrappings};
use linger_packet::{Layer, LinkType, NotTcp, Segment};

fn read(link: u16, frame: &[u8]) -> Result<((u16, u16), u32), NotTcp> {
    let segment = Segment::from_frame(LinkType(link), frame, frame.len())?;
    Ok(((segment.source.port(), segment.destination.port()), segment.seq))
}

#[test]
fn a_segment_is_found_in_every_wrapping() {
    for wrapping in wrappings() {
        assert_eq!(read(wrapping.link, &wrapping.frame), Ok((PORTS, SEQ)), "{}", wrapping.name);
        // With padding up to the shortest Ethernet frame, or with a checksum after it.
        let padded = join(&[&wrapping.frame, &[0; 4]]);
        assert_eq!(read(wrapping.link, &padded), Ok((PORTS, SEQ)), "{}", wrapping.name);
    }
}

/// A frame that is cut anywhere yields its own segment or an error: never another segment, and never a panic.
#[test]
fn a_wrapping_that_is_cut_is_no_other_segment() {
    for wrapping in wrappings() {
        for length in 0..wrapping.frame.len() {
            let cut = &wrapping.frame[..length];
            match Segment::from_frame(LinkType(wrapping.link), cut, wrapping.frame.len()) {
                Ok(segment) => assert_eq!(segment.seq, SEQ, "{} cut to {length}", wrapping.name),
                Err(NotTcp::NotUnderstood(layer)) => panic!("{} cut to {length}: {layer}", wrapping.name),
                Err(_) => {}
            }
        }
    }
}

/// A wrapping with one wrong byte, whole or cut there, yields a segment inside the frame or an error, and never a panic.
#[test]
fn a_wrapping_with_a_wrong_byte_is_no_panic() {
    for wrapping in wrappings() {
        let link = LinkType(wrapping.link);
        for at in 0..wrapping.frame.len() {
            for byte in [0, 1, 4, 0x0f, 0x10, 0x3f, 0x45, 0x60, 0x7f, 0x80, 0xf0, 0xff] {
                let mut frame = wrapping.frame.clone();
                frame[at] = byte;
                for length in [frame.len(), at + 1, (at + 9).min(frame.len())] {
                    let Ok(segment) = Segment::from_frame(link, &frame[..length], frame.len()) else {
                        continue;
                    };
                    let end = segment.payload_offset + segment.payload.len();
                    assert!(
                        segment.payload.is_empty() || end <= length,
                        "{}: byte {at} is {byte}",
                        wrapping.name
                    );
                    assert!(segment.payload.len() <= segment.payload_len as usize);
                    let _ = (segment.parse_options(), segment.path.to_string());
                }
            }
        }
    }
}

/// Each frame differs in one field from a wrapping in which there is a segment.
#[test]
fn what_is_not_understood_is_told_from_what_is_no_tcp() {
    let ip = segment();
    let not_understood = |layer| Err(NotTcp::NotUnderstood(layer));
    let wireless = |at: usize, byte: u8| {
        let mut header = WIRELESS.to_vec();
        header[at] = byte;
        join(&[&header, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &ip])
    };
    let mut quality = WIRELESS.to_vec();
    quality[0] = 0x88;
    let aggregated = join(&[&quality, &[0x80, 0], &ip]);
    let mut wrong = join(&[&[8, 0, 0, 0, 0, 0, 42, 0], &ethernet(0x0800, &ip)]);
    wrong[8 + 14 + 8] ^= 1; // the TTL, so that the checksum is wrong
    for (name, link, frame, expected) in [
        ("a link type", 147, ip.clone(), not_understood(Layer::Link(LinkType(147)))),
        ("an EtherType", 1, ethernet(0x1234, &ip), not_understood(Layer::EtherType(0x1234))),
        ("ARP", 1, ethernet(0x0806, &ip), Err(NotTcp::OtherProtocol)),
        (
            "LLC of a stranger",
            1,
            ethernet(60, &join(&[&[0x12, 0x34, 3], &ip])),
            not_understood(Layer::Llc(0x12, 0x34)),
        ),
        ("spanning tree", 1, ethernet(60, &join(&[&[0x42, 0x42, 3], &ip])), Err(NotTcp::OtherProtocol)),
        ("SNAP of a maker", 1, ethernet(60, &join(&[&SNAP_OF_OTHERS, &ip])), Err(NotTcp::OtherProtocol)),
        ("PPP, compressed headers", 9, join(&[&[0xff, 3, 0, 0x2f], &ip]), not_understood(Layer::Ppp(0x2f))),
        ("PPP, link control", 9, join(&[&[0xff, 3, 0xc0, 0x21], &ip]), Err(NotTcp::OtherProtocol)),
        ("802.11, encrypted", 105, wireless(1, 0x41), not_understood(Layer::Encrypted)),
        ("802.11, aggregated", 105, aggregated, not_understood(Layer::Aggregated)),
        ("802.11, a fragment", 105, wireless(1, 0x05), Err(NotTcp::Fragment)),
        ("802.11, the second fragment", 105, wireless(22, 0x11), Err(NotTcp::Fragment)),
        ("802.11, a beacon", 105, wireless(0, 0x80), Err(NotTcp::OtherProtocol)),
        ("802.11, without data", 105, wireless(0, 0x48), Err(NotTcp::OtherProtocol)),
        (
            "MACsec, encrypted",
            1,
            ethernet(0x88e5, &join(&[&[0x0c, 0, 0, 0, 0, 1, 8, 0], &ip])),
            not_understood(Layer::Encrypted),
        ),
        ("VXLAN elsewhere, wrong checksum", 1, udp(50_000, 8473, &wrong), Err(NotTcp::OtherProtocol)),
        (
            "GTP between gateways",
            1,
            udp(2152, 2152, &join(&[&[0x30, 1, 0, 0, 0, 0, 0, 7], &ip])),
            Err(NotTcp::OtherProtocol),
        ),
        (
            "L2TP control",
            1,
            udp(1701, 1701, &join(&[&[0x80, 2, 0, 1, 0, 1, 0xff, 3, 0, 0x21], &ip])),
            Err(NotTcp::OtherProtocol),
        ),
        (
            "GRE, version 1 without a packet",
            1,
            ethernet(0x0800, &ipv4(47, &[0x20, 0x81, 0x88, 0x0b, 0, 0, 0, 7, 0, 0, 0, 1])),
            Err(NotTcp::OtherProtocol),
        ),
        ("ESP", 1, ethernet(0x0800, &ipv4(50, &ip)), not_understood(Layer::IpProtocol(50))),
        ("IPComp", 1, ethernet(0x0800, &ipv4(108, &ip)), not_understood(Layer::IpProtocol(108))),
        ("sFlow", 1, udp(50_000, 6343, &ip), not_understood(Layer::Samples)),
        (
            "CAPWAP, encrypted",
            1,
            udp(50_000, 5247, &join(&[&[1, 0x10, 2, 0, 0, 0, 0, 0], &ip])),
            not_understood(Layer::Encrypted),
        ),
        (
            "CAPWAP, a fragment",
            1,
            udp(50_000, 5247, &join(&[&[0, 0x10, 2, 0x80, 0, 0, 0, 0], &ip])),
            Err(NotTcp::Fragment),
        ),
        (
            "CAPWAP, keep-alive",
            1,
            udp(50_000, 5247, &join(&[&[0, 0x10, 2, 0x08, 0, 0, 0, 0], &ip])),
            Err(NotTcp::OtherProtocol),
        ),
        ("DNS", 1, udp(50_000, 53, &ip), Err(NotTcp::OtherProtocol)),
    ] {
        assert_eq!(read(link, &frame), expected, "{name}");
    }
}

/// The tags of each wrapping. Two wrappings that differ in one number are two networks; a priority tag is none.
#[test]
fn tags_and_tunnels_are_named() {
    let path = |frame: &[u8]| {
        let segment = Segment::from_ethernet(frame).unwrap();
        (segment.path.to_string(), segment.path.network().to_string(), segment.path)
    };
    let named: Vec<String> = wrappings()
        .iter()
        .filter_map(|wrapping| {
            let segment =
                Segment::from_frame(LinkType(wrapping.link), &wrapping.frame, wrapping.frame.len()).unwrap();
            assert_eq!(segment.path.is_plain(), segment.path.to_string().is_empty());
            (!segment.path.is_plain()).then(|| format!("{}: {}", wrapping.name, segment.path))
        })
        .collect();
    assert_eq!(named.join("\n"), include_str!("paths.txt").trim_end());
    let ip = segment();
    let vlan = |tag: [u8; 2]| ethernet(0x8100, &join(&[&tag, &[8, 0], &ip]));
    assert_eq!(path(&vlan([0, 10])).2, path(&vlan([0xe0, 10])).2, "the priority does not count");
    assert_ne!(path(&vlan([0, 10])).2, path(&vlan([0, 11])).2);
    assert!(path(&vlan([0x20, 0])).2.is_plain(), "VLAN 0 is none");
    let vxlan = |vni: u8, frame: &[u8]| udp(50_000, 4789, &join(&[&[8, 0, 0, 0, 0, 0, vni, 0], frame]));
    let inner = ethernet(0x0800, &ip);
    assert_eq!(path(&vxlan(42, &vlan([0, 10]))).0, "VXLAN 42, VLAN 10");
    assert_ne!(path(&vxlan(42, &inner)).2, path(&vxlan(43, &inner)).2);
    // Labels and tunnel numbers differ between directions, so they name no network.
    let label = |label: u8| ethernet(0x8847, &join(&[&[0, label, 1, 64], &vlan([0, 10])]));
    let labels = |label: u8| ethernet(0x8847, &join(&[&[0, label, 1, 64], &[0, 0, 0, 0], &vlan([0, 10])]));
    assert_ne!(path(&labels(1)).2, path(&labels(2)).2);
    assert_eq!((path(&labels(1)).0, path(&labels(1)).1), ("MPLS label 16, VLAN 10".into(), "VLAN 10".into()));
    assert_eq!(path(&label(1)).1, path(&label(2)).1);
    // The ends of a tunnel without a number, in either direction.
    let tunnel = |from: u8, to: u8| {
        let mut outer = ipv4(4, &ip);
        (outer[15], outer[19]) = (from, to);
        path(&ethernet(0x0800, &outer)).2
    };
    assert_eq!(tunnel(1, 20), tunnel(20, 1));
    assert_ne!(tunnel(1, 20), tunnel(1, 21));
    // More tags than are kept still differ.
    let deep = |last: u8| {
        let mut frame = vxlan(last, &inner);
        for vni in 1..5 {
            frame = vxlan(vni, &frame);
        }
        path(&frame)
    };
    assert_ne!(deep(7).2, deep(8).2);
    assert!(deep(7).0.starts_with("VXLAN 4, VXLAN 3, VXLAN 2, "), "{}", deep(7).0);
}

/// Tunnels may nest only eight deep.
#[test]
fn wrappings_nest_to_a_bound() {
    let mut frame = ethernet(0x0800, &segment());
    for depth in 1..=12 {
        frame = udp(50_000, 4789, &join(&[&[8, 0, 0, 0, 0, 0, 42, 0], &frame]));
        let expected = if depth <= 8 { Ok((PORTS, SEQ)) } else { Err(NotTcp::OtherProtocol) };
        assert_eq!(read(1, &frame), expected, "{depth}");
    }
    // A stack of MPLS labels does not count as nesting: only the end of the frame ends it.
    let labels = vec![0; 4 * 300];
    assert_eq!(read(1, &ethernet(0x8847, &labels)), Err(NotTcp::TooShort));
}
