//! Runs a schedule: lets threads run and bytes arrive, ends processes, and restarts the server.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::calls::stand_in;
use super::check::{self, EndedClient};
use super::disk::Disk;
use super::ends::{ClientResult, options, share, transfer};
use super::patience::Timeline;
use super::threads::{Pause, Threads};
use super::world::{SimulatedState, SimulatedWorld, Thread};
use super::{EndOfTransfer, Planted, Scenario, Schedule};
use crate::client::Client;
use crate::error::Error;
use crate::serve::Server;

/// The most turns of a schedule. The longest schedules that end need a tenth of them.
const MOST_TURNS: u64 = 400_000;
/// The most simulated time of a schedule.
const MOST_TIME: Duration = Duration::from_secs(12 * 3600);

/// The result of a schedule.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ScheduleOutcome {
    /// What has happened and must not happen; `None` if all went well.
    pub fault: Option<String>,
    /// How many of the events have happened.
    pub happened: u32,
    /// How many receipts were checked.
    pub receipts: u64,
    /// The client's exit status; `None` if it was killed.
    pub client: Option<u8>,
    /// The exit status of the server's last session; `None` if it ended before it could say.
    pub server: Option<u8>,
    /// The number of sessions, in both runs of the client.
    pub sessions: usize,
    /// How many commands were started.
    pub commands: usize,
    /// How many more were started when the same was put once more, in peace and without the user's word.
    pub again: usize,
}

impl ScheduleOutcome {
    /// The numbers in this result, with their names.
    pub fn counts(&self) -> [(&'static str, u64); 10] {
        let is = |status| u64::from(self.client == status);
        [
            ("events came to pass", self.happened.into()),
            ("schedules had three events or more", u64::from(self.happened >= 3)),
            ("receipts were compared with the disk", self.receipts),
            ("connections", self.sessions as u64),
            ("commands of sinks", self.commands as u64),
            ("commands for the same content later", self.again as u64),
            ("clients said 0", is(Some(0))),
            ("clients said 1", is(Some(1))),
            ("clients said 3", is(Some(3))),
            ("clients were killed", is(None)),
        ]
    }
}

/// Runs schedules, one after the other, in a directory of its own.
pub struct Runner {
    base: PathBuf,
    threads: Threads,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Runner {
    /// A runner whose files lie in `base`, an empty directory on tmpfs.
    ///
    /// # Errors
    /// Returns the errors of making files there.
    pub fn new(base: &Path) -> io::Result<Self> {
        let source = base.join("source");
        fs::create_dir_all(source.join("tree/inner"))?;
        for name in check::SOURCES {
            fs::write(source.join(name), check::content(name))?;
        }
        std::os::unix::fs::symlink("a", source.join("tree/link"))?;
        Ok(Self { base: base.to_owned(), threads: Threads::default() })
    }

    /// Runs a schedule, with the fault `planted` if there is one.
    pub fn run(&mut self, schedule: &Schedule, planted: Option<Planted>) -> ScheduleOutcome {
        match self.begin(schedule, planted) {
            Ok(world) => {
                let mut outcome = ScheduleOutcome::default();
                let result = self.both(schedule, &world, &mut outcome);
                self.end(&world);
                let state = world.state.borrow();
                outcome.fault = state.fault.clone().or(result.err());
                (outcome.happened, outcome.receipts) = (state.happened, state.receipts);
                outcome.sessions = state.connections.len();
                outcome
            }
            Err(error) => ScheduleOutcome {
                fault: Some(format!("the simulation itself: {error}")),
                ..ScheduleOutcome::default()
            },
        }
    }

    fn begin(&self, schedule: &Schedule, planted: Option<Planted>) -> io::Result<Rc<SimulatedWorld>> {
        Disk::clear(&self.base)?;
        let owner =
            if schedule.scenario == Scenario::Get { EndOfTransfer::Client } else { EndOfTransfer::Server };
        let mut disk = Disk::new(&self.base, owner)?;
        if schedule.scenario == Scenario::Replace {
            disk.has("file", check::OLD)?;
        }
        let mut state = SimulatedState::new(schedule.seed, schedule.events.clone(), disk);
        state.planted = planted;
        state.durable = schedule.to_disk;
        let world = SimulatedWorld::new(state);
        stand_in(Some(world.clone()));
        Ok(world)
    }

    /// Ends all threads that still run, and the simulation.
    fn end(&mut self, world: &Rc<SimulatedWorld>) {
        for end in [EndOfTransfer::Client, EndOfTransfer::Server] {
            self.kill(world, end);
        }
        stand_in(None);
    }

    /// Runs the client with all events, and then a second time without any.
    fn both(
        &mut self,
        schedule: &Schedule,
        world: &Rc<SimulatedWorld>,
        outcome: &mut ScheduleOutcome,
    ) -> Result<(), String> {
        self.start_server(schedule, world);
        self.drive(schedule, world)?;
        let first = self.client(schedule, world)?;
        outcome.client = first.as_ref().map(|ended| ended.status());
        outcome.server = check::last_served(world, 0);
        outcome.commands = world.state.borrow().commands.len();
        check::after_first(schedule, world, first.as_ref())?;
        {
            let mut state = world.state.borrow_mut();
            state.events.clear();
            (state.peace, state.full, state.gave_up_now) = (true, 0, false);
        }
        if schedule.scenario == Scenario::Sink {
            // Somebody asks before the same is put once more, or after that.
            let asks_first = schedule.seed & 2 == 0;
            let commands = outcome.commands;
            if asks_first {
                self.ask_of(schedule, world, first.as_ref(), commands)?;
            }
            outcome.again = self.print_again(schedule, world)?;
            return if asks_first { Ok(()) } else { self.ask_of(schedule, world, first.as_ref(), commands) };
        }
        let second = self.client(schedule, world)?;
        check::after_second(schedule, world, second.as_ref())
    }

    /// Asks what came of the first transfer; `commands` were started before anything was put again.
    fn ask_of(
        &mut self,
        schedule: &Schedule,
        world: &Rc<SimulatedWorld>,
        first: Option<&EndedClient>,
        commands: usize,
    ) -> Result<(), String> {
        let Some(id) = first.and_then(|ended| ended.summary.transfer) else { return Ok(()) };
        let answer = self.ask(schedule, world, id)?;
        check::after_asking(world, first, &answer, commands)?;
        if answer.is_ok() {
            let mut state = world.state.borrow_mut();
            state.known = state.commands.len();
        }
        Ok(())
    }

    /// Puts the same once more: by itself, and then with the user's word. Returns how many commands the first of them started.
    fn print_again(&mut self, schedule: &Schedule, world: &Rc<SimulatedWorld>) -> Result<usize, String> {
        let mut started = 0;
        for anew in [false, true] {
            let (before, open) = {
                let mut state = world.state.borrow_mut();
                state.anew = anew;
                (state.commands.len(), state.is_open())
            };
            let ended = self.client_with(schedule, world, anew)?;
            check::after_printing_again(world, ended.as_ref(), before, (open, anew))?;
            if !anew {
                started = world.state.borrow().commands.len() - before;
            }
        }
        Ok(started)
    }

    /// Runs the client until all threads have ended. Returns `None` if the client was killed.
    fn client(
        &mut self,
        schedule: &Schedule,
        world: &Rc<SimulatedWorld>,
    ) -> Result<Option<EndedClient>, String> {
        self.client_with(schedule, world, false)
    }

    fn client_with(
        &mut self,
        schedule: &Schedule,
        world: &Rc<SimulatedWorld>,
        anew: bool,
    ) -> Result<Option<EndedClient>, String> {
        let ended: Rc<RefCell<Option<ClientResult>>> = Rc::default();
        let (result, base, schedule_of) = (ended.clone(), self.base.clone(), schedule.clone());
        let second: Rc<RefCell<Option<usize>>> = Rc::default();
        let seconds = second.clone();
        let work = move || {
            *result.borrow_mut() = Some(transfer(&base, &schedule_of, anew));
            let Some(world) = super::world::world() else { return };
            if schedule_of.puts_at_once() && std::mem::take(&mut world.state.borrow_mut().gave_up_now) {
                *seconds.borrow_mut() = Some(world.state.borrow().commands.len());
                world.state.borrow_mut().timeline = Timeline::default();
                drop(transfer(&base, &schedule_of, false));
            }
        };
        let first = world.state.borrow().connections.len();
        world.state.borrow_mut().timeline = Timeline::default();
        world.start_on(EndOfTransfer::Client, Box::new(work));
        self.drive(schedule, world)?;
        let ended = ended.borrow_mut().take();
        let second = second.borrow_mut().take();
        Ok(ended.map(|(summary, error)| EndedClient { summary, error, first, second }))
    }

    fn ask(
        &mut self,
        schedule: &Schedule,
        world: &Rc<SimulatedWorld>,
        id: [u8; 16],
    ) -> Result<Result<(), Error>, String> {
        let answer: Rc<RefCell<Option<Result<(), Error>>>> = Rc::default();
        let result = answer.clone();
        let work = move || {
            let client = Client::new("simulated", 1, options());
            *result.borrow_mut() = Some(client.and_then(|client| client.ask(id).map(drop)));
        };
        world.start_on(EndOfTransfer::Client, Box::new(work));
        self.drive(schedule, world)?;
        answer.borrow_mut().take().ok_or_else(|| "whoever asks gets no answer".to_owned())
    }

    fn start_server(&self, schedule: &Schedule, world: &SimulatedWorld) {
        let (base, schedule) = (self.base.clone(), schedule.clone());
        let work = move || {
            let started = Server::new(share(&base, &schedule));
            let Some(world) = super::world::world() else { return };
            match started {
                Ok(server) => {
                    world.state.borrow_mut().server = Some(Arc::new(server));
                }
                // Whoever starts it tries again until there is room for its journal.
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::StorageFull => {
                    let mut state = world.state.borrow_mut();
                    state.restarts = Some(state.now + Duration::from_secs(1));
                }
                Err(error) => world.fails(format!("the server does not come up again: {error}")),
            }
        };
        world.start_on(EndOfTransfer::Server, Box::new(work));
    }

    /// Runs all threads until they have ended.
    fn drive(&mut self, schedule: &Schedule, world: &Rc<SimulatedWorld>) -> Result<(), String> {
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
        let SimulatedState { random, disk, boots, connections, .. } = &mut *state;
        if power {
            boots[end as usize] += 2;
            if disk.owner == end {
                disk.cut(random).map_err(|error| format!("the simulated disk: {error}"))?;
                check::after_cut(schedule, disk)?;
            }
            for connection in connections {
                if random.once_in(2) {
                    connection.is_unknown(end.other());
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

    fn kill(&mut self, world: &SimulatedWorld, end: EndOfTransfer) {
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
