//! What is recorded, and the ring of packets for it.

use std::io;
use std::path::PathBuf;

use super::filter;
use crate::kernel::tap::{PacketRing, is_memory};

/// Room for the comments of a section and its line in the index.
pub(super) const COMMENTS: u64 = 8 << 10;

/// What is recorded, and where.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RecordOptions {
    /// The directory of the captures; made if it is not there.
    pub directory: PathBuf,
    /// Most packets of a connection. Raising it costs memory: all connections share 16 MiB.
    pub per_flow: u32,
    /// Bytes that are kept of each packet, from its IP header on. The same memory holds fewer packets of more bytes.
    pub bytes: u32,
    /// Most bytes on disk; the oldest files are removed.
    pub keep: u64,
    /// Ports that are recorded; all if empty.
    pub ports: Vec<u16>,
}

impl RecordOptions {
    /// The defaults, for a directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), per_flow: 32, bytes: 128, keep: 1 << 30, ports: Vec::new() }
    }

    /// The least that [`keep`](Self::keep) may be.
    pub fn least_keep(&self) -> u64 {
        8 * (u64::from(self.per_flow) * (u64::from(self.bytes) + 64) + COMMENTS)
    }
}

/// Why packets cannot be recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CannotRecord {
    /// More ports than the kernel's filter has room for.
    #[error("packets of {0} ports cannot be recorded: the kernel's filter has room for {most}", most = filter::MOST_PORTS)]
    TooManyPorts(usize),
    /// The bound on disk has no room for a few resets.
    #[error("{keep} bytes have no room for resets of this many packets: {least} are the least")]
    TooLittle {
        /// The bound asked for.
        keep: u64,
        /// The least that it may be.
        least: u64,
    },
    /// A packet socket was refused.
    #[error("packets cannot be read ({0})")]
    Refused(io::Error),
    /// There is no memory for the smallest ring.
    #[error("the kernel has no memory for a ring of packets ({0})")]
    NoMemory(io::Error),
    /// The path is no directory.
    #[error("it is no directory")]
    NotADirectory,
    /// Another watcher records there.
    #[error("another watcher records there")]
    Locked,
    /// No file can be made there.
    #[error("no file can be written there ({0})")]
    NotWritable(io::Error),
}

/// A ring of packets, open. Needs CAP_NET_RAW to open, and nothing afterwards.
#[derive(Debug)]
pub struct PacketTap {
    pub(super) ring: PacketRing,
    pub(super) options: RecordOptions,
}

impl PacketTap {
    /// Opens a ring for the packets of the calling thread's network namespace.
    ///
    /// # Errors
    /// Returns [`CannotRecord`].
    pub fn open(options: RecordOptions) -> Result<Self, CannotRecord> {
        if options.ports.len() > filter::MOST_PORTS {
            return Err(CannotRecord::TooManyPorts(options.ports.len()));
        }
        let least = options.least_keep();
        if options.keep < least {
            return Err(CannotRecord::TooLittle { keep: options.keep, least });
        }
        // The loopback interface is the first of each namespace.
        let loopback = linger_netns::net::index("lo").unwrap_or(1);
        let mut program = filter::program(&options.ports, options.bytes, loopback);
        match PacketRing::open(&mut program) {
            Ok(ring) => Ok(Self { ring, options }),
            Err(error) if is_memory(&error) => Err(CannotRecord::NoMemory(error)),
            Err(error) => Err(CannotRecord::Refused(error)),
        }
    }

    /// The ring's size in bytes: 8 MiB, or less where the kernel has too little memory.
    pub fn ring_bytes(&self) -> usize {
        self.ring.size()
    }
}
