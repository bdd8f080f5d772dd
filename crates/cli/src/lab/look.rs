//! What the lab's texts have in common: width, colours, a link in a few words.

use anstyle::{AnsiColor, Style};
use linger_lab::{CellPlan, Link, Tally};

/// Columns of the tables and of the sentences below them.
pub(super) const WIDTH: usize = 112;

pub(super) const DIM: Style = Style::new().dimmed();
const LOST: Style = AnsiColor::Red.on_default().bold();
const AT_RISK: Style = AnsiColor::Yellow.on_default().bold();
const KEPT: Style = AnsiColor::Green.on_default();

/// The worst that happened, as a colour.
pub(super) fn style(tally: &Tally) -> Style {
    match (tally.lost, tally.at_risk) {
        (0, 0) => KEPT,
        (0, _) => AT_RISK,
        _ => LOST,
    }
}

/// What the link is like towards the client, as far as it matters here.
pub(super) fn network(plan: &CellPlan) -> String {
    if plan.link.loopback { "over loopback".to_owned() } else { format!("over {}", in_words(&plan.link)) }
}

/// An emulated link's name, delay and rate.
pub(super) fn in_words(link: &Link) -> String {
    let path = &link.paths[0];
    let rate = match (path.rate, &path.trace) {
        (Some(rate), _) => format!(", {} Mbit/s", rate.0 as f64 / 1e6),
        (None, Some(_)) => ", by a trace".to_owned(),
        (None, None) => String::new(),
    };
    let mtu = path.mtu.map_or(String::new(), |mtu| format!(", mtu {}", mtu.bytes));
    let changes = if link.changes.is_empty() { "" } else { ", changing" };
    format!("{} of {} ms{rate}{mtu}{changes}", link.name, path.delay.as_secs_f64() * 1e3)
}
