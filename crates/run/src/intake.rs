//! Receives connections from the program's processes, and hands them over to be proved and ended.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use linger::{Closer, Policy};
use linger_preload::protocol::Message;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::connected::{ConnectedProcess, Received};
use crate::ender::{Ender, SHORTLY};
use crate::kernel::work_in_batches;
use crate::prover::{Nominee, Proof, Prover};
use crate::shares::Shares;
use crate::strangers::Strangers;
use crate::tally::Tally;

#[cfg(test)]
mod tests;

/// Pause after each round of work while many messages arrive, so that the next ones arrive as one batch. It delays the
/// FIN of a close, which is sent after its proof. So there is no pause if the kernel makes the batches
/// ([`work_in_batches`]).
const NAP: Duration = Duration::from_micros(20);

/// This many messages within a [`NAP`] count as many.
const MUCH: usize = 8;

/// The search for the program's processes may take one part in this many of the time, or more if [`LONGEST`] cuts the
/// pause. A proof that needs no search takes none.
const SHARE: u32 = 2;

/// A shorter search is followed by no pause.
const SHORT: Duration = Duration::from_micros(200);

/// Longest pause after a search.
const LONGEST: Duration = Duration::from_millis(50);

/// Messages read from one process before the next process has its turn.
const TURN: usize = 256;

/// Most processes that are accepted in one round of the loop.
const GUESTS: usize = 64;

/// How long no process is accepted after the fds have run out. The closes of a process that waits meanwhile stay plain.
const DEAF: Duration = Duration::from_millis(10);

/// Descriptors that are never given to the program's processes.
const SPARE: usize = 128;

const LISTENER: u64 = 0;
const STOP: u64 = 1;
const ALARM: u64 = 2;

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
        // Accepted sockets inherit SO_PASSCRED since Linux 6.16.
        rustix::net::sockopt::set_socket_passcred(&listener, true)?;
        rustix::net::bind(&listener, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        rustix::net::listen(&listener, 4_096)?;
        Ok(Self { name, token: token.try_into().unwrap_or_default(), listener, root: std::process::id() })
    }

    /// The address at which the process `root` listens, with a copy of its listener.
    pub(crate) fn received(name: String, token: [u8; 16], listener: OwnedFd, root: u32) -> Self {
        Self { name, token, listener, root }
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Intake {
    /// `lingering` is the most connections that linger at once.
    pub(crate) fn start(
        address: Address,
        closer: Closer,
        policy: Policy,
        lingering: usize,
        tally: Arc<Tally>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let readable = epoll::EventFlags::IN;
        epoll::add(&epoll, &address.listener, epoll::EventData::new_u64(LISTENER), readable)?;
        epoll::add(&epoll, stop.as_fd(), epoll::EventData::new_u64(STOP), readable)?;
        let alarm = HandOverTimer::new()?;
        epoll::add(&epoll, &alarm.timer, epoll::EventData::new_u64(ALARM), readable)?;
        let root = address.root;
        let worker = Worker {
            address,
            epoll,
            stop: Arc::clone(&stop),
            stopping: false,
            processes: HashMap::new(),
            strangers: Strangers::default(),
            shares: descriptors(),
            deaf_until: None,
            next: ALARM + 1,
            alarm,
            prover: Prover::new(root),
            ender: Ender::new(closer, policy, tally, lingering)?,
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
    strangers: Strangers,
    /// The descriptors of this process.
    shares: Shares,
    /// Until when nobody is accepted.
    deaf_until: Option<Instant>,
    next: u64,
    /// For the half-closed connections that the closer is to get.
    alarm: HandOverTimer,
    prover: Prover,
    ender: Ender,
    pace: Pace,
}

impl Worker {
    fn run(mut self) {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 64];
        let batches = work_in_batches();
        loop {
            let now = Instant::now();
            let due = self.prover.due().map(|due| due.saturating_duration_since(now));
            let idle = self.stopping && due.is_none();
            let others = [self.strangers.due(), self.deaf_until].into_iter().flatten();
            let others = others.map(|due| due.saturating_duration_since(now));
            let due = due.into_iter().chain(others).min();
            let timeout = if idle { Some(Duration::ZERO) } else { due };
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            let got = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
                Ok((got, _)) => got,
                Err(_) => continue,
            };
            if idle && got.is_empty() {
                return self.ender.hand_over_all();
            }
            let started = Instant::now();
            self.turn_away(started);
            let mut messages = 0;
            for event in got {
                match event.data.u64() {
                    LISTENER => messages += self.accept(),
                    STOP => {
                        self.stopping = true;
                        let _ = epoll::delete(&self.epoll, self.stop.as_fd());
                    }
                    ALARM => self.alarm.rings(),
                    id => messages += self.serve(id),
                }
            }
            let searched = self.judge();
            self.ender.hand_over_parted(started);
            if self.ender.has_parted() {
                self.alarm.set();
            }
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
            // A connection that another process has announced, or that is held for another process, ends with that
            // process.
            let waits =
                |nominee: &Nominee| processes.values().any(|process| process.waits_for(nominee.cookie));
            match proof {
                Proof::Sole(nominee) if waits(&nominee) => ender.conclude(Proof::Shared(nominee)),
                proof => ender.conclude(proof),
            }
        });
        self.ender.looked(self.prover.looks());
        self.prover.searched()
    }

    /// Accepts processes, and reads what they have sent. So the messages of a process that has ended already are read
    /// before its connections are judged. Returns the number of messages.
    fn accept(&mut self) -> usize {
        let first = self.next;
        for _ in 0..GUESTS {
            match rustix::net::accept_with(&self.address.listener, SocketFlags::CLOEXEC) {
                Ok(connection) => self.welcome(connection),
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    // The connection stays in the accept queue and keeps the listener readable, so the listener is not
                    // polled for a while.
                    tracing::warn!("no descriptor is left for a process of the program");
                    self.listen(epoll::EventFlags::empty());
                    self.deaf_until = Some(Instant::now() + DEAF);
                    break;
                }
                Err(_) => break,
            }
        }
        (first..self.next).map(|id| self.serve(id)).sum()
    }

    fn listen(&self, events: epoll::EventFlags) {
        let data = epoll::EventData::new_u64(LISTENER);
        // It fails for an fd that is not registered.
        let _ = epoll::modify(&self.epoll, &self.address.listener, data, events);
    }

    /// Takes a process that has connected. If it is turned away, its connection is closed, and its closes stay plain.
    fn welcome(&mut self, connection: OwnedFd) {
        let id = self.next;
        let Some(process) = ConnectedProcess::new(connection, &self.shares) else {
            return tracing::info!("process turned away: its user has its share of descriptors");
        };
        let data = epoll::EventData::new_u64(id);
        // Each message then says which process has sent it: a forked child has its parent's connection, too.
        if rustix::net::sockopt::set_socket_passcred(&process.connection, true).is_ok()
            && epoll::add(&self.epoll, &process.connection, data, epoll::EventFlags::IN).is_ok()
        {
            self.next += 1;
            let too_many = self.strangers.enter(id, process.user, Instant::now());
            self.processes.insert(id, process);
            if let Some(other) = too_many {
                tracing::info!(id = other, "process turned away: too many have sent no token");
                self.processes.remove(&other);
            }
        }
    }

    /// Turns away processes that were silent for too long, and accepts again once [`DEAF`] is over.
    fn turn_away(&mut self, now: Instant) {
        while let Some(id) = self.strangers.late(now) {
            tracing::info!(id, "process turned away: it has sent no token");
            self.processes.remove(&id);
        }
        if self.deaf_until.is_some_and(|until| now >= until) {
            self.deaf_until = None;
            self.listen(epoll::EventFlags::IN);
        }
    }

    /// Handles pending messages of one process. Returns their number; the hang-up counts as one.
    fn serve(&mut self, id: u64) -> usize {
        let Some(process) = self.processes.get_mut(&id) else { return 0 };
        let mut messages = 0;
        for turn in 0..TURN {
            match process.receive(&self.ender) {
                Received::Nothing => return turn,
                Received::Message(message, fd, _) if !process.known => {
                    fd.into_iter().for_each(|fd| self.ender.dispose(fd));
                    if message != Message::hello(self.address.token) {
                        tracing::info!(id, "process turned away: it does not know the token");
                        break;
                    }
                    tracing::debug!(id, "process joined");
                    process.known = true;
                    self.strangers.leave(id);
                }
                Received::Message(message, fd, by) => {
                    let nominate = |nominee| self.prover.nominate(nominee);
                    process.obey(&message, fd, by, &self.shares, nominate, &self.ender);
                }
                Received::End => break,
            }
            messages = turn + 1;
            if messages == TURN {
                return TURN;
            }
        }
        let Some(process) = self.processes.remove(&id) else { return messages };
        self.strangers.leave(id);
        tracing::debug!(id, "process has ended");
        process.has_ended().for_each(|nominee| self.prover.nominate(nominee));
        messages + 1
    }
}

/// The descriptors that the program's processes may fill. One user alone leaves an eighth, for another to begin with.
fn descriptors() -> Shares {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let most = limit.saturating_sub(SPARE).max(SPARE);
    Shares::new(most, most - most / 8)
}

/// A timer for [`SHORTLY`] that is set again only after it has fired. A timeout of `epoll_wait` instead would be set
/// and cancelled with each wait, and on a virtual machine each of the two is an exit to the host.
#[derive(Debug)]
struct HandOverTimer {
    timer: OwnedFd,
    is_set: bool,
}

impl HandOverTimer {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self { timer: timerfd_create(TimerfdClockId::Monotonic, flags)?, is_set: false })
    }

    /// Sets it, unless it is set.
    fn set(&mut self) {
        let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
        if let (false, Ok(it_value)) = (self.is_set, Timespec::try_from(SHORTLY)) {
            let once = Itimerspec { it_interval: nothing, it_value };
            self.is_set = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).is_ok();
        }
    }

    fn rings(&mut self) {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        self.is_set = false;
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
