//! Each rule of the machine, with what decides otherwise one step away from it.

use std::io::ErrorKind;
use std::time::Instant;

use super::*;
use crate::machine::Machine;

const MS: Duration = Duration::from_millis(1);

/// Milliseconds in the core's unit of time.
pub(super) fn ms(millis: u64) -> u64 {
    millis * NANOS
}

/// A core that has half-closed at 0, has found nothing to read and, unless `queue` is `None`, that many bytes
/// unacknowledged.
pub(super) fn draining(policy: &Policy, queue: Option<u64>) -> Core {
    let mut core = Core::new(policy, 0);
    core.on(Event::HalfClosed, 0);
    core.on(Event::Empty, 0);
    core.on(queue.map_or(Event::Unknown, |bytes| Event::Unacknowledged { bytes, fin: bytes == 0 }), 0);
    core
}

/// Reports that the time has come, that there is nothing to read, and what the send queue holds.
pub(super) fn look_again(core: &mut Core, bytes: u64, fin: bool, now: u64) {
    core.on(Event::Woken, now);
    core.on(Event::Empty, now);
    core.on(Event::Unacknowledged { bytes, fin }, now);
}

/// The outcome of the close, if the kernel knows nothing of the peer.
#[track_caller]
pub(super) fn ended(core: &mut Core, now: u64) -> Outcome {
    if core.next(now) == Action::Inspect {
        core.on(Event::NotInspected, now);
    }
    match core.next(now) {
        Action::Close { outcome, .. } => outcome,
        other => panic!("not over: {other:?}"),
    }
}

pub(super) fn policy_of(idle: u64, total: u64, grace: u64) -> Policy {
    let [idle, total, grace] = [idle, total, grace].map(Duration::from_millis);
    Policy { idle, total, grace, ..Policy::default() }
}

#[test]
fn grace_bounds_a_silent_peer_that_has_everything_whatever_idle_is() {
    for (policy, until) in [(policy_of(100, 1_000, 300), 300), (policy_of(300, 1_000, 100), 100)] {
        let mut core = draining(&policy, Some(0));
        assert_eq!(core.next(0), Action::Wait { until: ms(until) });
        assert_eq!(core.next(ms(until) - 1), Action::Wait { until: ms(until) });
        assert_eq!(ended(&mut core, ms(until)).ended, Ended::Acknowledged);
    }
}

#[test]
fn each_bound_counts_from_its_own_event() {
    let policy = policy_of(100, 1_000, 50);
    // One byte less is progress. The same number is none, and neither is one more.
    for (bytes, until) in [(8, 140), (9, 100), (10, 100)] {
        let mut core = draining(&policy, Some(9));
        look_again(&mut core, bytes, false, ms(40));
        assert_eq!(core.next(ms(40)), Action::Wait { until: ms(until) }, "{bytes}");
    }
    // The FIN alone is acknowledged: no byte less, and progress all the same. Without it, none.
    for (fin, until) in [(true, 90), (false, 100)] {
        let mut core = draining(&policy, None);
        core.on(Event::Unacknowledged { bytes: 0, fin: false }, 0);
        look_again(&mut core, 0, fin, ms(40));
        assert_eq!(core.next(ms(40)), Action::Wait { until: ms(until) }, "{fin}");
    }
    // The first look counts as progress, a second one of the same does not.
    let mut core = draining(&policy, None);
    for (now, until) in [(10, 110), (20, 110)] {
        look_again(&mut core, 9, false, ms(now));
        assert_eq!(core.next(ms(now)), Action::Wait { until: ms(until) });
    }
    // A byte received is progress, too.
    core.on(Event::Woken, ms(30));
    core.on(Event::Discarded(1), ms(30));
    look_again(&mut core, 9, false, ms(31));
    assert_eq!(core.next(ms(31)), Action::Wait { until: ms(130) });
    // A clock that runs backwards makes no deadline earlier.
    core.on(Event::Woken, ms(20));
    core.on(Event::Discarded(1), ms(20));
    look_again(&mut core, 9, false, ms(31));
    assert_eq!(core.next(ms(31)), Action::Wait { until: ms(130) });
    // `total` ends even a close with progress.
    core.on(Event::Discarded(1), ms(950));
    look_again(&mut core, 9, false, ms(951));
    assert_eq!(core.next(ms(951)), Action::Wait { until: ms(1_000) });
}

#[test]
fn what_has_been_acknowledged_stays_so() {
    let policy = policy_of(100, 1_000, 50);
    for event in [Event::Unknown, Event::Unacknowledged { bytes: 9, fin: false }, Event::Woken] {
        let mut core = draining(&policy, Some(0));
        core.on(event, ms(10));
        core.on(Event::Empty, ms(10));
        assert!(core.acknowledged());
        // The kernel is not asked again, and no further event counts as progress.
        assert_eq!(core.next(ms(10)), Action::Wait { until: ms(50) });
        core.on(Event::EndOfStream, ms(10));
        let outcome = ended(&mut core, ms(10));
        assert_eq!((outcome.ended, outcome.unacknowledged), (Ended::PeerClosed, Some(0)));
    }
    let mut core = draining(&policy, Some(1));
    assert!(!core.acknowledged());
    core.on(Event::Unknown, ms(10));
    core.on(Event::EndOfStream, ms(10));
    core.on(Event::Unknown, ms(10));
    assert_eq!(ended(&mut core, ms(10)).unacknowledged, None);
}

#[test]
fn the_end_of_the_stream_ends_it_unless_bytes_are_known_to_be_missing() {
    let policy = policy_of(100, 1_000, 50);
    for (answer, wanted) in [
        (Event::Unacknowledged { bytes: 0, fin: true }, Some((Ended::PeerClosed, Some(0)))),
        (Event::Unknown, Some((Ended::PeerClosed, None))),
        // The FIN is missing, or bytes are.
        (Event::Unacknowledged { bytes: 0, fin: false }, None),
        (Event::Unacknowledged { bytes: 9, fin: false }, None),
    ] {
        let mut core = draining(&policy, Some(9));
        core.on(Event::Woken, ms(10));
        core.on(Event::EndOfStream, ms(10));
        assert!(core.end_of_stream());
        // It is measured in any case: the peer may have acknowledged together with its FIN.
        assert_eq!(core.next(ms(10)), Action::Measure);
        core.on(answer, ms(10));
        match (core.next(ms(10)), wanted) {
            (Action::Close { outcome, .. }, Some(wanted)) => {
                assert_eq!((outcome.ended, outcome.unacknowledged), wanted);
            }
            (Action::Wait { until }, None) => {
                assert!(until > ms(10));
                // After the end of the stream nothing is read any more.
                core.on(Event::Woken, ms(20));
                assert_eq!(core.next(ms(20)), Action::Measure);
            }
            (action, wanted) => panic!("{action:?}, not {wanted:?}"),
        }
    }
    let mut core = draining(&policy, Some(9));
    assert!(!core.end_of_stream());
    core.on(Event::EndOfStream, 0);
    assert_eq!(core.next(0), Action::Measure, "it was asked before the peer had closed");
    // Events that belong to reading change nothing any more.
    core.on(Event::Empty, 0);
    core.on(Event::EndOfStream, 0);
    assert!(core.end_of_stream());
}

#[test]
fn at_the_end_of_time_the_last_bytes_are_asked_for() {
    let policy = policy_of(100, 200, 50);
    let mut core = draining(&policy, Some(9));
    core.on(Event::Discarded(1), ms(150));
    core.on(Event::Woken, ms(200));
    // There may be something to read, but there is no time for it.
    assert_eq!(core.next(ms(200)), Action::Measure);
    core.on(Event::Unacknowledged { bytes: 4, fin: false }, ms(200));
    let outcome = ended(&mut core, ms(200));
    assert_eq!((outcome.ended, outcome.unacknowledged), (Ended::TimedOut(Bound::Total), Some(4)));
    // A nanosecond earlier there is time.
    let mut core = draining(&policy, Some(9));
    core.on(Event::Woken, ms(200) - 1);
    assert_eq!(core.next(ms(200) - 1), Action::Discard { max: u64::MAX });
}

#[test]
fn who_has_read_all_it_may_ends_by_its_limit() {
    let limited = |cap| Policy { max_discard: Some(cap), ..policy_of(100, 200, 50) };
    // Everything is acknowledged: `patience` ends the close, and `total` does.
    for now in [100, 200] {
        for (cap, wanted) in [
            (8, Ended::Limit),
            (9, if now == 100 { Ended::Acknowledged } else { Ended::TimedOut(Bound::Total) }),
        ] {
            let mut core = draining(&limited(cap), Some(0));
            core.on(Event::Discarded(8), 0);
            core.on(Event::Empty, 0);
            assert_eq!((core.is_sated(), core.discarded()), (cap == 8, 8));
            // A peer that may still send is known to have been sending.
            assert_eq!(core.patience(), ms(if cap == 8 { 50 } else { 100 }));
            assert_eq!(ended(&mut core, ms(now)).ended, wanted);
        }
    }
    // Something is not acknowledged: silence proves nothing, and only `total` ends the close.
    let mut core = draining(&limited(8), Some(1));
    core.on(Event::Discarded(8), 0);
    assert_eq!((core.patience(), core.end_at()), (ms(200), ms(200)));
    assert_eq!(core.next(ms(199)), Action::Wait { until: ms(200) });
    assert_eq!(ended(&mut core, ms(200)).ended, Ended::TimedOut(Bound::Total));
    // Without a limit silence ends it.
    assert_eq!(
        ended(&mut draining(&policy_of(100, 200, 50), Some(1)), ms(100)).ended,
        Ended::TimedOut(Bound::Idle)
    );
}

#[test]
fn a_reset_at_the_limit_is_for_bounds_of_ours() {
    let policy = Policy { at_limit: AtLimit::Abort, max_discard: Some(8), ..policy_of(100, 200, 50) };
    let abort = |core: &mut Core, now| {
        core.on(Event::NotInspected, now);
        matches!(core.next(now), Action::Close { abort: true, .. })
    };
    assert!(abort(&mut draining(&policy, Some(1)), ms(100)));
    let mut core = draining(&policy, Some(0));
    core.on(Event::EndOfStream, 0);
    assert!(!abort(&mut core, 0), "the peer closed");
    assert!(!abort(&mut draining(&policy, Some(0)), ms(50)), "the peer has everything");
    let mut core = draining(&policy, Some(0));
    core.on(Event::Discarded(8), 0);
    assert!(abort(&mut core, ms(50)));
    let mut core = draining(&policy, Some(0));
    core.evict();
    assert!(abort(&mut core, 0));
    let close = Policy { at_limit: AtLimit::Close, ..policy };
    assert!(!abort(&mut draining(&close, Some(1)), ms(100)));
}

#[test]
fn every_early_end_is_asked_what_it_left_and_said_by_name() {
    let policy = policy_of(100, 200, 50);
    let kind = ErrorKind::PermissionDenied;
    for (event, wanted, asks) in [
        (Event::Gone, Ended::Gone, true),
        (Event::Reset, Ended::PeerReset, true),
        (Event::KernelTimeout, Ended::TimedOut(Bound::Kernel), true),
        (Event::Failed(kind), Ended::Failed(kind), false),
    ] {
        // In each state.
        for state in 0..3 {
            let mut core = if state == 0 { Core::new(&policy, 0) } else { draining(&policy, Some(9)) };
            if state == 2 {
                core.on(Event::EndOfStream, 0);
            }
            core.on(event, ms(1));
            let known = (state > 0).then_some(9);
            if asks {
                assert_eq!(core.next(ms(1)), Action::Measure);
                core.on(Event::Unacknowledged { bytes: 7, fin: false }, ms(1));
            }
            let outcome = ended(&mut core, ms(2));
            assert_eq!((outcome.ended, outcome.unacknowledged), (wanted, if asks { Some(7) } else { known }));
            assert_eq!(outcome.elapsed, Duration::from_millis(2));
            // The close is over: nothing changes the outcome, not even an eviction.
            core.evict();
            for late in [Event::Reset, Event::Woken, Event::HalfClosed, Event::Discarded(3)] {
                core.on(late, ms(3));
            }
            assert_eq!(ended(&mut core, ms(2)), outcome);
            assert!(!core.end_of_stream() && core.half_closed());
        }
    }
    // If the kernel cannot answer, the last known number stays.
    let mut core = draining(&policy, Some(9));
    core.on(Event::Reset, 0);
    core.on(Event::Unknown, 0);
    assert_eq!(ended(&mut core, 0).unacknowledged, Some(9));
    // If everything was acknowledged, the kernel is not asked.
    let mut core = draining(&policy, Some(0));
    core.on(Event::Reset, 0);
    assert_eq!(ended(&mut core, 0).unacknowledged, Some(0));
}

#[test]
fn bounds_are_rounded_up_and_count_from_the_start() {
    let policy = Policy {
        idle: Duration::from_nanos(1),
        total: Duration::from_nanos(2_000_001),
        grace: Duration::ZERO,
        ..Policy::default()
    };
    let start = ms(7) + 1;
    let mut core = Core::new(&policy, start);
    assert_eq!(core.end_at(), start + ms(3));
    core.on(Event::HalfClosed, start + 1);
    core.on(Event::Empty, start + 1);
    core.on(Event::Unacknowledged { bytes: 1, fin: false }, start + 1);
    // A millisecond for the progress, one for the silence after it.
    assert_eq!(core.next(start + 1), Action::Wait { until: start + ms(2) });
    let outcome = ended(&mut core, start + ms(2));
    assert_eq!((outcome.ended, outcome.elapsed), (Ended::TimedOut(Bound::Idle), Duration::from_millis(2)));
    // Bounds are cut at 49 days, the largest value that fits.
    let core = Core::new(&Policy { total: Duration::MAX, ..policy }, 0);
    assert_eq!(core.end_at(), ms(u64::from(u32::MAX)));
}

#[test]
fn hurry_bounds_total_from_now_and_silence_from_the_last_progress() {
    let policy = policy_of(100, 1_000, 80);
    for (queue, idle, total, until) in [
        // The tightest of idle, grace and total counts, whether it is the policy's or the hurry's.
        (1, 70, 500, 70),
        (1, 500, 500, 100),
        (0, 500, 500, 80),
        (0, 60, 500, 60),
        (1, 100, 30, 50),
        (1, 100, 5_000, 100),
    ] {
        let mut core = draining(&policy, Some(queue));
        core.hurry(Duration::from_millis(idle), Duration::from_millis(total), ms(20));
        assert_eq!(core.next(ms(20)), Action::Wait { until: ms(until) }, "{queue} {idle} {total}");
    }
    let mut core = draining(&policy, Some(1));
    core.hurry(Duration::MAX, Duration::MAX, ms(20));
    assert_eq!(core.end_at(), ms(1_000), "never loosened");
    core.hurry(Duration::ZERO, Duration::from_millis(100), ms(20) + 1);
    assert_eq!(core.end_at(), ms(121), "rounded up");
}

#[test]
fn without_lingering_silence_is_not_awaited_but_the_peer_may_have_closed() {
    let mut core = draining(&Policy::none(), Some(9));
    assert_eq!(ended(&mut core, 0).ended, Ended::Unwaited);
    // If the time is over, that is what ended the close.
    let mut core = draining(&Policy { total: Duration::from_millis(5), ..Policy::none() }, Some(9));
    assert_eq!(ended(&mut core, ms(5)).ended, Ended::TimedOut(Bound::Total));
    // One read is enough, whether or not it gave something. A lingering close reads on.
    for (policy, reads_on) in [(Policy::none(), false), (Policy::default(), true)] {
        let mut core = Core::new(&policy, 0);
        core.on(Event::HalfClosed, 0);
        assert!(matches!(core.next(0), Action::Discard { .. }));
        core.on(Event::Discarded(1), 0);
        assert_eq!(matches!(core.next(0), Action::Discard { .. }), reads_on);
    }
}

#[test]
fn before_the_half_close_nothing_else_is_asked_for() {
    let mut core = Core::new(&Policy::default(), 0);
    assert!(!core.half_closed() && !core.acknowledged() && !core.end_of_stream());
    for event in
        [Event::Empty, Event::EndOfStream, Event::Woken, Event::Unacknowledged { bytes: 0, fin: true }]
    {
        core.on(event, 0);
        assert_eq!(core.next(ms(100_000)), Action::HalfClose, "{event:?}");
    }
    core.on(Event::HalfClosed, 0);
    assert!(core.half_closed());
    // Reported twice, it does not begin again.
    core.on(Event::Empty, 0);
    core.on(Event::HalfClosed, 0);
    assert_eq!(core.next(0), Action::Measure);
}

#[test]
fn the_machine_counts_from_its_instant() {
    let start = Instant::now();
    let mut machine = Machine::new(&policy_of(100, 1_000, 50), start);
    assert!(!machine.half_closed() && !machine.acknowledged());
    machine.on(Event::HalfClosed, start + MS * 10);
    assert!(machine.half_closed());
    assert_eq!(machine.next(start), Action::Discard { max: u64::MAX });
    machine.on(Event::Empty, start);
    assert_eq!(machine.next(start), Action::Measure);
    machine.on(Event::Unacknowledged { bytes: 0, fin: true }, start + MS * 10);
    assert!(machine.acknowledged());
    assert_eq!(machine.next(start), Action::Wait { until: start + MS * 60 });
    machine.hurry(MS * 5, MS * 500, start + MS * 12);
    assert_eq!(machine.next(start + MS * 12), Action::Wait { until: start + MS * 15 });
    assert_eq!(machine.next(start + MS * 15), Action::Inspect);
    machine.on(Event::NotInspected, start + MS * 15);
    let Action::Close { outcome, abort: false } = machine.next(start + MS * 15) else { panic!() };
    assert_eq!((outcome.ended, outcome.elapsed), (Ended::Acknowledged, MS * 15));
}

/// Behind an end with everything acknowledged the machine reads on until the peer closes, and no longer than it may.
#[test]
fn a_told_end_can_be_followed_by_a_stay() {
    let policy = policy_of(100, 1_000, 10);
    let stays = |longest: u64, at: u64| {
        let mut core = draining(&policy, Some(0));
        assert_eq!(ended(&mut core, ms(10)).ended, Ended::Acknowledged);
        core.stay(Duration::from_millis(longest), ms(at)).then_some(core)
    };
    for (longest, until) in [(2_000, 1_000), (700, 700)] {
        let mut core = stays(longest, 10).unwrap();
        assert_eq!(core.next(ms(10)), Action::Wait { until: ms(until) });
        core.on(Event::Woken, ms(600));
        assert!(matches!(core.next(ms(600)), Action::Discard { .. }));
        core.on(Event::Discarded(5), ms(600));
        core.on(Event::Empty, ms(600));
        assert_eq!(core.next(ms(600)), Action::Wait { until: ms(until) });
        let mut closes = core.clone();
        closes.on(Event::EndOfStream, ms(600));
        assert_eq!(ended(&mut closes, ms(600)).ended, Ended::PeerClosed);
        assert!(matches!(core.next(ms(until)), Action::Close { abort: false, .. }));
        assert!(stays(longest, until - 1).is_some() && stays(longest, until).is_none());
    }
    // Not behind another end: something is unacknowledged, nothing more is read, or the close goes on.
    let mut core = draining(&policy, Some(7));
    assert!(!core.stay(MS, 0));
    assert_eq!(ended(&mut core, ms(100)).ended, Ended::TimedOut(Bound::Idle));
    assert!(!core.stay(Duration::MAX, ms(100)));
    let mut core = draining(&Policy { max_discard: Some(1), ..policy }, Some(0));
    core.on(Event::Discarded(1), 0);
    assert_eq!(ended(&mut core, ms(10)).ended, Ended::Limit);
    assert!(!core.stay(Duration::MAX, ms(10)));
}
