//! The machine against a model of a socket and its peer, in random event orders.

use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

/// What the peer and the network may do between two looks of the driver.
#[derive(Clone, Copy, Debug)]
enum Step {
    Sends(u64),
    Acknowledges(u64),
    Closes,
    Resets,
    Passes(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..5_000).prop_map(Step::Sends),
        4 => (1u64..200_000).prop_map(Step::Acknowledges),
        1 => Just(Step::Closes),
        1 => Just(Step::Resets),
        4 => (1u64..400).prop_map(Step::Passes),
    ]
}

prop_compose! {
    fn policy()(idle in 1u32..300, total in 1u32..2_000, cap in proptest::option::of(1u64..20_000), grace in 0u32..300, abort: bool) -> Policy {
        Policy {
            idle: MS * idle.min(total),
            total: MS * total,
            max_discard: cap,
            grace: MS * grace.min(total),
            at_limit: if abort { AtLimit::Abort } else { AtLimit::Close },
            mode: Mode::Linger,
        }
    }
}

/// A kernel socket as far as a close sees it.
#[derive(Default)]
struct Model {
    unread: u64,
    unacknowledged: u64,
    fin_sent: bool,
    fin_acknowledged: bool,
    peer_closed: bool,
    reset: bool,
}

impl Model {
    fn apply(&mut self, step: Step) {
        match step {
            _ if self.reset => {}
            Step::Sends(bytes) if !self.peer_closed => self.unread += bytes,
            Step::Acknowledges(bytes) => {
                self.fin_acknowledged = self.fin_sent && bytes >= self.unacknowledged;
                self.unacknowledged = self.unacknowledged.saturating_sub(bytes);
            }
            Step::Closes => self.peer_closed = true,
            Step::Resets => self.reset = true,
            _ => {}
        }
    }

    fn answer(&mut self, action: Action) -> Event {
        match action {
            Action::HalfClose if self.reset => Event::Gone,
            Action::HalfClose => {
                self.fin_sent = true;
                Event::HalfClosed
            }
            Action::Discard { max } if self.unread > 0 => {
                let bytes = self.unread.min(max);
                self.unread -= bytes;
                Event::Discarded(bytes)
            }
            Action::Discard { .. } if self.reset => Event::Reset,
            Action::Discard { .. } if self.peer_closed => Event::EndOfStream,
            Action::Discard { .. } => Event::Empty,
            Action::Measure => {
                Event::Unacknowledged { bytes: self.unacknowledged, fin: self.fin_acknowledged }
            }
            Action::Wait { .. } => Event::Woken,
            Action::Close { .. } => unreachable!("a close is not answered"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn invariants_hold_in_any_order(
        policy in policy(),
        response in 0u64..500_000,
        unread in 0u64..2_000,
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut model = Model { unacknowledged: response, unread, ..Model::default() };
        let mut machine = Machine::new(&policy, now);
        let mut steps = steps.into_iter();
        let mut read = 0;
        let mut half_closes = 0;
        let mut actions_at_this_time = 0;
        let (abort, outcome) = loop {
            let action = machine.next(now);
            prop_assert_eq!(action, machine.next(now), "asking again changes nothing");
            actions_at_this_time += 1;
            prop_assert!(actions_at_this_time < 50, "the machine spins on {:?}", action);
            match action {
                Action::HalfClose => half_closes += 1,
                Action::Discard { max } => {
                    prop_assert_eq!(half_closes, 1, "the half-close comes before the first read");
                    prop_assert!(max >= 1 && policy.max_discard.is_none_or(|cap| read + max <= cap));
                    prop_assert!(now < start + policy.total, "no reading past `total`");
                }
                Action::Measure => {}
                Action::Wait { until } => {
                    prop_assert!(until > now && until <= start + policy.total);
                    // The peer acts, and then either its event or the time wakes the driver.
                    match steps.next() {
                        Some(Step::Passes(millis)) => now = until.min(now + MS * millis as u32),
                        Some(step) => model.apply(step),
                        None => now = until,
                    }
                    actions_at_this_time = 0;
                }
                Action::Close { abort, outcome } => break (abort, outcome),
            }
            let event = model.answer(action);
            if let Event::Discarded(bytes) = event {
                read += bytes;
            }
            machine.on(event, now);
        };
        prop_assert_eq!(half_closes, 1);
        prop_assert_eq!(outcome.discarded, read);
        prop_assert_eq!(outcome.elapsed, now - start);
        prop_assert!(outcome.elapsed <= policy.total);
        let may_wait = outcome.elapsed < policy.total && policy.max_discard.is_none_or(|cap| read < cap);
        prop_assert!(!(may_wait && !model.reset && model.unread > 0), "closed with unread bytes: {:?}", outcome);
        // The outcome is the truth.
        prop_assert_eq!(outcome.unacknowledged.unwrap_or(0), model.unacknowledged);
        match outcome.ended {
            Ended::PeerClosed => prop_assert!(model.peer_closed && model.fin_acknowledged),
            Ended::Acknowledged | Ended::Limit => prop_assert!(outcome.delivered() && model.fin_acknowledged),
            Ended::PeerReset | Ended::Gone => prop_assert!(model.reset),
            Ended::TimedOut(Bound::Total) => prop_assert_eq!(outcome.elapsed, policy.total),
            Ended::TimedOut(Bound::Idle) => prop_assert!(outcome.elapsed >= policy.idle && !model.fin_acknowledged),
            other => prop_assert!(false, "the model never leads to {:?}", other),
        }
        let at_limit = matches!(outcome.ended, Ended::TimedOut(_) | Ended::Limit);
        prop_assert_eq!(abort, at_limit && policy.at_limit == AtLimit::Abort);
        // Exactly one close: whatever comes later changes nothing.
        machine.on(Event::Discarded(9), now);
        let again = machine.next(now);
        let is_the_same = matches!(again, Action::Close { outcome: repeated, .. } if repeated == outcome);
        prop_assert!(is_the_same);
    }

    #[test]
    fn hurry_only_tightens(policy in policy(), after in 0u32..1_000, idle in 0u32..500, total in 0u32..500) {
        let start = Instant::now();
        let mut machine = Machine::new(&policy, start);
        machine.on(Event::HalfClosed, start);
        machine.on(Event::Empty, start);
        machine.on(Event::Unacknowledged { bytes: 1, fin: false }, start);
        let then = start + MS * after;
        machine.hurry(MS * idle, MS * total, then);
        match machine.next(then) {
            Action::Wait { until } => {
                prop_assert!(until <= then + MS * total);
                prop_assert!(until <= start + policy.total);
            }
            action => {
                let is_close = matches!(action, Action::Close { .. });
                prop_assert!(is_close, "{:?}", action);
            }
        }
    }
}

/// Leads a machine past the half-close and the first look at an empty, unacknowledged connection.
fn waiting(policy: &Policy, now: Instant) -> Machine {
    let mut machine = Machine::new(policy, now);
    machine.on(Event::HalfClosed, now);
    machine.on(Event::Empty, now);
    machine.on(Event::Unacknowledged { bytes: 1_000, fin: false }, now);
    machine
}

#[test]
fn acknowledgement_counts_as_progress() {
    let start = Instant::now();
    let policy = Policy { idle: MS * 100, ..Policy::default() };
    let mut machine = waiting(&policy, start);
    for round in 1u32..=5 {
        let now = start + MS * 90 * round;
        machine.on(Event::Woken, now);
        machine.on(Event::Empty, now);
        machine.on(Event::Unacknowledged { bytes: 1_000 - u64::from(round), fin: false }, now);
        assert_eq!(machine.next(now), Action::Wait { until: now + MS * 100 });
    }
}

#[test]
fn a_silent_peer_that_has_everything_is_let_go_after_grace() {
    let start = Instant::now();
    let policy = Policy::default();
    let mut machine = waiting(&policy, start);
    machine.on(Event::Unacknowledged { bytes: 0, fin: true }, start);
    assert_eq!(machine.next(start), Action::Wait { until: start + policy.grace });
    let later = start + policy.grace;
    machine.on(Event::Woken, later);
    machine.on(Event::Empty, later);
    let Action::Close { outcome, abort: false } = machine.next(later) else { panic!() };
    assert_eq!(outcome.ended, Ended::Acknowledged);
    assert!(outcome.delivered());
}

#[test]
fn at_the_discard_limit_it_waits_for_acknowledgement_not_for_silence() {
    let start = Instant::now();
    let policy = Policy { max_discard: Some(10), ..Policy::default() };
    let mut machine = waiting(&policy, start);
    machine.on(Event::Woken, start);
    machine.on(Event::Discarded(10), start);
    machine.on(Event::Unacknowledged { bytes: 1_000, fin: false }, start);
    assert_eq!(machine.next(start), Action::Wait { until: start + policy.total });
    machine.on(Event::Unacknowledged { bytes: 0, fin: true }, start);
    let end = start + policy.grace;
    assert_eq!(machine.next(start), Action::Wait { until: end });
    let Action::Close { outcome, .. } = machine.next(end) else { panic!() };
    assert_eq!((outcome.ended, outcome.discarded), (Ended::Limit, 10));
}

#[test]
fn an_abort_neither_half_closes_nor_waits() {
    let mut core = Core::new(&Policy::abort(), 0);
    assert_eq!(core.next(0), Action::Measure);
    core.on(Event::Unacknowledged { bytes: 9, fin: false }, 0);
    let Action::Close { outcome, abort: true } = core.next(0) else { panic!() };
    assert_eq!((outcome.ended, outcome.unacknowledged), (Ended::Aborted, Some(9)));
}

#[test]
fn without_lingering_what_has_arrived_is_read_and_nothing_awaited() {
    let mut core = Core::new(&Policy::none(), 0);
    assert_eq!(core.next(0), Action::HalfClose);
    core.on(Event::HalfClosed, 0);
    // Once: a peer that floods cannot make it stay.
    core.on(Event::Discarded(8), 0);
    assert_eq!(core.next(0), Action::Measure);
    core.on(Event::Unacknowledged { bytes: 9, fin: false }, 0);
    let Action::Close { outcome, abort: false } = core.next(0) else { panic!() };
    assert_eq!((outcome.ended, outcome.discarded, outcome.unacknowledged), (Ended::Unwaited, 8, Some(9)));
}

#[test]
fn an_evicted_close_says_so_and_what_it_cost() {
    let mut core = Core::new(&Policy::default(), 5);
    core.on(Event::HalfClosed, 6);
    core.evict();
    assert_eq!(core.next(7), Action::Measure);
    core.on(Event::Unacknowledged { bytes: 9, fin: false }, 7);
    let Action::Close { outcome, abort: false } = core.next(8) else { panic!() };
    assert_eq!((outcome.ended, outcome.unacknowledged), (Ended::Evicted, Some(9)));
    assert_eq!(outcome.elapsed, Duration::from_nanos(3));
}

#[test]
fn a_core_is_small() {
    assert!(size_of::<Core>() <= 56, "{} bytes; the closer holds thousands", size_of::<Core>());
}

/// Milliseconds as the core counts time.
fn ms(millis: u64) -> u64 {
    millis * NANOS
}

/// A core that has half-closed at 0, found nothing to read and, unless `None`, so many bytes unacknowledged.
fn draining(policy: &Policy, queue: Option<u64>) -> Core {
    let mut core = Core::new(policy, 0);
    core.on(Event::HalfClosed, 0);
    core.on(Event::Empty, 0);
    core.on(queue.map_or(Event::Unknown, |bytes| Event::Unacknowledged { bytes, fin: bytes == 0 }), 0);
    core
}

/// Reports that the time has come, that there is nothing to read, and what the send queue holds.
fn look_again(core: &mut Core, bytes: u64, fin: bool, now: u64) {
    core.on(Event::Woken, now);
    core.on(Event::Empty, now);
    core.on(Event::Unacknowledged { bytes, fin }, now);
}

#[track_caller]
fn ended(core: &mut Core, now: u64) -> Outcome {
    match core.next(now) {
        Action::Close { outcome, .. } => outcome,
        other => panic!("not over: {other:?}"),
    }
}

fn policy_of(idle: u64, total: u64, grace: u64) -> Policy {
    let [idle, total, grace] = [idle, total, grace].map(Duration::from_millis);
    Policy { idle, total, grace, ..Policy::default() }
}

#[test]
fn the_shorter_of_grace_and_idle_bounds_a_silent_peer_that_has_everything() {
    for (policy, until) in [(policy_of(100, 1_000, 300), 100), (policy_of(300, 1_000, 100), 100)] {
        let mut core = draining(&policy, Some(0));
        assert_eq!(core.next(0), Action::Wait { until: ms(until) });
        assert_eq!(core.next(ms(until) - 1), Action::Wait { until: ms(until) });
        assert_eq!(ended(&mut core, ms(until)).ended, Ended::Acknowledged);
    }
}

#[test]
fn each_bound_counts_from_its_own_event() {
    let policy = policy_of(100, 1_000, 50);
    // One byte less is progress, none is not; nor is one more.
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
    // So does a byte received.
    core.on(Event::Woken, ms(30));
    core.on(Event::Discarded(1), ms(30));
    look_again(&mut core, 9, false, ms(31));
    assert_eq!(core.next(ms(31)), Action::Wait { until: ms(130) });
    // A clock that runs backwards takes nothing back.
    core.on(Event::Woken, ms(20));
    core.on(Event::Discarded(1), ms(20));
    look_again(&mut core, 9, false, ms(31));
    assert_eq!(core.next(ms(31)), Action::Wait { until: ms(130) });
    // `total` is the end of them all.
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
        // And nobody asks again, or takes it for progress.
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
        // Whether it was asked before or not: the peer may have acknowledged together with its FIN.
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
    // A nanosecond before there is.
    let mut core = draining(&policy, Some(9));
    core.on(Event::Woken, ms(200) - 1);
    assert_eq!(core.next(ms(200) - 1), Action::Discard { max: u64::MAX });
}

#[test]
fn who_has_read_all_it_may_ends_by_its_limit() {
    let limited = |cap| Policy { max_discard: Some(cap), ..policy_of(100, 200, 50) };
    // Everything is acknowledged: by patience, and by `total`.
    for now in [50, 200] {
        for (cap, wanted) in [
            (8, Ended::Limit),
            (9, if now == 50 { Ended::Acknowledged } else { Ended::TimedOut(Bound::Total) }),
        ] {
            let mut core = draining(&limited(cap), Some(0));
            core.on(Event::Discarded(8), 0);
            core.on(Event::Empty, 0);
            assert_eq!(core.is_sated(), cap == 8);
            assert_eq!(core.patience(), ms(50));
            assert_eq!(ended(&mut core, ms(now)).ended, wanted);
        }
    }
    // Something is not: silence proves nothing, `total` ends it.
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
    let abort = |core: &mut Core, now| matches!(core.next(now), Action::Close { abort: true, .. });
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
            // It is over: nothing changes it, an eviction neither.
            core.evict();
            for late in [Event::Reset, Event::Woken, Event::HalfClosed, Event::Discarded(3)] {
                core.on(late, ms(3));
            }
            assert_eq!(ended(&mut core, ms(2)), outcome);
            assert!(!core.end_of_stream() && core.half_closed());
        }
    }
    // What cannot be answered leaves what was known.
    let mut core = draining(&policy, Some(9));
    core.on(Event::Reset, 0);
    core.on(Event::Unknown, 0);
    assert_eq!(ended(&mut core, 0).unacknowledged, Some(9));
    // What was acknowledged needs no question.
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
    // 49 days are the end of the scale.
    let core = Core::new(&Policy { total: Duration::MAX, ..policy }, 0);
    assert_eq!(core.end_at(), ms(u64::from(u32::MAX)));
}

#[test]
fn hurry_bounds_total_from_now_and_silence_from_the_last_progress() {
    let policy = policy_of(100, 1_000, 80);
    for (queue, idle, total, until) in [
        // Of idle, grace and total the tightest counts, theirs or ours.
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
    // With the time over, that is what ended it.
    let mut core = draining(&Policy { total: Duration::from_millis(5), ..Policy::none() }, Some(9));
    assert_eq!(ended(&mut core, ms(5)).ended, Ended::TimedOut(Bound::Total));
    // One read that gave something is enough, one that gave nothing too; lingering reads on.
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
    let Action::Close { outcome, abort: false } = machine.next(start + MS * 15) else { panic!() };
    assert_eq!((outcome.ended, outcome.elapsed), (Ended::Acknowledged, MS * 15));
}
