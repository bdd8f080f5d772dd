//! Writes captures from the wire's view: both ends and both directions, with one clock.

use std::fs::File;
use std::io::{self, BufWriter};
use std::time::{SystemTime, UNIX_EPOCH};

use linger_packet::LinkType;
use linger_packet::pcapng::{InterfaceId, Writer};

use crate::clock::now;
use crate::link::Direction;
use crate::link::ENDS;

/// A packet that is not written yet.
#[derive(Debug)]
struct HeldRecord {
    end: InterfaceId,
    time: u64,
    frame: Vec<u8>,
    comment: Option<&'static str>,
}

/// A pcapng file with one interface for each end of the link.
#[derive(Debug)]
pub struct Capture {
    writer: Writer<BufWriter<File>>,
    /// The server's end, then the client's.
    ends: [InterfaceId; 2],
    /// What is not written yet, if what is said of a packet may be known only later.
    held: Option<Vec<HeldRecord>>,
    /// Offset from the monotonic clock to the time since the epoch, in nanoseconds.
    epoch: u64,
}

impl Capture {
    /// Begins a capture in an empty file, a pipe or a device.
    ///
    /// # Errors
    /// Returns the errors of writing to the file.
    pub fn begin(file: File) -> io::Result<Self> {
        Self::between(file, ENDS)
    }

    /// The same, with names of one's own for the interfaces at the server's end and at the client's.
    ///
    /// # Errors
    /// Returns the errors of writing to the file.
    pub fn between(file: File, [server, client]: [&str; 2]) -> io::Result<Self> {
        let mut writer =
            Writer::new(BufWriter::new(file), concat!("linger lab ", env!("CARGO_PKG_VERSION")))?;
        let server = writer.interface(server, LinkType::ETHERNET, 0)?;
        let client = writer.interface(client, LinkType::ETHERNET, 0)?;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let epoch = u64::try_from(since_epoch).unwrap_or(0).saturating_sub(now());
        Ok(Self { writer, ends: [server, client], held: None, epoch })
    }

    /// Writes nothing before [`Self::finish`], so that [`Self::comment_on`] finds the packets.
    pub(crate) fn hold_back(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Gives the last of such frames that has entered the link in this direction, and has no comment, this one.
    pub(crate) fn comment_on(&mut self, direction: Direction, frame: &[u8], comment: &'static str) {
        let end = self.ends[direction.index()];
        let mut held = self.held.iter_mut().flatten().rev();
        if let Some(record) = held.find(|record| record.end == end && record.frame == frame) {
            record.comment.get_or_insert(comment);
        }
    }

    /// Writes a frame that enters or leaves the link now.
    ///
    /// # Errors
    /// Returns the errors of writing to the file.
    pub fn packet(
        &mut self,
        direction: Direction,
        leaving: bool,
        frame: &[u8],
        comment: Option<&'static str>,
    ) -> io::Result<()> {
        let end = if leaving { direction.reverse() } else { direction };
        let time = self.epoch + now();
        let end = self.ends[end.index()];
        if let Some(held) = &mut self.held {
            held.push(HeldRecord { end, time, frame: frame.to_vec(), comment });
            return Ok(());
        }
        self.writer.packet(end, time, frame, frame.len() as u32, comment)
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// Returns the errors of writing to the file.
    pub fn finish(&mut self) -> io::Result<()> {
        for HeldRecord { end, time, frame, comment } in self.held.iter_mut().flat_map(std::mem::take) {
            self.writer.packet(end, time, &frame, frame.len() as u32, comment)?;
        }
        self.writer.flush()
    }
}
