//! The lab's results for machines: one object a line.

use std::collections::BTreeMap;

use linger_lab::{
    Actor, BacklogReport, Blame, CellPlan, CellReport, ExecReport, Fate, IpVersion, OneReport, Step, Tally,
    Verdict, WireReport,
};
use serde::Serialize;

use super::results::{Outcome, Results};
use crate::counters::counters;

/// One line of `linger lab --json`.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Line<'a> {
    /// A cell, when it is done.
    Cell(Cell<'a>),
    /// A burst on an accept queue, when it is done.
    Backlog(Backlog<'a>),
    /// The whole run, at the end.
    Summary(Summary<'a>),
    /// One connection, step by step.
    One(One<'a>),
    /// What two programs did to each other over a link.
    Exec(Exec),
}

impl Line<'_> {
    pub(crate) fn print(&self) {
        println!("{}", serde_json::json!(self));
    }
}

/// What became of the trials, in cells, bursts and everywhere else.
#[derive(Serialize)]
pub(crate) struct Counted {
    trials: u64,
    kept: u64,
    at_risk: u64,
    lost: u64,
    /// Lost ones that saw a clean end.
    silent: u64,
    /// The 95% interval of the part that was lost.
    wilson_low: f64,
    wilson_high: f64,
    fates: BTreeMap<&'static str, u64>,
}

impl Counted {
    pub(crate) fn of(tally: &Tally) -> Self {
        let (wilson_low, wilson_high) = tally.interval();
        Self {
            trials: tally.trials,
            kept: tally.with(Verdict::Kept),
            at_risk: tally.at_risk,
            lost: tally.lost,
            silent: tally.silent,
            wilson_low,
            wilson_high,
            fates: Fate::ALL.iter().map(|fate| (fate.name(), tally.of(*fate))).collect(),
        }
    }
}

/// What the emulated link did; all null for loopback, which has none.
#[derive(Serialize)]
pub(crate) struct Carried {
    link_carried: Option<u64>,
    link_lost: Option<u64>,
    link_queue_full: Option<u64>,
    link_accidents: Option<u64>,
    link_late_p99_us: Option<u64>,
}

impl Carried {
    fn of(wire: Option<&WireReport>) -> Self {
        Self {
            link_carried: wire.map(|wire| wire.carried),
            link_lost: wire.map(|wire| wire.lost),
            link_queue_full: wire.map(|wire| wire.queue_full),
            link_accidents: wire.map(|wire| wire.accidents),
            link_late_p99_us: wire.map(|wire| wire.lateness.quantile(0.99)),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Cell<'a> {
    ending: String,
    peer: &'static str,
    link: &'a str,
    ip: u8,
    response: u64,
    request: u64,
    #[serde(flatten)]
    counted: Counted,
    reset_before_any: u64,
    timed_out: u64,
    blame: &'static str,
    server_errors: u64,
    /// Lingering closes, by how they ended.
    closes: BTreeMap<String, u64>,
    counters: BTreeMap<&'static str, u64>,
    #[serde(flatten)]
    carried: Carried,
    seed: u64,
    seconds: f64,
}

impl<'a> Cell<'a> {
    pub(crate) fn of(report: &'a CellReport) -> Self {
        let plan = &report.plan;
        Self {
            ending: plan.ending.to_string(),
            peer: plan.peer.name(),
            link: &plan.link.name,
            ip: if plan.ip == IpVersion::V4 { 4 } else { 6 },
            response: plan.response,
            request: plan.request,
            counted: Counted::of(&report.tally),
            reset_before_any: report.tally.of(Fate::ResetBeforeAny),
            timed_out: report.tally.of(Fate::TimedOut),
            blame: Blame::find(&report.tally, &report.counters).name(),
            server_errors: report.server_errors,
            closes: report.endings.iter().map(|(ended, count)| (ended.to_string(), *count)).collect(),
            counters: counters(&report.counters),
            carried: Carried::of(report.wire.as_ref()),
            seed: plan.seed,
            seconds: report.elapsed.as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Backlog<'a> {
    backlog: u32,
    clients: u16,
    abort_on_overflow: bool,
    link: &'a str,
    #[serde(flatten)]
    counted: Counted,
    reset_before_any: u64,
    timed_out: u64,
    blame: &'static str,
    counters: BTreeMap<&'static str, u64>,
    seconds: f64,
}

impl<'a> Backlog<'a> {
    pub(crate) fn of(report: &'a BacklogReport) -> Self {
        Self {
            backlog: report.plan.backlog,
            clients: report.plan.clients,
            abort_on_overflow: report.plan.abort_on_overflow,
            link: &report.plan.link.name,
            counted: Counted::of(&report.tally),
            reset_before_any: report.tally.of(Fate::ResetBeforeAny),
            timed_out: report.tally.of(Fate::TimedOut),
            blame: Blame::find(&report.tally, &report.counters).name(),
            counters: counters(&report.counters),
            seconds: report.elapsed.as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Summary<'a> {
    seed: u64,
    outcome: Outcome,
    cells: usize,
    planned: usize,
    again: &'a str,
    namespaces: bool,
}

impl<'a> Summary<'a> {
    pub(crate) fn of(results: &'a Results) -> Self {
        Self {
            seed: results.seed,
            outcome: results.outcome(),
            cells: results.done().count(),
            planned: results.tasks.len(),
            again: &results.again,
            namespaces: !results.shared,
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Exec {
    seed: u64,
    client_status: Option<i32>,
    server_counters: BTreeMap<&'static str, u64>,
    client_counters: BTreeMap<&'static str, u64>,
    #[serde(flatten)]
    carried: Carried,
}

impl Exec {
    pub(crate) fn of(report: &ExecReport, seed: u64) -> Self {
        Self {
            seed,
            client_status: report.client.and_then(|status| status.code()),
            server_counters: counters(&report.server_counters),
            client_counters: counters(&report.client_counters),
            carried: Carried::of(report.wire.as_ref()),
        }
    }
}

/// One connection, for machines.
#[derive(Serialize)]
pub(crate) struct One<'a> {
    ending: String,
    peer: &'static str,
    link: &'a str,
    verdict: Verdict,
    fate: &'static str,
    received: u64,
    expected: Option<u64>,
    server_error: Option<String>,
    steps: Vec<StepObject>,
    seed: u64,
}

#[derive(Serialize)]
struct StepObject {
    seconds: f64,
    actor: &'static str,
    action: String,
}

impl StepObject {
    fn of(step: &Step) -> Self {
        let actor = match step.actor {
            Actor::Client => "client",
            Actor::Server => "server",
            Actor::Link => "link",
        };
        Self { seconds: step.at.as_secs_f64(), actor, action: step.action.to_string() }
    }
}

impl<'a> One<'a> {
    pub(crate) fn of(plan: &'a CellPlan, report: &OneReport) -> Self {
        let attempt = &report.attempt;
        Self {
            ending: plan.ending.to_string(),
            peer: plan.peer.name(),
            link: &plan.link.name,
            verdict: attempt.verdict(),
            fate: attempt.fate.name(),
            received: attempt.received,
            expected: attempt.expected,
            server_error: report.server_error.as_ref().map(ToString::to_string),
            steps: report.steps.iter().map(StepObject::of).collect(),
            seed: plan.seed,
        }
    }
}
