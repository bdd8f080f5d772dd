//! One connection as its requests share it: who reads, what waits for whom, who writes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};
use socket2::Socket;

use super::{Config, Stop};
use crate::error::ProtocolError;
use crate::incoming::{Capacity, Event, Incoming, Start};

const BUFFER: usize = 64 << 10;
/// While all input is there and a handler works, the gateway has nothing to say.
const UNBOUNDED: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A connection and the state of its requests.
#[derive(Debug)]
pub(crate) struct Link {
    socket: Socket,
    reader: Mutex<Reader>,
    state: Mutex<State>,
    /// A stream got bytes or ended (for requests), or was read (for the thread that reads the connection).
    news: Condvar,
    writing: Mutex<()>,
    /// Wakes the thread that only reads, where there is one.
    wake: Option<OwnedFd>,
    io_timeout: Duration,
    buffered: usize,
}

#[derive(Debug)]
struct Reader {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

#[derive(Debug)]
struct State {
    incoming: Incoming,
    fresh: VecDeque<Start>,
    streams: Vec<Streams>,
    dead: Option<Dead>,
    discarded: u64,
    /// When the first of the bodies that are being drained was given up by its handler, and
    /// what had been discarded then.
    draining_since: Option<(Instant, u64)>,
    running: usize,
    /// A request without KEEP_CONN has ended, or one could not be finished.
    finished: bool,
}

/// Why nothing more can be read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dead {
    /// The gateway has closed its side.
    End,
    Silent,
    Error(ErrorKind),
    Protocol(ProtocolError),
}

impl Dead {
    fn error(self) -> io::Error {
        match self {
            Self::End => io::Error::new(
                ErrorKind::UnexpectedEof,
                "the gateway closed the connection before the request was complete",
            ),
            Self::Silent => {
                io::Error::new(ErrorKind::TimedOut, "the gateway stopped sending in the middle of a request")
            }
            Self::Error(kind) => kind.into(),
            Self::Protocol(error) => error.into(),
        }
    }
}

#[derive(Debug)]
struct Streams {
    id: u16,
    stdin: Queue,
    data: Queue,
    aborted: bool,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    at: usize,
    ended: bool,
}

/// Which of a request's two streams.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    Stdin,
    Data,
}

impl Link {
    pub(crate) fn new(socket: Socket, config: &Config) -> io::Result<Self> {
        // AF_UNIX has no such option, and no need of it.
        let _ = socket.set_tcp_nodelay(true);
        let wake = config
            .multiplex
            .then(|| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK))
            .transpose()?;
        let requests = if config.multiplex { config.limits.multiplexed } else { 1 };
        let capacity =
            Capacity::new(config.connections, config.connections.saturating_mul(requests), config.multiplex);
        Ok(Self {
            socket,
            reader: Mutex::new(Reader { buffer: vec![0; BUFFER].into(), start: 0, end: 0 }),
            state: Mutex::new(State {
                incoming: Incoming::new(config.limits, capacity),
                fresh: VecDeque::new(),
                streams: Vec::new(),
                dead: None,
                discarded: 0,
                draining_since: None,
                running: 0,
                finished: false,
            }),
            news: Condvar::new(),
            writing: Mutex::new(()),
            wake,
            io_timeout: config.io_timeout,
            buffered: config.limits.buffered,
        })
    }

    /// The next request; `None` when there will be none.
    ///
    /// Waits for `patience` where nothing is under way.
    pub(crate) fn next_request(&self, patience: Duration, policy: &linger::Policy) -> Option<Start> {
        loop {
            let wait = {
                let mut state = self.state();
                if let Some(start) = state.fresh.pop_front() {
                    return Some(start);
                }
                if self.wake.is_some() {
                    while state.is_full(self.buffered) {
                        state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                    if state.drained_enough(policy) {
                        state.dead = Some(Dead::Silent);
                        self.news.notify_all();
                    }
                }
                if state.dead.is_some() || (state.finished && state.running == 0) {
                    return None;
                }
                match (state.incoming.is_draining(), state.incoming.expects_more()) {
                    (true, _) => policy.idle,
                    (false, true) => self.io_timeout,
                    (false, false) if state.running == 0 => patience,
                    (false, false) => UNBOUNDED,
                }
            };
            self.advance(wait);
        }
    }

    /// Whether bytes of the next request have been received.
    pub(crate) fn has_input(&self) -> bool {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.start < reader.end || is_readable(&self.socket)
    }

    /// Waits between two requests; whether the gateway has said something.
    pub(crate) fn rest(&self, patience: Duration, stop: &Stop) -> bool {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            let mut ready = [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(stop.fd(), PollFlags::IN)];
            match poll(&mut ready, timeout.as_ref()) {
                Err(Errno::INTR) => {}
                // A request that came together with the end is still served.
                Ok(_) => return !ready[0].revents().is_empty(),
                Err(_) => return false,
            }
        }
    }

    /// Reads what is left of an answered request's body, within the policy; `false` when the bounds ran out.
    pub(crate) fn drain(&self, policy: &linger::Policy) -> bool {
        loop {
            {
                let mut state = self.state();
                if state.drained_enough(policy) || state.dead.is_some() {
                    return false;
                }
                if !state.incoming.is_draining() {
                    return true;
                }
            }
            self.advance(policy.idle.min(policy.total));
        }
    }

    /// Reads from one of a request's streams; 0 is its end.
    pub(crate) fn read(&self, id: u16, which: Which, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        loop {
            let mut state = self.state();
            let dead = state.dead;
            let Some(streams) = state.streams.iter_mut().find(|streams| streams.id == id) else {
                return Ok(0);
            };
            let queue = match which {
                Which::Stdin => &mut streams.stdin,
                Which::Data => &mut streams.data,
            };
            let got = queue.take(to);
            if got > 0 {
                drop(state);
                if self.wake.is_some() {
                    self.news.notify_all();
                }
                return Ok(got);
            }
            if queue.ended {
                return Ok(0);
            }
            if streams.aborted {
                return Err(io::Error::new(ErrorKind::ConnectionAborted, "the gateway aborted the request"));
            }
            if let Some(dead) = dead {
                return Err(dead.error());
            }
            if self.wake.is_some() {
                drop(self.news.wait(state).unwrap_or_else(PoisonError::into_inner));
            } else {
                drop(state);
                self.advance(self.io_timeout);
            }
        }
    }

    /// Writes all of it, in one piece among what other requests write.
    pub(crate) fn write(&self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut parts = parts;
        // An empty slice at the front would never advance.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.socket, parts, &mut SendAncillaryBuffer::default(), flags) {
                Ok(sent) => IoSlice::advance_slices(&mut parts, sent),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let timeout = Timespec::try_from(self.io_timeout).ok();
                    let mut ready = [PollFd::new(&self.socket, PollFlags::OUT)];
                    if let Ok(0) = poll(&mut ready, timeout.as_ref()) {
                        let message = "the gateway stopped reading the response";
                        return Err(io::Error::new(ErrorKind::TimedOut, message));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(crate) fn is_aborted(&self, id: u16) -> bool {
        let state = self.state();
        state.dead.is_some() || state.streams.iter().any(|streams| streams.id == id && streams.aborted)
    }

    /// Notes that a request is about to be ended; says whether the gateway is still sending its body.
    ///
    /// It must come before END_REQUEST is sent: with that the gateway may use the id again.
    pub(crate) fn ending(&self, id: u16) -> bool {
        let mut state = self.state();
        state.streams.retain(|streams| streams.id != id);
        let draining = state.incoming.finish(id);
        if draining && state.draining_since.is_none() {
            state.draining_since = Some((Instant::now(), state.discarded));
        }
        draining
    }

    /// Notes that END_REQUEST was sent, or could not be.
    ///
    /// `last`: the connection is to end once no other request runs on it.
    pub(crate) fn ended(&self, last: bool) {
        let mut state = self.state();
        state.running -= 1;
        state.finished |= last;
        drop(state);
        if let Some(wake) = &self.wake {
            self.news.notify_all();
            // At 2^64 - 2 requests the counter is full, and then the reader is awake anyway.
            let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
        }
    }

    /// Whether another request shares the connection at this moment.
    pub(crate) fn is_shared(&self) -> bool {
        self.state().running > 1
    }

    pub(crate) fn fault(&self) -> Option<ProtocolError> {
        match self.state().dead {
            Some(Dead::Protocol(error)) => Some(error),
            _ => None,
        }
    }

    /// Takes the socket for its close; a second descriptor of it where a handler has kept its request or
    /// response beyond the call, so that the half-close and the drain happen all the same.
    pub(crate) fn into_socket(link: Arc<Self>) -> Option<Socket> {
        match Arc::try_unwrap(link) {
            Ok(link) => Some(link.socket),
            Err(kept) => kept.socket.try_clone().ok(),
        }
    }

    /// Handles one event, or receives once, waiting for at most `patience`.
    fn advance(&self, patience: Duration) {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if reader.start == reader.end {
            let received = self.receive(&mut reader, patience);
            if let Err(dead) = received {
                self.state().dead.get_or_insert(dead);
                self.news.notify_all();
            }
            return;
        }
        let mut replies = Vec::new();
        {
            let mut state = self.state();
            let mut input = &reader.buffer[reader.start..reader.end];
            let before = input.len();
            match state.incoming.next(&mut input) {
                Ok(Some(event)) => state.apply(event),
                Ok(None) => {}
                Err(error) => state.dead = Some(Dead::Protocol(error)),
            }
            let used = before - input.len();
            if !state.incoming.replies().is_empty() {
                std::mem::swap(state.incoming.replies(), &mut replies);
            }
            reader.start += used;
        }
        if self.wake.is_some() {
            self.news.notify_all();
        }
        if !replies.is_empty()
            && let Err(error) = self.write(&mut [IoSlice::new(&replies)])
        {
            self.state().dead.get_or_insert(Dead::Error(error.kind()));
        }
    }

    fn receive(&self, reader: &mut Reader, patience: Duration) -> Result<(), Dead> {
        let until = Instant::now() + patience;
        loop {
            // The bytes are there already more often than not.
            match recv(&self.socket, &mut *reader.buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(Dead::End),
                Ok((got, _)) => {
                    (reader.start, reader.end) = (0, got);
                    return Ok(());
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(Dead::Error(io::Error::from(error).kind())),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Dead::Silent);
            }
            let timeout = Timespec::try_from(left).ok();
            // Without a thread to wake, the second entry watches nothing.
            let (wake, interest) = match &self.wake {
                Some(wake) => (wake.as_fd(), PollFlags::IN),
                None => (self.socket.as_fd(), PollFlags::empty()),
            };
            let mut ready =
                [PollFd::new(&self.socket, PollFlags::IN), PollFd::from_borrowed_fd(wake, interest)];
            match poll(&mut ready, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(Dead::Error(io::Error::from(error).kind())),
            }
            if self.wake.is_some() && ready[1].revents().contains(PollFlags::IN) {
                // Only its being readable says something.
                let _ = rustix::io::read(wake, &mut [0; 8]);
                return Ok(());
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_readable(socket: &Socket) -> bool {
    let mut ready = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

impl State {
    /// Whether draining has used up the policy's bounds.
    fn drained_enough(&mut self, policy: &linger::Policy) -> bool {
        if !self.incoming.is_draining() {
            self.draining_since = None;
        }
        self.draining_since.is_some_and(|(since, before)| {
            since.elapsed() >= policy.total
                || policy.max_discard.is_some_and(|most| self.discarded - before > most)
        })
    }

    fn is_full(&self, most: usize) -> bool {
        !self.finished && self.streams.iter().any(|streams| streams.is_full(most))
    }

    fn apply(&mut self, event: Event<'_>) {
        let id = match &event {
            Event::Start(start) => start.id,
            Event::Stdin(id, _) | Event::StdinEnd(id) => *id,
            Event::Data(id, _) | Event::DataEnd(id) | Event::Abort(id) => *id,
            Event::Discarded(bytes) => {
                self.discarded += *bytes as u64;
                return;
            }
        };
        if let Event::Start(start) = event {
            let streams = Streams { id, stdin: Queue::default(), data: Queue::default(), aborted: false };
            self.streams.push(streams);
            self.running += 1;
            self.fresh.push_back(start);
            return;
        }
        let Some(streams) = self.streams.iter_mut().find(|streams| streams.id == id) else { return };
        match event {
            Event::Stdin(_, bytes) => streams.stdin.bytes.extend_from_slice(bytes),
            Event::StdinEnd(_) => streams.stdin.ended = true,
            Event::Data(_, bytes) => streams.data.bytes.extend_from_slice(bytes),
            Event::DataEnd(_) => streams.data.ended = true,
            Event::Abort(_) => streams.aborted = true,
            Event::Start(_) | Event::Discarded(_) => {}
        }
    }
}

impl Streams {
    fn is_full(&self, most: usize) -> bool {
        self.stdin.bytes.len() - self.stdin.at > most || self.data.bytes.len() - self.data.at > most
    }
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
