//! The protocol without sockets: any split gives the same events, hostile bytes give errors with offsets.

use linger_fastcgi::incoming::{Capacity, Incoming, Received};
use linger_fastcgi::params::push_pair;
use linger_fastcgi::record::{
    self, Decoder, EndRequest, Header, Part, ProtocolStatus, RecordType, Role, push, push_begin, push_end,
    push_stream,
};
use linger_fastcgi::replies::{Replies, Reply};
use linger_fastcgi::{Fault, Limits, Params};
use proptest::prelude::*;

fn capacity(multiplex: bool) -> Capacity {
    Capacity::new(10, 20, multiplex)
}

fn incoming() -> Incoming {
    Incoming::new(Limits::default(), capacity(true))
}

/// An event that owns what it carries, with the pieces of a stream joined.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Start(u16, Role, bool, Vec<(Vec<u8>, Vec<u8>)>),
    Stdin(u16, Vec<u8>),
    StdinEnd(u16),
    Other(String),
}

fn see(incoming: &mut Incoming, pieces: &[&[u8]]) -> Result<Vec<Seen>, linger_fastcgi::ProtocolError> {
    let mut seen: Vec<Seen> = Vec::new();
    for piece in pieces {
        let mut input = *piece;
        while let Some(event) = incoming.next(&mut input)? {
            let next = match event {
                Received::Start(start) => Seen::Start(
                    start.id,
                    start.role,
                    start.keep_conn,
                    start.params.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
                ),
                Received::Stdin(id, bytes) => {
                    if let Some(Seen::Stdin(last, all)) = seen.last_mut()
                        && *last == id
                    {
                        all.extend_from_slice(bytes);
                        continue;
                    }
                    Seen::Stdin(id, bytes.to_vec())
                }
                Received::StdinEnd(id) => Seen::StdinEnd(id),
                other => Seen::Other(format!("{other:?}")),
            };
            seen.push(next);
        }
    }
    Ok(seen)
}

fn request(id: u16, params: &[(&[u8], &[u8])], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push_begin(&mut out, id, Role::Responder, true);
    let mut pairs = Vec::new();
    for (name, value) in params {
        push_pair(&mut pairs, name, value);
    }
    push_stream(&mut out, RecordType::Params, id, &pairs);
    push(&mut out, RecordType::Params, id, &[]);
    push_stream(&mut out, RecordType::Stdin, id, body);
    push(&mut out, RecordType::Stdin, id, &[]);
    out
}

#[test]
fn a_request_on_the_wire_is_as_specified() {
    let mut out = Vec::new();
    push_begin(&mut out, 0x0102, Role::Responder, true);
    assert_eq!(out, [1, 1, 1, 2, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]);
    out.clear();
    push(&mut out, RecordType::Stdout, 1, b"abc");
    assert_eq!(out, [1, 6, 0, 1, 0, 3, 5, 0, b'a', b'b', b'c', 0, 0, 0, 0, 0]);
    out.clear();
    push_end(&mut out, 1, EndRequest::new(0x01020304, ProtocolStatus::Overloaded));
    assert_eq!(out, [1, 3, 0, 1, 0, 8, 0, 0, 1, 2, 3, 4, 2, 0, 0, 0]);
    let mut pairs = Vec::new();
    push_pair(&mut pairs, b"A", &[b'x'; 200]);
    assert_eq!(pairs[..6], [1, 0x80, 0, 0, 200, b'A']);
}

proptest! {
    #[test]
    fn any_split_gives_the_same_events(
        params in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..200), proptest::collection::vec(any::<u8>(), 0..300)), 0..20),
        body in proptest::collection::vec(any::<u8>(), 0..3000),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let pairs: Vec<(&[u8], &[u8])> = params.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect();
        let wire = request(7, &pairs, &body);
        let whole = see(&mut incoming(), &[&wire]).unwrap();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len())).collect();
        at.sort_unstable();
        at.push(wire.len());
        let mut pieces = Vec::new();
        let mut from = 0;
        for to in at {
            pieces.push(&wire[from..to]);
            from = to;
        }
        prop_assert_eq!(&see(&mut incoming(), &pieces).unwrap(), &whole);
        let mut expected = vec![Seen::Start(7, Role::Responder, true, params.clone())];
        if !body.is_empty() {
            expected.push(Seen::Stdin(7, body.clone()));
        }
        expected.push(Seen::StdinEnd(7));
        prop_assert_eq!(whole, expected);
    }

    #[test]
    fn pairs_survive_the_round_trip(pairs in proptest::collection::vec((".{0,40}", ".{0,400}"), 0..50)) {
        let mut bytes = Vec::new();
        for (name, value) in &pairs {
            push_pair(&mut bytes, name.as_bytes(), value.as_bytes());
        }
        let params = Params::parse(bytes, &Limits::default()).unwrap();
        let back: Vec<(String, String)> = params.iter()
            .map(|(n, v)| (String::from_utf8(n.to_vec()).unwrap(), String::from_utf8(v.to_vec()).unwrap())).collect();
        prop_assert_eq!(back, pairs);
    }

    #[test]
    fn noise_neither_panics_nor_grows(noise in proptest::collection::vec(any::<u8>(), 0..4000)) {
        let limits = Limits::default();
        let mut incoming = Incoming::new(limits, capacity(true));
        let mut input = noise.as_slice();
        while let Ok(Some(_)) = incoming.next(&mut input) {}
        // An answer is never more than three times what asked for it.
        prop_assert!(incoming.replies().len() <= 3 * noise.len());
        let mut replies = Replies::new(1);
        let mut input = noise.as_slice();
        while let Ok(Some(_)) = replies.next(&mut input) {}
        let _ = Params::parse(noise, &limits);
    }
}

#[test]
fn errors_name_the_offset() {
    let mut wire = request(1, &[], b"");
    let good = wire.len() as u64;
    wire.extend_from_slice(b"GET / HTTP/1.1\r\n");
    let error = see(&mut incoming(), &[&wire]).unwrap_err();
    assert_eq!((error.offset, error.fault), (good, Fault::Version(b'G')));
    let error = see(&mut incoming(), &[b"GET / HTTP/1.1"]).unwrap_err();
    assert_eq!(error.offset, 0);

    let mut short = Vec::new();
    push(&mut short, RecordType::BeginRequest, 1, &[0; 7]);
    let error = see(&mut incoming(), &[&short]).unwrap_err();
    assert_eq!(error.fault, Fault::Size { kind: RecordType::BeginRequest, length: 7 });

    let mut twice = Vec::new();
    push_begin(&mut twice, 1, Role::Responder, false);
    push_begin(&mut twice, 1, Role::Responder, false);
    assert_eq!(see(&mut incoming(), &[&twice]).unwrap_err().fault, Fault::BeginTwice(1));

    let cut = Params::parse(vec![1, 200, b'A'], &Limits::default()).unwrap_err();
    assert_eq!((cut.offset, cut.fault), (0, Fault::ParamCut));
    let huge =
        Params::parse(vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &Limits::default()).unwrap_err();
    assert_eq!(huge.fault, Fault::ParamCut);
}

#[test]
fn limits_hold() {
    let mut limits = Limits::default();
    limits.params_bytes = 100;
    let mut incoming = Incoming::new(limits, capacity(true));
    let wire = request(1, &[(b"A", &[b'x'; 200])], b"");
    assert_eq!(see(&mut incoming, &[&wire]).unwrap_err().fault, Fault::ParamsTooLong(100));

    let mut limits = Limits::default();
    limits.params_count = 2;
    let mut incoming = Incoming::new(limits, capacity(true));
    let wire = request(1, &[(b"A", b""), (b"B", b""), (b"C", b"")], b"");
    assert_eq!(see(&mut incoming, &[&wire]).unwrap_err().fault, Fault::TooManyParams(2));

    let mut limits = Limits::default();
    limits.multiplexed = 2;
    let mut incoming = Incoming::new(limits, capacity(true));
    let wire: Vec<u8> = (1..=3).flat_map(|id| request(id, &[], b"")).collect();
    assert_eq!(see(&mut incoming, &[&wire]).unwrap().len(), 4, "two starts, two ends of STDIN");
    assert_eq!(refusal(&mut incoming, 3), ProtocolStatus::Overloaded);
}

fn refusal(incoming: &mut Incoming, id: u16) -> ProtocolStatus {
    let mut replies = Replies::new(id);
    let bytes = std::mem::take(incoming.replies());
    match replies.next(&mut bytes.as_slice()).unwrap() {
        Some(Reply::End(end)) => end.protocol_status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_served_is_refused_in_the_protocol() {
    let mut single = Incoming::new(Limits::default(), capacity(false));
    let mut wire = Vec::new();
    push_begin(&mut wire, 1, Role::Responder, true);
    push_begin(&mut wire, 2, Role::Responder, true);
    see(&mut single, &[&wire]).unwrap();
    assert_eq!(refusal(&mut single, 2), ProtocolStatus::CantMultiplex);

    let mut wire = Vec::new();
    push(&mut wire, RecordType::BeginRequest, 5, &[0, 9, 0, 0, 0, 0, 0, 0]);
    let mut other = incoming();
    see(&mut other, &[&wire]).unwrap();
    assert_eq!(refusal(&mut other, 5), ProtocolStatus::UnknownRole);
}

#[test]
fn management_records_are_answered() {
    let mut names = Vec::new();
    for name in ["FCGI_MAX_CONNS", "FCGI_MPXS_CONNS", "SOMETHING"] {
        push_pair(&mut names, name.as_bytes(), b"");
    }
    let mut wire = Vec::new();
    push(&mut wire, RecordType::GetValues, 0, &names);
    push(&mut wire, RecordType::from(77), 0, b"what is this");
    let mut incoming = incoming();
    assert!(see(&mut incoming, &[&wire]).unwrap().is_empty());
    let answer = std::mem::take(incoming.replies());
    let mut expected = Vec::new();
    let mut values = Vec::new();
    push_pair(&mut values, b"FCGI_MAX_CONNS", b"10");
    push_pair(&mut values, b"FCGI_MPXS_CONNS", b"1");
    push(&mut expected, RecordType::GetValuesResult, 0, &values);
    record::push_unknown(&mut expected, 77);
    assert_eq!(answer, expected);
}

#[test]
fn an_answered_request_drains_until_its_end_or_the_next_request() {
    let wire = request(1, &[], &[7; 1000]);
    let mut incoming = incoming();
    let head = wire.len() - 500;
    see(&mut incoming, &[&wire[..head]]).unwrap();
    assert!(incoming.finish(1), "the body is still coming");
    assert!(incoming.is_draining());
    let rest = see(&mut incoming, &[&wire[head..]]).unwrap();
    assert!(
        rest.iter().all(|seen| matches!(seen, Seen::Other(text) if text.starts_with("Discarded"))),
        "{rest:?}"
    );
    assert!(!incoming.is_draining());
    assert!(!incoming.expects_more());

    see(&mut incoming, &[&wire[..24]]).unwrap();
    let mut again = Vec::new();
    push(&mut again, RecordType::Params, 1, &[]);
    see(&mut incoming, &[&again]).unwrap();
    assert!(incoming.finish(1));
    let next = see(&mut incoming, &[&wire]).unwrap();
    assert!(matches!(next[0], Seen::Start(1, ..)), "the id may be used again: {next:?}");
}

#[test]
fn a_filter_gets_both_streams_and_an_authorizer_none() {
    let mut wire = Vec::new();
    push_begin(&mut wire, 1, Role::Filter, true);
    push(&mut wire, RecordType::Params, 1, &[]);
    push(&mut wire, RecordType::Stdin, 1, b"in");
    push(&mut wire, RecordType::Stdin, 1, &[]);
    push(&mut wire, RecordType::Data, 1, b"file");
    push(&mut wire, RecordType::Data, 1, &[]);
    let seen = see(&mut incoming(), &[&wire]).unwrap();
    assert_eq!(seen[3], Seen::Other(format!("{:?}", Received::Data(1, b"file"))));
    assert_eq!(seen.len(), 5);

    let mut wire = Vec::new();
    push_begin(&mut wire, 1, Role::Authorizer, true);
    push(&mut wire, RecordType::Params, 1, &[]);
    let mut incoming = incoming();
    see(&mut incoming, &[&wire]).unwrap();
    assert!(!incoming.finish(1), "nothing is awaited from an Authorizer's gateway");
}

#[test]
fn replies_end_with_end_request_only() {
    let mut wire = Vec::new();
    push_stream(&mut wire, RecordType::Stdout, 1, &[7; 70_000]);
    push(&mut wire, RecordType::Stderr, 1, b"log");
    push(&mut wire, RecordType::Stdout, 1, &[]);
    let mut replies = Replies::new(1);
    let (mut stdout, mut announced) = (0, false);
    let mut input = wire.as_slice();
    while let Some(reply) = replies.next(&mut input).unwrap() {
        match reply {
            Reply::Stdout(bytes) => stdout += bytes.len(),
            Reply::StdoutEnd => announced = true,
            _ => {}
        }
    }
    assert_eq!((stdout, announced, replies.ended()), (70_000, true, false));
    let mut end = Vec::new();
    push_end(&mut end, 1, EndRequest::new(3, ProtocolStatus::RequestComplete));
    let mut input = end.as_slice();
    assert!(matches!(replies.next(&mut input).unwrap(), Some(Reply::End(end)) if end.app_status == 3));

    let mut foreign = Vec::new();
    push(&mut foreign, RecordType::Stdout, 2, b"of another");
    let error = Replies::new(1).next(&mut foreign.as_slice()).unwrap_err();
    assert_eq!(error.fault, Fault::ForeignId { kind: RecordType::Stdout, id: 2 });
}

#[test]
fn padding_is_not_waited_for() {
    let header = Header::new(RecordType::Stdin, 1, 3);
    let mut wire = header.bytes().to_vec();
    wire.extend_from_slice(b"abc");
    let mut decoder = Decoder::new();
    let mut input = wire.as_slice();
    assert_eq!(decoder.next(&mut input).unwrap(), Some(Part::Begin(header)));
    assert_eq!(decoder.next(&mut input).unwrap(), Some(Part::Content(header, b"abc")));
    assert_eq!(decoder.next(&mut input).unwrap(), Some(Part::End(header)));
    assert_eq!(decoder.next(&mut input).unwrap(), None);
    assert!(!decoder.at_boundary());
}
