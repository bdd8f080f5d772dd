//! Resets that are held back until their socket is destroyed: that event brings the byte counts and the process.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::kernel::leftovers::{Arrived, Leftover};
use linger_why::{Cause, Confidence};

use crate::addresses::PackedEnds;
use crate::bytes::{Bytes, Unknown};
use crate::closers::Closers;
use crate::diagnose;
use crate::events::Endpoints;
use crate::live_reset::Opinion;
use crate::live_reset::{BoxedReset, Direction, LiveReset, ProcessRole};
use crate::process::NamedProcess;
use crate::recent::ResetKey;

/// Longest time for which a reset is held back. After a sent reset the socket is destroyed within microseconds. After a
/// received reset it is destroyed only when the process closes it, which may never happen.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest time for which a reset of a disconnected socket is held back.
const SOON: Duration = Duration::from_millis(200);
/// Most resets that are held at a time, about a kilobyte each. If there are as many, all of them are reported immediately, without
/// byte counts.
pub(crate) const MAX: usize = 4_096;
/// Most destroyed sockets whose cookies are remembered, or that wait for their reset.
const MAX_SOCKETS: usize = 16_384;

/// A reset whose socket is not known to be destroyed yet.
#[derive(Debug)]
pub(crate) struct Held {
    /// The kernel's address of the socket; 0 if there was none.
    pub(crate) socket: u64,
    /// The socket's cookie; 0 as long as it is not known, until the socket is destroyed at the latest.
    pub(crate) cookie: u64,
    /// A socket of the connection sent or received the reset: the kernel will tell of its end.
    pub(crate) has_socket: bool,
    pub(crate) reset: BoxedReset,
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
    /// The namespace of the disconnected socket is known.
    placed: bool,
}

/// All resets held back, by connection. Two network namespaces may have connections with the same addresses, so that sockets
/// are told apart by the kernel's address of each, and by their cookies once those are known.
#[derive(Debug, Default)]
pub(crate) struct HeldResets {
    held: HashMap<Endpoints, Vec<Held>>,
    count: usize,
    /// Sockets destroyed in the previous round for which no reset has come yet: if data arrives after the close, the kernel
    /// destroys the socket first and sends the reset afterwards.
    early: Vec<Leftover>,
    /// The cookies of sockets destroyed lately, by the socket's address in the kernel.
    cookies: HashMap<u64, u64>,
    /// The connections of held resets by their sockets, and those of disconnected sockets by their cookies: both may be stale.
    by_socket: HashMap<u64, PackedEnds>,
    by_cookie: HashMap<u64, Endpoints>,
}

impl HeldResets {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Holds a reset back. Returns an earlier reset of the same socket that was still held.
    pub(crate) fn hold(&mut self, ends: Endpoints, mut held: Held) -> Option<Held> {
        // One that is destroyed is another: the kernel uses its memory again.
        let earlier =
            self.take_if(&ends, |other| other.socket == held.socket && !other.gone && !other.closed);
        if held.cookie == 0 {
            // The kernel may have destroyed the socket before it sent the reset.
            held.cookie = self.cookies.get(&held.socket).copied().unwrap_or(0);
        }
        self.by_socket.insert(held.socket, ends.into());
        let of_connection = self.held.entry(ends).or_default();
        // Most connections have one.
        of_connection.reserve_exact(1);
        of_connection.push(held);
        self.count += 1;
        earlier
    }

    /// The held reset of a socket, by its address in the kernel; 0: that of any socket of the connection.
    pub(crate) fn of(&mut self, ends: &Endpoints, socket: u64) -> Option<&mut Held> {
        self.held.get_mut(ends)?.iter_mut().rev().find(|held| socket == 0 || held.socket == socket)
    }

    /// The held reset of this time, and its connection.
    pub(crate) fn at(&mut self, (ends, time_ns): &ResetKey) -> Option<&mut Held> {
        self.held.get_mut(ends)?.iter_mut().find(|held| held.time_ns == *time_ns)
    }

    pub(crate) fn take(&mut self, ends: &Endpoints, socket: u64) -> Option<Held> {
        self.take_if(ends, |held| held.socket == socket)
    }

    /// Takes the latest held reset of a connection that `is_it`.
    fn take_if(&mut self, ends: &Endpoints, is_it: impl Fn(&Held) -> bool) -> Option<Held> {
        let of_connection = self.held.get_mut(ends)?;
        let at = of_connection.iter().rposition(is_it)?;
        let held = of_connection.remove(at);
        if of_connection.is_empty() {
            self.held.remove(ends);
        }
        self.count -= 1;
        Some(held)
    }

    /// Notes that a socket was destroyed while `process` was running. If the held reset was received, that process had
    /// the connection.
    ///
    /// If the socket was refused or aborted, `tcp_disconnect` has cleared the peer's address and the byte counts. The
    /// reset is then found by the socket's address in the kernel, and a reset that was sent is that process's doing.
    pub(crate) fn destroyed(
        &mut self,
        ends: &Endpoints,
        (socket, cookie): (u64, u64),
        process: impl FnOnce() -> Option<NamedProcess>,
    ) {
        if self.cookies.len() >= MAX_SOCKETS {
            self.cookies.clear();
        }
        self.cookies.insert(socket, cookie);
        let is_disconnected = ends.1.port() == 0;
        let held = if is_disconnected {
            let of_socket = self.by_socket.get(&socket).map(|held| Endpoints::from(*held));
            let of_socket = of_socket.filter(|held| held.0.port() == ends.0.port());
            self.by_cookie.extend(of_socket.map(|ends| (cookie, ends)));
            of_socket.and_then(|ends| self.of(&ends, socket)).filter(|held| !held.gone)
        } else {
            self.of(ends, socket)
        };
        let Some(held) = held else { return };
        held.cookie = cookie;
        if is_disconnected {
            held.gone = true;
        } else {
            held.closed = true;
        }
        let role = match held.reset.direction {
            Direction::Received => ProcessRole::Held,
            Direction::Sent if is_disconnected => ProcessRole::Closed,
            Direction::Sent => return,
        };
        if held.reset.process.is_none() {
            held.reset.process = process();
            held.reset.role = held.reset.process.is_some().then_some(role);
        }
    }

    /// Matches held resets with the destroyed sockets in `leftovers`. Returns the resets that are complete or have been
    /// held for their longest time. `is_behind`: events that came before are not taken yet, so that no socket is forgotten.
    pub(crate) fn settle(
        &mut self,
        leftovers: Vec<Leftover>,
        closers: &Closers,
        is_behind: bool,
    ) -> Vec<(Held, Endpoints)> {
        let mut settled = Vec::new();
        let mut early = std::mem::take(&mut self.early);
        // In its place: a host with many sockets has thousands of them.
        early.retain(|leftover| !self.is_its(leftover, closers, &mut settled) && is_behind);
        for leftover in &leftovers {
            if !self.is_its(leftover, closers, &mut settled) && early.len() < MAX_SOCKETS {
                early.push(*leftover);
            }
        }
        self.early = early;
        let now = Instant::now();
        let crowded = self.count >= MAX;
        let over = |held: &Held| crowded || held.is_over(now);
        for (ends, of_connection) in &mut self.held {
            settled.extend(of_connection.extract_if(.., |held| over(held)).map(|held| (held, *ends)));
        }
        self.held.retain(|_, of_connection| !of_connection.is_empty());
        self.count = self.held.values().map(Vec::len).sum();
        if self.count == 0 || self.by_socket.len() > 2 * MAX {
            self.by_socket = self
                .held
                .iter()
                .flat_map(|(ends, held)| held.iter().map(|held| (held.socket, (*ends).into())))
                .collect();
            self.by_cookie.clear();
        }
        settled
    }

    /// Matches a destroyed socket with its reset, which is then complete. False if no reset has come for it.
    fn is_its(
        &mut self,
        leftover: &Leftover,
        closers: &Closers,
        settled: &mut Vec<(Held, Endpoints)>,
    ) -> bool {
        let (ends, cookie) = ((leftover.local, leftover.remote), leftover.cookie);
        if ends.1.port() == 0 {
            self.place(leftover);
            return true;
        }
        let exact = self.take_if(&ends, |held| held.cookie == cookie);
        let Some(mut held) = exact.or_else(|| self.take_if(&ends, |held| held.is_of(cookie))) else {
            return false;
        };
        let (fin_sent, fin_received) = closers.fins(&ends, held.socket);
        held.reset.bytes = Bytes::of(leftover, fin_sent, fin_received);
        held.reset.namespace = held.reset.namespace.or(leftover.namespace);
        if held.is_on_data() {
            held.decide(leftover.arrived);
        }
        if held.reset.direction == Direction::Sent && held.reset.cause == Cause::DataAfterClose {
            held.reset.bytes.unread = None;
            held.reset.bytes.unknown = Some(Unknown::Uncounted);
        }
        settled.push((held, ends));
        true
    }

    /// Notes the namespace of a socket that was disconnected: of it only the cookie is left.
    fn place(&mut self, leftover: &Leftover) {
        let ends = self.by_cookie.remove(&leftover.cookie);
        let of_connection = ends.and_then(|ends| self.held.get_mut(&ends)).into_iter().flatten();
        if let Some(held) = of_connection.into_iter().find(|held| held.cookie == leftover.cookie) {
            held.reset.namespace = held.reset.namespace.or(leftover.namespace);
            held.placed = true;
        }
    }

    /// Whether a reset is held that the end of this process made.
    pub(crate) fn of_ended(&self, pid: u32) -> bool {
        self.held.values().flatten().any(|held| held.ended == Some(pid))
    }

    /// Returns all resets that are still held.
    pub(crate) fn give_up(&mut self) -> Vec<(Held, Endpoints)> {
        self.count = 0;
        let all = self.held.drain();
        all.flat_map(|(ends, held)| held.into_iter().map(move |held| (held, ends))).collect()
    }
}

impl Held {
    /// A reset to be held, with nothing known beyond the reset itself.
    pub(crate) fn new(reset: LiveReset, socket: u64, time_ns: u64) -> Self {
        Self {
            socket,
            cookie: 0,
            has_socket: true,
            placed: false,
            reset: Box::new(reset),
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

    /// Whether a destroyed socket with this cookie, and the addresses of the reset's connection, is the reset's. If the reset's
    /// cookie is not known (0), the addresses decide, provided that its socket is destroyed or not known.
    fn is_of(&self, cookie: u64) -> bool {
        self.cookie == cookie || self.cookie == 0 && (self.closed || self.socket == 0)
    }

    /// Whether nothing more will be known of the reset.
    fn is_over(&self, now: Instant) -> bool {
        // The message with the namespace of a disconnected socket comes at once, or never.
        let gone = self.gone && (self.placed || now - self.since >= SOON);
        gone || now - self.since >= PATIENCE
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
    pub(crate) fn finish(mut self) -> BoxedReset {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn leftover(port: u16) -> Leftover {
        Leftover {
            namespace: None,
            cookie: port.into(),
            local: ([10, 0, 0, 1], 80).into(),
            remote: ([10, 0, 0, 2], port).into(),
            unread: 0,
            unacknowledged: 0,
            unsent: None,
            arrived: None,
        }
    }

    /// Most sockets end without a reset. The reset of one that had one comes in the next round, or the events are behind.
    #[test]
    fn a_socket_without_a_reset_is_forgotten() {
        let (mut held, closers) = (HeldResets::default(), Closers::default());
        held.settle(vec![leftover(1)], &closers, false);
        assert_eq!(held.early.len(), 1);
        held.settle(vec![leftover(2)], &closers, true);
        assert_eq!(held.early.len(), 2, "the events are behind");
        held.settle(vec![leftover(3)], &closers, false);
        assert_eq!(held.early.len(), 1, "the latest alone");
        held.settle((4..=u16::MAX).map(leftover).collect(), &closers, true);
        assert_eq!(held.early.len(), MAX_SOCKETS);
    }
}
