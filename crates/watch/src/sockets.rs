//! What only the socket list knows, asked for at intervals: queues of listeners, bytes that lie unread.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::kernel::sock_diag::{self, States, TcpSocket};

use crate::diagnose::Queue;
use crate::notice::Warning;
use crate::process::{Process, Processes};

/// How often listeners are asked for: a short list.
const LISTENERS_EVERY: Duration = Duration::from_secs(3);
/// How often connections whose peer has closed are, at most: the kernel goes through all of them.
const CONNECTIONS_EVERY: Duration = Duration::from_secs(3);
/// How often all processes are gone through for the owners of new sockets, at most.
const SEARCH_EVERY: Duration = Duration::from_secs(15);
/// What takes long on this host is done more rarely: it may have this share of one core, a four-thousandth.
const SHARE: u32 = 4_000;
/// A warning is given once in that time.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Sockets whose owner, or whose warning, is remembered.
const MAX: usize = 65_536;

/// When something was last done, and when it may be done again.
#[derive(Debug)]
struct Pace {
    every: Duration,
    next: Option<Instant>,
}

impl Pace {
    fn new(every: Duration) -> Self {
        Self { every, next: None }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// To be called after it was done.
    fn done(&mut self, started: Instant) {
        let now = Instant::now();
        self.next = Some(now + self.every.max((now - started) * SHARE));
    }
}

/// The socket list of this network namespace, as last looked at.
#[derive(Debug)]
pub(crate) struct Sockets {
    listeners: HashMap<SocketAddr, (Queue, Option<Process>)>,
    owners: HashMap<u32, Option<Process>>,
    warned: HashMap<(SocketAddr, SocketAddr), Instant>,
    listening: Pace,
    connections: Pace,
    search: Pace,
}

impl Default for Sockets {
    fn default() -> Self {
        Self {
            listeners: HashMap::new(),
            owners: HashMap::new(),
            warned: HashMap::new(),
            listening: Pace::new(LISTENERS_EVERY),
            connections: Pace::new(CONNECTIONS_EVERY),
            search: Pace::new(SEARCH_EVERY),
        }
    }
}

impl Sockets {
    /// Whether it is time to look.
    pub(crate) fn is_due(&self) -> bool {
        self.listening.is_due(Instant::now())
    }

    pub(crate) fn listeners(&self) -> impl Iterator<Item = (SocketAddr, Queue, Option<&Process>)> {
        self.listeners.iter().map(|(&local, (queue, process))| (local, *queue, process.as_ref()))
    }

    /// The listener that a connection at `local` came through.
    pub(crate) fn listener(&self, local: SocketAddr) -> Option<&(Queue, Option<Process>)> {
        let any_v4 = SocketAddr::from(([0, 0, 0, 0], local.port()));
        let any_v6 = SocketAddr::from(([0u16; 8], local.port()));
        [local, any_v4, any_v6].iter().find_map(|address| self.listeners.get(address))
    }

    /// Asks the kernel, and answers what is worth a warning.
    pub(crate) fn look(&mut self, processes: &mut Processes) -> Vec<Warning> {
        let now = Instant::now();
        // Without sock_diag the queues stay unknown; resets are named all the same.
        let listeners = sock_diag::tcp_sockets(States::LISTEN);
        self.listening.done(now);
        let Ok(listeners) = listeners else { return Vec::new() };
        let mut connections = Vec::new();
        if self.connections.is_due(now) {
            let started = Instant::now();
            connections = sock_diag::tcp_sockets(States::CLOSE_WAIT).unwrap_or_default();
            // One byte is the FIN.
            connections.retain(|socket| socket.receive_queue > 1);
            self.connections.done(started);
        }
        self.find_owners(listeners.iter().chain(&connections), processes);
        self.warned.retain(|_, warned| now - *warned < WARN_EVERY);
        let mut warnings = Vec::new();
        self.listeners.clear();
        for socket in listeners {
            let queue = Queue { waiting: socket.receive_queue, limit: socket.send_queue };
            let process = self.owner(socket.inode);
            if queue.is_near_its_limit() && self.is_news((socket.local, socket.local), now) {
                warnings.push(Warning::ListenerNearLimit {
                    local: socket.local,
                    queue,
                    process: process.clone(),
                });
            }
            self.listeners.insert(socket.local, (queue, process));
        }
        for socket in connections {
            if self.is_news((socket.local, socket.remote), now) {
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

    fn owner(&self, inode: u32) -> Option<Process> {
        self.owners.get(&inode).cloned().flatten()
    }

    fn is_news(&mut self, ends: (SocketAddr, SocketAddr), now: Instant) -> bool {
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
        // Nobody found: somebody of another namespace, not to be searched for again and again.
        self.owners.extend(unknown.into_iter().map(|inode| (inode, found.remove(&inode))));
        self.search.done(started);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_done_rarely() {
        let mut pace = Pace::new(Duration::from_secs(3));
        let now = Instant::now();
        assert!(pace.is_due(now));
        pace.done(now);
        assert!(!pace.is_due(now + Duration::from_secs(2)));
        let Some(earlier) = now.checked_sub(Duration::from_millis(10)) else { return };
        pace.done(earlier);
        assert!(!pace.is_due(now + Duration::from_secs(39)), "10 ms are a four-thousandth of 40 s");
    }
}
