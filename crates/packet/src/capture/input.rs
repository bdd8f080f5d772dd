//! Opens a capture: a file or standard input, plain or compressed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use lz4_flex::frame::FrameDecoder;
use ruzstd::decoding::StreamingDecoder;

use super::ahead::Ahead;
use super::{CaptureReader, FileStream, Packet, ReadError};
use crate::LinkType;

/// How much of a compressed file is read at once.
const PIECE: usize = 256 << 10;
/// How much of a file is read to find its first packet.
const START: usize = 16 << 10;

type RawInput = io::Chain<io::Cursor<Vec<u8>>, Box<dyn Read + Send>>;

/// Opens a capture; `-` is standard input. gzip, bzip2, xz, lz4 and zstd are recognised by their first bytes. A
/// compressed file may consist of several members or frames.
///
/// # Errors
/// Returns [`ReadError`] if the file cannot be opened, is empty, or is no capture.
pub fn open(path: &Path) -> Result<CaptureReader, ReadError> {
    let io = |source| ReadError::Io { offset: 0, source };
    let mut input: Box<dyn Read + Send> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let file = File::open(path).map_err(|source| ReadError::Open { source })?;
        let kind = file.metadata().map_err(io)?.file_type();
        if kind.is_dir() {
            return Err(ReadError::Open { source: io::ErrorKind::IsADirectory.into() });
        }
        let mut magic = [0; 4];
        if kind.is_file() && file.read_at(&mut magic, 0).map_err(io)? == 4 && compression(magic).is_none() {
            return CaptureReader::of(FileStream::new(Ahead::of_file(file).map_err(io)?));
        }
        Box::new(file)
    };
    let mut magic = Vec::with_capacity(4);
    input.by_ref().take(4).read_to_end(&mut magic).map_err(io)?;
    let first = [0, 1, 2, 3].map(|at| magic.get(at).copied().unwrap_or(0));
    let input = io::Cursor::new(magic).chain(input);
    let Some(compression) = compression(first) else { return CaptureReader::new(input) };
    let input = BufReader::with_capacity(PIECE, input);
    match compression {
        Compression::Gzip => CaptureReader::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Bzip2 => CaptureReader::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Compression::Xz => CaptureReader::new(lzma_rust2::XzReader::new(input, true)),
        Compression::Lz4 => CaptureReader::new(Lz4(Some(FrameDecoder::new(input)))),
        Compression::Zstd => {
            CaptureReader::new(Zstd::Between(ZstdFrames { magic: [0; 4], unread: 0, input }))
        }
    }
}

/// How a capture begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Beginning {
    /// The first packet's time, in nanoseconds since 1970-01-01 00:00 UTC.
    pub time_ns: u64,
    /// The first packet's link type.
    pub link: LinkType,
}

/// Reads only the first packet of a capture in a regular file. Returns `None` if it has no packet.
///
/// # Errors
/// Returns the errors of [`open`] and those of the first packet, and [`ReadError::Open`] if `path` is no regular file.
pub fn beginning(path: &Path) -> Result<Option<Beginning>, ReadError> {
    let first = |packet: Packet<'_>| Beginning { time_ns: packet.time_ns, link: packet.link };
    let mut start = Vec::with_capacity(START);
    let mut file = File::open(path).map_err(|source| ReadError::Open { source })?;
    let io = |source| ReadError::Io { offset: 0, source };
    if !file.metadata().map_err(io)?.is_file() {
        return Err(ReadError::Open { source: io::ErrorKind::InvalidInput.into() });
    }
    file.by_ref().take(START as u64).read_to_end(&mut start).map_err(io)?;
    let is_plain = start.first_chunk::<4>().is_none_or(|magic| compression(*magic).is_none());
    if is_plain {
        match CaptureReader::in_memory(&start)?.next() {
            // The packet goes beyond what was read.
            Err(error) if error.is_cut_off() && start.len() == START => {}
            Ok(None) if start.len() == START => {}
            other => return Ok(other?.map(first)),
        }
    }
    Ok(open(path)?.next()?.map(first))
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Gzip,
    Bzip2,
    Xz,
    Lz4,
    Zstd,
}

/// Recognises the compression by the file's first bytes.
fn compression(first: [u8; 4]) -> Option<Compression> {
    Some(match first {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [b'B', b'Z', b'h', b'1'..=b'9'] => Compression::Bzip2,
        [0xfd, b'7', b'z', b'X'] => Compression::Xz,
        [0x04, 0x22, 0x4d, 0x18] => Compression::Lz4,
        _ if is_zstd(first) => Compression::Zstd,
        _ => return None,
    })
}

/// Reads all frames of an lz4 stream; the library's decoder ends after the first one.
struct Lz4(Option<FrameDecoder<BufReader<RawInput>>>);

impl Read for Lz4 {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(decoder) = &mut self.0 else { return Ok(0) };
            let read = decoder.read(out)?;
            if read > 0 || out.is_empty() {
                return Ok(read);
            }
            if decoder.get_mut().fill_buf()?.is_empty() {
                self.0 = None;
            } else if let Some(decoder) = self.0.take() {
                self.0 = Some(FrameDecoder::new(decoder.into_inner()));
            }
        }
    }
}

fn is_zstd(first: [u8; 4]) -> bool {
    matches!(u32::from_le_bytes(first), 0xfd2f_b528 | 0x184d_2a50..=0x184d_2a5f)
}

/// A compressed stream that can put back the magic number of its next frame.
struct ZstdFrames {
    magic: [u8; 4],
    /// How many of the last bytes of `magic` are to be read again.
    unread: usize,
    input: BufReader<RawInput>,
}

impl Read for ZstdFrames {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.unread == 0 {
            return self.input.read(out);
        }
        let read = (&self.magic[4 - self.unread..]).read(out)?;
        self.unread -= read;
        Ok(read)
    }
}

/// Reads all frames of a zstd stream; the library's decoder ends after the first one.
enum Zstd {
    Between(ZstdFrames),
    Inside(Box<StreamingDecoder<ZstdFrames, ruzstd::decoding::FrameDecoder>>),
    Ended,
}

impl Read for Zstd {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(self, Self::Ended) {
                Self::Ended => return Ok(0),
                Self::Between(mut frames) => {
                    if frames.input.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    frames.input.read_exact(&mut frames.magic)?;
                    if frames.magic == [0x28, 0xb5, 0x2f, 0xfd] {
                        frames.unread = 4;
                        let decoder = StreamingDecoder::new(frames).map_err(zstd_error)?;
                        *self = Self::Inside(Box::new(decoder));
                    } else if is_zstd(frames.magic) {
                        // A skippable frame: a length, and that many bytes to skip (RFC 8878 section 3.1.2).
                        let mut length = [0; 4];
                        frames.input.read_exact(&mut length)?;
                        let length = u64::from(u32::from_le_bytes(length));
                        if io::copy(&mut frames.input.by_ref().take(length), &mut io::sink())? < length {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                        *self = Self::Between(frames);
                    } else {
                        return Err(invalid("what follows a zstd frame is none"));
                    }
                }
                Self::Inside(mut decoder) => {
                    let read = decoder.read(out).map_err(zstd_error)?;
                    if read > 0 || out.is_empty() {
                        *self = Self::Inside(decoder);
                        return Ok(read);
                    }
                    *self = Self::Between(decoder.into_inner());
                }
            }
        }
    }
}

/// Turns an error of the zstd library into an `io::Error`. That the file ends early is known only by an error inside
/// it. The result never has the kind `UnexpectedEof`, which would mean that all before the end was read
/// ([`ReadError::is_cut_off`]): the decoder keeps back some of what it had decoded.
fn zstd_error(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    let error = error.into();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
    while let Some(inner) = cause {
        if inner.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof) {
            return invalid("a zstd frame is not whole; the compressed file is cut off, copy it again");
        }
        // `source` of an `io::Error` leaves out the error that it wraps.
        let wrapped = inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause =
            wrapped.map(|wrapped| wrapped as &(dyn std::error::Error + 'static)).or_else(|| inner.source());
    }
    invalid(error)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
