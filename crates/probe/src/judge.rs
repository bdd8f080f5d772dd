//! Derives the answer from the result of one trial.

use linger_verdict::{Observation, Verdict};

use crate::finding::{Check, CheckAnswer, CheckFinding};
use crate::prober::Prober;
use crate::seen::{ConnectionEnd, TrialResult};

/// Judges a trial whose response should have arrived completely.
pub(crate) fn judge(prober: &Prober, check: Check, mut seen: TrialResult, like_plain: bool) -> CheckFinding {
    if seen.unframed && like_plain {
        seen.expected = prober.expected;
        seen.complete = seen.expected.is_some_and(|expected| seen.got >= expected);
    }
    let (answer, verdict, sentence) = answer(&seen, prober.status);
    CheckFinding { verdict, ..CheckFinding::of(check, answer, &seen, sentence) }
}

/// The answer, the verdict on the response, and a sentence about both. `plain` is the status of the plain response.
fn answer(seen: &TrialResult, plain: Option<u16>) -> (CheckAnswer, Option<Verdict>, String) {
    let (got, ended) = (seen.got, seen.ended);
    let of = seen.expected.map_or("an unknown number of".to_owned(), |expected| expected.to_string());
    let gateway_failed = |status| matches!(status, Some(502 | 504));
    if gateway_failed(seen.status) && !gateway_failed(plain) {
        let status = seen.status.unwrap_or(0);
        let sentence = format!("a gateway answered {status}: it did not get the application's response");
        return (CheckAnswer::Loses, Some(Verdict::Lost), sentence);
    }
    let reset = ended.is_reset();
    let verdict = Observation { complete: seen.complete, reset, write_failed: seen.write_failed }.verdict();
    let (answer, sentence) = match verdict {
        Verdict::Kept => {
            let end =
                if ended == ConnectionEnd::Open { "left the connection open" } else { "closed in order" };
            (CheckAnswer::Keeps, format!("all {got} bytes arrived, and the server {end}"))
        }
        Verdict::AtRisk if reset => {
            let text = "arrived, but the server then reset the connection: what is still on its way at that moment is lost";
            (CheckAnswer::AtRisk, format!("all {got} bytes {text}"))
        }
        Verdict::AtRisk => {
            let text =
                "arrived, but a write of the client's failed: one that stops there does not see the response";
            (CheckAnswer::AtRisk, format!("all {got} bytes {text}"))
        }
        Verdict::Lost if reset => (
            CheckAnswer::Loses,
            format!("{got} of {of} bytes arrived before the server reset the connection"),
        ),
        Verdict::Lost if ended != ConnectionEnd::Closed => {
            let seconds = seen.elapsed.as_secs_f64();
            (CheckAnswer::Stalls, format!("{got} of {of} bytes arrived, and then nothing for {seconds:.1} s"))
        }
        Verdict::Lost if seen.expected.is_some() || !seen.unframed || got == 0 => (
            CheckAnswer::LosesSilently,
            format!("{got} of {of} bytes arrived, and then an orderly end of stream"),
        ),
        Verdict::Lost => {
            let text = "the response has no framing: whether these are all its bytes shows only where their number is known";
            let sentence = format!("{got} bytes arrived and then an orderly end; {text}");
            return (CheckAnswer::CannotTell, None, sentence);
        }
    };
    (answer, Some(verdict), sentence)
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
            status: Some(200),
            server: None,
            framing: "content-length",
            ended: ConnectionEnd::Closed,
            write_failed: false,
            elapsed: Duration::ZERO,
            counters: BTreeMap::new(),
        }
    }

    fn judged(seen: &TrialResult) -> (CheckAnswer, Option<Verdict>) {
        let (answer, verdict, _) = answer(seen, Some(200));
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
    fn an_end_without_framing_decides_nothing() {
        let unframed = || TrialResult { complete: false, unframed: true, expected: None, ..whole() };
        assert_eq!(judged(&unframed()), (CheckAnswer::CannotTell, None));
        assert_eq!(judged(&TrialResult { got: 0, ..unframed() }).0, CheckAnswer::LosesSilently);
        assert_eq!(judged(&TrialResult { ended: ConnectionEnd::Reset, ..unframed() }).0, CheckAnswer::Loses);
    }

    #[test]
    fn a_gateway_that_always_fails_loses_nothing_by_the_question() {
        let seen = TrialResult { status: Some(502), ..whole() };
        assert_eq!(answer(&seen, Some(502)).0, CheckAnswer::Keeps);
    }
}
