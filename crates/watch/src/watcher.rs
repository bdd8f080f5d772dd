//! Tracepoints, socket list and processes brought together.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use linger_host::sock_diag::{self, States};
use linger_why::Cause;
use serde::Serialize;

use crate::diagnose::{self, Context, Direction, Queue, Reset};
use crate::kernel::{Blind, CannotWatch, Happening, Kernel, What};
use crate::process::{Process, Processes};

/// How often the socket list is asked for.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How often all processes are gone through for the owners of new sockets.
const SEARCH_EVERY: Duration = Duration::from_secs(15);
/// Connections whose closer is remembered, the latest ones.
const MAX_CLOSED: usize = 65_536;
/// A reset that this host received as an answer to its own, so soon after it, in nanoseconds, is the same event.
const ECHO: u64 = 1_000_000;

/// What a user wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filter {
    /// Only these ports, local or remote; none means all.
    pub ports: Vec<u16>,
    /// Only processes of these names; none means all.
    pub processes: Vec<String>,
}

impl Filter {
    /// Whether it lets a reset through.
    pub fn admits(&self, reset: &Reset) -> bool {
        let remote = reset.remote.map(|remote| remote.port());
        (self.ports.is_empty()
            || self.ports.contains(&reset.local.port())
            || remote.is_some_and(|port| self.ports.contains(&port)))
            && (self.processes.is_empty()
                || reset.process.as_ref().is_some_and(|process| self.processes.contains(&process.name)))
    }
}

/// What a [`Watcher`] has to say.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Notice {
    /// A reset was sent or received.
    Reset(Box<Reset>),
    /// One is about to be.
    Warning(Warning),
}

/// What will end in resets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "warning", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Warning {
    /// A listener's accept queue is at four fifths or more.
    #[non_exhaustive]
    ListenerNearLimit {
        /// The listener.
        local: SocketAddr,
        /// Its queue.
        queue: Queue,
        /// Who listens.
        process: Option<Process>,
    },
    /// The peer has closed, and bytes of it lie unread: closing now would reset.
    #[non_exhaustive]
    UnreadAfterPeerClosed {
        /// This host's end.
        local: SocketAddr,
        /// The peer.
        remote: SocketAddr,
        /// Bytes that lie unread.
        unread: u32,
        /// Who has the socket.
        process: Option<Process>,
    },
}

/// Watches this host's resets.
#[derive(Debug)]
pub struct Watcher {
    kernel: Kernel,
    filter: Filter,
    processes: Processes,
    closed: HashMap<(SocketAddr, SocketAddr), (u64, Option<Process>)>,
    closed_order: VecDeque<(SocketAddr, SocketAddr)>,
    listeners: HashMap<SocketAddr, (Queue, Option<Process>)>,
    owners: HashMap<u32, Process>,
    warned: HashMap<(SocketAddr, SocketAddr), Instant>,
    looked: Option<Instant>,
    searched: Option<Instant>,
    sent_last: VecDeque<(u64, SocketAddr, SocketAddr)>,
    /// What the first look found, for the first call.
    pending: Vec<Notice>,
}

impl Watcher {
    /// Opens the kernel's tracepoints.
    ///
    /// # Errors
    /// [`CannotWatch`] says what is missing and what to do.
    pub fn open(filter: Filter) -> Result<Self, CannotWatch> {
        let mut watcher = Self {
            kernel: Kernel::open()?,
            filter,
            processes: Processes::default(),
            closed: HashMap::new(),
            closed_order: VecDeque::new(),
            listeners: HashMap::new(),
            owners: HashMap::new(),
            warned: HashMap::new(),
            looked: None,
            searched: None,
            sent_last: VecDeque::new(),
            pending: Vec::new(),
        };
        let mut pending = Vec::new();
        watcher.look(&mut pending);
        watcher.pending = pending;
        Ok(watcher)
    }

    /// What this kernel cannot tell.
    pub fn blind(&self) -> Vec<Blind> {
        self.kernel.blind()
    }

    /// Events that the kernel dropped because they were not read fast enough.
    pub fn lost(&self) -> u64 {
        self.kernel.lost()
    }

    /// The listeners of this network namespace, with their queues and owners, as last looked at.
    pub fn listeners(&self) -> impl Iterator<Item = (SocketAddr, Queue, Option<&Process>)> {
        self.listeners.iter().map(|(&local, (queue, process))| (local, *queue, process.as_ref()))
    }

    /// Waits for `timeout` at most, and answers what happened.
    ///
    /// # Errors
    /// Those of waiting for the kernel.
    pub fn next(&mut self, timeout: Duration) -> io::Result<Vec<Notice>> {
        self.kernel.wait(timeout)?;
        let mut notices = std::mem::take(&mut self.pending);
        let happenings = self.kernel.drain();
        // A full queue is soon empty again: look while it lasts.
        let at_listener = |happening: &Happening| matches!(happening.what, What::Sent { state: 10, .. });
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY)
            || happenings.iter().any(at_listener)
        {
            self.look(&mut notices);
        }
        for (at, happening) in happenings.iter().enumerate() {
            self.take(happening, &happenings[at + 1..], &mut notices);
        }
        Ok(notices)
    }

    fn take(&mut self, happening: &Happening, later: &[Happening], notices: &mut Vec<Notice>) {
        let ends = (happening.local, happening.remote);
        let reset = match &happening.what {
            What::State { .. } => {
                let process = self.processes.of(happening.pid);
                self.remember(ends, happening.time, process);
                return;
            }
            What::Error { .. } => return,
            What::Sent { reason, state, active } => self.sent(happening, reason.as_deref(), *state, *active),
            What::Received => {
                // For data after close the tracepoint fires at the sender of the reset as well.
                let echo = self.sent_last.iter().any(|&(time, local, remote)| {
                    (local, remote) == ends && happening.time.saturating_sub(time) < ECHO
                });
                if echo {
                    return;
                }
                let error = later.iter().take(64).find_map(|next| match next.what {
                    What::Error { number } if (next.local, next.remote) == ends => Some(number),
                    _ => None,
                });
                let opinion = diagnose::received(error);
                self.reset(happening, Direction::Received, opinion)
            }
        };
        if self.filter.admits(&reset) {
            notices.push(Notice::Reset(Box::new(reset)));
        }
    }

    fn sent(&mut self, happening: &Happening, reason: Option<&str>, state: u8, active: bool) -> Reset {
        let ends = (happening.local, happening.remote);
        if self.sent_last.len() >= 256 {
            self.sent_last.pop_front();
        }
        self.sent_last.push_back((happening.time, ends.0, ends.1));
        let listener = self.listener(happening.local).cloned();
        let closer = self.closed.get(&ends).cloned();
        let process = if active { self.processes.of(happening.pid) } else { None };
        let context = Context {
            active,
            state,
            listens: listener.is_some(),
            queue: listener.as_ref().map(|(queue, _)| *queue),
            closed: closer.as_ref().map(|&(time, _)| happening.time.saturating_sub(time) as f64 / 1e9),
            name: process.as_ref().map(|process| process.name.clone()),
        };
        let opinion = diagnose::sent(reason, &context);
        let overflow = opinion.2.contains(&Cause::AcceptQueueOverflow);
        let mut reset = self.reset(happening, Direction::Sent, opinion);
        reset.reason = reason.map(str::to_owned);
        reset.state = diagnose::state_name(state);
        reset.process = process
            .or_else(|| closer.and_then(|(_, process)| process))
            .or_else(|| listener.as_ref().and_then(|(_, process)| process.clone()));
        reset.listener = context.queue.filter(|_| overflow);
        reset
    }

    fn reset(&self, happening: &Happening, direction: Direction, opinion: diagnose::Opinion) -> Reset {
        let (cause, confidence, candidates, evidence) = opinion;
        Reset {
            time: happening.time as f64 / 1e9,
            direction,
            local: happening.local,
            remote: (happening.remote.port() != 0).then_some(happening.remote),
            cause,
            confidence,
            candidates,
            reason: None,
            state: None,
            process: None,
            listener: None,
            evidence,
            remedy: cause.remedy(),
        }
    }

    fn listener(&self, local: SocketAddr) -> Option<&(Queue, Option<Process>)> {
        let any_v4 = SocketAddr::from(([0, 0, 0, 0], local.port()));
        let any_v6 = SocketAddr::from(([0u16; 8], local.port()));
        self.listeners
            .get(&local)
            .or_else(|| self.listeners.get(&any_v4))
            .or_else(|| self.listeners.get(&any_v6))
    }

    fn remember(&mut self, ends: (SocketAddr, SocketAddr), time: u64, process: Option<Process>) {
        if self.closed.insert(ends, (time, process)).is_none() {
            self.closed_order.push_back(ends);
        }
        while self.closed_order.len() > MAX_CLOSED {
            if let Some(oldest) = self.closed_order.pop_front() {
                self.closed.remove(&oldest);
            }
        }
    }

    /// Asks the kernel for listeners, and for sockets whose peer has closed.
    fn look(&mut self, notices: &mut Vec<Notice>) {
        let now = Instant::now();
        self.looked = Some(now);
        // Without sock_diag the queues stay unknown; resets are named all the same.
        let Ok(sockets) = sock_diag::tcp_sockets(States::LISTEN.and(States::CLOSE_WAIT)) else { return };
        // One byte is the FIN.
        let worrying: Vec<_> =
            sockets.iter().filter(|socket| !socket.is_listener() && socket.receive_queue > 1).collect();
        let unknown: Vec<u32> = sockets
            .iter()
            .filter(|socket| socket.is_listener())
            .chain(worrying.iter().copied())
            .map(|socket| socket.inode)
            .filter(|inode| *inode != 0 && !self.owners.contains_key(inode))
            .collect();
        if !unknown.is_empty() && self.searched.is_none_or(|searched| now - searched >= SEARCH_EVERY) {
            self.searched = Some(now);
            let owners = self.processes.owners(&unknown);
            if self.owners.len() > MAX_CLOSED {
                self.owners.clear();
            }
            // Nobody found: somebody of another namespace, not to be searched for again and again.
            for inode in unknown {
                let owner = owners.get(&inode).cloned();
                self.owners.insert(inode, owner.unwrap_or(Process { pid: 0, name: "?".into() }));
            }
        }
        let owner = |inode| self.owners.get(&inode).filter(|process| process.pid != 0).cloned();
        self.warned.retain(|_, warned| now - *warned < Duration::from_secs(60));
        let mut warnings = Vec::new();
        self.listeners.clear();
        for socket in sockets.iter().filter(|socket| socket.is_listener()) {
            let queue = Queue { waiting: socket.receive_queue, limit: socket.send_queue };
            let process = owner(socket.inode);
            if queue.is_near_its_limit() {
                let warning =
                    Warning::ListenerNearLimit { local: socket.local, queue, process: process.clone() };
                warnings.push(((socket.local, socket.local), warning));
            }
            self.listeners.insert(socket.local, (queue, process));
        }
        for socket in worrying {
            let warning = Warning::UnreadAfterPeerClosed {
                local: socket.local,
                remote: socket.remote,
                unread: socket.receive_queue - 1,
                process: owner(socket.inode),
            };
            warnings.push(((socket.local, socket.remote), warning));
        }
        // Each once a minute.
        for (key, warning) in warnings {
            if self.warned.len() < MAX_CLOSED && self.warned.insert(key, now).is_none() {
                notices.push(Notice::Warning(warning));
            }
        }
    }
}
