//! The report as text: what happened, to whom, why, and the packets that say so.

use std::borrow::Cow;
use std::io::{self, Write};

use crate::clock::{Duration, WallClock};
use crate::clusters::Cluster;
use crate::group::Group;
use crate::overview::{self, plural};
use crate::{Cause, Class, Confidence, Examined, Finding, Rung, Tools};

/// The width of a ladder's middle.
const WIDTH: usize = 44;
/// Up to this many captures are all named; of more, those with notes.
const NAMED: usize = 8;
/// Members of a group that are listed by name.
const LISTED: usize = 8;

/// Writes the whole report. Its remedies name `tools`.
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
    writeln!(out, "{}", one_line(&overview::first_of(groups, left_out, tools)))?;
    writeln!(out)?;
    captures(out, files, tools)?;
    writeln!(out, "{}", summary(groups, left_out))?;
    for cluster in Cluster::of(groups) {
        writeln!(out, "{}", cluster.words())?;
    }
    for (number, group) in groups.iter().enumerate() {
        writeln!(out)?;
        finding(out, number + 1, group, tools)?;
    }
    Ok(())
}

/// What was read: every capture, or, of many, those of which something is to be said.
fn captures(out: &mut impl Write, files: &[Examined], tools: &Tools) -> io::Result<()> {
    let many = files.len() > NAMED;
    if many {
        writeln!(out, "{}", overview::read(files))?;
    }
    for file in files {
        let notes = notes(file, tools);
        if !many || !notes.is_empty() {
            writeln!(out, "{}", one_line(&size(file)))?;
        }
        for note in notes {
            writeln!(out, "note: {}", one_line(&note))?;
        }
    }
    Ok(())
}

/// How many connections were reset, in one line. `left_out`: findings that are not told.
pub(crate) fn summary(groups: &[Group], left_out: u64) -> String {
    let connections = |harmless| -> u64 {
        groups.iter().filter(|group| group.harmless == harmless).map(|group| group.connections).sum()
    };
    let (harmful, harmless) = (connections(false), connections(true));
    let failed = |group: &&Group| !group.example.class.is_reset();
    let late = |group: &&Group| group.example.class == Class::OpenedLate;
    let count = |of: &dyn Fn(&&Group) -> bool| -> u64 {
        groups.iter().filter(|group| of(group)).map(|group| group.connections).sum()
    };
    let (late, silent) = (count(&late), count(&|group| failed(group) && !late(group)));
    let told = |count: u64, what| if count == 0 { String::new() } else { format!(" {count} {what}.") };
    let unanswered = told(silent, "failed without a reset") + &told(late, "opened late");
    let hidden = match left_out {
        0 => String::new(),
        1 => " 1 other finding is not told.".to_owned(),
        count => format!(" {count} other findings are not told."),
    };
    let unanswered = unanswered + &hidden;
    let harmful = harmful - silent - late;
    if harmful + harmless == 0 {
        let none = if left_out > 0 { "No reset is told." } else { "No connection was reset." };
        return format!("{none}{unanswered}");
    }
    let findings = groups.iter().filter(|group| !group.harmless && !failed(group)).count();
    format!(
        "{harmful} {} harmfully, in {}; {harmless} harmlessly.{unanswered}",
        if harmful == 1 { "connection was reset" } else { "connections were reset" },
        plural(findings as u64, "finding"),
    )
}

/// What a capture holds, in one line.
pub(crate) fn size(file: &Examined) -> String {
    let counts = &file.counts;
    format!(
        "{}: {}, {}, {:.3} s",
        file.file,
        plural(counts.packets, "packet"),
        plural(counts.connections, "connection"),
        counts.last.saturating_sub(counts.first) as f64 / 1e9
    )
}

/// What was not examined in a capture, and why.
pub(crate) fn notes(file: &Examined, tools: &Tools) -> Vec<String> {
    let counts = &file.counts;
    let remember = tools.remember.map_or(String::new(), |option| format!(" ({option})"));
    let mut notes = Vec::new();
    if counts.packets == 0 && counts.outside > 0 {
        notes.push(format!("none of its {} packets is of the time that was asked for", counts.outside));
    }
    if counts.segments == 0 && counts.unselected > 0 {
        notes.push(format!(
            "none of its {} TCP segments is of a host or port that was asked for",
            counts.unselected
        ));
    }
    for (count, one, many, what) in [
        (counts.fragments, "IP fragment was", "IP fragments were", "not reassembled"),
        (
            counts.cut,
            "packet was",
            "packets were",
            "cut before the TCP flags: capture with a longer snap length",
        ),
        (counts.malformed, "packet has", "packets have", "headers that contradict each other"),
        (
            counts.forgotten,
            "connection was",
            "connections were",
            &*format!("forgotten while alive, because too many were{remember}"),
        ),
        (counts.duplicates, "packet was", "packets were", "captured twice, and counted once"),
    ] {
        if count > 0 {
            notes.push(format!("{count} {} {what}", if count == 1 { one } else { many }));
        }
    }
    if counts.not_understood > 0 {
        // Three are enough for somebody to see what the capture is.
        let layers: Vec<_> = file.not_understood.iter().take(3).map(|(layer, _)| layer.to_string()).collect();
        notes.push(format!(
            "{} of {} packets ({}%) were not understood: {}{}",
            counts.not_understood,
            counts.packets,
            counts.not_understood * 100 / counts.packets.max(1),
            layers.join(", "),
            if file.not_understood.len() > layers.len() { " and others" } else { "" }
        ));
    }
    notes.extend(file.stopped.clone());
    notes
}

/// Why the findings say little about a capture, if more than half of it could not be read.
pub fn mostly_unread(file: &Examined) -> Option<String> {
    let counts = &file.counts;
    let layers: Vec<_> = file.not_understood.iter().take(3).map(|(layer, _)| layer.to_string()).collect();
    let kinds = [
        (counts.not_understood, format!("not understood ({})", layers.join(", "))),
        (counts.fragments, "fragments".into()),
        (counts.cut, "cut before their TCP flags".into()),
        (counts.malformed, "malformed".into()),
    ];
    let kinds = kinds.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    file.is_mostly_unread().then(|| {
        format!(
            "most of its {} packets could not be read: {}",
            counts.packets,
            kinds.collect::<Vec<_>>().join(", ")
        )
    })
}

/// A group in one line: cause, confidence, connections, listener.
pub fn headline(group: &Group) -> String {
    let mut line = match group.cause {
        Cause::Unknown => {
            let names: Vec<_> = group.candidates.iter().map(|cause| cause.name()).collect();
            format!("undecided between {}", names.join(", "))
        }
        cause => format!("{cause} ({})", group.confidence),
    };
    line += &format!(", {}", plural(group.connections, "connection"));
    if let Some(place) = overview::place(group) {
        line += &format!(", {place}");
    }
    if group.harmless {
        line += ", harmless";
    }
    line
}

/// What was lost, in one sentence.
pub fn losses(group: &Group) -> String {
    let (response, request) = (group.lost_response_bytes, group.unread_request_bytes);
    match (response, request) {
        _ if group.harmless => "Nothing was lost.".into(),
        (0, 0) => "No lost bytes are visible in the capture.".into(),
        _ => {
            let mut parts = Vec::new();
            if response > 0 {
                parts.push(format!("{response} bytes of responses never arrived"));
            }
            if request > 0 {
                parts.push(format!("{request} bytes of requests were never read"));
            }
            format!("At least {}.", parts.join(", "))
        }
    }
}

/// Who has to look into it.
pub fn whose(group: &Group) -> String {
    match group.cause {
        Cause::Unknown => format!("undecided; the reset is said to come from {}", group.owner),
        _ => group.owner.to_string(),
    }
}

/// When it happened, by the wall clock, and what the times have in common.
pub fn when(group: &Group) -> Vec<String> {
    let (first, last) = (WallClock(group.first_ns).to_string(), WallClock(group.last_ns).to_string());
    let mut lines = vec![if first == last { first } else { format!("{first} to {last}") }];
    let timing = &group.timing;
    if let Some((silence, spread)) = timing.silence {
        let each = if group.connections == 1 {
            format!("{} after the last byte", Duration(silence))
        } else {
            format!(
                "{} resets, each {:.1} s ± {:.1} after the last byte",
                group.connections,
                silence as f64 / 1e9,
                spread as f64 / 1e9
            )
        };
        lines.push(if timing.timeouts.is_empty() {
            format!("{each}{}", if group.connections > 2 { ": a timeout" } else { "" })
        } else {
            format!("{each}, as with a timeout of {}", timing.timeouts.join("; "))
        });
    }
    if let Some(period) = timing.period {
        lines.push(format!("one every {}", Duration(period)));
    }
    lines
}

/// What clients sent to a full listener in vain.
pub fn dropped(group: &Group) -> Option<String> {
    let drops = group.drops.filter(|drops| drops.at_least() > 0)?;
    let parts = [
        (drops.syns, "SYN", "SYNs"),
        (drops.answers, "packet behind a SYN-ACK", "packets behind a SYN-ACK"),
        (drops.refused, "packet that got a reset", "packets that got a reset"),
    ];
    let parts = parts.iter().filter(|(count, ..)| *count > 0);
    let parts = parts.map(|&(count, one, many)| format!("{count} {}", if count == 1 { one } else { many }));
    let mut said = format!(
        "{}, of all connections to it. Of what was not lost on the way the kernel counts each in ListenOverflows and ListenDrops",
        parts.collect::<Vec<_>>().join(" and ")
    );
    if drops.bare > 0 {
        said += &format!(
            ", at least {} of these: bare ACKs, {} here, are in TCPDeferAcceptDrop if TCP_DEFER_ACCEPT holds them back. One that was \
             dropped just before the data behind it was taken is counted there, and not here",
            drops.at_least(),
            drops.bare
        );
    }
    Some(said)
}

fn finding(out: &mut impl Write, number: usize, group: &Group, tools: &Tools) -> io::Result<()> {
    let example = &group.example;
    writeln!(out, "{number}. {}", headline(group))?;
    writeln!(out, "   {}", group.cause.meaning())?;
    writeln!(out, "   Lost: {}", losses(group))?;
    if !group.harmless {
        writeln!(out, "   Whose: {}", whose(group))?;
    }
    for line in when(group) {
        writeln!(out, "   When: {line}")?;
    }
    if let Some(drops) = dropped(group) {
        writeln!(out, "   Dropped: {drops}")?;
    }
    if group.connections > 1 {
        writeln!(out, "   The clearest of them: frame {} of {}", example.frame, one_line(&example.file))?;
    }
    writeln!(out, "   Wire: {} from {} to {}", example.class, example.from, example.to)?;
    for evidence in &example.evidence {
        let says = evidence.says.to_string();
        match evidence.frame {
            Some(frame) => writeln!(out, "   - frame {frame}: {}", one_line(&says))?,
            None => writeln!(out, "   - {}", one_line(&says))?,
        }
    }
    if group.cause != Cause::Unknown
        && example.confidence != Confidence::Certain
        && group.candidates.len() > 1
    {
        writeln!(out, "   Would also fit: {}", group.others())?;
    }
    if let Some(ask) = example.would_decide.filter(|_| !group.harmless) {
        writeln!(out, "   Would decide it: {}", ask.words(tools))?;
    }
    writeln!(out, "   Remedy: {}", example.remedy.words(tools))?;
    if group.connections > 1 {
        let listed: Vec<_> = group
            .members
            .iter()
            .take(LISTED)
            .map(|member| format!("frame {} {} -> {}", member.frame, member.from, member.to))
            .collect();
        let more = group.connections.saturating_sub(listed.len() as u64);
        // The frame of a connection without a reset is the one that shows its failure.
        let heading = if example.class.is_reset() { "Resets:" } else { "Connections:" };
        writeln!(out, "   {heading} {}", listed.join("; "))?;
        if more > 0 {
            let list = tools.list.map_or(String::new(), |option| format!(" ({option} lists them)"));
            writeln!(out, "   {:width$} and {more} more{list}", "", width = heading.len())?;
        }
    }
    ladder(out, example)
}

/// Writes the packets that matter as a ladder, the resetting side on the right.
///
/// # Errors
/// Returns the errors of `out`.
pub fn ladder(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let (left, right) = (finding.to.to_string(), finding.from.to_string());
    let gap = WIDTH.saturating_sub(left.len() + right.len()).max(1);
    writeln!(out, "\n   {:>8} {:>12}  {left}{}{right}", "frame", "seconds", " ".repeat(gap))?;
    let start = finding.ladder.first().map_or(0, |rung| rung.time_ns);
    let mut previous = None;
    for rung in &finding.ladder {
        if previous.is_some_and(|frame| rung.frame > frame + 1_000_000) {
            writeln!(out, "   {:>8}", "...")?;
        }
        previous = Some(rung.frame);
        let seconds = rung.time_ns.saturating_sub(start) as f64 / 1e9;
        writeln!(out, "   {:>8} {seconds:>12.6}  {}{}", rung.frame, arrow(rung), note(rung))?;
    }
    Ok(())
}

/// Flags, numbers and length of a packet.
pub fn label(rung: &Rung) -> String {
    let mut text = rung.flags.clone();
    if rung.len > 0 {
        text += &format!(" {} bytes", rung.len);
    }
    text += &format!(" seq {}", rung.seq);
    if let Some(ack) = rung.ack {
        text += &format!(" ack {ack}");
    }
    text
}

fn arrow(rung: &Rung) -> String {
    let label = label(rung);
    let line = WIDTH.saturating_sub(label.chars().count() + 4);
    let (before, after) = (line / 2, line - line / 2);
    if rung.by_resetter {
        format!("<{} {label} {}", "-".repeat(before + 1), "-".repeat(after))
    } else {
        format!("{} {label} {}>", "-".repeat(before), "-".repeat(after + 1))
    }
}

fn note(rung: &Rung) -> String {
    let mut text = rung.window.map_or(String::new(), |window| format!("  win {window}"));
    if let Some(note) = &rung.note {
        text += &format!("  {}", one_line(note));
    }
    text
}

/// A stranger's text (a file's name, a packet's comment) without line breaks: lines of its own could pass for those of the report.
fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains(['\n', '\r']) {
        text.replace('\n', "\\n").replace('\r', "\\r").into()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_has_no_lines_of_its_own() {
        let said = |comment: &str| {
            note(&Rung {
                frame: 1,
                time_ns: 0,
                by_resetter: false,
                flags: String::new(),
                seq: 0,
                ack: None,
                len: 0,
                window: None,
                note: Some(comment.into()),
            })
        };
        assert_eq!(said("slow\r\n1. aborted (certain)"), "  slow\\r\\n1. aborted (certain)");
        assert_eq!(said("slow 1. aborted (certain)"), "  slow 1. aborted (certain)");
    }

    #[test]
    fn one_packet_is_not_several() {
        let said = |cut| {
            let counts = crate::PacketCounts {
                packets: 9,
                segments: 5,
                cut,
                duplicates: 3 - cut,
                ..Default::default()
            };
            let file = Examined {
                file: String::new(),
                files: Vec::new(),
                counts,
                not_understood: Vec::new(),
                drops: std::collections::BTreeMap::new(),
                stopped: None,
                unread: false,
            };
            notes(&file, &Tools::default())
        };
        let cut = "cut before the TCP flags: capture with a longer snap length";
        let twice = "captured twice, and counted once";
        assert_eq!(said(1), [format!("1 packet was {cut}"), format!("2 packets were {twice}")]);
        assert_eq!(said(2), [format!("2 packets were {cut}"), format!("1 packet was {twice}")]);
    }
}
