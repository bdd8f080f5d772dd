//! One request and its response, as a handler has them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use ::tokio::io::{AsyncWriteExt, WriteHalf};
use ::tokio::sync::mpsc;
use ::tokio::time::timeout;
use bytes::Bytes;
use linger::tokio::Stream;

use super::lock;
use crate::incoming::{Incoming, Start};
use crate::params::Params;
use crate::record::{self, EndRequest, FULL, ProtocolStatus, RecordType, Role};

/// Content gathered before it is sent.
const GATHER: usize = 16 << 10;

/// A request. Its body comes in pieces; none need be taken.
#[derive(Debug)]
pub struct Request {
    pub(super) start: Start,
    pub(super) stdin: mpsc::Receiver<Bytes>,
    pub(super) data: mpsc::Receiver<Bytes>,
    pub(super) complete: Arc<Complete>,
}

/// Which streams ended as they should, for an end of the channel alone may be a lost connection.
#[derive(Debug, Default)]
pub(super) struct Complete {
    pub(super) stdin: AtomicBool,
    pub(super) data: AtomicBool,
}

impl Request {
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

    /// The next piece of the body, or `None` at its end.
    ///
    /// # Errors
    /// `UnexpectedEof` where the gateway aborted the request or is gone.
    pub async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        let next = self.stdin.recv().await;
        self.checked(next)
    }

    /// As [`chunk`](Self::chunk), for a caller that polls.
    pub fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        self.stdin.poll_recv(context).map(|next| self.checked(next))
    }

    /// The next piece of the file that a Filter works on, or `None` at its end.
    ///
    /// # Errors
    /// `UnexpectedEof` where the gateway aborted the request or is gone.
    pub async fn data_chunk(&mut self) -> io::Result<Option<Bytes>> {
        match self.data.recv().await {
            None if self.role() == Role::Filter && !load(&self.complete.data) => Err(gone()),
            next => Ok(next),
        }
    }

    fn checked(&self, next: Option<Bytes>) -> io::Result<Option<Bytes>> {
        match next {
            None if self.role() != Role::Authorizer && !load(&self.complete.stdin) => Err(gone()),
            next => Ok(next),
        }
    }
}

fn load(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Acquire)
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the gateway aborted the request before it was complete")
}

pub(super) type Writer<C> = Arc<::tokio::sync::Mutex<WriteHalf<C>>>;

/// Nothing of the response was sent.
pub(super) const FRESH: u8 = 0;
/// Some was.
const BEGUN: u8 = 1;
/// END_REQUEST was sent, or sending it was tried.
pub(super) const ENDED: u8 = 2;

/// A response: gathers what is written into STDOUT records, and must be [ended](Self::end).
pub struct Response {
    pub(super) out: Box<dyn Sink>,
    pub(super) incoming: Arc<Mutex<Incoming>>,
    pub(super) id: u16,
    pub(super) gathered: Vec<u8>,
    pub(super) progress: Arc<AtomicU8>,
    pub(super) io_timeout: Duration,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The connection's writing side, whatever the connection is.
pub(super) trait Sink: Send + Sync {
    fn send<'a>(&'a self, records: &'a [u8]) -> Sending<'a>;
}

pub(super) type Sending<'a> = Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>;

impl<C: Stream + Send + 'static> Sink for Writer<C> {
    fn send<'a>(&'a self, records: &'a [u8]) -> Sending<'a> {
        Box::pin(async move { self.lock().await.write_all(records).await })
    }
}

impl Response {
    /// Writes STDOUT; the CGI header block comes first.
    ///
    /// # Errors
    /// Those of the connection; `TimedOut` where the gateway stopped reading.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.gathered.len() + bytes.len() <= GATHER {
            self.gathered.extend_from_slice(bytes);
            return Ok(());
        }
        self.flush().await?;
        for chunk in bytes.chunks(FULL) {
            if chunk.len() <= GATHER {
                self.gathered.extend_from_slice(chunk);
            } else {
                let mut records = Vec::with_capacity(chunk.len() + 16);
                record::push(&mut records, RecordType::Stdout, self.id, chunk);
                self.send(&records).await?;
            }
        }
        Ok(())
    }

    /// Sends what is gathered.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let mut records = Vec::with_capacity(self.gathered.len() + 16);
        record::push(&mut records, RecordType::Stdout, self.id, &self.gathered);
        self.gathered.clear();
        self.send(&records).await
    }

    /// Sends a line to the gateway's log (STDERR), at once.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn log(&mut self, message: &str) -> io::Result<()> {
        let mut records = Vec::new();
        record::push_stream(&mut records, RecordType::Stderr, self.id, message.as_bytes());
        timeout(self.io_timeout, self.out.send(&records)).await?
    }

    async fn send(&mut self, records: &[u8]) -> io::Result<()> {
        self.progress.fetch_max(BEGUN, Ordering::AcqRel);
        timeout(self.io_timeout, self.out.send(records)).await?
    }

    /// Ends the request: sends what is gathered, the end of the stream and END_REQUEST in one write.
    ///
    /// A response that is dropped without this becomes a `500` where nothing of it was sent, and otherwise
    /// ends the connection without END_REQUEST, so that no gateway takes the part for the whole.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn end(mut self, app_status: u32) -> io::Result<()> {
        // With END_REQUEST the gateway may use the id again.
        lock(&self.incoming).finish(self.id);
        self.progress.store(ENDED, Ordering::Release);
        let mut tail = Vec::with_capacity(self.gathered.len() + 48);
        record::push_stream(&mut tail, RecordType::Stdout, self.id, &self.gathered);
        record::push(&mut tail, RecordType::Stdout, self.id, &[]);
        record::push_end(&mut tail, self.id, EndRequest::new(app_status, ProtocolStatus::RequestComplete));
        self.send(&tail).await
    }
}
