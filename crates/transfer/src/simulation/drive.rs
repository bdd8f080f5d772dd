//! Runs a schedule: lets threads run and bytes arrive, ends processes, and restarts the server.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::check::{self, Ended};
use super::disk::Disk;
use super::threads::{Pause, Threads};
use super::world::{State, Thread, World, set_world, world};
use super::{End, Planted, Scenario, Schedule};
use crate::client::Client;
use crate::error::Error;
use crate::message::{Durability, IfExists};
use crate::options::{ClientOptions, GetOptions, Input, Output, PutOptions, Security};
use crate::progress::{Progress, Summary};
use crate::remote::Destination;
use crate::serve::{Server, ShareOptions};
use crate::sink::PortsConfig;

/// The most turns of a schedule. The longest schedules that end need a tenth of them.
const MOST_TURNS: u64 = 400_000;
/// The most simulated time of a schedule.
const MOST_TIME: Duration = Duration::from_secs(12 * 3600);

/// The result of a schedule.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Outcome {
    /// What has happened and must not happen; `None` if all went well.
    pub fault: Option<String>,
    /// How many of the events have happened.
    pub happened: u32,
    /// How many receipts were checked.
    pub receipts: u64,
    /// The client's exit status; `None` if it was killed.
    pub client: Option<u8>,
    /// The number of sessions, in both runs of the client.
    pub sessions: usize,
    /// How many commands were started.
    pub commands: usize,
}

impl Outcome {
    /// The numbers in this result, with their names.
    pub fn counts(&self) -> [(&'static str, u64); 9] {
        let is = |status| u64::from(self.client == status);
        [
            ("events came to pass", self.happened.into()),
            ("schedules had three events or more", u64::from(self.happened >= 3)),
            ("receipts were compared with the disk", self.receipts),
            ("connections", self.sessions as u64),
            ("commands of sinks", self.commands as u64),
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
    pub fn run(&mut self, schedule: &Schedule, planted: Option<Planted>) -> Outcome {
        match self.begin(schedule, planted) {
            Ok(world) => {
                let mut outcome = Outcome::default();
                let result = self.both(schedule, &world, &mut outcome);
                self.end(&world);
                let state = world.state.borrow();
                outcome.fault = state.fault.clone().or(result.err());
                (outcome.happened, outcome.receipts) = (state.happened, state.receipts);
                (outcome.sessions, outcome.commands) = (state.connections.len(), state.commands.len());
                outcome
            }
            Err(error) => {
                Outcome { fault: Some(format!("the simulation itself: {error}")), ..Outcome::default() }
            }
        }
    }

    fn begin(&self, schedule: &Schedule, planted: Option<Planted>) -> io::Result<Rc<World>> {
        Disk::clear(&self.base)?;
        let owner = if schedule.scenario == Scenario::Get { End::Client } else { End::Server };
        let mut disk = Disk::new(&self.base, owner)?;
        if schedule.scenario == Scenario::Replace {
            disk.has("file", check::OLD)?;
        }
        let mut state = State::new(schedule.seed, schedule.events.clone(), disk);
        state.planted = planted;
        state.durable = schedule.to_disk;
        let world = World::new(state);
        set_world(Some(world.clone()));
        Ok(world)
    }

    /// Ends all threads that still run, and the simulation.
    fn end(&mut self, world: &Rc<World>) {
        for end in [End::Client, End::Server] {
            self.kill(world, end);
        }
        set_world(None);
    }

    /// Runs the client with all events, and then a second time without any.
    fn both(&mut self, schedule: &Schedule, world: &Rc<World>, outcome: &mut Outcome) -> Result<(), String> {
        self.start_server(schedule, world);
        self.drive(schedule, world)?;
        let first = self.client(schedule, world)?;
        outcome.client = first.as_ref().map(|ended| ended.status());
        check::after_first(schedule, world, first.as_ref())?;
        {
            let mut state = world.state.borrow_mut();
            state.events.clear();
            state.peace = true;
        }
        if schedule.scenario == Scenario::Sink {
            let Some(id) = first.as_ref().and_then(|ended| ended.summary.transfer) else { return Ok(()) };
            let answer = self.ask(schedule, world, id)?;
            return check::after_asking(world, first.as_ref(), &answer);
        }
        let second = self.client(schedule, world)?;
        check::after_second(schedule, world, second.as_ref())
    }

    /// Runs the client until all threads have ended. Returns `None` if the client was killed.
    fn client(&mut self, schedule: &Schedule, world: &Rc<World>) -> Result<Option<Ended>, String> {
        let ended: Rc<RefCell<Option<(Summary, Option<Error>)>>> = Rc::default();
        let (result, base, schedule_of) = (ended.clone(), self.base.clone(), schedule.clone());
        let work = move || *result.borrow_mut() = Some(transfer(&base, &schedule_of));
        let first = world.state.borrow().connections.len();
        world.start_on(End::Client, Box::new(work));
        self.drive(schedule, world)?;
        let ended = ended.borrow_mut().take();
        Ok(ended.map(|(summary, error)| Ended { summary, error, first }))
    }

    fn ask(
        &mut self,
        schedule: &Schedule,
        world: &Rc<World>,
        id: [u8; 16],
    ) -> Result<Result<(), Error>, String> {
        let answer: Rc<RefCell<Option<Result<(), Error>>>> = Rc::default();
        let result = answer.clone();
        let work = move || {
            let client = Client::new("simulated", 1, options());
            *result.borrow_mut() = Some(client.and_then(|client| client.ask(id).map(drop)));
        };
        world.start_on(End::Client, Box::new(work));
        self.drive(schedule, world)?;
        answer.borrow_mut().take().ok_or_else(|| "whoever asks gets no answer".to_owned())
    }

    fn start_server(&self, schedule: &Schedule, world: &World) {
        let (base, schedule) = (self.base.clone(), schedule.clone());
        let work = move || {
            let started = Server::new(share(&base, &schedule));
            let Some(world) = super::world::world() else { return };
            match started {
                Ok(server) => {
                    world.state.borrow_mut().server = Some(Arc::new(server));
                }
                Err(error) => world.fails(format!("the server does not come up again: {error}")),
            }
        };
        world.start_on(End::Server, Box::new(work));
    }

    /// Runs all threads until they have ended.
    fn drive(&mut self, schedule: &Schedule, world: &Rc<World>) -> Result<(), String> {
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

    fn start_threads(&mut self, world: &World) -> Result<(), String> {
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

    fn resume(&mut self, schedule: &Schedule, world: &Rc<World>, slot: usize) -> Result<(), String> {
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
    fn fall(&mut self, schedule: &Schedule, world: &Rc<World>, end: End, power: bool) -> Result<(), String> {
        if power {
            let mut state = world.state.borrow_mut();
            state.connections.iter_mut().for_each(|connection| connection.vanish(end));
        }
        self.kill(world, end);
        let mut state = world.state.borrow_mut();
        state.fell = true;
        let State { random, disk, boots, connections, .. } = &mut *state;
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
        if end == End::Server {
            // The server mostly restarts soon, and sometimes only after the client has given up.
            let most = if random.once_in(8) { 600_000 } else { 20_000 };
            state.restarts = Some(state.now + Duration::from_millis(state.random.below(most)));
        }
        state.changes += 1;
        Ok(())
    }

    fn kill(&mut self, world: &World, end: End) {
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
        let server = if end == End::Server { world.state.borrow_mut().server.take() } else { None };
        drop(server);
        world.state.borrow_mut().dying = None;
    }
}

enum Next {
    Thread(usize),
    Arrival(usize, End),
    Time(Duration),
    Nothing,
}

/// Chooses what happens next, at random.
fn next(state: &mut State) -> Next {
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
        for end in [End::Client, End::Server] {
            if connection.can_arrive(end) {
                choices.push(Next::Arrival(number, end));
            }
        }
    }
    // Time passes when there is nothing else to do, and now and then although there is.
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

fn options() -> ClientOptions {
    ClientOptions { security: Security::Never, ..ClientOptions::default() }
}

/// What the client does in its process.
fn transfer(base: &Path, schedule: &Schedule) -> (Summary, Option<Error>) {
    let client = match Client::new("simulated", 1, options()) {
        Ok(client) => client,
        Err(error) => return (Summary::default(), Some(error)),
    };
    let durability = if schedule.to_disk { Durability::Disk } else { Durability::Memory };
    let source = base.join("source");
    let (path, to): (PathBuf, &[u8]) = match schedule.scenario {
        Scenario::File | Scenario::Replace => (source.join("file"), b"file"),
        Scenario::Tree => (source.join("tree"), b"new/tree"),
        Scenario::Large => (source.join("large"), b"large"),
        Scenario::Sink => (source.join("file"), b"@print"),
        Scenario::Get => {
            let mut observe = |progress: Progress| {
                if let (Progress::Confirmed(confirmation), Some(world)) = (progress, world()) {
                    world.confirmed(&confirmation);
                }
            };
            let options = GetOptions { durability, ..GetOptions::default() };
            let from = match Destination::typed(b"tree") {
                Ok(from) => from,
                Err(bad) => return (Summary::default(), Some(Error::Usage(bad.to_string().into()))),
            };
            return client.get(&from, &Output::Path(base.join("shared/tree")), &options, &mut observe);
        }
    };
    let to = match Destination::typed(to) {
        Ok(to) => to,
        Err(bad) => return (Summary::default(), Some(Error::Usage(bad.to_string().into()))),
    };
    let if_exists = if schedule.scenario == Scenario::Replace { IfExists::Replace } else { IfExists::Fail };
    let options = PutOptions { durability, if_exists, ..PutOptions::default() };
    client.put(Input::Path(path), &to, &options, &mut |_| {})
}

fn share(base: &Path, schedule: &Schedule) -> ShareOptions {
    let is_get = schedule.scenario == Scenario::Get;
    let directory = base.join(if is_get { "source" } else { "shared" });
    let config = PortsConfig::parse("[sink.print]\ncommand = ['lp', '-']").unwrap_or_default();
    ShareOptions {
        writable: !is_get,
        insecure: true,
        memory: (!is_get).then(|| base.join("memory")),
        config,
        ..ShareOptions::new(directory)
    }
}
