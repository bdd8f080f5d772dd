//! What a hunt prints for people.

use anstyle::AnsiColor;
use linger_hunt::{
    BoundedNumber, FoundLoss, HuntPlan, HuntReport, LossBound, LostResponse, Quarry, Repeats, SearchEnd,
    Story, StoryFile,
};
use linger_lab::Verdict;
use linger_netns::Counters;
use linger_untrusted::message;
use linger_why::Cause;

use super::packets::Packets;
use crate::output::{Stdout, Stopped};

/// A time in the unit that people would use.
fn time(milliseconds: u64) -> String {
    if milliseconds < 1_000 {
        format!("{milliseconds} ms")
    } else {
        format!("{:.3}", milliseconds as f64 / 1e3).trim_end_matches('0').trim_end_matches('.').to_owned()
            + " s"
    }
}

/// The text of a story's file, with a comment that says how to use it.
pub(super) fn file(story: &Story, plan: &HuntPlan, port: Option<u16>) -> String {
    let path = match &plan.quarry {
        Quarry::Command { path, .. } => path.clone(),
        Quarry::Running { target, .. } => target.path.clone(),
        _ => "/".to_owned(),
    };
    let file = StoryFile::new(story, path, port);
    format!("# linger hunt --replay THIS-FILE -- SERVER COMMAND\n# {}\n\n{}", sentence(story), file.text())
}

/// A story in one line.
fn sentence(story: &Story) -> String {
    story.schedule.steps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) fn report(
    out: &mut Stdout,
    report: &HuntReport,
    packets: Option<&Packets>,
    again: &str,
) -> Result<(), Stopped> {
    let end = if report.framed { "" } else { ", without a length" };
    out.text(format_args!(
        "plain response: {}{} bytes{end}, from {}\n",
        if report.status > 0 { format!("{}, ", report.status) } else { String::new() },
        report.response_bytes,
        message(&report.site)
    ))?;
    if let Some(found) = &report.found {
        loss(out, found)?;
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

fn share(repeats: Repeats) -> String {
    let (low, high) = repeats.interval();
    format!("{} of {} trials ({:.0}% to {:.0}%)", repeats.lost, repeats.tried, low * 100.0, high * 100.0)
}

fn loss(out: &mut Stdout, found: &FoundLoss) -> Result<(), Stopped> {
    let red = AnsiColor::Red.on_default();
    let race = if found.repeats.is_race() { ": a race" } else { "" };
    out.text(format_args!(
        "\n{red}lost{red:#}: {}\nin {}{race}\n\n",
        what(&found.lost),
        share(found.repeats)
    ))?;
    steps(out, &found.story)?;
    if !found.bounds.is_empty() {
        out.text(format_args!("\n"))?;
    }
    for bound in &found.bounds {
        out.text(format_args!("  {}\n", boundary(bound)))?;
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
    let short = if found.whole { "" } else { ", and not to the end: the time was over" };
    out.text(format_args!(
        "  found after {:.1} s, shrunk in {} trials{short}; drawn was number {}: {}\n\n",
        found.after.as_secs_f64(),
        found.shrinking,
        found.index,
        sentence(&found.drawn)
    ))
}

fn counted(counters: &Counters) -> String {
    let counted: Vec<String> = linger_lab::COUNTERS
        .iter()
        .filter(|name| counters.of(name) > 0)
        .map(|name| format!("{name} {}", counters.of(name)))
        .collect();
    if counted.is_empty() { "no reset".to_owned() } else { counted.join(", ") }
}

/// What became of a response, in a sentence.
fn what(lost: &LostResponse) -> String {
    let of = lost.expected.map_or(String::new(), |expected| format!(" of {expected}"));
    let which = if lost.response > 1 { format!("of response {}, ", lost.response) } else { String::new() };
    let end = if lost.reset { "then a reset" } else { "then a clean end" };
    let status = lost
        .status
        .filter(|status| *status > 0)
        .map_or(String::new(), |status| format!(" (status {status})"));
    let write = if lost.write_failed { "; a write of the client's had failed" } else { "" };
    format!("{which}{}{of} bytes{status}, {end}{write}", lost.got)
}

fn steps(out: &mut Stdout, story: &Story) -> Result<(), Stopped> {
    let over = story.link.as_ref().map_or(String::new(), |link| format!(" over {link}"));
    let buffer = |name: &str, bytes: Option<u64>| {
        bytes.map_or(String::new(), |bytes| format!(", {name} {bytes} bytes"))
    };
    let schedule = &story.schedule;
    let keep = if schedule.keep_alive { ", Connection: keep-alive" } else { "" };
    out.text(format_args!(
        "  the client{over}{}{}{keep}\n",
        buffer("receive buffer", schedule.receive_buffer),
        buffer("send buffer", schedule.send_buffer)
    ))?;
    for (index, step) in schedule.steps.iter().enumerate() {
        out.text(format_args!("    {}  {step}\n", index + 1))?;
    }
    out.text(format_args!("       read to the end\n"))
}

fn boundary(bound: &LossBound) -> String {
    let shown = |value: u64| match bound.what {
        BoundedNumber::Pause => time(value),
        _ if value == 1 => "1 byte".to_owned(),
        _ => format!("{value} bytes"),
    };
    let name = match bound.what {
        BoundedNumber::Pause => "pause",
        BoundedNumber::Sent => "sent",
        BoundedNumber::Read => "read",
        BoundedNumber::Body => "body announced",
        BoundedNumber::BodySent => "body sent",
        _ => "number",
    };
    let from = shown(bound.loses_from);
    match bound.keeps_at {
        Some(keeps) => {
            format!("step {}, {name}: loses from {from} on, keeps at {}", bound.step, shown(keeps))
        }
        None => format!("step {}, {name}: loses from {from} on", bound.step),
    }
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
            .map(|(from, count)| format!("{count} from {} on", time(*from)))
            .collect();
        out.text(format_args!("  pauses of {} to {} ({})\n", time(low), time(high), decades.join(", ")))?;
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
    for story in &report.unrepeated {
        out.text(format_args!("  lost once, and in none of 10 more trials: {}\n", sentence(story)))?;
    }
    if let Some(story) = &report.at_risk {
        out.text(format_args!(
            "  at risk (all came, and a reset with or before the last unread byte): {}\n",
            sentence(story)
        ))?;
    }
    Ok(())
}

/// The packets of a trial, and what `linger why` says of them.
fn wire(out: &mut Stdout, packets: &Packets) -> Result<(), Stopped> {
    let Packets { retold, finding, is_written } = packets;
    if retold.lost.is_none() {
        return out.text(format_args!(
            "  over {}, from which it can be captured, it was not lost in {} trials: there are no packets to show\n",
            retold.link, retold.trials
        ));
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
    if let Some(counters) = &retold.counters {
        out.text(format_args!("  - the server's kernel counted in this trial: {}\n", counted(counters)))?;
    }
    let mut ladder = Vec::new();
    // A vector takes every byte.
    let _ = linger_why::text::ladder(&mut ladder, finding);
    out.text(format_args!("{}", String::from_utf8_lossy(&ladder)))
}

pub(super) fn repeated(
    out: &mut Stdout,
    story: &Story,
    repeats: Repeats,
    lost: Option<&LostResponse>,
    packets: Option<&Packets>,
) -> Result<(), Stopped> {
    steps(out, story)?;
    match lost {
        Some(lost) => {
            let red = AnsiColor::Red.on_default();
            let race = if repeats.is_race() { ": a race" } else { "" };
            out.text(format_args!("{red}lost{red:#}: {}\nin {}{race}\n", what(lost), share(repeats)))?;
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
