//! SYNs that nobody answered: a failed connection without a reset.

use crate::GET;
use crate::case::rule;
use crate::flow::{Client, Flow, S, Server, flow};
use crate::opening::accepted_at;

/// SYNs as Linux repeats them: after one second, two and four more.
fn asked(times: usize) -> Flow {
    [1_000, 2_000, 4_000]
        .iter()
        .take(times - 1)
        .fold(flow().syn(), |flow, &ms| flow.wait(ms - 1).again(Client))
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
