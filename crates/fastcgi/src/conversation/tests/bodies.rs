use std::io;

use super::*;
use crate::error::Fault;

#[test]
fn a_body_comes_as_it_was_sent() {
    let mut talk = Talk::new();
    let key = talk.begin(1, Role::Responder, true);
    assert_eq!(talk.read(key, Which::Stdin), Ok(Input::Later));
    talk.record(RecordType::Stdin, 1, b"some");
    let mut to = [0; 3];
    assert_eq!(talk.conversation.read(key, Which::Stdin, &mut to), Ok(Input::Got(3)));
    assert_eq!(&to, b"som");
    talk.record(RecordType::Stdin, 1, b" more");
    assert_eq!(talk.conversation.piece(key, Which::Stdin), Ok(Input::Got(b"e more".to_vec())));
    assert_eq!(talk.conversation.piece(key, Which::Stdin), Ok(Input::Later));
    talk.record(RecordType::Stdin, 1, b"end");
    talk.record(RecordType::Stdin, 1, b"");
    assert_eq!(talk.read(key, Which::Stdin), Ok(Input::Got(b"end".to_vec())));
    assert_eq!(talk.read(key, Which::Stdin), Ok(Input::End));
    assert_eq!(talk.conversation.piece(key, Which::Stdin), Ok(Input::End));
    // A Responder has no file.
    assert_eq!(talk.read(key, Which::Data), Ok(Input::End));
}

#[test]
fn a_filter_has_two_streams_and_an_authorizer_none() {
    let mut talk = Talk::new();
    let filter = talk.begin(1, Role::Filter, true);
    talk.record(RecordType::Data, 1, b"file");
    talk.record(RecordType::Data, 1, b"");
    assert_eq!(talk.read(filter, Which::Stdin), Ok(Input::Later));
    assert_eq!(talk.read(filter, Which::Data), Ok(Input::Got(b"file".to_vec())));
    assert_eq!(talk.read(filter, Which::Data), Ok(Input::End));
    let authorizer = talk.begin(2, Role::Authorizer, true);
    assert_eq!(talk.read(authorizer, Which::Stdin), Ok(Input::End));
    assert_eq!(talk.read(authorizer, Which::Data), Ok(Input::End));
}

#[test]
fn two_requests_share_a_connection_and_nothing_else() {
    let mut talk = Talk::new();
    let (one, two) = (talk.begin(1, Role::Responder, true), talk.begin(2, Role::Responder, true));
    assert_ne!(one, two);
    talk.record(RecordType::Stdin, 2, b"two");
    talk.record(RecordType::Stdin, 1, b"one");
    talk.record(RecordType::AbortRequest, 2, b"");
    assert_eq!(talk.read(one, Which::Stdin), Ok(Input::Got(b"one".to_vec())));
    assert_eq!(talk.read(one, Which::Stdin), Ok(Input::Later));
    // What came before the abort is still there.
    assert_eq!(talk.read(two, Which::Stdin), Ok(Input::Got(b"two".to_vec())));
    assert_eq!(talk.read(two, Which::Stdin), Err(Gone::Aborted));
    assert!(talk.conversation.is_aborted(two) && !talk.conversation.is_aborted(one));
}

#[test]
fn an_id_that_is_used_again_is_another_request() {
    let mut talk = Talk::new();
    let first = talk.begin(1, Role::Responder, true);
    talk.answer(first);
    let second = talk.begin(1, Role::Responder, true);
    talk.record(RecordType::Stdin, 1, b"of the second");
    assert_eq!(talk.read(first, Which::Stdin), Err(Gone::Answered));
    assert_eq!(talk.read(second, Which::Stdin), Ok(Input::Got(b"of the second".to_vec())));
    talk.record(RecordType::AbortRequest, 1, b"");
    assert!(talk.conversation.is_aborted(second) && !talk.conversation.is_aborted(first));
}

#[test]
fn what_came_is_read_before_the_reason_why_no_more_comes() {
    type Ending = fn(&mut Talk);
    let endings: [(Ending, Gone); 5] = [
        (|talk| talk.conversation.closed(), Gone::Closed),
        (|talk| talk.conversation.lost(ErrorKind::ConnectionReset), Gone::Failed(ErrorKind::ConnectionReset)),
        (|talk| talk.record(RecordType::AbortRequest, 1, b""), Gone::Aborted),
        (
            |talk| {
                talk.next();
                talk.silence(IO);
            },
            Gone::Silent,
        ),
        (
            |talk| talk.hear(b"GET "),
            Gone::Protocol(ProtocolError { offset: 40, fault: Fault::Version(b'G') }),
        ),
    ];
    for (end, gone) in endings {
        let mut talk = Talk::new();
        let key = talk.begin(1, Role::Responder, true);
        talk.record(RecordType::Stdin, 1, b"12345678");
        end(&mut talk);
        assert!(talk.conversation.is_aborted(key), "{gone:?}");
        assert!(!talk.conversation.is_waiting(key), "{gone:?}");
        assert_eq!(talk.read(key, Which::Stdin), Ok(Input::Got(b"12345678".to_vec())), "{gone:?}");
        assert_eq!(talk.read(key, Which::Stdin), Err(gone));
        // A body that is whole stays so.
        let mut talk = Talk::new();
        let key = talk.whole(1);
        talk.record(RecordType::Stdin, 1, b"");
        end(&mut talk);
        assert_eq!(talk.read(key, Which::Stdin), Ok(Input::End), "{gone:?}");
    }
}

#[test]
fn a_reason_is_an_error_of_its_kind() {
    let fault = ProtocolError { offset: 7, fault: Fault::Version(9) };
    for (gone, kind) in [
        (Gone::Aborted, ErrorKind::ConnectionAborted),
        (Gone::Answered, ErrorKind::UnexpectedEof),
        (Gone::Closed, ErrorKind::UnexpectedEof),
        (Gone::Silent, ErrorKind::TimedOut),
        (Gone::Failed(ErrorKind::ConnectionReset), ErrorKind::ConnectionReset),
        (Gone::Protocol(fault), ErrorKind::InvalidData),
    ] {
        assert_eq!(io::Error::from(gone).kind(), kind);
    }
    assert!(io::Error::from(Gone::Protocol(fault)).to_string().contains("at byte 7"));
}

#[test]
fn a_handler_waits_until_its_own_stream_has_news() {
    let mut talk = Talk::new();
    let key = talk.begin(1, Role::Filter, true);
    let other = talk.begin(2, Role::Responder, true);
    assert!(!talk.conversation.is_waiting(key), "nobody has asked");
    assert_eq!(talk.read(key, Which::Data), Ok(Input::Later));
    assert_eq!(talk.read(other, Which::Stdin), Ok(Input::Later));
    talk.record(RecordType::Stdin, 1, b"the other stream");
    assert!(talk.conversation.is_waiting(key));
    talk.record(RecordType::Data, 1, b"file");
    assert!(!talk.conversation.is_waiting(key) && talk.conversation.is_waiting(other));
    talk.record(RecordType::Stdin, 2, b"");
    assert!(!talk.conversation.is_waiting(other));
    assert_eq!(talk.read(key, Which::Data), Ok(Input::Got(b"file".to_vec())));
    assert_eq!(talk.read(key, Which::Data), Ok(Input::Later));
    talk.record(RecordType::AbortRequest, 1, b"");
    assert!(!talk.conversation.is_waiting(key));
}

#[test]
fn an_answered_request_waits_for_nothing() {
    let mut talk = Talk::new();
    let key = talk.begin(1, Role::Responder, true);
    assert_eq!(talk.read(key, Which::Stdin), Ok(Input::Later));
    assert!(talk.conversation.is_waiting(key));
    talk.answer(key);
    assert!(!talk.conversation.is_waiting(key));
    assert_eq!(talk.conversation.piece(key, Which::Stdin), Err(Gone::Answered));
}

#[test]
fn a_handler_that_does_not_read_holds_the_connection_up() {
    let mut talk = Talk::new();
    let key = talk.begin(1, Role::Filter, true);
    talk.record(RecordType::Stdin, 1, &[1; 60]);
    talk.record(RecordType::Data, 1, &[2; 40]);
    assert!(matches!(talk.next(), Step::Receive(_)), "as much as may be held");
    assert!(!talk.conversation.is_held());
    talk.record(RecordType::Data, 1, &[2]);
    assert_eq!(talk.next(), Step::Hold, "one byte more");
    assert!(talk.conversation.is_held());
    assert_eq!(talk.read(key, Which::Stdin), Ok(Input::Got(vec![1; 60])));
    assert!(talk.conversation.is_held(), "until the driver has asked");
    assert!(matches!(talk.next(), Step::Receive(_)));
    assert!(!talk.conversation.is_held());
    // A handler that waits for its other stream would wait for ever if the connection were not read.
    talk.record(RecordType::Data, 1, &[2; 200]);
    assert_eq!(talk.next(), Step::Hold);
    assert_eq!(talk.read(key, Which::Stdin), Ok(Input::Later));
    assert!(matches!(talk.next(), Step::Receive(_)));
    talk.record(RecordType::Stdin, 1, b"");
    assert_eq!(talk.next(), Step::Hold);
    talk.answer(key);
    assert!(!matches!(talk.next(), Step::Hold));
}

#[test]
fn what_has_been_read_is_not_held() {
    let mut talk = Talk::new();
    let key = talk.begin(1, Role::Responder, true);
    talk.record(RecordType::Stdin, 1, &[1; 101]);
    assert_eq!(talk.next(), Step::Hold);
    let mut to = [0; 1];
    assert_eq!(talk.conversation.read(key, Which::Stdin, &mut to), Ok(Input::Got(1)));
    assert!(matches!(talk.next(), Step::Receive(_)));
}

#[test]
fn a_body_that_nobody_wants_holds_nothing_up() {
    let mut talk = Talk::new();
    let (key, other) = (talk.begin(1, Role::Filter, true), talk.begin(2, Role::Responder, true));
    talk.record(RecordType::Stdin, 1, &[1; 101]);
    assert_eq!(talk.next(), Step::Hold);
    talk.conversation.unwanted(key);
    assert!(matches!(talk.next(), Step::Receive(_)));
    talk.record(RecordType::Stdin, 1, &[1; 101]);
    talk.record(RecordType::Data, 1, &[1; 101]);
    assert!(matches!(talk.next(), Step::Receive(_)));
    talk.record(RecordType::Stdin, 1, b"");
    assert!(matches!(talk.next(), Step::Receive(_)));
    assert_eq!(talk.conversation.piece(key, Which::Stdin), Ok(Input::Later));
    talk.record(RecordType::Stdin, 2, b"wanted");
    assert_eq!(talk.read(other, Which::Stdin), Ok(Input::Got(b"wanted".to_vec())));
}
