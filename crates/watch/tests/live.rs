//! Real resets of this machine's kernel, watched live. Needs the right to open tracepoints, usually root.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use linger_watch::{CannotWatch, Direction, Filter, LiveReset, Notice, Watcher};
use linger_why::{Cause, Confidence};
use rustix::process::{Pid, Signal, Uid};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities, set_keep_capabilities, set_thread_uid};
use socket2::SockRef;

/// One watcher at a time: each sees the whole host.
static ALONE: Mutex<()> = Mutex::new(());

fn watcher(port: u16) -> Option<Watcher> {
    let mut filter = Filter::default();
    filter.ports = vec![port];
    common::watcher(filter)
}

/// Collects resets until `enough` is true, or until a bound that is reached only by a failure.
fn seen(watcher: &mut Watcher, mut enough: impl FnMut(&[LiveReset]) -> bool) -> Vec<LiveReset> {
    let bound = Instant::now() + Duration::from_secs(20);
    let mut resets = Vec::new();
    while !enough(&resets) && Instant::now() < bound {
        for notice in watcher.next(Duration::from_millis(50)).unwrap() {
            if let Notice::Reset(reset) = notice {
                resets.push(*reset);
            }
        }
    }
    resets
}

fn pair(address: &str) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind(address).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    (listener, client, server)
}

/// The reset that `provoke` causes, as reported by the kernel for the server's port.
fn sent(address: &str, provoke: impl FnOnce(TcpStream, TcpStream)) -> Option<LiveReset> {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (listener, client, server) = pair(address);
    let local = listener.local_addr().unwrap();
    let mut watcher = watcher(local.port())?;
    provoke(client, server);
    let ours = |reset: &LiveReset| reset.direction == Direction::Sent && reset.local == local;
    let resets = seen(&mut watcher, |resets| resets.iter().any(ours));
    assert_eq!(watcher.lost(), 0);
    Some(resets.into_iter().find(ours).expect("the reset was seen"))
}

fn own_process(reset: &LiveReset) -> bool {
    reset.process.as_ref().is_some_and(|process| process.pid == std::process::id())
}

#[test]
fn a_close_with_unread_data_names_the_closer() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let reset = sent(address, |mut client, mut server| {
            client.write_all(b"two halves").unwrap();
            server.read_exact(&mut [0; 3]).unwrap();
            drop(server);
            drop(client);
        });
        let Some(reset) = reset else { return };
        assert_eq!(
            (reset.cause, reset.confidence),
            (Cause::ClosedWithUnreadData, Confidence::Certain),
            "{reset:?}"
        );
        assert!(own_process(&reset), "{reset:?}");
        let bytes = (reset.bytes.unread, reset.bytes.unacknowledged, reset.bytes.unsent);
        assert_eq!(bytes, (Some(7), Some(0), Some(0)), "of ten bytes three were read: {reset:?}");
    }
}

#[test]
fn what_was_lost_is_told_to_the_byte() {
    let mut written = 0;
    let reset = sent("127.0.0.1:0", |mut client, mut server| {
        client.write_all(b"request").unwrap();
        // The client has half-closed; its FIN must not be counted as a byte.
        client.shutdown(std::net::Shutdown::Write).unwrap();
        server.peek(&mut [0; 7]).unwrap();
        server.set_nonblocking(true).unwrap();
        while let Ok(more) = server.write(&[7; 100_000]) {
            written += more as u32;
        }
        drop(server);
        // Bytes that arrived plus bytes that never arrived must be all bytes written.
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut got = 0;
        let mut buffer = [0; 64 << 10];
        while let Ok(more @ 1..) = client.read(&mut buffer) {
            got += more as u32;
        }
        written -= got;
    });
    let Some(reset) = reset else { return };
    assert_eq!(reset.bytes.unread, Some(7), "{reset:?}");
    assert!(written > 100_000, "most of it never arrived: {written}");
    // Acknowledged bytes have arrived, unsent ones have not; those in between may have.
    let (most, least) = (reset.bytes.unacknowledged.unwrap(), reset.bytes.unsent.unwrap());
    assert!(least <= written && written <= most, "{least} <= {written} <= {most}");
}

#[test]
fn a_received_reset_names_who_had_the_connection() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (listener, mut client, server) = pair("127.0.0.1:0");
    let local = listener.local_addr().unwrap();
    let Some(mut watcher) = watcher(local.port()) else { return };
    client.write_all(b"unread").unwrap();
    drop(server);
    client.read(&mut [0; 1]).unwrap_err();
    drop(client);
    let ours = |reset: &LiveReset| reset.direction == Direction::Received && reset.remote == Some(local);
    let resets = seen(&mut watcher, |resets| resets.iter().any(ours));
    let reset = resets.iter().find(|reset| ours(reset)).expect("the reset was seen");
    assert!(own_process(reset), "{reset:?}");
    assert_eq!((reset.bytes.unread, reset.bytes.unacknowledged), (Some(0), Some(0)), "{reset:?}");
    assert_eq!(reset.cause, Cause::ClosedWithUnreadData, "the other end is on this host too: {reset:?}");
}

#[test]
fn a_process_that_ends_at_once_has_a_name() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = listener.local_addr().unwrap();
    let Some(mut watcher) = watcher(local.port()) else { return };
    // bash connects by itself (/dev/tcp), so the connecting process is the one that was started.
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; printf x >&3; read -r <&3", local.port());
    let Ok(mut bash) =
        std::process::Command::new("bash").args(["-c", &script]).stderr(std::process::Stdio::null()).spawn()
    else {
        return linger_testing::skip("bash", "bash is not installed");
    };
    let (mut server, _) = listener.accept().unwrap();
    server.read_exact(&mut [0]).unwrap();
    SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    bash.wait().unwrap();
    let ours = |reset: &LiveReset| reset.direction == Direction::Received && reset.remote == Some(local);
    let resets = seen(&mut watcher, |resets| resets.iter().any(ours));
    let reset = resets.iter().find(|reset| ours(reset)).expect("the reset was seen");
    assert!(reset.process.as_ref().is_some_and(|process| process.name == *"bash"), "{reset:?}");
}

#[test]
fn the_kernels_counters_stand_beside_what_was_seen() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = listener.local_addr().unwrap();
    let Some(mut watcher) = watcher(local.port()) else { return };
    for _ in 0..7 {
        let mut client = TcpStream::connect(local).unwrap();
        client.write_all(b"unread").unwrap();
        drop(listener.accept().unwrap());
    }
    let notices = watcher.finish(Duration::from_secs(5)).unwrap();
    let resets = notices.iter().filter(|notice| matches!(notice, Notice::Reset(_))).count();
    assert_eq!(resets, 14, "seven sent, seven received: {notices:?}");
    let Some(Notice::Counters(counted)) = notices.last() else { panic!("{notices:?}") };
    // Resets of other tests are both counted and seen.
    assert!(counted.kernel["TCPAbortOnClose"] >= 7 && counted.seen_sent >= 7, "{counted:?}");
    assert_eq!((counted.missed, counted.events_lost), (0, 0), "{counted:?}");
}

#[test]
fn an_abort_is_one() {
    let reset = sent("127.0.0.1:0", |client, server| {
        SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
        drop(server);
        drop(client);
    });
    let Some(reset) = reset else { return };
    assert_eq!(reset.cause, Cause::Aborted, "{reset:?}");
    assert!(reset.confidence < Confidence::Certain, "a closed listener looks the same");
    assert!(own_process(&reset));
    assert_eq!(reset.bytes.unknown, Some(linger_watch::Unknown::Wiped), "{reset:?}");
}

#[test]
fn data_after_close_names_who_had_closed() {
    let reset = sent("127.0.0.1:0", |mut client, server| {
        drop(server);
        // The FIN must arrive before the data is sent.
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        client.write_all(b"late").unwrap();
    });
    let Some(reset) = reset else { return };
    assert_eq!(reset.cause, Cause::DataAfterClose, "{reset:?}");
    assert!(own_process(&reset), "{reset:?}");
    assert_eq!(reset.bytes.unacknowledged, Some(0), "its FIN was acknowledged: {reset:?}");
    assert_eq!(reset.bytes.unknown, Some(linger_watch::Unknown::Uncounted));
}

#[test]
fn a_closed_port_is_named_at_both_ends() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let local: SocketAddr = listener.local_addr().unwrap();
    drop(listener);
    let Some(mut watcher) = watcher(local.port()) else { return };
    TcpStream::connect(local).unwrap_err();
    let both = |resets: &[LiveReset]| {
        [Direction::Sent, Direction::Received]
            .iter()
            .all(|way| resets.iter().any(|reset| reset.direction == *way))
    };
    let resets = seen(&mut watcher, both);
    assert!(both(&resets), "{resets:?}");
    assert!(resets.iter().all(|reset| reset.cause == Cause::PortClosed), "{resets:?}");
    let refused = resets.iter().find(|reset| reset.direction == Direction::Received).unwrap();
    assert!(own_process(refused), "{refused:?}");
}

#[test]
fn a_thousand_resets_are_a_thousand() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = listener.local_addr().unwrap();
    let Some(mut watcher) = watcher(local.port()) else { return };
    for _ in 0..1_000 {
        let mut client = TcpStream::connect(local).unwrap();
        client.write_all(b"unread").unwrap();
        drop(listener.accept().unwrap());
    }
    let ours = |resets: &[LiveReset]| {
        resets
            .iter()
            .filter(|reset| reset.cause == Cause::ClosedWithUnreadData && reset.local == local)
            .count()
    };
    let resets = seen(&mut watcher, |resets| ours(resets) >= 1_000);
    assert_eq!((ours(&resets), watcher.lost()), (1_000, 0));
}

#[test]
fn a_listener_near_its_limit_is_warned_of() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(4).unwrap();
    let local = socket.local_addr().unwrap().as_socket().unwrap();
    let _waiting: Vec<_> = (0..4).map(|_| TcpStream::connect(local).unwrap()).collect();
    let Some(mut watcher) = watcher(local.port()) else { return };
    let bound = Instant::now() + Duration::from_secs(20);
    while Instant::now() < bound {
        for notice in watcher.next(Duration::from_millis(100)).unwrap() {
            let json = serde_json::to_value(&notice).unwrap();
            if json["warning"] == "listener-near-limit" && json["local"] == local.to_string() {
                assert_eq!((&json["queue"]["waiting"], &json["queue"]["limit"]), (&4.into(), &4.into()));
                return;
            }
        }
    }
    panic!("no warning");
}

/// A server behind a shell that becomes it has the server's name, and one whose socket another process has inherited has that one's.
#[test]
fn a_listener_has_the_name_of_who_holds_it_now() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = listener.local_addr().unwrap();
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    // The shell becomes `sleep` at the first line. Another holds the socket from then on as well, and then alone.
    let script = "read -r line; sleep 1000 & echo $!; exec tail -f /dev/null";
    let mut shell = std::process::Command::new("sh");
    let mut shell = shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    drop(listener);
    let Some(mut watcher) = watcher(local.port()) else {
        shell.kill().unwrap();
        return drop(shell.wait());
    };
    let mut holder = || {
        watcher.next(Duration::from_millis(20)).unwrap();
        let of = |(_, at, _, process): (_, SocketAddr, _, Option<&linger_watch::NamedProcess>)| {
            process.filter(|_| at == local).map(|process| (process.pid, process.plain()))
        };
        watcher.listeners().find_map(of)
    };
    // The search for holders is as rare as it is dear, two minutes at most.
    let bound = Instant::now() + Duration::from_secs(300);
    let mut until = |name: &str, pid: u32| loop {
        let found = holder();
        if found == Some((pid, format!("{name}[{pid}]"))) {
            return;
        }
        assert!(Instant::now() < bound, "{name}: {found:?}");
    };
    let pid = shell.id();
    until("sh", pid);
    shell.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut line = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
    until("tail", pid);
    shell.kill().unwrap();
    shell.wait().unwrap();
    let heir: u32 = line.trim().parse().unwrap();
    until("sleep", heir);
    rustix::process::kill_process(Pid::from_raw(heir as i32).unwrap(), Signal::KILL).unwrap();
}

/// The soft `RLIMIT_MEMLOCK` of this process, as it was before.
struct LockedMemoryLimit(Rlimit);

impl LockedMemoryLimit {
    fn set(bytes: u64) -> Self {
        let before = getrlimit(Resource::Memlock);
        setrlimit(Resource::Memlock, Rlimit { current: Some(bytes), ..before }).unwrap();
        Self(before)
    }
}

impl Drop for LockedMemoryLimit {
    fn drop(&mut self) {
        setrlimit(Resource::Memlock, self.0).unwrap();
    }
}

/// What this process has charged to its `RLIMIT_MEMLOCK`, in bytes.
fn pinned() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPin:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn rings_are_as_large_as_the_locked_memory_allows() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if watcher(1).is_none() {
        return;
    }
    // The following settings are of this thread only: other tests need no limit. The thread becomes a user of its own,
    // because other processes of the same user may at any time unlock memory that counts for the user.
    let mut sets = capabilities(None).unwrap();
    set_keep_capabilities(true).unwrap();
    set_thread_uid(Uid::from_raw(54_321)).unwrap();
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, sets).unwrap();
    // Uses up what the user may lock, so that all that follows is charged to the limit of the process.
    let full = watcher(1).expect("the same rights as before");
    let page = rustix::param::page_size() as u64;
    let processors = std::fs::read_to_string("/proc/stat").unwrap().matches("\ncpu").count() as u64;
    let rings_of = |kib: u64| processors * ((kib << 10) + page);
    // A watcher cannot know how much is pinned already. So the kernel refuses the first sizes that it tries.
    for (room, chosen) in [(rings_of(256), 256), (rings_of(256) - page, 128), (rings_of(64), 64)] {
        let _limit = LockedMemoryLimit::set(pinned() + room);
        let watcher = watcher(1).expect("smaller rings pass");
        assert_eq!(watcher.ring_bytes(), chosen << 10, "{room} bytes of room");
        assert!(watcher.ring_bytes() < full.ring_bytes());
    }
    let _limit = LockedMemoryLimit::set(pinned() + rings_of(64) - page);
    let refused = Watcher::open(Filter::default()).unwrap_err();
    assert!(matches!(refused, CannotWatch::LockedMemory { .. }), "{refused:?}");
    let needed = format!("lock {} KiB", rings_of(64) / 1024);
    assert!(refused.to_string().contains(&needed), "{refused}");
}
