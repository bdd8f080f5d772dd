//! A packet's identity, and the random decisions that follow from it.
//!
//! Decisions are keyed by the packet's identity: direction, connection, sequence and acknowledgement
//! relative to the connection's start, and how often it was sent. They do not depend on when it arrives or on what arrived
//! before, so one seed gives the same decision for the same packet in every run.

use std::collections::HashMap;

use linger_packet::{Flags, Segment};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::link::Direction;

/// What identifies a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// 0 towards the client, 1 towards the server ([`Direction::index`]).
    pub direction: u8,
    /// The client's port (high 16 bits) and the server's; 0 for packets that are not TCP.
    pub flow: u32,
    /// Sequence number relative to the sender's SYN. For packets that are not TCP, their position in their direction.
    pub sequence: u32,
    /// Acknowledgement number relative to the other side's SYN; 0 for data, SYN and FIN.
    pub acknowledgement: u32,
    /// The TCP flags without PSH, URG, ECE and CWR.
    pub flags: u8,
    /// How often the same packet was sent before.
    pub transmission: u32,
}

/// Random numbers of one packet, from 0 to 1, drawn in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chance {
    /// Lost if below the path's loss.
    pub loss: f64,
    /// Reordered if below the path's reorder.
    pub reorder: f64,
    /// The packet's share of the link's jitter, from 0 to 1.
    pub jitter: f64,
    /// Decides whether [`Loss::Bursts`](crate::Loss) changes its state.
    pub burst: f64,
    /// Decides in which state it is, if this is the first packet.
    pub start: f64,
    /// Sent twice if below the path's `duplicate`.
    pub duplicate: f64,
    /// Changed by one bit if below the path's `corrupt`.
    pub corrupt: f64,
    /// Which bit, as its place in the packet.
    pub place: f64,
}

impl Identity {
    /// Draws this packet's numbers from a seed.
    pub fn chance(&self, seed: u64) -> Chance {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        for (place, word) in key[8..28].chunks_exact_mut(4).zip([
            self.flow,
            self.sequence,
            self.acknowledgement,
            self.transmission,
            u32::from(self.direction) << 8 | u32::from(self.flags),
        ]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let mut stream = ChaCha8Rng::from_seed(key);
        // 53 bits: as many as a double holds exactly.
        let mut draw = || (stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        Chance {
            loss: draw(),
            reorder: draw(),
            jitter: draw(),
            burst: draw(),
            start: draw(),
            duplicate: draw(),
            corrupt: draw(),
            place: draw(),
        }
    }
}

/// What is remembered of one connection, to identify its packets.
#[derive(Debug, Default)]
struct Flow {
    /// Each direction's first sequence number, once seen.
    start: [Option<u32>; 2],
    sent: HashMap<Identity, u32>,
    /// Highest acknowledgement seen, for the data of each direction.
    acknowledged: [u32; 2],
}

/// Number of remembered transmissions of a connection above which acknowledged ones are dropped.
const REMEMBERED: usize = 1 << 14;
/// Number of connections above which the table is cleared.
const FLOWS: usize = 1 << 16;

/// A connection's name: the client's port (high 16 bits) and the server's.
pub(crate) fn flow_of(direction: Direction, segment: &Segment<'_>) -> u32 {
    let (client, server) = match direction {
        Direction::ToClient => (segment.destination.port(), segment.source.port()),
        Direction::ToServer => (segment.source.port(), segment.destination.port()),
    };
    u32::from(client) << 16 | u32::from(server)
}

/// Identifies packets.
#[derive(Debug, Default)]
pub struct Names {
    flows: HashMap<u32, Flow>,
    others: [u32; 2],
}

impl Names {
    /// Identifies a TCP segment. A SYN starts its connection anew.
    pub fn tcp(&mut self, direction: Direction, segment: &Segment<'_>) -> Identity {
        let id = flow_of(direction, segment);
        let (here, there) = (direction.index(), direction.reverse().index());
        if self.flows.len() > FLOWS {
            self.flows.clear();
        }
        let flow = self.flows.entry(id).or_default();
        if segment.flags.has(Flags::SYN) && flow.start[here] != Some(segment.seq) {
            if !segment.flags.has(Flags::ACK) {
                *flow = Flow::default();
            }
            flow.start[here] = Some(segment.seq);
        }
        let start = *flow.start[here].get_or_insert(segment.seq);
        let has_ack = segment.flags.has(Flags::ACK);
        let back = match flow.start[there] {
            Some(back) => back,
            None if has_ack => *flow.start[there].insert(segment.ack.wrapping_sub(1)),
            None => 0,
        };
        let acknowledgement = if has_ack { segment.ack.wrapping_sub(back) } else { 0 };
        let carries = segment.payload_len > 0 || segment.flags.any(Flags::SYN | Flags::FIN);
        let mut identity = Identity {
            direction: here as u8,
            flow: id,
            sequence: segment.seq.wrapping_sub(start),
            // Data, SYN and FIN are identified by their sequence number; their acknowledgement depends on timing.
            acknowledgement: if carries { 0 } else { acknowledgement },
            flags: segment.flags.0 & !(Flags::PSH.0 | Flags::URG.0 | 0xc0),
            transmission: 0,
        };
        flow.acknowledged[there] = flow.acknowledged[there].max(acknowledgement);
        if flow.sent.len() > REMEMBERED {
            let old = flow.acknowledged;
            flow.sent.retain(|identity, _| identity.sequence >= old[usize::from(identity.direction)]);
        }
        let count = flow.sent.entry(identity).or_default();
        identity.transmission = *count;
        *count += 1;
        identity
    }

    /// Identifies a packet that is not TCP: by its position in its direction.
    pub fn other(&mut self, direction: Direction) -> Identity {
        let count = &mut self.others[direction.index()];
        *count = count.wrapping_add(1);
        Identity {
            direction: direction.index() as u8,
            flow: 0,
            sequence: *count,
            acknowledgement: 0,
            flags: 0,
            transmission: 0,
        }
    }
}
