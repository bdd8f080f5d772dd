//! Polls the kernel's socket list for accept queues and for connections with unread bytes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::kernel::sock_diag::{self, States, TcpSocket};

use crate::diagnose::AcceptQueue;
use crate::notice::Warning;
use crate::process::{NamedProcess, Processes};

/// Interval of the list of listeners, which is short.
const LISTENERS_EVERY: Duration = Duration::from_secs(3);
/// Shortest interval of the list of CLOSE_WAIT connections: the kernel walks its whole connection table for it.
const CONNECTIONS_EVERY: Duration = Duration::from_secs(3);
/// Shortest interval of a walk over all processes for the holders of new sockets.
const SEARCH_EVERY: Duration = Duration::from_secs(15);
/// The expensive polls may use one four-thousandth of a core: their interval grows with their measured duration.
const SHARE: u32 = 4_000;
/// A warning is repeated only after this time.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Most sockets whose holder or last warning is remembered.
const MAX: usize = 65_536;

/// Schedules a poll whose interval grows with its duration.
#[derive(Debug)]
struct LookInterval {
    every: Duration,
    next: Option<Instant>,
}

impl LookInterval {
    fn new(every: Duration) -> Self {
        Self { every, next: None }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// Notes that the poll is done. Call it right afterwards.
    fn done(&mut self, started: Instant) {
        let now = Instant::now();
        self.next = Some(now + self.every.max((now - started) * SHARE));
    }
}

/// The socket list of this network namespace as of the last poll.
#[derive(Debug)]
pub(crate) struct Sockets {
    listeners: HashMap<SocketAddr, (AcceptQueue, Option<NamedProcess>)>,
    owners: HashMap<u32, Option<NamedProcess>>,
    warned: HashMap<(SocketAddr, SocketAddr), Instant>,
    listening: LookInterval,
    connections: LookInterval,
    search: LookInterval,
}

impl Default for Sockets {
    fn default() -> Self {
        Self {
            listeners: HashMap::new(),
            owners: HashMap::new(),
            warned: HashMap::new(),
            listening: LookInterval::new(LISTENERS_EVERY),
            connections: LookInterval::new(CONNECTIONS_EVERY),
            search: LookInterval::new(SEARCH_EVERY),
        }
    }
}

impl Sockets {
    /// Whether a poll is due.
    pub(crate) fn is_due(&self) -> bool {
        self.listening.is_due(Instant::now())
    }

    pub(crate) fn listeners(&self) -> impl Iterator<Item = (SocketAddr, AcceptQueue, Option<&NamedProcess>)> {
        self.listeners.iter().map(|(&local, (queue, process))| (local, *queue, process.as_ref()))
    }

    /// The accept queue and holder of the listener that accepted a connection at `local`.
    pub(crate) fn listener(&self, local: SocketAddr) -> Option<&(AcceptQueue, Option<NamedProcess>)> {
        let any_v4 = SocketAddr::from(([0, 0, 0, 0], local.port()));
        let any_v6 = SocketAddr::from(([0u16; 8], local.port()));
        [local, any_v4, any_v6].iter().find_map(|address| self.listeners.get(address))
    }

    /// Polls the kernel, and returns the warnings.
    pub(crate) fn look(&mut self, processes: &mut Processes) -> Vec<Warning> {
        let now = Instant::now();
        // Without sock_diag the queues stay unknown; resets are still diagnosed.
        let listeners = sock_diag::tcp_sockets(States::LISTEN);
        self.listening.done(now);
        let Ok(listeners) = listeners else { return Vec::new() };
        let mut connections = Vec::new();
        if self.connections.is_due(now) {
            let started = Instant::now();
            connections = sock_diag::tcp_sockets(States::CLOSE_WAIT).unwrap_or_default();
            // The kernel counts the peer's FIN as one unread byte.
            connections.retain(|socket| socket.receive_queue > 1);
            self.connections.done(started);
        }
        self.find_owners(listeners.iter().chain(&connections), processes);
        self.warned.retain(|_, warned| now - *warned < WARN_EVERY);
        let mut warnings = Vec::new();
        self.listeners.clear();
        for socket in listeners {
            let queue = AcceptQueue { waiting: socket.receive_queue, limit: socket.send_queue };
            let process = self.owner(socket.inode);
            if queue.is_near_its_limit() && self.note_warning((socket.local, socket.local), now) {
                warnings.push(Warning::ListenerNearLimit {
                    local: socket.local,
                    queue,
                    process: process.clone(),
                });
            }
            self.listeners.insert(socket.local, (queue, process));
        }
        for socket in connections {
            if self.note_warning((socket.local, socket.remote), now) {
                warnings.push(Warning::UnreadAfterPeerClosed {
                    local: socket.local,
                    remote: socket.remote,
                    unread: socket.receive_queue - 1,
                    process: self.owner(socket.inode),
                });
            }
        }
        warnings
    }

    fn owner(&self, inode: u32) -> Option<NamedProcess> {
        self.owners.get(&inode).cloned().flatten()
    }

    /// Remembers a warning. True unless the same one is still remembered.
    fn note_warning(&mut self, ends: (SocketAddr, SocketAddr), now: Instant) -> bool {
        self.warned.len() < MAX && self.warned.insert(ends, now).is_none()
    }

    fn find_owners<'a>(&mut self, sockets: impl Iterator<Item = &'a TcpSocket>, processes: &mut Processes) {
        let unknown: Vec<u32> = sockets
            .map(|socket| socket.inode)
            .filter(|inode| *inode != 0 && !self.owners.contains_key(inode))
            .collect();
        let started = Instant::now();
        if unknown.is_empty() || !self.search.is_due(started) {
            return;
        }
        if self.owners.len() > MAX {
            self.owners.clear();
        }
        let mut found = processes.owners(&unknown);
        // No holder was found: it may be in another pid namespace. Remember that, so that it is not searched for
        // again.
        self.owners.extend(unknown.into_iter().map(|inode| (inode, found.remove(&inode))));
        self.search.done(started);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_done_rarely() {
        let mut pace = LookInterval::new(Duration::from_secs(3));
        let now = Instant::now();
        assert!(pace.is_due(now));
        pace.done(now);
        assert!(!pace.is_due(now + Duration::from_secs(2)));
        let Some(earlier) = now.checked_sub(Duration::from_millis(10)) else { return };
        pace.done(earlier);
        assert!(!pace.is_due(now + Duration::from_secs(39)), "10 ms are a four-thousandth of 40 s");
    }
}
