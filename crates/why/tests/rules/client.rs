//! Resets of the client that no packet asked for.

use crate::case::rule;
use crate::flow::{Client, Flow, Server, flow};
use crate::opening::refused_at;
use crate::passive::record;
use crate::{GET, response};

fn asked() -> Flow {
    flow().shake().data(Client, GET).ack(Server)
}

#[test]
fn a_health_check() {
    let base = || flow().shake().rst(Client);
    rule("health check")
        .base(&base(), "aborted likely active harmless")
        .but(
            "a byte of the client",
            &flow().shake().bytes(Client, 1).rst(Client),
            "client-gave-up likely harmful",
        )
        .but("a byte of the server", &flow().shake().bytes(Server, 1).rst(Client), "aborted likely harmless")
        .but(
            "a byte of the server that it has not acknowledged",
            &flow().shake().bytes(Server, 1).rst(Client).with(|p| p.ack -= 1),
            "client-gave-up likely harmful lost:1",
        )
        .but(
            "the SYN-ACK is not there",
            &flow().shake().ack(Server).rst(Client).with_at(1, |p| p.source.set_port(9)),
            "client-gave-up likely harmful",
        )
        .but("the port refuses from then on", &base().and(refused_at(500)), "aborted likely")
        .done();
}

#[test]
fn the_client_had_the_whole_response() {
    let of = |sent| asked().data(Server, &response(20, sent)).ack(Client).rst(Client);
    rule("client had it all")
        .base(&of(20), "aborted likely active harmless lost:0")
        .but("a byte is missing", &of(19), "client-gave-up likely harmful lost:1")
        .but(
            "the reset does not acknowledge the last byte",
            &asked().data(Server, &response(20, 20)).rst(Client).with(|p| p.ack -= 1),
            "client-gave-up likely harmful lost:1",
        )
        .but(
            "the reset alone acknowledges it",
            &asked().data(Server, &response(20, 20)).rst(Client),
            "aborted likely harmless lost:0",
        )
        .but(
            "a request of two",
            &flow()
                .shake()
                .data(Client, &[GET, GET].concat())
                .data(Server, &response(20, 20))
                .ack(Client)
                .rst(Client),
            "client-gave-up likely",
        )
        .done();
}

#[test]
fn the_server_had_closed_before() {
    let of = |flow: Flow| flow.bytes(Server, 700).fin(Server).ack(Client).rst(Client);
    rule("client after the server's FIN")
        .base(&of(asked()), "unknown possible active harmless")
        .but("no FIN", &asked().bytes(Server, 700).ack(Client).rst(Client), "client-gave-up likely")
        .but(
            "a byte unacknowledged",
            &asked().bytes(Server, 700).fin(Server).rst(Client).with(|p| p.ack -= 2),
            "client-gave-up likely harmful lost:1",
        )
        .but("the FIN alone unacknowledged", &of(asked()).with(|p| p.ack -= 1), "unknown possible")
        .done();
}

#[test]
fn bytes_on_their_way_to_the_client() {
    let base = || asked().bytes(Server, 700).ack(Client).bytes(Server, 300).rst(Client);
    let holes = |blocks: &[(u32, u32)]| {
        let flow = asked().bytes(Server, 700).ack(Client).bytes(Server, 300).ack(Client).sacks(300, blocks);
        flow.rst(Client).with(|p| p.ack -= 300)
    };
    rule("on the way")
        .base(&base().with(|p| p.ack -= 300), "client-gave-up likely active harmful lost:300")
        .but("the reset itself acknowledges them", &base(), "client-gave-up likely harmful lost:0")
        .but(
            "the reset acknowledges all but one",
            &base().with(|p| p.ack -= 1),
            "client-gave-up likely lost:1",
        )
        .but("the server had not begun", &asked().rst(Client), "client-gave-up likely harmful lost:0")
        .but("the last of them acknowledged selectively", &holes(&[(100, 300)]), "lost:100")
        .but("bytes that came twice", &holes(&[(150, 200), (100, 300)]), "lost:100")
        .but("two blocks", &holes(&[(250, 300), (100, 200)]), "lost:150")
        .but(
            "three blocks: others may have been left out",
            &holes(&[(250, 290), (100, 200), (50, 60)]),
            "lost:11",
        )
        .but("a block beyond what is plausible", &holes(&[(1 << 30, (1 << 30) + 5)]), "lost:300")
        .done();
}

#[test]
fn data_that_arrives_after_the_reset() {
    // The capture holds a reset of the client and then a packet of the server's that was on its way.
    let of = |late: fn(Flow) -> Flow| {
        late(flow().ports(40_000, 9_999).shake().bytes(Client, 20).bytes(Server, 700).ack(Client).rst(Client))
    };
    let alert = |flow: Flow| flow.data(Server, &record(21, 2));
    let in_tls = |late: fn(Flow) -> Flow| {
        late(
            flow()
                .ports(40_000, 443)
                .shake()
                .data(Client, &record(22, 20))
                .data(Server, &record(23, 700))
                .ack(Client),
        )
    };
    rule("arrives after the reset")
        .base(&of(|flow| flow.bytes(Server, 300)), "client-gave-up likely active harmful lost:300")
        .but("nothing arrives", &of(|flow| flow), "aborted likely harmless lost:0")
        .but("one byte", &of(|flow| flow.bytes(Server, 1)), "client-gave-up likely harmful lost:1")
        .but("two packets", &of(|flow| flow.bytes(Server, 300).bytes(Server, 5)), "harmful lost:305")
        .but("the same bytes again", &of(|flow| flow.again(Server)), "aborted likely harmless lost:0")
        .but(
            "the reset acknowledges them: they were captured out of order",
            &of(|flow| flow.with(|p| p.ack += 300).bytes(Server, 300)),
            "aborted likely harmless lost:0",
        )
        .but(
            "the reset acknowledges all but one of them",
            &of(|flow| flow.with(|p| p.ack += 299).bytes(Server, 300)),
            "client-gave-up likely harmful lost:1",
        )
        .but("a FIN alone", &of(|flow| flow.fin(Server)), "aborted likely harmless")
        .but("TLS: a farewell", &alert(in_tls(|flow| flow.rst(Client))), "aborted likely harmless lost:0")
        .but(
            "TLS: a farewell, and a record after it",
            &alert(in_tls(|flow| flow.rst(Client))).data(Server, &record(23, 50)),
            "client-gave-up likely harmful lost:62",
        )
        .but(
            "TLS: the server resets behind a record, and the client's farewell arrives",
            &in_tls(|flow| flow.data(Server, &record(23, 50)).rst(Server))
                .data(Client, &record(21, 18))
                .with(|p| p.ack -= 55),
            "unknown possible active harmful",
        )
        .but(
            "TLS: a record",
            &in_tls(|flow| flow.rst(Client)).data(Server, &record(23, 50)),
            "client-gave-up likely harmful lost:55",
        )
        .done();
}

#[test]
fn what_comes_after_the_clients_own_fin() {
    // Windows answers what reaches a closed socket with an RST+ACK that acknowledges it. Linux sends a bare reset, and one of its
    // own accord has a window.
    let windows = |flow: Flow| flow.rst(Client).with(|p| (p.window, p.timestamps) = (0, false));
    let begun = || {
        let hello = flow().ports(40_000, 443).shake().data(Client, &record(22, 30)).ack(Server);
        hello.data(Server, &record(23, 700)).ack(Client).data(Client, &record(21, 18))
    };
    let closed = || begun().fin(Client);
    let alert = || closed().data(Server, &record(21, 18)).with(|p| p.ack -= 1);
    rule("after the client's own FIN")
        .base(&windows(alert()), "data-after-close likely active-after-fin harmless lost:0")
        .but(
            "a window: the socket was open",
            &windows(alert()).with(|p| p.window = 502),
            "closed-with-unread-data likely active-after-fin harmless lost:0",
        )
        .but(
            "timestamps",
            &windows(alert()).with(|p| p.timestamps = true),
            "closed-with-unread-data likely active-after-fin harmless",
        )
        .but(
            "acknowledged before",
            &windows(alert().ack(Client)),
            "closed-with-unread-data likely active-after-fin harmless",
        )
        .but(
            "the alert was there first",
            &windows(begun().data(Server, &record(21, 18)).fin(Client).ack(Server)),
            "aborted likely active-after-fin harmless",
        )
        .but("nothing comes", &windows(closed().ack(Server)), "aborted likely active-after-fin harmless")
        .but("no FIN", &windows(begun().data(Server, &record(21, 18))), "aborted likely active harmless")
        .but(
            "no farewell",
            &windows(closed().data(Server, &record(23, 700))),
            "client-gave-up likely active-after-fin harmful",
        )
        .but(
            "no farewell, and a window",
            &closed().data(Server, &record(23, 700)).rst(Client),
            "client-gave-up likely active-after-fin harmful",
        )
        .but(
            "not acknowledged",
            &windows(alert()).with(|p| p.ack -= 1),
            "client-gave-up likely active-after-fin",
        )
        .done();
    let answered = |fin: fn(Flow) -> Flow| windows(fin(asked()));
    rule("a response after the client's own FIN")
        .base(
            &answered(|flow| flow.fin(Client).data(Server, &response(20, 20))),
            "client-gave-up likely active-after-fin harmful lost:59",
        )
        .but(
            "before it",
            &answered(|flow| flow.data(Server, &response(20, 20)).fin(Client).ack(Server)),
            "aborted likely active-after-fin harmless",
        )
        .done();
}
