//! The kernel's tracepoint events, decoded by their `format` files, and its messages about destroyed sockets.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::access::Access;
pub(crate) use crate::addresses::Endpoints;
use crate::addresses::{Addresses, PackedEnds};
use crate::blind::Blind;
use crate::kernel::leftovers::{Drained, Leftover, Leftovers};
use crate::kernel::perf::{Perf, PerfError, PerfRecord, Sample, Subscription};
use crate::kernel::tracepoint::{self, Field, Format};
use crate::namespace_id::NamespaceId;
use crate::tcp_state::{CLOSE, CLOSE_WAIT, ESTABLISHED, FIN_WAIT1, LAST_ACK, LISTEN, SYN_SENT};

/// Why resets cannot be watched on this machine or by this user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CannotWatch {
    /// No tracefs can be read, and it could not be mounted.
    #[error("the kernel's tracepoints cannot be read ({0})")]
    NoTracefs(io::Error),
    /// The kernel has no `tcp:tcp_send_reset` tracepoint, without which nothing can be seen.
    #[error("this kernel has no tracepoint tcp:tcp_send_reset ({0}); it came with Linux 4.15")]
    NoTracepoint(io::Error),
    /// `perf_event_open` was refused.
    #[error("perf events are refused ({0})")]
    Refused(io::Error),
    /// The rings for events may not be locked in memory, not even the smallest.
    #[error(
        "the rings for kernel events lock {needed_kib} KiB of memory on this host of {processors} processors, which is \
         more than is free of RLIMIT_MEMLOCK ({limit_kib} KiB) and kernel.perf_event_mlock_kb ({each_kib} KiB a processor)"
    )]
    LockedMemory {
        /// What the smallest rings need, in KiB.
        needed_kib: u64,
        /// Number of processors; each has a ring.
        processors: u64,
        /// `RLIMIT_MEMLOCK` of this process, in KiB.
        limit_kib: u64,
        /// `kernel.perf_event_mlock_kb`: how much a user may lock for each processor, beside that limit.
        each_kib: u64,
    },
}

impl From<PerfError> for CannotWatch {
    fn from(error: PerfError) -> Self {
        match error {
            PerfError::Refused(error) => Self::Refused(error),
            PerfError::Locked(memory) => Self::LockedMemory {
                needed_kib: memory.least_kib(),
                processors: memory.processors,
                limit_kib: memory.limit.unwrap_or(u64::MAX) / 1024,
                each_kib: memory.each_kib,
            },
        }
    }
}

/// Most events that are kept until they are taken, 96 bytes each. What is more stays in the rings.
const MOST_READ: usize = 65_536;
/// Most events that are read at once, of all rings together.
const READ_AT_ONCE: usize = 4_096;
/// `IPPROTO_MPTCP`, as `inet_sock_set_state` has it.
const MPTCP: u64 = 262;

/// A kernel event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KernelEvent {
    Socket(SocketEvent),
    Process(ProcessEvent),
}

impl KernelEvent {
    fn time_ns(&self) -> u64 {
        match self {
            Self::Socket(happening) => happening.time_ns,
            Self::Process(event) => event.time_ns,
        }
    }

    /// Whether a listener sent a reset.
    pub(crate) fn is_of_listener(&self) -> bool {
        matches!(self, Self::Socket(SocketEvent { what: SocketChange::Sent { state: LISTEN, .. }, .. }))
    }
}

/// A kernel event about a TCP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SocketEvent {
    pub(crate) time_ns: u64,
    /// The process that was running. It caused the event only if a system call led to it; a packet may arrive at any time.
    pub(crate) pid: u32,
    /// The thread that was running.
    pub(crate) thread: u32,
    /// The kernel's address of the socket; 0 if there was none, or the event does not say.
    pub(crate) socket: u64,
    /// The socket's cookie; 0 if the event does not say.
    pub(crate) cookie: u64,
    /// The remote port is 0 if the kernel does not report the peer.
    pub(crate) ends: PackedEnds,
    pub(crate) what: SocketChange,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SocketChange {
    Sent {
        reason: Option<Arc<str>>,
        state: u8,
        /// No packet triggered it (the event has no `skbaddr`).
        active: bool,
    },
    Received,
    State {
        new: u8,
    },
    /// The MPTCP socket above a TCP connection with these addresses was closed.
    MptcpClosed,
    Error {
        number: i32,
    },
    Destroyed,
}

/// A kernel event about a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessEvent {
    pub(crate) time_ns: u64,
    /// The process that was running.
    pub(crate) pid: u32,
    /// The thread that was running.
    pub(crate) thread: u32,
    pub(crate) what: ProcessChange,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProcessChange {
    /// The thread ends, and closes its files next (`do_exit`).
    Exit { name: Vec<u8> },
    /// The running process sent a signal that ends the process `to`, if nobody handles the signal.
    Signal { number: i32, to: u32 },
    /// The kernel chose the process `pid` to end, for lack of memory.
    OutOfMemory { pid: u32 },
}

/// The tracepoints, open.
#[derive(Debug)]
pub(crate) struct Kernel {
    perf: Perf,
    points: Vec<Point>,
    leftovers: Vec<Leftovers>,
    blind: Vec<Blind>,
    /// Events that were read too early; see [`read`](Self::read).
    younger: Vec<KernelEvent>,
    /// Events that were read, ordered by time.
    read: VecDeque<KernelEvent>,
    /// Memory for events until they are ordered.
    fresh: Vec<KernelEvent>,
    /// Whether the rings held more at the last read.
    is_behind: bool,
}

/// An open tracepoint: its format, and the meaning of its events.
#[derive(Debug)]
struct Point {
    format: Format,
    kind: TracepointKind,
    /// `None` for events about processes.
    addresses: Option<Addresses>,
    socket: Option<Field>,
    cookie: Option<Field>,
}

/// The kind of a tracepoint, with the fields that it has besides the addresses.
#[derive(Clone, Copy, Debug)]
enum TracepointKind {
    Sent { reason: Option<Field>, state: Option<Field>, packet: Option<Field> },
    Received,
    State { new: Field, protocol: Field },
    Error { number: Field },
    Destroyed,
    Exit { name: Field },
    Signal { number: Field, to: Field },
    OutOfMemory { pid: Field },
}

/// Makes a tracepoint's kind from its format. Returns `None` if the format lacks a field.
type KindOf = fn(&Format) -> Option<TracepointKind>;

impl Kernel {
    /// `own`: the port of this program's own client, whose connections are to be known.
    pub(crate) fn open(own: Option<u16>) -> Result<Self, CannotWatch> {
        let tracefs = tracepoint::tracefs().map_err(CannotWatch::NoTracefs)?;
        let mut blind = Vec::new();
        let sent = Format::read(&tracefs, "tcp", "tcp_send_reset").map_err(CannotWatch::NoTracepoint)?;
        let kind = TracepointKind::Sent {
            reason: sent.field("reason"),
            state: sent.field("state"),
            packet: sent.field("skbaddr"),
        };
        if !sent.has("reason") {
            blind.push(Blind::NoReason);
        }
        let unknown = || CannotWatch::NoTracepoint(io::Error::other("its events have no addresses"));
        let mut points = vec![Point::new(sent, kind).ok_or_else(unknown)?];
        let others: [(&str, &str, Option<Blind>, KindOf); 7] = [
            ("tcp", "tcp_receive_reset", Some(Blind::NoReceived), |_| Some(TracepointKind::Received)),
            ("sock", "inet_sock_set_state", Some(Blind::NoStates), |format| {
                Some(TracepointKind::State {
                    new: format.field("newstate")?,
                    protocol: format.field("protocol")?,
                })
            }),
            ("sock", "inet_sk_error_report", Some(Blind::NoErrors), |format| {
                Some(TracepointKind::Error { number: format.field("error")? })
            }),
            ("tcp", "tcp_destroy_sock", Some(Blind::NoOwners), |_| Some(TracepointKind::Destroyed)),
            ("sched", "sched_process_exit", Some(Blind::NoExits), |format| {
                Some(TracepointKind::Exit { name: format.field("comm")? })
            }),
            ("signal", "signal_generate", None, |format| {
                Some(TracepointKind::Signal { number: format.field("sig")?, to: format.field("pid")? })
            }),
            ("oom", "mark_victim", None, |format| {
                Some(TracepointKind::OutOfMemory { pid: format.field("pid")? })
            }),
        ];
        for (group, name, without, kind) in others {
            match Point::read(&tracefs, group, name, kind) {
                Some(point) => points.push(point),
                None => blind.extend(without),
            }
        }
        let subscription =
            |point: &Point| Subscription { id: point.format.id, filter: point.kind.filter(own) };
        let perf = Perf::open(points.iter().map(subscription).collect())?;
        Ok(Self {
            perf,
            points,
            leftovers: Vec::new(),
            blind,
            younger: Vec::new(),
            // Pages that are not written to take no memory.
            read: VecDeque::with_capacity(MOST_READ),
            fresh: Vec::new(),
            is_behind: false,
        })
    }

    pub(crate) fn blind(&self) -> &[Blind] {
        &self.blind
    }

    pub(crate) fn lost(&self) -> u64 {
        self.perf.lost()
    }

    /// What is opened on each processor.
    pub(crate) fn sources(&self) -> &[Subscription] {
        self.perf.sources()
    }

    pub(crate) fn ring_bytes(&self) -> usize {
        self.perf.ring_bytes()
    }

    pub(crate) fn wait(&self, timeout: Duration, others: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.perf.wait(timeout, others)
    }

    /// Adds a source of destroyed sockets.
    pub(crate) fn add_leftovers(&mut self, leftovers: Leftovers) {
        self.leftovers.push(leftovers);
    }

    /// Closes the sources of destroyed sockets in network namespaces that are gone.
    pub(crate) fn keep_leftovers(&mut self, is_there: impl Fn(NamespaceId) -> bool) {
        self.leftovers.retain(|leftovers| leftovers.namespace().is_none_or(&is_there));
    }

    pub(crate) fn note_blind(&mut self, blind: Blind) {
        if !self.blind.contains(&blind) {
            self.blind.push(blind);
        }
    }

    /// Watches processors that came online.
    pub(crate) fn follow_processors(&mut self, access: &Access) {
        if let Err(error) = self.perf.follow_processors(access) {
            tracing::warn!(%error, "a processor that came online is not watched");
            self.note_blind(Blind::NewProcessor);
        }
    }

    /// Calls `on_leftover` for each socket destroyed since the last call. Earlier events about these sockets are returned by
    /// the next [`read`](Self::read).
    pub(crate) fn leftovers(&mut self, mut on_leftover: impl FnMut(Leftover)) -> Drained {
        let mut all = Drained::default();
        for leftovers in &mut self.leftovers {
            let drained = leftovers.drain(&mut on_leftover);
            all = Drained { taken: all.taken + drained.taken, overrun: all.overrun || drained.overrun };
        }
        all
    }

    /// Reads events, to be taken by [`take`](Self::take), and calls `on_name` for new process names. No more than [`MOST_READ`]
    /// are kept that were not taken: then the kernel counts what finds no room in the rings.
    ///
    /// The rings are read one after the other. An event that is younger than the start of the call, or than the last of a ring
    /// that has more, is kept for the next call: an older one of another processor may not have been read.
    pub(crate) fn read(&mut self, mut on_name: impl FnMut(u32, &[u8])) {
        let room = MOST_READ.saturating_sub(self.read.len() + self.younger.len());
        if room == 0 && !self.read.is_empty() {
            return;
        }
        let points = &self.points;
        let fresh = &mut self.fresh;
        fresh.append(&mut self.younger);
        let drained = self.perf.drain(room.clamp(1, READ_AT_ONCE), |record| match record {
            PerfRecord::Sample(sample) => fresh.extend(decode(points, &sample)),
            PerfRecord::Name { pid, name } => on_name(pid, name),
        });
        self.is_behind = drained.is_behind;
        fresh.sort_by_key(KernelEvent::time_ns);
        let younger = fresh.partition_point(|event| event.time_ns() <= drained.until_ns);
        self.younger.extend(fresh.drain(younger..));
        self.read.extend(fresh.drain(..));
    }

    /// The events that were read and not taken, ordered by time.
    pub(crate) fn waiting(&self) -> &VecDeque<KernelEvent> {
        &self.read
    }

    /// Takes the oldest event that was read.
    pub(crate) fn take(&mut self) -> Option<KernelEvent> {
        self.read.pop_front()
    }

    /// Asks the kernel how many events it dropped; see [`lost`](Self::lost).
    pub(crate) fn count_lost(&mut self) {
        self.perf.count_lost();
    }

    /// Whether events that are older than some that were read are not taken, or not read.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind || !self.read.is_empty()
    }

    /// Whether an event is read and not taken, or was seen in a ring.
    pub(crate) fn has_more(&self) -> bool {
        self.is_behind() || !self.younger.is_empty()
    }
}

impl TracepointKind {
    /// The kernel-side filter. Of TCP's state changes only three matter: to FIN_WAIT1 and LAST_ACK (this side closed), and from
    /// CLOSE_WAIT to CLOSE (a reset after the peer's FIN); of MPTCP's, those to CLOSE. All state changes of a busy host would
    /// fill the ring. Those that begin a connection are of interest to the port that this program connects to itself. Of signals, only
    /// those with which people and init systems end processes: SIGKILL and SIGTERM.
    fn filter(self, own: Option<u16>) -> Option<String> {
        let is_tcp = format!("protocol == {}", libc::IPPROTO_TCP);
        let is_close = format!("newstate == {FIN_WAIT1} || newstate == {LAST_ACK}");
        let is_reset = format!("newstate == {CLOSE} && oldstate == {CLOSE_WAIT}");
        let is_mptcp = format!("protocol == {MPTCP} && newstate == {CLOSE}");
        match self {
            Self::State { .. } => {
                let begins = own.map_or(String::new(), |port| {
                    let connects = format!(
                        "newstate == {SYN_SENT} || (newstate == {ESTABLISHED} && oldstate == {SYN_SENT})"
                    );
                    format!(" || ({is_tcp} && dport == {port} && ({connects}))")
                });
                Some(format!("({is_tcp} && ({is_close} || ({is_reset}))) || ({is_mptcp}){begins}"))
            }
            Self::Error { .. } => Some(is_tcp),
            Self::Signal { .. } => Some(format!("sig == {} || sig == {}", libc::SIGKILL, libc::SIGTERM)),
            _ => None,
        }
    }
}

impl Point {
    fn read(tracefs: &Path, group: &str, name: &str, kind: KindOf) -> Option<Self> {
        let format = Format::read(tracefs, group, name).ok()?;
        let kind = kind(&format)?;
        Self::new(format, kind)
    }

    fn new(format: Format, kind: TracepointKind) -> Option<Self> {
        use TracepointKind::{Exit, OutOfMemory, Signal};
        let addresses = match kind {
            Exit { .. } | Signal { .. } | OutOfMemory { .. } => None,
            _ => Some(Addresses::of(&format)?),
        };
        let (socket, cookie) = (format.field("skaddr"), format.field("sock_cookie"));
        Some(Self { format, kind, addresses, socket, cookie })
    }
}

fn decode(points: &[Point], sample: &Sample<'_>) -> Option<KernelEvent> {
    let raw = sample.raw;
    let id = u64::from(u16::from_ne_bytes(*raw.first_chunk()?));
    let point = points.iter().find(|point| point.format.id == id)?;
    let what = match point.kind {
        TracepointKind::Sent { reason, state, packet } => SocketChange::Sent {
            reason: reason.and_then(|field| point.format.symbol("reason", field.number(raw)?)).cloned(),
            state: state.and_then(|field| field.number(raw)).unwrap_or(0) as u8,
            active: packet.and_then(|field| field.number(raw)) == Some(0),
        },
        TracepointKind::Received => SocketChange::Received,
        TracepointKind::State { protocol, .. } if protocol.number(raw)? == MPTCP => SocketChange::MptcpClosed,
        TracepointKind::State { new, .. } => SocketChange::State { new: new.number(raw)? as u8 },
        TracepointKind::Error { number } => SocketChange::Error { number: number.number(raw)? as i32 },
        TracepointKind::Destroyed => SocketChange::Destroyed,
        TracepointKind::Exit { name } => {
            let name = name.bytes(raw)?.split(|byte| *byte == 0).next()?.to_vec();
            return Some(process_event(sample, ProcessChange::Exit { name }));
        }
        TracepointKind::Signal { number, to } => {
            let (number, to) = (number.number(raw)? as i32, to.number(raw)? as u32);
            return Some(process_event(sample, ProcessChange::Signal { number, to }));
        }
        TracepointKind::OutOfMemory { pid } => {
            let pid = pid.number(raw)? as u32;
            return Some(process_event(sample, ProcessChange::OutOfMemory { pid }));
        }
    };
    let Sample { time_ns, pid, thread, .. } = *sample;
    let ends = point.addresses?.ends(raw)?.into();
    let number = |field: Option<Field>| field.and_then(|field| field.number(raw)).unwrap_or(0);
    let (socket, cookie) = (number(point.socket), number(point.cookie));
    Some(KernelEvent::Socket(SocketEvent { time_ns, pid, thread, socket, cookie, ends, what }))
}

fn process_event(sample: &Sample<'_>, what: ProcessChange) -> KernelEvent {
    let Sample { time_ns, pid, thread, .. } = *sample;
    KernelEvent::Process(ProcessEvent { time_ns, pid, thread, what })
}
