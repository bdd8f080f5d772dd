//! A small kernel: processes, fds, connections, messages in flight, epolls.
//!
//! It knows the truth. What the supervisor may know of it is in `driver`.

mod calls;
mod control;

use std::collections::{BTreeSet, VecDeque};

use linger_custody::Socket;

pub(crate) use control::control;

/// An open file, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum File {
    Connection(usize),
    Epoll(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fd {
    pub(crate) file: File,
    pub(crate) closes_on_exec: bool,
    /// The serial number of the file at this fd: an fd that is closed and opened again has another one.
    pub(crate) serial: u32,
}

/// A call that the supervisor is notified of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Close(i32),
    CloseRange(i32, i32),
    Dup(i32),
    Dup2(i32, i32),
    Shutdown(i32),
    Fork,
    Vfork,
    Exec {
        fails: bool,
    },
    Exit,
    /// Control data, and the receiving process; `None` stands for another program.
    Send(Vec<u8>, Option<usize>),
    Accept,
    EpollCreate,
}

impl Call {
    /// Whether it may give somebody another fd of a connection.
    pub(crate) fn gives(&self) -> bool {
        matches!(self, Self::Dup(_) | Self::Dup2(..) | Self::Fork | Self::Vfork | Self::Send(..))
    }

    /// Whether it may close this fd.
    pub(crate) fn closes(&self, fd: i32) -> bool {
        match self {
            Self::Close(closed) | Self::Dup2(_, closed) => *closed == fd,
            Self::CloseRange(first, last) => (first..=last).contains(&&fd),
            Self::Exec { .. } | Self::Exit => true,
            _ => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Thread {
    Idle,
    /// The thread waits for the supervisor's answer.
    Notified(Call),
    /// The call was continued, and has not been made yet.
    Continued(Call),
    /// `recvmsg` has taken these out of the queue and not yet installed them.
    Receiving(Vec<File>),
    /// `fork` has copied the fds, and the child is not visible yet (`copy_process`). The flag is for `vfork`.
    Forking(Vec<Option<Fd>>, bool),
    /// Waits for its child of `vfork`.
    WaitsFor(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) alive: bool,
    pub(crate) hidden: bool,
    /// Was hidden at some time.
    pub(crate) hidden_once: bool,
    /// Has one thread.
    pub(crate) single: bool,
    pub(crate) threads: [Thread; 2],
    /// How many calls each thread has made. A notification belongs to one of them.
    pub(crate) calls: [u32; 2],
    pub(crate) fds: Vec<Option<Fd>>,
    /// Messages that wait to be received.
    pub(crate) inbox: VecDeque<Vec<File>>,
    /// What the supervisor was told of the continued calls of the threads.
    pub(crate) told: [Vec<Told>; 2],
    /// Whether the guard has continued the call of each thread, so that the supervisor was not notified.
    unheard: [bool; 2],
}

/// How a connection ended, as far as it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Some process, or message, has it.
    Open,
    /// Its last fd in the program is gone, by a call that the supervisor was notified of.
    Closed,
    /// Its last fd is gone, and nobody could see that: it was killed, or closed in a hidden process or in another
    /// program.
    Unseen,
}

#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) socket: Socket,
    pub(crate) end: End,
    /// No process has an fd of it, and a message may have it. The flag says whether the supervisor was notified of the
    /// last close.
    pub(crate) fds_gone: Option<bool>,
    /// The closer has it.
    pub(crate) handed: u32,
    /// The peer has acknowledged all that was sent, and the FIN, since it was handed over.
    pub(crate) acknowledged: bool,
    /// It was handed over by a `shutdown`, so that the program may still have it.
    pub(crate) by_shutdown: bool,
    /// Ends that were counted.
    pub(crate) counted: u32,
    /// How often it was left to a plain close because nobody could tell who has it.
    pub(crate) refused: u32,
    pub(crate) unread_counted: u32,
    /// Epolls that report it.
    pub(crate) watched_by: BTreeSet<usize>,
    /// Was sent to another program.
    pub(crate) abroad: bool,
    /// Was sent by a process that is hidden, or to another program.
    pub(crate) sent_unseen: bool,
    /// Its last fd was closed by a call for which the supervisor had been told of another file.
    pub(crate) closed_untold: bool,
    /// Nobody holds it: the guard continued the `accept` that returned it, or it was released because of calls that the guard
    /// continued.
    pub(crate) unheld: bool,
    /// The supervisor was told that a message is about to carry it.
    pub(crate) told_sent: bool,
    /// The processes that can have it only from that message, as bits; none once there are two such messages.
    pub(crate) receivers: u8,
    /// One of them was seen to have it.
    pub(crate) arrived: bool,
    /// A message carried it, or for a time no process had it, only the child of a fork that was not over. If its last
    /// holder is killed at such a time, the supervisor gives up its own copy, so a loss by a later kill is no fault.
    pub(crate) was_sent: bool,
    /// It was copied or sent by a call at whose fd another thread had put it after the call had begun. In this race of
    /// the program with itself nobody knows which connection is meant.
    pub(crate) raced: bool,
    /// The processes that have it, and that ever had it, as bits.
    pub(crate) has: u8,
    pub(crate) had: u8,
    /// How many fds of it were closed, in whatever way.
    pub(crate) fds_closed: u32,
    /// Closes that were counted as by one of several holders.
    pub(crate) shared: u32,
    /// Its fd was closed when nobody could see it any more.
    pub(crate) lost: bool,
    /// How often its close was counted as refused before the call was made, which then may not have happened.
    pub(crate) early: u32,
    /// There was a reason for a plain close: a request was refused, or too much was in flight.
    pub(crate) may_refuse: bool,
    /// The closer did not take it.
    pub(crate) untaken: bool,
    /// How often its unread bytes must be counted.
    pub(crate) saves_unread: u32,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) processes: Vec<Process>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) epolls: usize,
    pub(crate) serials: u32,
    /// Serial numbers of fds that were closed by a call for which the supervisor had been told of another file.
    closed_untold: BTreeSet<u32>,
    /// Some process was hidden at some time.
    pub(crate) ever_hidden: bool,
    /// How many calls the guard has continued.
    pub(crate) unheard: u32,
}

/// What the supervisor was told of a call: an fd, its connection, and the serial number of the file at the fd.
pub(crate) type Told = (i32, usize, u32);

/// The call of a hidden process: it may concern any connection.
pub(crate) const HIDDEN: Told = (-1, 0, 0);

/// The limits are small, so that the events of a schedule meet.
const PROCESSES: usize = 6;
const CONNECTIONS: usize = 6;
const FDS: usize = 12;

impl Process {
    fn new(fds: Vec<Option<Fd>>) -> Self {
        Self {
            alive: true,
            hidden: false,
            hidden_once: false,
            single: false,
            threads: [Thread::Idle, Thread::Idle],
            calls: [0, 0],
            fds,
            inbox: VecDeque::new(),
            told: [Vec::new(), Vec::new()],
            unheard: [false; 2],
        }
    }

    /// A thread makes a call that the supervisor is notified of.
    pub(crate) fn call(&mut self, thread: usize, call: Call) {
        self.calls[thread] += 1;
        self.unheard[thread] = false;
        self.threads[thread] = Thread::Notified(call);
    }

    pub(crate) fn file(&self, fd: i32) -> Option<File> {
        let fd = self.fds.get(usize::try_from(fd).ok()?)?.as_ref()?;
        Some(fd.file)
    }

    /// The serial number of the file at an fd.
    pub(crate) fn serial(&self, fd: i32) -> u32 {
        self.fds.get(fd as usize).and_then(Option::as_ref).map_or(0, |fd| fd.serial)
    }

    pub(crate) fn connections(&self) -> impl Iterator<Item = (i32, usize)> {
        self.fds.iter().enumerate().filter_map(|(fd, open)| match open {
            Some(Fd { file: File::Connection(index), .. }) => Some((fd as i32, *index)),
            _ => None,
        })
    }

    /// The fds that are connections, with the serial numbers of their files.
    fn open_now(&self) -> impl Iterator<Item = Told> {
        self.connections().map(|(fd, index)| (fd, index, self.serial(fd)))
    }

    pub(crate) fn epolls(&self) -> impl Iterator<Item = usize> {
        self.fds.iter().flatten().filter_map(|fd| match fd.file {
            File::Epoll(index) => Some(index),
            File::Connection(_) => None,
        })
    }

    /// Opens a file at the lowest free fd.
    fn open(&mut self, file: File, serial: u32) -> Option<i32> {
        let free = self.fds.iter().position(Option::is_none).unwrap_or(self.fds.len());
        if free >= FDS {
            return None;
        }
        self.fds.resize(self.fds.len().max(free + 1), None);
        self.fds[free] = Some(Fd { file, closes_on_exec: false, serial });
        Some(free as i32)
    }
}

impl Kernel {
    pub(crate) fn new() -> Self {
        Self {
            processes: vec![Process::new(Vec::new())],
            connections: Vec::new(),
            epolls: 0,
            serials: 0,
            closed_untold: BTreeSet::new(),
            ever_hidden: false,
            unheard: 0,
        }
    }

    /// The guard continues a call that the supervisor does not answer.
    pub(crate) fn let_happen(&mut self, process: usize, thread: usize) {
        let this = &mut self.processes[process];
        if let Thread::Notified(call) = &this.threads[thread] {
            self.unheard += 1;
            this.told[thread].clear();
            this.unheard[thread] = true;
            this.threads[thread] = Thread::Continued(call.clone());
            // From now on nobody can know which process gets which connection.
            self.connections.iter_mut().for_each(|one| (one.receivers, one.arrived) = (0, false));
        }
    }

    /// Gives a process a new connection. Returns the connection's index.
    pub(crate) fn accept(&mut self, process: usize) -> Option<usize> {
        if self.connections.len() >= CONNECTIONS {
            return None;
        }
        let index = self.connections.len();
        let serial = self.serial();
        self.processes[process].open(File::Connection(index), serial)?;
        self.connections.push(Connection {
            socket: Socket::default(),
            end: End::Open,
            fds_gone: None,
            handed: 0,
            acknowledged: false,
            by_shutdown: false,
            counted: 0,
            refused: 0,
            unread_counted: 0,
            watched_by: BTreeSet::new(),
            abroad: false,
            sent_unseen: false,
            closed_untold: false,
            unheld: false,
            told_sent: false,
            receivers: 0,
            arrived: false,
            was_sent: false,
            raced: false,
            has: 1 << process,
            had: 1 << process,
            fds_closed: 0,
            shared: 0,
            lost: false,
            early: 0,
            may_refuse: false,
            untaken: false,
            saves_unread: 0,
        });
        Some(index)
    }

    /// Whether any process, or message to one, has a file.
    pub(crate) fn is_open(&self, file: File) -> bool {
        self.processes.iter().any(|process| {
            process.fds.iter().flatten().any(|fd| fd.file == file)
                || process.inbox.iter().flatten().any(|other| *other == file)
                || process.threads.iter().any(|thread| match thread {
                    Thread::Receiving(files) => files.contains(&file),
                    Thread::Forking(fds, _) => fds.iter().flatten().any(|fd| fd.file == file),
                    _ => false,
                })
        })
    }

    /// Whether a message that the supervisor knows of carries a connection to a living process.
    pub(crate) fn is_carried(&self, index: usize) -> bool {
        let one = &self.connections[index];
        let mut messages = self.processes.iter().flat_map(|process| process.inbox.iter().flatten());
        one.told_sent && !one.sent_unseen && messages.any(|file| *file == File::Connection(index))
    }

    /// The other processes that have a connection, as bits; none if they are not known, or if `besides` has it, too.
    pub(crate) fn others(&self, connection: usize, besides: usize) -> u8 {
        let one = &self.connections[connection];
        if one.has & (1 << besides) != 0 || one.told_sent || one.raced || self.ever_hidden {
            0
        } else {
            one.has
        }
    }

    /// Whether a connection has one fd, and no call or message can give it another.
    pub(crate) fn is_sole(&self, index: usize) -> bool {
        let fds = self.processes.iter().flat_map(Process::connections).filter(|(_, other)| *other == index);
        fds.count() == 1 && !self.connections[index].told_sent && self.is_calm()
    }

    /// Whether no process is or was hidden, and no call or message can make another fd of a connection.
    pub(crate) fn is_calm(&self) -> bool {
        let is_calm = |thread: &Thread| match thread {
            Thread::Idle => true,
            Thread::Notified(call) | Thread::Continued(call) => !call.gives(),
            Thread::Receiving(_) | Thread::Forking(..) | Thread::WaitsFor(_) => false,
        };
        let idle = |process: &Process| process.inbox.is_empty() && process.threads.iter().all(is_calm);
        !self.ever_hidden && self.processes.iter().all(|one| idle(one) || !one.alive)
    }

    fn serial(&mut self) -> u32 {
        self.serials += 1;
        self.serials
    }

    /// Notes which processes have which connection now; `seen` says whether the supervisor knows of the call that has
    /// changed it.
    pub(crate) fn note(&mut self, seen: bool) {
        let mut has = [0_u8; CONNECTIONS];
        for (process, one) in self.processes.iter().enumerate() {
            one.connections().for_each(|(_, index)| has[index] |= 1 << process);
        }
        for (index, has) in has.into_iter().enumerate().take(self.connections.len()) {
            let connection = &mut self.connections[index];
            connection.has = has;
            connection.had |= has;
            let seen = seen && !connection.closed_untold;
            connection.fds_gone = if has != 0 { None } else { connection.fds_gone.or(Some(seen)) };
            if has != 0 {
                connection.closed_untold = false;
            }
            let is_open = self.is_open(File::Connection(index));
            // No process has it; a message does, or a fork that is not over.
            self.connections[index].was_sent |= has == 0 && is_open;
            if self.connections[index].end == End::Open && !is_open {
                let connection = &mut self.connections[index];
                let seen = connection.fds_gone == Some(true) && !connection.abroad && !connection.sent_unseen;
                connection.end = if seen { End::Closed } else { End::Unseen };
            }
        }
    }
}

impl Process {
    fn close(&mut self, fd: i32) {
        if let Some(place) = self.fds.get_mut(fd as usize) {
            *place = None;
        }
    }
}
