//! A group of the page: its row in the table, and its article.

use std::io::{self, Write};

use super::{escape, ladder, row};
use crate::clock::WallClock;
use crate::group::Group;
use crate::text::{dropped, losses, when, whose};
use crate::{Cause, Confidence, Tools, overview};

/// Connections that are listed of a finding.
const LISTED: usize = 50;

/// The findings in a table, one a row. Each cell says its name for narrow screens, where the head is left out. A finding that is
/// not `drawn` has no article; its row says where its packets are.
pub(super) fn table(out: &mut impl Write, groups: &[Group], drawn: &[bool]) -> io::Result<()> {
    writeln!(
        out,
        "<h2>Findings</h2>\n<div class=\"scroll\" tabindex=\"0\">\n<table class=\"list sorted\"><thead><tr>"
    )?;
    for (name, class) in [
        ("#", " class=\"number\""),
        ("Cause", ""),
        ("Service", ""),
        ("Whose", ""),
        ("Connections", " class=\"number\""),
        ("Bytes lost", " class=\"number\""),
        ("First", ""),
    ] {
        writeln!(out, "<th{class}>{name}</th>")?;
    }
    writeln!(out, "</tr></thead><tbody>")?;
    for (at, (group, drawn)) in groups.iter().zip(drawn).enumerate() {
        let number = at + 1;
        let class = if group.harmless { "good" } else { "bad" };
        let whose = if group.harmless { String::new() } else { group.owner.to_string() };
        let lost = group.lost_response_bytes + group.unread_request_bytes;
        let service = overview::place(group).unwrap_or_else(|| "several".into());
        let linked = if *drawn { format!("<a href=\"#f{number}\">{number}</a>") } else { number.to_string() };
        write!(out, "<tr><td class=\"number\" data-name=\"Finding\">{linked}</td>")?;
        write!(out, "<td><span class=\"{class}\">{}</span></td>", cause(group))?;
        write!(out, "<td data-name=\"Service\">{}", escape(service))?;
        if !drawn {
            let example = &group.example;
            let at = format!("frame {} of {}", example.frame, example.file);
            write!(out, "<br><span class=\"soft path\">{}</span>", escape(at))?;
        }
        write!(out, "</td>")?;
        write!(
            out,
            "<td{}>{}</td>",
            if whose.is_empty() { "" } else { " data-name=\"Whose\"" },
            escape(whose)
        )?;
        write!(out, "<td class=\"number\" data-name=\"Connections\">{}</td>", group.connections)?;
        write!(out, "<td class=\"number\" data-name=\"Bytes lost\">{lost}</td>")?;
        let first = WallClock(group.first_ns);
        writeln!(
            out,
            "<td class=\"time\" data-name=\"First\" data-value=\"{}\">{first}</td></tr>",
            group.first_ns
        )?;
    }
    writeln!(out, "</tbody></table>\n</div>")
}

/// The cause and how sure it is, or between which causes it is undecided.
fn cause(group: &Group) -> String {
    match group.cause {
        Cause::Unknown => {
            let names: Vec<_> = group.candidates.iter().map(|cause| cause.name()).collect();
            match names.split_at_checked(3) {
                Some((first, rest)) if !rest.is_empty() => {
                    let other = if rest.len() == 1 { "other" } else { "others" };
                    format!("undecided: {} or {} {other}", first.join(", "), rest.len())
                }
                _ => format!("undecided: {}", names.join(" or ")),
            }
        }
        cause => format!("{cause}, {}", group.confidence),
    }
}

/// What is known of a group, its evidence, its remedy, and the packets of the clearest of its connections.
pub(super) fn article(out: &mut impl Write, number: usize, group: &Group, tools: &Tools) -> io::Result<()> {
    let example = &group.example;
    let class = if group.harmless { " class=\"harmless\"" } else { "" };
    let place = overview::place(group).unwrap_or_else(|| "several listeners".into());
    let count =
        if group.connections == 1 { "1 connection" } else { &format!("{} connections", group.connections) };
    writeln!(
        out,
        "<article{class} id=\"f{number}\">\n<h3>{number}. {}</h3>",
        escape(format!("{place}, {count}"))
    )?;
    writeln!(out, "<dl>")?;
    row(out, "Cause", &cause(group))?;
    row(out, "Lost", &losses(group))?;
    if !group.harmless {
        row(out, "Whose", &whose(group))?;
    }
    for (at, line) in when(group).iter().enumerate() {
        row(out, if at == 0 { "When" } else { "" }, line)?;
    }
    if let Some(drops) = dropped(group) {
        row(out, "Dropped", &drops)?;
    }
    writeln!(out, "<dt>Evidence</dt><dd><ul>")?;
    for evidence in &example.evidence {
        let frame = evidence.frame.map_or(String::new(), |frame| format!("frame {frame}: "));
        writeln!(out, "<li>{frame}{}</li>", escape(evidence.says.to_string()))?;
    }
    writeln!(out, "</ul></dd>")?;
    if group.cause != Cause::Unknown
        && example.confidence != Confidence::Certain
        && group.candidates.len() > 1
    {
        row(out, "Would also fit", &group.others())?;
    }
    if let Some(ask) = example.would_decide.filter(|_| !group.harmless) {
        row(out, "Would decide it", &ask.words(tools))?;
    }
    row(out, "Remedy", &example.remedy.words(tools))?;
    writeln!(out, "</dl>")?;
    let one = format!("frame {} of {}, {}", example.frame, example.file, example.class);
    let open = if group.harmless { "" } else { " open" };
    let which = if group.connections == 1 { "The packets" } else { "The packets of the clearest one" };
    writeln!(out, "<details{open}><summary>{which}: {}</summary>", escape(one))?;
    ladder(out, example)?;
    writeln!(out, "</details>")?;
    members(out, group, tools)?;
    writeln!(out, "</article>")
}

fn members(out: &mut impl Write, group: &Group, tools: &Tools) -> io::Result<()> {
    if group.connections < 2 {
        return Ok(());
    }
    let listed = group.members.len().min(LISTED);
    let more = group.connections.saturating_sub(listed as u64);
    match more {
        0 => writeln!(out, "<details><summary>All {listed} connections</summary>")?,
        _ => writeln!(out, "<details><summary>{listed} of {} connections</summary>", group.connections)?,
    }
    writeln!(out, "<div class=\"scroll\" tabindex=\"0\">")?;
    writeln!(out, "<table class=\"list sorted\"><thead><tr><th>When</th><th>From</th><th>To</th>")?;
    writeln!(out, "<th>Capture</th><th class=\"number\">Frame</th></tr></thead><tbody>")?;
    for member in group.members.iter().take(LISTED) {
        write!(
            out,
            "<tr><td class=\"time\" data-value=\"{}\">{}</td>",
            member.time_ns,
            WallClock(member.time_ns)
        )?;
        write!(out, "<td data-name=\"From\">{}</td><td data-name=\"To\">{}</td>", member.from, member.to)?;
        write!(out, "<td class=\"path\" data-name=\"Capture\">{}</td>", escape(&member.file))?;
        writeln!(out, "<td class=\"number\" data-name=\"Frame\">{}</td></tr>", member.frame)?;
    }
    writeln!(out, "</tbody></table>\n</div>")?;
    if more > 0 {
        let list = tools.list.map_or(String::new(), |option| format!(" ({option} lists them)"));
        writeln!(out, "<p class=\"soft\">and {more} more{}</p>", escape(list))?;
    }
    writeln!(out, "</details>")
}
