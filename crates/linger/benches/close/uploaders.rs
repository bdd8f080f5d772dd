//! A thousand peers that never stop uploading, and the honest client beside them.

use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use linger::{Budget, Closer, Policy};
use rustix::event::{Timespec, epoll};

use crate::axum_pair::Server;
use crate::support::{RESPONSE, until};
use crate::{Goal, claim, median, note, quantile};

const UPLOADERS: usize = 1_000;
/// What the policy allows each.
const EACH: u64 = 256 << 10;
const REQUESTS: usize = 3_000;
const ROUNDS: usize = 5;

pub(crate) fn run() {
    let mut budget = Budget::default();
    budget.discard_per_second = Some(16 << 20);
    let closer = Closer::new(budget).expect("a closer");
    let mut policy = Policy::default();
    policy.max_discard = Some(EACH);
    let server = Server::start(Some((policy, closer.clone())));
    let (mut ratios, mut quiet_all, mut under_all) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let quiet = latency(server.address);
        let before = closer.snapshot();
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let attack = attack(server.address, &stop, &answered);
        let present = until(&closer, |snapshot| snapshot.since(&before).handed_over >= UPLOADERS as u64);
        // All answers have been read: from here on there are only uploads that nobody wants.
        while answered.load(Ordering::Relaxed) < UPLOADERS * RESPONSE {
            // Seldom enough to be no load, and nothing is measured yet.
            std::thread::sleep(Duration::from_millis(1));
        }
        let under = latency(server.address);
        let during = closer.snapshot();
        note(&format!(
            "p99 {:.0} us alone, {:.0} us under {} lingering uploaders",
            quiet,
            under,
            during.lingering.min(present.lingering)
        ));
        stop.store(true, Ordering::Relaxed);
        attack.join().expect("the attackers");
        until(&closer, |snapshot| snapshot.lingering == 0);
        ratios.push(under / quiet);
        quiet_all.push(quiet);
        under_all.push(under);
    }
    let snapshot = closer.snapshot();
    let each = snapshot.discarded as f64 / (UPLOADERS * ROUNDS) as f64;
    claim(
        "bytes discarded for an uploader, of what the policy allows",
        each / EACH as f64,
        "",
        Goal::AtMost(1.0),
    );
    note(&format!(
        "p99: median {:.0} us alone, {:.0} us under attack",
        median(&mut quiet_all),
        median(&mut under_all)
    ));
    claim("p99 of an honest client under 1,000 uploaders", median(&mut ratios), " x", Goal::AtMost(1.5));
}

/// Uploads on a thousand connections, as much as each takes, until told to stop.
fn attack(
    server: SocketAddr,
    stop: &Arc<AtomicBool>,
    answered: &Arc<AtomicUsize>,
) -> std::thread::JoinHandle<()> {
    let (stop, answered) = (stop.clone(), answered.clone());
    std::thread::spawn(move || {
        // The attackers would be on machines of their own; here they take what the server and the honest
        // client leave of the processor.
        linger_testing::run_last().expect("any thread may step back");
        let room = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        let head = "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 1000000000000\r\n\r\n";
        let mut peers = Vec::with_capacity(UPLOADERS);
        for index in 0..UPLOADERS {
            let mut peer = TcpStream::connect(server).expect("the server listens");
            peer.write_all(head.as_bytes()).expect("a request");
            peer.set_nonblocking(true).expect("a socket");
            let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&room, &peer, epoll::EventData::new_u64(index as u64), interest).expect("an epoll");
            peers.push(peer);
        }
        let chunk = [b'u'; 64 << 10];
        let mut page = [0; 64 << 10];
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 64];
        let soon = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        while !stop.load(Ordering::Relaxed) {
            let Ok((events, _)) = epoll::wait(&room, &mut events, Some(&soon)) else { continue };
            for event in events {
                let mut peer = &peers[event.data.u64() as usize];
                // An attacker's errors are ignored.
                while let Ok(bytes @ 1..) = peer.read(&mut page) {
                    answered.fetch_add(bytes, Ordering::Relaxed);
                }
                while peer.write(&chunk).is_ok() {}
            }
        }
    })
}

/// The p99 of requests one after the other, each on a connection of its own, in microseconds.
fn latency(server: SocketAddr) -> f64 {
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let started = Instant::now();
        let mut stream = TcpStream::connect(server).expect("the server listens");
        stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").expect("a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        assert!(answer.ends_with(b"hello"), "an honest client gets its answer");
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    quantile(&mut times, 0.99)
}
