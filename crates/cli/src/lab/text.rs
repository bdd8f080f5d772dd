//! The lab's results for people: a table, and what it means.

use std::fmt::Write;

use linger_lab::{
    BacklogReport, Blame, CellPlan, CellReport, Decision, Direction, Ending, Fate, Identity, OneReport, Peer,
    Tally, wilson,
};

use linger_untrusted::to_json;

use super::look::{DIM, WIDTH, style};
use super::network::{NetworkCheck, NetworkOutcome};
use super::results::{Results, Show, TaskReport};
use super::sizes::Differing;
use super::three;
use crate::lines::{self, line};

/// The tables, the backlog experiment and the meaning.
pub(crate) fn render(results: &Results) -> String {
    let mut text = String::new();
    let cells = cells(results);
    match &results.show {
        Show::Three => three::rows(&mut text, &cells),
        Show::Grid { titles } => grid(&mut text, titles, &cells, results),
    }
    for line in expected(results).iter().chain(&reservations(results)) {
        let _ = writeln!(text, "{line}");
    }
    let _ = writeln!(text, "{DIM}seed {}; again: {}{DIM:#}", results.seed, results.again);
    text
}

/// The results of all cells.
pub(super) fn cells(results: &Results) -> Vec<&CellReport> {
    let done = results.done();
    done.filter_map(|(_, report)| if let TaskReport::Cell(report) = report { Some(&**report) } else { None })
        .collect()
}

/// The results of the experiments with a full accept queue.
pub(super) fn bursts(results: &Results) -> Vec<&BacklogReport> {
    let done = results.done();
    done.filter_map(
        |(_, report)| if let TaskReport::Backlog(report) = report { Some(&**report) } else { None },
    )
    .collect()
}

/// What must be known of the results before they are believed.
pub(super) fn reservations(results: &Results) -> Vec<String> {
    let mut all = Vec::new();
    if results.shared {
        all.push("The counters are those of the whole machine: no private network could be had.".to_owned());
    }
    if results.interrupted {
        all.push(format!(
            "Interrupted: {} of {} experiments were begun, the last of them are cut short.",
            results.done().count(),
            results.tasks.len()
        ));
    }
    all
}

/// The results of the experiments with several hosts.
pub(super) fn networks(results: &Results) -> Vec<&NetworkOutcome> {
    let done = results.done();
    done.filter_map(
        |(_, report)| if let TaskReport::Network(outcome) = report { Some(&**outcome) } else { None },
    )
    .collect()
}

fn grid(text: &mut String, titles: &[String], cells: &[&CellReport], results: &Results) {
    let networks = networks(results);
    // Each of these stands under its own title.
    for title in titles.iter().filter(|title| networks.iter().all(|network| network.plan.title != **title)) {
        let _ = writeln!(text, "{title}");
    }
    for network in networks {
        let _ = writeln!(text, "{}", network.plan.title);
        network.render(text);
    }
    let sizes = results.sizes();
    for group in groups(cells) {
        table(text, &group, &sizes);
    }
    let bursts = bursts(results);
    backlog(text, &bursts);
    for sentence in sentences(cells, &bursts) {
        let _ = writeln!(text, "{}", textwrap::fill(&sentence, WIDTH));
    }
}

/// Cells that share link, sizes and client, in the order of their first appearance.
pub(super) fn groups<'a>(cells: &[&'a CellReport]) -> Vec<Vec<&'a CellReport>> {
    let mut groups: Vec<Vec<&CellReport>> = Vec::new();
    for cell in cells {
        let key = |cell: &CellReport| {
            let CellPlan { response, request, extra, upload, ip, client, busy, .. } = cell.plan;
            (response, request, extra, upload, ip, client, busy)
        };
        let is_like = |other: &CellReport| key(other) == key(cell) && other.plan.link == cell.plan.link;
        match groups.iter_mut().find(|group| is_like(group[0])) {
            Some(group) => group.push(cell),
            None => groups.push(vec![cell]),
        }
    }
    groups
}

/// Lost responses of all, `3/10`; if some are at risk, `3+2/10`.
fn counted(tally: &Tally) -> String {
    match tally.at_risk {
        0 => format!("{}/{}", tally.lost, tally.trials),
        at_risk => format!("{}+{at_risk}/{}", tally.lost, tally.trials),
    }
}

pub(super) fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    items.fold(Vec::new(), |mut seen, item| {
        if !seen.contains(&item) {
            seen.push(item);
        }
        seen
    })
}

fn table(text: &mut String, cells: &[&CellReport], sizes: &Differing) {
    let first = cells[0];
    let words = sizes.words(&first.plan);
    if !words.is_empty() {
        let _ = writeln!(text, "{words}");
    }
    let peers = distinct(cells.iter().map(|cell| cell.plan.peer));
    if !first.plan.client.is_usual() {
        let _ = writeln!(text, "the client: {}", first.plan.client);
    }
    let _ = write!(text, "{:<15}", first.plan.link.name);
    for peer in &peers {
        let _ = write!(text, "{peer:<17}");
    }
    let _ = writeln!(text, "{DIM}aborts: close data linger  resets{DIM:#}");
    for ending in distinct(cells.iter().map(|cell| cell.plan.ending)) {
        let _ = write!(text, "{ending:<15}");
        let row: Vec<&&CellReport> = cells.iter().filter(|cell| cell.plan.ending == ending).collect();
        for peer in &peers {
            match row.iter().find(|cell| cell.plan.peer == *peer) {
                Some(cell) => {
                    let tally = &cell.tally;
                    let (low, high) = tally.interval();
                    let range = format!("{:.0}-{:.0}%", low * 100.0, high * 100.0);
                    let (style, counted) = (style(tally), counted(tally));
                    let rest = 16usize.saturating_sub(counted.len().max(7));
                    let _ = write!(text, "{style}{counted:>7}{style:#} {DIM}{range:<rest$}{DIM:#}");
                }
                None => {
                    let _ = write!(text, "{:<17}", "");
                }
            }
        }
        let sum = |name: &str| row.iter().map(|cell| cell.counters.of(name)).sum::<u64>();
        let (close, data, linger) = (sum("TCPAbortOnClose"), sum("TCPAbortOnData"), sum("TCPAbortOnLinger"));
        let _ = writeln!(text, "{DIM}{close:>13} {data:>4} {linger:>6} {:>7}{DIM:#}", sum("OutRsts"));
    }
    let at_risk: u64 = cells.iter().map(|cell| cell.tally.at_risk).sum();
    if at_risk > 0 {
        let _ = writeln!(
            text,
            "  A+B/N: A lost and B at risk. {at_risk} were at risk: every byte arrived, and then the connection was reset."
        );
    }
    for remark in remarks(cells) {
        let _ = writeln!(text, "  {remark}");
    }
    let _ = writeln!(text);
}

/// What the numbers of a table do not show.
pub(super) fn remarks(cells: &[&CellReport]) -> Vec<String> {
    let mut all = Vec::new();
    let silent: u64 = cells.iter().map(|cell| cell.tally.silent).sum();
    if silent > 0 {
        all.push(format!("{silent} of the losses were silent: a short response with a clean end."));
    }
    let unanswered: u64 = cells.iter().map(|cell| cell.tally.unanswered).sum();
    if unanswered > 0 {
        all.push(format!(
            "{unanswered} of the lost had no response: the server wrote none, and its close had nothing to lose."
        ));
    }
    let accidents: u64 = cells.iter().filter_map(|cell| cell.wire.as_ref()).map(|wire| wire.accidents).sum();
    if accidents > 0 {
        all.push(format!("{accidents} frames were lost by this machine, not by the link: it is too busy."));
    }
    let boxes = cells.iter().filter_map(|cell| cell.wire.as_ref()?.middlebox);
    if let Some(counts) = boxes.reduce(|sum, counts| sum + counts) {
        all.push(format!("The middlebox {counts}."));
    }
    let blamed = cells.iter().filter(|cell| Blame::of(cell) == Blame::Middlebox);
    let (lost, at_risk) =
        blamed.fold((0, 0), |(lost, at_risk), cell| (lost + cell.tally.lost, at_risk + cell.tally.at_risk));
    if lost + at_risk > 0 {
        all.push(format!(
            "It is the cause of what was not kept ({lost} lost, {at_risk} at risk): the server's kernel aborted nothing."
        ));
    }
    all
}

fn backlog(text: &mut String, bursts: &[&BacklogReport]) {
    let Some(first) = bursts.first() else { return };
    let _ = writeln!(
        text,
        "{:<31}{:<17}{DIM}reset before any  timed out before any      drops{DIM:#}",
        format!("accept queue ({} clients)", first.plan.clients),
        "lost",
    );
    for burst in bursts {
        let tally = &burst.tally;
        let how = if burst.plan.abort_on_overflow { ", abort_on_overflow" } else { "" };
        let (style, counted) = (style(tally), counted(tally));
        let (low, high) = tally.interval();
        let range = format!("{:.0}-{:.0}%", low * 100.0, high * 100.0);
        let _ = writeln!(
            text,
            "{:<31}{style}{counted:>7}{style:#} {DIM}{range:<9}{:>16}  {:>20}  {:>9}{DIM:#}",
            format!("backlog {}{how}", burst.plan.backlog),
            tally.of(Fate::ResetBeforeAny),
            tally.of(Fate::TimedOut),
            burst.counters.of("ListenDrops"),
        );
    }
    let _ = writeln!(text);
}

/// What the numbers mean, in sentences that are made of the numbers.
pub(super) fn sentences(cells: &[&CellReport], bursts: &[&BacklogReport]) -> Vec<String> {
    let mut text = String::new();
    meaning(&mut text, cells, bursts);
    text.lines().map(str::to_owned).collect()
}

fn meaning(text: &mut String, cells: &[&CellReport], bursts: &[&BacklogReport]) {
    let sum = |chosen: &dyn Fn(&CellReport) -> bool| {
        cells
            .iter()
            .filter(|cell| chosen(cell))
            .fold((0, 0), |(lost, trials), cell| (lost + cell.tally.lost, trials + cell.tally.trials))
    };
    let at_risk = |chosen: &dyn Fn(&CellReport) -> bool| -> u64 {
        cells.iter().filter(|cell| chosen(cell)).map(|cell| cell.tally.at_risk).sum()
    };
    let guilty = |cell: &CellReport| {
        let peer = cell.plan.peer;
        !peer.is_innocent() && peer != Peer::NeverReads && Blame::of(cell) != Blame::Middlebox
    };
    let (lost, trials) = sum(&|cell| cell.plan.ending == Ending::Close && guilty(cell));
    if lost > 0 {
        let _ = writeln!(
            text,
            "`close` lost {lost} of {trials} responses when bytes of the client were unread or late, although every \
             write() and close() succeeded: the kernel reset the connection and threw away what it had not sent."
        );
    }
    let risky = |cell: &CellReport| cell.plan.ending != Ending::Abort && guilty(cell);
    let resets = at_risk(&risky);
    if resets > 0 {
        let _ = writeln!(
            text,
            "{resets} responses arrived whole and were followed by a reset: a client that writes first, a kernel that drops \
             what was not read yet, or a slower link would have lost them."
        );
    }
    let others = [Ending::ShutdownClose, Ending::SoLinger(5), Ending::Exit];
    let parts: Vec<String> = others
        .into_iter()
        .filter_map(|ending| {
            let (lost, trials) = sum(&|cell| cell.plan.ending == ending && guilty(cell));
            (lost > 0).then(|| format!("`{ending}` lost {lost} of {trials}"))
        })
        .collect();
    if !parts.is_empty() {
        let _ = writeln!(text, "Half-close alone, SO_LINGER and exit are no cure: {}.", parts.join(", "));
    }
    let keepers =
        |cell: &CellReport| cell.plan.ending == Ending::Lingering && cell.plan.peer != Peer::NeverReads;
    let (lost, trials) = sum(&keepers);
    if trials > 0 {
        let (_, high) = wilson(lost, trials);
        let risk = match at_risk(&keepers) {
            0 => String::new(),
            resets => format!(", and {resets} were at risk"),
        };
        let _ = writeln!(
            text,
            "`lingering` (half-close, read until the peer closes, close) lost {lost} of {trials} (at most {:.1}% with \
             95% confidence){risk}.",
            high * 100.0
        );
    }
    let of_the_queue =
        |burst: &&&BacklogReport| Blame::find(&burst.tally, &burst.counters) == Blame::AcceptQueue;
    if bursts.iter().any(|burst| of_the_queue(&burst)) {
        let _ = writeln!(
            text,
            "Losses before any byte with ListenDrops and no aborts are the accept queue's, not the close's: look at \
             the backlog first."
        );
    }
}

/// What the scenarios expected and what came, and what nobody expected.
pub(super) fn expected(results: &Results) -> Vec<String> {
    let mut all = Vec::new();
    let sizes = results.sizes();
    for (task, report) in results.done() {
        if let TaskReport::Network(outcome) = report {
            let met = |check: &NetworkCheck| match check.is_met {
                true => "met",
                false if outcome.is_cut => "not known",
                false => "NOT MET",
            };
            let checks = outcome.checks(results.at_risk_ok);
            all.extend(
                checks
                    .iter()
                    .map(|check| format!("expected of {}: {}: {}", task.name, check.told, met(check))),
            );
            continue;
        }
        let TaskReport::Cell(cell) = report else { continue };
        let (mut name, tally) = (name(&cell.plan), &cell.tally);
        let words = sizes.words(&cell.plan);
        if !words.is_empty() {
            name = format!("{name}, {words}");
        }
        let is_unexpected = results.is_unexpected(task, report);
        if let Some(expect) = task.expect {
            let met = if is_unexpected { "NOT MET" } else { "met" };
            all.push(format!(
                "expected {name}: {expect}: {met} ({} lost, {} at risk of {})",
                tally.lost, tally.at_risk, tally.trials
            ));
        } else if is_unexpected {
            all.push(format!(
                "UNEXPECTED: {name} lost {} and had {} at risk of {}: {}",
                tally.lost,
                tally.at_risk,
                tally.trials,
                to_json(&line(lines::Cell::named(&task.name, cell))).unwrap_or_default()
            ));
        }
    }
    all
}

/// A cell in a few words.
pub(super) fn name(plan: &CellPlan) -> String {
    let client = if plan.client.is_usual() { String::new() } else { format!(" ({})", plan.client) };
    format!("{}, {}{client}, {}", plan.ending, plan.peer, plan.link.name)
}

/// The verdict in a sentence: what the client has, and what the server knows.
pub(super) fn verdict(plan: &CellPlan, report: &OneReport) -> String {
    let attempt = &report.attempt;
    let server = match &report.server_error {
        Some(error) => format!("the server saw: {error}"),
        None => "no call of the server's failed".to_owned(),
    };
    if !report.is_answered {
        let verdict = attempt.verdict();
        return format!("{verdict}: the client has no response, since the server wrote none, and {server}");
    }
    format!(
        "{}: the client has {} of {} bytes, and {server}",
        attempt.verdict(),
        attempt.received,
        attempt.expected.unwrap_or(plan.response)
    )
}

/// A decision log: one line a packet, in the order in which the link saw them.
pub(crate) fn decisions(log: &[(Identity, Decision)]) -> String {
    let mut text = String::from("# direction client_port server_port seq ack flags transmission decision\n");
    for (identity, decision) in log {
        let direction =
            if usize::from(identity.direction) == Direction::ToClient.index() { ">" } else { "<" };
        let _ = writeln!(
            text,
            "{direction} {} {} {} {} {:#04x} {} {decision:?}",
            identity.flow >> 16,
            identity.flow & 0xffff,
            identity.sequence,
            identity.acknowledgement,
            identity.flags,
            identity.transmission,
        );
    }
    text
}
