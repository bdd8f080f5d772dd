//! Scrapers are answered beside 1,500 peers that take their time, and nothing is left of those.

mod common;

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{HANG, NEVER, endpoint, is_whole, scrape};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a hostile peer does. Whoever is ended comes again at once.
#[derive(Clone, Copy)]
enum Manner {
    Silent,
    Drips,
    Posts,
}

fn come(address: SocketAddr, manner: Manner) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    match manner {
        Manner::Silent => {}
        Manner::Drips => stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ")?,
        Manner::Posts => {
            stream.write_all(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")?
        }
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Keeps `count` peers of one manner busy until told to stop; counts how often one was ended.
fn besiege(address: SocketAddr, manner: Manner, count: usize, stop: &AtomicBool, ended: &AtomicU64) {
    let mut peers: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    while !stop.load(Ordering::Relaxed) {
        for peer in &mut peers {
            let alive = match peer {
                None => false,
                Some(stream) => {
                    let sends = matches!(manner, Manner::Silent)
                        || !matches!(stream.write(b"x"), Err(error) if error.kind() != ErrorKind::WouldBlock);
                    let reads = match stream.read(&mut [0; 512]) {
                        Ok(read) => read > 0,
                        Err(error) => error.kind() == ErrorKind::WouldBlock,
                    };
                    if !(sends && reads) {
                        ended.fetch_add(1, Ordering::Relaxed);
                    }
                    sends && reads
                }
            };
            if !alive {
                *peer = come(address, manner).ok();
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// 1,500 peers at once, of which none is ended by a deadline. Scrapers wait for none of them, and nothing is left of them.
#[test]
fn fifteen_hundred_peers_keep_no_scraper_waiting() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let address = endpoint(NEVER, 256);
    assert!(is_whole(&scrape(address).unwrap()));
    let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let before = descriptors();
    let peers: Vec<_> = [Manner::Silent, Manner::Drips, Manner::Posts]
        .map(|manner| {
            let (stop, ended) = (stop.clone(), ended.clone());
            thread::spawn(move || besiege(address, manner, 500, &stop, &ended))
        })
        .into_iter()
        .collect();
    let until = Instant::now() + HANG;
    while ended.load(Ordering::Relaxed) < 1_500 {
        assert!(Instant::now() < until, "peers are ended to make room");
        thread::sleep(Duration::from_millis(5));
    }
    let mut slowest = Duration::ZERO;
    for number in 0..30 {
        let started = Instant::now();
        let answer = scrape(address).unwrap_or_else(|error| panic!("scrape {number}: {error}"));
        assert!(is_whole(&answer), "scrape {number}");
        slowest = slowest.max(started.elapsed());
    }
    eprintln!(
        "30 scrapes beside 1,500 peers, {} of them ended: {slowest:?} at most",
        ended.load(Ordering::Relaxed)
    );
    stop.store(true, Ordering::Relaxed);
    peers.into_iter().for_each(|peer| peer.join().unwrap());
    let until = Instant::now() + HANG;
    while descriptors() > before {
        assert!(Instant::now() < until, "{} descriptors before, {} now", before, descriptors());
        thread::sleep(Duration::from_millis(20));
    }
}
