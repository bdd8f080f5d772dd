//! The simulated kernel: processes, their fds, connections, messages in flight, epolls, and the supervisor's side of the
//! messages. It knows what the program still has, which custody can only infer.

use linger_custody::process::{Last, Table};
use linger_custody::{Count, Origin, Socket};

use super::ops::Op;

pub(crate) const FDS: usize = 8;
/// The last fd is beyond the table's end.
const TRACKED: usize = FDS - 1;
pub(crate) const PROCESSES: usize = 6;
pub(crate) const THREADS: usize = 2;
pub(crate) const CONNECTIONS: usize = 24;

/// Where all connections come from.
pub(crate) const ORIGIN: Origin = Origin::new(1, 1);

/// The cookie of whatever is no connection.
const OTHER: u64 = u64::MAX;

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A connection was half-closed that the program still has.
    HalfClosed,
    /// A last close ended a connection twice.
    EndedTwice,
    /// A last close ended a connection not at all.
    NotEnded,
    /// The supervisor was told to end what it does not hold.
    Missing,
    /// The supervisor holds what the process has let go of.
    Leaked,
    /// An epoll goes on to report a connection that was handed over.
    Reported,
    /// A close loses what the peer sends, or keeps the program from losing what it wants to lose.
    Fate,
    /// A call waits for ever.
    Stuck,
    /// An assertion has failed.
    Panicked,
    /// The counts do not add up.
    Counts,
}

/// What no look at the fds of processes shows: a connection that is in flight. Each is a fault that the simulation must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// None of these.
    Seen,
    /// A connection passed in a message that another process holds, too.
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
    /// The epolls that watch it, of which the library has not seen the second being made.
    pub(crate) watched: u8,
    /// Both have: all that are known are gone through then.
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
    /// Closes that lose nothing, for which the peer or the program had given a reason.
    pub(crate) told: i32,
    /// It has had an fd beyond the table's end.
    pub(crate) beyond: bool,
    /// Nobody need end it: its holder was killed, or it went to where no hook is.
    pub(crate) excused: bool,
}

pub(crate) struct Process {
    pub(crate) alive: bool,
    /// A program without the library.
    pub(crate) foreign: bool,
    pub(crate) table: Table<TRACKED>,
    pub(crate) files: [File; FDS],
    pub(crate) threads: [Option<Op>; THREADS],
    /// What the supervisor holds for this process, by connection.
    pub(crate) waiting: u32,
    /// What of it the process has said that no other has.
    pub(crate) announced: u32,
    pub(crate) epolls: u8,
    /// What the table was last told that an fd is: another connection than it is after a bare close.
    pub(crate) told: [Option<u8>; FDS],
    /// An exit or a successful exec is under way.
    pub(crate) leaving: bool,
}

impl Process {
    fn new() -> Self {
        Self {
            alive: false,
            foreign: false,
            table: Table::new(),
            files: [File::Closed; FDS],
            threads: [None; THREADS],
            waiting: 0,
            announced: 0,
            epolls: 0,
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
    /// What was let go of while another fd of it was being closed: whether it had unread bytes, and whether it was a close.
    pub(crate) nominated: Vec<(u8, bool, bool)>,
    /// Connections that the supervisor was to hold and does not.
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
            refused: 0,
            refuses: false,
            fault: None,
        };
        world.processes[0].alive = true;
        world.processes[0].table.belongs_to(0);
        world
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

    /// Whether any process has it for its own use, or will get it.
    pub(crate) fn is_had(&self, connection: u8) -> bool {
        self.processes.iter().any(|process| process.has(connection)) || self.in_flight.contains(&connection)
    }

    /// The supervisor has looked at all processes, after the fd that was let go of was closed: ends the connection if nobody
    /// has it. Who has it may be a program that knows nothing of it.
    pub(crate) fn judge(&mut self, connection: u8, unread: bool, closed: bool) {
        let known = self.connections[usize::from(connection)];
        let has = |process: &Process| {
            process.alive && process.fds().any(|fd| fd.connection == connection && !fd.closing)
        };
        if known.supervised || self.processes.iter().any(|process| has(process) || process.waits(connection))
        {
            // Who has passed it on does not say when it has closed its own.
            let given = |process: &Process| process.fds().any(|fd| fd.connection == connection && fd.given);
            self.connections[usize::from(connection)].excused |= self.processes.iter().any(given);
            if closed {
                self.count(Count::Seen, 1);
                self.count(Count::Shared, 1);
            }
            return;
        }
        if self.processes.iter().any(|process| process.holds(connection)) {
            // It is being closed: the supervisor looks again.
            self.nominated.push((connection, unread, closed));
            return;
        }
        self.count(Count::Unread, i64::from(unread));
        self.connections[usize::from(connection)].supervised = true;
        self.seen(connection.into(), Count::Handed);
        if self.is_had(connection) && !known.shut {
            self.fail(Fault::HalfClosed);
        }
    }

    pub(crate) fn seen(&mut self, connection: u64, reason: Count) {
        self.count(Count::Seen, 1);
        self.count(reason, 1);
        self.ended(connection, reason, 1);
    }

    pub(crate) fn unseen(&mut self, connection: u64, reason: Count) {
        self.count(Count::Seen, -1);
        self.count(reason, -1);
        self.ended(connection, reason, -1);
    }

    pub(crate) fn count(&mut self, count: Count, number: i64) {
        self.counts[count as usize] += number;
    }

    /// A close that loses nothing is told by each process for itself.
    fn ended(&mut self, connection: u64, reason: Count, number: i32) {
        let known = self.connection(connection);
        if reason != Count::Handed {
            known.told += number;
            return;
        }
        known.ends += number;
        if known.ends > 1 {
            self.fail(Fault::EndedTwice);
        }
    }

    /// `Kind::Last`: the supervisor ends it when the process ends.
    pub(crate) fn send_last(&mut self, process: usize, fd: usize, last: &Last) -> bool {
        if last.held && self.processes[process].waiting & 1 << last.cookie == 0 {
            self.is_missing(last.cookie);
        }
        let sent = self.send_waiting(process, fd);
        self.processes[process].announced |= u32::from(sent) << last.cookie;
        sent || last.held
    }

    /// `Kind::Hold`: the supervisor ends it when the process ends, unless another holds it.
    pub(crate) fn send_waiting(&mut self, process: usize, fd: usize) -> bool {
        let Some(connection) = self.processes[process].fd(fd).map(|fd| fd.connection) else { return false };
        if std::mem::take(&mut self.refuses) {
            self.refused |= 1 << connection;
            return false;
        }
        self.processes[process].waiting |= 1 << connection;
        self.processes[process].announced &= !(1 << connection);
        true
    }

    /// `Kind::Release`, for what the supervisor holds for the process.
    pub(crate) fn release(&mut self, process: usize, cookie: u64) {
        if self.processes[process].waiting & 1 << cookie == 0 {
            self.fail(Fault::Missing);
        }
        self.processes[process].waiting &= !(1 << cookie);
        self.processes[process].announced &= !(1 << cookie);
    }

    /// `Kind::Close` or `Kind::Shutdown`, with an fd unless it is held.
    pub(crate) fn send_now(&mut self, process: usize, cookie: u64, held: bool) -> bool {
        if std::mem::take(&mut self.refuses) {
            // What it holds it ends with the process.
            self.connection(cookie).excused |= held;
            return false;
        }
        let waited = self.processes[process].waiting & 1 << cookie != 0;
        if held && !waited {
            self.is_missing(cookie);
        }
        self.processes[process].waiting &= !(1 << cookie);
        self.processes[process].announced &= !(1 << cookie);
        true
    }

    /// The supervisor does not hold it, unless it ends it already.
    pub(crate) fn is_missing(&mut self, cookie: u64) {
        if !self.connection(cookie).supervised {
            self.fail(Fault::Missing);
        }
    }

    /// The process is no more, or another program: what the supervisor has of it is judged.
    pub(crate) fn hang_up(&mut self, process: usize) {
        let waiting = std::mem::take(&mut self.processes[process].waiting);
        self.processes[process].announced = 0;
        for connection in (0..CONNECTIONS as u8).filter(|connection| waiting & 1 << connection != 0) {
            let unread = self.connections[usize::from(connection)].socket.unread > 0;
            self.judge(connection, unread, false);
        }
    }

    /// Calls that end with the process, half done: what they were about to end is ended by nobody.
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
        self.processes[process].files = [File::Closed; FDS];
        self.hang_up(process);
    }

    /// The signal that no hook sees. What the supervisor holds, it ends.
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

    /// Whatever holds between two calls.
    pub(crate) fn check(&mut self) {
        for (connection, unread, closed) in std::mem::take(&mut self.nominated) {
            self.judge(connection, unread, closed);
        }
        let leaked = self.processes.iter().any(|process| {
            let idle = process.threads.iter().all(Option::is_none) && process.alive && !process.leaving;
            let held = |connection: &u8| process.waiting & 1 << connection != 0;
            let excused = |connection: u8| self.connections[usize::from(connection)].excused;
            idle && process.waiting != 0
                && (0..CONNECTIONS as u8)
                    .filter(held)
                    .any(|connection| !process.holds(connection) && !excused(connection))
        });
        if leaked {
            self.fail(Fault::Leaked);
        }
    }

    /// Whatever holds when all processes have ended.
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
