//! Bytes of a request's two streams that have arrived and were not read.

use std::io::{self, ErrorKind};

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

    pub(super) fn push(&mut self, bytes: &[u8]) {
        debug_assert!(!matches!(self, Self::Whole(_)), "bytes after the end of a stream");
        if let Self::Coming(queue) = self {
            queue.bytes.extend_from_slice(bytes);
        }
    }

    pub(super) fn end(&mut self) {
        if let Self::Coming(queue) = self {
            *self = Self::Whole(std::mem::take(queue));
        }
    }

    /// How many bytes wait to be read.
    pub(super) fn waiting(&self) -> usize {
        match self {
            Self::Coming(queue) | Self::Whole(queue) => queue.bytes.len() - queue.at,
            Self::Unwanted => 0,
        }
    }

    /// Copies as much as fits, and returns its length; 0 if no bytes are queued.
    pub(super) fn read(&mut self, to: &mut [u8]) -> usize {
        match self {
            Self::Coming(queue) | Self::Whole(queue) => queue.take(to),
            Self::Unwanted => 0,
        }
    }

    /// Takes everything that waits.
    pub(super) fn piece(&mut self) -> Vec<u8> {
        match self {
            Self::Coming(queue) | Self::Whole(queue) => {
                let mut queue = std::mem::take(queue);
                queue.bytes.drain(..queue.at);
                queue.bytes
            }
            Self::Unwanted => Vec::new(),
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    at: usize,
}

impl Queue {
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
