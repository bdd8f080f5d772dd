//! The box's memory: real headers, made-up times, each rule by itself.

use std::time::Duration;

use linger_packet::Flags;
use proptest::prelude::*;

use super::*;
use crate::link::frames::TestPacket;
use crate::link::middlebox::{MiddleboxEnd, MiddleboxTimeouts};

const MS: Nanos = 1_000_000;
const ACK: Flags = Flags::ACK;
const SYN: Flags = Flags::SYN;
const FIN: Flags = Flags(0x11);
const SYN_ACK: Flags = Flags(0x12);
const RST: Flags = Flags::RST;

use Direction::{ToClient, ToServer};

fn rules(then: WithoutState) -> Middlebox {
    let ms = Duration::from_millis;
    let timeouts = MiddleboxTimeouts { syn: ms(100), idle: ms(400), half_closed: ms(200), closed: ms(50) };
    Middlebox { kind: MiddleboxKind::Firewall, end: MiddleboxEnd::Server, timeouts, then, drop_invalid: true }
}

/// A box, and the time.
struct Bench {
    tracker: Tracker,
    now: Nanos,
}

impl Bench {
    fn new(rules: Middlebox) -> Self {
        Self { tracker: Tracker::new(rules), now: 1_000 * MS }
    }

    fn after(&mut self, millis: u64) -> &mut Self {
        self.now += millis * MS;
        self
    }

    fn full(&mut self, packet: TestPacket) -> (BoxDecision, Option<OwnPacket>, Vec<u8>) {
        let mut frame = packet.frame();
        let (decision, own) = self.tracker.pass(packet.direction, self.now, &mut frame);
        (decision, own, frame)
    }

    fn send(&mut self, way: Direction, flags: Flags, seq: u32, ack: u32, payload: usize) -> BoxDecision {
        self.full(TestPacket::new(way, flags, seq, ack, payload)).0
    }

    fn passes(&mut self, way: Direction, flags: Flags, seq: u32, ack: u32, payload: usize) -> &mut Self {
        assert_eq!(
            self.send(way, flags, seq, ack, payload),
            BoxDecision::Pass,
            "{way:?} {flags} {seq} {ack}"
        );
        self
    }

    fn is_invalid(&mut self, way: Direction, flags: Flags, seq: u32, ack: u32, payload: usize) -> &mut Self {
        assert_eq!(
            self.send(way, flags, seq, ack, payload),
            BoxDecision::Invalid,
            "{way:?} {flags} {seq} {ack}"
        );
        self
    }

    /// A handshake: the client's numbers begin at 100, the server's at 500.
    fn open(&mut self) -> &mut Self {
        self.passes(ToServer, SYN, 99, 0, 0)
            .passes(ToClient, SYN_ACK, 499, 100, 0)
            .passes(ToServer, ACK, 100, 500, 0)
    }
}

/// What brings a connection to a state, the silence in milliseconds after which it is forgotten there, and as what.
type BroughtState = (fn(&mut Bench), u64, Forgotten);

/// Every state.
fn states() -> Vec<BroughtState> {
    vec![
        (
            |bench| {
                bench.passes(ToServer, SYN, 99, 0, 0);
            },
            100,
            Forgotten::Opening,
        ),
        (
            |bench| {
                bench.passes(ToServer, SYN, 99, 0, 0).passes(ToClient, SYN_ACK, 499, 100, 0);
            },
            100,
            Forgotten::Opening,
        ),
        (
            |bench| {
                bench.open();
            },
            400,
            Forgotten::Idle,
        ),
        (
            |bench| {
                bench.open().passes(ToClient, FIN, 500, 100, 0);
            },
            200,
            Forgotten::HalfClosed,
        ),
        (
            |bench| {
                bench.open().passes(ToClient, FIN, 500, 100, 0).passes(ToServer, ACK, 100, 501, 0);
            },
            200,
            Forgotten::HalfClosed,
        ),
        (
            |bench| {
                bench.open().passes(ToClient, FIN, 500, 100, 0).passes(ToServer, FIN, 100, 501, 0);
            },
            50,
            Forgotten::Closed,
        ),
        (
            |bench| {
                bench.open().passes(ToClient, RST, 500, 0, 0);
            },
            50,
            Forgotten::Closed,
        ),
    ]
}

#[test]
fn each_state_is_forgotten_exactly_at_its_time() {
    for (bring, silence, forgotten) in states() {
        for (more, expected) in [(0, BoxDecision::NoState(forgotten)), (1, BoxDecision::NoState(forgotten))] {
            let mut bench = Bench::new(rules(WithoutState::Drop));
            bring(&mut bench);
            bench.now += silence * MS + more;
            assert_eq!(bench.send(ToClient, ACK, 501, 100, 1), expected, "{forgotten:?} + {more}");
        }
        let mut bench = Bench::new(rules(WithoutState::Drop));
        bring(&mut bench);
        bench.now += silence * MS - 1;
        let last = bench.send(ToClient, ACK, 501, 100, 1);
        assert!(!matches!(last, BoxDecision::NoState(_)), "{forgotten:?}: {last:?} a nanosecond before");
    }
}

#[test]
fn every_packet_begins_the_silence_anew_but_a_syn_sent_again() {
    let mut bench = Bench::new(rules(WithoutState::Drop));
    bench.open();
    for _ in 0..5 {
        bench.after(399).passes(ToServer, ACK, 100, 500, 0);
    }
    let mut bench = Bench::new(rules(WithoutState::Drop));
    bench.passes(ToServer, SYN, 99, 0, 0).after(60).passes(ToServer, SYN, 99, 0, 0).after(40);
    assert_eq!(bench.send(ToClient, SYN_ACK, 499, 100, 0), BoxDecision::NoState(Forgotten::Opening));
}

#[test]
fn what_is_invalid_or_ignored_does_not_keep_a_connection() {
    for (seq, ack, expected) in
        [(100, 999, BoxDecision::Invalid), (100u32.wrapping_sub(9_000), 500, BoxDecision::Pass)]
    {
        let mut bench = Bench::new(rules(WithoutState::Drop));
        bench.open().after(300);
        assert_eq!(bench.send(ToServer, ACK, seq, ack, 0), expected);
        bench.after(100);
        assert_eq!(bench.send(ToServer, ACK, 100, 500, 1), BoxDecision::NoState(Forgotten::Idle));
    }
}

/// The bounds on both sides: each number one field beside a packet that passes.
#[test]
fn only_what_neither_end_can_have_meant_is_invalid() {
    let mut bench = Bench::new(rules(WithoutState::Drop));
    bench.open().passes(ToServer, ACK, 100, 500, 100);
    // The server has acknowledged 100 and offered 1000 bytes.
    bench.passes(ToServer, ACK, 1_100, 500, 0);
    bench.is_invalid(ToServer, ACK, 100 + 2_101, 500, 0);
    // Nothing beyond the server's 500 was sent.
    bench.passes(ToServer, ACK, 200, 500, 1).is_invalid(ToServer, ACK, 200, 501, 1);
    bench.passes(ToClient, ACK, 500, 100, 10).passes(ToServer, ACK, 200, 501, 1);
    // An acknowledgement of long ago is let through (it may be late), and so are bytes sent again.
    bench.passes(ToClient, ACK, 510, 100u32.wrapping_sub(70_000), 0);
    bench.passes(ToServer, ACK, 100u32.wrapping_sub(5_000), 510, 5);
}

#[test]
fn flags_are_invalid_by_the_state() {
    let mut bench = Bench::new(rules(WithoutState::Drop));
    bench.passes(ToServer, SYN, 99, 0, 0);
    bench.is_invalid(ToServer, ACK, 100, 500, 0).is_invalid(ToServer, FIN, 100, 500, 0);
    bench.is_invalid(ToClient, FIN, 500, 100, 0).is_invalid(ToServer, SYN_ACK, 99, 1, 0);
    bench.passes(ToClient, SYN_ACK, 499, 100, 0).passes(ToServer, ACK, 100, 500, 0);
    bench.is_invalid(ToClient, SYN, 499, 0, 0).passes(ToServer, SYN, 99, 0, 0);
    for senseless in [0x00, 0x01, 0x03, 0x06, 0x07, 0x3f] {
        bench.is_invalid(ToServer, Flags(senseless), 100, 500, 0);
    }
    bench.passes(ToServer, Flags(0x18), 100, 500, 1).passes(ToServer, Flags(0xd8), 101, 500, 1);
}

#[test]
fn a_window_counts_in_its_scale_if_both_have_one() {
    for (scales, expected) in [
        ([Some(4), Some(4)], BoxDecision::Pass),
        ([Some(4), None], BoxDecision::Invalid),
        ([None, Some(4)], BoxDecision::Invalid),
    ] {
        let mut bench = Bench::new(rules(WithoutState::Drop));
        let syn = TestPacket { scale: scales[0], ..TestPacket::new(ToServer, SYN, 99, 0, 0) };
        let answer = TestPacket { scale: scales[1], ..TestPacket::new(ToClient, SYN_ACK, 499, 100, 0) };
        assert_eq!(bench.full(syn).0, BoxDecision::Pass);
        assert_eq!(bench.full(answer).0, BoxDecision::Pass);
        bench.passes(ToServer, ACK, 100, 500, 0);
        assert_eq!(bench.send(ToClient, ACK, 500 + 15_000, 100, 10), expected, "{scales:?}");
    }
}

/// Every packet passes while a reset is not believed, and the state is soon gone once it is.
#[test]
fn a_reset_ends_what_its_receiver_believes_too() {
    let ends = |seq: u32| {
        let mut bench = Bench::new(rules(WithoutState::Drop));
        bench.open().passes(ToClient, ACK, 500, 100, 100).passes(ToServer, ACK, 100, 600, 0);
        let decision = bench.send(ToClient, RST, seq, 0, 0);
        // Something of the client's: it keeps what is not over for `idle`, and what is over for `closed`.
        let mut passes = || bench.send(ToServer, ACK, 100, 600, 1) == BoxDecision::Pass;
        assert!(passes(), "at once everything still passes");
        bench.after(60);
        (decision, bench.send(ToServer, ACK, 101, 600, 1) != BoxDecision::Pass)
    };
    assert_eq!(ends(600), (BoxDecision::Pass, true), "the byte that is expected");
    assert_eq!(ends(599), (BoxDecision::Invalid, false), "below what is acknowledged");
    assert_eq!(ends(601), (BoxDecision::Pass, false), "answered with a challenge");
}

#[test]
fn a_reset_right_behind_data_is_believed() {
    let mut bench = Bench::new(rules(WithoutState::Drop));
    bench.open().passes(ToClient, ACK, 500, 100, 100).passes(ToClient, RST, 600, 0, 0).after(50);
    assert_eq!(bench.send(ToServer, ACK, 100, 600, 1), BoxDecision::NoState(Forgotten::Closed));
}

#[test]
fn what_is_over_begins_anew_with_a_syn() {
    let mut bench = Bench::new(rules(WithoutState::Drop));
    bench.open().passes(ToClient, FIN, 500, 100, 0).passes(ToServer, FIN, 100, 501, 0);
    bench
        .passes(ToClient, ACK, 501, 101, 0)
        .passes(ToServer, SYN, 90_000, 0, 0)
        .passes(ToClient, SYN_ACK, 70_000, 90_001, 0);
    bench.passes(ToServer, ACK, 90_001, 70_001, 0).after(399).passes(ToServer, ACK, 90_001, 70_001, 1);
}

/// The client has begun again from the same port, and the box has not noticed: it learns that from the answer.
#[test]
fn a_syn_that_is_answered_begins_anew_what_the_box_took_for_open() {
    for (acknowledged, expected) in [(90_001, BoxDecision::Pass), (90_002, BoxDecision::Invalid)] {
        let mut bench = Bench::new(rules(WithoutState::Drop));
        bench.open().passes(ToServer, SYN, 90_000, 0, 0).passes(ToClient, SYN_ACK, 70_000, acknowledged, 0);
        assert_eq!(bench.send(ToServer, ACK, 90_001, 70_001, 0), expected);
    }
}

#[test]
fn a_reset_before_any_answer_leaves_nothing() {
    for way in [ToServer, ToClient] {
        let mut bench = Bench::new(rules(WithoutState::Drop));
        bench.passes(ToServer, SYN, 99, 0, 0).passes(way, RST, 100, 0, 0);
        assert_eq!(
            bench.send(ToServer, ACK, 100, 500, 0),
            BoxDecision::NoState(Forgotten::Closed),
            "{way:?}"
        );
    }
}

#[test]
fn a_packet_without_a_state_meets_what_was_asked_for() {
    for (then, answers) in
        [(WithoutState::Drop, false), (WithoutState::Reset, true), (WithoutState::ResetBoth, true)]
    {
        let mut bench = Bench::new(rules(then));
        let (decision, own, _) = bench.full(TestPacket::new(ToServer, ACK, 7_000, 9_000, 3));
        assert_eq!(decision, BoxDecision::NoState(Forgotten::Unknown));
        assert_eq!(own.is_some(), answers, "{then:?}");
        if let Some((way, frame)) = own {
            let reset = Segment::from_ethernet(&frame).unwrap();
            assert_eq!((way, reset.seq, reset.flags), (ToClient, 9_000, RST));
            assert_eq!((reset.destination.port(), reset.source.port()), (40_000, 8_080));
        }
        let (decision, own, _) = bench.full(TestPacket::new(ToServer, RST, 7_000, 0, 0));
        assert_eq!(
            (decision, own),
            (BoxDecision::NoState(Forgotten::Unknown), None),
            "no reset answers a reset"
        );
    }
}

#[test]
fn a_connection_is_picked_up_only_by_what_can_be_in_its_middle() {
    let mut bench = Bench::new(rules(WithoutState::PickUp));
    bench.is_invalid(ToServer, FIN, 7_000, 9_000, 0).is_invalid(ToServer, RST, 7_000, 0, 0);
    bench.is_invalid(ToClient, SYN_ACK, 7_000, 9_000, 0);
    assert_eq!(bench.send(ToServer, ACK, 7_000, 9_000, 3), BoxDecision::PickUp);
    // Nothing is known of its numbers: any of them pass.
    bench.passes(ToClient, ACK, 9_000, 7_003, 500).passes(ToServer, ACK, 1 << 30, 1, 3).after(400);
    assert_eq!(
        bench.send(ToClient, ACK, 9_500, 7_003, 1),
        BoxDecision::PickUp,
        "and again once it is forgotten"
    );
}

#[test]
fn a_liberal_box_drops_nothing_that_it_knows() {
    let mut bench = Bench::new(Middlebox { drop_invalid: false, ..rules(WithoutState::Drop) });
    bench.open().passes(ToServer, ACK, 1 << 30, 1 << 29, 5).passes(ToServer, SYN_ACK, 1, 1, 0);
    assert_eq!(bench.tracker.counts(), MiddleboxCounts::default());
}

#[test]
fn both_ends_are_reset_at_the_time_itself_and_once() {
    let mut bench = Bench::new(rules(WithoutState::ResetBoth));
    bench.open().passes(ToServer, ACK, 100, 500, 8).passes(ToClient, ACK, 500, 108, 20);
    bench.passes(ToServer, ACK, 108, 520, 0);
    let due = bench.now + 400 * MS;
    assert_eq!(bench.tracker.next_word(), Some(due));
    assert_eq!(bench.tracker.last_words(due - 1), []);
    let words = bench.tracker.last_words(due);
    assert_eq!(words.iter().map(|(way, _)| *way).collect::<Vec<_>>(), [ToClient, ToServer]);
    let reset = |at: usize| Segment::from_ethernet(&words[at].1).unwrap();
    assert_eq!((reset(0).seq, reset(0).ack, reset(0).destination.port()), (520, 108, 40_000));
    assert_eq!((reset(1).seq, reset(1).ack, reset(1).destination.port()), (108, 520, 8_080));
    assert_eq!((bench.tracker.last_words(due), bench.tracker.next_word()), (vec![], None));
    bench.now = due;
    let (decision, own, _) = bench.full(TestPacket::new(ToServer, ACK, 108, 520, 1));
    assert_eq!((decision, own.is_some()), (BoxDecision::NoState(Forgotten::Idle), true));
    assert_eq!(bench.tracker.counts().resets, 3);
}

#[test]
fn nobody_is_reset_who_has_closed() {
    for (then, over) in [(WithoutState::ResetBoth, true), (WithoutState::Reset, false)] {
        let mut bench = Bench::new(rules(then));
        bench.open();
        if over {
            bench.passes(ToClient, FIN, 500, 100, 0).passes(ToServer, FIN, 100, 501, 0);
        }
        assert_eq!(bench.tracker.next_word(), None);
        assert_eq!(bench.tracker.last_words(bench.now + 10_000 * MS), []);
    }
}

fn nat(then: WithoutState) -> Middlebox {
    Middlebox { kind: MiddleboxKind::Nat, end: MiddleboxEnd::Client, ..rules(then) }
}

fn ports(frame: &[u8]) -> (u16, u16) {
    let segment = Segment::from_ethernet(frame).unwrap();
    (segment.source.port(), segment.destination.port())
}

#[test]
fn only_clients_open_a_way_through_a_nat() {
    for then in [WithoutState::Drop, WithoutState::PickUp] {
        let mut bench = Bench::new(nat(then));
        let no_state = BoxDecision::NoState(Forgotten::Unknown);
        assert_eq!(bench.send(ToClient, SYN, 1, 0, 0), no_state);
        assert_eq!(bench.send(ToClient, ACK, 1, 1, 1), no_state);
        bench.open();
    }
}

#[test]
fn a_forgotten_mapping_comes_back_with_another_port() {
    let mut bench = Bench::new(nat(WithoutState::PickUp));
    let (_, _, syn) = bench.full(TestPacket::new(ToServer, SYN, 99, 0, 0));
    assert_eq!(ports(&syn), (40_000, 8_080), "the client's own port, as nobody else has it");
    bench.passes(ToClient, SYN_ACK, 499, 100, 0).passes(ToServer, ACK, 100, 500, 0).after(400);
    let (decision, _, late) = bench.full(TestPacket::new(ToServer, ACK, 100, 500, 3));
    assert_eq!((decision, ports(&late)), (BoxDecision::PickUp, (60_000, 8_080)));
    let segment = Segment::from_ethernet(&late).unwrap();
    assert_eq!(segment.has_right_checksum(&late), Some(true));
    // The server's reset to the new port finds the client; what is sent to the old one does not.
    let to_port = |port| TestPacket { port, ..TestPacket::new(ToClient, RST, 500, 0, 0) };
    let (decision, _, reset) = bench.full(to_port(60_000));
    assert_eq!((decision, ports(&reset)), (BoxDecision::Pass, (8_080, 40_000)));
    for port in [40_000, 60_001] {
        let (decision, ..) = bench.full(TestPacket { flags: ACK, ..to_port(port) });
        assert_eq!(decision, BoxDecision::NoState(Forgotten::Unknown), "{port}");
    }
}

#[derive(Clone, Debug)]
struct RandomPacket {
    gap_ms: u64,
    packet: TestPacket,
}

fn random_packet() -> impl Strategy<Value = RandomPacket> {
    let flags = prop::sample::select(vec![0x02u8, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0x00, 0x29]);
    let gap = prop_oneof![8 => 0u64..20, 1 => 20u64..500];
    (gap, any::<bool>(), flags, 0u32..400, 0u32..400, 0usize..60, 0u16..3).prop_map(
        |(gap_ms, to_client, flags, seq, ack, payload, port)| {
            let direction = if to_client { ToClient } else { ToServer };
            let payload = if flags & 0x10 == 0 { 0 } else { payload };
            let packet = TestPacket::new(direction, Flags(flags), seq, ack, payload);
            RandomPacket { gap_ms, packet: TestPacket { port: 40_000 + port, ..packet } }
        },
    )
}

/// When a connection was last heard of, as a box of the simplest kind would note it.
#[derive(Default)]
struct Account {
    last_pass: std::collections::HashMap<u16, Nanos>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever comes: what passes is what came but for its port, a packet of the box's own is a reset without a byte of data, and
    /// nothing passes of a connection of which nothing has passed for longer than its longest time.
    #[test]
    fn nothing_is_made_up_and_nothing_outlives_its_time(
        packets in prop::collection::vec(random_packet(), 1..60),
        is_nat: bool, drop_invalid: bool,
        then in prop::sample::select(vec![
            WithoutState::Drop, WithoutState::Reset, WithoutState::ResetBoth, WithoutState::PickUp,
        ]),
    ) {
        let rules = if is_nat { nat(then) } else { rules(then) };
        let mut bench = Bench::new(Middlebox { drop_invalid, ..rules });
        let mut account = Account::default();
        for RandomPacket { gap_ms, packet } in packets {
            bench.after(gap_ms);
            let words = bench.tracker.last_words(bench.now);
            prop_assert!(words.is_empty() || then == WithoutState::ResetBoth);
            let (decision, own, after) = bench.full(packet);
            let passes = matches!(decision, BoxDecision::Pass | BoxDecision::PickUp);
            let before = packet.frame();
            let (old, new) = (Segment::from_ethernet(&before).unwrap(), Segment::from_ethernet(&after).unwrap());
            let same = |segment: &Segment<'_>| (segment.seq, segment.ack, segment.flags, segment.payload.to_vec());
            prop_assert_eq!(same(&old), same(&new));
            prop_assert_eq!(new.has_right_checksum(&after), Some(true));
            prop_assert!(passes && is_nat || before == after);
            for (_, frame) in words.into_iter().chain(own) {
                let reset = Segment::from_ethernet(&frame).unwrap();
                prop_assert!(reset.flags.has(RST) && reset.payload_len == 0);
                prop_assert_eq!(reset.has_right_checksum(&frame), Some(true));
            }
            if then == WithoutState::PickUp {
                continue;
            }
            let port = packet.port;
            let is_fresh = account.last_pass.get(&port).is_some_and(|last| bench.now - last < 400 * MS);
            prop_assert!(!passes || is_fresh || packet.flags == SYN, "{:?}", packet);
            if passes {
                account.last_pass.insert(port, bench.now);
            }
        }
    }

    /// The same packets at the same times: the same decisions.
    #[test]
    fn decisions_follow_from_packets_and_times_alone(packets in prop::collection::vec(random_packet(), 1..40)) {
        let run = || {
            let mut bench = Bench::new(rules(WithoutState::Reset));
            let decided = packets.iter().map(|random| bench.after(random.gap_ms).full(random.packet));
            decided.collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }
}
