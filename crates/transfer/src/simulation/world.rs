//! The state of one schedule's simulation: threads, a clock, connections, and the events that are to happen.
//!
//! Each thread of either end is a coroutine. It runs until it waits; then the seed decides which thread runs next, or
//! which bytes arrive.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::network::{SimulatedConnection, Watched};
use super::patience::Timeline;
use super::random::Random;
use super::sources;
use super::threads::{Pause, ThreadWork, suspend};
use super::{Cut, EndOfTransfer, Planted, ScheduledEvent};
use crate::cancel::Cancel;
use crate::progress::{Confirmation, Progress};
use crate::serve::{Served, Server};

thread_local! {
    static WORLD: RefCell<Option<Rc<SimulatedWorld>>> = const { RefCell::new(None) };
}

pub(super) fn world() -> Option<Rc<SimulatedWorld>> {
    WORLD.try_with(|world| world.borrow().clone()).ok().flatten()
}

pub(super) fn set_world(world: Option<Rc<SimulatedWorld>>) {
    WORLD.with(|place| *place.borrow_mut() = world);
}

pub(super) struct SimulatedWorld {
    pub(super) state: RefCell<SimulatedState>,
}

/// A thread that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thread {
    pub(super) end: EndOfTransfer,
    pub(super) deadline: Option<Duration>,
    /// The number of the last change of the world that this thread has looked at.
    pub(super) seen: u64,
}

/// A command that was started.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) content: Vec<u8>,
    pub(super) outcome: Option<bool>,
}

pub(super) struct SimulatedState {
    pub(super) random: Random,
    pub(super) started: Instant,
    pub(super) now: Duration,
    pub(super) threads: Vec<Option<Thread>>,
    pub(super) current: usize,
    pub(super) changes: u64,
    pub(super) starting: Vec<(EndOfTransfer, ThreadWork)>,
    pub(super) steps: [u32; 2],
    sent: [u32; 2],
    pub(super) connections: Vec<SimulatedConnection>,
    pub(super) watched: HashMap<RawFd, Watched>,
    /// The end whose threads are being ended: their calls have no effect any more.
    pub(super) dying: Option<EndOfTransfer>,
    pub(super) events: Vec<ScheduledEvent>,
    /// The end whose process is to end now and, if true, loses its machine's power.
    pub(super) doomed: Option<(EndOfTransfer, bool)>,
    pub(super) server: Option<Arc<Server>>,
    pub(super) restarts: Option<Duration>,
    pub(super) boots: [u64; 2],
    pub(super) commands: Vec<Command>,
    /// The first so many commands are settled: a client knows their results, or a person has said that the content is to be
    /// delivered again.
    pub(super) known: usize,
    /// The user says that the content is to be delivered again (`--again`).
    pub(super) anew: bool,
    /// The results of the server's sessions, with the numbers of their connections.
    pub(super) served: Vec<(usize, Served)>,
    pub(super) planted: Option<Planted>,
    pub(super) disk: Disk,
    pub(super) fault: Option<String>,
    /// Whether receipts that say so have to be true of the disk.
    pub(super) durable: bool,
    pub(super) receipts: u64,
    pub(super) happened: u32,
    /// Nothing happens any more, and no time passes while there is something to do.
    pub(super) peace: bool,
    /// A process or machine has ended in the middle.
    pub(super) fell: bool,
    /// Ends the transfer of the client that runs.
    pub(super) canceller: Option<Cancel>,
    /// The client's user has given up.
    pub(super) gave_up: bool,
    /// The same, until that is acted upon.
    pub(super) gave_up_now: bool,
    /// How many more calls find no room on the disk.
    pub(super) full: u32,
    /// The disk was full for a while.
    pub(super) was_full: bool,
    /// How many more calls of the disk fail.
    pub(super) broken: u32,
    /// The disk failed for a while.
    pub(super) was_broken: bool,
    /// The files that are sent have other content by now.
    pub(super) has_changed: bool,
    /// The attempts of the client that runs.
    pub(super) timeline: Timeline,
}

impl SimulatedState {
    pub(super) fn new(seed: u64, events: Vec<ScheduledEvent>, disk: Disk) -> Self {
        Self {
            random: Random::new(seed),
            started: Instant::now(),
            now: Duration::ZERO,
            threads: Vec::new(),
            current: 0,
            changes: 1,
            starting: Vec::new(),
            steps: [0; 2],
            sent: [0; 2],
            connections: Vec::new(),
            watched: HashMap::new(),
            dying: None,
            events,
            doomed: None,
            server: None,
            restarts: None,
            boots: [1, 2],
            commands: Vec::new(),
            known: 0,
            anew: false,
            served: Vec::new(),
            planted: None,
            disk,
            fault: None,
            durable: true,
            receipts: 0,
            happened: 0,
            peace: false,
            fell: false,
            canceller: None,
            gave_up: false,
            gave_up_now: false,
            full: 0,
            was_full: false,
            broken: 0,
            was_broken: false,
            has_changed: false,
            timeline: Timeline::default(),
        }
    }

    pub(super) fn end(&self) -> EndOfTransfer {
        self.threads.get(self.current).copied().flatten().map_or(EndOfTransfer::Client, |thread| thread.end)
    }

    /// Whether a command may have done its work, and nobody knows.
    pub(super) fn is_open(&self) -> bool {
        self.commands[self.known..].iter().any(|command| command.outcome != Some(false))
    }

    pub(super) fn is_dying(&self) -> bool {
        self.dying == Some(self.end())
    }
}

impl SimulatedWorld {
    pub(super) fn new(state: SimulatedState) -> Rc<Self> {
        Rc::new(Self { state: RefCell::new(state) })
    }

    /// Counts a call. Before it the caller's process or its machine may end, its user give up, or its disk be full.
    pub(super) fn step(&self) {
        let mut state = self.state.borrow_mut();
        if state.is_dying() {
            return;
        }
        let end = state.end();
        state.steps[end as usize] += 1;
        let step = state.steps[end as usize];
        let owner = state.disk.owner;
        let due = state.events.iter().position(|event| match event {
            ScheduledEvent::Kill { end: whose, step: at }
            | ScheduledEvent::Power { end: whose, step: at } => *whose == end && *at <= step,
            ScheduledEvent::GiveUp { step: at } => end == EndOfTransfer::Client && *at <= step,
            ScheduledEvent::Full { step: at, .. } | ScheduledEvent::Broken { step: at, .. } => {
                end == owner && *at <= step
            }
            ScheduledEvent::Changes { step: at, .. } => end != owner && *at <= step,
            ScheduledEvent::Cut(_) => false,
        });
        let Some(due) = due else { return };
        state.happened += 1;
        match state.events.remove(due) {
            ScheduledEvent::GiveUp { .. } => {
                (state.gave_up, state.gave_up_now) = (true, true);
                state.changes += 1;
                if let Some(canceller) = &state.canceller {
                    canceller.cancel();
                }
            }
            ScheduledEvent::Full { calls, .. } => (state.full, state.was_full) = (calls, true),
            ScheduledEvent::Broken { calls, .. } => (state.broken, state.was_broken) = (calls, true),
            ScheduledEvent::Changes { renamed, .. } => {
                state.has_changed = true;
                if let Err(error) = sources::change(state.disk.base(), renamed) {
                    state.fault.get_or_insert(format!("the simulation itself: {error}"));
                }
            }
            event => {
                state.doomed = Some((end, matches!(event, ScheduledEvent::Power { .. })));
                let slot = state.current;
                drop(state);
                suspend(slot, Pause::Ended);
            }
        }
    }

    pub(super) fn watch(&self, fd: RawFd, watched: Watched) {
        self.state.borrow_mut().watched.insert(fd, watched);
    }

    pub(super) fn unwatch(&self, fds: [RawFd; 2]) {
        let mut state = self.state.borrow_mut();
        for fd in fds {
            state.watched.remove(&fd);
        }
    }

    pub(super) fn with(&self, connection: usize, act: impl FnOnce(&mut SimulatedConnection)) {
        let mut state = self.state.borrow_mut();
        state.changes += 1;
        if let Some(connection) = state.connections.get_mut(connection) {
            act(connection);
        }
    }

    pub(super) fn read(&self, connection: usize, end: EndOfTransfer, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        if state.is_dying() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        // Now and then only a few bytes at a time.
        let most = if state.random.once_in(8) { 1 + state.random.below(40) as usize } else { usize::MAX };
        state.connections[connection].read(end, into, most)
    }

    pub(super) fn write(&self, connection: usize, end: EndOfTransfer, bytes: &[u8]) -> io::Result<usize> {
        self.step();
        let mut state = self.state.borrow_mut();
        if state.is_dying() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let sent = state.sent[end as usize];
        let due = state.events.iter().position(|event| {
            matches!(event, ScheduledEvent::Cut(cut) if cut.sender == end && cut.after <= sent + bytes.len() as u32)
        });
        let cut = match due.map(|due| state.events.remove(due)) {
            Some(ScheduledEvent::Cut(cut)) => Some(cut),
            _ => None,
        };
        let until = cut.map_or(bytes.len(), |cut: Cut| cut.after.saturating_sub(sent) as usize);
        let written = if until == 0 && cut.is_some() {
            Ok(0)
        } else {
            state.connections[connection].write(end, &bytes[..until])
        };
        if let Ok(written) = written {
            state.sent[end as usize] += written as u32;
        }
        state.changes += 1;
        if let Some(cut) = cut {
            state.happened += 1;
            state.connections[connection].cut(cut);
            if matches!(written, Ok(0)) {
                return state.connections[connection].write(end, bytes);
            }
        }
        written
    }

    /// Waits until `deadline`, or until something has changed.
    pub(super) fn wait(&self, deadline: Option<Duration>) {
        let mut state = self.state.borrow_mut();
        let (slot, changes) = (state.current, state.changes);
        if let Some(Some(thread)) = state.threads.get_mut(slot) {
            (thread.deadline, thread.seen) = (deadline, changes);
        }
        drop(state);
        suspend(slot, Pause::Waits);
    }

    /// Checks the receipt of an entry that a receiver has confirmed.
    pub(super) fn confirmed(&self, confirmation: &Confirmation) {
        let mut state = self.state.borrow_mut();
        state.receipts += 1;
        if state.durable
            && let Some(told) = state.disk.is_lost(confirmation)
        {
            state.fault.get_or_insert(told);
        }
    }

    /// Takes what the client reports.
    pub(super) fn seen_by_client(&self, progress: &Progress, is_get: bool) {
        let mut state = self.state.borrow_mut();
        let now = state.now;
        if let Some(told) = state.timeline.see(progress, is_get, now) {
            state.fault.get_or_insert(told);
        }
        if matches!(progress, Progress::Confirmed(_)) {
            state.known = state.commands.len();
        }
        drop(state);
        if let (Progress::Confirmed(confirmation), true) = (progress, is_get) {
            self.confirmed(confirmation);
        }
    }

    pub(super) fn fails(&self, told: String) {
        self.state.borrow_mut().fault.get_or_insert(told);
    }

    pub(super) fn start_on(&self, end: EndOfTransfer, work: ThreadWork) {
        self.state.borrow_mut().starting.push((end, work));
    }
}
