//! Each rule of what a gateway may send, with a case that differs in one field. Splits, noise and whole requests are
//! in `tests/protocol.rs`.

use super::*;
use crate::record::{push, push_begin};

fn incoming(multiplex: bool) -> Incoming {
    let mut limits = Limits::default();
    (limits.params_bytes, limits.multiplexed) = (5000, 2);
    Incoming::new(limits, Capacity::new(10, 20, multiplex))
}

/// The events of these bytes, as text. Pieces of content are not joined.
fn hear(incoming: &mut Incoming, mut bytes: &[u8]) -> Result<Vec<String>, Fault> {
    let mut events = Vec::new();
    while let Some(event) = incoming.next(&mut bytes).map_err(|error| error.fault)? {
        events.push(match event {
            Received::Start(start) => format!("start {} {:?} {}", start.id, start.role, start.keep_conn),
            event => format!("{event:?}"),
        });
    }
    Ok(events)
}

fn record(incoming: &mut Incoming, kind: RecordType, id: u16, content: &[u8]) -> Result<Vec<String>, Fault> {
    let mut bytes = Vec::new();
    push(&mut bytes, kind, id, content);
    hear(incoming, &bytes)
}

fn begin(incoming: &mut Incoming, id: u16, role: Role) -> Result<Vec<String>, Fault> {
    let mut bytes = Vec::new();
    push_begin(&mut bytes, id, role, true);
    hear(incoming, &bytes)
}

fn start(incoming: &mut Incoming, id: u16, role: Role) {
    begin(incoming, id, role).unwrap();
    let started = record(incoming, RecordType::Params, id, b"").unwrap();
    assert_eq!(started, [format!("start {id} {role:?} true")]);
}

fn replies(incoming: &mut Incoming) -> Vec<u8> {
    std::mem::take(incoming.replies())
}

fn end(id: u8, status: u8) -> Vec<u8> {
    vec![1, 3, 0, id, 0, 8, 0, 0, 0, 0, 0, 0, status, 0, 0, 0]
}

#[test]
fn records_of_an_application_are_a_fault() {
    for kind in [RecordType::Stdout, RecordType::Stderr, RecordType::EndRequest] {
        assert_eq!(record(&mut incoming(true), kind, 1, b""), Err(Fault::WrongSide(kind)));
    }
    assert_eq!(record(&mut incoming(true), RecordType::Stdin, 1, b""), Ok(vec![]));
}

#[test]
fn a_request_begins_with_eight_bytes() {
    for length in [7, 9] {
        let fault = Fault::Size { kind: RecordType::BeginRequest, length };
        let content = vec![0; usize::from(length)];
        assert_eq!(record(&mut incoming(true), RecordType::BeginRequest, 1, &content), Err(fault));
    }
    // Records of other types may have any length.
    assert_eq!(record(&mut incoming(true), RecordType::Params, 1, &[0; 7]), Ok(vec![]));
}

#[test]
fn only_the_lowest_flag_keeps_the_connection() {
    for (flags, keeps) in [(0, false), (1, true), (2, false), (3, true)] {
        let mut incoming = incoming(true);
        record(&mut incoming, RecordType::BeginRequest, 1, &[0, 1, flags, 0, 0, 0, 0, 0]).unwrap();
        let started = record(&mut incoming, RecordType::Params, 1, b"").unwrap();
        assert_eq!(started, [format!("start 1 Responder {keeps}")]);
    }
}

#[test]
fn an_id_is_used_by_one_request_at_a_time() {
    let mut incoming = incoming(true);
    assert_eq!(begin(&mut incoming, 0, Role::Responder), Err(Fault::BeginTwice(0)));
    begin(&mut incoming, 1, Role::Responder).unwrap();
    begin(&mut incoming, 2, Role::Responder).unwrap();
    assert_eq!(begin(&mut incoming, 1, Role::Responder), Err(Fault::BeginTwice(1)));
    record(&mut incoming, RecordType::Params, 1, b"").unwrap();
    assert_eq!(begin(&mut incoming, 1, Role::Responder), Err(Fault::BeginTwice(1)));
    assert!(incoming.finish(1));
    // The rest of an answered request's body does not block the id: the gateway may use it again.
    assert!(incoming.drains(1) && !incoming.drains(2) && !incoming.drains(3));
    assert_eq!(begin(&mut incoming, 1, Role::Responder), Ok(vec![]));
    assert!(!incoming.drains(1) && !incoming.is_draining());
}

#[test]
fn requests_beyond_what_is_served_are_refused() {
    let mut single = incoming(false);
    start(&mut single, 1, Role::Responder);
    begin(&mut single, 2, Role::Responder).unwrap();
    assert_eq!(replies(&mut single), end(2, 1), "one at a time");
    assert!(single.finish(1));
    begin(&mut single, 2, Role::Responder).unwrap();
    assert_eq!(replies(&mut single), [0_u8; 0], "a body that is drained does not count");

    let mut many = incoming(true);
    start(&mut many, 1, Role::Responder);
    begin(&mut many, 2, Role::Responder).unwrap();
    assert_eq!(replies(&mut many), [0_u8; 0]);
    begin(&mut many, 3, Role::Responder).unwrap();
    assert_eq!(replies(&mut many), end(3, 2), "two at a time");
    assert!(many.finish(1));
    begin(&mut many, 3, Role::Responder).unwrap();
    assert_eq!(replies(&mut many), [0_u8; 0]);

    let mut last = incoming(true);
    last.refuse();
    begin(&mut last, 1, Role::Responder).unwrap();
    assert_eq!(replies(&mut last), end(1, 2), "none any more");
    record(&mut last, RecordType::BeginRequest, 1, &[0, 9, 1, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(replies(&mut last), end(1, 3), "the role is the better reason");
}

#[test]
fn parameters_are_bounded_over_all_their_records() {
    let mut within = incoming(true);
    begin(&mut within, 1, Role::Responder).unwrap();
    let pair = |length: usize| {
        let mut pair = Vec::new();
        push_pair(&mut pair, b"NAME", &vec![b'x'; length - 9]);
        pair
    };
    assert_eq!(record(&mut within, RecordType::Params, 1, &pair(4000)), Ok(vec![]));
    let mut above = incoming(true);
    begin(&mut above, 1, Role::Responder).unwrap();
    record(&mut above, RecordType::Params, 1, &pair(4000)).unwrap();
    assert_eq!(record(&mut within, RecordType::Params, 1, &pair(1000)), Ok(vec![]));
    assert_eq!(
        record(&mut within, RecordType::Params, 1, b""),
        Ok(vec!["start 1 Responder true".to_owned()])
    );
    assert_eq!(record(&mut above, RecordType::Params, 1, &pair(1001)), Err(Fault::ParamsTooLong(5000)));
    // Parameters of a refused request are not kept, so the limit does not apply to them.
    assert_eq!(record(&mut within, RecordType::Params, 9, &[0; 6000]), Ok(vec![]));
    assert_eq!(record(&mut within, RecordType::Params, 9, b""), Ok(vec![]));
    assert_eq!(record(&mut within, RecordType::Params, 1, b""), Ok(vec![]), "they end once");
}

#[test]
fn a_stream_goes_to_a_request_that_has_it_and_runs() {
    let mut incoming = incoming(true);
    let one = |incoming: &mut Incoming, kind, id| record(incoming, kind, id, b"x").unwrap();
    let discarded = ["Discarded(1)"];
    begin(&mut incoming, 1, Role::Filter).unwrap();
    assert_eq!(one(&mut incoming, RecordType::Stdin, 1), discarded, "its parameters are not complete");
    assert_eq!(one(&mut incoming, RecordType::Data, 1), discarded);
    record(&mut incoming, RecordType::Params, 1, b"").unwrap();
    start(&mut incoming, 2, Role::Responder);
    assert_eq!(one(&mut incoming, RecordType::Stdin, 1), ["Stdin(1, [120])"]);
    assert_eq!(one(&mut incoming, RecordType::Data, 1), ["Data(1, [120])"]);
    assert_eq!(one(&mut incoming, RecordType::Stdin, 2), ["Stdin(2, [120])"]);
    assert_eq!(one(&mut incoming, RecordType::Data, 2), discarded, "a Responder has no file");
    assert_eq!(incoming.record_id(), 2);
    assert_eq!(one(&mut incoming, RecordType::Stdin, 3), discarded, "nobody's");
    assert_eq!(incoming.record_id(), 3);

    assert_eq!(record(&mut incoming, RecordType::Stdin, 1, b"").unwrap(), ["StdinEnd(1)"]);
    assert_eq!(one(&mut incoming, RecordType::Stdin, 1), discarded, "after its end");
    assert_eq!(one(&mut incoming, RecordType::Data, 1), ["Data(1, [120])"]);
    assert_eq!(record(&mut incoming, RecordType::Stdin, 1, b"").unwrap(), [""; 0], "it ends once");
    assert_eq!(record(&mut incoming, RecordType::Data, 1, b"").unwrap(), ["DataEnd(1)"]);
    assert!(!incoming.finish(1));
    assert!(incoming.finish(2));
    assert_eq!(one(&mut incoming, RecordType::Stdin, 2), discarded, "it was answered");
}

#[test]
fn a_body_is_drained_until_both_its_streams_have_ended() {
    let mut incoming = incoming(true);
    start(&mut incoming, 1, Role::Filter);
    start(&mut incoming, 2, Role::Responder);
    record(&mut incoming, RecordType::Stdin, 1, b"").unwrap();
    assert!(incoming.finish(1), "its file has not ended");
    assert!(incoming.finish(2));
    assert_eq!(record(&mut incoming, RecordType::Data, 1, b"").unwrap(), ["Discarded(0)"]);
    assert!(!incoming.drains(1) && incoming.drains(2));
    assert!(incoming.is_draining());
    assert_eq!(record(&mut incoming, RecordType::Stdin, 2, b"").unwrap(), ["Discarded(0)"]);
    assert!(!incoming.is_draining());

    start(&mut incoming, 1, Role::Filter);
    assert!(!incoming.is_draining(), "it runs");
    assert!(incoming.finish(1));
    record(&mut incoming, RecordType::Stdin, 1, b"").unwrap();
    assert!(incoming.drains(1), "its file is still to come");
    record(&mut incoming, RecordType::Data, 1, b"").unwrap();
    assert!(!incoming.drains(1));
    start(&mut incoming, 1, Role::Filter);
    assert!(incoming.finish(1));
    record(&mut incoming, RecordType::Data, 1, b"").unwrap();
    assert!(incoming.drains(1), "its body is still to come");
}

#[test]
fn what_is_owed_is_told() {
    let mut incoming = incoming(true);
    assert!(!incoming.expects_more());
    hear(&mut incoming, &[1]).unwrap();
    assert!(incoming.expects_more(), "the rest of a record");
    hear(&mut incoming, &[9, 0, 0, 0, 0, 0, 0]).unwrap();
    assert!(!incoming.expects_more());
    begin(&mut incoming, 1, Role::Authorizer).unwrap();
    assert!(incoming.expects_more(), "parameters");
    record(&mut incoming, RecordType::Params, 1, b"").unwrap();
    assert!(!incoming.expects_more(), "an Authorizer gets no body");
    start(&mut incoming, 2, Role::Filter);
    assert!(incoming.expects_more(), "a body");
    record(&mut incoming, RecordType::Stdin, 2, b"").unwrap();
    assert!(incoming.expects_more(), "a file");
    assert!(incoming.finish(2));
    assert!(!incoming.expects_more(), "to nobody who waits for it");
    hear(&mut incoming, &[1]).unwrap();
    assert!(!incoming.expects_more(), "nor the rest of its record");
    hear(&mut incoming, &[8, 0, 2, 0, 0, 0, 0]).unwrap();
    assert!(!incoming.expects_more());
    start(&mut incoming, 2, Role::Filter);
    record(&mut incoming, RecordType::Data, 2, b"").unwrap();
    assert!(incoming.expects_more(), "a body without its file");
}

#[test]
fn values_are_told_to_who_asks_within_a_bound() {
    let mut incoming = incoming(true);
    let mut asked = Vec::new();
    push_pair(&mut asked, b"FCGI_MAX_REQS", b"");
    record(&mut incoming, RecordType::GetValues, 0, &asked).unwrap();
    let mut told = Vec::new();
    push_pair(&mut told, b"FCGI_MAX_REQS", b"20");
    let mut answer = Vec::new();
    push(&mut answer, RecordType::GetValuesResult, 0, &told);
    assert_eq!(replies(&mut incoming), answer);

    let pair = |length: usize| {
        let mut pair = Vec::new();
        push_pair(&mut pair, &vec![b'N'; length - 5], b"");
        pair
    };
    assert_eq!(record(&mut incoming, RecordType::GetValues, 0, &pair(4096)), Ok(vec![]));
    let fault = Err(Fault::ParamsTooLong(4096));
    assert_eq!(record(&mut incoming, RecordType::GetValues, 0, &pair(4097)), fault);
    let cut = record(&mut self::incoming(true), RecordType::GetValues, 0, &[9, 9]);
    assert_eq!(cut, Err(Fault::ParamCut));
}

#[test]
fn only_a_management_record_can_be_unknown() {
    let mut incoming = incoming(true);
    record(&mut incoming, RecordType::Other(77), 5, b"").unwrap();
    assert_eq!(replies(&mut incoming), [0_u8; 0], "one of a request is ignored");
    record(&mut incoming, RecordType::Other(77), 0, b"").unwrap();
    assert_eq!(replies(&mut incoming), [1, 11, 0, 0, 0, 8, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_fault_names_its_place() {
    let mut incoming = incoming(true);
    let mut bytes = Vec::new();
    push(&mut bytes, RecordType::GetValues, 0, &[9, 9]);
    let error = incoming.next(&mut &bytes[..]).unwrap_err();
    assert_eq!((error.offset, error.fault), (10, Fault::ParamCut));
}

#[test]
fn parameters_are_bounded_for_a_whole_connection() {
    // 1000 bytes are held for the first request. A second may have as many as the bound leaves, and one alone more.
    let pairs = |bytes: usize| {
        let mut pairs = Vec::new();
        push_pair(&mut pairs, b"N", &vec![b'v'; bytes - 6]);
        assert_eq!(pairs.len(), bytes);
        pairs
    };
    for (second, alone, refused) in
        [(500, false, false), (501, false, true), (501, true, false), (4000, true, false)]
    {
        let mut incoming = incoming(true);
        incoming.limits.params_held = 1500;
        begin(&mut incoming, 1, Role::Responder).unwrap();
        record(&mut incoming, RecordType::Params, 1, &pairs(1000)).unwrap();
        record(&mut incoming, RecordType::Params, 1, b"").unwrap();
        if alone {
            // What is drained has no parameters any more.
            assert!(incoming.finish(1));
        }
        begin(&mut incoming, 2, Role::Responder).unwrap();
        record(&mut incoming, RecordType::Params, 2, &pairs(second)).unwrap();
        assert_eq!(replies(&mut incoming), if refused { end(2, 2) } else { vec![] }, "{second}");
        let started = record(&mut incoming, RecordType::Params, 2, b"").unwrap();
        assert_eq!(started.is_empty(), refused);
        // The id is free again.
        if refused {
            start(&mut incoming, 2, Role::Authorizer);
        }
    }
}
