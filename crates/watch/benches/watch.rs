//! The cost of watching a thousand resets a second, and none.
//!
//! `cargo bench -p linger-watch --bench watch`. The watcher is a process of its own (this program, called with
//! `--watch`), whose processor time the kernel counts.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use linger_watch::{Filter, Notice, Watcher};

const RATE: u64 = 1_000;
const SECONDS: u64 = 10;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--watch") {
        return watch(
            arguments[at + 1].parse().expect("a port"),
            arguments[at + 2].parse().expect("seconds"),
        );
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    let port = listener.local_addr().expect("its address").port();
    if let Err(error) = Watcher::open(Filter::default()) {
        return println!("skipped: {error}");
    }
    println!("idle for {SECONDS} s: {}", measured(port, SECONDS, || {}));
    let busy = measured(port, SECONDS + 2, || {
        let start = Instant::now();
        for n in 0..RATE * SECONDS {
            let mut client = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
            client.write_all(b"unread").expect("room");
            drop(listener.accept().expect("it"));
            let due = start + Duration::from_nanos(n * 1_000_000_000 / RATE);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        println!("{} resets in {:.1} s", RATE * SECONDS, start.elapsed().as_secs_f64());
    });
    println!("busy: {busy}");
}

fn measured(port: u16, seconds: u64, load: impl FnOnce()) -> String {
    let mut child = Command::new(std::env::current_exe().expect("this program's own path"))
        .args(["--watch", &port.to_string(), &seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "ready");
    load();
    let report = lines.next().expect("a line").expect("text");
    child.wait().expect("it ends");
    report
}

/// Watches, writes each reset as JSON as the program does, and prints the processor time used.
fn watch(port: u16, seconds: u64) {
    let mut filter = Filter::default();
    filter.ports = vec![port];
    let mut watcher = Watcher::open(filter).expect("the parent could");
    println!("ready");
    let before = processor_time();
    let start = Instant::now();
    let (mut sent, mut received) = (0, 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        for notice in watcher.next(Duration::from_millis(500)).expect("events") {
            serde_json::to_writer(std::io::sink(), &notice).expect("a sink");
            if let Notice::Reset(reset) = notice {
                match reset.direction {
                    linger_watch::Direction::Sent => sent += 1,
                    _ => received += 1,
                }
            }
        }
    }
    let share = (processor_time() - before) / start.elapsed().as_secs_f64() * 100.0;
    println!(
        "{sent} sent and {received} received seen, {} events lost, {share:.2} % of one core",
        watcher.lost()
    );
}

/// User and system time of this process in seconds, as the kernel counts them.
fn processor_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
