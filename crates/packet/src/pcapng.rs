//! Writes pcapng captures (draft-ietf-opsawg-pcapng) with nanosecond times.

use std::io::{self, Write};

use crate::LinkType;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;

const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;

/// Writes one section. The block of an interface is written before the first packet of that interface.
///
/// Writes to `W` block by block: wrap a file in a `BufWriter`.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    block: Vec<u8>,
    snap_lengths: Vec<u32>,
}

/// An interface of one [`Writer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceId(u32);

impl<W: Write> Writer<W> {
    /// Begins a capture; `application` is recorded as the program that wrote it.
    ///
    /// # Errors
    /// Returns the errors of `out`.
    pub fn new(out: W, application: &str) -> io::Result<Self> {
        Self::with_comment(out, application, None)
    }

    /// Begins a capture, or a further section of one, with a comment on the section as a whole.
    ///
    /// # Errors
    /// Returns the errors of `out`.
    pub fn with_comment(out: W, application: &str, comment: Option<&str>) -> io::Result<Self> {
        let mut writer = Self::continuing(out);
        writer.begin(SECTION_HEADER);
        writer.block.extend(BYTE_ORDER_MAGIC.to_le_bytes());
        writer.block.extend(1u16.to_le_bytes());
        writer.block.extend(0u16.to_le_bytes());
        writer.block.extend((-1i64).to_le_bytes()); // The section's length is not known beforehand.
        if let Some(comment) = comment {
            writer.option(OPT_COMMENT, comment.as_bytes());
        }
        writer.option(SHB_USERAPPL, application.as_bytes());
        writer.end_options();
        writer.finish()?;
        Ok(writer)
    }

    /// Goes on with a capture whose last block is the header of a section.
    pub fn continuing(out: W) -> Self {
        Self { out, block: Vec::with_capacity(2048), snap_lengths: Vec::new() }
    }

    /// Adds an interface; packets longer than `snaplen` are cut to it, 0 means no limit.
    ///
    /// # Errors
    /// Returns the errors of the underlying writer.
    pub fn interface(&mut self, name: &str, link_type: LinkType, snaplen: u32) -> io::Result<InterfaceId> {
        self.begin(INTERFACE_DESCRIPTION);
        self.block.extend(link_type.0.to_le_bytes());
        self.block.extend(0u16.to_le_bytes());
        self.block.extend(snaplen.to_le_bytes());
        self.option(IF_NAME, name.as_bytes());
        self.option(IF_TSRESOL, &[9]);
        self.end_options();
        self.finish()?;
        self.snap_lengths.push(if snaplen == 0 { u32::MAX } else { snaplen });
        Ok(InterfaceId(self.snap_lengths.len() as u32 - 1))
    }

    /// Writes a packet seen at `time` (nanoseconds since 1970-01-01 00:00 UTC).
    ///
    /// `original_len` is its length on the wire; `data` may be shorter.
    ///
    /// # Errors
    /// Returns `InvalidInput` if this writer has no interface of that number; otherwise the errors of the
    /// underlying writer.
    pub fn packet(
        &mut self,
        interface: InterfaceId,
        time_ns: u64,
        data: &[u8],
        original_len: u32,
        comment: Option<&str>,
    ) -> io::Result<()> {
        let Some(&snaplen) = self.snap_lengths.get(interface.0 as usize) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the interface belongs to another capture",
            ));
        };
        let data = &data[..data.len().min(snaplen as usize)];
        self.begin(ENHANCED_PACKET);
        self.block.extend(interface.0.to_le_bytes());
        self.block.extend(((time_ns >> 32) as u32).to_le_bytes());
        self.block.extend((time_ns as u32).to_le_bytes());
        self.block.extend((data.len() as u32).to_le_bytes());
        self.block.extend(original_len.max(data.len() as u32).to_le_bytes());
        self.block.extend(data);
        self.pad();
        if let Some(comment) = comment {
            self.option(OPT_COMMENT, comment.as_bytes());
            self.end_options();
        }
        self.finish()
    }

    /// Flushes the underlying writer.
    ///
    /// # Errors
    /// Returns the errors of the underlying writer.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Returns the underlying writer.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.block.extend(kind.to_le_bytes());
        self.block.extend([0; 4]); // The length, once it is known.
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    /// Adds an option; a value beyond the 65,535 bytes that fit is cut at a character.
    fn option(&mut self, code: u16, value: &[u8]) {
        let mut length = value.len().min(usize::from(u16::MAX));
        while length < value.len() && length > 0 && value[length] & 0xc0 == 0x80 {
            length -= 1;
        }
        self.block.extend(code.to_le_bytes());
        self.block.extend((length as u16).to_le_bytes());
        self.block.extend(&value[..length]);
        self.pad();
    }

    fn end_options(&mut self) {
        self.block.extend([0; 4]);
    }

    fn finish(&mut self) -> io::Result<()> {
        let length = (self.block.len() + 4) as u32;
        self.block[4..8].copy_from_slice(&length.to_le_bytes());
        self.block.extend(length.to_le_bytes());
        self.out.write_all(&self.block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_of_another_writer_is_refused() {
        let mut writer = Writer::new(Vec::new(), "x").unwrap();
        let error = writer.packet(InterfaceId(0), 0, &[], 0, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
