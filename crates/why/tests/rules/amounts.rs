//! Numbers of bytes, and the packets of a ladder.

use linger_why::Finding;

use crate::case::rule;
use crate::flow::{A, Client, Flow, Server, flow};
use crate::{GET, post, response};

#[test]
fn bytes_that_never_arrived() {
    let base = || {
        flow()
            .shake()
            .bytes(Client, 40)
            .ack(Server)
            .bytes(Server, 700)
            .ack(Client)
            .bytes(Server, 300)
            .rst(Server)
            .at_server()
    };
    rule("lost")
        .but(
            "at the client's place they have arrived",
            &base().with_all(|p| p.ttl = if p.from == Client { 64 } else { 52 }),
            "lost:0",
        )
        .but(
            "at a place between",
            &base().with_all(|p| p.ttl = if p.from == Client { 63 } else { 52 }),
            "lost:300",
        )
        .base(&base(), "unknown active lost:300")
        .but("a byte less acknowledged", &base().with_at(6, |p| p.ack -= 1), "lost:301")
        .but("all acknowledged", &base().unseen().ack(Client).rst(Server), "lost:0")
        .but("a FIN counts no byte", &base().unseen().fin(Server).rst(Server), "lost:300")
        .but(
            "none acknowledged",
            &flow().shake().bytes(Client, 40).ack(Server).bytes(Server, 700).rst(Server).at_server(),
            "lost:700",
        )
        .but(
            "the client has acknowledged nothing at all",
            &flow().syn().packet(Server, crate::flow::S | A, b"1234").rst(Server).at_server(),
            "lost:4",
        )
        .but(
            "and its SYN is not there",
            &flow()
                .syn()
                .packet(Server, crate::flow::S | A, b"1234")
                .rst(Server)
                .with_at(0, |p| p.destination.set_port(9)),
            "lost:? unread:?",
        )
        .but("the server is not there", &base().without(Server).and(flow().syn()), "none")
        .but("an acknowledgement of what was never sent", &base().with_at(6, |p| p.ack += 5_000), "lost:0")
        .done();
}

/// A router's session that ends by its own timer on a dead path: 44 s later the client acknowledged what is not counted here.
#[test]
fn bytes_that_may_have_arrived_are_not_lost() {
    let base = |copies: usize| {
        let sent = flow().shake().bytes(Client, 40).ack(Server).bytes(Server, 3);
        let sent = (0..copies).fold(sent, |sent, _| sent.wait(3_000).again(Server));
        sent.wait(3_000).rst(Server).at_server()
    };
    rule("may have arrived")
        .base(&base(2), "unknown lost:0")
        .but("sent twice", &base(1), "unknown lost:3")
        .but("sent four times, the path is taken to be gone", &base(3), "lost:3")
        .done();
}

#[test]
fn a_declared_length_counts_too() {
    let base = || {
        flow()
            .shake()
            .data(Client, GET)
            .ack(Server)
            .data(Server, &response(1_000, 700))
            .ack(Client)
            .rst(Server)
            .at_server()
    };
    rule("lost by declaration")
        .base(&base(), "lost:300")
        .but("a byte less acknowledged", &base().with_at(6, |p| p.ack -= 1), "lost:301")
        .but(
            "no declaration",
            &flow().shake().data(Client, GET).ack(Server).bytes(Server, 700).ack(Client).rst(Server),
            "lost:0",
        )
        .but(
            "a TLS record's is none",
            &flow()
                .shake()
                .data(Client, GET)
                .ack(Server)
                .data(Server, &crate::passive::record(23, 900)[..200])
                .ack(Client)
                .rst(Server),
            "lost:0",
        )
        .done();
}

#[test]
fn bytes_that_were_never_read() {
    let closed = || {
        flow().shake().data(Client, GET).data(Server, &response(20, 20)).ack(Client).fin(Server).ack(Client)
    };
    rule("unread")
        .base(&closed().bytes(Client, 100).bare(Server), "data-after-close unread:100")
        .but(
            "and a FIN",
            &closed().bytes(Client, 100).fin(Client).bare(Server),
            "data-after-close unread:100",
        )
        .but("twice", &closed().bytes(Client, 100).again(Client).bare(Server), "data-after-close unread:100")
        .but(
            "part of it again",
            &closed().bytes(Client, 100).bytes(Client, 60).with(|p| p.seq -= 50).bare(Server),
            "data-after-close unread:110",
        )
        .but(
            "after bytes that had not been acknowledged",
            &flow()
                .shake()
                .data(Client, GET)
                .data(Server, &response(20, 20))
                .bytes(Client, 7)
                .fin(Server)
                .with(|p| p.ack -= 7)
                .bytes(Client, 100)
                .bare(Server),
            "data-after-close unread:107",
        )
        .but(
            "some acknowledged all the same",
            &closed().bytes(Client, 100).ack(Server).bytes(Client, 5).bare(Server),
            "data-after-close unread:105",
        )
        .but(
            "of a client that gave up",
            &flow().shake().data(Client, GET).rst(Client),
            "client-gave-up unread:39",
        )
        .but(
            "of a client that gave up, acknowledged",
            &flow().shake().data(Client, GET).ack(Server).rst(Client),
            "client-gave-up unread:0",
        )
        .but(
            "a probe's byte",
            &closed().probe(Client).with(|p| p.payload = b"x".to_vec()).bare(Server),
            "unread:0",
        )
        .done();
}

#[test]
fn numbers_pass_zero() {
    let base = |client, server| {
        flow()
            .isns(client, server)
            .shake()
            .data(Client, &post(100, 60))
            .ack(Server)
            .data(Server, &response(1_000, 700))
            .ack(Client)
            .data(Server, &[b'r'; 100])
            .rst(Server)
            .at_server()
    };
    rule("numbers that wrap")
        .base(&base(1_000, 900_000), "closed-with-unread-data likely lost:300")
        .but("the client's", &base(u32::MAX - 5, 900_000), "closed-with-unread-data likely lost:300")
        .but("the server's", &base(1_000, u32::MAX - 5), "closed-with-unread-data likely lost:300")
        .but(
            "in the middle of a response",
            &base(1_000, u32::MAX - 300),
            "closed-with-unread-data likely lost:300",
        )
        .done();
}

fn ladder(flow: &Flow) -> Vec<String> {
    let finding: &Finding = &flow.findings()[0];
    let start = finding.ladder[0].time_ns;
    let rungs = finding.ladder.iter().map(|rung| {
        format!(
            "{} {:.1}ms {} {} seq {} ack {:?} len {} win {:?} {}",
            rung.frame,
            (rung.time_ns - start) as f64 / 1e6,
            if rung.by_resetter { "<" } else { ">" },
            rung.flags,
            rung.seq,
            rung.ack,
            rung.len,
            rung.window,
            rung.note.as_deref().unwrap_or(""),
        )
    });
    rungs.collect()
}

#[test]
fn a_ladder_shows_handshake_fins_the_last_packets_and_what_followed() {
    let base = (0..4)
        .fold(flow().shake().fin(Client).ack(Server), |flow, _| flow.bytes(Server, 9).ack(Client))
        .again(Server)
        .data(Client, GET)
        .bare(Server)
        .with(|p| p.comment = Some("look here".into()))
        .data(Server, b"x")
        .with(|p| p.ack += 39);
    assert_eq!(
        ladder(&base),
        [
            "1 0.0ms > SYN seq 0 ack None len 0 win None ",
            "2 1.0ms < SYN,ACK seq 0 ack None len 0 win None ",
            "4 3.0ms > FIN,ACK seq 1 ack None len 0 win None ",
            "8 7.0ms < PSH,ACK seq 10 ack Some(2) len 9 win Some(502) ",
            "9 8.0ms > ACK seq 2 ack Some(19) len 0 win Some(502) ",
            "10 9.0ms < PSH,ACK seq 19 ack Some(2) len 9 win Some(502) ",
            "11 10.0ms > ACK seq 2 ack Some(28) len 0 win Some(502) ",
            "12 11.0ms < PSH,ACK seq 28 ack Some(2) len 9 win Some(502) ",
            "13 12.0ms > ACK seq 2 ack Some(37) len 0 win Some(502) ",
            "14 13.0ms < PSH,ACK seq 28 ack Some(2) len 9 win Some(502) sent again",
            "15 14.0ms > PSH,ACK seq 2 ack Some(37) len 39 win Some(502) answered by the reset",
            "16 15.0ms < RST seq 37 ack None len 0 win Some(0) the reset; \"look here\"",
            "17 16.0ms < PSH,ACK seq 37 ack Some(80) len 1 win Some(502) not from a side that has reset",
        ]
    );
}

#[test]
fn a_ladder_repeats_nothing() {
    let short = flow().shake().fin(Server).rst(Client).with(|p| p.payload = b"why".to_vec());
    let shown = ladder(&short);
    assert_eq!(shown.len(), 5, "{shown:#?}");
    assert_eq!(shown[4], "5 4.0ms < RST,ACK seq 1 ack Some(2) len 3 win Some(502) the reset");
    // The eight latest packets, and of the others the three that matter.
    let long = (0..9)
        .fold(flow().syn().syn_ack().ack(Client).fin(Server), |flow, _| flow.bytes(Client, 1))
        .rst(Client);
    let frames: Vec<_> = long.findings()[0].ladder.iter().map(|rung| rung.frame).collect();
    assert_eq!(frames, [1, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    // The FIN is the oldest of the packets kept. It is listed once, not twice.
    let edge = (0..7)
        .fold(flow().syn().syn_ack().ack(Client).fin(Server), |flow, _| flow.bytes(Client, 1))
        .rst(Client);
    let frames: Vec<_> = edge.findings()[0].ladder.iter().map(|rung| rung.frame).collect();
    assert_eq!(frames, [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
}

#[test]
fn a_long_connection_shows_its_latest_packets() {
    // The count of packets takes one byte: just before it overflows, at it, and long after.
    for packets in [240, 250, 251, 252, 253, 254, 260, 1_000] {
        let flow = (0..packets).fold(flow().shake(), |flow, _| flow.bytes(Client, 1)).rst(Server);
        let findings = flow.findings();
        let frames: Vec<u64> = findings[0].ladder.iter().map(|rung| rung.frame).collect();
        let reset = packets + 4;
        let latest: Vec<u64> = (reset - 8..=reset).collect();
        assert!(frames.ends_with(&latest[1..]), "{packets}: {frames:?}");
        assert!(frames.is_sorted(), "{packets}: {frames:?}");
    }
}
