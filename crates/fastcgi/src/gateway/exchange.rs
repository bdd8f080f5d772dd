//! Sends one request to an application, and receives the response at the same time.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::Socket;

use super::idle::Hunger;
use super::pool::Pool;
use super::{Body, Cause, Config, Error, GatewayRequest};
use crate::announced::Announced;
use crate::cgi::{Head, InvalidHead};
use crate::params::push_pair;
use crate::record::{self, Decoder, EndRequest, FULL, Part, ProtocolStatus, RecordType, Role};
use crate::replies::{Replies, Reply};

const ID: u16 = 1;
const BUFFER: usize = 64 << 10;
/// Most of the application's log lines that are kept for [`GatewayResponse::stderr`].
const MOST_STDERR: usize = 64 << 10;

/// Tells the log which records the kernel has taken to their end.
fn log_sent(decoder: Option<&mut Decoder>, mut bytes: &[u8]) {
    let Some(decoder) = decoder else { return };
    while let Ok(Some(part)) = decoder.next(&mut bytes) {
        if let Part::End(header) = part {
            tracing::debug!(record = ?header.kind, bytes = header.content, "sent");
        }
    }
}

/// A response. Reading gives STDOUT, the CGI header block first (see [`GatewayResponse::head`]); the end of stream
/// is reported **only after END_REQUEST**, everything else is an error that wraps [`Error`].
#[derive(Debug)]
pub struct GatewayResponse {
    /// `None` once the connection is back in the pool.
    socket: Option<Socket>,
    pool: Arc<Pool>,
    config: Config,
    /// While a request on a new connection waits for its first byte.
    hunger: Option<Hunger>,
    /// How long the present silence has lasted, but for the present wait.
    waited: Duration,
    body: Body,
    /// How much of the body has been made into records.
    body_at: usize,
    data: Option<Arc<[u8]>>,
    body_ended: bool,
    /// Records that are being sent.
    out: Vec<u8>,
    out_at: usize,
    write_error: Option<io::Error>,
    /// What was sent, read again for the log, where that is asked for.
    logged: Option<Decoder>,
    replies: Replies,
    input: Vec<u8>,
    input_at: usize,
    input_end: usize,
    /// STDOUT that was parsed but not yet read: a range of `input`.
    ready: std::ops::Range<usize>,
    /// STDOUT that was read in search of the header block's end.
    pushed_back: Vec<u8>,
    stderr: Vec<u8>,
    received: u64,
    announced: Announced,
    end: Option<EndRequest>,
}

impl GatewayResponse {
    /// `connection`: the socket, and whether it was used before.
    pub(super) fn start(
        connection: (Socket, bool),
        request: GatewayRequest,
        pool: Arc<Pool>,
        config: Config,
    ) -> Self {
        let (socket, reused) = connection;
        let is_head =
            request.params.iter().any(|(name, value)| name == b"REQUEST_METHOD" && value == b"HEAD");
        let mut out = Vec::with_capacity(1024);
        record::push_begin(&mut out, ID, request.role, config.keep_conn);
        let mut pairs = Vec::new();
        for (name, value) in &request.params {
            push_pair(&mut pairs, name, value);
        }
        record::push_stream(&mut out, RecordType::Params, ID, &pairs);
        record::push(&mut out, RecordType::Params, ID, &[]);
        let mut response = Self {
            socket: Some(socket),
            pool,
            config,
            hunger: (config.keep_conn && !reused).then(Hunger::new),
            waited: Duration::ZERO,
            body: request.body,
            body_at: 0,
            data: request.data.filter(|_| request.role == Role::Filter),
            body_ended: false,
            out,
            out_at: 0,
            write_error: None,
            logged: tracing::enabled!(tracing::Level::DEBUG).then(Decoder::new),
            replies: Replies::new(ID),
            input: vec![0; BUFFER],
            input_at: 0,
            input_end: 0,
            ready: 0..0,
            pushed_back: Vec::new(),
            stderr: Vec::new(),
            received: 0,
            announced: Announced::new(is_head),
            end: None,
        };
        if let Body::Bytes(_) = response.body {
            // A body in memory cannot fail to be read. Because it is appended now, a small request leaves in one
            // segment.
            let _ = response.append_body();
        }
        response
    }

    /// Sends and receives until the response begins or ends.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        self.more().map(drop)
    }

    /// Whether no byte has come back yet.
    pub(super) fn is_untouched(&self) -> bool {
        self.replies.offset() == 0
    }

    /// Reads the header block. What is read afterwards is the body.
    ///
    /// # Errors
    /// Returns an error if the header block is malformed, or if the response ends before the block does.
    pub fn head(&mut self) -> Result<Head, Error> {
        loop {
            if let Some((head, length)) = Head::parse(&self.pushed_back)? {
                self.pushed_back.drain(..length);
                return Ok(head);
            }
            if !self.more()? {
                return Err(InvalidHead::Missing.into());
            }
            let range = std::mem::take(&mut self.ready);
            self.pushed_back.extend_from_slice(&self.input[range]);
        }
    }

    /// How the application ended the request; `None` until all of the response has been read.
    pub fn end(&self) -> Option<EndRequest> {
        self.end
    }

    /// The error with which sending the request failed, if it did: the application did not read all of the request.
    ///
    /// The response may be complete all the same.
    pub fn write_error(&self) -> Option<&io::Error> {
        self.write_error.as_ref()
    }

    /// The application's STDERR so far, at most 64 KB.
    pub fn stderr(&self) -> &[u8] {
        &self.stderr
    }

    /// Waits for more STDOUT. Returns false after END_REQUEST.
    fn more(&mut self) -> Result<bool, Error> {
        while self.ready.is_empty() {
            if self.end.is_some() {
                return Ok(false);
            }
            let mut input = &self.input[self.input_at..self.input_end];
            let reply = self.replies.next(&mut input)?;
            let at = self.input_end - input.len();
            self.input_at = at;
            match reply {
                Some(Reply::Stdout(bytes)) => {
                    self.received += bytes.len() as u64;
                    self.announced.take(bytes);
                    self.ready = at - bytes.len()..at;
                }
                Some(Reply::Stderr(bytes)) => {
                    let room = MOST_STDERR.saturating_sub(self.stderr.len());
                    self.stderr.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
                Some(Reply::End(end)) => {
                    self.give_back();
                    if end.protocol_status != ProtocolStatus::RequestComplete {
                        return Err(Error::Refused(end.protocol_status));
                    }
                    if let Some((got, announced)) = self.announced.missing() {
                        return Err(Error::Short { got, announced });
                    }
                    self.end = Some(end);
                }
                Some(Reply::StdoutEnd) => {}
                None => self.pump()?,
            }
        }
        Ok(true)
    }

    /// Puts the connection back into the pool if another request may follow on it; otherwise closes it.
    fn give_back(&mut self) {
        let sent = self.body_ended && self.out_at == self.out.len() && self.write_error.is_none();
        let in_step = self.config.reuses_after_bodies || (self.body_at == 0 && self.data.is_none());
        let Some(socket) = self.socket.take() else { return };
        if self.config.keep_conn
            && sent
            && in_step
            && self.input_at == self.input_end
            && self.replies.at_boundary()
        {
            self.pool.put(socket);
        }
        // Otherwise the drop closes the socket. An application that has answered before it read the whole request is
        // draining, and waits for this close.
    }

    /// Waits once, then sends and receives as much as the socket allows.
    fn pump(&mut self) -> Result<(), Error> {
        self.refill()?;
        let Some(socket) = &self.socket else { return Err(self.cut(Cause::Closed)) };
        let sending = self.write_error.is_none() && self.out_at < self.out.len();
        let interest = if sending { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut ready = [PollFd::new(socket, interest)];
        let patience = self.config.io_timeout.saturating_sub(self.waited);
        let wait = self.hunger.as_ref().map_or(patience, |hunger| hunger.left().min(patience));
        let timeout = Timespec::try_from(wait).ok();
        match poll(&mut ready, timeout.as_ref()) {
            Ok(0) if wait < patience => {
                self.waited += wait;
                if let Some(hunger) = &mut self.hunger {
                    hunger.bite(&self.pool.idle);
                }
                return Ok(());
            }
            Ok(0) => return Err(self.cut(Cause::Silent)),
            Ok(_) | Err(Errno::INTR) => self.waited = Duration::ZERO,
            Err(error) => return Err(Error::System(error.into())),
        }
        let events = ready[0].revents();
        if sending && events.intersects(PollFlags::OUT | PollFlags::ERR | PollFlags::HUP) {
            match send(socket, &self.out[self.out_at..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    log_sent(self.logged.as_mut(), &self.out[self.out_at..self.out_at + sent]);
                    self.out_at += sent;
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Earlier bytes of the application can still be read.
                Err(error) => {
                    let error = io::Error::from(error);
                    tracing::debug!(%error, "cannot send");
                    self.write_error = Some(error);
                }
            }
        }
        if events.intersects(PollFlags::IN | PollFlags::ERR | PollFlags::HUP) {
            match recv(socket, &mut self.input[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(self.cut(Cause::Closed)),
                Ok((got, _)) => {
                    (self.input_at, self.input_end) = (0, got);
                    self.is_fed();
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(self.cut(Cause::Error(io::Error::from(error).kind()))),
            }
        }
        Ok(())
    }

    /// Puts the next records into `out` once it is empty.
    fn refill(&mut self) -> Result<(), Error> {
        if self.out_at < self.out.len() || self.body_ended || self.write_error.is_some() {
            return Ok(());
        }
        if self.out_at > 0 {
            self.out.clear();
            self.out_at = 0;
        }
        self.append_body()
    }

    /// Appends the next piece of the body, and what follows its end.
    fn append_body(&mut self) -> Result<(), Error> {
        match &mut self.body {
            Body::Bytes(bytes) => {
                let chunk = &bytes[self.body_at..bytes.len().min(self.body_at + FULL)];
                self.body_at += chunk.len();
                record::push_stream(&mut self.out, RecordType::Stdin, ID, chunk);
                self.body_ended = self.body_at == bytes.len();
            }
            Body::Stream(source) => {
                let mut chunk = [0; 32 << 10];
                let got = loop {
                    match source.read(&mut chunk) {
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        result => break result.map_err(Error::Body)?,
                    }
                };
                record::push_stream(&mut self.out, RecordType::Stdin, ID, &chunk[..got]);
                self.body_at = self.body_at.saturating_add(got);
                self.body_ended = got == 0;
            }
        }
        if self.body_ended {
            record::push(&mut self.out, RecordType::Stdin, ID, &[]);
            if let Some(data) = self.data.take() {
                record::push_stream(&mut self.out, RecordType::Data, ID, &data);
                record::push(&mut self.out, RecordType::Data, ID, &[]);
            }
        }
        Ok(())
    }

    /// Nobody waits for the first byte any more.
    fn is_fed(&mut self) {
        if let Some(hunger) = self.hunger.take() {
            hunger.end(&self.pool.idle);
        }
    }

    fn cut(&self, cause: Cause) -> Error {
        let write_error = self.write_error.as_ref().map(io::Error::kind);
        Error::Cut { received: self.received, cause, write_error }
    }
}

impl Drop for GatewayResponse {
    fn drop(&mut self) {
        self.is_fed();
    }
}

impl Read for GatewayResponse {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if !self.pushed_back.is_empty() {
            let taken = to.len().min(self.pushed_back.len());
            to[..taken].copy_from_slice(&self.pushed_back[..taken]);
            self.pushed_back.drain(..taken);
            return Ok(taken);
        }
        if to.is_empty() || !self.more()? {
            return Ok(0);
        }
        let taken = to.len().min(self.ready.len());
        to[..taken].copy_from_slice(&self.input[self.ready.start..self.ready.start + taken]);
        self.ready.start += taken;
        Ok(taken)
    }
}
