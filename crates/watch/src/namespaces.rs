//! The network namespaces of this host: which there are, and what a look into each of them shows.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use linger_netns::Counters;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::interval::LookInterval;
use crate::kernel::leftovers::Leftovers;
use crate::kernel::sock_diag::{self, States, TcpSocket};
use crate::namespace_id::NamespaceId;

/// Most namespaces that are looked into. Each takes two file descriptors.
const MAX: usize = 1_024;
/// Shortest interval of the search, and the share of a core that it may use: one part in so many.
const SEARCH_EVERY: Duration = Duration::from_secs(3);
const SHARE: u32 = 4_000;
/// Where namespaces without a process of their own have names: those of `ip netns`, and of Docker.
const NAMED: [&str; 3] = ["/run/netns", "/var/run/netns", "/run/docker/netns"];

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
    /// `None` for the namespace that this process is in.
    file: Option<File>,
    name: Option<String>,
    /// A process in it.
    pid: Option<u32>,
}

/// The namespaces of this host.
#[derive(Debug)]
pub(crate) struct Namespaces {
    own: NamespaceId,
    known: HashMap<NamespaceId, KnownNamespace>,
    refused: bool,
    search: LookInterval,
}

impl Namespaces {
    pub(crate) fn new() -> Self {
        // Without /proc there is one namespace without a number.
        let own = NamespaceId::own().unwrap_or(NamespaceId::UNKNOWN);
        let here = KnownNamespace { file: None, name: None, pid: None };
        Self {
            own,
            known: HashMap::from([(own, here)]),
            refused: false,
            search: LookInterval::new(SEARCH_EVERY, SHARE),
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

    pub(crate) fn is_there(&self, id: NamespaceId) -> bool {
        self.known.contains_key(&id)
    }

    pub(crate) fn name(&self, id: NamespaceId) -> Option<&str> {
        self.known.get(&id)?.name.as_deref()
    }

    /// A process that is in the namespace.
    pub(crate) fn process(&self, id: NamespaceId) -> Option<u32> {
        self.known.get(&id)?.pid
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
        let mut found: HashMap<NamespaceId, (PathBuf, Option<String>, Option<u32>)> = HashMap::new();
        for folder in NAMED {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if let Ok(id) = NamespaceId::of(&entry.path()) {
                    found.entry(id).or_insert((entry.path(), Some(name), None));
                }
            }
        }
        let (mut shown, mut hidden) = (0u32, 0u32);
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let path = entry.path().join("ns/net");
            match NamespaceId::of(&path) {
                Ok(id) => {
                    shown += 1;
                    found.entry(id).or_insert((path, None, None)).2.get_or_insert(pid);
                }
                Err(error) => hidden += u32::from(error.kind() == io::ErrorKind::PermissionDenied),
            }
        }
        // A few processes may be hidden even from root. Only if most of them are, entering counts as refused.
        self.refused |= hidden > shown;
        self.known.retain(|id, _| *id == self.own || found.contains_key(id));
        let mut sources = Vec::new();
        for (id, (path, name, pid)) in found {
            if let Some(known) = self.known.get_mut(&id) {
                (known.name, known.pid) = (name, pid);
                continue;
            }
            if self.known.len() >= MAX {
                break;
            }
            // A process may have ended meanwhile, and its namespace with it.
            let entered = File::open(path).and_then(|file| {
                let leftovers = within(Some(&file), || Leftovers::open(Some(id)))?;
                Ok((file, leftovers))
            });
            match entered {
                Ok((file, leftovers)) => {
                    sources.extend(leftovers);
                    self.known.insert(id, KnownNamespace { file: Some(file), name, pid });
                }
                Err(error) => self.note_refusal(&error),
            }
        }
        sources
    }

    fn note_refusal(&mut self, error: &io::Error) {
        self.refused |= error.kind() == io::ErrorKind::PermissionDenied;
    }

    /// Looks into all namespaces. `half_closed`: also for connections whose peer has closed and
    /// that have unread bytes.
    pub(crate) fn survey(&self, half_closed: bool) -> HashMap<NamespaceId, Survey> {
        let look = |(id, known): (&NamespaceId, &KnownNamespace)| {
            let survey = within(known.file.as_ref(), || survey(half_closed)).ok()?;
            Some((*id, survey))
        };
        self.known.iter().filter_map(look).collect()
    }
}

/// Runs a closure in a network namespace, on a thread of its own; `None`: in that of this process.
fn within<R: Send>(namespace: Option<&File>, task: impl FnOnce() -> R + Send) -> io::Result<R> {
    let Some(file) = namespace else { return Ok(task()) };
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new().spawn_scoped(scope, move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(task())
        })?;
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Looks into the calling thread's namespace.
fn survey(half_closed: bool) -> Survey {
    let mut half = Vec::new();
    if half_closed {
        half = sock_diag::tcp_sockets(States::CLOSE_WAIT).unwrap_or_default();
        // The kernel counts the peer's FIN as one unread byte.
        half.retain(|socket| socket.receive_queue > 1);
    }
    let resets = fs::read("/proc/sys/net/ipv4/tcp_abort_on_overflow");
    let trie = fs::read_to_string("/proc/thread-self/net/fib_trie").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    Survey {
        listeners: sock_diag::tcp_sockets(States::LISTEN).ok(),
        half_closed: half,
        counters: Counters::read().ok(),
        resets_overflows: resets.is_ok_and(|value| value.first() == Some(&b'1')),
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
        let namespaces = Namespaces::new();
        let own = namespaces.own();
        assert_eq!(NamespaceId::own(), Some(own));
        let survey = namespaces.survey(true).remove(&own).unwrap();
        assert!(survey.addresses.contains(&Ipv4Addr::LOCALHOST.into()), "{survey:?}");
        assert!(survey.listeners.is_some() && survey.counters.is_some());
    }
}
