//! Random schedules of a program's processes against the supervisor's decisions, in a simulated kernel.
//!
//! Nothing that the program still has is ever half-closed; the last close of each accepted connection is ended exactly
//! once; nothing is left over; the counts add up. The long run:
//! `cargo run --release -p linger-custody --features world --example simulate_world -- 10000000 20261126`.

mod coverage;
mod driver;
mod kernel;
mod schedule;

use coverage::Coverage;
use schedule::shrink::Shrunk;

/// `LINGER_SCHEDULES` sets another number. With fewer, some combinations may not occur.
const SCHEDULES: u64 = 20_000;

/// A fault should be shown in fewer events than this; otherwise some more faults are searched.
const FEW: usize = 10;
const FAULTS: usize = 60;

#[test]
fn nothing_goes_wrong_in_random_schedules() {
    let asked = std::env::var("LINGER_SCHEDULES").ok().and_then(|count| count.parse().ok());
    let mut coverage = Coverage::default();
    let mut least: Option<(u64, Shrunk)> = None;
    let mut faults = 0;
    // A fault may be a panic, which shrinking repeats many times.
    std::panic::set_hook(Box::new(|_| {}));
    for seed in 0..asked.unwrap_or(SCHEDULES) {
        let (hold, steps) = schedule::random(seed);
        let outcome = schedule::run(hold, &steps, false);
        if outcome.fault.is_some() {
            let shrunk = schedule::shrink(hold, &steps);
            faults += 1;
            if least.as_ref().is_none_or(|(_, least)| shrunk.events() < least.events()) {
                least = Some((seed, shrunk));
            }
            if faults == FAULTS || least.as_ref().is_some_and(|(_, least)| least.events() < FEW) {
                break;
            }
        }
        coverage.add(&outcome);
    }
    drop(std::panic::take_hook());
    if let Some((seed, shrunk)) = least {
        schedule::run(shrunk.hold, &shrunk.steps, true);
        panic!(
            "seed {seed}: {}; hold {}, {} events of the program",
            shrunk.fault,
            shrunk.hold,
            shrunk.events()
        );
    }
    eprintln!("{coverage}");
    if asked.is_some_and(|asked| asked < SCHEDULES) {
        return;
    }
    assert_eq!(coverage.missing(), Vec::<String>::new(), "what was never met: {coverage}");
}

/// A seed gives the same schedule again, and the printed schedule gives the same fault.
#[test]
fn a_seed_repeats() {
    for seed in 0..50 {
        let (hold, steps) = schedule::random(seed);
        let (one, two) = (schedule::run(hold, &steps, false), schedule::run(hold, &steps, false));
        assert_eq!((one.events, one.covered), (two.events, two.covered), "seed {seed}");
    }
}
