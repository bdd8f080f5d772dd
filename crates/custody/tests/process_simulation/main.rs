//! Random schedules of a simulated kernel under the preloaded library's decisions.
//!
//! Each run has 200,000 of them, or as many as LINGER_SIMULATE says.
//! `cargo run --release -p linger-custody --features world --example simulate_process -- SCHEDULES SEED` runs more.

mod simulation;

use simulation::coverage::Coverage;
use simulation::kernel::{Fault, Mode};
use simulation::{simulate, text};

#[test]
fn nothing_wrong_in_random_schedules() {
    let schedules = std::env::var("LINGER_SIMULATE").map_or(200_000, |number| number.parse().unwrap());
    let mut coverage = Coverage::default();
    if let Some(found) = simulate(schedules, 1, Mode::Seen, None, &mut coverage) {
        panic!("{}", text(&found));
    }
    eprintln!("{}", coverage.table());
    assert_eq!(coverage.empty(false), Vec::<String>::new());
}

/// No process has a connection that is in flight. That the simulation finds this fault shows that it looks.
#[test]
fn faults_that_no_look_can_see_are_found() {
    let mode = Mode::PassedAndShared;
    let found = simulate(200_000, 1, mode, Some(Fault::HalfClosed), &mut Coverage::default());
    let found = found.unwrap_or_else(|| panic!("{mode:?}"));
    eprintln!("{}", text(&found));
    assert!(found.schedule.events.len() < 10, "{}", text(&found));
}
