//! Plays a server's schedule on a real connection, and counts what came and what the client's kernel has acknowledged.

mod scheduled;

use std::net::SocketAddr;
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::Duration;

use linger_lab::Stop;
use socket2::Socket;

use crate::request::RequestFraming;
use crate::schedule::Schedule;
use scheduled::ScheduledServer;

/// What a server answers.
#[derive(Clone, Debug)]
pub(crate) struct Answering {
    /// The status of each response.
    pub(crate) status: u16,
    /// What every response is, in place of HTTP.
    pub(crate) payload: Option<Vec<u8>>,
    /// Bytes of a request that is no HTTP, once that is known.
    pub(crate) upload: Option<u64>,
}

/// How long a server waits. The waits follow the client's own speed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerWaits {
    /// For the next bytes of a request, for the acknowledgement of what was sent, and for the client's end.
    pub(crate) patience: Duration,
    /// For bytes that need not come, as to the rest of a request whose client waits for an answer.
    pub(crate) idle: Duration,
}

/// One request and its response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServedExchange {
    /// Whether the request's head came whole.
    pub(crate) asked: bool,
    /// The length of the request's body, if it says it.
    pub(crate) announced: Option<u64>,
    /// Bytes of the request's body that came.
    pub(crate) received: u64,
    /// Whether all of the request came.
    pub(crate) whole_request: bool,
    /// The length of the response's body; `None` if there was no response.
    pub(crate) body: Option<u64>,
    /// Bytes of the response's body that were written.
    pub(crate) written: u64,
    /// Whether the response was written whole.
    pub(crate) answered: bool,
    /// Whether the client's kernel has acknowledged all of the response.
    pub(crate) delivered: bool,
    /// Whether the server has kept the connection open behind the response, and said so: then it still wants the rest of the request.
    pub(crate) kept: bool,
}

/// How the server's side of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServedEnd {
    /// The client ended its direction, and the server did not close before.
    Fin,
    /// The client's kernel reset the connection, and the server had not closed.
    Reset,
    /// The server closed, or aborted, as its schedule says.
    Closed,
    /// The client did neither for long.
    Silence,
    /// The hunt stopped it.
    Halted,
}

/// What the server saw of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServedConnection {
    pub(crate) client: Option<SocketAddr>,
    pub(crate) exchanges: Vec<ServedExchange>,
    pub(crate) end: ServedEnd,
}

/// The body of a response that the schedule does not have.
pub(crate) const PLAIN_BODY: u64 = 1_000;

/// A process that is being made has a copy of every descriptor until its exec: a socket that is closed meanwhile is not closed. So processes are made under
/// the lock for writing, and sockets closed under that for reading.
pub(crate) type Forks = RwLock<()>;

/// Plays a schedule. Ends early when nothing that is left could change what became of the responses.
pub(crate) fn serve(
    socket: Socket,
    schedule: &Schedule,
    answering: &Answering,
    waits: &ServerWaits,
    (halt, forks): (&Stop, &Forks),
) -> ServedConnection {
    let client = socket.peer_addr().ok().and_then(|address| address.as_socket());
    let mut server = ScheduledServer::new(socket, schedule, answering, waits, halt);
    for step in &schedule.steps {
        server.step(*step);
        if server.end.is_some() {
            break;
        }
    }
    if server.end.is_none() {
        server.finish();
    }
    let _none_is_made = forks.read().unwrap_or_else(PoisonError::into_inner);
    server.served(client)
}

impl Answering {
    fn request(&self) -> RequestFraming {
        match self.payload {
            Some(_) => RequestFraming::raw(self.upload),
            None => RequestFraming::default(),
        }
    }

    fn head(&self, body: u64, keep: bool) -> Vec<u8> {
        let reason = if self.status < 400 { "OK" } else { "Refused" };
        let connection = if keep { "keep-alive" } else { "close" };
        format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: application/octet-stream\r\nContent-Length: {body}\r\n\
             Connection: {connection}\r\n\r\n",
            self.status
        )
        .into_bytes()
    }
}

/// Bytes of every body, from one place to another: lines of 16 that say where they stand in each MiB, so that what is cut or shifted differs.
pub(crate) fn content(from: u64, to: u64) -> Vec<u8> {
    static LINES: OnceLock<Vec<u8>> = OnceLock::new();
    const SIZE: usize = 1 << 20;
    let lines = LINES.get_or_init(|| {
        let line = |at: usize| format!("{at:015x}\n").into_bytes();
        (0..SIZE / 16).flat_map(|number| line(number * 16)).collect()
    });
    let count = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
    let first = usize::try_from(from % SIZE as u64).unwrap_or(0);
    lines.iter().cycle().skip(first).take(count).copied().collect()
}
