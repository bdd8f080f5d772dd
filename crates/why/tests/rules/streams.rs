//! HTTP/2 in clear, stream by stream: which requests have their whole response, and which may be sent again.

use crate::GET;
use crate::case::rule;
use crate::flow::{A, Client, F, Flow, R, Server, flow};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const END: u8 = 5;
const OPEN: u8 = 4;

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn settings() -> Vec<u8> {
    frame(4, 0, 0, b"")
}

fn headers(stream: u32, flags: u8) -> Vec<u8> {
    frame(1, flags, stream, &[0x82, 0x86, 0x84])
}

fn data(stream: u32, end: bool, bytes: usize) -> Vec<u8> {
    frame(0, u8::from(end), stream, &vec![b'd'; bytes])
}

fn reset(stream: u32, error: u32) -> Vec<u8> {
    frame(3, 0, stream, &error.to_be_bytes())
}

fn goaway(last: u32, error: u32, debug: &[u8]) -> Vec<u8> {
    frame(7, 0, 0, &[&last.to_be_bytes(), &error.to_be_bytes(), debug].concat())
}

fn asking(streams: &[u32]) -> Flow {
    let asked: Vec<u8> = streams.iter().flat_map(|stream| headers(*stream, END)).collect();
    flow()
        .shake()
        .data(Client, &[PREFACE, &settings(), &asked].concat())
        .data(Server, &settings())
        .ack(Client)
}

fn closed(flow: Flow) -> Flow {
    flow.fin(Server).fin(Client).ack(Server)
}

fn answer(stream: u32) -> Vec<u8> {
    [headers(stream, OPEN), data(stream, true, 40)].concat()
}

#[test]
fn a_fin_before_every_response_was_whole() {
    let of = |bytes: &[u8]| closed(asking(&[1, 3]).data(Server, bytes).ack(Client));
    rule("HTTP/2 streams at the FIN")
        .base(&of(&answer(1)), "closed-unanswered likely closed-early harmful")
        .but("both answered", &of(&[answer(1), answer(3)].concat()), "none")
        .but(
            "the second one cut",
            &of(&[answer(1), headers(3, OPEN), data(3, false, 9)].concat()),
            "cut-short certain harmful",
        )
        .but("END_STREAM in HEADERS", &of(&[answer(1), headers(3, END)].concat()), "none")
        .but(
            "END_STREAM in a frame that is cut",
            &of(&[answer(1), headers(3, OPEN), data(3, true, 90)[..50].to_vec()].concat()),
            "cut-short lost:49",
        )
        .but(
            "END_STREAM in HEADERS that go on",
            &of(&[answer(1), headers(3, END - OPEN), frame(9, OPEN, 3, &[0; 90])].concat()),
            "none",
        )
        .but(
            "END_STREAM in HEADERS that go on in a frame that is cut",
            &of(&[answer(1), headers(3, END - OPEN), frame(9, OPEN, 3, &[0; 90])[..50].to_vec()].concat()),
            "cut-short lost:49",
        )
        .but("refused", &of(&[answer(1), reset(3, REFUSED_STREAM)].concat()), "none")
        .but(
            "ended for an error",
            &of(&[answer(1), reset(3, INTERNAL_ERROR)].concat()),
            "closed-unanswered likely harmful",
        )
        .but(
            "cut by an error",
            &of(&[answer(1), headers(3, OPEN), reset(3, INTERNAL_ERROR)].concat()),
            "cut-short certain harmful",
        )
        .but("NO_ERROR after its end", &of(&[answer(1), answer(3), reset(3, NO_ERROR)].concat()), "none")
        .but(
            "above GOAWAY's stream",
            &of(&[answer(1), goaway(1, NO_ERROR, b"")].concat()),
            "keep-alive-race certain harmless",
        )
        .but(
            "above GOAWAY's stream, and then ended by the server",
            &of(&[answer(1), goaway(1, NO_ERROR, b""), reset(3, CANCEL)].concat()),
            "keep-alive-race harmless",
        )
        .but(
            "above GOAWAY's stream, whose reserved bit is set",
            &of(&[answer(1), goaway(1 | 1 << 31, NO_ERROR, b"")].concat()),
            "keep-alive-race certain harmless",
        )
        .but(
            "GOAWAY's own stream, and then ended by the server",
            &of(&[answer(1), goaway(3, NO_ERROR, b""), reset(3, CANCEL)].concat()),
            "closed-unanswered harmful",
        )
        .but(
            "above it, begun, and then ended by the server",
            &of(&[answer(1), headers(3, OPEN), goaway(1, NO_ERROR, b""), reset(3, CANCEL)].concat()),
            "cut-short harmful",
        )
        .but(
            "both ended for an error, the second one begun",
            &of(&[reset(1, INTERNAL_ERROR), headers(3, OPEN), reset(3, INTERNAL_ERROR)].concat()),
            "cut-short harmful",
        )
        .but(
            "one ended by the client and one by the server, for the same reason",
            &closed(
                asking(&[1, 3]).data(Client, &reset(1, CANCEL)).data(Server, &reset(3, CANCEL)).ack(Client),
            ),
            "closed-unanswered harmful",
        )
        .but(
            "above it, for an error",
            &of(&[answer(1), goaway(1, ENHANCE_YOUR_CALM, b"too_many_pings")].concat()),
            "keep-alive-race harmless",
        )
        .but(
            "GOAWAY's own stream",
            &of(&[answer(1), goaway(3, NO_ERROR, b"")].concat()),
            "closed-unanswered likely harmful",
        )
        .but(
            "a GOAWAY that names none yet",
            &of(&[answer(1), goaway(u32::MAX >> 1, NO_ERROR, b"")].concat()),
            "closed-unanswered harmful",
        )
        .but(
            "two of them, the second names it",
            &of(&[answer(1), goaway(u32::MAX >> 1, NO_ERROR, b""), goaway(1, NO_ERROR, b"")].concat()),
            "keep-alive-race harmless",
        )
        .but(
            "above it, and yet begun",
            &of(&[answer(1), headers(3, OPEN), goaway(1, NO_ERROR, b"")].concat()),
            "cut-short harmful",
        )
        .done();
}

#[test]
fn requests_at_the_fin() {
    let base = || asking(&[1]).data(Server, &answer(1)).ack(Client);
    let more = |bytes: &[u8]| closed(base().data(Client, bytes).ack(Server));
    rule("HTTP/2 requests at the FIN")
        .base(&more(&headers(3, END)), "closed-unanswered likely harmful")
        .but("not whole", &more(&headers(3, OPEN)), "closed-mid-request likely harmful")
        .but(
            "its end in DATA",
            &more(&[headers(3, OPEN), data(3, true, 5)].concat()),
            "closed-unanswered harmful",
        )
        .but("cancelled", &more(&[headers(3, END), reset(3, CANCEL)].concat()), "none")
        .but("a stream of the server", &more(&headers(4, END)), "none")
        .but(
            "it crosses the FIN",
            &base().fin(Server).data(Client, &headers(3, END)).with(|p| p.ack -= 1).fin(Client),
            "keep-alive-race certain harmful",
        )
        .but(
            "the client had closed before",
            &base().data(Client, &headers(3, END)).fin(Client).ack(Server).fin(Server).ack(Client),
            "client-gave-up likely harmful",
        )
        .but("the connection stays", &base().data(Client, &headers(3, END)).ack(Server), "none")
        .but(
            "it stays, and the stream was ended for an error",
            &base().data(Client, &headers(3, END)).data(Server, &reset(3, INTERNAL_ERROR)).ack(Client),
            "closed-unanswered likely closed-early harmful",
        )
        .done();
}

/// Resets of a connection with streams.
#[test]
fn streams_at_a_reset() {
    let of = |bytes: &[u8]| asking(&[1, 3]).data(Server, bytes).ack(Client);
    let both = [answer(1), answer(3)].concat();
    rule("HTTP/2 streams at a reset")
        .base(&of(&both).rst(Client), "aborted likely harmless")
        .but("one unanswered", &of(&answer(1)).rst(Client), "harmful")
        .but("one cut", &of(&[answer(1), headers(3, OPEN)].concat()).rst(Client), "harmful")
        .but("refused", &of(&[answer(1), reset(3, REFUSED_STREAM)].concat()).rst(Client), "harmless")
        .but(
            "above GOAWAY's stream",
            &of(&[answer(1), goaway(1, NO_ERROR, b"")].concat()).rst(Client),
            "harmless",
        )
        .but("the server resets", &of(&both).rst(Server), "harmless")
        .but("the server resets, one unanswered", &of(&answer(1)).rst(Server), "harmful")
        .but(
            "the last bytes were not acknowledged",
            &asking(&[1, 3]).data(Server, &both).rst(Server),
            "harmful",
        )
        .but(
            "GOAWAY was not acknowledged",
            &of(&answer(1)).data(Server, &goaway(1, NO_ERROR, b"")).rst(Server),
            "harmful",
        )
        .but(
            "GOAWAY was not acknowledged, and all were answered",
            &of(&both).data(Server, &goaway(3, NO_ERROR, b"")).fin(Server).bare(Client),
            "harmless",
        )
        .but(
            "the same with an error",
            &of(&both).data(Server, &goaway(3, ENHANCE_YOUR_CALM, b"")).fin(Server).bare(Client),
            "harmful",
        )
        .but(
            "the request was still being sent",
            &flow()
                .shake()
                .data(Client, &[PREFACE, &settings(), &headers(1, OPEN)].concat())
                .data(Server, &[settings(), answer(1)].concat())
                .ack(Client)
                .rst(Server),
            "harmful",
        )
        .but(
            "it was, and the server says more before it resets",
            &flow()
                .shake()
                .data(Client, &[PREFACE, &settings(), &headers(1, OPEN)].concat())
                .data(Server, &[settings(), answer(1)].concat())
                .ack(Client)
                .data(Server, &settings())
                .ack(Client)
                .rst(Server),
            "harmful",
        )
        .but("both had closed", &of(&answer(1)).fin(Server).fin(Client).bare(Server), "harmful")
        .done();
}

/// What the capture lacks is not known, and no number comes from it.
#[test]
fn bytes_that_are_not_there() {
    let of = |change: &dyn Fn(Flow) -> Flow| {
        let flow = asking(&[1, 3]).data(Server, &answer(1)).ack(Client);
        closed(change(flow))
    };
    let gap = |who| move |flow: Flow| flow.data(who, &data(1, false, 9)).with(|p| p.seq += 9);
    rule("HTTP/2 streams, bytes missing")
        .base(&of(&|flow| flow), "closed-unanswered harmful")
        .but("a gap of the server", &of(&gap(Server)), "none")
        .but("a gap of the client", &of(&gap(Client)), "none")
        .but(
            "a header that is cut off",
            &of(&|flow| flow.data(Server, &answer(3)).with(|p| p.snap = 66)),
            "none",
        )
        .but(
            "a gap, and a reset",
            &gap(Server)(asking(&[1, 3]).data(Server, &answer(1)).ack(Client)).rst(Server),
            "unknown",
        )
        .but("acknowledged, and not there", &of(&|flow| flow.ack(Client).with(|p| p.ack += 30)), "none")
        .but(
            "a header in two segments",
            &of(&|flow| {
                let bytes = answer(3);
                flow.data(Server, &bytes[..5]).data(Server, &bytes[5..]).ack(Client)
            }),
            "none",
        )
        .but(
            "RST_STREAM in three segments",
            &of(&|flow| {
                let bytes = reset(3, INTERNAL_ERROR);
                flow.data(Server, &bytes[..5])
                    .data(Server, &bytes[5..11])
                    .data(Server, &bytes[11..])
                    .ack(Client)
            }),
            "closed-unanswered harmful",
        )
        .but("sent twice", &of(&|flow| flow.again(Server)), "closed-unanswered harmful")
        .but(
            "a PING of 7 bytes",
            &of(&|flow| flow.data(Server, &frame(6, 0, 0, &[0; 7])).ack(Client)),
            "none",
        )
        .but(
            "SETTINGS of 7 bytes",
            &of(&|flow| flow.data(Server, &frame(4, 0, 0, &[0; 7])).ack(Client)),
            "none",
        )
        .but(
            "SETTINGS of 6 bytes",
            &of(&|flow| flow.data(Server, &frame(4, 0, 0, &[0; 6])).ack(Client)),
            "closed-unanswered harmful",
        )
        .but(
            "RST_STREAM of a stream whose reserved bit is set",
            &of(&|flow| flow.data(Server, &reset(3 | 1 << 31, INTERNAL_ERROR)).ack(Client)),
            "closed-unanswered harmful",
        )
        .but(
            "a PING whose reserved bit is set",
            &of(&|flow| flow.data(Server, &frame(6, 0, 1 << 31, &[0; 8])).ack(Client)),
            "closed-unanswered harmful",
        )
        .but(
            "the header of a GOAWAY on a stream, and nothing of its payload",
            &of(&|flow| flow.data(Server, &frame(7, 0, 9, &[0; 8])[..9]).ack(Client)),
            // Its streams are not followed; that the FIN came before the end of what it began is seen all the same.
            "cut-short harmful",
        )
        .but(
            "an unknown type",
            &of(&|flow| flow.data(Server, &frame(77, 255, 9, &[0; 7])).ack(Client)),
            "closed-unanswered",
        )
        .but("a response to nobody", &of(&|flow| flow.data(Server, &answer(5)).ack(Client)), "none")
        .but("a pushed one", &of(&|flow| flow.data(Server, &answer(2)).ack(Client)), "closed-unanswered")
        .done();
}

#[test]
fn begins_and_switches() {
    const ASK: &[u8] = b"GET /a HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let upgrade = |more: &[u8]| {
        closed(
            flow()
                .shake()
                .data(Client, ASK)
                .data(Server, &[SWITCH, &settings()].concat())
                .data(Client, &[PREFACE, &settings()].concat())
                .data(Server, more)
                .ack(Client),
        )
    };
    let first = |answer: &[u8]| {
        closed(
            flow()
                .shake()
                .data(Server, &settings())
                .data(Client, &[PREFACE, &settings(), &headers(1, END)].concat())
                .data(Server, answer)
                .ack(Client),
        )
    };
    rule("HTTP/2 upgrade")
        .base(&upgrade(&headers(1, OPEN)), "cut-short certain harmful")
        .but("whole", &upgrade(&answer(1)), "none")
        .but("nothing", &upgrade(&frame(6, 0, 0, &[0; 8])), "closed-unanswered likely")
        .but("the server's SETTINGS first", &first(&headers(1, OPEN)), "cut-short certain harmful")
        .but("the server's SETTINGS first, whole", &first(&answer(1)), "none")
        .done();
}

/// More streams than are kept.
#[test]
fn many_streams() {
    let of = |count: u32| {
        let streams: Vec<u32> = (0..count).map(|at| 2 * at + 1).collect();
        closed(asking(&streams).ack(Server))
    };
    rule("HTTP/2 many streams")
        .base(&of(256), "closed-unanswered likely harmful")
        .but("one more", &of(257), "none")
        .done();
}

#[test]
fn nothing_is_said_of_streams_in_http_1() {
    let flow = closed(flow().shake().data(Client, GET).ack(Server)).packet(Server, F | A, b"");
    rule("no HTTP/2")
        .base(&flow, "closed-unanswered")
        .but("a reset", &flow.clone().packet(Client, R, b""), "both-closed")
        .done();
}

/// One step of a conversation that nobody planned: who speaks, what, on which stream, with which flags, and what becomes of it.
#[derive(Clone, Copy, Debug)]
struct Step {
    client: bool,
    what: u8,
    stream: u32,
    flags: u8,
    fate: u8,
}

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
    use proptest::prelude::*;
    let step = (any::<bool>(), 0_u8..10, 1_u32..9, 0_u8..8, 0_u8..24);
    let step =
        step.prop_map(|(client, what, stream, flags, fate)| Step { client, what, stream, flags, fate });
    proptest::collection::vec(step, 0..14)
}

fn conversation(steps: &[Step], end: u8) -> Flow {
    let mut flow = asking(&[1]);
    for step in steps {
        let who = if step.client { Client } else { Server };
        let bytes = match step.what {
            0 | 1 => headers(step.stream, step.flags),
            2 | 3 => data(step.stream, step.flags & 1 == 1, usize::from(step.flags) * 9),
            4 => reset(step.stream, u32::from(step.flags)),
            5 => goaway(step.stream, u32::from(step.flags), b"why"),
            6 => frame(9, step.flags, step.stream, b"more"),
            7 => frame(6, 0, 0, &[0; 8]),
            8 => frame(step.flags + 4, step.flags, step.stream - 1, &vec![7; usize::from(step.flags)]),
            _ => [headers(step.stream, 5), headers(step.stream + 2, 4)].concat(),
        };
        let cut = bytes.len() * usize::from(step.flags) / 8;
        flow = match step.fate {
            // In two segments, with a hole, cut by the snap length, twice, or only half of it.
            0..=3 => flow.data(who, &bytes[..cut]).data(who, &bytes[cut..]),
            4 => flow.data(who, &bytes).with(|packet| packet.seq += 1),
            5 => flow.data(who, &bytes).with(|packet| packet.snap = 66 + cut),
            6 => flow.data(who, &bytes).again(who),
            7 => flow.data(who, &bytes[..cut]),
            8..=14 => flow.data(who, &bytes).ack(who.other()),
            _ => flow.data(who, &bytes),
        };
    }
    match end {
        0 => closed(flow),
        1 => flow.fin(Client).fin(Server).ack(Client),
        2 => flow.rst(Server),
        3 => flow.rst(Client),
        4 => flow.fin(Server).fin(Client).bare(Server),
        5 => flow.fin(Client).bare(Client),
        _ => flow,
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 1_500 }))]

    /// Whatever is said of streams, the checker finds it in the packets.
    #[test]
    fn no_sentence_of_any_conversation_is_refuted(steps in steps(), end in 0_u8..7) {
        let flow = conversation(&steps, end);
        let packets = crate::trace::read_all(
            linger_packet::capture::CaptureReader::in_memory(&flow.file()).unwrap(),
        );
        for finding in flow.findings() {
            let refuted = crate::check::refuted(&packets, &finding);
            let about = refuted.iter().map(ToString::to_string).filter(|words| words.contains("HTTP/2"));
            let about: Vec<String> = about.collect();
            proptest::prop_assert!(about.is_empty(), "{about:?}");
        }
    }
}
