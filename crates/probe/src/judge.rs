//! Derives the answer from the result of one trial.

use linger_verdict::{Observation, Verdict};

use crate::check::Check;
use crate::dialect::RequestShape;
use crate::finding::{CheckAnswer, CheckFinding, Unlike};
use crate::learn::{learn_again, lengths};
use crate::model::{Amount, Lengths, Model};
use crate::prober::Prober;
use crate::seen::{ConnectionEnd, TrialResult};

/// Judges the result of a trial with the request `ask`, of which the response should have arrived completely.
pub(crate) fn judge(prober: &Prober, check: Check, ask: RequestShape, mut seen: TrialResult) -> CheckFinding {
    if is_another_without_framing(prober, ask, &seen) {
        // The lengths of the plain response say nothing of this one, and its end is an end.
        (seen.expected, seen.complete) = (Some(seen.got), true);
    } else if seen.unframed && !seen.is_endless && seen.invalid.is_none() {
        measure(&mut seen, lengths(prober, ask));
        // Shorter than ever before: a response may have another length each time.
        if seen.ended == ConnectionEnd::Closed
            && !seen.complete
            && !seen.is_unsure
            && prober.config.expect.is_none()
        {
            measure(&mut seen, learn_again(prober, ask));
            // Other responses are as short now. That proves neither a loss nor a complete response.
            (seen.is_unsure, seen.complete) = (seen.is_unsure || seen.complete, false);
        }
    }
    let unlike = prober.model.unlike(check, ask, &seen);
    let (answer, verdict, mut sentence) = answer(&seen, &prober.model, unlike);
    if prober.model.is_short
        && !seen.complete
        && matches!(answer, CheckAnswer::Loses | CheckAnswer::LosesSilently)
    {
        let why = if seen.expected.is_some() { "its announced length" } else { "its framing" };
        sentence.push_str(&format!(
            "; the plain response, read without delay, was short as well: {why} is wrong, or the application fails"
        ));
    }
    if answer == CheckAnswer::AtRisk && seen.complete && seen.ended.is_reset() && prober.address.is_unix() {
        sentence = format!(
            "all {} bytes arrived, as they do over a unix socket, but the server closed with bytes of the client's unread: a \
             client whose read or write then fails may take the response for failed",
            seen.got
        );
    }
    let unlike = unlike.filter(|_| answer == CheckAnswer::CannotTell && seen.complete);
    CheckFinding { verdict, unlike, ..CheckFinding::of(check, answer, &seen, sentence) }
}

/// Whether the plain request, with something behind it, was answered with another status and without framing, as a refusal is that
/// ends with the connection: bjoern's 400 to bytes behind a request has neither a length nor a body.
fn is_another_without_framing(prober: &Prober, ask: RequestShape, seen: &TrialResult) -> bool {
    let is_orderly = seen.ended == ConnectionEnd::Closed && !seen.is_endless && seen.invalid.is_none();
    seen.unframed
        && is_orderly
        && !ask.has_body()
        && seen.status.is_some()
        && seen.status != prober.model.status
}

/// Compares a response without framing with others to the same request.
fn measure(seen: &mut TrialResult, lengths: Option<Lengths>) {
    let amount = lengths.map(|lengths| lengths.amount(seen.got));
    seen.expected = lengths.map(|lengths| lengths.shortest);
    seen.complete = amount == Some(Amount::Whole);
    seen.is_unsure = amount == Some(Amount::Unsure);
}

/// Whether a gateway says with this status that the application's response did not reach it.
pub(crate) fn is_gateways_failure(status: Option<u16>) -> bool {
    matches!(status, Some(502 | 504))
}

fn gateways_failure(status: Option<u16>) -> String {
    format!("a gateway answered {}: it did not get the application's response", status.unwrap_or(0))
}

fn other_response(plain: Option<u16>, status: u16) -> String {
    let usual = plain.map_or("another status".to_owned(), |plain| plain.to_string());
    format!(
        "it answered {status} instead of {usual}: that this arrived says nothing of the response that is asked about"
    )
}

/// The finding, unless a response arrived that is not the one that was asked about.
pub(crate) fn by_status(model: &Model, mut finding: CheckFinding) -> CheckFinding {
    let Some(status) = finding.status.filter(|_| finding.answer == CheckAnswer::Keeps) else {
        return finding;
    };
    if is_gateways_failure(finding.status) && !is_gateways_failure(model.status) {
        (finding.answer, finding.verdict) = (CheckAnswer::Loses, Some(Verdict::Lost));
        finding.sentence = gateways_failure(finding.status);
    } else if model.is_unlike(finding.status) {
        (finding.answer, finding.verdict) = (CheckAnswer::CannotTell, None);
        finding.sentence = other_response(model.status, status);
        finding.unlike = Some(Unlike::Status);
    }
    finding
}

/// The answer, the verdict on the response, and a sentence about both. `unlike` says why this response, if it arrived, tells
/// nothing about how the plain one ends ([`Model::unlike`]).
fn answer(
    seen: &TrialResult,
    model: &Model,
    unlike: Option<Unlike>,
) -> (CheckAnswer, Option<Verdict>, String) {
    let plain = model.status;
    let (answer, verdict, mut sentence) = by_bytes(seen, plain);
    let kept = answer == CheckAnswer::Keeps;
    match (seen.status, unlike.filter(|_| kept)) {
        (_, Some(Unlike::Length)) => {
            let sentence = format!(
                "{} bytes arrived where the plain response has {}: it is another response, of which nothing could be lost",
                seen.got, model.got
            );
            return (CheckAnswer::CannotTell, None, sentence);
        }
        (Some(status), Some(_)) => return (CheckAnswer::CannotTell, None, other_response(plain, status)),
        (Some(status), None) if Some(status) != plain && !sentence.contains("answered") => {
            sentence.push_str(&format!("; it answered {status}"));
        }
        _ => {}
    }
    (answer, verdict, sentence)
}

fn by_bytes(seen: &TrialResult, plain: Option<u16>) -> (CheckAnswer, Option<Verdict>, String) {
    let (got, ended) = (seen.got, seen.ended);
    if seen.is_endless {
        let sentence =
            format!("{got} bytes arrived in {:.1} s, and there was no end", seen.elapsed.as_secs_f64());
        return (CheckAnswer::CannotTell, None, sentence);
    }
    let of = seen.expected.map_or("an unknown number of".to_owned(), |expected| expected.to_string());
    if is_gateways_failure(seen.status) && !is_gateways_failure(plain) {
        return (CheckAnswer::Loses, Some(Verdict::Lost), gateways_failure(seen.status));
    }
    if let Some(invalid) = seen.invalid.as_ref().filter(|_| !ended.is_reset()) {
        let sentence = format!("what came is {invalid}: a client gives up there");
        return (CheckAnswer::CannotTell, None, sentence);
    }
    let reset = ended.is_reset();
    let what = match &seen.code {
        Some(code) => format!("the stream ({code})"),
        None => "the connection".into(),
    };
    let verdict = Observation { complete: seen.complete, reset, write_failed: seen.write_failed }.verdict();
    let (answer, sentence) = match verdict {
        Verdict::Kept if seen.unframed && seen.is_tls_cut => {
            let sentence = format!(
                "all {got} bytes arrived, but only the connection's end shows that, and it came without the end of TLS \
                 (close_notify): wget and other strict clients take such a response for cut (RFC 9112 section 9.8)"
            );
            return (CheckAnswer::AtRisk, Some(Verdict::AtRisk), sentence);
        }
        Verdict::Kept => {
            let end =
                if ended == ConnectionEnd::Open { "left the connection open" } else { "closed in order" };
            (CheckAnswer::Keeps, format!("all {got} bytes arrived, and the server {end}"))
        }
        Verdict::AtRisk if reset => {
            let text = match &seen.code {
                None => "what is still on its way at that moment is lost",
                Some(_) => "a client that is still sending takes the response for failed",
            };
            (
                CheckAnswer::AtRisk,
                format!("all {got} bytes arrived, but the server then reset {what}: {text}"),
            )
        }
        Verdict::AtRisk => {
            let text =
                "arrived, but a write of the client's failed: one that stops there does not see the response";
            (CheckAnswer::AtRisk, format!("all {got} bytes {text}"))
        }
        Verdict::Lost if reset && seen.is_unsure => {
            let sentence = format!(
                "{got} bytes arrived before the server reset {what}; plain responses have {of} and more, each another \
                 number, so that these may be all"
            );
            return (CheckAnswer::AtRisk, Some(Verdict::AtRisk), sentence);
        }
        Verdict::Lost if reset => {
            (CheckAnswer::Loses, format!("{got} of {of} bytes arrived before the server reset {what}"))
        }
        Verdict::Lost if ended != ConnectionEnd::Closed => {
            let seconds = seen.elapsed.as_secs_f64();
            (CheckAnswer::Stalls, format!("{got} of {of} bytes arrived, and then nothing for {seconds:.1} s"))
        }
        Verdict::Lost => return short_in_order(seen, &of),
    };
    (answer, Some(verdict), sentence)
}

/// Fewer bytes than there were to be, and then an orderly end. `of`: how many there were to be.
fn short_in_order(seen: &TrialResult, of: &str) -> (CheckAnswer, Option<Verdict>, String) {
    let got = seen.got;
    if seen.is_unsure {
        let sentence = format!(
            "{got} bytes arrived and then an orderly end; plain responses have {of} and more, each another number, and no \
             framing: whether these are all its bytes cannot be known"
        );
        return (CheckAnswer::CannotTell, None, sentence);
    }
    if seen.expected.is_some() || !seen.unframed || got == 0 {
        let sentence = format!("{got} of {of} bytes arrived, and then an orderly end of stream");
        return (CheckAnswer::LosesSilently, Some(Verdict::Lost), sentence);
    }
    let text =
        "the response has no framing: whether these are all its bytes shows only where their number is known";
    (CheckAnswer::CannotTell, None, format!("{got} bytes arrived and then an orderly end; {text}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    fn whole() -> TrialResult {
        TrialResult {
            got: 300_000,
            expected: Some(300_000),
            complete: true,
            unframed: false,
            is_endless: false,
            is_unsure: false,
            location: None,
            status: Some(200),
            server: None,
            framing: "content-length",
            ended: ConnectionEnd::Closed,
            code: None,
            invalid: None,
            is_tls_cut: false,
            write_failed: false,
            elapsed: Duration::ZERO,
            round_trip: Duration::ZERO,
            counters: BTreeMap::new(),
        }
    }

    fn plain(status: u16) -> Model {
        let mut model = Model::default();
        (model.status, model.got) = (Some(status), 300_000);
        model
    }

    fn judged(seen: &TrialResult) -> (CheckAnswer, Option<Verdict>) {
        let (answer, verdict, _) = answer(seen, &plain(200), None);
        (answer, verdict)
    }

    #[test]
    fn one_field_away_from_a_kept_response() {
        assert_eq!(judged(&whole()), (CheckAnswer::Keeps, Some(Verdict::Kept)));
        let at_risk = (CheckAnswer::AtRisk, Some(Verdict::AtRisk));
        for ended in [ConnectionEnd::Reset, ConnectionEnd::ClosedThenReset] {
            assert_eq!(judged(&TrialResult { ended, ..whole() }), at_risk, "{ended}");
        }
        assert_eq!(judged(&TrialResult { write_failed: true, ..whole() }), at_risk);
        assert_eq!(judged(&TrialResult { ended: ConnectionEnd::Open, ..whole() }).0, CheckAnswer::Keeps);
        let silent = (CheckAnswer::LosesSilently, Some(Verdict::Lost));
        assert_eq!(judged(&TrialResult { complete: false, ..whole() }), silent);
        assert_eq!(
            judged(&TrialResult { status: Some(502), ..whole() }),
            (CheckAnswer::Loses, Some(Verdict::Lost))
        );
    }

    #[test]
    fn missing_bytes_are_lost_by_a_reset_or_silently_or_still_awaited() {
        let part = || TrialResult { complete: false, got: 1_024, ..whole() };
        assert_eq!(judged(&TrialResult { ended: ConnectionEnd::Reset, ..part() }).0, CheckAnswer::Loses);
        assert_eq!(
            judged(&TrialResult { ended: ConnectionEnd::ClosedThenReset, ..part() }).0,
            CheckAnswer::Loses
        );
        assert_eq!(judged(&part()).0, CheckAnswer::LosesSilently);
        assert_eq!(judged(&TrialResult { ended: ConnectionEnd::Silent, ..part() }).0, CheckAnswer::Stalls);
    }

    #[test]
    fn a_stream_that_is_reset_is_named_with_its_code() {
        let ended = ConnectionEnd::StreamReset;
        let reset = || TrialResult { ended, code: Some("CANCEL".into()), ..whole() };
        let (answer_, _, sentence) = answer(&reset(), &plain(200), None);
        assert_eq!(answer_, CheckAnswer::AtRisk);
        assert!(sentence.contains("reset the stream (CANCEL): a client that is still sending"), "{sentence}");
        let cut = TrialResult { complete: false, got: 3, ..reset() };
        let (answer_, _, sentence) = answer(&cut, &plain(200), None);
        assert_eq!(answer_, CheckAnswer::Loses);
        assert!(sentence.contains("3 of 300000 bytes arrived before the server reset the stream (CANCEL)"));
    }

    #[test]
    fn an_end_without_framing_decides_nothing() {
        let unframed = || TrialResult { complete: false, unframed: true, expected: None, ..whole() };
        assert_eq!(judged(&unframed()), (CheckAnswer::CannotTell, None));
        assert_eq!(judged(&TrialResult { got: 0, ..unframed() }).0, CheckAnswer::LosesSilently);
        assert_eq!(judged(&TrialResult { ended: ConnectionEnd::Reset, ..unframed() }).0, CheckAnswer::Loses);
    }

    #[test]
    fn a_gateway_that_always_fails_loses_nothing_by_the_question() {
        let seen = TrialResult { status: Some(502), ..whole() };
        assert_eq!(answer(&seen, &plain(502), None).0, CheckAnswer::Keeps);
    }

    #[test]
    fn another_answer_that_arrives_says_nothing_and_one_that_is_lost_is_lost() {
        let busy = || TrialResult { status: Some(503), ..whole() };
        let judged = |seen: &TrialResult, unlike| answer(seen, &plain(200), unlike).0;
        assert_eq!(judged(&busy(), Some(Unlike::Status)), CheckAnswer::CannotTell);
        assert_eq!(judged(&busy(), None), CheckAnswer::Keeps);
        let reset = TrialResult { ended: ConnectionEnd::Reset, complete: false, got: 3, ..busy() };
        assert_eq!(judged(&reset, Some(Unlike::Status)), CheckAnswer::Loses);
        let (_, _, refused) = answer(&TrialResult { status: Some(413), ..whole() }, &plain(200), None);
        assert!(refused.ends_with("; it answered 413"), "{refused}");
        assert!(!answer(&whole(), &plain(200), None).2.contains("answered"));
    }

    #[test]
    fn a_little_less_of_a_varying_length_is_unsure_and_far_less_is_lost() {
        let page = |got| {
            let mut seen = TrialResult { unframed: true, got, ..whole() };
            measure(&mut seen, Some(Lengths::of(99_000).and(101_000)));
            judged(&seen).0
        };
        assert_eq!(page(99_000), CheckAnswer::Keeps);
        assert_eq!(page(98_999), CheckAnswer::CannotTell);
        assert_eq!(page(60_000), CheckAnswer::LosesSilently);
        let reset = |got| {
            let mut seen = TrialResult { unframed: true, got, ended: ConnectionEnd::Reset, ..whole() };
            measure(&mut seen, Some(Lengths::of(99_000).and(101_000)));
            judged(&seen)
        };
        let at_risk = (CheckAnswer::AtRisk, Some(Verdict::AtRisk));
        assert_eq!((reset(99_000), reset(98_999)), (at_risk, at_risk));
        assert_eq!(reset(60_000).0, CheckAnswer::Loses);
    }

    #[test]
    fn an_end_without_close_notify_is_a_risk_where_nothing_else_shows_the_end() {
        let cut = || TrialResult { unframed: true, is_tls_cut: true, ..whole() };
        assert_eq!(judged(&cut()), (CheckAnswer::AtRisk, Some(Verdict::AtRisk)));
        let kept = (CheckAnswer::Keeps, Some(Verdict::Kept));
        assert_eq!(judged(&TrialResult { is_tls_cut: false, ..cut() }), kept);
        assert_eq!(judged(&TrialResult { unframed: false, ..cut() }), kept);
    }

    #[test]
    fn a_response_without_end_decides_nothing() {
        let seen = TrialResult { is_endless: true, complete: false, ended: ConnectionEnd::Silent, ..whole() };
        assert_eq!(judged(&seen), (CheckAnswer::CannotTell, None));
    }
}
