//! The rules of a session, each with a case one step away that is decided otherwise.

use super::*;
use proptest::prelude::*;

fn frame(kind: FrameKind, stream: u16, length: u32) -> Header {
    Header { kind, stream, length }
}

/// A header of any kind, whose own check fits.
fn sealed(kind: u8, stream: u16, length: u32) -> [u8; crate::wire::HEADER] {
    let mut bytes = frame(FrameKind::Open, stream, length).encode(&[]);
    bytes[5] ^= bytes[4] ^ kind;
    bytes[4] = kind;
    bytes
}

#[test]
fn a_stream_lives_from_open_to_both_finishes() {
    let mut machine = Machine::new(Role::Responder, SessionLimits::default());
    assert_eq!(machine.arrived(frame(FrameKind::Data, 1, 5)), Err(Violation::BadStream(1)));
    assert_eq!(machine.arrived(frame(FrameKind::Open, 1, 0)), Ok(Disposal::Deliver));
    assert_eq!(machine.arrived(frame(FrameKind::Open, 1, 0)), Err(Violation::BadStream(1)));
    assert_eq!(machine.arrived(frame(FrameKind::Open, 2, 0)), Err(Violation::BadStream(2)));
    assert_eq!(machine.arrived(frame(FrameKind::Finish, 1, 0)), Ok(Disposal::Deliver));
    assert_eq!(machine.arrived(frame(FrameKind::Data, 1, 5)), Err(Violation::BadStream(1)));
    assert!(machine.sendable(1).is_some());
    assert!(machine.finish(1));
    assert_eq!(machine.sendable(1), None);
    assert!(!machine.finish(1));
}

#[test]
fn frames_that_cross_a_cancel_are_dropped() {
    let mut machine = Machine::new(Role::Responder, SessionLimits::default());
    machine.arrived(frame(FrameKind::Open, 1, 0)).unwrap();
    assert!(machine.cancel(1));
    assert_eq!(machine.arrived(frame(FrameKind::Data, 1, 9)), Ok(Disposal::Drop));
    assert_eq!(machine.arrived(frame(FrameKind::Cancel, 1, 2)), Ok(Disposal::Drop));
}

/// Takes data in pieces of 64 KiB, each `step` after the one before; returns the credit that was given.
fn take(machine: &mut Machine, bytes: u64, step: Duration, round_trip: Duration) -> u64 {
    let mut now = Instant::now();
    let mut credit = 0;
    for _ in 0..bytes / (64 << 10) {
        assert_eq!(machine.arrived(frame(FrameKind::Data, 1, 64 << 10)), Ok(Disposal::Deliver));
        now += step;
        credit += machine.taken(1, 64 << 10, now, || Some(round_trip)).unwrap_or(0);
    }
    credit
}

#[test]
fn the_window_grows_on_a_long_path_alone() {
    let limits = SessionLimits { window: 1 << 20, most: 4 << 20, streams: 1 };
    for (round_trip, grown) in [(1, 0), (100, 3 << 20)] {
        let mut machine = Machine::new(Role::Responder, limits);
        machine.arrived(frame(FrameKind::Open, 1, 0)).unwrap();
        // A window in 16 ms.
        let round_trip = Duration::from_millis(round_trip);
        let credit = take(&mut machine, 64 << 20, Duration::from_millis(1), round_trip);
        assert_eq!(credit, (64 << 20) + grown, "{round_trip:?}");
    }
}

proptest! {
    /// Whatever arrives, a peer never has more than a window of ungranted bytes accepted, nor more streams.
    #[test]
    fn credit_bounds_what_is_accepted(frames in prop::collection::vec((1u8..10, 0u16..6, 0u32..2_000_000), 0..200)) {
        let limits = SessionLimits { window: 1 << 20, most: 1 << 20, streams: 2 };
        let mut machine = Machine::new(Role::Responder, limits);
        let mut accepted = 0u64;
        for (kind, stream, length) in frames {
            let Ok(header) = Header::decode(sealed(kind, stream, length)) else { continue };
            let Ok(verdict) = machine.arrived(header) else { break };
            prop_assert!(machine.streams.len() <= limits.streams);
            if verdict == Disposal::Deliver && matches!(header.kind, FrameKind::Data | FrameKind::Message) {
                accepted += u64::from(length);
            }
        }
        // Nothing was taken, so at most one window a stream; ids 1, 3, 5 can be opened one after another.
        prop_assert!(accepted <= 3 * limits.window);
    }
}

const WINDOW: u64 = 4 << 20;

/// A machine that accepted one stream, number 1.
fn responder(limits: SessionLimits) -> Machine {
    let mut machine = Machine::new(Role::Responder, limits);
    assert_eq!(machine.arrived(frame(FrameKind::Open, 1, 0)), Ok(Disposal::Deliver));
    machine
}

fn limits(window: u64, most: u64, streams: usize) -> SessionLimits {
    SessionLimits { window, most, streams }
}

fn never_asked() -> Option<Duration> {
    panic!("the round trip was asked for")
}

#[test]
fn a_peer_opens_its_own_numbers_upwards() {
    for (role, good, bad) in [(Role::Responder, [1, 3, 9], 4), (Role::Initiator, [2, 4, 10], 3)] {
        let mut machine = Machine::new(role, SessionLimits::default());
        for id in [0, bad] {
            assert_eq!(
                machine.arrived(frame(FrameKind::Open, id, 0)),
                Err(Violation::BadStream(id)),
                "{role:?}"
            );
        }
        for id in good {
            assert_eq!(machine.arrived(frame(FrameKind::Open, id, 0)), Ok(Disposal::Deliver), "{role:?}");
        }
        let [_, lower, last] = good;
        for id in [last, lower + 2] {
            assert_eq!(
                machine.arrived(frame(FrameKind::Open, id, 0)),
                Err(Violation::BadStream(id)),
                "{role:?}"
            );
        }
    }
}

#[test]
fn streams_at_once_are_limited_and_the_end_of_one_makes_room() {
    let mut machine = responder(limits(WINDOW, WINDOW, 2));
    assert_eq!(machine.open(), Some(2));
    assert_eq!(machine.open(), None);
    assert_eq!(machine.arrived(frame(FrameKind::Open, 3, 0)), Err(Violation::TooManyStreams));
    assert!(machine.cancel(2));
    assert_eq!(machine.arrived(frame(FrameKind::Open, 3, 0)), Ok(Disposal::Deliver));
    assert_eq!(machine.arrived(frame(FrameKind::Finish, 3, 0)), Ok(Disposal::Deliver));
    assert_eq!(machine.open(), None, "half-closed streams count");
    assert!(machine.finish(3));
    assert_eq!(machine.open(), Some(4), "and closed ones do not");
}

#[test]
fn our_numbers_go_up_and_end() {
    for (role, first) in [(Role::Initiator, 1), (Role::Responder, 2)] {
        let mut machine = Machine::new(role, limits(WINDOW, WINDOW, 1));
        let mut expected = first;
        while let Some(id) = machine.open() {
            assert_eq!(id, expected);
            assert!(machine.cancel(id));
            expected += 2;
        }
        assert!(expected > u16::MAX - 3, "{expected}");
    }
}

#[test]
fn a_peer_may_send_what_it_was_granted_and_not_a_byte_more() {
    for kind in [FrameKind::Data, FrameKind::Message] {
        for (second, expected) in
            [(WINDOW - 5, Ok(Disposal::Deliver)), (WINDOW - 4, Err(Violation::OverCredit(1)))]
        {
            let mut machine = responder(limits(WINDOW, WINDOW, 1));
            assert_eq!(machine.arrived(frame(kind, 1, 5)), Ok(Disposal::Deliver));
            assert_eq!(machine.arrived(frame(FrameKind::Data, 1, second as u32)), expected, "{kind:?}");
        }
    }
}

#[test]
fn who_may_still_send_depends_on_who_has_finished() {
    let data = frame(FrameKind::Data, 1, 1);
    let finish = frame(FrameKind::Finish, 1, 0);
    let bad = Err(Violation::BadStream(1));

    let mut local = responder(SessionLimits::default());
    assert!(local.finish(1));
    assert_eq!((local.sendable(1), local.finish(1)), (None, false));
    assert_eq!(local.arrived(data), Ok(Disposal::Deliver), "the peer has not finished");
    assert_eq!(local.taken(1, 1, Instant::now(), never_asked), None);
    assert_eq!(local.arrived(finish), Ok(Disposal::Deliver));
    assert_eq!((local.arrived(data), local.arrived(finish)), (bad, bad), "closed");

    let mut remote = responder(SessionLimits::default());
    assert_eq!(remote.arrived(finish), Ok(Disposal::Deliver));
    assert_eq!((remote.arrived(data), remote.arrived(finish)), (bad, bad), "it has finished");
    assert_eq!(remote.sendable(1), Some(SessionLimits::default().window));
    assert!(remote.finish(1));
    assert_eq!((remote.sendable(1), remote.finish(1), remote.cancel(1)), (None, false, false), "closed");
}

#[test]
fn frames_for_streams_that_never_were_break_the_rules_and_late_credit_does_not() {
    let mut machine = Machine::new(Role::Responder, SessionLimits::default());
    for kind in [FrameKind::Message, FrameKind::Data, FrameKind::Finish, FrameKind::Cancel] {
        assert_eq!(machine.arrived(frame(kind, 1, 1)), Err(Violation::BadStream(1)), "{kind:?}");
    }
    assert_eq!(machine.arrived(frame(FrameKind::Credit, 1, 8)), Ok(Disposal::Drop));
    let mut machine = responder(SessionLimits::default());
    assert_eq!(machine.arrived(frame(FrameKind::Credit, 1, 8)), Ok(Disposal::Deliver));
}

#[test]
fn the_peer_cancels_in_both_directions() {
    let mut machine = responder(SessionLimits::default());
    assert_eq!(machine.arrived(frame(FrameKind::Cancel, 1, 2)), Ok(Disposal::Deliver));
    assert_eq!((machine.sendable(1), machine.finish(1), machine.cancel(1)), (None, false, false));
    assert_eq!(
        machine.arrived(frame(FrameKind::Data, 1, 1)),
        Err(Violation::BadStream(1)),
        "it cancelled itself"
    );
}

#[test]
fn as_many_of_our_cancels_are_remembered_as_streams_may_be_open() {
    let mut machine = Machine::new(Role::Responder, limits(WINDOW, WINDOW, 2));
    for id in [1, 3, 5] {
        machine.arrived(frame(FrameKind::Open, id, 0)).unwrap();
        assert!(machine.cancel(id));
    }
    assert_eq!(
        machine.arrived(frame(FrameKind::Data, 1, 1)),
        Err(Violation::BadStream(1)),
        "the oldest is forgotten"
    );
    for id in [3, 5] {
        for kind in
            [FrameKind::Message, FrameKind::Data, FrameKind::Finish, FrameKind::Cancel, FrameKind::Credit]
        {
            assert_eq!(machine.arrived(frame(kind, id, 1)), Ok(Disposal::Drop), "{kind:?}");
        }
    }
}

#[test]
fn frames_of_the_session_belong_to_no_stream_and_nothing_follows_a_goodbye() {
    for kind in [FrameKind::Ping, FrameKind::Pong, FrameKind::Bye] {
        let mut machine = responder(SessionLimits::default());
        assert_eq!(machine.arrived(frame(kind, 1, 8)), Err(Violation::BadStream(1)), "{kind:?}");
        assert_eq!(machine.arrived(frame(kind, 0, 8)), Ok(Disposal::Deliver));
        let after = machine.arrived(frame(FrameKind::Data, 1, 1));
        let expected = if kind == FrameKind::Bye { Err(Violation::AfterBye) } else { Ok(Disposal::Deliver) };
        assert_eq!(after, expected, "{kind:?}");
    }
}

#[test]
fn credit_adds_up_to_less_than_two_to_the_63() {
    let room = (1 << 63) - 1 - WINDOW;
    for finished in [false, true] {
        let mut machine = responder(limits(WINDOW, WINDOW, 1));
        if finished {
            assert!(machine.finish(1));
        }
        assert_eq!(machine.credited(1, room), Ok(()));
        assert_eq!(machine.credited(1, 1), Err(Violation::TooMuchCredit(1)), "finished: {finished}");
        assert_eq!(machine.credited(1, u64::MAX), Err(Violation::TooMuchCredit(1)));
        assert_eq!(machine.credited(7, u64::MAX), Ok(()), "of no stream it means nothing");
    }
}

#[test]
fn what_we_send_uses_our_credit_up() {
    let mut machine = responder(limits(WINDOW, WINDOW, 1));
    machine.sent(1, WINDOW - 7);
    assert_eq!(machine.sendable(1), Some(7));
    machine.credited(1, 100).unwrap();
    assert_eq!(machine.sendable(1), Some(107));
    machine.sent(1, 107);
    assert_eq!(machine.sendable(1), Some(0));
    assert_eq!(machine.sendable(3), None);
}

/// The peer sends `bytes` and the program takes them.
fn arrive_and_take(
    machine: &mut Machine,
    bytes: u64,
    now: Instant,
    round_trip: Option<Duration>,
) -> Option<u64> {
    assert_eq!(machine.arrived(frame(FrameKind::Data, 1, bytes as u32)), Ok(Disposal::Deliver));
    machine.taken(1, bytes, now, || round_trip)
}

#[test]
fn credit_comes_back_by_half_a_window_or_by_a_mebibyte() {
    let now = Instant::now();
    for (window, portion) in [(WINDOW, CREDIT), (2 << 20, CREDIT), (1 << 20, 1 << 19), (10, 5), (3, 1)] {
        let mut machine = responder(limits(window, window, 1));
        for _ in 0..3 {
            if portion > 1 {
                assert_eq!(arrive_and_take(&mut machine, portion - 1, now, None), None, "{window}");
            }
            assert_eq!(arrive_and_take(&mut machine, 1, now, None), Some(portion), "{window}");
        }
        assert_eq!(
            machine.arrived(frame(FrameKind::Data, 1, window as u32)),
            Ok(Disposal::Deliver),
            "all is granted again"
        );
        assert_eq!(machine.arrived(frame(FrameKind::Data, 1, 1)), Err(Violation::OverCredit(1)));
    }
}

#[test]
fn a_peer_that_has_finished_gets_no_credit() {
    let mut machine = responder(limits(WINDOW, WINDOW, 1));
    machine.arrived(frame(FrameKind::Data, 1, WINDOW as u32)).unwrap();
    machine.arrived(frame(FrameKind::Finish, 1, 0)).unwrap();
    assert_eq!(machine.taken(1, WINDOW, Instant::now(), never_asked), None);
    assert_eq!(machine.taken(3, WINDOW, Instant::now(), never_asked), None, "nor does no stream");
}

/// Takes one window in `took`, by two halves; gives how far the window grew.
fn growth(window: u64, most: u64, took: Duration, round_trip: Option<Duration>) -> u64 {
    let mut machine = responder(limits(window, most, 1));
    let start = Instant::now();
    let half = window / 2;
    assert_eq!(arrive_and_take(&mut machine, half, start, round_trip), Some(half), "not a whole window yet");
    arrive_and_take(&mut machine, window - half, start + took, round_trip).unwrap() - half
}

#[test]
fn the_window_grows_when_it_is_taken_in_less_than_two_round_trips() {
    let trip = Duration::from_millis(10);
    let nano = Duration::from_nanos(1);
    assert_eq!(growth(1 << 20, 8 << 20, 2 * trip - nano, Some(trip)), 1 << 20, "doubled");
    assert_eq!(growth(1 << 20, 8 << 20, 2 * trip, Some(trip)), 0);
    assert_eq!(growth(1 << 20, 8 << 20, 3 * trip, Some(trip)), 0);
    assert_eq!(growth(1 << 20, 8 << 20, nano, None), 0, "nobody knows the round trip");
    assert_eq!(growth(1 << 20, 3 << 19, nano, Some(trip)), 1 << 19, "up to the most");
}

#[test]
fn at_its_most_a_window_is_not_measured_any_more() {
    for most in [1 << 20, 1 << 19] {
        let mut machine = responder(limits(1 << 20, most, 1));
        machine.arrived(frame(FrameKind::Data, 1, 1 << 20)).unwrap();
        assert_eq!(machine.taken(1, 1 << 20, Instant::now(), never_asked), Some(1 << 20));
    }
}

/// Each window is measured from the end of the one before.
#[test]
fn a_pause_between_two_windows_belongs_to_the_second() {
    let trip = Duration::from_millis(10);
    let mut machine = responder(limits(1 << 20, 8 << 20, 1));
    let mut now = Instant::now();
    assert_eq!(arrive_and_take(&mut machine, 1 << 20, now, None), Some(1 << 20));
    now += 2 * trip;
    assert_eq!(
        arrive_and_take(&mut machine, 1 << 20, now, Some(trip)),
        Some(1 << 20),
        "too slow by the pause"
    );
    now += trip;
    assert_eq!(arrive_and_take(&mut machine, 1 << 20, now, Some(trip)), Some(2 << 20), "and the third grows");
    // What grew is granted: two windows of the old size may come now.
    assert_eq!(machine.arrived(frame(FrameKind::Data, 1, 2 << 20)), Ok(Disposal::Deliver));
    assert_eq!(machine.arrived(frame(FrameKind::Data, 1, 1)), Err(Violation::OverCredit(1)));
}

#[test]
fn the_longest_frame_is_half_a_window_or_a_block() {
    for (window, longest) in
        [(0, 0), (128 << 10, 64 << 10), (2 << 20, MAX_DATA), (3 << 20, MAX_DATA), (u64::MAX, MAX_DATA)]
    {
        assert_eq!(Machine::new(Role::Initiator, limits(window, window, 1)).longest(), longest);
    }
}

#[test]
fn the_defaults_are_those_of_the_protocol() {
    assert_eq!(SessionLimits::default(), SessionLimits { window: 2_097_152, most: 16_777_216, streams: 16 });
}
