//! The report as one page that needs nothing else: one line first, a table of the findings, each finding with its packets
//! drawn in SVG. The page needs no script to be read; the one that it has sorts the tables. Other reports have pages of the same
//! make: between [`begin`] and [`end`], with [`escape`], [`row`], [`list`], [`finding`] and [`ladder`].

mod finding;
mod group;
mod ladder;
mod shell;
mod timeline;

use std::collections::HashMap;
use std::io::{self, Write};

use crate::clusters::Cluster;
use crate::group::Group;
use crate::text::{notes, summary};
use crate::{Cause, Examined, Tools, overview};

pub use finding::{list, rows as finding};
pub use ladder::draw as ladder;
#[cfg(test)]
use shell::{SCRIPT, SCRIPT_HASH, STYLE};
pub use shell::{begin, end, escape, row};

/// Up to this many captures are shown at once; more are folded.
const SHOWN: usize = 3;

/// So many findings have their evidence and packets on the page, the others a row in the table: a browser takes a minute for thousands of
/// ladders.
const DRAWN: usize = 300;
/// Of each cause, so many are drawn before more of a commoner one.
const DRAWN_OF_EACH: usize = 8;

/// Writes the whole page. `tools` are the names by which its remedies call commands.
///
/// # Errors
/// Returns the errors of `out`.
pub fn report(
    out: &mut impl Write,
    files: &[Examined],
    groups: &[Group],
    left_out: u64,
    tools: &Tools,
) -> io::Result<()> {
    let first = overview::first_of(groups, left_out, tools);
    let good = if groups.iter().all(|group| group.harmless) { " class=\"good\"" } else { "" };
    begin(out, "Why connections failed")?;
    writeln!(out, "<header>\n<h1{good}>{}</h1>", escape(&first))?;
    writeln!(out, "<p>{}</p>", escape(summary(groups, left_out)))?;
    for cluster in Cluster::of(groups) {
        writeln!(out, "<p>{}</p>", escape(cluster.words()))?;
    }
    writeln!(out, "<p class=\"soft\">{}</p>\n</header>", escape(overview::read(files)))?;
    warnings(out, files, tools)?;
    timeline::draw(out, &overview::timeline(groups))?;
    if !groups.is_empty() {
        let drawn = drawn(groups);
        group::table(out, groups, &drawn)?;
        if let Some(note) = not_drawn(&drawn, tools) {
            writeln!(out, "<p class=\"note\">{}</p>", escape(note))?;
        }
        sections(out, groups, &drawn, tools)?;
    }
    captures(out, files)?;
    end(out)
}

/// What was not examined, of each capture. This stands before the findings, which may be incomplete for that reason.
fn warnings(out: &mut impl Write, files: &[Examined], tools: &Tools) -> io::Result<()> {
    let noted: Vec<_> = files.iter().map(|file| (file, notes(file, tools))).collect();
    let count = noted.iter().filter(|(_, notes)| !notes.is_empty()).count();
    if count == 0 {
        return Ok(());
    }
    let many = count > SHOWN;
    if many {
        writeln!(
            out,
            "<details><summary class=\"bad\">Not all was understood, in {count} captures</summary>"
        )?;
    }
    for (file, notes) in &noted {
        for note in notes {
            writeln!(out, "<p class=\"note\">{}: {}</p>", escape(&file.file), escape(note))?;
        }
    }
    if many { writeln!(out, "</details>") } else { Ok(()) }
}

/// Which findings are drawn: some of each cause, and then in their order, the harmful and the largest first.
fn drawn(groups: &[Group]) -> Vec<bool> {
    let mut of_cause = HashMap::<(bool, Cause), usize>::new();
    let (mut drawn, mut left) = (vec![false; groups.len()], DRAWN);
    for (drawn, group) in drawn.iter_mut().zip(groups) {
        let of_cause = of_cause.entry((group.harmless, group.cause)).or_default();
        *of_cause += 1;
        *drawn = *of_cause <= DRAWN_OF_EACH && left > 0;
        left -= usize::from(*drawn);
    }
    for drawn in drawn.iter_mut().filter(|drawn| !**drawn).take(left) {
        *drawn = true;
    }
    drawn
}

/// How many findings are not drawn, and how to see one of them.
fn not_drawn(drawn: &[bool], tools: &Tools) -> Option<String> {
    let shown = drawn.iter().filter(|drawn| **drawn).count();
    let rest = drawn.len() - shown;
    let select = tools.select.unwrap_or("a report on the packets of its address, port and time");
    (rest > 0).then(|| {
        format!(
            "Evidence and packets of {shown} findings stand below: some of each cause, the harmful and the largest first. Of the \
             {rest} others the table names the frame; {select} shows their evidence and packets."
        )
    })
}

/// The findings, those of one cause together: first the harmful ones, then, folded, the others.
fn sections(out: &mut impl Write, groups: &[Group], drawn: &[bool], tools: &Tools) -> io::Result<()> {
    let mut causes: Vec<(bool, Cause)> = Vec::new();
    for group in groups {
        if !causes.contains(&(group.harmless, group.cause)) {
            causes.push((group.harmless, group.cause));
        }
    }
    let harmless: u64 = groups.iter().filter(|group| group.harmless).map(|group| group.connections).sum();
    let mut folded = false;
    for cause in causes {
        if cause.0 && !folded {
            folded = true;
            writeln!(out, "<details id=\"harmless\"><summary>Harmless: {harmless} connections</summary>")?;
        }
        let of_cause =
            || groups.iter().enumerate().filter(|(_, group)| (group.harmless, group.cause) == cause);
        let connections: u64 = of_cause().map(|(_, group)| group.connections).sum();
        let plural = if connections == 1 { "" } else { "s" };
        let name = if cause.1 == Cause::Unknown { "undecided" } else { cause.1.name() };
        writeln!(out, "<h2>{name} <span class=\"soft\">{connections} connection{plural}</span></h2>")?;
        writeln!(out, "<p>{}</p>", escape(cause.1.meaning()))?;
        for (at, group) in of_cause().filter(|(at, _)| drawn[*at]) {
            group::article(out, at + 1, group, tools)?;
        }
        match of_cause().filter(|(at, _)| !drawn[*at]).count() {
            0 => {}
            1 => writeln!(out, "<p class=\"soft\">One more finding stands in the table only.</p>")?,
            more => writeln!(out, "<p class=\"soft\">{more} more findings stand in the table only.</p>")?,
        }
    }
    if folded { writeln!(out, "</details>") } else { Ok(()) }
}

/// The captures, one a row; folded if there are many.
fn captures(out: &mut impl Write, files: &[Examined]) -> io::Result<()> {
    writeln!(out, "<h2>What was read</h2>")?;
    if files.len() > SHOWN {
        writeln!(out, "<details><summary>{} captures</summary>", files.len())?;
    }
    writeln!(
        out,
        "<table class=\"list sorted\"><thead><tr><th>Capture</th><th class=\"number\">Packets</th>"
    )?;
    writeln!(out, "<th class=\"number\">Connections</th><th class=\"number\">Resets</th>")?;
    writeln!(out, "<th class=\"number\">Seconds</th></tr></thead><tbody>")?;
    for file in files {
        let counts = &file.counts;
        let seconds = counts.last.saturating_sub(counts.first) as f64 / 1e9;
        let mut row = format!("<tr><td class=\"path\">{}</td>", escape(&file.file));
        for (name, number) in
            [("Packets", counts.packets), ("Connections", counts.connections), ("Resets", counts.resets)]
        {
            row += &format!("<td class=\"number\" data-name=\"{name}\">{number}</td>");
        }
        writeln!(out, "{row}<td class=\"number\" data-name=\"Seconds\">{seconds:.3}</td></tr>")?;
    }
    writeln!(out, "</tbody></table>")?;
    if files.len() > SHOWN { writeln!(out, "</details>") } else { Ok(()) }
}

#[cfg(test)]
mod tests;
