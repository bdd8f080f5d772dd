//! Speed and memory of the diagnosis, against tshark and tcptrace on the same capture, in one run.
//!
//! `cargo bench -p linger-why --bench why`. Times whole processes, from start to exit: the other programs, and
//! this one, called again with `--examine FILE`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use linger_packet::{LinkType, capture, pcapng};
use linger_why::{
    AnalyzerLimits, CaptureSet, ExamineEvent, ExamineOptions, Groups, ReadStop, examine, examine_set,
};

/// As many packets as the capture has on which tshark and tcptrace were measured first.
const PACKETS: u64 = 273_000;
/// Connections that are open at any moment; they send one packet each in turn.
const AT_ONCE: usize = 200;
const FLOWS: u32 = 100_000;
const STREAM: u64 = 5 << 30;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--examine") {
        return examine_and_report(Path::new(&arguments[at + 1]));
    }
    if let Some(at) = arguments.iter().position(|argument| argument == "--examine-set") {
        let (mut groups, set) = (Groups::default(), CaptureSet::of(&[PathBuf::from(&arguments[at + 1])]));
        return examine_set(&set, &ExamineOptions::default(), &ReadStop::default(), |event| {
            if let ExamineEvent::Finding(finding) = event {
                groups.add(*finding);
            }
        });
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let capture = directory.path().join("bench.pcap");
    let mut file = BufWriter::new(File::create(&capture).expect("a file"));
    Traffic::new(&mut file).exchange(PACKETS, AT_ONCE).expect("room for 200 MB");
    drop(file);
    let size = std::fs::metadata(&capture).expect("the capture").len();
    println!(
        "{PACKETS} packets, {:.0} MB, on {} cores",
        size as f64 / 1e6,
        std::thread::available_parallelism().map_or(0, usize::from)
    );

    let own = median(9, || ourselves(&capture));
    row("linger why", own, own);
    let ng = directory.path().join("bench.pcapng");
    as_pcapng(&capture, &ng).expect("room for 200 MB");
    row("linger why, the same as pcapng", median(9, || ourselves(&ng)), own);
    let plain = median(9, || timed(Command::new("cat").arg(&capture)));
    if let Some(plain) = plain {
        row("cat to /dev/null, for the file alone", Some(plain), own);
    }
    row(
        "tcpdump -r, no output",
        median(3, || timed(Command::new("tcpdump").arg("-r").arg(&capture).args(["-w", "/dev/null"]))),
        own,
    );
    row("tcptrace", median(3, || timed(Command::new("tcptrace").arg(&capture))), own);
    row(
        "tshark -q -z expert",
        median(1, || timed(Command::new("tshark").args(["-q", "-z", "expert", "-r"]).arg(&capture))),
        own,
    );

    several(&capture);

    let live = directory.path().join("live.pcap");
    let mut file = BufWriter::new(File::create(&live).expect("a file"));
    Traffic::new(&mut file).live(FLOWS).expect("room");
    drop(file);
    let report = output(Command::new(ourself()).arg("--examine").arg(&live).stdin(Stdio::null()));
    println!("{FLOWS} live flows: {report}");

    let (report, took) = stream();
    println!(
        "{} GiB from standard input: {report}, {:.1} s, {:.2} GB/s",
        STREAM >> 30,
        took.as_secs_f64(),
        STREAM as f64 / 1e9 / took.as_secs_f64()
    );
}

fn as_pcapng(capture: &Path, ng: &Path) -> io::Result<()> {
    let mut writer = pcapng::Writer::new(BufWriter::new(File::create(ng)?), "bench")?;
    let interface = writer.interface("bench0", LinkType::ETHERNET, 0)?;
    let mut reader = capture::open(capture).map_err(io::Error::other)?;
    while let Some(packet) = reader.next().map_err(io::Error::other)? {
        writer.packet(interface, packet.time_ns, packet.data, packet.wire_len as u32, None)?;
    }
    Ok(())
}

fn row(name: &str, took: Option<Duration>, own: Option<Duration>) {
    match (took, own) {
        (Some(took), Some(own)) => println!(
            "{name:<38} {:>9.1} ms {:>7.2} x",
            took.as_secs_f64() * 1e3,
            took.as_secs_f64() / own.as_secs_f64()
        ),
        _ => println!("{name:<38} skipped: not installed"),
    }
}

fn median(times: usize, run: impl Fn() -> Option<Duration>) -> Option<Duration> {
    let mut all = (0..times).map(|_| run()).collect::<Option<Vec<_>>>()?;
    all.sort();
    Some(all[times / 2])
}

fn timed(command: &mut Command) -> Option<Duration> {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
    assert!(status.success(), "{command:?}: {status}");
    Some(start.elapsed())
}

fn ourself() -> PathBuf {
    std::env::current_exe().expect("this program's own path")
}

fn ourselves(capture: &Path) -> Option<Duration> {
    timed(Command::new(ourself()).arg("--examine").arg(capture))
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("this program runs");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Several captures on one processor and on all: links to one file, so that nothing is read from the disk.
fn several(capture: &Path) {
    let folder = tempfile::tempdir_in(capture.parent().expect("a folder")).expect("a temporary directory");
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        std::fs::hard_link(capture, folder.path().join(format!("{name}.pcap"))).expect("a link");
    }
    let of_all = |mut command: Command| timed(command.arg("--examine-set").arg(folder.path()));
    let all = median(5, || of_all(Command::new(ourself())));
    row("8 captures on all cores", all, all);
    let pinned = || {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", "0"]).arg(ourself());
        command
    };
    row("8 captures on one core", median(5, || of_all(pinned())), all);
}

/// What `linger why` does, and how much memory it took at most.
fn examine_and_report(path: &Path) {
    let mut groups = Groups::default();
    let examined =
        examine(path, AnalyzerLimits::default(), |finding| groups.add(finding)).expect("a capture");
    let groups = groups.sorted();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown").trim();
    println!(
        "{} packets, {} connections, {} reset, {} findings, {} forgotten, peak memory {peak}",
        examined.counts.packets,
        examined.counts.connections,
        examined.counts.resets,
        groups.len(),
        examined.counts.forgotten
    );
}

/// Pipes 5 GiB of traffic into this program.
fn stream() -> (String, Duration) {
    let mut child = Command::new(ourself())
        .args(["--examine", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program runs");
    let start = Instant::now();
    let mut pipe =
        Counting { out: BufWriter::with_capacity(1 << 20, child.stdin.take().expect("a pipe")), written: 0 };
    let mut traffic = Traffic::new(&mut pipe);
    while traffic.out.written < STREAM {
        traffic.exchange(100_000, AT_ONCE).expect("the child reads on");
    }
    drop(pipe);
    let output = child.wait_with_output().expect("the child ends");
    (String::from_utf8_lossy(&output.stdout).trim().to_owned(), start.elapsed())
}

struct Counting<W> {
    out: W,
    written: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes a pcap file of HTTP exchanges.
struct Traffic<W: Write> {
    out: W,
    begun: bool,
    time: u64,
    flow: u32,
    frame: Vec<u8>,
}

const SYN: u8 = 2;
const ACK: u8 = 16;
const PSH: u8 = 8;
const FIN: u8 = 1;
const RST: u8 = 4;

/// An open connection: its number, how far it has come, and both sides' next sequence numbers.
#[derive(Clone, Copy)]
struct Open {
    flow: u32,
    step: u32,
    client: u32,
    server: u32,
}

impl<W: Write> Traffic<W> {
    fn new(out: W) -> Self {
        Self { out, begun: false, time: 1_700_000_000_000_000, flow: 0, frame: Vec::new() }
    }

    fn packet(&mut self, open: &Open, from_client: bool, flags: u8, payload: &[u8]) -> io::Result<()> {
        if !self.begun {
            self.begun = true;
            for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
                self.out.write_all(&word.to_le_bytes())?;
            }
        }
        self.time += 73;
        let client = (0x0a00_0000 | (open.flow >> 14), 20_000 + (open.flow & 0x3fff) as u16);
        let server = (0xc0a8_0001u32, 80u16);
        let ((source, destination), (seq, ack)) = if from_client {
            ((client, server), (open.client, open.server))
        } else {
            ((server, client), (open.server, open.client))
        };
        let frame = &mut self.frame;
        frame.clear();
        frame.extend([2; 12]);
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(((52 + payload.len()) as u16).to_be_bytes());
        frame.extend((self.time as u16).to_be_bytes());
        frame.extend([0x40, 0, 64, 6, 0, 0]);
        frame.extend(source.0.to_be_bytes());
        frame.extend(destination.0.to_be_bytes());
        frame.extend(source.1.to_be_bytes());
        frame.extend(destination.1.to_be_bytes());
        frame.extend(seq.to_be_bytes());
        frame.extend(if flags & ACK != 0 { ack } else { 0 }.to_be_bytes());
        frame.extend([0x80, flags, 1, 0xf4, 0, 0, 0, 0, 1, 1, 8, 10]);
        frame.extend((self.time as u32).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(payload);
        for word in [
            (self.time / 1_000_000) as u32,
            (self.time % 1_000_000) as u32,
            frame.len() as u32,
            frame.len() as u32,
        ] {
            self.out.write_all(&word.to_le_bytes())?;
        }
        self.out.write_all(frame)
    }

    /// Writes the next packet of a connection. Returns false once the connection has ended.
    fn step(&mut self, open: &mut Open) -> io::Result<bool> {
        const REQUEST: &[u8] = b"GET /page HTTP/1.1\r\nHost: server\r\n\r\n";
        const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 16896\r\n\r\n";
        const BODY: [u8; 1408] = [b'x'; 1408];
        let aborts = open.flow.is_multiple_of(97);
        match open.step {
            0 => self.packet(open, true, SYN, &[])?,
            1 => {
                open.client += 1;
                self.packet(open, false, SYN | ACK, &[])?;
                open.server += 1;
            }
            2 => self.packet(open, true, ACK, &[])?,
            3 => {
                self.packet(open, true, PSH | ACK, REQUEST)?;
                open.client += REQUEST.len() as u32;
            }
            4 => self.packet(open, false, ACK, &[])?,
            5 => {
                self.packet(open, false, PSH | ACK, HEAD)?;
                open.server += HEAD.len() as u32;
            }
            6..=23 if open.step % 3 == 2 => self.packet(open, true, ACK, &[])?,
            6..=23 => {
                self.packet(open, false, ACK, &BODY)?;
                open.server += BODY.len() as u32;
            }
            24 if aborts => {
                self.packet(open, false, RST | ACK, &[])?;
                return Ok(false);
            }
            24 => {
                self.packet(open, false, FIN | ACK, &[])?;
                open.server += 1;
            }
            25 => {
                self.packet(open, true, FIN | ACK, &[])?;
                open.client += 1;
            }
            _ => {
                self.packet(open, false, ACK, &[])?;
                return Ok(false);
            }
        }
        open.step += 1;
        Ok(true)
    }

    fn open(&mut self) -> Open {
        self.flow += 1;
        Open {
            flow: self.flow,
            step: 0,
            client: self.flow.wrapping_mul(0x9e37_79b9) >> 1,
            server: self.flow.wrapping_mul(0x85eb_ca6b) >> 1,
        }
    }

    /// Writes `packets` packets of `at_once` connections at a time, one packet of each in turn.
    fn exchange(&mut self, packets: u64, at_once: usize) -> io::Result<()> {
        let mut open: Vec<Open> = (0..at_once).map(|_| self.open()).collect();
        for at in 0..packets {
            let place = at as usize % at_once;
            let mut connection = open[place];
            open[place] = if self.step(&mut connection)? { connection } else { self.open() };
        }
        Ok(())
    }

    /// Writes connections that all stay open: a handshake, a request, half a response.
    fn live(&mut self, connections: u32) -> io::Result<()> {
        let mut open: Vec<Open> = (0..connections).map(|_| self.open()).collect();
        for _ in 0..12 {
            for connection in &mut open {
                self.step(connection)?;
            }
        }
        Ok(())
    }
}
