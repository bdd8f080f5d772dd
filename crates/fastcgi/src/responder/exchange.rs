//! One request and its response, as a handler sees them.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::Arc;

use super::link::Link;
use super::wire::Wire;
use crate::conversation::{Accepted, Answer, Key, Said, Which};
use crate::incoming::Start;
use crate::params::Params;
use crate::record::Role;

/// A request. Reading from it reads the body (STDIN) as it arrives. It need not be read.
#[derive(Debug)]
pub struct Request {
    link: Arc<Link<dyn Wire>>,
    key: Key,
    start: Start,
}

impl Request {
    pub(super) fn new(link: Arc<Link<dyn Wire>>, key: Key, start: Start) -> Self {
        Self { link, key, start }
    }

    /// The request's environment.
    pub fn params(&self) -> &Params {
        &self.start.params
    }

    /// The role in which the application is asked to act.
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

    /// The file for a Filter (DATA); empty for other roles.
    pub fn data(&mut self) -> DataStream<'_> {
        DataStream { request: self }
    }

    /// Whether nobody waits for the response any more: the gateway aborted the request or is gone.
    ///
    /// Asking this reads what has arrived, up to [`Limits::buffered`](crate::Limits::buffered) bytes of the body that the handler has
    /// not read: an abort or an end behind more than these is not seen.
    pub fn is_aborted(&self) -> bool {
        self.link.is_aborted(self.key)
    }
}

impl Read for Request {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.link.read(self.key, Which::Stdin, to)
    }
}

/// The DATA stream of a Filter's request.
#[derive(Debug)]
pub struct DataStream<'a> {
    request: &'a mut Request,
}

impl Read for DataStream<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.request.link.read(self.request.key, Which::Data, to)
    }
}

/// A response. Written bytes are gathered into STDOUT records; `flush` sends them at once.
#[derive(Debug)]
pub struct Response {
    link: Arc<Link<dyn Wire>>,
    answer: Answer,
}

impl Response {
    pub(super) fn new(link: Arc<Link<dyn Wire>>, answer: Answer) -> Self {
        Self { link, answer }
    }

    pub(super) fn into_answer(self) -> Answer {
        self.answer
    }

    /// Sends a line to the gateway's log (STDERR), at once.
    ///
    /// # Errors
    /// Returns the errors of `send(2)`.
    pub fn log(&mut self, message: &str) -> io::Result<()> {
        self.link.write(&mut [IoSlice::new(&self.answer.log(message.as_bytes()))])
    }

    /// Whether any of the response has been sent, so that it can no longer be replaced by another.
    pub fn has_begun(&self) -> bool {
        self.answer.said() != Said::Nothing
    }
}

impl Write for Response {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.answer.accept(bytes) {
                Accepted::Gathered => return Ok(bytes.len()),
                Accepted::Full => self.flush()?,
                Accepted::Large(record) => {
                    self.link.write(&mut record.slices())?;
                    let content = record.content();
                    self.answer.sent_large();
                    return Ok(content);
                }
                Accepted::Torn => return Err(ErrorKind::BrokenPipe.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(record) = self.answer.gathered() {
            self.link.write(&mut [IoSlice::new(&record)])?;
            self.answer.sent(record);
        }
        Ok(())
    }
}
