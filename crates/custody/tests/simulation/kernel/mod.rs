//! A small kernel: processes, fds, connections, messages in flight, epolls.
//!
//! It knows what is true. What the supervisor may know of it is in `driver.rs`.

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

#[derive(Clone, Debug)]
pub(crate) struct Fd {
    pub(crate) file: File,
    pub(crate) closes_on_exec: bool,
}

/// A call that the supervisor is notified of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Close(i32),
    CloseRange(i32, i32),
    Dup(i32),
    Dup2(i32, i32),
    Shutdown(i32, bool),
    Fork,
    Vfork,
    Exec {
        fails: bool,
    },
    Exit,
    /// Control data, and the receiving process; `None` is another program.
    Send(Vec<u8>, Option<usize>),
    Accept,
    EpollCreate,
}

impl Call {
    /// The fd that it closes, if it closes one.
    fn closes(&self) -> Option<i32> {
        match self {
            Self::Close(fd) | Self::Dup2(_, fd) => Some(*fd),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Thread {
    Idle,
    /// Waits for the supervisor's answer.
    Notified(Call),
    /// Was let go on, and has not yet made the call.
    Continued(Call),
    /// `recvmsg` has taken these out of the queue and not yet installed them.
    Receiving(Vec<File>),
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
    pub(crate) fds: Vec<Option<Fd>>,
    /// Messages that wait to be received.
    pub(crate) inbox: VecDeque<Vec<File>>,
    /// What the supervisor was told of the calls that the threads were let go on with: fds, and their connections.
    pub(crate) told: [Vec<(i32, usize)>; 2],
}

/// How a connection ended, as far as it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Some process, or message, has it.
    Open,
    /// Its last fd in the program is gone, by a call that the supervisor was notified of.
    Closed,
    /// As `Closed`, but nobody could see to it: by a kill, in a process that is hidden, or in another program.
    Unseen,
}

#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) socket: Socket,
    pub(crate) end: End,
    /// No process has an fd of it, since a call that the supervisor was notified of (or not): a message may have it.
    pub(crate) fds_gone: Option<bool>,
    /// The closer has it.
    pub(crate) handed: u32,
    /// By `shutdown`, so that the program may still have it.
    pub(crate) by_shutdown: bool,
    /// Ends that were counted.
    pub(crate) counted: u32,
    /// Times that it was left alone, for nobody could tell who has it.
    pub(crate) refused: u32,
    pub(crate) unread_counted: u32,
    /// Epolls that report it.
    pub(crate) watched_by: BTreeSet<usize>,
    /// Was sent to another program.
    pub(crate) abroad: bool,
    /// Was sent by a process that is hidden, or closed by a call that another thread has changed the meaning of.
    pub(crate) untold: bool,
    /// Two threads closed the same fd of it at once, of which the second may close what the first made room for.
    pub(crate) doubled: bool,
    /// A message carried it: if its sender is killed meanwhile, its receiver's is not held any more.
    pub(crate) was_sent: bool,
    /// Was copied or sent by a call whose fd another thread had made to mean it since the call began: the program's own
    /// race, in which nobody knows which connection is meant.
    pub(crate) raced: bool,
    pub(crate) had_by: BTreeSet<usize>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) processes: Vec<Process>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) epolls: usize,
    /// Some process was hidden at some time.
    pub(crate) ever_hidden: bool,
}

/// Told of a call of a process that is hidden: it may mean any connection.
pub(crate) const HIDDEN: (i32, usize) = (-1, 0);

/// Most of each, so that schedules meet.
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
            fds,
            inbox: VecDeque::new(),
            told: [Vec::new(), Vec::new()],
        }
    }

    pub(crate) fn file(&self, fd: i32) -> Option<File> {
        let fd = self.fds.get(usize::try_from(fd).ok()?)?.as_ref()?;
        Some(fd.file)
    }

    pub(crate) fn connections(&self) -> impl Iterator<Item = (i32, usize)> {
        self.fds.iter().enumerate().filter_map(|(fd, open)| match open {
            Some(Fd { file: File::Connection(index), .. }) => Some((fd as i32, *index)),
            _ => None,
        })
    }

    pub(crate) fn epolls(&self) -> impl Iterator<Item = usize> {
        self.fds.iter().flatten().filter_map(|fd| match fd.file {
            File::Epoll(index) => Some(index),
            File::Connection(_) => None,
        })
    }

    /// Opens a file at the lowest free fd.
    fn open(&mut self, file: File) -> Option<i32> {
        let free = self.fds.iter().position(Option::is_none).unwrap_or(self.fds.len());
        if free >= FDS {
            return None;
        }
        self.fds.resize(self.fds.len().max(free + 1), None);
        self.fds[free] = Some(Fd { file, closes_on_exec: false });
        Some(free as i32)
    }
}

impl Kernel {
    pub(crate) fn new() -> Self {
        Self {
            processes: vec![Process::new(Vec::new())],
            connections: Vec::new(),
            epolls: 0,
            ever_hidden: false,
        }
    }

    /// Gives a process a new connection; its index.
    pub(crate) fn accept(&mut self, process: usize) -> Option<usize> {
        if self.connections.len() >= CONNECTIONS {
            return None;
        }
        let index = self.connections.len();
        self.processes[process].open(File::Connection(index))?;
        self.connections.push(Connection {
            socket: Socket::default(),
            end: End::Open,
            fds_gone: None,
            handed: 0,
            by_shutdown: false,
            counted: 0,
            refused: 0,
            unread_counted: 0,
            watched_by: BTreeSet::new(),
            abroad: false,
            untold: false,
            doubled: false,
            was_sent: false,
            raced: false,
            had_by: BTreeSet::from([process]),
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
                    _ => false,
                })
        })
    }

    /// Notes which connections have no fd in the program any more; `seen` if by a call that the supervisor knows of.
    pub(crate) fn note_ends(&mut self, seen: bool) {
        for index in 0..self.connections.len() {
            let mut fds = self.processes.iter().flat_map(|process| &process.fds).flatten();
            let open = fds.any(|fd| fd.file == File::Connection(index));
            let gone = &mut self.connections[index].fds_gone;
            *gone = if open { None } else { gone.or(Some(seen)) };
            if self.connections[index].end == End::Open && !self.is_open(File::Connection(index)) {
                let connection = &mut self.connections[index];
                let seen = connection.fds_gone == Some(true);
                connection.end =
                    if seen && !connection.abroad && !connection.untold { End::Closed } else { End::Unseen };
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
