//! A second opinion: the same packets through the box and through a router whose kernel tracks connections (`nf_conntrack`), one by one.
//!
//! The kernel's rules drop what is INVALID, and where the box picks nothing up also what is NEW without being a SYN. (A reset of a
//! connection of which only the opening side was heard counts as NEW for Linux.)

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use linger_netns::{Namespace, net};
use linger_packet::{Flags, Segment};
use linger_testing::{sandboxed, skip};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::track::{BoxDecision, Tracker};
use super::{Middlebox, MiddleboxEnd, MiddleboxKind, MiddleboxTimeouts, WithoutState};
use crate::clock::Nanos;
use crate::kernel::{Frame, FramePool, Port};
use crate::link::Direction;
use crate::link::frames::{CLIENT, ROUTER, SERVER, TestPacket};
use crate::link::mtu::checksum;

/// A host that only forwards, and the far ends of its two links, from which frames are sent and at which they are read.
struct Router {
    _inside: Namespace,
    _outside: Namespace,
    /// By the direction of the frames that are sent there.
    ports: [Port; 2],
    pool: FramePool,
}

/// The links of the router, by the direction of the frames that arrive there: name, the router's address, its neighbour.
const LINKS: [(&str, [u8; 4], [u8; 4]); 2] = [("s0", [10, 2, 0, 1], SERVER), ("c0", [10, 1, 0, 1], CLIENT)];

impl Router {
    fn new(picks_up: bool, silence: Duration) -> Self {
        let [inside, outside] = [(); 2].map(|()| Namespace::new().unwrap());
        let descriptor = outside.descriptor().unwrap();
        inside
            .run(|| {
                for (at, (name, own, neighbour)) in LINKS.into_iter().enumerate() {
                    net::veth(name, ROUTER[at], name, descriptor).unwrap();
                    net::address(name, IpAddr::from(own), 24).unwrap();
                    net::offloads_off(name).unwrap();
                    net::up(name).unwrap();
                    net::neighbour(name, IpAddr::from(neighbour), [2, 0, 0, 0, 1, 9]).unwrap();
                }
                net::sysctl("ipv4/ip_forward", "1").unwrap();
                for state in [
                    "syn_sent",
                    "syn_recv",
                    "established",
                    "fin_wait",
                    "close_wait",
                    "last_ack",
                    "time_wait",
                    "close",
                ] {
                    let name = format!("netfilter/nf_conntrack_tcp_timeout_{state}");
                    net::sysctl(&name, &silence.as_secs().to_string()).unwrap();
                }
                rule("-m conntrack --ctstate INVALID -j DROP");
                if !picks_up {
                    rule("-p tcp --tcp-flags SYN,RST NONE -m conntrack --ctstate NEW -j DROP");
                }
            })
            .unwrap();
        let ports = outside.run(|| {
            LINKS.map(|(name, ..)| {
                net::offloads_off(name).unwrap();
                net::up(name).unwrap();
                Port::open(name).unwrap()
            })
        });
        let ports = ports.unwrap();
        let mut router = Self { _inside: inside, _outside: outside, ports, pool: FramePool::default() };
        router.settle();
        router
    }

    /// Waits until both links carry frames: what is sent before the kernel has noticed that they are up is lost.
    fn settle(&mut self) {
        for direction in Direction::BOTH {
            let marker = marker(direction);
            let started = Instant::now();
            let mut seen = Vec::new();
            while !seen.iter().any(is_marker) {
                assert!(started.elapsed() < Duration::from_secs(20), "the router forwards nothing");
                self.send(direction, vec![Frame::from(&marker[..])]);
                std::thread::sleep(Duration::from_millis(20));
                self.receive(direction, &mut seen);
            }
        }
        // What was sent too often is on its way no more.
        std::thread::sleep(Duration::from_millis(100));
        for direction in Direction::BOTH {
            self.receive(direction, &mut Vec::new());
        }
    }

    fn send(&mut self, direction: Direction, mut frames: Vec<Frame>) {
        assert_eq!(self.ports[direction.index()].send(&mut self.pool, &mut frames).unwrap(), 0);
    }

    /// Reads what has arrived of this direction.
    fn receive(&mut self, direction: Direction, seen: &mut Vec<Frame>) {
        let port = &self.ports[direction.reverse().index()];
        while port.receive(&mut self.pool, seen).unwrap() > 0 {}
    }

    /// Whether the kernel lets this packet through. A marker sent behind it says when there is nothing more to wait for.
    fn passes(&mut self, packet: &TestPacket) -> bool {
        let frames = [packet.frame(), marker(packet.direction)].map(|bytes| Frame::from(&bytes[..]));
        self.send(packet.direction, frames.into());
        let (mut seen, started) = (Vec::new(), Instant::now());
        while !seen.iter().any(is_marker) {
            assert!(started.elapsed() < Duration::from_secs(20), "no marker: {seen:?}");
            self.receive(packet.direction, &mut seen);
        }
        let is_it = |frame: &Frame| {
            Segment::from_ethernet(frame.bytes()).is_ok_and(|segment| {
                (segment.seq, segment.ack, segment.flags) == (packet.seq, packet.ack, packet.flags)
            })
        };
        seen.iter().any(is_it)
    }
}

/// The protocol of markers: 253 is for experiments (RFC 3692).
const MARKER: u8 = 253;

/// An IPv4 packet with nothing in it, which takes the way of TCP packets of this direction.
fn marker(direction: Direction) -> Vec<u8> {
    let mut frame = TestPacket::new(direction, Flags::ACK, 0, 0, 0).frame();
    frame.truncate(34);
    frame[16..18].copy_from_slice(&20u16.to_be_bytes());
    frame[23] = MARKER;
    frame[24..26].copy_from_slice(&[0, 0]);
    let sum = checksum(0, &frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn is_marker(frame: &Frame) -> bool {
    frame.bytes().get(12..14) == Some(&[8, 0]) && frame.bytes().get(23) == Some(&MARKER)
}

fn rule(rule: &str) {
    let arguments = rule.split(' ');
    let output = Command::new("iptables").args(["-A", "FORWARD"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Whether the kernel can be asked.
fn can_ask() -> bool {
    if Command::new("iptables").arg("--version").output().is_err() {
        skip("iptables", "there is no `iptables`");
        return false;
    }
    let path = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose";
    let is_there = std::path::Path::new(path).exists();
    if !is_there {
        skip("connection tracking", "the kernel has no nf_conntrack");
    }
    is_there
}

fn rules(picks_up: bool, silence: Duration) -> Middlebox {
    Middlebox {
        kind: MiddleboxKind::Firewall,
        end: MiddleboxEnd::Server,
        timeouts: MiddleboxTimeouts { syn: silence, idle: silence, half_closed: silence, closed: silence },
        then: if picks_up { WithoutState::PickUp } else { WithoutState::Drop },
        drop_invalid: true,
    }
}

fn box_passes(tracker: &mut Tracker, now: Nanos, packet: &TestPacket) -> bool {
    let (decision, _) = tracker.pass(packet.direction, now, &mut packet.frame());
    matches!(decision, BoxDecision::Pass | BoxDecision::PickUp)
}

/// What two ends of a connection may send, as they know it themselves.
struct TwoEnds {
    next: [u32; 2],
    heard: [u32; 2],
}

/// A connection that goes well for a while, in which now and then something goes wrong: sent again, late, beyond the window, with
/// other flags, from nowhere.
fn conversation(rng: &mut ChaCha8Rng, port: u16) -> Vec<TestPacket> {
    let mut below = |most: u32| (rng.next_u64() % u64::from(most)) as u32;
    let scale = (below(2) == 0).then_some(3);
    let mut ends = TwoEnds { next: [500, 100], heard: [100, 500] };
    let packet = |direction, flags, seq, ack, payload, window| TestPacket {
        port,
        window,
        ..TestPacket::new(direction, Flags(flags), seq, ack, payload)
    };
    let (client, server) = (Direction::ToServer, Direction::ToClient);
    let mut all = vec![
        TestPacket { scale, ..packet(client, 0x02, 99, 0, 0, 900) },
        TestPacket { scale, ..packet(server, 0x12, 499, 100, 0, 900) },
        packet(client, 0x10, 100, 500, 0, 900),
    ];
    // Some begin in their middle.
    all.drain(..below(5).saturating_sub(1).min(3) as usize);
    for _ in 0..below(12) + 4 {
        let direction = if below(2) == 0 { client } else { server };
        let (here, there) = (direction.index(), direction.reverse().index());
        let flags = match below(20) {
            0..=12 => 0x10,
            13..=15 => 0x11,
            16 => 0x04,
            17 => 0x14,
            18 => 0x02,
            _ => [0x12, 0x00, 0x01, 0x30, 0x06][below(5) as usize],
        };
        let payload = if flags == 0x10 { below(4) * 100 } else { 0 };
        // The other end has heard what was sent so far, or not all of it.
        if below(3) > 0 {
            ends.heard[here] = ends.next[there];
        }
        let mut seq = ends.next[here];
        let mut ack = if flags & 0x10 == 0 { 0 } else { ends.heard[here] };
        match below(12) {
            0 => seq = seq.wrapping_add(below(20_000)),
            1 => seq = seq.wrapping_sub(below(20_000)),
            2 => ack = ack.wrapping_add(below(2_000)),
            3 => ack = ack.wrapping_sub(below(80_000)),
            4 => seq = seq.wrapping_sub(1),
            _ => ends.next[here] = seq.wrapping_add(payload + u32::from(flags & 1)),
        }
        let window = [900, 900, 900, 0, 100][below(5) as usize];
        all.push(packet(direction, flags, seq, ack, payload as usize, window));
    }
    all
}

/// Thousands of packets, none of which comes late.
#[test]
fn the_kernels_connection_tracking_lets_the_same_packets_through() {
    sandboxed(|| {
        if !can_ask() {
            return;
        }
        for picks_up in [false, true] {
            let silence = Duration::from_secs(3_600);
            let mut router = Router::new(picks_up, silence);
            let mut tracker = Tracker::new(rules(picks_up, silence));
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            let (mut passed, mut dropped, mut differ) = (0, 0, Vec::new());
            for number in 0..600u16 {
                let packets = conversation(&mut rng, 20_000 + number);
                let decided: Vec<[bool; 2]> = packets
                    .iter()
                    .map(|packet| [router.passes(packet), box_passes(&mut tracker, 1_000, packet)])
                    .collect();
                passed += decided.iter().filter(|by| by[0]).count();
                dropped += decided.iter().filter(|by| !by[0]).count();
                if let Some(at) = decided.iter().position(|[kernel, ours]| kernel != ours) {
                    differ.push((packets[..=at].to_vec(), decided[at]));
                }
            }
            let shown: Vec<_> = differ.iter().take(3).collect();
            assert!(
                differ.is_empty(),
                "picks up: {picks_up}: {} of 600 conversations differ, as {shown:#?}",
                differ.len()
            );
            assert!(passed > 1_500 && dropped > 300, "both happen: {passed} passed, {dropped} dropped");
        }
    });
}

/// Brings a connection to each state, is silent for less than the time and for more than it, and asks both.
#[test]
fn the_kernel_forgets_what_the_box_forgets() {
    sandboxed(|| {
        if !can_ask() {
            return;
        }
        let silence = Duration::from_secs(2);
        let mut router = Router::new(false, silence);
        let mut tracker = Tracker::new(rules(false, silence));
        let start = Instant::now();
        let (client, server) = (Direction::ToServer, Direction::ToClient);
        let opening = [(client, 0x02, 99, 0), (server, 0x12, 499, 100), (client, 0x10, 100, 500)];
        let endings: [&[(Direction, u8, u32, u32)]; 5] = [
            &[],
            &[(server, 0x11, 500, 100)],
            &[(server, 0x11, 500, 100), (client, 0x10, 100, 501)],
            &[(server, 0x11, 500, 100), (client, 0x11, 100, 501)],
            &[(server, 0x14, 500, 100)],
        ];
        let mut ask = |port: u16, (direction, flags, seq, ack): (Direction, u8, u32, u32)| {
            let packet = TestPacket { port, ..TestPacket::new(direction, Flags(flags), seq, ack, 0) };
            let now = start.elapsed().as_nanos() as Nanos;
            [router.passes(&packet), box_passes(&mut tracker, now, &packet)]
        };
        for (number, ending) in endings.iter().enumerate() {
            for packet in opening.iter().chain(*ending) {
                assert_eq!(ask(30_000 + number as u16, *packet), [true; 2], "{packet:?}");
            }
        }
        let late = (client, 0x10, 100, 500);
        for number in 0..endings.len() as u16 {
            assert_eq!(ask(30_000 + number, late), [true; 2], "known: {number}");
        }
        // Longer than the time by as much again: the kernel counts in whole seconds.
        std::thread::sleep(2 * silence);
        for number in 0..endings.len() as u16 {
            assert_eq!(ask(30_000 + number, late), [false; 2], "forgotten: {number}");
        }
    });
}
