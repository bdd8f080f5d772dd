//! Captures made packet by packet.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

/// An address and a port.
pub(crate) type End = ([u8; 4], u16);

/// A raw IPv4 packet.
pub(crate) fn packet(from: End, to: End, (seq, ack): (u32, u32), flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((40 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    packet.extend([from.0, to.0].concat());
    packet.extend([from.1.to_be_bytes(), to.1.to_be_bytes()].concat());
    packet.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
    packet.extend([0x50, flags, 2, 0, 0, 0, 0, 0]);
    packet.extend(payload);
    packet
}

/// A pcap file of raw IP packets.
pub(crate) struct Capture(BufWriter<File>);

impl Capture {
    pub(crate) fn create(path: &Path) -> Self {
        let mut capture = Self(BufWriter::new(File::create(path).unwrap()));
        capture.words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, 101]);
        capture
    }

    /// Adds a packet, so many microseconds after the first.
    pub(crate) fn packet(&mut self, time_us: u64, packet: &[u8]) {
        let length = packet.len() as u32;
        let (seconds, rest) = (time_us / 1_000_000, time_us % 1_000_000);
        self.words(&[1_780_000_000 + seconds as u32, rest as u32, length, length]);
        self.0.write_all(packet).unwrap();
    }

    fn words(&mut self, words: &[u32]) {
        words.iter().for_each(|word| self.0.write_all(&word.to_le_bytes()).unwrap());
    }
}
