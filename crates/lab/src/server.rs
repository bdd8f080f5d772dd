//! The server under test: reads a part of the request, writes a response, and ends the connection in a given way.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use linger::{Closer, Outcome, Policy};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::ending::Ending;
use crate::payload;
use crate::steps::{Actor, Notes, StepAction, Steps};
use crate::stop::Stop;

/// Largest response that a server holds in memory.
pub const LARGEST_RESPONSE: u64 = 1 << 30;

/// How much of a request the server reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consume {
    /// This many bytes.
    Bytes(u64),
    /// As many bytes as the request states.
    All,
    /// A head in HTTP, and nothing behind it.
    Head,
}

/// What the server does with every connection.
#[derive(Clone, Debug)]
pub struct ServerPlan {
    /// How the server ends the connection after its last write.
    pub ending: Ending,
    /// How much of the request it reads first.
    pub consume: Consume,
    /// The response.
    pub response: Arc<[u8]>,
    /// Bounds of the lingering close.
    pub policy: Policy,
    /// Who does the lingering closes; `None`: the worker itself. The worker waits in either case.
    pub closer: Option<Closer>,
    /// How long it waits before it reads a request, as a busy server would.
    pub busy: Duration,
    /// How long a single read or write may stall.
    pub stall: Duration,
}

impl ServerPlan {
    /// A server that answers `response` bytes after reading `consume`. A response larger than [`LARGEST_RESPONSE`] is cut to
    /// it; callers refuse such a plan before.
    pub fn new(ending: Ending, consume: Consume, response: u64) -> Self {
        Self {
            ending,
            consume,
            response: payload::response(response, LARGEST_RESPONSE as usize).into(),
            policy: Policy::default(),
            closer: None,
            busy: Duration::ZERO,
            stall: Duration::from_secs(30),
        }
    }
}

/// What the server saw of one connection.
#[derive(Debug)]
pub struct ServerReport {
    /// The client.
    pub peer: SocketAddr,
    /// Bytes of the response accepted by `write`.
    pub written: u64,
    /// The error of a read, a write or the ending. Normally there is none, even if the response is lost.
    pub error: Option<io::Error>,
    /// The outcome of the lingering close, if that was the ending.
    pub outcome: Option<Outcome>,
}

/// Opens a listening socket.
///
/// # Errors
/// Returns `EADDRINUSE`, `EADDRNOTAVAIL` or `EACCES`, and `ENOENT` for an unknown congestion control.
pub fn listen(address: SocketAddr, backlog: u32, congestion: Option<&str>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // With SO_REUSEADDR the kernel may choose one free port for two listeners, and the second listen() fails.
    socket.set_reuse_address(address.port() != 0)?;
    if let Some(congestion) = congestion {
        // Accepted sockets inherit the congestion control.
        socket.set_tcp_congestion(congestion.as_bytes()).map_err(|error| {
            let known = "`sysctl net.ipv4.tcp_available_congestion_control` lists what this kernel has";
            io::Error::new(error.kind(), format!("congestion control `{congestion}`: {error}; {known}"))
        })?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    // Non-blocking: one connection wakes several workers, and those that come too late must not block in accept().
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Accepts and serves one connection after the other until the stop is requested.
///
/// # Errors
/// Returns the errors of `accept(2)`, but not that of a connection that was gone before it was accepted.
pub fn work(
    listener: &TcpListener,
    plan: &ServerPlan,
    stop: &Stop,
    report: impl Fn(ServerReport),
) -> io::Result<()> {
    while let Some((stream, peer)) = accept(listener, stop)? {
        report(serve(stream, peer, plan, stop, Notes::of(None, Actor::Server)));
    }
    Ok(())
}

/// Accepts and serves one connection, and notes each step. Returns `None` if the stop was requested first.
pub(crate) fn serve_one(
    listener: &TcpListener,
    plan: &ServerPlan,
    stop: &Stop,
    steps: &Steps,
) -> io::Result<Option<ServerReport>> {
    let accepted = accept(listener, stop)?;
    let notes = Notes::of(Some(steps), Actor::Server);
    Ok(accepted.map(|(stream, peer)| serve(stream, peer, plan, stop, notes)))
}

/// Waits for the next connection. Returns `None` once the stop is requested.
fn accept(listener: &TcpListener, stop: &Stop) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    while !stop.requested() {
        if !stop.wait_readable(listener.as_fd(), None)? {
            continue;
        }
        match listener.accept() {
            Ok(accepted) => return Ok(Some(accepted)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {
                }
                _ => return Err(error),
            },
        }
    }
    Ok(None)
}

/// Serves one connection.
fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    plan: &ServerPlan,
    stop: &Stop,
    notes: Notes<'_>,
) -> ServerReport {
    let mut served = ServerReport { peer, written: 0, error: None, outcome: None };
    let result = if plan.ending == Ending::Exit {
        serve_by_process(stream, plan, stop, &mut served.written)
    } else {
        serve_by_thread(stream, plan, stop, &mut served, notes)
    };
    served.error = result.err();
    served
}

fn prepare(stream: &TcpStream, plan: &ServerPlan, stop: &Stop) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(plan.stall))?;
    socket.set_write_timeout(Some(plan.stall))?;
    if plan.busy.is_zero() { Ok(()) } else { stop.sleep(plan.busy) }
}

fn serve_by_thread(
    mut stream: TcpStream,
    plan: &ServerPlan,
    stop: &Stop,
    served: &mut ServerReport,
    notes: Notes<'_>,
) -> io::Result<()> {
    prepare(&stream, plan, stop)?;
    let read = consume(&mut stream, plan.consume)?;
    notes.now(|| StepAction::Read(read));
    let mut rest: &[u8] = &plan.response;
    while !rest.is_empty() {
        let called = notes.clock();
        match stream.write(rest) {
            Ok(bytes) => {
                notes.at(called, || StepAction::Wrote(bytes as u64));
                served.written += bytes as u64;
                rest = &rest[bytes..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Dropping the stream closes the connection, as a server does after an error.
            Err(error) => {
                notes.at(called, || StepAction::WriteFailed(error.to_string()));
                return Err(error);
            }
        }
    }
    let (called, unread) = (notes.clock(), linger_sys::unread(stream.as_fd()).unwrap_or(0));
    let ended = plan.ending.end(stream, &plan.policy, plan.closer.as_ref());
    notes.at(called, || StepAction::Ended {
        ending: plan.ending,
        unread,
        error: ended.as_ref().err().map(ToString::to_string),
        outcome: ended.as_ref().ok().copied().flatten(),
    });
    served.outcome = ended?;
    Ok(())
}

fn serve_by_process(
    mut stream: TcpStream,
    plan: &ServerPlan,
    stop: &Stop,
    written: &mut u64,
) -> io::Result<()> {
    prepare(&stream, plan, stop)?;
    let consume = match plan.consume {
        Consume::Bytes(bytes) => bytes,
        whole @ (Consume::All | Consume::Head) => {
            consume(&mut stream, whole)?;
            0
        }
    };
    *written = crate::kernel::serve_and_exit(stream.into(), consume, &plan.response)?.wait()?;
    Ok(())
}

/// Longest head that is waited for.
const LONGEST_HEAD: usize = 64 << 10;

/// The length of the head that has come, once all of it has. Nothing is read.
fn head_length(stream: &TcpStream) -> io::Result<u64> {
    let (mut buffer, mut seen) = (vec![0; LONGEST_HEAD], 0);
    loop {
        let bytes = stream.peek(&mut buffer)?;
        if let Some(end) = buffer[..bytes].windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(end as u64 + 4);
        }
        if bytes == 0 || bytes == LONGEST_HEAD {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // A peek returns at once while there is something to read; more of the head is on its way.
        if bytes == seen {
            std::thread::sleep(Duration::from_millis(1));
        }
        seen = bytes;
    }
}

/// Reads as much of the request as planned, and not a byte more; returns how much that was.
fn consume(stream: &mut TcpStream, consume: Consume) -> io::Result<u64> {
    let mut buffer = [0; 16 << 10];
    let (first, mut left) = match consume {
        Consume::Bytes(bytes) => (0, bytes),
        Consume::Head => (0, head_length(stream)?),
        Consume::All => {
            // The first read contains the request's length. A request without one is taken as complete.
            let first = stream.read(&mut buffer)?;
            let length = payload::request_length(&buffer[..first]).unwrap_or(0);
            (first as u64, length.saturating_sub(first as u64))
        }
    };
    let all = first + left;
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match stream.read(&mut buffer[..most]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => left -= bytes as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}
