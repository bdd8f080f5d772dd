//! The flight recorder beside tcpdump, on real resets. Needs the right to open tracepoints and packet sockets, usually root.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{alone, both, kill_holder, resets, until, watcher_of};
use linger_packet::capture::CaptureReader;
use linger_packet::{Flags, Segment};
use linger_testing::{HOSTS, Namespace, net, skip, two_hosts};
use linger_watch::{
    Agreement, Direction, IndexedReset, LiveReset, Notice, PacketTap, RecordOptions, Recorder, Watcher,
};
use linger_why::Cause;
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;

/// A watcher of ports that records into a directory of its own.
struct Recording {
    watcher: Watcher,
    directory: TempDir,
}

impl Recording {
    /// `None` if this user cannot watch. Packets are those of the calling thread's network namespace.
    fn of(ports: &[u16], set: impl FnOnce(&mut RecordOptions)) -> Option<Self> {
        let mut watcher = watcher_of(ports)?;
        let directory = tempfile::tempdir().unwrap();
        let mut options = RecordOptions::new(directory.path());
        options.ports = ports.to_vec();
        set(&mut options);
        let tap = PacketTap::open(options).expect("who may watch may read packets here");
        watcher.record(Recorder::begin(tap).unwrap());
        Some(Self { watcher, directory })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Each record of the index, with its packets.
    fn records(&self) -> Vec<(IndexedReset, Vec<Frame>)> {
        let mut records = Vec::new();
        for name in names(self.path(), "jsonl") {
            for line in fs::read_to_string(name).unwrap().lines() {
                let id = serde_json::from_str::<serde_json::Value>(line).unwrap()["id"]
                    .as_str()
                    .unwrap()
                    .to_owned();
                let (reset, section) = IndexedReset::read(self.path(), &id).unwrap();
                let frames = frames(&section);
                assert_eq!(frames.len() as u64, reset.frames);
                records.push((reset, frames));
            }
        }
        records
    }
}

/// The files with an ending, in order.
fn names(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|found| found == ending)).collect();
    names.sort();
    names
}

/// What tells a packet from others: ends, sequence and acknowledgement numbers, flags, payload, identification.
type Frame = (SocketAddr, SocketAddr, u32, u32, u8, u32, Option<u16>);

fn frames(capture: &[u8]) -> Vec<Frame> {
    let Ok(mut reader) = CaptureReader::in_memory(capture) else { return Vec::new() };
    let mut frames = Vec::new();
    while let Ok(Some(packet)) = reader.next() {
        let segment = Segment::from_frame(packet.link, packet.data, packet.wire_len).unwrap();
        let Segment { source, destination, seq, ack, flags, payload_len, ip_id, .. } = segment;
        frames.push((source, destination, seq, ack, flags.0, payload_len, ip_id));
    }
    frames
}

fn is_reset(frame: &Frame) -> bool {
    Flags(frame.4).has(Flags::RST)
}

/// A tcpdump beside the recorder.
struct Tcpdump {
    child: Child,
    capture: PathBuf,
    _directory: TempDir,
}

impl Tcpdump {
    /// `None` if it is not installed.
    fn start(namespace: Option<&Namespace>, interface: &str, port: u16) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let capture = directory.path().join("beside.pcap");
        let mut command = Command::new("tcpdump");
        // With room for a few thousand packets: its ring has slots of that length.
        command
            .args(["-i", interface, "-U", "--immediate-mode", "-s", "200", "-Z", "root", "-w"])
            .arg(&capture);
        command.args(["tcp", "port", &port.to_string()]).stderr(Stdio::piped()).stdin(Stdio::null());
        let child = match namespace {
            Some(namespace) => namespace.run(|| command.spawn()).unwrap(),
            None => command.spawn(),
        };
        let Ok(mut child) = child else {
            skip("tcpdump", "it is not installed");
            return None;
        };
        let mut said = String::new();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        while !said.contains("listening on") {
            assert_ne!(lines.read_line(&mut said).unwrap(), 0, "{said}");
        }
        Some(Self { child, capture, _directory: directory })
    }

    /// What it has seen, once there are so many frames of a kind.
    fn with(&self, kind: impl Fn(&Frame) -> bool, least: usize) -> Vec<Frame> {
        let bound = Instant::now() + Duration::from_secs(20);
        loop {
            let seen = frames(&fs::read(&self.capture).unwrap_or_default());
            let found = seen.iter().filter(|frame| kind(frame)).count();
            if found >= least {
                return seen;
            }
            assert!(Instant::now() < bound, "{found} of {least} frames: {seen:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The last frame of a kind of which there are so many.
    fn last(&self, kind: impl Fn(&Frame) -> bool, least: usize) -> Frame {
        *self.with(&kind, least).iter().rfind(|frame| kind(frame)).unwrap()
    }

    /// What it saw, once it has seen so many resets.
    fn seen(self, resets: usize) -> Vec<Frame> {
        self.with(is_reset, resets)
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The frames of one connection, by the client's port, up to its first reset.
fn of_connection(seen: &[Frame], client: u16) -> Vec<Frame> {
    let own = |frame: &&Frame| frame.0.port() == client || frame.1.port() == client;
    let mut frames: Vec<Frame> = seen.iter().filter(own).copied().collect();
    let end = frames.iter().position(is_reset).map_or(frames.len(), |at| at + 1);
    frames.truncate(end);
    frames
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A connection that the server closes with unread data. Returns the client.
fn closed_unread(listener: &TcpListener) -> TcpStream {
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.write_all(b"unread").unwrap();
    server.peek(&mut [0]).unwrap();
    drop(server);
    client
}

/// What is told of a connection, by the client's port.
fn told(notices: &[Notice], client: u16, direction: Direction) -> &LiveReset {
    let is = |reset: &&LiveReset| {
        let (local, remote) = (reset.local.port(), reset.remote.map_or(0, |remote| remote.port()));
        reset.direction == direction && (local == client || remote == client)
    };
    resets(notices).find(is).unwrap_or_else(|| panic!("no such reset in {notices:?}"))
}

#[test]
fn late_data_after_close_is_recorded_as_tcpdump_sees_it() {
    let _alone = alone();
    let (listener, port) = listener();
    let Some(mut recording) = Recording::of(&[port], |_| {}) else { return };
    let Some(tcpdump) = Tcpdump::start(None, "lo", port) else { return };
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let client_port = client.local_addr().unwrap().port();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"request").unwrap();
    server.read_exact(&mut [0; 7]).unwrap();
    server.write_all(b"answer").unwrap();
    drop(server);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    client.write_all(b"late").unwrap();
    let notices = until(&mut recording.watcher, both(1, 1));
    let sent = told(&notices, client_port, Direction::Sent);
    assert_eq!(sent.cause, Cause::DataAfterClose, "{sent:?}");
    let recorded = sent.recorded.as_ref().unwrap();
    assert_eq!(
        (recorded.agreement, recorded.kernel),
        (Agreement::Agree, Cause::DataAfterClose),
        "{recorded:?}"
    );
    // Both ends are of this host: the packets are written once.
    let received = told(&notices, client_port, Direction::Received);
    assert_eq!(received.recorded.as_ref().unwrap().agreement, Agreement::Agree);
    let records = recording.records();
    let [(one, frames), (other, same)] = &records[..] else { panic!("{records:?}") };
    assert_eq!((one.offset, one.bytes, frames), (other.offset, other.bytes, same));
    assert_eq!(fs::metadata(&names(recording.path(), "pcapng")[0]).unwrap().len(), one.bytes);
    let sent = records.iter().find(|(entry, _)| entry.id == recorded.id).unwrap();
    assert_eq!((sent.0.direction, sent.0.kernel.cause), (Direction::Sent, Cause::DataAfterClose));
    assert_eq!(*frames, of_connection(&tcpdump.seen(1), client_port));
    assert!(frames.len() >= 8, "each packet once: {frames:?}");
    assert_eq!(recording.watcher.recorder().unwrap().counts().differ, 0);
}

#[test]
fn a_killed_process_has_a_record_for_each_of_its_connections() {
    let _alone = alone();
    let (listener, port) = listener();
    let Some(mut recording) = Recording::of(&[port], |_| {}) else { return };
    let Some(tcpdump) = Tcpdump::start(None, "lo", port) else { return };
    let clients = kill_holder(&listener, 20);
    let notices = until(&mut recording.watcher, both(1, 20));
    let gone = resets(&notices).find(|reset| reset.direction == Direction::Sent).unwrap();
    assert_eq!((gone.cause, gone.connections), (Cause::ProcessGone, 20));
    let recorded = gone.recorded.as_ref().unwrap();
    assert_eq!(recorded.connections, 20);
    assert!(matches!(recorded.agreement, Agreement::Agree | Agreement::Compatible), "{recorded:?}");
    let records = recording.records();
    assert_eq!(records.len(), 40, "each connection has two ends");
    let seen = tcpdump.seen(20);
    for client in clients {
        let client = client.local_addr().unwrap().port();
        let own = of_connection(&seen, client);
        let of_client: Vec<_> = records.iter().filter(|(_, frames)| *frames == own).collect();
        assert_eq!(of_client.len(), 2, "{own:?}");
        for (reset, _) in of_client {
            assert_eq!(reset.kernel.cause, Cause::ProcessGone, "{reset:?}");
            let is_killed = reset.kernel.process.as_ref().is_some_and(|name| *name == *"sleep");
            assert!(is_killed || reset.direction == Direction::Received, "{reset:?}");
        }
    }
}

#[test]
fn a_reset_from_another_namespace_is_recorded_where_it_is_received() {
    let _alone = alone();
    if watcher_of(&[7_118]).is_none() {
        return;
    }
    let [here, there] = two_hosts();
    let Some(mut recording) = here.run(|| Recording::of(&[7_118], |_| {})).unwrap() else { return };
    let Some(tcpdump) = Tcpdump::start(Some(&here), "eth0", 7_118) else { return };
    let listener = there.run(|| TcpListener::bind((HOSTS[1], 7_118))).unwrap().unwrap();
    let client = here.run(|| closed_unread(&listener)).unwrap();
    let client_port = client.local_addr().unwrap().port();
    let notices = until(&mut recording.watcher, both(1, 1));
    let received = told(&notices, client_port, Direction::Received);
    let recorded = received.recorded.as_ref().unwrap();
    assert!(matches!(recorded.agreement, Agreement::Agree | Agreement::Compatible), "{recorded:?}");
    let records = recording.records();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].1, of_connection(&tcpdump.seen(1), client_port));
}

/// The TCP checksum of a segment between the two hosts, first to second or back: the pseudo header counts alike.
fn checksum(segment: &[u8]) -> u16 {
    let hosts = HOSTS.map(|host| match host {
        IpAddr::V4(host) => host.octets(),
        IpAddr::V6(_) => unreachable!("the hosts have IPv4 addresses"),
    });
    let pseudo = [&hosts[0][..], &hosts[1], &[0, 6], &(segment.len() as u16).to_be_bytes()].concat();
    let words = pseudo.chunks(2).chain(segment.chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A box on the path resets a connection in the server's name. No kernel knows of it but the receiver's.
#[test]
fn a_received_reset_that_no_kernel_explains_gets_its_cause_from_its_packets() {
    let _alone = alone();
    if watcher_of(&[7_119]).is_none() {
        return;
    }
    let [here, there] = two_hosts();
    let Some(mut recording) = here.run(|| Recording::of(&[7_119], |_| {})).unwrap() else { return };
    let Some(tcpdump) = Tcpdump::start(Some(&here), "eth0", 7_119) else { return };
    let listener = there.run(|| TcpListener::bind((HOSTS[1], 7_119))).unwrap().unwrap();
    let mut client = here.run(|| TcpStream::connect((HOSTS[1], 7_119))).unwrap().unwrap();
    let client_port = client.local_addr().unwrap().port();
    let (mut server, _) = listener.accept().unwrap();
    for _ in 0..3 {
        client.write_all(b"request").unwrap();
        server.read_exact(&mut [0; 7]).unwrap();
        server.write_all(b"answer").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
    }
    let last_of_server = tcpdump.last(|frame| frame.0.port() == 7_119 && frame.5 == 6, 3);
    let mut reset = [7_119_u16.to_be_bytes(), client_port.to_be_bytes()].concat();
    reset.extend((last_of_server.2 + 6).to_be_bytes());
    reset.extend([0, 0, 0, 0, 0x50, Flags::RST.0, 0, 0, 0, 0, 0, 0]);
    let sum = checksum(&reset);
    reset[16..18].copy_from_slice(&sum.to_be_bytes());
    let sent = there.run(|| {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
        raw.set_ttl_v4(200)?;
        raw.send_to(&reset, &SocketAddr::new(HOSTS[0], 0).into())
    });
    sent.unwrap().unwrap();
    let notices = until(&mut recording.watcher, both(0, 1));
    let received = told(&notices, client_port, Direction::Received);
    let recorded = received.recorded.as_ref().unwrap_or_else(|| panic!("{received:?}"));
    assert_eq!(recorded.kernel, Cause::Unknown, "{received:?}");
    assert_eq!((received.cause, recorded.agreement), (Cause::Forged, Agreement::Compatible), "{received:?}");
    assert!(received.evidence.iter().any(|says| says.starts_with("the packets: ")), "{received:?}");
    let records = recording.records();
    // The server's retransmission may meet no socket, and be reset itself.
    let (entry, frames) = records.iter().find(|(entry, _)| entry.id == recorded.id).unwrap();
    assert_eq!((entry.direction, entry.kernel.cause), (Direction::Received, Cause::Unknown));
    assert_eq!(of_connection(frames, client_port), of_connection(&tcpdump.seen(1), client_port));
}

#[test]
fn a_connection_without_a_reset_leaves_nothing() {
    let _alone = alone();
    let (listener, port) = listener();
    let Some(mut recording) = Recording::of(&[port], |_| {}) else { return };
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (server, _) = listener.accept().unwrap();
    let quiet = client.local_addr().unwrap().port();
    drop(client);
    drop(server);
    assert!(names(recording.path(), "pcapng").is_empty() && names(recording.path(), "jsonl").is_empty());
    // One that is reset afterwards: what came before it has been seen by then.
    let client = closed_unread(&listener).local_addr().unwrap().port();
    let notices = until(&mut recording.watcher, both(1, 1));
    assert!(told(&notices, client, Direction::Sent).recorded.is_some());
    let all: Vec<Frame> = recording.records().into_iter().flat_map(|(_, frames)| frames).collect();
    assert!(!all.is_empty() && of_connection(&all, quiet).is_empty());
}

#[test]
fn the_last_packets_are_kept_and_so_many_of_each() {
    let _alone = alone();
    let (listener, port) = listener();
    let set = |options: &mut RecordOptions| (options.per_flow, options.bytes) = (4, 64);
    let Some(mut recording) = Recording::of(&[port], set) else { return };
    let Some(tcpdump) = Tcpdump::start(None, "lo", port) else { return };
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    for _ in 0..10 {
        client.write_all(&[7; 500]).unwrap();
        server.read_exact(&mut [0; 500]).unwrap();
        server.write_all(b"more").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
    }
    client.write_all(b"unread").unwrap();
    server.peek(&mut [0]).unwrap();
    drop(server);
    let _notices = until(&mut recording.watcher, both(1, 1));
    let records = recording.records();
    let [(_, frames), (_, same)] = &records[..] else { panic!("{records:?}") };
    assert_eq!(frames, same);
    let seen = of_connection(&tcpdump.seen(1), client.local_addr().unwrap().port());
    assert_eq!(*frames, seen[seen.len() - 4..]);
    let capture = fs::read(&names(recording.path(), "pcapng")[0]).unwrap();
    let mut reader = CaptureReader::in_memory(&capture).unwrap();
    while let Some(packet) = reader.next().unwrap() {
        assert!(packet.data.len() <= 16 + 64, "a cooked header, and as many bytes as asked for");
    }
}

#[test]
fn the_oldest_files_are_removed_and_counted() {
    let _alone = alone();
    let (listener, port) = listener();
    let set = |options: &mut RecordOptions| {
        options.per_flow = 8;
        options.keep = options.least_keep();
    };
    let Some(mut recording) = Recording::of(&[port], set) else { return };
    let keep = {
        let mut options = RecordOptions::new("");
        options.per_flow = 8;
        options.least_keep()
    };
    let mut resets = 0;
    while recording.watcher.recorder().unwrap().counts().overwritten < 20 {
        assert!(resets < 2_000, "never full");
        for _ in 0..20 {
            closed_unread(&listener);
        }
        resets += 20;
        until(&mut recording.watcher, both(20, 20));
        let size: u64 = fs::read_dir(recording.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(size <= keep, "{size} of {keep}");
    }
    let counts = recording.watcher.recorder().unwrap().counts();
    assert_eq!(counts.recorded, 2 * resets, "both ends");
    let records = recording.records();
    assert_eq!(counts.overwritten + records.len() as u64, 2 * resets);
    assert!(IndexedReset::read(recording.path(), "1-1").is_err());
}

#[test]
fn packets_of_other_ports_are_not_seen() {
    let _alone = alone();
    let ((one, port), (other, other_port)) = (listener(), listener());
    let set = |options: &mut RecordOptions| options.ports = vec![port];
    let Some(mut recording) = Recording::of(&[port, other_port], set) else { return };
    let (first, second) = (closed_unread(&one), closed_unread(&other));
    let notices = until(&mut recording.watcher, both(2, 2));
    let recorded = |client: &TcpStream| {
        told(&notices, client.local_addr().unwrap().port(), Direction::Sent).recorded.is_some()
    };
    assert!(recorded(&first) && !recorded(&second));
    assert_eq!(recording.records().len(), 2, "both ends");
    assert_eq!(recording.watcher.recorder().unwrap().counts().without_packets, 2, "both ends");
}

#[test]
fn a_burst_is_recorded_as_a_whole() {
    const BURST: usize = 500;
    let _alone = alone();
    let (listener, port) = listener();
    let Some(mut recording) = Recording::of(&[port], |_| {}) else { return };
    let clients: BTreeSet<u16> =
        (0..BURST).map(|_| closed_unread(&listener).local_addr().unwrap().port()).collect();
    assert_eq!(clients.len(), BURST);
    let notices = until(&mut recording.watcher, both(BURST, BURST));
    for reset in resets(&notices) {
        let recorded = reset.recorded.as_ref().unwrap_or_else(|| panic!("{reset:?}"));
        assert!(matches!(recorded.agreement, Agreement::Agree | Agreement::Compatible), "{recorded:?}");
    }
    let records = recording.records();
    let client = |reset: &IndexedReset| {
        [reset.local, reset.remote.unwrap()].map(|end| end.port()).into_iter().find(|end| *end != port)
    };
    let recorded: BTreeSet<u16> = records.iter().filter_map(|(reset, _)| client(reset)).collect();
    assert_eq!((records.len(), &recorded), (2 * BURST, &clients));
    assert!(records.iter().all(|(_, frames)| frames.iter().any(is_reset)));
    let counts = recording.watcher.recorder().unwrap().counts();
    assert_eq!((counts.recorded, counts.dropped_packets, counts.without_packets), (2 * BURST as u64, 0, 0));
}

/// A connection of two ends whose numbers are given, closed by the server with unread data if `reset`.
fn with_numbers(reset: bool) -> (TcpListener, TcpStream, Option<TcpStream>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 7_121)).unwrap();
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.set_reuse_address(true).unwrap();
    client.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 7_122)).into()).unwrap();
    client.connect(&listener.local_addr().unwrap().into()).unwrap();
    let mut client = TcpStream::from(client);
    let (server, _) = listener.accept().unwrap();
    client.write_all(b"unread").unwrap();
    server.peek(&mut [0]).unwrap();
    (listener, client, Some(server).filter(|_| !reset))
}

#[test]
fn the_same_numbers_on_the_loopback_of_another_namespace_are_another_connection() {
    let _alone = alone();
    if watcher_of(&[7_121]).is_none() {
        return;
    }
    let other = Namespace::new().unwrap();
    let inside = || net::up("lo").and_then(|()| Command::new("sleep").arg("1000").spawn());
    let mut holder = other.run(inside).unwrap().unwrap();
    let mut recording = Recording::of(&[7_121], |_| {}).unwrap();
    let here = with_numbers(false);
    let there = other.run(|| with_numbers(true)).unwrap();
    let notices = until(&mut recording.watcher, both(1, 1));
    let all: Vec<_> = resets(&notices).collect();
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all.iter().all(|reset| reset.recorded.is_none()), "{all:?}");
    assert_eq!(recording.watcher.recorder().unwrap().counts().without_packets, 2);
    drop((here, there));
    holder.kill().unwrap();
    holder.wait().unwrap();
}
