//! The long run of the simulation: `simulate_world SCHEDULES [FIRST_SEED]`, on all processors.
//!
//! Exit status 1 if anything went wrong, with the shrunk schedule and the seed that repeats it.

#[path = "../tests/simulation/coverage.rs"]
mod coverage;
#[path = "../tests/simulation/driver/mod.rs"]
mod driver;
#[path = "../tests/simulation/kernel/mod.rs"]
mod kernel;
#[path = "../tests/simulation/schedule/mod.rs"]
mod schedule;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use coverage::Coverage;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Some(Ok(schedules)), first) = (arguments.next(), arguments.next()) else {
        eprintln!("simulate_world SCHEDULES [FIRST_SEED]");
        return ExitCode::from(2);
    };
    let first = first.and_then(Result::ok).unwrap_or(0);
    let (next, coverage) = (AtomicU64::new(first), Mutex::new(Coverage::default()));
    let fault: Mutex<Option<u64>> = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= first.saturating_add(schedules)
                        || fault.lock().is_ok_and(|fault| fault.is_some())
                    {
                        return;
                    }
                    let (hold, steps) = schedule::random(seed);
                    let outcome = schedule::run(hold, &steps, false);
                    if outcome.fault.is_some() {
                        fault.lock().expect("no thread panics with it").get_or_insert(seed);
                        return;
                    }
                    coverage.lock().expect("no thread panics with it").add(&outcome);
                }
            });
        }
    });
    println!("{}", coverage.lock().expect("all threads have ended"));
    println!("never met: {:?}", coverage.lock().expect("all threads have ended").missing());
    let Some(seed) = fault.into_inner().expect("all threads have ended") else { return ExitCode::SUCCESS };
    println!("seed {seed} goes wrong; shrinking");
    let (hold, steps) = schedule::random(seed);
    let shrunk = schedule::shrink(hold, &steps);
    println!(
        "seed {seed}: {}; hold {}, {} events of the program:",
        shrunk.fault,
        shrunk.hold,
        shrunk.events()
    );
    // Told on standard error, step by step.
    schedule::run(shrunk.hold, &shrunk.steps, true);
    ExitCode::FAILURE
}
