//! A hunt as a report for CI: a test case for each decade of pauses that was searched. What was not searched to the end never
//! passes.

use std::collections::BTreeMap;
use std::time::SystemTime;

use linger_hunt::html::{Hunted, Replayed};
use linger_hunt::{HuntPlan, HuntReport, SearchEnd, Story, TrialCounts, milliseconds};
use linger_untrusted::message;

use crate::exit;
use crate::junit::{Suite, TestCase, TestResult};

/// What is hunted, since when, and the command that does it again.
pub(super) struct HuntRun {
    /// The command of the server or the client, or the server's URL.
    pub(super) server: String,
    pub(super) hunted: Hunted,
    pub(super) again: String,
    pub(super) started: SystemTime,
}

/// The name of the case of the plain request.
const PLAIN: &str = "plain-response";
/// A loss, a loss that did not come again, a risk: the kinds of failures.
const LOST: &str = "lost";
const LOST_ONCE: &str = "lost once";
const AT_RISK: &str = "at risk";

/// The report on a search.
pub(super) fn searched(
    run: &HuntRun,
    report: &HuntReport,
    plan: &HuntPlan,
    status: u8,
    at_risk_ok: bool,
) -> Suite {
    let plain = match &report.client {
        Some(client) => client.to_string(),
        None => format!("{}, {} bytes, from {}", report.status, report.response_bytes, report.site),
    };
    let mut cases = vec![case(run, PLAIN, TestResult::Passed, plain)];
    let longest = u64::try_from(plan.longest_pause.as_millis()).unwrap_or(u64::MAX);
    for (decade, counts) in decades(report, longest) {
        cases.push(searched_decade(run, report, decade, counts, at_risk_ok));
    }
    if let SearchEnd::ServerEnded { status, said } = &report.ended {
        let mut ended = case(
            run,
            "server-stays",
            TestResult::Error("the server ended"),
            format!("the server ended ({status}) after {} schedules", report.searched.schedules),
        );
        ended.details.extend((!said.is_empty()).then(|| format!("it said last:\n{}", message(said))));
        cases.push(ended);
    }
    let mut suite = suite(run, cases, status);
    suite.properties.push(("seed", plan.seed.to_string()));
    suite.properties.push(("schedules", report.searched.schedules.to_string()));
    suite.properties.push(("response-bytes", report.response_bytes.to_string()));
    suite
}

/// The decades of the pauses that could be drawn, from 0 (none) on, and what came of their schedules.
fn decades(report: &HuntReport, longest: u64) -> BTreeMap<u64, TrialCounts> {
    let mut decades = BTreeMap::from([(0, TrialCounts::default())]);
    let mut from = 1u64;
    while from <= longest {
        decades.insert(from, TrialCounts::default());
        from = from.saturating_mul(10);
    }
    for (cell, counts) in report.searched.map.cells() {
        let decade = decades.entry(decade(cell.pauses_from_ms)).or_default();
        decade.kept += counts.kept;
        decade.at_risk += counts.at_risk;
        decade.lost += counts.lost;
        decade.undecided += counts.undecided;
    }
    decades
}

fn decade(milliseconds: u64) -> u64 {
    milliseconds.checked_ilog10().map_or(0, |magnitude| 10u64.pow(magnitude))
}

fn of(story: &Story) -> u64 {
    decade(u64::try_from(story.schedule.pauses().as_millis()).unwrap_or(u64::MAX))
}

fn searched_decade(
    run: &HuntRun,
    report: &HuntReport,
    decade: u64,
    counts: TrialCounts,
    at_risk_ok: bool,
) -> TestCase {
    let TrialCounts { kept, at_risk, lost, undecided, .. } = counts;
    let name = match decade {
        0 => "no-pause".to_owned(),
        _ => format!("pauses-from-{}", milliseconds(decade).replace(' ', "")),
    };
    let counted = format!("{kept} kept, {at_risk} at risk, {lost} lost, {undecided} undecided");
    // What was found is told where its shortest story lies: that is the same from run to run.
    if let Some(found) = report.found.as_ref().filter(|found| of(&found.story) == decade) {
        let race = if found.repeats.is_race() { ": a race" } else { "" };
        let sentence = format!("lost: {}, in {}{race}", found.lost, found.repeats);
        let mut case = case(run, &name, TestResult::Failed(LOST), sentence);
        case.details.extend(steps(&found.story));
        case.details.extend(found.bounds.iter().map(ToString::to_string));
        case.details.push(format!("drawn was number {} of the seed: {}", found.index, found.drawn));
        case.details.push(format!("schedules: {counted}"));
        case.details.push(format!("again: {}", run.again));
        return case;
    }
    let once = report.unrepeated.iter().find(|once| of(&once.story) == decade);
    if let Some(once) = once {
        let sentence = format!("{}: {}", once.again(), once.lost);
        let mut case = case(run, &name, TestResult::Failed(LOST_ONCE), sentence);
        case.details.extend(steps(&once.story));
        case.details.push(format!("schedules: {counted}"));
        case.details.push(format!("again: {}", run.again));
        return case;
    }
    if at_risk > 0 && !at_risk_ok {
        let mut case = case(run, &name, TestResult::Failed(AT_RISK), format!("at risk: {counted}"));
        let first = report.at_risk.as_ref().filter(|story| of(story) == decade);
        case.details.extend(first.into_iter().flat_map(steps));
        case.details.push(format!("again: {}", run.again));
        return case;
    }
    let ended = match &report.ended {
        SearchEnd::Time => None,
        SearchEnd::Found => Some("the search ended at a loss"),
        SearchEnd::Stopped => Some("the hunt was interrupted"),
        SearchEnd::ServerEnded { .. } => Some("the server ended"),
        _ => Some("the search ended"),
    };
    match ended {
        Some(ended) => case(run, &name, TestResult::Skipped, format!("{ended}; until then {counted}")),
        None if kept + at_risk == 0 => {
            case(run, &name, TestResult::Skipped, format!("no schedule says anything: {counted}"))
        }
        None => case(run, &name, TestResult::Passed, counted),
    }
}

/// What the side that is played does, in lines.
fn steps(story: &Story) -> Vec<String> {
    let steps = story.schedule.steps.iter().enumerate();
    let steps = steps.map(|(index, step)| format!("  {}  {step}", index + 1));
    let ending = story.ending().map(|ending| format!("     {ending}"));
    std::iter::once(story.side()).chain(steps).chain(ending).collect()
}

/// The report on a story that was repeated.
pub(super) fn replayed(run: &HuntRun, replayed: &Replayed<'_>, status: u8, at_risk_ok: bool) -> Suite {
    let repeats = replayed.repeats;
    let interrupted = replayed.interrupted().map_or(String::new(), |so_far| format!("; {so_far}"));
    let (result, sentence) = match replayed.lost {
        Some(lost) => (TestResult::Failed(LOST), format!("lost: {lost}, in {repeats}")),
        None if repeats.at_risk > 0 && !at_risk_ok => {
            let sentence = format!("at risk in {} of {} trials", repeats.at_risk, repeats.tried);
            (TestResult::Failed(AT_RISK), sentence)
        }
        None => {
            let sentence = format!(
                "nothing lost in {} trials, {} at risk, {} say nothing",
                repeats.tried,
                repeats.at_risk,
                repeats.tried - repeats.judged
            );
            let is_told = status == exit::NOTHING_LOST;
            (if is_told { TestResult::Passed } else { TestResult::Skipped }, sentence)
        }
    };
    let mut story = case(run, "story", result, sentence + &interrupted);
    story.details.extend(steps(replayed.story));
    story.details.push(format!("again: {}", run.again));
    suite(run, vec![story], status)
}

/// The report on a hunt that could not begin.
pub(super) fn failed(run: &HuntRun, error: &str) -> Suite {
    let mut plain = case(run, PLAIN, TestResult::Error("no answer"), message(error));
    plain.details.push(format!("again: {}", run.again));
    suite(run, vec![plain], exit::COULD_NOT_TELL)
}

fn case(run: &HuntRun, name: &str, result: TestResult, sentence: String) -> TestCase {
    let class = format!("linger.hunt {}", run.server);
    TestCase { name: name.to_owned(), class, seconds: 0.0, result, sentence, details: Vec::new() }
}

fn suite(run: &HuntRun, cases: Vec<TestCase>, status: u8) -> Suite {
    Suite {
        name: format!("linger hunt {}", run.server),
        properties: vec![
            (if run.hunted == Hunted::Client { "client" } else { "server" }, run.server.clone()),
            ("again", run.again.clone()),
            ("exit-status", status.to_string()),
        ],
        cases,
        started: run.started,
        ended: SystemTime::now(),
    }
}
