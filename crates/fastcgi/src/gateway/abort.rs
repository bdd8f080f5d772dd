//! Sends a request and aborts it: FCGI_ABORT_REQUEST (specification section 5.4).

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::values::cut;
use super::{Cause, Client, Error, GatewayRequest};
use crate::params::push_pair;
use crate::record::{self, EndRequest, RecordType};
use crate::replies::{Replies, Reply};

const ID: u16 = 1;

/// What an application did with a request that was aborted.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AbortedRequest {
    /// Bytes of STDOUT that had come before ABORT_REQUEST was sent.
    pub before: u64,
    /// Bytes of STDOUT that came after it.
    pub after: u64,
    /// How the application ended the request.
    pub end: EndRequest,
    /// Whether that came before ABORT_REQUEST was sent.
    pub was_early: bool,
    /// The time from ABORT_REQUEST to the end.
    pub took: Duration,
}

impl Client {
    /// Sends the head of a request whose body does not end, reads for `wait`, aborts the request, and reads to its END_REQUEST. The
    /// connection is closed afterwards.
    ///
    /// # Errors
    /// Returns an error if the application cannot be reached, closes without END_REQUEST ([`Error::Cut`]), goes on for longer than
    /// [`Config::io_timeout`](super::Config::io_timeout), or answers with something else.
    pub fn abort(&self, request: &GatewayRequest, wait: Duration) -> Result<AbortedRequest, Error> {
        let (socket, _) = self.pool.take(false)?;
        let mut exchange = Exchange { socket, replies: Replies::new(ID), received: 0, end: None };
        let mut out = Vec::new();
        record::push_begin(&mut out, ID, request.role, false);
        let mut pairs = Vec::new();
        for (name, value) in &request.params {
            push_pair(&mut pairs, name, value);
        }
        record::push_stream(&mut out, RecordType::Params, ID, &pairs);
        record::push(&mut out, RecordType::Params, ID, &[]);
        exchange.send(&out, self.config.io_timeout)?;
        exchange.read_until(Instant::now() + wait)?;
        let (before, was_early) = (exchange.received, exchange.end.is_some());
        let sent = Instant::now();
        if !was_early {
            out.clear();
            record::push(&mut out, RecordType::AbortRequest, ID, &[]);
            exchange.send(&out, self.config.io_timeout)?;
            exchange.read_until(sent + self.config.io_timeout)?;
        }
        let took = sent.elapsed();
        let Some(end) = exchange.end else { return Err(exchange.cut(Cause::Silent)) };
        Ok(AbortedRequest { before, after: exchange.received - before, end, was_early, took })
    }
}

struct Exchange {
    socket: Socket,
    replies: Replies,
    received: u64,
    end: Option<EndRequest>,
}

impl Exchange {
    fn send(&mut self, records: &[u8], within: Duration) -> Result<(), Error> {
        self.socket.set_write_timeout(Some(within)).map_err(Error::System)?;
        self.socket.write_all(records).map_err(|error| cut(self.received, &error))
    }

    /// Reads until END_REQUEST, or until then.
    fn read_until(&mut self, until: Instant) -> Result<(), Error> {
        let mut bytes = [0; 16 << 10];
        while self.end.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.socket.set_read_timeout(Some(left)).map_err(Error::System)?;
            let got = match self.socket.read(&mut bytes) {
                Ok(0) => return Err(self.cut(Cause::Closed)),
                Ok(got) => got,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(cut(self.received, &error)),
            };
            let mut input = &bytes[..got];
            while let Some(reply) = self.replies.next(&mut input)? {
                match reply {
                    Reply::Stdout(bytes) => self.received += bytes.len() as u64,
                    Reply::End(end) => self.end = Some(end),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn cut(&self, cause: Cause) -> Error {
        Error::Cut { received: self.received, cause, write_error: None }
    }
}
