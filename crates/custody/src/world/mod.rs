//! What the supervisor of a program knows of all its processes, and what it decides.
//!
//! The driver is notified of the program's calls before they are made, tells them here as [`Event`]s, and does each
//! [`Action`] that [`World::next`] returns. A connection ends in this order, which makes the worst error, to half-close
//! what the program still has, impossible as long as the driver tells the truth: keep an fd of it, let the call
//! happen, see that the program's fd is gone, find nobody else who has it, and only then half-close.
//!
//! An error in judgement can make an end late, or plain. It cannot cut off a connection that the program has.

mod connection;
mod flights;
mod tasks;
mod vocabulary;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use std::vec::Vec;

use connection::{Connection, Passed};
use flights::Flights;
use tasks::{Known, Task};

pub use vocabulary::{
    Action, Answer, Ask, Caller, Census, Cookie, Event, Inode, Kept, Name, Open, Pid, Seen, Tid, Way,
};

/// How much a world remembers.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain data: every field has a default to start from")]
pub struct Limits {
    /// Shared connections before those that are gone are looked for; at each power of two from here on.
    pub shared: usize,
    /// Fds that are remembered of one shared connection: more save looks at all fds of the program.
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

/// How long a call that may fail is given to close what it would.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that the program was let close, or that no process has any more.
#[derive(Debug)]
struct Ending {
    cookie: Cookie,
    /// The fd that the program was let close; `None` for a connection of a killed process.
    name: Option<Name>,
    way: Way,
    unread: u32,
    /// A message may have held it when the call was made.
    passed: bool,
    /// The program's epolls have forgotten it.
    unwatched: bool,
    stage: Stage,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Nothing: one fd, as far as the kernel has told.
    Unknown,
    /// One fd, and the driver holds another since it was accepted.
    Held,
    /// Perhaps several fds.
    Shared,
    /// Perhaps several fds, and a message.
    Sent,
    /// An fd was let close.
    Closing,
    /// Nobody has it, but perhaps a message.
    InFlight,
    /// `shutdown` has handed it over; the program has its fd still.
    ShutDown,
    /// It has ended lately.
    Ended,
}

/// How far an ending has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The call was let happen: it is to be seen that the fd is gone. It was first seen not to be at this time.
    Called { open_since: Option<Duration> },
    /// The fd is gone: it is being decided who else holds the connection.
    Closed,
    /// Nobody is seen to have it, but perhaps a message, or the child of a fork under way.
    InFlight,
    /// Nobody holds it: it is being ended.
    Over,
}

/// The supervisor's knowledge of a program.
#[derive(Debug)]
pub struct World {
    limits: Limits,
    now: Duration,
    connections: BTreeMap<Cookie, Connection>,
    /// The connections that are shared, by inode.
    inodes: BTreeMap<Inode, Cookie>,
    endings: BTreeMap<Kept, Ending>,
    next_kept: u64,
    flights: Flights,
    /// Threads that were let copy fds, and may still be about it.
    copying: BTreeSet<Tid>,
    /// A process with several threads was let fork, and its child has not been looked at since: what the other threads
    /// accepted meanwhile it may have as well.
    births: bool,
    /// Sockets with several fds at the last look that are not known as connections.
    several: BTreeSet<Inode>,
    /// Processes that are known to live; `true` for those that have made a call.
    alive: BTreeMap<Pid, bool>,
    /// Processes that did something with their fds when they could not be looked at: what they have may be shared.
    obscure: BTreeSet<Pid>,
    /// One of them has made a child, which may have any connection of its parent's.
    blind: bool,
    /// A process that cannot be looked at has sent a message that cannot be read: it may carry any shared connection.
    opaque: bool,
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
            endings: BTreeMap::new(),
            next_kept: 0,
            flights: Flights::new(limits.in_flight),
            copying: BTreeSet::new(),
            births: false,
            several: BTreeSet::new(),
            alive: BTreeMap::new(),
            obscure: BTreeSet::new(),
            blind: false,
            opaque: false,
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
            Event::Calls(tid) => {
                self.copying.remove(&tid);
            }
            Event::Appeared { caller, open, hidden } => self.appeared(caller, open, hidden),
            Event::Fork { caller, open, hidden, alone } => {
                self.copying.insert(caller.tid);
                self.births |= !alone;
                if hidden {
                    self.blind = true;
                    self.is_hidden(caller.pid);
                }
                self.inherit_all(caller, open, false);
            }
            Event::Copy { caller, seen } => {
                self.copying.insert(caller.tid);
                self.push(Task::Share(seen, caller));
            }
            Event::Send { caller, seen, abroad } => self.push(Task::Send(seen, caller, abroad)),
            Event::Close { caller, seen, way } => self.push(Task::Close(seen, caller, way)),
            Event::Shutdown { seen, both } => self.push(Task::Shutdown(seen, both)),
            Event::Hidden { pid, sends } => {
                self.opaque |= sends;
                self.is_hidden(pid);
            }
            Event::Accepted { cookie, inode, pid } => self.accepted(cookie, inode, pid),
            Event::Closed(kept) => self.push(Task::Closed(kept)),
            Event::StillOpen(kept) => self.still_open(kept),
            Event::Lost(kept) => self.refuse(kept),
            Event::Died(pid) => {
                self.alive.remove(&pid);
                self.obscure.remove(&pid);
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

    /// What the driver is to do next; `None` when the event is dealt with, and the call it told of may be made.
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
            self.copying.retain(|tid| copying.contains(tid));
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

    /// What is known of a connection, for tests and for those who watch.
    pub fn state(&self, cookie: Cookie) -> State {
        let Some(connection) = self.connections.get(&cookie) else {
            return if self.lately.contains(&cookie) { State::Ended } else { State::Unknown };
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
        } else if connection.handed {
            State::ShutDown
        } else {
            State::Held
        }
    }

    /// Whether it matters when a process dies: something is held, or a process did something unseen.
    pub fn heeds_deaths(&self) -> bool {
        !self.obscure.is_empty() || self.connections.values().any(|connection| connection.held.is_some())
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

    fn appeared(&mut self, caller: Caller, open: &[Open], hidden: bool) {
        self.alive.insert(caller.pid, true);
        // The number of a process that has died is given again.
        self.obscure.remove(&caller.pid);
        if hidden {
            self.is_hidden(caller.pid);
            // It may have any of them from its parent, and not by a message.
            let all = self.connections.values_mut().filter_map(|one| one.shared.as_mut());
            all.for_each(|shared| shared.inherited_by(caller.pid));
        }
        self.inherit_all(caller, open, true);
    }

    /// A process and its child, or a new process and its parent, both have these.
    fn inherit_all(&mut self, caller: Caller, open: &[Open], is_new: bool) {
        let mut known = BTreeSet::new();
        for socket in open {
            let name = Name { pid: caller.pid, fd: socket.fd };
            match self.inodes.get(&socket.inode) {
                Some(cookie) => {
                    known.insert(*cookie);
                    if let Some(shared) = self.connections.get_mut(cookie).and_then(|one| one.shared.as_mut())
                    {
                        shared.note(name, self.limits.names);
                    }
                }
                None => {
                    if let Some(cookie) = socket.cookie {
                        let seen = Seen {
                            fd: socket.fd,
                            cookie,
                            inode: socket.inode,
                            socket: crate::Socket::default(),
                        };
                        self.push(Task::Share(seen, caller));
                    }
                }
            }
        }
        for cookie in known {
            if !is_new {
                self.seen_at(cookie, caller.pid);
            } else if let Some(shared) = self.connections.get_mut(&cookie).and_then(|one| one.shared.as_mut())
            {
                shared.inherited_by(caller.pid);
            }
        }
    }

    fn is_hidden(&mut self, pid: Pid) {
        if self.obscure.insert(pid) {
            self.act(Action::Count { cookie: None, reason: crate::Count::Refused, holder: Some(pid) });
            self.act(Action::Watch(pid));
        }
        // It may close them unseen, and then they must not be kept from ending.
        let held = self.connections.iter().filter(|(_, one)| one.held == Some(pid));
        let held: Vec<Cookie> = held.map(|(cookie, _)| *cookie).collect();
        held.into_iter().for_each(|cookie| self.release(cookie));
    }

    fn accepted(&mut self, cookie: Cookie, inode: Inode, pid: Pid) {
        let connection = self.connections.entry(cookie).or_insert_with(|| Connection::new(inode));
        debug_assert!(connection.held.is_none(), "a connection is accepted once");
        connection.held = Some(pid);
    }

    /// Whether a connection with one known fd may have others.
    fn may_be_shared(&self, inode: Inode) -> bool {
        self.is_blind() || self.several.contains(&inode)
    }

    /// Whether any connection may be shared of which nothing says so.
    fn is_blind(&self) -> bool {
        self.blind || self.opaque || self.births || !self.obscure.is_empty()
    }

    /// A call that may fail is not waited for without end.
    fn still_open(&mut self, kept: Kept) {
        let Some(Ending { way: Way::Replace | Way::Exec, stage: Stage::Called { open_since }, .. }) =
            self.endings.get_mut(&kept)
        else {
            return;
        };
        // From the first look on: the supervisor itself may have been stopped before.
        if self.now.saturating_sub(*open_since.get_or_insert(self.now)) > PATIENCE {
            self.forget_ending(kept);
        }
    }

    /// Notes that a process has a connection; whether a message may hold it as well.
    fn seen_at(&mut self, cookie: Cookie, pid: Pid) -> Passed {
        let Some(connection) = self.connections.get_mut(&cookie) else { return Passed::No };
        let passed = connection.seen_at(pid);
        if passed == Passed::No
            && let Some(kept) = self.flights.end(cookie)
        {
            self.forget_ending(kept);
        }
        passed
    }

    fn new_ending(&mut self, inode: Inode, ending: Ending) -> Kept {
        let kept = Kept(self.next_kept);
        self.next_kept += 1;
        let fresh = || Connection::new(inode);
        self.connections.entry(ending.cookie).or_insert_with(fresh).kept.push(kept);
        let before = self.endings.insert(kept, ending);
        debug_assert!(before.is_none(), "an identity is given once");
        kept
    }

    /// Forgets an ending, and has its fd closed.
    fn forget_ending(&mut self, kept: Kept) {
        let Some(ending) = self.endings.remove(&kept) else { return };
        if let Some(connection) = self.connections.get_mut(&ending.cookie) {
            connection.kept.retain(|other| *other != kept);
        }
        if ending.stage == Stage::InFlight {
            self.flights.end(ending.cookie);
        }
        self.act(Action::Drop(kept));
        self.tidy(ending.cookie);
    }

    /// Forgets a connection of which nothing is known.
    fn tidy(&mut self, cookie: Cookie) {
        if self.connections.get(&cookie).is_some_and(Connection::is_blank) {
            self.connections.remove(&cookie);
        }
    }

    /// Closes the fd that is held since the connection was accepted.
    fn release(&mut self, cookie: Cookie) {
        if self.connections.get_mut(&cookie).and_then(|one| one.held.take()).is_some() {
            self.act(Action::Release(cookie));
            self.tidy(cookie);
        }
    }

    fn unshare(&mut self, cookie: Cookie) {
        if let Some(connection) = self.connections.get_mut(&cookie)
            && connection.shared.take().is_some()
        {
            self.inodes.remove(&connection.inode);
            self.tidy(cookie);
        }
    }

    /// Renews what is known of shared connections. One with a single fd is shared no more, unless a call that copies,
    /// or a message, may be about to give it another.
    fn take_census(&mut self, census: &Census) {
        let certain = self.copying.is_empty() && !census.hidden;
        self.births &= !certain;
        if !census.hidden {
            self.several.clear();
        }
        let several = census.names.iter().filter(|(_, names)| names.len() > 1);
        let unknown = several.filter(|(inode, _)| !self.inodes.contains_key(inode));
        self.several.extend(unknown.map(|(inode, _)| *inode));
        let mut sole = Vec::new();
        for cookie in self.inodes.values() {
            let Some(connection) = self.connections.get_mut(cookie) else { continue };
            let (inode, ending) = (connection.inode, !connection.kept.is_empty());
            let Some(shared) = &mut connection.shared else { continue };
            let names = census.names(inode);
            shared.renew(names, self.limits.names);
            if names.len() <= 1 && certain && shared.sent.is_none() && !ending {
                sole.push(*cookie);
            }
        }
        sole.into_iter().for_each(|cookie| self.unshare(cookie));
        // Who was thought to have it may have let go of it unseen.
        let mut heirs = Vec::new();
        for (cookie, connection) in &self.connections {
            let names = census.names(connection.inode);
            if let (Some(pid), Some(name)) = (connection.held, names.first())
                && names.iter().all(|name| name.pid != pid)
            {
                heirs.push((*cookie, name.pid));
            }
        }
        heirs.into_iter().for_each(|(cookie, heir)| self.inherit(cookie, heir));
    }
}
