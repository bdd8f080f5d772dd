//! Runs a schedule: the server, the client with all events, and then further clients without faults. [`turns`] lets them run.

mod turns;

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::calls::stand_in;
use super::check::{self, EndedClient};
use super::disk::Disk;
use super::ends::{ClientResult, options, share, transfer};
use super::outcome::ScheduleOutcome;
use super::patience::Timeline;
use super::sources;
use super::threads::Threads;
use super::world::{SimulatedState, SimulatedWorld};
use super::{EndOfTransfer, Planted, Scenario, Schedule};
use crate::client::Client;
use crate::error::Error;
use crate::serve::Server;

/// Runs schedules, one after the other, in a directory of its own.
pub struct Runner {
    base: PathBuf,
    threads: Threads,
    /// The last schedule has changed the files that are sent.
    has_changed: bool,
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
        sources::make(base)?;
        std::os::unix::fs::symlink("a", source.join("tree/link"))?;
        Ok(Self { base: base.to_owned(), threads: Threads::default(), has_changed: false })
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
                self.has_changed = state.has_changed;
                outcome
            }
            Err(error) => ScheduleOutcome {
                fault: Some(format!("the simulation itself: {error}")),
                ..ScheduleOutcome::default()
            },
        }
    }

    fn begin(&mut self, schedule: &Schedule, planted: Option<Planted>) -> io::Result<Rc<SimulatedWorld>> {
        Disk::clear(&self.base)?;
        if std::mem::take(&mut self.has_changed) {
            sources::make(&self.base)?;
        }
        let owner =
            if schedule.scenario == Scenario::Get { EndOfTransfer::Client } else { EndOfTransfer::Server };
        let mut disk = Disk::new(&self.base, owner)?;
        if schedule.scenario == Scenario::Replace {
            disk.put_durable("file", check::OLD)?;
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

    /// Runs the client with all events, and then further clients without any: one that transfers the same, or, for a sink, some
    /// that ask and put again.
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
            (state.peace, state.full, state.broken, state.gave_up_now) = (true, 0, 0, false);
        }
        if schedule.scenario == Scenario::Sink {
            // Somebody asks before the same is put once more, or after that.
            let asks_first = schedule.seed & 2 == 0;
            let commands = outcome.commands;
            if asks_first {
                self.ask_of(schedule, world, first.as_ref(), commands)?;
            }
            outcome.again = self.print_again(schedule, world, first.as_ref())?;
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

    /// Puts the same content twice more: without `--again`, then with it. Returns how many commands the first of these puts
    /// started.
    fn print_again(
        &mut self,
        schedule: &Schedule,
        world: &Rc<SimulatedWorld>,
        first: Option<&EndedClient>,
    ) -> Result<usize, String> {
        let mut started = 0;
        for anew in [false, true] {
            let (before, open) = {
                let mut state = world.state.borrow_mut();
                state.anew = anew;
                (state.commands.len(), state.is_open())
            };
            let ended = self.client_with(schedule, world, anew)?;
            check::after_printing_again(world, (first, ended.as_ref()), before, (open, anew))?;
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
        let met_silence = world.state.borrow().timeline.met_silence();
        Ok(ended.map(|(summary, error)| EndedClient { summary, error, first, met_silence, second }))
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
                // Whoever starts it tries again until there is room for its journal, and the disk works.
                Err(Error::Io { source, .. })
                    if source.kind() == io::ErrorKind::StorageFull
                        || source.raw_os_error() == Some(Errno::IO.raw_os_error()) =>
                {
                    let mut state = world.state.borrow_mut();
                    state.restarts = Some(state.now + Duration::from_secs(1));
                }
                Err(error) => world.fails(format!("the server does not come up again: {error}")),
            }
        };
        world.start_on(EndOfTransfer::Server, Box::new(work));
    }
}
