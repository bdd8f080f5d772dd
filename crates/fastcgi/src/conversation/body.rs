//! Bytes of a request's two streams that have arrived and were not read.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::spool::Spool;
use crate::error::ProtocolError;

/// Which of a request's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Which {
    /// The body.
    Stdin,
    /// The file that a Filter works on.
    Data,
}

/// The result of a handler's read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input<T> {
    /// Some of the stream.
    Got(T),
    /// The stream has ended.
    End,
    /// Nothing has arrived yet: more of the connection has to be read.
    Later,
}

/// Why a handler gets no more of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gone {
    /// The gateway aborted the request.
    Aborted,
    /// The request has been answered; the rest of its body is discarded.
    Answered,
    /// The gateway has closed its side.
    Closed,
    /// The gateway was silent for too long.
    Silent,
    /// The gateway was not silent, and took too long all the same: for a record, for parameters, or for this request's body.
    Slow,
    /// The connection failed.
    Failed(ErrorKind),
    /// The gateway broke the protocol.
    Protocol(ProtocolError),
}

impl From<Gone> for io::Error {
    fn from(gone: Gone) -> Self {
        let (kind, message) = match gone {
            Gone::Aborted => (ErrorKind::ConnectionAborted, "the gateway aborted the request"),
            Gone::Answered => (ErrorKind::UnexpectedEof, "the request was answered before it was read"),
            Gone::Closed => (
                ErrorKind::UnexpectedEof,
                "the gateway closed the connection before the request was complete",
            ),
            Gone::Silent => (ErrorKind::TimedOut, "the gateway stopped sending in the middle of a request"),
            Gone::Slow => (ErrorKind::TimedOut, "the gateway took too long to send the request"),
            Gone::Failed(kind) => return kind.into(),
            Gone::Protocol(error) => return error.into(),
        };
        Self::new(kind, message)
    }
}

/// One stream of one request.
#[derive(Debug)]
pub(super) enum InputStream {
    /// More may come.
    Coming(Queue),
    /// All of it has arrived.
    Whole(Queue),
    /// The handler reads no more; bytes that arrive are dropped.
    Unwanted,
}

impl InputStream {
    /// A stream that this request has, or one that is empty from the start.
    pub(super) fn new(has_one: bool) -> Self {
        if has_one { Self::Coming(Queue::default()) } else { Self::Whole(Queue::default()) }
    }

    /// Keeps bytes, in a file of `spool` if a folder is given. Returns false if no file could be made there; the bytes are in
    /// memory then.
    pub(super) fn push(&mut self, bytes: &[u8], spool: Option<&Path>) -> bool {
        debug_assert!(!matches!(self, Self::Whole(_)), "bytes after the end of a stream");
        match self {
            Self::Coming(queue) => queue.push(bytes, spool),
            Self::Whole(_) | Self::Unwanted => true,
        }
    }

    pub(super) fn end(&mut self) {
        if let Self::Coming(queue) = self {
            *self = Self::Whole(std::mem::take(queue));
        }
    }

    /// How many bytes wait in memory to be read.
    pub(super) fn waiting(&self) -> usize {
        match self {
            Self::Coming(queue) | Self::Whole(queue) => queue.bytes.len() - queue.at,
            Self::Unwanted => 0,
        }
    }

    /// How many bytes its file takes.
    pub(super) fn spooled(&self) -> u64 {
        match self {
            Self::Coming(queue) | Self::Whole(queue) => queue.spool.as_ref().map_or(0, Spool::extent),
            Self::Unwanted => 0,
        }
    }

    /// Copies as much as fits, and returns its length; 0 if no bytes are queued.
    pub(super) fn read(&mut self, to: &mut [u8]) -> Result<usize, Gone> {
        match self {
            Self::Coming(queue) | Self::Whole(queue) => {
                queue.refill()?;
                Ok(queue.take(to))
            }
            Self::Unwanted => Ok(0),
        }
    }

    /// Takes what waits: all that is in memory, or a piece of the file.
    pub(super) fn piece(&mut self) -> Result<Vec<u8>, Gone> {
        match self {
            Self::Coming(queue) | Self::Whole(queue) => {
                queue.refill()?;
                let mut bytes = std::mem::take(&mut queue.bytes);
                bytes.drain(..std::mem::take(&mut queue.at));
                Ok(bytes)
            }
            Self::Unwanted => Ok(Vec::new()),
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

/// Bytes in memory, and behind them bytes in a file.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    at: usize,
    spool: Option<Spool>,
    /// The file failed: what follows the bytes before it is lost.
    broken: Option<ErrorKind>,
}

impl Queue {
    fn push(&mut self, bytes: &[u8], folder: Option<&Path>) -> bool {
        if self.broken.is_some() {
            return true;
        }
        let made = match (&self.spool, folder) {
            (None, Some(folder)) => Spool::new(folder).map(|spool| self.spool = Some(spool)),
            _ => Ok(()),
        };
        // Bytes behind those in the file belong there, too.
        match &mut self.spool {
            Some(spool) if folder.is_some() || spool.len() > 0 => {
                self.broken = spool.push(bytes).err().map(|error| error.kind());
            }
            _ => self.bytes.extend_from_slice(bytes),
        }
        if let Err(error) = &made {
            tracing::warn!(?folder, %error, "no file for a request's body");
        }
        made.is_ok()
    }

    /// Brings the next bytes of the file into memory if that is empty.
    fn refill(&mut self) -> Result<(), Gone> {
        if self.at < self.bytes.len() {
            return Ok(());
        }
        if let Some(spool) = self.spool.as_mut().filter(|spool| spool.len() > 0) {
            self.bytes = spool.pop().map_err(|error| Gone::Failed(error.kind()))?;
            self.at = 0;
        }
        match self.broken {
            Some(kind) if self.bytes.is_empty() => Err(Gone::Failed(kind)),
            _ => Ok(()),
        }
    }

    fn take(&mut self, to: &mut [u8]) -> usize {
        let waiting = &self.bytes[self.at..];
        let taken = waiting.len().min(to.len());
        to[..taken].copy_from_slice(&waiting[..taken]);
        self.at += taken;
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        taken
    }
}
