//! Runs many experiments in parallel, each in its own namespaces and on its own link.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::lock;
use crate::stop::Stop;

/// How many experiments run at a time: four for each processor, since most of them wait for their links most of the time.
pub fn side_by_side() -> usize {
    thread::available_parallelism().map_or(2, usize::from) * 4
}

/// Runs every task, `at_once` of them at a time, and calls `done` with each result as it comes. Returns the results in the
/// order of the tasks. A task that had not begun when the run was stopped has `None`.
pub fn run_all<T: Sync, R: Send>(
    tasks: &[T],
    at_once: usize,
    stop: &Stop,
    task: impl Fn(&T) -> R + Sync,
    done: impl FnMut(usize, &R) + Send,
) -> Vec<Option<R>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<R>>> = Mutex::new(tasks.iter().map(|_| None).collect());
    let done = Mutex::new(done);
    thread::scope(|scope| {
        for _ in 0..at_once.clamp(1, tasks.len().max(1)) {
            let work = || {
                while !stop.requested() {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(input) = tasks.get(index) else { break };
                    let result = task(input);
                    lock(&done)(index, &result);
                    lock(&results)[index] = Some(result);
                }
            };
            // If not all threads can be started, it takes longer; this thread works in any case.
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                work();
                break;
            }
        }
    });
    results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
