//! The network namespaces of this host: which there are, and what a look into each of them shows.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use linger_netns::Counters;
use linger_untrusted::Untrusted;

use crate::access::Access;
use crate::cgroup::{KnownPlace, Workload};
use crate::interval::LookInterval;
use crate::kernel::leftovers::Leftovers;
use crate::kernel::sock_diag::{States, TcpSocket};
use crate::namespace_id::NamespaceId;
use crate::privileged::{FoundNamespace, FoundNamespaces, NamespaceFiles};

/// Shortest and longest interval of the search, and the share of a core that it may use up to there: one part in so many. Until a
/// namespace that is gone is missed, what is open in it keeps it.
const SEARCH_EVERY: Duration = Duration::from_secs(3);
const SEARCH_AT_LEAST: Duration = Duration::from_secs(30);
const SHARE: u32 = 4_000;
/// What a look into a namespace shows.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// `None` where `sock_diag` is refused.
    pub(crate) listeners: Option<Vec<TcpSocket>>,
    /// Connections whose peer has closed and that have unread bytes, if they were asked for.
    pub(crate) half_closed: Vec<TcpSocket>,
    pub(crate) counters: Option<Counters>,
    /// `tcp_abort_on_overflow`.
    pub(crate) resets_overflows: bool,
    pub(crate) addresses: HashSet<IpAddr>,
}

/// A namespace that is known.
#[derive(Debug)]
struct KnownNamespace {
    /// Not the namespace that this process is in.
    is_other: bool,
    name: Option<String>,
    /// The workload of a process in it.
    workload: Option<Workload>,
}

/// The namespaces of this host.
#[derive(Debug)]
pub(crate) struct Namespaces {
    own: NamespaceId,
    known: HashMap<NamespaceId, KnownNamespace>,
    refused: bool,
    crowded: bool,
    search: LookInterval,
    access: Access,
}

impl Namespaces {
    pub(crate) fn new(access: Access) -> Self {
        // Without /proc there is one namespace without a number.
        let own = NamespaceId::own().unwrap_or(NamespaceId::UNKNOWN);
        let here = KnownNamespace { is_other: false, name: None, workload: None };
        Self {
            own,
            known: HashMap::from([(own, here)]),
            refused: false,
            crowded: false,
            search: LookInterval::new(SEARCH_EVERY, SEARCH_AT_LEAST, SHARE),
            access,
        }
    }

    /// The namespace of this process.
    pub(crate) fn own(&self) -> NamespaceId {
        self.own
    }

    /// Whether another namespace could not be entered.
    pub(crate) fn refused(&self) -> bool {
        self.refused
    }

    /// Whether there are, or were, more than can be looked into.
    pub(crate) fn crowded(&self) -> bool {
        self.crowded
    }

    pub(crate) fn is_there(&self, id: NamespaceId) -> bool {
        self.known.contains_key(&id)
    }

    /// A namespace, its name, and the workload of this process of it; of one that is in it, if that is not known and it is not the
    /// watcher's own.
    pub(crate) fn place(&self, id: NamespaceId, of_process: Option<&Workload>) -> KnownPlace {
        let known = self.known.get(&id);
        let name = known.and_then(|known| known.name.as_deref()).map(Untrusted::from);
        let of_namespace = known.filter(|known| known.is_other).and_then(|known| known.workload.as_ref());
        let workload = of_process.or(of_namespace).cloned();
        KnownPlace { namespace: id, is_own: id == self.own, name, workload }
    }

    /// Looks for new namespaces, forgets those that are gone, and returns sources of the destroyed sockets of the new ones.
    ///
    /// Does nothing before it is due: it looks at all processes.
    pub(crate) fn discover(&mut self) -> Vec<Leftovers> {
        let started = Instant::now();
        if !self.search.is_due(started) {
            return Vec::new();
        }
        let sources = self.search();
        self.search.done(started);
        sources
    }

    fn search(&mut self) -> Vec<Leftovers> {
        let Ok(FoundNamespaces { found, refused, crowded }) = self.access.namespaces() else {
            if self.access.is_lost() {
                // Which of them are gone cannot be seen any more, and a source in one would keep it, with its interfaces, for good.
                self.known.retain(|id, _| *id == self.own);
            }
            return Vec::new();
        };
        self.refused |= refused;
        self.crowded |= crowded;
        let there: HashSet<NamespaceId> =
            found.iter().map(|found| NamespaceId::from_inode(found.inode)).collect();
        self.known.retain(|id, _| *id == self.own || there.contains(id));
        let mut sources = Vec::new();
        for FoundNamespace { inode, name, pid } in found {
            let id = NamespaceId::from_inode(inode);
            // Each time: a container's first process is moved into its cgroup after it has begun.
            let workload = pid.and_then(Workload::of);
            if let Some(known) = self.known.get_mut(&id) {
                (known.name, known.workload) = (name, workload);
                continue;
            }
            // A process may have ended meanwhile, and its namespace with it.
            match self.access.leftovers(id) {
                Ok(leftovers) => {
                    sources.push(leftovers);
                    self.known.insert(id, KnownNamespace { is_other: true, name, workload });
                }
                Err(error) => self.note_refusal(&error),
            }
        }
        sources
    }

    fn note_refusal(&mut self, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => self.refused = true,
            // No descriptor, thread or memory is left for it.
            Some(libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM | libc::ENOBUFS) => {
                self.crowded = true;
            }
            _ => {}
        }
    }

    /// Looks into all namespaces. `half_closed`: also for connections whose peer has closed and
    /// that have unread bytes.
    pub(crate) fn survey(&self, half_closed: bool) -> HashMap<NamespaceId, Survey> {
        let look = |(id, known): (&NamespaceId, &KnownNamespace)| {
            let files = if known.is_other { self.access.survey(*id).ok()? } else { NamespaceFiles::open() };
            Some((*id, survey(files, half_closed)))
        };
        self.known.iter().filter_map(look).collect()
    }
}

/// What the socket lists, counters and tables of a namespace show. `half_closed`: also the connections whose peer has closed and that
/// have unread bytes.
pub(crate) fn survey(files: NamespaceFiles, half_closed: bool) -> Survey {
    let (sockets, [snmp, netstat, abort, trie, v6]) = files.read();
    let counters = snmp.zip(netstat).map(|(snmp, netstat)| Counters::of_texts(&snmp, &netstat));
    let [abort, trie, v6] = [abort, trie, v6].map(Option::unwrap_or_default);
    let listeners = sockets.as_ref().and_then(|sockets| sockets.tcp_sockets(States::LISTEN).ok());
    let mut half = Vec::new();
    if half_closed && listeners.is_some() {
        half = sockets
            .as_ref()
            .and_then(|sockets| sockets.tcp_sockets(States::CLOSE_WAIT).ok())
            .unwrap_or_default();
        // The kernel counts the peer's FIN as one unread byte.
        half.retain(|socket| socket.receive_queue > 1);
    }
    Survey {
        listeners,
        half_closed: half,
        counters,
        resets_overflows: abort.starts_with('1'),
        addresses: v4_addresses(&trie).chain(v6_addresses(&v6)).collect(),
    }
}

/// The host's own addresses in `/proc/net/fib_trie`: a leaf `|-- ADDRESS`, then its routes, of which one is `host LOCAL`.
fn v4_addresses(trie: &str) -> impl Iterator<Item = IpAddr> {
    let mut leaf: Option<Ipv4Addr> = None;
    trie.lines().filter_map(move |line| {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
            return None;
        }
        line.ends_with("host LOCAL").then_some(leaf)?.map(IpAddr::V4)
    })
}

/// The addresses in `/proc/net/if_inet6`: 32 hexadecimal digits, then other columns.
fn v6_addresses(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let digits = line.split_whitespace().next()?;
        u128::from_str_radix(digits, 16).ok().map(|bits| IpAddr::V6(Ipv6Addr::from(bits)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_the_kernels_tables() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.0.0.0\n\
            \x20       /24 link UNICAST\n     |-- 10.0.0.7\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n";
        assert_eq!(v4_addresses(trie).collect::<Vec<_>>(), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        let v6 = "00000000000000000000000000000001 01 80 10 80       lo\nshort\n";
        assert_eq!(v6_addresses(v6).next(), Some("::1".parse().unwrap()));
    }

    #[test]
    fn this_namespace_has_its_addresses_and_is_that_of_this_process() {
        let namespaces = Namespaces::new(Access::default());
        let own = namespaces.own();
        assert_eq!(NamespaceId::own(), Some(own));
        let survey = namespaces.survey(true).remove(&own).unwrap();
        assert!(survey.addresses.contains(&Ipv4Addr::LOCALHOST.into()), "{survey:?}");
        assert!(survey.listeners.is_some() && survey.counters.is_some());
    }
}
