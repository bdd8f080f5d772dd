//! `linger lab --one`: one connection as a ladder.

use std::fmt::Write;
use std::io;
use std::process::ExitCode;

use linger_lab::{
    Actor, CellClient, CellPlan, Ending, Link, Named, OneReport, Peer, Setting, StepAction, Stop, Verdict,
    one,
};
use linger_netns::IsolationRefused;

use super::capture::finish as finish_capture;
use super::files::{self, LabPage, OneCapture};
use super::look::network;
use super::plan::{Grid, RefusedPlan};
use super::results::{must_keep, name};
use super::{LabArguments, again, capture, capture_path, text};
use crate::lines::{self, line};
use crate::output::{Stdout, Stopped, say};
use crate::{exit, interrupt};

/// Makes the connection, shows it, and judges it as the lab judges a cell.
pub(super) fn run(
    arguments: &LabArguments,
    entered: Result<(), IsolationRefused>,
    seed: u64,
    page: LabPage,
) -> ExitCode {
    let shared = entered.is_err();
    let plan = match cell(&arguments.grid, !shared, seed) {
        Ok(plan) => plan,
        Err((code, error)) => return exit::fail(code, error),
    };
    if let Err(refused) = entered {
        if !plan.link.loopback {
            return exit::fail(exit::NOT_POSSIBLE_HERE, refused);
        }
        say!("linger: {refused}\nlinger: over loopback, in this machine's own network");
    }
    let stop = match interrupt::stop() {
        Ok(stop) => stop,
        Err(error) => return exit::io("cannot take signals", &error),
    };
    let named = match capture(&plan, &name(&plan), arguments) {
        Ok(named) => named,
        Err(error) => return exit::io("--pcap", &error),
    };
    let nameless = match page.capture(&plan, named.is_some()) {
        Ok(nameless) => nameless,
        Err(error) => return exit::io("a temporary file for the capture", &error),
    };
    let open = named.as_ref().map(|(_, open)| open).or(nameless.as_ref().map(|one| &one.open));
    let setting = Setting { capture: open.cloned(), decisions: false, shared };
    let (report, printed) = match make(&plan, &setting, &stop, arguments.output.json) {
        Ok(done) => done,
        Err(code) => {
            return match finish_capture(named) {
                Ok(()) => code,
                Err(error) => exit::io("--pcap", &error),
            };
        }
    };
    let is_named = named.is_some();
    if let Err(error) = finish_capture(named) {
        return exit::io("--pcap", &error);
    }
    let nameless = match nameless.map(OneCapture::finish).transpose() {
        Ok(nameless) => nameless,
        Err(error) => return exit::io("a temporary file for the capture", &error),
    };
    let path =
        arguments.pcap.as_ref().filter(|_| is_named).map(|directory| capture_path(directory, &name(&plan)));
    let path = path.as_deref().or(nameless.as_ref().map(|capture| capture.path()));
    let status = status(&plan, &report, arguments.at_risk.at_risk_ok);
    let written = page.write_one(&plan, &report, path, &again(seed));
    match printed {
        Ok(()) => files::status(written, status),
        Err(stopped) => stopped.end(Some(status)),
    }
}

/// The cell of which one connection is shown: the one that the options name, by default a loss.
fn cell(grid: &Grid, has_links: bool, seed: u64) -> Result<CellPlan, RefusedPlan> {
    let several = |what: &str| (exit::BAD_USAGE, format!("--one: name one {what}, not several"));
    let ending = only(&grid.cells.ending, || Ok(Ending::Close)).map_err(|()| several("ending"))?;
    let peer = only(&grid.cells.peer, || Ok(Peer::Unread)).map_err(|()| several("peer"))?;
    let usual = || Link::named(if has_links { "wifi" } else { "loopback" }).map_err(drop);
    let link = only(&grid.cells.link, usual).map_err(|()| several("link"))?;
    if ending == Ending::Exit {
        let text = "--one: a process that exits takes no notes of its calls; choose another ending";
        return Err((exit::BAD_USAGE, text.to_owned()));
    }
    let client = only(&grid.cells.client, || Ok(CellClient::default())).map_err(|()| several("client"))?;
    if let CellClient::Real(real) = client {
        let text = format!("--one: `{real}` takes no notes of its calls; choose a model of a client");
        return Err((exit::BAD_USAGE, text));
    }
    Ok(grid.cell(ending, (peer, client), link, None, seed))
}

fn only<T: Clone>(given: &[T], usual: impl FnOnce() -> Result<T, ()>) -> Result<T, ()> {
    match given {
        [] => usual(),
        [one] => Ok(one.clone()),
        _ => Err(()),
    }
}

/// Makes the connection and shows it. Returns what came of it, and whether it could be printed.
///
/// # Errors
/// Returns the exit status after saying why there is none.
fn make(
    plan: &CellPlan,
    setting: &Setting,
    stop: &Stop,
    json: bool,
) -> Result<(OneReport, Result<(), Stopped>), ExitCode> {
    let report = match one(plan, setting, stop) {
        Ok(report) => report,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            return Err(ExitCode::from(exit::COULD_NOT_TELL));
        }
        Err(error) => return Err(exit::io("the lab could not be built", &error)),
    };
    let mut out = Stdout::new();
    let printed = if json {
        out.json(&line(lines::One::new(plan, &report)))
    } else {
        out.text(format_args!("{}", ladder(plan, &report)))
    };
    let printed = printed.and_then(|()| out.flush());
    Ok((report, printed))
}

/// The connection is judged as the lab judges a cell.
fn status(plan: &CellPlan, report: &OneReport, at_risk_ok: bool) -> u8 {
    match report.attempt.verdict() {
        Verdict::Kept => exit::NOTHING_LOST,
        Verdict::AtRisk if at_risk_ok => exit::NOTHING_LOST,
        // Other endings are expected to lose.
        _ if !must_keep(plan) => exit::NOTHING_LOST,
        _ => exit::LOSS_FOUND,
    }
}

/// Columns of the client's steps and of the server's.
const SIDE: usize = 40;

fn ladder(plan: &CellPlan, report: &OneReport) -> String {
    let mut shown = String::new();
    let _ = writeln!(shown, "      ms  {:<SIDE$}server, {}", "client", network(plan));
    for step in &report.steps {
        let ms = step.at.as_secs_f64() * 1e3;
        let what = step.action.to_string();
        // The link's steps stand on the server's side, except a reset that reached the client.
        let at_client = match (step.actor, &step.action) {
            (Actor::Client, _) | (Actor::Link, StepAction::ResetArrived(_)) => true,
            (Actor::Server | Actor::Link, _) => false,
        };
        let line = if at_client { what } else { format!("{:SIDE$}{what}", "") };
        let _ = writeln!(shown, "{ms:>8.1}  {line}");
    }
    let _ = writeln!(shown, "{}", text::verdict(plan, report));
    shown
}
