//! Remembers which process closed each connection, to name it when a reset follows.

use std::collections::VecDeque;

use crate::addresses::PackedEnds;
use crate::ends_index::EndsIndex;
use crate::events::Endpoints;
use crate::kernel::leftovers::Leftover;
use crate::namespace_id::NamespaceId;
use crate::process::NamedProcess;

/// Number of closes remembered; the oldest are dropped first.
const MAX: usize = 32_768;
/// Number of state changes that are remembered until their reset: both happen within one system call or one packet.
const JUST_NOW: usize = 256;
/// Most sockets with the same addresses, each in a network namespace of its own, whose closes are remembered.
const TWINS: usize = 8;

/// A `close()`, or a `shutdown()` of the sending side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Close {
    /// Nanoseconds since 1970.
    pub(crate) time_ns: u64,
    pub(crate) process: Option<NamedProcess>,
    /// The kernel's address of the socket.
    pub(crate) socket: u64,
    /// The socket's cookie; 0 until it is destroyed.
    pub(crate) cookie: u64,
    /// The network namespace, if it is known.
    pub(crate) namespace: Option<NamespaceId>,
    /// Whether the peer's FIN had arrived first (the socket was in CLOSE_WAIT).
    pub(crate) after_peer: bool,
}

/// A close that is remembered.
#[derive(Debug)]
struct KnownClose {
    ends: PackedEnds,
    close: Close,
    /// How many came before it.
    number: u64,
}

/// The latest closes of this host.
///
/// Connections in different network namespaces may have the same addresses: each socket has a close of its own.
#[derive(Debug)]
pub(crate) struct Closers {
    /// A ring: the next one takes the place of the oldest.
    closes: Vec<KnownClose>,
    next: usize,
    index: EndsIndex,
    count: u64,
    /// Connections that went from CLOSE_WAIT to CLOSE. Only a reset causes that transition.
    cut_after_fin: VecDeque<(Endpoints, u64)>,
    /// Connections whose MPTCP socket was closed. If bytes were unread, that comes before the resets
    /// (`mptcp_do_fastclose`).
    mptcp: VecDeque<(Endpoints, u64)>,
}

impl Default for Closers {
    fn default() -> Self {
        Self {
            // Pages that are not written to take no memory.
            closes: Vec::with_capacity(MAX),
            next: 0,
            index: EndsIndex::with_capacity(MAX),
            count: 0,
            cut_after_fin: VecDeque::new(),
            mptcp: VecDeque::new(),
        }
    }
}

impl Closers {
    /// The positions of the closes with these ends.
    fn all(&self, ends: &Endpoints) -> impl Iterator<Item = &KnownClose> + use<'_> {
        let shown = |at: u32| self.closes[at as usize].ends;
        self.index.all((*ends).into(), shown).map(|at| &self.closes[at as usize])
    }

    /// The position of the close with these ends that `is_it`.
    fn find(&self, ends: &Endpoints, is_it: impl Fn(&Close) -> bool) -> Option<usize> {
        let closes = &self.closes;
        let mut all = self.index.all((*ends).into(), |at| closes[at as usize].ends).map(|at| at as usize);
        all.find(|at| is_it(&closes[*at].close))
    }

    pub(crate) fn closed(&mut self, ends: Endpoints, close: Close) {
        let number = self.count;
        self.count += 1;
        let mut at = self.find(&ends, |earlier| earlier.socket == close.socket);
        if at.is_none() && self.all(&ends).count() >= TWINS {
            let oldest = self.all(&ends).min_by_key(|known| known.number).map(|known| known.close.socket);
            at = self.find(&ends, |twin| Some(twin.socket) == oldest);
        }
        let known = KnownClose { ends: ends.into(), close, number };
        if let Some(at) = at {
            self.closes[at] = known;
            return;
        }
        let at = self.next;
        self.next = (at + 1) % MAX;
        match self.closes.get_mut(at) {
            Some(oldest) => {
                self.index.remove(&oldest.ends, at as u32);
                *oldest = known;
            }
            None => self.closes.push(known),
        }
        self.index.add(at as u32, |at| self.closes[at as usize].ends);
    }

    /// Notes that a socket was destroyed, and its cookie, by which the netlink message about it names the socket.
    pub(crate) fn destroyed(&mut self, ends: &Endpoints, socket: u64, cookie: u64) {
        if let Some(at) = self.find(ends, |close| close.socket == socket) {
            self.closes[at].close.cookie = cookie;
        }
    }

    /// Notes in which namespace a destroyed socket was.
    pub(crate) fn place(&mut self, leftover: &Leftover) {
        let ends = (leftover.local, leftover.remote);
        if let Some(at) = self.find(&ends, |close| close.cookie == leftover.cookie) {
            let close = &mut self.closes[at].close;
            close.namespace = leftover.namespace.or(close.namespace);
        }
    }

    pub(crate) fn cut_after_fin(&mut self, ends: Endpoints, socket: u64) {
        push(&mut self.cut_after_fin, (ends, socket));
    }

    pub(crate) fn mptcp_closed(&mut self, ends: Endpoints, socket: u64) {
        push(&mut self.mptcp, (ends, socket));
    }

    /// Whether an MPTCP socket above the connection was closed just now.
    pub(crate) fn is_mptcp(&self, ends: &Endpoints) -> bool {
        self.mptcp.iter().rev().any(|(closed, _)| closed == ends)
    }

    /// The close of a socket.
    pub(crate) fn of(&self, ends: &Endpoints, socket: u64) -> Option<&Close> {
        self.find(ends, |close| close.socket == socket).map(|at| &self.closes[at].close)
    }

    /// The close of a connection whose socket is gone; `None` as well if several namespaces had one with these addresses.
    pub(crate) fn of_connection(&self, ends: &Endpoints) -> Option<&Close> {
        let latest = &self.all(ends).max_by_key(|known| known.number)?.close;
        let same = |known: &KnownClose| {
            known.close.namespace == latest.namespace
                && (known.close.namespace.is_some() || known.close.process == latest.process)
        };
        self.all(ends).all(same).then_some(latest)
    }

    /// Whether this side had sent its FIN, and whether the peer's had arrived, when the reset ended the connection.
    pub(crate) fn fins(&self, ends: &Endpoints, socket: u64) -> (bool, bool) {
        let close = self.of(ends, socket);
        let after_peer = close.is_some_and(|close| close.after_peer);
        let cut = self.cut_after_fin.iter().rev().any(|cut| *cut == (*ends, socket));
        (close.is_some(), after_peer || cut)
    }
}

fn push(latest: &mut VecDeque<(Endpoints, u64)>, socket: (Endpoints, u64)) {
    if latest.len() >= JUST_NOW {
        latest.pop_front();
    }
    latest.push_back(socket);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(socket: u64, pid: u32) -> Close {
        let process = Some(NamedProcess { pid, name: "x".into() });
        Close { time_ns: 1, process, socket, cookie: 0, namespace: None, after_peer: false }
    }

    #[test]
    fn connections_with_equal_addresses_do_not_exchange_processes() {
        let ends = ("127.0.0.1:80".parse().unwrap(), "127.0.0.1:4000".parse().unwrap());
        let mut closers = Closers::default();
        closers.closed(ends, close(1, 10));
        let pid =
            |close: Option<&Close>| close.and_then(|close| close.process.as_ref()).map(|process| process.pid);
        assert_eq!(pid(closers.of_connection(&ends)), Some(10));
        closers.closed(ends, close(2, 20));
        assert_eq!((pid(closers.of(&ends, 1)), pid(closers.of(&ends, 2))), (Some(10), Some(20)));
        assert_eq!(pid(closers.of(&ends, 3)), None);
        assert_eq!(closers.of_connection(&ends), None, "whose it was cannot be told");
        // Two connections in a row of one namespace.
        for (known, cookie) in closers.closes.iter_mut().zip(1..) {
            (known.close.cookie, known.close.namespace) = (cookie, Some(NamespaceId::from_inode(7)));
        }
        assert_eq!(pid(closers.of_connection(&ends)), Some(20), "the latest");
        assert_eq!((closers.fins(&ends, 1), closers.fins(&ends, 3)), ((true, false), (false, false)));
    }

    /// The oldest make room, of all and of those with the same addresses; a socket has one close, its latest.
    #[test]
    fn the_oldest_closes_are_forgotten() {
        let ends = |port: u64| (([10, 0, 0, 1], 80).into(), ([10, 0, 0, 2], port as u16).into());
        let mut closers = Closers::default();
        for number in 0..MAX as u64 + 2 {
            closers.closed(ends(number), close(number, 10));
        }
        let kept = |closers: &Closers, number: u64| closers.of(&ends(number), number).is_some();
        let kept_ends = [0, 1, 2, MAX as u64 - 1, MAX as u64 + 1].map(|number| kept(&closers, number));
        assert_eq!(kept_ends, [false, false, true, true, true]);
        assert_eq!((closers.closes.len(), closers.index.len()), (MAX, MAX));
        // Of more sockets with the same addresses than are remembered; the one that closed again is not the oldest.
        for number in (0..=8).chain([1, 9]) {
            closers.closed(ends(9), close(1_000_000 + number, 20));
        }
        let known = (0..=9).filter(|number| closers.of(&ends(9), 1_000_000 + number).is_some());
        assert_eq!(known.collect::<Vec<_>>(), [1, 3, 4, 5, 6, 7, 8, 9]);
    }
}
