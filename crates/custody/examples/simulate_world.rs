//! The long run of the simulation: `simulate_world SCHEDULES [FIRST_SEED [THREADS]]`, a thread for each processor
//! unless told otherwise.
//!
//! Runs seed after seed until SCHEDULES schedules had 30 events or more; shorter ones are run, and not counted.
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
    let (Some(Ok(schedules)), first, threads) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("simulate_world SCHEDULES [FIRST_SEED [THREADS]]");
        return ExitCode::from(2);
    };
    let first = first.and_then(Result::ok).unwrap_or(0);
    let (next, long_enough) = (AtomicU64::new(first), AtomicU64::new(0));
    let coverage = Mutex::new(Coverage::default());
    let fault: Mutex<Option<u64>> = Mutex::new(None);
    let processors = || std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let threads = threads.and_then(Result::ok).unwrap_or_else(processors);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while long_enough.load(Relaxed) < schedules && fault.lock().is_ok_and(|fault| fault.is_none())
                {
                    let seed = next.fetch_add(1, Relaxed);
                    let (hold, steps) = schedule::random(seed);
                    let outcome = schedule::run(hold, &steps, false);
                    if outcome.fault.is_some() {
                        fault.lock().expect("no thread panics with it").get_or_insert(seed);
                        return;
                    }
                    long_enough.fetch_add(u64::from(outcome.events >= coverage::LEAST), Relaxed);
                    coverage.lock().expect("no thread panics with it").add(&outcome);
                }
            });
        }
    });
    let coverage = coverage.into_inner().expect("all threads have ended");
    let last = next.into_inner() - 1;
    println!(
        "seeds {first} to {last}, of which {} schedules had fewer than {} events",
        coverage.short,
        coverage::LEAST
    );
    println!("{coverage}");
    println!("never met: {:?}", coverage.missing());
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
    // Run it again, with every step printed on standard error.
    schedule::run(shrunk.hold, &shrunk.steps, true);
    ExitCode::FAILURE
}
