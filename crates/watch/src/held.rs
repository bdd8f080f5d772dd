//! Resets that are held back until their socket is destroyed: that event brings the byte counts and the process.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::kernel::leftovers::{Arrived, Leftover};
use linger_why::{Cause, Confidence};

use crate::bytes::{Bytes, Unknown};
use crate::closers::Closers;
use crate::diagnose::{self, Direction, LiveReset, Opinion, Role};
use crate::events::Endpoints;
use crate::process::NamedProcess;

/// Longest time for which a reset is held back. After a sent reset the socket is destroyed within microseconds. After a
/// received reset it is destroyed only when the process closes it, which may never happen.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most resets that are held at a time. If there are more, all of them are reported immediately, without byte counts.
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
    /// The process whose end made the reset.
    pub(crate) ended: Option<u32>,
    /// An MPTCP socket lies above the connection.
    pub(crate) mptcp: bool,
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
    /// Sockets destroyed in the previous round for which no reset has come yet: if data arrives after the close, the kernel
    /// destroys the socket first and sends the reset afterwards.
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

    /// Notes that a socket was destroyed while `process` was running. If the held reset was received, that process closed
    /// the socket.
    pub(crate) fn destroyed(&mut self, ends: &Endpoints, process: impl FnOnce() -> Option<NamedProcess>) {
        if ends.1.port() == 0 {
            return self.disconnected(ends.0.port(), process);
        }
        let Some(held) = self.held.get_mut(ends) else { return };
        held.closed = true;
        if held.reset.direction == Direction::Received && held.reset.process.is_none() {
            held.reset.process = process();
            held.reset.role = held.reset.process.is_some().then_some(Role::Held);
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
                let role = match held.reset.direction {
                    Direction::Received => Role::Held,
                    Direction::Sent => Role::Closed,
                };
                held.reset.role = held.reset.process.is_some().then_some(role);
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
                    if held.is_on_data() {
                        held.decide(leftover.arrived);
                    }
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

    /// Whether a reset is held that the end of this process made.
    pub(crate) fn of_ended(&self, pid: u32) -> bool {
        self.held.values().any(|held| held.ended == Some(pid))
    }

    /// Notes that an MPTCP socket lies above the connection between these addresses.
    pub(crate) fn is_mptcp(&mut self, ends: &Endpoints) {
        if let Some(held) = self.held.get_mut(ends) {
            held.mptcp = true;
        }
    }

    /// Returns all resets that are still held.
    pub(crate) fn give_up(&mut self) -> Vec<(Held, Endpoints)> {
        self.held.drain().map(|(ends, held)| (held, ends)).collect()
    }
}

impl Held {
    /// A reset to be held, with nothing known beyond the reset itself.
    pub(crate) fn new(reset: LiveReset, time_ns: u64) -> Self {
        Self {
            reset,
            time_ns,
            error: None,
            known: None,
            ended: None,
            mptcp: false,
            since: Instant::now(),
            closed: false,
            gone: false,
        }
    }

    /// Whether the kernel's reason leaves open whether data came late.
    fn is_on_data(&self) -> bool {
        self.reset.reason.as_deref() == Some("TCP_ABORT_ON_DATA")
            && self.reset.confidence < Confidence::Certain
    }

    /// Decides whether data came late, from what had arrived at the socket.
    fn decide(&mut self, arrived: Option<Arrived>) {
        let context = diagnose::Context { arrived, ..diagnose::Context::default() };
        self.reset.set(diagnose::sent(self.reset.reason.as_deref(), &context));
    }

    /// Completes the reset with everything known by now.
    pub(crate) fn finish(mut self) -> LiveReset {
        let reset = &mut self.reset;
        if reset.direction == Direction::Received {
            let opinion = self.known.unwrap_or_else(|| diagnose::received(self.error));
            reset.set(opinion);
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
        if self.mptcp {
            reset.bytes = Bytes::unknown(Unknown::Mptcp);
        }
        self.reset
    }
}
