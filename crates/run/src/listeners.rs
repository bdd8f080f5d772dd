//! The listening sockets of a network namespace.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use linger_untrusted::Untrusted;

mod diag;

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListeningSocket {
    pub(crate) address: Untrusted,
    /// Port and user of a TCP socket.
    pub(crate) port: Option<u16>,
    pub(crate) user: Option<u32>,
}

/// The listening TCP and unix sockets of a process's network namespace, by inode, without those in `but`.
pub(crate) fn listening(process: u32, but: &[u64]) -> HashMap<u64, ListeningSocket> {
    let listed = if is_here(process) { diag::listeners().ok() } else { None };
    let mut all = match listed {
        Some(listed) => listed.into_iter().map(of_kernel).collect(),
        None => tcp_of_proc(process),
    };
    all.extend(lines(process, "unix").skip(1).filter_map(|line| unix(&line)));
    all.retain(|inode, _| !but.contains(inode));
    all
}

/// Whether a process is in this thread's network namespace, whose sockets the kernel lists.
fn is_here(process: u32) -> bool {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
    namespace("thread-self").is_some_and(|own| namespace(&process.to_string()) == Some(own))
}

fn of_kernel(one: diag::ListedListener) -> (u64, ListeningSocket) {
    let address = Untrusted::from(one.address.to_string().as_bytes());
    (one.inode, ListeningSocket { address, port: Some(one.address.port()), user: Some(one.user) })
}

/// The TCP listeners of any process's network namespace.
fn tcp_of_proc(process: u32) -> HashMap<u64, ListeningSocket> {
    let mut all = HashMap::new();
    for table in ["tcp", "tcp6"] {
        // The kernel shows listeners first (`tcp_seq_start`), and there may be many connections.
        all.extend(lines(process, table).skip(1).map_while(|line| tcp(&line)));
    }
    all
}

fn lines(process: u32, table: &str) -> impl Iterator<Item = String> {
    let file = File::open(format!("/proc/{process}/net/{table}")).ok();
    // The path of a unix socket may be no UTF-8.
    let lines = file.into_iter().flat_map(|file| BufReader::new(file).split(b'\n').map_while(Result::ok));
    lines.map(|line| String::from_utf8_lossy(&line).into_owned())
}

/// A listener of `/proc/net/tcp` or `tcp6`; `None` for any other socket.
fn tcp(line: &str) -> Option<(u64, ListeningSocket)> {
    const LISTEN: &str = "0A";
    let mut words = line.split_whitespace();
    let address = words.nth(1)?;
    if words.nth(1)? != LISTEN {
        return None;
    }
    // Queues, timer and retransmissions lie between the state and the user, and a timeout before the inode.
    let user = words.nth(3)?.parse().ok();
    let inode = words.nth(1)?.parse().ok()?;
    let (host, port) = address.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // The kernel prints each 32-bit word as a number of this machine; its bytes in memory are in network order.
    let word = |at: usize| u32::from_str_radix(host.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let host = match host.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut octets = [0; 16];
            for (at, part) in octets.chunks_mut(4).enumerate() {
                part.copy_from_slice(&word(at * 8)?);
            }
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    let address = SocketAddr::new(host, port).to_string();
    Some((inode, ListeningSocket { address: Untrusted::from(address.as_bytes()), port: Some(port), user }))
}

/// A listener of `/proc/net/unix`.
fn unix(line: &str) -> Option<(u64, ListeningSocket)> {
    /// `__SO_ACCEPTCON` (linux/net.h).
    const LISTENS: u32 = 1 << 16;
    let (mut word, mut rest) = ("", line);
    let mut next = || {
        (word, rest) = rest.trim_start().split_once(' ').unwrap_or((rest.trim_start(), ""));
        word
    };
    let flags = (0..4).map(|_| next()).last()?;
    if u32::from_str_radix(flags, 16).ok()? & LISTENS == 0 {
        return None;
    }
    let inode = (0..3).map(|_| next()).last()?;
    let path = rest;
    Some((
        inode.parse().ok()?,
        ListeningSocket { address: Untrusted::from(path.as_bytes()), port: None, user: None },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_told_from_connections() {
        let listener = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0";
        let (inode, found) = tcp(listener).unwrap();
        assert_eq!(
            (inode, found.address.terminal().to_string(), found.port),
            (4711, "127.0.0.1:8080".into(), Some(8080))
        );
        assert_eq!(tcp(&listener.replace(" 0A ", " 01 ")), None);
        let listener = "   0: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0 100 0 0 10 0";
        assert_eq!(tcp(listener).unwrap().1.address.terminal().to_string(), "[::1]:22");
    }

    #[test]
    fn unix_listeners_have_a_path_or_none() {
        let listener = "0000000000000000: 00000002 00000000 00010000 0001 01 26311 /run/a b.sock";
        let (inode, found) = unix(listener).unwrap();
        assert_eq!(
            (inode, found.address.terminal().to_string(), found.port),
            (26_311, "/run/a b.sock".into(), None)
        );
        assert_eq!(unix("0000000000000000: 00000002 00000000 00010000 0001 01 26311").unwrap().0, 26_311);
        assert_eq!(unix(&listener.replace("00010000", "00000000")), None);
    }

    #[test]
    fn this_process_is_found_to_listen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
        let found = listening(std::process::id(), &[]);
        assert_eq!(found[&inode].port, Some(address.port()));
        assert_eq!(found[&inode].address.terminal().to_string(), address.to_string());
        // Connected, it is no listener.
        let stream = std::net::TcpStream::connect(address).unwrap();
        let inode = rustix::fs::fstat(&stream).unwrap().st_ino;
        assert!(!listening(std::process::id(), &[]).contains_key(&inode));
    }

    #[test]
    fn the_kernels_list_says_what_proc_says() {
        let all = ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"]
            .map(|address| std::net::TcpListener::bind(address).unwrap());
        let own = std::process::id();
        assert!(is_here(own));
        let listed: HashMap<_, _> = diag::listeners().unwrap().into_iter().map(of_kernel).collect();
        let shown = tcp_of_proc(own);
        for listener in all {
            let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
            assert_eq!(listed[&inode], shown[&inode]);
        }
    }

    #[test]
    fn a_process_that_is_gone_is_not_here() {
        let _turn = crate::turns::makes_processes();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(!is_here(child.id()));
    }
}
