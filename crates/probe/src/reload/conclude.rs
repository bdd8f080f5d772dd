//! From what became of the requests to the answer.

use linger_verdict::Verdict;

use super::around::ReloadRun;
use super::attempt::AttemptFate;
use super::by::ReloadBy;
use super::counted::{ReloadFound, ReloadShown, RequestCounts};
use crate::check::Check;
use crate::finding::{CheckAnswer, CheckFinding};
use crate::prober::Prober;

/// The finding of all reloads.
pub(super) fn conclude(prober: &Prober, by: &ReloadBy, runs: &[ReloadRun]) -> CheckFinding {
    let sum = |of: fn(&ReloadRun) -> RequestCounts| {
        runs.iter().map(of).fold(RequestCounts::default(), RequestCounts::and)
    };
    // All of them must be shown.
    let shown = runs.iter().map(|run| run.shown).min().flatten();
    let found = ReloadFound {
        is_stop: by.is_stop(),
        times: runs.len() as u32,
        shown,
        under_way: runs.iter().map(|run| run.under_way).sum(),
        before: sum(|run| run.before),
        during: sum(|run| run.during),
        after: sum(|run| run.after),
    };
    let lost = runs.iter().flat_map(|run| &run.failed);
    let lost = lost.filter(|one| matches!(one.fate, AttemptFate::Cut | AttemptFate::Unanswered));
    // A handshake that was reset has no finding.
    let worst =
        lost.map(|one| one.finding.as_ref().map_or(CheckAnswer::Loses, |finding| finding.answer)).max();
    let (answer, sentence) = answer(&found, worst);
    let decides = |fate: AttemptFate| match answer {
        CheckAnswer::AtRisk => matches!(fate, AttemptFate::AtRisk | AttemptFate::Crossed),
        CheckAnswer::CannotTell => fate == AttemptFate::Other,
        _ => matches!(fate, AttemptFate::Cut | AttemptFate::Unanswered),
    };
    let failed = runs.iter().flat_map(|run| &run.failed);
    // Of several the one that shows most: with the answer that counts, if there is one.
    let decisive = failed
        .filter(|one| decides(one.fate))
        .filter_map(|one| one.finding.as_ref())
        .max_by_key(|finding| (Some(finding.answer) == worst, finding.got));
    let undecided = CheckFinding::undecided(Check::Reload, "");
    let mut finding = decisive.cloned().unwrap_or(undecided);
    let both = found.during.and(found.after);
    finding.trials = if answer == CheckAnswer::Refuses { both.all() } else { both.connected() };
    finding.with_this_answer = match answer {
        CheckAnswer::Keeps => both.connected(),
        CheckAnswer::Refuses => both.refused,
        CheckAnswer::AtRisk => both.at_risk,
        CheckAnswer::CannotTell => both.other,
        _ => both.lost,
    };
    finding.verdict = match answer {
        CheckAnswer::Keeps => Some(Verdict::Kept),
        CheckAnswer::AtRisk => Some(Verdict::AtRisk),
        CheckAnswer::Loses | CheckAnswer::LosesSilently => Some(Verdict::Lost),
        _ => None,
    };
    finding.expected = finding.expected.or(prober.expected);
    (finding.answer, finding.sentence, finding.reload, finding.unlike) =
        (answer, sentence, Some(found), None);
    finding
}

/// `worst`: the worst answer to a request that was lost.
fn answer(found: &ReloadFound, worst: Option<CheckAnswer>) -> (CheckAnswer, String) {
    let both = found.during.and(found.after);
    let (what, done) = if found.is_stop { ("stop", "stopped") } else { ("reload", "reloaded") };
    let refused = match both.refused {
        0 => String::new(),
        1 => "; 1 connection was refused".to_owned(),
        many => format!("; {many} connections were refused"),
    };
    let is_gone = found.after.kept + found.after.at_risk == 0 && found.after.refused > 0;
    let gone = if is_gone && !found.is_stop { ", and it does not serve any more" } else { "" };
    if let Some(worst) = worst.filter(|_| both.lost > 0) {
        let risked = if both.at_risk > 0 { format!(", and {} at risk", both.at_risk) } else { String::new() };
        let resets = match both.reset {
            0 => String::new(),
            1 => " (1 reset)".to_owned(),
            many => format!(" ({many} resets)"),
        };
        let begun = match found.under_way {
            0 => String::new(),
            1 => "; 1 response had begun when it was told".to_owned(),
            many => format!("; {many} responses had begun when it was told"),
        };
        let sentence = format!(
            "{} of {} requests that met the {what} were lost{risked}{resets}{refused}{gone}{begun}",
            both.lost,
            both.connected()
        );
        return (worst, sentence);
    }
    let Some(shown) = found.shown else {
        let sentence = format!(
            "nothing shows that it has {done}: the same processes hold the same socket, and nothing was refused"
        );
        return (CheckAnswer::CannotTell, sentence);
    };
    let shown = shown.sentence();
    if both.refused > 0 && !found.is_stop {
        let sentence = format!(
            "{shown}; {} of {} connections around the {what} were refused, and no request was lost{gone}",
            both.refused,
            both.all()
        );
        return (CheckAnswer::Refuses, sentence);
    }
    if found.is_stop && found.after.kept > 0 && found.shown < Some(ReloadShown::Ended) {
        return (CheckAnswer::CannotTell, format!("it was told to stop, and goes on to answer: {shown}"));
    }
    if both.at_risk > 0 && found.before.at_risk == 0 {
        let sentence = format!(
            "{shown}; {} of {} requests that met the {what} were at risk, and none was lost: they were on a connection that the server had \
             just ended{}, or a reset followed their response{refused}",
            both.at_risk,
            both.connected(),
            if found.is_stop { ", or in the queue of its listening socket" } else { "" },
        );
        return (CheckAnswer::AtRisk, sentence);
    }
    if both.other > 0 {
        let sentence = format!(
            "{shown}; {} of {} requests that met the {what} had another answer than the plain one",
            both.other,
            both.connected()
        );
        return (CheckAnswer::CannotTell, sentence);
    }
    if found.during.kept == 0 {
        return (CheckAnswer::CannotTell, format!("{shown}, but no request met the {what}"));
    }
    let begun = match found.under_way {
        0 => String::new(),
        1 => ", 1 of them begun before".to_owned(),
        many => format!(", {many} of them begun before"),
    };
    let later = if found.is_stop { refused } else { String::new() };
    let sentence = format!(
        "{shown}; all {} requests that met the {what} or followed it were answered in full{begun}{later}",
        both.kept
    );
    (CheckAnswer::Keeps, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(kept: u32) -> RequestCounts {
        RequestCounts { kept, ..RequestCounts::default() }
    }

    fn reload() -> ReloadFound {
        ReloadFound {
            is_stop: false,
            times: 1,
            shown: Some(ReloadShown::Processes),
            under_way: 3,
            before: kept(20),
            during: kept(100),
            after: kept(20),
        }
    }

    fn stop() -> ReloadFound {
        let after = RequestCounts { refused: 20, ..RequestCounts::default() };
        ReloadFound { is_stop: true, shown: Some(ReloadShown::Ended), after, ..reload() }
    }

    fn of(found: ReloadFound) -> CheckAnswer {
        let lost = found.during.lost + found.after.lost;
        answer(&found, (lost > 0).then_some(CheckAnswer::Loses)).0
    }

    #[test]
    fn one_field_away_from_a_reload_that_keeps() {
        assert_eq!(of(reload()), CheckAnswer::Keeps);
        assert_eq!(of(ReloadFound { shown: None, ..reload() }), CheckAnswer::CannotTell);
        assert_eq!(of(ReloadFound { shown: Some(ReloadShown::Command), ..reload() }), CheckAnswer::Keeps);
        let met = |during: RequestCounts| of(ReloadFound { during, ..reload() });
        assert_eq!(met(RequestCounts { lost: 1, ..kept(99) }), CheckAnswer::Loses);
        assert_eq!(met(RequestCounts { refused: 1, ..kept(99) }), CheckAnswer::Refuses);
        assert_eq!(met(RequestCounts { at_risk: 1, ..kept(99) }), CheckAnswer::AtRisk);
        assert_eq!(met(RequestCounts { other: 1, ..kept(99) }), CheckAnswer::CannotTell);
        assert_eq!(met(kept(0)), CheckAnswer::CannotTell);
        // A loss needs no proof of a reload, and what was at risk before is not the reload's doing.
        let during = RequestCounts { lost: 1, ..kept(99) };
        assert_eq!(of(ReloadFound { shown: None, during, ..reload() }), CheckAnswer::Loses);
        let before = RequestCounts { at_risk: 1, ..kept(19) };
        let during = RequestCounts { at_risk: 1, ..kept(99) };
        assert_eq!(of(ReloadFound { before, during, ..reload() }), CheckAnswer::Keeps);
    }

    #[test]
    fn what_a_server_refuses_is_right_when_it_has_stopped_only() {
        assert_eq!(of(stop()), CheckAnswer::Keeps);
        assert_eq!(of(ReloadFound { is_stop: false, ..stop() }), CheckAnswer::Refuses);
        assert_eq!(of(ReloadFound { shown: None, ..stop() }), CheckAnswer::CannotTell);
        let during = RequestCounts { lost: 1, ..kept(99) };
        assert_eq!(of(ReloadFound { during, ..stop() }), CheckAnswer::Loses);
        // It refused one, and goes on.
        let after = kept(20);
        let goes_on = ReloadFound { after, shown: Some(ReloadShown::Refused), ..stop() };
        assert_eq!(of(goes_on), CheckAnswer::CannotTell);
        // Another was started in its place.
        assert_eq!(of(ReloadFound { shown: Some(ReloadShown::Socket), ..goes_on }), CheckAnswer::Keeps);
    }

    #[test]
    fn refused_and_reset_are_both_told() {
        let during = RequestCounts { lost: 3, reset: 2, refused: 4, ..kept(93) };
        let (_, sentence) = answer(&ReloadFound { during, ..reload() }, Some(CheckAnswer::Loses));
        assert_eq!(
            sentence,
            "3 of 116 requests that met the reload were lost (2 resets); 4 connections were refused; 3 responses had begun when it was \
             told"
        );
        let gone = ReloadFound { is_stop: false, ..stop() };
        let (_, sentence) = answer(&gone, None);
        assert!(sentence.ends_with("20 of 120 connections around the reload were refused, and no request was lost, and it does not serve any more"), "{sentence}");
    }
}
