//! Reads capture files: pcap and pcapng of either byte order, in one pass and bounded memory.

mod ahead;
mod classic;
mod input;
mod ng;
mod source;

use std::io::{self, Read};

pub use ahead::Stopper;
pub use input::{Beginning, beginning, open};
pub use source::{FileStream, Memory, Source};

use self::ahead::Ahead;
use crate::LinkType;

/// The longest packet that is accepted. A capture on the sending host holds packets before segmentation, up to
/// 512 KiB (Linux's BIG TCP). A record that claims more than this limit counts as damaged.
const MAX_PACKET: usize = 2 << 20;

/// A captured packet.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Packet<'a> {
    /// The packet's number in the file, from 1, as in Wireshark.
    pub frame: u64,
    /// When the packet was seen, in nanoseconds since 1970-01-01 00:00 UTC; 0 if the file does not say.
    pub time_ns: u64,
    /// The link type: which header stands first in `data`.
    pub link: LinkType,
    /// The interface's index within its section; 0 in a pcap file.
    pub interface: u32,
    /// The captured bytes.
    pub data: &'a [u8],
    /// The packet's length on the wire.
    pub wire_len: usize,
    options: Option<ng::BlockOptions<'a>>,
}

impl<'a> Packet<'a> {
    /// The comments a pcapng file carries for this packet (`opt_comment`, code 1).
    pub fn comments(&self) -> impl Iterator<Item = &'a str> {
        self.options.into_iter().flatten().filter_map(|(code, value)| match code {
            1 => std::str::from_utf8(value).ok(),
            _ => None,
        })
    }

    /// Whether the packet carries any pcapng options. Comments are options. Cheaper than [`Packet::comments`].
    #[inline]
    pub fn has_options(&self) -> bool {
        self.options.is_some()
    }
}

/// Why reading stopped before the end. Offsets count bytes of the uncompressed file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file cannot be opened: it does not exist, is a directory, or may not be read.
    #[error("cannot be opened: {source}{}", remedy(source))]
    Open {
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file has no bytes.
    #[error(
        "is empty: nothing was captured, or nothing written yet (end the capture with Ctrl-C, or tcpdump -U)"
    )]
    Empty,
    /// The file does not begin as a capture does.
    #[error(
        "not a pcap or pcapng capture (it begins with {}); tcpdump and tshark write one with -w, editcap makes one of other formats",
        shown(first)
    )]
    NotACapture {
        /// The first bytes of the input, at most four.
        first: Vec<u8>,
    },
    /// A record is damaged. The next record cannot be found.
    #[error("damaged at byte {offset}: {what}; compare the file with where it was copied from")]
    Damaged {
        /// Where the record begins.
        offset: u64,
        /// The fault.
        what: String,
    },
    /// The file ends inside a record, as it does when a capture is cut off or still being written.
    #[error("cut off at byte {offset}: the record there is not whole")]
    CutOff {
        /// Where the record begins.
        offset: u64,
    },
    /// The operating system or the decompressor failed.
    #[error("cannot read on after byte {offset}: {source}{}", remedy(source))]
    Io {
        /// The offset at which reading failed.
        offset: u64,
        /// The error of the operating system or the decompressor.
        source: io::Error,
    },
}

impl ReadError {
    /// Whether the capture only ends early, and everything before its end was read.
    pub fn is_cut_off(&self) -> bool {
        match self {
            Self::CutOff { .. } => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::UnexpectedEof,
            _ => false,
        }
    }
}

/// What the user can do about an error of the operating system or the decompressor: the end of a message.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; is the path right?",
        io::ErrorKind::IsADirectory => "; name the captures in it",
        io::ErrorKind::PermissionDenied => "; read it as a user who may, or let one pipe it in",
        io::ErrorKind::UnexpectedEof => "; the compressed file is cut off, copy it again",
        _ => "",
    }
}

/// The first bytes of a file, for a message: quoted text if they are printable, otherwise hexadecimal numbers.
fn shown(bytes: &[u8]) -> String {
    if bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        return format!("the text \"{}\"", bytes.escape_ascii());
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// Reads one capture, packet after packet.
#[derive(Debug)]
pub struct CaptureReader<S = FileStream> {
    source: S,
    format: Format,
    frame: u64,
}

#[derive(Debug)]
enum Format {
    Classic(classic::FileHeader),
    Ng(ng::Section),
}

impl CaptureReader {
    /// Begins to read an uncompressed capture. [`open`] opens files, also compressed ones.
    ///
    /// # Errors
    /// Returns [`ReadError`], for instance because this is not a capture.
    pub fn new(input: impl Read + Send + 'static) -> Result<Self, ReadError> {
        let ahead = Ahead::of_stream(input).map_err(|source| ReadError::Io { offset: 0, source })?;
        Self::of(FileStream::new(ahead))
    }

    /// A handle that ends the input from another thread.
    pub fn stopper(&self) -> Stopper {
        self.source.stopper()
    }
}

impl<'a> CaptureReader<Memory<'a>> {
    /// Reads a capture that is in memory as a whole, uncompressed.
    ///
    /// # Errors
    /// Returns the errors of [`CaptureReader::new`].
    pub fn in_memory(bytes: &'a [u8]) -> Result<Self, ReadError> {
        Self::of(Memory::new(bytes))
    }
}

impl<S: Source> CaptureReader<S> {
    fn of(mut source: S) -> Result<Self, ReadError> {
        let first = source.peek(4)?;
        let format = match first.first_chunk::<4>() {
            Some([0x0a, 0x0d, 0x0d, 0x0a]) => Format::Ng(ng::Section::default()),
            Some(&magic) if classic::is_magic(magic) => {
                Format::Classic(classic::FileHeader::read(&mut source)?)
            }
            None if first.is_empty() => return Err(ReadError::Empty),
            _ => return Err(ReadError::NotACapture { first: first.to_vec() }),
        };
        Ok(Self { source, format, frame: 0 })
    }

    /// The next packet, or `None` at the end.
    ///
    /// # Errors
    /// Returns [`ReadError`]. After an error there are no more packets.
    #[inline]
    #[allow(clippy::should_implement_trait)] // The packet borrows the reader, which `Iterator` cannot express.
    pub fn next(&mut self) -> Result<Option<Packet<'_>>, ReadError> {
        match &mut self.format {
            Format::Classic(header) => header.next(&mut self.source, &mut self.frame),
            Format::Ng(section) => section.next(&mut self.source, &mut self.frame),
        }
    }

    /// Iterates over the packets that are completely in memory. Unlike the packets of [`next`](CaptureReader::next),
    /// several of them may be held at a time.
    ///
    /// The iteration ends where [`CaptureReader::next`] has to go on, which reads more bytes, parses blocks that are no
    /// packets, returns errors, and reports the end of the capture.
    pub fn at_hand(&mut self) -> AtHand<'_> {
        let (bytes, at) = self.source.at_hand();
        AtHand { bytes, at, format: &self.format, frame: &mut self.frame }
    }

    /// How many bytes have been read, after decompression.
    pub fn offset(&self) -> u64 {
        self.source.offset()
    }

    /// How many packets have been read.
    pub fn frames(&self) -> u64 {
        self.frame
    }
}

/// The packets of a [`CaptureReader`] that are in memory.
#[derive(Debug)]
pub struct AtHand<'a> {
    bytes: &'a [u8],
    at: &'a mut usize,
    format: &'a Format,
    frame: &'a mut u64,
}

impl<'a> Iterator for AtHand<'a> {
    type Item = Packet<'a>;

    #[inline]
    fn next(&mut self) -> Option<Packet<'a>> {
        let rest = self.bytes.get(*self.at..)?;
        let (length, mut packet) = match self.format {
            Format::Classic(header) => header.whole(rest)?,
            Format::Ng(section) => section.whole(rest)?,
        };
        *self.at += length;
        *self.frame += 1;
        packet.frame = *self.frame;
        Some(packet)
    }
}

/// Integers in the byte order a file was written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Little,
    Big,
}

impl Order {
    #[inline]
    fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let bytes = [bytes[at], bytes[at + 1]];
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    #[inline]
    fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let bytes = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
}

#[cfg(test)]
#[path = "capture/tests.rs"]
mod tests;
