use linger::{AtLimit, Mode};

use super::*;

const TOTAL: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_millis(500);
const ASK: Duration = Duration::from_millis(100);

/// A kept connection whose request was answered, and whose body has not ended.
fn early(change: impl FnOnce(&mut Policy)) -> Talk {
    let mut talk = Talk::with_policy(change);
    let key = talk.begin(1, Role::Responder, true);
    talk.record(RecordType::Stdin, 1, b"begun");
    talk.answer(key);
    talk
}

fn policy_of(step: Step) -> Policy {
    let Step::End(end) = step else { panic!("{step:?}") };
    end.policy
}

#[test]
fn the_rest_of_a_body_is_read_and_the_connection_kept() {
    let mut talk = early(|_| {});
    let now = talk.now;
    assert_eq!(talk.next(), Step::Receive(Some(now)), "what has come already");
    talk.record(RecordType::Stdin, 1, &[0; 60_000]);
    assert_eq!(talk.next(), Step::Receive(Some(now)));
    talk.record(RecordType::Stdin, 1, b"");
    assert_eq!(talk.next(), Step::Rest(Some(now + REST)));
}

#[test]
fn a_body_that_has_ended_needs_no_drain_and_nor_does_an_end() {
    let mut talk = Talk::new();
    let key = talk.whole(1);
    talk.answer(key);
    assert!(matches!(talk.next(), Step::Rest(_)));
    let mut talk = Talk::new();
    let key = talk.begin(1, Role::Responder, false);
    talk.answer(key);
    assert_eq!(policy_of(talk.next()), bounds().policy, "the close drains");
}

#[test]
fn silence_ends_it_after_idle() {
    let mut talk = early(|_| {});
    let start = talk.now;
    assert_eq!(talk.settled(None), Step::Receive(Some(start + IDLE)));
    talk.silence(IDLE - Duration::from_millis(1));
    assert!(matches!(talk.settled(None), Step::Receive(_)));
    talk.silence(Duration::from_millis(1));
    let mut left = bounds().policy;
    left.total = TOTAL - IDLE;
    assert_eq!(policy_of(talk.settled(None)), left, "what is left of the bounds is for the close");
}

#[test]
fn bytes_end_a_silence_and_total_ends_everything() {
    let mut talk = early(|_| {});
    let start = talk.now;
    for _ in 0..9 {
        talk.settled(None);
        talk.now += IDLE * 2 / 3;
        talk.record(RecordType::Stdin, 1, b"a drop");
    }
    assert!(talk.now < start + TOTAL);
    let Step::Receive(Some(until)) = talk.settled(None) else { panic!() };
    assert_eq!(until, start + TOTAL);
    talk.now = start + TOTAL;
    talk.record(RecordType::Stdin, 1, b"a drop");
    assert_eq!(policy_of(talk.settled(None)).total, Duration::ZERO);
}

#[test]
fn a_gateway_that_has_everything_and_is_silent_gets_grace() {
    let mut talk = early(|_| {});
    let start = talk.now;
    assert_eq!(talk.settled(Some(0)), Step::Receive(Some(start + GRACE)));
    talk.silence(GRACE);
    assert!(ends(talk.settled(Some(0))));
    // A gateway that has not acknowledged everything gets `idle`. No event reports the acknowledgement, so
    // the kernel is asked for it.
    let mut talk = early(|_| {});
    assert_eq!(talk.settled(Some(1)), Step::Receive(Some(start.max(talk.now) + ASK)));
    talk.silence(ASK);
    assert_eq!(talk.settled(Some(1)), Step::Receive(Some(talk.now + ASK)));
    talk.silence(ASK);
    assert_eq!(talk.settled(Some(0)), Step::Receive(Some(talk.now + GRACE)));
    talk.silence(GRACE);
    assert!(ends(talk.settled(Some(0))));
    // If the kernel cannot say what is acknowledged, only `idle` counts.
    let mut talk = early(|_| {});
    assert_eq!(talk.settled(None), Step::Receive(Some(talk.now + IDLE)));
}

#[test]
fn asking_for_the_acknowledgement_does_not_prolong_the_wait() {
    let mut talk = early(|policy| policy.idle = ASK / 2);
    assert_eq!(talk.settled(Some(1)), Step::Receive(Some(talk.now + ASK / 2)));
    talk.silence(ASK / 2);
    assert!(ends(talk.settled(Some(1))));
}

#[test]
fn bytes_are_bounded() {
    let mut talk = early(|policy| policy.max_discard = Some(1000));
    talk.record(RecordType::Stdin, 1, &[0; 999]);
    assert!(matches!(talk.settled(None), Step::Receive(_)));
    talk.record(RecordType::Stdin, 1, &[0; 1]);
    let mut left = bounds().policy;
    left.max_discard = Some(0);
    assert_eq!(policy_of(talk.settled(None)), left);

    let mut talk = early(|policy| policy.max_discard = Some(1000));
    talk.record(RecordType::Stdin, 1, &[0; 600]);
    talk.settled(None);
    talk.record(RecordType::Stdin, 1, &[0; 100]);
    talk.settled(None);
    talk.silence(IDLE);
    let left = policy_of(talk.settled(None));
    assert_eq!((left.max_discard, left.total), (Some(300), TOTAL - IDLE));
}

#[test]
fn the_end_of_a_body_is_the_end_of_its_drain_even_at_the_bound() {
    let mut talk = early(|policy| policy.max_discard = Some(10));
    let mut bytes = Vec::new();
    record::push(&mut bytes, RecordType::Stdin, 1, &[0; 20]);
    record::push(&mut bytes, RecordType::Stdin, 1, b"");
    talk.hear(&bytes);
    assert!(matches!(talk.next(), Step::Rest(_)));
}

#[test]
fn who_does_not_linger_reads_once_what_has_come() {
    let mut talk = early(|policy| policy.mode = Mode::None);
    let now = talk.now;
    assert_eq!(talk.next(), Step::Receive(Some(now)));
    talk.record(RecordType::Stdin, 1, b"");
    assert!(matches!(talk.next(), Step::Rest(_)), "it had come");

    let mut talk = early(|policy| policy.mode = Mode::None);
    talk.record(RecordType::Stdin, 1, b"more");
    assert!(ends(talk.settled(None)), "and more is not awaited");

    let mut talk = early(|policy| policy.mode = Mode::None);
    assert!(ends(talk.settled(None)));
}

#[test]
fn who_resets_reads_nothing() {
    let mut talk = early(|policy| policy.mode = Mode::Abort);
    assert_eq!(policy_of(talk.settled(None)).mode, Mode::Abort);
    let mut talk = Talk::with_policy(|policy| policy.mode = Mode::Abort);
    let key = talk.whole(1);
    talk.answer(key);
    assert!(matches!(talk.next(), Step::Rest(_)), "nothing is unread: the connection may be kept");
}

#[test]
fn at_a_limit_the_close_is_what_the_policy_says() {
    for (at_limit, mode) in [(AtLimit::Close, Mode::Linger), (AtLimit::Abort, Mode::Abort)] {
        let mut talk = early(|policy| policy.at_limit = at_limit);
        talk.settled(None);
        talk.silence(IDLE);
        assert_eq!(policy_of(talk.settled(None)).mode, mode);
    }
}

#[test]
fn a_drain_that_is_given_up_lets_those_that_run_end() {
    let mut talk = early(|_| {});
    let other = talk.begin(2, Role::Responder, true);
    talk.settled(None);
    talk.silence(IDLE);
    let Step::Receive(Some(until)) = talk.settled(None) else { panic!() };
    assert_eq!(until, talk.now - IDLE + IO, "the other's body is awaited as ever");
    talk.ask(3, Role::Authorizer, true);
    assert!(talk.conversation.request().is_none(), "no new request");
    assert!(matches!(talk.next(), Step::Send(_)));
    talk.record(RecordType::Stdin, 1, b"what was given up is dropped");
    talk.record(RecordType::Stdin, 2, b"");
    assert_eq!(talk.read(other, Which::Stdin), Ok(Input::End));
    talk.answer(other);
    assert_eq!(policy_of(talk.next()), bounds().policy, "its answer is owed all bounds");
}

#[test]
fn the_drain_of_one_does_not_bound_the_body_of_another() {
    let mut talk = early(|_| {});
    let other = talk.begin(2, Role::Responder, true);
    let start = talk.now;
    assert_eq!(talk.settled(None), Step::Receive(Some(start + IDLE)));
    talk.record(RecordType::Stdin, 1, b"");
    assert_eq!(talk.next(), Step::Receive(Some(start + IO)));
    talk.record(RecordType::Stdin, 2, b"");
    talk.answer(other);
    assert!(matches!(talk.next(), Step::Rest(_)));
}

#[test]
fn each_drain_has_its_own_bounds() {
    let mut talk = early(|_| {});
    let start = talk.now;
    let two = talk.begin(2, Role::Responder, true);
    talk.settled(None);
    talk.now += IDLE / 2;
    talk.answer(two);
    assert_eq!(talk.settled(None), Step::Receive(Some(start + IDLE)), "the first that runs out");
    // Bytes of one request's body are no progress of the other's.
    talk.record(RecordType::Stdin, 2, b"more");
    assert_eq!(talk.settled(None), Step::Receive(Some(start + IDLE)));
    talk.record(RecordType::Stdin, 1, b"");
    assert_eq!(talk.settled(None), Step::Receive(Some(talk.now + IDLE)));
    talk.record(RecordType::Stdin, 2, b"");
    assert!(matches!(talk.next(), Step::Rest(_)));
}

#[test]
fn an_id_that_is_used_again_is_drained_no_more() {
    let mut talk = early(|_| {});
    talk.settled(None);
    let again = talk.begin(1, Role::Responder, true);
    assert_eq!(talk.settled(None), Step::Receive(Some(talk.now + IO)));
    talk.answer(again);
    assert_eq!(talk.settled(None), Step::Receive(Some(talk.now + IDLE)), "until it is");
}

#[test]
fn an_end_for_another_reason_is_not_delayed_by_a_drain() {
    let mut talk = early(|_| {});
    let other = talk.begin(2, Role::Authorizer, false);
    talk.settled(None);
    talk.answer(other);
    assert_eq!(policy_of(talk.next()), bounds().policy);
    let mut talk = early(|_| {});
    talk.conversation.closed();
    assert!(ends(talk.next()));
}

#[test]
fn a_wake_up_for_nothing_changes_nothing() {
    let mut talk = early(|_| {});
    let start = talk.now;
    talk.settled(None);
    talk.now += IDLE / 2;
    assert_eq!(talk.settled(None), Step::Receive(Some(start + IDLE)));
    talk.conversation.measured(linger::Event::Unacknowledged { bytes: 0, fin: true }, talk.now);
    assert_eq!(talk.settled(None), Step::Receive(Some(start + IDLE)), "nobody had asked");
}

#[test]
fn of_several_drains_the_one_that_runs_out_first_counts() {
    // The later drain runs out first: bytes of the earlier one have come since.
    let mut talk = early(|_| {});
    let two = talk.begin(2, Role::Responder, true);
    talk.answer(two);
    let start = talk.now;
    talk.settled(None);
    talk.now += IDLE / 2;
    talk.record(RecordType::Stdin, 1, b"more");
    assert_eq!(talk.settled(None), Step::Receive(Some(start + IDLE)));
    talk.silence(IDLE / 2);
    assert!(ends(talk.settled(None)));
    // The earlier drain runs out first, although the later one has time left.
    let mut talk = early(|_| {});
    let two = talk.begin(2, Role::Responder, true);
    talk.settled(None);
    talk.now += IDLE / 2;
    talk.answer(two);
    talk.settled(None);
    talk.silence(IDLE / 2);
    assert!(ends(talk.settled(None)));
}

#[test]
fn on_a_connection_that_ends_nothing_is_drained_for_its_own_sake() {
    let mut talk = early(|_| {});
    let last = talk.begin(2, Role::Authorizer, false);
    talk.begin(3, Role::Responder, true);
    assert!(matches!(talk.settled(None), Step::Receive(Some(until)) if until == talk.now + IDLE));
    talk.answer(last);
    assert_eq!(talk.next(), Step::Receive(Some(talk.now + IO)));
}
