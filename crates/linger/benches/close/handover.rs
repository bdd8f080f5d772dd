//! What handing a socket over costs its server, and how many ends a second a core does.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use linger::{Budget, Closer, Policy};

use crate::support::until;
use crate::{Goal, claim, median, note, peers, quantile};

const HANDED: usize = 10_000;
const SECONDS: u32 = 4;

pub(crate) fn run() {
    let closer = Closer::new(Budget::default()).expect("a closer");
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let (mut asleep, mut awake) = (Vec::new(), Vec::new());
    for _ in 0..HANDED / 500 {
        let pairs: Vec<_> = (0..500)
            .map(|_| {
                let client = TcpStream::connect(address).expect("a connection");
                (client, listener.accept().expect("a connection").0)
            })
            .collect();
        let mut clients = Vec::new();
        for (number, (client, server)) in pairs.into_iter().enumerate() {
            // Half of them one by one, when the thread has gone to sleep; half of them in a burst.
            let wait = number < 250;
            if wait {
                std::thread::sleep(Duration::from_micros(200));
            }
            let started = Instant::now();
            closer.close(server, &Policy::default());
            let cost = started.elapsed().as_secs_f64() * 1e6;
            if wait {
                asleep.push(cost)
            } else {
                awake.push(cost)
            }
            clients.push(client);
        }
        drop(clients);
        until(&closer, |snapshot| snapshot.lingering == 0);
    }
    let mut all: Vec<f64> = asleep.iter().chain(&awake).copied().collect();
    claim("handing over, median", median(&mut all), " us", Goal::AtMost(5.0));
    for (which, mut costs) in [("to a sleeping closer", asleep), ("in a burst", awake)] {
        let (half, most) = (median(&mut costs), quantile(&mut costs, 0.99));
        note(&format!("{which}: median {half:.2} us, p99 {most:.2} us"));
    }
    ends_per_core();
}

/// A server of a few lines around the closer beside nginx, both with `Connection: close`.
fn ends_per_core() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let stop = Arc::new(AtomicBool::new(false));
    let closer = Closer::new(Budget::default()).expect("a closer");
    let serving = {
        let (stop, closer) = (stop.clone(), closer.clone());
        std::thread::spawn(move || {
            let page =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{:0100}", 0);
            let policy = Policy::default();
            let mut request = [0; 4096];
            while !stop.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else { return };
                if stream.read(&mut request).is_ok() && stream.write_all(page.as_bytes()).is_ok() {
                    closer.close(stream, &policy);
                }
            }
        })
    };
    let cpu = peers::cpu_of("/proc/self");
    let Some(mine) = peers::wrk(address, 64, SECONDS) else { return };
    let mine_per_core = mine.requests / (peers::cpu_of("/proc/self") - cpu);
    stop.store(true, Ordering::Relaxed);
    drop(TcpStream::connect(address));
    serving.join().expect("the server");
    let Some(nginx) = peers::nginx() else { return };
    let cpu = nginx.cpu();
    let Some(theirs) = peers::wrk(nginx.address, 64, SECONDS) else { return };
    let nginx_per_core = theirs.requests / (nginx.cpu() - cpu);
    note(&format!(
        "connections a second of one core: {mine_per_core:.0} with the closer ({} errors), {nginx_per_core:.0} nginx \
         ({} errors), {:.2} of it",
        mine.errors,
        theirs.errors,
        mine_per_core / nginx_per_core
    ));
}
