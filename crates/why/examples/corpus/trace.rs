//! The packets of a capture and of one connection, kept whole: the checker is to be simple, whatever memory it takes.

use std::net::SocketAddr;
use std::path::Path;

use linger_packet::capture::{self, CaptureReader, Packet, ReadError, Source};
use linger_packet::{Flags, IcmpError, NotTcp, Segment};
use linger_why::Finding;

/// A TCP segment.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) frame: u64,
    pub(crate) time_ns: u64,
    pub(crate) interface: u32,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: Flags,
    pub(crate) window: Option<u16>,
    pub(crate) scale: Option<u8>,
    pub(crate) timestamps: bool,
    /// Blocks of a selective acknowledgement.
    pub(crate) sack: Vec<(u32, u32)>,
    pub(crate) ttl: u8,
    pub(crate) id: Option<u16>,
    pub(crate) len: u32,
    pub(crate) payload: Vec<u8>,
    pub(crate) options: Vec<u8>,
    pub(crate) right_checksum: Option<bool>,
    /// An ICMP error about a segment from `from` to `to`, in the place of a segment.
    pub(crate) icmp: Option<IcmpError>,
}

impl Seen {
    pub(crate) fn has(&self, flags: Flags) -> bool {
        self.flags.has(flags)
    }

    /// The number after its last byte, SYN and FIN counted.
    pub(crate) fn end(&self) -> u32 {
        let extra = u32::from(self.has(Flags::SYN)) + u32::from(self.has(Flags::FIN));
        self.seq.wrapping_add(self.len).wrapping_add(extra)
    }

    /// The number after its last byte of payload.
    pub(crate) fn data_end(&self) -> u32 {
        self.seq.wrapping_add(self.len).wrapping_add(u32::from(self.has(Flags::SYN)))
    }

    pub(crate) fn kind(&self) -> (Flags, u32) {
        (self.flags, self.len)
    }
}

/// Reads all segments of a capture.
#[cfg_attr(test, allow(dead_code, reason = "the tests of the rules have captures in memory only"))]
pub(crate) fn read(path: &Path) -> Result<Vec<Seen>, ReadError> {
    Ok(read_all(capture::open(path)?))
}

/// The same of a capture that is open already.
pub(crate) fn read_all(mut reader: CaptureReader<impl Source>) -> Vec<Seen> {
    let mut all = Vec::new();
    while let Ok(Some(packet)) = reader.next() {
        let segment = match Segment::from_frame(packet.link, packet.data, packet.wire_len) {
            Ok(segment) => segment,
            Err(NotTcp::Icmp(error)) => {
                all.push(reported(&packet, error));
                continue;
            }
            Err(_) => continue,
        };
        let options = segment.parse_options();
        all.push(Seen {
            frame: packet.frame,
            time_ns: packet.time_ns,
            interface: packet.interface,
            from: segment.source,
            to: segment.destination,
            seq: segment.seq,
            ack: segment.ack,
            flags: segment.flags,
            window: segment.window,
            scale: options.window_scale,
            timestamps: options.timestamps.is_some(),
            sack: segment.sack_blocks().collect(),
            ttl: segment.ttl,
            id: segment.ip_id,
            len: segment.payload_len,
            payload: segment.payload.to_vec(),
            options: segment.options.to_vec(),
            right_checksum: segment.has_right_checksum(packet.data),
            icmp: None,
        });
    }
    all
}

fn reported(packet: &Packet<'_>, error: IcmpError) -> Seen {
    Seen {
        frame: packet.frame,
        time_ns: packet.time_ns,
        interface: packet.interface,
        from: error.source,
        to: error.destination,
        seq: error.seq,
        ack: 0,
        flags: Flags::default(),
        window: None,
        scale: None,
        timestamps: false,
        sack: Vec::new(),
        ttl: 0,
        id: None,
        len: 0,
        payload: Vec::new(),
        options: Vec::new(),
        right_checksum: None,
        icmp: Some(error),
    }
}

/// Whether `a` is at or after `b` on the circle of sequence numbers.
pub(crate) fn at_or_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) < 1 << 31
}

pub(crate) fn latest(numbers: impl Iterator<Item = u32>) -> Option<u32> {
    numbers.reduce(|known, new| if at_or_after(new, known) { new } else { known })
}

/// What one side sent before the reset, and after it.
#[derive(Debug, Default)]
pub(crate) struct Sent<'a> {
    pub(crate) before: Vec<&'a Seen>,
    pub(crate) after: Vec<&'a Seen>,
}

impl<'a> Sent<'a> {
    pub(crate) fn syn(&self) -> Option<&'a Seen> {
        self.before.iter().find(|seen| seen.has(Flags::SYN)).copied()
    }

    pub(crate) fn fin(&self) -> Option<&'a Seen> {
        self.before.iter().find(|seen| seen.has(Flags::FIN)).copied()
    }

    /// After its last byte, FIN counted. A FIN that one stack sends twice, the second one number on, counts once.
    pub(crate) fn end(&self) -> Option<u32> {
        let fin = self.fin().map(Seen::end);
        latest(self.before.iter().filter(|seen| !seen.has(Flags::FIN)).map(|seen| seen.end()).chain(fin))
    }

    pub(crate) fn data_end(&self) -> Option<u32> {
        latest(self.before.iter().map(|seen| seen.data_end()))
    }

    /// The latest acknowledgement before the reset.
    pub(crate) fn ack(&self) -> Option<u32> {
        latest(self.before.iter().filter(|seen| seen.has(Flags::ACK)).map(|seen| seen.ack))
    }

    /// The latest acknowledgement of all.
    pub(crate) fn final_ack(&self) -> Option<u32> {
        let all = self.before.iter().chain(&self.after);
        latest(all.filter(|seen| seen.has(Flags::ACK) && !seen.has(Flags::SYN)).map(|seen| seen.ack))
    }

    /// Bytes beyond `ack` that were acknowledged selectively before the reset: every byte of every block once.
    pub(crate) fn sacked_beyond(&self, ack: u32) -> u64 {
        let of = |number: u32| i64::from(number.wrapping_sub(ack) as i32);
        let blocks = self.before.iter().flat_map(|seen| &seen.sack);
        let mut blocks: Vec<_> = blocks.map(|&(from, to)| (of(from), of(to))).collect();
        // No window is larger than 1 GiB.
        blocks.retain(|(_, to)| *to < 1 << 30);
        blocks.sort_unstable();
        let (mut known, mut bytes) = (0, 0);
        for (from, to) in blocks {
            bytes += (to - from.max(known)).max(0) as u64;
            known = known.max(to);
        }
        bytes
    }

    /// Whether each packet begins where all before it ended, or repeats them.
    pub(crate) fn in_order(&self) -> bool {
        let mut end = None::<u32>;
        self.before.iter().all(|seen| {
            let fits = end.is_none_or(|end| at_or_after(end, seen.seq));
            end = Some(
                end.map_or(seen.end(), |end| if at_or_after(seen.end(), end) { seen.end() } else { end }),
            );
            fits
        })
    }

    /// Distinct bytes of payload from `from` on.
    pub(crate) fn bytes_from(&self, from: u32) -> u64 {
        let start = self.before.first().map_or(from, |seen| seen.seq);
        let mut parts: Vec<(i64, i64)> = self
            .before
            .iter()
            .filter(|seen| seen.len > 0)
            .map(|seen| {
                let at = seen.data_end().wrapping_sub(seen.len);
                let relative = i64::from(at.wrapping_sub(start) as i32);
                (relative, relative + i64::from(seen.len))
            })
            .collect();
        parts.sort_unstable();
        let mut known = i64::from(from.wrapping_sub(start) as i32);
        let mut bytes = 0;
        for (begin, end) in parts {
            let begin = begin.max(known);
            if end > begin {
                bytes += (end - begin) as u64;
                known = end;
            }
        }
        bytes
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.before.first().map_or(0, |first| self.bytes_from(first.seq))
    }

    /// The payload without a gap, from the first byte seen, and that byte's sequence number. Ends at the first gap.
    pub(crate) fn stream(&self) -> (u32, Vec<u8>) {
        let mut bytes = Vec::new();
        let mut start = None;
        for seen in self.before.iter().filter(|seen| seen.len > 0) {
            let at = seen.data_end().wrapping_sub(seen.len);
            let from = *start.get_or_insert(at);
            let have = from.wrapping_add(bytes.len() as u32);
            let skip = have.wrapping_sub(at) as usize;
            if !at_or_after(have, at) {
                break;
            }
            // Bytes that the snap length has cut off are filled up: lengths are right without their content.
            let mut whole = seen.payload.clone();
            whole.resize(seen.len as usize, 0);
            if let Some(new) = whole.get(skip..) {
                bytes.extend_from_slice(new);
            }
        }
        (start.unwrap_or(0), bytes)
    }

    /// The same from the first packet after the last gap.
    pub(crate) fn last_stream(&self) -> (u32, Vec<u8>) {
        let mut end = None::<u32>;
        let mut begin = 0;
        for (at, seen) in self.before.iter().enumerate().filter(|(_, seen)| seen.len > 0) {
            let start = seen.data_end().wrapping_sub(seen.len);
            if end.is_some_and(|end| !at_or_after(end, start)) {
                begin = at;
            }
            if end.is_none_or(|end| at_or_after(seen.data_end(), end)) {
                end = Some(seen.data_end());
            }
        }
        Sent { before: self.before[begin..].to_vec(), after: Vec::new() }.stream()
    }

    /// The last packet that brought new payload.
    pub(crate) fn last_said(&self) -> Option<&'a Seen> {
        let mut end = None;
        let mut last = None;
        for seen in &self.before {
            let new = end.is_none_or(|end| seen.data_end() != end && at_or_after(seen.data_end(), end));
            if new && seen.len > 0 {
                last = Some(*seen);
            }
            if new {
                end = Some(seen.data_end());
            }
        }
        last
    }
}

/// A reset's connection.
#[derive(Debug)]
pub(crate) struct Connection<'a> {
    pub(crate) reset: &'a Seen,
    pub(crate) sender: Sent<'a>,
    pub(crate) receiver: Sent<'a>,
}

impl<'a> Connection<'a> {
    /// The connection of a finding: the packets between its two ends since the last SYN that began another one.
    pub(crate) fn of(all: &'a [Seen], finding: &Finding) -> Option<Self> {
        let ends = [finding.from, finding.to];
        let own = |seen: &&Seen| {
            seen.icmp.is_none()
                && seen.interface == finding.interface
                && ends.contains(&seen.from)
                && ends.contains(&seen.to)
        };
        let reset = all.iter().find(|seen| seen.frame == finding.frame)?;
        let before: Vec<_> = all.iter().filter(own).filter(|seen| seen.frame < reset.frame).collect();
        let mut begin = 0;
        for (at, seen) in before.iter().enumerate() {
            let first = seen.has(Flags::SYN) && !seen.has(Flags::ACK);
            let earlier = || before[begin..at].iter().filter(|other| other.from == seen.from);
            let another = earlier().any(|other| {
                !other.has(Flags::SYN) || other.has(Flags::RST) || other.seq != seen.seq && other.len > 0
            });
            let same = earlier().any(|other| other.has(Flags::SYN) && other.seq == seen.seq);
            let over = before[begin..at].iter().any(|other| other.has(Flags::FIN) || other.has(Flags::RST));
            // Ten seconds after a reset nobody remembers the connection.
            let forgotten = before[begin..at]
                .iter()
                .any(|other| other.has(Flags::RST) && seen.time_ns > other.time_ns + 10_000_000_000);
            // A SYN after a reset begins another connection, even with the number of the one before.
            let reset = before[begin..at].iter().any(|other| other.has(Flags::RST));
            if first && (reset || !same && (another || over)) || forgotten {
                begin = at;
            }
        }
        let last = before[begin..].iter().rposition(|other| other.has(Flags::RST)).map(|at| begin + at);
        if let Some(last) = last
            && reset.time_ns > before[last].time_ns + 10_000_000_000
            && !before[last..].iter().any(|other| other.has(Flags::SYN))
        {
            begin = before.len();
        }
        let (mut sender, mut receiver) = (Sent::default(), Sent::default());
        for seen in &before[begin..] {
            if !seen.has(Flags::RST) {
                let side = if seen.from == finding.from { &mut sender } else { &mut receiver };
                side.before.push(*seen);
            }
        }
        for seen in all.iter().filter(own).filter(|seen| seen.frame > reset.frame) {
            if seen.has(Flags::SYN) && !seen.has(Flags::ACK) {
                break;
            }
            if !seen.has(Flags::RST) {
                let side = if seen.from == finding.from { &mut sender } else { &mut receiver };
                side.after.push(seen);
            }
        }
        Some(Self { reset, sender, receiver })
    }
}
