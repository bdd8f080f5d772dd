//! The kernel's filter and ring, on packets of real connections in private networks.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream};
use std::process::Command;

use linger_packet::{LinkType, Segment};
use linger_testing::{HOSTS, sandboxed, skip, two_hosts};

use super::*;

/// A packet: interface, kind (`PACKET_OUTGOING` is 4), VLAN, ports, bytes kept and on the wire.
type Seen = (u32, u8, Option<(u16, u16)>, (u16, u16), (usize, u32));

fn open(ports: &[u16], bytes: u32) -> PacketTap {
    let mut options = RecordOptions::new("");
    (options.ports, options.bytes) = (ports.to_vec(), bytes);
    PacketTap::open(options).unwrap()
}

/// The packets until one of `port` is a reset.
fn until_reset(tap: &mut PacketTap, port: u16) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut is_over = false;
    let bound = Instant::now() + Duration::from_secs(20);
    while !is_over {
        assert!(Instant::now() < bound, "{seen:?}");
        let mut fds = [rustix::event::PollFd::new(&tap.ring, rustix::event::PollFlags::IN)];
        let moment = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&moment)).unwrap();
        tap.ring.drain(|packet| {
            let segment = Segment::from_frame(LinkType::RAW, packet.data, packet.wire_len as usize).unwrap();
            let ports = (segment.source.port(), segment.destination.port());
            is_over |= segment.flags.has(linger_packet::Flags::RST) && (ports.0 == port || ports.1 == port);
            seen.push((
                packet.interface,
                packet.link.kind,
                packet.vlan,
                ports,
                (packet.data.len(), packet.wire_len),
            ));
        });
    }
    seen
}

fn reset(listener: &TcpListener) {
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.write_all(&[7; 300]).unwrap();
    server.peek(&mut [0]).unwrap();
}

#[test]
fn the_filter_keeps_the_ports_of_both_families_once_on_loopback() {
    sandboxed(|| {
        for listen in [(IpAddr::from([127, 0, 0, 1]), 5_001), (Ipv6Addr::LOCALHOST.into(), 5_002)] {
            let mut tap = open(&[5_001, 5_002], 80);
            let others = TcpListener::bind((listen.0, 5_003)).unwrap();
            reset(&others);
            // Neither is another protocol kept, whatever stands where ports would be.
            let udp = std::net::UdpSocket::bind((listen.0, 5_001)).unwrap();
            udp.send_to(&[0x13; 64], udp.local_addr().unwrap()).unwrap();
            reset(&TcpListener::bind(listen).unwrap());
            let seen = until_reset(&mut tap, listen.1);
            let ports: BTreeSet<u16> = seen.iter().map(|(.., ports, _)| ports.0.min(ports.1)).collect();
            assert_eq!(ports, BTreeSet::from([listen.1]), "{seen:?}");
            assert!(seen.iter().all(|(_, kind, ..)| *kind != 4), "as they come in: {seen:?}");
            assert!(seen.len() >= 5 && seen.len() <= 8, "SYN, SYN-ACK, ACK, data, its ACK, RST: {seen:?}");
            assert!(seen.iter().any(|(.., (kept, wire))| *kept == 80 && *wire > 300), "{seen:?}");
            assert!(seen.iter().all(|(.., (kept, _))| *kept <= 80), "{seen:?}");
            assert_eq!(tap.ring.overruns(), 0);
        }
    });
}

#[test]
fn without_ports_all_of_tcp_is_kept_and_other_interfaces_both_ways() {
    sandboxed(|| {
        let [here, there] = two_hosts();
        let mut tap = here.run(|| open(&[], 128)).unwrap();
        let listener = there.run(|| TcpListener::bind((HOSTS[1], 80)).unwrap()).unwrap();
        here.run(|| reset(&listener)).unwrap();
        let seen = until_reset(&mut tap, 80);
        let kinds: BTreeSet<u8> = seen.iter().map(|(_, kind, ..)| *kind).collect();
        assert_eq!(kinds, BTreeSet::from([0, 4]), "{seen:?}");
        assert!(seen.iter().all(|(_, kind, _, ports, _)| (*kind == 4) == (ports.1 == 80)), "{seen:?}");
    });
}

/// A reset from port 80 in VLAN 10, in an Ethernet frame.
const TAGGED: &str = "import socket\ns = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)\ns.bind(('eth0', 0))\n\
    ip = bytes.fromhex('45000028000000004006') + bytes(2) + bytes([10, 77, 0, 2, 10, 77, 0, 1])\n\
    tcp = bytes.fromhex('00501388000000070000000050040000') + bytes(4)\n\
    s.send(b'\\xff' * 6 + bytes(6) + bytes.fromhex('8100000a0800') + ip + tcp)";

#[test]
fn the_tag_of_a_vlan_is_kept() {
    sandboxed(|| {
        let [here, there] = two_hosts();
        let mut tap = here.run(|| open(&[80], 128)).unwrap();
        let sent = there.run(|| Command::new("python3").args(["-c", TAGGED]).status()).unwrap();
        match sent {
            Ok(status) => assert!(status.success()),
            Err(_) => return skip("python3", "it is not installed"),
        }
        let seen = until_reset(&mut tap, 80);
        let [(_, _, vlan, ports, _)] = seen[..] else { panic!("{seen:?}") };
        assert_eq!((vlan, ports), (Some((0x8100, 10)), (80, 5_000)));
    });
}

#[test]
fn what_cannot_be_recorded_is_refused() {
    let mut options = RecordOptions::new("");
    options.keep = options.least_keep() - 1;
    assert!(matches!(PacketTap::open(options), Err(CannotRecord::TooLittle { .. })));
    let mut options = RecordOptions::new("");
    options.ports = vec![1; filter::MOST_PORTS + 1];
    assert!(matches!(PacketTap::open(options), Err(CannotRecord::TooManyPorts(_))));
}

#[test]
fn what_was_not_recorded_is_said_by_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let read = |directory: &Path, id: &str| IndexedReset::read(directory, id).map(drop).unwrap_err();
    assert!(matches!(read(directory.path(), "abc"), NotRecorded::NoId));
    assert!(matches!(read(directory.path(), "1-1"), NotRecorded::NoFile(_)));
    assert!(matches!(read(&directory.path().join("nowhere"), "1-1"), NotRecorded::NoDirectory));
    std::fs::write(directory.path().join(files::index_name(1)), "half a li").unwrap();
    assert!(matches!(read(directory.path(), "1-1"), NotRecorded::NoLine(_)));
    let pipe = directory.path().join(files::index_name(2));
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(read(directory.path(), "2-1"), NotRecorded::Io(..)), "a pipe keeps nobody waiting");
}
