//! Plays a schedule on a real connection, and notes what comes.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use linger_lab::Stop;
use linger_probe::Framing;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::judge::{Answered, Played, StreamEnd};
use crate::schedule::{HuntStep, Schedule};

/// Where the requests go, and what they ask for.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    /// The header field `Host`.
    pub(crate) host: String,
    pub(crate) path: String,
    /// What every request is, in place of HTTP.
    pub(crate) payload: Option<Vec<u8>>,
}

/// How long a client waits. The waits follow the server's own speed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientWaits {
    /// For the next bytes of a response that has begun.
    pub(crate) patience: Duration,
    /// For the first byte of a response to a whole request.
    pub(crate) first: Duration,
    /// For an answer that need not come, as to half of a request.
    pub(crate) idle: Duration,
    /// For a reset right behind the last byte.
    pub(crate) moment: Duration,
    /// From one connection to the next: a server may have an accept queue of five.
    pub(crate) spacing: Duration,
}

impl ClientWaits {
    /// The waits for a server that has answered a plain request in this time.
    pub(crate) fn after(plain: Duration) -> Self {
        Self {
            patience: Duration::from_secs(10),
            first: (plain * 20).clamp(Duration::from_secs(3), Duration::from_secs(10)),
            idle: (plain * 4).clamp(Duration::from_millis(300), Duration::from_secs(1)),
            moment: (plain * 2).clamp(Duration::from_millis(30), Duration::from_millis(300)),
            spacing: (plain / 2).clamp(Duration::from_micros(500), Duration::from_millis(10)),
        }
    }
}

/// The most that is read of a connection: more is an answer without end.
const MOST_READ: u64 = 64 << 20;
/// The longest time that the last reading takes.
const LONGEST_READING: Duration = Duration::from_secs(60);
/// How long a write may be stuck. Then the server waits for the client to read.
const STUCK: Duration = Duration::from_secs(2);

/// Plays a schedule. Ends early when nothing that is left could change what became of the responses.
pub(crate) fn play(site: &Site, schedule: &Schedule, waits: &ClientWaits, halt: &Stop) -> Played {
    let socket = match connect(site, schedule, waits) {
        Ok(socket) => socket,
        Err(_) => {
            return Played {
                answers: Vec::new(),
                whole_requests: 0,
                prompt: false,
                end: if halt.requested() { StreamEnd::Halted } else { StreamEnd::NotConnected },
                was_reset: false,
                write_failed: false,
                client: None,
            };
        }
    };
    let mut client = ScheduledClient {
        socket,
        waits,
        halt,
        framing: None,
        answers: Vec::new(),
        begun_requests: 0,
        whole_requests: 0,
        body_left: 0,
        paused: false,
        prompt: false,
        more_requests: true,
        half_closed: false,
        stuck: false,
        read: 0,
        end: None,
        is_raw: site.payload.is_some(),
        was_reset: false,
        write_failed: false,
        buffer: vec![0; 32 << 10],
    };
    let last = schedule.steps.iter().rposition(|step| matches!(step, HuntStep::Request { .. }));
    for (index, step) in schedule.steps.iter().enumerate() {
        client.more_requests = last.is_some_and(|last| index < last);
        let keep = client.more_requests || schedule.keep_alive;
        client.step(*step, site, keep);
        if client.end.is_some() {
            break;
        }
    }
    if client.end.is_none() {
        client.more_requests = false;
        client.read_on(u64::MAX);
    }
    client.played()
}

fn connect(site: &Site, schedule: &Schedule, waits: &ClientWaits) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(site.address), Type::STREAM, None)?;
    // Before the connection is made, so that the window is as small from its first segment on.
    if let Some(bytes) = schedule.receive_buffer {
        socket.set_recv_buffer_size(usize::try_from(bytes).unwrap_or(usize::MAX))?;
    }
    if let Some(bytes) = schedule.send_buffer {
        socket.set_send_buffer_size(usize::try_from(bytes).unwrap_or(usize::MAX))?;
    }
    socket.connect_timeout(&SockAddr::from(site.address), waits.first)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

fn head(site: &Site, body: u64, keep: bool) -> Vec<u8> {
    let Site { host, path, payload, .. } = site;
    if let Some(payload) = payload {
        return payload.clone();
    }
    let method = if body == 0 { "GET" } else { "POST" };
    let connection = if keep { "keep-alive" } else { "close" };
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: linger-hunt\r\nAccept: */*\r\nConnection: {connection}\r\n"
    );
    if body > 0 {
        head += &format!("Content-Type: application/octet-stream\r\nContent-Length: {body}\r\n");
    }
    (head + "\r\n").into_bytes()
}

struct ScheduledClient<'c> {
    socket: Socket,
    waits: &'c ClientWaits,
    halt: &'c Stop,
    /// The response that is arriving.
    framing: Option<Framing>,
    /// The responses that are whole.
    answers: Vec<Answered>,
    begun_requests: usize,
    whole_requests: usize,
    /// Bytes of the last request's body that were not sent yet.
    body_left: u64,
    paused: bool,
    prompt: bool,
    more_requests: bool,
    half_closed: bool,
    /// A write was stuck: nothing can be sent any more, since it would stand in the wrong place.
    stuck: bool,
    read: u64,
    end: Option<StreamEnd>,
    is_raw: bool,
    was_reset: bool,
    write_failed: bool,
    buffer: Vec<u8>,
}

/// What a wait ended with.
enum Waited {
    Ready,
    TimedOut,
    Halted,
}

impl ScheduledClient<'_> {
    fn step(&mut self, step: HuntStep, site: &Site, keep: bool) {
        match step {
            HuntStep::Request { body, sent } => {
                self.begun_requests += 1;
                self.body_left = body;
                let mut out = head(site, body, keep);
                out.resize(out.len() + usize::try_from(sent).unwrap_or(0), b'b');
                if self.send(&out) {
                    self.body_sent(sent);
                }
            }
            HuntStep::Send { bytes } => {
                let (body, mut left) = (self.body_left.min(bytes), bytes);
                if body > 0 && self.send(&vec![b'b'; usize::try_from(body).unwrap_or(0)]) {
                    self.body_sent(body);
                }
                left -= body;
                if left > 0 {
                    let ends: Vec<u8> =
                        b"\r\n".iter().copied().cycle().take(usize::try_from(left).unwrap_or(0)).collect();
                    self.send(&ends);
                }
            }
            HuntStep::Pause { milliseconds } => {
                self.paused = true;
                self.sleep(Duration::from_millis(milliseconds));
            }
            HuntStep::Read { bytes } => self.read_on(bytes),
            HuntStep::HalfClose => {
                self.half_closed = true;
                // Fails only if the connection is no more, which the next read tells.
                let _ = self.socket.shutdown(std::net::Shutdown::Write);
            }
            HuntStep::Close => self.end = Some(StreamEnd::Closed),
            // Those of a server. `Schedule::check` refuses them.
            HuntStep::Respond { .. } | HuntStep::ReadRequest | HuntStep::Abort => {}
        }
    }

    fn body_sent(&mut self, bytes: u64) {
        self.body_left = self.body_left.saturating_sub(bytes);
        if self.body_left == 0 {
            self.whole_requests += 1;
            self.prompt |= self.whole_requests == 1 && !self.paused;
        }
    }

    fn wait(&mut self, events: PollFlags, until: Instant) -> Waited {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
            let mut ready = [
                PollFd::new(&self.socket, events),
                PollFd::from_borrowed_fd(self.halt.wake(), PollFlags::IN),
            ];
            match poll(&mut ready, Some(&timeout)) {
                Ok(_) if !ready[1].revents().is_empty() => {
                    self.end = Some(StreamEnd::Halted);
                    return Waited::Halted;
                }
                Ok(0) => return Waited::TimedOut,
                Ok(_) => return Waited::Ready,
                Err(Errno::INTR) => {}
                Err(_) => return Waited::TimedOut,
            }
        }
    }

    /// Neither sends nor reads, whatever comes.
    fn sleep(&mut self, duration: Duration) {
        let until = Instant::now() + duration;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            if self.halt.sleep(left).is_err() || self.halt.requested() {
                self.end = Some(StreamEnd::Halted);
                return;
            }
        }
    }

    /// Sends without reading. Returns whether all was sent.
    fn send(&mut self, bytes: &[u8]) -> bool {
        let mut left = bytes;
        while !left.is_empty() {
            if self.write_failed || self.stuck || self.half_closed || self.end.is_some() {
                return false;
            }
            match self.wait(PollFlags::OUT, Instant::now() + STUCK) {
                Waited::Ready => match self.socket.send(left) {
                    Ok(sent) => left = &left[sent..],
                    Err(error) if is_passing(&error) => {}
                    Err(_) => self.write_failed = true,
                },
                Waited::TimedOut => self.stuck = true,
                Waited::Halted => {}
            }
        }
        true
    }

    /// Whether all that was asked for has come.
    fn has_enough(&self) -> bool {
        !self.more_requests && self.framing.is_none() && self.answers.len() >= self.begun_requests
    }

    /// Reads up to so many bytes, to the end of all responses, to the end of the stream, or until nothing more comes.
    fn read_on(&mut self, most: u64) {
        let is_last = most == u64::MAX;
        let last = Instant::now() + LONGEST_READING;
        let mut left = most;
        while left > 0 && self.end.is_none() {
            if self.has_enough() {
                return self.settle(StreamEnd::Enough);
            }
            let wait = match &self.framing {
                Some(_) => self.waits.patience,
                None if self.whole_requests > self.answers.len() => self.waits.first,
                None => self.waits.idle,
            };
            match self.wait(PollFlags::IN, last.min(Instant::now() + wait)) {
                Waited::Ready => left -= self.read_some(left),
                Waited::TimedOut if is_last => self.end = Some(StreamEnd::Silence),
                Waited::TimedOut | Waited::Halted => return,
            }
            if self.read > MOST_READ && !self.has_enough() {
                self.end = Some(StreamEnd::Silence);
            }
        }
    }

    fn read_some(&mut self, most: u64) -> u64 {
        let room = self.buffer.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = (&self.socket).read(&mut buffer[..room]);
        let came = match result {
            Ok(0) => {
                self.settle(StreamEnd::Fin);
                0
            }
            Ok(came) => {
                self.feed(&buffer[..came]);
                came as u64
            }
            Err(error) if is_passing(&error) => 0,
            Err(_) => {
                (self.end, self.was_reset) = (Some(StreamEnd::Reset), true);
                0
            }
        };
        self.buffer = buffer;
        self.read += came;
        came
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        let is_raw = self.is_raw;
        // What comes beyond the last answer, as to surplus line ends, was not asked for.
        while !bytes.is_empty() && self.answers.len() < self.begun_requests {
            let framing = self.framing.get_or_insert_with(if is_raw { Framing::none } else { Framing::http });
            let taken = framing.feed(bytes);
            bytes = &bytes[taken..];
            if framing.complete {
                self.answers.push(answered(framing, self.is_raw));
                self.framing = None;
            }
        }
    }

    /// ClientWaits a moment for a reset that follows what was the last byte, or the FIN.
    fn settle(&mut self, end: StreamEnd) {
        let reset = match self.wait(PollFlags::empty(), Instant::now() + self.waits.moment) {
            Waited::Ready => matches!(self.socket.take_error(), Ok(Some(_))),
            Waited::TimedOut => false,
            Waited::Halted => return,
        };
        // A write that has met the reset has taken its error.
        self.was_reset |= reset || self.write_failed;
        self.end = Some(if reset { StreamEnd::Reset } else { end });
    }

    fn played(mut self) -> Played {
        if let Some(framing) = self.framing.take() {
            self.answers.push(answered(&framing, self.is_raw));
        }
        Played {
            answers: self.answers,
            whole_requests: self.whole_requests,
            prompt: self.prompt,
            end: self.end.unwrap_or(StreamEnd::Silence),
            was_reset: self.was_reset,
            write_failed: self.write_failed,
            client: self.socket.local_addr().ok().and_then(|address| address.as_socket()),
        }
    }
}

/// The status of a response that has none.
pub(crate) const NO_STATUS: u16 = 0;

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn answered(framing: &Framing, is_raw: bool) -> Answered {
    Answered {
        // Bytes that are no HTTP have no status, and no length either.
        status: if framing.wrong.is_some() || is_raw { Some(NO_STATUS) } else { framing.status },
        got: framing.got,
        expected: framing.expected,
        framed: !framing.ends_with_connection(),
        complete: framing.complete,
    }
}
