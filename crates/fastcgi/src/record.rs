//! Records: the 8-byte header, and a decoder that takes the bytes however they were split.
//!
//! No sockets and no allocation. The layout is that of the FastCGI specification 1.0, sections 3.3 and 8.

use crate::error::{Fault, ProtocolError};
pub use crate::record_type::RecordType;

/// Bytes in a record's header.
pub const HEADER: usize = 8;
/// Most bytes of content in one record.
pub const MAX_CONTENT: usize = 65_535;
/// Most content this crate puts in one record: a multiple of 8, so that full records need no padding.
pub const FULL: usize = 65_528;

/// The role of the application (specification section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Answers an HTTP request.
    Responder,
    /// Decides whether a request is allowed; has no body.
    Authorizer,
    /// Turns a file, sent as the DATA stream, into a response.
    Filter,
}

impl Role {
    /// Reads the number in BEGIN_REQUEST; `None` for roles that are not defined.
    pub fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Responder),
            2 => Some(Self::Authorizer),
            3 => Some(Self::Filter),
            _ => None,
        }
    }

    /// The number in BEGIN_REQUEST.
    pub fn number(self) -> u16 {
        match self {
            Self::Responder => 1,
            Self::Authorizer => 2,
            Self::Filter => 3,
        }
    }
}

/// How a request ended, for the protocol. The application has a status of its own ([`EndRequest::app_status`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolStatus {
    /// Normal end.
    RequestComplete,
    /// Refused: the connection takes one request at a time.
    CantMultiplex,
    /// Refused: no resources.
    Overloaded,
    /// Refused: the role is unknown.
    UnknownRole,
    /// A number that is not defined.
    Other(u8),
}

impl From<u8> for ProtocolStatus {
    fn from(byte: u8) -> Self {
        match byte {
            0 => Self::RequestComplete,
            1 => Self::CantMultiplex,
            2 => Self::Overloaded,
            3 => Self::UnknownRole,
            other => Self::Other(other),
        }
    }
}

impl From<ProtocolStatus> for u8 {
    fn from(status: ProtocolStatus) -> Self {
        match status {
            ProtocolStatus::RequestComplete => 0,
            ProtocolStatus::CantMultiplex => 1,
            ProtocolStatus::Overloaded => 2,
            ProtocolStatus::UnknownRole => 3,
            ProtocolStatus::Other(other) => other,
        }
    }
}

/// The body of END_REQUEST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndRequest {
    /// The application's own status, as a process's exit status.
    pub app_status: u32,
    /// The protocol's.
    pub protocol_status: ProtocolStatus,
}

impl EndRequest {
    /// The end of a request with this status of the application and this status of the protocol.
    pub fn new(app_status: u32, protocol_status: ProtocolStatus) -> Self {
        Self { app_status, protocol_status }
    }

    pub(crate) fn parse(body: [u8; 8]) -> Self {
        let [a, b, c, d, status, ..] = body;
        Self::new(u32::from_be_bytes([a, b, c, d]), status.into())
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// What the record is.
    pub kind: RecordType,
    /// The request's id; 0 for management records.
    pub id: u16,
    /// Bytes of content.
    pub content: u16,
    /// Bytes after the content that mean nothing.
    pub padding: u8,
}

impl Header {
    /// A header for `content` bytes, padded to a multiple of 8 as the specification recommends.
    pub fn new(kind: RecordType, id: u16, content: u16) -> Self {
        Self { kind, id, content, padding: (content.wrapping_neg() % 8) as u8 }
    }

    /// The eight bytes on the wire.
    pub fn bytes(self) -> [u8; HEADER] {
        let ([id1, id0], [content1, content0]) = (self.id.to_be_bytes(), self.content.to_be_bytes());
        [1, self.kind.into(), id1, id0, content1, content0, self.padding, 0]
    }

    fn parse(bytes: [u8; HEADER]) -> Result<Self, Fault> {
        let [version, kind, id1, id0, content1, content0, padding, _reserved] = bytes;
        if version != 1 {
            return Err(Fault::Version(version));
        }
        Ok(Self {
            kind: kind.into(),
            id: u16::from_be_bytes([id1, id0]),
            content: u16::from_be_bytes([content1, content0]),
            padding,
        })
    }
}

/// A piece of a record, borrowed from the bytes it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part<'a> {
    /// A record begins.
    Begin(Header),
    /// Some of its content, never empty.
    Content(Header, &'a [u8]),
    /// The record's content is complete. Padding is skipped without an event, and not waited for.
    End(Header),
}

/// Cuts a stream of bytes into [`Part`]s. Buffers one header at most.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    /// The header that is being received.
    partial: [u8; HEADER],
    have: usize,
    /// The record whose content is being received.
    current: Option<Header>,
    content_left: usize,
    padding_left: usize,
    offset: u64,
}

impl Decoder {
    /// Starts at the beginning of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes have been taken.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the bytes taken so far end between two records.
    pub fn at_boundary(&self) -> bool {
        self.have == 0 && self.current.is_none() && self.padding_left == 0
    }

    /// Takes the next part off the front of `input`. Returns `None` once all of `input` is taken.
    ///
    /// # Errors
    /// Returns an error if a header's version is not 1. Nothing after that header can be trusted.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Part<'a>>, ProtocolError> {
        if let Some(header) = self.current {
            if self.content_left == 0 {
                self.current = None;
                return Ok(Some(Part::End(header)));
            }
            if input.is_empty() {
                return Ok(None);
            }
            let content = self.take(input, self.content_left);
            self.content_left -= content.len();
            return Ok(Some(Part::Content(header, content)));
        }
        let skipped = self.take(input, self.padding_left).len();
        self.padding_left -= skipped;
        if self.padding_left > 0 {
            return Ok(None);
        }
        let bytes = self.take(input, HEADER - self.have);
        self.partial[self.have..self.have + bytes.len()].copy_from_slice(bytes);
        self.have += bytes.len();
        // The version is the first byte: a peer that does not speak FastCGI is refused at once.
        if self.have > 0 && self.partial[0] != 1 {
            return Err(self.fault_at(self.have as u64, Fault::Version(self.partial[0])));
        }
        if self.have < HEADER {
            return Ok(None);
        }
        let header = Header::parse(self.partial).map_err(|fault| self.fault_at(HEADER as u64, fault))?;
        self.have = 0;
        self.current = Some(header);
        self.content_left = usize::from(header.content);
        self.padding_left = usize::from(header.padding);
        Ok(Some(Part::Begin(header)))
    }

    fn fault_at(&self, back: u64, fault: Fault) -> ProtocolError {
        ProtocolError::new(self.offset - back, fault)
    }

    fn take<'a>(&mut self, input: &mut &'a [u8], most: usize) -> &'a [u8] {
        let (taken, rest) = input.split_at(most.min(input.len()));
        *input = rest;
        self.offset += taken.len() as u64;
        taken
    }
}

/// Appends one record; content beyond [`MAX_CONTENT`] bytes is an error of the caller and is cut there.
pub fn push(out: &mut Vec<u8>, kind: RecordType, id: u16, content: &[u8]) {
    let content = &content[..content.len().min(MAX_CONTENT)];
    let header = Header::new(kind, id, content.len() as u16);
    out.extend_from_slice(&header.bytes());
    out.extend_from_slice(content);
    out.extend_from_slice(&[0; 8][..usize::from(header.padding)]);
}

/// Appends as many records as `bytes` of a stream need. If `bytes` is empty, appends none: an empty record would end the
/// stream.
pub fn push_stream(out: &mut Vec<u8>, kind: RecordType, id: u16, bytes: &[u8]) {
    for chunk in bytes.chunks(FULL) {
        push(out, kind, id, chunk);
    }
}

/// Appends BEGIN_REQUEST.
pub fn push_begin(out: &mut Vec<u8>, id: u16, role: Role, keep_conn: bool) {
    let [role1, role0] = role.number().to_be_bytes();
    push(out, RecordType::BeginRequest, id, &[role1, role0, u8::from(keep_conn), 0, 0, 0, 0, 0]);
}

/// Appends END_REQUEST.
pub fn push_end(out: &mut Vec<u8>, id: u16, end: EndRequest) {
    let [a, b, c, d] = end.app_status.to_be_bytes();
    push(out, RecordType::EndRequest, id, &[a, b, c, d, end.protocol_status.into(), 0, 0, 0]);
}

/// Appends UNKNOWN_TYPE, the answer to a management record that is not understood.
pub fn push_unknown(out: &mut Vec<u8>, kind: u8) {
    push(out, RecordType::UnknownType, 0, &[kind, 0, 0, 0, 0, 0, 0, 0]);
}
