//! The gateway's side of a connection, without its socket: bytes in, the answer to one request out.

use crate::error::{Fault, ProtocolError};
use crate::record::{Decoder, EndRequest, Header, Part, RecordType};

/// What the application said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply<'a> {
    /// Some of the response.
    Stdout(&'a [u8]),
    /// The end of STDOUT. The response is complete only once [`Reply::End`] follows.
    StdoutEnd,
    /// A piece of the application's log.
    Stderr(&'a [u8]),
    /// END_REQUEST: nothing more of the response comes. The status says whether the application has served the request.
    End(EndRequest),
}

/// The state of one request at the gateway.
#[derive(Debug)]
pub struct Replies {
    decoder: Decoder,
    id: u16,
    body: [u8; 8],
    have: usize,
    ended: bool,
}

impl Replies {
    /// Waits for the answer to request `id`.
    pub fn new(id: u16) -> Self {
        Self { decoder: Decoder::new(), id, body: [0; 8], have: 0, ended: false }
    }

    /// Begins the next request on the same connection.
    pub fn again(&mut self, id: u16) {
        self.id = id;
        self.have = 0;
        self.ended = false;
    }

    /// How many bytes have been taken off the connection.
    pub fn offset(&self) -> u64 {
        self.decoder.offset()
    }

    /// Whether the END_REQUEST of this request was seen.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Whether the connection is between two records, so that it may be used again after the end.
    pub fn at_boundary(&self) -> bool {
        self.decoder.at_boundary()
    }

    /// Takes the next reply off the front of `input`. Returns `None` once all of `input` is taken.
    ///
    /// # Errors
    /// Returns an error at a record that an application may not send, or that belongs to a request that was not sent:
    /// the responses of two requests must never mix.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Reply<'a>>, ProtocolError> {
        while let Some(part) = self.decoder.next(input)? {
            if let Part::End(header) = part {
                tracing::debug!(record = ?header.kind, bytes = header.content, "received");
            }
            match part {
                Part::Begin(header) => self.begin(header)?,
                Part::Content(header, bytes) => match header.kind {
                    RecordType::Stdout => return Ok(Some(Reply::Stdout(bytes))),
                    RecordType::Stderr => return Ok(Some(Reply::Stderr(bytes))),
                    RecordType::EndRequest => {
                        self.body[self.have..self.have + bytes.len()].copy_from_slice(bytes);
                        self.have += bytes.len();
                    }
                    _ => {}
                },
                Part::End(header) => match header.kind {
                    RecordType::Stdout if header.content == 0 => return Ok(Some(Reply::StdoutEnd)),
                    RecordType::EndRequest => {
                        self.ended = true;
                        return Ok(Some(Reply::End(EndRequest::parse(self.body))));
                    }
                    _ => {}
                },
            }
        }
        Ok(None)
    }

    fn begin(&mut self, header: Header) -> Result<(), ProtocolError> {
        self.have = 0;
        let fault = match header.kind {
            RecordType::Stdout | RecordType::Stderr | RecordType::EndRequest
                if header.id != self.id || self.ended =>
            {
                Fault::ForeignId { kind: header.kind, id: header.id }
            }
            RecordType::EndRequest if header.content != 8 => {
                Fault::Size { kind: header.kind, length: header.content }
            }
            RecordType::BeginRequest
            | RecordType::AbortRequest
            | RecordType::Params
            | RecordType::Stdin
            | RecordType::Data
            | RecordType::GetValues => Fault::WrongSide(header.kind),
            _ => return Ok(()),
        };
        Err(ProtocolError::new(self.decoder.offset(), fault))
    }
}
