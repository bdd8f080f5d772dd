//! Captures made packet by packet. Both ends count their own sequence numbers, and a case changes one field of
//! one packet.
//!
//! A capture built here is read as a file is: bytes, reader, analyzer, verdict.

use std::net::{IpAddr, SocketAddr};

use linger_packet::capture::CaptureReader;
use linger_packet::{Flags, LinkType, pcapng};
use linger_why::{AnalyzerLimits, Finding, examine_reader};

pub(crate) const F: Flags = Flags::FIN;
pub(crate) const S: Flags = Flags::SYN;
pub(crate) const R: Flags = Flags::RST;
pub(crate) const A: Flags = Flags::ACK;

/// The first packet's time.
const START: u64 = 1_780_000_000_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Client,
    Server,
}
pub(crate) use Who::{Client, Server};

impl Who {
    pub(crate) fn other(self) -> Self {
        if self == Client { Server } else { Client }
    }
}

/// One packet, every field of it free to be changed.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// Nanoseconds.
    pub(crate) time: u64,
    pub(crate) from: Who,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: Flags,
    pub(crate) window: u16,
    pub(crate) timestamps: bool,
    /// The window scale option; only SYNs have one.
    pub(crate) scale: Option<u8>,
    /// Blocks of a selective acknowledgement.
    pub(crate) sack: Vec<(u32, u32)>,
    /// The options in the place of timestamps and scale.
    pub(crate) options: Option<Vec<u8>>,
    /// Whether the checksum is computed; it is 0 otherwise.
    pub(crate) checksum: bool,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) payload: Vec<u8>,
    pub(crate) interface: usize,
    /// The VLAN and the MPLS label around it; 0: none.
    pub(crate) vlan: u16,
    pub(crate) label: u32,
    pub(crate) comment: Option<String>,
    /// Bytes kept of the frame.
    pub(crate) snap: usize,
    /// An ICMP error that a router sends to `destination`, about the packet before: its type and code, and an MTU.
    pub(crate) icmp: Option<(u8, u8, u16)>,
}

#[derive(Clone, Debug)]
struct End {
    address: SocketAddr,
    next: u32,
    ttl: u8,
    id: u16,
    window: u16,
    scale: Option<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Flow {
    now: u64,
    ends: [End; 2],
    packets: Vec<Packet>,
}

/// A connection from 192.0.2.10:40000 to 198.51.100.20:80. Each packet comes a millisecond after the one before.
pub(crate) fn flow() -> Flow {
    let end = |address: &str, next, ttl, id| End {
        address: address.parse().unwrap(),
        next,
        ttl,
        id,
        window: 502,
        scale: Some(7),
    };
    Flow {
        now: START,
        ends: [end("192.0.2.10:40000", 1_000, 64, 100), end("198.51.100.20:80", 900_000, 52, 7_000)],
        packets: Vec::new(),
    }
}

impl Flow {
    pub(crate) fn ports(mut self, client: u16, server: u16) -> Self {
        self.ends[0].address.set_port(client);
        self.ends[1].address.set_port(server);
        self
    }

    pub(crate) fn addresses(mut self, client: &str, server: &str) -> Self {
        self.ends[0].address.set_ip(client.parse().unwrap());
        self.ends[1].address.set_ip(server.parse().unwrap());
        self
    }

    pub(crate) fn v6(self) -> Self {
        self.addresses("2001:db8::10", "2001:db8::20")
    }

    pub(crate) fn isns(mut self, client: u32, server: u32) -> Self {
        (self.ends[0].next, self.ends[1].next) = (client, server);
        self
    }

    pub(crate) fn scale(mut self, who: Who, scale: Option<u8>) -> Self {
        self.ends[who as usize].scale = scale;
        self
    }

    /// A capture at the server: the client's packets have passed routers.
    pub(crate) fn at_server(self) -> Self {
        self.with_all(|packet| packet.ttl = if packet.from == Who::Client { 52 } else { 64 })
            .ttl(Who::Client, 52)
            .ttl(Who::Server, 64)
    }

    /// The window field of the packets that `who` sends from here on.
    pub(crate) fn window(mut self, who: Who, window: u16) -> Self {
        self.ends[who as usize].window = window;
        self
    }

    pub(crate) fn ttl(mut self, who: Who, ttl: u8) -> Self {
        self.ends[who as usize].ttl = ttl;
        self
    }

    /// The identification of the next packet of `who`.
    pub(crate) fn id(mut self, who: Who, id: u16) -> Self {
        self.ends[who as usize].id = id;
        self
    }

    pub(crate) fn wait(self, ms: u64) -> Self {
        self.wait_us(ms * 1_000)
    }

    pub(crate) fn wait_us(mut self, us: u64) -> Self {
        self.now += us * 1_000;
        self
    }

    /// Lets the next packet come `us` microseconds after the last one, not a millisecond.
    pub(crate) fn just(mut self, us: u64) -> Self {
        self.now = self.packets.last().map_or(self.now, |packet| packet.time) + us * 1_000;
        self
    }

    /// Adds a packet as `who` would send it now.
    pub(crate) fn packet(mut self, who: Who, flags: Flags, payload: &[u8]) -> Self {
        let other = &self.ends[who.other() as usize];
        let (destination, ack) = (other.address, if flags.has(A) { other.next } else { 0 });
        let end = &mut self.ends[who as usize];
        self.packets.push(Packet {
            time: self.now,
            from: who,
            source: end.address,
            destination,
            seq: end.next,
            ack,
            flags,
            window: if flags.has(S) { 64_240 } else { end.window },
            timestamps: true,
            scale: end.scale.filter(|_| flags.has(S)),
            sack: Vec::new(),
            options: None,
            checksum: false,
            ttl: end.ttl,
            id: end.id,
            payload: payload.to_vec(),
            interface: 0,
            vlan: 0,
            label: 0,
            comment: None,
            snap: usize::MAX,
            icmp: None,
        });
        end.id = end.id.wrapping_add(1);
        if !flags.has(R) {
            end.next = end
                .next
                .wrapping_add(payload.len() as u32)
                .wrapping_add(u32::from(flags.any(S)) + u32::from(flags.any(F)));
        }
        self.now += 1_000_000;
        self
    }

    pub(crate) fn syn(self) -> Self {
        self.packet(Client, S, b"")
    }

    pub(crate) fn syn_ack(self) -> Self {
        self.packet(Server, S | A, b"")
    }

    /// SYN, SYN-ACK, ACK.
    pub(crate) fn shake(self) -> Self {
        self.syn().syn_ack().ack(Client)
    }

    pub(crate) fn ack(self, who: Who) -> Self {
        self.packet(who, A, b"")
    }

    pub(crate) fn data(self, who: Who, payload: &[u8]) -> Self {
        self.packet(who, A | Flags::PSH, payload)
    }

    /// Payload of `count` bytes that belong to no known protocol.
    pub(crate) fn bytes(self, who: Who, count: usize) -> Self {
        self.data(who, &vec![b'x'; count])
    }

    pub(crate) fn fin(self, who: Who) -> Self {
        self.packet(who, F | A, b"")
    }

    /// A reset that answers no packet.
    pub(crate) fn rst(self, who: Who) -> Self {
        self.packet(who, R | A, b"")
    }

    /// A reset in answer to the other side's last packet.
    pub(crate) fn bare(self, who: Who) -> Self {
        let asked = self.last_of(who.other()).ack;
        self.packet(who, R, b"").with(|reset| {
            (reset.seq, reset.window, reset.timestamps, reset.id) = (asked, 0, false, 0);
        })
    }

    /// A reset in answer to the other side's SYN.
    pub(crate) fn refuse(self, who: Who) -> Self {
        self.rst(who).with(|reset| {
            (reset.seq, reset.window, reset.timestamps, reset.id) = (0, 0, false, 0);
        })
    }

    /// Sends the side's last packet that takes sequence space once more.
    pub(crate) fn again(mut self, who: Who) -> Self {
        let takes = |packet: &&Packet| {
            packet.from == who
                && (!packet.payload.is_empty() || packet.flags.any(S | F))
                && !packet.flags.has(R)
        };
        let mut packet = self.packets.iter().rev().find(takes).unwrap().clone();
        (packet.time, packet.id) = (self.now, self.ends[who as usize].id);
        self.ends[who as usize].id += 1;
        self.packets.push(packet);
        self.now += 1_000_000;
        self
    }

    /// The server sends its SYN-ACK once more.
    pub(crate) fn again_syn_ack(mut self) -> Self {
        let mut packet = self.packets.iter().find(|packet| packet.flags.has(S | A)).unwrap().clone();
        packet.time = self.now;
        self.packets.push(packet);
        self.now += 1_000_000;
        self
    }

    /// A keepalive probe, or the probe of a closed window.
    pub(crate) fn probe(self, who: Who) -> Self {
        self.ack(who).with(|packet| packet.seq = packet.seq.wrapping_sub(1))
    }

    /// Lets the last packet, an acknowledgement, acknowledge `bytes` less, and gives it these SACK blocks, counted from its
    /// acknowledgement number.
    pub(crate) fn sacks(self, bytes: u32, blocks: &[(u32, u32)]) -> Self {
        self.with(|packet| {
            packet.ack -= bytes;
            let at = packet.ack;
            packet.sack =
                blocks.iter().map(|(from, to)| (at.wrapping_add(*from), at.wrapping_add(*to))).collect();
        })
    }

    /// A router's ICMP error about the last packet of `who`, sent back to it.
    pub(crate) fn icmp(mut self, who: Who, kind: u8, code: u8, mtu: u16) -> Self {
        let mut packet = self.last_of(who).clone();
        (packet.time, packet.icmp) = (self.now, Some((kind, code, mtu)));
        self.packets.push(packet);
        self.now += 1_000_000;
        self
    }

    /// Changes the last packet.
    pub(crate) fn with(self, change: impl FnOnce(&mut Packet)) -> Self {
        let last = self.packets.len() - 1;
        self.with_at(last, change)
    }

    /// Changes the packet at this place, from 0.
    pub(crate) fn with_at(mut self, at: usize, change: impl FnOnce(&mut Packet)) -> Self {
        change(&mut self.packets[at]);
        self
    }

    /// Changes every packet.
    pub(crate) fn with_all(mut self, change: impl Fn(&mut Packet)) -> Self {
        self.packets.iter_mut().for_each(change);
        self
    }

    /// The same connection with the two addresses exchanged, so that the other end has the lower address.
    pub(crate) fn mirrored(self) -> Self {
        self.with_all(|packet| {
            let (source, destination) = (packet.source.ip(), packet.destination.ip());
            packet.source.set_ip(destination);
            packet.destination.set_ip(source);
        })
    }

    /// Leaves the last packet out of the capture, although it was sent.
    pub(crate) fn unseen(mut self) -> Self {
        self.packets.pop();
        self
    }

    /// Leaves everything that was sent so far out of the capture.
    pub(crate) fn all_unseen(mut self) -> Self {
        self.packets.clear();
        self
    }

    /// Leaves all packets of `who` out of the capture.
    pub(crate) fn without(mut self, who: Who) -> Self {
        self.packets.retain(|packet| packet.from != who);
        self
    }

    /// Only the packets before the one at `at`.
    pub(crate) fn before(mut self, at: usize) -> Self {
        self.packets.truncate(at);
        self
    }

    /// Only the packet at `at` and those after it.
    pub(crate) fn from(mut self, at: usize) -> Self {
        self.packets.drain(..at);
        self
    }

    /// Adds the packets of another connection, each at its own time.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.packets.extend(other.packets);
        self.packets.sort_by_key(|packet| packet.time);
        self
    }

    /// Adds the packets of several other connections, each at its own time.
    pub(crate) fn with_others(mut self, others: impl Iterator<Item = Self>) -> Self {
        self.packets.extend(others.flat_map(|other| other.packets));
        self.packets.sort_by_key(|packet| packet.time);
        self
    }

    pub(crate) fn last_of(&self, who: Who) -> &Packet {
        self.packets.iter().rev().find(|packet| packet.from == who).unwrap()
    }

    /// The capture as a file.
    pub(crate) fn file(&self) -> Vec<u8> {
        let mut writer = pcapng::Writer::new(Vec::new(), "rules").unwrap();
        let interfaces = self.packets.iter().map(|packet| packet.interface).max().unwrap_or(0);
        let ids: Vec<_> =
            (0..=interfaces).map(|_| writer.interface("any", LinkType::ETHERNET, 0).unwrap()).collect();
        for packet in &self.packets {
            let frame = [packet.wrapping(), packet.frame()].concat();
            let captured = &frame[..frame.len().min(packet.snap.saturating_add(packet.wrapping().len()))];
            let comment = packet.comment.as_deref();
            writer.packet(ids[packet.interface], packet.time, captured, frame.len() as u32, comment).unwrap();
        }
        writer.into_inner()
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        let file = self.file();
        let mut findings = Vec::new();
        let reader = CaptureReader::in_memory(&file).unwrap();
        let examined =
            examine_reader(reader, "built", AnalyzerLimits::default(), |finding| findings.push(finding));
        assert_eq!(examined.stopped, None);
        assert_eq!(examined.counts.packets as usize, self.packets.len());
        findings
    }
}

impl Packet {
    /// Ethernet, with the tags.
    fn wrapping(&self) -> Vec<u8> {
        let mut header = vec![2; 12];
        if self.vlan != 0 {
            header.extend([0x81, 0, (self.vlan >> 8) as u8, self.vlan as u8]);
        }
        if self.label != 0 {
            header.extend([0x88, 0x47]);
            header.extend((self.label << 12 | 0x100 | 64).to_be_bytes());
        } else {
            header.extend(if self.source.is_ipv4() { [8, 0] } else { [0x86, 0xdd] });
        }
        header
    }

    fn frame(&self) -> Vec<u8> {
        let Some((kind, code, mtu)) = self.icmp else { return self.segment() };
        let mut body = vec![kind, code, 0, 0, 0, 0];
        body.extend(mtu.to_be_bytes());
        body.extend(&self.segment()[..28]);
        let IpAddr::V4(to) = self.source.ip() else { panic!("ICMP is built over IPv4 only") };
        let mut ip = vec![0x45, 0, 0, (20 + body.len()) as u8, 0, 0, 0x40, 0, 254, 1, 0, 0];
        ip.extend([203, 0, 113, 1]);
        ip.extend(to.octets());
        [ip, body].concat()
    }

    /// RFC 1071 over the pseudo-header of IPv4 and the segment.
    fn checksum_of(&self, tcp: &[u8]) -> u16 {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (self.source.ip(), self.destination.ip()) else {
            panic!("checksums are built over IPv4 only")
        };
        let mut bytes = [source.octets(), destination.octets()].concat();
        bytes.extend([0, 6]);
        bytes.extend((tcp.len() as u16).to_be_bytes());
        bytes.extend(tcp);
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        let sum: u32 = bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        !((folded & 0xffff) + (folded >> 16)) as u16
    }

    fn segment(&self) -> Vec<u8> {
        let mut options = Vec::new();
        if self.timestamps {
            options.extend([1, 1, 8, 10]);
            options.extend(((self.time / 1_000_000) as u32).to_be_bytes());
            options.extend([0; 4]);
        }
        if let Some(scale) = self.scale {
            options.extend([1, 3, 3, scale]);
        }
        if let Some(own) = &self.options {
            options.clone_from(own);
        }
        if !self.sack.is_empty() {
            options.extend([1, 1, 5, 2 + 8 * self.sack.len() as u8]);
            for (from, to) in &self.sack {
                options.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
            }
        }
        let mut tcp = Vec::new();
        tcp.extend(self.source.port().to_be_bytes());
        tcp.extend(self.destination.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([(((20 + options.len()) / 4) << 4) as u8, self.flags.0]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(options);
        tcp.extend(&self.payload);
        if self.checksum {
            let sum = self.checksum_of(&tcp);
            tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        }
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip = vec![0x45, 0];
                ip.extend(((20 + tcp.len()) as u16).to_be_bytes());
                ip.extend(self.id.to_be_bytes());
                ip.extend([0x40, 0, self.ttl, 6, 0, 0]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                [ip, tcp].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend((tcp.len() as u16).to_be_bytes());
                ip.extend([6, self.ttl]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                [ip, tcp].concat()
            }
            _ => panic!("one connection, one version"),
        }
    }
}
