//! The cost of watching a thousand resets a second, and none, and of recording their packets.
//!
//! `cargo bench -p linger-watch --bench watch`; `-- --seconds 60` for longer, `--recording` for the recorder alone, `--flows 20000` for so many
//! connections that are open at once and then all reset at once. The watcher is a process of its own (this program, called with
//! `--watch`), whose processor time the kernel counts.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use linger_watch::{Direction, Filter, Notice, PacketTap, RecordOptions, Recorder, Watcher};

const RATE: u64 = 1_000;
const SECONDS: u64 = 10;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--watch") {
        return watch(
            arguments[at + 1].split(',').map(|port| port.parse().expect("a port")).collect(),
            arguments[at + 2].parse().expect("seconds"),
            arguments.get(at + 3).is_some_and(|record| record == "record"),
        );
    }
    if let Some(at) = arguments.iter().position(|argument| argument == "--hold") {
        return hold(arguments[at + 1].parse().expect("a number"));
    }
    let only_recording = arguments.iter().any(|argument| argument == "--recording");
    if let Some(at) = arguments.iter().position(|argument| argument == "--flows") {
        return flows(arguments[at + 1].parse().expect("a number"), only_recording);
    }
    let seconds = arguments.iter().position(|argument| argument == "--seconds");
    let seconds = seconds.map_or(SECONDS, |at| arguments[at + 1].parse().expect("seconds"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    let port = listener.local_addr().expect("its address").port();
    if let Err(error) = Watcher::open(Filter::default()) {
        return println!("skipped: {error}");
    }
    for record in [false, true] {
        if only_recording && !record {
            continue;
        }
        let name = if record { "recording" } else { "watching" };
        let idle = seconds.min(SECONDS);
        println!("{name}, idle for {idle} s: {}", measured(&port.to_string(), idle, record, || {}));
        let busy = measured(&port.to_string(), seconds + 2, record, || {
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

fn measured(ports: &str, seconds: u64, record: bool, load: impl FnOnce()) -> String {
    let mut child = Command::new(std::env::current_exe().expect("this program's own path"))
        .args(["--watch", ports, &seconds.to_string(), if record { "record" } else { "" }])
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

/// Processes that hold connections: each may have 20,000 descriptors, and a connection takes two.
const HOLDERS: usize = 3;
/// Connections that each has closed before, both ends of which are events.
const CLOSED: usize = 6_000;
/// Bytes that each connection has unread, in packets of their own.
const PACKETS: usize = 8;

/// Opens `count` connections, sends a few packets on each, and closes all of them with unread bytes, without and with the recorder.
fn flows(count: usize, only_recording: bool) {
    for record in [false, true].into_iter().filter(|record| *record || !only_recording) {
        let share = count.div_ceil(HOLDERS).to_string();
        let mut holders: Vec<Holder> = (0..HOLDERS).map(|_| Holder::start(&share)).collect();
        let ports: Vec<String> = holders.iter_mut().map(|holder| holder.says()).collect();
        let report = measured(&ports.join(","), 45, record, || {
            let start = Instant::now();
            for (done, what) in [("open", "opened"), ("closed", "closed")] {
                holders.iter_mut().for_each(|holder| holder.go());
                holders.iter_mut().for_each(|holder| assert_eq!(holder.says(), done));
                println!("{count} {what} after {:.1} s", start.elapsed().as_secs_f64());
            }
        });
        println!("{}, {count} at once: {report}", if record { "recording" } else { "watching" });
        for mut holder in holders {
            holder.go();
            holder.child.wait().expect("it ends");
        }
    }
}

/// A process that holds connections.
struct Holder {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Holder {
    fn start(count: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program's own path"));
        command.args(["--hold", count]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    fn says(&mut self) -> String {
        self.lines.next().expect("a line").expect("text")
    }

    fn go(&mut self) {
        self.child.stdin.as_mut().expect("a pipe").write_all(b"\n").expect("it reads");
    }
}

/// Waits for a line before each step: opens connections, closes their servers' ends, ends.
fn hold(count: usize) {
    let wait = || std::io::stdin().read_line(&mut String::new()).expect("a line");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    let local = listener.local_addr().expect("its address");
    println!("{}", local.port());
    wait();
    // What a busy host has closed lately is remembered, too.
    for _ in 0..CLOSED {
        let client = TcpStream::connect(local).expect("a connection");
        drop((client, listener.accept().expect("it")));
    }
    let mut clients = Vec::with_capacity(count);
    let mut servers = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(TcpStream::connect(local).expect("a connection"));
        servers.push(listener.accept().expect("it").0);
    }
    for _ in 0..PACKETS {
        clients.iter_mut().for_each(|client| client.write_all(b"unread").expect("room"));
    }
    println!("open");
    wait();
    drop(servers);
    println!("closed");
    wait();
}

/// Watches, writes each reset as JSON as the program does, and prints the processor time used.
fn watch(ports: Vec<u16>, seconds: u64, record: bool) {
    let mut filter = Filter::default();
    filter.ports.clone_from(&ports);
    let mut watcher = Watcher::open(filter).expect("the parent could");
    let directory = tempfile::tempdir().expect("a directory");
    if record {
        let mut options = RecordOptions::new(directory.path());
        options.ports = ports;
        let tap = PacketTap::open(options).expect("who may watch may read packets");
        watcher.record(Recorder::begin(tap).expect("a directory of its own"));
    }
    println!("ready");
    let before = processor_time();
    let start = Instant::now();
    let (mut sent, mut received, mut further) = (0, 0, 0);
    // What kernel and packets say of those that were sent.
    let mut agreements = BTreeMap::new();
    while start.elapsed() < Duration::from_secs(seconds) {
        for notice in watcher.next(Duration::from_millis(500)).expect("events") {
            serde_json::to_writer(std::io::sink(), &notice).expect("a sink");
            if let Notice::Further(more) = &notice {
                further += more.resets;
            }
            if let Notice::Reset(reset) = notice {
                further += reset.further_resets;
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
    let counted = watcher.counted();
    println!(
        "{sent} sent and {received} received seen, {} missed, {} further, {} events lost, {share:.2} % of one core, {} KiB at most{recorded}",
        counted.missed,
        further,
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
