//! Resets before any data was acknowledged.

use crate::GET;
use crate::case::rule;
use crate::flow::{A, Client, Flow, R, S, Server, flow};

/// Connections of the same server from other ports, all ended by its FIN in one moment.
pub(crate) fn ended(count: u16) -> Flow {
    (1..count).fold(one_ended(0), |all, at| all.and(one_ended(at)))
}

fn one_ended(at: u16) -> Flow {
    flow().ports(41_000 + at, 80).shake().data(Client, GET).fin(Server)
}

/// Another client's SYN, refused so many milliseconds after the beginning.
pub(crate) fn refused_at(ms: u64) -> Flow {
    flow().ports(42_000, 80).wait(ms - 1).syn().refuse(Server)
}

/// Another client whose first packet after the handshake is refused.
fn turned_away(port: u16) -> Flow {
    flow().ports(port, 80).shake().data(Client, GET).bare(Server)
}

/// Another client's SYN, accepted so many milliseconds after the beginning.
pub(crate) fn accepted_at(ms: u64) -> Flow {
    flow().ports(43_000, 80).wait(ms - 1).syn().syn_ack()
}

#[test]
fn a_syn_is_answered() {
    let base = || flow().syn().refuse(Server);
    let with_data = || flow().packet(Client, S, b"fast open").refuse(Server);
    rule("answer to a SYN")
        .base(&base(), "port-closed likely answer-to-syn harmful lost:0 unread:0")
        .but("it acknowledges another number", &base().with(|p| p.ack += 1), "unknown possible active")
        .but("it acknowledges nothing", &base().with(|p| p.flags = R), "unknown possible passive-after-data")
        .but("the SYN had data, all acknowledged", &with_data(), "port-closed answer-to-syn")
        .but(
            "the SYN had data, none acknowledged",
            &with_data().with(|p| p.ack -= 9),
            "port-closed answer-to-syn",
        )
        .but("the SYN had data, half acknowledged", &with_data().with(|p| p.ack -= 4), "unknown active")
        .but("the SYN is a mere ACK", &base().with_at(0, |p| p.flags = A), "unknown possible active")
        .but(
            "the client has acknowledged something",
            &flow().syn().syn_ack().unseen().ack(Client).refuse(Server),
            "unknown possible active",
        )
        .but("the server had accepted", &flow().syn().syn_ack().refuse(Server), "aborted likely active")
        .done();
}

#[test]
fn a_refused_syn_that_is_sent_again_is_one_failure() {
    // As Windows does.
    let again = |flow: Flow| flow.wait(498).again(Client).refuse(Server);
    let base = || again(again(flow().syn().refuse(Server)));
    let other = |flow: Flow| flow.wait(498).syn().with(|p| p.seq += 7).refuse(Server).with(|p| p.ack += 7);
    rule("refused again")
        .base(&base(), "port-closed likely answer-to-syn harmful lost:0 unread:0")
        .but("another number", &other(flow().syn().refuse(Server)), "port-closed likely")
        .but(
            "it is not refused again",
            &flow().syn().refuse(Server).wait(498).again(Client),
            "port-closed likely",
        )
        .but(
            "it is accepted at last",
            &base().wait(498).again(Client).syn_ack(),
            "unknown possible answer-to-syn",
        )
        .but(
            "an answer to it comes although it is not sent again",
            &flow().syn().refuse(Server).wait(498).syn_ack(),
            "unknown possible answer-to-syn",
        )
        .done();
    let further =
        |flow: &Flow| flow.findings().iter().map(|finding| finding.further_resets).collect::<Vec<_>>();
    assert_eq!(further(&base()), [2]);
    assert_eq!(further(&other(base())), [2, 0], "the number tells another connection");
    assert_eq!(further(&base().wait(20_000).again(Client).refuse(Server)), [2, 0], "ten seconds are over");
    assert_eq!(further(&base().wait(2_000).again(Client).wait(20_000).refuse(Server)), [3]);
    assert_eq!(further(&base().wait(498).again(Client).syn_ack()), [2]);
}

#[test]
fn a_refusal_alone_is_told_by_its_form() {
    let base = || flow().syn().refuse(Server).without(Client);
    rule("refusal alone")
        .base(&base(), "port-closed likely answer-to-syn")
        .but("it begins at one", &base().with(|p| p.seq = 1), "unknown possible active")
        .but("it acknowledges nothing", &base().with(|p| p.flags = R), "unknown possible passive-after-data")
        .but(
            "its sender was seen before",
            &flow().syn_ack().unseen().bytes(Server, 5).refuse(Server),
            "unknown possible active",
        )
        .done();
}

#[test]
fn a_refusing_port_that_accepts_soon_after_is_not_closed() {
    let base = || flow().syn().refuse(Server);
    rule("refused and accepted")
        .base(&base().and(accepted_at(1_000)), "unknown possible answer-to-syn")
        .but("just within two seconds", &base().and(accepted_at(2_000)), "unknown possible")
        .but("two seconds later", &base().and(accepted_at(2_001)), "port-closed likely")
        .but("in the same moment", &base().and(accepted_at(1)), "port-closed likely")
        .but(
            "on another interface",
            &base().and(accepted_at(1_000).with_all(|p| p.interface = 1)),
            "port-closed",
        )
        .done();
}

#[test]
fn connections_that_ended_at_once_explain_a_refusal() {
    let later = |count, ms| ended(count).and(flow().wait(ms).syn().refuse(Server));
    rule("refused after ends")
        .base(&later(3, 1_000), "process-gone likely answer-to-syn")
        .but("two ended", &later(2, 1_000), "port-closed likely")
        .but("ten seconds before", &later(3, 10_003), "process-gone likely")
        .but("more than ten seconds before", &later(3, 10_004), "port-closed likely")
        .but(
            "clients ended them",
            &(1..3)
                .fold(client_ended(0), |all, at| all.and(client_ended(at)))
                .and(flow().wait(1_000).syn().refuse(Server)),
            "port-closed likely",
        )
        .but(
            "one by one",
            &ended(2)
                .and(flow().ports(41_009, 80).wait(51).shake().data(Client, GET).fin(Server))
                .and(flow().wait(1_000).syn().refuse(Server)),
            "port-closed likely",
        )
        .done();
}

fn client_ended(at: u16) -> Flow {
    flow().ports(41_000 + at, 80).shake().data(Client, GET).fin(Client)
}

#[test]
fn a_syn_ack_is_answered() {
    let base = || flow().syn().syn_ack().bare(Client);
    rule("answer to a SYN-ACK")
        .base(&base(), "client-gave-up likely answer-to-syn-ack harmful")
        .but("another number", &base().with(|p| p.seq += 1), "unknown possible passive-before-ack")
        .but("with an acknowledgement", &base().with(|p| p.flags = R | A), "aborted active harmless")
        .but(
            "the client had acknowledged",
            &flow().shake().bytes(Server, 3).bare(Client),
            "unknown passive-before-ack",
        )
        .but(
            "only the SYN-ACK is there",
            &base().with_at(0, |p| p.destination.set_port(9)),
            "client-gave-up answer-to-syn-ack",
        )
        .done();
}

#[test]
fn a_syn_that_meets_an_older_connection() {
    let base = || {
        flow()
            .syn()
            .ack(Server)
            .with(|p| (p.seq, p.ack) = (5, 77_000))
            .packet(Client, R, b"")
            .with(|p| p.seq = 77_000)
    };
    rule("stale answer")
        .base(&base(), "half-open likely answer-to-syn-ack lost:0 unread:0")
        .but("a SYN-ACK", &base().with_at(1, |p| p.flags = S | A), "client-gave-up likely answer-to-syn-ack")
        .but("another number", &base().with(|p| p.seq += 1), "unknown possible")
        .but("no SYN before", &base().with_at(0, |p| p.destination.set_port(9)), "unknown possible")
        .done();
}

#[test]
fn a_full_accept_queue() {
    let base = || flow().shake().data(Client, GET).bare(Server);
    rule("before any acknowledgement")
        .base(&base(), "unknown possible passive-before-ack harmful")
        .but(
            "the third ACK is refused, before any data",
            &flow().shake().bare(Server),
            "accept-queue-overflow likely passive-before-ack",
        )
        .but(
            "two others were refused alike",
            &base().and(turned_away(41_000)).and(turned_away(41_001)),
            "accept-queue-overflow likely",
        )
        .but("one other was refused alike", &base().and(turned_away(41_000)), "unknown possible")
        .but(
            "one byte had been acknowledged",
            &flow()
                .shake()
                .data(Client, GET)
                .ack(Server)
                .with(|p| p.ack = 1_002)
                .data(Client, GET)
                .bare(Server),
            "unknown possible passive-after-data",
        )
        .but(
            "the SYN-ACK acknowledges a number exactly 2 GiB on",
            &flow().shake().with_at(1, |p| p.ack = 1_001 + (1 << 31)).data(Client, GET).bare(Server),
            "unknown possible passive-before-ack",
        )
        .but(
            "the acknowledgement was of the SYN alone",
            &flow()
                .shake()
                .data(Client, GET)
                .ack(Server)
                .with(|p| p.ack = 1_001)
                .data(Client, GET)
                .bare(Server),
            "unknown possible passive-before-ack",
        )
        .but(
            "the handshake is not there",
            &base().with_at(1, |p| p.source.set_port(9)),
            "unknown passive-after-data",
        )
        .but(
            "the client resets",
            &flow().shake().bytes(Server, 9).bare(Client),
            "unknown possible passive-before-ack",
        )
        .but(
            "the server had spoken, the client not",
            &flow().shake().bytes(Server, 9).ack(Client).bare(Server),
            "unknown possible passive-after-data",
        )
        .but("the process ended", &base().and(refused_at(1_000)), "process-gone likely")
        .done();
}

#[test]
fn syn_acks_again_after_the_clients_answer() {
    let base = || flow().shake().again(Server).data(Client, GET).bare(Server);
    rule("repeated SYN-ACK")
        .base(&base(), "accept-queue-overflow likely passive-before-ack")
        .but(
            "before the client's answer",
            &flow().syn().syn_ack().again(Server).ack(Client).data(Client, GET).bare(Server),
            "unknown possible",
        )
        .but("the process ended all the same", &base().and(refused_at(1_000)), "accept-queue-overflow likely")
        .but(
            "and the client's data again",
            &flow().shake().again(Server).data(Client, GET).again(Client).bare(Server),
            "accept-queue-overflow",
        )
        .but(
            "in another connection of the port",
            &flow()
                .shake()
                .data(Client, GET)
                .bare(Server)
                .and(flow().ports(41_000, 80).shake().again(Server)),
            "accept-queue-overflow likely",
        )
        .done();
}

#[test]
fn data_again_and_again_behind_syn_cookies() {
    let base =
        || flow().shake().data(Client, GET).again(Client).again(Client).bare(Server).and(refused_at(1_000));
    rule("unanswered data")
        .base(&base(), "accept-queue-overflow likely passive-before-ack")
        .but(
            "once only",
            &flow().shake().data(Client, GET).again(Client).bare(Server).and(refused_at(1_000)),
            "process-gone likely",
        )
        .done();
}
