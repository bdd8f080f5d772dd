//! Remembers which process closed each connection, to name it when a reset follows.

use std::collections::{HashMap, VecDeque};

use crate::events::Endpoints;
use crate::process::NamedProcess;

/// Number of connections remembered; the oldest are dropped first.
const MAX: usize = 65_536;
/// A bound on the events between a state change and its reset: both happen within one system call or one packet.
const JUST_NOW: usize = 256;

/// A `close()`, or a `shutdown()` of the sending side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Close {
    /// Nanoseconds since 1970.
    pub(crate) time_ns: u64,
    pub(crate) process: Option<NamedProcess>,
    /// Whether the peer's FIN had arrived first (the socket was in CLOSE_WAIT).
    pub(crate) after_peer: bool,
}

/// The latest closes of this host.
#[derive(Debug, Default)]
pub(crate) struct Closers {
    closes: HashMap<Endpoints, Close>,
    order: VecDeque<Endpoints>,
    /// Connections that went from CLOSE_WAIT to CLOSE. Only a reset causes that transition.
    cut_after_fin: VecDeque<Endpoints>,
    /// Connections whose MPTCP socket was closed. If bytes were unread, that comes before the resets
    /// (`mptcp_do_fastclose`).
    mptcp: VecDeque<Endpoints>,
}

impl Closers {
    pub(crate) fn closed(&mut self, ends: Endpoints, close: Close) {
        if self.closes.insert(ends, close).is_none() {
            self.order.push_back(ends);
        }
        while self.order.len() > MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.closes.remove(&oldest);
            }
        }
    }

    pub(crate) fn cut_after_fin(&mut self, ends: Endpoints) {
        push(&mut self.cut_after_fin, ends);
    }

    pub(crate) fn mptcp_closed(&mut self, ends: Endpoints) {
        push(&mut self.mptcp, ends);
    }

    /// Whether an MPTCP socket above the connection was closed just now.
    pub(crate) fn is_mptcp(&self, ends: &Endpoints) -> bool {
        self.mptcp.iter().rev().any(|closed| closed == ends)
    }

    pub(crate) fn of(&self, ends: &Endpoints) -> Option<&Close> {
        self.closes.get(ends)
    }

    /// Whether this side had sent its FIN, and whether the peer's had arrived, when the reset ended the connection.
    pub(crate) fn fins(&self, ends: &Endpoints) -> (bool, bool) {
        let close = self.closes.get(ends);
        let after_peer = close.is_some_and(|close| close.after_peer);
        (close.is_some(), after_peer || self.cut_after_fin.iter().rev().any(|cut| cut == ends))
    }
}

fn push(latest: &mut VecDeque<Endpoints>, ends: Endpoints) {
    if latest.len() >= JUST_NOW {
        latest.pop_front();
    }
    latest.push_back(ends);
}
