//! How long END_REQUEST waits for the rest of a request.

use linger::Mode;

use super::*;

const STILL: Duration = Duration::from_millis(100);

fn talk(change: impl FnOnce(&mut Bounds)) -> Talk {
    let mut bounds = bounds();
    bounds.input_idle = STILL;
    change(&mut bounds);
    Talk::with(bounds)
}

impl Talk {
    fn settle(&mut self, key: Key) -> Option<Duration> {
        self.conversation.settle(key, self.now).map(|until| until - self.now)
    }
}

#[test]
fn it_waits_while_input_moves_and_for_nothing_else() {
    let mut talk = talk(|_| {});
    let key = talk.begin(1, Role::Responder, false);
    assert_eq!(talk.settle(key), Some(STILL));
    talk.now += STILL - Duration::from_millis(1);
    assert_eq!(talk.settle(key), Some(Duration::from_millis(1)));
    talk.record(RecordType::Stdin, 1, b"moves");
    assert_eq!(talk.settle(key), Some(STILL));
    talk.now += STILL;
    assert_eq!(talk.settle(key), None, "still");
    talk.record(RecordType::Stdin, 1, b"moves again");
    assert_eq!(talk.settle(key), Some(STILL), "the driver has not ended it yet");
    talk.record(RecordType::Stdin, 1, b"");
    assert_eq!(talk.settle(key), None, "the end of the body");
}

#[test]
fn bytes_of_another_request_are_none_of_it() {
    let mut talk = talk(|_| {});
    let (key, other) = (talk.begin(1, Role::Responder, true), talk.begin(2, Role::Responder, true));
    assert_eq!(talk.settle(key), Some(STILL));
    talk.now += STILL;
    talk.record(RecordType::Stdin, 2, b"moves");
    assert_eq!(talk.settle(key), None);
    talk.answer(key);
    assert_eq!(talk.read(other, Which::Stdin), Ok(Input::Got(b"moves".to_vec())));
}

#[test]
fn both_streams_of_a_filter_are_awaited() {
    let mut talk = talk(|_| {});
    let key = talk.begin(1, Role::Filter, true);
    talk.record(RecordType::Stdin, 1, b"");
    assert_eq!(talk.settle(key), Some(STILL));
    talk.record(RecordType::Data, 1, b"");
    assert_eq!(talk.settle(key), None);
    let key = talk.begin(2, Role::Authorizer, true);
    assert_eq!(talk.settle(key), None, "an Authorizer's gateway sends no body");
}

#[test]
fn nobody_is_awaited_who_will_not_send() {
    type Case = fn(&mut Talk);
    let cases: [Case; 4] = [
        |talk| talk.record(RecordType::AbortRequest, 1, b""),
        |talk| talk.conversation.closed(),
        |talk| talk.conversation.lost(ErrorKind::ConnectionReset),
        |talk| talk.hear(b"GET "),
    ];
    for case in cases {
        let mut talk = talk(|_| {});
        let key = talk.begin(1, Role::Responder, true);
        assert_eq!(talk.settle(key), Some(STILL));
        case(&mut talk);
        assert_eq!(talk.settle(key), None);
    }
}

#[test]
fn it_is_bounded_by_the_setting_and_the_policy() {
    let mut never = talk(|bounds| bounds.input_idle = Duration::ZERO);
    let key = never.begin(1, Role::Responder, true);
    assert_eq!(never.settle(key), None);
    for mode in [Mode::None, Mode::Abort] {
        let mut talk = talk(|bounds| bounds.policy.mode = mode);
        let key = talk.begin(1, Role::Responder, true);
        assert_eq!(talk.settle(key), None, "{mode:?}");
    }
    let mut brief = talk(|bounds| bounds.policy.total = STILL * 5 / 2);
    let key = brief.begin(1, Role::Responder, true);
    let waits = [STILL, STILL, STILL / 2];
    for wait in waits {
        brief.record(RecordType::Stdin, 1, b"moves");
        assert_eq!(brief.settle(key), Some(wait));
        brief.now += wait;
    }
    brief.record(RecordType::Stdin, 1, b"moves");
    assert_eq!(brief.settle(key), None, "the total");
    let mut small = talk(|bounds| bounds.policy.max_discard = Some(10));
    let key = small.begin(1, Role::Responder, true);
    small.record(RecordType::Stdin, 1, b"what came before is not discarded");
    assert_eq!(small.settle(key), Some(STILL));
    small.record(RecordType::Stdin, 1, b"123456789");
    assert_eq!(small.settle(key), Some(STILL));
    small.record(RecordType::Stdin, 1, b"0");
    assert_eq!(small.settle(key), None);
}

#[test]
fn what_it_reads_is_dropped_and_not_given_to_the_handler() {
    let mut talk = talk(|_| {});
    let key = talk.begin(1, Role::Responder, true);
    talk.record(RecordType::Stdin, 1, &[1; 101]);
    assert_eq!(talk.next(), Step::Hold);
    assert_eq!(talk.settle(key), Some(STILL));
    assert!(matches!(talk.next(), Step::Receive(_)));
    talk.record(RecordType::Stdin, 1, &[1; 101]);
    assert!(matches!(talk.next(), Step::Receive(_)), "it is not held");
    assert_eq!(talk.read(key, Which::Stdin), Err(Gone::Answered));
    talk.answer(key);
}
