//! A server in the middle of its schedule: its socket, the requests that have come, and what it owes.

use std::io::{self, Read as _};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use linger_lab::Stop;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::Socket;

use super::{Answering, PLAIN_BODY, ServedConnection, ServedEnd, ServedExchange, ServerWaits, content};
use crate::request::RequestFraming;
use crate::schedule::{HuntStep, Schedule};

/// The longest time that the last reading takes.
const LONGEST_READING: Duration = Duration::from_secs(60);
/// How long a write may be stuck. Then the client does not read, and the server goes on with its schedule.
const STUCK: Duration = Duration::from_secs(2);
/// Bytes read at a time; and while a head is waited for, so that little of the body is read with it.
const BUFFER: usize = 32 << 10;
const LITTLE: usize = 256;
/// The most exchanges on a connection.
const MOST_EXCHANGES: usize = 64;

/// A response that has begun.
#[derive(Clone, Copy, Debug)]
struct BegunResponse {
    body: u64,
    /// Bytes of its body that were handed to `send`.
    queued: u64,
    /// How many bytes of the connection are sent when its body begins.
    begins: u64,
    /// Whether it leaves the connection open.
    keeps: bool,
}

pub(super) struct ScheduledServer<'s> {
    socket: Socket,
    waits: &'s ServerWaits,
    halt: &'s Stop,
    answering: &'s Answering,
    keep_alive: bool,
    /// The requests, the last of which may not have begun.
    requests: Vec<RequestFraming>,
    responses: Vec<BegunResponse>,
    /// Responses that the schedule still has.
    responds_left: usize,
    /// Bytes that are to be sent.
    out: Vec<u8>,
    /// Bytes that the kernel has taken.
    sent: u64,
    half_closed: bool,
    /// Whether it has half-closed before the client did.
    is_closing: bool,
    write_failed: bool,
    client_ended: bool,
    pub(super) end: Option<ServedEnd>,
    buffer: Vec<u8>,
}

impl<'s> ScheduledServer<'s> {
    pub(super) fn new(
        socket: Socket,
        schedule: &Schedule,
        answering: &'s Answering,
        waits: &'s ServerWaits,
        halt: &'s Stop,
    ) -> Self {
        // Fails only if the connection is no more, which the first read tells.
        let _ = socket.set_nonblocking(true).and_then(|()| socket.set_tcp_nodelay(true));
        Self {
            socket,
            waits,
            halt,
            answering,
            keep_alive: schedule.keep_alive,
            requests: vec![answering.request()],
            responses: Vec::new(),
            responds_left: schedule
                .steps
                .iter()
                .filter(|step| matches!(step, HuntStep::Respond { .. }))
                .count(),
            out: Vec::new(),
            sent: 0,
            half_closed: false,
            is_closing: false,
            write_failed: false,
            client_ended: false,
            end: None,
            buffer: vec![0; BUFFER],
        }
    }

    pub(super) fn step(&mut self, step: HuntStep) {
        match step {
            HuntStep::Read { bytes } => self.read_on(bytes, self.waits.idle),
            HuntStep::ReadRequest => self.read_on(u64::MAX, self.waits.patience),
            HuntStep::Respond { body, sent } => {
                self.responds_left = self.responds_left.saturating_sub(1);
                if self.next_request() {
                    self.respond(body, sent);
                }
                self.flush(Instant::now() + STUCK);
            }
            HuntStep::Send { bytes } => {
                self.continue_body(bytes);
                self.flush(Instant::now() + STUCK);
            }
            HuntStep::Pause { milliseconds } => self.sleep(Duration::from_millis(milliseconds)),
            HuntStep::HalfClose => {
                self.flush(Instant::now() + STUCK);
                self.half_close();
            }
            HuntStep::Close | HuntStep::Abort => {
                self.flush(Instant::now() + STUCK);
                self.await_acknowledgement();
                if self.end.is_some() {
                    return;
                }
                if step == HuntStep::Abort {
                    // Without it the close that follows is an orderly one, which is told by what the client sees.
                    let _ = self.socket.set_linger(Some(Duration::ZERO));
                }
                self.end = Some(ServedEnd::Closed);
            }
            // Those of a client. `Schedule::check` refuses them.
            HuntStep::Request { .. } => {}
        }
    }

    /// Reads until the head of the request is there that the next response belongs to: what comes before it would be no answer. Returns whether it
    /// is.
    fn next_request(&mut self) -> bool {
        let next = self.responses.len();
        while !self.requests.get(next).is_some_and(RequestFraming::has_head) {
            let is_over = self.end.is_some() || self.client_ended || self.requests.len() > MOST_EXCHANGES;
            if is_over || self.read_up_to(LITTLE, self.waits.patience) == 0 {
                return false;
            }
        }
        true
    }

    fn respond(&mut self, body: u64, sent: u64) {
        if let Some(payload) = &self.answering.payload {
            let length = payload.len() as u64;
            let begins = self.sent + self.out.len() as u64;
            self.responses.push(BegunResponse { body: length, queued: length, begins, keeps: false });
            self.out.extend_from_slice(payload);
            return;
        }
        let keep = self.keep_alive || self.responds_left > 0;
        self.out.extend_from_slice(&self.answering.head(body, keep));
        let begins = self.sent + self.out.len() as u64;
        self.responses.push(BegunResponse { body, queued: 0, begins, keeps: keep });
        self.continue_body(sent);
    }

    /// Adds what is left of the body, up to so many bytes.
    fn continue_body(&mut self, most: u64) {
        if let Some(response) = self.responses.last_mut() {
            let to = response.body.min(response.queued.saturating_add(most));
            let bytes = content(response.queued, to);
            response.queued = to;
            self.out.extend_from_slice(&bytes);
        }
    }

    fn half_close(&mut self) {
        self.half_closed = true;
        self.is_closing |= !self.client_ended;
        // Fails only if the connection is no more, which the next read tells.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Waits for events, for the time's end, or for the hunt's. Returns whether there is an event.
    fn wait(&mut self, events: PollFlags, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
            let mut ready = [
                PollFd::new(&self.socket, events),
                PollFd::from_borrowed_fd(self.halt.wake(), PollFlags::IN),
            ];
            match poll(&mut ready, Some(&timeout)) {
                Ok(_) if !ready[1].revents().is_empty() => {
                    self.end = Some(ServedEnd::Halted);
                    return false;
                }
                Ok(0) => return false,
                Ok(_) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Neither sends nor reads, whatever comes; until the connection is reset, after which nothing can be done.
    fn sleep(&mut self, duration: Duration) {
        if self.wait(PollFlags::empty(), Instant::now() + duration) {
            self.hang_up();
        }
    }

    /// Neither side can send any more: a reset has come, or both have half-closed. What lies in the receive queue is read, since it came before.
    fn hang_up(&mut self) {
        while self.end.is_none() && self.read_now() > 0 {}
        self.end = self.end.or(Some(if self.client_ended { ServedEnd::Fin } else { ServedEnd::Reset }));
    }

    /// Sends what is to be sent, without reading, as long as it is not stuck.
    fn flush(&mut self, until: Instant) {
        while !self.out.is_empty() && self.end.is_none() && !self.write_failed && !self.half_closed {
            if !self.wait(PollFlags::OUT, until) {
                return;
            }
            self.write_now();
        }
    }

    fn write_now(&mut self) {
        match self.socket.send(&self.out) {
            Ok(sent) => {
                self.out.drain(..sent);
                self.sent += sent as u64;
            }
            Err(error) if is_passing(&error) => {}
            Err(_) => self.write_failed = true,
        }
    }

    fn acknowledged(&self) -> u64 {
        linger_sys::tcp_info(self.socket.as_fd()).map_or(0, |info| info.bytes_acked)
    }

    /// Waits until the client's kernel has acknowledged what was sent; for so long as it may take to see that it never will.
    fn await_acknowledgement(&mut self) {
        let until = Instant::now() + STUCK;
        let mut nap = Duration::from_micros(200);
        while self.acknowledged() < self.sent && self.end.is_none() && Instant::now() < until {
            // No event tells of an acknowledgement alone.
            if self.wait(PollFlags::empty(), until.min(Instant::now() + nap)) {
                self.hang_up();
            }
            nap = (nap * 2).min(Duration::from_millis(5));
        }
    }

    /// Reads up to so many bytes, to the end of the request, to the client's end, or until nothing more comes for so long.
    fn read_on(&mut self, most: u64, idle: Duration) {
        let mut left = most;
        while left > 0 && self.end.is_none() && !self.client_ended && !self.has_request() {
            self.go_on();
            let came = self.read_up_to(usize::try_from(left).unwrap_or(usize::MAX), idle);
            if came == 0 {
                return;
            }
            left = left.saturating_sub(came);
        }
    }

    /// Whether the last request that has begun is whole.
    fn has_request(&self) -> bool {
        let is_behind = |last: &RequestFraming| last.is_untouched() && self.requests.len() > 1;
        self.requests.last().is_some_and(|last| last.is_wrong || last.is_whole() || is_behind(last))
    }

    /// Tells a client to go on that waits for it, unless it has its response.
    fn go_on(&mut self) {
        let is_answered = self.responses.len() >= self.requests.len();
        let Some(request) = self.requests.last_mut().filter(|request| request.awaits_continue) else {
            return;
        };
        request.awaits_continue = false;
        if request.received == 0 && !is_answered {
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.flush(Instant::now() + STUCK);
        }
    }

    /// Waits for bytes and reads some, at most so many. Returns how many.
    fn read_up_to(&mut self, most: usize, wait: Duration) -> u64 {
        if !self.wait(PollFlags::IN, Instant::now() + wait) {
            return 0;
        }
        self.buffer.truncate(most);
        let came = self.read_now();
        self.buffer.resize(BUFFER, 0);
        came
    }

    fn read_now(&mut self) -> u64 {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = (&self.socket).read(&mut buffer);
        let came = match result {
            // A write that has met the reset has taken its error.
            Ok(0) if self.write_failed => {
                self.end = Some(ServedEnd::Reset);
                0
            }
            Ok(0) => {
                self.client_ended = true;
                if let Some(request) = self.requests.last_mut() {
                    request.end();
                }
                0
            }
            Ok(came) => {
                self.feed(&buffer[..came]);
                came as u64
            }
            Err(error) if is_passing(&error) => 0,
            Err(_) => {
                self.end = Some(ServedEnd::Reset);
                0
            }
        };
        self.buffer = buffer;
        came
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.requests.len() <= MOST_EXCHANGES {
            let Some(request) = self.requests.last_mut() else { return };
            let taken = request.feed(bytes);
            bytes = &bytes[taken..];
            if taken == 0 {
                return;
            }
            if request.is_whole() && self.answering.payload.is_none() {
                self.requests.push(self.answering.request());
            }
        }
    }

    /// Ends as a server should: sends the rest of its response, half-closes, and reads until the client closes.
    pub(super) fn finish(&mut self) {
        let until = Instant::now() + LONGEST_READING;
        while self.end.is_none() {
            self.owe();
            let pending = !self.out.is_empty() && !self.write_failed && !self.half_closed;
            if self.is_done() && !pending && !self.half_closed && !self.write_failed {
                self.half_close();
            }
            if self.client_ended && !pending {
                self.end = Some(ServedEnd::Fin);
                return;
            }
            self.go_on();
            let mut events = if self.client_ended { PollFlags::empty() } else { PollFlags::IN };
            events.set(PollFlags::OUT, pending);
            if !self.wait(events, until.min(Instant::now() + self.waits.patience)) {
                self.end = self.end.or(Some(ServedEnd::Silence));
                return;
            }
            if pending {
                self.write_now();
            }
            if !self.client_ended {
                self.read_now();
            }
        }
    }

    /// Queues what the requests that came are still to have: the rest of a body, and plain responses.
    fn owe(&mut self) {
        if self.half_closed {
            return;
        }
        self.continue_body(u64::MAX);
        while self.requests.get(self.responses.len()).is_some_and(|request| request.is_whole()) {
            let body = self.responses.first().map_or(PLAIN_BODY, |response| response.body);
            self.responds_left = 0;
            self.respond(body, body);
        }
    }

    /// Whether no more requests are to come.
    fn is_done(&self) -> bool {
        (!self.keep_alive && !self.responses.is_empty()) || self.client_ended
    }

    pub(super) fn served(self, client: Option<SocketAddr>) -> ServedConnection {
        // The FIN counts as one, and only when all before it is acknowledged.
        let acknowledged = self.acknowledged().min(self.sent);
        let exchange = |(index, request): (usize, &RequestFraming)| {
            let response = self.responses.get(index);
            let sent_of =
                |response: &BegunResponse| self.sent.saturating_sub(response.begins).min(response.body);
            ServedExchange {
                asked: request.has_head(),
                announced: request.announced(),
                received: request.received,
                whole_request: request.is_whole(),
                body: response.map(|response| response.body),
                written: response.map_or(0, sent_of),
                answered: response.is_some_and(|response| self.sent >= response.begins + response.body),
                delivered: response.is_some_and(|response| acknowledged >= response.begins + response.body),
                kept: !self.is_closing && response.is_some_and(|response| response.keeps),
            }
        };
        let exchanges: Vec<ServedExchange> = self.requests.iter().enumerate().map(exchange).collect();
        // The one after the last request never began.
        let begun =
            |exchange: &ServedExchange| exchange.asked || exchange.received > 0 || exchange.body.is_some();
        ServedConnection {
            client,
            exchanges: exchanges.into_iter().filter(begun).collect(),
            end: self.end.unwrap_or(ServedEnd::Silence),
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
