//! One run of a schedule.

use std::collections::BTreeMap;
use std::time::Duration;

use linger_custody::world::State;

use super::Step;
use super::act::{act, go_on_all};
use crate::driver::{Driver, Fault};
use crate::kernel::{Call, Kernel, Thread};

/// The result of a run.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) fault: Option<Fault>,
    /// Steps that did something: of the program, of the peers, of the supervisor.
    pub(crate) events: usize,
    pub(crate) connections: usize,
    /// Connections whose faults were excused.
    pub(crate) raced: usize,
    pub(crate) covered: BTreeMap<(&'static str, State), u64>,
}

/// Runs a schedule, then lets everything end; an assertion that fails is a fault, too.
pub(crate) fn run(hold: bool, steps: &[Step], tracing: bool) -> Outcome {
    std::panic::catch_unwind(|| run_unguarded(hold, steps, tracing)).unwrap_or_else(|panic| {
        let told = panic.downcast_ref::<String>().cloned();
        let told = told.or_else(|| panic.downcast_ref::<&str>().map(|told| (*told).to_owned()));
        Outcome { fault: Some(format!("panics: {}", told.unwrap_or_default())), ..Outcome::default() }
    })
}

fn run_unguarded(hold: bool, steps: &[Step], tracing: bool) -> Outcome {
    let mut kernel = Kernel::new();
    let mut driver = Driver::new(hold);
    driver.tracing = tracing;
    let mut outcome = Outcome::default();
    let result = steps
        .iter()
        .try_for_each(|step| {
            let did = act(&mut kernel, &mut driver, *step)?;
            if tracing && did {
                eprintln!("{step:?}");
            }
            outcome.events += usize::from(did);
            Ok(())
        })
        .and_then(|()| finish(&mut kernel, &mut driver, &mut outcome.events));
    outcome.fault = result.err();
    outcome.connections = kernel.connections.len();
    outcome.raced = kernel.connections.iter().filter(|one| one.raced).count();
    for told in &driver.told {
        *outcome.covered.entry(*told).or_default() += 1;
    }
    outcome
}

/// Lets all processes exit, and the supervisor finish.
fn finish(kernel: &mut Kernel, driver: &mut Driver, events: &mut usize) -> Result<(), Fault> {
    driver.go_on();
    for turn in 0..4_000_u32 {
        if go_on_all(kernel) {
            *events += 1;
            continue;
        }
        // A process that waits for its child of `vfork` goes on when that is gone.
        for process in (0..kernel.processes.len()).rev() {
            let this = &mut kernel.processes[process];
            if this.alive && this.threads == [Thread::Idle, Thread::Idle] && driver.is_at_rest() {
                this.call(0, Call::Exit);
                *events += 1;
                break;
            }
        }
        let gone = kernel.processes.iter().all(|process| !process.alive);
        if gone && driver.has_settled(kernel) {
            driver.end()?;
        }
        let did = driver.step(kernel, turn as u8, 0)?;
        if !did && gone && driver.has_ended() && !driver.is_busy() {
            return driver.check_end(kernel);
        }
        if !did || turn % 16 == 15 {
            driver.now += Duration::from_millis(25);
        }
    }
    Err("the end never comes".into())
}
