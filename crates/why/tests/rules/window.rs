//! The window that the reset re-opens: the one sign on the wire of bytes that lay unread.

use crate::case::rule;
use crate::flow::{A, Client, Flow, R, Server, flow};
use crate::opening::refused_at;

/// The server acknowledges an upload with a window that has shrunk to `shrunk`.
fn shrunk(shrunk: u16) -> Flow {
    flow().shake().bytes(Client, 900).window(Server, shrunk).ack(Server)
}

/// The same, and then a reset with the window `to`.
fn reset(from: u16, to: u16) -> Flow {
    shrunk(from).window(Server, to).rst(Server)
}

#[test]
fn a_window_that_reopens() {
    let base = || reset(100, 500);
    rule("window")
        .base(&base(), "closed-with-unread-data certain active harmful unread:?")
        .but("it stays", &reset(100, 100), "unknown possible active")
        .but(
            "one of them is an answer",
            &shrunk(100).bytes(Client, 9).bare(Server).with(|p| p.window = 500),
            "unknown possible",
        )
        .but("twofold", &reset(100, 200), "closed-with-unread-data certain")
        .but("less than twofold", &reset(100, 199), "unknown possible")
        .but(
            "it had been half of the greatest",
            &reset(251, 502).with_at(0, |p| p.scale = Some(0)),
            "unknown possible",
        )
        .but("512 bytes of room", &reset(2, 6), "closed-with-unread-data certain")
        .but("384 bytes of room", &reset(2, 5), "unknown possible")
        .but("from nothing", &reset(0, 4), "closed-with-unread-data certain")
        .but("the acknowledgement moves", &base().with(|p| p.ack += 1), "unknown possible")
        .but("without timestamps", &base().with(|p| p.timestamps = false), "unknown possible")
        .but(
            "another stack's identification",
            &shrunk(100).ack(Server).ack(Server).window(Server, 500).id(Server, 9_999).rst(Server),
            "unknown possible",
        )
        .but(
            "the client had sent no byte",
            &flow()
                .shake()
                .bytes(Server, 5)
                .ack(Client)
                .window(Server, 100)
                .bytes(Server, 5)
                .ack(Client)
                .window(Server, 500)
                .rst(Server),
            "aborted likely",
        )
        .but("no window is cut off", &base().with(|p| p.snap = 34), "unknown possible")
        .done();
}

#[test]
fn the_window_was_shrunk_before() {
    // The SYN-ACK offers 64,240 bytes, 501 in units of 128.
    let of = |greatest: u16, from| {
        flow()
            .window(Server, greatest)
            .shake()
            .bytes(Client, 9)
            .window(Server, greatest)
            .ack(Server)
            .bytes(Client, 900)
            .window(Server, from)
            .ack(Server)
            .window(Server, 1_200)
            .rst(Server)
    };
    rule("window had shrunk")
        .base(&of(600, 300), "closed-with-unread-data certain")
        .but("a unit above half", &of(600, 301), "unknown possible")
        .but("half of what the SYN-ACK offered", &of(10, 250), "closed-with-unread-data certain")
        .but("a unit above half of what the SYN-ACK offered", &of(10, 251), "unknown possible")
        .but("the SYN-ACK had no scale", &of(10, 20).with_at(1, |p| p.scale = None), "unknown possible")
        .but(
            "no window but the SYN-ACK's",
            &flow().shake().bytes(Client, 900).window(Server, 502).rst(Server).with(|p| p.ack = 1_001),
            "unknown possible",
        )
        .done();
}

#[test]
fn the_windows_scale_counts() {
    let of = |scale, from, to| {
        flow()
            .scale(Server, scale)
            .shake()
            .bytes(Client, 900)
            .window(Server, from)
            .ack(Server)
            .window(Server, to)
            .rst(Server)
    };
    rule("window scale")
        .base(&of(Some(0), 100, 612), "closed-with-unread-data certain")
        .but("a byte less", &of(Some(0), 100, 611), "unknown possible")
        .but("twice the unit", &of(Some(1), 100, 356), "closed-with-unread-data certain")
        .but("twice the unit, one less", &of(Some(1), 100, 355), "unknown possible")
        .done();
}

#[test]
fn whose_window_it_was() {
    let client = || {
        flow()
            .shake()
            .bytes(Client, 9)
            .bytes(Server, 900)
            .window(Client, 100)
            .ack(Client)
            .window(Client, 500)
            .rst(Client)
    };
    let between = |client, server| {
        let middle = flow()
            .ports(client, server)
            .shake()
            .all_unseen()
            .window(Server, 900)
            .bytes(Client, 9)
            .ack(Server);
        middle.bytes(Client, 900).window(Server, 100).ack(Server).window(Server, 900).rst(Server)
    };
    rule("window of the client")
        .base(&reset(100, 500), "closed-with-unread-data certain")
        .but("the client's", &client(), "client-gave-up certain active harmful")
        .but(
            "the client's, the SYN not there",
            &client().with_at(0, |p| p.destination.set_port(9)),
            "aborted likely",
        )
        .but(
            "the client's by its port",
            &client().with_at(0, |p| p.destination.set_port(9)).with_at(1, |p| p.source.set_port(9)),
            "aborted likely",
        )
        .but(
            "which side is the client is not known",
            &between(40_000, 50_000),
            "closed-with-unread-data likely",
        )
        .but("the client by its port", &between(40_000, 80), "closed-with-unread-data certain")
        .but("the port refuses from then on", &reset(100, 500).and(refused_at(500)), "process-gone likely")
        .but("the client's, and the port refuses", &client().and(refused_at(500)), "client-gave-up certain")
        .done();
}

#[test]
fn the_acknowledgement_is_the_latest() {
    let base =
        || shrunk(100).bytes(Client, 100).ack(Server).with(|p| p.ack -= 100).window(Server, 500).rst(Server);
    rule("window acknowledgement")
        .base(&base(), "unknown possible")
        .but(
            "the reset acknowledges as much as before",
            &base().with(|p| p.ack -= 100),
            "closed-with-unread-data certain",
        )
        .but(
            "an older one came late",
            &base().with_at(5, |p| p.ack = 1_001).with(|p| p.ack -= 100),
            "closed-with-unread-data certain",
        )
        .but("none at all", &base().with(|p| (p.flags, p.seq) = (R, p.seq)), "unknown")
        .but(
            "the last packet was a mere acknowledgement",
            &base().with_at(5, |p| p.flags = A).with(|p| p.ack -= 100),
            "closed-with-unread-data certain",
        )
        .done();
}
