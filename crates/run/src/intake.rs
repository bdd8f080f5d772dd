//! Receives connections from the program's processes, and hands them over to the closer.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use linger::{Closer, Policy};
use linger_custody::world::{Name, Pid};
use linger_custody::{Count, Origin};
use linger_preload::protocol::{Message, MessageKind, Nomination};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use crate::ender::Ender;
use crate::kernel::work_in_batches;
use crate::prover::{Nominee, Proof, Prover};
use crate::tally::Tally;

/// Pause after each round of work while much arrives, so that the next messages arrive as one batch. The end of a response
/// waits for it: the FIN of a close is sent after its proof. So it is only made where the kernel does not make the batches
/// ([`work_in_batches`]).
const NAP: Duration = Duration::from_micros(20);

/// Messages in the time of a [`NAP`] that are much.
const MUCH: usize = 8;

/// The part of the time that may be spent on finding out which processes there are: one in so many. A proof from what is
/// known takes none.
const SHARE: u32 = 2;

/// A search that is not worth a pause.
const SHORT: Duration = Duration::from_micros(200);

/// Longest pause after a search.
const LONGEST: Duration = Duration::from_millis(50);

/// Messages read from one process before the next process has its turn.
const TURN: usize = 256;

/// Most connections that have not sent a valid first message. Any process of the host can connect to the address.
const STRANGERS: usize = 256;

const LISTENER: u64 = 0;
const STOP: u64 = 1;

/// The thread that listens for the program's processes. [`finish`](Self::finish) ends it.
#[derive(Debug)]
pub(crate) struct Intake {
    thread: JoinHandle<()>,
    stop: Arc<OwnedFd>,
}

/// The address at which the program's processes reach the supervisor, and the token that proves they belong to it.
#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) name: String,
    pub(crate) token: [u8; 16],
    listener: OwnedFd,
    /// The program, or the process whose child it is.
    root: u32,
}

impl Address {
    /// Listens on a new abstract unix address (unix(7)), for the process that this one becomes and for its own children.
    pub(crate) fn new() -> io::Result<Self> {
        let mut random = [0; 24];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let (name, token) = random.split_at(8);
        let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // Inherited by what is accepted, since Linux 6.16.
        rustix::net::sockopt::set_socket_passcred(&listener, true)?;
        rustix::net::bind(&listener, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        rustix::net::listen(&listener, 4_096)?;
        Ok(Self { name, token: token.try_into().unwrap_or_default(), listener, root: std::process::id() })
    }

    /// One that the process `root` listens at, with a copy of its listener.
    pub(crate) fn received(name: String, token: [u8; 16], listener: OwnedFd, root: u32) -> Self {
        Self { name, token, listener, root }
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Intake {
    pub(crate) fn start(
        address: Address,
        closer: Closer,
        policy: Policy,
        tally: Arc<Tally>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let readable = epoll::EventFlags::IN;
        epoll::add(&epoll, &address.listener, epoll::EventData::new_u64(LISTENER), readable)?;
        epoll::add(&epoll, stop.as_fd(), epoll::EventData::new_u64(STOP), readable)?;
        let root = address.root;
        let worker = Worker {
            address,
            epoll,
            stop: Arc::clone(&stop),
            stopping: false,
            processes: HashMap::new(),
            strangers: 0,
            next: STOP + 1,
            prover: Prover::new(root),
            ender: Ender::new(closer, policy, tally),
            pace: Pace::new(),
        };
        let thread = thread::Builder::new().name("linger-intake".into()).spawn(move || worker.run())?;
        Ok(Self { thread, stop })
    }

    /// Receives what the program's processes have sent, and ends the thread. Call it when all of them are gone.
    pub(crate) fn finish(self) {
        // The write fails only if the eventfd's counter is full; the thread is then awake anyway.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        let _ = self.thread.join();
    }
}

struct Worker {
    address: Address,
    epoll: OwnedFd,
    stop: Arc<OwnedFd>,
    stopping: bool,
    processes: HashMap<u64, ConnectedProcess>,
    /// Number of processes that have not sent the token yet.
    strangers: usize,
    next: u64,
    prover: Prover,
    ender: Ender,
    pace: Pace,
}

/// A process of the program that is connected.
struct ConnectedProcess {
    connection: OwnedFd,
    known: bool,
    /// The process that connected (`SO_PEERCRED`); 0 if it is in a pid namespace of which nothing is known.
    peer: u32,
    /// Sockets to be ended when this process's connection hangs up, by cookie.
    waiting: HashMap<u64, HeldFd>,
}

/// A socket that is ended when the process that sent it ends.
struct HeldFd {
    fd: OwnedFd,
    by: Name,
    origin: Origin,
    unread: u32,
    /// Whether the process has announced its end. Otherwise it is killed.
    last: bool,
}

enum Received {
    /// With the fd that it carries, and the process that sent it.
    Message(Message, Option<OwnedFd>, u32),
    Nothing,
    End,
}

impl Worker {
    fn run(mut self) {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 64];
        let batches = work_in_batches();
        loop {
            let due = self.prover.due().map(|due| due.saturating_duration_since(Instant::now()));
            let idle = self.stopping && due.is_none();
            let timeout = if idle { Some(Duration::ZERO) } else { due };
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            let got = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
                Ok((got, _)) => got,
                Err(_) => continue,
            };
            if idle && got.is_empty() {
                return;
            }
            let started = Instant::now();
            let mut messages = 0;
            for event in got {
                match event.data.u64() {
                    LISTENER => messages += self.accept(),
                    STOP => {
                        self.stopping = true;
                        let _ = epoll::delete(&self.epoll, self.stop.as_fd());
                    }
                    id => messages += self.serve(id),
                }
            }
            let searched = self.judge();
            let nap = if batches { Duration::ZERO } else { self.pace.pause(started, messages) };
            let rest = if searched < SHORT { Duration::ZERO } else { searched * (SHARE - 1) };
            let pause = nap.max(rest.min(LONGEST));
            // A sleep of no time is a system call, too.
            if messages > 0 && !self.stopping && !pause.is_zero() {
                thread::sleep(pause);
            }
        }
    }

    /// Judges what was nominated. Returns how long processes were searched for that.
    fn judge(&mut self) -> Duration {
        let (ender, processes) = (&self.ender, &self.processes);
        self.prover.judge(|proof| {
            // What another process has announced, or is held for it, ends with that one.
            let waits = |nominee: &Nominee| {
                processes.values().any(|process| process.waiting.contains_key(&nominee.cookie))
            };
            match proof {
                Proof::Sole(nominee) if waits(&nominee) => ender.conclude(Proof::Shared(nominee)),
                proof => ender.conclude(proof),
            }
        });
        self.ender.looked(self.prover.looks());
        self.prover.searched()
    }

    /// Accepts processes, and reads what they have sent: one that has ended already is heard before its connections are
    /// judged. Returns the number of messages.
    fn accept(&mut self) -> usize {
        let first = self.next;
        while let Ok(connection) = rustix::net::accept_with(&self.address.listener, SocketFlags::CLOEXEC) {
            if self.strangers >= STRANGERS {
                tracing::info!(
                    strangers = self.strangers,
                    "process turned away: too many have sent no token"
                );
                continue;
            }
            let data = epoll::EventData::new_u64(self.next);
            let peer = crate::kernel::peer_process(connection.as_fd()).unwrap_or(0);
            // Each message then says which process has sent it: a forked child has its parent's connection, too.
            if rustix::net::sockopt::set_socket_passcred(&connection, true).is_ok()
                && epoll::add(&self.epoll, &connection, data, epoll::EventFlags::IN).is_ok()
            {
                let process = ConnectedProcess { connection, known: false, peer, waiting: HashMap::new() };
                self.processes.insert(self.next, process);
                self.strangers += 1;
                self.next += 1;
            }
        }
        (first..self.next).map(|id| self.serve(id)).sum()
    }

    /// Handles pending messages of one process. Returns their number; the end is one.
    fn serve(&mut self, id: u64) -> usize {
        let Some(process) = self.processes.get_mut(&id) else { return 0 };
        let mut messages = 0;
        for turn in 0..TURN {
            match receive(&process.connection) {
                Received::Nothing => return turn,
                Received::Message(message, ..) if !process.known => {
                    if message != Message::hello(self.address.token) {
                        tracing::info!(id, "process turned away: it does not know the token");
                        break;
                    }
                    tracing::debug!(id, "process joined");
                    process.known = true;
                    self.strangers -= 1;
                }
                Received::Message(message, fd, by) => {
                    process.obey(&message, fd, by, &mut self.prover, &self.ender);
                }
                Received::End => break,
            }
            messages = turn + 1;
            if messages == TURN {
                return TURN;
            }
        }
        let Some(process) = self.processes.remove(&id) else { return messages };
        if !process.known {
            self.strangers -= 1;
        }
        tracing::debug!(id, waiting = process.waiting.len(), "process has ended");
        for (cookie, HeldFd { fd, by, origin, unread, last }) in process.waiting {
            tracing::info!(cookie, last, "nominated: its process has ended");
            self.prover.nominate(Nominee { fd, cookie, by, origin, unread, closed: false });
        }
        messages + 1
    }
}

/// How many messages have arrived lately.
#[derive(Debug)]
struct Pace {
    since: Instant,
    messages: usize,
}

impl Pace {
    fn new() -> Self {
        Self { since: Instant::now(), messages: 0 }
    }

    /// The pause after a round that began at `started`.
    fn pause(&mut self, started: Instant, messages: usize) -> Duration {
        if started.duration_since(self.since) >= NAP {
            *self = Self { since: started, messages: 0 };
        }
        self.messages += messages;
        if self.messages >= MUCH { NAP } else { Duration::ZERO }
    }
}

impl ConnectedProcess {
    fn obey(&mut self, message: &Message, fd: Option<OwnedFd>, by: u32, prover: &mut Prover, ender: &Ender) {
        // For a held connection the fd arrived with the `Hold` message.
        let waiting = self.waiting.remove(&message.cookie);
        let fd = waiting.map(|waiting| waiting.fd).or(fd);
        let Nomination { origin, process, fd: closing, .. } = message.nomination();
        // In a pid namespace of its own a process does not know the pids that are known here.
        let origin = if i64::from(process) == i64::from(by) { origin } else { Origin::UNKNOWN };
        // Sent between the accept and the request for credentials: the sender is most likely who connected.
        let by = if by == 0 { self.peer } else { by };
        // The socket's own word, not the process's.
        let own = fd.as_ref().and_then(|fd| rustix::net::sockopt::socket_cookie(fd).ok());
        if own.is_some_and(|own| own != message.cookie) {
            // Another thread has put another connection at that fd meanwhile, of which nothing was said: it stays as it is.
            tracing::debug!(cookie = message.cookie, "an fd came with the words for another connection");
            return ender.missed();
        }
        let (by, cookie) = (Name { pid: Pid(by), fd: closing }, own.unwrap_or(message.cookie));
        match (MessageKind::of(message.kind), fd) {
            (Some(MessageKind::Close), Some(fd)) if by.pid.0 == std::process::id() => ender.end_proved(fd),
            (Some(MessageKind::Close), Some(fd)) => {
                prover.nominate(Nominee { fd, cookie, by, origin, unread: message.unread, closed: true });
            }
            (Some(MessageKind::Close), None) => ender.missed(),
            (Some(MessageKind::Shutdown), Some(fd)) => {
                ender.end_and_shut_down(fd, cookie, message.unread);
            }
            (Some(kind @ (MessageKind::Last | MessageKind::Hold)), Some(fd)) => {
                let last = kind == MessageKind::Last;
                self.waiting.insert(cookie, HeldFd { fd, by, origin, unread: message.unread, last });
            }
            (Some(kind @ (MessageKind::Counted | MessageKind::Uncounted)), _) => {
                let count = Count::EACH.into_iter().find(|count| *count as u64 == cookie);
                match count.filter(|count| *count != Count::Seen) {
                    Some(count) if kind == MessageKind::Counted => ender.count(count, message.unread.into()),
                    Some(count) => ender.uncount(count),
                    None => {}
                }
            }
            _ => {}
        }
    }
}

fn receive(connection: &OwnedFd) -> Received {
    let mut bytes = [0; Message::SIZE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = loop {
        match rustix::net::recvmsg(connection, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other,
        }
    };
    let (mut fd, mut by) = (None, 0);
    for message in control.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(fds) => fd = fd.or(fds.last()),
            RecvAncillaryMessage::ScmCredentials(sender) => {
                by = sender.pid.as_raw_nonzero().get().cast_unsigned()
            }
            _ => {}
        }
    }
    match got {
        Ok(received) if received.bytes == Message::SIZE => {
            Received::Message(Message::from_bytes(&bytes), fd, by)
        }
        Err(Errno::AGAIN) => Received::Nothing,
        // The library only sends messages of this length; anything else comes from a stranger.
        Ok(_) | Err(_) => Received::End,
    }
}
