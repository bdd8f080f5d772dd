//! The stories of the page: what the client did, how often it was lost, where its boundaries are, and its packets.

use std::io::{self, Write};

use linger_why::html::{self, escape, ladder, list, row};

use super::{PageFacts, PagePackets, Replayed};
use crate::report::{FoundLoss, LostOnce, Repeats, SearchEnd};
use crate::story::Story;
use crate::words::counted;

/// The loss that was found.
pub(super) fn found(
    out: &mut impl Write,
    found: &FoundLoss,
    ended: &SearchEnd,
    facts: &PageFacts<'_>,
) -> io::Result<()> {
    begin(out, "found", "", "The loss that was found")?;
    row(out, "Lost", &found.lost.to_string())?;
    row(out, "Repeats", &repeats(found.repeats))?;
    steps(out, &found.story)?;
    list(out, "Boundary", &boundaries(found))?;
    if let Some(counters) = &found.counters {
        row(out, "Server's kernel", &format!("in these trials: {}", counted(counters)))?;
    }
    if let Some(counters) = &found.client_counters {
        row(out, "Client's kernel", &format!("in these trials: {}", counted(counters)))?;
    }
    let short = match ended {
        _ if found.whole => String::new(),
        SearchEnd::Stopped => ", and not to the end: interrupted".to_owned(),
        SearchEnd::ServerEnded { .. } => ", and not to the end: the server ended".to_owned(),
        _ => ", and not to the end: the time was over".to_owned(),
    };
    let after = found.after.as_secs_f64();
    row(out, "Found", &format!("after {after:.1} s, shrunk in {} trials{short}", found.shrinking))?;
    row(out, "Drawn", &format!("number {} of its seed: {}", found.index, found.drawn))?;
    packets(out, facts)?;
    writeln!(out, "</article>")
}

/// A loss that came once.
pub(super) fn once(out: &mut impl Write, once: &LostOnce) -> io::Result<()> {
    begin(out, "once", " class=\"risk\"", "A loss that did not come again")?;
    row(out, "Lost", &once.lost.to_string())?;
    row(out, "Repeats", &once.again())?;
    steps(out, &once.story)?;
    writeln!(out, "</dl>\n</article>")
}

/// The first story at risk.
pub(super) fn at_risk(out: &mut impl Write, story: &Story, count: Option<u64>) -> io::Result<()> {
    begin(out, "at-risk", " class=\"risk\"", "A response at risk")?;
    row(
        out,
        "At risk",
        "all of it came, and a reset with or before the last unread byte, or a failed write",
    )?;
    if let Some(count) = count.filter(|count| *count > 1) {
        row(out, "Repeats", &format!("this is the first of {count} schedules at risk"))?;
    }
    steps(out, story)?;
    writeln!(out, "</dl>\n</article>")
}

/// A story from a file.
pub(super) fn replayed(
    out: &mut impl Write,
    replayed: &Replayed<'_>,
    class: &str,
    facts: &PageFacts<'_>,
) -> io::Result<()> {
    let class = match class {
        "good" => " class=\"harmless\"",
        "risk" => " class=\"risk\"",
        _ => "",
    };
    begin(out, "replayed", class, "The story of the file")?;
    if let Some(lost) = replayed.lost {
        row(out, "Lost", &lost.to_string())?;
    }
    let mut told = repeats(replayed.repeats);
    if let Some(interrupted) = replayed.interrupted() {
        told += &format!("; {interrupted}");
    }
    row(out, "Repeats", &told)?;
    steps(out, replayed.story)?;
    packets(out, facts)?;
    writeln!(out, "</article>")
}

fn begin(out: &mut impl Write, name: &str, class: &str, title: &str) -> io::Result<()> {
    writeln!(out, "<article{class} data-story=\"{name}\">\n<h3>{title}</h3>\n<dl>")
}

fn repeats(repeats: Repeats) -> String {
    let race = if repeats.is_race() && repeats.lost > 0 { ": a race" } else { "" };
    let at_risk = match repeats.at_risk {
        0 => String::new(),
        at_risk => format!("; {at_risk} at risk"),
    };
    format!("lost in {repeats}{race}{at_risk}")
}

fn steps(out: &mut impl Write, story: &Story) -> io::Result<()> {
    row(out, "Link", story.link.as_deref().unwrap_or("that of the server that was running"))?;
    writeln!(out, "<dt>Steps</dt><dd>{}<ol>", escape(story.side()))?;
    for step in &story.schedule.steps {
        writeln!(out, "<li>{}</li>", escape(step.to_string()))?;
    }
    writeln!(out, "</ol>{}</dd>", story.ending().map_or(String::new(), |ending| format!("then: {ending}")))
}

fn boundaries(found: &FoundLoss) -> Vec<String> {
    let mut all: Vec<String> = found.bounds.iter().map(ToString::to_string).collect();
    if let Some(unread) = found.unread_from {
        all.push(format!(
            "of the response: loses if {unread} bytes or more are unread when the last pause begins"
        ));
    }
    all
}

/// The packets of the story. Ends the list of terms.
fn packets(out: &mut impl Write, facts: &PageFacts<'_>) -> io::Result<()> {
    let Some(PagePackets { retold, finding }) = facts.packets else {
        if let Some(why) = facts.no_packets {
            row(out, "Packets", &format!("none: {why}"))?;
        }
        return writeln!(out, "</dl>");
    };
    if let Some(absent) = retold.absent() {
        row(out, "Packets", &absent)?;
        return writeln!(out, "</dl>");
    }
    let Some(finding) = finding else {
        row(out, "Packets", &format!("over {}, they show no failure", retold.link))?;
        return writeln!(out, "</dl>");
    };
    let sides = [("server", &retold.counters), ("client", &retold.client_counters)];
    let counted: Vec<String> = sides
        .into_iter()
        .filter_map(|(side, counters)| Some((side, counters.as_ref()?)))
        .map(|(side, counters)| format!("the {side}'s kernel counted in this trial: {}", counted(counters)))
        .collect();
    html::finding(out, finding, &counted, &facts.tools)?;
    writeln!(out, "</dl>")?;
    let which = format!("The packets, over {}: frame {}, {}", retold.link, finding.frame, finding.class);
    writeln!(out, "<details open><summary>{}</summary>", escape(which))?;
    ladder(out, finding)?;
    writeln!(out, "</details>")
}
