use super::*;
use crate::error::Fault;

#[test]
fn the_first_request_is_awaited_as_in_a_request_and_the_next_as_at_rest() {
    let mut talk = Talk::new();
    let start = talk.now;
    assert_eq!(talk.next(), Step::Receive(Some(start + IO)));
    let key = talk.whole(1);
    assert_eq!(talk.next(), Step::Receive(None), "a handler works, and the gateway has nothing to say");
    talk.answer(key);
    assert_eq!(talk.next(), Step::Rest(Some(start + REST)));
}

#[test]
fn a_silence_is_measured_from_its_beginning() {
    let mut talk = Talk::new();
    let start = talk.now;
    talk.next();
    talk.now += IO / 2;
    assert_eq!(talk.next(), Step::Receive(Some(start + IO)), "asking again is no news");
    talk.silence(IO / 2 - Duration::from_nanos(1));
    assert!(!ends(talk.next()));
    talk.silence(Duration::from_nanos(1));
    assert!(ends(talk.next()));
}

#[test]
fn every_byte_ends_a_silence() {
    let mut talk = Talk::new();
    talk.next();
    talk.now += IO / 2;
    talk.hear(&[1]);
    let now = talk.now;
    assert_eq!(talk.next(), Step::Receive(Some(now + IO)), "half a header");
}

#[test]
fn whatever_the_gateway_owes_is_awaited_as_in_a_request() {
    let half = |talk: &mut Talk| talk.hear(&[1, 1]);
    let unparametered = |talk: &mut Talk| {
        let mut bytes = Vec::new();
        record::push_begin(&mut bytes, 2, Role::Authorizer, true);
        talk.hear(&bytes);
    };
    let unfinished = |talk: &mut Talk| {
        talk.begin(2, Role::Responder, true);
    };
    let unfiled = |talk: &mut Talk| {
        talk.begin(2, Role::Filter, true);
        talk.record(RecordType::Stdin, 2, b"");
    };
    let owing: [fn(&mut Talk); 4] = [half, unparametered, unfinished, unfiled];
    for (case, owe) in owing.into_iter().enumerate() {
        let mut talk = Talk::new();
        let key = talk.whole(1);
        talk.answer(key);
        owe(&mut talk);
        assert_eq!(talk.next(), Step::Receive(Some(talk.now + IO)), "case {case}");
        talk.silence(IO);
        let step = talk.next();
        assert!(step == Step::Hold || ends(step), "case {case}");
    }
    // An Authorizer's gateway owes nothing after the parameters.
    let mut talk = Talk::new();
    talk.begin(1, Role::Authorizer, true);
    assert_eq!(talk.next(), Step::Receive(None));
}

#[test]
fn a_rest_begins_when_the_last_request_ends_and_after_a_hold_a_silence_does() {
    let mut talk = Talk::new();
    let key = talk.begin(1, Role::Responder, true);
    let start = talk.now;
    assert_eq!(talk.next(), Step::Receive(Some(start + IO)));
    talk.now += IO / 2;
    talk.record(RecordType::Stdin, 1, &[1; 101]);
    assert_eq!(talk.next(), Step::Hold);
    talk.now += IO * 2;
    talk.read(key, Which::Stdin).unwrap();
    let now = talk.now;
    assert_eq!(talk.next(), Step::Receive(Some(now + IO)), "nobody read in the meantime");
    talk.record(RecordType::Stdin, 1, b"");
    talk.next();
    talk.now += IO / 2;
    talk.answer(key);
    let now = talk.now;
    assert_eq!(talk.next(), Step::Rest(Some(now + REST)));
}

#[test]
fn the_time_of_one_wait_is_not_counted_for_another() {
    let mut talk = Talk::new();
    let (one, two) = (talk.begin(1, Role::Responder, true), talk.whole(2));
    let start = talk.now;
    assert_eq!(talk.next(), Step::Receive(Some(start + IO)));
    talk.now += IO / 2;
    talk.answer(two);
    let now = talk.now;
    assert_eq!(
        talk.next(),
        Step::Receive(Some(now + IO)),
        "an answer went out: the gateway may have waited for it"
    );
    talk.record(RecordType::Stdin, 1, b"");
    talk.answer(one);
    assert!(matches!(talk.next(), Step::Rest(_)));
}

#[test]
fn a_bound_beyond_the_clock_is_none() {
    let mut bounds = bounds();
    bounds.io_timeout = Duration::MAX;
    let mut talk = Talk::with(bounds);
    assert_eq!(talk.next(), Step::Receive(None));
}

#[test]
fn a_connection_is_kept_or_ends_as_the_gateway_wants() {
    for keep_conn in [true, false] {
        let mut talk = Talk::new();
        let key = talk.begin(1, Role::Authorizer, keep_conn);
        talk.answer(key);
        assert_eq!(ends(talk.next()), !keep_conn);
    }
}

#[test]
fn it_ends_with_the_last_of_those_that_run() {
    let mut talk = Talk::new();
    let (one, two) = (talk.begin(1, Role::Authorizer, false), talk.begin(2, Role::Responder, true));
    talk.answer(one);
    assert_eq!(talk.next(), Step::Receive(Some(talk.now + IO)), "the other gets its body");
    talk.record(RecordType::Stdin, 2, b"body");
    assert_eq!(talk.read(two, Which::Stdin), Ok(Input::Got(b"body".to_vec())));
    talk.record(RecordType::Stdin, 2, b"");
    assert_eq!(talk.finish(two, Some(0), Said::Part), RequestEnd::Complete(0));
    assert_eq!(talk.next(), Step::Receive(None), "its last records are not sent yet");
    talk.conversation.answered(true);
    let Step::End(end) = talk.next() else { panic!() };
    assert_eq!((end.requests, end.fault, end.policy), (2, None, bounds().policy));
}

#[test]
fn one_that_ends_takes_no_new_request() {
    for ends in [true, false] {
        let mut talk = Talk::new();
        let (one, two) = (talk.begin(1, Role::Authorizer, !ends), talk.begin(2, Role::Authorizer, true));
        talk.answer(one);
        let mut bytes = Vec::new();
        record::push_begin(&mut bytes, 3, Role::Authorizer, true);
        talk.hear(&bytes);
        let refused = vec![(3, 3, vec![0, 0, 0, 0, 2, 0, 0, 0])];
        match talk.next() {
            Step::Send(bytes) if ends => assert_eq!(records(&bytes), refused),
            step => assert!(!ends && matches!(step, Step::Receive(_)), "{step:?}"),
        }
        talk.record(RecordType::Params, 3, b"");
        assert_eq!(talk.conversation.request().is_some(), !ends);
        talk.answer(two);
    }
}

#[test]
fn a_failure_before_the_response_costs_the_request_and_one_within_it_the_connection() {
    for (said, aborted, end, kept) in [
        (Said::Nothing, false, RequestEnd::Refused, true),
        (Said::Part, false, RequestEnd::Cut, false),
        (Said::Part, true, RequestEnd::Bare, true),
        (Said::Torn, true, RequestEnd::Cut, false),
    ] {
        let mut talk = Talk::new();
        let key = talk.whole(1);
        if aborted {
            talk.record(RecordType::AbortRequest, 1, b"");
        }
        assert_eq!(talk.finish(key, None, said), end);
        talk.conversation.answered(true);
        assert_eq!(!ends(talk.next()), kept, "{said:?}, aborted {aborted}");
    }
}

#[test]
fn what_could_not_be_sent_ends_the_connection() {
    for sent in [true, false] {
        let mut talk = Talk::new();
        let (one, two) = (talk.whole(1), talk.whole(2));
        talk.finish(one, Some(0), Said::Part);
        talk.conversation.answered(sent);
        talk.ask(3, Role::Authorizer, true);
        assert_eq!(talk.conversation.request().is_some(), sent);
        talk.answer(two);
    }
}

#[test]
fn a_gateway_that_has_closed_its_side_still_gets_its_answers() {
    let mut talk = Talk::new();
    let (one, two) = (talk.whole(1), talk.whole(2));
    talk.conversation.closed();
    assert_eq!(talk.next(), Step::Hold);
    talk.answer(one);
    assert_eq!(talk.next(), Step::Hold);
    talk.answer(two);
    let Step::End(end) = talk.next() else { panic!() };
    assert_eq!((end.requests, end.fault), (2, None));
}

#[test]
fn a_request_that_came_with_the_end_is_served() {
    let mut talk = Talk::new();
    talk.ask(1, Role::Authorizer, true);
    talk.conversation.closed();
    let (key, start) = talk.conversation.request().unwrap();
    assert_eq!(start.id, 1);
    assert_eq!(talk.next(), Step::Hold);
    talk.answer(key);
    assert!(ends(talk.next()));
}

#[test]
fn a_fault_is_told_and_nothing_more_is_read() {
    let mut talk = Talk::new();
    let key = talk.whole(1);
    talk.hear(b"GET ");
    assert_eq!(talk.next(), Step::Hold);
    talk.answer(key);
    let Step::End(end) = talk.next() else { panic!() };
    assert_eq!(end.fault.unwrap().fault, Fault::Version(b'G'));
    assert_eq!(talk.conversation.end(), end);

    let mut talk = Talk::new();
    talk.conversation.lost(ErrorKind::ConnectionReset);
    let Step::End(end) = talk.next() else { panic!() };
    assert_eq!((end.requests, end.fault), (0, None));
}

#[test]
fn what_the_conversation_itself_says_goes_first() {
    let mut talk = Talk::new();
    talk.record(RecordType::from(77), 0, b"what is this");
    let Step::Send(bytes) = talk.next() else { panic!() };
    assert_eq!(records(&bytes), [(11, 0, vec![77, 0, 0, 0, 0, 0, 0, 0])]);
    assert!(matches!(talk.next(), Step::Receive(_)), "once");
    talk.record(RecordType::from(77), 0, b"what is this");
    talk.conversation.closed();
    assert!(matches!(talk.next(), Step::Send(_)), "though the gateway has closed its side");
    assert!(ends(talk.next()));
}

#[test]
fn without_multiplexing_a_second_request_is_refused() {
    let mut bounds = bounds();
    bounds.capacity.multiplex = false;
    let mut talk = Talk::with(bounds);
    let key = talk.begin(1, Role::Responder, true);
    talk.ask(2, Role::Responder, true);
    assert!(talk.conversation.request().is_none());
    let Step::Send(bytes) = talk.next() else { panic!() };
    assert_eq!(records(&bytes), [(3, 2, vec![0, 0, 0, 0, 1, 0, 0, 0])]);
    talk.answer(key);
    talk.ask(2, Role::Responder, true);
    assert!(talk.conversation.request().is_some(), "the first is answered, though its body is not over");
}

#[test]
fn nothing_more_is_awaited_of_a_request_that_was_aborted() {
    // The abort comes while the request runs.
    let mut talk = Talk::new();
    let key = talk.begin(1, Role::Filter, true);
    talk.record(RecordType::AbortRequest, 1, b"");
    assert_eq!(talk.next(), Step::Receive(None));
    talk.answer(key);
    assert!(matches!(talk.next(), Step::Rest(_)), "its body needs no drain");
    talk.record(RecordType::Stdin, 1, b"late");
    assert!(matches!(talk.next(), Step::Rest(_)));
    // The abort comes while the rest of the request's body is drained.
    let mut talk = Talk::new();
    let key = talk.begin(1, Role::Responder, true);
    let other = talk.begin(2, Role::Responder, true);
    talk.answer(key);
    talk.answer(other);
    talk.record(RecordType::AbortRequest, 2, b"");
    assert!(matches!(talk.next(), Step::Receive(_)), "the other is drained");
    talk.record(RecordType::AbortRequest, 1, b"");
    assert!(matches!(talk.next(), Step::Rest(_)));
    // The abort comes before the request is served: the gateway waits for an END_REQUEST.
    let mut talk = Talk::new();
    let mut bytes = Vec::new();
    record::push_begin(&mut bytes, 1, Role::Responder, true);
    talk.hear(&bytes);
    talk.record(RecordType::AbortRequest, 1, b"");
    let Step::Send(bytes) = talk.next() else { panic!() };
    assert_eq!(records(&bytes), [(3, 1, vec![0, 0, 0, 0, 0, 0, 0, 0])]);
    talk.record(RecordType::Params, 1, b"");
    assert!(talk.conversation.request().is_none());
    // An abort of a request that does not run changes nothing.
    talk.record(RecordType::AbortRequest, 9, b"");
    assert!(matches!(talk.next(), Step::Receive(_)));
}
