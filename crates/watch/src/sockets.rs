//! The kernel's socket lists: accept queues, and connections with unread bytes.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use linger_untrusted::Untrusted;

use crate::cgroup::KnownPlace;
use crate::interval::LookInterval;
use crate::kernel::sock_diag::TcpSocket;
use crate::live_reset::AcceptQueue;
use crate::namespace_id::NamespaceId;
use crate::namespaces::Survey;
use crate::notice::Warning;
use crate::process::{NamedProcess, Processes};

/// Shortest and longest interval of the list of listeners, which is short.
const LISTENERS_EVERY: Duration = Duration::from_secs(3);
const LISTENERS_AT_LEAST: Duration = Duration::from_secs(30);
/// Those of the list of CLOSE_WAIT connections: the kernel walks its whole connection table for it.
const CONNECTIONS_EVERY: Duration = Duration::from_secs(3);
const CONNECTIONS_AT_LEAST: Duration = Duration::from_secs(300);
/// Those of a walk over all processes for the holders of new sockets.
const SEARCH_EVERY: Duration = Duration::from_secs(15);
const SEARCH_AT_LEAST: Duration = Duration::from_secs(120);
/// The expensive polls may use one four-thousandth of a core: their interval grows with their measured duration, up to its bound.
const SHARE: u32 = 4_000;
/// The list of listeners, of all namespaces, may use a little more: it is what shows an overflow.
const LISTENERS_SHARE: u32 = 1_500;
/// A warning is repeated only after this time.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Most sockets whose holder or last warning is remembered.
const MAX: usize = 65_536;

/// A listener's accept queue and holder.
pub(crate) type WatchedListener = (AcceptQueue, Option<NamedProcess>);
/// What a warning is about: a namespace, and the two addresses, which are equal for a listener.
type Subject = (NamespaceId, SocketAddr, SocketAddr);

/// The socket lists of all network namespaces as of the last poll.
#[derive(Debug)]
pub(crate) struct Sockets {
    listeners: HashMap<(NamespaceId, SocketAddr), WatchedListener>,
    /// The namespaces with a listener on a port.
    ports: HashMap<u16, BTreeSet<NamespaceId>>,
    /// The holder of each socket, by inode; `None` if none was found.
    owners: HashMap<u32, Option<u32>>,
    /// The names of those holders. A holder may become another program.
    holders: HashMap<u32, Untrusted>,
    warned: HashMap<Subject, Instant>,
    listening: LookInterval,
    connections: LookInterval,
    search: LookInterval,
}

impl Default for Sockets {
    fn default() -> Self {
        Self {
            listeners: HashMap::new(),
            ports: HashMap::new(),
            owners: HashMap::new(),
            holders: HashMap::new(),
            warned: HashMap::new(),
            listening: LookInterval::new(LISTENERS_EVERY, LISTENERS_AT_LEAST, LISTENERS_SHARE),
            connections: LookInterval::new(CONNECTIONS_EVERY, CONNECTIONS_AT_LEAST, SHARE),
            search: LookInterval::new(SEARCH_EVERY, SEARCH_AT_LEAST, SHARE),
        }
    }
}

impl Sockets {
    /// Whether a poll is due.
    pub(crate) fn is_due(&self) -> bool {
        self.listening.is_due(Instant::now())
    }

    /// Whether the list of connections is due, too.
    pub(crate) fn wants_connections(&self) -> bool {
        self.connections.is_due(Instant::now())
    }

    pub(crate) fn listeners(
        &self,
    ) -> impl Iterator<Item = (NamespaceId, SocketAddr, AcceptQueue, Option<&NamedProcess>)> {
        self.listeners
            .iter()
            .map(|(&(namespace, local), (queue, process))| (namespace, local, *queue, process.as_ref()))
    }

    /// The listener that accepted a connection at `local` in a namespace.
    pub(crate) fn listener(&self, namespace: NamespaceId, local: SocketAddr) -> Option<&WatchedListener> {
        let any_v4 = SocketAddr::from(([0, 0, 0, 0], local.port()));
        let any_v6 = SocketAddr::from(([0u16; 8], local.port()));
        [local, any_v4, any_v6].iter().find_map(|address| self.listeners.get(&(namespace, *address)))
    }

    /// The namespaces with a listener for `local`.
    pub(crate) fn listening_at(&self, local: SocketAddr) -> Vec<NamespaceId> {
        let of_port = self.ports.get(&local.port()).into_iter().flatten();
        of_port.filter(|namespace| self.listener(**namespace, local).is_some()).copied().collect()
    }

    /// The listener of a namespace with the fullest queue, if one is near its limit: the likeliest to have overflowed.
    pub(crate) fn fullest(&self, namespace: NamespaceId) -> Option<(SocketAddr, &WatchedListener)> {
        let of_namespace = self.listeners.iter().filter(|((listening, _), _)| *listening == namespace);
        let near = of_namespace.filter(|(_, (queue, _))| queue.is_near_its_limit());
        near.max_by_key(|(_, (queue, _))| u64::from(queue.waiting) * 1_000 / (u64::from(queue.limit) + 1))
            .map(|((_, local), listener)| (*local, listener))
    }

    /// Takes over a poll of all namespaces that began at `started`, and returns the warnings.
    pub(crate) fn take(
        &mut self,
        surveys: &HashMap<NamespaceId, Survey>,
        with_connections: bool,
        started: Instant,
        processes: &mut Processes,
    ) -> Vec<Warning> {
        self.listening.done(started);
        if with_connections {
            self.connections.done(started);
        }
        let all =
            surveys.values().flat_map(|survey| survey.listeners.iter().flatten().chain(&survey.half_closed));
        self.find_owners(all, processes);
        let now = Instant::now();
        self.warned.retain(|_, warned| now - *warned < WARN_EVERY);
        let mut warnings = Vec::new();
        self.listeners.clear();
        self.ports.clear();
        for (&namespace, survey) in surveys {
            for socket in survey.listeners.iter().flatten() {
                let queue = AcceptQueue { waiting: socket.receive_queue, limit: socket.send_queue };
                let (local, process) = (socket.local, self.owner(socket.inode));
                if queue.is_near_its_limit() && self.note_warning((namespace, local, local), now) {
                    let process = process.clone();
                    warnings.push(Warning::ListenerNearLimit {
                        place: KnownPlace::new(namespace),
                        local,
                        queue,
                        process,
                    });
                }
                self.ports.entry(local.port()).or_default().insert(namespace);
                self.listeners.insert((namespace, local), (queue, process));
            }
            for socket in &survey.half_closed {
                let (local, remote) = (socket.local, socket.remote);
                if self.note_warning((namespace, local, remote), now) {
                    let (unread, process) = (socket.receive_queue - 1, self.owner(socket.inode));
                    warnings.push(Warning::UnreadAfterPeerClosed {
                        place: KnownPlace::new(namespace),
                        local,
                        remote,
                        unread,
                        process,
                    });
                }
            }
        }
        warnings
    }

    fn owner(&self, inode: u32) -> Option<NamedProcess> {
        let pid = self.owners.get(&inode).copied().flatten()?;
        Some(NamedProcess { pid, name: self.holders.get(&pid)?.clone() })
    }

    /// A process has a new name, usually after `execve`.
    pub(crate) fn renamed(&mut self, pid: u32, name: &[u8]) {
        if let Some(known) = self.holders.get_mut(&pid) {
            *known = name.into();
            for (_, process) in self.listeners.values_mut() {
                if let Some(process) = process.as_mut().filter(|process| process.pid == pid) {
                    process.name = name.into();
                }
            }
        }
    }

    /// Forgets the holders that have ended: others may have their sockets by now.
    fn forget_ended(&mut self) {
        let before = self.holders.len();
        self.holders.retain(|pid, _| Path::new(&format!("/proc/{pid}")).exists());
        if self.holders.len() < before {
            let holders = &self.holders;
            self.owners.retain(|_, pid| pid.is_none_or(|pid| holders.contains_key(&pid)));
        }
    }

    /// Remembers a warning. Returns false if the same one is still remembered. With [`MAX`] of them all are forgotten: it is
    /// better to warn twice than not at all.
    fn note_warning(&mut self, subject: Subject, now: Instant) -> bool {
        if self.warned.len() >= MAX {
            self.warned.clear();
        }
        self.warned.insert(subject, now).is_none()
    }

    fn find_owners<'a>(&mut self, sockets: impl Iterator<Item = &'a TcpSocket>, processes: &mut Processes) {
        self.forget_ended();
        let unknown: Vec<u32> = sockets
            .map(|socket| socket.inode)
            .filter(|inode| *inode != 0 && !self.owners.contains_key(inode))
            .take(MAX)
            .collect();
        let started = Instant::now();
        if unknown.is_empty() || !self.search.is_due(started) {
            return;
        }
        if self.owners.len() > MAX {
            self.owners.clear();
            self.holders.clear();
        }
        let mut found = processes.owners(&unknown);
        // No holder was found: it may be in another pid namespace. Remember that, so that it is not searched for
        // again.
        for inode in unknown {
            let holder = found.remove(&inode);
            self.owners.insert(inode, holder.as_ref().map(|holder| holder.pid));
            self.holders.extend(holder.map(|holder| (holder.pid, holder.name)));
        }
        self.search.done(started);
    }
}
