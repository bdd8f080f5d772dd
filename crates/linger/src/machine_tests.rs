//! The machine against a model of a socket and its peer, in random event orders.

use super::*;
use crate::outcome::{Bound, Ended};
use crate::policy::{AtLimit, Mode};
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
    /// What the kernel would say of the peer; nothing where it cannot.
    answers: Option<bool>,
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
            Action::Inspect => match self.answers {
                None => Event::NotInspected,
                Some(answers) => Event::Inspected {
                    probes: if answers { 0 } else { 2 },
                    retransmits: 0,
                    last_ack: Duration::ZERO,
                    round_trip: Duration::ZERO,
                    data_segments: 1,
                },
            },
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
        answers: Option<bool>,
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut model = Model { unacknowledged: response, unread, answers, ..Model::default() };
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
                Action::Measure | Action::Inspect => {}
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
            Ended::TimedOut(Bound::Idle) => {
                prop_assert!(outcome.elapsed >= policy.idle && !model.fin_acknowledged);
                prop_assert!(answers != Some(true), "a living peer was given up");
            }
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
        if machine.next(then) == Action::Inspect {
            machine.on(Event::NotInspected, then);
        }
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
    assert_eq!(machine.next(later), Action::Inspect);
    machine.on(Event::NotInspected, later);
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
    machine.on(Event::NotInspected, end);
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
