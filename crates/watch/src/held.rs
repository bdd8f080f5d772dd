//! Resets that are held back until their socket is destroyed: that event brings the byte counts and the process.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::kernel::leftovers::Leftover;
use linger_why::Cause;

use crate::bytes::{Bytes, Unknown};
use crate::closers::Closers;
use crate::diagnose::{self, Direction, LiveReset, Opinion};
use crate::events::Endpoints;
use crate::process::NamedProcess;

/// Longest time a reset is held back. After a sent reset the socket is destroyed within microseconds; after a received
/// one only when the process closes it, which may never happen.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most resets held at a time. Beyond it all of them are reported at once, without byte counts.
const MAX: usize = 65_536;

/// A reset whose socket is not known to be destroyed yet.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) reset: LiveReset,
    /// Nanoseconds since 1970, as the kernel's event has it.
    pub(crate) time_ns: u64,
    /// The socket error that a received reset caused.
    pub(crate) error: Option<i32>,
    /// The cause of a received reset whose sender is on this host too.
    pub(crate) known: Option<Opinion>,
    since: Instant,
    /// The socket is destroyed. The message with its byte counts has not arrived yet.
    closed: bool,
    /// The socket was disconnected (`tcp_disconnect`): its byte counts are lost.
    gone: bool,
}

/// All resets held back, by connection.
#[derive(Debug, Default)]
pub(crate) struct HeldResets {
    held: HashMap<Endpoints, Held>,
    /// Destroyed sockets of the previous round that have no reset yet. For data after close the kernel destroys the socket
    /// first and sends the reset afterwards.
    early: HashMap<Endpoints, Leftover>,
}

impl HeldResets {
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Holds a reset back. Returns an earlier reset of the same connection that was still held.
    pub(crate) fn hold(&mut self, ends: Endpoints, time_ns: u64, reset: LiveReset) -> Option<Held> {
        self.held.insert(ends, Held::new(reset, time_ns))
    }

    pub(crate) fn of(&mut self, ends: &Endpoints) -> Option<&mut Held> {
        self.held.get_mut(ends)
    }

    pub(crate) fn take(&mut self, ends: &Endpoints) -> Option<Held> {
        self.held.remove(ends)
    }

    /// Notes that a socket was destroyed while `process` was running. For a received reset that process closed it.
    pub(crate) fn destroyed(&mut self, ends: &Endpoints, process: impl FnOnce() -> Option<NamedProcess>) {
        if ends.1.port() == 0 {
            return self.disconnected(ends.0.port(), process);
        }
        let Some(held) = self.held.get_mut(ends) else { return };
        held.closed = true;
        if held.reset.direction == Direction::Received && held.reset.process.is_none() {
            held.reset.process = process();
        }
    }

    /// Does what [`destroyed`](Self::destroyed) does for a socket that was refused or aborted. `tcp_disconnect` has cleared
    /// the address of that socket's peer and its byte counts, so only its own port is known. If several held resets have
    /// that port, the oldest is taken for it. Its byte counts stay unknown.
    fn disconnected(&mut self, port: u16, process: impl FnOnce() -> Option<NamedProcess>) {
        let meant = |held: &Held| match held.reset.direction {
            Direction::Received => held.error == Some(libc::ECONNREFUSED),
            Direction::Sent => held.reset.cause == Cause::Aborted,
        };
        let of_port = self.held.iter_mut().filter(|(ends, held)| ends.0.port() == port && meant(held));
        if let Some((_, held)) = of_port.filter(|(_, held)| !held.gone).min_by_key(|(_, held)| held.time_ns) {
            held.gone = true;
            if held.reset.process.is_none() {
                held.reset.process = process();
            }
        }
    }

    /// Matches held resets with the destroyed sockets in `leftovers`. Returns the resets that are complete or have been
    /// held for their longest time.
    pub(crate) fn settle(&mut self, leftovers: Vec<Leftover>, closers: &Closers) -> Vec<(Held, Endpoints)> {
        let mut settled = Vec::new();
        let mut unmatched = HashMap::new();
        let told = leftovers.into_iter().map(|leftover| ((leftover.local, leftover.remote), leftover));
        for (ends, leftover) in self.early.drain().chain(told) {
            match self.held.remove(&ends) {
                Some(mut held) => {
                    let (fin_sent, fin_received) = closers.fins(&ends);
                    held.reset.bytes = Bytes::of(&leftover, fin_sent, fin_received);
                    if held.reset.direction == Direction::Sent && held.reset.cause == Cause::DataAfterClose {
                        held.reset.bytes.unread = None;
                        held.reset.bytes.unknown = Some(Unknown::Uncounted);
                    }
                    settled.push((held, ends));
                }
                None => {
                    unmatched.insert(ends, leftover);
                }
            }
        }
        self.early = unmatched;
        let now = Instant::now();
        let crowded = self.held.len() > MAX;
        let over = |held: &Held| crowded || held.gone || now - held.since >= PATIENCE;
        let over = self.held.extract_if(|_, held| over(held));
        settled.extend(over.map(|(ends, held)| (held, ends)));
        settled
    }

    /// Returns all resets that are still held.
    pub(crate) fn give_up(&mut self) -> Vec<(Held, Endpoints)> {
        self.held.drain().map(|(ends, held)| (held, ends)).collect()
    }
}

impl Held {
    /// A reset to be held, with nothing known beyond the reset itself.
    pub(crate) fn new(reset: LiveReset, time_ns: u64) -> Self {
        Self { reset, time_ns, error: None, known: None, since: Instant::now(), closed: false, gone: false }
    }

    /// Completes the reset with everything known by now.
    pub(crate) fn finish(mut self) -> LiveReset {
        let reset = &mut self.reset;
        if reset.direction == Direction::Received {
            let opinion = self.known.unwrap_or_else(|| diagnose::received(self.error));
            let (cause, confidence, candidates, evidence) = opinion;
            (reset.cause, reset.confidence, reset.candidates, reset.evidence) =
                (cause, confidence, candidates, evidence);
            reset.remedy = cause.remedy();
            if self.error == Some(libc::ECONNREFUSED) {
                reset.bytes = Bytes::unknown(Unknown::NoSocket);
            } else if reset.bytes == Bytes::default() {
                let why = if self.closed { Unknown::NotTold } else { Unknown::StillOpen };
                reset.bytes = Bytes::unknown(why);
            }
        } else if reset.bytes == Bytes::default() {
            let wiped = reset.candidates.contains(&Cause::Aborted);
            reset.bytes = Bytes::unknown(if wiped { Unknown::Wiped } else { Unknown::NotTold });
        }
        self.reset
    }
}
