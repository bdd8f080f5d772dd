//! Which packets are kept, for whom there is room, and which flow a reset is of.

use linger_packet::Flags;

use super::*;
use crate::kernel::tap::LinkAddress;

const SECOND: u64 = 1_000_000_000;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// An IPv4 packet without payload, from one port of the client (10.0.0.1) to the server's port 80, or back.
fn frame(client: u16, from_client: bool, flags: Flags, seq: u32) -> Vec<u8> {
    let (ours, theirs) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let (from, to) = if from_client { (ours, theirs) } else { (theirs, ours) };
    let (sport, dport) = if from_client { (client, 80) } else { (80, client) };
    let mut frame = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    frame.extend(from);
    frame.extend(to);
    frame.extend(sport.to_be_bytes());
    frame.extend(dport.to_be_bytes());
    frame.extend(seq.to_be_bytes());
    frame.extend([0, 0, 0, 0, 0x50, flags.0, 0, 0, 0, 0, 0, 0]);
    frame
}

/// A store, and what it is given: each packet one millisecond after the one before, unless `now` is set.
struct Given {
    flows: Flows,
    now: u64,
    interface: u32,
}

impl Given {
    fn new(packets: usize, per_flow: u32) -> Self {
        // More than a slot takes, and less than two.
        Self { flows: Flows::new(packets * 128, 40, per_flow), now: SECOND, interface: 1 }
    }

    fn packet(&mut self, client: u16, from_client: bool, flags: Flags, seq: u32) {
        self.now += 1_000_000;
        let frame = frame(client, from_client, flags, seq);
        let link = LinkAddress::default();
        let (time_ns, interface) = (self.now, self.interface);
        let packet =
            SeenPacket { time_ns, wire_len: 40, interface, link, protocol: 0x800, vlan: None, data: &frame };
        self.flows.take(&packet);
    }

    fn of(&self, client: u16, time_ns: u64) -> (Matching, Vec<u32>) {
        let matching = self
            .flows
            .matching(&(at("10.0.0.2:80"), SocketAddr::new(at("10.0.0.1:1").ip(), client)), time_ns);
        let packets = self.flows.packets(&matching).into_iter();
        let seqs =
            packets.map(|packet| u32::from_be_bytes(packet.data[24..28].try_into().unwrap())).collect();
        (matching, seqs)
    }
}

#[test]
fn the_last_packets_are_kept_in_both_directions() {
    let mut given = Given::new(100, 4);
    for seq in 0..6 {
        given.packet(7, seq % 2 == 0, Flags::ACK, seq);
    }
    let (matching, seqs) = given.of(7, given.now);
    assert_eq!(seqs, [2, 3, 4, 5]);
    assert!(!matching.has_reset);
    given.packet(7, false, Flags::RST, 6);
    let (matching, seqs) = given.of(7, given.now);
    assert!(matching.has_reset);
    assert_eq!(seqs, [3, 4, 5, 6]);
    assert!(given.of(8, given.now).0.is_empty());
}

#[test]
fn what_follows_a_reset_does_not_push_out_what_led_to_it() {
    let mut given = Given::new(100, 8);
    for seq in 0..8 {
        given.packet(7, true, Flags::ACK, seq);
    }
    given.packet(7, false, Flags::RST, 8);
    let reset = given.now;
    for seq in 9..40 {
        given.packet(7, true, Flags::ACK, seq);
        given.packet(7, false, Flags::RST, 100 + seq);
    }
    let (matching, seqs) = given.of(7, reset);
    assert!(matching.has_reset);
    assert_eq!(seqs, [3, 4, 5, 6, 7, 8, 9, 109], "a quarter is what came after");
    // A reset that ended nothing is forgotten, and the connection goes on.
    given.now = reset + IGNORED_AFTER;
    for seq in 50..58 {
        given.packet(7, true, Flags::ACK, seq);
    }
    let (matching, seqs) = given.of(7, given.now);
    assert!(!matching.has_reset);
    assert_eq!(seqs, (50..58).collect::<Vec<_>>());
}

#[test]
fn the_connection_that_is_idle_longest_makes_room() {
    let mut given = Given::new(6, 4);
    for client in 1..=3 {
        given.packet(client, true, Flags::ACK, client.into());
        given.packet(client, false, Flags::ACK, client.into());
    }
    // The first is not idle any more: the second is.
    given.packet(1, true, Flags::ACK, 1);
    let mut client = 3;
    while !given.flows.slots.is_full() {
        client += 1;
        given.packet(client, true, Flags::ACK, client.into());
    }
    assert!(!given.of(2, given.now).0.is_empty());
    given.packet(client + 1, true, Flags::ACK, 9);
    assert!(given.of(2, given.now).0.is_empty());
    assert_eq!(given.of(1, given.now).1, [1, 1, 1]);
    assert_eq!(given.of(client + 1, given.now).1, [9]);
    // One connection alone cannot take more than there is.
    let mut alone = Given::new(3, 1_000);
    for seq in 0..100 {
        alone.packet(1, true, Flags::ACK, seq);
    }
    assert_eq!(alone.of(1, alone.now).1.last(), Some(&99));
}

#[test]
fn many_connections_take_bounded_memory() {
    let mut given = Given::new(200_000, 4);
    for client in 0..MOST_FLOWS as u16 + 10 {
        given.packet(client, true, Flags::ACK, 1);
    }
    assert_eq!(given.flows.flows.len(), MOST_FLOWS);
    assert_eq!(given.flows.newest.len(), MOST_FLOWS);
    assert!(given.of(9, given.now).0.is_empty() && !given.of(10, given.now).0.is_empty());
}

#[test]
fn the_next_connection_with_the_same_numbers_is_another() {
    let mut given = Given::new(100, 8);
    given.packet(7, true, Flags::SYN, 10);
    given.packet(7, true, Flags::SYN, 10);
    given.packet(7, false, Flags::RST, 11);
    let reset = given.now;
    // It comes before the first reset was told.
    given.packet(7, true, Flags::SYN, 20);
    given.packet(7, true, Flags::ACK, 21);
    let (first, seqs) = given.of(7, reset);
    assert_eq!(seqs, [10, 10, 11]);
    given.flows.written(&first, 5);
    assert_eq!(given.of(7, reset).0.written, Some(5));
    given.now += SAME_RESET;
    given.packet(7, false, Flags::RST, 22);
    let (second, seqs) = given.of(7, given.now);
    assert_eq!((second.written, seqs), (None, vec![20, 21, 22]));
    given.flows.written(&second, 6);
    // One that is written makes room for the next.
    given.packet(7, true, Flags::SYN, 30);
    assert_eq!(given.of(7, given.now).1, [30]);
}

#[test]
fn one_packet_on_two_interfaces_is_kept_for_each() {
    let mut given = Given::new(100, 8);
    for interface in [1, 2] {
        given.interface = interface;
        given.packet(7, true, Flags::ACK, 1);
    }
    for interface in [2, 1] {
        given.interface = interface;
        given.packet(7, false, Flags::RST, 2);
    }
    let (matching, _) = given.of(7, given.now);
    let interfaces: Vec<u32> = given.flows.packets(&matching).iter().map(|packet| packet.interface).collect();
    assert_eq!(interfaces, [1, 2, 2, 1]);
}

#[test]
fn a_listeners_reset_is_found_by_its_sender() {
    let mut given = Given::new(100, 8);
    given.packet(7, true, Flags::SYN, 1);
    given.packet(7, false, Flags::RST, 2);
    let listener = |ip: &str, port| (SocketAddr::new(ip.parse().unwrap(), port), at("0.0.0.0:0"));
    let found = |given: &Given, ends, time| given.flows.matching(&ends, time).has_reset;
    assert!(found(&given, listener("0.0.0.0", 80), given.now + 1_000));
    assert!(found(&given, listener("10.0.0.2", 80), given.now));
    assert!(!found(&given, listener("10.0.0.3", 80), given.now));
    assert!(!found(&given, listener("0.0.0.0", 7), given.now), "the client has not sent it");
    assert!(!found(&given, listener("0.0.0.0", 80), given.now + SAME_SENDER));
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_a_connection() {
    let mut given = Given::new(100, 8);
    given.now = 10_000 * SECOND;
    given.packet(7, true, Flags::ACK, 1);
    given.packet(7, false, Flags::RST, 2);
    // An hour earlier by the clock. Nobody has minded the reset, and the connection goes on.
    given.now -= 3_600 * SECOND;
    for seq in 10..18 {
        given.packet(7, true, Flags::ACK, seq);
    }
    let (matching, seqs) = given.of(7, given.now);
    assert!(!matching.has_reset);
    assert_eq!(seqs, (10..18).collect::<Vec<_>>());
}
