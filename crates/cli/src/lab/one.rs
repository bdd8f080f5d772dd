//! `linger lab --one`: one connection as a ladder.

use std::fmt::Write;
use std::io;
use std::process::ExitCode;

use linger_lab::{Actor, CellPlan, Ending, Link, Named, OneReport, Peer, Setting, StepAction, Stop, one};

use super::look::network;
use super::plan::{Grid, RefusedPlan};
use super::results::must_keep;
use crate::exit;
use crate::lines::{self, line};
use crate::output::Stdout;

/// The cell of which one connection is shown: the one that the options name, by default a loss.
pub(super) fn cell(grid: &Grid, has_links: bool, seed: u64) -> Result<CellPlan, RefusedPlan> {
    let several = |what: &str| (exit::BAD_USAGE, format!("--one: name one {what}, not several"));
    let ending = only(&grid.cells.ending, || Ok(Ending::Close)).map_err(|()| several("ending"))?;
    let peer = only(&grid.cells.peer, || Ok(Peer::Unread)).map_err(|()| several("peer"))?;
    let usual = || Link::named(if has_links { "wifi" } else { "loopback" }).map_err(drop);
    let link = only(&grid.cells.link, usual).map_err(|()| several("link"))?;
    if ending == Ending::Exit {
        let text = "--one: a process that exits takes no notes of its calls; choose another ending";
        return Err((exit::BAD_USAGE, text.to_owned()));
    }
    Ok(grid.cell(ending, peer, link, None, seed))
}

fn only<T: Clone>(given: &[T], usual: impl FnOnce() -> Result<T, ()>) -> Result<T, ()> {
    match given {
        [] => usual(),
        [one] => Ok(one.clone()),
        _ => Err(()),
    }
}

/// Makes the connection, shows it, and judges it as the lab judges a cell.
pub(super) fn run(plan: &CellPlan, setting: &Setting, stop: &Stop, json: bool, at_risk_ok: bool) -> ExitCode {
    let report = match one(plan, setting, stop) {
        Ok(report) => report,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            return ExitCode::from(exit::COULD_NOT_TELL);
        }
        Err(error) => return exit::io("the lab could not be built", &error),
    };
    let mut out = Stdout::new();
    let printed = if json {
        out.json(&line(lines::One::new(plan, &report)))
    } else {
        out.text(format_args!("{}", ladder(plan, &report)))
    };
    let status = match report.attempt.verdict() {
        linger_lab::Verdict::Kept => exit::NOTHING_LOST,
        linger_lab::Verdict::AtRisk if at_risk_ok => exit::NOTHING_LOST,
        // Other endings are expected to lose.
        _ if !must_keep(plan) => exit::NOTHING_LOST,
        _ => exit::LOSS_FOUND,
    };
    match printed.and_then(|()| out.flush()) {
        Ok(()) => ExitCode::from(status),
        Err(stopped) => stopped.end(Some(status)),
    }
}

/// Columns of the client's steps and of the server's.
const SIDE: usize = 40;

fn ladder(plan: &CellPlan, report: &OneReport) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "      ms  {:<SIDE$}server, {}", "client", network(plan));
    for step in &report.steps {
        let ms = step.at.as_secs_f64() * 1e3;
        let what = step.action.to_string();
        // The link's steps stand on the server's side, except a reset that reached the client.
        let at_client = match (step.actor, &step.action) {
            (Actor::Client, _) | (Actor::Link, StepAction::ResetArrived(_)) => true,
            (Actor::Server | Actor::Link, _) => false,
        };
        let line = if at_client { what } else { format!("{:SIDE$}{what}", "") };
        let _ = writeln!(text, "{ms:>8.1}  {line}");
    }
    let attempt = &report.attempt;
    let server = match &report.server_error {
        Some(error) => format!("the server saw: {error}"),
        None => "no call of the server's failed".to_owned(),
    };
    let _ = writeln!(
        text,
        "{}: the client has {} of {} bytes, and {server}",
        attempt.verdict(),
        attempt.received,
        attempt.expected.unwrap_or(plan.response)
    );
    text
}
