//! What handing a socket over costs its server, and how many ends a second a core does.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use linger::{Budget, Closer, Policy};

use crate::support::until;
use crate::{Goal, claim, median, note, peers, quantile};

/// Connections made at a time.
const BATCH: usize = 500;
const BATCHES: usize = 10;
const SECONDS: u32 = 4;

pub(crate) fn run() {
    let closer = Closer::new(Budget::default()).expect("a closer");
    let hand_over = |stream| closer.close(stream, &Policy::default());
    let (mut asleep, mut woken) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        // After 6 ms without work the thread sleeps, and the caller's caches are cold.
        let pause = Duration::from_millis(6);
        asleep.extend(costs(BATCH / 4, pause, hand_over));
        until(&closer, |snapshot| snapshot.lingering == 0);
        woken.extend(costs(BATCH / 4, pause, drop));
    }
    let (mut burst, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        burst.extend(costs(BATCH, Duration::ZERO, hand_over));
        until(&closer, |snapshot| snapshot.lingering == 0);
        plain.extend(costs(BATCH, Duration::ZERO, drop));
    }
    for (which, costs) in [
        ("in a burst", &mut burst),
        ("a plain close", &mut plain),
        ("after 6 ms of sleep", &mut asleep),
        ("a plain close after such a sleep", &mut woken),
    ] {
        let (half, most) = (median(costs), quantile(costs, 0.99));
        note(&format!("{which}: median {half:.2} us, p99 {most:.2} us"));
    }
    // Of a plain close in the same run: a bound in microseconds would judge the machine.
    claim("handing over, of a plain close", median(&mut burst) / median(&mut plain), " x", Goal::AtMost(0.9));
    let above = median(&mut asleep) - median(&mut woken);
    claim("after 6 ms of sleep, median above a plain close's", above, " us", Goal::AtMost(5.0));
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

/// What ending each of some fresh connections costs the caller, in microseconds.
fn costs(connections: usize, pause: Duration, end: impl Fn(TcpStream)) -> Vec<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let connect =
        |_| (TcpStream::connect(address).expect("a connection"), listener.accept().expect("a connection").0);
    let (clients, servers): (Vec<_>, Vec<_>) = (0..connections).map(connect).unzip();
    let cost = |server| {
        std::thread::sleep(pause);
        let started = Instant::now();
        end(server);
        started.elapsed().as_secs_f64() * 1e6
    };
    let costs = servers.into_iter().map(cost).collect();
    drop(clients);
    costs
}
