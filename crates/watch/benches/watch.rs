//! The cost of watching a thousand resets a second, and none, and of recording their packets.
//!
//! `cargo bench -p linger-watch --bench watch`; `-- --seconds 60` for longer. The watcher is a process of its own (this program, called with
//! `--watch`), whose processor time the kernel counts.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use linger_watch::{Direction, Filter, Notice, PacketTap, RecordOptions, Recorder, Watcher};

const RATE: u64 = 1_000;
const SECONDS: u64 = 10;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--watch") {
        return watch(
            arguments[at + 1].parse().expect("a port"),
            arguments[at + 2].parse().expect("seconds"),
            arguments.get(at + 3).is_some_and(|record| record == "record"),
        );
    }
    let seconds = arguments.iter().position(|argument| argument == "--seconds");
    let seconds = seconds.map_or(SECONDS, |at| arguments[at + 1].parse().expect("seconds"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    let port = listener.local_addr().expect("its address").port();
    if let Err(error) = Watcher::open(Filter::default()) {
        return println!("skipped: {error}");
    }
    for record in [false, true] {
        let name = if record { "recording" } else { "watching" };
        let idle = seconds.min(SECONDS);
        println!("{name}, idle for {idle} s: {}", measured(port, idle, record, || {}));
        let busy = measured(port, seconds + 2, record, || {
            let start = Instant::now();
            for n in 0..RATE * seconds {
                let mut client = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
                client.write_all(b"unread").expect("room");
                drop(listener.accept().expect("it"));
                let due = start + Duration::from_nanos(n * 1_000_000_000 / RATE);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            println!("{} resets in {:.1} s", RATE * seconds, start.elapsed().as_secs_f64());
        });
        println!("{name}, busy: {busy}");
    }
}

fn measured(port: u16, seconds: u64, record: bool, load: impl FnOnce()) -> String {
    let mut child = Command::new(std::env::current_exe().expect("this program's own path"))
        .args(["--watch", &port.to_string(), &seconds.to_string(), if record { "record" } else { "" }])
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
fn watch(port: u16, seconds: u64, record: bool) {
    let mut filter = Filter::default();
    filter.ports = vec![port];
    let mut watcher = Watcher::open(filter).expect("the parent could");
    let directory = tempfile::tempdir().expect("a directory");
    if record {
        let mut options = RecordOptions::new(directory.path());
        options.ports = vec![port];
        let tap = PacketTap::open(options).expect("who may watch may read packets");
        watcher.record(Recorder::begin(tap).expect("a directory of its own"));
    }
    println!("ready");
    let before = processor_time();
    let start = Instant::now();
    let (mut sent, mut received) = (0, 0);
    // What kernel and packets say of those that were sent.
    let mut agreements = BTreeMap::new();
    while start.elapsed() < Duration::from_secs(seconds) {
        for notice in watcher.next(Duration::from_millis(500)).expect("events") {
            serde_json::to_writer(std::io::sink(), &notice).expect("a sink");
            if let Notice::Reset(reset) = notice {
                if reset.direction != Direction::Sent {
                    received += 1;
                    continue;
                }
                sent += 1;
                let agreement = reset.recorded.map_or("no record", |recorded| recorded.agreement.name());
                *agreements.entry(agreement).or_insert(0u64) += 1;
            }
        }
    }
    let share = (processor_time() - before) / start.elapsed().as_secs_f64() * 100.0;
    let recorded = watcher
        .recorder()
        .map_or(String::new(), |recorder| format!(", of those sent {agreements:?}, {:?}", recorder.counts()));
    println!(
        "{sent} sent and {received} received seen, {} events lost, {share:.2} % of one core, {} KiB at most{recorded}",
        watcher.lost(),
        most_memory()
    );
}

/// User and system time of this process in seconds, as the kernel counts them.
fn processor_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The largest resident set of this process so far, in KiB.
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel has it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
