//! Probes and retransmissions that nobody answered, and the reset after them.

use crate::case::rule;
use crate::flow::{A, Client, Flow, R, Server, flow};
use crate::{GET, response};

fn idle() -> Flow {
    flow().shake().data(Client, GET).data(Server, &response(20, 20)).ack(Client)
}

#[test]
fn keepalive() {
    let probes = |pauses: &[u64]| {
        pauses.iter().fold(idle(), |flow, &pause| flow.probe(Server).wait(pause - 1)).rst(Server)
    };
    rule("keepalive")
        .base(&probes(&[1_000, 1_000, 1_000]), "keepalive-timeout certain after-keepalive harmful")
        .but("twice as long, at most", &probes(&[1_000, 2_000, 1_000]), "keepalive-timeout certain")
        .but("more than twice as long", &probes(&[1_000, 2_001, 1_000]), "keepalive-timeout likely")
        .but("the last pause is twice as long", &probes(&[1_000, 1_000, 2_000]), "keepalive-timeout certain")
        .but("the last pause is longer", &probes(&[1_000, 1_000, 2_001]), "keepalive-timeout likely")
        .but("the last pause is half as long", &probes(&[2_000, 2_000, 1_000]), "keepalive-timeout certain")
        .but("the last pause is shorter", &probes(&[2_000, 2_000, 999]), "keepalive-timeout likely")
        .but("two probes", &probes(&[1_000, 1_000]), "keepalive-timeout certain after-keepalive")
        .but("one probe", &probes(&[1_000]), "unknown possible active")
        .but(
            "the last was answered",
            &idle().probe(Server).wait(999).probe(Server).ack(Client).wait(999).rst(Server),
            "unknown possible active",
        )
        .but(
            "one number lower",
            &idle()
                .probe(Server)
                .with(|p| p.seq -= 1)
                .wait(999)
                .probe(Server)
                .with(|p| p.seq -= 1)
                .wait(999)
                .rst(Server),
            "unknown possible active",
        )
        .but(
            "with one byte each",
            &idle()
                .probe(Server)
                .with(|p| p.payload = b"x".to_vec())
                .wait(999)
                .probe(Server)
                .with(|p| p.payload = b"x".to_vec())
                .wait(999)
                .rst(Server),
            "keepalive-timeout certain",
        )
        .but(
            "with two bytes each",
            &idle()
                .probe(Server)
                .with(|p| p.payload = b"xy".to_vec())
                .wait(999)
                .probe(Server)
                .with(|p| p.payload = b"xy".to_vec())
                .wait(999)
                .rst(Server),
            "unknown possible active",
        )
        .but(
            "two bytes of data, one at a time",
            &idle().bytes(Server, 1).wait(999).bytes(Server, 1).wait(999).rst(Server),
            "unknown possible active",
        )
        .but(
            "the client probes",
            &idle().probe(Client).wait(999).probe(Client).wait(999).rst(Client),
            "keepalive-timeout certain harmful",
        )
        .but(
            "and no reset of its own, an answer",
            &idle().probe(Server).wait(999).probe(Server).wait(999).bare(Server),
            "unknown active",
        )
        .done();
}

#[test]
fn retransmissions() {
    let sent = |times: u32| {
        (0..times)
            .fold(idle().bytes(Server, 30), |flow, _| flow.wait(499).again(Server))
            .wait(499)
            .rst(Server)
    };
    // The server has ended its side, and then the path is dead.
    let last_fin = |whole: bool| {
        let closed = idle().bytes(Client, 30);
        let closed = if whole { closed.ack(Server) } else { closed };
        let closed = closed.fin(Server).with(|p| p.ack -= if whole { 0 } else { 30 }).ack(Client).fin(Client);
        (0..3).fold(closed, |flow, _| flow.wait(499).again(Client)).wait(499).rst(Client)
    };
    rule("retransmissions")
        .base(&sent(3), "retransmission-timeout likely after-retransmissions harmful lost:30")
        .but("four times", &sent(4), "retransmission-timeout likely")
        .but("twice", &sent(2), "unknown possible active")
        .but(
            "acknowledged at last",
            &(0..3).fold(idle().bytes(Server, 30), |flow, _| flow.again(Server)).ack(Client).rst(Server),
            "unknown possible active lost:0",
        )
        .but(
            "other data in between",
            &idle().bytes(Server, 30).again(Server).again(Server).bytes(Server, 5).again(Server).rst(Server),
            "retransmission-timeout likely",
        )
        .but(
            "the client's, after its FIN",
            &(0..3).fold(idle().bytes(Client, 30).fin(Client), |flow, _| flow.again(Client)).rst(Client),
            "retransmission-timeout after-retransmissions",
        )
        .but(
            "a FIN again",
            &(0..3).fold(idle().fin(Server), |flow, _| flow.again(Server)).rst(Server),
            "retransmission-timeout after-retransmissions harmful",
        )
        .but("a FIN again, of a side that had all", &last_fin(true), "retransmission-timeout likely harmless")
        .but("and a packet of the other side is missing", &last_fin(false), "harmful")
        .done();
    // Routers end a connection in this form whose hold timer runs out.
    let bare = |times: u64| {
        (0..times)
            .fold(idle().bytes(Server, 30), |flow, _| flow.again(Server))
            .packet(Server, R, b"")
            .with(|p| p.timestamps = false)
    };
    rule("a bare reset after retransmissions")
        .base(&bare(3), "retransmission-timeout likely after-retransmissions harmful lost:30")
        .but("twice", &bare(2), "unknown possible active")
        .but("the window of an answer", &bare(3).with(|p| p.window = 0), "unknown active")
        .done();
}

#[test]
fn window_probes() {
    let probes = |window: u16, times: u32| {
        (0..times)
            .fold(idle().window(Client, window).ack(Client), |flow, _| flow.probe(Server).wait(999))
            .rst(Server)
    };
    rule("window probes")
        .base(&probes(0, 3), "retransmission-timeout likely after-retransmissions")
        .but("two", &probes(0, 2), "unknown possible active")
        .but("a window of one", &probes(1, 3), "keepalive-timeout certain after-keepalive")
        .but(
            "after the sender's FIN",
            &(0..2)
                .fold(idle().window(Client, 0).ack(Client).fin(Server), |flow, _| flow.probe(Server))
                .rst(Server),
            "active-after-fin",
        )
        .done();
}

#[test]
fn one_direction_tells_the_form_alone() {
    let base = || idle().rst(Server).without(Client);
    rule("one direction")
        .base(&base(), "unknown possible active harmful lost:? unread:?")
        .but(
            "an answer",
            &idle().bytes(Client, 9).bare(Server).without(Client),
            "unknown possible passive-after-data",
        )
        .but(
            "after its FIN",
            &idle().fin(Server).rst(Server).without(Client),
            "unknown possible active-after-fin",
        )
        .but(
            "after its FIN, an answer",
            &idle().fin(Server).bytes(Client, 9).bare(Server).without(Client),
            "unknown possible passive-after-fin",
        )
        .but(
            "after probes",
            &idle().probe(Server).wait(999).probe(Server).wait(999).rst(Server).without(Client),
            "unknown possible after-keepalive",
        )
        .but(
            "after retransmissions",
            &(0..3).fold(idle().bytes(Server, 5), |flow, _| flow.again(Server)).rst(Server).without(Client),
            "unknown possible after-retransmissions",
        )
        .but("both directions", &idle().rst(Server), "unknown possible active harmless")
        .but(
            "one packet of the other side",
            &idle().rst(Server).without(Client).and(flow().shake().ack(Client)),
            "active",
        )
        .but("an answer to a SYN", &flow().syn().refuse(Server).without(Client), "port-closed answer-to-syn")
        .but("a handshake's answer", &flow().syn().syn_ack().bare(Client).without(Server), "unknown possible")
        .but(
            "the other side reset it more than ten seconds before",
            &idle().rst(Client).wait(10_001).rst(Server),
            "unknown possible active harmful lost:? unread:?",
        )
        .but(
            "the other side reset it less than ten seconds before",
            &idle().rst(Client).wait(9_990).rst(Server),
            "aborted likely active harmless",
        )
        .done();
}

#[test]
fn the_form_of_a_reset_is_told() {
    let base = || idle().rst(Server);
    rule("form")
        .base(&base(), "unknown active")
        .but("without timestamps", &base().with(|p| p.timestamps = false), "unknown active")
        .but("cut before the window", &base().with(|p| p.snap = 34), "unknown active")
        .but("an answer", &idle().data(Client, GET).bare(Server), "unknown")
        .but(
            "an answer to what is not there",
            &idle().data(Client, GET).bare(Server).with(|p| p.seq += 1),
            "unknown",
        )
        .but(
            "an answer to an earlier one of several",
            &idle()
                .ack(Client)
                .data(Client, GET)
                .bytes(Server, 3)
                .data(Client, GET)
                .bare(Server)
                .with(|p| p.seq -= 3),
            "data-after-close likely",
        )
        .but(
            "the numbers, but no acknowledgement",
            &idle()
                .data(Client, GET)
                .with(|p| p.flags = linger_packet::Flags::PSH)
                .bare(Server)
                .with(|p| p.seq = 900_060),
            "unknown",
        )
        .but(
            "an answer to its own packet's number",
            &idle()
                .ack(Server)
                .with(|p| p.ack = 77)
                .bare(Server)
                .with(|p| (p.seq, p.flags) = (77, linger_packet::Flags::RST)),
            "unknown",
        )
        .but(
            "an acknowledgement in the form of an answer",
            &idle().bare(Server).with(|p| p.flags = A | linger_packet::Flags::RST),
            "unknown active",
        )
        .done();
}
