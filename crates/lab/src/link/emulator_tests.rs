//! The emulator without sockets: real headers, made-up times.

use std::time::Duration;

use super::*;
use crate::link::ecn::EcnHandling;
use crate::link::frames::TestPacket;
use crate::link::loss::GilbertElliott;
use crate::link::middlebox::{
    Forgotten, Middlebox, MiddleboxEnd, MiddleboxKind, MiddleboxTimeouts, WithoutState,
};
use crate::link::mtu::PathMtu;
use crate::link::{LinkChange, LinkClock, LinkFault, Path};
use crate::named::Named;
use crate::units::{Bytes, Rate};
use proptest::prelude::*;

const MS: Nanos = 1_000_000;

/// An Ethernet frame with a TCP segment of one connection.
fn frame(direction: Direction, seq: u32, ack: u32, flags: Flags, payload: usize) -> Vec<u8> {
    let (from, to): (u16, u16) = match direction {
        Direction::ToClient => (80, 40_000),
        Direction::ToServer => (40_000, 80),
    };
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let total = 40 + payload as u16;
    bytes.extend([0x45, 0]);
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend(from.to_be_bytes());
    bytes.extend(to.to_be_bytes());
    bytes.extend(seq.to_be_bytes());
    bytes.extend(ack.to_be_bytes());
    bytes.extend([0x50, flags.0, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.resize(54 + payload, 7);
    bytes
}

fn link(path: Path) -> Link {
    Link { name: "custom".into(), paths: [path.clone(), path], ..Link::default() }
}

/// Everything that leaves, with its due time; the clock goes from one `next_due` to the next.
fn drain(emulator: &mut Emulator<Vec<u8>>) -> Vec<(Nanos, Vec<u8>)> {
    let mut out = Vec::new();
    while let Some(due) = emulator.next_due() {
        assert!(emulator.depart(due - 1).is_none(), "never early");
        while let Some(departure) = emulator.depart(due) {
            out.push((departure.due, departure.packet));
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn delay_is_kept_order_is_kept_and_nothing_is_made_up(
        delay in 0u64..50, jitter in 0u64..20, mbit in proptest::option::of(1u64..1_000),
        arrivals in proptest::collection::vec((0u64..5_000_000, 0usize..1_400, any::<bool>()), 1..80),
        seed: u64,
    ) {
        let path = Path {
            delay: Duration::from_millis(delay),
            jitter: Duration::from_millis(jitter),
            rate: mbit.map(|mbit| Rate(mbit * 1_000_000)),
            ..Path::default()
        };
        let mut emulator = Emulator::new(link(path), seed);
        let mut now = 1_000 * MS;
        let mut sent: [Vec<(Nanos, Vec<u8>)>; 2] = Default::default();
        for (number, (gap, payload, to_client)) in arrivals.into_iter().enumerate() {
            now += gap;
            let direction = if to_client { Direction::ToClient } else { Direction::ToServer };
            let bytes = frame(direction, number as u32 * 1_400, 1, Flags::ACK, payload);
            let (decision, back) = emulator.arrive(direction, now, bytes.clone());
            prop_assert_eq!((decision, back), (Decision::Pass, None));
            sent[direction.index()].push((now, bytes));
        }
        let mut out: [Vec<(Nanos, Vec<u8>)>; 2] = Default::default();
        while let Some(due) = emulator.next_due() {
            while let Some(departure) = emulator.depart(due) {
                out[departure.direction.index()].push((departure.due, departure.packet));
            }
        }
        for (sent, out) in sent.iter().zip(&out) {
            prop_assert_eq!(sent.len(), out.len());
            for ((at, bytes), (due, got)) in sent.iter().zip(out) {
                prop_assert_eq!(bytes, got, "in order and whole");
                let transmission = mbit.map_or(0, |mbit| bytes.len() as u64 * 8_000 / mbit);
                prop_assert!(*due >= at + delay * MS + transmission);
            }
        }
    }

    #[test]
    fn one_seed_gives_one_verdict_whatever_the_arrival(
        seed: u64, order in Just((0u32..60).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let path = Path {
            loss: 0.3.into(), reorder: 0.3, reorder_by: Duration::from_millis(1), ..Path::default()
        };
        let decisions = |order: &[u32], gap: Nanos| {
            let mut emulator = Emulator::new(link(path.clone()), seed);
            emulator.keep_log();
            emulator.arrive(Direction::ToClient, 0, frame(Direction::ToClient, 99, 0, Flags::SYN, 0));
            for (place, number) in order.iter().enumerate() {
                let bytes = frame(Direction::ToClient, 100 + number * 1_000, 1, Flags::ACK, 1_000);
                emulator.arrive(Direction::ToClient, gap * place as u64, bytes);
            }
            let mut log = emulator.take_log();
            log.sort_by_key(|(identity, _)| *identity);
            log
        };
        let sorted: Vec<u32> = (0..60).collect();
        prop_assert_eq!(decisions(&order, 7), decisions(&sorted, 1_000_000));
    }
}

#[test]
fn loss_is_as_frequent_as_asked() {
    let lost: usize = (0..20)
        .map(|seed| {
            let mut emulator = Emulator::new(link(Path { loss: 0.05.into(), ..Path::default() }), seed);
            (0..10_000u32)
                .filter(|number| {
                    let bytes = frame(Direction::ToClient, number * 1_000, 1, Flags::ACK, 10);
                    emulator.arrive(Direction::ToClient, 0, bytes).0 == Decision::Lost
                })
                .count()
        })
        .sum();
    // Four standard deviations around 10,000 of 200,000; the seeds are fixed, so it is the same in every run.
    assert!((9_610..=10_390).contains(&lost), "{lost}");
}

#[test]
fn a_retransmission_has_its_own_fate() {
    let bytes = frame(Direction::ToClient, 5_000, 1, Flags::ACK, 100);
    let mut names = Names::default();
    let segment = Segment::from_ethernet(&bytes).unwrap();
    let first = names.tcp(Direction::ToClient, &segment);
    let second = names.tcp(Direction::ToClient, &segment);
    assert_eq!((first.transmission, second.transmission), (0, 1));
    assert_ne!(first.chance(1), second.chance(1));
    assert_ne!(first.chance(1), first.chance(2));
}

#[test]
fn a_full_queue_drops_the_tail() {
    let path = Path { rate: Some(Rate(8_000_000)), queue: Some(Bytes(3_000)), ..Path::default() };
    let mut emulator = Emulator::new(link(path), 0);
    let decisions: Vec<Decision> = (0..5u32)
        .map(|number| {
            let bytes = frame(Direction::ToClient, number, 1, Flags::ACK, 946);
            emulator.arrive(Direction::ToClient, MS, bytes).0
        })
        .collect();
    use Decision::{Pass, QueueFull};
    assert_eq!(decisions, [Pass, Pass, Pass, QueueFull, QueueFull]);
    let due: Vec<Nanos> = drain(&mut emulator).into_iter().map(|(due, _)| due).collect();
    assert_eq!(due, [2 * MS, 3 * MS, 4 * MS], "a thousand bytes at 8 Mbit/s take 1 ms each");
}

#[test]
fn the_reset_overtakes_the_data() {
    let mut link = Link::by_name("overtake").unwrap();
    link.paths = Default::default();
    let mut emulator = Emulator::new(link, 0);
    let to_client = |seq, flags, payload| frame(Direction::ToClient, seq, 1, flags, payload);
    let data = to_client(101, Flags::ACK | Flags::PSH, 1_000);
    // The first reset's sequence number is after the data, so its receiver answers with a challenge ACK (RFC
    // 5961).
    let active = to_client(1_101, Flags::RST | Flags::ACK, 0);
    // The reset that answers the challenge has the sequence number that the receiver expects.
    let exact = to_client(101, Flags::RST, 0);
    assert_eq!(emulator.arrive(Direction::ToClient, 0, data.clone()).0, Decision::Held);
    assert_eq!(emulator.arrive(Direction::ToClient, MS, active.clone()).0, Decision::Pass);
    assert_eq!(emulator.depart(MS).unwrap().packet, active);
    assert!(emulator.depart(20 * MS).is_none(), "the data still waits");
    assert_eq!(emulator.arrive(Direction::ToClient, 20 * MS, exact.clone()).0, Decision::Pass);
    assert_eq!(emulator.depart(20 * MS).unwrap().packet, exact);
    assert_eq!(emulator.depart(20 * MS).unwrap().packet, data);
}

#[test]
fn without_a_reset_the_data_is_held_no_longer_than_asked() {
    let mut link = Link::by_name("overtake").unwrap();
    link.paths = Default::default();
    let mut emulator = Emulator::new(link, 0);
    for (seq, flags, payload) in [(101, Flags::ACK, 10), (111, Flags::ACK | Flags::FIN, 0)] {
        emulator.arrive(Direction::ToClient, 0, frame(Direction::ToClient, seq, 1, flags, payload));
    }
    let due: Vec<Nanos> = drain(&mut emulator).into_iter().map(|(due, _)| due).collect();
    assert_eq!(due, [40 * MS, 40 * MS]);
}

#[test]
fn the_nth_data_segment_is_dropped_once() {
    let mut link = link(Path::default());
    link.faults = vec![LinkFault::DropDataSegment { direction: Direction::ToClient, nth: 2 }];
    let mut emulator = Emulator::new(link, 0);
    let decisions: Vec<Decision> = [100, 200, 300, 200]
        .into_iter()
        .map(|seq| {
            let bytes = frame(Direction::ToClient, seq, 1, Flags::ACK, 100);
            emulator.arrive(Direction::ToClient, 0, bytes).0
        })
        .collect();
    use Decision::{Dropped, Pass};
    assert_eq!(decisions, [Pass, Dropped, Pass, Pass]);
}

#[test]
fn acknowledgements_alone_are_held() {
    let mut link = link(Path::default());
    let hold = Duration::from_millis(30);
    link.faults = vec![LinkFault::HoldAcks { direction: Direction::ToServer, hold }];
    let mut emulator = Emulator::new(link, 0);
    let ack = frame(Direction::ToServer, 1, 500, Flags::ACK, 0);
    let data = frame(Direction::ToServer, 1, 500, Flags::ACK, 5);
    assert_eq!(emulator.arrive(Direction::ToServer, 0, ack.clone()).0, Decision::AckHeld);
    emulator.arrive(Direction::ToServer, MS, data.clone());
    assert_eq!(drain(&mut emulator), [(MS, data), (30 * MS, ack)]);
}

/// What a link does with packets of one connection towards the client, sent one after the other.
fn decisions(path: Path, count: u32, seed: u64) -> Vec<Decision> {
    let mut emulator = Emulator::new(link(path), seed);
    let mut packet = |number: u32| {
        let bytes = frame(Direction::ToClient, number * 1_000, 1, Flags::ACK, 10);
        emulator.arrive(Direction::ToClient, 0, bytes).0
    };
    (0..count).map(&mut packet).collect()
}

/// Lengths of the runs of lost packets.
fn runs(decisions: &[Decision]) -> Vec<usize> {
    let runs = decisions.split(|decision| *decision != Decision::Lost);
    runs.map(<[Decision]>::len).filter(|length| *length > 0).collect()
}

#[test]
fn bursts_are_as_frequent_and_as_long_as_asked() {
    let model = GilbertElliott { p: 0.01, r: 0.25, bad: 1.0, good: 0.0 };
    let path = Path { loss: Loss::Bursts(model), ..Path::default() };
    let all: Vec<Vec<Decision>> = (0..20).map(|seed| decisions(path.clone(), 10_000, seed)).collect();
    let bursts: Vec<usize> = all.iter().flat_map(|decisions| runs(decisions)).collect();
    let lost: usize = bursts.iter().sum();
    let (rate, mean) = (lost as f64 / 200_000.0, lost as f64 / bursts.len() as f64);
    // Four standard deviations: some 1,920 bursts of 4 packets, whose lengths have a deviation of 3.5. The seeds are fixed.
    assert!((mean - 4.0).abs() < 4.0 * 3.5 / 1_920f64.sqrt(), "{mean}");
    assert!((rate - 0.01 / 0.26).abs() < 0.005, "{rate}");
    // Losses of the same rate without a memory come alone.
    let alone = decisions(Path { loss: (0.01 / 0.26).into(), ..Path::default() }, 10_000, 1);
    let alone = runs(&alone);
    assert!((alone.iter().sum::<usize>() as f64) < 1.15 * alone.len() as f64);
}

#[test]
fn bursts_of_one_connection_do_not_depend_on_others() {
    let model = GilbertElliott { p: 0.1, r: 0.3, bad: 0.9, good: 0.01 };
    let path = Path { loss: Loss::Bursts(model), ..Path::default() };
    let alone = decisions(path.clone(), 500, 5);
    let mut emulator = Emulator::new(link(path), 5);
    let mut beside = Vec::new();
    for number in 0..500u32 {
        for port in [40_000u16, 40_001, 40_002] {
            let mut bytes = frame(Direction::ToClient, number * 1_000, 1, Flags::ACK, 1_000);
            bytes[36..38].copy_from_slice(&port.to_be_bytes());
            let decision = emulator.arrive(Direction::ToClient, 0, bytes).0;
            if port == 40_000 {
                beside.push(decision);
            }
        }
    }
    assert_eq!(alone, beside);
    assert!(alone.contains(&Decision::Lost) && alone.contains(&Decision::Pass));
}

#[test]
fn a_packet_that_is_sent_twice_takes_the_link_twice() {
    let path = Path { duplicate: 1.0, rate: Some(Rate(8_000_000)), ..Path::default() };
    let mut emulator = Emulator::new(link(path), 0);
    let bytes = frame(Direction::ToClient, 1, 1, Flags::ACK, 946);
    assert_eq!(emulator.arrive(Direction::ToClient, 0, bytes.clone()).0, Decision::Duplicated);
    let mut out = Vec::new();
    while let Some(departure) = emulator.depart(5 * MS) {
        assert_eq!(departure.packet, bytes);
        out.push((departure.due, departure.decision));
    }
    assert_eq!(out, [(MS, Decision::Duplicated), (2 * MS, Decision::Second)]);
    let twice = decisions(Path { duplicate: 0.1, ..Path::default() }, 10_000, 3);
    let twice = twice.iter().filter(|decision| **decision == Decision::Duplicated).count();
    assert!((880..=1_120).contains(&twice), "{twice}: four standard deviations around 1,000");
}

#[test]
fn one_bit_is_changed_and_never_of_the_ethernet_header() {
    let mut emulator = Emulator::new(link(Path { corrupt: 1.0, ..Path::default() }), 9);
    let mut places = std::collections::HashSet::new();
    for number in 0..5_000u32 {
        let bytes = frame(Direction::ToClient, number * 1_000, 1, Flags::ACK, 60);
        assert_eq!(emulator.arrive(Direction::ToClient, 0, bytes.clone()).0, Decision::Corrupted);
        let got = emulator.depart(0).unwrap().packet;
        let differ: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != got[*at]).collect();
        let [at] = differ[..] else { panic!("{differ:?}") };
        assert_eq!((bytes[at] ^ got[at]).count_ones(), 1);
        places.insert(at);
    }
    assert_eq!((places.iter().min(), places.iter().max(), places.len()), (Some(&14), Some(&113), 100));
}

#[test]
fn a_packet_that_is_too_big_is_answered_or_vanishes() {
    for icmp in [true, false] {
        let path = Path { mtu: Some(PathMtu { bytes: 1_280, icmp }), ..Path::default() };
        let mut emulator = Emulator::new(link(path), 0);
        let mut arrive = |payload| {
            emulator.arrive(Direction::ToClient, MS, frame(Direction::ToClient, 7, 1, Flags::ACK, payload)).0
        };
        assert_eq!((arrive(1_240), arrive(1_241)), (Decision::Pass, Decision::TooBig));
        let out: Vec<_> = std::iter::from_fn(|| emulator.depart(MS)).collect();
        let directions: Vec<Direction> = out.iter().map(|departure| departure.direction).collect();
        let expected =
            if icmp { &[Direction::ToClient, Direction::ToServer][..] } else { &[Direction::ToClient][..] };
        assert_eq!(directions, expected);
        if icmp {
            assert_eq!(out[1].decision, Decision::Answer);
            assert_eq!(out[1].packet[34..42], [3, 4, out[1].packet[36], out[1].packet[37], 0, 0, 5, 0]);
        }
    }
}

/// A link that loses everything from 10 to 20 ms by its clock.
fn dead_spot(clock: LinkClock) -> Link {
    let paths = |loss: f64| [(); 2].map(|()| Path { loss: loss.into(), ..Path::default() });
    let change = |ms, loss| LinkChange { time: Duration::from_millis(ms), paths: paths(loss) };
    Link { changes: vec![change(10, 1.0), change(20, 0.0)], clock, ..Link::default() }
}

#[test]
fn time_counts_from_each_connections_syn_or_from_the_links_first_packet() {
    let fates = |clock| {
        let mut emulator = Emulator::new(dead_spot(clock), 0);
        let mut arrive = |port: u16, at: Nanos, flags, seq| {
            let mut bytes = frame(Direction::ToServer, seq, 0, flags, 0);
            bytes[34..36].copy_from_slice(&port.to_be_bytes());
            emulator.arrive(Direction::ToServer, at * MS, bytes).0 == Decision::Pass
        };
        let first = [arrive(1, 1_000, Flags::SYN, 9), arrive(1, 1_012, Flags::ACK, 10)];
        let second = [
            arrive(2, 1_015, Flags::SYN, 9),
            arrive(2, 1_021, Flags::ACK, 10),
            arrive(2, 1_026, Flags::ACK, 11),
        ];
        // The port is used again: a new connection, and a new clock.
        let third = [arrive(1, 2_012, Flags::SYN, 99), arrive(1, 2_021, Flags::ACK, 100)];
        // The same SYN once more is not.
        let again = [arrive(1, 2_023, Flags::SYN, 99), arrive(1, 2_033, Flags::ACK, 101)];
        (first, second, third, again)
    };
    assert_eq!(
        fates(LinkClock::Connection),
        ([true, false], [true, true, false], [true, true], [false, true])
    );
    assert_eq!(fates(LinkClock::Link), ([true, false], [false, true, true], [true, true], [true, true]));
}

/// A link of 10 ms with a box that forgets after 100 ms of silence.
fn boxed(end: MiddleboxEnd, then: WithoutState) -> Emulator<Vec<u8>> {
    let silence = Duration::from_millis(100);
    let timeouts = MiddleboxTimeouts { syn: silence, idle: silence, half_closed: silence, closed: silence };
    let kind = MiddleboxKind::Firewall;
    let middlebox = Some(Middlebox { kind, end, timeouts, then, drop_invalid: true });
    let path = Path { delay: Duration::from_millis(10), ..Path::default() };
    Emulator::new(Link { middlebox, ..link(path) }, 0)
}

fn opened(end: MiddleboxEnd, then: WithoutState) -> Emulator<Vec<u8>> {
    let mut emulator = boxed(end, then);
    open(&mut emulator);
    emulator
}

/// A handshake, whose last packet is there at 30 ms.
fn open(emulator: &mut Emulator<Vec<u8>>) {
    let handshake = [
        TestPacket::new(Direction::ToServer, Flags::SYN, 99, 0, 0),
        TestPacket::new(Direction::ToClient, Flags::SYN | Flags::ACK, 499, 100, 0),
        TestPacket::new(Direction::ToServer, Flags::ACK, 100, 500, 0),
    ];
    for (number, packet) in handshake.into_iter().enumerate() {
        let now = number as u64 * 10 * MS;
        assert_eq!(emulator.arrive(packet.direction, now, packet.frame()), (Decision::Pass, None));
        let departure = emulator.depart(now + 10 * MS).unwrap();
        assert_eq!((departure.due, departure.packet), (now + 10 * MS, packet.frame()));
    }
}

/// What comes late by the time at which it meets the box: as it enters the link on one side, as it leaves on the other.
#[test]
fn a_middlebox_stands_at_one_end() {
    // The handshake's last packet meets a box at the client's end at 20 ms, one at the server's end at 30 ms.
    for (end, forgets) in [(MiddleboxEnd::Client, 120), (MiddleboxEnd::Server, 130)] {
        for (direction, is_met_first) in [
            (Direction::ToServer, end == MiddleboxEnd::Client),
            (Direction::ToClient, end == MiddleboxEnd::Server),
        ] {
            for (at_box, passes) in [(forgets * MS - 1, true), (forgets * MS, false)] {
                let mut emulator = opened(end, WithoutState::Drop);
                let (seq, ack) = if direction == Direction::ToServer { (100, 500) } else { (500, 100) };
                let bytes = TestPacket::new(direction, Flags::ACK, seq, ack, 5).frame();
                let sent = if is_met_first { at_box } else { at_box - 10 * MS };
                let dropped = Decision::NoState(Forgotten::Idle);
                let (decision, back) = emulator.arrive(direction, sent, bytes.clone());
                let drops_here = is_met_first && !passes;
                assert_eq!(
                    decision,
                    if drops_here { dropped } else { Decision::Pass },
                    "{end:?} {direction:?} {at_box}"
                );
                assert_eq!(back, drops_here.then(|| bytes.clone()));
                let left = emulator.depart(sent + 10 * MS).map(|departure| departure.decision);
                let expected = if passes { Decision::Pass } else { dropped };
                assert_eq!(left, (!drops_here).then_some(expected));
                assert_eq!(emulator.middlebox_counts().unwrap().without_state, u64::from(!passes));
            }
        }
    }
}

#[test]
fn a_reset_of_the_middleboxs_own_takes_its_way() {
    let mut emulator = opened(MiddleboxEnd::Server, WithoutState::ResetBoth);
    assert_eq!(emulator.next_due(), Some(130 * MS), "it has something to say then");
    assert!(emulator.depart(130 * MS - 1).is_none());
    let mut out = Vec::new();
    while let Some(due) = emulator.next_due() {
        while let Some(departure) = emulator.depart(due) {
            out.push((departure.direction, departure.due, departure.decision));
        }
    }
    // To the server it is there at once; to the client it crosses the link.
    let expected = [
        (Direction::ToServer, 130 * MS, Decision::BoxReset),
        (Direction::ToClient, 140 * MS, Decision::BoxReset),
    ];
    assert_eq!(out, expected);
}

/// What the box does stands in the log, on whichever side of the link it meets the packet; what it lets through stands there once, as the
/// link's. And the log changes nothing: a packet that the box drops does not count as sent when the link names its next one.
#[test]
fn a_middleboxs_decisions_are_logged() {
    for (end, direction) in [
        (MiddleboxEnd::Client, Direction::ToServer),
        (MiddleboxEnd::Client, Direction::ToClient),
        (MiddleboxEnd::Server, Direction::ToServer),
        (MiddleboxEnd::Server, Direction::ToClient),
    ] {
        let (seq, ack) = if direction == Direction::ToServer { (100, 500) } else { (500, 100) };
        let data = TestPacket::new(direction, Flags::ACK, seq, ack, 5).frame();
        let log_of = |sent: &[Nanos]| {
            let mut emulator = boxed(end, WithoutState::Reset);
            emulator.keep_log();
            open(&mut emulator);
            let before = emulator.log_length();
            for sent in sent {
                emulator.arrive(direction, *sent, data.clone());
                while emulator.depart(sent + 100 * MS).is_some() {}
            }
            let log = emulator.take_log().split_off(before);
            log.into_iter()
                .filter(|(identity, _)| usize::from(identity.direction) == direction.index())
                .map(|(identity, decision)| (identity.transmission, decision))
                .collect::<Vec<_>>()
        };
        assert_eq!(log_of(&[40 * MS]), [(0, Decision::Pass)], "{end:?} {direction:?}: in time");
        let dropped = Decision::NoState(Forgotten::Idle);
        let late = log_of(&[500 * MS, 900 * MS]);
        let is_met_first = (direction == Direction::ToServer) == (end == MiddleboxEnd::Client);
        let at_box = if is_met_first {
            vec![(0, dropped), (1, dropped)]
        } else {
            // The link has carried it before.
            vec![(0, Decision::Pass), (0, dropped), (1, Decision::Pass), (1, dropped)]
        };
        assert_eq!(late, at_box, "{end:?} {direction:?}: too late, twice");
    }
}

/// Also what it sends itself.
#[test]
fn a_middleboxs_resets_are_logged() {
    let mut emulator = opened(MiddleboxEnd::Server, WithoutState::ResetBoth);
    emulator.keep_log();
    while let Some(due) = emulator.next_due() {
        while emulator.depart(due).is_some() {}
    }
    let log = emulator.take_log();
    let logged: Vec<_> = log.iter().map(|(identity, decision)| (identity.direction, *decision)).collect();
    assert_eq!(logged.len(), 2, "{log:?}");
    for direction in [Direction::ToServer, Direction::ToClient] {
        assert!(logged.contains(&(direction.index() as u8, Decision::BoxReset)), "{log:?}");
    }
}

#[test]
fn a_queue_that_is_half_full_marks_what_can_be_marked() {
    let path = |ecn| Path { rate: Some(Rate(8_000_000)), queue: Some(Bytes(4_000)), ecn, ..Path::default() };
    let with = |ecn: EcnHandling, class: u8| {
        let mut emulator = Emulator::new(link(path(Some(ecn))), 0);
        let decisions: Vec<Decision> = (0..5u32)
            .map(|number| {
                let mut bytes = frame(Direction::ToClient, number, 1, Flags::ACK, 946);
                bytes[15] = class;
                emulator.arrive(Direction::ToClient, MS, bytes).0
            })
            .collect();
        let classes: Vec<u8> = drain(&mut emulator).into_iter().map(|(_, bytes)| bytes[15]).collect();
        (decisions, classes)
    };
    use Decision::{Bleached, Marked, Pass, QueueFull};
    // Two packets of 1000 bytes are half of the queue.
    assert_eq!(with(EcnHandling::Mark, 2), (vec![Pass, Pass, Marked, Marked, QueueFull], vec![2, 2, 3, 3]));
    assert_eq!(with(EcnHandling::Mark, 0), (vec![Pass, Pass, Pass, Pass, QueueFull], vec![0; 4]));
    assert_eq!(with(EcnHandling::Bleach, 0xb9).0[..1], [Bleached]);
    assert_eq!(with(EcnHandling::Bleach, 0xbb).1, [0xb8; 4], "and nothing else of the byte");
    assert_eq!(with(EcnHandling::Bleach, 0).0[..1], [Pass]);
}

#[test]
fn a_syn_that_asks_for_ecn_is_dropped() {
    let mut emulator = Emulator::new(link(Path { ecn: Some(EcnHandling::DropEctSyn), ..Path::default() }), 0);
    let mut arrive =
        |flags| emulator.arrive(Direction::ToServer, 0, frame(Direction::ToServer, 1, 0, flags, 0)).0;
    assert_eq!(arrive(Flags(0xc2)), Decision::EctSyn);
    assert_eq!(arrive(Flags(0x02)), Decision::Pass, "sent again without");
}
