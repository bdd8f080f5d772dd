//! One request and its response, as a handler sees them.

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use super::link::{Link, Which};
use crate::incoming::Start;
use crate::params::Params;
use crate::record::{self, EndRequest, FULL, HEADER, Header, ProtocolStatus, RecordType, Role};

/// A request. Reading from it reads the body (STDIN) as it comes; nothing needs to be read.
#[derive(Debug)]
pub struct Request {
    link: Arc<Link>,
    start: Start,
}

impl Request {
    pub(super) fn new(link: Arc<Link>, start: Start) -> Self {
        Self { link, start }
    }

    /// The request's environment.
    pub fn params(&self) -> &Params {
        &self.start.params
    }

    /// What the application is asked to be.
    pub fn role(&self) -> Role {
        self.start.role
    }

    /// The gateway's number for the request.
    pub fn id(&self) -> u16 {
        self.start.id
    }

    /// The body's length as the gateway announced it.
    pub fn content_length(&self) -> Option<u64> {
        self.params().text("CONTENT_LENGTH")?.parse().ok()
    }

    /// The file a Filter works on (DATA); for other roles it is empty.
    pub fn data(&mut self) -> DataStream<'_> {
        DataStream { request: self }
    }

    /// Whether nobody waits for the response any more: the gateway aborted the request or is gone.
    ///
    /// Known only as far as the connection was read, which is at once where requests are multiplexed, and
    /// with the body otherwise.
    pub fn is_aborted(&self) -> bool {
        self.link.is_aborted(self.start.id)
    }
}

impl Read for Request {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.link.read(self.start.id, Which::Stdin, to)
    }
}

/// The DATA stream of a Filter's request.
#[derive(Debug)]
pub struct DataStream<'a> {
    request: &'a mut Request,
}

impl Read for DataStream<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.request.role() != Role::Filter {
            return Ok(0);
        }
        self.request.link.read(self.request.start.id, Which::Data, to)
    }
}

/// Content gathered before it is sent; what is written in larger pieces goes out without a copy.
const GATHER: usize = 16 << 10;

/// A response. What is written to it goes to the gateway as STDOUT, gathered into records; `flush` sends
/// what is gathered.
#[derive(Debug)]
pub struct Response {
    link: Arc<Link>,
    id: u16,
    /// Room for a header, then content.
    gathered: Vec<u8>,
    began: bool,
}

impl Response {
    pub(super) fn new(link: Arc<Link>, id: u16, mut gathered: Vec<u8>) -> Self {
        gathered.clear();
        gathered.resize(HEADER, 0);
        Self { link, id, gathered, began: false }
    }

    /// Sends a line to the gateway's log (STDERR), at once.
    ///
    /// # Errors
    /// Those of `send(2)`.
    pub fn log(&mut self, message: &str) -> io::Result<()> {
        let mut records = Vec::new();
        record::push_stream(&mut records, RecordType::Stderr, self.id, message.as_bytes());
        self.link.write(&mut [IoSlice::new(&records)])
    }

    /// Whether any of the response has been sent, so that it can no longer be replaced by another.
    pub fn has_begun(&self) -> bool {
        self.began
    }

    /// Drops what was written but not sent; for a handler that failed.
    pub(super) fn discard_gathered(&mut self) {
        self.gathered.truncate(HEADER);
    }

    /// Sends the rest, the end of the stream and END_REQUEST in one write; gives the buffer back.
    ///
    /// In one write, because nginx closes as soon as it has the empty STDOUT record.
    pub(super) fn end(mut self, app_status: u32) -> (io::Result<()>, Vec<u8>) {
        let content = self.gathered.len() - HEADER;
        let mut tail = std::mem::take(&mut self.gathered);
        let mut from = HEADER;
        if content > 0 {
            let header = Header::new(RecordType::Stdout, self.id, content as u16);
            tail[..HEADER].copy_from_slice(&header.bytes());
            tail.extend_from_slice(&[0; 8][..usize::from(header.padding)]);
            from = 0;
        }
        record::push(&mut tail, RecordType::Stdout, self.id, &[]);
        record::push_end(&mut tail, self.id, EndRequest::new(app_status, ProtocolStatus::RequestComplete));
        let result = self.link.write(&mut [IoSlice::new(&tail[from..])]);
        (result, tail)
    }

    fn send_gathered(&mut self) -> io::Result<()> {
        let content = self.gathered.len() - HEADER;
        if content == 0 {
            return Ok(());
        }
        self.began = true;
        let header = Header::new(RecordType::Stdout, self.id, content as u16);
        self.gathered[..HEADER].copy_from_slice(&header.bytes());
        self.gathered.extend_from_slice(&[0; 8][..usize::from(header.padding)]);
        let sent = self.link.write(&mut [IoSlice::new(&self.gathered)]);
        self.gathered.truncate(HEADER);
        sent
    }
}

impl Write for Response {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gathered = self.gathered.len() - HEADER;
        if gathered + bytes.len() <= GATHER {
            self.gathered.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        self.send_gathered()?;
        if bytes.len() <= GATHER {
            self.gathered.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        let content = &bytes[..bytes.len().min(FULL)];
        let header = Header::new(RecordType::Stdout, self.id, content.len() as u16);
        let padding = [0; 8];
        self.began = true;
        self.link.write(&mut [
            IoSlice::new(&header.bytes()),
            IoSlice::new(content),
            IoSlice::new(&padding[..usize::from(header.padding)]),
        ])?;
        Ok(content.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_gathered()
    }
}
