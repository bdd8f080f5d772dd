//! Connections that stand still, and ICMP errors.

use crate::GET;
use crate::case::rule;
use crate::flow::{A, Client, Flow, Server, flow};

/// The last payload of the server again after 200, 400, 800 and 1,600 ms.
fn again(flow: Flow, times: usize) -> Flow {
    [200, 400, 800, 1_600].iter().take(times).fold(flow, |flow, &ms| flow.wait(ms - 1).again(Server))
}

/// The server's first segment is lost and sent again and again; `after` is what comes between.
fn lost(first: usize, after: impl FnOnce(Flow) -> Flow) -> Flow {
    let asked = flow().shake().data(Client, GET).ack(Server);
    let flow = after(asked.bytes(Server, first));
    let at = flow.last_of(Client).ack;
    let copy = flow.wait(199).packet(Server, A, b"").with(|p| (p.seq, p.payload) = (at, vec![b'x'; first]));
    [400, 800, 1_600].iter().fold(copy, |flow, &ms| flow.wait(ms - 1).again(Server))
}

#[test]
fn full_segments_are_lost_and_short_ones_pass() {
    let beside = |next: usize, blocks: &[(u32, u32)]| {
        let (blocks, all) = (blocks.to_vec(), 1_448 + next as u32);
        move |flow: Flow| flow.bytes(Server, next).ack(Client).sacks(all, &blocks)
    };
    let short = || beside(700, &[(1_448, 2_148)]);
    rule("black hole")
        .base(&lost(1_448, short()), "black-hole likely stalled harmful lost:1448")
        .but(
            "no answer",
            &lost(1_448, |flow| flow.bytes(Server, 700)),
            "retransmission-timeout likely lost:2148",
        )
        .but("an answer that does not say to what", &lost(1_448, beside(700, &[])), "retransmission-timeout")
        .but("what came twice", &lost(1_448, beside(700, &[(u32::MAX - 9, 0)])), "retransmission-timeout")
        .but("as long a one passes", &lost(1_448, beside(1_448, &[(1_448, 2_896)])), "retransmission-timeout")
        .but(
            "a byte less passes",
            &lost(1_448, beside(1_447, &[(1_448, 2_895)])),
            "black-hole likely lost:1448",
        )
        .but(
            "a short segment",
            &lost(999, |flow| flow.bytes(Server, 700).ack(Client).sacks(1_699, &[(999, 1_699)])),
            "retransmission-timeout likely lost:999",
        )
        .but("acknowledged at last", &lost(1_448, short()).ack(Client), "none")
        .but(
            "a reset at last",
            &lost(1_448, short()).rst(Server),
            "retransmission-timeout after-retransmissions",
        )
        .done();
}

#[test]
fn data_that_nobody_acknowledges() {
    let asked = || flow().shake().data(Client, GET).ack(Server);
    let of = |bytes: usize| again(asked().bytes(Server, bytes), 4);
    rule("data without an answer")
        .base(&of(1_448), "retransmission-timeout likely stalled harmful lost:1448")
        .but(
            "longer than one that passed before",
            &again(asked().bytes(Server, 600).ack(Client).bytes(Server, 1_448), 4),
            "retransmission-timeout likely lost:1448",
        )
        .but("acknowledged at last", &of(1_448).ack(Client), "none")
        .but("twice", &again(asked().bytes(Server, 1_448), 2).wait(3_000).ack(Server), "none")
        .but("within two seconds", &again(asked().bytes(Server, 1_448), 3), "none")
        .but(
            "within two seconds, of an older connection",
            &again(asked().wait(5_000).bytes(Server, 1_448), 3),
            "none",
        )
        .but("a router says so", &of(1_448).icmp(Server, 3, 4, 1_400), "black-hole likely stalled")
        .but("a router says another thing", &of(600).icmp(Server, 3, 1, 0), "unreachable likely stalled")
        .done();
}

#[test]
fn a_farewell_that_nobody_acknowledges() {
    let session =
        || flow().shake().data(Server, b"220 mx\r\n").ack(Client).data(Client, b"QUIT\r\n").ack(Server);
    let left = |flow: Flow, words: &[u8]| again(flow.data(Server, words), 4);
    let bye = b"221 2.0.0 Bye\r\n";
    rule("farewell without an answer")
        .base(
            &left(session().fin(Client), bye),
            "retransmission-timeout likely stalled harmless lost:0 unread:0",
        )
        .but("the client has not closed, and said QUIT", &left(session(), bye), "harmless")
        .but(
            "it has not, and asked something",
            &left(session().data(Client, b"NOOP\r\n").ack(Server), bye),
            "retransmission-timeout likely stalled harmful lost:15",
        )
        .but(
            "in one segment with another reply",
            &left(session().fin(Client), b"250 2.0.0 Queued\r\n221 2.0.0 Bye\r\n"),
            "harmful lost:33",
        )
        .but("another reply", &left(session().fin(Client), b"451 2.0.0 No\r\n"), "harmful lost:14")
        .but(
            "a word of the client has not arrived",
            &left(session().data(Client, b"x\r\n").fin(Client), bye).with_all(|packet| {
                if packet.from == Server {
                    packet.ack = packet.ack.min(1_007)
                }
            }),
            "harmful",
        )
        .done();
}

#[test]
fn a_window_that_stays_closed() {
    let full = || flow().shake().data(Client, GET).bytes(Server, 1_000).window(Client, 0).ack(Client);
    let probed = |flow: Flow, times: usize| {
        [1_000, 2_000, 4_000, 8_000]
            .iter()
            .take(times)
            .fold(flow, |flow, &ms| flow.wait(ms).probe(Server).ack(Client))
    };
    rule("window stuck")
        .base(&probed(full(), 4), "window-stuck likely stalled harmful")
        .but("opened at last", &probed(full(), 4).window(Client, 500).ack(Client), "none")
        .but("two probes", &probed(full(), 2).wait(9_000).ack(Client), "none")
        .but("within ten seconds", &probed(full(), 3), "none")
        .but(
            "a window that is small",
            &probed(full(), 4).with_all(|packet| packet.window = packet.window.max(1)),
            "none",
        )
        .but("the client has closed", &probed(full(), 4).fin(Client), "none")
        .done();
}

#[test]
fn a_syn_that_a_router_answers() {
    rule("unreachable")
        .base(&flow().syn().icmp(Client, 3, 1, 0), "unreachable likely unanswered harmful lost:0 unread:0")
        .but("forbidden", &flow().syn().icmp(Client, 3, 13, 0), "unreachable likely unanswered")
        .but("an echo", &flow().syn().icmp(Client, 8, 0, 0), "none")
        .but(
            "about another port",
            &flow().syn().icmp(Client, 3, 1, 0).with(|packet| packet.source.set_port(9)),
            "none",
        )
        .but("a SYN-ACK all the same", &flow().syn().icmp(Client, 3, 1, 0).syn_ack(), "none")
        .but("no error", &flow().syn(), "none")
        .done();
}
