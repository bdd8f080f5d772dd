//! Tunnels: what an IP packet carries that is not TCP.
//!
//! Numbers are from the registries of IANA (protocols, UDP ports).

use super::cursor::{Cursor, Ip, TCP, be16, be32};
use super::layers::Inner;
use super::path::Tag;
use super::{Layer, NotTcp, icmp};

impl<'a> Cursor<'a> {
    /// Continues with the payload of an IP packet that is not TCP.
    #[cold]
    #[inline(never)]
    fn tunnel(self, protocol: u8, ip: &Ip) -> Inner<'a> {
        let rest = self.rest();
        match protocol {
            4 | 41 | 94 => self.deeper()?.tagged(Tag::IpInIp, ip.ends()).ip(),
            47 => self.gre(ip.ends()),
            17 => self.udp(),
            // Authentication header (RFC 4302): its length is in words, less two.
            51 => {
                let (next, words) = (rest.first(), rest.get(1));
                let (Some(next), Some(words)) = (next, words) else { return Err(NotTcp::TooShort) };
                self.deeper()?.skip(8 + 4 * usize::from(*words)).transport(*next, *ip)
            }
            // EtherIP (RFC 3378), MPLS in IP (RFC 4023).
            97 => self.deeper()?.tagged(Tag::IpInIp, ip.ends()).skip(2).ethernet(),
            137 => self.mpls(),
            1 | 58 => Err(icmp::error(rest, ip.source)),
            // Encrypted or compressed payload (RFC 4303, RFC 3173).
            50 | 108 => Err(NotTcp::NotUnderstood(Layer::IpProtocol(protocol))),
            _ => Err(NotTcp::OtherProtocol),
        }
    }

    /// GRE (RFC 2784, RFC 2890, and RFC 2637 for PPTP): flags say which optional words follow.
    fn gre(self, ends: u32) -> Inner<'a> {
        let rest = self.rest();
        let flags = be16(rest, 0).ok_or(NotTcp::TooShort)?;
        let ether_type = be16(rest, 2).ok_or(NotTcp::TooShort)?;
        let words = |bits: &[u16]| bits.iter().filter(|bit| flags & **bit != 0).count();
        match (flags & 0x4000, flags & 0x7) {
            (0, 0) => {
                let key_at = 4 + 4 * words(&[0x8000]);
                let words = words(&[0x8000, 0x2000, 0x1000]);
                // Type I ERSPAN has no sequence number and no header of its own.
                if ether_type == 0x88be && words == 0 {
                    return self.deeper()?.tagged(Tag::Gre, ends).skip(4).ethernet();
                }
                // The key identifies a flow within the tunnel (RFC 2890). Without a key, the two ends identify the tunnel.
                let inner = match flags & 0x2000 {
                    0 => self.tagged(Tag::Gre, ends),
                    _ => self.tagged(Tag::GreKey, be32(rest, key_at).ok_or(NotTcp::TooShort)?),
                };
                inner.deeper()?.skip(4 + 4 * words).ether_type(ether_type)
            }
            // PPTP: the key holds the payload's length and a call number. A packet without a sequence number is only an
            // acknowledgement.
            (0, 1) if flags & 0x1000 == 0 => Err(NotTcp::OtherProtocol),
            (0, 1) => {
                let inner = self.tagged(Tag::Gre, ends);
                inner.deeper()?.skip(4 + 4 * words(&[0x2000, 0x1000, 0x0080])).ether_type(ether_type)
            }
            _ => Err(NotTcp::OtherProtocol), // source routes, which nobody sends
        }
    }

    fn udp(self) -> Inner<'a> {
        let rest = self.rest();
        let (source, destination) = (be16(rest, 0), be16(rest, 2).ok_or(NotTcp::TooShort)?);
        let Some(body) = rest.get(8..) else { return Err(NotTcp::TooShort) };
        let inner = self.skip(8);
        // VXLAN, VXLAN-GPE and Geneve have their network's number at the same place.
        let network = || be32(body, 4).map(|word| word >> 8).ok_or(NotTcp::TooShort);
        match (destination, source.unwrap_or(0)) {
            // VXLAN (RFC 7348), at its port and at the one that Linux used before the port was assigned.
            (4789 | 8472, _) => match body.first() {
                Some(flags) if flags & 0x08 != 0 => {
                    inner.deeper()?.tagged(Tag::Vxlan, network()?).skip(8).ethernet()
                }
                Some(_) => Err(NotTcp::OtherProtocol),
                None => Err(NotTcp::TooShort),
            },
            // VXLAN-GPE: the P bit says that the fourth byte is the next protocol.
            (4790, _) => match body.first_chunk::<4>() {
                Some([flags, _, _, protocol]) if flags & 0x04 != 0 => {
                    inner.deeper()?.tagged(Tag::Vxlan, network()?).skip(8).next_protocol(*protocol)
                }
                Some(_) => inner.deeper()?.tagged(Tag::Vxlan, network()?).skip(8).ethernet(),
                None => Err(NotTcp::TooShort),
            },
            // Geneve (RFC 8926).
            (6081, _) => {
                let options = 4 * usize::from(body.first().ok_or(NotTcp::TooShort)? & 0x3f);
                inner.deeper()?.tagged(Tag::Geneve, network()?).ether_type_at(2, 8 + options)
            }
            (2152, _) | (_, 2152) => inner.gtp(),
            (1701, _) | (_, 1701) => inner.l2tp(),
            (37_008, _) => inner.tzsp(),
            (5247, _) | (_, 5247) => inner.capwap(),
            (5072, _) | (_, 5072) => inner.ayiya(),
            // GRE in UDP (RFC 8086). The datagram's addresses are not at hand here; its keys are.
            (4754, _) => inner.deeper()?.gre(0),
            // sFlow takes samples: a datagram holds the beginnings of a few packets, and most of a connection's are missing.
            (6343, _) => Err(NotTcp::NotUnderstood(Layer::Samples)),
            // MPLS in UDP (RFC 7510).
            (6635, _) => inner.mpls(),
            // Teredo (RFC 4380), if no authentication or origin header stands before the IPv6 packet.
            (3544, _) | (_, 3544) if body.first().is_some_and(|byte| byte >> 4 == 6) => {
                inner.deeper()?.tagged(Tag::Teredo, 0).ip()
            }
            _ if is_vxlan(body) => inner.deeper()?.tagged(Tag::Vxlan, network()?).skip(8).ethernet(),
            _ => Err(NotTcp::OtherProtocol),
        }
    }

    /// GTP-U (3GPP TS 29.281): a tunnel for the packets of a mobile phone.
    fn gtp(self) -> Inner<'a> {
        let rest = self.rest();
        let (flags, kind) = (*rest.first().ok_or(NotTcp::TooShort)?, *rest.get(1).ok_or(NotTcp::TooShort)?);
        // Only version 1, not GTP', and only messages that carry a packet: the others are between gateways.
        if flags & 0xf0 != 0x30 || kind != 0xff {
            return Err(NotTcp::OtherProtocol);
        }
        let tunnel = be32(rest, 4).ok_or(NotTcp::TooShort)?;
        let mut cursor = self.deeper()?.tagged(Tag::Gtp, tunnel).skip(8);
        if flags & 0x07 != 0 {
            let mut next = if flags & 0x04 == 0 { 0 } else { *rest.get(11).ok_or(NotTcp::TooShort)? };
            cursor = cursor.skip(4);
            // Extension headers: the length in words first, the next kind last.
            while next != 0 {
                let rest = cursor.rest();
                let length = 4 * usize::from(*rest.first().ok_or(NotTcp::TooShort)?);
                next = *rest.get(length.wrapping_sub(1)).ok_or(NotTcp::TooShort)?;
                cursor = cursor.skip(length);
            }
        }
        cursor.ip()
    }

    /// L2TP, version 2 (RFC 2661): flags say which fields are there.
    fn l2tp(self) -> Inner<'a> {
        let rest = self.rest();
        let flags = be16(rest, 0).ok_or(NotTcp::TooShort)?;
        if flags & 0x000f != 2 || flags & 0x8000 != 0 {
            return Err(NotTcp::OtherProtocol); // another version, or control
        }
        let optional = |bit: u16, bytes: usize| if flags & bit == 0 { 0 } else { bytes };
        let tunnel = be32(rest, 2 + optional(0x4000, 2)).ok_or(NotTcp::TooShort)?;
        let length = 6 + optional(0x4000, 2) + optional(0x0800, 4);
        let offset = match optional(0x0200, 2) {
            0 => 0,
            bytes => bytes + usize::from(be16(rest, length).ok_or(NotTcp::TooShort)?),
        };
        self.deeper()?.tagged(Tag::L2tp, tunnel).skip(length + offset).ppp()
    }

    /// CAPWAP's data channel (RFC 5415 section 4.3): what an access point tunnels to its controller.
    fn capwap(self) -> Inner<'a> {
        let header = be32(self.rest(), 0).ok_or(NotTcp::TooShort)?;
        let bit = |bit: u32| header >> bit & 1 == 1;
        // The first byte is the version and, if DTLS hides the rest, a 1.
        match header >> 24 {
            0 if bit(3) => return Err(NotTcp::OtherProtocol), // keep-alive
            0 if bit(7) => return Err(NotTcp::Fragment),
            0 => {}
            1 => return Err(NotTcp::NotUnderstood(Layer::Encrypted)),
            _ => return Err(NotTcp::OtherProtocol),
        }
        let inner = self.deeper()?.skip(4 * (header as usize >> 19 & 0x1f));
        if bit(8) { inner.wireless_in_capwap() } else { inner.ethernet() }
    }

    /// AYIYA (draft-massar-v6ops-ayiya): IPv6 behind an identity, whose length is a power of two, and a signature.
    fn ayiya(self) -> Inner<'a> {
        let [identity, signature, _, next] = *self.rest().first_chunk::<4>().ok_or(NotTcp::TooShort)?;
        if next != 41 {
            return Err(NotTcp::OtherProtocol);
        }
        let length = (1 << (identity >> 4)) + 4 * usize::from(signature >> 4);
        self.deeper()?.tagged(Tag::IpInIp, 0).skip(8 + length).ip()
    }

    /// TaZmen sniffer protocol: a frame that an access point has received. Tags up to the end tag, then the frame.
    fn tzsp(self) -> Inner<'a> {
        let rest = self.rest();
        let Some([1, _, _, _]) = rest.first_chunk::<4>() else { return Err(NotTcp::OtherProtocol) };
        let kind = be16(rest, 2).ok_or(NotTcp::TooShort)?;
        let mut cursor = self.deeper()?.skip(4);
        loop {
            let rest = cursor.rest();
            match *rest.first().ok_or(NotTcp::TooShort)? {
                0 => cursor = cursor.skip(1),
                1 => break,
                _ => cursor = cursor.skip(2 + usize::from(*rest.get(1).ok_or(NotTcp::TooShort)?)),
            }
        }
        match kind {
            1 => cursor.skip(1).ethernet(),
            0x12 => cursor.skip(1).wireless(),
            _ => Err(NotTcp::OtherProtocol),
        }
    }

    /// Continues with what follows an IP header.
    #[inline]
    pub(super) fn transport(self, protocol: u8, ip: Ip) -> Inner<'a> {
        if protocol == TCP { self.tcp(ip) } else { self.tunnel(protocol, &ip) }
    }
}

/// Whether a datagram, at any port, is VXLAN: its fixed bytes are right, and it contains an Ethernet frame with an IPv4
/// header whose checksum is right. Ten bytes have to match, so that other datagrams are not taken for VXLAN.
fn is_vxlan(body: &[u8]) -> bool {
    if body.get(..4) != Some(&[8, 0, 0, 0]) || body.get(7) != Some(&0) || body.get(20..22) != Some(&[8, 0]) {
        return false;
    }
    let Some(header) = body.get(22..42) else { return false };
    let sum: u32 = header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    header[0] == 0x45 && (sum & 0xffff) + (sum >> 16) == 0xffff
}
