//! What a hunt prints for people.

use anstyle::AnsiColor;
use linger_hunt::html::Replayed;
use linger_hunt::{
    FoundLoss, HuntPlan, HuntReport, Player, Quarry, SearchEnd, Story, StoryFile, counted, milliseconds,
};
use linger_lab::Verdict;
use linger_untrusted::message;
use linger_why::Cause;

use super::packets::Packets;
use crate::output::{Stdout, Stopped};

/// The text of a story's file, with a comment that says how to use it.
pub(super) fn file(story: &Story, plan: &HuntPlan, port: Option<u16>) -> String {
    let path = match &plan.quarry {
        Quarry::Command { path, .. } => path.clone(),
        Quarry::Running { target, .. } => target.path.clone(),
        _ => "/".to_owned(),
    };
    let file = StoryFile::new(story, path, port);
    let hunted = if file.plays == Player::Server { "--client CMD" } else { "-- SERVER COMMAND" };
    format!("# linger hunt --replay THIS-FILE {hunted}\n# {story}\n\n{}", file.text())
}

pub(super) fn report(
    out: &mut Stdout,
    report: &HuntReport,
    packets: Option<&Packets>,
    again: &str,
) -> Result<(), Stopped> {
    plain(out, report)?;
    if let Some(found) = &report.found {
        loss(out, found, &report.ended)?;
    }
    if let Some(packets) = packets {
        wire(out, packets)?;
        out.text(format_args!("\n"))?;
    }
    searched(out, report)?;
    match &report.ended {
        SearchEnd::ServerEnded { status, said } => {
            out.text(format_args!("the server ended ({status}); what was searched until then is above\n"))?;
            if !said.is_empty() {
                out.text(format_args!("it said last:\n{}\n", message(said)))?;
            }
        }
        SearchEnd::Stopped => {
            out.text(format_args!("interrupted; what was searched until then is above\n"))?
        }
        _ => {}
    }
    out.text(format_args!("again: {}\n", message(again)))
}

/// What plain trials have taught.
fn plain(out: &mut Stdout, report: &HuntReport) -> Result<(), Stopped> {
    if let Some(client) = &report.client {
        return out.text(format_args!("plain trial: {client}\n"));
    }
    let end = if report.framed { "" } else { ", without a length" };
    out.text(format_args!(
        "plain response: {}{} bytes{end}, from {}\n",
        if report.status > 0 { format!("{}, ", report.status) } else { String::new() },
        report.response_bytes,
        message(&report.site)
    ))
}

fn loss(out: &mut Stdout, found: &FoundLoss, ended: &SearchEnd) -> Result<(), Stopped> {
    let red = AnsiColor::Red.on_default();
    let race = if found.repeats.is_race() { ": a race" } else { "" };
    out.text(format_args!("\n{red}lost{red:#}: {}\nin {}{race}\n\n", found.lost, found.repeats))?;
    steps(out, &found.story)?;
    if !found.bounds.is_empty() {
        out.text(format_args!("\n"))?;
    }
    for bound in &found.bounds {
        out.text(format_args!("  {bound}\n"))?;
    }
    if let Some(unread) = found.unread_from {
        out.text(format_args!(
            "  of the response: loses if {unread} bytes or more are unread when the last pause begins\n"
        ))?;
    }
    if let Some(counters) = &found.counters {
        let counted = counted(counters);
        out.text(format_args!("  the server's kernel counted in these trials: {counted}\n"))?;
    }
    if let Some(counters) = &found.client_counters {
        let counted = counted(counters);
        out.text(format_args!("  the client's kernel counted in these trials: {counted}\n"))?;
    }
    let short = match ended {
        _ if found.whole => "",
        SearchEnd::Stopped => ", and not to the end: interrupted",
        SearchEnd::ServerEnded { .. } => ", and not to the end: the server ended",
        _ => ", and not to the end: the time was over",
    };
    out.text(format_args!(
        "  found after {:.1} s, shrunk in {} trials{short}; drawn was number {}: {}\n\n",
        found.after.as_secs_f64(),
        found.shrinking,
        found.index,
        found.drawn
    ))
}

fn steps(out: &mut Stdout, story: &Story) -> Result<(), Stopped> {
    out.text(format_args!("  {}\n", story.side()))?;
    for (index, step) in story.schedule.steps.iter().enumerate() {
        out.text(format_args!("    {}  {step}\n", index + 1))?;
    }
    story.ending().map_or(Ok(()), |ending| out.text(format_args!("       {ending}\n")))
}

fn searched(out: &mut Stdout, report: &HuntReport) -> Result<(), Stopped> {
    let searched = &report.searched;
    let of = |verdict: Verdict| searched.verdicts.get(&verdict).copied().unwrap_or(0);
    let head =
        if report.found.is_none() && report.unrepeated.is_empty() { "nothing lost" } else { "searched" };
    out.text(format_args!(
        "{head}: {} schedules in {:.1} s, up to {} connections at a time: {} kept, {} at risk, {} lost\n",
        searched.schedules,
        searched.time.as_secs_f64(),
        searched.connections,
        of(Verdict::Kept),
        of(Verdict::AtRisk),
        of(Verdict::Lost)
    ))?;
    if let Some((low, high)) = searched.pauses {
        let decades: Vec<String> = searched
            .pause_decades
            .iter()
            .map(|(from, count)| format!("{count} from {} on", milliseconds(*from)))
            .collect();
        out.text(format_args!(
            "  pauses of {} to {} ({})\n",
            milliseconds(low),
            milliseconds(high),
            decades.join(", ")
        ))?;
    }
    if let Some((low, high)) = searched.sizes {
        out.text(format_args!("  {low} to {high} bytes sent at a time\n"))?;
    }
    if !searched.unjudged.is_empty() {
        let all: u64 = searched.unjudged.values().sum();
        let each: Vec<String> = searched
            .unjudged
            .iter()
            .map(|(why, count)| format!("{} {count}", why.name().replace('_', " ")))
            .collect();
        out.text(format_args!("  {all} say nothing about losses: {}\n", each.join(", ")))?;
    }
    if !report.half_closes {
        out.text(format_args!("  no half-closes: the server takes one for the client's end\n"))?;
    }
    for once in &report.unrepeated {
        out.text(format_args!("  {}: {}\n", once.again(), once.story))?;
    }
    if let Some(story) = &report.at_risk {
        out.text(format_args!(
            "  at risk (all came, and a reset with or before the last unread byte): {story}\n"
        ))?;
    }
    Ok(())
}

/// The packets of a trial, and what `linger why` says of them.
fn wire(out: &mut Stdout, packets: &Packets) -> Result<(), Stopped> {
    let Packets { retold, finding, is_written, .. } = packets;
    if let Some(absent) = retold.absent() {
        return out.text(format_args!("  {absent}\n"));
    }
    let written = if *is_written { ", in the capture" } else { "" };
    let Some(finding) = finding else {
        let link = &retold.link;
        return out.text(format_args!("  over {link}{written}, its packets show no failure\n"));
    };
    let named: Vec<&str> = finding.candidates.iter().map(|cause| cause.name()).collect();
    let cause = match finding.cause {
        Cause::Unknown => format!("undecided between {}", named.join(", ")),
        cause => format!("{cause} ({})", finding.confidence),
    };
    out.text(format_args!("  over {}{written}: {cause}\n", retold.link))?;
    for evidence in &finding.evidence {
        out.text(format_args!("  - {}\n", message(&evidence.says.to_string())))?;
    }
    for (side, counters) in [("server", &retold.counters), ("client", &retold.client_counters)] {
        if let Some(counters) = counters {
            let counted = counted(counters);
            out.text(format_args!("  - the {side}'s kernel counted in this trial: {counted}\n"))?;
        }
    }
    let mut ladder = Vec::new();
    // A vector takes every byte.
    let _ = linger_why::text::ladder(&mut ladder, finding);
    out.text(format_args!("{}", String::from_utf8_lossy(&ladder)))
}

pub(super) fn repeated(
    out: &mut Stdout,
    replayed: &Replayed<'_>,
    packets: Option<&Packets>,
) -> Result<(), Stopped> {
    let repeats = replayed.repeats;
    steps(out, replayed.story)?;
    match replayed.lost {
        Some(lost) => {
            let red = AnsiColor::Red.on_default();
            let race = if repeats.is_race() { ": a race" } else { "" };
            out.text(format_args!("{red}lost{red:#}: {lost}\nin {repeats}{race}\n"))?;
            packets.map_or(Ok(()), |packets| wire(out, packets))
        }
        None => {
            let unsure = repeats.tried - repeats.judged;
            let unsure = if unsure > 0 { format!(", {unsure} say nothing") } else { String::new() };
            out.text(format_args!(
                "nothing lost in {} trials, {} at risk{unsure}\n",
                repeats.tried, repeats.at_risk
            ))
        }
    }
}
