//! The packets of a connection as a ladder in SVG, the resetting side on the right.

use std::io::{self, Write};

use super::escape;
use crate::clock::Duration;
use crate::text::label;
use crate::{Finding, Rung};

/// The places of the two sides, and the width of all.
const LEFT: usize = 130;
const RIGHT: usize = 555;
const WIDTH: usize = 565;
/// The height of a packet, of a remark below it, and of a pause.
const PACKET: usize = 26;
const REMARK: usize = 15;
const PAUSE: usize = 24;
/// A pause that is worth a line of its own, in nanoseconds.
const LONG: u64 = 2_000_000_000;
/// Letters that are shown of a remark.
const SHOWN: usize = 58;
/// Letters of both ends' names that have room in one line.
const ONE_LINE: usize = 56;

/// Draws the ladder of a finding.
///
/// # Errors
/// Returns the errors of `out`.
pub fn draw(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let names = [finding.to, finding.from].map(|end| match finding.client {
        Some(client) if client == end => format!("client {end}"),
        Some(_) => format!("server {end}"),
        None => end.to_string(),
    });
    let apart = names[0].len() + names[1].len() > ONE_LINE;
    let top = if apart { 40 } else { 24 };
    let start = finding.ladder.first().map_or(0, |rung| rung.time_ns);
    let height = top + finding.ladder.iter().map(tall).sum::<usize>() + PAUSE * pauses(finding) + 12;
    writeln!(
        out,
        "<div class=\"ladder\" tabindex=\"0\"><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"the packets of the connection\">"
    )?;
    writeln!(out, "<text x=\"{LEFT}\" y=\"14\">{}</text>", escape(&names[0]))?;
    let y = if apart { 30 } else { 14 };
    writeln!(out, "<text x=\"{RIGHT}\" y=\"{y}\" text-anchor=\"end\">{}</text>", escape(&names[1]))?;
    for x in [LEFT, RIGHT] {
        writeln!(out, "<line class=\"lane\" x1=\"{x}\" y1=\"{top}\" x2=\"{x}\" y2=\"{height}\"/>")?;
    }
    let (mut y, mut before) = (top, start);
    for rung in &finding.ladder {
        let pause = rung.time_ns.saturating_sub(before);
        if pause >= LONG {
            writeln!(
                out,
                "<text class=\"soft\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">({})</text>",
                LEFT.midpoint(RIGHT),
                y + PAUSE - 6,
                Duration(pause)
            )?;
            y += PAUSE;
        }
        before = rung.time_ns;
        packet(out, rung, y + PACKET - 2, rung.time_ns.saturating_sub(start))?;
        y += tall(rung);
    }
    writeln!(out, "</svg></div>")
}

fn pauses(finding: &Finding) -> usize {
    let long = |two: &&[Rung]| two[1].time_ns.saturating_sub(two[0].time_ns) >= LONG;
    finding.ladder.windows(2).filter(long).count()
}

fn tall(rung: &Rung) -> usize {
    PACKET + if remark(rung).is_empty() { 0 } else { REMARK }
}

fn packet(out: &mut impl Write, rung: &Rung, y: usize, since_ns: u64) -> io::Result<()> {
    let class = if rung.flags.contains("RST") { " class=\"reset\"" } else { "" };
    let (from, to, tip) = if rung.by_resetter { (RIGHT, LEFT, LEFT + 8) } else { (LEFT, RIGHT, RIGHT - 8) };
    let middle = LEFT.midpoint(RIGHT);
    writeln!(
        out,
        "<g{class}><text class=\"soft\" x=\"0\" y=\"{0}\">{1}</text><text class=\"soft\" x=\"{2}\" y=\"{0}\" \
         text-anchor=\"end\">{3:.6}</text>",
        y + 4,
        rung.frame,
        LEFT - 10,
        since_ns as f64 / 1e9
    )?;
    writeln!(out, "<line x1=\"{from}\" y1=\"{y}\" x2=\"{to}\" y2=\"{y}\"/>")?;
    writeln!(out, "<polygon points=\"{to},{y} {tip},{} {tip},{}\"/>", y - 4, y + 4)?;
    let above = y - 5;
    writeln!(
        out,
        "<text x=\"{middle}\" y=\"{above}\" text-anchor=\"middle\">{}</text>",
        escape(label(rung))
    )?;
    let remark = remark(rung);
    if !remark.is_empty() {
        let shown = match remark.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}\u{2026}<title>{}</title>", escape(&remark[..end]), escape(&remark)),
            None => escape(&remark).to_string(),
        };
        let below = y + 13;
        writeln!(
            out,
            "<text class=\"soft\" x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">{shown}</text>"
        )?;
    }
    writeln!(out, "</g>")
}

fn remark(rung: &Rung) -> String {
    let window = rung.window.map(|window| format!("win {window}"));
    window.into_iter().chain(rung.note.clone()).collect::<Vec<_>>().join(", ")
}
