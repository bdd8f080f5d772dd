//! The report as one page that needs nothing else: text, and ladders drawn in SVG.

use std::io::{self, Write};

use crate::group::Group;
use crate::text::{headline, label, losses, notes, size, summary, when};
use crate::{Cause, Examined, Finding, Rung, Tools};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2430; --soft: #667085; --paper: #fff; --card: #f6f7f9; --bad: #b42318;
  --good: #067647; --line: #475467; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --paper: #14171c; --card: #1d2129;
  --bad: #f97066; --good: #47cd89; --line: #98a2b3; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 0 0 .5rem; }
section { background: var(--card); border-radius: .5rem; padding: 1rem 1.25rem; margin: 1rem 0;
  border-left: .3rem solid var(--bad); }
section.harmless { border-color: var(--good); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .2rem 1rem; margin: .5rem 0; }
dt { color: var(--soft); } dd { margin: 0; } ul { margin: 0; padding-left: 1.2rem; }
.ladder { overflow-x: auto; margin-top: 1rem; }
@media (max-width: 40rem) { dl { display: block; } dt { margin-top: .4rem; } }
.note { color: var(--soft); } svg text { font: 12px ui-monospace, monospace; fill: var(--ink); }
svg .soft { fill: var(--soft); } svg line { stroke: var(--line); } svg .reset line { stroke: var(--bad); stroke-width: 2; }
svg .reset text, svg .reset polygon { fill: var(--bad); } svg polygon { fill: var(--line); }
";

/// The height of one packet in a ladder, and the places of the two sides.
const STEP: usize = 26;
const LEFT: usize = 190;
const RIGHT: usize = 640;
/// The place of the remarks on the right, the width of one of their letters, and how many are shown of each.
const REMARKS: usize = RIGHT + 10;
const LETTER: usize = 8;
const SHOWN: usize = 100;

/// Writes the whole page. Its remedies name `tools`.
///
/// # Errors
/// Returns the errors of `out`.
pub fn report(out: &mut impl Write, files: &[Examined], groups: &[Group], tools: &Tools) -> io::Result<()> {
    writeln!(out, "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">")?;
    writeln!(out, "<meta name=\"viewport\" content=\"width=device-width\">")?;
    writeln!(out, "<title>Why connections were reset</title>\n<style>{STYLE}</style>")?;
    writeln!(out, "<h1>Why connections were reset</h1>")?;
    for file in files {
        writeln!(out, "<p>{}</p>", escape(&size(file)))?;
        for note in notes(file, tools) {
            writeln!(out, "<p class=\"note\">note: {}</p>", escape(&note))?;
        }
    }
    writeln!(out, "<p>{}</p>", escape(&summary(groups)))?;
    for (number, group) in groups.iter().enumerate() {
        section(out, number + 1, group, tools)?;
    }
    writeln!(out, "</html>")
}

fn section(out: &mut impl Write, number: usize, group: &Group, tools: &Tools) -> io::Result<()> {
    let example = &group.example;
    let class = if group.harmless { " class=\"harmless\"" } else { "" };
    writeln!(out, "<section{class}>\n<h2>{number}. {}</h2>", escape(&headline(group)))?;
    writeln!(out, "<p>{} {}</p>\n<dl>", escape(group.cause.meaning()), escape(&losses(group)))?;
    let mut row = |name: &str, value: &str| writeln!(out, "<dt>{name}</dt><dd>{value}</dd>");
    row("Wire", &escape(&format!("{}, frame {} of {}", example.class, example.frame, example.file)))?;
    row("When", &when(group).iter().map(|line| escape(line)).collect::<Vec<_>>().join("<br>"))?;
    let evidence: String = example
        .evidence
        .iter()
        .map(|evidence| match evidence.frame {
            Some(frame) => format!("<li>frame {frame}: {}</li>", escape(&evidence.says.to_string())),
            None => format!("<li>{}</li>", escape(&evidence.says.to_string())),
        })
        .collect();
    row("Evidence", &format!("<ul>{evidence}</ul>"))?;
    if group.cause != Cause::Unknown && group.candidates.len() > 1 {
        row("Would also fit", &group.others())?;
    }
    if let Some(ask) = example.would_decide {
        row("Would decide it", &escape(&ask.words(tools)))?;
    }
    row("Remedy", &escape(&example.remedy.words(tools)))?;
    writeln!(out, "</dl>")?;
    svg(out, example)?;
    if group.connections > 1 {
        writeln!(out, "<details><summary>{} connections</summary><ul>", group.connections)?;
        for member in &group.members {
            let text = format!("{} frame {}: {} to {}", member.file, member.frame, member.from, member.to);
            writeln!(out, "<li>{}</li>", escape(&text))?;
        }
        writeln!(out, "</ul></details>")?;
    }
    writeln!(out, "</section>")
}

fn svg(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let height = STEP * (finding.ladder.len() + 2);
    let remarks: Vec<String> = finding.ladder.iter().map(remark).collect();
    let longest = remarks.iter().map(|remark| remark.chars().count().min(SHOWN)).max().unwrap_or(0);
    let width = REMARKS + LETTER * longest.max(30);
    writeln!(
        out,
        "<div class=\"ladder\" tabindex=\"0\"><svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
         aria-label=\"packets of the connection\">"
    )?;
    for (x, end) in [(LEFT, finding.to), (RIGHT, finding.from)] {
        writeln!(out, "<text x=\"{x}\" y=\"14\" text-anchor=\"middle\">{}</text>", escape(&end.to_string()))?;
        writeln!(out, "<line x1=\"{x}\" y1=\"20\" x2=\"{x}\" y2=\"{height}\" stroke-dasharray=\"2 3\"/>")?;
    }
    let start = finding.ladder.first().map_or(0, |rung| rung.time_ns);
    for (at, (rung, remark)) in finding.ladder.iter().zip(&remarks).enumerate() {
        let y = STEP * (at + 2);
        let class = if rung.flags.contains("RST") { " class=\"reset\"" } else { "" };
        let seconds = rung.time_ns.saturating_sub(start) as f64 / 1e9;
        let (from, to, tip) =
            if rung.by_resetter { (RIGHT, LEFT, LEFT + 8) } else { (LEFT, RIGHT, RIGHT - 8) };
        writeln!(
            out,
            "<g{class}><text class=\"soft\" x=\"0\" y=\"{}\">{} {seconds:.6}</text>",
            y + 4,
            rung.frame
        )?;
        writeln!(out, "<line x1=\"{from}\" y1=\"{y}\" x2=\"{to}\" y2=\"{y}\"/>")?;
        writeln!(out, "<polygon points=\"{to},{y} {tip},{} {tip},{}\"/>", y - 4, y + 4)?;
        let middle = LEFT.midpoint(RIGHT);
        writeln!(
            out,
            "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            y - 5,
            escape(&label(rung))
        )?;
        let shown: String = match remark.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}\u{2026}<title>{}</title>", escape(&remark[..end]), escape(remark)),
            None => escape(remark),
        };
        writeln!(out, "<text class=\"soft\" x=\"{REMARKS}\" y=\"{}\">{shown}</text></g>", y + 4)?;
    }
    writeln!(out, "</svg></div>")
}

fn remark(rung: &Rung) -> String {
    let window = rung.window.map(|window| format!("win {window}"));
    window.into_iter().chain(rung.note.clone()).collect::<Vec<_>>().join(", ")
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Text from a capture may hold control characters, which a page must not.
            other if other.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_text_cannot_become_markup() {
        assert_eq!(escape("<script>\"&\u{1b}"), "&lt;script&gt;&quot;&amp;\u{fffd}");
    }
}
