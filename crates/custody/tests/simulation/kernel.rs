//! A small kernel: processes, fds, connections, messages in flight, epolls.
//!
//! It knows what is true. What the supervisor may know of it is in `driver.rs`.

use std::collections::{BTreeSet, VecDeque};

use linger_custody::Socket;

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

    /// Makes a call that was let go on.
    pub(crate) fn make(&mut self, process: usize, thread: usize, call: Call) {
        let hidden = self.processes[process].hidden;
        let told = std::mem::take(&mut self.processes[process].told[thread]);
        let before: Vec<(i32, usize)> = self.processes[process].connections().collect();
        let this = &mut self.processes[process];
        this.threads[thread] = Thread::Idle;
        if let (Call::Close(fd), Some(File::Connection(index))) =
            (&call, call.closes().and_then(|fd| this.file(fd)))
        {
            let again = |other: &Thread| matches!(other, Thread::Notified(other) | Thread::Continued(other) if other.closes() == Some(*fd));
            self.connections[index].doubled |= this.threads.iter().any(again);
        }
        match call {
            Call::Close(fd) => this.close(fd),
            Call::CloseRange(first, last) => (first..=last.min(FDS as i32)).for_each(|fd| this.close(fd)),
            Call::Dup(fd) => {
                if let Some(file) = this.file(fd) {
                    self.note_race(fd, file, &told);
                    let this = &mut self.processes[process];
                    this.open(file);
                }
            }
            Call::Dup2(old, new) => {
                if let Some(file) = this.file(old)
                    && old != new
                {
                    self.note_race(old, file, &told);
                    let this = &mut self.processes[process];
                    let place = new as usize;
                    this.fds.resize(this.fds.len().max(place + 1), None);
                    this.fds[place] = Some(Fd { file, closes_on_exec: false });
                }
            }
            Call::Shutdown(fd, both) => {
                if let (Some(File::Connection(index)), true) = (this.file(fd), both) {
                    self.connections[index].socket.over = true;
                }
            }
            Call::Fork => {
                self.fork(process);
            }
            Call::Vfork => {
                if let Some(child) = self.fork(process) {
                    self.processes[process].threads[thread] = Thread::WaitsFor(child);
                }
            }
            Call::Exec { fails: true } => {}
            Call::Exec { fails: false } => {
                self.finish_calls(process, thread);
                let this = &mut self.processes[process];
                this.threads = [Thread::Idle, Thread::Idle];
                // `begin_new_exec` makes it dumpable again.
                this.hidden = false;
                for fd in &mut this.fds {
                    if fd.as_ref().is_some_and(|fd| fd.closes_on_exec) {
                        *fd = None;
                    }
                }
                self.release(process);
            }
            Call::Exit => {
                self.finish_calls(process, thread);
                self.end(process);
            }
            Call::Send(control, to) => self.send(process, &control, to, &told),
            Call::Accept => {
                self.accept(process);
            }
            Call::EpollCreate => {
                let epoll = self.epolls;
                if self.processes[process].open(File::Epoll(epoll)).is_some() {
                    self.epolls += 1;
                }
            }
        }
        // Another thread has changed what the call closes since the supervisor was told of it.
        for (fd, index) in before {
            let closed = self.processes[process].file(fd) != Some(File::Connection(index));
            self.connections[index].untold |= closed && !told.contains(&(fd, index));
        }
        self.note_had();
        self.note_ends(!hidden);
    }

    /// Notes a connection that a call copies or sends, and that the supervisor was not told of.
    fn note_race(&mut self, fd: i32, file: File, told: &[(i32, usize)]) {
        if let File::Connection(index) = file {
            self.connections[index].raced |= !told.contains(&(fd, index)) && !told.contains(&HIDDEN);
        }
    }

    fn send(&mut self, process: usize, control: &[u8], to: Option<usize>, told: &[(i32, usize)]) {
        for fd in parse(control) {
            if let Some(file) = self.processes[process].file(fd) {
                self.note_race(fd, file, told);
            }
        }
        let this = &self.processes[process];
        let files: Vec<File> = parse(control).into_iter().filter_map(|fd| this.file(fd)).collect();
        let hidden = this.hidden;
        for file in &files {
            if let File::Connection(index) = file {
                self.connections[*index].untold |= hidden;
                self.connections[*index].was_sent = true;
            }
        }
        match to.filter(|to| self.processes.get(*to).is_some_and(|process| process.alive)) {
            Some(to) => self.processes[to].inbox.push_back(files),
            None if to.is_none() => {
                for file in files {
                    if let File::Connection(index) = file {
                        self.connections[index].abroad = true;
                    }
                }
            }
            None => {}
        }
    }

    fn fork(&mut self, process: usize) -> Option<usize> {
        if self.processes.len() >= PROCESSES {
            return None;
        }
        let mut child = Process::new(self.processes[process].fds.clone());
        child.hidden = self.processes[process].hidden;
        child.single = self.processes.len() % 2 == 1;
        self.processes.push(child);
        Some(self.processes.len() - 1)
    }

    /// The other threads are killed on their way back from a call that they were let go on with.
    fn finish_calls(&mut self, process: usize, besides: usize) {
        for thread in 0..2 {
            if thread != besides
                && let Thread::Continued(call) = self.processes[process].threads[thread].clone()
                && !matches!(call, Call::Exec { .. } | Call::Exit)
            {
                self.make(process, thread, call);
            }
        }
    }

    /// A child of `vfork` has its own memory, or is gone: its parent goes on.
    fn release(&mut self, child: usize) {
        for thread in self.processes.iter_mut().flat_map(|process| &mut process.threads) {
            if *thread == Thread::WaitsFor(child) {
                *thread = Thread::Idle;
            }
        }
    }

    /// Ends a process: its fds are closed, and what it was sent is lost.
    fn end(&mut self, process: usize) {
        let this = &mut self.processes[process];
        this.alive = false;
        this.threads = [Thread::Idle, Thread::Idle];
        this.fds.clear();
        this.inbox.clear();
        self.release(process);
    }

    pub(crate) fn kill(&mut self, process: usize) {
        self.finish_calls(process, 2);
        self.end(process);
        self.note_ends(false);
    }

    fn note_had(&mut self) {
        for (index, process) in self.processes.iter().enumerate() {
            for (_, connection) in process.connections() {
                self.connections[connection].had_by.insert(index);
            }
        }
    }

    /// The second half of `recvmsg`.
    pub(crate) fn install(&mut self, process: usize, thread: usize) {
        let state = std::mem::replace(&mut self.processes[process].threads[thread], Thread::Idle);
        if let Thread::Receiving(files) = state {
            for file in files {
                // Without a free fd the kernel drops it (`scm_detach_fds`).
                self.processes[process].open(file);
            }
        }
        self.note_had();
        self.note_ends(false);
    }
}

impl Process {
    fn close(&mut self, fd: i32) {
        if let Some(place) = self.fds.get_mut(fd as usize) {
            *place = None;
        }
    }
}

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;

/// Control data with these fds, among other control messages.
pub(crate) fn control(fds: &[i32], shape: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut push = |level: i32, kind: i32, payload: &[i32]| {
        let start = bytes.len();
        bytes.extend((16 + 4 * payload.len()).to_ne_bytes());
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        payload.iter().for_each(|int| bytes.extend(int.to_ne_bytes()));
        if shape & 4 != 0 {
            bytes.resize(start + (bytes.len() - start).next_multiple_of(8), 0);
        } else {
            while !bytes.len().is_multiple_of(8) {
                bytes.push(0xff);
            }
        }
    };
    // Credentials of uid 0 and so on: ints that would be fds in a message of the other kind.
    if shape & 1 != 0 {
        push(SOL_SOCKET, SCM_CREDENTIALS, &[0, 1, 2]);
    }
    push(SOL_SOCKET, SCM_RIGHTS, fds);
    if shape & 2 != 0 {
        push(41, SCM_RIGHTS, &[0, 1, 2, 3]);
    }
    bytes
}

/// What the kernel makes of control data: written apart from the parser under test.
fn parse(control: &[u8]) -> Vec<i32> {
    let int = |at: usize| i32::from_ne_bytes(control[at..at + 4].try_into().expect("four bytes"));
    let (mut at, mut fds) = (0, Vec::new());
    while at + 16 <= control.len() {
        let length = usize::from_ne_bytes(control[at..at + 8].try_into().expect("eight bytes"));
        if (int(at + 8), int(at + 12)) == (SOL_SOCKET, SCM_RIGHTS) {
            fds.extend((at + 16..at + length).step_by(4).map(int));
        }
        at += length.div_ceil(8) * 8;
    }
    fds
}
