//! Gateways that are never silent, and take too long.

use super::*;

const SLOW: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_secs(5);

/// A conversation with one bound.
fn talk(bound: impl FnOnce(&mut Bounds)) -> Talk {
    let mut bounds = bounds();
    bound(&mut bounds);
    Talk::with(bounds)
}

fn within_record() -> Talk {
    talk(|bounds| bounds.record_within = Some(SLOW))
}

/// Bytes come, each after a wait, until there are no more of them or the step is not to receive. Returns how many came.
fn drip(talk: &mut Talk, bytes: &[u8]) -> usize {
    for (at, byte) in bytes.iter().enumerate() {
        let Step::Receive(Some(until)) = talk.next() else { return at };
        if until < talk.now + STEP {
            talk.now = until;
            talk.conversation.silent(until);
            assert!(ends(talk.next()), "nothing but the time has changed");
            return at;
        }
        talk.now += STEP;
        talk.hear(&[*byte]);
    }
    bytes.len()
}

fn of(kind: RecordType, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    record::push(&mut bytes, kind, 1, content);
    bytes
}

#[test]
fn a_record_has_a_bound() {
    let mut begin = Vec::new();
    record::push_begin(&mut begin, 1, Role::Responder, true);
    assert_eq!(drip(&mut within_record(), &begin), 5, "the first byte, and four more in twenty seconds");
    assert_eq!(drip(&mut Talk::new(), &begin), begin.len(), "there is no bound");
    let mut talk = within_record();
    assert_eq!(drip(&mut talk, &begin), 5);
    let Step::End(end) = talk.next() else { panic!() };
    assert!(end.is_slow);
}

#[test]
fn each_record_has_its_own() {
    let mut talk = within_record();
    for _ in 0..10 {
        let mut values = Vec::new();
        record::push(&mut values, RecordType::GetValues, 0, b"");
        let (begin, end) = values.split_at(5);
        assert_eq!(drip(&mut talk, begin), 5);
        talk.hear(end);
        assert!(matches!(talk.next(), Step::Send(_)));
    }
}

#[test]
fn a_record_of_a_body_that_takes_too_long_fails_the_read() {
    let mut talk = within_record();
    let key = talk.begin(1, Role::Responder, true);
    talk.hear(&of(RecordType::Stdin, b"body")[..10]);
    assert_eq!(talk.read(key, Which::Stdin), Ok(Input::Got(b"bo".to_vec())));
    assert_eq!(talk.read(key, Which::Stdin), Ok(Input::Later));
    assert_eq!(talk.next(), Step::Receive(Some(talk.now + SLOW)));
    talk.silence(SLOW);
    assert_eq!(talk.read(key, Which::Stdin), Err(Gone::Slow));
    assert!(!talk.conversation.is_waiting(key));
}

#[test]
fn time_in_which_nobody_waits_does_not_count() {
    let mut talk = within_record();
    let key = talk.begin(1, Role::Responder, true);
    talk.hear(&of(RecordType::Stdin, &[7; 150])[..120]);
    assert_eq!(talk.next(), Step::Hold, "the handler does not read");
    talk.now += 3 * SLOW;
    talk.read(key, Which::Stdin).unwrap();
    assert_eq!(talk.next(), Step::Receive(Some(talk.now + SLOW)), "the handler was slow, not the gateway");
    talk.now += STEP;
    talk.hear(&[7]);
    // The handler works, and then waits again.
    talk.now += 3 * SLOW;
    assert_eq!(talk.next(), Step::Receive(Some(talk.now + SLOW - STEP)));
}

#[test]
fn parameters_have_a_bound() {
    let params = [of(RecordType::Params, b"\x01\x01KV"), of(RecordType::Params, b"\x01\x01LW")].concat();
    for bound in [None, Some(SLOW)] {
        let mut talk = talk(|bounds| bounds.params_within = bound);
        let mut begin = Vec::new();
        record::push_begin(&mut begin, 1, Role::Responder, true);
        talk.hear(&begin);
        let came = drip(&mut talk, &params);
        assert_eq!(came, if bound.is_some() { 4 } else { params.len() });
    }
}

#[test]
fn parameters_that_are_complete_need_no_more_time() {
    let mut talk = talk(|bounds| bounds.params_within = Some(SLOW));
    for round in 0..3 {
        let mut begin = Vec::new();
        record::push_begin(&mut begin, 1, Role::Authorizer, true);
        talk.hear(&begin);
        assert_eq!(talk.next(), Step::Receive(Some(talk.now + SLOW)), "round {round}");
        talk.now += SLOW - STEP;
        talk.record(RecordType::Params, 1, b"");
        let key = talk.conversation.request().unwrap().0;
        assert_eq!(talk.next(), Step::Receive(None));
        talk.now += 2 * SLOW;
        talk.answer(key);
        assert!(matches!(talk.next(), Step::Rest(_)));
        talk.now += SLOW;
    }
}

#[test]
fn a_body_has_a_bound_and_its_request_alone_is_too_slow() {
    let mut talk = talk(|bounds| bounds.body_within = Some(SLOW));
    let slow = talk.begin(1, Role::Responder, true);
    for _ in 0..3 {
        assert!(matches!(talk.next(), Step::Receive(Some(_))));
        talk.now += STEP;
        talk.record(RecordType::Stdin, 1, b"b");
    }
    let other = talk.begin(2, Role::Responder, true);
    assert_eq!(talk.next(), Step::Receive(Some(talk.now + STEP)));
    talk.silence(STEP);
    assert_eq!(talk.read(slow, Which::Stdin), Ok(Input::Got(b"bbb".to_vec())), "what came is there");
    assert_eq!(talk.read(slow, Which::Stdin), Err(Gone::Slow));
    assert_eq!(talk.read(other, Which::Stdin), Ok(Input::Later));
    assert_eq!(talk.next(), Step::Receive(Some(talk.now + SLOW - STEP)), "the other's own bound");
    talk.record(RecordType::Stdin, 2, b"");
    assert_eq!(talk.read(other, Which::Stdin), Ok(Input::End));
    talk.answer(other);
    talk.answer(slow);
    assert!(!ends(talk.next()), "the connection goes on");
}

#[test]
fn a_body_that_has_ended_is_not_too_slow() {
    let mut talk = talk(|bounds| bounds.body_within = Some(SLOW));
    let key = talk.whole(1);
    assert_eq!(talk.next(), Step::Receive(None));
    talk.silence(2 * SLOW);
    assert_eq!(talk.read(key, Which::Stdin), Ok(Input::End));
}

#[test]
fn only_what_belongs_to_a_request_is_a_sign_of_life() {
    let mut talk = Talk::new();
    talk.begin(1, Role::Responder, true);
    let heard = talk.conversation.heard();
    assert!(heard.is_some());
    talk.now += STEP;
    talk.record(RecordType::from(77), 9, b"junk");
    talk.hear(&of(RecordType::Stdin, b"b")[..3]);
    assert_eq!(talk.conversation.heard(), heard);
    talk.hear(&of(RecordType::Stdin, b"b")[3..]);
    assert_eq!(talk.conversation.heard(), Some(talk.now));
}
