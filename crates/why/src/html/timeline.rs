//! How many failures there were when, as bars in SVG.

use std::io::{self, Write};

use crate::clock::WallClock;
use crate::timeline::Timeline;

const WIDTH: usize = 1_000;
const HEIGHT: usize = 80;
/// The widest bar.
const WIDEST: usize = 40;

/// Draws the bars: harmful failures from below, the harmless ones on top of them.
pub(super) fn draw(out: &mut impl Write, timeline: &Timeline) -> io::Result<()> {
    let all: Vec<_> = timeline.intervals().collect();
    let total: u64 = all.iter().map(|(_, count)| count.harmful + count.harmless).sum();
    let (Some((first, _)), Some((last, _)), true) = (all.first(), all.last(), total > 1) else {
        return Ok(());
    };
    let most = all.iter().map(|(_, count)| count.harmful + count.harmless).max().unwrap_or(1).max(1);
    let wide = (WIDTH / all.len()).clamp(2, WIDEST);
    writeln!(
        out,
        "<h2>When</h2>\n<div class=\"timeline\"><svg viewBox=\"0 0 {WIDTH} {}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"failures over time\">",
        HEIGHT + 4
    )?;
    for (at, (begin, count)) in all.iter().enumerate() {
        let tall = |count: u64| if count == 0 { 0 } else { (HEIGHT as u64 * count / most).max(2) as usize };
        let (x, harmful, harmless) = (at * wide, tall(count.harmful), tall(count.harmless));
        if harmful + harmless == 0 {
            continue;
        }
        writeln!(
            out,
            "<g><title>{}, {}: {} harmful, {} harmless</title>",
            WallClock(*begin),
            timeline.interval(),
            count.harmful,
            count.harmless
        )?;
        for (class, from, tall) in [("bad", 0, harmful), ("good", harmful, harmless)] {
            let y = (HEIGHT + 2).saturating_sub(from + tall);
            writeln!(
                out,
                "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{tall}\"/>",
                wide - 1
            )?;
        }
        writeln!(out, "</g>")?;
    }
    let (end, base) = (all.len() * wide, HEIGHT + 2);
    writeln!(out, "<line x1=\"0\" y1=\"{base}\" x2=\"{end}\" y2=\"{base}\"/>")?;
    writeln!(out, "</svg></div>")?;
    let from = WallClock(*first);
    let to = WallClock(last.saturating_add(timeline.interval_ns()));
    writeln!(
        out,
        "<p class=\"soft\">{from} to {to}. One bar is {}, the highest {most}: <span class=\"bad\">harmful</span>, \
         <span class=\"good\">harmless</span>.</p>",
        timeline.interval()
    )
}
