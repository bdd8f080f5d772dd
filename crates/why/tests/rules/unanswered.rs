//! SYNs that nobody answered: a failed connection without a reset.

use crate::GET;
use crate::case::rule;
use crate::flow::{Client, Flow, S, Server, flow};
use crate::opening::accepted_at;

/// SYNs as Linux repeats them: after one second, two and four more.
pub(crate) fn asked(times: usize) -> Flow {
    asked_from(40_000, times)
}

/// SYNs as Linux since 6.5 and macOS repeat the first ones: every second, or as often as is said.
fn asked_every(ms: u64, times: usize) -> Flow {
    (1..times).fold(flow().syn(), |flow, _| flow.wait(ms - 1).again(Client))
}

pub(crate) fn asked_from(port: u16, times: usize) -> Flow {
    [1_000, 2_000, 4_000]
        .iter()
        .take(times - 1)
        .fold(flow().ports(port, 80).syn(), |flow, &ms| flow.wait(ms - 1).again(Client))
}

/// A SYN with a request, which Linux repeats without it.
fn fast_open() -> Flow {
    let again = |flow: Flow, ms: u64| flow.wait(ms - 1).again(Client).with(|p| p.payload.clear());
    again(again(flow().packet(Client, S, GET), 1_000), 2_000)
}

#[test]
fn syns_without_an_answer() {
    rule("no answer")
        .base(&asked(3), "no-answer likely unanswered harmful lost:0 unread:0")
        .but("four", &asked(4), "no-answer likely")
        .but("nine: more than are kept", &asked_every(1_000, 9), "no-answer likely")
        .but("three, a second apart", &asked_every(1_000, 3), "no-answer likely")
        .but("three, 900 ms apart", &asked_every(900, 3), "no-answer likely")
        .but("three, 899 ms apart", &asked_every(899, 3), "none")
        .but("two", &asked(2), "none")
        .but("two, three seconds apart", &flow().syn().wait(2_999).again(Client), "none")
        .but("the first one with data (TCP Fast Open)", &fast_open(), "no-answer likely unread:0")
        .but("and it was taken", &fast_open().syn_ack(), "none")
        .but("at once, as a scanner's", &flow().syn().again(Client).again(Client).again(Client), "none")
        .but("a SYN-ACK at last", &asked(3).syn_ack(), "none")
        .but("another packet of the client", &asked(3).data(Client, GET), "none")
        .but("refused at last", &asked(3).refuse(Server), "port-closed answer-to-syn")
        .but("the port had accepted another", &asked(3).and(accepted_at(500)), "no-answer likely")
        .but(
            "the port repeats SYN-ACKs to another",
            &asked(3).and(flow().ports(43_000, 80).shake().again(Server)),
            "accept-queue-overflow likely unanswered",
        )
        .done();
}

#[test]
fn a_handshake_that_the_server_took_no_note_of() {
    let waits = |flow: Flow| flow.wait(999).again(Client).wait(1_999).again(Client);
    let base = || flow().shake().again(Server).data(Client, GET);
    rule("not accepted, and no reset")
        .base(&waits(base()), "accept-queue-overflow likely unanswered harmful unread:39")
        .but("the SYN-ACK once", &waits(flow().shake().data(Client, GET)), "none")
        .but("the data once", &base().wait(2_999).ack(Client), "none")
        .but("the data is acknowledged at last", &waits(base()).ack(Server), "none")
        .but(
            "a reset at last",
            &waits(base()).bare(Server),
            "accept-queue-overflow likely passive-before-ack",
        )
        .but("all within two seconds", &base().wait(999).again(Client).again(Client), "none")
        .done();
}

/// A connection from a port, whose SYN-ACK comes so many milliseconds after its last SYN.
pub(crate) fn opened(port: u16, syns: usize, ms: u64) -> Flow {
    asked_from(port, syns).wait(ms - 1).syn_ack().ack(Client)
}

/// Connections whose SYN-ACK comes 3.2 s after the first of three SYNs.
fn opened_late_from(port: u16, count: u16) -> Flow {
    (1..count).fold(opened(port, 3, 200), |all, at| all.and(opened(port + at, 3, 200)))
}

pub(crate) fn opened_late(count: u16) -> Flow {
    opened_late_from(40_000, count)
}

/// Connections that are accepted at their second SYN.
fn opened_at_the_second(count: u16) -> Flow {
    (1..count).fold(opened(40_200, 2, 1), |all, at| all.and(opened(40_200 + at, 2, 1)))
}

/// Connections that are accepted at once.
fn at_the_first(count: u16) -> Flow {
    (1..count)
        .fold(flow().ports(40_300, 80).shake(), |all, at| all.and(flow().ports(40_300 + at, 80).shake()))
}

pub(crate) fn later(flow: Flow, ms: u64) -> Flow {
    flow.with_all(|packet| packet.time += ms * 1_000_000)
}

#[test]
fn a_listener_that_leaves_syns_waiting() {
    let linear = |port, ms: u64| {
        let flow = flow().ports(port, 80).syn().wait(ms - 1).again(Client).wait(ms - 1).again(Client);
        flow.syn_ack().ack(Client)
    };
    let two_syns = |port| flow().ports(port, 80).syn().wait(2_999).again(Client).syn_ack().ack(Client);
    let three =
        |one: &dyn Fn(u16) -> Flow| one(40_000).and(one(40_101)).and(one(40_102)).and(accepted_at(500));
    let silent = |late| asked(3).and(opened_late_from(40_001, late)).and(accepted_at(500));
    rule("opened late")
        .base(
            &opened_late(3).and(accepted_at(500)),
            "accept-queue-overflow likely opened-late harmful lost:0 unread:0",
        )
        .but("two of them", &opened_late(2).and(accepted_at(500)), "none")
        .but("nobody is answered meanwhile", &opened_late(3), "accept-queue-overflow possible opened-late")
        .but(
            "another is answered after the second SYN only",
            &opened_late(3).and(accepted_at(2_000)),
            "accept-queue-overflow possible opened-late",
        )
        .but(
            "two others are accepted at the second SYN",
            &opened_late(3).and(opened_at_the_second(2)),
            "accept-queue-overflow opened-late",
        )
        .but("four others are", &opened_late(3).and(opened_at_the_second(4)), "none")
        .but(
            "three SYNs a second apart, as Linux since 6.5 sends them",
            &three(&|port| linear(port, 1_000)),
            "accept-queue-overflow likely opened-late",
        )
        .but("three SYNs 899 ms apart", &three(&|port| linear(port, 899)), "none")
        .but("two SYNs", &three(&two_syns), "none")
        .but("another waits in vain", &silent(3), "accept-queue-overflow likely unanswered")
        .but(
            "sixteen are accepted at the second SYN",
            &opened(40_000, 2, 1)
                .and(opened_at_the_second(15))
                .and(asked_from(45_000, 3))
                .and(accepted_at(500)),
            "accept-queue-overflow likely opened-late",
        )
        .but(
            "fifteen are",
            &opened(40_000, 2, 1)
                .and(opened_at_the_second(14))
                .and(asked_from(45_000, 3))
                .and(accepted_at(500)),
            "no-answer likely unanswered",
        )
        .but(
            "sixteen are, and sixteen at the first",
            &opened(40_000, 2, 1).and(at_the_first(16)).and(opened_at_the_second(15)),
            "none",
        )
        .but(
            "twenty-seven of sixty-four are",
            &at_the_first(37).and(opened(40_000, 2, 1)).and(opened_at_the_second(26)),
            "accept-queue-overflow possible opened-late",
        )
        .but(
            "twenty-six of sixty-four are",
            &at_the_first(38).and(opened(40_000, 2, 1)).and(opened_at_the_second(25)),
            "none",
        )
        .but(
            "sixteen are, over eleven seconds",
            &opened(40_000, 2, 1).and(later(opened_at_the_second(15), 11_000)),
            "none",
        )
        .but("another waits in vain, beside two", &silent(2), "no-answer likely unanswered")
        .done();
}

#[test]
fn a_crowd_that_is_not_heard_at_first() {
    let each = |first: u16, count: u16, one: &dyn Fn(Flow) -> Flow| {
        let all = (first..first + count).map(|port| one(flow().ports(port, 80).shake()));
        all.reduce(Flow::and).unwrap()
    };
    let twice = |flow: Flow| flow.data(Client, GET).wait(200).again(Client);
    let three_times = |flow: Flow| twice(flow).wait(400).again(Client);
    let syn_ack_again = |flow: Flow| flow.wait(996).again_syn_ack().ack(Client).data(Client, GET).ack(Server);
    let late =
        |count: u16| (1..count).fold(opened(40_000, 2, 1), |all, at| all.and(opened(40_200 + at, 2, 1)));
    // With two that are accepted at the second SYN, 31 of 64.
    let crowd = |count, one: &dyn Fn(Flow) -> Flow| {
        late(2).and(each(40_400, count, one)).and(at_the_first(62 - count))
    };
    let heard = |flow: Flow| three_times(flow).ack(Server);
    rule("unheard crowd")
        .base(&crowd(29, &heard), "accept-queue-overflow possible opened-late harmful lost:0 unread:0")
        .but("one fewer", &crowd(28, &heard), "none")
        .but("each sent its data twice", &crowd(29, &|flow| twice(flow).ack(Server)), "none")
        .but("they are not heard at all", &crowd(29, &three_times), "none")
        .but(
            "the SYN-ACK came again",
            &crowd(29, &syn_ack_again),
            "accept-queue-overflow possible opened-late",
        )
        .but("nobody asked again", &each(40_400, 30, &heard).and(at_the_first(34)), "none")
        .but(
            "eleven seconds later",
            &later(late(2), 11_000).and(each(40_400, 29, &heard)).and(at_the_first(33)),
            "none",
        )
        .but("fifteen, and no others", &late(2).and(each(40_400, 13, &heard)), "none")
        .but(
            "sixteen, and no others",
            &late(2).and(each(40_400, 14, &heard)),
            "accept-queue-overflow possible opened-late",
        )
        .but(
            "another is answered meanwhile, and another waits in vain",
            &crowd(29, &heard).and(asked_from(45_000, 3)).and(accepted_at(500)),
            "accept-queue-overflow likely",
        )
        .done();
}
