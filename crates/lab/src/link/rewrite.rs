//! The bytes that a box on the way changes or makes: ports, the bits of ECN, resets. Plain Ethernet with IPv4 or IPv6, which is all that
//! the lab's hosts send; anything else is left as it is.

use linger_packet::Flags;

use crate::link::mtu::{ETHERNET, checksum};

const TCP: u8 = 6;
const IPV6_HEADER: usize = 40;

/// The IP version of a frame, and where its TCP header begins.
fn layers(frame: &[u8]) -> Option<(u8, usize)> {
    let packet = frame.get(ETHERNET..)?;
    let (version, header) = match frame.get(12..14)? {
        [0x08, 0x00] if *packet.get(9)? == TCP => (4, usize::from(packet[0] & 0x0f) * 4),
        [0x86, 0xdd] if *packet.get(6)? == TCP => (6, IPV6_HEADER),
        _ => return None,
    };
    let tcp = ETHERNET + header;
    (header >= 20 && frame.len() >= tcp + 20).then_some((version, tcp))
}

/// A port of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortOf {
    Source,
    Destination,
}

/// Changes a port, and the checksum with it. Returns whether the frame has one.
pub(crate) fn set_port(frame: &mut [u8], which: PortOf, port: u16) -> bool {
    let Some((_, tcp)) = layers(frame) else { return false };
    let at = tcp + if which == PortOf::Source { 0 } else { 2 };
    let old = word(frame, at);
    put(frame, at, port);
    let sum = renewed(word(frame, tcp + 16), old, port);
    put(frame, tcp + 16, sum);
    true
}

/// What an IP header says of congestion (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ecn {
    /// The transport knows nothing of it.
    NotCapable = 0,
    /// ECT(1).
    Capable1 = 1,
    /// ECT(0).
    Capable0 = 2,
    /// CE: congestion experienced.
    Experienced = 3,
}

/// The ECN field of a frame with TCP in it.
pub(crate) fn ecn_of(frame: &[u8]) -> Option<Ecn> {
    let (version, _) = layers(frame)?;
    let class = if version == 4 { frame[ETHERNET + 1] } else { frame[ETHERNET + 1] >> 4 };
    Some([Ecn::NotCapable, Ecn::Capable1, Ecn::Capable0, Ecn::Experienced][usize::from(class & 3)])
}

/// Changes the ECN field, and IPv4's checksum with it.
pub(crate) fn set_ecn(frame: &mut [u8], ecn: Ecn) {
    let Some((version, _)) = layers(frame) else { return };
    let old = word(frame, ETHERNET);
    if version == 4 {
        let new = (old & !3) | ecn as u16;
        put(frame, ETHERNET, new);
        let sum = renewed(word(frame, ETHERNET + 10), old, new);
        put(frame, ETHERNET + 10, sum);
    } else {
        put(frame, ETHERNET, (old & !0x30) | ((ecn as u16) << 4));
    }
}

/// Whether a frame is a SYN that asks for ECN (ECE and CWR, RFC 3168 section 6.1.1).
pub(crate) fn asks_for_ecn(frame: &[u8]) -> bool {
    const ECE_CWR: u8 = 0xc0;
    layers(frame).is_some_and(|(_, tcp)| {
        let flags = frame[tcp + 13];
        flags & (Flags::SYN | Flags::ACK).0 == Flags::SYN.0 && flags & ECE_CWR == ECE_CWR
    })
}

/// The headers with which frames of a direction begin, from the destination's Ethernet address to the ports.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    ethernet: [u8; ETHERNET],
    addresses: Addresses,
    /// Source, destination.
    ports: [u16; 2],
}

#[derive(Clone, Debug)]
enum Addresses {
    V4([[u8; 4]; 2]),
    V6([[u8; 16]; 2]),
}

impl Envelope {
    /// That of a frame.
    pub(crate) fn of(frame: &[u8]) -> Option<Self> {
        let (version, tcp) = layers(frame)?;
        let ip = &frame[ETHERNET..];
        let addresses = if version == 4 {
            Addresses::V4([*ip[12..].first_chunk()?, *ip[16..].first_chunk()?])
        } else {
            Addresses::V6([*ip[8..].first_chunk()?, *ip[24..].first_chunk()?])
        };
        Some(Self {
            ethernet: *frame.first_chunk()?,
            addresses,
            ports: [word(frame, tcp), word(frame, tcp + 2)],
        })
    }

    /// The way back.
    pub(crate) fn reversed(mut self) -> Self {
        let (to, from) = self.ethernet[..12].split_at_mut(6);
        to.swap_with_slice(from);
        match &mut self.addresses {
            Addresses::V4(pair) => pair.swap(0, 1),
            Addresses::V6(pair) => pair.swap(0, 1),
        }
        self.ports.swap(0, 1);
        self
    }

    /// A reset in this direction.
    pub(crate) fn reset(&self, seq: u32, ack: Option<u32>) -> Vec<u8> {
        let mut tcp = Vec::with_capacity(20);
        tcp.extend(self.ports.iter().flat_map(|port| port.to_be_bytes()));
        tcp.extend(seq.to_be_bytes());
        tcp.extend(ack.unwrap_or(0).to_be_bytes());
        let flags = if ack.is_some() { Flags::RST | Flags::ACK } else { Flags::RST };
        tcp.extend([0x50, flags.0, 0, 0, 0, 0, 0, 0]);
        let mut frame = self.ethernet.to_vec();
        let addresses: Vec<u8> = match &self.addresses {
            Addresses::V4(pair) => pair.concat(),
            Addresses::V6(pair) => pair.concat(),
        };
        match &self.addresses {
            Addresses::V4(_) => {
                let mut header = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0];
                header.extend(&addresses);
                let sum = checksum(0, &header);
                put(&mut header, 10, sum);
                frame.extend(header);
            }
            Addresses::V6(_) => {
                frame.extend([0x60, 0, 0, 0, 0, 20, TCP, 64]);
                frame.extend(&addresses);
            }
        }
        let words = addresses.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum = checksum(words.sum::<u32>() + u32::from(TCP) + 20, &tcp);
        put(&mut tcp, 16, sum);
        frame.extend(tcp);
        frame
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// A checksum after one of its words has changed (RFC 1624, equation 3).
fn renewed(sum: u16, old: u16, new: u16) -> u16 {
    let mut renewed = u32::from(!sum) + u32::from(!old) + u32::from(new);
    while renewed > 0xffff {
        renewed = (renewed >> 16) + (renewed & 0xffff);
    }
    !(renewed as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use linger_packet::Segment;
    use proptest::prelude::*;

    /// A frame with right checksums.
    fn frame(is_v6: bool, payload: &[u8], class: u8) -> Vec<u8> {
        let ethernet = if is_v6 { [0x86, 0xdd] } else { [8, 0] };
        let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        bytes.extend(ethernet);
        let addresses: Vec<u8> =
            if is_v6 { [[0xfd; 16], [0xfe; 16]].concat() } else { [[10, 77, 0, 1], [10, 77, 0, 2]].concat() };
        let length = 20 + payload.len() as u16;
        if is_v6 {
            bytes.extend([0x60 | class >> 4, class << 4, 0, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([TCP, 64]);
            bytes.extend(&addresses);
        } else {
            let mut header = vec![0x45, class];
            header.extend((length + 20).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, TCP, 0, 0]);
            header.extend(&addresses);
            let sum = checksum(0, &header);
            put(&mut header, 10, sum);
            bytes.extend(header);
        }
        let mut tcp = vec![0x1f, 0x90, 0x9c, 0x40, 0, 0, 0, 9, 0, 0, 0, 7, 0x50, 0x10, 1, 0, 0, 0, 0, 0];
        tcp.extend(payload);
        let words = addresses.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum = checksum(words.sum::<u32>() + u32::from(TCP) + u32::from(length), &tcp);
        put(&mut tcp, 16, sum);
        bytes.extend(tcp);
        bytes
    }

    fn is_right(frame: &[u8]) -> bool {
        let of_ip = frame[12] != 8 || checksum(0, &frame[ETHERNET..ETHERNET + 20]) == 0;
        of_ip && Segment::from_ethernet(frame).unwrap().has_right_checksum(frame) == Some(true)
    }

    proptest! {
        #[test]
        fn what_is_changed_has_a_right_checksum(
            is_v6: bool, payload in proptest::collection::vec(any::<u8>(), 0..64), class: u8, port: u16, bits in 0usize..4,
        ) {
            let before = frame(is_v6, &payload, class);
            prop_assert!(is_right(&before));
            for which in [PortOf::Source, PortOf::Destination] {
                let mut after = before.clone();
                prop_assert!(set_port(&mut after, which, port) && is_right(&after));
                let segment = Segment::from_ethernet(&after).unwrap();
                let (source, destination) = (segment.source.port(), segment.destination.port());
                let expected = if which == PortOf::Source { (port, 40_000) } else { (8_080, port) };
                prop_assert_eq!((source, destination), expected);
                prop_assert_eq!(segment.payload, &payload[..]);
            }
            let ecn = [Ecn::NotCapable, Ecn::Capable1, Ecn::Capable0, Ecn::Experienced][bits];
            let mut after = before.clone();
            set_ecn(&mut after, ecn);
            prop_assert!(is_right(&after));
            prop_assert_eq!(ecn_of(&after), Some(ecn));
            set_ecn(&mut after, ecn_of(&before).unwrap());
            prop_assert_eq!(after, before, "nothing else has changed");
        }

        #[test]
        fn a_reset_of_ones_own_is_a_right_packet(is_v6: bool, seq: u32, ack: Option<u32>) {
            let before = frame(is_v6, b"data", 0);
            let made = Envelope::of(&before).unwrap().reversed().reset(seq, ack);
            prop_assert!(is_right(&made));
            let (asked, reset) = (Segment::from_ethernet(&before).unwrap(), Segment::from_ethernet(&made).unwrap());
            prop_assert_eq!((reset.source, reset.destination), (asked.destination, asked.source));
            prop_assert_eq!((reset.seq, reset.flags.has(Flags::RST)), (seq, true));
            prop_assert_eq!(reset.flags.has(Flags::ACK).then_some(reset.ack), ack);
            prop_assert_eq!(&made[..6], &before[6..12]);
        }

        #[test]
        fn what_is_cut_short_is_left_alone(is_v6: bool, length in 0usize..80) {
            let whole = frame(is_v6, b"", 2);
            let mut cut = whole[..length.min(whole.len())].to_vec();
            let before = cut.clone();
            let is_whole = cut.len() == whole.len();
            prop_assert_eq!(set_port(&mut cut, PortOf::Source, 1), is_whole);
            set_ecn(&mut cut, Ecn::Experienced);
            prop_assert!(is_whole || cut == before);
            prop_assert!(Envelope::of(&cut).is_some() == is_whole && !asks_for_ecn(&cut));
        }
    }

    #[test]
    fn a_syn_that_asks_for_ecn_has_both_flags() {
        let with = |flags: u8| {
            let mut bytes = frame(false, b"", 0);
            bytes[ETHERNET + 20 + 13] = flags;
            asks_for_ecn(&bytes)
        };
        assert!(with(0xc2));
        assert!(!with(0x02) && !with(0x42) && !with(0x82), "one alone asks for nothing");
        assert!(!with(0x52) && !with(0xd2) && !with(0xd0), "a SYN-ACK, or no SYN");
    }
}
