//! What lies between the frame and IP: link types, EtherTypes and PPP.
//!
//! Numbers are from the registries of IANA (EtherTypes, PPP) and tcpdump.org (link types).

use super::cursor::{Cursor, be16, be32};
use super::path::Tag;
use super::{Layer, NotTcp, Segment};
use crate::LinkType;

/// The segment inside a layer, or why there is none.
pub(super) type Inner<'a> = Result<Segment<'a>, NotTcp>;

/// LLC with a SNAP header, unnumbered information (IEEE 802.2).
const SNAP: [u8; 3] = [0xaa, 0xaa, 0x03];

/// EtherTypes that never carry TCP: ARP, RARP, AppleTalk and its ARP, IPX, flow control, LACP, PPPoE discovery, 802.1X,
/// PROFINET, EtherCAT, ATA, GOOSE and sampled values (IEC 61850), LLDP, PTP, 802.1ag, FIP, loopback tests, WoL, TRILL's
/// and MVRP's control.
const OTHERS: [u16; 23] = [
    0x0806, 0x8035, 0x809b, 0x80f3, 0x8137, 0x8138, 0x8808, 0x8809, 0x8863, 0x888e, 0x8892, 0x88a4, 0x88a2,
    0x88b8, 0x88ba, 0x88cc, 0x88f7, 0x8902, 0x8914, 0x9000, 0x0842, 0x22f4, 0x88f5,
];

impl<'a> Cursor<'a> {
    #[inline(never)]
    pub(super) fn any(self, link: LinkType) -> Inner<'a> {
        match link {
            LinkType::ETHERNET => self.ethernet(),
            LinkType::RAW | LinkType::IPV4 | LinkType::IPV6 | LinkType(12 | 14) => self.ip(),
            LinkType::LINUX_SLL => self.ether_type_at(14, 16),
            LinkType::LINUX_SLL2 => self.ether_type_at(0, 20),
            // The address family's number for IPv6 differs between systems; the IP version does not.
            LinkType::NULL | LinkType::LOOP => self.skip(4).ip(),
            other => self.rare(other),
        }
    }

    /// Link types that few captures have.
    #[cold]
    fn rare(self, link: LinkType) -> Inner<'a> {
        let rest = self.rest();
        let le16 = |at| be16(rest, at).map(u16::swap_bytes).ok_or(NotTcp::TooShort);
        match link.0 {
            // PPP: plain, in HDLC-like framing, and of pppd; 204 has a byte for the direction first.
            9 | 50 | 166 => self.ppp(),
            204 => self.skip(1).ppp(),
            // PPPoE without Ethernet.
            51 => self.ppp_over_ethernet(),
            // Cisco HDLC.
            104 => self.ether_type_at(2, 4),
            205 => self.skip(1).ether_type_at(2, 4),
            // Frame relay with two bytes of address; the NLPIDs of RFC 2427.
            107 => match rest.get(2..4).ok_or(NotTcp::TooShort)? {
                [0x03, 0xcc | 0x8e] => self.skip(4).ip(),
                [0x03, 0x80] => self.ether_type_at(7, 9),
                [0x08, 0x00] => self.skip(4).ip(),
                _ => Err(NotTcp::NotUnderstood(Layer::Link(link))),
            },
            // LLC, as in RFC 2684.
            100 => self.llc(),
            105 => self.wireless(),
            // Prism, AVS and radiotap headers before 802.11.
            119 => self.skip(144).wireless(),
            163 => {
                let length = u32::from(be16(rest, 4).ok_or(NotTcp::TooShort)?) << 16
                    | u32::from(be16(rest, 6).ok_or(NotTcp::TooShort)?);
                self.skip(usize::try_from(length.min(1 << 16)).unwrap_or(usize::MAX)).wireless()
            }
            127 => self.radiotap(),
            // PPI: the header's length, and the link type of what follows, both little-endian.
            192 => {
                let (length, inner) = (le16(2)?, le16(4)?);
                self.deeper()?.skip(length.into()).any(LinkType(inner))
            }
            // PKTAP: the same as PPI, with fields of 32 bits.
            258 => {
                let (length, inner) = (le16(0)?, le16(8)?);
                self.deeper()?.skip(length.into()).any(LinkType(inner))
            }
            239 => self.nflog(),
            // 117, pf's log: the first byte is the header's length, to be rounded up to words. 109: IPsec's interface
            // `enc`.
            117 => self.skip(usize::from(*rest.first().ok_or(NotTcp::TooShort)?).next_multiple_of(4)).ip(),
            109 => self.skip(12).ip(),
            // 138, Apple's IP over FireWire: two addresses of 8 bytes. 226: Solaris's IPNET.
            138 => self.ether_type_at(16, 18),
            226 => self.skip(24).ip(),
            _ => Err(NotTcp::NotUnderstood(Layer::Link(link))),
        }
    }

    #[inline]
    pub(super) fn ethernet(self) -> Inner<'a> {
        self.ether_type_at(12, 14)
    }

    /// Reads an EtherType at `at`, and continues with that protocol at `next`.
    #[inline]
    pub(super) fn ether_type_at(self, at: usize, next: usize) -> Inner<'a> {
        let ether_type = be16(self.rest(), at).ok_or(NotTcp::TooShort)?;
        self.skip(next).ether_type(ether_type)
    }

    #[inline]
    pub(super) fn ether_type(self, ether_type: u16) -> Inner<'a> {
        match ether_type {
            0x0800 => self.ipv4(),
            0x86dd => self.ipv6(),
            // 802.1Q, 802.1ad and the old QinQ numbers: two bytes of tag, then the EtherType.
            0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300 => self.deeper()?.vlan(),
            other => self.rare_ether_type(other),
        }
    }

    /// A VLAN tag. Number 0 is a priority alone (IEEE 802.1Q), and no VLAN.
    fn vlan(self) -> Inner<'a> {
        match be16(self.rest(), 0).ok_or(NotTcp::TooShort)? & 0x0fff {
            0 => self.ether_type_at(2, 4),
            number => self.tagged(Tag::Vlan, number.into()).ether_type_at(2, 4),
        }
    }

    #[cold]
    fn rare_ether_type(self, ether_type: u16) -> Inner<'a> {
        let rest = self.rest();
        match ether_type {
            0x8864 => self.ppp_over_ethernet(),
            0x880b => self.ppp(),
            0x8847 | 0x8848 => self.mpls(),
            // Transparent Ethernet bridging, inside GRE and Geneve.
            0x6558 => self.deeper()?.ethernet(),
            // ERSPAN II: eight bytes before the mirrored frame.
            0x88be => {
                let session = be16(rest, 2).ok_or(NotTcp::TooShort)? & 0x03ff;
                self.deeper()?.tagged(Tag::Erspan, session.into()).skip(8).ethernet()
            }
            // ERSPAN III: twelve, or twenty with the O bit; the frame type 2 is bare IP.
            0x22eb => {
                let flags = be16(rest, 10).ok_or(NotTcp::TooShort)?;
                let session = be16(rest, 2).ok_or(NotTcp::TooShort)? & 0x03ff;
                let inner = self.deeper()?.tagged(Tag::Erspan, session.into());
                let inner = inner.skip(if flags & 1 == 0 { 12 } else { 20 });
                if flags >> 10 & 0x1f == 2 { inner.ip() } else { inner.ethernet() }
            }
            // Network service header (RFC 8300): it contains its length in words, and the next protocol.
            0x894f => {
                let words = be16(rest, 0).ok_or(NotTcp::TooShort)? & 0x3f;
                let protocol = *rest.get(3).ok_or(NotTcp::TooShort)?;
                self.deeper()?.skip(4 * usize::from(words)).next_protocol(protocol)
            }
            // 802.1ah: four bytes of service instance. Then a whole frame.
            0x88e7 => {
                let instance = be32(rest, 0).ok_or(NotTcp::TooShort)? & 0x00ff_ffff;
                self.deeper()?.tagged(Tag::ServiceInstance, instance).skip(4).ethernet()
            }
            // FabricPath: two bytes of tag, then a whole frame. TRILL (RFC 6325): the header contains the number of its
            // options in words.
            0x8903 => self.deeper()?.skip(2).ethernet(),
            0x22f3 => {
                let options = usize::from(be16(rest, 0).ok_or(NotTcp::TooShort)? >> 6 & 0x1f);
                self.deeper()?.skip(6 + 4 * options).ethernet()
            }
            // Cisco's metadata: the second byte is the length in words of what follows the first two.
            0x8909 => {
                let length = 2 + 4 * usize::from(*rest.get(1).ok_or(NotTcp::TooShort)?);
                self.deeper()?.ether_type_at(length, length + 2)
            }
            // The R-tag of 802.1CB, and Cisco's VN-Tag, from which 802.1BR was made: four bytes each.
            0xf1c1 | 0x8926 => self.deeper()?.ether_type_at(4, 6),
            // The E-tag of 802.1BR as published: six bytes.
            0x893f => self.deeper()?.ether_type_at(6, 8),
            // MACsec: the E bit says encrypted, the SC bit that eight bytes of an identifier follow.
            0x88e5 => match *rest.first().ok_or(NotTcp::TooShort)? {
                control if control & 0x08 != 0 => Err(NotTcp::NotUnderstood(Layer::Encrypted)),
                control => {
                    let length = if control & 0x20 == 0 { 6 } else { 14 };
                    self.deeper()?.ether_type_at(length, length + 2)
                }
            },
            // WCCP: a redirect header of four bytes in its second version, none in the first.
            0x883e if rest.first().is_some_and(|byte| byte >> 4 == 4) => self.deeper()?.ipv4(),
            0x883e => self.deeper()?.skip(4).ipv4(),
            // IEEE 802.3: the field is the frame's length, and LLC follows.
            0..=0x05ff => self.llc(),
            other if OTHERS.contains(&other) => Err(NotTcp::OtherProtocol),
            other => Err(NotTcp::NotUnderstood(Layer::EtherType(other))),
        }
    }

    /// LLC, with or without SNAP (RFC 1042).
    pub(super) fn llc(self) -> Inner<'a> {
        let rest = self.rest();
        let header = *rest.first_chunk::<3>().ok_or(NotTcp::TooShort)?;
        match header {
            SNAP => match rest.get(3..6).ok_or(NotTcp::TooShort)? {
                // An EtherType follows: the organisation codes of RFC 1042 and of bridges that tunnel (802.1H).
                [0, 0, 0] | [0, 0, 0xf8] => self.deeper()?.ether_type_at(6, 8),
                // RFC 2684: bridged Ethernet, with two bytes of padding, maybe with its checksum.
                [0, 0x80, 0xc2] => self.deeper()?.skip(10).ethernet(),
                _ => Err(NotTcp::OtherProtocol),
            },
            [0x06, 0x06, 0x03] => self.skip(3).ip(),
            // ISO network layer (RFC 2684): the NLPID is the next byte.
            [0xfe, 0xfe, 0x03] if matches!(rest.get(3), Some(0xcc | 0x8e)) => self.skip(4).ip(),
            // Spanning tree, ISO routing, NetBIOS, IPX, XID and test frames.
            [0x42 | 0xfe | 0xf0 | 0xe0 | 0xff | 0xaa, ..] | [.., 0xaf | 0xbf | 0xe3 | 0xf3] => {
                Err(NotTcp::OtherProtocol)
            }
            [to, from, _] => Err(NotTcp::NotUnderstood(Layer::Llc(to, from))),
        }
    }

    /// PPPoE session: six bytes, then PPP without address and control.
    fn ppp_over_ethernet(self) -> Inner<'a> {
        let session = be16(self.rest(), 2).ok_or(NotTcp::TooShort)?;
        self.tagged(Tag::Pppoe, session.into()).skip(6).ppp()
    }

    /// PPP (RFC 1661): the address and control bytes may be left out, and so may the first byte of the protocol.
    pub(super) fn ppp(self) -> Inner<'a> {
        let cursor = if self.rest().starts_with(&[0xff, 0x03]) { self.skip(2) } else { self };
        let rest = cursor.rest();
        let first = match rest {
            [] | [0xff] => return Err(NotTcp::TooShort),
            [first, ..] => *first,
        };
        let (protocol, length) =
            if first & 1 == 1 { (first.into(), 1) } else { (be16(rest, 0).ok_or(NotTcp::TooShort)?, 2) };
        match protocol {
            0x0021 | 0x0057 => cursor.skip(length).ip(),
            0x0281 | 0x0283 => cursor.skip(length).mpls(),
            // PPP's own control protocols, and network protocols other than IP.
            0x4001.. | 0x0023..=0x002b => Err(NotTcp::OtherProtocol),
            other => Err(NotTcp::NotUnderstood(Layer::Ppp(other))),
        }
    }

    /// A label stack (RFC 3032). The stack does not say what it carries, so the first four bits after it decide (RFC 4928,
    /// RFC 4385). 4 and 6: IP. 0: a pseudowire's control word, then an Ethernet frame. 1: a pseudowire's associated channel.
    /// Anything else: an Ethernet frame without a control word.
    pub(super) fn mpls(self) -> Inner<'a> {
        let mut cursor = self.deeper()?;
        loop {
            let label = *cursor.rest().first_chunk::<4>().ok_or(NotTcp::TooShort)?;
            cursor = cursor.tagged(Tag::Mpls, u32::from_be_bytes(label) >> 12).skip(4);
            if label[2] & 1 == 1 {
                break;
            }
        }
        match cursor.rest().first().map(|byte| byte >> 4) {
            Some(4 | 6) => cursor.ip(),
            Some(0) => cursor.skip(4).ethernet(),
            // The associated channel: OAM.
            Some(1) => Err(NotTcp::OtherProtocol),
            Some(_) => cursor.ethernet(),
            None => Err(NotTcp::TooShort),
        }
    }

    /// Continues with the next protocol of VXLAN-GPE or NSH, which share these numbers.
    pub(super) fn next_protocol(self, protocol: u8) -> Inner<'a> {
        match protocol {
            1 | 2 => self.ip(),
            3 => self.ethernet(),
            4 => self.ether_type(0x894f),
            5 => self.mpls(),
            _ => Err(NotTcp::OtherProtocol),
        }
    }

    /// NFLOG: netlink attributes in the byte order of the capturing machine, which is assumed to be little-endian.
    /// Attribute 9 is the packet.
    fn nflog(self) -> Inner<'a> {
        let mut cursor = self.skip(4);
        loop {
            let rest = cursor.rest();
            let le16 = |at| be16(rest, at).map(u16::swap_bytes).ok_or(NotTcp::TooShort);
            let (length, kind) = (usize::from(le16(0)?), le16(2)?);
            if kind == 9 {
                return cursor.skip(4).ip();
            }
            if length < 4 {
                return Err(NotTcp::Malformed);
            }
            cursor = cursor.skip(length.next_multiple_of(4));
        }
    }
}
