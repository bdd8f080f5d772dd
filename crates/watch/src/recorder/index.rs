//! The index beside a capture: one line of JSON for each recorded reset.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;

use linger_untrusted::Untrusted;
use linger_why::{Cause, Confidence};
use serde::{Deserialize, Deserializer, Serialize};

use super::files::{capture_name, index_name, open_regular};
use crate::live_reset::Direction;
use crate::recorded::{Agreement, WireVerdict};

/// Longest line of an index that is read.
const LONGEST_LINE: u64 = 64 << 10;
/// Longest section that is read.
const LONGEST_SECTION: u64 = 1 << 30;

/// A recorded reset: what the kernel said, what the packets say, and where they are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IndexedReset {
    /// The number of its file and its own number in it, such as `3-17`. No other reset of the directory gets it.
    pub id: String,
    /// Seconds since 1970-01-01 00:00 UTC.
    pub time_seconds: f64,
    /// Whether the recording host sent or received the reset.
    pub direction: Direction,
    /// The recording host's end.
    pub local: SocketAddr,
    /// The other end; `None` if neither the kernel nor the packets say.
    pub remote: Option<SocketAddr>,
    /// The cause by the kernel.
    pub kernel: KernelVerdict,
    /// The cause by the packets; `None` if they show no reset.
    pub packets: Option<WireVerdict>,
    /// Whether the two agree.
    pub agreement: Agreement,
    /// The capture, in the same directory.
    pub file: String,
    /// Bytes of the capture before the reset's section.
    pub offset: u64,
    /// Bytes of the section.
    pub bytes: u64,
    /// The number of the section's first packet in the capture, from 1.
    pub first_frame: u64,
    /// Number of packets.
    pub frames: u64,
}

/// What the kernel said of a reset.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KernelVerdict {
    /// The cause.
    pub cause: Cause,
    /// How sure it is.
    pub confidence: Confidence,
    /// All causes that fit.
    pub candidates: Vec<Cause>,
    /// The kernel's name of the reason, if it gave one.
    pub reason: Option<String>,
    /// The pid of the process concerned.
    pub pid: Option<u32>,
    /// The name of that process.
    #[serde(deserialize_with = "untrusted")]
    pub process: Option<Untrusted>,
}

/// Why a recorded reset cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotRecorded {
    /// The text is no id.
    #[error("a reset's id is two numbers, such as 3-17: it is printed with the reset")]
    NoId,
    /// The directory is not there.
    #[error("there is no such directory: name the one that the packets were recorded into")]
    NoDirectory,
    /// The directory has no index for it.
    #[error(
        "no reset of that id is recorded there: its file {0} was removed to make room, or it is of another directory"
    )]
    NoFile(String),
    /// The index does not name it.
    #[error("{0} does not name a reset of that id")]
    NoLine(String),
    /// A file cannot be read.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
}

impl IndexedReset {
    /// Finds a reset by its id, and reads its packets: a pcapng capture of their own.
    ///
    /// # Errors
    /// Returns [`NotRecorded`].
    pub fn read(directory: &Path, id: &str) -> Result<(Self, Vec<u8>), NotRecorded> {
        let file = id.split_once('-').and_then(|(file, number)| {
            number.parse::<u64>().ok()?;
            file.parse::<u64>().ok()
        });
        let file = file.ok_or(NotRecorded::NoId)?;
        let (index, capture) = (index_name(file), capture_name(file));
        let opened = open_regular(&directory.join(&index)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if !directory.is_dir() => NotRecorded::NoDirectory,
            io::ErrorKind::NotFound => NotRecorded::NoFile(index.clone()),
            _ => NotRecorded::Io(index.clone(), error),
        })?;
        let mut lines = BufReader::new(opened);
        let found = loop {
            let mut line = Vec::new();
            let length = io::Read::take(&mut lines, LONGEST_LINE).read_until(b'\n', &mut line);
            match length {
                Ok(0) => return Err(NotRecorded::NoLine(index)),
                Ok(_) => {}
                Err(error) => return Err(NotRecorded::Io(index, error)),
            }
            // A watcher that was killed may have left half a line.
            let reset = serde_json::from_slice::<Self>(&line).ok();
            if let Some(reset) = reset.filter(|reset| reset.id == id) {
                break reset;
            }
        };
        let failed = |error| NotRecorded::Io(capture.clone(), error);
        let packets = open_regular(&directory.join(&capture)).map_err(|error| match error.kind() {
            // A watcher that makes room removes the index first.
            io::ErrorKind::NotFound => NotRecorded::NoFile(capture.clone()),
            _ => failed(error),
        })?;
        if found.bytes > LONGEST_SECTION {
            return Err(failed(io::Error::other("its index names a section that is too long")));
        }
        let there = packets.metadata().map_err(failed)?.len().saturating_sub(found.offset);
        let mut section = vec![0; found.bytes.min(there) as usize];
        packets.read_exact_at(&mut section, found.offset).map_err(failed)?;
        Ok((found, section))
    }
}

fn untrusted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Untrusted>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Untrusted::from))
}
