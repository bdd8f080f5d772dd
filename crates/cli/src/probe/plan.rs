//! What a probe is going to ask, told before the first byte.

use std::process::ExitCode;
use std::time::Duration;

use linger_probe::{Cost, ProbePlan, QUIET};

use crate::exit;
use crate::lines::{self, line};
use crate::output::{Stdout, Stopped, say};

/// Says on standard error what the probe will cost the server, and who may notice.
pub(crate) fn say(plan: &ProbePlan, within: Duration) {
    let costs = &plan.costs;
    let seconds = within.as_secs();
    let asked = || costs.iter().filter_map(|(_, cost)| *cost);
    let connections: u64 = asked().map(|cost| cost.connections).sum::<u64>() + plan.plain_connections;
    let sent: u64 = asked().map(|cost| cost.sent).sum();
    if costs.iter().any(|(_, cost)| cost.is_none()) || asked().all(is_a_visitors) {
        say!(
            "linger: asks as a visitor does: GET, at most {connections} connections, one at a time, at most {} each way; it ends after {seconds} s",
            megabytes(QUIET)
        );
        return;
    }
    let posts = if asked().any(|cost| cost.posts) { "GET and POST" } else { "GET" };
    let held = asked().map(|cost| cost.held).max().unwrap_or(0);
    let held = if held > 0 {
        format!(", {held} of them held open: a server with few workers serves nobody else meanwhile")
    } else {
        String::new()
    };
    let reloads = asked().map(|cost| cost.reloads).sum();
    let told = match told(plan, reloads) {
        Some(told) => format!("; the server is {told}, which all its users may notice"),
        None => String::new(),
    };
    say!(
        "linger: {posts}, at most {connections} connections, {} sent{held}{told}; it ends after {seconds} s",
        megabytes(sent)
    );
}

/// What the server is told, if anything.
fn told(plan: &ProbePlan, reloads: u64) -> Option<String> {
    match reloads {
        0 => None,
        _ if plan.is_stop => Some("told to stop".to_owned()),
        1 => Some("told to reload".to_owned()),
        times => Some(format!("told to reload {times} times")),
    }
}

/// Whether a visitor asks for as much.
fn is_a_visitors(cost: Cost) -> bool {
    !cost.posts && cost.held == 0 && cost.sent <= QUIET
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Prints each question with what it costs at most, for `--dry-run`.
pub(crate) fn print(plan: &ProbePlan, json: bool) -> ExitCode {
    let mut out = Stdout::new();
    match table(&mut out, plan, json) {
        Ok(()) => ExitCode::from(exit::NOTHING_LOST),
        Err(stopped) => stopped.end(Some(exit::NOTHING_LOST)),
    }
}

fn table(out: &mut Stdout, plan: &ProbePlan, json: bool) -> Result<(), Stopped> {
    if json {
        for (check, cost) in &plan.costs {
            out.json(&line(lines::WouldAsk::new(*check, *cost)))?;
        }
        return out.flush();
    }
    out.text(format_args!(
        "{:<19}{:<14}{:>11} {:>10}  {}\n",
        "check", "requests", "connections", "sent", "held open"
    ))?;
    for (check, cost) in &plan.costs {
        match cost {
            Some(cost) => {
                let requests = if cost.posts { "GET, POST" } else { "GET" };
                let told =
                    told(plan, cost.reloads).map_or(String::new(), |told| format!("; the server is {told}"));
                out.text(format_args!(
                    "{:<19}{requests:<14}{:>11} {:>10}  {}{told}\n",
                    check.name(),
                    cost.connections,
                    cost.sent,
                    cost.held
                ))?;
            }
            None => out.text(format_args!("{:<19}not asked; --active asks it\n", check.name()))?,
        }
    }
    out.flush()
}
