//! One TCP segment in every wrapping that the crate reads, made byte by byte from the specifications.
#![allow(dead_code)] // Each test is compiled with a copy of this file, and uses a part of it.

/// The segment's ports and sequence number.
pub(crate) const PORTS: (u16, u16) = (40_001, 80);
/// The segment's sequence number.
pub(crate) const SEQ: u32 = 0x0102_0304;

/// A wrapping: its name, the link type of the capture, the frame, and whether tshark finds the segment in it without
/// special settings.
pub(crate) struct Wrapping {
    pub(crate) name: &'static str,
    pub(crate) link: u16,
    pub(crate) frame: Vec<u8>,
    pub(crate) tshark: bool,
}

/// An IPv4 packet with a right checksum.
pub(crate) fn ipv4(protocol: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + body.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0];
    packet.extend([192, 0, 2, 1, 198, 51, 100, 20]);
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(body);
    packet
}

/// TCP over IPv4.
pub(crate) fn segment() -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(PORTS.0.to_be_bytes());
    tcp.extend(PORTS.1.to_be_bytes());
    tcp.extend(SEQ.to_be_bytes());
    tcp.extend([0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    tcp.extend(b"GET / HTTP/1.0\r\n\r\n");
    ipv4(6, &tcp)
}

/// The same payload over IPv6.
fn ipv6(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], 6, 64, 0x20, 1, 0xd, 0xb8];
    packet.extend([0; 11]);
    packet.extend([1, 0x20, 1, 0xd, 0xb8]);
    packet.extend([0; 11]);
    packet.push(2);
    packet.extend(body);
    packet
}

/// An Ethernet frame with this EtherType or length.
pub(crate) fn ethernet(ether_type: u16, body: &[u8]) -> Vec<u8> {
    join(&[&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &ether_type.to_be_bytes(), body])
}

/// A datagram between these ports, in IPv4, in Ethernet.
pub(crate) fn udp(source: u16, destination: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + body.len()).unwrap();
    let header = [source, destination, length, 0].map(u16::to_be_bytes).concat();
    ethernet(0x0800, &ipv4(17, &join(&[&header, body])))
}

fn gre(head: &[u8], body: &[u8]) -> Vec<u8> {
    ethernet(0x0800, &ipv4(47, &join(&[head, body])))
}

pub(crate) fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// LLC with SNAP, before an EtherType of IPv4.
const SNAP: [u8; 8] = [0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
/// LLC with a maker's own SNAP: Cisco's discovery protocol.
pub(crate) const SNAP_OF_OTHERS: [u8; 8] = [0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0];
/// The header of a data frame to an access point, without the optional fields.
pub(crate) const WIRELESS: [u8; 24] =
    [0x08, 0x01, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 2, 2, 2, 2, 4, 0x10, 0];

/// All wrappings.
pub(crate) fn wrappings() -> Vec<Wrapping> {
    let ip = segment();
    let frame = ethernet(0x0800, &ip);
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let mut all = Vec::new();
    let mut on = |link: u16, name: &'static str, frame: Vec<u8>| {
        // tshark does not know EtherType 0x9200, and looks for a frame in MPLS only if its settings say so.
        let tshark = !matches!(name, "VLAN of old" | "MPLS, pseudowire");
        all.push(Wrapping { name, link, frame, tshark });
    };
    // Link types.
    on(1, "Ethernet", frame.clone());
    on(0, "BSD loopback", join(&[&[2, 0, 0, 0], &ip]));
    on(101, "raw IP", ip.clone());
    on(113, "Linux cooked", join(&[&[0, 0, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0, 8, 0], &ip]));
    on(276, "Linux cooked 2", join(&[&[8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0], &ip]));
    on(9, "PPP", join(&[&[0xff, 3, 0, 0x21], &ip]));
    on(9, "PPP, compressed", join(&[&[0x21], &ip]));
    on(50, "PPP in HDLC", join(&[&[0xff, 3, 0, 0x21], &ip]));
    on(51, "PPPoE", join(&[&[0x11, 0, 0, 1], &length(&[&[0, 0x21], &ip[..]].concat()), &[0, 0x21], &ip]));
    on(104, "Cisco HDLC", join(&[&[0x0f, 0, 8, 0], &ip]));
    on(107, "frame relay", join(&[&[0x18, 0x41, 3, 0xcc], &ip]));
    on(100, "ATM", join(&[&SNAP, &ip]));
    on(105, "802.11", join(&[&WIRELESS, &SNAP, &ip]));
    let mut quality = WIRELESS.to_vec();
    quality[0] = 0x88;
    on(105, "802.11 with QoS", join(&[&quality, &[0, 0], &SNAP, &ip]));
    on(127, "radiotap", join(&[&[0, 0, 8, 0, 0, 0, 0, 0], &WIRELESS, &SNAP, &ip]));
    let padded = [0, 0, 17, 0, 3, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x20];
    on(127, "radiotap, padded", join(&[&padded, &quality, &[0, 0, 0, 0], &SNAP, &ip]));
    on(192, "PPI", join(&[&[0, 0, 8, 0, 1, 0, 0, 0], &frame]));
    let mut header = vec![0; 108];
    (header[0], header[4]) = (108, 1);
    on(258, "PKTAP", join(&[&header, &[2, 0, 0, 0], &ip]));
    let attribute = u16::try_from(ip.len() + 4).unwrap().to_le_bytes();
    on(239, "NFLOG", join(&[&[2, 0, 0, 0, 8, 0, 1, 0, 8, 0, 1, 0], &attribute, &[9, 0], &ip]));
    on(109, "enc", join(&[&[2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], &ip]));
    // EtherTypes.
    on(1, "VLAN", ethernet(0x8100, &join(&[&[0, 10, 8, 0], &ip])));
    on(1, "QinQ", ethernet(0x88a8, &join(&[&[0, 10, 0x81, 0, 0, 11, 8, 0], &ip])));
    on(1, "VLAN of old", ethernet(0x9200, &join(&[&[0, 10, 8, 0], &ip])));
    on(
        1,
        "802.3 with SNAP",
        ethernet(u16::from_be_bytes(length(&join(&[&SNAP, &ip]))), &join(&[&SNAP, &ip])),
    );
    on(1, "MPLS", ethernet(0x8847, &join(&[&[0, 1, 1, 64], &ip])));
    on(1, "MPLS, two labels", ethernet(0x8847, &join(&[&[0, 1, 0, 64, 0, 1, 0x11, 64], &ip])));
    on(1, "MPLS, pseudowire", ethernet(0x8847, &join(&[&[0, 1, 1, 64, 0, 0, 0, 0], &frame])));
    on(1, "PPPoE session", ethernet(0x8864, &join(&[&[0x11, 0, 0, 1, 0, 60, 0, 0x21], &ip])));
    on(1, "NSH", ethernet(0x894f, &join(&[&[0x0f, 0xc2, 2, 1, 0, 0, 1, 255], &ip])));
    on(1, "PBB", ethernet(0x88e7, &join(&[&[0, 0, 0, 7], &frame])));
    on(1, "Cisco metadata", ethernet(0x8909, &join(&[&[1, 1, 0, 1, 0, 10, 8, 0], &ip])));
    on(1, "802.1CB", ethernet(0xf1c1, &join(&[&[0, 0, 0, 1, 8, 0], &ip])));
    on(1, "802.1BR", ethernet(0x893f, &join(&[&[0, 1, 0, 2, 0, 0, 8, 0], &ip])));
    on(1, "TRILL", ethernet(0x22f3, &join(&[&[0, 0, 0, 1, 0, 2], &frame])));
    // Tunnels.
    on(1, "IP in IP", ethernet(0x0800, &ipv4(4, &ip)));
    on(1, "EtherIP", ethernet(0x0800, &ipv4(97, &join(&[&[0x30, 0], &frame]))));
    let header = [6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    on(1, "authentication header", ethernet(0x0800, &ipv4(51, &join(&[&header, &ip[20..]]))));
    on(1, "MPLS in IP", ethernet(0x0800, &ipv4(137, &join(&[&[0, 1, 1, 64], &ip]))));
    on(1, "GRE", gre(&[0, 0, 8, 0], &ip));
    on(1, "GRE with a key", gre(&[0x20, 0, 0x65, 0x58, 0, 0, 0, 1], &frame));
    on(1, "ERSPAN", gre(&[0, 0, 0x88, 0xbe], &frame));
    on(1, "ERSPAN II", gre(&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 10, 0, 1, 0, 0, 0, 0], &frame));
    let third = [0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 10, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    on(1, "ERSPAN III", gre(&third, &frame));
    let call =
        [&[0x30, 1, 0x88, 0x0b][..], &length(&[&[0xff, 3, 0, 0x21], &ip[..]].concat()), &[0, 7, 0, 0, 0, 1]];
    on(1, "PPTP", gre(&call.concat(), &join(&[&[0xff, 3, 0, 0x21], &ip])));
    on(1, "WCCP", gre(&[0, 0, 0x88, 0x3e, 0, 0, 0, 0], &ip));
    on(1, "VXLAN", udp(50_000, 4789, &join(&[&[8, 0, 0, 0, 0, 0, 42, 0], &frame])));
    on(1, "VXLAN-GPE", udp(50_000, 4790, &join(&[&[0x0c, 0, 0, 1, 0, 0, 42, 0], &ip])));
    on(1, "Geneve", udp(50_000, 6081, &join(&[&[1, 0, 0x65, 0x58, 0, 0, 42, 0, 1, 2, 0x80, 0], &frame])));
    on(1, "Geneve with IP", udp(50_000, 6081, &join(&[&[0, 0, 8, 0, 0, 0, 42, 0], &ip])));
    on(1, "GTP-U", udp(2152, 2152, &join(&[&[0x30, 0xff], &length(&ip), &[0, 0, 0, 7], &ip])));
    let session = [0, 0, 0, 0x85, 1, 0x10, 9, 0];
    let length_8 = u16::try_from(ip.len() + 8).unwrap().to_be_bytes();
    let extended = join(&[&[0x34, 0xff], &length_8, &[0, 0, 0, 7], &session, &ip]);
    on(1, "GTP-U with an extension", udp(2152, 2152, &extended));
    on(1, "L2TP", udp(1701, 1701, &join(&[&[0, 2, 0, 1, 0, 1, 0xff, 3, 0, 0x21], &ip])));
    let long = [0x48, 2, 0, 90, 0, 1, 0, 1, 0, 1, 0, 1, 0xff, 3, 0, 0x21];
    on(1, "L2TP with a length", udp(1701, 1701, &join(&[&long, &ip])));
    on(1, "TZSP", udp(40_000, 37_008, &join(&[&[1, 0, 0, 1, 10, 1, 0xc4, 0, 1], &frame])));
    on(1, "GRE in UDP", udp(50_000, 4754, &join(&[&[0, 0, 8, 0], &ip])));
    let mut identity = vec![0x41, 0x52, 0x11, 41, 0x4a, 0xf6, 0x4b, 0xfd];
    identity.extend([0; 16 + 20]);
    on(1, "AYIYA", udp(5072, 50_000, &join(&[&identity, &ipv6(&ip[20..])])));
    on(1, "CAPWAP", udp(50_000, 5247, &join(&[&[0, 0x10, 2, 0, 0, 0, 0, 0], &frame])));
    let mut swapped = WIRELESS.to_vec();
    swapped.swap(0, 1);
    on(1, "CAPWAP of Cisco", udp(50_000, 5247, &join(&[&[0, 0x10, 3, 0, 0, 0, 0, 0], &swapped, &SNAP, &ip])));
    on(1, "MPLS in UDP", udp(50_000, 6635, &join(&[&[0, 1, 1, 64], &ip])));
    // tshark looks for VXLAN at its own port only.
    let elsewhere = udp(50_000, 8473, &join(&[&[8, 0, 0, 0, 0, 0, 42, 0], &frame]));
    all.push(Wrapping { name: "VXLAN at another port", link: 1, frame: elsewhere, tshark: false });
    all
}
