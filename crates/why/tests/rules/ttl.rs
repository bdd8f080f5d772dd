//! A foreign TTL: alone it proves too little; with a second sign of another sender it is likely.

use crate::GET;
use crate::case::rule;
use crate::flow::{A, Client, Flow, R, Server, flow};
use crate::prints::{LINUX, MACOS, exchange};

/// The last packet has another TTL than the server's others.
fn far(flow: Flow) -> Flow {
    flow.with(|packet| packet.ttl = 51)
}

#[test]
fn a_second_sign_of_another_sender() {
    let reset = || exchange(&LINUX).rst(Server);
    let answer =
        |window| exchange(&LINUX).data(Client, GET).bare(Server).with(|packet| packet.window = window);
    let bare_of_timestamps = |flow: Flow| flow.with(|packet| packet.timestamps = false);
    let counted = |step: u16| {
        let many = exchange(&LINUX).ack(Server).ack(Server).ack(Server).rst(Server);
        many.with(|packet| packet.id = packet.id.wrapping_add(step))
    };
    let several = |ahead: u32| {
        let first = far(exchange(&LINUX).rst(Server));
        far(first.rst(Server)).with(|packet| packet.seq += ahead)
    };
    let soon = |after: u64| {
        let shaken = flow().syn().just(20_000).syn_ack().just(100).ack(Client);
        far(shaken.data(Client, GET).just(after).packet(Server, R | A, b""))
    };
    let quick = |after: u64| {
        let opened = flow().syn().just(8_000).syn_ack().ack(Client);
        let answered =
            (0..2).fold(opened, |flow, _| flow.data(Client, GET).just(8_000).ack(Server)).data(Client, GET);
        far(answered.just(after).bare(Server))
    };
    let checksums = |flow: Flow| flow.with_all(|packet| packet.checksum = true);
    rule("TTL and another sign")
        .base(&far(reset()), "forged possible foreign")
        .but("no timestamps", &far(bare_of_timestamps(reset())), "forged likely foreign")
        .but("no timestamps, the same TTL", &bare_of_timestamps(reset()), "unknown possible active")
        .but(
            "no timestamps, a stack that has none there",
            &far(bare_of_timestamps(exchange(&MACOS).rst(Server))),
            "forged possible foreign",
        )
        .but("an identification out of order", &far(counted(1_024)), "forged likely foreign")
        .but("an identification in order", &far(counted(1_023)), "forged possible foreign")
        .but("a second reset ahead of it", &several(1_460), "forged likely foreign")
        .but("the same reset again", &several(0), "forged possible foreign")
        .but("it acknowledges too soon", &soon(9_999), "forged likely foreign")
        .but("it acknowledges in time", &soon(10_000), "forged possible foreign")
        .but("text", &far(reset()).with(|packet| packet.payload = b"stop".to_vec()), "forged likely foreign")
        .but("right checksums", &far(checksums(reset())), "forged possible foreign")
        .but(
            "right checksums but that of the reset",
            &far(checksums(reset())).with(|packet| packet.checksum = false),
            "forged likely foreign",
        )
        .but("an answer", &far(answer(0)), "firewall-reject possible passive-after-data")
        .but("an answer with a window", &far(answer(1)), "firewall-reject likely passive-after-data")
        .but("an answer with a window, the same TTL", &answer(1), "unknown possible passive-after-data")
        .but("an answer that came too soon", &quick(1_999), "firewall-reject likely passive-after-data")
        .but("an answer in time", &quick(2_000), "firewall-reject possible passive-after-data")
        .but(
            "a refusal of what is accepted then",
            &flow()
                .syn()
                .refuse(Server)
                .with(|p| p.ttl = 51)
                .syn_ack()
                .ack(Client)
                .data(Client, GET)
                .ack(Server),
            "firewall-reject likely answer-to-syn",
        )
        .done();
}

#[test]
fn where_the_packets_say_more_than_a_ttl() {
    let late = || exchange(&LINUX).fin(Server).data(Client, GET).bare(Server);
    let unread = || flow().shake().bytes(Client, 900).window(Server, 100).ack(Server).window(Server, 500);
    let client = || exchange(&LINUX).rst(Client);
    let timer = || {
        let probing = (0..3).fold(exchange(&LINUX), |flow, _| flow.wait(1_000).probe(Server));
        probing.wait(1_000).rst(Server)
    };
    let ttl = |flow: Flow| flow.with(|packet| packet.ttl = 33);
    rule("TTL beside a stronger sign")
        .base(&ttl(late()), "data-after-close likely passive-after-fin")
        .but("late data, the same TTL", &late(), "data-after-close certain passive-after-fin")
        .but("a window that re-opens", &ttl(unread().rst(Server)), "closed-with-unread-data likely active")
        .but(
            "a window that re-opens, the same TTL",
            &unread().rst(Server),
            "closed-with-unread-data certain active",
        )
        .but("the client had all", &ttl(client()), "aborted likely active")
        .but("the client had all, the same TTL", &client(), "aborted likely active")
        .but("probes", &ttl(timer()), "keepalive-timeout likely after-keepalive")
        .but("probes, the same TTL", &timer(), "keepalive-timeout certain after-keepalive")
        .but("no room is left for another sender", &exchange(&LINUX).rst(Server), "unknown possible active")
        .done();
}
