//! Turns a handler's response into records, and decides which records end a request.

use std::io::IoSlice;

use crate::cgi::Head;
use crate::record::{self, EndRequest, FULL, HEADER, Header, ProtocolStatus, RecordType};

/// Writes are gathered up to this many bytes; larger ones are sent without a copy.
const GATHER: usize = 16 << 10;

/// The client's response if a handler fails before it has written anything.
const REFUSAL: &[u8] =
    b"Status: 500\r\nContent-Type: text/plain\r\n\r\nThe application failed; its log says why.\n";

/// How much of a response was sent to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Said {
    /// Nothing was sent: another response can still take its place.
    Nothing,
    /// A part of the response was sent.
    Part,
    /// A record was handed out to be sent, and its sending was not reported yet, or has failed: how much of it arrived is not
    /// known.
    Torn,
}

/// How a request ends: its last records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestEnd {
    /// The rest of the response, the end of STDOUT, END_REQUEST with the handler's status.
    Complete(u32),
    /// The reason for the gateway's log, a `500` response, END_REQUEST.
    Refused,
    /// END_REQUEST alone: the gateway wants no answer any more (specification section 5.4).
    Bare,
    /// The reason for the gateway's log, and **no** END_REQUEST, so that nobody takes the part for the whole
    /// response.
    Cut,
}

impl RequestEnd {
    /// Decides by the handler's status (`None` if it failed), by how much was already sent, and by whether the
    /// gateway aborted the request.
    pub(super) fn of(status: Option<u32>, said: Said, aborted: bool) -> Self {
        match (status, said) {
            (_, Said::Torn) => Self::Cut,
            (Some(status), _) => Self::Complete(status),
            (None, _) if aborted => Self::Bare,
            (None, Said::Nothing) => Self::Refused,
            (None, Said::Part) => Self::Cut,
        }
    }
}

/// One record that borrows its content.
#[derive(Clone, Copy, Debug)]
pub struct Large<'a> {
    header: [u8; HEADER],
    content: &'a [u8],
    padding: usize,
}

impl<'a> Large<'a> {
    fn new(kind: RecordType, id: u16, content: &'a [u8]) -> Self {
        let header = Header::new(kind, id, content.len() as u16);
        Self { header: header.bytes(), content, padding: usize::from(header.padding) }
    }

    /// How many bytes of content the record carries.
    pub fn content(&self) -> usize {
        self.content.len()
    }

    /// The record's bytes, for a vectored write.
    pub fn slices(&self) -> [IoSlice<'_>; 3] {
        [IoSlice::new(&self.header), IoSlice::new(self.content), IoSlice::new(&[0; 8][..self.padding])]
    }
}

/// The result of a handler's write.
#[derive(Debug)]
#[non_exhaustive]
pub enum Accepted<'a> {
    /// The bytes are kept, to be sent together with others.
    Gathered,
    /// There is no room for the bytes: send [what was gathered](Answer::gathered) first, and try again.
    Full,
    /// As many of the bytes as fit are in this record: send it, then report that with [`Answer::sent_large`].
    Large(Large<'a>),
    /// An earlier write of this response was never completed: no more of it can be sent.
    Torn,
}

/// What was handed out of a response, for the journal.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SaidSoFar {
    pub(crate) status: Option<u16>,
    pub(crate) bytes: u64,
}

impl SaidSoFar {
    /// Notes the next bytes of a response. `looks`: the status is wanted.
    fn note(&mut self, content: &[u8], looks: bool) {
        if looks && self.bytes == 0 {
            self.status = Head::parse(content).ok().flatten().map(|(head, _)| head.status);
        }
        self.bytes += content.len() as u64;
    }
}

/// The response to one request: gathers writes into STDOUT records.
#[derive(Debug)]
pub struct Answer {
    id: u16,
    said: Said,
    told: SaidSoFar,
    /// Whether the status is wanted.
    looks: bool,
    /// Space for a record's header, then the content.
    gathered: Vec<u8>,
}

impl Answer {
    /// An empty answer to request `id`. `buffer` is reused for its memory; its contents are dropped.
    pub fn new(id: u16, buffer: Vec<u8>) -> Self {
        Self { id, said: Said::Nothing, told: SaidSoFar::default(), looks: false, gathered: emptied(buffer) }
    }

    /// Looks for the status of the response.
    pub(crate) fn look(&mut self) {
        self.looks = true;
    }

    /// What was handed out of the response so far.
    #[cfg(feature = "tokio")]
    pub(crate) fn told(&self) -> SaidSoFar {
        self.told
    }

    /// How much was sent.
    pub fn said(&self) -> Said {
        self.said
    }

    /// Takes bytes of the response.
    pub fn accept<'a>(&mut self, bytes: &'a [u8]) -> Accepted<'a> {
        if self.said == Said::Torn {
            return Accepted::Torn;
        }
        let gathered = self.gathered.len() - HEADER;
        if gathered + bytes.len() <= GATHER {
            self.gathered.extend_from_slice(bytes);
            return Accepted::Gathered;
        }
        if gathered > 0 {
            return Accepted::Full;
        }
        self.said = Said::Torn;
        let content = &bytes[..bytes.len().min(FULL)];
        self.told.note(content, self.looks);
        Accepted::Large(Large::new(RecordType::Stdout, self.id, content))
    }

    /// Notes that a [large](Accepted::Large) record was sent.
    pub fn sent_large(&mut self) {
        debug_assert_eq!(self.said, Said::Torn, "no record was handed out");
        self.said = Said::Part;
    }

    /// The gathered content as one record, to be sent and then [reported](Self::sent); `None` if nothing is gathered,
    /// or while another record is under way.
    pub fn gathered(&mut self) -> Option<Vec<u8>> {
        if self.gathered.len() == HEADER || self.said == Said::Torn {
            return None;
        }
        self.said = Said::Torn;
        self.seal();
        Some(std::mem::take(&mut self.gathered))
    }

    /// Notes that the [gathered](Self::gathered) record was sent, and takes its buffer back.
    pub fn sent(&mut self, buffer: Vec<u8>) {
        debug_assert_eq!(self.said, Said::Torn, "no record was handed out");
        self.said = Said::Part;
        self.gathered = emptied(buffer);
    }

    /// The STDERR records with a message for the gateway's log.
    pub fn log(&self, message: &[u8]) -> Vec<u8> {
        let mut records = Vec::new();
        record::push_stream(&mut records, RecordType::Stderr, self.id, message);
        records
    }

    /// The request's last records, to be sent in one write: nginx closes as soon as it has the empty STDOUT record, and a
    /// second write could meet a closed connection.
    ///
    /// A response that is torn ends as `Cut`, whatever `end` says. `reason` goes to the gateway's log, unless the end is
    /// `Complete` or `Bare`.
    pub fn last(mut self, end: RequestEnd, reason: &str) -> Last {
        let end = if self.said == Said::Torn { RequestEnd::Cut } else { end };
        if let RequestEnd::Complete(status) = end {
            let from = if self.gathered.len() > HEADER { 0 } else { HEADER };
            self.seal();
            return self.ended(status, from);
        }
        self.gathered = emptied(self.gathered);
        if end != RequestEnd::Bare {
            record::push_stream(&mut self.gathered, RecordType::Stderr, self.id, reason.as_bytes());
        }
        match end {
            RequestEnd::Cut => return Last { buffer: self.gathered, from: HEADER, told: self.told },
            RequestEnd::Refused => record::push(&mut self.gathered, RecordType::Stdout, self.id, REFUSAL),
            RequestEnd::Bare | RequestEnd::Complete(_) => {}
        }
        self.ended(1, HEADER)
    }

    fn ended(mut self, status: u32, from: usize) -> Last {
        let end = EndRequest::new(status, ProtocolStatus::RequestComplete);
        record::push(&mut self.gathered, RecordType::Stdout, self.id, &[]);
        record::push_end(&mut self.gathered, self.id, end);
        Last { buffer: self.gathered, from, told: self.told }
    }

    /// Makes a record of what was gathered.
    fn seal(&mut self) {
        let content = self.gathered.len() - HEADER;
        debug_assert!(content <= GATHER);
        self.told.note(&self.gathered[HEADER..], self.looks);
        let header = Header::new(RecordType::Stdout, self.id, content as u16);
        self.gathered[..HEADER].copy_from_slice(&header.bytes());
        self.gathered.extend_from_slice(&[0; 8][..usize::from(header.padding)]);
    }
}

fn emptied(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer.resize(HEADER, 0);
    buffer
}

/// The last records of a request.
#[derive(Debug)]
pub struct Last {
    buffer: Vec<u8>,
    from: usize,
    told: SaidSoFar,
}

impl Last {
    /// The bytes to be sent.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.from..]
    }

    /// What was said of the response in all, if these are sent.
    pub(crate) fn told(&self) -> SaidSoFar {
        self.told
    }

    /// The buffer, for the next answer.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}
