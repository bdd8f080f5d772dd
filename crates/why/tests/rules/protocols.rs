//! What the payload of HTTP and of mail says about lengths and ends.

use crate::case::rule;
use crate::flow::{Client, Flow, Server, flow};
use crate::{GET, post, response};

/// The client asks, the server answers in these segments, all acknowledged, and resets.
fn answered(request: &[u8], segments: &[&[u8]]) -> Flow {
    let asked = flow().shake().data(Client, request).ack(Server);
    segments.iter().fold(asked, |flow, segment| flow.data(Server, segment)).ack(Client).rst(Server)
}

#[test]
fn lengths_of_responses() {
    let of = |response: &[u8]| answered(GET, &[response]);
    rule("response length")
        .base(&of(&response(20, 20)), "unknown harmless lost:0")
        .but("a byte short", &of(&response(20, 19)), "harmful lost:1")
        .but("a byte too many", &of(&response(20, 21)), "harmful")
        .but(
            "the field in other letters",
            &of(b"HTTP/1.1 200 OK\r\ncOntent-lEngth: 3\r\n\r\nab"),
            "harmful lost:1",
        )
        .but("no blank", &of(b"HTTP/1.1 200 OK\r\nContent-Length:3\r\n\r\nab"), "harmful lost:1")
        .but(
            "another field of that value",
            &of(b"HTTP/1.1 200 OK\r\nX-Content-Length: 3\r\n\r\nab"),
            "harmful lost:0",
        )
        .but("no number", &of(b"HTTP/1.1 200 OK\r\nContent-Length: three\r\n\r\nab"), "harmful lost:0")
        .but(
            "the longest",
            &of(b"HTTP/1.1 200 OK\r\nContent-Length: 2146435071\r\n\r\nab"),
            "harmful lost:2146435069",
        )
        .but(
            "the longest, and nothing acknowledged",
            &flow()
                .shake()
                .data(Client, GET)
                .data(Server, b"HTTP/1.1 200 OK\r\nContent-Length: 2146435071\r\n\r\nab")
                .rst(Server)
                .at_server(),
            "harmful lost:2146435118",
        )
        .but(
            "longer than sequence numbers express",
            &of(b"HTTP/1.1 200 OK\r\nContent-Length: 2146435072\r\n\r\nab"),
            "harmful lost:2146435070",
        )
        .but(
            "three gigabytes and a byte",
            &of(b"HTTP/1.1 200 OK\r\nContent-Length: 3221225473\r\n\r\nab"),
            "harmful lost:3221225471",
        )
        .but(
            "the longest that is followed",
            &of(b"HTTP/1.1 200 OK\r\nContent-Length: 70368744177663\r\n\r\nab"),
            "harmful lost:70368744177661",
        )
        .but(
            "too long to tell",
            &of(b"HTTP/1.1 200 OK\r\nContent-Length: 70368744177664\r\n\r\nab"),
            "harmful lost:0",
        )
        .but(
            "two lengths",
            &of(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nab"),
            "harmful lost:0",
        )
        .but(
            "the same length twice",
            &of(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nab"),
            "harmful lost:1",
        )
        .but(
            "a line without a colon",
            &of(b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 3\r\n\r\nab"),
            "harmful lost:1",
        )
        .but("a head that is not whole", &of(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"), "harmful lost:0")
        .but(
            "a head in two segments",
            &answered(GET, &[b"HTTP/1.1 200 OK\r\n", b"Content-Length: 3\r\n\r\nab"]),
            "harmful lost:0",
        )
        .but("a body in two segments", &answered(GET, &[&response(20, 10), &[b'r'; 10]]), "harmless lost:0")
        .but(
            "a body in two segments, a byte short",
            &answered(GET, &[&response(20, 10), &[b'r'; 9]]),
            "harmful lost:1",
        )
        .but(
            "two responses in one segment",
            &answered(&[GET, GET].concat(), &[&[response(3, 3), response(20, 19)].concat()]),
            "lost:1",
        )
        .but(
            "two responses, the second begins in another segment",
            &answered(&[GET, GET].concat(), &[&response(3, 3), &response(20, 19)]),
            "lost:1",
        )
        .but(
            "what follows is no response",
            &answered(&[GET, GET].concat(), &[&response(3, 3), b"whatever"]),
            "lost:0 harmful",
        )
        .done();
}

#[test]
fn responses_without_a_body() {
    let of =
        |request: &[u8], head: &[u8]| answered(request, &[&[head, b"Content-Length: 9\r\n\r\n"].concat()]);
    const HEAD: &[u8] = b"HEAD /a HTTP/1.1\r\n\r\n";
    rule("no body")
        .base(&of(GET, b"HTTP/1.1 200 OK\r\n"), "harmful lost:9")
        .but("204", &of(GET, b"HTTP/1.1 204 No Content\r\n"), "harmless lost:0")
        .but("205", &of(GET, b"HTTP/1.1 205 Reset Content\r\n"), "harmful lost:9")
        .but("304", &of(GET, b"HTTP/1.1 304 Not Modified\r\n"), "harmless lost:0")
        .but("100: the response is still to come", &of(GET, b"HTTP/1.1 100 Continue\r\n"), "harmful lost:0")
        .but("101", &of(GET, b"HTTP/1.1 101 Switching Protocols\r\n"), "harmless lost:0")
        .but("in answer to HEAD", &of(HEAD, b"HTTP/1.1 200 OK\r\n"), "harmless lost:0")
        .but(
            "in answer to HEAD and then GET",
            &of(&[HEAD, GET].concat(), b"HTTP/1.1 200 OK\r\n"),
            "harmful lost:0",
        )
        .but("in answer to GET and then HEAD", &of(&[GET, HEAD].concat(), b"HTTP/1.1 200 OK\r\n"), "lost:9")
        .but(
            "a request with the status of one",
            &answered(b"POST /a 204 HTTP/1.1\r\nContent-Length: 9\r\n\r\n", &[&response(0, 0)]),
            "closed-with-unread-data",
        )
        .done();
}

#[test]
fn responses_whose_end_is_a_chunk_or_a_fin() {
    let of = |fields: &str, body: &str| {
        answered(GET, &[format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}").as_bytes()])
    };
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
    rule("open end")
        .base(&of(CHUNKED, "3\r\nabc\r\n0\r\n\r\n"), "harmless lost:0")
        .but("no last chunk", &of(CHUNKED, "3\r\nabc\r\n"), "harmful lost:0")
        .but(
            "the last chunk in a segment of its own",
            &answered(
                GET,
                &[format!("HTTP/1.1 200 OK\r\n{CHUNKED}\r\n3\r\nabc\r\n").as_bytes(), b"0\r\n\r\n"],
            ),
            "harmless lost:0",
        )
        .but(
            "and unacknowledged",
            &answered(
                GET,
                &[format!("HTTP/1.1 200 OK\r\n{CHUNKED}\r\n3\r\nabc\r\n").as_bytes(), b"0\r\n\r\n"],
            )
            .at_server()
            .with_at(7, |p| p.ack -= 5),
            "harmful lost:5",
        )
        .but(
            "zipped and chunked",
            &of("Transfer-Encoding: gzip, Chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
            "harmless",
        )
        .but(
            "chunked, then zipped",
            &of("Transfer-Encoding: chunked, gzip\r\n", "3\r\nabc\r\n0\r\n\r\n"),
            "harmful",
        )
        .but(
            "both fields",
            &of(&format!("{CHUNKED}Content-Length: 900\r\n"), "3\r\nabc\r\n0\r\n\r\n"),
            "harmless",
        )
        .but("neither field", &of("", "0\r\n\r\n"), "harmful lost:0")
        .but(
            "neither field, and a FIN",
            &of("", "0\r\n\r\n").unseen().fin(Server).ack(Client).rst(Server),
            "harmless lost:0",
        )
        .but(
            "chunked, no last chunk, and a FIN",
            &of(CHUNKED, "3\r\nabc\r\n").unseen().fin(Server).ack(Client).rst(Server),
            "harmful",
        )
        .but(
            "a chunked request, no last chunk",
            &answered(
                format!("POST /a HTTP/1.1\r\n{CHUNKED}\r\n3\r\nabc\r\n").as_bytes(),
                &[&response(2, 2)],
            ),
            "harmful",
        )
        .but(
            "a chunked request, whole",
            &answered(
                format!("POST /a HTTP/1.1\r\n{CHUNKED}\r\n3\r\nabc\r\n0\r\n\r\n").as_bytes(),
                &[&response(2, 2)],
            ),
            "harmless",
        )
        .but(
            "another response after the last chunk",
            &answered(
                &[GET, GET].concat(),
                &[
                    format!("HTTP/1.1 200 OK\r\n{CHUNKED}\r\n3\r\nabc\r\n0\r\n\r\n").as_bytes(),
                    &response(9, 8),
                ],
            ),
            "lost:1",
        )
        .done();
}

#[test]
fn requests() {
    let early = "closed-with-unread-data likely";
    let of = |request: &[u8]| answered(request, &[&response(2, 2)]);
    rule("request length")
        .base(&of(&post(10, 10)), "unknown harmless")
        .but("a byte short", &of(&post(10, 9)), early)
        .but("no length", &of(b"POST /a HTTP/1.1\r\n\r\n"), "unknown harmless")
        .but("and then more", &of(b"POST /a HTTP/1.1\r\n\r\nbody"), "unknown harmful")
        .but(
            "no blank after the method",
            &of(b"POST/a HTTP/1.1\r\nContent-Length: 4\r\n\r\nbod"),
            "unknown harmful",
        )
        .done();
    for method in ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"] {
        let request = format!("{method} /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nbod");
        // A success would make another protocol of what follows CONNECT.
        let flow = answered(request.as_bytes(), &[b"HTTP/1.1 405 No\r\nContent-Length: 2\r\n\r\nab"]);
        assert_eq!(flow.findings()[0].cause.name(), "closed-with-unread-data", "{method}");
    }
}

#[test]
fn many_messages_in_one_segment() {
    let of = |count: usize, more: &[u8]| {
        answered(&[GET.repeat(count), more.to_vec()].concat(), &[&response(0, 0).repeat(count)])
    };
    let then = |last: usize| {
        let many = [&GET.repeat(33)[..], &response(0, 0).repeat(33)];
        let flow = flow().shake().data(Client, many[0]).ack(Server).data(Server, many[1]).ack(Client);
        flow.data(Client, GET).ack(Server).data(Server, &response(20, last)).ack(Client).rst(Server)
    };
    rule("many messages")
        .base(&of(31, b""), "unknown harmless")
        .but("one request more", &of(31, GET), "closed-with-unread-data likely")
        .but("33 messages", &of(33, b""), "unknown harmless")
        .but("33 messages and one request more", &of(33, GET), "closed-with-unread-data likely")
        .but("1,200 messages", &of(1_200, b""), "unknown harmless")
        .but("1,200 messages and one request more", &of(1_200, GET), "closed-with-unread-data likely")
        .but("33 messages, and one in segments of their own", &then(20), "unknown harmless lost:0")
        .but(
            "33 messages, and one in segments of their own, a byte short",
            &then(19),
            "unknown harmful lost:1",
        )
        .done();
}

#[test]
fn what_the_applications_said() {
    let silent = || flow().shake().data(Client, GET).ack(Server).rst(Server);
    rule("application")
        .base(&silent(), "unknown harmful")
        .but("the server said something", &answered(GET, &[b"x"]), "unknown harmful")
        .but(
            "no request that is known",
            &flow().shake().bytes(Client, 9).ack(Server).rst(Server),
            "unknown harmful",
        )
        .but(
            "SSH",
            &flow()
                .shake()
                .data(Server, b"SSH-2.0-x\r\n")
                .data(Client, b"SSH-2.0-y\r\n")
                .ack(Server)
                .rst(Server),
            "unknown harmful",
        )
        .but(
            "not quite SSH",
            &flow()
                .shake()
                .data(Server, b"SSHX2.0-x\r\n")
                .data(Client, b"SSH-2.0-y\r\n")
                .ack(Server)
                .rst(Server),
            "unknown harmful",
        )
        .but(
            "the request tells the client",
            &flow().ports(40_000, 50_000).shake().all_unseen().data(Client, GET).ack(Server).rst(Server),
            "unknown harmful",
        )
        .but(
            "an open end and a FIN",
            &answered(GET, &[b"HTTP/1.1 200 OK\r\n\r\nx"]).unseen().fin(Server).ack(Client).rst(Server),
            "harmless",
        )
        .done();
}

#[test]
fn bytes_that_are_missing_end_what_is_known() {
    let whole = || {
        flow()
            .shake()
            .data(Client, GET)
            .data(Server, &response(20, 10))
            .bytes(Server, 5)
            .bytes(Server, 4)
            .ack(Client)
    };
    rule("gap")
        .base(&whole().rst(Server), "harmful lost:1 unknown")
        .but(
            "a segment is not in the capture",
            &flow()
                .shake()
                .data(Client, GET)
                .data(Server, &response(20, 10))
                .bytes(Server, 5)
                .unseen()
                .bytes(Server, 4)
                .ack(Client)
                .rst(Server),
            "harmful lost:0",
        )
        .but("a segment again", &whole().again(Server).ack(Client).rst(Server), "harmful lost:1")
        .but(
            "a segment again, and more",
            &whole()
                .again(Server)
                .with(|p| p.payload.push(b'x'))
                .ack(Client)
                .with(|p| p.ack += 1)
                .rst(Server)
                .with(|p| p.seq += 1),
            "harmful lost:0",
        )
        .but("cut by the snap length", &whole().with_at(4, |p| p.snap = 80).rst(Server), "harmful lost:0")
        .but(
            "nothing of a response is captured",
            &flow()
                .shake()
                .data(Client, GET)
                .data(Server, &response(20, 20))
                .with(|p| p.snap = 52)
                .ack(Client)
                .rst(Server),
            "harmful lost:0",
        )
        .but(
            "a later one cut by the snap length",
            &whole().with_at(5, |p| p.snap = 53).rst(Server),
            "harmful lost:1",
        )
        .done();
}

/// A mail client sends these lines, and closes. The server's last reply finds the socket closed.
fn left(lines: &[&[u8]]) -> Flow {
    let greeted = flow()
        .ports(40_000, 25)
        .shake()
        .data(Server, b"220 mx.example ESMTP\r\n")
        .data(Client, b"EHLO a\r\n")
        .data(Server, b"250 mx.example\r\n");
    let said = lines.iter().fold(greeted, |flow, line| flow.data(Client, line));
    said.fin(Client).data(Server, b"250 2.0.0 OK.\r\n").bare(Client)
}

#[test]
fn nobody_has_to_read_the_answer_to_a_goodbye() {
    let other = |first: &[u8], last: &[u8]| {
        let flow = flow().ports(40_000, 25).shake().data(Client, first).ack(Server).data(Client, last);
        flow.fin(Client).data(Server, b"250 2.0.0 OK.\r\n").bare(Client)
    };
    let greeted = || flow().ports(40_000, 25).shake().data(Server, b"220 mx.example ESMTP\r\n");
    let first = |word: &[u8]| {
        greeted().data(Client, word).fin(Client).data(Server, b"250 2.0.0 OK.\r\n").bare(Client)
    };
    let left_with_a_gap = || {
        let said = greeted().data(Client, b"EHLO a\r\n").data(Server, b"250 mx.example\r\n");
        let said = said.data(Client, b"QUIT\r\n").bytes(Client, 20).unseen().data(Client, b"x");
        said.fin(Client).data(Server, b"250 2.0.0 OK.\r\n").bare(Client)
    };
    // The server acknowledges what came after its FIN, as one does that reads on after a half-close.
    let late = |words: &[&[u8]]| {
        let said = greeted().data(Client, b"EHLO a\r\n").data(Server, b"250 mx.example\r\n").fin(Server);
        words.iter().fold(said, |flow, word| flow.data(Client, word)).ack(Server).rst(Server)
    };
    rule("goodbye")
        .base(&left(&[b"QUIT\r\n"]), "client-gave-up likely passive-after-fin harmless lost:0")
        .but("another command", &left(&[b"NOOP\r\n"]), "client-gave-up likely harmful lost:15")
        .but("in small letters", &left(&[b"quit\r\n"]), "harmless")
        .but("a longer word", &left(&[b"XQUIT\r\n"]), "harmful")
        .but("no end of the line", &left(&[b"QUIT"]), "harmful")
        .but("the last of several lines", &left(&[b"RSET\r\nQUIT\r\n"]), "harmless")
        .but("the first of several lines", &left(&[b"QUIT\r\nNOOP\r\n"]), "harmful")
        .but("and another command after it", &left(&[b"QUIT\r\n", b"NOOP\r\n"]), "harmful")
        .but("which the server does not have", &left(&[b"QUIT\r\n"]).with_at(8, |p| p.ack -= 2), "harmful")
        .but("after a tag", &other(b"USER a\r\n", b"a2 LOGOUT\r\n"), "harmless")
        .but("without a tag", &other(b"USER a\r\n", b"LOGOUT\r\n"), "harmful")
        .but("in a protocol that is not known", &other(b"HELLO\r\n", b"QUIT\r\n"), "harmful")
        .but("as the first word to a server that greets", &first(b"QUIT\r\n"), "harmless")
        .but("another first word", &first(b"NOOP\r\n"), "harmful")
        .but("and bytes after it that are not in the capture", &left_with_a_gap(), "harmful")
        .but("after the server's FIN", &late(&[b"QUIT\r\n"]), "harmless")
        .but("behind a command after the server's FIN", &late(&[b"NOOP\r\n", b"QUIT\r\n"]), "harmful")
        .but("and in one segment with it", &late(&[b"NOOP\r\nQUIT\r\n"]), "harmful")
        .done();
}

#[test]
fn tls_may_begin_after_lines() {
    let record = |kind: u8, length: u8| [&[kind, 3, 3, 0, length][..], &vec![0; length.into()]].concat();
    let started = |last: &[u8]| {
        flow()
            .ports(40_000, 25)
            .shake()
            .data(Server, b"220 mx.example ESMTP\r\n")
            .data(Client, b"EHLO a\r\n")
            .data(Server, b"250 STARTTLS\r\n")
            .data(Client, b"STARTTLS\r\n")
            .data(Server, b"220 ready\r\n")
            .data(Client, &record(22, 40))
            .data(Server, &record(22, 60))
            .ack(Client)
            .fin(Server)
            .data(Client, last)
            .bare(Server)
    };
    rule("STARTTLS")
        .base(&started(&record(21, 2)), "data-after-close certain harmless")
        .but("no alert", &started(&record(23, 30)), "data-after-close certain harmful unread:35")
        .but("an alert and half a record", &started(&record(21, 2)[..6]), "harmful unread:6")
        .done();
}
