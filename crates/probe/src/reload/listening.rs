//! Which sockets listen at an address, and which processes hold them, by `/proc`. That of processes of other users is shown to root alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::SockAddr;

use super::counted::ReloadShown;

/// How far up the parents of a process are followed.
const MOST_PARENTS: usize = 64;

/// A process: its pid, and when it was started, so that a pid used again is another one.
type SocketHolder = (u32, u64);

/// What listens at an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listening {
    /// Inodes.
    sockets: BTreeSet<u64>,
    /// Who has a descriptor of one of them, with the parent of each.
    holders: BTreeMap<SocketHolder, u32>,
}

impl Listening {
    /// Looks in this network namespace, or in that of a process. What cannot be read is missing.
    pub(super) fn look(address: &SockAddr, namespace_of: Option<u32>) -> Self {
        let folder = match namespace_of {
            Some(pid) => format!("/proc/{pid}/net"),
            None => "/proc/thread-self/net".to_owned(),
        };
        let read = |file: &str| fs::read_to_string(format!("{folder}/{file}")).unwrap_or_default();
        let sockets: BTreeSet<u64> = match (address.as_socket(), address.as_pathname()) {
            (Some(address), _) => {
                let ip = address.ip().to_canonical();
                let is_local = ip.is_loopback() || is_local(ip, &read("fib_trie"), &read("if_inet6"));
                let tables = read("tcp") + &read("tcp6");
                tables.lines().filter_map(|line| tcp_inode(line, address, is_local)).collect()
            }
            (None, Some(path)) => {
                let path = path.to_string_lossy();
                read("unix").lines().filter_map(|line| unix_inode(line, &path)).collect()
            }
            (None, None) => BTreeSet::new(),
        };
        let holders = if sockets.is_empty() { BTreeMap::new() } else { holders(&sockets) };
        Self { sockets, holders }
    }

    /// What is seen in either of two network namespaces.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.sockets.extend(other.sockets);
        self.holders.extend(other.holders);
        self
    }

    /// Whether a process holds what listens, or has started one that does. `None`: it cannot be known.
    pub(super) fn is_of(&self, pid: u32) -> Option<bool> {
        if self.holders.is_empty() {
            return None;
        }
        Some(self.holders.iter().any(|(holder, parent)| {
            let mut at = *parent;
            holder.0 == pid
                || (0..MOST_PARENTS).any(|_| {
                    let is_it = at == pid;
                    at = process(at).map_or(0, |(_, parent)| parent);
                    is_it
                })
        }))
    }

    /// What of the later state shows that the server has reloaded in between.
    ///
    /// A server forks further workers under load, and ends some, without a reload. So one of the processes must be gone, another new,
    /// and each that has stayed must have started a new one.
    pub(super) fn shows(&self, later: &Self) -> Option<ReloadShown> {
        if self.sockets.is_empty() || later.sockets.is_empty() {
            return None;
        }
        if later.sockets.is_disjoint(&self.sockets) {
            return Some(ReloadShown::Socket);
        }
        let new: Vec<u32> = later
            .holders
            .iter()
            .filter(|(holder, _)| !self.holders.contains_key(*holder))
            .map(|(_, parent)| *parent)
            .collect();
        let is_gone = self.holders.keys().any(|holder| !later.holders.contains_key(holder));
        let mut stayed = self.holders.keys().filter(|holder| later.holders.contains_key(*holder));
        (is_gone && !new.is_empty() && stayed.all(|(pid, _)| new.contains(pid)))
            .then_some(ReloadShown::Processes)
    }
}

/// Whether an address is one of a network namespace, by its `fib_trie` and `if_inet6`.
fn is_local(ip: IpAddr, fib_trie: &str, if_inet6: &str) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            // A line with the address, and behind it lines with what it is; in more than one table.
            let (leaf, mut is_its) = (format!("|-- {ip}"), false);
            fib_trie.lines().map(str::trim).any(|line| {
                if !line.starts_with('/') {
                    is_its = line == leaf;
                }
                is_its && line.ends_with("host LOCAL")
            })
        }
        IpAddr::V6(ip) => {
            let digits: String = ip.octets().iter().map(|byte| format!("{byte:02x}")).collect();
            if_inet6.lines().any(|line| line.starts_with(&digits))
        }
    }
}

/// The inode of a line of `/proc/net/tcp` or `tcp6`, if it is a socket that listens there. `is_local`: the address is one of that
/// network namespace, so that whoever listens at all of them listens there.
fn tcp_inode(line: &str, address: SocketAddr, is_local: bool) -> Option<u64> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, local, _, LISTEN, _, _, _, _, _, inode, ..] = fields[..] else { return None };
    let (ip, port) = local.split_once(':')?;
    let ip = ip_of(ip)?.to_canonical();
    let is_there = ip.is_unspecified() && is_local || ip == address.ip().to_canonical();
    (is_there && u16::from_str_radix(port, 16).ok()? == address.port()).then(|| inode.parse().ok())?
}

/// The kernel prints an address as words of 32 bits in the order of its own bytes.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    if hex.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into())
}

/// The inode of a line of `/proc/net/unix`, if it is a socket that listens at this path.
fn unix_inode(line: &str, path: &str) -> Option<u64> {
    /// `__SO_ACCEPTCON`.
    const LISTENS: &str = "00010000";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, _, _, LISTENS, _, _, inode, ..] = fields[..] else { return None };
    line.ends_with(&format!(" {path}")).then(|| inode.parse().ok())?
}

fn holders(sockets: &BTreeSet<u64>) -> BTreeMap<SocketHolder, u32> {
    let names: BTreeSet<String> = sockets.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let is_one = |link: &fs::DirEntry| {
        fs::read_link(link.path()).is_ok_and(|to| to.to_str().is_some_and(|to| names.contains(to)))
    };
    let pids = fs::read_dir("/proc").into_iter().flatten();
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let mut fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        if !fds.any(|fd| fd.is_ok_and(|fd| is_one(&fd))) {
            return None;
        }
        let (started, parent) = process(pid)?;
        Some(((pid, started), parent))
    })
    .collect()
}

/// When a process was started, in ticks since the machine was, and its parent (proc_pid_stat(5)).
fn process(pid: u32) -> Option<(u64, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets, and may have any in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    Some((fields.nth(17)?.parse().ok()?, parent))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn of(sockets: &[u64], holders: &[(u32, u32)]) -> Listening {
        let holders = holders.iter().map(|(pid, parent)| ((*pid, 1), *parent)).collect();
        Listening { sockets: sockets.iter().copied().collect(), holders }
    }

    #[test]
    fn a_reload_shows_by_another_socket_or_by_all_workers_anew() {
        let before = of(&[7], &[(10, 1), (11, 10), (12, 10)]);
        let shown = |later: Listening| before.shows(&later);
        assert_eq!(shown(of(&[7], &[(10, 1), (13, 10), (14, 10)])), Some(ReloadShown::Processes));
        assert_eq!(shown(of(&[8], &[(10, 1), (11, 10), (12, 10)])), Some(ReloadShown::Socket));
        // A program that has taken the place of another.
        assert_eq!(of(&[7], &[(10, 1)]).shows(&of(&[7], &[(20, 1)])), Some(ReloadShown::Processes));
        // One field away: nothing changed; a worker more; one less; one in the place of another, beside one that has stayed.
        assert_eq!(shown(before.clone()), None);
        assert_eq!(shown(of(&[7], &[(10, 1), (11, 10), (12, 10), (13, 10)])), None);
        assert_eq!(shown(of(&[7], &[(10, 1), (11, 10)])), None);
        assert_eq!(shown(of(&[7], &[(10, 1), (11, 10), (13, 10)])), None);
        // What does not listen any more has not reloaded, and what cannot be seen shows nothing.
        assert_eq!(shown(Listening::default()), None);
        assert_eq!(Listening::default().shows(&before), None);
    }

    #[test]
    fn what_listens_is_found_with_its_process() {
        let own = std::process::id();
        let (first, second) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::]:0").unwrap());
        let six = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), second.local_addr().unwrap().port());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a socket");
        let third = UnixListener::bind(&path).unwrap();
        for address in [first.local_addr().unwrap().into(), six.into(), SockAddr::unix(&path).unwrap()] {
            let seen = Listening::look(&address, None);
            assert_eq!(seen.sockets.len(), 1, "{address:?}");
            assert!(seen.holders.keys().any(|(pid, _)| *pid == own), "{seen:?}");
            assert_eq!((seen.is_of(own), seen.is_of(u32::MAX)), (Some(true), Some(false)));
            // It has its parent, and so on up to the first process.
            assert_eq!(seen.is_of(std::os::unix::process::parent_id()), Some(true));
        }
        let other = SocketAddr::from(([127, 0, 0, 2], first.local_addr().unwrap().port()));
        assert_eq!(Listening::look(&other.into(), None), Listening::default());
        assert_eq!(Listening::default().is_of(own), None);
        drop(third);
        // Who listens at every address of this host does not listen at that of another.
        let far = SocketAddr::from(([203, 0, 113, 1], second.local_addr().unwrap().port()));
        assert_eq!(Listening::look(&far.into(), None), Listening::default());
    }

    #[test]
    fn what_is_seen_in_two_namespaces_is_seen() {
        let both = of(&[7], &[(10, 1)]).and(of(&[8], &[(20, 1)]));
        assert_eq!(both, of(&[7, 8], &[(10, 1), (20, 1)]));
    }

    #[test]
    fn addresses_of_a_namespace_are_known() {
        const TRIE: &str = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 10.0.0.0/24 2 0 2\n        |-- 10.0.0.0\n           /24 link UNICAST\n        |-- 10.0.0.2\n           /32 host LOCAL\n        |-- 10.0.0.255\n           /32 link BROADCAST\n";
        const SIX: &str = "fd000000000000000000000000000064 02 40 00 80     eth0\n";
        let known = |ip: &str| is_local(ip.parse().unwrap(), TRIE, SIX);
        assert!(known("10.0.0.2") && known("fd00::64"));
        for other in ["10.0.0.0", "10.0.0.25", "10.0.0.255", "10.0.0.3", "0.0.0.0", "fd00::6", "::"] {
            assert!(!known(other), "{other}");
        }
    }
}
