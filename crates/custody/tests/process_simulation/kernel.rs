//! The simulated kernel: processes, their fds, connections, messages in flight, epolls, and the supervisor's side of the
//! messages. It knows what the program still has, which custody can only infer.

use linger_custody::process::Table;
use linger_custody::proof::Relations;
use linger_custody::world::Pid;
use linger_custody::{Count, Origin, Socket};

use super::ops::Op;
use super::supervisor::Nominee;

pub(crate) const FDS: usize = 8;
/// The last fd is beyond the table's end.
const TRACKED: usize = FDS - 1;
pub(crate) const PROCESSES: usize = 6;
pub(crate) const THREADS: usize = 2;
pub(crate) const CONNECTIONS: usize = 24;

/// The pid of a simulated process: among the largest possible. One is larger than any of Linux (`PID_MAX_LIMIT`), and
/// than an origin can store.
pub(crate) const fn pid(process: usize) -> i32 {
    if process == 2 { 1 << 22 } else { (1 << 22) - 1 - process as i32 }
}

/// Whether an origin can store the pid of a process.
pub(crate) const fn has_name(process: usize) -> bool {
    pid(process) < 1 << 22
}

/// Where the simulated clock starts: 100 ms before the 42 bits overflow that an origin has for the time, which is 139 years
/// after boot. So the tests use the largest times that can be stored.
const START_MS: u64 = (1 << 42) - 100;

/// The cookie of every file that is no connection.
const OTHER: u64 = u64::MAX;

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A connection was half-closed although the program still has it.
    HalfClosed,
    /// A last close ended a connection twice.
    EndedTwice,
    /// A last close did not end a connection.
    NotEnded,
    /// The supervisor was told to end a connection that it does not hold.
    Missing,
    /// The supervisor still holds a connection that the process has closed.
    Leaked,
    /// An epoll still reports a connection that was handed over.
    Reported,
    /// A close loses bytes that the peer sends, or prevents a reset that the program wants.
    Fate,
    /// A call waits for ever.
    Stuck,
    /// An assertion has failed.
    Panicked,
    /// The counts do not add up.
    Counts,
    /// The proof looks at a process that cannot have the connection, or misses an fd that the process has.
    Proof,
}

/// Connections in flight, which no look at the fds of processes shows. Each of these modes leads to a fault that the
/// simulation must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// No such connections.
    Seen,
    /// A connection is passed in a message while another process holds it, too.
    PassedAndShared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum File {
    Closed,
    Other,
    Connection(Fd),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fd {
    pub(crate) connection: u8,
    pub(crate) cloexec: bool,
    /// The call that made it has returned.
    pub(crate) known: bool,
    /// Its close has begun.
    pub(crate) closing: bool,
    /// The program has passed it on, and only closes it.
    pub(crate) given: bool,
    /// The epolls that watch it. The library has not seen how the second one was made.
    pub(crate) watched: u8,
    /// Both epolls have watched it. Then all known epolls are searched.
    pub(crate) watched_by_both: bool,
}

impl Fd {
    pub(crate) fn new(connection: u8) -> Self {
        Self {
            connection,
            cloexec: true,
            known: false,
            closing: false,
            given: false,
            watched: 0,
            watched_by_both: false,
        }
    }

    fn is_had(&self) -> bool {
        self.known && !self.closing && !self.given
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Connection {
    pub(crate) socket: Socket,
    /// The program itself has shut it down.
    pub(crate) shut: bool,
    /// How often the supervisor has begun to end it.
    pub(crate) ends: i32,
    /// The supervisor ends it.
    pub(crate) supervised: bool,
    /// Closes that lose nothing: the peer or the program had given a reason for that.
    pub(crate) told: i32,
    /// It has had an fd beyond the table's end.
    pub(crate) beyond: bool,
    /// Which process has accepted it, and when.
    pub(crate) acceptor: u8,
    pub(crate) accepted_ms: u64,
    /// A process that may have it does not let its fds be looked at.
    pub(crate) unproved: bool,
    /// It has been in a message.
    pub(crate) sent: bool,
    /// It was in a message, or was connected by the program, so that its origin may be unknown.
    pub(crate) passed: bool,
    /// Nobody has to end it: its holder was killed, or it is in a program without the library.
    pub(crate) excused: bool,
}

pub(crate) struct Process {
    pub(crate) alive: bool,
    /// A program without the library.
    pub(crate) foreign: bool,
    /// It does not let its fds be looked at.
    pub(crate) hidden: bool,
    pub(crate) made_ms: u64,
    pub(crate) table: Table<TRACKED>,
    pub(crate) files: [File; FDS],
    pub(crate) threads: [Option<Op>; THREADS],
    /// The connections that the supervisor holds for this process.
    pub(crate) waiting: u32,
    /// The origins that the process has reported for them.
    pub(crate) origins: [Origin; CONNECTIONS],
    /// The connections that the supervisor still holds because a message was lost.
    pub(crate) kept: u32,
    /// The connections that the process has handed over at a `shutdown`.
    pub(crate) handed: u32,
    /// The connections that it, or its parent before it was made, has received in a message.
    pub(crate) received: u32,
    /// The connections that it has counted as closed without a loss.
    pub(crate) counted: u32,
    pub(crate) epolls: u8,
    /// Connections that an epoll has under an fd that is closed, while the process has another.
    pub(crate) stray: u32,
    /// Connections that an epoll has in a way that the table cannot know of or mend.
    pub(crate) unseen: u32,
    /// The connection that the table was last told of for each fd. After a bare close the fd is another.
    pub(crate) told: [Option<u8>; FDS],
    /// An exit or a successful exec is under way.
    pub(crate) leaving: bool,
}

impl Process {
    fn new() -> Self {
        Self {
            alive: false,
            foreign: false,
            hidden: false,
            made_ms: 0,
            table: Table::new(),
            files: [File::Closed; FDS],
            threads: [None; THREADS],
            waiting: 0,
            origins: [Origin::UNKNOWN; CONNECTIONS],
            kept: 0,
            handed: 0,
            received: 0,
            counted: 0,
            epolls: 0,
            stray: 0,
            unseen: 0,
            told: [None; FDS],
            leaving: false,
        }
    }

    pub(crate) fn fd(&self, fd: usize) -> Option<&Fd> {
        if let File::Connection(known) = &self.files[fd] { Some(known) } else { None }
    }

    pub(crate) fn fd_mut(&mut self, fd: usize) -> Option<&mut Fd> {
        if let File::Connection(known) = &mut self.files[fd] { Some(known) } else { None }
    }

    /// Whether the table has a connection, for an fd that is it or was.
    fn tracks(&self, connection: u8) -> bool {
        (0..FDS).any(|fd| self.told[fd] == Some(connection) && self.table.is_tracked(fd as i32))
    }

    /// Whether the table has another connection for an fd, which was closed by a bare call.
    pub(crate) fn is_stale(&self, fd: usize) -> bool {
        self.fd(fd).map(|fd| fd.connection) != self.told[fd]
    }

    pub(crate) fn free_fd(&self) -> Option<usize> {
        self.files.iter().position(|file| *file == File::Closed)
    }

    pub(crate) fn holds(&self, connection: u8) -> bool {
        self.alive && self.fds().any(|fd| fd.connection == connection)
    }

    /// Whether the supervisor has it for this process.
    pub(crate) fn waits(&self, connection: u8) -> bool {
        self.alive && self.waiting & 1 << connection != 0
    }

    pub(crate) fn has(&self, connection: u8) -> bool {
        self.alive && self.fds().any(|fd| fd.connection == connection && fd.is_had())
    }

    pub(crate) fn fds(&self) -> impl Iterator<Item = &Fd> {
        self.files.iter().filter_map(|file| if let File::Connection(fd) = file { Some(fd) } else { None })
    }

    /// Whether a call under way concerns an fd.
    pub(crate) fn is_busy(&self, fd: usize) -> bool {
        self.threads.iter().flatten().any(|op| op.concerns(fd))
    }
}

pub(crate) struct World {
    pub(crate) mode: Mode,
    pub(crate) hold: bool,
    pub(crate) processes: [Process; PROCESSES],
    pub(crate) connections: [Connection; CONNECTIONS],
    pub(crate) accepted: usize,
    pub(crate) in_flight: Vec<u8>,
    pub(crate) counts: [i64; Count::ALL],
    /// Connections that were nominated while another fd of them was being closed.
    pub(crate) nominated: Vec<Nominee>,
    /// The number of half events so far; two fall into one millisecond.
    pub(crate) events: u64,
    /// The processes as the supervisor knows them.
    pub(crate) family: Relations,
    /// Connections that the supervisor was to hold and did not take.
    pub(crate) refused: u32,
    /// The next message is lost.
    pub(crate) refuses: bool,
    pub(crate) fault: Option<Fault>,
}

impl World {
    pub(crate) fn new(mode: Mode, hold: bool) -> Self {
        let mut world = Self {
            mode,
            hold,
            processes: std::array::from_fn(|_| Process::new()),
            connections: [Connection::default(); CONNECTIONS],
            accepted: 0,
            in_flight: Vec::new(),
            counts: [0; Count::ALL],
            nominated: Vec::new(),
            events: 0,
            family: Relations::default(),
            refused: 0,
            refuses: false,
            fault: None,
        };
        world.processes[0].alive = true;
        world.processes[0].table.belongs_to(pid(0));
        world.born(0);
        world
    }

    pub(crate) fn now_ms(&self) -> u64 {
        START_MS + self.events / 2
    }

    /// Notes that a process has been made.
    pub(crate) fn born(&mut self, process: usize) {
        self.processes[process].made_ms = self.now_ms();
        // The supervisor may see a process a moment before it learns when the process was made.
        self.family.insert(Pid(pid(process) as u32), u64::MAX);
        self.family.insert(Pid(pid(process) as u32), self.now_ms());
    }

    pub(crate) fn fail(&mut self, fault: Fault) {
        self.fault = self.fault.or(Some(fault));
    }

    /// `SO_COOKIE`.
    pub(crate) fn cookie(&self, process: usize, fd: usize) -> Option<u64> {
        match self.processes[process].files[fd] {
            File::Closed => None,
            File::Other => Some(OTHER),
            File::Connection(fd) => Some(u64::from(fd.connection)),
        }
    }

    pub(crate) fn connection(&mut self, of: u64) -> &mut Connection {
        &mut self.connections[of as usize]
    }

    /// Whether any process uses it, or will get it from a message.
    pub(crate) fn is_had(&self, connection: u8) -> bool {
        self.processes.iter().any(|process| process.has(connection)) || self.in_flight.contains(&connection)
    }

    /// Drops calls that end half-way with the process. Nobody ends the connections that they were about to end.
    pub(crate) fn abandon(&mut self, process: usize) {
        for thread in 0..THREADS {
            if let Some(op) = self.processes[process].threads[thread].take() {
                (0..FDS).filter(|fd| op.concerns(*fd)).for_each(|fd| self.excuse(process, fd));
                if let Some(connection) = op.connection() {
                    self.connections[usize::from(connection)].excused = true;
                }
            }
        }
    }

    pub(crate) fn excuse(&mut self, process: usize, fd: usize) {
        if let Some(fd) = self.processes[process].fd(fd).copied() {
            self.connections[usize::from(fd.connection)].excused = true;
        }
    }

    /// The process ends; its fds are closed.
    pub(crate) fn end(&mut self, process: usize) {
        self.abandon(process);
        self.processes[process].alive = false;
        self.family.remove(Pid(pid(process) as u32));
        self.processes[process].files = [File::Closed; FDS];
        self.hang_up(process);
    }

    /// Kills the process, which no hook sees. The supervisor ends the connections that it holds.
    pub(crate) fn kill(&mut self, process: usize) {
        let idle = self.hold && self.processes[process].threads.iter().all(Option::is_none);
        let own = (0..CONNECTIONS as u8).filter(|connection| {
            let known = &self.connections[usize::from(*connection)];
            let elsewhere = |other: usize| other != process && self.processes[other].holds(*connection);
            idle && self.processes[process].has(*connection)
                && !known.excused
                && !known.beyond
                && !known.socket.aborts
                && !known.socket.peer_finished
                && !known.socket.over
                && !(0..PROCESSES).any(elsewhere)
                && self.refused & 1 << connection == 0
        });
        let own: Vec<u8> = own.collect();
        (0..FDS).for_each(|fd| self.excuse(process, fd));
        self.end(process);
        for connection in own {
            self.is_missing(connection.into());
        }
    }

    /// Checks what must hold between any two calls.
    pub(crate) fn check(&mut self) {
        for nominee in std::mem::take(&mut self.nominated) {
            self.judge(nominee);
        }
        let leaked = self.processes.iter().any(|process| {
            let idle = process.threads.iter().all(Option::is_none) && process.alive && !process.leaving;
            let held = process.waiting & !process.kept;
            idle && held != 0
                && (0..CONNECTIONS as u8)
                    .any(|connection| held & 1 << connection != 0 && !process.tracks(connection))
        });
        if leaked {
            self.fail(Fault::Leaked);
        }
    }

    /// Checks what must hold when all processes have ended.
    pub(crate) fn check_end(&mut self) {
        self.check();
        for connection in 0..self.accepted {
            let Connection { ends, told, excused, beyond, .. } = self.connections[connection];
            if !excused && !beyond && ends < 1 && told < 1 {
                self.fail(Fault::NotEnded);
            }
        }
        let of = |count: Count| self.counts[count as usize];
        let reasons = Count::EACH.into_iter().filter(|count| !matches!(count, Count::Seen | Count::Unread));
        let wrong =
            reasons.map(of).sum::<i64>() != of(Count::Seen) || self.counts.iter().any(|count| *count < 0);
        let taken = |known: &&Connection| known.supervised || known.excused || known.beyond;
        let handed = self.connections.iter().filter(taken).count() as i64;
        if wrong || handed < of(Count::Handed) {
            self.fail(Fault::Counts);
        }
    }
}
