//! Asks a question as often as configured, in each of its forms, and keeps the worst answer.

use std::io;
use std::time::Duration;

use crate::check::Check;
use crate::finding::{CheckAnswer, CheckFinding, LeftOut, Unlike};
use crate::judge::by_status;
use crate::learn::answers_plainly;
use crate::prober::Prober;
use crate::seen::ConnectionEnd;

/// If no byte could be written for this long, the server is not reading: go on to the next step.
pub(crate) const STUCK: Duration = Duration::from_millis(300);

/// One way to ask a question.
pub(crate) type Variant<'a> = dyn Fn(&Prober) -> io::Result<CheckFinding> + 'a;

/// Asks each variant as often as configured, and keeps the worst answer. A variant sends at most `body` bytes after its head.
pub(crate) fn worst(prober: &Prober, check: Check, body: usize, variants: &[&Variant<'_>]) -> CheckFinding {
    worst_form(prober, check, body, variants, &|_| String::new())
}

/// The same, where there are several variants: `form` says what the one with that index is.
pub(crate) fn worst_form(
    prober: &Prober,
    check: Check,
    body: usize,
    variants: &[&Variant<'_>],
    form: &dyn Fn(usize) -> String,
) -> CheckFinding {
    let mut findings = Vec::new();
    let body = body + prober.config.payload.len();
    for (index, variant) in variants.iter().enumerate() {
        for _ in 0..prober.config.repeat.max(1) {
            if prober.is_late() {
                findings.push(too_late(check));
                continue;
            }
            if !prober.active && !prober.spent.leaves(body as u64, prober.expected.unwrap_or(0)) {
                let text =
                    "not asked: what may be sent to, or read from, a server that others use, too, is used up";
                let left_out = Some(LeftOut::Budget);
                findings.push(CheckFinding { left_out, ..CheckFinding::undecided(check, text) });
                continue;
            }
            let found = variant(prober).unwrap_or_else(|error| CheckFinding {
                unlike: Some(Unlike::NoAnswer),
                ..CheckFinding::undecided(check, &format!("no connection: {error}"))
            });
            if prober.deadline.has_cut() && !has_lost_by_reset(&found) {
                findings.push(cut_short(check));
                continue;
            }
            let mut found = by_status(&prober.model, found);
            found.form = (variants.len() > 1).then(|| form(index));
            if !prober.active && prober.room() == 0 && found.answer == CheckAnswer::CannotTell {
                found.left_out = Some(LeftOut::Budget);
            }
            findings.push(found);
        }
    }
    if findings.iter().any(is_unanswered) && !prober.is_late() && !answers_plainly(prober) {
        for finding in findings.iter_mut().filter(|finding| is_unanswered(finding)) {
            (finding.answer, finding.verdict) = (CheckAnswer::CannotTell, None);
            finding.unlike = Some(Unlike::NoAnswer);
            finding.sentence =
                "the connection ended before a byte of a response, and so did a plain request's after it: the \
                 question has no part in that"
                    .into();
        }
    }
    // What the budget left out was not asked: it has no end.
    let trials =
        findings.iter().filter(|finding| finding.left_out.is_none() || finding.ended.is_some()).count()
            as u32;
    // Among equal answers the one with the most missing bytes is reported.
    let Some(mut worst) = findings.iter().max_by_key(|finding| (finding.answer, missing(finding))).cloned()
    else {
        return CheckFinding::undecided(check, "nothing was asked");
    };
    // A response that arrived does not make up for a trial in which the server answered with another one, such as 503, or
    // not at all.
    if worst.answer == CheckAnswer::Keeps
        && let Some(other) = findings.iter().find(|finding| finding.unlike.is_some())
    {
        worst = other.clone();
    }
    let is_same = |finding: &&CheckFinding| (finding.answer, finding.unlike) == (worst.answer, worst.unlike);
    let same = findings.iter().filter(is_same).count() as u32;
    (worst.trials, worst.with_this_answer) = (trials, same);
    for finding in findings.iter().filter(|finding| finding.ended.is_some()) {
        worst.forms.extend(finding.form.clone().filter(|form| !worst.forms.contains(form)));
    }
    worst
}

/// A question for which there was no time.
pub(crate) fn too_late(check: Check) -> CheckFinding {
    let text = "not asked: the time in which something was to be asked is over";
    CheckFinding { left_out: Some(LeftOut::Time), ..CheckFinding::undecided(check, text) }
}

/// A question that was asked and not waited for.
pub(crate) fn cut_short(check: Check) -> CheckFinding {
    let text = "given up: the time in which something was to be asked was over before its end";
    CheckFinding { left_out: Some(LeftOut::Time), ..CheckFinding::undecided(check, text) }
}

/// Whether the server itself ended the trial before the time was over, and cut its response.
fn has_lost_by_reset(finding: &CheckFinding) -> bool {
    finding.answer == CheckAnswer::Loses && finding.ended.is_some_and(ConnectionEnd::is_reset)
}

/// Whether the connection ended without a byte of a response. A server that has crashed, or that refuses every second client,
/// does so whatever is asked.
fn is_unanswered(finding: &CheckFinding) -> bool {
    matches!(finding.answer, CheckAnswer::Loses | CheckAnswer::LosesSilently)
        && finding.status.is_none()
        && finding.got == 0
        && finding.ended.is_some()
}

fn missing(finding: &CheckFinding) -> u64 {
    finding.expected.unwrap_or(0).saturating_sub(finding.got)
}
