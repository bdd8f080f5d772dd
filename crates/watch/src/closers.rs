//! Remembers which process closed each connection, to name it when a reset follows.

use std::collections::{HashMap, VecDeque};

use crate::events::Endpoints;
use crate::kernel::leftovers::Leftover;
use crate::namespace_id::NamespaceId;
use crate::process::NamedProcess;

/// Number of connections remembered; the oldest are dropped first.
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

/// The latest closes of this host.
///
/// Connections in different network namespaces may have the same addresses: each socket has a close of its own.
#[derive(Debug, Default)]
pub(crate) struct Closers {
    closes: HashMap<Endpoints, Vec<Close>>,
    order: VecDeque<Endpoints>,
    /// Connections that went from CLOSE_WAIT to CLOSE. Only a reset causes that transition.
    cut_after_fin: VecDeque<(Endpoints, u64)>,
    /// Connections whose MPTCP socket was closed. If bytes were unread, that comes before the resets
    /// (`mptcp_do_fastclose`).
    mptcp: VecDeque<(Endpoints, u64)>,
}

impl Closers {
    pub(crate) fn closed(&mut self, ends: Endpoints, close: Close) {
        let closes = self.closes.entry(ends).or_default();
        if closes.is_empty() {
            self.order.push_back(ends);
        }
        closes.retain(|earlier| earlier.socket != close.socket);
        if closes.len() >= TWINS {
            closes.remove(0);
        }
        // Most connections have one.
        closes.reserve_exact(1);
        closes.push(close);
        while self.order.len() > MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.closes.remove(&oldest);
            }
        }
    }

    /// Notes that a socket was destroyed, and its cookie, by which the netlink message about it names the socket.
    pub(crate) fn destroyed(&mut self, ends: &Endpoints, socket: u64, cookie: u64) {
        if let Some(closes) = self.closes.get_mut(ends) {
            closes.iter_mut().filter(|close| close.socket == socket).for_each(|close| close.cookie = cookie);
        }
    }

    /// Notes in which namespace a destroyed socket was.
    pub(crate) fn place(&mut self, leftover: &Leftover) {
        let ends = (leftover.local, leftover.remote);
        if let Some(closes) = self.closes.get_mut(&ends) {
            let of_cookie = closes.iter_mut().filter(|close| close.cookie == leftover.cookie);
            of_cookie.for_each(|close| close.namespace = leftover.namespace.or(close.namespace));
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
        self.closes.get(ends)?.iter().find(|close| close.socket == socket)
    }

    /// The close of a connection whose socket is gone; `None` as well if several namespaces had one with these addresses.
    pub(crate) fn of_connection(&self, ends: &Endpoints) -> Option<&Close> {
        let closes = self.closes.get(ends)?;
        let latest = closes.last()?;
        let same = |close: &Close| {
            close.namespace == latest.namespace
                && (close.namespace.is_some() || close.process == latest.process)
        };
        closes.iter().all(same).then_some(latest)
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
        for (close, cookie) in closers.closes.get_mut(&ends).unwrap().iter_mut().zip(1..) {
            (close.cookie, close.namespace) = (cookie, Some(NamespaceId::from_inode(7)));
        }
        assert_eq!(pid(closers.of_connection(&ends)), Some(20), "the latest");
        assert_eq!((closers.fins(&ends, 1), closers.fins(&ends, 3)), ((true, false), (false, false)));
    }
}
