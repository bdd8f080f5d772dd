//! Connects: to one address, or to the first of several that answers (RFC 8305, "happy eyeballs").

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{SockAddr, Socket, Type};

use crate::deadline::Deadline;

/// How long an attempt has before the next address is tried beside it (RFC 8305 section 5).
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// A connection, and how long it took: a round trip.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) socket: Socket,
    pub(crate) round_trip: Duration,
}

/// The first of several addresses that could be reached.
#[derive(Debug)]
pub(crate) struct FirstReached {
    pub(crate) index: usize,
    pub(crate) dialed: Dialed,
    /// How many attempts were begun.
    pub(crate) attempts: usize,
    /// Those that failed before.
    pub(crate) failed: Vec<(usize, io::Error)>,
    /// Those that were begun before, and had no answer yet.
    pub(crate) silent: Vec<usize>,
}

/// Connects within `within`. The receive buffer is set before, so that the window is small from the first segment on.
pub(crate) fn connect(
    address: &SockAddr,
    receive_buffer: Option<usize>,
    within: Duration,
) -> io::Result<Dialed> {
    let socket = Socket::new(address.domain(), Type::STREAM, None)?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    let started = Instant::now();
    socket.connect_timeout(address, within)?;
    Ok(Dialed { socket, round_trip: started.elapsed() })
}

struct Dialing {
    index: usize,
    socket: Socket,
    started: Instant,
}

/// Tries the addresses in their order, a quarter of a second apart or as soon as one has failed, and takes the first that
/// answers; the others are given up.
///
/// # Errors
/// Returns what each attempt failed with, once all have; those that were not begun in time are missing.
pub(crate) fn first(
    addresses: &[SockAddr],
    patience: Duration,
    deadline: &Deadline,
) -> Result<FirstReached, Vec<(usize, io::Error)>> {
    let until = deadline.bound(Instant::now() + patience);
    let (mut waiting, mut failed) = (Vec::<Dialing>::new(), Vec::new());
    let (mut next, mut next_at) = (0, Instant::now());
    loop {
        let now = Instant::now();
        if next < addresses.len() && (waiting.is_empty() || now >= next_at) && now < until {
            let index = next;
            (next, next_at) = (next + 1, now + NEXT_AFTER);
            match begin(&addresses[index], until.saturating_duration_since(now)) {
                Ok((socket, true)) => {
                    let dialed = Dialed { socket, round_trip: now.elapsed() };
                    let silent = waiting.iter().map(|attempt| attempt.index).collect();
                    return Ok(FirstReached { index, dialed, attempts: next, failed, silent });
                }
                Ok((socket, false)) => waiting.push(Dialing { index, socket, started: now }),
                Err(error) => failed.push((index, error)),
            }
            continue;
        }
        if waiting.is_empty() || now >= until {
            let given_up = waiting.iter().map(|attempt| (attempt.index, io::ErrorKind::TimedOut.into()));
            failed.extend(given_up);
            return Err(failed);
        }
        let wake = if next < addresses.len() { until.min(next_at) } else { until };
        for at in ready(&waiting, wake.saturating_duration_since(now)).into_iter().rev() {
            let Dialing { index, socket, started } = waiting.swap_remove(at);
            match socket.take_error() {
                Ok(None) => {
                    let dialed = Dialed { socket, round_trip: started.elapsed() };
                    let before = waiting.iter().map(|attempt| attempt.index).filter(|other| *other < index);
                    let silent = before.collect();
                    return Ok(FirstReached { index, dialed, attempts: next, failed, silent });
                }
                Ok(Some(error)) | Err(error) => failed.push((index, error)),
            }
        }
    }
}

/// Begins to connect. Returns whether that is done already. Only for a unix socket it waits, at most for `within`.
fn begin(address: &SockAddr, within: Duration) -> io::Result<(Socket, bool)> {
    let socket = Socket::new(address.domain(), Type::STREAM, None)?;
    if address.is_unix() {
        socket.connect_timeout(address, within)?;
        return Ok((socket, true));
    }
    socket.set_nonblocking(true)?;
    match socket.connect(address) {
        Ok(()) => Ok((socket, true)),
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => Ok((socket, false)),
        Err(error) => Err(error),
    }
}

/// The attempts that have come to an end, well or not, by their places in ascending order.
fn ready(waiting: &[Dialing], longest: Duration) -> Vec<usize> {
    let timeout = Timespec::try_from(longest).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
    let mut fds: Vec<PollFd<'_>> =
        waiting.iter().map(|attempt| PollFd::new(&attempt.socket, PollFlags::OUT)).collect();
    // An error, as by a signal, is a reason to look again.
    if poll(&mut fds, Some(&timeout)).is_err() {
        return Vec::new();
    }
    (0..fds.len()).filter(|at| !fds[*at].revents().is_empty()).collect()
}
