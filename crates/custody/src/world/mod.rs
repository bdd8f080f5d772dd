//! What the supervisor of a program knows of all its processes, and what it decides.
//!
//! The driver is notified of the program's calls before they are made (seccomp), tells them here as [`Event`]s, and does
//! each [`Action`] that [`World::next`] returns. The worst error would be to half-close a connection that the program still
//! has. The order of an end makes that impossible, as long as the driver tells the truth: keep an fd of the connection,
//! continue the call, see that the program's fd is gone, find no other process that has one, and only then half-close.
//!
//! So a wrong decision can make an end late, or leave it to a plain close; it cannot cut off a connection that the program
//! has.

mod close_call;
mod connection;
mod doubts;
mod ending;
mod flights;
mod last_holder;
mod processes;
mod sharing;
mod task;
mod vocabulary;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use std::vec::Vec;

use connection::Connection;
use doubts::Doubts;
use ending::Ending;
use flights::Flights;
use task::{Known, Task};

pub use vocabulary::{
    Action, Answer, Ask, Caller, Census, Cookie, Event, Inode, Kept, Open, Pid, ProcessFd, Seen, Tid, Unseen,
    Way,
};

/// How much a world remembers.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain data: every field has a default to start from")]
pub struct Limits {
    /// How many shared or shut-down connections are remembered before a census looks for those that are gone. More are
    /// remembered if more still exist.
    pub shared: usize,
    /// Fds that are remembered of one shared connection. A larger number saves looks at all fds of the program.
    pub names: usize,
    /// Connections that are remembered after their end.
    pub lately: usize,
    /// Connections in flight that are kept; one more ends plainly if its message never arrives.
    pub in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { shared: 4_096, names: 16, lately: 256, in_flight: 1_024 }
    }
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Not remembered: it has one fd, as far as the kernel has told.
    Unknown,
    /// One fd, and the driver has held another since the accept.
    Held,
    /// Perhaps several fds.
    Shared,
    /// Perhaps several fds, and a message in flight may carry it.
    Sent,
    /// A call that closes an fd was continued.
    Closing,
    /// No process has it; a message may carry it.
    InFlight,
    /// A `shutdown` has handed it over; the program still has its fd.
    ShutDown,
    /// It has ended lately.
    Ended,
}

/// The supervisor's knowledge of a program.
#[derive(Debug)]
pub struct World {
    limits: Limits,
    now: Duration,
    connections: BTreeMap<Cookie, Connection>,
    /// The connections that are shared, by inode.
    inodes: BTreeMap<Inode, Cookie>,
    /// The connections that the closer has already (`shutdown` was called), and of which the program still has an fd.
    shut_down: BTreeMap<Cookie, Inode>,
    /// How many of `inodes` and `shut_down` to remember before a census looks for those that are gone.
    room: usize,
    endings: BTreeMap<Kept, Ending>,
    next_kept: u64,
    flights: Flights,
    doubts: Doubts,
    /// Processes that are known to live; `true` for those that have made a call.
    alive: BTreeMap<Pid, bool>,
    /// Connections that have ended lately: of two threads that close the same fd at once one gets `EBADF`.
    lately: VecDeque<Cookie>,
    tasks: VecDeque<(Task, Known)>,
    actions: VecDeque<Action>,
    asked: bool,
}

impl Default for World {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl World {
    /// Knows nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            now: Duration::ZERO,
            connections: BTreeMap::new(),
            inodes: BTreeMap::new(),
            shut_down: BTreeMap::new(),
            room: limits.shared,
            endings: BTreeMap::new(),
            next_kept: 0,
            flights: Flights::new(limits.in_flight),
            doubts: Doubts::default(),
            alive: BTreeMap::new(),
            lately: VecDeque::new(),
            tasks: VecDeque::new(),
            actions: VecDeque::new(),
            asked: false,
        }
    }

    /// Tells what happened; `now` is the time since any fixed moment, and never goes back.
    pub fn on(&mut self, event: Event<'_>, now: Duration) {
        debug_assert!(!self.asked && self.tasks.is_empty(), "what was asked is answered first");
        debug_assert!(now >= self.now, "time does not go back");
        self.now = now;
        match event {
            Event::Calls(tid) => self.doubts.calls(tid),
            Event::Appeared { caller, open, hidden } => self.appeared(caller, open, hidden),
            Event::Fork { caller, open, hidden, alone } => {
                self.doubts.forks(caller.tid, alone);
                if hidden {
                    self.note_hidden(caller.pid);
                }
                self.inherit_all(caller, open, false);
            }
            Event::Copy { caller, seen } => {
                self.doubts.copies(caller.tid);
                self.push(Task::Share(seen, caller));
            }
            Event::Send { caller, seen, abroad } => self.push(Task::Send(seen, caller, abroad)),
            Event::Close { caller, seen, way } => self.push(Task::Close(seen, caller, way)),
            Event::Shutdown(seen) => self.push(Task::Shutdown(seen)),
            Event::Hidden { pid, does } => self.hidden(pid, does),
            Event::Unnotified => {
                self.doubts.note_unheard();
                self.push(Task::Orphans);
            }
            Event::CaughtUp(Census { hidden: true, .. }) => {}
            Event::CaughtUp(census) => {
                // Kept and held connections count too: the census does not show one that the program has just closed.
                let known = self.connections.values().map(|connection| connection.inode);
                self.doubts.note_heard(census.names.keys().copied().chain(known));
            }
            Event::Accepted { cookie, inode, pid } => self.accepted(cookie, inode, pid),
            Event::Closed(kept) => self.push(Task::Closed(kept)),
            Event::StillOpen(kept) => self.note_open(kept),
            Event::Lost(kept) => self.lost(kept),
            Event::Died(pid) => {
                self.alive.remove(&pid);
                self.doubts.forget(pid);
                self.push(Task::Orphans);
            }
            Event::Ended => {
                self.alive.clear();
                self.push(Task::Orphans);
                let flights: Vec<Cookie> = self.flights.cookies().collect();
                flights.into_iter().for_each(|cookie| self.push(Task::EndFlight(cookie)));
            }
            Event::Tick => {
                if self.due().is_some_and(|due| due <= now) {
                    self.push(Task::Look);
                }
            }
        }
    }

    /// What the driver is to do next; `None` when the event is dealt with, and its call may be continued.
    #[expect(clippy::should_implement_trait, reason = "an iterator would borrow what events change")]
    pub fn next(&mut self) -> Option<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            if self.asked {
                return None;
            }
            let (task, known) = self.tasks.pop_front()?;
            if let Err(ask) = self.attempt(&task, &known) {
                self.asked = true;
                self.tasks.push_front((task, known));
                self.actions.push_back(Action::Ask(ask));
            }
        }
    }

    /// Answers what was asked last.
    pub fn answer(&mut self, answer: Answer, now: Duration) {
        debug_assert!(self.asked, "nothing was asked");
        debug_assert!(now >= self.now, "time does not go back");
        self.now = now;
        self.asked = false;
        if let Answer::Census { copying, .. } | Answer::Flights { copying, .. } = &answer {
            self.doubts.keep_copying(copying);
        }
        if let Answer::Census { census, .. } = &answer {
            self.take_census(census);
        }
        if let Some((_, known)) = self.tasks.front_mut() {
            known.take(answer);
        }
    }

    /// When to tell [`Event::Tick`], if at all.
    pub fn due(&self) -> Option<Duration> {
        self.flights.due()
    }

    /// Whether a connection with this inode may have several fds.
    pub fn shares(&self, inode: Inode) -> bool {
        self.inodes.contains_key(&inode)
    }

    /// Whether a process has made a call, and is not known to have died.
    pub fn knows(&self, pid: Pid) -> bool {
        self.alive.get(&pid) == Some(&true)
    }

    /// The state of a connection, for tests and observers.
    pub fn state(&self, cookie: Cookie) -> State {
        let Some(connection) = self.connections.get(&cookie) else {
            return match (self.shut_down.contains_key(&cookie), self.lately.contains(&cookie)) {
                (true, _) => State::ShutDown,
                (_, true) => State::Ended,
                (false, false) => State::Unknown,
            };
        };
        let sent = connection.shared.as_ref().is_some_and(|shared| shared.sent.is_some());
        if self.flights.contains(cookie) {
            State::InFlight
        } else if !connection.kept.is_empty() {
            State::Closing
        } else if sent {
            State::Sent
        } else if connection.shared.is_some() {
            State::Shared
        } else if self.shut_down.contains_key(&cookie) {
            State::ShutDown
        } else {
            State::Held
        }
    }

    /// Whether it matters when a process dies: a connection is held, or some process cannot be looked at.
    pub fn heeds_deaths(&self) -> bool {
        self.doubts.any_hides() || self.connections.values().any(|connection| connection.held.is_some())
    }

    /// How many connections are remembered because they may have several fds, or because `shutdown` was called.
    pub fn remembered(&self) -> usize {
        self.inodes.len() + self.shut_down.len()
    }

    /// Whether nothing is kept or held any more.
    pub fn is_idle(&self) -> bool {
        self.endings.is_empty() && self.connections.values().all(|connection| connection.held.is_none())
    }

    fn push(&mut self, task: Task) {
        self.tasks.push_back((task, Known::default()));
    }

    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn count(&mut self, cookie: Cookie, reason: crate::Count) {
        self.act(Action::Count { cookie: Some(cookie), reason, holder: None });
    }

    fn attempt(&mut self, task: &Task, known: &Known) -> Result<(), Ask> {
        match *task {
            Task::Share(seen, caller) => {
                self.share(seen.cookie, seen.inode, ProcessFd { pid: caller.pid, fd: seen.fd }, known)
            }
            Task::Send(seen, caller, abroad) => self.send(seen, caller, abroad, known),
            Task::Close(seen, caller, way) => self.close(seen, caller, way, known),
            Task::Shutdown(seen) => self.shutdown(seen, known),
            Task::Unwatch(kept) => self.unwatch(kept, known),
            Task::Closed(kept) => self.closed(kept, known),
            Task::End(kept) => self.end(kept, known),
            Task::Orphans => self.orphans(known),
            Task::Look => self.look(known),
            Task::EndFlight(cookie) => {
                self.end_flight(cookie, false);
                Ok(())
            }
        }
    }
}
