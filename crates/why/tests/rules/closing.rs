//! What a close leaves behind: a FIN that waits behind queued data, bytes that cross it, farewells, resets that nobody obeyed.

use crate::case::rule;
use crate::flow::{A, Client, F, Flow, R, Server, flow};
use crate::opening::refused_at;
use crate::passive::record;
use crate::prints::LINUX;
use crate::{GET, post, response};

fn idle() -> Flow {
    flow().shake().data(Client, GET).ack(Server).data(Server, &response(20, 20)).ack(Client)
}

/// The server sends more than is acknowledged when the client's next bytes reach it.
fn queued() -> Flow {
    idle().data(Client, &post(900, 200)).ack(Server).bytes(Server, 1_400).data(Client, &[b'b'; 100])
}

#[test]
fn a_fin_waits_behind_what_is_queued() {
    let answered = |flow: Flow| flow.bare(Server);
    rule("FIN behind a queue")
        .base(
            &answered(queued().with(|p| p.ack -= 1_400)),
            "data-after-close likely passive-after-data harmful",
        )
        .but("all had been acknowledged", &answered(queued()), "unknown possible")
        .but(
            "its own reset was captured behind it",
            &answered(queued().with(|p| p.ack -= 1_400)).rst(Server),
            "unknown possible passive-after-data harmful",
        )
        .but(
            "a bare one is",
            &answered(queued().with(|p| p.ack -= 1_400)).bare(Server),
            "data-after-close likely passive-after-data",
        )
        .but(
            "the other side's is",
            &answered(queued().with(|p| p.ack -= 1_400)).rst(Client),
            "data-after-close likely passive-after-data",
        )
        .but(
            "its own reset comes a second later",
            &answered(queued().with(|p| p.ack -= 1_400)).wait(999).rst(Server),
            "data-after-close likely passive-after-data",
        )
        .but("a second later", &answered(queued().with(|p| p.ack -= 1_400).wait(999)), "half-open likely")
        .but("the number of another connection", &answered(queued().with(|p| p.ack = 77)), "unknown possible")
        .but(
            "the client's own",
            &idle().bytes(Client, 700).bytes(Server, 5).with(|p| p.ack -= 700).bare(Client),
            "client-gave-up likely passive-after-data",
        )
        .done();
}

#[test]
fn a_fin_waits_behind_a_closed_window() {
    let full = |window: u16| {
        idle().window(Client, window).ack(Client).wait(4_000).data(Client, &post(900, 200)).bare(Server)
    };
    // The snap length may have cut the option off, so that the window's unit is not known.
    let unscaled = |window| full(window).with_at(0, |p| p.scale = None).with_at(1, |p| p.scale = None);
    rule("FIN behind a window")
        .base(&full(0), "data-after-close likely passive-after-data harmful")
        .but("room for a segment", &full(5), "half-open likely")
        .but("a byte too little for one", &full(4), "data-after-close likely")
        .but("no room, in a unit that is not known", &unscaled(0), "data-after-close likely")
        .but("some, in a unit that is not known", &unscaled(5), "half-open likely")
        .done();
}

#[test]
fn the_window_opens_while_the_late_bytes_are_on_their_way() {
    // nginx closes after its five seconds, and the client begins to read when it sends: what it frees, the next packet says.
    let closed = || idle().window(Client, 0).ack(Client).wait(4_000);
    let late = || closed().bytes(Client, 1);
    let opened = |flow: Flow| flow.window(Client, 300).ack(Client);
    // The number is the same for both, and the reset follows both.
    let answered = |flow: Flow| flow.bare(Server);
    rule("window that opens")
        .base(&answered(opened(late())), "data-after-close likely passive-after-data harmful unread:1")
        .but("no byte before it", &answered(opened(closed())), "half-open likely")
        .but("the byte long before it", &answered(opened(late().wait(4_000))), "half-open likely")
        .but(
            "the byte in the packet that opens it",
            &answered(closed().window(Client, 300).bytes(Client, 1)),
            "data-after-close likely",
        )
        .but(
            "the same, and an acknowledgement behind it",
            &answered(opened(closed().window(Client, 300).bytes(Client, 1))),
            "data-after-close likely",
        )
        .but("the byte behind it", &answered(opened(closed()).bytes(Client, 1)), "half-open likely")
        .but(
            "it had never been closed",
            &answered(opened(idle().ack(Client).wait(4_000).bytes(Client, 1))),
            "half-open likely",
        )
        .but(
            "it had room, and was filled, and what filled it is acknowledged",
            &answered(idle().window(Client, 8).ack(Client).bytes(Server, 1_000).bytes(Client, 1)),
            "unknown possible",
        )
        .but("the byte had been acknowledged", &answered(opened(late().ack(Server))), "unknown possible")
        .done();
}

#[test]
fn bytes_that_cross_the_fin_came_too_late() {
    let crossed = |bytes: u32| idle().bytes(Client, 30).fin(Server).with(|p| p.ack -= bytes);
    rule("crossing the FIN")
        .base(&crossed(30).fin(Client).bare(Server), "data-after-close certain passive-after-fin unread:30")
        .but("one byte of them", &crossed(1).fin(Client).bare(Server), "data-after-close unread:1")
        .but(
            "captured after the FIN",
            &idle().fin(Server).bytes(Client, 30).with(|p| p.ack -= 1).bare(Server),
            "data-after-close certain passive-after-fin unread:30",
        )
        .but(
            "sent by a client that had acknowledged the FIN",
            &idle().fin(Server).bytes(Client, 30).bare(Server),
            "data-after-close certain passive-after-fin unread:30",
        )
        .but("the FIN acknowledges them", &crossed(0).fin(Client).bare(Server), "both-closed likely")
        .done();
}

#[test]
fn an_acknowledged_packet_is_not_what_the_reset_answers() {
    let last = || idle().ack(Client);
    rule("asked for by nobody")
        .base(&last().bare(Client), "aborted likely active harmless")
        .but(
            "a packet that it can answer",
            &last().bytes(Server, 3).bare(Client),
            "unknown passive-after-data",
        )
        .but("not at the next number", &last().bare(Client).with(|p| p.seq += 1), "passive-after-data")
        .but("a byte unacknowledged", &idle().with(|p| p.ack -= 1).bare(Client), "passive-after-data")
        .done();
}

#[test]
fn a_window_in_a_bare_reset_is_the_senders_own() {
    let own = |who| idle().bytes(Client, 4).ack(Server).packet(who, R, b"").with(|p| p.timestamps = false);
    let linux = flow().syn().with(|p| p.options = Some(LINUX.to_vec())).syn_ack().ack(Client);
    rule("bare reset with a window")
        .base(&own(Client), "client-gave-up likely active harmful")
        .but("the window of an answer", &own(Client).with(|p| p.window = 0), "unknown passive-after-data")
        .but("another window", &own(Client).with(|p| p.window += 1), "unknown passive-after-data")
        .but(
            "after data",
            &idle().bytes(Client, 4).bytes(Server, 3).packet(Client, R, b""),
            "unknown passive-after-data",
        )
        .but(
            "of Linux",
            &linux.bytes(Client, 4).ack(Server).packet(Client, R, b"").with(|p| p.timestamps = false),
            "passive-after-data",
        )
        .done();
}

/// Bytes that were lost on their way to the capture are seen by the number of the FIN behind them.
#[test]
fn a_fin_behind_bytes_that_are_not_there() {
    let lost = |bytes| idle().fin(Server).ack(Client).bytes(Client, bytes).unseen().fin(Client);
    rule("FIN behind lost bytes")
        .base(&lost(8).bare(Server), "data-after-close likely passive-after-fin harmful unread:8")
        .but(
            "nothing lies between",
            &idle().fin(Server).ack(Client).fin(Client).bare(Server),
            "both-closed likely harmless",
        )
        .but("they are acknowledged at last", &lost(8).ack(Server).bare(Server), "both-closed likely")
        .but(
            "all but one are",
            &lost(8).ack(Server).with(|p| p.ack -= 2).bare(Server),
            "data-after-close likely unread:1",
        )
        .but(
            "they are there",
            &idle().fin(Server).ack(Client).bytes(Client, 8).fin(Client).bare(Server),
            "data-after-close certain unread:8",
        )
        .but(
            "the client resets, and the server's bytes are not there",
            &idle().fin(Client).ack(Server).bytes(Server, 8).unseen().fin(Server).bare(Client),
            "client-gave-up likely harmful lost:8",
        )
        .but(
            "the port refuses from then on",
            &lost(8).bare(Server).and(refused_at(1_000)),
            "process-gone likely harmful",
        )
        .done();
}

#[test]
fn an_abort_after_both_fins_ends_nothing() {
    let base = |acknowledged: bool| {
        let closed = idle().bytes(Client, 9).ack(Server).fin(Client).ack(Server).fin(Server);
        if acknowledged { closed.ack(Client) } else { closed }
    };
    rule("acknowledged FINs")
        .base(&base(true).rst(Server), "both-closed likely active-after-fin harmless")
        .but("one FIN is not acknowledged", &base(false).rst(Server), "active-after-fin unknown possible")
        .but(
            "bytes after the FIN",
            &idle().fin(Server).ack(Client).bytes(Client, 5).fin(Client).ack(Server).rst(Server),
            "closed-with-unread-data likely active-after-fin harmful",
        )
        .but("by the client", &base(true).rst(Client), "both-closed likely active-after-fin harmless")
        .but(
            "the other FIN is not acknowledged",
            &idle().fin(Client).fin(Server).with(|p| p.ack -= 1).ack(Client).rst(Server),
            "active-after-fin",
        )
        .done();
}

#[test]
fn a_number_that_nobody_acknowledged_is_the_senders_own() {
    // Neither side hears the other any more, and the server's hold timer ends it (an MSDP router does so, in this form).
    let deaf =
        || idle().bytes(Client, 3).wait(600).again(Client).bytes(Server, 3).with(|p| p.ack -= 3).wait(5_000);
    let own = || deaf().packet(Server, R, b"").with(|p| p.timestamps = false);
    rule("bare reset of its own")
        .base(&own(), "unknown possible active harmful unread:?")
        .but("the window of an answer", &own().with(|p| p.window = 0), "unknown possible passive-after-data")
        .but(
            "another window than its sender's",
            &own().with(|p| p.window += 1),
            "unknown possible passive-after-data",
        )
        .but("not at the next number", &own().with(|p| p.seq -= 1), "unknown possible passive-after-data")
        .but(
            "its number had been acknowledged",
            &deaf().ack(Client).packet(Server, R, b""),
            "passive-after-data",
        )
        .but(
            "by the client",
            &idle().bytes(Server, 3).bytes(Client, 3).with(|p| p.ack -= 3).packet(Client, R, b""),
            "client-gave-up likely active",
        )
        .done();
}

#[test]
fn a_reset_that_nobody_obeyed_is_harmless() {
    let decoy = || flow().shake().bare(Client).with(|p| p.ttl = 4);
    let goes_on = |flow: Flow| flow.data(Client, GET).ack(Server).data(Server, &response(20, 20)).ack(Client);
    rule("decoy")
        .base(&goes_on(decoy()), "harmless")
        .but("the server does not answer", &decoy().data(Client, GET), "forged certain harmful")
        .but(
            "the server does not answer, the same TTL",
            &decoy().with(|p| p.ttl = 64).data(Client, GET),
            "forged likely harmful",
        )
        .but(
            "an answer",
            &flow().shake().data(Server, b"x").bare(Client).data(Client, GET),
            "unknown possible",
        )
        .but("nobody goes on", &decoy(), "aborted likely harmless")
        .done();
}

#[test]
fn a_ttl_of_the_same_distance_is_the_same_host() {
    let other = |usual: u8, own: u8| {
        idle()
            .with_all(|p| {
                if p.from == Server {
                    p.ttl = usual
                }
            })
            .data(Client, GET)
            .bare(Server)
            .with(|p| p.ttl = own)
    };
    rule("TTL of the same distance")
        .base(&other(247, 56), "unknown possible")
        .but("a router more", &other(247, 55), "firewall-reject possible")
        .but("BGP's 1", &other(1, 64), "unknown possible")
        .but("2 is no such value", &other(2, 64), "firewall-reject possible")
        .done();
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, 0], &[0; 4], payload].concat()
}

#[test]
fn goaway_is_a_farewell() {
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, b"")].concat();
    let late = |last: &[u8]| {
        flow()
            .shake()
            .data(Client, &preface)
            .data(Server, &frame(4, b""))
            .ack(Client)
            .fin(Client)
            .data(Server, last)
            .bare(Client)
    };
    rule("GOAWAY")
        .base(&late(&frame(7, &[0; 8])), "data-after-close certain harmless")
        .but("a PING after it", &late(&[frame(7, &[0; 8]), frame(6, &[0; 8])].concat()), "harmless")
        .but("HEADERS after it", &late(&[frame(7, &[0; 8]), frame(1, b"x")].concat()), "harmful")
        .but("a PING alone", &late(&frame(6, &[0; 8])), "harmful")
        .but("half of it", &late(&frame(7, &[0; 8])[..12]), "harmful")
        .done();
}

#[test]
fn a_close_frame_is_a_farewell() {
    const ASK: &[u8] = b"GET /ws HTTP/1.1\r\nHost: shop.example\r\nUpgrade: websocket\r\n\r\n";
    const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    let late = |switch: &[u8], last: &[u8]| {
        flow()
            .shake()
            .data(Client, ASK)
            .data(Server, switch)
            .data(Client, &[0x81, 0x82, 1, 2, 3, 4, b'h', b'i'])
            .ack(Server)
            .fin(Client)
            .data(Server, last)
            .bare(Client)
    };
    rule("WebSocket")
        .base(&late(SWITCH, &[0x88, 2, 3, 232]), "data-after-close certain harmless")
        .but("text", &late(SWITCH, &[0x81, 2, b'h', b'i']), "harmful")
        .but("text before it", &late(SWITCH, &[0x81, 1, b'h', 0x88, 2, 3, 232]), "harmful")
        .but("half of it", &late(SWITCH, &[0x88, 2, 3]), "harmful")
        .but(
            "another protocol",
            &late(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", &[0x88, 2, 3, 232]),
            "harmful",
        )
        .done();
}

#[test]
fn an_alert_that_an_acknowledgement_passed_over_is_a_farewell() {
    let of = |last: &[u8], fin: u32| {
        let asked =
            flow().ports(40_000, 443).shake().data(Client, &record(22, 30)).data(Server, &record(22, 40));
        let closed = asked.ack(Client).data(Client, &record(21, 18)).fin(Client);
        let passed = last.len() as u32;
        let acknowledged = closed.ack(Server).with(|p| p.seq += passed + fin).wait(2_000);
        acknowledged.packet(Server, F | A, last).bare(Client)
    };
    rule("passed over")
        .base(&of(&record(21, 18), 1), "data-after-close certain passive-after-fin harmless lost:0")
        .but("but not the FIN", &of(&record(21, 18), 0), "data-after-close certain harmless lost:0")
        .but("no alert", &of(&record(23, 50), 1), "client-gave-up harmful lost:55")
        .but("part of one", &of(&record(21, 18)[..20], 1), "harmful")
        .done();
}

#[test]
fn silence_is_told_from_two_seconds_on() {
    let after = |ms: u64| idle().wait(ms).data(Client, GET).bare(Server);
    rule("silence")
        .base(&after(350_000), "half-open likely")
        .but(
            "sent again in between",
            &idle().wait(349_000).again(Server).wait(1_000).data(Client, GET).bare(Server),
            "half-open likely",
        )
        .but(
            "bytes in between are not in the capture",
            &idle()
                .wait(300_000)
                .bytes(Server, 9)
                .unseen()
                .ack(Client)
                .wait(50_000)
                .data(Client, GET)
                .bare(Server),
            "unknown possible passive-after-data",
        )
        .but("two seconds", &after(1_998), "half-open likely")
        .but("a millisecond less", &after(1_997), "half-open likely")
        .but(
            "a probe does not end it",
            &idle().wait(200_000).probe(Server).ack(Client).wait(150_000).data(Client, GET).bare(Server),
            "half-open likely",
        )
        .but(
            "before the FIN too",
            &idle().wait(5_000).fin(Server).wait(30_000).data(Client, GET).bare(Server),
            "data-after-close certain",
        )
        .done();
}
