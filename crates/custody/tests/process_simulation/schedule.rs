//! Random schedules of events, and what they make of a world: run, shrunk, and counted by kind and state.

use std::fmt::Write as _;

use linger_custody::process::Phase;

use super::kernel::{CONNECTIONS, FDS, Fault, Fd, File, Mode, PROCESSES, THREADS, World};
use super::ops::{At, Op};

/// What may happen. The numbers of an event choose among what there is, so that any part of a schedule is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Accept,
    Receive,
    Copy,
    CopyOver,
    Close,
    Shutdown,
    Send,
    /// A program is started with the connection as its input, by `vfork` or `posix_spawn`.
    Spawn,
    Watch,
    Fork,
    /// An `execve` that succeeds, or fails.
    Exec,
    FailedExec,
    Exit,
    Kill,
    /// A close by a bare system call.
    RawClose,
    /// Another program's close.
    ForeignClose,
    /// The fd is made inheritable, or not.
    CloseOnExec,
    /// The peer sends, finishes, or resets; the program asks for a reset; the supervisor refuses the next message.
    Peer,
    /// A process is made by a bare system call.
    RawClone,
    /// Goes on with what a thread is in the middle of.
    Go,
}

pub(crate) const KINDS: [Kind; 20] = [
    Kind::Accept,
    Kind::Receive,
    Kind::Copy,
    Kind::CopyOver,
    Kind::Close,
    Kind::Shutdown,
    Kind::Send,
    Kind::Spawn,
    Kind::Watch,
    Kind::Fork,
    Kind::Exec,
    Kind::FailedExec,
    Kind::Exit,
    Kind::Kill,
    Kind::RawClose,
    Kind::ForeignClose,
    Kind::CloseOnExec,
    Kind::Peer,
    Kind::RawClone,
    Kind::Go,
];

/// How often each is chosen, of all.
const WEIGHTS: [u32; 20] = [24, 10, 12, 6, 22, 6, 5, 2, 6, 14, 2, 3, 3, 2, 2, 4, 4, 8, 0, 24];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    pub(crate) process: u8,
    pub(crate) a: u8,
    pub(crate) b: u8,
    /// Steps of the call before others go on; all but few are whole.
    pub(crate) steps: u8,
}

/// A schedule, with what the whole run is set to.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) mode: Mode,
    pub(crate) hold: bool,
    pub(crate) shares: u8,
    pub(crate) events: Vec<Event>,
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

impl Schedule {
    /// A random one.
    pub(crate) fn random(random: &mut Random, mode: Mode, into: &mut Self) {
        into.mode = mode;
        into.hold = random.below(3) == 0;
        into.shares = [0, 1, 64, 64, 64, 64, 64, 64][random.below(8) as usize];
        let processes = 2 + random.below(PROCESSES as u32 - 1) as u8;
        into.events.clear();
        let raw = if mode == Mode::RawClone { 4 } else { 0 };
        let all: u32 = WEIGHTS.iter().sum::<u32>() + raw;
        for _ in 0..30 + random.below(10) {
            let mut at = random.below(all);
            let kind = KINDS.into_iter().zip(WEIGHTS).find(|(_, weight)| {
                let found = at < *weight;
                at = at.wrapping_sub(*weight);
                found
            });
            let kind = kind.map_or(Kind::RawClone, |(kind, _)| kind);
            let bits = random.next();
            let [process, a, b, steps, ..] = bits.to_le_bytes();
            let steps = if steps < 100 { 1 + steps % 6 } else { u8::MAX };
            into.events.push(Event { kind, process: process % processes, a, b, steps });
        }
    }

    pub(crate) fn empty() -> Self {
        Self { mode: Mode::Seen, hold: false, shares: 0, events: Vec::new() }
    }

    /// Runs it; the first fault.
    pub(crate) fn run(&self, coverage: &mut Coverage) -> Option<Fault> {
        let run = std::panic::AssertUnwindSafe(|| self.run_through(coverage));
        std::panic::catch_unwind(run).unwrap_or(Some(Fault::Panicked))
    }

    fn run_through(&self, coverage: &mut Coverage) -> Option<Fault> {
        let mut world = World::new(self.mode, self.hold, self.shares.into());
        for event in &self.events {
            world.happens(*event, coverage);
            world.check();
            if world.fault.is_some() {
                return world.fault;
            }
        }
        world.finish();
        world.fault
    }

    /// The least part of it that has the same fault, each event as simple as can be.
    pub(crate) fn shrunk(&self, fault: Fault) -> Self {
        let fails = |schedule: &Self| schedule.run(&mut Coverage::default()) == Some(fault);
        let mut least = self.clone();
        loop {
            let mut simpler = Vec::new();
            for size in [8, 4, 2, 1] {
                for at in 0..least.events.len().saturating_sub(size - 1) {
                    let mut without = least.clone();
                    without.events.drain(at..at + size);
                    simpler.push(without);
                }
            }
            if least.hold {
                simpler.push(Self { hold: false, ..least.clone() });
            }
            if least.shares < 64 {
                simpler.push(Self { shares: 64, ..least.clone() });
            }
            for at in 0..least.events.len() {
                let event = least.events[at];
                let plainer = [
                    Event { steps: u8::MAX, ..event },
                    Event { a: 0, ..event },
                    Event { b: 0, ..event },
                    Event { process: 0, ..event },
                ];
                for plain in plainer.into_iter().filter(|plain| *plain != event) {
                    let mut schedule = least.clone();
                    schedule.events[at] = plain;
                    simpler.push(schedule);
                }
            }
            match simpler.into_iter().find(|schedule| fails(schedule)) {
                Some(found) => least = found,
                None => return least,
            }
        }
    }
}

/// How often an event met an entry in a state.
#[derive(Clone, Debug)]
pub(crate) struct Coverage(pub(crate) [[u64; STATES]; KINDS.len()]);

pub(crate) const STATES: usize = 17;

impl Default for Coverage {
    fn default() -> Self {
        Self([[0; STATES]; KINDS.len()])
    }
}

/// The name of a state's number.
pub(crate) fn state_name(state: usize) -> String {
    let Some(state) = state.checked_sub(1) else { return "untracked".into() };
    let mut name = String::from(match state {
        0..8 => "ours",
        8..12 => "handed",
        _ => "given",
    });
    for (bit, flag) in [(1, "+copied"), (2, "+shared"), (4, "+held")] {
        if state & bit != 0 && (bit < 4 || state < 8) {
            name.push_str(flag);
        }
    }
    name
}

impl Coverage {
    fn note(&mut self, kind: Kind, world: &World, process: usize, fd: usize) {
        let state = world.processes[process].table.entry(fd as i32).map_or(0, |entry| {
            let bits = usize::from(entry.fds > 1) | usize::from(entry.shared) << 1;
            1 + match entry.phase {
                Phase::Ours => bits | usize::from(entry.held) << 2,
                Phase::Handed => 8 + bits,
                Phase::Given => 12 + bits,
            }
        });
        self.0[kind as usize][state] += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (row, other) in self.0.iter_mut().zip(&other.0) {
            row.iter_mut().zip(other).for_each(|(count, other)| *count += other);
        }
    }

    /// The cells that no schedule has reached, and any could.
    ///
    /// What concerns the whole process is noted for what is tracked. A fd is got where none is, so what is there then is
    /// what a bare call has closed: that is rare, and counted where `rare` says so.
    pub(crate) fn empty(&self, rare: bool) -> Vec<String> {
        let mut empty = Vec::new();
        for kind in KINDS.into_iter().filter(|kind| !matches!(kind, Kind::Go | Kind::Peer | Kind::RawClone)) {
            let whole = matches!(kind, Kind::Fork | Kind::Exec | Kind::FailedExec | Kind::Exit | Kind::Kill);
            let gets = matches!(kind, Kind::Accept | Kind::Receive) && !rare;
            let states = if gets { 0..1 } else { usize::from(whole)..STATES };
            let none = states.filter(|state| self.0[kind as usize][*state] == 0);
            empty.extend(none.map(|state| format!("{kind:?} of {}", state_name(state))));
        }
        empty
    }

    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let shown = KINDS.into_iter().filter(|kind| self.0[*kind as usize].iter().any(|count| *count > 0));
        let shown: Vec<Kind> = shown.collect();
        write!(text, "{:28}", "").unwrap();
        shown.iter().for_each(|kind| write!(text, "{:>13}", format!("{kind:?}")).unwrap());
        for state in 0..STATES {
            write!(text, "\n{:28}", state_name(state)).unwrap();
            shown.iter().for_each(|kind| write!(text, "{:>13}", self.0[*kind as usize][state]).unwrap());
        }
        text
    }
}

impl World {
    /// Does what an event says, where it can.
    pub(crate) fn happens(&mut self, event: Event, coverage: &mut Coverage) {
        let process = usize::from(event.process) % PROCESSES;
        if !self.processes[process].alive {
            return;
        }
        let thread = usize::from(event.b) % THREADS;
        if event.kind == Kind::Go {
            return self.go(process, thread, event.steps);
        }
        if self.processes[process].foreign {
            if event.kind == Kind::ForeignClose {
                let fd = usize::from(event.a) % FDS;
                self.processes[process].files[fd] = File::Closed;
            }
            return;
        }
        if self.processes[process].threads[thread].is_some() {
            return;
        }
        if let Some(op) = self.begin(process, event, coverage) {
            self.processes[process].threads[thread] = Some(op);
            // Hooks cannot make a failing exec one with what other processes do: see `Mode::FailedExec`.
            let whole = matches!(op, Op::Exec { fails: true, .. }) && self.mode != Mode::FailedExec;
            self.go(process, thread, if whole { u8::MAX } else { event.steps });
        }
    }

    fn go(&mut self, process: usize, thread: usize, steps: u8) {
        for _ in 0..steps {
            let Some(op) = self.processes[process].threads[thread] else { return };
            let next = self.step(process, op);
            // The process may have ended.
            if self.processes[process].threads[thread].is_some() {
                self.processes[process].threads[thread] = next;
            }
            if self.fault.is_some() || next.is_some_and(|op| op.waits()) {
                return;
            }
        }
    }

    /// Ends all calls, then all processes.
    pub(crate) fn finish(&mut self) {
        // A thread may wait for another of its process.
        for thread in (0..THREADS).cycle().take(4 * THREADS) {
            (0..PROCESSES).for_each(|process| self.go(process, thread, u8::MAX));
        }
        for connection in std::mem::take(&mut self.in_flight) {
            self.connections[usize::from(connection)].excused = true;
        }
        for process in 0..PROCESSES {
            if self.processes[process].alive && !self.processes[process].foreign && self.fault.is_none() {
                self.check();
                self.processes[process].leaving = true;
                self.processes[process].threads[0] = Some(Op::Exit { fd: 0, tries: 0 });
                self.go(process, 0, u8::MAX);
            }
        }
        if self.fault.is_none() {
            self.check_end();
        }
    }

    /// An fd of a connection that no call concerns, chosen by a number.
    fn choose(&self, process: usize, number: u8) -> Option<usize> {
        let process = &self.processes[process];
        let usable = |fd: &usize| {
            process.fd(*fd).is_some_and(|known| known.known && !known.closing) && !process.is_busy(*fd)
        };
        let all = (0..FDS).filter(usable).count();
        (0..FDS).filter(usable).nth(usize::from(number).checked_rem(all)?)
    }

    fn begin(&mut self, process: usize, event: Event, coverage: &mut Coverage) -> Option<Op> {
        let Event { kind, a, b, .. } = event;
        let leaving = self.processes[process].leaving;
        match kind {
            Kind::Accept => {
                let fd = self.processes[process].free_fd().filter(|_| self.accepted < CONNECTIONS)?;
                let connection = self.accepted as u8;
                self.accepted += 1;
                // What is accepted beside an `execve`, no next program knows of.
                let file = Fd { cloexec: a & 3 != 0 || leaving, ..Fd::new(connection) };
                self.processes[process].files[fd] = File::Connection(file);
                self.connections[usize::from(connection)].socket.unread = u32::from(b & 1);
                coverage.note(kind, self, process, fd);
                Some(Op::Get {
                    fd: fd as u8,
                    connection,
                    held: (!self.hold).then_some(false),
                    received: false,
                })
            }
            Kind::Receive => {
                let fd = self.processes[process].free_fd().filter(|_| !self.in_flight.is_empty())?;
                let connection = self.in_flight.swap_remove(usize::from(a) % self.in_flight.len());
                self.processes[process].files[fd] = File::Connection(Fd::new(connection));
                coverage.note(kind, self, process, fd);
                Some(Op::Get {
                    fd: fd as u8,
                    connection,
                    held: (!self.hold).then_some(false),
                    received: true,
                })
            }
            Kind::Peer => {
                let accepted = self.accepted;
                let known = &mut self.connections[usize::from(a).checked_rem(accepted)?].socket;
                match b % 6 {
                    0 | 1 if !known.peer_finished => known.unread += 1,
                    2 => known.peer_finished = true,
                    3 => known.over = true,
                    4 => known.aborts = true,
                    5 => self.refuses = true,
                    _ => known.unread = 0,
                }
                None
            }
            Kind::Fork => {
                // A child made while another thread exits has what was announced already.
                let exits = |op: &Op| matches!(op, Op::Exit { .. });
                if self.processes[process].threads.iter().flatten().any(exits) {
                    return None;
                }
                let child = self.processes.iter().position(|process| !process.alive)?;
                let reserved = |op: &Op| matches!(op, Op::Fork { .. });
                // One at a time for a place: forks of one process still overlap with all other calls.
                if self.processes.iter().flat_map(|process| process.threads.iter().flatten()).any(reserved) {
                    return None;
                }
                (0..FDS).for_each(|fd| self.note_tracked(coverage, kind, process, fd));
                Some(Op::Fork { begun: 0, fd: 0, child: child as u8 })
            }
            Kind::Exit | Kind::Exec if leaving => None,
            Kind::Exit => {
                (0..FDS).for_each(|fd| self.note_tracked(coverage, kind, process, fd));
                self.processes[process].leaving = true;
                self.closing_all(process, true);
                Some(Op::Exit { fd: 0, tries: 0 })
            }
            Kind::Exec | Kind::FailedExec => {
                let fails = kind == Kind::FailedExec;
                // One that fails beside other calls of the process is one of `Mode::FailedExec`.
                let alone = self.processes[process].threads.iter().all(Option::is_none);
                if fails && (!alone && self.mode != Mode::FailedExec || leaving) {
                    return None;
                }
                (0..FDS).for_each(|fd| self.note_tracked(coverage, kind, process, fd));
                if !fails {
                    self.processes[process].leaving = true;
                    self.closing_all(process, false);
                }
                Some(Op::Exec { begun: 0, fd: 0, fails, second: false })
            }
            Kind::Kill => {
                (0..FDS).for_each(|fd| self.note_tracked(coverage, kind, process, fd));
                let passing = |op: &Op| matches!(op, Op::Give { .. } | Op::Fork { .. });
                // See `Mode::KilledHolder`; the same goes for one killed between the passing and what is said of it.
                let passes = self.processes[process].threads.iter().flatten().any(passing);
                if self.mode == Mode::KilledHolder || !passes && !self.holds_for_others(process) {
                    self.kill(process);
                }
                None
            }
            _ => self.begin_with_fd(process, event, coverage),
        }
    }

    fn note_tracked(&self, coverage: &mut Coverage, kind: Kind, process: usize, fd: usize) {
        if self.processes[process].table.is_tracked(fd as i32) {
            coverage.note(kind, self, process, fd);
        }
    }

    /// The program gives up what the coming exit or `execve` closes.
    fn closing_all(&mut self, process: usize, all: bool) {
        for fd in 0..FDS {
            if self.processes[process].is_busy(fd) {
                // What a thread does while another ends the process may come too late to be seen.
                self.excuse(process, fd);
            }
            if let Some(fd) = self.processes[process].fd_mut(fd) {
                // What a call has not returned yet, no next program knows of.
                fd.cloexec |= !fd.known;
                fd.closing |= all || fd.cloexec;
            }
        }
    }

    fn begin_with_fd(&mut self, process: usize, event: Event, coverage: &mut Coverage) -> Option<Op> {
        let Event { kind, a, b, .. } = event;
        let fd = self.choose(process, a)?;
        let Fd { connection, given, .. } = *self.processes[process].fd(fd)?;
        coverage.note(kind, self, process, fd);
        if self.processes[process].leaving {
            // As in `closing_all`.
            self.excuse(process, fd);
        }
        match kind {
            Kind::Close => {
                self.processes[process].fd_mut(fd)?.closing = true;
                Some(Op::Close { fd: fd as u8, at: At::Cookie, then: None })
            }
            Kind::Copy => {
                let new = self.processes[process].free_fd()?;
                self.processes[process].files[new] = File::Connection(Fd { given, ..Fd::new(connection) });
                Some(Op::Copy { old: fd as u8, new: new as u8 })
            }
            Kind::CopyOver => {
                let new = self.choose(process, b).filter(|new| *new != fd)?;
                if self.processes[process].leaving {
                    self.excuse(process, new);
                }
                self.processes[process].fd_mut(new)?.closing = true;
                Some(Op::Close { fd: new as u8, at: At::Cookie, then: Some(fd as u8) })
            }
            Kind::Shutdown => Some(Op::Shutdown { fd: fd as u8, asked: false, half_closed: false }),
            Kind::Send => {
                let alone = self.processes[process].threads.iter().flatten().count() == 0;
                let elsewhere = |other: usize| other != process && self.processes[other].holds(connection);
                let shared = (0..PROCESSES).any(elsewhere) && self.mode != Mode::PassedAndShared;
                // Nobody passes on what it has shut down; the receiver would hand it over again.
                let shut = self.connections[usize::from(connection)].shut;
                if given || shared || shut || !alone {
                    return None;
                }
                self.in_flight.push(connection);
                self.give(process, connection);
                Some(Op::Give { fd: fd as u8 })
            }
            Kind::Spawn | Kind::RawClone => {
                let child = self.processes.iter().position(|process| !process.alive)?;
                let alone = self.processes[process].threads.iter().flatten().count() == 0;
                let forking = self.processes.iter().flat_map(|process| process.threads.iter().flatten());
                if given || !alone || forking.into_iter().any(|op| matches!(op, Op::Fork { .. })) {
                    return None;
                }
                if kind == Kind::Spawn {
                    self.give(process, connection);
                    let unhold = self.processes[process].table.given_away(fd as i32);
                    unhold.into_iter().for_each(|unhold| self.release(process, unhold.cookie));
                }
                let made = &mut self.processes[child];
                (made.alive, made.foreign, made.waiting) = (true, true, 0);
                made.files = [File::Closed; FDS];
                made.threads = [None; THREADS];
                made.files[0] = File::Connection(Fd { known: true, ..Fd::new(connection) });
                self.connections[usize::from(connection)].excused = true;
                None
            }
            Kind::Watch => {
                let epoll = b % 2;
                let made = self.processes[process].epolls & 1 << epoll != 0;
                self.processes[process].epolls |= 1 << epoll;
                self.processes[process].fd_mut(fd)?.watched |= 1 << epoll;
                let table = &self.processes[process].table;
                if !made {
                    table.made_epoll(20 + i32::from(epoll));
                }
                table.watched(fd as i32, 20 + i32::from(epoll));
                None
            }
            Kind::CloseOnExec if self.processes[process].leaving => None,
            Kind::CloseOnExec => {
                let fd = self.processes[process].fd_mut(fd)?;
                fd.cloexec = !fd.cloexec;
                None
            }
            Kind::RawClose => {
                self.excuse(process, fd);
                self.processes[process].stale |= 1 << fd;
                self.processes[process].files[fd] = if b & 1 == 0 { File::Closed } else { File::Other };
                None
            }
            _ => None,
        }
    }

    /// All fds that the process has of it are only closed from here on.
    fn give(&mut self, process: usize, connection: u8) {
        for fd in 0..FDS {
            if let Some(known) = self.processes[process].fd_mut(fd)
                && known.connection == connection
            {
                known.given = true;
            }
        }
    }
}
