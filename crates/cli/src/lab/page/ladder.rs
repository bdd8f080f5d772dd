//! The calls of both ends of a connection as a ladder in SVG, the client on the left; the server's reset is drawn across the link.

use std::io::{self, Write};

use linger_lab::{Actor, Step, StepAction};
use linger_why::html::escape;

/// The places of the two ends, and the width of all.
const LEFT: usize = 80;
const RIGHT: usize = 640;
const WIDTH: usize = 650;
/// The height of a step, and of the names above.
const STEP: usize = 24;
const TOP: usize = 24;
/// From an end's line to its text.
const GAP: usize = 10;
/// Letters that are shown of a step.
const SHOWN: usize = 60;

/// Draws the steps.
pub(super) fn draw(out: &mut impl Write, steps: &[Step]) -> io::Result<()> {
    let height = TOP + STEP * steps.len() + 12;
    writeln!(
        out,
        "<div class=\"ladder\" tabindex=\"0\"><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"the calls of both ends\">"
    )?;
    writeln!(out, "<text class=\"soft\" x=\"{}\" y=\"14\" text-anchor=\"end\">ms</text>", LEFT - GAP)?;
    writeln!(out, "<text x=\"{LEFT}\" y=\"14\">client</text>")?;
    writeln!(out, "<text x=\"{RIGHT}\" y=\"14\" text-anchor=\"end\">server</text>")?;
    for x in [LEFT, RIGHT] {
        writeln!(out, "<line class=\"lane\" x1=\"{x}\" y1=\"{TOP}\" x2=\"{x}\" y2=\"{height}\"/>")?;
    }
    let placed = || steps.iter().enumerate().map(|(at, step)| (TOP + STEP * at + STEP / 2, step));
    // The reset lies below the texts.
    let mut sent = None;
    for (y, step) in placed() {
        match step.action {
            StepAction::ResetSent(_) => sent = Some(y),
            StepAction::ResetArrived(_) => reset(out, sent.take().unwrap_or(y), y)?,
            _ => {}
        }
    }
    for (y, step) in placed() {
        self::step(out, step, y)?;
    }
    writeln!(out, "</svg></div>")
}

fn step(out: &mut impl Write, step: &Step, y: usize) -> io::Result<()> {
    let is_reset = matches!(step.action, StepAction::ResetSent(_) | StepAction::ResetArrived(_));
    // The link's steps stand at the server, except a reset that reached the client.
    let at_client = match (step.actor, &step.action) {
        (Actor::Client, _) | (Actor::Link, StepAction::ResetArrived(_)) => true,
        (Actor::Server | Actor::Link, _) => false,
    };
    let (lane, x, anchor) = if at_client { (LEFT, LEFT + GAP, "start") } else { (RIGHT, RIGHT - GAP, "end") };
    let class = if is_reset { " class=\"reset\"" } else { "" };
    let (ms, base) = (step.at.as_secs_f64() * 1e3, y + 4);
    let all = step.action.to_string();
    let shown = match all.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}\u{2026}<title>{}</title>", escape(&all[..end]), escape(&all)),
        None => escape(&all).to_string(),
    };
    writeln!(
        out,
        "<g{class}><text class=\"soft\" x=\"{}\" y=\"{base}\" text-anchor=\"end\">{ms:.1}</text>",
        LEFT - GAP
    )?;
    writeln!(out, "<line x1=\"{}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\"/>", lane - 4, lane + 4)?;
    // With an edge, where the reset crosses it.
    writeln!(out, "<text class=\"edged\" x=\"{x}\" y=\"{base}\" text-anchor=\"{anchor}\">{shown}</text></g>")
}

fn reset(out: &mut impl Write, from: usize, to: usize) -> io::Result<()> {
    writeln!(out, "<g class=\"reset\"><line x1=\"{RIGHT}\" y1=\"{from}\" x2=\"{LEFT}\" y2=\"{to}\"/></g>")
}
