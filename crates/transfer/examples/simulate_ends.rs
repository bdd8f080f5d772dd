//! The long run of the simulation of both ends: `simulate_ends SCHEDULES [FIRST_SEED [THREADS]]`. By default it
//! uses a thread for each processor.
//!
//! The exit status is 1 if anything went wrong. Each kind of fault is shown once, with the smallest schedule that
//! causes it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use linger_transfer::simulation::{Runner, Schedule, shrink};

/// The most kinds of faults that are shown.
const SHOWN: usize = 12;

#[derive(Default)]
struct Counts {
    numbers: BTreeMap<&'static str, u64>,
    faults: BTreeSet<String>,
    faulty: u64,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Some(Ok(schedules)), first, threads) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("simulate_ends SCHEDULES [FIRST_SEED [THREADS]]");
        return ExitCode::from(2);
    };
    let first = first.and_then(Result::ok).unwrap_or(0);
    let processors = || std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let threads = threads.and_then(Result::ok).unwrap_or_else(processors);
    let (next, counts) = (AtomicU64::new(first), Mutex::new(Counts::default()));
    let started = Instant::now();
    // A fault may be a panic, and is repeated often while its schedule is made smaller: its messages are not
    // printed.
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let base = place();
                let mut runner = Runner::new(&base).expect("a directory of its own");
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= first + schedules {
                        break;
                    }
                    one(&mut runner, seed, &counts);
                }
                drop(std::fs::remove_dir_all(&base));
            });
        }
    });
    let counts = counts.into_inner().expect("all threads have ended");
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "seeds {first} to {}: {schedules} schedules in {seconds:.0} s, {:.0} a second",
        first + schedules - 1,
        schedules as f64 / seconds
    );
    for (name, number) in &counts.numbers {
        println!("{number:>12} {name}");
    }
    println!("{:>12} went wrong", counts.faulty);
    ExitCode::from(u8::from(counts.faulty > 0))
}

fn one(runner: &mut Runner, seed: u64, counts: &Mutex<Counts>) {
    let schedule = Schedule::random(seed);
    let outcome = runner.run(&schedule, None);
    let mut counts = counts.lock().expect("no thread panics with it");
    for (name, number) in outcome.counts() {
        *counts.numbers.entry(name).or_default() += number;
    }
    let Some(told) = outcome.fault else { return };
    counts.faulty += 1;
    if counts.faults.len() < SHOWN && counts.faults.insert(told.clone()) {
        drop(counts);
        let shrunk = shrink(&schedule, |schedule| runner.run(schedule, None).fault.is_some());
        let fault = runner.run(&shrunk, None).fault;
        println!("seed {seed}: {told}\n  shrunk: {shrunk:?}\n  {fault:?}");
    }
}

/// A directory on tmpfs, if there is one.
fn place() -> std::path::PathBuf {
    let memory = Path::new("/dev/shm");
    let above = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let base = above.join(format!("linger-ends-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::create_dir_all(&base).expect("room for a directory");
    base
}
