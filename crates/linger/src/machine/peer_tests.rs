//! How the machine treats the peer's signs of life, each rule with a case that differs in one step and is
//! decided otherwise.

use super::tests::{draining, ended, look_again, ms, policy_of};
use super::*;

/// What the kernel knows of a peer.
#[derive(Clone, Copy, Debug)]
struct Facts {
    probes: u8,
    retransmits: u8,
    last_ack: Duration,
    round_trip: Duration,
    data_segments: u32,
}

/// A peer that has answered everything a moment ago, over a path without delay, after a request of one segment.
const ALIVE: Facts = Facts {
    probes: 0,
    retransmits: 0,
    last_ack: Duration::ZERO,
    round_trip: Duration::ZERO,
    data_segments: 1,
};

/// A peer that no longer answers.
const GONE: Facts = Facts { probes: 2, ..ALIVE };

impl Facts {
    fn event(self) -> Event {
        let Self { probes, retransmits, last_ack, round_trip, data_segments } = self;
        Event::Inspected { probes, retransmits, last_ack, round_trip, data_segments }
    }
}

#[test]
fn silence_ends_no_close_of_a_peer_whose_kernel_answers() {
    let policy = policy_of(100, 350, 50);
    for (probes, retransmits, goes_on) in [
        (0, 0, true),
        (1, 0, true),
        (0, 1, true),
        (1, 1, true),
        (2, 0, false),
        (0, 2, false),
        (2, 2, false),
        (u8::MAX, 0, false),
    ] {
        let answer = Facts { probes, retransmits, ..ALIVE }.event();
        let mut core = draining(&policy, Some(9));
        look_again(&mut core, 9, false, ms(100));
        assert_eq!(core.next(ms(100)), Action::Inspect);
        core.on(answer, ms(100));
        assert_eq!(core.is_paused(), goes_on, "{probes} {retransmits}");
        if goes_on {
            assert_eq!(core.next(ms(100)), Action::Wait { until: ms(200) }, "{probes} {retransmits}");
        } else {
            assert_eq!(
                ended(&mut core, ms(100)).ended,
                Ended::TimedOut(Bound::Idle),
                "{probes} {retransmits}"
            );
        }
    }
    // The kernel is asked again each time, until `total` ends the close, or until the peer is gone.
    for is_gone in [false, true] {
        let mut core = draining(&policy, Some(9));
        for (now, until) in [(100, 200), (200, 300), (300, 350)] {
            look_again(&mut core, 9, false, ms(now));
            assert_eq!(core.next(ms(now)), Action::Inspect);
            if is_gone && now == 300 {
                core.on(GONE.event(), ms(now));
                assert_eq!(ended(&mut core, ms(now)).ended, Ended::TimedOut(Bound::Idle));
                break;
            }
            core.on(ALIVE.event(), ms(now));
            assert_eq!(core.next(ms(now)), Action::Wait { until: ms(until) });
        }
        if !is_gone {
            assert_eq!(ended(&mut core, ms(350)).ended, Ended::TimedOut(Bound::Total));
        }
    }
    // The same once the peer has closed its side and not acknowledged everything.
    let mut core = draining(&policy, Some(9));
    core.on(Event::EndOfStream, 0);
    core.on(Event::Unacknowledged { bytes: 9, fin: false }, 0);
    assert_eq!(core.next(ms(100)), Action::Inspect);
    core.on(ALIVE.event(), ms(100));
    assert_eq!(core.next(ms(100)), Action::Wait { until: ms(200) });
    // A peer that has everything no longer answers, because there is nothing to answer.
    let mut core = draining(&policy, Some(0));
    assert_eq!(core.next(ms(50)), Action::Inspect);
    core.on(ALIVE.event(), ms(50));
    assert!(!core.is_paused());
    assert_eq!(ended(&mut core, ms(50)).ended, Ended::Acknowledged);
    // A peer that has read a part meanwhile is waited for, and does not count as paused.
    let mut core = draining(&policy, Some(9));
    look_again(&mut core, 8, false, ms(100));
    assert_eq!(core.next(ms(100)), Action::Inspect);
    core.on(ALIVE.event(), ms(100));
    assert!(!core.is_paused());
    assert_eq!(core.next(ms(100)), Action::Wait { until: ms(200) });
}

#[test]
fn a_late_acknowledgement_counts_from_when_it_came() {
    let policy = policy_of(100, 1_000, 50);
    let came = |ago: u64| Facts { last_ack: Duration::from_millis(ago), ..GONE }.event();
    for (bytes, fin, answer, wanted) in [
        (8, false, came(30), Some(170)),
        (8, false, came(99), Some(101)),
        // The answer came at the last progress, or before it.
        (8, false, came(100), None),
        (8, false, came(500), None),
        // Nothing new was acknowledged: an answer to a probe is no progress.
        (9, false, came(30), None),
        // All of it: `grace` counts from then.
        (0, true, came(30), Some(120)),
        (0, true, came(50), None),
        // The kernel cannot say when: so it counts as now.
        (8, false, Event::NotInspected, Some(200)),
        (9, false, Event::NotInspected, None),
    ] {
        let mut core = draining(&policy, Some(9));
        look_again(&mut core, bytes, fin, ms(100));
        assert_eq!(core.next(ms(100)), Action::Inspect, "{bytes}");
        core.on(answer, ms(100));
        match (core.next(ms(100)), wanted) {
            (Action::Wait { until }, Some(wanted)) => assert_eq!(until, ms(wanted), "{answer:?}"),
            (Action::Close { .. }, None) => {}
            (action, _) => panic!("{bytes} {answer:?}: {action:?}"),
        }
    }
    // An acknowledgement in time needs no inquiry.
    let mut core = draining(&policy, Some(9));
    look_again(&mut core, 8, false, ms(99));
    assert_eq!(core.next(ms(99)), Action::Wait { until: ms(199) });
    // The next look starts anew.
    look_again(&mut core, 8, false, ms(199));
    assert_eq!(core.next(ms(199)), Action::Inspect);
}

#[test]
fn a_peer_that_was_still_sending_gets_idle_instead_of_grace() {
    let policy = policy_of(100, 1_000, 50);
    for (sent, until) in [(0, 50), (1, 110)] {
        let mut core = draining(&policy, Some(0));
        if sent > 0 {
            core.on(Event::Woken, ms(10));
            core.on(Event::Discarded(sent), ms(10));
            core.on(Event::Empty, ms(10));
        }
        assert_eq!(core.next(ms(10)), Action::Wait { until: ms(until) });
    }
    // After `max_discard` bytes nothing more is read, so it cannot be known whether the peer still sends: `grace` applies.
    let mut core = draining(&Policy { max_discard: Some(1), ..policy }, Some(0));
    core.on(Event::Discarded(1), ms(10));
    assert_eq!(core.next(ms(10)), Action::Wait { until: ms(60) });
    // The bounds of a hurry apply to both.
    let mut core = draining(&policy, Some(0));
    core.on(Event::Discarded(1), 0);
    core.on(Event::Empty, 0);
    core.hurry(Duration::from_millis(20), Duration::from_millis(500), 0);
    assert_eq!(core.next(0), Action::Wait { until: ms(20) });
}

#[test]
fn a_peer_that_has_sent_more_than_one_segment_gets_idle_instead_of_grace() {
    let policy = policy_of(100, 1_000, 50);
    for (data_segments, is_over) in [(0, true), (1, true), (2, false), (u32::MAX, false)] {
        let mut core = draining(&policy, Some(0));
        assert_eq!(core.next(ms(50)), Action::Inspect);
        core.on(Facts { data_segments, ..ALIVE }.event(), ms(50));
        match core.next(ms(50)) {
            Action::Close { .. } => assert!(is_over, "{data_segments}"),
            action => {
                assert_eq!((action, is_over), (Action::Wait { until: ms(100) }, false), "{data_segments}");
                assert_eq!(ended(&mut core, ms(100)).ended, Ended::Acknowledged);
            }
        }
    }
}

#[test]
fn who_sends_on_after_the_limit_gets_grace() {
    // With a byte left to discard the peer gets `idle`.
    for (max_discard, until) in [(8, None), (9, Some(100))] {
        let policy = Policy { max_discard: Some(max_discard), ..policy_of(100, 1_000, 50) };
        let mut core = draining(&policy, Some(0));
        core.on(Event::Discarded(8), 0);
        core.on(Event::Empty, 0);
        core.on(Facts { data_segments: 9, ..ALIVE }.event(), ms(50));
        match (core.next(ms(50)), until) {
            (Action::Wait { until }, Some(wanted)) => assert_eq!(until, ms(wanted)),
            (Action::Close { outcome, .. }, None) => assert_eq!(outcome.ended, Ended::Limit),
            (action, _) => panic!("{max_discard}: {action:?}"),
        }
    }
}

#[test]
fn grace_is_eight_round_trips_at_least_and_idle_at_most() {
    let policy = policy_of(100, 1_000, 50);
    // In microseconds, for these are what the kernel counts in; the bound is kept in milliseconds.
    for (round_trip, until) in [
        (0, None),
        (6_250, None),
        (6_251, Some(51)),
        (10_000, Some(80)),
        (12_500, Some(100)),
        (900_000, Some(100)),
    ] {
        let mut core = draining(&policy, Some(0));
        assert_eq!(core.next(ms(50)), Action::Inspect);
        core.on(Facts { round_trip: Duration::from_micros(round_trip), ..ALIVE }.event(), ms(50));
        match (core.next(ms(50)), until) {
            (Action::Wait { until }, Some(wanted)) => {
                assert_eq!(until, ms(wanted), "{round_trip}");
                assert_eq!(ended(&mut core, until).ended, Ended::Acknowledged);
            }
            (Action::Close { .. }, None) => {}
            (action, _) => panic!("{round_trip}: {action:?}"),
        }
    }
    // The inquiry does not undo a hurry.
    let mut core = draining(&policy, Some(0));
    core.hurry(Duration::from_millis(20), Duration::from_millis(500), 0);
    core.on(Facts { round_trip: Duration::from_secs(1), ..ALIVE }.event(), ms(20));
    assert_eq!(ended(&mut core, ms(20)).ended, Ended::Acknowledged);
}

/// A `grace` that is longer than `idle` is what the policy wants, for every peer that has everything; a hurry shortens it.
#[test]
fn a_grace_longer_than_idle_is_kept_whatever_the_peer_has_sent() {
    let policy = policy_of(100, 1_000, 300);
    for (sent, data_segments) in [(0, 1), (0, 9), (1, 1), (1, 9)] {
        let mut core = draining(&policy, Some(0));
        if sent > 0 {
            core.on(Event::Discarded(sent), 0);
            core.on(Event::Empty, 0);
        }
        assert_eq!(core.next(ms(100)), Action::Wait { until: ms(300) }, "{sent}");
        assert_eq!(core.next(ms(300)), Action::Inspect);
        core.on(Facts { data_segments, round_trip: Duration::from_secs(1), ..ALIVE }.event(), ms(300));
        assert_eq!(ended(&mut core, ms(300)).ended, Ended::Acknowledged, "{sent} {data_segments}");
    }
    let mut core = draining(&policy, Some(0));
    core.hurry(Duration::from_millis(20), Duration::from_millis(500), 0);
    assert_eq!(core.next(0), Action::Wait { until: ms(20) });
    // Until it has everything, `idle` applies.
    assert_eq!(draining(&policy, Some(9)).next(0), Action::Wait { until: ms(100) });
}

#[test]
fn a_silent_peer_that_has_everything_is_no_timeout_even_if_total_comes_first() {
    for (sent, wanted) in [(0, Ended::Acknowledged), (1, Ended::TimedOut(Bound::Total))] {
        let mut core = draining(&policy_of(100, 1_000, 1_000), Some(9));
        look_again(&mut core, 0, true, ms(50));
        if sent > 0 {
            core.on(Event::Woken, ms(60));
            core.on(Event::Discarded(sent), ms(60));
            core.on(Event::Empty, ms(60));
        }
        assert_eq!(core.next(ms(60)), Action::Wait { until: ms(1_000) });
        assert_eq!(ended(&mut core, ms(1_000)).ended, wanted);
    }
}

#[test]
fn who_closes_after_it_has_everything_is_told_from_who_closed_before() {
    let policy = policy_of(100, 1_000, 50);
    let all = Event::Unacknowledged { bytes: 0, fin: true };
    let some = Event::Unacknowledged { bytes: 9, fin: false };
    for (events, wanted) in [
        // It closed when it had everything: seen in one look, or in two.
        (&[Event::Empty, some, Event::Woken, Event::EndOfStream, all][..], true),
        (&[Event::Empty, all, Event::Woken, Event::EndOfStream], true),
        (&[Event::Empty, Event::Woken, Event::Discarded(1), Event::EndOfStream, all], true),
        // Its end was there already at the half-close, alone or behind what it had sent.
        (&[Event::EndOfStream, all], false),
        (&[Event::Discarded(1), Event::EndOfStream, all], false),
        // It closed while something was missing, which came later.
        (&[Event::Empty, Event::Woken, Event::EndOfStream, some, Event::Woken, all], false),
        // Nobody knows.
        (&[Event::Empty, Event::Woken, Event::EndOfStream, Event::Unknown], false),
    ] {
        let mut core = Core::new(&policy, 0);
        core.on(Event::HalfClosed, 0);
        events.iter().for_each(|event| core.on(*event, 0));
        let outcome = ended(&mut core, 0);
        assert_eq!((outcome.ended, outcome.closed_after), (Ended::PeerClosed, wanted), "{events:?}");
    }
    // A peer that keeps its socket open has not closed.
    assert!(!ended(&mut draining(&policy, Some(0)), ms(50)).closed_after);
}

#[cfg(feature = "tokio")]
#[test]
fn a_socket_whose_owner_sent_the_fin_is_not_half_closed_again() {
    for (policy, is_half_closed, wanted) in [
        (Policy::default(), false, Action::HalfClose),
        (Policy::default(), true, Action::Discard { max: u64::MAX }),
        (Policy::abort(), false, Action::Measure),
        (Policy::abort(), true, Action::Measure),
    ] {
        let mut core = Core::begin(&policy, is_half_closed, 0);
        assert_eq!(core.next(0), wanted);
        assert_eq!(core.half_closed(), wanted != Action::HalfClose);
    }
}
