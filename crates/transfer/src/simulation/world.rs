//! The state of one schedule's simulation: threads, a clock, connections, and the events that are to happen.
//!
//! Each thread of either end is a coroutine. It runs until it waits; then the seed decides which thread runs next, or
//! which bytes arrive.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec};
use rustix::io::Errno;

use super::disk::Disk;
use super::network::{Connection, Link, Watched};
use super::random::Random;
use super::threads::{Pause, suspend};
use super::{Cut, End, Event, Planted};
use crate::host::{DiskCall, Host, Rule};
use crate::progress::{Confirmation, Progress};
use crate::serve::{Served, Server, Serving};
use crate::transport::Transport;

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

pub(super) fn world() -> Option<Rc<World>> {
    WORLD.try_with(|world| world.borrow().clone()).ok().flatten()
}

pub(super) fn set_world(world: Option<Rc<World>>) {
    crate::host::simulate(world.clone().map(|world| world as Rc<dyn Host>));
    WORLD.with(|place| *place.borrow_mut() = world);
}

pub(super) struct World {
    pub(super) state: RefCell<State>,
}

/// A thread that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thread {
    pub(super) end: End,
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

pub(super) type Work = Box<dyn FnOnce()>;

pub(super) struct State {
    pub(super) random: Random,
    started: Instant,
    pub(super) now: Duration,
    pub(super) threads: Vec<Option<Thread>>,
    pub(super) current: usize,
    pub(super) changes: u64,
    pub(super) starting: Vec<(End, Work)>,
    pub(super) steps: [u32; 2],
    sent: [u32; 2],
    pub(super) connections: Vec<Connection>,
    watched: HashMap<RawFd, Watched>,
    /// The end whose threads are being ended: their calls have no effect any more.
    pub(super) dying: Option<End>,
    pub(super) events: Vec<Event>,
    /// The end whose process is to end now and, if true, loses its machine's power.
    pub(super) doomed: Option<(End, bool)>,
    pub(super) server: Option<Arc<Server>>,
    pub(super) restarts: Option<Duration>,
    pub(super) boots: [u64; 2],
    pub(super) commands: Vec<Command>,
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
}

impl State {
    pub(super) fn new(seed: u64, events: Vec<Event>, disk: Disk) -> Self {
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
            served: Vec::new(),
            planted: None,
            disk,
            fault: None,
            durable: true,
            receipts: 0,
            happened: 0,
            peace: false,
            fell: false,
        }
    }

    pub(super) fn end(&self) -> End {
        self.threads.get(self.current).copied().flatten().map_or(End::Client, |thread| thread.end)
    }

    pub(super) fn is_dying(&self) -> bool {
        self.dying == Some(self.end())
    }
}

impl World {
    pub(super) fn new(state: State) -> Rc<Self> {
        Rc::new(Self { state: RefCell::new(state) })
    }

    /// Counts a call. The caller's process, or its machine, may end before the call.
    pub(super) fn step(&self) {
        let mut state = self.state.borrow_mut();
        if state.is_dying() {
            return;
        }
        let end = state.end();
        state.steps[end as usize] += 1;
        let step = state.steps[end as usize];
        let due = state.events.iter().position(|event| match event {
            Event::Kill { end: whose, step: at } | Event::Power { end: whose, step: at } => {
                *whose == end && *at <= step
            }
            Event::Cut(_) => false,
        });
        let Some(due) = due else { return };
        let power = matches!(state.events.remove(due), Event::Power { .. });
        state.happened += 1;
        state.doomed = Some((end, power));
        let slot = state.current;
        drop(state);
        suspend(slot, Pause::Ended);
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

    pub(super) fn with(&self, connection: usize, act: impl FnOnce(&mut Connection)) {
        let mut state = self.state.borrow_mut();
        state.changes += 1;
        if let Some(connection) = state.connections.get_mut(connection) {
            act(connection);
        }
    }

    pub(super) fn read(&self, connection: usize, end: End, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        if state.is_dying() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        // Now and then only a few bytes at a time.
        let most = if state.random.once_in(8) { 1 + state.random.below(40) as usize } else { usize::MAX };
        state.connections[connection].read(end, into, most)
    }

    pub(super) fn write(&self, connection: usize, end: End, bytes: &[u8]) -> io::Result<usize> {
        self.step();
        let mut state = self.state.borrow_mut();
        if state.is_dying() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let sent = state.sent[end as usize];
        let due = state.events.iter().position(|event| {
            matches!(event, Event::Cut(cut) if cut.sender == end && cut.after <= sent + bytes.len() as u32)
        });
        let cut = match due.map(|due| state.events.remove(due)) {
            Some(Event::Cut(cut)) => Some(cut),
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
    fn wait(&self, deadline: Option<Duration>) {
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

    pub(super) fn fails(&self, told: String) {
        self.state.borrow_mut().fault.get_or_insert(told);
    }

    pub(super) fn start_on(&self, end: End, work: Work) {
        self.state.borrow_mut().starting.push((end, work));
    }
}

/// Handles the server's reports while it serves.
fn observe(serving: Serving<'_>) {
    if let (Serving::Progress(_, Progress::Confirmed(confirmation)), Some(world)) = (serving, world())
        && world.state.borrow().disk.owner == End::Server
    {
        world.confirmed(confirmation);
    }
}

impl Host for World {
    fn now(&self) -> Instant {
        let state = self.state.borrow();
        state.started + state.now
    }

    fn poll(&self, fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> Result<usize, Errno> {
        self.step();
        let timeout = timeout.and_then(|time| Duration::try_from(*time).ok());
        let deadline = timeout.and_then(|time| self.state.borrow().now.checked_add(time));
        loop {
            let mut state = self.state.borrow_mut();
            if state.is_dying() {
                return Err(Errno::IO);
            }
            let State { watched, connections, .. } = &mut *state;
            for fd in fds.iter() {
                if let Some(watched) = watched.get_mut(&fd.as_fd().as_raw_fd()) {
                    watched.settle(fd.as_fd(), &connections[watched.connection]);
                }
            }
            let now = state.now;
            drop(state);
            let ready = rustix::event::poll(fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
            if ready > 0 || deadline.is_some_and(|deadline| deadline <= now) {
                self.state.borrow_mut().changes += u64::from(timeout != Some(Duration::ZERO));
                return Ok(ready);
            }
            self.wait(deadline);
        }
    }

    fn random(&self, into: &mut [u8]) {
        let mut state = self.state.borrow_mut();
        for bytes in into.chunks_mut(8) {
            let next = state.random.next().to_ne_bytes();
            let length = bytes.len();
            bytes.copy_from_slice(&next[..length]);
        }
    }

    fn pause(&self, time: Duration) {
        let deadline = self.state.borrow().now + time;
        while self.state.borrow().now < deadline {
            self.wait(Some(deadline));
        }
    }

    fn boot(&self) -> Vec<u8> {
        let state = self.state.borrow();
        if state.planted == Some(Planted::BootForgotten) {
            return Vec::new();
        }
        state.boots[state.end() as usize].to_ne_bytes().to_vec()
    }

    fn start(&self, work: Work) {
        let end = self.state.borrow().end();
        self.start_on(end, work);
    }

    fn connect(&self) -> io::Result<Box<dyn Transport>> {
        self.step();
        let mut state = self.state.borrow_mut();
        let Some(server) = state.server.clone() else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let room = 1 << (9 + state.random.below(12));
        let number = state.connections.len();
        state.connections.push(Connection::new(room));
        drop(state);
        let theirs = Link::new(self, number, End::Server)?;
        let work = move || {
            let peer = SocketAddr::from(([192, 0, 2, 1], 1));
            let served = server.simulated_connection(Box::new(theirs), peer, &observe);
            if let Some(world) = world() {
                world.state.borrow_mut().served.push((number, served));
            }
        };
        self.start_on(End::Server, Box::new(work));
        Ok(Box::new(Link::new(self, number, End::Client)?))
    }

    fn command(&self, content: &[u8]) -> io::Result<()> {
        self.step();
        let mut state = self.state.borrow_mut();
        let number = state.commands.len();
        state.commands.push(Command { content: content.to_vec(), outcome: None });
        let (time, succeeds) = (state.random.below(20_000), !state.random.once_in(8));
        drop(state);
        self.pause(Duration::from_millis(time));
        self.step();
        self.state.borrow_mut().commands[number].outcome = Some(succeeds);
        if succeeds { Ok(()) } else { Err(io::Error::other("no paper")) }
    }

    fn before(&self, call: &DiskCall<'_>) -> Result<bool, Errno> {
        self.step();
        let mut state = self.state.borrow_mut();
        if state.is_dying() {
            return Err(Errno::IO);
        }
        let (planted, owns) = (state.planted, state.disk.owner == state.end());
        if owns { state.disk.before(call, planted) } else { Ok(true) }
    }

    fn after(&self, call: &DiskCall<'_>) {
        let mut state = self.state.borrow_mut();
        if state.disk.owner == state.end() {
            state.disk.after(call);
        }
    }

    fn lacks(&self, rule: Rule) -> bool {
        matches!(self.state.borrow().planted, Some(Planted::Rule(planted)) if planted.rule() == rule)
    }
}
