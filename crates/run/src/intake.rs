//! Receives connections from the program's processes, and hands them over to the closer.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use linger::{Closer, Ended, Policy};
use linger_preload::protocol::{Message, MessageKind};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown, SocketAddrUnix,
    SocketFlags, SocketType,
};

use crate::report::Tally;

/// Pause after each round of work, so that the next messages arrive as one batch. A wake-up costs the program's processor
/// more than all work for one connection. Peers do not notice: the program has already sent the FIN.
const NAP: Duration = Duration::from_millis(1);

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
}

impl Address {
    /// Listens on a new abstract unix address (unix(7)).
    pub(crate) fn new() -> io::Result<Self> {
        let mut random = [0; 24];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let (name, token) = random.split_at(8);
        let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&listener, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        rustix::net::listen(&listener, 4_096)?;
        Ok(Self { name, token: token.try_into().unwrap_or_default(), listener })
    }

    /// One that another process listens at, with a copy of its listener.
    pub(crate) fn received(name: String, token: [u8; 16], listener: OwnedFd) -> Self {
        Self { name, token, listener }
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
        let worker = Worker {
            address,
            epoll,
            stop: Arc::clone(&stop),
            stopping: false,
            processes: HashMap::new(),
            strangers: 0,
            next: STOP + 1,
            ender: Ender { closer, policy, tally },
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
    ender: Ender,
}

/// A process of the program that is connected.
struct ConnectedProcess {
    connection: OwnedFd,
    known: bool,
    /// Sockets to be ended when this process's connection hangs up, by cookie.
    waiting: HashMap<u64, HeldFd>,
}

/// A socket that is ended when the process that sent it ends.
struct HeldFd {
    fd: OwnedFd,
    /// Whether the process has said that it is the only holder. Otherwise another process may still hold the socket.
    last: bool,
}

enum Received {
    Message(Message, Option<OwnedFd>),
    Nothing,
    End,
}

impl Worker {
    fn run(mut self) {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 64];
        loop {
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            let timeout = self.stopping.then_some(&at_once);
            let got = match epoll::wait(&self.epoll, &mut events, timeout) {
                Ok((got, _)) => got,
                Err(_) => continue,
            };
            if self.stopping && got.is_empty() {
                return;
            }
            let mut worked = false;
            for event in got {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    STOP => {
                        self.stopping = true;
                        let _ = epoll::delete(&self.epoll, self.stop.as_fd());
                    }
                    id => worked |= self.serve(id),
                }
            }
            if worked && !self.stopping {
                thread::sleep(NAP);
            }
        }
    }

    fn accept(&mut self) {
        while let Ok(connection) = rustix::net::accept_with(&self.address.listener, SocketFlags::CLOEXEC) {
            if self.strangers >= STRANGERS {
                tracing::info!(
                    strangers = self.strangers,
                    "process turned away: too many have sent no token"
                );
                continue;
            }
            let data = epoll::EventData::new_u64(self.next);
            if epoll::add(&self.epoll, &connection, data, epoll::EventFlags::IN).is_ok() {
                let process = ConnectedProcess { connection, known: false, waiting: HashMap::new() };
                self.processes.insert(self.next, process);
                self.strangers += 1;
                self.next += 1;
            }
        }
    }

    /// Handles pending messages of one process. True if there were any.
    fn serve(&mut self, id: u64) -> bool {
        let Some(process) = self.processes.get_mut(&id) else { return false };
        for turn in 0..TURN {
            match receive(&process.connection) {
                Received::Nothing => return turn > 0,
                Received::Message(message, _) if !process.known => {
                    if message != Message::hello(self.address.token) {
                        tracing::info!(id, "process turned away: it does not know the token");
                        break;
                    }
                    tracing::debug!(id, "process joined");
                    process.known = true;
                    self.strangers -= 1;
                }
                Received::Message(message, fd) => process.obey(&message, fd, &self.ender),
                Received::End => break,
            }
            if turn + 1 == TURN {
                return true;
            }
        }
        let Some(process) = self.processes.remove(&id) else { return true };
        if !process.known {
            self.strangers -= 1;
        }
        tracing::debug!(id, waiting = process.waiting.len(), "process has ended");
        for (cookie, HeldFd { fd, last }) in process.waiting {
            // Another process may still hold it.
            if last || !self.processes.values().any(|other| other.waiting.contains_key(&cookie)) {
                tracing::info!(cookie, "lingers: the last process that had it has ended");
                self.ender.end(fd);
            } else {
                tracing::info!(cookie, "left plain: another process has it");
            }
        }
        true
    }
}

impl ConnectedProcess {
    fn obey(&mut self, message: &Message, fd: Option<OwnedFd>, ender: &Ender) {
        // For a held connection the fd arrived with the `Hold` message.
        let waiting = self.waiting.remove(&message.cookie);
        let was_last = waiting.as_ref().is_some_and(|waiting| waiting.last);
        let fd = waiting.map(|waiting| waiting.fd).or(fd);
        match MessageKind::of(message.kind) {
            Some(MessageKind::Close) => match fd {
                Some(fd) => ender.end(fd),
                None => ender.missed(),
            },
            Some(MessageKind::Shutdown) => {
                if let Some(fd) = fd {
                    // The library counts this connection, unless it has announced it.
                    ender.end_and_shut_down(fd, was_last);
                }
            }
            Some(kind @ (MessageKind::Last | MessageKind::Hold)) => {
                if let Some(fd) = fd {
                    self.waiting.insert(message.cookie, HeldFd { fd, last: kind == MessageKind::Last });
                }
            }
            Some(MessageKind::Release) => drop(fd),
            _ => {}
        }
    }
}

fn receive(connection: &OwnedFd) -> Received {
    let mut bytes = [0; Message::SIZE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = loop {
        match rustix::net::recvmsg(connection, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other,
        }
    };
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fd.or(fds.last());
        }
    }
    match got {
        Ok(received) if received.bytes == Message::SIZE => Received::Message(Message::from_bytes(&bytes), fd),
        Err(Errno::AGAIN) => Received::Nothing,
        // The library only sends messages of this length; anything else comes from a stranger.
        Ok(_) | Err(_) => Received::End,
    }
}

/// Hands sockets over to the closer, and counts the outcomes.
struct Ender {
    closer: Closer,
    policy: Policy,
    tally: Arc<Tally>,
}

impl Ender {
    /// One that the library has not counted.
    fn end(&self, fd: OwnedFd) {
        self.tally.taken.fetch_add(1, Relaxed);
        self.end_then(fd, || {});
    }

    /// For a socket that the program still has open: it learns of the end by what `shutdown` of both sides brings.
    fn end_and_shut_down(&self, fd: OwnedFd, is_to_be_counted: bool) {
        self.tally.taken.fetch_add(is_to_be_counted.into(), Relaxed);
        let Ok(other) = fd.try_clone() else { return self.end_then(fd, || {}) };
        self.end_then(fd, move || {
            let _ = rustix::net::shutdown(&other, Shutdown::Both);
        });
    }

    /// One that was to be held here, and is not.
    fn missed(&self) {
        self.tally.not_held.fetch_add(1, Relaxed);
    }

    fn end_then(&self, fd: OwnedFd, then: impl FnOnce() + Send + 'static) {
        // SIOCOUTQ counts the FIN of the half-close as one byte.
        let before = linger_sys::send_queue(fd.as_fd()).unwrap_or(0).saturating_sub(1);
        let tally = Arc::clone(&self.tally);
        self.closer.close_then(fd, &self.policy, move |outcome| {
            tally
                .bytes_saved
                .fetch_add(before.saturating_sub(outcome.unacknowledged.unwrap_or(before)), Relaxed);
            if outcome.ended == Ended::Gone && outcome.delivered() {
                tally.closed_before.fetch_add(1, Relaxed);
            }
            then();
        });
    }
}
