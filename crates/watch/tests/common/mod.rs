//! What the tests with real tracepoints share.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use linger_testing::Namespace;
use linger_watch::{Direction, Filter, LiveReset, Notice, Watcher};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::thread::CapabilitySet;

/// One watcher at a time: each sees the whole host.
static ALONE: Mutex<()> = Mutex::new(());

pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A watcher. If it cannot be opened, prints why and returns `None`; with all capabilities that is a failure.
pub(crate) fn watcher(filter: Filter) -> Option<Watcher> {
    match Watcher::open(filter) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            let effective = rustix::thread::capabilities(None).unwrap().effective;
            let first_user = std::fs::read_to_string("/proc/self/uid_map").unwrap();
            let everything = effective.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::PERFMON)
                && first_user.split_whitespace().eq(["0", "0", "4294967295"]);
            assert!(!everything, "an administrator may watch: {error}");
            linger_testing::skip("live tracepoints", &error.to_string());
            None
        }
    }
}

/// A [`watcher`] of ports.
pub(crate) fn watcher_of(ports: &[u16]) -> Option<Watcher> {
    let mut filter = Filter::default();
    filter.ports = ports.to_vec();
    watcher(filter)
}

pub(crate) fn resets(notices: &[Notice]) -> impl Iterator<Item = &LiveReset> {
    notices.iter().filter_map(|notice| match notice {
        Notice::Reset(reset) => Some(&**reset),
        _ => None,
    })
}

/// The notices until `enough` resets were sent and received, or until a bound that is reached only by a failure; and the last.
pub(crate) fn until(watcher: &mut Watcher, enough: impl Fn(&[&LiveReset]) -> bool) -> Vec<Notice> {
    let bound = Instant::now() + Duration::from_secs(20);
    let mut notices = Vec::new();
    while !enough(&resets(&notices).collect::<Vec<_>>()) && Instant::now() < bound {
        notices.extend(watcher.next(Duration::from_millis(50)).unwrap());
    }
    notices.extend(watcher.finish(Duration::ZERO).unwrap());
    notices
}

/// Whether at least so many resets were sent and received.
pub(crate) fn both(sent: usize, received: usize) -> impl Fn(&[&LiveReset]) -> bool {
    move |resets| {
        let are_sent = resets.iter().filter(|reset| reset.direction == Direction::Sent).count();
        are_sent >= sent && resets.len() - are_sent >= received
    }
}

/// Runs a command in a namespace. Returns whether it succeeded.
pub(crate) fn within(namespace: &Namespace, program: &str, arguments: &str) -> bool {
    let run = || Command::new(program).args(arguments.split(' ')).status();
    namespace.run(run).unwrap().is_ok_and(|status| status.success())
}

/// Runs `ip` in the calling thread's namespace. Returns whether it succeeded.
pub(crate) fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split(' ')).status().is_ok_and(|status| status.success())
}

/// `of` connections with a byte unread at the server's end, which a process of its own holds. Kills it.
pub(crate) fn kill_holder(listener: &TcpListener, of: usize) -> Vec<TcpStream> {
    let local = listener.local_addr().unwrap();
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..of {
        let mut client = TcpStream::connect(local).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"unread").unwrap();
        server.peek(&mut [0]).unwrap();
        fcntl_setfd(&server, FdFlags::empty()).unwrap();
        clients.push(client);
        servers.push(server);
    }
    let mut holder = Command::new("sleep").arg("1000").spawn().unwrap();
    drop(servers);
    holder.kill().unwrap();
    holder.wait().unwrap();
    clients
}
