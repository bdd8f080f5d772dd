//! A hunt as one page that needs nothing else: one line first, then what was found, and what was searched. Made of the same parts
//! as the page of `linger why` ([`linger_why::html`]).

mod heat;
mod story;

use std::io::{self, Write};

use linger_verdict::Verdict;
use linger_why::html::{begin, end, escape, row};
use linger_why::{Finding, Tools};

use crate::report::{HuntReport, LostResponse, Repeats, SearchEnd};
use crate::retell::Retold;
use crate::story::Story;
use crate::words::milliseconds;

/// What is hunted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hunted {
    /// A server.
    Server,
    /// A client.
    Client,
}

impl Hunted {
    fn word(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::Client => "Client",
        }
    }
}

/// What a page tells beside the report itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PageFacts<'p> {
    /// The command of the server or the client, or the URL of a server that was running.
    pub server: &'p str,
    /// What is hunted: the side that the hunt does not play.
    pub hunted: Hunted,
    /// The command that repeats the hunt.
    pub again: &'p str,
    /// The names by which remedies call commands.
    pub tools: Tools,
    /// The packets of the story.
    pub packets: Option<PagePackets<'p>>,
    /// Why there are no packets; `None` if there are, or if nobody looked for them.
    pub no_packets: Option<&'p str>,
}

impl<'p> PageFacts<'p> {
    /// The facts of a hunt without packets.
    pub fn new(server: &'p str, again: &'p str, tools: Tools) -> Self {
        Self { server, hunted: Hunted::Server, again, tools, packets: None, no_packets: None }
    }
}

/// A story that was played for a capture, and what its packets show.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PagePackets<'p> {
    /// What came of it.
    pub retold: &'p Retold,
    /// The connection that lost; `None` if none did, or if nothing is to be seen in its packets.
    pub finding: Option<&'p Finding>,
}

impl<'p> PagePackets<'p> {
    /// The packets of a story.
    pub fn new(retold: &'p Retold, finding: Option<&'p Finding>) -> Self {
        Self { retold, finding }
    }
}

/// Letters that the first line has of the server's command.
const MOST_OF_COMMAND: usize = 120;

fn title(hunted: Hunted) -> &'static str {
    match hunted {
        Hunted::Server => "What a server loses",
        Hunted::Client => "What a client loses",
    }
}

/// Writes the page of a hunt.
///
/// # Errors
/// Returns the errors of `out`.
pub fn report(out: &mut impl Write, report: &HuntReport, facts: &PageFacts<'_>) -> io::Result<()> {
    begin(out, title(facts.hunted))?;
    let (first, class) = first(report);
    header(out, &first, class, facts)?;
    if let Some(said) = last_words(report) {
        writeln!(out, "<p class=\"note\">The server said last:</p>\n<p class=\"note command\">")?;
        for line in said.lines() {
            writeln!(out, "{}<br>", escape(line))?;
        }
        writeln!(out, "</p>")?;
    }
    if let Some(found) = &report.found {
        story::found(out, found, &report.ended, facts)?;
    }
    for once in &report.unrepeated {
        story::once(out, once)?;
    }
    if let Some(at_risk) = &report.at_risk {
        story::at_risk(out, at_risk, report.searched.verdicts.get(&Verdict::AtRisk).copied())?;
    }
    searched(out, report)?;
    heat::draw(
        out,
        "The search, by time and size",
        &report.searched.map,
        report.found.as_ref().map(|found| &found.story),
    )?;
    if let Some(found) = &report.found {
        let title = "Losses repeated and made short, by time and size";
        heat::draw(out, title, &found.map, Some(&found.story))?;
    }
    end(out)
}

/// A story that was repeated from a file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Replayed<'p> {
    /// The story.
    pub story: &'p Story,
    /// What came of it.
    pub repeats: Repeats,
    /// How often it was to be repeated.
    pub times: u64,
    /// One of the losses.
    pub lost: Option<&'p LostResponse>,
}

impl<'p> Replayed<'p> {
    /// A story that was to be repeated so many `times`.
    pub fn new(story: &'p Story, repeats: Repeats, times: u64, lost: Option<&'p LostResponse>) -> Self {
        Self { story, repeats, times, lost }
    }

    /// How far it came, if it was ended before its time.
    pub fn interrupted(&self) -> Option<String> {
        let Self { repeats, times, .. } = self;
        (repeats.tried < *times).then(|| format!("interrupted after {} of {times} trials", repeats.tried))
    }
}

/// Writes the page of a story that was repeated.
///
/// # Errors
/// Returns the errors of `out`.
pub fn replay(out: &mut impl Write, replayed: &Replayed<'_>, facts: &PageFacts<'_>) -> io::Result<()> {
    let Repeats { tried, judged, lost, at_risk, .. } = replayed.repeats;
    let unsure = match tried - judged {
        0 => String::new(),
        unsure => format!("; {unsure} say nothing about losses"),
    };
    let (first, class) = match replayed.lost {
        Some(response) => (format!("Lost: {response}, in {}{unsure}", replayed.repeats), ""),
        None if lost + at_risk > 0 => (format!("At risk in {at_risk} of {tried} trials{unsure}"), "risk"),
        None if judged == 0 => (format!("Could not tell: {tried} trials{unsure}"), "risk"),
        None => (format!("Nothing lost in {tried} trials{unsure}"), "good"),
    };
    let interrupted = replayed.interrupted().map_or(String::new(), |so_far| format!("; {so_far}"));
    begin(out, title(facts.hunted))?;
    header(out, &format!("{first}{interrupted}"), class, facts)?;
    story::replayed(out, replayed, class, facts)?;
    end(out)
}

fn header(out: &mut impl Write, first: &str, class: &str, facts: &PageFacts<'_>) -> io::Result<()> {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let server = match facts.server.char_indices().nth(MOST_OF_COMMAND) {
        Some((end, _)) => format!("{}\u{2026}", &facts.server[..end]),
        None => facts.server.to_owned(),
    };
    writeln!(
        out,
        "<header>\n<h1{class}>{}. {}: {}</h1>",
        escape(first),
        facts.hunted.word(),
        escape(server)
    )?;
    writeln!(out, "<dl>")?;
    for (name, command) in [(facts.hunted.word(), facts.server), ("Again", facts.again)] {
        writeln!(out, "<dt>{name}</dt><dd class=\"command\">{}</dd>", escape(command))?;
    }
    writeln!(out, "</dl>\n</header>")
}

/// What was found or what survived, in how many schedules, how long; and its class.
fn first(report: &HuntReport) -> (String, &'static str) {
    let searched = &report.searched;
    let mut class = "risk";
    let found = match (&report.found, report.unrepeated.len(), &report.at_risk) {
        (Some(found), ..) => {
            class = "";
            let race = if found.repeats.is_race() { ", a race" } else { "" };
            format!("Lost: {}, in {}{race}", found.lost, found.repeats)
        }
        (None, 1, _) => "Lost once, and not again".to_owned(),
        (None, losses @ 2.., _) => format!("{losses} losses that came once each, and not again"),
        (None, 0, Some(_)) => {
            let at_risk = searched.verdicts.get(&Verdict::AtRisk).copied().unwrap_or(0);
            format!("Nothing lost, but {at_risk} at risk,")
        }
        (None, 0, None) => {
            if report.ended == SearchEnd::Time {
                class = "good";
            }
            "Nothing lost".to_owned()
        }
    };
    let end = match &report.ended {
        SearchEnd::Stopped => "; interrupted".to_owned(),
        SearchEnd::ServerEnded { status, .. } => format!("; the server ended ({status})"),
        SearchEnd::Found | SearchEnd::Time => String::new(),
    };
    let (schedules, seconds) = (searched.schedules, searched.time.as_secs_f64());
    let plural = if schedules == 1 { "" } else { "s" };
    let joint = if report.found.is_some() || !report.unrepeated.is_empty() { "; searched:" } else { " in" };
    (format!("{found}{joint} {schedules} schedule{plural} in {seconds:.1} s{end}"), class)
}

fn last_words(report: &HuntReport) -> Option<&str> {
    match &report.ended {
        SearchEnd::ServerEnded { said, .. } => Some(said.as_str()).filter(|said| !said.is_empty()),
        _ => None,
    }
}

/// What was searched: sums, and a table of the decades.
fn searched(out: &mut impl Write, report: &HuntReport) -> io::Result<()> {
    let searched = &report.searched;
    let of = |verdict: Verdict| searched.verdicts.get(&verdict).copied().unwrap_or(0);
    writeln!(out, "<h2>What was searched</h2>\n<dl>")?;
    let end = if report.framed { "" } else { ", without a length" };
    let status = if report.status > 0 { format!("{}, ", report.status) } else { String::new() };
    let plain = format!("{status}{} bytes{end}, from {}", report.response_bytes, report.site);
    match &report.client {
        Some(client) => row(out, "Plain trial", &client.to_string())?,
        None => row(out, "Plain response", &plain)?,
    }
    let schedules = format!(
        "{} in {:.1} s, up to {} connections at a time",
        searched.schedules,
        searched.time.as_secs_f64(),
        searched.connections
    );
    row(out, "Schedules", &schedules)?;
    let verdicts =
        format!("{} kept, {} at risk, {} lost", of(Verdict::Kept), of(Verdict::AtRisk), of(Verdict::Lost));
    row(out, "Verdicts", &verdicts)?;
    if !searched.unjudged.is_empty() {
        let all: u64 = searched.unjudged.values().sum();
        let each = searched.unjudged.iter();
        let each: Vec<String> =
            each.map(|(why, count)| format!("{} {count}", why.name().replace('_', " "))).collect();
        row(out, "Say nothing", &format!("{all} about losses: {}", each.join(", ")))?;
    }
    if let Some((low, high)) = searched.pauses {
        row(out, "Pauses", &format!("{} to {}", milliseconds(low), milliseconds(high)))?;
    }
    if let Some((low, high)) = searched.sizes {
        row(out, "Sizes", &format!("{low} to {high} bytes sent at a time"))?;
    }
    if !report.half_closes {
        row(out, "Half-closes", "none: the server takes one for the client's end")?;
    }
    writeln!(out, "</dl>")?;
    decades(out, report)
}

fn decades(out: &mut impl Write, report: &HuntReport) -> io::Result<()> {
    let searched = &report.searched;
    if searched.pause_decades.is_empty() && searched.size_decades.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<table id=\"decades\"><thead><tr><th>Schedules with</th><th class=\"number\">How many</th></tr></thead><tbody>"
    )?;
    for (from, count) in &searched.pause_decades {
        let with = format!("a pause of {} to {}", milliseconds(*from), milliseconds(from * 10));
        decade(out, &with, *count)?;
    }
    for (from, count) in &searched.size_decades {
        decade(out, &format!("{} to {} sent at a time", heat::bytes(*from), heat::bytes(from * 10)), *count)?;
    }
    writeln!(out, "</tbody></table>")
}

fn decade(out: &mut impl Write, with: &str, count: u64) -> io::Result<()> {
    writeln!(out, "<tr><td>{with}</td><td class=\"number\">{count}</td></tr>")
}

#[cfg(test)]
mod tests;
