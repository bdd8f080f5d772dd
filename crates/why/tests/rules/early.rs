//! Connections that a FIN ended before all was said.

use crate::case::rule;
use crate::flow::{Client, Flow, Server, flow};
use crate::{GET, post, response};

fn asked(request: &[u8]) -> Flow {
    flow().shake().data(Client, request).ack(Server)
}

/// The server closes, and then the client.
fn closed(flow: Flow) -> Flow {
    flow.ack(Client).fin(Server).ack(Client).fin(Client).ack(Server)
}

#[test]
fn a_response_shorter_than_its_own_length() {
    let of = |response: &[u8]| closed(asked(GET).data(Server, response));
    let head = b"HEAD /a HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    rule("short by its Content-Length")
        .base(&of(&response(90, 40)), "cut-short certain closed-early harmful lost:50")
        .but("one byte", &of(&response(90, 89)), "cut-short certain lost:1")
        .but("whole", &of(&response(90, 90)), "none")
        .but("within its head", &of(b"HTTP/1.1 200 OK\r\nContent-Le"), "cut-short certain lost:0")
        .but(
            "within its head, and the client had closed first",
            &asked(GET).data(Server, b"HTTP/1.1 200 OK\r\nContent-Le").fin(Client).fin(Server).ack(Client),
            "none",
        )
        .but(
            "within its head, after two segments",
            &closed(asked(GET).data(Server, b"HTTP/1.1 200 OK\r\n").data(Server, b"Content-Length: 3\r\n")),
            "cut-short certain",
        )
        .but(
            "a head in two segments",
            &closed(asked(GET).data(Server, b"HTTP/1.1 200 OK\r\n").data(Server, b"A: 3\r\n\r\nabc")),
            "none",
        )
        .but(
            "its empty line in two segments",
            &closed(asked(GET).data(Server, b"HTTP/1.1 200 OK\r\n").data(Server, b"\r\nabc")),
            "none",
        )
        .but("five gigabytes", &of(&response(5_000_000_000, 40)), "cut-short certain lost:4999999960")
        .but("no length is declared", &of(b"HTTP/1.0 200 OK\r\n\r\npart"), "none")
        .but("an answer to HEAD", &closed(asked(head).data(Server, &response(90, 0))), "none")
        .but("304", &of(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 90\r\n\r\n"), "none")
        .but(
            "the client had closed first",
            &asked(GET).data(Server, &response(90, 40)).fin(Client).fin(Server).ack(Client),
            "client-gave-up likely closed-early lost:50",
        )
        .but("the server does not close", &asked(GET).data(Server, &response(90, 40)).ack(Client), "none")
        .but(
            "bytes are missing in the capture",
            &closed(asked(GET).data(Server, &response(90, 10)).bytes(Server, 20).unseen().bytes(Server, 10)),
            "none",
        )
        .but(
            "the rest comes out of order",
            &closed(asked(GET).data(Server, &response(90, 80)).bytes(Server, 10)),
            "none",
        )
        .but(
            "the handshake is not there",
            &of(&response(90, 40)).from(3),
            "cut-short likely closed-early lost:50",
        )
        .but("a reset ends it", &asked(GET).data(Server, &response(90, 40)).rst(Server), "unknown active")
        .done();
}

#[test]
fn a_response_without_its_last_chunk() {
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let of = |chunks: &[u8]| closed(asked(GET).data(Server, &[head, chunks].concat()));
    let bare = |chunks: &[u8]| {
        let head = b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n";
        closed(asked(GET).data(Server, &[&head[..], chunks].concat()))
    };
    let two = |one: &[u8], two: &[u8]| {
        closed(asked(GET).data(Server, &[head, one].concat()).ack(Client).data(Server, two))
    };
    rule("short by its chunks")
        .base(&of(b"5\r\nhello\r\n"), "cut-short certain closed-early harmful")
        .but("inside a chunk", &of(b"5\r\nhel"), "cut-short certain")
        .but("the last chunk", &of(b"5\r\nhello\r\n0\r\n\r\n"), "none")
        .but("with a trailer", &of(b"5\r\nhello\r\n0\r\nDigest: x\r\n\r\n"), "none")
        .but("with an extension", &of(b"5;x=y\r\nhello\r\n0;z\r\n\r\n"), "none")
        .but("the end inside a chunk is no end", &of(b"7\r\n0\r\n\r\nab\r\n"), "cut-short certain")
        .but("over two segments", &two(b"A\r\nhello", b"world\r\n0\r\n\r\n"), "none")
        .but("over two segments, cut", &two(b"A\r\nhello", b"world\r\n"), "cut-short certain")
        .but("a size line over two segments", &two(b"5\r\nhello\r\n1", b"0\r\nhello"), "none")
        .but("an empty chunked body", &of(b""), "cut-short certain")
        .but("line feeds alone in the head", &bare(b"5\r\nhello\r\n0\r\n\r\n"), "none")
        .but("line feeds alone in the head, cut", &bare(b"5\r\nhello\r\n"), "cut-short certain")
        .but("a size that is none", &of(b"zz\r\nhello\r\n"), "none")
        .done();
}

#[test]
fn a_record_that_is_cut() {
    let record =
        |declared: u16, sent: usize| [&[23, 3, 3][..], &declared.to_be_bytes(), &vec![b't'; sent]].concat();
    let hello = [22, 3, 1, 0, 4, 1, 0, 0, 0];
    let of = |bytes: &[u8]| closed(flow().shake().data(Client, &hello).data(Server, bytes));
    rule("a record that is cut")
        .base(&of(&record(100, 60)), "cut-short certain closed-early harmful lost:40")
        .but("whole", &of(&record(100, 100)), "none")
        .but("no records", &of(&[b't'; 60]), "none")
        .done();
    let fcgi = |kind: u8, length: u8, body: &[u8]| [&[1, kind, 0, 1, 0, length, 0, 0][..], body].concat();
    let request = [fcgi(1, 8, &[0, 1, 0, 0, 0, 0, 0, 0]), fcgi(4, 0, b""), fcgi(5, 0, b"")].concat();
    let of = |answer: &[u8]| closed(flow().shake().data(Client, &request).data(Server, answer));
    let end = fcgi(3, 8, &[0; 8]);
    rule("no END_REQUEST")
        .base(&of(&fcgi(6, 4, b"text")), "cut-short certain closed-early harmful")
        .but("END_REQUEST", &of(&[fcgi(6, 4, b"text"), end].concat()), "none")
        .but("nothing", &closed(flow().shake().data(Client, &request)), "closed-unanswered likely")
        .but(
            "the gateway had closed first",
            &flow().shake().data(Client, &request).data(Server, &fcgi(6, 4, b"text")).fin(Client).fin(Server),
            "client-gave-up likely",
        )
        .done();
}

#[test]
fn a_frame_that_is_cut() {
    let frame = |kind: u8, declared: u8, sent: usize| {
        [&[0, 0, declared, kind, 0, 0, 0, 0, 1][..], &vec![b'x'; sent]].concat()
    };
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0)].concat();
    let begun =
        |first: u8| flow().shake().data(Client, &preface).data(Server, &frame(first, 0, 0)).ack(Client);
    let of = |bytes: &[u8]| closed(begun(4).data(Server, bytes));
    rule("HTTP/2, a frame that is cut")
        .base(&of(&frame(0, 90, 40)), "cut-short certain closed-early harmful lost:50")
        .but("whole", &of(&frame(0, 90, 90)), "none")
        .but("its last byte", &of(&frame(0, 90, 89)), "cut-short certain lost:1")
        .but("behind another frame", &of(&[frame(0, 9, 9), frame(0, 90, 40)].concat()), "cut-short lost:50")
        .but("no SETTINGS first", &closed(begun(0).data(Server, &frame(0, 90, 40))), "none")
        .but(
            "the client had closed first",
            &begun(4).data(Server, &frame(0, 90, 40)).fin(Client).fin(Server).ack(Client),
            "client-gave-up likely closed-early lost:50",
        )
        .but(
            "the client resets",
            &begun(4).data(Server, &frame(0, 90, 40)).ack(Client).rst(Client),
            "client-gave-up likely active harmful lost:0",
        )
        .but(
            "whole, and the client resets",
            &begun(4).data(Server, &frame(0, 90, 90)).ack(Client).rst(Client),
            "aborted likely active harmless",
        )
        .done();
    const ASK: &[u8] = b"GET /ws HTTP/1.1\r\nHost: shop.example\r\nUpgrade: websocket\r\n\r\n";
    const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    let text = |kind: u8, declared: u8, sent: usize| [&[kind, declared][..], &vec![b'x'; sent]].concat();
    let switched = || asked(ASK).data(Server, SWITCH).ack(Client);
    let of = |bytes: &[u8]| closed(switched().data(Server, bytes));
    rule("WebSocket, a frame that is cut")
        .base(&of(&text(0x81, 90, 40)), "cut-short certain closed-early harmful lost:50")
        .but("whole", &of(&text(0x81, 90, 90)), "none")
        .but("a length of 16 bits", &of(&[&[0x82, 126, 1, 44][..], &[7; 299]].concat()), "cut-short lost:1")
        .but("a reserved code", &of(&text(0x83, 90, 40)), "none")
        .but("another one", &of(&text(0x8b, 90, 40)), "none")
        .but("pong", &of(&text(0x8a, 90, 40)), "cut-short lost:50")
        .but(
            "in the segment of the head",
            &closed(asked(ASK).data(Server, &[SWITCH, &text(0x81, 9, 4)].concat())),
            "cut-short lost:5",
        )
        .done();
}

#[test]
fn a_request_that_is_not_answered() {
    let of = |request: &[u8]| asked(request).fin(Server).ack(Client).fin(Client).ack(Server);
    let cut = |request: &[u8]| flow().shake().data(Client, request).ack(Server).fin(Server).ack(Client);
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    // Two requests at once, and a response to the first.
    let second = |head: &[u8]| {
        let response = [head, b"Content-Length: 2\r\n\r\nok"].concat();
        closed(asked(&[GET, GET].concat()).data(Server, &response))
    };
    let lengths = |one: &str, two: &str| {
        format!("POST /a HTTP/1.1\r\nContent-Length: {one}\r\nContent-Length: {two}\r\n\r\nabc").into_bytes()
    };
    rule("no response")
        .base(&of(GET), "closed-unanswered likely closed-early harmful lost:0")
        .but("a whole body", &of(&post(60, 60)), "closed-unanswered likely")
        .but("a byte of the body is missing", &cut(&post(60, 59)), "closed-mid-request likely harmful")
        .but(
            "an early response",
            &cut(&post(60, 59)).before(4).data(Server, &response(5, 5)).fin(Server),
            "none",
        )
        .but("an interim response", &closed(asked(GET).data(Server, interim)), "closed-unanswered likely")
        .but(
            "the client had closed in the middle of its request",
            &asked(&post(60, 40)).fin(Client).ack(Server).fin(Server).ack(Client),
            "client-gave-up likely closed-early",
        )
        .but("no request", &flow().shake().bytes(Client, 20).ack(Server).fin(Server).ack(Client), "none")
        .but("a response", &closed(asked(GET).data(Server, &response(5, 5))), "none")
        .but("the second of two", &second(b"HTTP/1.1 200 OK\r\n"), "closed-unanswered likely")
        .but(
            "after a response that ends the connection",
            &second(b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\n"),
            "none",
        )
        .but("after a response of HTTP/1.0", &second(b"HTTP/1.0 200 OK\r\n"), "none")
        .but(
            "after one of HTTP/1.0 that goes on",
            &second(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"),
            "closed-unanswered likely",
        )
        .but("two lengths", &of(&lengths("3", "5")), "none")
        .but("the same length twice", &of(&lengths("3", "3")), "closed-unanswered likely")
        .but("a length in a list", &of(&lengths("3, 3", "3")), "closed-unanswered likely")
        .but("a length with a sign", &of(&lengths("+3", "+3")), "none")
        .but("part of the head", &of(&GET[..20]), "none")
        .done();
}

#[test]
fn a_request_that_crosses_the_fin() {
    let served = || asked(GET).data(Server, &response(5, 5)).ack(Client).wait(5_000);
    let base = || {
        let ack = served().last_of(Client).ack;
        served().fin(Server).data(Client, GET).with(|packet| packet.ack = ack).ack(Server)
    };
    rule("keep-alive race")
        .base(&base(), "keep-alive-race certain closed-early harmful lost:0 unread:39")
        .but(
            "the FIN acknowledges the request",
            &served().data(Client, GET).fin(Server).ack(Client),
            "closed-unanswered likely",
        )
        .but(
            "no request before",
            &flow().shake().fin(Server).data(Client, GET).with(|packet| packet.ack -= 1).ack(Server),
            "keep-alive-race likely",
        )
        .but(
            "the FIN acknowledges its first byte",
            &base().with_at(7, |packet| packet.ack += 1),
            "closed-mid-request likely",
        )
        .but(
            "a reset answers it",
            &base().unseen().bare(Server),
            "data-after-close certain passive-after-fin",
        )
        .but(
            "the server's response comes all the same",
            &served().data(Client, GET).data(Server, &response(5, 5)).fin(Server),
            "none",
        )
        .but("no next request", &served().fin(Server).ack(Client), "none")
        .done();
}
