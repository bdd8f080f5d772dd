//! Frames that tests make, with right checksums.

use linger_packet::Flags;

use crate::link::Direction;
use crate::link::mtu::checksum;

/// The addresses of client and server, each behind a router.
pub(crate) const CLIENT: [u8; 4] = [10, 1, 0, 2];
pub(crate) const SERVER: [u8; 4] = [10, 2, 0, 2];
/// The Ethernet addresses of the router between them, by the direction of the frames that arrive there.
pub(crate) const ROUTER: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// A TCP packet between them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TestPacket {
    pub(crate) direction: Direction,
    /// The client's port.
    pub(crate) port: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: Flags,
    pub(crate) window: u16,
    pub(crate) payload: usize,
    /// The window scale option, of a SYN.
    pub(crate) scale: Option<u8>,
}

impl TestPacket {
    pub(crate) fn new(direction: Direction, flags: Flags, seq: u32, ack: u32, payload: usize) -> Self {
        Self { direction, port: 40_000, seq, ack, flags, window: 1_000, payload, scale: None }
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut ends = [(CLIENT, self.port), (SERVER, 8_080)];
        if self.direction == Direction::ToClient {
            ends.reverse();
        }
        let [(from, from_port), (to, to_port)] = ends;
        let options: &[u8] = match self.scale {
            Some(scale) => &[3, 3, scale, 1],
            None => &[],
        };
        let length = 20 + options.len() + self.payload;
        let mut header = vec![0x45, 0];
        header.extend((20 + length as u16).to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        header.extend([from, to].concat());
        let sum = checksum(0, &header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut tcp = [from_port.to_be_bytes(), to_port.to_be_bytes()].concat();
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([(5 + options.len() as u8 / 4) << 4, self.flags.0]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(options);
        tcp.resize(length, b'd');
        let pseudo = [from, to].concat();
        let words = pseudo.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum = checksum(words.sum::<u32>() + 6 + length as u32, &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut frame = ROUTER[self.direction.index()].to_vec();
        frame.extend([2, 0, 0, 0, 1, self.direction.index() as u8 + 1, 8, 0]);
        frame.extend(header);
        frame.extend(tcp);
        frame
    }
}
