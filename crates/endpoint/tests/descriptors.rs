//! An endpoint without descriptors. It changes the limit of the whole process, so it is a program of its own.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use common::{HANG, NEVER, answer, connect, endpoint, is_whole, scrape};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Sockets that exist before the descriptors run out.
fn sockets(count: usize) -> Vec<socket2::Socket> {
    let make = |_| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_read_timeout(Some(HANG)).unwrap();
        socket
    };
    (0..count).map(make).collect()
}

/// Takes all numbers below the highest in use, so that with this limit there are none.
fn highest() -> (u64, Vec<File>) {
    let all = || fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1;
    let most = fs::read_dir("/proc/self/fd").unwrap();
    let most =
        most.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<u64>().unwrap()).max().unwrap();
    let filling = (all()..most + 1).map(|_| File::open("/dev/null").unwrap()).collect();
    assert_eq!(all(), most + 1);
    (most + 1, filling)
}

#[test]
fn without_descriptors_it_waits_or_gives_up_its_own() {
    let address = endpoint(NEVER, 64);
    assert!(is_whole(&scrape(address).unwrap()));
    let limit = getrlimit(Resource::Nofile);
    let with = |current| setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }).unwrap();

    // None at all: a loop of accepts that fail would take a processor.
    let mut peers = sockets(2).into_iter();
    with(3);
    let waiting = peers.next().unwrap();
    waiting.connect(&address.into()).unwrap();
    let before = cpu_seconds();
    thread::sleep(Duration::from_secs(1));
    let spent = cpu_seconds() - before;
    assert!(spent < 0.2, "{spent} s of processor time in a second without descriptors");
    setrlimit(Resource::Nofile, limit).unwrap();
    assert!(is_whole(&answer(&mut waiting.into(), GET).unwrap()));

    // Its own slow peer has the last one: that one makes room.
    let mut slow = connect(address);
    slow.write_all(b"G").unwrap();
    thread::sleep(Duration::from_millis(200));
    let (most, _filling) = highest();
    with(most);
    let late = peers.next().unwrap();
    late.connect(&address.into()).unwrap();
    let mut late = TcpStream::from(late);
    assert!(is_whole(&answer(&mut late, GET).unwrap()));
    assert!(!answer(&mut slow, &GET[1..]).is_ok_and(|answer| is_whole(&answer)));
}
