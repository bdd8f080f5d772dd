//! The whole report in one line, for a reader at three in the morning: what, how many, since when, whose, and what to do.

use std::fmt::Write;

use crate::clock::WallClock;
use crate::group::Group;
use crate::timeline::Timeline;
use crate::{Cause, Confidence, Examined, Tools};

/// The first finding in one line, with its share of all harmful failures. `left_out`: findings that are not told.
pub(crate) fn first_of(groups: &[Group], left_out: u64, tools: &Tools) -> String {
    let harmful = || groups.iter().filter(|group| !group.harmless);
    let all: u64 = harmful().map(|group| group.connections).sum();
    let Some(first) = harmful().next() else {
        return match groups.iter().map(|group| group.connections).sum::<u64>() {
            0 if left_out > 0 => "None of the findings is told.".into(),
            0 => "Nothing failed: no connection was reset, and none failed otherwise.".into(),
            _ if left_out > 0 => "Nothing was lost by the findings that are told.".into(),
            1 => "Nothing was lost: the one connection that was reset had said all it had to say.".into(),
            count => {
                format!(
                    "Nothing was lost: the {count} connections that were reset had said all they had to say."
                )
            }
        };
    };
    let mut line = match first.cause {
        Cause::Unknown => "Undecided".to_owned(),
        cause => format!("{cause} ({})", first.confidence),
    };
    // Writing to a String cannot fail.
    let _ = match (first.connections, all) {
        (1, 1) => write!(line, ": 1 connection"),
        (count, all) if count == all => write!(line, ": {count} connections"),
        (count, all) if left_out == 0 => write!(line, ": {count} of {all} harmful failures"),
        (count, all) => write!(line, ": {count} of {all} harmful failures that are told"),
    };
    if let Some(place) = place(first) {
        let _ = write!(line, " of {place}");
    }
    let since = if first.connections == 1 { "at" } else { "since" };
    let _ = write!(line, ", {since} {}. Look at {}", WallClock(first.first_ns), first.owner);
    let _ = match (first.confidence, first.example.would_decide) {
        (Confidence::Possible, Some(ask)) => write!(line, ", and get {}.", ask.words(tools)),
        _ => write!(line, ". {}", first_sentence(&first.example.remedy.words(tools))),
    };
    line
}

/// The service of a group, and where it is.
pub(crate) fn place(group: &Group) -> Option<String> {
    let listener = group.listener.map(|listener| match listener.port() {
        0 => format!("several ports of {}", listener.ip()),
        _ => listener.to_string(),
    });
    match (group.service(), listener) {
        (Some(service), Some(listener)) => Some(format!("{service} ({listener})")),
        (Some(service), None) => Some(format!("{service} (several addresses)")),
        (None, listener) => listener,
    }
}

/// How much was read, in one line.
pub(crate) fn read(files: &[Examined]) -> String {
    let sum = |count: fn(&Examined) -> u64| files.iter().map(count).sum::<u64>();
    let (packets, connections) = (sum(|file| file.counts.packets), sum(|file| file.counts.connections));
    let first = files.iter().map(|file| file.counts.first).filter(|&time| time > 0).min().unwrap_or(0);
    let last = files.iter().map(|file| file.counts.last).max().unwrap_or(0);
    let when = match (first, last) {
        (_, 0) => String::new(),
        (first, last) => format!(", {} to {}", WallClock(first), WallClock(last)),
    };
    let [captures, packets, connections] =
        [(files.len() as u64, "capture"), (packets, "packet"), (connections, "connection")]
            .map(|(count, what)| plural(count, what));
    format!("{captures}, {packets}, {connections}{when}")
}

/// How many failures there were when, over all groups.
pub(crate) fn timeline(groups: &[Group]) -> Timeline {
    let mut all = Timeline::default();
    for group in groups {
        all.join(&group.timeline);
    }
    all
}

fn first_sentence(text: &str) -> &str {
    text.find(". ").map_or(text, |end| &text[..=end])
}

/// A number of things, `1 connection` or `2 connections`.
pub(crate) fn plural(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sentence_of_a_remedy_is_enough() {
        assert_eq!(first_sentence("Start it. Then look."), "Start it.");
        assert_eq!(first_sentence("Start it (1.5 s)."), "Start it (1.5 s).");
    }

    #[test]
    fn nothing_is_said_plainly() {
        assert!(first_of(&[], 0, &Tools::default()).starts_with("Nothing failed"));
        assert_eq!(read(&[]), "0 captures, 0 packets, 0 connections");
    }
}
