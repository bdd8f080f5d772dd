//! Resets that another than the alleged sender has sent: fields that do not fit, and reasons that middleboxes
//! give.

use linger_packet::Flags;

use crate::case::rule;
use crate::flow::{A, Client, F, Flow, R, S, Server, flow};
use crate::{GET, response};

fn exchange() -> Flow {
    flow().shake().data(Client, GET).data(Server, &response(20, 20)).ack(Client)
}

/// The reset, then an exchange as if there had been no reset.
fn ignored(flow: Flow) -> Flow {
    flow.data(Client, GET).data(Server, &response(20, 20)).ack(Client)
}

#[test]
fn another_ttl() {
    let base = || exchange().rst(Server).with(|p| p.ttl = 51);
    let answer = || exchange().data(Client, GET).bare(Server);
    rule("TTL")
        .base(&base(), "forged possible foreign harmless")
        .but("the same", &exchange().rst(Server), "unknown possible active")
        .but(
            "an answer",
            &answer().with(|p| p.ttl = 51),
            "firewall-reject possible passive-after-data harmful",
        )
        .but(
            "an answer to what is not there",
            &answer().with(|p| (p.ttl, p.seq) = (51, p.seq + 1)),
            "forged possible foreign",
        )
        .but(
            "the TTL of the packet before",
            &exchange().ttl(Server, 51).ack(Server).rst(Server).with(|p| p.ttl = 52),
            "unknown possible active",
        )
        .but(
            "the TTL of two packets before",
            &exchange()
                .ttl(Server, 51)
                .ack(Server)
                .ttl(Server, 50)
                .ack(Server)
                .rst(Server)
                .with(|p| p.ttl = 52),
            "forged possible",
        )
        .but(
            "the same since twice",
            &exchange().ttl(Server, 51).ack(Server).ack(Server).rst(Server).with(|p| p.ttl = 52),
            "unknown possible active",
        )
        .but("no other packet of it", &flow().syn().refuse(Server), "port-closed likely")
        .but(
            "the answer to a SYN, another connection's SYN-ACK has the same",
            &flow().syn().refuse(Server).and(flow().ports(41_000, 80).syn().syn_ack()),
            "port-closed likely answer-to-syn",
        )
        .but(
            "the answer to a SYN, another connection's SYN-ACK has another",
            &flow().syn().refuse(Server).with(|p| p.ttl = 51).and(flow().ports(41_000, 80).syn().syn_ack()),
            "firewall-reject possible answer-to-syn",
        )
        .but(
            "no answer to a SYN, another connection's SYN-ACK has another",
            &exchange().rst(Server).and(flow().ports(41_000, 80).ttl(Server, 51).syn().syn_ack()),
            "unknown possible active",
        )
        .done();
}

#[test]
fn the_sender_goes_on() {
    let base = || ignored(exchange().rst(Server).with(|p| p.id = 100));
    let plain = || exchange().rst(Server);
    let answer = || exchange().data(Client, GET).bare(Server);
    rule("goes on")
        .base(&ignored(plain()), "forged likely foreign")
        .but("nothing comes after", &plain(), "unknown possible active")
        .but(
            "the client alone goes on",
            &plain().data(Client, GET).data(Client, GET),
            "unknown possible active",
        )
        .but("another TTL", &ignored(plain().with(|p| p.ttl = 51)), "forged certain foreign")
        .but("another identification, counted", &base(), "forged likely foreign")
        .but("an answer, another TTL", &ignored(answer().with(|p| p.ttl = 51)), "firewall-reject likely")
        .but("an answer, the same TTL", &ignored(answer()), "forged likely")
        .but(
            "an answer to what is not there, another TTL",
            &ignored(answer().with(|p| (p.ttl, p.seq) = (51, p.seq + 1))),
            "forged certain",
        )
        .but("it acknowledges what had arrived", &plain().ack(Server), "unknown possible active")
        .but("it acknowledges a byte more", &plain().bytes(Client, 1).ack(Server), "forged likely")
        .but(
            "it acknowledges a byte more by a SYN",
            &plain().bytes(Client, 1).packet(Server, S | A, b"").with(|p| p.seq = 900_000),
            "unknown possible active",
        )
        .but("it sends a byte more", &plain().bytes(Server, 1), "forged likely")
        .but("it sends its last bytes again", &plain().again(Server), "unknown possible active")
        .but(
            "it sends a byte more, the reset was an answer",
            &answer().data(Server, b"x").with(|p| p.ack -= 39),
            "unknown possible",
        )
        .but("the client acknowledges", &plain().ack(Client).with(|p| p.ack += 50), "unknown possible active")
        .but(
            "a number far beyond",
            &plain().ack(Server).with(|p| p.ack = p.ack.wrapping_add(1 << 26)),
            "unknown possible active",
        )
        .but(
            "a number not so far beyond",
            &plain().ack(Server).with(|p| p.ack = p.ack.wrapping_add((1 << 26) - 1)),
            "forged likely",
        )
        .but("a FIN of its own", &plain().fin(Server), "unknown possible active")
        .but(
            "a reset at zero, a byte more",
            &plain().with(|p| (p.seq, p.ack) = (0, 5)).bytes(Server, 1).with(|p| p.flags = Flags::PSH),
            "unknown possible active",
        )
        .done();
}

#[test]
fn a_reset_that_both_sides_ignore_is_told_soon() {
    let goes_on =
        |times| (0..times).fold(exchange().rst(Server), |flow, _| flow.bytes(Client, 10).bytes(Server, 10));
    let counted = |times| goes_on(times).findings().len();
    assert_eq!((goes_on(9).rst(Server).findings().len(), goes_on(8).rst(Server).findings().len()), (2, 2));
    assert_eq!(goes_on(7).rst(Server).findings().len(), 1, "one reset more of the same story");
    assert_eq!(goes_on(7).rst(Server).findings()[0].further_resets, 1);
    assert_eq!(counted(9), 1);
    rule("ignored by both")
        .base(&goes_on(8), "forged likely foreign")
        .but("and a second", &goes_on(8).rst(Server), "unknown possible active")
        .done();
}

#[test]
fn another_identification() {
    let many = || exchange().ack(Server).ack(Server).ack(Server);
    let base = |step: u16| many().rst(Server).with(|p| p.id = p.id.wrapping_add(step));
    rule("identification")
        .base(&base(1_024), "unknown possible active")
        .but("in order", &base(0), "unknown possible active")
        .but("1,023 further", &base(1_023), "unknown possible active")
        .but("the last one's", &base(u16::MAX), "unknown possible active")
        .but(
            "three packets of the server",
            &exchange().ack(Server).rst(Server).with(|p| p.id = 9),
            "unknown possible active",
        )
        .but(
            "steps of 64",
            &(0..4)
                .fold(exchange(), |flow, at| flow.id(Server, 7_001 + 64 * (at + 1)).ack(Server))
                .rst(Server)
                .with(|p| p.id = 9),
            "unknown possible active",
        )
        .but(
            "steps of 65",
            &(0..4)
                .fold(exchange(), |flow, at| flow.id(Server, 7_001 + 65 * (at + 1)).ack(Server))
                .rst(Server)
                .with(|p| p.id = 9),
            "unknown possible active",
        )
        .but(
            "a jump in eight steps",
            &(0..7)
                .fold(exchange().id(Server, 9_999).ack(Server), |flow, _| flow.ack(Server))
                .rst(Server)
                .with(|p| p.id = 9),
            "unknown possible active",
        )
        .but(
            "a jump in seven steps",
            &(0..6)
                .fold(exchange().id(Server, 9_999).ack(Server), |flow, _| flow.ack(Server))
                .rst(Server)
                .with(|p| p.id = 9),
            "unknown possible active",
        )
        .but("an answer", &many().data(Client, GET).bare(Server).with(|p| p.id = 9), "unknown possible")
        .but(
            "an answer, and the sender acknowledges what it answers",
            &many().data(Client, GET).bare(Server).with(|p| p.id = 9).ack(Server),
            "forged likely foreign harmful",
        )
        .but(
            "an answer without an identification, and the same",
            &many().data(Client, GET).bare(Server).ack(Server),
            "unknown possible",
        )
        .but(
            "an answer, and the sender repeats an acknowledgement",
            &many().data(Client, GET).bare(Server).with(|p| p.id = 9).ack(Server).with(|p| p.ack -= 39),
            "unknown possible",
        )
        .but("the sender goes on", &ignored(many().rst(Server).with(|p| p.id = 9)), "forged certain foreign")
        .but(
            "IPv6 has none",
            &{
                let many = flow()
                    .v6()
                    .shake()
                    .data(Client, GET)
                    .data(Server, &response(20, 20))
                    .ack(Client)
                    .ack(Server)
                    .ack(Server)
                    .ack(Server);
                many.rst(Server).with(|p| p.id = 9)
            },
            "unknown possible active",
        )
        .done();
}

#[test]
fn an_answer_that_came_too_soon() {
    // The server's own answers take 8 ms.
    let far = |us: u64, answers: u32, after: u64| {
        let flow = (0..answers).fold(flow().syn(), |flow, at| {
            if at == 0 { flow.just(us).syn_ack() } else { flow.data(Client, GET).just(us).ack(Server) }
        });
        flow.ack(Client).data(Client, GET).just(after).bare(Server)
    };
    rule("too soon")
        .base(&far(8_000, 3, 1_999), "firewall-reject likely passive-after-data")
        .but("a quarter of the way", &far(8_000, 3, 2_000), "unknown possible")
        .but("two answers before", &far(8_000, 2, 1_999), "unknown possible")
        .but("a way of 2 ms", &far(2_000, 3, 499), "firewall-reject likely")
        .but("a shorter way", &far(1_999, 3, 400), "unknown possible")
        .but(
            "the quickest counts",
            &flow()
                .syn()
                .just(8_000)
                .syn_ack()
                .data(Client, GET)
                .just(8_000)
                .ack(Server)
                .data(Client, GET)
                .just(1_000)
                .ack(Server)
                .data(Client, GET)
                .just(600)
                .bare(Server),
            "unknown possible",
        )
        .but(
            "it answers nothing that is there",
            &far(8_000, 3, 1_999).with(|p| p.seq += 1),
            "unknown possible",
        )
        .but(
            "a reset of its own accord",
            &far(8_000, 3, 1_999).unseen().just(100).rst(Server),
            "unknown possible active",
        )
        .done();
}

#[test]
fn a_netscalers_code_in_the_window() {
    let base = |code: u16| exchange().rst(Server).with(|p| p.window = code);
    rule("NetScaler")
        .base(&base(9_811), "forged possible foreign")
        .but(
            "it answers a packet",
            &exchange().data(Client, GET).bare(Server).with(|p| p.window = 8_201),
            "forged possible foreign",
        )
        .but("no code", &base(9_999), "unknown possible active")
        .but(
            "a window offered before",
            &exchange().window(Server, 9_811).ack(Server).rst(Server),
            "unknown possible active",
        )
        .but(
            "511 from a window offered before",
            &exchange().window(Server, 9_300).ack(Server).window(Server, 9_811).rst(Server),
            "unknown possible active",
        )
        .but(
            "512 from a window offered before",
            &exchange().window(Server, 9_299).ack(Server).window(Server, 9_811).rst(Server),
            "forged possible",
        )
        .but(
            "512 from a greater one",
            &exchange().window(Server, 10_323).ack(Server).window(Server, 9_811).rst(Server),
            "forged possible",
        )
        .but(
            "no window seen before",
            &flow().shake().data(Client, GET).rst(Server).with(|p| p.window = 9_811),
            "forged possible",
        )
        .but(
            "a code below 512, and no window seen before",
            &flow().shake().data(Client, GET).rst(Server).with(|p| p.window = 300),
            "unknown possible active",
        )
        .but(
            "a window that re-opens",
            &exchange()
                .bytes(Client, 900)
                .window(Server, 100)
                .ack(Server)
                .rst(Server)
                .with(|p| p.window = 9_811),
            "closed-with-unread-data certain",
        )
        .but("cut before the window", &base(9_811).with(|p| p.snap = 34), "unknown possible active")
        .done();
}

#[test]
fn what_the_payload_says() {
    let base = |payload: &[u8]| exchange().packet(Server, R | A, payload);
    let code = |code: u8, enterprise: u8| base(&[0x33, 0xaa, 0, code, 0, 0, 0, enterprise]);
    rule("payload")
        .base(&base(b"BIG-IP: [0x2409a71:1148] No pool"), "forged likely foreign")
        .but("F5's other form", &base(b"F5RST: no route"), "forged likely")
        .but("in brackets", &base(b"[F5RST: no route]"), "forged likely")
        .but("its number first", &base(b"[0x2409a71:1148] No pool"), "forged likely")
        .but("other text", &base(b"go away, please"), "unknown possible active")
        .but("four letters", &base(b"stop"), "unknown possible active")
        .but("three letters", &base(b"bye"), "unknown possible active")
        .but("reason 2", &code(2, 0), "half-open likely")
        .but("reason 3", &code(3, 0), "data-after-close likely")
        .but("reason 4", &code(4, 0), "aborted likely")
        .but("reason 5", &code(5, 0), "forged likely foreign")
        .but("reason 200", &code(200, 0), "forged likely foreign")
        .but("reason 5, and nothing else was seen", &code(5, 0).from(6), "unknown possible active")
        .but("of an enterprise", &code(2, 9), "forged likely foreign")
        .but("a byte more", &base(&[0x33, 0xaa, 0, 2, 0, 0, 0, 0, 0]), "unknown possible active")
        .but("100 bytes of text", &base(&[b'A'; 100]), "unknown possible active")
        .but("and another TTL", &base(b"go away, please").with(|p| p.ttl = 51), "forged likely")
        .done();
}

#[test]
fn a_forged_refusal_keeps_its_class() {
    let base = || flow().syn().refuse(Server).with(|p| p.payload = b"BIG-IP: no pool".to_vec());
    rule("forged refusal")
        .base(&base(), "forged likely answer-to-syn")
        .but(
            "of an open connection",
            &exchange().rst(Server).with(|p| p.payload = b"BIG-IP: no pool".to_vec()),
            "forged likely foreign",
        )
        .but("nothing said", &base().with(|p| p.payload.clear()), "port-closed likely answer-to-syn")
        .done();
}

#[test]
fn further_resets_belong_to_the_first() {
    let base = || exchange().rst(Server);
    let further =
        |flow: &Flow| flow.findings().iter().map(|finding| finding.further_resets).collect::<Vec<_>>();
    assert_eq!(further(&base()), [0]);
    assert_eq!(further(&base().rst(Client)), [1]);
    assert_eq!(further(&base().rst(Client).rst(Server)), [2]);
    assert_eq!(further(&base().wait(9_998).rst(Client)), [1]);
    assert_eq!(further(&base().wait(10_000).rst(Client)), [0, 0]);
    assert_eq!(further(&base().syn().rst(Client)), [0, 0], "another connection on the same ports");
    assert_eq!(further(&base().packet(Client, F | A, b"").rst(Client)), [1]);
    // Linux resets the data and the FIN with the same packet, byte for byte.
    let both = |fin: &dyn Fn(Flow) -> Flow| {
        let closed = exchange().fin(Server).ack(Client).bytes(Client, 5);
        fin(closed).bare(Server).bare(Server).with(|p| p.time -= 900_000)
    };
    assert_eq!(further(&both(&|flow| flow.fin(Client))), [1]);
    assert_eq!(further(&both(&|flow| flow)), [0], "nothing asked for a second one: it was captured twice");
    let copied = |flow: Flow| {
        flow.fin(Client)
            .packet(Client, F | A, b"")
            .with(|p| (p.seq, p.time, p.id) = (p.seq - 1, p.time - 900_000, p.id - 1))
    };
    assert_eq!(further(&both(&copied)), [0], "so was the FIN");
}
