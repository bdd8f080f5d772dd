//! The memory that resets and connections take.

use super::*;
use crate::held;

/// What resets and connections may take, in bytes, with what the allocator keeps of it: the rest of the 64 MiB that the
/// watcher promises is for rings, events and the program.
const BOUND: u64 = 44 << 20;

fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

/// The events of a connection that its server closes with bytes unread: at both ends, as the kernel reports them.
fn reset_connection(number: u32) -> [SocketEvent; 5] {
    let server = SocketAddr::from(([10, 0, 0, 1], 80));
    let client = SocketAddr::from((std::net::Ipv4Addr::from(0x0b00_0000 + number), 40_000));
    let event = |at: u32, ends: Endpoints, end: u32, what| SocketEvent {
        time_ns: 1_000_000_000 + u64::from(number * 10 + at),
        pid: std::process::id(),
        thread: std::process::id(),
        socket: u64::from(number * 2 + end + 1),
        cookie: u64::from(number * 2 + end + 1),
        ends: ends.into(),
        what,
    };
    let reason = Some("TCP_ABORT_ON_CLOSE".into());
    [
        event(0, (server, client), 0, SocketChange::State { new: tcp_state::FIN_WAIT1 }),
        event(1, (server, client), 0, SocketChange::Sent { reason, state: 1, active: true }),
        event(2, (client, server), 1, SocketChange::Received),
        event(3, (client, server), 1, SocketChange::Error { number: libc::ECONNRESET }),
        event(4, (server, client), 0, SocketChange::Destroyed),
    ]
}

/// However many connections are reset at once, what is kept of them is bounded, and each is told.
#[test]
fn a_burst_of_resets_takes_bounded_memory() {
    const CONNECTIONS: u32 = 60_000;
    let mut resets = Resets::new(&Access::default(), None);
    let before = resident();
    let (mut most, mut told) = (0, 0);
    for number in 0..CONNECTIONS {
        for event in reset_connection(number) {
            resets.take(KernelEvent::Socket(event));
        }
        if resets.kept() >= held::MAX {
            // What the caller is told is there until it has told it itself.
            let now = resets.settle(Vec::new(), &[], true);
            told += now.len();
            most = most.max(resident() - before);
        }
    }
    told += resets.give_up().len();
    assert_eq!(told, 2 * CONNECTIONS as usize, "each end of each");
    assert!(most > 0 && most <= BOUND, "{} KiB", most >> 10);
}
