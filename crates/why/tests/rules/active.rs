//! Resets of the server that no packet asked for.

use crate::case::rule;
use crate::flow::{A, Client, Flow, S, Server, Who, flow};
use crate::opening::refused_at;
use crate::prints::{LINUX, MACOS, exchange};
use crate::{GET, post, response};

#[test]
fn nothing_can_have_been_unread() {
    let base = || flow().shake().bytes(Server, 50).ack(Client).rst(Server);
    rule("no byte of the client")
        .base(&base(), "aborted likely active harmful")
        .but(
            "one byte of the client",
            &flow().shake().bytes(Server, 50).bytes(Client, 1).ack(Server).rst(Server),
            "unknown possible active",
        )
        .but("the server had sent none either", &flow().shake().rst(Server), "aborted likely active harmless")
        .but(
            "the SYN is not there",
            &base().with_at(0, |p| p.destination.set_port(9)),
            "unknown possible active",
        )
        .but(
            "the SYN-ACK is not there",
            &base().with_at(1, |p| p.source.set_port(9)),
            "unknown possible active",
        )
        .but("the port refuses from then on", &base().and(refused_at(500)), "process-gone likely")
        .done();
}

#[test]
fn bytes_after_the_servers_half_close() {
    let closed = || flow().shake().data(Client, GET).data(Server, &response(20, 20)).fin(Server).ack(Client);
    let base = || closed().bytes(Client, 40).rst(Server);
    rule("unread after a half-close")
        .base(&base(), "closed-with-unread-data likely active-after-fin harmful unread:?")
        .but("no byte", &closed().rst(Server), "unknown possible active-after-fin harmless")
        .but(
            "in the form of Windows: nobody had the socket open",
            &base().with(|p| (p.window, p.timestamps) = (0, false)),
            "data-after-close likely active-after-fin harmful unread:40",
        )
        .but(
            "in that form, acknowledged before",
            &closed()
                .bytes(Client, 40)
                .ack(Server)
                .rst(Server)
                .with(|p| (p.window, p.timestamps) = (0, false)),
            "closed-with-unread-data likely active-after-fin harmful unread:?",
        )
        .but(
            "not all of them acknowledged",
            &base().with(|p| p.ack -= 1),
            "unknown possible active-after-fin",
        )
        .but(
            "before the FIN",
            &flow()
                .shake()
                .data(Client, GET)
                .bytes(Client, 40)
                .data(Server, &response(20, 20))
                .fin(Server)
                .ack(Client)
                .rst(Server),
            "unknown possible active-after-fin",
        )
        .but(
            "no FIN",
            &flow().shake().data(Client, GET).data(Server, &response(20, 20)).bytes(Client, 40).rst(Server),
            "unknown possible active",
        )
        .done();
}

#[test]
fn a_request_that_the_response_overtook() {
    let of = |request: &[u8], response: &[u8]| {
        flow().shake().data(Client, request).ack(Server).data(Server, response).ack(Client).rst(Server)
    };
    let base = || of(&post(100, 60), &response(5, 5));
    rule("early response")
        .base(&base(), "closed-with-unread-data likely active harmful")
        .but("all but one byte", &of(&post(100, 99), &response(5, 5)), "closed-with-unread-data likely")
        .but("the whole request", &of(&post(100, 100), &response(5, 5)), "unknown possible active harmless")
        .but(
            "no response",
            &flow().shake().data(Client, &post(100, 60)).ack(Server).rst(Server),
            "unknown possible harmful",
        )
        .but("no response that is HTTP", &of(&post(100, 60), b"whatever"), "unknown possible harmful")
        .but("no request that is HTTP", &of(b"whatever", &response(5, 5)), "unknown possible")
        .but(
            "a response head that is not whole",
            &of(&post(100, 60), b"HTTP/1.1 200 OK\r\n"),
            "unknown possible harmful",
        )
        .but("the port refuses from then on", &base().and(refused_at(500)), "process-gone likely")
        .done();
}

#[test]
fn requests_without_a_response() {
    let two = [GET, GET].concat();
    let of = |request: &[u8], response: &[u8]| {
        flow().shake().data(Client, request).ack(Server).data(Server, response).ack(Client).rst(Server)
    };
    let base = || of(&two, &response(5, 5));
    let gap = || {
        flow()
            .shake()
            .data(Client, &two)
            .ack(Server)
            .data(Server, &response(5, 5))
            .ack(Client)
            .bytes(Client, 5)
            .unseen()
            .bytes(Client, 5)
            .ack(Server)
            .rst(Server)
    };
    rule("pipelined request")
        .base(&base(), "closed-with-unread-data likely active harmful")
        .but("one request", &of(GET, &response(5, 5)), "unknown possible active harmless")
        .but(
            "two responses",
            &of(&two, &[response(5, 5), response(5, 5)].concat()),
            "unknown possible active harmless",
        )
        .but("the second had not arrived", &base().with(|p| p.ack -= 39), "unknown possible active harmful")
        .but("bytes of the client are missing", &gap(), "unknown possible active")
        .but(
            "three requests",
            &of(&[GET, GET, GET].concat(), &response(5, 5)),
            "closed-with-unread-data likely",
        )
        .done();
}

#[test]
fn syn_acks_that_nobody_answered() {
    let times = |count: usize| {
        (1..count).fold(flow().syn().syn_ack(), |flow, _| flow.wait(2_999).again(Server)).wait(2_999)
    };
    rule("unanswered SYN-ACKs")
        .base(&times(3).rst(Server), "retransmission-timeout likely active harmful")
        .but("two", &times(2).rst(Server), "aborted likely")
        .but("answered at last", &times(3).ack(Client).rst(Server), "aborted likely")
        .done();
}

#[test]
fn the_response_was_whole() {
    let of = |response: &[u8]| flow().shake().data(Client, GET).data(Server, response).ack(Client);
    let base = || of(&response(20, 20)).rst(Server);
    let until_close = b"HTTP/1.0 200 OK\r\n\r\nbody";
    rule("whole exchange")
        .base(&base(), "unknown possible active harmless lost:0")
        .but(
            "a byte is missing",
            &of(&response(20, 19)).rst(Server),
            "unknown possible active harmful lost:1",
        )
        .but(
            "the last byte was not acknowledged",
            &of(&response(20, 20)).with(|p| p.ack -= 1).rst(Server).at_server(),
            "harmful lost:1",
        )
        .but(
            "no request",
            &flow().shake().data(Server, &response(20, 20)).ack(Client).rst(Server),
            "aborted likely harmful",
        )
        .but(
            "no protocol that is known",
            &flow().shake().bytes(Client, 9).bytes(Server, 20).ack(Client).rst(Server),
            "unknown harmful",
        )
        .but("an end that only a FIN tells", &of(until_close).rst(Server), "unknown harmful")
        .but(
            "and the FIN",
            &of(until_close).fin(Server).ack(Client).rst(Server),
            "unknown active-after-fin harmless",
        )
        .but(
            "and the FIN, a byte before it unacknowledged",
            &of(until_close)
                .fin(Server)
                .ack(Client)
                .with(|p| p.ack -= 2)
                .with_at(5, |p| p.ack -= 1)
                .rst(Server),
            "unknown harmful",
        )
        .but(
            "the SYN is not there",
            &base().with_at(0, |p| p.destination.set_port(9)),
            "unknown possible harmless",
        )
        .but(
            "the request tells the client",
            &flow()
                .ports(40_000, 50_000)
                .shake()
                .all_unseen()
                .data(Client, GET)
                .data(Server, &response(20, 20))
                .ack(Client)
                .rst(Server),
            "unknown harmless lost:0 unread:0",
        )
        .done();
}

#[test]
fn the_client_had_ended_after_the_last_word() {
    let of = |options: &[u8]| {
        let opened = flow().syn().syn_ack().with(|p| p.options = Some(options.to_vec())).ack(Client);
        opened.bytes(Client, 30).bytes(Server, 20).ack(Client)
    };
    let ended = |flow: Flow| flow.fin(Client).ack(Server).rst(Server);
    rule("ended after the last word")
        .base(&ended(of(&LINUX)), "unknown possible active harmless")
        .but("no window", &ended(of(&LINUX)).with(|p| p.window = 0), "aborted likely active harmless")
        .but("macOS", &ended(of(&MACOS)), "aborted likely active harmless")
        .but("Linux, and every request has its response", &ended(exchange(&LINUX)), "aborted likely harmless")
        .but("the client spoke last", &ended(of(&LINUX).bytes(Client, 9)), "unknown possible active harmful")
        .but("macOS, and the client had not ended", &of(&MACOS).ack(Server).rst(Server), "unknown possible")
        .done();
}

#[test]
fn a_window_that_grows_after_the_servers_fin() {
    let served = |options: &[u8]| {
        let opened = flow().syn().syn_ack().with(|p| p.options = Some(options.to_vec())).ack(Client);
        opened.bytes(Client, 9_000).window(Server, 349).ack(Server).bytes(Server, 20).ack(Client)
    };
    let closed = |options: &[u8]| served(options).fin(Server).rst(Server);
    // One unit is 128 bytes.
    let to = |flow: Flow, window: u16| flow.with(|p| p.window = window);
    rule("window after the FIN")
        .base(&to(closed(&LINUX), 353), "closed-with-unread-data likely active-after-fin")
        .but("less than 512 bytes", &to(closed(&LINUX), 352), "unknown possible active-after-fin")
        .but("macOS", &to(closed(&MACOS), 353), "unknown possible active-after-fin")
        .but("no FIN", &to(served(&LINUX).rst(Server), 353), "unknown possible active")
        .but("another acknowledgement", &to(closed(&LINUX), 353).with(|p| p.ack -= 1), "unknown possible")
        .done();
}

#[test]
fn a_handshake_of_two_syns() {
    // The server answers the SYN with a SYN of its own, and the client that one with a SYN-ACK.
    let shaken = |first: Who| {
        let second = first.other();
        let flow = flow().packet(first, S, b"").packet(second, S, b"").packet(Client, S | A, b"");
        flow.with(|p| p.seq = 1_000).isns(1_001, 900_001).ack(Server)
    };
    let answered =
        |flow: Flow| flow.data(Client, GET).ack(Server).data(Server, &response(20, 20)).ack(Client);
    let spoken = |flow: Flow| flow.bytes(Client, 30).bytes(Server, 20).ack(Client);
    rule("two SYNs")
        .base(&answered(shaken(Client)).rst(Server), "unknown possible active harmless lost:0")
        .but("a SYN-ACK", &answered(flow().shake()).rst(Server), "unknown possible active harmless lost:0")
        .but("the client resets", &answered(shaken(Client)).rst(Client), "aborted likely active harmless")
        .but(
            "no protocol that is known",
            &spoken(shaken(Client)).rst(Server),
            "unknown possible active harmful",
        )
        .but(
            "and the other side asked first",
            &spoken(shaken(Server)).rst(Server),
            "client-gave-up likely harmful",
        )
        .done();
}

#[test]
fn who_loses_nothing() {
    let idle = || flow().shake().bytes(Client, 30).bytes(Server, 20).ack(Client);
    rule("harmless")
        .base(&flow().shake().rst(Server), "harmless active")
        .but("one byte of the server", &flow().shake().bytes(Server, 1).ack(Client).rst(Server), "harmful")
        .but("one byte of the client", &flow().shake().bytes(Client, 1).ack(Server).rst(Server), "harmful")
        .but(
            "the client had closed, all had arrived",
            &idle().fin(Client).ack(Server).rst(Server),
            "aborted likely harmless",
        )
        .but("the client had not closed", &idle().ack(Server).rst(Server), "harmful unknown")
        .but(
            "the client had closed, a byte of it unacknowledged",
            &flow()
                .shake()
                .bytes(Client, 30)
                .bytes(Server, 20)
                .with(|p| p.ack -= 1)
                .ack(Client)
                .fin(Client)
                .rst(Server)
                .with(|p| p.ack -= 2),
            "harmful lost:0",
        )
        .but(
            "the client had closed, the reset alone acknowledges it",
            &flow().shake().bytes(Client, 30).bytes(Server, 20).ack(Client).fin(Client).rst(Server),
            "harmless",
        )
        .but(
            "the client had closed, a byte of the server unacknowledged",
            &flow()
                .shake()
                .bytes(Client, 30)
                .bytes(Server, 20)
                .fin(Client)
                .with(|p| p.ack -= 1)
                .ack(Server)
                .rst(Server),
            "harmful",
        )
        .but("the process ended", &flow().shake().rst(Server).and(refused_at(500)), "harmful process-gone")
        .but(
            "after probes",
            &flow().shake().probe(Server).probe(Server).rst(Server),
            "harmful keepalive-timeout",
        )
        .but(
            "after retransmissions",
            &(0..3).fold(idle().fin(Client).ack(Server), |flow, _| flow.again(Server)).rst(Server),
            "harmful retransmission-timeout",
        )
        .done();
}

#[test]
fn after_its_own_fin_an_answer_is_a_farewell_if_all_arrived() {
    let closed = |flow: Flow| flow.fin(Server).ack(Client);
    let idle = || flow().shake().bytes(Client, 30).bytes(Server, 20).ack(Client);
    rule("farewell")
        .base(&closed(idle()).fin(Client).bare(Server), "harmless passive-after-fin")
        .but(
            "a byte after the FIN",
            &closed(idle()).bytes(Client, 1).bare(Server),
            "harmful passive-after-fin",
        )
        .but(
            "a byte of the client unacknowledged",
            &closed(flow().shake().bytes(Client, 30).bytes(Server, 20).with(|p| p.ack -= 1))
                .with_at(5, |p| p.ack -= 1)
                .fin(Client)
                .bare(Server),
            "harmful",
        )
        .but(
            "the FIN unacknowledged",
            &idle().fin(Server).fin(Client).with(|p| p.ack -= 1).bare(Server),
            "harmless passive-after-fin",
        )
        .but(
            "a byte of the server unacknowledged",
            &idle().with(|p| p.ack -= 1).fin(Server).fin(Client).with(|p| p.ack -= 2).bare(Server),
            "harmful",
        )
        .done();
}
