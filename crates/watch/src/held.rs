//! Resets that wait for the end of their socket, which tells the bytes and the process.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::kernel::leftovers::Leftover;
use linger_why::Cause;

use crate::bytes::{Bytes, Unknown};
use crate::closers::Closers;
use crate::diagnose::{self, Direction, Opinion, Reset};
use crate::events::Ends;
use crate::process::Process;

/// A socket is destroyed within microseconds of a reset that its own process caused; of one that was received
/// when the process gets around to closing it. Nobody wants to wait longer.
const PATIENCE: Duration = Duration::from_secs(1);
/// A host that resets faster than that hears of its bytes no more.
const MAX: usize = 65_536;

/// A reset of a socket that is not known to be gone yet.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) reset: Reset,
    /// Nanoseconds since 1970, as the kernel's event has it.
    pub(crate) time: u64,
    /// What a received one became for the process.
    pub(crate) error: Option<i32>,
    /// Why it was sent, where the other end is on this host too.
    pub(crate) known: Option<Opinion>,
    since: Instant,
    /// The socket is gone: what it had left is about to be told.
    closed: bool,
    /// The socket is gone, and its counts with it.
    gone: bool,
}

/// All of them, by connection.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    held: HashMap<Ends, Held>,
    /// Sockets told of before their reset was, in the round before this one: for data after close the kernel destroys
    /// the socket first and sends then.
    early: HashMap<Ends, Leftover>,
}

impl Waiting {
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Holds a reset back; answers one of the same connection that waited already.
    pub(crate) fn hold(&mut self, ends: Ends, time: u64, reset: Reset) -> Option<Held> {
        self.held.insert(ends, Held::new(reset, time))
    }

    pub(crate) fn of(&mut self, ends: &Ends) -> Option<&mut Held> {
        self.held.get_mut(ends)
    }

    pub(crate) fn take(&mut self, ends: &Ends) -> Option<Held> {
        self.held.remove(ends)
    }

    /// A socket is gone on the time of `process`: the one that closed it, if a reset had been received before.
    pub(crate) fn destroyed(&mut self, ends: &Ends, process: impl FnOnce() -> Option<Process>) {
        if ends.1.port() == 0 {
            return self.disconnected(ends.0.port(), process);
        }
        let Some(held) = self.held.get_mut(ends) else { return };
        held.closed = true;
        if held.reset.direction == Direction::Received && held.reset.process.is_none() {
            held.reset.process = process();
        }
    }

    /// The same for a socket that has forgotten its peer, as a refused or aborted one does (`tcp_disconnect`): its
    /// bytes are forgotten with it. Of several of one port the oldest is meant; all have the same fate.
    fn disconnected(&mut self, port: u16, process: impl FnOnce() -> Option<Process>) {
        let meant = |held: &Held| match held.reset.direction {
            Direction::Received => held.error == Some(diagnose::ECONNREFUSED),
            Direction::Sent => held.reset.cause == Cause::Aborted,
        };
        let of_port = self.held.iter_mut().filter(|(ends, held)| ends.0.port() == port && meant(held));
        if let Some((_, held)) = of_port.filter(|(_, held)| !held.gone).min_by_key(|(_, held)| held.time) {
            held.gone = true;
            if held.reset.process.is_none() {
                held.reset.process = process();
            }
        }
    }

    /// Brings together what waits and what the kernel told of sockets that are gone; answers the resets that are
    /// complete, or have waited long enough.
    pub(crate) fn settle(&mut self, leftovers: Vec<Leftover>, closers: &Closers) -> Vec<(Held, Ends)> {
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

    /// Everything that still waits.
    pub(crate) fn give_up(&mut self) -> Vec<(Held, Ends)> {
        self.held.drain().map(|(ends, held)| (held, ends)).collect()
    }
}

impl Held {
    /// A reset as it is told, if nothing more comes.
    pub(crate) fn new(reset: Reset, time: u64) -> Self {
        Self { reset, time, error: None, known: None, since: Instant::now(), closed: false, gone: false }
    }

    /// Makes the reset whole with what is known by now.
    pub(crate) fn finish(mut self) -> Reset {
        let reset = &mut self.reset;
        if reset.direction == Direction::Received {
            let opinion = self.known.unwrap_or_else(|| diagnose::received(self.error));
            let (cause, confidence, candidates, evidence) = opinion;
            (reset.cause, reset.confidence, reset.candidates, reset.evidence) =
                (cause, confidence, candidates, evidence);
            reset.remedy = cause.remedy();
            if self.error == Some(diagnose::ECONNREFUSED) {
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
