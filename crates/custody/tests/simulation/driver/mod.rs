//! The supervisor's driver over the simulated kernel. It is notified as the real driver is, and its work takes as many
//! steps; between them the program goes on.

mod answer;
mod check;
mod forget;
mod hints;
mod pace;
mod parted;
mod perform;
mod stop;
mod tell;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use linger_custody::Count;
use linger_custody::world::{Cookie, Event, Inode, Kept, Limits, Pid, State, Tid, Way, World};

use hints::Hints;
use pace::Pace;
use stop::Stop;

use crate::kernel::{Call, Kernel, Thread, Told};

/// What went wrong.
pub(crate) type Fault = String;

/// Small, so that every limit is met.
const LIMITS: Limits = Limits { shared: 2, names: 2, lately: 6, in_flight: 2 };

/// A notification that is being dealt with.
#[derive(Debug)]
struct Notification {
    process: usize,
    thread: usize,
    call: Call,
    /// Which of the thread's calls this notification is of.
    id: u32,
    /// A `shutdown` that the driver must answer itself: otherwise a reset could follow while the program writes.
    to_pretend: Option<usize>,
    /// What the world is still to be told, in order.
    rest: VecDeque<Telling>,
    pretended: bool,
    told: Vec<Told>,
}

#[derive(Clone, Copy, Debug)]
enum Telling {
    Appeared,
    Fork,
    Copy(i32),
    Close(i32, Way),
    Shutdown(i32),
    Send(i32, bool),
}

#[derive(Debug, Default)]
struct KeptFd {
    connection: usize,
    /// The program's fd; `None` for what was held.
    name: Option<(usize, i32)>,
    /// The call that is to close it may fail.
    may_fail: bool,
    /// It was the connection's only fd.
    sole: bool,
    /// The thread's call that closes it.
    call: Option<(usize, u32)>,
    /// How many fds had been opened, and processes made, when the world was told of the call.
    serials: u32,
    processes: usize,
    /// The call closes or replaces this fd.
    is_close: bool,
    /// The call ends the process.
    is_exit: bool,
    /// How often the world was told that the fd is still open after the time limit.
    told_late: u32,
    /// Censuses in a row that found nobody who has it, and no call that may pass it on.
    looked_for: u32,
    /// Censuses since the world was last told of the connection. Two that agree show that nobody has it.
    looks: u32,
    /// Unread bytes when it was kept; for a held connection, when the socket was asked.
    unread: u32,
    /// The fd was seen to be gone.
    closed: bool,
    open_since: Option<Duration>,
    /// It could not be removed from the program's epolls.
    reported: bool,
    /// The other processes, as bits, that had the connection when this fd was seen to be gone; 0 if they are not known
    /// (`Kernel::others`). If one of them still has it, the close must be counted (`check_dropped`).
    others: u8,
}

/// The fd of the present event.
#[derive(Clone, Copy, Debug)]
struct AtHand {
    connection: usize,
    /// The program's.
    name: (usize, i32),
    unread: u32,
    /// What is about to close it, if anything is.
    way: Option<Way>,
    /// The connection has no other fd, and no call may give it one.
    sole: bool,
    /// How many fds had been opened, and processes made.
    serials: u32,
    processes: usize,
}

pub(crate) struct Driver {
    pub(crate) world: World,
    pub(crate) now: Duration,
    /// When all continued calls had been made.
    pub(crate) went_on: Duration,
    hold: bool,
    current: Option<Notification>,
    /// The fd of the present event.
    at_hand: Option<AtHand>,
    kept: BTreeMap<Kept, KeptFd>,
    held: BTreeSet<usize>,
    /// Connections that the supervisor has half-closed and not looked at again.
    parted: Vec<usize>,
    /// Connections that were held, and are kept since the present event, because nobody was seen to have them.
    orphans: Vec<usize>,
    watched: BTreeSet<usize>,
    known: BTreeSet<usize>,
    counts: [u64; Count::ALL],
    /// How many connections may be remembered before the next census.
    room: usize,
    ended: bool,
    /// The world has dealt with everything that it was told.
    silent: bool,
    pace: Pace,
    stop: Stop,
    /// Decides whether the world's requests succeed.
    luck: u8,
    /// The number of connections at the last census, if no event since then can have given a connection a second fd.
    clean: Option<usize>,
    /// Whether the present event reports that the fd of a close is gone.
    closes: bool,
    /// The connection of the present event.
    about: Option<usize>,
    /// Processes that cannot be looked at: those that were told of, that were named, that closed something, and that were
    /// counted for it.
    hidden: BTreeSet<usize>,
    named: BTreeSet<usize>,
    dead_told: BTreeSet<usize>,
    closed_unseen: BTreeSet<usize>,
    counted: BTreeSet<usize>,
    /// A process that cannot be looked at has sent a message.
    opaque: bool,
    /// Something was copied, or a process with several threads forked, and no census has shown the result yet.
    stray: bool,
    /// Connections with several fds at the last census.
    several: BTreeSet<Inode>,
    hints: Hints,
    /// The present event is a close, and the world has asked which of the known fds has the connection.
    is_ending: bool,
    asked_which: bool,
    /// The connection's state before the event; and whether a census has shown since that something may be copied.
    state: State,
    saw_copying: bool,
    /// The world may ask for a census at this event only to make room for more connections.
    wants_room: bool,
    may_add: bool,
    /// The present event reports that a kept fd is still open.
    is_late: bool,
    /// Threads whose last call copies.
    copying: BTreeSet<Tid>,
    /// When the world was last told something.
    told_at: Duration,
    /// The number of questions since the event.
    asks: u32,
    /// The fault that an event has shown.
    fault: Option<Fault>,
    pub(crate) told: Vec<(&'static str, State)>,
    pub(crate) tracing: bool,
}

fn pid(process: usize) -> Pid {
    Pid(process as u32)
}

fn tid(process: usize, thread: usize) -> Tid {
    Tid((process * 2 + thread) as u32)
}

fn cookie(connection: usize) -> Cookie {
    Cookie(connection as u64)
}

fn inode(connection: usize) -> Inode {
    // Unlike a cookie, so that one taken for the other is a fault.
    Inode(100 - connection as u64)
}

impl Driver {
    pub(crate) fn new(hold: bool) -> Self {
        Self {
            world: World::new(LIMITS),
            now: Duration::ZERO,
            went_on: Duration::ZERO,
            hold,
            current: None,
            at_hand: None,
            kept: BTreeMap::new(),
            held: BTreeSet::new(),
            parted: Vec::new(),
            orphans: Vec::new(),
            watched: BTreeSet::new(),
            known: BTreeSet::new(),
            counts: [0; Count::ALL],
            room: LIMITS.shared,
            ended: false,
            silent: true,
            pace: Pace::default(),
            stop: Stop::default(),
            luck: 0,
            clean: Some(0),
            closes: false,
            about: None,
            hidden: BTreeSet::new(),
            named: BTreeSet::new(),
            dead_told: BTreeSet::new(),
            closed_unseen: BTreeSet::new(),
            counted: BTreeSet::new(),
            opaque: false,
            stray: false,
            several: BTreeSet::new(),
            hints: Hints::default(),
            is_ending: false,
            asked_which: false,
            state: State::Unknown,
            saw_copying: false,
            wants_room: false,
            may_add: false,
            is_late: false,
            copying: BTreeSet::new(),
            told_at: Duration::ZERO,
            asks: 0,
            fault: None,
            told: Vec::new(),
            tracing: false,
        }
    }

    /// Does one thing. Returns whether there was anything to do; `choice` selects among several things.
    ///
    /// `luck` decides whether it succeeds. While the supervisor is stopped, this is a step of the guard.
    pub(crate) fn step(&mut self, kernel: &mut Kernel, choice: u8, luck: u8) -> Result<bool, Fault> {
        if self.stop.is_stopped {
            return Ok(Self::guard(kernel, choice));
        }
        self.luck = luck;
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let action = self.world.next();
        self.pace.check(self.world.due(), self.told_at)?;
        if let Some(action) = action {
            self.perform(kernel, action)?;
            return Ok(true);
        }
        if !self.silent {
            self.silent = true;
            self.check_silent(kernel)?;
        }
        self.at_hand = None;
        if self.current.is_some() {
            self.tell_next(kernel);
            return Ok(true);
        }
        if self.mind_unheard(kernel) {
            return Ok(true);
        }
        let notified = kernel.processes.iter().enumerate().flat_map(|(process, one)| {
            let threads = one.threads.iter().enumerate();
            threads.filter_map(move |(thread, state)| match state {
                Thread::Notified(call) => Some((process, thread, call.clone())),
                _ => None,
            })
        });
        let notified: Vec<_> = notified.collect();
        let dead = self.dead(kernel);
        let called: Vec<Kept> =
            self.kept.iter().filter(|(_, one)| !one.closed).map(|(kept, _)| *kept).collect();
        let choices = notified.len() + dead.len() + called.len() + 1;
        let mut choice = usize::from(choice) % choices;
        if let Some((process, thread, call)) = notified.get(choice) {
            self.begin(kernel, *process, *thread, call.clone());
            return Ok(true);
        }
        choice -= notified.len();
        if let Some(process) = dead.get(choice) {
            self.watched.remove(process);
            self.dead_told.insert(*process);
            self.on("died", None, Event::Died(pid(*process)));
            return Ok(true);
        }
        choice -= dead.len();
        if let Some(kept) = called.get(choice) {
            self.look_at(kernel, *kept);
            return Ok(true);
        }
        let due = self.world.due().is_some_and(|due| due <= self.now);
        if due {
            self.on("tick", None, Event::Tick);
        }
        if luck & 1 == 0 {
            self.look_at_parted(kernel)?;
        }
        Ok(due)
    }

    /// Processes whose death is reported. Only if that matters to the world: watching processes costs time at each
    /// notification.
    fn dead(&self, kernel: &Kernel) -> Vec<usize> {
        let heeds = self.world.heeds_deaths();
        let dead = |process: &usize| heeds && !kernel.processes[*process].alive;
        self.watched.iter().copied().filter(dead).collect()
    }

    /// Whether there is anything left to do without the program.
    pub(crate) fn is_busy(&self) -> bool {
        self.current.is_some() || !self.kept.is_empty() || !self.held.is_empty() || self.is_unheard()
    }

    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        if !std::mem::replace(&mut self.ended, true) {
            let looked_for = |index: &usize| self.kept.values().any(|one| one.connection == *index);
            if !self.held.iter().all(looked_for) {
                return Err(format!("all are dead, and {:?} are held still", self.held));
            }
            self.on("ended", None, Event::Ended);
        }
        Ok(())
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn is_held(&self) -> bool {
        self.hold
    }

    /// Whether nothing is being dealt with.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.silent && self.current.is_none()
    }

    /// Whether the driver waits for no fd of the program.
    pub(crate) fn has_settled(&self, kernel: &Kernel) -> bool {
        self.is_at_rest() && self.kept.values().all(|one| one.closed) && self.dead(kernel).is_empty()
    }
}
