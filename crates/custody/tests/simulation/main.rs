//! Random schedules of a program's processes against the supervisor's decisions, in a simulated kernel.
//!
//! Nothing that the program still has is ever half-closed; the last close of each accepted connection is ended exactly
//! once; nothing is left over; the counts add up. The long run:
//! `cargo run --release -p linger-custody --features world --example simulate_world -- 10000000 1`.

mod driver;
mod kernel;
mod schedule;

use std::collections::BTreeMap;

#[test]
fn random_schedules() {
    let seeds =
        std::env::var("LINGER_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    let mut covered = BTreeMap::new();
    for seed in 0..seeds {
        let (hold, steps) = schedule::random(seed);
        let outcome = schedule::run(hold, &steps, false);
        if outcome.fault.is_some() {
            let (hold, steps, fault) = schedule::shrink(hold, &steps);
            eprintln!("seed {seed}: {fault}; hold {hold}, {} steps:", steps.len());
            schedule::run(hold, &steps, true);
            panic!("seed {seed}: {fault}");
        }
        for (what, times) in outcome.covered {
            *covered.entry(what).or_insert(0u64) += times;
        }
    }
}
