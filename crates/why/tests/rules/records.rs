//! TLS and FastCGI records.

use crate::case::rule;
use crate::flow::{Client, Flow, Server, flow};
use crate::passive::record;

/// A FastCGI record of request 1.
fn fastcgi(kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
    let head = [1, kind, 0, 1, (content.len() >> 8) as u8, content.len() as u8, padding as u8, 0];
    [&head[..], content, &vec![0; padding]].concat()
}

fn begin() -> Vec<u8> {
    fastcgi(1, &[0, 1, 0, 0, 0, 0, 0, 0], 0)
}

fn end() -> Vec<u8> {
    fastcgi(3, &[0; 8], 0)
}

fn said(client: &[u8], server: &[&[u8]]) -> Flow {
    let asked = flow().ports(40_000, 9_000).shake().data(Client, client).ack(Server);
    server.iter().fold(asked, |flow, segment| flow.data(Server, segment)).ack(Client).rst(Server)
}

#[test]
fn fastcgi_requests_left_unread() {
    let request = || [begin(), fastcgi(4, b"params", 2), fastcgi(5, b"", 0)].concat();
    let response = || [fastcgi(6, b"Status: 200\r\n\r\nbody", 4), end()].concat();
    rule("FastCGI")
        .base(&said(&request(), &[&response()]), "closed-with-unread-data likely active harmful")
        .but(
            "STDIN was still open",
            &said(&[begin(), fastcgi(4, b"params", 2), fastcgi(5, b"x", 0)].concat(), &[&response()]),
            "closed-with-unread-data likely",
        )
        .but(
            "no END_REQUEST",
            &said(&request(), &[&fastcgi(6, b"Status: 200\r\n\r\nbody", 4)]),
            "unknown possible harmful",
        )
        .but(
            "END_REQUEST in a segment of its own",
            &said(&request(), &[&fastcgi(6, b"body", 4), &end()]),
            "closed-with-unread-data likely",
        )
        .but(
            "END_REQUEST to a request that is none",
            &said(b"whatever", &[&response()]),
            "unknown possible harmful",
        )
        .but(
            "half a header",
            &said(&request(), &[&fastcgi(6, b"body", 4), &end()[..7]]),
            "unknown possible harmful",
        )
        .but("half a body", &said(&request(), &[&fastcgi(6, b"body", 4)[..10]]), "unknown possible harmful")
        .but(
            "a type that is none",
            &said(&request(), &[&fastcgi(6, b"body", 4), &fastcgi(12, b"", 0)]),
            "unknown possible harmful",
        )
        .but(
            "the last type",
            &said(&request(), &[&fastcgi(6, b"body", 4), &fastcgi(11, b"", 0)]),
            "unknown possible harmful",
        )
        .but(
            "a version that is none",
            &said(&request(), &[&fastcgi(6, b"body", 4), &[2, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]),
            "unknown possible harmful",
        )
        .but(
            "padding counts",
            &said(&request(), &[&fastcgi(6, b"body", 0), &end()]),
            "closed-with-unread-data likely",
        )
        .but(
            "300 bytes of content",
            &said(&request(), &[&fastcgi(6, &[7; 300], 0), &end()]),
            "closed-with-unread-data likely",
        )
        .but(
            "STDERR first",
            &said(&request(), &[&fastcgi(7, b"warning", 1), &end()]),
            "closed-with-unread-data likely",
        )
        .but(
            "the gateway resets, and has END_REQUEST",
            &said(&request(), &[&response()]).unseen().rst(Client),
            "aborted likely harmless",
        )
        .but(
            "the gateway resets, and has no END_REQUEST",
            &said(&request(), &[&fastcgi(6, b"body", 4)]).unseen().rst(Client),
            "client-gave-up likely harmful",
        )
        .but("END_REQUEST alone", &said(&request(), &[&end()]), "closed-with-unread-data likely")
        .but(
            "another request",
            &said(&request(), &[&[1, 6, 0, 2, 0, 0, 0, 0], &end()]),
            "unknown possible harmful",
        )
        .but("no BEGIN_REQUEST", &said(&fastcgi(4, b"params", 2), &[&response()]), "unknown possible harmful")
        .but(
            "a begin that is too long",
            &said(&fastcgi(1, &[0; 9], 0), &[&response()]),
            "unknown possible harmful",
        )
        .done();
}

#[test]
fn tls_records() {
    let hello = record(22, 30);
    let of = |segments: &[&[u8]]| said(&hello, segments);
    // Of two records that come at once, the client acknowledges so many bytes.
    let unacknowledged = |taken: u32| {
        let both = [record(22, 40), record(23, 400)].concat();
        let (all, asked) =
            (both.len() as u32, flow().ports(40_000, 443).shake().data(Client, &hello).ack(Server));
        asked.data(Server, &both).ack(Client).with(|p| p.ack -= all - taken).rst(Server)
    };
    rule("TLS")
        .base(&of(&[&record(22, 40)]), "unknown possible harmful lost:0")
        .but("an alert", &of(&[&record(22, 40), &record(21, 2)]), "unknown possible harmful")
        .but(
            "an alert of the client",
            &said(&[record(22, 30), record(21, 2)].concat(), &[&record(22, 40)]),
            "unknown possible harmless",
        )
        .but(
            "a record cut short",
            &of(&[&record(22, 40), &record(23, 400)[..300]]),
            "unknown possible harmful lost:0",
        )
        .but("a header cut short", &of(&[&record(22, 40), &record(23, 400)[..4]]), "unknown possible harmful")
        .but(
            "a record in two segments",
            &of(&[&record(22, 40)[..20], &record(22, 40)[20..]]),
            "unknown possible harmful lost:0",
        )
        .but(
            "two records in one segment",
            &of(&[&[record(22, 40), record(23, 400)[..399].to_vec()].concat()]),
            "unknown possible harmful",
        )
        .but(
            "the longest record",
            &of(&[&record(22, 40), &record(23, 16_640)[..9]]),
            "unknown possible harmful",
        )
        .but(
            "a record too long",
            &of(&[&record(22, 40), &record(23, 16_641)[..9]]),
            "unknown possible harmful",
        )
        .but("the first type", &of(&[&record(22, 40), &record(20, 10)[..9]]), "unknown possible harmful")
        .but(
            "a type before the first",
            &of(&[&record(22, 40), &record(19, 10)[..9]]),
            "unknown possible harmful",
        )
        .but("the last type", &of(&[&record(22, 40), &record(24, 10)[..9]]), "unknown possible harmful")
        .but(
            "a type after the last",
            &of(&[&record(22, 40), &record(25, 10)[..9]]),
            "unknown possible harmful",
        )
        .but("another version", &of(&[&record(22, 40), &[23, 2, 3, 0, 10, 0]]), "unknown possible harmful")
        .but("two records unacknowledged", &unacknowledged(0), "unknown possible harmful")
        .but("the last one from its first byte", &unacknowledged(45), "unknown possible harmful")
        .but("the last one but for its first byte", &unacknowledged(46), "unknown possible harmful")
        .but(
            "a hello of another version",
            &said(&[22, 3, 5, 0, 1, 0], &[&record(23, 40)[..9]]),
            "unknown possible harmful",
        )
        .done();
}
