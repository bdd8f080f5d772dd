//! The turns of a schedule: who goes on, which bytes arrive, when time passes, and how a process or a machine ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use super::Runner;
use crate::simulation::check;
use crate::simulation::threads::Pause;
use crate::simulation::world::{SimulatedState, SimulatedWorld, Thread};
use crate::simulation::{EndOfTransfer, Schedule};

/// The most turns of a schedule. The longest schedules that end need a tenth of them.
const MOST_TURNS: u64 = 400_000;
/// The most simulated time of a schedule.
const MOST_TIME: Duration = Duration::from_secs(12 * 3600);

impl Runner {
    /// Runs all threads until they have ended.
    pub(super) fn drive(&mut self, schedule: &Schedule, world: &Rc<SimulatedWorld>) -> Result<(), String> {
        for _ in 0..MOST_TURNS {
            self.start_threads(world)?;
            let mut state = world.state.borrow_mut();
            if state.fault.is_some() {
                return Ok(());
            }
            if state.now > MOST_TIME {
                return Err("somebody waits for ever".into());
            }
            if state.restarts.is_some_and(|at| at <= state.now) {
                state.restarts = None;
                drop(state);
                self.start_server(schedule, world);
                continue;
            }
            if state.threads.iter().all(Option::is_none) && state.restarts.is_none() {
                return Ok(());
            }
            match next(&mut state) {
                Next::Thread(slot) => {
                    state.current = slot;
                    drop(state);
                    self.resume(schedule, world, slot)?;
                }
                Next::Arrival(connection, end) => {
                    let most = if state.random.once_in(2) {
                        usize::MAX
                    } else {
                        1 + state.random.below(100) as usize
                    };
                    state.connections[connection].arrive(end, most);
                    state.changes += 1;
                }
                Next::Time(time) => state.now = state.now.max(time),
                Next::Nothing => return Err("all wait for each other, for ever".into()),
            }
        }
        Err("it comes to no end".into())
    }

    fn start_threads(&mut self, world: &SimulatedWorld) -> Result<(), String> {
        let starting = std::mem::take(&mut world.state.borrow_mut().starting);
        for (end, work) in starting {
            let slot = self.threads.free().ok_or("too many threads")?;
            self.threads.start(slot, work).map_err(|error| error.to_string())?;
            let mut state = world.state.borrow_mut();
            if state.threads.len() <= slot {
                state.threads.resize(slot + 1, None);
            }
            state.threads[slot] = Some(Thread { end, deadline: None, seen: 0 });
        }
        Ok(())
    }

    fn resume(&mut self, schedule: &Schedule, world: &Rc<SimulatedWorld>, slot: usize) -> Result<(), String> {
        match catch_unwind(AssertUnwindSafe(|| self.threads.resume(slot))) {
            Ok(Some(Pause::Waits)) => {}
            Ok(Some(Pause::Ended)) => {
                let doomed = world.state.borrow_mut().doomed.take();
                if let Some((end, power)) = doomed {
                    self.fall(schedule, world, end, power)?;
                }
            }
            Ok(None) => {
                let mut state = world.state.borrow_mut();
                state.threads[slot] = None;
                state.changes += 1;
            }
            Err(panic) => {
                self.threads.forget(slot);
                world.state.borrow_mut().threads[slot] = None;
                let told = panic.downcast_ref::<String>().cloned();
                let told = told.or_else(|| panic.downcast_ref::<&str>().map(|told| (*told).to_owned()));
                return Err(format!("a panic: {}", told.unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// Ends a process; with `power`, its machine.
    fn fall(
        &mut self,
        schedule: &Schedule,
        world: &Rc<SimulatedWorld>,
        end: EndOfTransfer,
        power: bool,
    ) -> Result<(), String> {
        if power {
            let mut state = world.state.borrow_mut();
            state.connections.iter_mut().for_each(|connection| connection.vanish(end));
        }
        self.kill(world, end);
        let mut state = world.state.borrow_mut();
        state.fell = true;
        let SimulatedState { random, disk, boots, connections, has_changed, .. } = &mut *state;
        if power {
            boots[end as usize] += 2;
            if disk.owner == end {
                disk.cut(random).map_err(|error| format!("the simulated disk: {error}"))?;
                check::after_cut(schedule, disk, *has_changed)?;
            }
            for connection in connections {
                if random.once_in(2) {
                    connection.forget(end.other());
                }
            }
        }
        if end == EndOfTransfer::Server {
            // The server mostly restarts soon, and sometimes only after the client has given up.
            let most = if random.once_in(8) { 600_000 } else { 20_000 };
            state.restarts = Some(state.now + Duration::from_millis(state.random.below(most)));
        }
        state.changes += 1;
        Ok(())
    }

    pub(super) fn kill(&mut self, world: &SimulatedWorld, end: EndOfTransfer) {
        let mut state = world.state.borrow_mut();
        state.dying = Some(end);
        state.starting.retain(|(whose, _)| *whose != end);
        // The thread that runs now is ended first: it may hold locks that the others need in order to end.
        let current = state.current;
        let mut slots: Vec<usize> = (0..state.threads.len()).collect();
        slots.sort_by_key(|slot| *slot != current);
        drop(state);
        for slot in slots {
            if world.state.borrow().threads[slot].is_some_and(|thread| thread.end == end) {
                world.state.borrow_mut().current = slot;
                self.threads.end(slot);
                world.state.borrow_mut().threads[slot] = None;
            }
        }
        let server = if end == EndOfTransfer::Server { world.state.borrow_mut().server.take() } else { None };
        drop(server);
        world.state.borrow_mut().dying = None;
    }
}

enum Next {
    Thread(usize),
    Arrival(usize, EndOfTransfer),
    Time(Duration),
    Nothing,
}

/// Chooses what happens next, at random.
fn next(state: &mut SimulatedState) -> Next {
    let (now, changes) = (state.now, state.changes);
    let mut choices = Vec::with_capacity(8);
    let mut earliest = state.restarts;
    for (slot, thread) in state.threads.iter().enumerate() {
        let Some(thread) = thread else { continue };
        if thread.seen < changes || thread.deadline.is_some_and(|deadline| deadline <= now) {
            choices.push(Next::Thread(slot));
        } else if let Some(deadline) = thread.deadline {
            earliest = Some(earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        }
    }
    for (number, connection) in state.connections.iter().enumerate() {
        for end in [EndOfTransfer::Client, EndOfTransfer::Server] {
            if connection.can_arrive(end) {
                choices.push(Next::Arrival(number, end));
            }
        }
    }
    // Time passes when nothing else can happen, and at random now and then.
    if choices.is_empty() || (!state.peace && state.random.once_in(100)) {
        return match earliest {
            Some(time) => Next::Time(time),
            None if choices.is_empty() => Next::Nothing,
            None => choices.swap_remove(state.random.below(choices.len() as u64) as usize),
        };
    }
    let choice = state.random.below(choices.len() as u64) as usize;
    choices.swap_remove(choice)
}
