//! Resets that answer a packet of an open or closed connection.

use crate::case::rule;
use crate::flow::{A, Client, F, Flow, Server, flow};
use crate::opening::{accepted_at, ended, refused_at};
use crate::{GET, response};

/// A whole exchange, after which the server has closed.
fn closed() -> Flow {
    flow().shake().data(Client, GET).data(Server, &response(20, 20)).ack(Client).fin(Server).ack(Client)
}

/// The same exchange, and nobody has closed.
fn closed_not() -> Flow {
    flow().shake().data(Client, GET).data(Server, &response(20, 20)).ack(Client)
}

/// A TLS record of this type with so many bytes.
pub(crate) fn record(kind: u8, length: usize) -> Vec<u8> {
    [&[kind, 3, 3, (length >> 8) as u8, length as u8][..], &vec![0; length]].concat()
}

/// The same over TLS, with a client hello first.
fn tls_closed() -> Flow {
    flow()
        .ports(40_000, 443)
        .shake()
        .data(Client, &record(22, 30))
        .data(Server, &record(22, 40))
        .ack(Client)
        .fin(Server)
        .ack(Client)
}

#[test]
fn an_answer_comes_soon_and_to_the_first_packet() {
    let silent = |ms: u64| closed_not().wait(ms - 1).bare(Server);
    rule("an answer comes soon")
        .base(&silent(3_000), "half-open likely passive-after-data")
        .but("later than any path takes", &silent(3_001), "unknown possible active harmless")
        .but(
            "data and a FIN",
            &closed().data(Client, GET).fin(Client).bare(Server),
            "data-after-close certain",
        )
        .but(
            "the FIN came long after the data",
            &closed().data(Client, GET).wait(100).fin(Client).bare(Server),
            "data-after-close certain",
        )
        .done();
}

#[test]
fn data_after_the_servers_fin() {
    let base = || closed().data(Client, GET).bare(Server);
    let gap = || {
        flow()
            .shake()
            .data(Client, GET)
            .data(Server, &response(20, 20))
            .unseen()
            .fin(Server)
            .ack(Client)
            .data(Client, GET)
            .bare(Server)
    };
    let crossed = || {
        let open = || flow().shake().data(Client, GET).data(Server, &response(20, 20)).ack(Client);
        open()
            .data(Client, GET)
            .fin(Server)
            .with(|p| p.ack -= 39)
            .packet(Server, linger_packet::Flags::RST, b"")
            .with(|p| {
                (p.seq, p.window, p.timestamps) = (p.seq - 1, 0, false);
            })
    };
    rule("data after close")
        .base(&base(), "data-after-close certain passive-after-fin harmful unread:39 lost:0")
        .but(
            "no FIN before",
            &closed().unseen().unseen().data(Client, GET).bare(Server).with(|p| p.seq -= 1),
            "unknown possible passive-after-data",
        )
        .but("it answers no packet that is there", &base().with(|p| p.seq += 1), "data-after-close likely")
        .but("bytes of the server are missing", &gap(), "data-after-close likely")
        .but("the data crossed the FIN", &crossed(), "data-after-close certain unread:39")
        .but(
            "the client closed",
            &flow()
                .shake()
                .data(Client, GET)
                .fin(Client)
                .ack(Server)
                .data(Server, &response(20, 20))
                .bare(Client),
            "client-gave-up certain passive-after-fin",
        )
        .but(
            "the client closed, its SYN is not there",
            &flow()
                .shake()
                .all_unseen()
                .data(Client, GET)
                .fin(Client)
                .ack(Server)
                .data(Server, &response(20, 20))
                .bare(Client),
            "client-gave-up likely",
        )
        .but("the port refuses from then on", &base().and(refused_at(1_000)), "process-gone likely harmful")
        .but(
            "a FIN alone",
            &closed().fin(Client).bare(Server),
            "both-closed likely passive-after-fin harmless",
        )
        .done();
}

#[test]
fn a_close_notify_after_the_fin_is_a_farewell() {
    let base = || tls_closed().data(Client, &record(21, 2)).bare(Server);
    rule("farewell alert")
        .base(&base(), "data-after-close certain passive-after-fin harmless lost:0 unread:0")
        .but(
            "an encrypted alert's length",
            &tls_closed().data(Client, &record(23, 19)).bare(Server),
            "data-after-close certain harmless",
        )
        .but(
            "a byte more",
            &tls_closed().data(Client, &record(23, 20)).bare(Server),
            "data-after-close certain harmful unread:25",
        )
        .but(
            "HTTP/2's GOAWAY and an alert",
            &tls_closed().data(Client, &[record(23, 34), record(21, 2)].concat()).bare(Server),
            "data-after-close certain harmless",
        )
        .but(
            "a byte longer than GOAWAY, and an alert",
            &tls_closed().data(Client, &[record(23, 35), record(21, 2)].concat()).bare(Server),
            "data-after-close certain harmful unread:47",
        )
        .but(
            "GOAWAY's length, and no alert",
            &tls_closed().data(Client, &record(23, 34)).bare(Server),
            "data-after-close certain harmful unread:39",
        )
        .but(
            "an alert as CBC with SHA-384 makes it",
            &tls_closed().data(Client, &record(21, 80)).bare(Server),
            "data-after-close certain harmless unread:0",
        )
        .but(
            "half an alert",
            &tls_closed().data(Client, &record(21, 2)[..6]).bare(Server),
            "harmful unread:6",
        )
        .but("no TLS", &closed().data(Client, &record(21, 2)).bare(Server), "harmful unread:7")
        .but(
            "the alert came before the FIN, and nothing after it",
            &flow()
                .ports(40_000, 443)
                .shake()
                .data(Client, &record(22, 30))
                .data(Server, &record(22, 40))
                .data(Client, &record(21, 2))
                .fin(Server)
                .bare(Server),
            "unknown possible harmless",
        )
        .but(
            "the server's bytes had not arrived",
            &base().at_server().with_all(|p| {
                if p.from == Client && p.ack > 900_001 {
                    p.ack -= 9
                }
            }),
            "harmful lost:8",
        )
        .done();
}

#[test]
fn fin_wait_2_needs_its_minute() {
    let after = |ms| closed().wait(ms).fin(Client).bare(Server);
    rule("FIN-WAIT-2")
        .base(&after(60_000), "finwait2-expired likely passive-after-fin harmless")
        .but("59 seconds after the FIN", &after(58_997), "finwait2-expired likely")
        .but("a millisecond sooner", &after(58_996), "both-closed likely")
        .but("at once", &after(1), "both-closed likely passive-after-fin harmless lost:0 unread:0")
        .but(
            "the second FIN of another stack, one number on",
            &closed().fin(Client).ack(Server).fin(Client).bare(Server),
            "both-closed likely harmless lost:0 unread:0",
        )
        .but(
            "the second FIN of another stack",
            &closed().fin(Client).ack(Server).again(Client).bare(Server).with(|p| p.seq = 900_060),
            "both-closed likely harmless",
        )
        .but(
            "no FIN from the other side",
            &closed().wait(60_000).ack(Client).bare(Server),
            "unknown possible",
        )
        .but(
            "the port refuses from the server's FIN on",
            &after(2_000).and(refused_at(1_000)),
            "process-gone likely",
        )
        .done();
}

#[test]
fn a_reset_after_both_fins_by_form() {
    let base = || closed().wait(60_000).fin(Client).unseen().ack(Client).bare(Server);
    rule("after both FINs")
        .base(&base(), "unknown possible passive-after-fin")
        .but(
            "the FIN is there and the reset answers it",
            &closed().wait(60_000).fin(Client).bare(Server),
            "finwait2-expired likely",
        )
        .but(
            "the FIN is there, what it answers is not",
            &closed().wait(60_000).fin(Client).bare(Server).with(|p| p.seq += 5),
            "finwait2-expired likely",
        )
        .but(
            "the client's bytes were not acknowledged",
            &closed()
                .with_all(|p| {
                    if p.from == Server && p.ack > 1_001 {
                        p.ack -= 1
                    }
                })
                .wait(60_000)
                .fin(Client)
                .bare(Server),
            "data-after-close harmful unread:1",
        )
        .done();
}

#[test]
fn the_end_of_a_process_shows_in_refusals() {
    let at = |seconds: u64| {
        flow()
            .shake()
            .data(Client, GET)
            .data(Server, &response(20, 20))
            .ack(Client)
            .wait(seconds * 1_000)
            .data(Client, GET)
            .bare(Server)
    };
    // The reset of `at(0)` comes 7 ms after the beginning, that of `at(1)` at 1,007.
    rule("process gone")
        .base(&at(0).and(refused_at(500)), "process-gone likely passive-after-data harmful")
        .but("nobody is refused", &at(0), "unknown possible")
        .but("50 ms before the reset", &at(1).and(refused_at(957)), "process-gone likely")
        .but("51 ms before the reset", &at(1).and(refused_at(956)), "half-open likely")
        .but("accepted again before", &at(0).and(accepted_at(400)).and(refused_at(500)), "unknown possible")
        .but(
            "accepted again before, and after",
            &at(0)
                .and(accepted_at(400))
                .and(refused_at(500))
                .and(flow().ports(44_000, 80).wait(599).syn().syn_ack()),
            "unknown possible",
        )
        .but(
            "accepted again in the moment of the reset",
            &at(0).and(accepted_at(7)).and(refused_at(500)),
            "process-gone likely",
        )
        .but(
            "accepted again in the moment of the refusal",
            &at(0).and(accepted_at(500)).and(refused_at(500)),
            "process-gone likely",
        )
        .but("accepted after", &at(0).and(refused_at(500)).and(accepted_at(600)), "process-gone likely")
        .but("three others ended with it", &at(0).and(ended(3)).and(refused_at(500)), "process-gone likely")
        .but("two others ended with it", &at(0).and(ended(2)).and(refused_at(500)), "process-gone likely")
        .but(
            "the client resets",
            &flow()
                .shake()
                .data(Client, GET)
                .ack(Server)
                .bytes(Server, 5)
                .ack(Client)
                .bytes(Server, 5)
                .bare(Client)
                .and(refused_at(500)),
            "unknown possible",
        )
        .but(
            "another port refuses",
            &at(0).and(refused_at(500).with_all(|p| {
                if p.from == Server { p.source.set_port(81) } else { p.destination.set_port(81) }
            })),
            "unknown possible",
        )
        .done();
}

#[test]
fn a_refusal_ten_seconds_after_the_fin() {
    // The FIN comes 6 ms after the beginning.
    let base = |ms| closed().wait(5_000).data(Client, GET).bare(Server).and(refused_at(ms));
    rule("process gone within")
        .base(&base(10_006), "process-gone likely passive-after-fin")
        .but("a millisecond later", &base(10_007), "data-after-close certain")
        .done();
}

#[test]
fn a_side_without_memory() {
    let base = || {
        flow()
            .shake()
            .data(Client, GET)
            .data(Server, &response(20, 20))
            .ack(Client)
            .data(Client, GET)
            .bare(Server)
    };
    let by_client = || {
        flow()
            .shake()
            .data(Client, GET)
            .data(Server, &response(20, 20))
            .ack(Client)
            .bytes(Server, 9)
            .bare(Client)
    };
    rule("no memory")
        .base(&base(), "unknown possible passive-after-data harmful")
        .but(
            "a number that nobody has acknowledged",
            &base().with(|p| p.seq += 24),
            "unknown possible passive-after-data",
        )
        .but(
            "the SYN-ACK is not there",
            &base().with_at(1, |p| p.source.set_port(9)),
            "unknown possible passive-after-data",
        )
        .but(
            "bytes of the server are missing",
            &base().with_at(4, |p| p.seq += 1),
            "unknown possible passive-after-data",
        )
        .but("the client has no memory", &by_client(), "unknown possible passive-after-data")
        .but(
            "the client, its SYN not there",
            &by_client().with_at(0, |p| p.destination.set_port(9)),
            "unknown possible",
        )
        .but("the request tells the client", &base().all_but_ports(50_000, 50_001), "unknown possible")
        .done();
}

impl Flow {
    /// The same connection as if its handshake had not been captured, between these two ports.
    fn all_but_ports(self, client: u16, server: u16) -> Flow {
        self.with_at(0, |p| p.destination.set_port(9)).with_at(1, |p| p.source.set_port(9)).with_all(|p| {
            for end in [&mut p.source, &mut p.destination] {
                match end.port() {
                    40_000 => end.set_port(client),
                    80 => end.set_port(server),
                    _ => {}
                }
            }
        })
    }
}

#[test]
fn which_side_is_the_client() {
    let middle_with = |client, server, payload: &[u8]| {
        flow()
            .ports(client, server)
            .shake()
            .all_unseen()
            .data(Client, payload)
            .ack(Server)
            .fin(Client)
            .bytes(Server, 5)
            .bare(Client)
    };
    let middle = |client, server| middle_with(client, server, b"abcde");
    let shaken = |client, server| {
        flow()
            .ports(client, server)
            .shake()
            .bytes(Client, 5)
            .ack(Server)
            .fin(Client)
            .bytes(Server, 5)
            .bare(Client)
    };
    rule("client by port")
        .base(&middle(40_000, 80), "client-gave-up likely")
        .but("the lowest port of clients", &middle(32_768, 32_767), "client-gave-up likely")
        .but("both below", &middle(32_766, 32_767), "data-after-close certain")
        .but("both above", &middle(32_768, 32_769), "data-after-close certain")
        .but("the other way round", &middle(32_767, 32_768), "data-after-close certain")
        .but("a known service beside a low port", &middle(1_025, 8_080), "client-gave-up likely")
        .but("a known service and one of its clients", &middle(35_000, 27_017), "client-gave-up likely")
        .but("a privileged port before a known service", &middle(8_080, 443), "client-gave-up likely")
        .but("a request", &middle_with(50_000, 50_001, GET), "client-gave-up likely")
        .but(
            "a request, and ports that say otherwise",
            &middle_with(80, 50_001, GET),
            "client-gave-up likely",
        )
        .but("an answer", &middle_with(50_000, 50_001, b"HTTP/1.1 200 OK\r\n"), "data-after-close certain")
        .but("the handshake knows better", &shaken(80, 40_000), "client-gave-up likely")
        .but(
            "a SYN-ACK alone knows better",
            &shaken(80, 40_000).with_at(0, |p| p.destination.set_port(9)),
            "client-gave-up likely",
        )
        .done();
}

#[test]
fn a_packet_is_described() {
    let fin = |payload: &[u8]| {
        flow().shake().data(Client, GET).data(Server, b"x").packet(Client, F | A, payload).bare(Server)
    };
    rule("what it answers")
        .base(&fin(b""), "unknown")
        .but("data with it", &fin(b"12345"), "unknown")
        .but("data alone", &fin(b"12345").with_at(5, |p| p.flags = A), "unknown")
        .but("an acknowledgement", &fin(b"").with_at(5, |p| p.flags = A), "unknown")
        .done();
    let many = |count: usize| {
        (0..count)
            .fold(closed(), |flow, _| flow.just(1).bytes(Client, 3))
            .just(1)
            .fin(Client)
            .just(100)
            .bare(Server)
    };
    rule("which it answers")
        .base(&many(7), "data-after-close certain")
        .but("more than are kept", &many(8), "data-after-close certain")
        .but(
            "data 999 us before a FIN",
            &closed().bytes(Client, 3).just(999).fin(Client).just(1).bare(Server),
            "data-after-close certain",
        )
        .but(
            "data 1.001 ms before it",
            &closed().bytes(Client, 3).just(1_001).fin(Client).just(1).bare(Server),
            "data-after-close certain",
        )
        .done();
}

#[test]
fn who_was_there_a_moment_ago_has_not_forgotten() {
    // The server's last packet comes 2 ms before what `wait` adds.
    let silent = |ms: u64| closed_not().wait(ms - 2).bare(Server);
    rule("forgotten")
        .base(&silent(100), "half-open likely passive-after-data")
        .but("a millisecond sooner", &silent(99), "unknown possible passive-after-data harmless")
        .done();
}
