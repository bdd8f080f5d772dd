//! Trials by time and size, as a table whose cells are coloured; each says by letter and number what its colour says.

use std::io::{self, Write};

use linger_why::html::escape;

use crate::story::Story;
use crate::trials::{TrialCell, TrialCounts, TrialMap};
use crate::words::milliseconds;

/// Draws the trials. The cell of `story` is framed.
pub(super) fn draw(
    out: &mut impl Write,
    title: &str,
    map: &TrialMap,
    story: Option<&Story>,
) -> io::Result<()> {
    let (pauses, sizes) = map.scales();
    if pauses.is_empty() {
        return Ok(());
    }
    let here = story.map(|story| TrialCell::of(&story.schedule));
    writeln!(out, "<h2>{title}</h2>")?;
    key(out, here.is_some())?;
    writeln!(out, "<div class=\"heatbox\" tabindex=\"0\">\n<table class=\"heat\">")?;
    writeln!(
        out,
        "<caption>Across: all pauses of a schedule together. Down: all that it sends behind the requests' heads. \
         Each from its label up to the next.</caption>"
    )?;
    write!(out, "<thead><tr><th scope=\"col\">bytes \\ pauses</th>")?;
    for from in &pauses {
        write!(out, "<th scope=\"col\">{}</th>", short(*from, milliseconds))?;
    }
    writeln!(out, "</tr></thead><tbody>")?;
    for from in sizes.iter().rev() {
        write!(out, "<tr><th scope=\"row\">{}</th>", short(*from, bytes))?;
        for pause in &pauses {
            let place = TrialCell { pauses_from_ms: *pause, sent_from_bytes: *from };
            cell(out, place, map.at(place), here == Some(place))?;
        }
        writeln!(out, "</tr>")?;
    }
    writeln!(out, "</tbody></table>\n</div>")
}

fn key(out: &mut impl Write, has_story: bool) -> io::Result<()> {
    write!(
        out,
        "<p class=\"key\"><b class=\"lost\">L1</b> lost <b class=\"atrisk\">R2</b> at risk, none lost \
         <b class=\"some\">3</b> kept, none at risk <b class=\"undecided\">?4</b> none says anything. \
         The number counts those trials."
    )?;
    let framed = if has_story { " The shortest story lies in the framed cell." } else { "" };
    writeln!(out, "{framed}</p>")
}

fn cell(
    out: &mut impl Write,
    place: TrialCell,
    counts: Option<TrialCounts>,
    is_here: bool,
) -> io::Result<()> {
    let here = if is_here { " here" } else { "" };
    let Some(counts) = counts else {
        return write!(out, "<td class=\"none{here}\"></td>");
    };
    let TrialCounts { kept, at_risk, lost, undecided } = counts;
    let (class, shown) = match counts {
        _ if lost > 0 => ("lost", format!("L{lost}")),
        _ if at_risk > 0 => ("atrisk", format!("R{at_risk}")),
        _ if kept > 0 => (shade(kept), kept.to_string()),
        _ => ("undecided", format!("?{undecided}")),
    };
    let pauses = range(place.pauses_from_ms, place.pauses_below_ms(), "no pause", milliseconds);
    let sent = range(place.sent_from_bytes, place.sent_below_bytes(), "nothing sent", bytes);
    let title = format!(
        "pauses: {pauses}; sent: {sent}: {kept} kept, {at_risk} at risk, {lost} lost, {undecided} undecided"
    );
    write!(out, "<td class=\"{class}{here}\" title=\"{}\">{shown}</td>", escape(title))
}

fn shade(kept: u64) -> &'static str {
    match kept {
        0..3 => "few",
        3..12 => "some",
        _ => "many",
    }
}

fn range(from: u64, below: u64, none: &str, shown: fn(u64) -> String) -> String {
    if from == 0 { none.to_owned() } else { format!("{} to {}", shown(from), shown(below)) }
}

fn short(from: u64, shown: fn(u64) -> String) -> String {
    if from == 0 { "0".to_owned() } else { shown(from) }
}

/// A number of bytes that begins a step of a scale.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} kB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}
