//! The lab's results as one page that needs nothing else, of the same make as the page of `linger why`.

mod ladder;

use std::io::{self, Write};

use linger_hunt::counted as counters;
use linger_lab::{BacklogReport, CellPlan, CellReport, Fate, OneReport, Tally, Verdict};
use linger_why::Finding;
use linger_why::html::{self, begin, end, escape, list, row};

use super::look::network;
use super::network::NetworkOutcome;
use super::results::{Outcome, Results};
use super::sizes::Differing;
use super::text;
use crate::tools::tools;

const TITLE: &str = "What became of the responses";

/// A cell whose link was captured, and the first failure in that capture.
pub(super) struct DrawnCell<'r> {
    pub(super) cell: &'r CellReport,
    /// Base name of its capture.
    pub(super) name: &'r str,
    pub(super) finding: Finding,
}

/// The page of an experiment.
pub(super) fn grid(results: &Results, titles: &[String], drawn: &[DrawnCell<'_>]) -> io::Result<String> {
    let mut out = Vec::new();
    let (cells, bursts) = (text::cells(results), text::bursts(results));
    begin(&mut out, TITLE)?;
    let (first, class) = first(results, &cells, &bursts);
    header(&mut out, &first, class, &results.again)?;
    for title in titles {
        writeln!(out, "<p>{}</p>", escape(title))?;
    }
    for note in text::reservations(results) {
        writeln!(out, "<p class=\"note\">{}</p>", escape(note))?;
    }
    for sentence in text::sentences(&cells, &bursts) {
        writeln!(out, "<p>{}</p>", escape(sentence))?;
    }
    if !cells.is_empty() {
        key(&mut out)?;
    }
    let sizes = results.sizes();
    for group in text::groups(&cells) {
        table(&mut out, &group, &sizes)?;
    }
    backlog(&mut out, &bursts)?;
    for outcome in text::networks(results) {
        network_article(&mut out, outcome)?;
    }
    let expected: Vec<String> = text::expected(results);
    if !expected.is_empty() {
        writeln!(out, "<h2>What was expected</h2>\n<dl>")?;
        list(&mut out, "Expected", &expected)?;
        writeln!(out, "</dl>")?;
    }
    if !drawn.is_empty() {
        writeln!(out, "<h2>The packets of one connection each</h2>")?;
    }
    for DrawnCell { cell, name, finding } in drawn {
        let Tally { trials, lost, at_risk, .. } = cell.tally;
        let class = if lost > 0 { "" } else { " class=\"risk\"" };
        writeln!(out, "<article{class}>\n<h3>{}</h3>\n<dl>", escape(text::name(&cell.plan)))?;
        row(&mut out, "Responses", &format!("{lost} lost and {at_risk} at risk of {trials}"))?;
        row(&mut out, "Capture", &format!("{name}.pcapng"))?;
        packets(&mut out, finding, &[])?;
    }
    end(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// What came of an experiment with several hosts, and the packets of its first failed connection.
fn network_article(out: &mut Vec<u8>, outcome: &NetworkOutcome) -> io::Result<()> {
    let class = match outcome.report.tally {
        Tally { lost: 1.., .. } => "",
        Tally { at_risk: 1.., .. } => " class=\"risk\"",
        _ => " class=\"harmless\"",
    };
    writeln!(out, "<article{class}>\n<h3>{}</h3>\n<dl>", escape(&outcome.plan.title))?;
    list(out, "Result", &outcome.lines())?;
    let failed = outcome.findings.iter().flatten().find(|finding| !finding.harmless);
    match failed {
        Some(finding) => packets(out, finding, &[]),
        None => writeln!(out, "</dl>\n</article>"),
    }
}

/// The page of one connection.
pub(super) fn one(
    plan: &CellPlan,
    report: &OneReport,
    packets_of: Result<Option<&Finding>, &str>,
    again: &str,
) -> io::Result<String> {
    let mut out = Vec::new();
    begin(&mut out, TITLE)?;
    let (class, edge) = match report.attempt.verdict() {
        Verdict::Kept => ("good", " class=\"harmless\""),
        Verdict::AtRisk => ("risk", " class=\"risk\""),
        Verdict::Lost => ("", ""),
    };
    header(&mut out, &capital(&text::verdict(plan, report)), class, again)?;
    writeln!(out, "<article{edge}>\n<h3>{}</h3>\n<dl>", escape(text::name(plan)))?;
    row(&mut out, "Network", &network(plan))?;
    if let Some(error) = &report.attempt.error {
        row(&mut out, "Client saw", &error.to_string())?;
    }
    row(&mut out, "Server's kernel", &counters(&report.counters))?;
    writeln!(out, "</dl>\n<details open><summary>The calls of both ends</summary>")?;
    ladder::draw(&mut out, &report.steps)?;
    writeln!(out, "</details>\n<dl>")?;
    match packets_of {
        Ok(Some(finding)) => return finish(out, |out| packets(out, finding, &[])),
        Ok(None) if plan.link.loopback => row(&mut out, "Packets", "none: loopback has no wire to capture")?,
        Ok(None) => row(&mut out, "Packets", "they show no failure")?,
        Err(why) => row(&mut out, "Packets", &format!("none: {why}"))?,
    }
    finish(out, |out| writeln!(out, "</dl>\n</article>"))
}

fn finish(mut out: Vec<u8>, rest: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<String> {
    rest(&mut out)?;
    end(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn capital(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn header(out: &mut impl Write, first: &str, class: &str, again: &str) -> io::Result<()> {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    writeln!(out, "<header>\n<h1{class}>{}</h1>\n<dl>", escape(first))?;
    writeln!(out, "<dt>Again</dt><dd class=\"command\">{}</dd>\n</dl>\n</header>", escape(again))
}

/// What came of all experiments, and its class.
fn first(results: &Results, cells: &[&CellReport], bursts: &[&BacklogReport]) -> (String, &'static str) {
    let networks = text::networks(results);
    let tallies = || {
        let small = bursts.iter().map(|burst| &burst.tally);
        cells.iter().map(|cell| &cell.tally).chain(small).chain(networks.iter().map(|it| &it.report.tally))
    };
    let sum = |of: fn(&Tally) -> u64| tallies().map(of).sum::<u64>();
    let (lost, at_risk, trials) =
        (sum(|tally| tally.lost), sum(|tally| tally.at_risk), sum(|tally| tally.trials));
    let (outcome, class) = match results.outcome() {
        Outcome::AsExpected => ("As expected", "good"),
        Outcome::Unexpected => ("Not as expected", ""),
        Outcome::Interrupted => ("Interrupted", "risk"),
    };
    let experiments = results.done().count();
    let plural = if experiments == 1 { "" } else { "s" };
    let first = format!(
        "{outcome}: {lost} of {trials} responses lost and {at_risk} at risk in {experiments} experiment{plural}"
    );
    (first, class)
}

/// The rest of an article with a finding: its rows, and its packets. Ends the list of terms and the article.
fn packets(out: &mut impl Write, finding: &Finding, more: &[String]) -> io::Result<()> {
    html::finding(out, finding, more, &tools())?;
    writeln!(out, "</dl>")?;
    let which = format!("The packets: frame {}, {}", finding.frame, finding.class);
    writeln!(out, "<details open><summary>{}</summary>", escape(which))?;
    html::ladder(out, finding)?;
    writeln!(out, "</details>\n</article>")
}

fn key(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "<p class=\"key\"><b class=\"lost\">L3/10</b> 3 of 10 lost <b class=\"atrisk\">R2/10</b> 2 of 10 at risk, none lost: every \
         byte arrived, and then a reset <b class=\"many\">10</b> 10 kept. Below it stands where the part that is lost lies, with 95% \
         confidence.</p>"
    )
}

/// The cells of one link: endings down, peers across, and what the servers' kernels counted.
fn table(out: &mut impl Write, cells: &[&CellReport], sizes: &Differing) -> io::Result<()> {
    const COUNTED: [(&str, &str); 4] = [
        ("aborts: close", "TCPAbortOnClose"),
        ("data", "TCPAbortOnData"),
        ("linger", "TCPAbortOnLinger"),
        ("resets", "OutRsts"),
    ];
    let Some(first) = cells.first() else { return Ok(()) };
    let peers = text::distinct(cells.iter().map(|cell| cell.plan.peer));
    let words = sizes.words(&first.plan);
    let comma = if words.is_empty() { "" } else { ": " };
    writeln!(out, "<h2>{}{comma}{words}</h2>", escape(capital(&network(&first.plan))))?;
    writeln!(out, "<div class=\"heatbox\" tabindex=\"0\">\n<table class=\"heat\">")?;
    writeln!(
        out,
        "<caption>Responses of {} bytes. Down: the server's ending. Across: the client{}.</caption>",
        first.plan.response,
        if first.plan.client.is_usual() {
            String::new()
        } else {
            format!(", which is {}", first.plan.client)
        }
    )?;
    write!(out, "<thead><tr><th scope=\"col\">ending \\ client</th>")?;
    let heads = peers.iter().map(|peer| peer.name()).chain(COUNTED.map(|(name, _)| name));
    for head in heads {
        write!(out, "<th scope=\"col\">{}</th>", escape(head))?;
    }
    writeln!(out, "</tr></thead><tbody>")?;
    for ending in text::distinct(cells.iter().map(|cell| cell.plan.ending)) {
        write!(out, "<tr><th scope=\"row\">{}</th>", escape(ending.to_string()))?;
        let row: Vec<&&CellReport> = cells.iter().filter(|cell| cell.plan.ending == ending).collect();
        for peer in &peers {
            match row.iter().find(|cell| cell.plan.peer == *peer) {
                Some(cell) => tally(out, &cell.tally)?,
                None => write!(out, "<td class=\"none\"></td>")?,
            }
        }
        for (_, name) in COUNTED {
            write!(out, "<td>{}</td>", row.iter().map(|cell| cell.counters.of(name)).sum::<u64>())?;
        }
        writeln!(out, "</tr>")?;
    }
    writeln!(out, "</tbody></table>\n</div>")?;
    for remark in text::remarks(cells) {
        writeln!(out, "<p class=\"note\">{}</p>", escape(remark))?;
    }
    Ok(())
}

fn tally(out: &mut impl Write, tally: &Tally) -> io::Result<()> {
    let Tally { trials, lost, at_risk, silent, .. } = tally;
    let (class, shown) = match (lost, at_risk) {
        (1.., _) => ("lost", format!("L{lost}/{trials}")),
        (0, 1..) => ("atrisk", format!("R{at_risk}/{trials}")),
        (0, 0) => ("many", trials.to_string()),
    };
    let (low, high) = tally.interval();
    let range = format!("{:.0}-{:.0}%", low * 100.0, high * 100.0);
    let title = format!("{lost} lost, {silent} of them silently, and {at_risk} at risk of {trials}");
    write!(out, "<td class=\"{class}\" title=\"{title}\">{shown}<br>{range}</td>")
}

fn backlog(out: &mut impl Write, bursts: &[&BacklogReport]) -> io::Result<()> {
    let Some(first) = bursts.first() else { return Ok(()) };
    writeln!(out, "<h2>An accept queue that overflows, {} clients at once</h2>", first.plan.clients)?;
    writeln!(out, "<div class=\"heatbox\" tabindex=\"0\">\n<table class=\"heat\"><thead><tr>")?;
    for head in ["backlog", "responses", "reset before any", "timed out", "drops"] {
        write!(out, "<th scope=\"col\">{head}</th>")?;
    }
    writeln!(out, "</tr></thead><tbody>")?;
    for burst in bursts {
        let how = if burst.plan.abort_on_overflow { ", abort_on_overflow" } else { "" };
        write!(out, "<tr><th scope=\"row\">{}{how}</th>", burst.plan.backlog)?;
        tally(out, &burst.tally)?;
        let drops = burst.counters.of("ListenDrops");
        for count in [burst.tally.of(Fate::ResetBeforeAny), burst.tally.of(Fate::TimedOut), drops] {
            write!(out, "<td>{count}</td>")?;
        }
        writeln!(out, "</tr>")?;
    }
    writeln!(out, "</tbody></table>\n</div>")
}
