//! The oracle on clients, case by case, each with what is one field away.

use linger_verdict::Verdict;

use crate::client_judge::{ClientEnd, ClientTrial, OutputRule, PlainClient, judge_client};
use crate::judge::Unjudged;
use crate::report::ClientLossKind;
use crate::serve::{ServedConnection, ServedEnd, ServedExchange, content};

/// A request and a response that came whole, and whose client had them.
const WHOLE: ServedExchange = ServedExchange {
    asked: true,
    announced: Some(50),
    received: 50,
    whole_request: true,
    body: Some(100),
    written: 100,
    answered: true,
    delivered: true,
    kept: false,
};
/// The same, of which the client's kernel has not acknowledged the end.
const UNDER_WAY: ServedExchange = ServedExchange { delivered: false, ..WHOLE };
const CUT: ServedExchange = ServedExchange { written: 60, answered: false, delivered: false, ..WHOLE };
const NONE: ServedExchange =
    ServedExchange { body: None, written: 0, answered: false, delivered: false, ..WHOLE };

fn half(exchange: ServedExchange) -> ServedExchange {
    ServedExchange { received: 20, whole_request: false, ..exchange }
}

fn trial(exchanges: &[ServedExchange], end: ServedEnd, status: Option<i32>, output: &[u8]) -> ClientTrial {
    let served = ServedConnection { client: None, exchanges: exchanges.to_vec(), end };
    let end = ClientEnd { status, output: output.to_vec() };
    ClientTrial { served: vec![served], end, is_halted: false, was_reset: false }
}

fn plain(output: OutputRule) -> PlainClient {
    PlainClient { requests: 1, output, status: 200, is_http: true }
}

fn judged(trial: &ClientTrial, plain: &PlainClient) -> Result<(Verdict, Option<ClientLossKind>), Unjudged> {
    let (verdict, lost) = judge_client(trial, plain);
    let verdict = verdict?;
    let kind = lost.by_client.map(|client| client.kind);
    Ok((verdict, kind.filter(|_| verdict == Verdict::Lost)))
}

const KEPT: Result<(Verdict, Option<ClientLossKind>), Unjudged> = Ok((Verdict::Kept, None));

fn lost(kind: ClientLossKind) -> Result<(Verdict, Option<ClientLossKind>), Unjudged> {
    Ok((Verdict::Lost, Some(kind)))
}

#[test]
fn a_client_loses_what_its_kernel_had_and_nothing_else() {
    let body = content(0, 100);
    let of = |exchange, end, status, output: &[u8]| {
        judged(&trial(&[exchange], end, Some(status), output), &plain(OutputRule::Bodies))
    };
    assert_eq!(of(WHOLE, ServedEnd::Fin, 0, &body), KEPT);
    assert_eq!(of(WHOLE, ServedEnd::Closed, 1, b""), lost(ClientLossKind::Response));
    assert_eq!(of(UNDER_WAY, ServedEnd::Closed, 1, b""), Err(Unjudged::NotDelivered), "it says so, rightly");
    assert_eq!(of(CUT, ServedEnd::Closed, 1, b""), Err(Unjudged::NotDelivered));
    assert_eq!(of(NONE, ServedEnd::Closed, 1, b""), Err(Unjudged::NotDelivered));
    assert_eq!(of(half(WHOLE), ServedEnd::Closed, 1, b""), lost(ClientLossKind::Response), "an early answer");
    // It has its response, and something else failed, as the rest of its upload.
    assert_eq!(of(half(WHOLE), ServedEnd::Closed, 55, &body), Ok((Verdict::AtRisk, None)));
    assert_eq!(of(half(WHOLE), ServedEnd::Closed, 55, &body[..99]), lost(ClientLossKind::Response));
    // A status of 0 is not enough where the output is known.
    assert_eq!(of(WHOLE, ServedEnd::Closed, 0, &body[..99]), lost(ClientLossKind::Response));
    let wrong: Vec<u8> = body.iter().map(|byte| byte ^ 1).collect();
    assert_eq!(of(WHOLE, ServedEnd::Fin, 0, &wrong), lost(ClientLossKind::Response), "other bytes");
    // The acknowledgement was lost, and the output shows that the client had it.
    assert_eq!(of(UNDER_WAY, ServedEnd::Closed, 0, &body), KEPT);
}

#[test]
fn a_client_that_is_content_with_half_of_a_response_has_lost_the_rest() {
    let free = plain(OutputRule::Free);
    let of = |exchange, end, status| judged(&trial(&[exchange], end, status, b""), &free);
    assert_eq!(of(CUT, ServedEnd::Closed, Some(0)), lost(ClientLossKind::Cut));
    assert_eq!(of(CUT, ServedEnd::Closed, Some(18)), Err(Unjudged::NotDelivered));
    assert_eq!(of(NONE, ServedEnd::Closed, Some(0)), Err(Unjudged::Unanswered), "it may not want one");
    assert_eq!(of(CUT, ServedEnd::Closed, None), Err(Unjudged::Silent));
    let written = judged(&trial(&[UNDER_WAY], ServedEnd::Closed, Some(0), b"x"), &plain(OutputRule::Bodies));
    assert_eq!(written, lost(ClientLossKind::Cut), "written, not delivered, and not in its output");
}

#[test]
fn an_upload_is_lost_if_the_client_is_content_and_the_server_wanted_the_rest() {
    let free = plain(OutputRule::Free);
    let of = |exchange, end, plain: &PlainClient| judged(&trial(&[exchange], end, Some(0), b""), plain);
    for end in [ServedEnd::Fin, ServedEnd::Reset, ServedEnd::Closed] {
        assert_eq!(of(half(NONE), end, &free), lost(ClientLossKind::Upload), "{end:?}");
        assert_eq!(
            of(half(CUT), end, &free),
            lost(ClientLossKind::Cut),
            "{end:?}: it has begun to be answered"
        );
    }
    // It has its answer. Then it counts whether the server wanted more, and who ended.
    let kept = ServedExchange { kept: true, ..half(WHOLE) };
    assert_eq!(of(kept, ServedEnd::Closed, &free), KEPT, "the server has closed");
    assert_eq!(of(half(WHOLE), ServedEnd::Fin, &free), KEPT, "the server has said that it will");
    assert_eq!(of(kept, ServedEnd::Reset, &free), lost(ClientLossKind::Upload));
    assert_eq!(of(kept, ServedEnd::Fin, &free), lost(ClientLossKind::Upload));
    // Answered before it began to send, as behind `Expect: 100-continue`.
    assert_eq!(of(ServedExchange { received: 0, ..kept }, ServedEnd::Fin, &free), KEPT);
    assert_eq!(
        of(ServedExchange { received: 1, ..kept }, ServedEnd::Fin, &free),
        lost(ClientLossKind::Upload)
    );
    let refused = PlainClient { status: 413, ..free.clone() };
    assert_eq!(of(kept, ServedEnd::Fin, &refused), KEPT, "a refusal ends an upload");
    assert_eq!(of(WHOLE, ServedEnd::Reset, &free), Ok((Verdict::AtRisk, None)), "a reset behind all of it");
    // Without HTTP nobody knows what a response means that comes before all of the upload has.
    let raw = PlainClient { is_http: false, ..free.clone() };
    assert_eq!(of(half(WHOLE), ServedEnd::Closed, &raw), lost(ClientLossKind::Upload));
    assert_eq!(of(WHOLE, ServedEnd::Closed, &raw), KEPT);
    let failed = |exchange| judged(&trial(&[exchange], ServedEnd::Closed, Some(1), b""), &raw);
    assert_eq!(failed(half(WHOLE)), Err(Unjudged::NotDelivered), "it says so, rightly");
    assert_eq!(failed(WHOLE), lost(ClientLossKind::Response));
}

#[test]
fn of_two_responses_both_have_to_be_there_and_a_second_attempt_counts() {
    let two = PlainClient { requests: 2, ..plain(OutputRule::Bodies) };
    let both = [content(0, 100), content(0, 100)].concat();
    let of = |exchanges: &[ServedExchange], status, output: &[u8], plain| {
        judged(&trial(exchanges, ServedEnd::Closed, Some(status), output), plain)
    };
    assert_eq!(of(&[WHOLE, WHOLE], 0, &both, &two), KEPT);
    assert_eq!(of(&[WHOLE, WHOLE], 0, &both[..100], &two), lost(ClientLossKind::Response));
    assert_eq!(of(&[WHOLE, CUT], 1, &both[..100], &two), Err(Unjudged::NotDelivered), "one was not sent");
    assert_eq!(of(&[WHOLE], 0, &both[..100], &two), lost(ClientLossKind::Cut), "content with one of two");
    let one = plain(OutputRule::Bodies);
    assert_eq!(of(&[WHOLE, WHOLE], 0, &both[..100], &one), KEPT, "it has asked again");
}

#[test]
fn without_a_connection_or_to_its_end_nothing_is_told() {
    let mut nothing = trial(&[], ServedEnd::Fin, Some(7), b"");
    nothing.served.clear();
    assert_eq!(judged(&nothing, &plain(OutputRule::Free)), Err(Unjudged::NotConnected));
    let halted = ClientTrial { is_halted: true, ..trial(&[WHOLE], ServedEnd::Fin, Some(0), b"") };
    assert_eq!(judged(&halted, &plain(OutputRule::Free)), Err(Unjudged::Halted));
}

#[test]
fn what_an_output_has_to_be_is_learnt_or_asked_for() {
    let of = |body: u64, output: &[u8]| {
        trial(&[ServedExchange { body: Some(body), ..WHOLE }], ServedEnd::Fin, Some(0), output)
    };
    let bodies = [of(9, &content(0, 9)), of(50, &content(0, 50))];
    assert_eq!(OutputRule::learn(&bodies), OutputRule::Bodies);
    assert_eq!(OutputRule::learn(&[of(9, b"ok"), of(50, b"ok")]), OutputRule::Always(b"ok".to_vec()));
    assert_eq!(OutputRule::learn(&[of(9, b"9"), of(50, b"50")]), OutputRule::Free);
    let lost = lost(ClientLossKind::Response);
    for (rule, right, wrong) in [
        (OutputRule::Always(b"ok".to_vec()), &b"ok"[..], &b"o"[..]),
        (OutputRule::Bytes(2), b"ok", b"okay"),
        // printf ok | sha256sum
        (
            OutputRule::Sha256([
                0x26, 0x89, 0x36, 0x7b, 0x20, 0x5c, 0x16, 0xce, 0x32, 0xed, 0x42, 0x00, 0x94, 0x2b, 0x8b,
                0x8b, 0x1e, 0x26, 0x2d, 0xfc, 0x70, 0xd9, 0xbc, 0x9f, 0xbc, 0x77, 0xc4, 0x96, 0x99, 0xa4,
                0xf1, 0xdf,
            ]),
            b"ok",
            b"oK",
        ),
    ] {
        assert_eq!(judged(&of(9, right), &plain(rule.clone())), KEPT);
        assert_eq!(judged(&of(9, wrong), &plain(rule)), lost);
    }
}
