//! Progress on a terminal, and silence anywhere else.

use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is redrawn where nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// A line that says what is going on, redrawn in place.
pub(crate) fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    tick(&bar);
    bar
}

/// A bar over a known number of steps.
pub(crate) fn steps(count: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
    ProgressBar::new(count as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Starts a thread that redraws a bar until the bar is finished.
///
/// If no thread can be started, nothing redraws the bar between two events. indicatif's own `enable_steady_tick` would
/// panic in that case.
pub(crate) fn tick(bar: &ProgressBar) {
    if bar.is_hidden() {
        return;
    }
    let ticking = bar.clone();
    let redraw = move || {
        while !ticking.is_finished() {
            ticking.tick();
            thread::sleep(TICK);
        }
    };
    let _ = thread::Builder::new().name("progress".into()).spawn(redraw);
}
