//! Runs random schedules of the preloaded library's decisions: `simulate_process SCHEDULES SEED`.

#[path = "../tests/process_simulation/simulation.rs"]
mod simulation;

use std::process::ExitCode;
use std::time::Instant;

use simulation::coverage::Coverage;
use simulation::kernel::Mode;
use simulation::{simulate, text};

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>());
    let (Some(Ok(schedules)), Some(Ok(seed)), None) = (numbers.next(), numbers.next(), numbers.next()) else {
        eprintln!("usage: simulate_process SCHEDULES SEED");
        return ExitCode::from(2);
    };
    let (mut coverage, started) = (Coverage::default(), Instant::now());
    let found = simulate(schedules, seed, Mode::Seen, None, &mut coverage);
    println!("{}", coverage.table());
    let empty = coverage.empty(true);
    if !empty.is_empty() {
        println!("never: {}", empty.join(", "));
    }
    match found {
        Some(found) => {
            println!("seed {seed}: {}", text(&found));
            ExitCode::FAILURE
        }
        None => {
            println!("seed {seed}: {schedules} schedules, nothing wrong, {:.1?}", started.elapsed());
            ExitCode::SUCCESS
        }
    }
}
