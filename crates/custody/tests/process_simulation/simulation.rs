//! A simulated kernel under the preloaded library's decisions: see `docs/mutants/custody-process.md`.
#![allow(dead_code)] // The test and the example use a part each.

#[path = "coverage.rs"]
pub(crate) mod coverage;
#[path = "ends.rs"]
mod ends;
#[path = "events.rs"]
mod events;
#[path = "kernel.rs"]
pub(crate) mod kernel;
#[path = "ops.rs"]
mod ops;
#[path = "schedule.rs"]
pub(crate) mod schedule;
#[path = "sockets.rs"]
mod sockets;
#[path = "supervisor.rs"]
mod supervisor;

use std::cell::Cell;
use std::sync::Once;

use coverage::Coverage;
use kernel::{Fault, Mode};
use schedule::{Random, Schedule};

/// A schedule that leads to a fault, and its shrunk form.
pub(crate) struct Found {
    pub(crate) number: u64,
    pub(crate) fault: Fault,
    pub(crate) schedule: Schedule,
}

/// Runs random schedules from a seed, up to the first with a fault, or with the one that is wanted.
pub(crate) fn simulate(
    schedules: u64,
    seed: u64,
    mode: Mode,
    wanted: Option<Fault>,
    coverage: &mut Coverage,
) -> Option<Found> {
    let mut schedule = Schedule::empty();
    quiet(true);
    let found = (0..schedules).find_map(|number| {
        let mut random = Random(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        Schedule::random(&mut random, mode, &mut schedule);
        let fault = schedule.run(coverage).filter(|fault| wanted.is_none_or(|wanted| wanted == *fault))?;
        Some(Found { number, fault, schedule: schedule.shrunk(fault) })
    });
    quiet(false);
    found
}

/// Silences panics while a schedule is run: a failed assertion is a fault like others, and is reported after
/// shrinking.
fn quiet(quiet: bool) {
    static INSTALLED: Once = Once::new();
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    INSTALLED.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                hook(panic);
            }
        }));
    });
    QUIET.set(quiet);
}

/// A schedule as text, one event a line.
pub(crate) fn text(found: &Found) -> String {
    let Schedule { mode, hold, events } = &found.schedule;
    let mut text = format!(
        "{:?} after {} schedules; {mode:?}, hold {hold}, {} events:",
        found.fault,
        found.number,
        events.len()
    );
    events.iter().for_each(|event| text.push_str(&format!("\n  {event:?}")));
    text
}
